"""A data set's images and labels, in memory or as streams, and the rows of a replicate's parts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from silo_tune.data.example_sets import Array, ExampleSet, arrays_in, strata_of
from silo_tune.errors import BadInput
from silo_tune.formats import plural
from silo_tune.study.data import Data

if TYPE_CHECKING:
    from silo_tune.data.stream import Stream
from silo_tune.data.arrays import Labels, Pixels

NO_VAL = (
    'data.val: "given" asks for a validation part of the set\'s own, and it has none: that is a folder val/ or '
    "validation/ beside train/, Parquet files validation-….parquet, or val and val_labels of a function"
)
NO_POOL = "data.pool: this set has no official test part that could join its training images; leave pool out"


@dataclass(frozen=True)
class DataSet:
    """Images and labels of one set; arrays may be read-only and shared between processes.

    Attributes:
        train: (N, H, W, C) uint8.
        train_labels: (N,) int64.
        test: (M, H, W, C) uint8, or None when the set has no official test part.
        test_labels: (M,) int64, or None.
        classes: number of classes.
        listing: sha256 over the names, sizes and labels of the files that it was read from; None without files.
        notices: what a listing of files left out, in sentences.
        val: (V, H, W, C) uint8, or None when the set has no validation part of its own.
        val_labels: (V,) int64, or None.
    """

    train: Pixels
    train_labels: Labels
    test: Pixels | None
    test_labels: Labels | None
    classes: int
    listing: str | None = None
    notices: tuple[str, ...] = ()
    val: Pixels | None = None
    val_labels: Labels | None = None

    def __post_init__(self) -> None:
        further = {"test": (self.test, self.test_labels), "validation": (self.val, self.val_labels)}
        for part, (pixels, labels) in further.items():
            if (pixels is None) != (labels is None):
                raise BadInput(f"a data set has {part} images and their labels, or neither")
            if pixels is not None and pixels.shape[1:] != self.train.shape[1:]:
                raise BadInput(f"training images are {self.train.shape[1:]}, {part} images are {pixels.shape[1:]}")
        for pixels, labels in ((self.train, self.train_labels), *further.values()):
            if pixels is None or labels is None:
                continue
            if pixels.dtype != np.uint8 or pixels.ndim != 4 or len(pixels) != len(labels):
                raise BadInput(
                    f"a data set is uint8 images (N, H, W, C) with one label each; got {pixels.dtype} "
                    f"{pixels.shape} and {len(labels)} labels"
                )
        check_labels(self.classes, self.train_labels, self.test_labels, self.val_labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""
        height, width, channels = self.train.shape[1:]
        return height, width, channels

    def pooled(self) -> DataSet:
        """Training and test images as one set without a test part of its own."""
        if self.test is None or self.test_labels is None:
            raise BadInput(NO_POOL)
        labels = np.concatenate([self.train_labels, self.test_labels])
        return replace(
            self, train=np.concatenate([self.train, self.test]), train_labels=labels, test=None, test_labels=None
        )

    def content(self) -> str:
        """sha256 over shapes, pixels and labels."""
        digest = hashlib.sha256()
        given = () if self.val is None else (self.val, self.val_labels)  # without one, content is as it always was
        for array in (self.train, self.train_labels, self.test, self.test_labels, *given):
            if array is None:
                digest.update(b"none")
            else:
                digest.update(str((array.shape, array.dtype.str)).encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class StreamedSet:
    """Images that are read as they are needed, and their labels: small, and the same on every node that sees the files.

    Attributes:
        train, test: where the images are; no test part when the set has no official one, or it was pooled.
        train_labels, test_labels: (N,) int64.
        classes: number of classes.
        listing: sha256 over the names, sizes and labels of the files.
        notices: what the listing left out, in sentences.
        val: where the images of its own validation part are, or None.
        val_labels: (V,) int64, or None.
    """

    train: Stream
    train_labels: Labels
    test: Stream | None
    test_labels: Labels | None
    classes: int
    listing: str
    notices: tuple[str, ...] = ()
    val: Stream | None = None
    val_labels: Labels | None = None

    def __post_init__(self) -> None:
        check_labels(self.classes, self.train_labels, self.test_labels, self.val_labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""
        return self.train.image

    def content(self) -> str:
        """The listing stands for the pixels, which are not all read."""
        return self.listing


MOST_CLASSES = 100_000  # of few images: more, and a number that is no label's was taken for one


def check_labels(classes: int, *parts: Labels | None) -> None:
    """Raises BadInput unless labels are the numbers of at least two classes."""
    if classes < 2:
        raise BadInput(f"a data set has at least two classes, got {classes}")
    images = sum(len(labels) for labels in parts if labels is not None)
    if classes > max(images, MOST_CLASSES):
        raise BadInput(f"{classes:,} classes, and {images:,} images; labels are the numbers of classes, from 0 on")
    for labels in parts:
        if labels is None:
            continue
        if labels.dtype != np.int64 or labels.ndim != 1:
            raise BadInput(f"labels are the numbers of classes as int64 (N,); got {labels.dtype} {labels.shape}")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise BadInput(f"labels run from {labels.min()} to {labels.max()}, but there are {classes} classes")


@dataclass(frozen=True)
class Split:
    """Row numbers of one replicate's parts, and where their images are.

    Attributes:
        train: rows of `DataSet.train`.
        val: rows of `DataSet.train`, or of `DataSet.val` unless `val_in_train`.
        test: rows of `DataSet.test`, or of `DataSet.train` when `test_in_train`.
    """

    train: Labels
    val: Labels
    test: Labels
    test_in_train: bool
    val_in_train: bool = True


AnySet = DataSet | StreamedSet | ExampleSet


def split_rows(dataset: AnySet, data: Data, seed: int) -> Split:
    """Test by `split_seed` (or official), then train and validation, stratified, by the replicate's seed; or validation
    as it is given, the same for every seed. Of a table, whole groups, or the latest rows, where it says so.

    Raises:
        BadInput: a part would be empty.
    """
    labels = strata_of(dataset.train_labels)
    rows = np.arange(len(labels), dtype=np.int64)
    parted = _parter(dataset, labels)
    if dataset.test is None:
        rows, test = parted(rows, data.test_share, ("test", data.split_seed))
        test_labels = labels
    else:
        assert dataset.test_labels is not None
        test, test_labels = np.arange(len(dataset.test_labels), dtype=np.int64), strata_of(dataset.test_labels)
    train, val, val_labels = rows, rows[:0], None if dataset.val_labels is None else strata_of(dataset.val_labels)
    if data.val == "drawn":
        train, val = parted(rows, data.val_share, ("val", seed))
        val = _limit(labels, val, data.val_examples, ("limit-val", seed))
    elif val_labels is None:
        raise BadInput(NO_VAL)
    else:
        val = np.arange(len(val_labels), dtype=np.int64)
        val = _limit(val_labels, val, data.val_examples, ("limit-val", data.split_seed))
    train = _limit(labels, train, data.train_examples, ("limit-train", seed))
    test = _limit(test_labels, test, data.test_examples, ("limit-test", data.split_seed))
    for name, part in (("training", train), ("validation", val), ("test", test)):
        if not len(part):
            raise BadInput(
                f"data: the {name} part is empty ({len(labels)} {noun_of(dataset)}, val_share {data.val_share}, "
                f"test_share {data.test_share}); change the shares"
            )
    return Split(train, val, test, dataset.test is None, data.val == "drawn")


def require_seen(dataset: AnySet, split: Split) -> None:
    """Raises BadInput where an example of a class is judged and none is trained on; of images every class is split."""
    if not isinstance(dataset, ExampleSet):
        return
    judged = np.concatenate([*_judged(dataset, split).values()])
    new = np.setdiff1d(judged, dataset.train_labels[split.train])
    if len(new):
        shown = ", ".join(dataset.names[number] if dataset.names else str(number) for number in new[:5])
        raise BadInput(
            f"data: {plural(len(new), 'class')} in validation or test without a training example: {shown}; leave "
            f"such rows out, or change how the data is split"
        )


def of_one_class(dataset: AnySet, split: Split) -> Iterator[str]:
    """A sentence for a part whose examples are all of one class: its score tells only how often that one is named."""
    if dataset.classes < 2:
        return
    for part, labels in _judged(dataset, split).items():
        if labels.ndim == 1 and len(labels) and (labels == labels[0]).all():
            yield (
                f"all {len(labels):,} {part} {noun_of(dataset)} are of one class of {dataset.classes}: their score "
                f"tells how often it is named, and no more"
            )


def of_dark(dataset: AnySet) -> Iterator[str]:
    """A sentence for training images whose numbers use less than half of the range, and so few grey levels."""
    level = _brightest(dataset)
    if level is not None and level < 128:
        yield (
            f"bright pixels of the training images are about {level:.0f} of 255: few grey levels are left; scale "
            f"numbers of 10, 12 or 14 bits in 16-bit files, or from 0 to 1 as bytes, to the whole range first"
        )


def _brightest(dataset: AnySet) -> float | None:
    """The highest number of the training images; of a stream whose sums are known, where its bright pixels lie."""
    if isinstance(dataset, DataSet):
        return float(dataset.train.max(initial=0))
    moments = dataset.train.moments if isinstance(dataset, StreamedSet) else None
    if moments is None:
        return None
    sums, squares = moments[..., 0], moments[..., 1]
    return float((squares / np.maximum(sums, 1)).max(initial=0.0))


def _judged(dataset: AnySet, split: Split) -> dict[str, npt.NDArray[Any]]:
    """The labels of the validation and the test part."""
    parts = {
        "validation": (dataset.train_labels if split.val_in_train else dataset.val_labels, split.val),
        "test": (dataset.train_labels if split.test_in_train else dataset.test_labels, split.test),
    }
    return {part: labels[rows] for part, (labels, rows) in parts.items() if labels is not None}


def noun_of(dataset: AnySet) -> str:
    """What a reader is told that the examples are."""
    return dataset.noun if isinstance(dataset, ExampleSet) else "images"


Drawn = tuple[str, int]
Parter = Callable[[Labels, float, Drawn], tuple[Labels, Labels]]


def _parter(dataset: AnySet, labels: Labels) -> Parter:
    """How rows are split in two, the second part having a share of them."""
    if isinstance(dataset, ExampleSet) and dataset.groups is not None:
        return partial(_by_group, dataset.groups)
    if isinstance(dataset, ExampleSet) and dataset.times is not None:
        return partial(_by_time, dataset.times)
    return partial(_stratified, labels)


def require_rows(dataset: AnySet) -> ExampleSet:
    """The set. Raises BadInput where its examples are not rows of numbers, which others can be put beside."""
    if isinstance(dataset, ExampleSet) and len(dataset.shape) == 1 and arrays_in(dataset.train):
        return dataset
    raise BadInput(
        "pipeline: boosting gives predictions as further numbers of a row: it takes a table, or arrays (N, numbers), "
        f"and these examples are {noun_of(dataset)} {dataset.shape or 'of several parts'}"
    )


def folds_of(dataset: AnySet, rows: Labels, count: int, seed: int) -> list[Labels]:
    """Training rows in so many parts, drawn as the set is split: stratified, by whole groups, or by stretches of time.

    Raises:
        BadInput: the set has no rows of numbers, or too few for so many parts.
    """
    parted = _parter(dataset, strata_of(require_rows(dataset).train_labels))
    left, found = rows, list[Labels]()
    for parts in range(count, 1, -1):
        left, taken = parted(left, 1 / parts, (f"fold-{parts}", seed)) if len(left) else (left, left)
        found.append(taken)
    found.append(left)
    if not min(map(len, found)) or len(rows) - max(map(len, found)) < 2:
        sizes = ", ".join(str(len(fold)) for fold in found)
        raise BadInput(
            f"pipeline: {len(rows)} training rows do not make {count} folds (of {sizes}); take fewer folds or more rows"
        )
    return found


def _by_group(groups: Labels, rows: Labels, share: float, stream: Drawn) -> tuple[Labels, Labels]:
    """Whole groups in an order of chance, until they have the share of the rows."""
    rng = np.random.default_rng(_seed(stream))
    names, counts = np.unique(groups[rows], return_counts=True)
    order = rng.permutation(len(names))
    before = np.cumsum(counts[order]) - counts[order]
    taken = np.isin(groups[rows], names[order[before < round(share * len(rows))]])
    return rows[~taken], rows[taken]


def _by_time(times: Array, rows: Labels, share: float, stream: Drawn) -> tuple[Labels, Labels]:
    """The latest rows; those of one time stay together."""
    border = np.sort(times[rows])[::-1][max(0, round(share * len(rows)) - 1)]
    late = times[rows] >= border
    return rows[~late], rows[late]


def _stratified(labels: Labels, rows: Labels, share: float, stream: tuple[str, int]) -> tuple[Labels, Labels]:
    """Rows split in two, the second part holding `share` of every class; both sorted."""
    rng = np.random.default_rng(_seed(stream))
    second = []
    for label in np.unique(labels[rows]):
        members = rng.permutation(rows[labels[rows] == label])
        second.append(members[: round(share * len(members))])
    taken = np.sort(np.concatenate(second)) if second else rows[:0]
    return np.setdiff1d(rows, taken, assume_unique=True), taken


def _limit(labels: Labels, rows: Labels, count: int | None, stream: tuple[str, int]) -> Labels:
    """At most `count` rows, every class in proportion."""
    if count is None or count >= len(rows):
        return rows
    rng = np.random.default_rng(_seed(stream))
    shuffled = rng.permutation(rows)
    # Rank within its class, as a share of the class: the lowest ranks are a stratified sample of exactly `count`.
    rank = np.empty(len(shuffled))
    for label in np.unique(labels[shuffled]):
        members = np.flatnonzero(labels[shuffled] == label)
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(shuffled[np.argsort(rank, kind="stable")[:count]])


def _seed(stream: tuple[str, int]) -> int:
    return int.from_bytes(hashlib.sha256(f"{stream[0]}/{stream[1]}".encode()).digest()[:8], "big")
