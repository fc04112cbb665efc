"""[task] in a study: what it refuses, what decides, and that studies without it keep their keys."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from silo_tune.errors import StudyError
from silo_tune.planner.unit import make_unit
from silo_tune.study.scores import POINTS, SCORES
from silo_tune.study.study_file import parse_study
from silo_tune.study.task import DEFAULT_SCORE, LOSSES
from tests.plain import study, table

OWN = {"function": "mine:Task", "version": "1"}


def key(changes: Mapping[str, Any]) -> str:
    made = study(changes)
    settings = made.settings(made.arms["silo"])
    return make_unit(made, settings, parent=None, cycle=0, seed=0, peak={"value": 0.1}).key


def test_classification_by_accuracy_is_what_studies_always_were() -> None:
    usual = key({})
    assert study({}).scored.name == "accuracy"
    for written in ("classification", {"name": "classification"}, {"name": "classification", "score": "accuracy"}):
        assert key({"task": written}) == usual
    others: list[Any] = ["binary", {"name": "classification", "also": ["log-loss"]}, {**OWN, "score": "accuracy"}]
    others += [{"name": "classification", "score": "auroc"}, {"name": "classification", "loss": "focal"}]
    others += [{**OWN, "version": "2", "score": "accuracy"}]
    keys = {usual, *(key({"task": other}) for other in others)}
    assert len(keys) == len(others) + 1


def test_a_study_is_read_again_as_it_was_written() -> None:
    for task in (
        {"name": "regression", "loss": {"name": "huber", "delta": 2}, "also": ["r2"]},
        {**OWN, "score": "mae"},
    ):
        made = study({"task": task})
        again = parse_study(made.model_dump(mode="json"), recorded=True)
        assert again == made


def test_every_task_has_a_score_and_a_loss_of_its_own() -> None:
    for task, losses in LOSSES.items():
        made = study({"task": task})
        assert made.scored.name == DEFAULT_SCORE[task]
        assert task in made.scored.tasks
        assert losses
    assert {task for score in SCORES.values() for task in score.tasks} == set(LOSSES)


def test_a_share_is_written_in_points_and_nothing_else_is() -> None:
    for score in SCORES.values():
        assert score.share == (score.unit == POINTS)
        assert score.sign == (1 if score.higher_is_better else -1)
        assert not score.share or (score.low, score.high) == (0, 1)
    own = study({"task": {**OWN, "score": {"name": "epe", "higher_is_better": False, "unit": "pixels"}}}).scored
    assert (own.title, own.sign, own.unit, own.high) == ("epe", -1, "pixels", math.inf)


BAD: list[tuple[Any, str]] = [
    ("ranking", "unknown value 'ranking'"),
    ({}, "give either name"),
    ({"name": "binary", **OWN}, "give either name"),
    ({"function": "mine", "version": "1", "score": "mae"}, 'written "package.module:Class"'),
    ({"function": "mine:T", "score": "mae"}, "needs a version"),
    (OWN, "give score"),
    ({**OWN, "score": "iou"}, "or describe your own"),
    ({**OWN, "score": "mae", "loss": "mse"}, "has its own loss"),
    ({"name": "binary", "score": "rmse"}, "choose from accuracy"),
    ({"name": "regression", "score": "accuracy"}, "unknown score 'accuracy'; choose from mae"),
    ({"name": "binary", "also": ["accuracy"]}, "and not the score itself"),
    ({"name": "binary", "version": "1"}, "of a user's own task"),
    ({"name": "binary", "loss": "huber"}, "unknown loss 'huber'"),
    ({"name": "binary", "loss": "huge"}, "unknown loss 'huge'"),
    ({"name": "regression", "loss": {"name": "mse", "delta": 1}}, "takes no 'delta'"),
    ({"name": "regression", "loss": {"name": "quantile", "q": 1.0}}, "give numbers from 0 to below 1"),
    ({"name": "classification", "loss": {"name": "cross-entropy", "class_weights": []}}, "give numbers"),
]


@pytest.mark.parametrize(("task", "told"), BAD, ids=lambda value: str(value)[:40])
def test_what_a_task_cannot_have_is_told(task: Any, told: str) -> None:
    with pytest.raises(StudyError) as caught:
        parse_study({**table({}), "task": task})
    assert any(place.startswith("task") and told in message for place, message in caught.value.problems)


def test_a_tolerance_is_in_the_unit_of_the_score() -> None:
    assert study({"task": "regression", "report.tolerance": 30.0}).report.tolerance == 30.0
    with pytest.raises(StudyError, match="a share of 1"):
        study({"report.tolerance": 1.0})
