"""Folders with a file for each part, as the Hub and `datasets` have them: tables, texts and tokens by their columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, parquet

from silo_tune.data.example_feed import ExampleFeed
from silo_tune.data.example_sets import ExampleSet
from silo_tune.data.load import open_examples
from silo_tune.data.sets import split_rows
from silo_tune.errors import BadInput
from silo_tune.study.data import Data
from silo_tune.study.task import TaskSpec

SIZES = {"train": 40, "validation": 10, "test": 12}


def rows(part: str) -> dict[str, Any]:
    count = SIZES[part]
    rng = np.random.default_rng(count)
    colours = ["red", "green"] if part == "train" else ["red", "green", "grey"]  # grey is of no training row
    return {
        "size": rng.normal(len(part), 1, count), "colour": [colours[i % len(colours)] for i in range(count)],
        "text": [f"{part} row {i}" for i in range(count)], "label": np.arange(count) % 2,
    }  # fmt: skip


def as_parquet(place: Path) -> None:
    for part in SIZES:
        parquet.write_table(pa.table(rows(part)), place / f"{part}-00000-of-00001.parquet")


def as_csv(place: Path) -> None:
    for part in SIZES:
        csv.write_csv(pa.table(rows(part)), place / f"{part}.csv")


def as_saved(place: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = {part: datasets.Dataset.from_dict(rows(part)) for part in SIZES}
    datasets.DatasetDict(made).save_to_disk(str(place))


def opened(place: Path, task: Any = None, **asked: Any) -> tuple[Data, ExampleSet]:
    data = Data(path=str(place), **asked)
    found = open_examples(data, task)
    assert isinstance(found, ExampleSet)
    return data, found


@pytest.mark.parametrize("write", [as_parquet, as_csv, as_saved])
def test_a_table_has_the_parts_of_its_folder_and_is_fitted_to_training_rows(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path)
    data, found = opened(tmp_path, name="table", target="label", ignore=("text",), val="given")
    split = split_rows(found, data, 0)
    assert (len(split.train), len(split.val), len(split.test)) == (40, 10, 12)
    feed = ExampleFeed.make(found, split, {}, torch.device("cpu"))
    train, val, test = (next(feed.batches(part, 99))[0] for part in (feed.train, feed.val, feed.test))
    assert train[:, 0].mean().abs() < 1e-6
    size = rows("train")["size"]
    expected = (rows("test")["size"] - size.mean()) / size.std()
    assert torch.allclose(test[:, 0], torch.tensor(expected, dtype=torch.float32), atol=1e-6)
    assert test.shape[1] == train.shape[1] == val.shape[1]
    assert test[2, 1:].tolist() == [0, 1, 0, 0, 0]  # of a category that training lacks
    assert next(feed.batches(feed.test, 99))[1].tolist() == rows("test")["label"].tolist()
    assert any("7 of 62 rows have a category" in told or "have a category that" in told for told in feed.notices)


def test_texts_and_tokens_have_the_parts_of_their_folder(tmp_path: Path) -> None:
    as_parquet(tmp_path)
    columns: dict[str, Any] = {"text": "text", "target": "label", "length": 24}
    data, found = opened(tmp_path, name="text", **columns)
    assert any("a validation part of 10 texts that is not used" in told for told in found.notices)
    split = split_rows(found, data, 0)
    assert len(split.train) + len(split.val) == 40
    assert isinstance(found.test, np.ndarray)
    assert bytes(found.test[3][found.test[3] > 0].astype(np.uint8) - 1) == b"test row 3"
    data, found = opened(tmp_path, TaskSpec(name="language-model"), name="tokens", text="text", block=16, val="given")
    assert isinstance(found.test, np.ndarray)
    whole = "\n".join(rows("test")["text"]).encode()
    assert bytes(found.test[0].astype(np.uint8)) == whole[:16]
    assert bytes(found.test_labels[0].astype(np.uint8)) == whole[1:17]  # type: ignore[index]
    split = split_rows(found, data, 0)
    assert (split.test_in_train, split.val_in_train) == (False, False)


def test_a_folder_without_a_training_part_and_files_that_differ_are_told(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"name": "table", "target": "label", "ignore": ("text",)}
    with pytest.raises(BadInput, match="has no training part"):
        opened(tmp_path, **asked)
    parquet.write_table(pa.table(rows("train")), tmp_path / "train.parquet")
    data, found = opened(tmp_path, **asked)
    assert found.test is None
    with pytest.raises(BadInput, match=r'data\.val: "given" asks for a validation part'):
        split_rows(found, data.model_copy(update={"val": "given"}), 0)
    parquet.write_table(pa.table({**rows("test"), "label": [["x"]] * 12}), tmp_path / "test.parquet")
    with pytest.raises(BadInput, match="do not go together"):
        opened(tmp_path, **asked)
