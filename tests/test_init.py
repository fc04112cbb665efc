"""`init`: the study that it writes for somebody's data runs as it is."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from silo_tune.study.study_file import load_study
from tests.test_cli import in_process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of somebody's: numbers, a category, a price and whether it was sold."""
    place, random = tmp_path_factory.mktemp("mine"), np.random.default_rng(0)
    x, kind = random.normal(size=(600, 2)), random.choice(list("abc"), 600)
    price = 30 + 5 * x[:, 0] + random.normal(size=600)
    sold = np.where(x[:, 1] + random.normal(size=600) > 0, "yes", "no")
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "kind": kind, "price": price, "sold": sold})
    words = [f"number {row} " + ("is good" if was == "yes" else "is poor") for row, was in enumerate(sold)]
    frame.to_csv(place / "mine.csv", index=False)
    pd.DataFrame({"told": words, "sold": sold}).to_csv(place / "told.csv", index=False)
    frame.to_json(place / "mine.jsonl", orient="records", lines=True)
    return place


@pytest.mark.parametrize(
    ("asked", "network", "score", "tolerance"),
    [
        ("digits", "lenet-300-100", "accuracy", math.sqrt(0.18 / 287)),
        ("mine.csv --target sold", "mlp", "accuracy", math.sqrt(0.18 / 96)),
        ("mine.csv --target sold --task binary --model mlp", "mlp", "accuracy", math.sqrt(0.18 / 96)),
        ("mine.jsonl --target sold", "mlp", "accuracy", math.sqrt(0.18 / 96)),
        ("told.csv --target sold --text told", "lstm", "accuracy", math.sqrt(0.18 / 96)),
        ("mine.csv --target price --task regression", "mlp", "rmse", 0.02 * 5.1),
    ],
)
def test_a_written_study_fits_its_data(asked: str, network: str, score: str, tolerance: float, folder: Path) -> None:
    file = f"{abs(hash(asked))}.toml"
    done = in_process("init", *asked.split(), "--out", file, cwd=folder)
    assert done.returncode == 0, done.stderr
    study = load_study(folder / file)
    assert (study.model.name, study.scored.name) == (network, score)
    assert study.report.tolerance == pytest.approx(tolerance, rel=0.15)
    assert len(study.replicates.seeds) == 10  # for so small data
    assert ("lstm" in study.prune.layers) == (network == "lstm")
    assert max(len(line) for line in (folder / file).read_text().splitlines()) <= 120
    planned = in_process("plan", file, cwd=folder)
    assert planned.returncode == 0, planned.stderr
    assert "1170" in planned.stdout  # of the Oracle, as the file says
    assert "1,170 trials" in (folder / file).read_text()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("mine.csv", "--target: name the column"),
        ("mine.csv --target prise", "did you mean 'price'"),
        ("mine.csv --target price", 'set task = "regression"'),
        ("digits --text told", "--text: a column of a table, and 'digits' is none"),
        ("told.csv --target sold --text tell", "unknown column 'tell'; choose from sold, told"),
        ("nothing", "unknown data set 'nothing'"),
        ("digits --model lenet", "did you mean 'lenet-300-100'"),
        ("digits --out mine.csv", "'mine.csv' exists, and is not written over"),
    ],
)
def test_what_does_not_fit_is_told_and_nothing_is_written(asked: str, told: str, folder: Path) -> None:
    before = sorted(folder.iterdir())
    done = in_process("init", *asked.split(), cwd=folder)
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr
    assert sorted(folder.iterdir()) == before


def test_texts_that_are_taken_as_categories_are_told_of(folder: Path) -> None:
    asked = "--target sold --dense-epochs 1 --epsilon 0.1 --delta 0.1 --epochs 1 --cycles 1 --out texts"
    done = in_process("prune", "--model", "mlp", "--data", "told.csv", *asked.split(), cwd=folder)
    assert "column 'told'" in done.stdout + done.stderr
    assert "are they texts? data.ignore leaves them out, data.name = 'text' reads them" in done.stdout + done.stderr


def test_columns_that_number_or_name_the_rows_are_left_out(folder: Path) -> None:
    frame = pd.read_csv(folder / "mine.csv")
    rows = len(frame)
    frame.insert(0, "row", np.random.default_rng(0).permutation(rows) + 1000)
    frame["code"] = [f"c-{row:05d}" for row in range(rows)]
    frame["salary"] = np.arange(rows) * 37  # no value twice, and a number all the same
    frame["said"] = [f"number {row}" for row in range(rows)]
    frame["half"] = np.arange(rows) // 2
    frame.to_csv(folder / "numbered.csv", index=False)
    done = in_process("init", "numbered.csv", "--target", "sold", "--out", "numbered.toml", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert load_study(folder / "numbered.toml").data.ignore == ("row", "code")
    assert "column 'code' has another value in every row" in done.stdout
