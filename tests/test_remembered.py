"""A checkpoint that knows the validation images is told loudly; one that does not is hardly ever accused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from silo_analysis.answers.missing import notes
from silo_analysis.estimates.summary import summarise
from silo_tune.data.load import load_data
from silo_tune.data.sets import DataSet, split_rows
from silo_tune.models.build import build_model
from silo_tune.results.remembered import ALPHA, at_least, may_be_remembered, remembered
from silo_tune.run.session import look_here
from silo_tune.study.model import Study
from tests.conftest import small_study
from tests.test_run import Notes, local

DOUBT = "validation images may have been part of its training"


def noise() -> DataSet:
    """Nothing can be learned here, only remembered."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (360, 8, 8, 1), dtype=np.uint8)
    return DataSet(pixels, np.arange(360, dtype=np.int64) % 10, None, None, 10)


def study(checkpoint: Path | None, **data: Any) -> Study:
    dense = {} if checkpoint is None else {"checkpoint": str(checkpoint), "epochs": None, "max_lr": None}
    limits = {"train_examples": None, "val_examples": None, "test_examples": None}
    named = {"name": None, "function": "tests.test_remembered:noise", "version": "1", **limits, **data}
    return small_study(data=named, dense=dense, cycles=2, retrain={"epochs": 1})


def checkpoint(place: Path, images: str) -> Path:
    """A network that remembers some images, those of all parts but test or those of training alone."""
    made = study(None)
    found = load_data(made.data)
    split = split_rows(found, made.data, 0)
    rows = split.train if images == "train" else np.concatenate([split.train, split.val])
    pixels = torch.from_numpy(found.train[rows]).float().permute(0, 3, 1, 2)
    channel = torch.from_numpy(found.train[split.train]).float()
    pixels, labels = (pixels - channel.mean()) / channel.std(), torch.from_numpy(found.train_labels[rows])
    model = build_model(made.model.resolved(), found.shape, 10, seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(pixels), labels).backward()
        optimizer.step()
    assert float((model(pixels).argmax(1) == labels).double().mean()) > 0.99
    torch.save(model.state_dict(), place / "theirs.pt")
    return place / "theirs.pt"


@pytest.mark.parametrize("images", ["train", "all"])
def test_a_checkpoint_is_doubted_and_one_that_remembers_validation_is_told_loudly(images: str, tmp_path: Path) -> None:
    made = study(checkpoint(tmp_path, images))
    (line,) = (line for line in look_here(made, "none") if DOUBT in line)
    assert line.startswith("dense.checkpoint: ")
    assert line.endswith('data.val = "given"')
    monitor = Notes()
    frame = local(made, tmp_path / "run", monitor).frame
    loud = [note for note in monitor.notes if note.startswith("WARNING: the checkpoint is right on 100.0 %")]
    told = notes(summarise(frame, made))
    assert sum(DOUBT in note for note in told) == 1
    assert len(loud) == sum(note.startswith("WARNING") for note in told) == (images == "all")
    if images == "all":
        assert told[0] == f"{loud[0]}."


def test_a_study_without_a_checkpoint_has_no_word_of_it(tmp_path: Path) -> None:
    made = study(None)
    assert may_be_remembered(made) is None
    assert not any("checkpoint" in line for line in look_here(made, "none"))
    assert not any("checkpoint" in note for note in notes(summarise(local(made, tmp_path / "run").frame, made)))


def test_a_given_part_is_doubted_without_the_advice_to_give_one() -> None:
    told = may_be_remembered(study(Path("x.pt"), val="given"))
    assert told is not None
    assert told.endswith("make sure that they were not")


# --- the test ---


@pytest.mark.parametrize(
    ("right", "of", "others", "of_others"), [(45, 50, 30, 50), (10, 10, 0, 3), (0, 5, 5, 5), (9000, 10000, 8800, 10000)]
)
def test_the_chance_is_that_of_fishers_exact_test(right: int, of: int, others: int, of_others: int) -> None:
    table = [[right, of - right], [others, of_others - others]]
    assert at_least(right, of, others, of_others) == pytest.approx(stats.fisher_exact(table, "greater")[1], rel=1e-6)


def found(made: Study, seed: int, val: int, of: int, test: int, of_test: int) -> dict[str, Any]:
    return {"seed": seed, "val_score": val / of, "n_val": of, "test_score": test / of_test, "n_test": of_test}


@pytest.mark.parametrize("accuracy", [0.1, 0.5, 0.9, 0.99])
def test_a_checkpoint_that_is_as_good_on_both_parts_is_hardly_ever_accused(accuracy: float) -> None:
    made, (of, of_test) = study(Path("x.pt")), (40, 60)
    chances = [stats.binom(n, accuracy).pmf(np.arange(n + 1)) for n in (of, of_test)]
    accused = math.fsum(
        chances[0][val] * chances[1][test]
        for val in range(of + 1)
        for test in range(of_test + 1)
        if remembered(made, [found(made, 0, val, of, test, of_test)]) is not None
    )
    assert accused <= ALPHA


def test_every_seed_counts_and_more_seeds_ask_for_more() -> None:
    one = study(Path("x.pt"))
    several = one.model_copy(update={"replicates": one.replicates.model_copy(update={"seeds": tuple(range(100))})})
    near = found(one, 3, 49, 50, 38, 50)
    assert ALPHA / 100 < at_least(49, 50, 38, 50) < 10 * ALPHA
    assert remembered(several, [near]) is None
    clear = found(one, 5, 50, 50, 10, 50)
    told = remembered(several, [near, clear])
    assert told is not None
    assert "100.0 % of the validation images and on 20.0 % of the test images (seed 5)" in told
    assert remembered(one, [{**clear, "val_score": None}]) is None


def test_parts_that_are_measured_in_different_ways_are_not_compared() -> None:
    made = study(Path("x.pt"))
    other = made.model_copy(update={"evaluate": made.evaluate.model_copy(update={"drop_last": True})})
    assert remembered(other, [found(made, 0, 50, 50, 10, 50)]) is None
