"""Tables and arrays: what becomes of columns, that only the training part is looked at, splits, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, parquet

from silo_tune.data.example_feed import ExampleFeed
from silo_tune.data.example_sets import ExampleSet
from silo_tune.data.load import facts, open_examples
from silo_tune.data.sets import split_rows
from silo_tune.errors import BadInput
from silo_tune.models.build import build_model
from silo_tune.seeds import stream
from silo_tune.study.data import Data
from silo_tune.study.task import TaskSpec
from silo_tune.tasks.making import make_task

CPU = torch.device("cpu")
N = 240


def columns(**changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    size, colour = rng.normal(5, 2, N), rng.choice(["red", "green", "blue"], N)
    yes = np.where(size + (colour == "red") + rng.normal(0, 1, N) > 5.5, "yes", "no")
    found: dict[str, Any] = {
        "size": size, "age": rng.integers(1, 90, N), "colour": colour, "zone": [f"z{i % 7}" for i in range(N)],
        "day": np.arange(N), "price": 3 * size + rng.normal(0, 1, N), "answer": yes,
    }  # fmt: skip
    return {**found, **changes}


def written(place: Path, **changes: Any) -> str:
    table = pa.table(columns(**changes))
    file = place / "table.parquet"
    parquet.write_table(table, file)
    return str(file)


def opened(path: str, task: Any = "binary", **data: Any) -> tuple[Data, ExampleSet]:
    asked = Data(**{"name": "table", "path": path, "target": "answer", "ignore": ("price", "day"), **data})
    found = open_examples(asked, None if task is None else TaskSpec.model_validate(task))
    assert isinstance(found, ExampleSet)
    return asked, found


def feed_of(data: Data, found: ExampleSet, seed: int = 0) -> ExampleFeed:
    return ExampleFeed.make(found, split_rows(found, data, seed), data.augmentation(), CPU)


def inputs_of(feed: ExampleFeed, part: Any) -> Any:
    return torch.cat([inputs for inputs, _ in feed.batches(part, 50)])


# --- what becomes of columns ---


def test_numbers_are_scaled_and_categories_told_one_by_one(tmp_path: Path) -> None:
    data, found = opened(written(tmp_path))
    feed = feed_of(data, found)
    train = inputs_of(feed, feed.train)
    assert train.shape[1:] == found.shape == (2 + (3 + 2) + (7 + 2),)
    assert torch.allclose(train[:, :2].mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(train[:, :2].std(0, correction=0), torch.ones(2), atol=1e-5)
    assert set(train[:, 2:].unique().tolist()) == {0.0, 1.0}
    assert torch.equal(train[:, 2:].sum(1), torch.full((len(train),), 2.0))
    assert facts(found, data)["noun"] == "rows"
    assert "yes is 'yes', no is 'no'" in found.notices


def test_codes_are_for_embeddings(tmp_path: Path) -> None:
    data, found = opened(written(tmp_path), encode="codes")
    feed = feed_of(data, found)
    inputs, targets = next(iter(feed.batches(feed.train, 16)))
    model = build_model({"name": "mlp", "widths": [8]}, found.shape, found.classes, 0, further=found.further)
    assert {name: tuple(one.shape) for name, one in inputs.items()} == {"numeric": (16, 2), "categories": (16, 2)}
    assert model(**inputs).shape == (16, 1)
    assert targets.dtype == torch.int64


def test_gaps_are_filled_by_the_median_and_told_and_unseen_categories_have_a_code(tmp_path: Path) -> None:
    size = columns()["size"].copy()
    size[::9] = np.nan
    colour = columns()["colour"].astype(object)
    colour[3] = None
    data, found = opened(written(tmp_path, size=size, colour=pa.array(colour.tolist())))
    feed = feed_of(data, found)
    train, rows = inputs_of(feed, feed.train), feed.train.rows.numpy()
    gap = np.isnan(size[rows])
    assert train[:, 2].numpy().astype(bool).tolist() == gap.tolist()  # a column of its own tells of the gap
    filled = np.where(gap, np.nanmedian(size[rows]), size[rows])
    assert np.allclose(train[:, 0], (filled - filled.mean()) / filled.std(), atol=1e-5)
    new = columns()["colour"].astype(object)
    alone = int(feed.val.rows[0])
    new[alone] = "violet"
    data, found = opened(written(tmp_path, size=size, colour=pa.array(new.tolist())))
    feed = feed_of(data, found)
    assert feed.train.images[alone, 3 + 1] == 1.0  # the code of what training did not show
    assert any("column 'colour': 1 of 240 rows have a category that the training part lacks" in n for n in feed.notices)


def test_a_column_of_numbers_that_a_few_words_make_one_of_categories_is_told(tmp_path: Path) -> None:
    age = [str(value) for value in columns()["age"]]
    age[7] = "n/a?"
    told = "column 'age' is read as categories, though only 1 of its 240 values are no numbers ('n/a?')"
    path = written(tmp_path, age=age)
    assert any(told in line for line in opened(path)[1].notices)
    assert not any(told in line for line in opened(path, categorical=("age",))[1].notices)
    assert not any("read as categories" in line for line in opened(written(tmp_path))[1].notices)


def test_nothing_of_validation_and_test_reaches_the_training_part(tmp_path: Path) -> None:
    data, found = opened(written(tmp_path))
    split = split_rows(found, data, 0)
    others = np.concatenate([split.val, split.test])
    changed = columns()
    changed["size"][others] = 1e6
    changed["age"][others] = 0
    again_data, again = opened(written(tmp_path, size=changed["size"], age=changed["age"]))
    one, other = (feed_of(d, f) for d, f in ((data, found), (again_data, again)))
    assert torch.equal(inputs_of(one, one.train), inputs_of(other, other.train))


def test_csv_is_read_as_parquet_is(tmp_path: Path) -> None:
    _, found = opened(written(tmp_path))
    csv.write_csv(pa.table(columns()), tmp_path / "table.csv")
    _, same = opened(str(tmp_path / "table.csv"))
    assert isinstance(found.train, Mapping)
    assert isinstance(same.train, Mapping)
    assert np.allclose(found.train["numeric"], same.train["numeric"])
    assert np.array_equal(found.train_labels, same.train_labels)


# --- splits ---


def test_groups_stay_together_and_the_latest_rows_are_test(tmp_path: Path) -> None:
    path = written(tmp_path)
    data, found = opened(path, group="zone")
    zone = np.array(columns()["zone"])
    for seed in range(3):
        split = split_rows(found, data, seed)
        parts = [set(zone[rows]) for rows in (split.train, split.val, split.test)]
        assert all(parts)
        assert sum(map(len, parts)) == len(set.union(*parts))
    data, found = opened(path, time="day", ignore=("price",))
    split = split_rows(found, data, 0)
    assert split.train.max() < split.val.min() <= split.val.max() < split.test.min()
    assert len(split.test) == round(0.2 * N)


def test_an_epoch_has_every_row_once_and_an_evaluation_its_order(tmp_path: Path) -> None:
    data, found = opened(written(tmp_path), "regression", target="price", ignore=("day", "answer"))
    feed = feed_of(data, found)
    seen = torch.cat([targets for _, targets in feed.epoch(16, stream("order", 0), stream("augment", 0))])
    assert torch.equal(seen.sort().values, feed.train.labels[feed.train.rows].sort().values)
    again = torch.cat([targets for _, targets in feed.epoch(16, stream("order", 0), stream("augment", 0))])
    assert torch.equal(seen, again)
    assert feed.steps(16) == len(list(feed.epoch(16, stream("order", 0), stream("augment", 0))))
    assert torch.equal(torch.cat([t for _, t in feed.batches(feed.val, 7)]), feed.val.labels[feed.val.rows])


def test_a_task_may_have_classes_that_no_example_has(tmp_path: Path) -> None:
    plain, more = (opened(written(tmp_path), task)[1] for task in (None, {"name": "classification", "classes": 5}))
    assert (plain.classes, more.classes) == (2, 5)
    assert plain.content() == more.content()
    assert "3 classes of 5 without a training example" in more.notices
    task = make_task(TaskSpec(name="classification", classes=5), 5, torch.tensor(more.train_labels))
    assert task.guess is not None
    assert task.guess.score == max(more.train_labels.mean(), 1 - more.train_labels.mean())
    assert math.isfinite(task.guess.loss)
    digits = open_examples(Data(name="digits"), TaskSpec(name="classification", classes=12))
    assert digits.classes == 12
    with pytest.raises(BadInput, match=r"10 classes, and task\.classes is 9"):
        open_examples(Data(name="digits"), TaskSpec(name="classification", classes=9))


def test_gaps_of_numbers_are_counted(tmp_path: Path) -> None:
    data, found = opened(written(tmp_path, size=[None, None, *[1.0, 2.0] * (N // 2 - 1)]))
    assert any(f"column 'size': 2 of {N} rows have no number" in told for told in feed_of(data, found).notices)


# --- what is refused ---

BAD: list[tuple[dict[str, Any], dict[str, Any], Any, str]] = [
    ({}, {"target": "anser"}, "binary", "unknown column 'anser'"),
    ({}, {"target": "zone", "ignore": ("answer",)}, "binary", r": 7 values \(z0, z1, .*a binary task has two"),
    (
        {},
        {"target": "answer"},
        "regression",
        "column 'answer': texts, such as '.*'; a regression needs",
    ),
    (
        {},
        {"target": "price", "ignore": ("answer",)},
        "classification",
        ': numbers, such as .*set task = "regression"',
    ),
    (
        {"zone": [f"z{i}" for i in range(N)]},
        {"target": "zone"},
        None,
        ": 240 different values in 240 examples; classes",
    ),
    ({}, {"target": "zone"}, {"name": "classification", "classes": 6}, ": 7 classes, and task.classes is 6"),
    ({"answer": ["yes"] * N}, {}, "binary", ": one value, .*; there is nothing to learn"),
    ({"price": [2.0] * N}, {"target": "price", "ignore": ("answer",)}, "regression", ": one value, 2.0"),
    ({"answer": [None, *["yes", "no"] * 119, "no"]}, {}, "binary", "1 value missing, the first in row 0"),
    ({"size": [np.inf, *[1.0] * (N - 1)]}, {}, "binary", "column 'size' is infinite in row 0"),
    ({"size": [1e308, *[1.0] * (N - 1)]}, {}, "binary", r"column 'size' is 1e\+308 in row 0, more than single"),
    ({"size": [None] * N}, {}, "binary", "column 'size' has no value in any row; name it in ignore"),
    ({}, {"numeric": ("colour",)}, "binary", "column 'colour' is no column of numbers"),
    ({"day": [[1]] * N}, {"ignore": ("price",)}, "binary", "column 'day' is list.*, neither numbers nor words"),
]


@pytest.mark.parametrize(("changes", "data", "task", "told"), BAD, ids=lambda value: str(value)[:30])
def test_a_table_that_cannot_be_is_told(
    changes: dict[str, Any], data: dict[str, Any], task: Any, told: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=told):
        opened(written(tmp_path, **changes), task, **data)


def test_a_package_that_is_not_there_is_told_with_what_to_do() -> None:
    with pytest.raises(BadInput, match=r"the package no_such is not installed; .* pip install --no-deps no-such"):
        opened("package:no_such/table.parquet")


# --- arrays and functions ---


def saved(place: Path, **changes: Any) -> str:
    rng = np.random.default_rng(0)
    train = rng.normal(size=(60, 5))
    arrays = {"train": train, "train_labels": train[:, 0] * 2, "test": train[:20], "test_labels": train[:20, 0] * 2}
    np.savez(place / "a.npz", **{k: v for k, v in {**arrays, **changes}.items() if v is not None})
    return str(place / "a.npz")


def given(path: str, task: Any = "regression") -> ExampleSet:
    found = open_examples(Data(name="arrays", path=path), TaskSpec.model_validate(task))
    assert isinstance(found, ExampleSet)
    return found


def test_arrays_of_a_file_are_a_set(tmp_path: Path) -> None:
    found = given(saved(tmp_path))
    assert (found.shape, found.classes, str(found.train_labels.dtype)) == ((5,), 1, "float32")
    assert found.test is not None
    parts = {"train.a": np.ones((60, 2)), "train.b": np.zeros((60, 3), np.int64), "train": None, "test": None}
    found = given(saved(tmp_path, **parts, test_labels=None))
    assert isinstance(found.train, Mapping)
    assert set(found.train) == {"a", "b"}
    feed = feed_of(Data(name="arrays", path="x"), found)
    inputs, _ = next(iter(feed.batches(feed.train, 4)))
    assert (inputs["a"].dtype, inputs["b"].dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize(
    ("changes", "task", "told"),
    [
        ({"train": np.full((60, 5), np.nan)}, "regression", "the training part is nan in row 0, column 0"),
        ({"train": np.zeros((61, 5))}, "regression", "61 examples and 60 labels"),
        ({"train_labels": np.full(60, np.nan)}, "regression", "60 values missing, the first in row 0"),
        (
            {"train_labels": np.arange(60) % 3, "test_labels": np.arange(20) % 4},
            "classification",
            "1 class without a tr",
        ),
        ({"train_labels": np.zeros((60, 2)) + 2, "test_labels": np.zeros((20, 2))}, "multilabel", "are 0 or 1"),
        ({"train_labels": None}, "regression", "no labels; give train_labels"),
        (
            {"train": np.zeros((60, 5), np.uint8), "test": np.zeros((20, 5), np.float32)},
            "regression",
            "the train part is uint8 and the test part is float32: .* give all parts as one type",
        ),
        (
            {"train": None, "test": None, "train.a": np.zeros((60, 5)), "test.a": np.zeros((20, 5), np.int64)},
            "regression",
            "the train part of 'a' is float64 and the test part is int64",
        ),
    ],
    ids=lambda value: str(value)[:20],
)
def test_arrays_that_cannot_be_are_told(changes: dict[str, Any], task: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=told):
        given(saved(tmp_path, **changes), task)


def test_arrays_of_any_precision_go_together(tmp_path: Path) -> None:
    assert given(saved(tmp_path, test=np.ones((20, 5), np.float16))).test is not None


def mirrored() -> dict[str, Any]:
    """Arrays that are read backwards, as flipped images are."""
    x = np.random.default_rng(0).normal(size=(60, 2, 4)).astype(np.float32)
    return {"train": x[..., ::-1], "train_labels": x[::-1, 0, 0], "test": x[::-1], "test_labels": x[:, 0, 0]}


def test_arrays_that_are_read_backwards_are_given_as_they_are() -> None:
    data = Data(function="tests.test_tables:mirrored", version="1")
    found = open_examples(data, TaskSpec.model_validate("regression"))
    assert isinstance(found, ExampleSet)
    feed = feed_of(data, found)
    inputs, targets = next(iter(feed.batches(feed.train, 4)))
    assert (tuple(inputs.shape), tuple(targets.shape)) == ((4, 2, 4), (4,))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"a,b,a\n1,2,3\n", "has more than one column 'a'; give each another name"),
        ("a,b\ncaf\u00e9,2\n".encode("latin-1"), "column 'a' is not UTF-8; save the file as UTF-8"),
    ],
)
def test_a_file_of_columns_that_cannot_be_is_told(text: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(text)
    with pytest.raises(BadInput, match=told):
        opened(str(tmp_path / "a.csv"), "regression", target="b", ignore=())


class Boxes(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, row: int) -> Any:
        return {"x": torch.full((2,), float(row)), "many": list(range(row % 3))}


def boxes() -> dict[str, Any]:
    def collate(items: list[Any]) -> Any:
        return {"x": torch.stack([item["x"] for item in items]), "many": [item["many"] for item in items]}

    return {"train": Boxes(), "collate": collate, "classes": 2}


def test_a_data_set_of_torch_gives_batches_of_any_kind() -> None:
    task = TaskSpec.model_validate({"function": "m:T", "version": "1", "score": "mae"})
    data = Data(function="tests.test_tables:boxes", version="1")
    found = open_examples(data, task)
    assert isinstance(found, ExampleSet)
    feed = feed_of(data, found)
    seen = list(feed.epoch(8, stream("order", 0), stream("augment", 0)))
    rows = torch.cat([batch["x"][:, 0] for batch in seen]).long()
    assert sorted(rows.tolist()) == sorted(feed.train.rows.tolist())
    assert [len(many) for batch in seen for many in batch["many"]] == [int(row) % 3 for row in rows]
