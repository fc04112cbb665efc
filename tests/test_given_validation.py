"""A user's own validation part: used as it is, the same for every seed, and never trained on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from silo_tune.data.batches import Feed
from silo_tune.data.load import facts, load_data, open_data
from silo_tune.data.sets import DataSet, split_rows
from silo_tune.errors import BadInput, StudyError
from silo_tune.study.data import Data
from silo_tune.study.study_file import parse_study
from tests.conftest import small_study, small_table
from tests.test_cycle import Bench
from tests.test_data import write_parquet
from tests.test_run import local
from tests.test_streaming import make_folder, real_images, with_, write_classes
from tests.test_units import unit

TRAIN, VAL, TEST = 90, 40, 50


def arrays() -> dict[str, Any]:
    """Real digits of four classes in three parts."""
    images, labels = real_images(TRAIN + VAL + TEST)
    parts = {"train": slice(TRAIN), "val": slice(TRAIN, TRAIN + VAL), "test": slice(TRAIN + VAL, None)}
    found = {name: images[rows] for name, rows in parts.items()}
    return {**found, **{f"{name}_labels": labels[rows] for name, rows in parts.items()}, "classes": 4}


def with_val(val: Any = None, val_labels: Any = None) -> DataSet:
    made = arrays()
    one = DataSet(made["train"], made["train_labels"], made["test"], made["test_labels"], 4)
    return replace(one, val=val, val_labels=val_labels)


def in_order() -> tuple[Any, ...]:
    made = arrays()
    return tuple(
        made[name] for name in ("train", "train_labels", "test", "test_labels", "classes", "val", "val_labels")
    )


def by_name(path: str) -> Any:
    return np.load(path)


def as_folder(place: Path, name: str = "val") -> Data:
    made = arrays()
    for part, folder in (("train", "train"), ("val", name), ("test", "test")):
        write_classes(place / folder, made[part], made[f"{part}_labels"])
    return Data(name="folder", path=str(place), val="given")


def as_parquet(place: Path, name: str = "validation") -> Data:
    place.mkdir()
    for part, count in (("train", TRAIN), (name, VAL), ("test", TEST)):
        write_parquet(place, part, count)
    return Data(name="huggingface", path=str(place), val="given")


def as_function(place: Path) -> Data:
    return Data(function="tests.test_given_validation:in_order", version="1", val="given")


def as_npz(place: Path) -> Data:
    np.savez(place.with_suffix(".npz"), **arrays())
    args = {"path": str(place.with_suffix(".npz"))}
    return Data(function="tests.test_given_validation:by_name", version="1", args=args, val="given")


WAYS: dict[str, Callable[[Path], Data]] = {
    "folder val": as_folder,
    "folder validation": lambda place: as_folder(place, "validation"),
    "parquet validation": as_parquet,
    "parquet val": lambda place: as_parquet(place, "val"),
    "function": as_function,
    "npz": as_npz,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_given_part_is_the_validation_part_of_every_seed_and_all_else_is_trained_on(way: str, tmp_path: Path) -> None:
    data = WAYS[way](tmp_path / "set")
    found = load_data(data)
    assert found.val is not None
    assert found.val_labels is not None
    assert found.test is not None
    assert (len(found.train), len(found.val), len(found.test)) == (TRAIN, VAL, TEST)
    splits = [split_rows(found, data, seed) for seed in (0, 1, 7)]
    for split in splits:
        assert split.val.tolist() == list(range(VAL))
        assert split.train.tolist() == list(range(TRAIN))
        assert not split.val_in_train
    told = facts(found, data)
    assert (told["n_train"], told["n_val"], told["n_test"], told["notices"]) == (TRAIN, VAL, TEST, [])
    feed = Feed.make(found, splits[0], data.augmentation(), torch.device("cpu"))
    images, labels = next(feed.batches(feed.val))
    assert torch.equal(images, feed.normalised(torch.from_numpy(np.array(found.val))))
    assert labels.tolist() == found.val_labels.tolist()


@pytest.mark.parametrize("way", ["folder val", "parquet validation"])
def test_streamed_it_gives_the_same_batches(way: str, tmp_path: Path) -> None:
    data = WAYS[way](tmp_path / "set")
    feeds = []
    for stream in (False, True):
        asked = with_(data, stream=stream)
        opened = open_data(asked)
        feeds.append(Feed.make(opened, split_rows(opened, asked, 3), asked.augmentation(), torch.device("cpu")))
    for part in ("train", "val", "test"):
        pairs = zip(*(feed.batches(getattr(feed, part)) for feed in feeds), strict=True)
        assert all(torch.equal(one[0], other[0]) and torch.equal(one[1], other[1]) for one, other in pairs)


@pytest.mark.parametrize("way", WAYS)
def test_unless_it_is_asked_for_a_validation_part_changes_nothing(way: str, tmp_path: Path) -> None:
    data = with_(WAYS[way](tmp_path / "set"), val="drawn")
    with_part = load_data(data)
    if way.startswith(("folder", "parquet")):
        for name in ("val", "validation"):
            shutil.rmtree(tmp_path / "set" / name, ignore_errors=True)
            for file in (tmp_path / "set").glob(f"{name}-*"):
                file.unlink()
        without = load_data(data)
        assert (without.content(), without.listing) == (with_part.content(), with_part.listing)
    else:
        (told,) = with_part.notices
        assert told.startswith(f"a validation part of {VAL} images that is not used; data.val")
        assert with_part.content() == with_val().content()
    assert with_part.val is None


def test_content_knows_the_given_part(tmp_path: Path) -> None:
    made = arrays()
    contents = {
        with_val().content(),
        with_val(made["val"], made["val_labels"]).content(),
        with_val(255 - made["val"], made["val_labels"]).content(),
    }
    assert len(contents) == 3


def test_a_limit_draws_one_stratified_part_for_every_seed(tmp_path: Path) -> None:
    data = with_(as_function(tmp_path), val_examples=20, train_examples=60)
    found = load_data(data)
    splits = [split_rows(found, data, seed) for seed in (0, 1)]
    assert splits[0].val.tolist() == splits[1].val.tolist()
    assert len(splits[0].val) == 20
    assert splits[0].train.tolist() != splits[1].train.tolist()
    assert len(splits[0].train) == 60


# --- identity ---


def test_the_default_is_in_no_key_and_the_share_is_in_none_where_nothing_is_drawn() -> None:
    folder = {"data": {"name": "folder", "path": "x"}}
    assert unit(folder).key == unit({**folder, "data.val": "drawn"}).key
    assert "val" not in unit(folder).spec["split"]
    given = unit({**folder, "data.val": "given"})
    assert given.key != unit(folder).key
    assert given.key == unit({**folder, "data.val": "given", "data.val_share": 0.4}).key


# --- what is refused ---


def test_copies_across_parts_are_counted_for_it_too(tmp_path: Path) -> None:
    made = arrays()
    data = as_function(tmp_path)
    one = with_val(np.concatenate([made["val"], made["train"][:9]]),
                  np.concatenate([made["val_labels"], made["train_labels"][:9]]))  # fmt: skip
    with pytest.raises(BadInput, match="validation images that are training images too: 9 of 49"):
        facts(one, data)
    other = with_val(made["test"][:8], made["test_labels"][:8])
    assert facts(other, data)["notices"] == ["test images that are validation images too: 8 of 50"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"name": "digits", "val": "given"},
            r"'digits' has no validation part .* cifar10, cifar100, folder, huggingface",
        ),
        ({"name": "imagenet", "path": "x", "val": "given"}, "'imagenet' has no validation part beside its test part"),
        ({"name": "folder", "path": "x", "val": "given", "pool": True}, "pool = true would mix"),
        ({"name": "folder", "path": "x", "val": "givn"}, "did you mean 'given'"),
    ],
)
def test_what_cannot_be_given_is_refused_where_it_is_written(data: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        parse_study({**small_table(), "data": data})


def test_a_set_without_one_says_what_it_takes(tmp_path: Path) -> None:
    data = with_(make_folder(tmp_path / "set"), val="given")
    with pytest.raises(
        BadInput, match=r"data\.val: .* it has none: that is a folder val/ or validation/ beside train/"
    ):
        facts(load_data(data), data)


def test_a_class_that_training_lacks_and_images_of_another_size_are_refused(tmp_path: Path) -> None:
    data = as_folder(tmp_path / "set")
    shutil.copytree(tmp_path / "set" / "val" / "n01", tmp_path / "set" / "val" / "N01")
    with pytest.raises(BadInput, match="classes that the training part lacks: N01"):
        load_data(data)
    made = arrays()
    with pytest.raises(BadInput, match="validation images are"):
        with_val(made["val"][:, :4], made["val_labels"])
    with pytest.raises(BadInput, match="validation images and their labels, or neither"):
        with_val(made["val"])


def test_a_study_trains_on_all_and_chooses_by_the_given_part(tmp_path: Path) -> None:
    data = {**small_table()["data"], "name": None, "function": "tests.test_given_validation:in_order"}
    limits = {"train_examples": None, "val_examples": None, "test_examples": None}
    made = small_study(data={**data, **limits, "version": "1", "val": "given"}, cycles=2)
    bench = Bench(tmp_path / "one", made)
    result = bench.train(bench.unit(0, None))
    assert (result["n_val"], result["n_test"], result["steps"]) == (VAL, TEST, 2 * 3)  # 90 images, 32 a batch
    frame = local(made, tmp_path / "run").frame
    assert set(frame.status) <= {"ok", "diverged"}
    assert set(frame.n_val) == {VAL}
