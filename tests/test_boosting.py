"""Iterative boosting: what a stage knows, what a state predicts with, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from silo_tune import run_study
from silo_tune.data.example_feed import ExampleFeed
from silo_tune.data.load import open_examples
from silo_tune.data.sets import folds_of, split_rows
from silo_tune.errors import BadInput, SiloTuneError, StudyError
from silo_tune.export.chosen_unit import require_chain
from silo_tune.models.checkpoint import load_weights
from silo_tune.store.run_folder import Run
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study
from silo_tune.study.workspace import Workspace
from silo_tune.tasks.supervised import Supervised
from silo_tune.training.boosting import BoostingLoop
from silo_tune.training.worker import drain
from tests.conftest import small_table
from tests.test_cycle import Bench, stable
from tests.test_own_tasks import table_study
from tests.test_tables import columns, opened, written

BOOSTED: dict[str, Any] = {
    "mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.1}, "own_dense": True,
    "after_prune": "reinit", "pipeline": "boosting",
}  # fmt: skip
PLAIN = {**BOOSTED, "pipeline": None, "own_dense": False}
REGRESSION: dict[str, Any] = {"task": "regression", "data.target": "price", "data.ignore": ["answer"]}


def study_of(place: Path, arm: dict[str, Any] | None = None, **changes: Any) -> Study:
    table = table_study(place)
    table["arms"] = {"silo": PLAIN, "boosted": {**BOOSTED, **(arm or {})}}
    for key, value in changes.items():
        part, _, name = key.partition(".")
        table[part] = {**table[part], name: value} if name else value
    return parse_study(table)


class Tables(Bench):
    """A worker on a table."""

    def __init__(self, folder: Path, study: Study) -> None:
        self.study, self.notices = study, list[str]()
        self.workspace = Workspace.of(study, str(folder))
        self.dataset = open_examples(study.data, study.task)
        self.worker = self.fresh()

    def chain(self) -> list[dict[str, Any]]:
        """Results of cycles 0 and 1 of the boosted arm."""
        self.dense = self.unit(0, None, arm="boosted")
        self.first = self.unit(1, self.dense, arm="boosted")
        return [self.train(unit) for unit in (self.dense, self.first)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    place = tmp_path_factory.mktemp("boosting")
    made = Tables(place / "run", study_of(place, **{"data.time": None}))
    made.chain()
    return made


# --- who has seen what ---


def loop_of(bench: Tables, change: Callable[[Tensor], Tensor] = lambda labels: labels) -> BoostingLoop:
    """A loop of two known folds, with other targets of the training part."""
    feed, task = bench.worker._plain_feed(bench.unit(0, None, arm="silo")), bench.worker.task(bench.unit(0, None))
    assert isinstance(feed, ExampleFeed)
    assert isinstance(task, Supervised)
    labels = feed.train.labels.clone()
    labels[feed.train.rows] = change(labels[feed.train.rows])
    feed = replace(feed, train=replace(feed.train, labels=labels))
    unit = bench.unit(0, None, arm="boosted")
    model, masks, _ = bench.worker.prepared(unit)
    folds = [torch.arange(start, len(feed.train), 2) for start in range(2)]
    return BoostingLoop(unit, model, masks, feed, folds, task.fit(labels[feed.train.rows]), 0.1, False)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_a_prediction_never_comes_from_a_network_that_was_trained_on_its_row(task: str, tmp_path: Path) -> None:
    bench = Tables(tmp_path / "run", study_of(tmp_path, **(REGRESSION if task == "regression" else {})))

    def changed(labels: Tensor) -> Tensor:
        labels[1::2] = labels[1::2].flip(0) + 50 if task == "regression" else 1 - labels[1::2]
        return labels

    loops = [loop_of(bench), loop_of(bench, changed)]
    for loop in loops:
        drain(loop._stage())
    (one, other), scales = (loop.columns["train"][:, 0] for loop in loops), [s.networks["stage-1"] for s in loops]
    one, other = (x * s["scale"] + s["mean"] for x, s in zip((one, other), scales, strict=True))
    # Rows 1, 3, … have other targets: what is said of them comes from rows 0, 2, …, and the other way round.
    assert torch.allclose(one[1::2], other[1::2], atol=1e-4 * float(one.abs().max()))
    assert (one[::2] - other[::2]).abs().min() > 0
    assert not torch.allclose(loops[0].columns["test"], loops[1].columns["test"], atol=1e-2)


def test_every_training_row_is_in_one_fold_and_folds_are_as_the_set_is_split(tmp_path: Path) -> None:
    path = written(tmp_path)
    for split_by in (dict[str, Any](), {"group": "zone"}, {"time": "day", "ignore": ("price",)}):
        data, found = opened(path, **split_by)
        rows = split_rows(found, data, 3).train
        folds = folds_of(found, rows, 3, 3)
        assert np.array_equal(np.sort(np.concatenate(folds)), rows)
        assert max(map(len, folds)) - min(map(len, folds)) <= (40 if "group" in split_by else 2)
        if found.groups is not None:
            kinds = [set(found.groups[fold]) for fold in folds]
            assert sum(map(len, kinds)) == len(set.union(*kinds))
        elif found.times is not None:
            assert folds[0].min() > folds[1].max() >= folds[1].min() > folds[2].max()
        else:
            shares = [float(found.train_labels[fold].mean()) for fold in folds]
            assert max(shares) - min(shares) < 0.02  # stratified


def test_random_test_targets_change_test_columns_alone(tmp_path: Path) -> None:
    frames = []
    for name in ("as-is", "random"):
        place = tmp_path / name
        place.mkdir()
        answer = columns()["answer"].copy()
        if name == "random":
            answer[-48:] = np.random.default_rng(7).permutation(answer[-48:])  # the latest fifth of 240 rows
        table = {**table_study(place, answer=answer), "arms": {"boosted": BOOSTED}, "replicates": {"seeds": [0]}}
        study = parse_study({**table, "report": {"schedule": "boosted", "tolerance": 0.02}})
        frames.append(run_study(study, str(place / "run"), local=True).frame)
    with pytest.raises(BadInput, match=r"trains in stages.* there is no one network to take"):
        require_chain(Run(str(place / "run")), study, "boosted", 0)
    one, other = frames
    assert (one.status == "ok").all()
    same = [name for name in one.columns if not name.startswith(("test_", "also_test_")) and name != "train_seconds"]
    assert one[same].equals(other[same])
    assert not one.test_score.equals(other.test_score)


# --- stages ---


def test_the_state_of_a_cycle_predicts_alone(bench: Tables) -> None:
    """Stage by stage from the files: columns that are still to come are 0, those behind it have its mean and scale."""
    state, result = bench.weights(bench.first), bench.worker.units.result(bench.first.key)
    assert result is not None
    feed, task = bench.worker._plain_feed(bench.first), bench.worker.task(bench.first)
    assert isinstance(feed, ExampleFeed)
    model = bench.worker.fresh(bench.first, 0)
    inputs, targets = next(feed.batches(feed.test, len(feed.test)))
    width = inputs.shape[1]
    wide = torch.cat([inputs, torch.zeros(len(inputs), 2)], 1)
    for stage in (1, 2):
        saved = dict(state[f"stage-{stage}"])
        mean, scale = saved.pop("mean"), saved.pop("scale")
        load_weights(model, saved)
        wide[:, width + stage - 1] = (model.eval()(wide)[:, 0].detach() - mean) / scale
    assert torch.allclose(wide[:, width:], state["columns"]["test"], atol=1e-5)
    load_weights(model, state["weights"])
    with torch.no_grad():
        assert task.evaluate(model, [(wide, targets)], len(targets)).score == pytest.approx(result["test_score"])
    assert all(
        not bool(state[group][name][~mask].any())
        for group in ("weights", "stage-1", "stage-2")
        for name, mask in state["mask"].items()
    )


def test_epochs_and_steps_count_every_training(bench: Tables) -> None:
    result = bench.worker.units.result(bench.first.key)
    assert result is not None
    # Two stages of two folds, each of half the rows, and the stage's own; then the last.
    assert result["epochs"] == bench.first.epochs * (2 * 2 + 1)
    rows, batch = len(bench.worker.feed(bench.first).train), bench.first.batch
    whole, half = (-(-count // batch) for count in (rows, rows // 2))
    assert result["steps"] == bench.first.epochs * (3 * whole + 4 * half)
    assert result["realised_peak_lr"] == result["max_lr"] == 0.1


def test_a_unit_that_was_interrupted_ends_as_one_that_was_not(bench: Tables, tmp_path: Path) -> None:
    study = bench.study.model_copy(update={"cluster": bench.study.cluster.model_copy(update={"partial_seconds": 0})})
    cut = Tables(tmp_path / "run", study)
    dense = cut.unit(0, None, arm="boosted")
    progress = cut.worker.run(dense)
    for _ in range(3 * dense.epochs + 1):  # two folds and the first stage, and an epoch of the second
        next(progress)
    progress.close()
    assert cut.worker.units.read_partial(dense.key)
    worker, seen = cut.fresh(), 0
    going = worker.run(dense)
    while True:
        try:
            next(going)
            seen += 1
        except StopIteration as end:
            result = end.value
            break
    whole = bench.worker.units.result(bench.dense.key)
    assert whole is not None
    assert seen == 4 * dense.epochs  # the first stage is not trained again
    assert stable(result) == stable(whole)
    assert result["epochs"] == whole["epochs"]
    one, other = cut.weights(dense), bench.weights(bench.dense)
    assert all(torch.equal(one[group][name], other[group][name]) for group in other for name in other[group])


def test_options_are_in_the_key_and_a_rate_that_diverges_is_a_row(bench: Tables, tmp_path: Path) -> None:
    keys = set()
    for options in ({}, {"stages": 2}, {"folds": 3}):
        study = study_of(tmp_path, {"pipeline": {"name": "boosting", **options}}, **{"data.time": None})
        keys.add(Tables(tmp_path / "other", study).unit(1, bench.dense, arm="boosted").key)
    assert len(keys) == 3
    assert bench.first.key in keys
    assert "pipeline" not in bench.unit(1, bench.dense, arm="silo").spec
    lost = bench.train(bench.unit(1, bench.dense, {"value": 1e6}, arm="boosted"))
    assert (lost["status"], lost["test_score"]) == ("diverged", None)


# --- what is refused ---


@pytest.mark.parametrize(
    ("arm", "changes", "told"),
    [
        ({"own_dense": False}, {}, r"arms\.boosted\.own_dense: its network has inputs that others lack"),
        ({"after_prune": "keep"}, {}, r"arms\.boosted\.after_prune: kept weights have seen every training row"),
        ({"after_prune": "rewind", "rewind_to": "1 ep"}, {}, r"arms\.boosted\.after_prune: kept weights"),
        ({}, {"data": {"name": "digits"}, "task": "classification", "model": "lenet-300-100"}, "of a table"),
        ({}, {"task": {"function": "m:T", "version": "1", "score": "mae"}}, "it takes classes, labels or numbers"),
        ({"pipeline": {"name": "boosting", "folds": 1}}, {}, r"folds.*greater than or equal to 2"),
    ],
)
def test_what_does_not_go_together_is_refused(
    arm: dict[str, Any], changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(StudyError, match=told):
        study_of(tmp_path, arm, **changes)


def test_too_few_rows_for_the_folds_are_told_before_training(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"pipeline": {"name": "boosting", "folds": 20}}, **{"data.train_examples": 12})
    with pytest.raises(SiloTuneError, match=r"12 training rows do not make 20 folds"):
        run_study(study, str(tmp_path / "run"), local=True)
    assert not (tmp_path / "run" / "units").exists()


def test_examples_that_are_no_rows_of_numbers_are_told(tmp_path: Path) -> None:
    table = {**small_table(task="classification"), "arms": {"silo": PLAIN, "boosted": BOOSTED}}
    table["data"] = {"function": "tests.users:data", "version": "1"}
    with pytest.raises(SiloTuneError, match=r"takes a table, or arrays \(N, numbers\), and these examples are"):
        run_study(parse_study(table), str(tmp_path / "run"), local=True)
