"""Recipes: one for each network, valid in a study, and the values that the authors' scripts show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from silo_tune.schedules.peaks import Schedule, pruned_fractions
from silo_tune.study import registry
from silo_tune.study.arms import ScheduleArm
from silo_tune.study.model import Study
from silo_tune.study.parts import ScheduleRef
from silo_tune.study.recipes import RECIPES, whole_epochs
from silo_tune.study.study_file import load_study, parse_study

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


def study_of(name: str) -> Study:
    """A study of a network that is trained by its recipe, and nothing else."""
    recipe = RECIPES[name]
    return parse_study(
        {
            "name": "recipe",
            "cycles": 9,
            "data": {"name": "cifar10", "augment": list(recipe.augment)},
            "model": name,
            "dense": recipe.dense,
            "retrain": recipe.retrain,
            "replicates": {"seeds": [0]},
            "arms": {"silo": {"mode": "schedule", "schedule": recipe.silo}},
        }
    )


def peaks_of(name: str) -> list[float]:
    """max_lr of cycles 0 to 8, of 20 % each."""
    schedule = ScheduleRef.model_validate(RECIPES[name].silo).make(None)
    assert isinstance(schedule, Schedule)
    return [schedule.peak(cycle, pruned_fractions([0.8**m for m in range(9)])) for cycle in range(9)]


@pytest.mark.parametrize(
    ("name", "file"),
    [("lenet-300-100", "digits-rewind"), ("mlp", "adult"), ("dcn-v2", "movielens-ctr"), ("lstm", "reviews")],
)
def test_a_recipe_that_names_a_study_has_its_values(name: str, file: str) -> None:
    study, recipe = load_study(EXPERIMENTS / f"{file}.toml"), study_of(name)
    assert study.model.name == name
    assert isinstance(study.arms["silo"], ScheduleArm)
    assert study.arms["silo"].schedule.args.items() <= RECIPES[name].silo.items()
    mine, theirs = recipe.retrain, study.retrain
    assert (mine.batch, mine.epochs, mine.optimizer) == (theirs.batch, theirs.epochs, theirs.optimizer)


def test_every_network_has_a_recipe() -> None:
    assert list(RECIPES) == list(registry.MODELS)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_is_a_valid_study(name: str) -> None:
    recipe, study = RECIPES[name], study_of(name)
    optimizer: dict[str, Any] = study.retrain.optimizer.model_dump()
    assert optimizer | dict(recipe.optimizer) == optimizer
    assert (study.retrain.batch, study.retrain.epochs) == (recipe.batch, recipe.epochs)
    peaks = peaks_of(name)
    assert peaks[0] == study.dense.max_lr == recipe.eps
    assert peaks == sorted(peaks)
    assert peaks[8] == pytest.approx(recipe.eps + recipe.delta, rel=1e-2)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_group_of_values_says_where_it_comes_from(name: str) -> None:
    recipe = RECIPES[name]
    seen = name in ("resnet20", "vgg19")  # all that is known
    for source in vars(recipe.sources).values():
        assert source.startswith("authors' scripts" if seen else "ours")
        assert source in recipe.line
    assert str(recipe.epochs) in recipe.line
    assert f"eps {recipe.eps:g}" in recipe.line


@pytest.mark.parametrize(
    ("name", "beginning", "end"),
    # The authors' constants at cycles 0, 3, 4, 5 and 8 of 20 % each, by the formula of their scripts.
    [
        ("resnet20", [0.03, 0.03213, 0.04761, 0.06446, 0.06995], 53),
        ("vgg19", [0.04, 0.0432, 0.06642, 0.09169, 0.09992], 199),
    ],
)
def test_the_authors_constants_give_the_peaks_of_their_scripts(name: str, beginning: list[float], end: int) -> None:
    recipe = RECIPES[name]
    assert [round(peaks_of(name)[cycle], 5) for cycle in (0, 3, 4, 5, 8)] == beginning
    assert recipe.epochs == end
    assert (recipe.batch, recipe.optimizer["momentum"], recipe.optimizer["weight_decay"]) == (64, 0.9, 5e-4)


def test_budgets_of_the_scripts_are_whole_epochs() -> None:
    assert [whole_epochs(steps) for steps in (30_000, 112_000)] == [53, 199]  # 53.3 and 199.1
