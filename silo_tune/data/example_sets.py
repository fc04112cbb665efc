"""Examples of any kind in memory: arrays, columns of a table, or a data set that gives them one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silo_tune.data.arrays import Labels
from silo_tune.data.items import BadItem, sample_of
from silo_tune.errors import BadInput

Array = NDArray[Any]
# One array, several by name, or a map-style data set of torch.
Inputs = Array | Mapping[str, Array] | Any

NO_POOL = "data.pool: this set has no official test part that could join its training part; leave pool out"


@dataclass(frozen=True)
class ExampleSet:
    """Inputs and targets of one set; arrays may be read-only and shared between processes.

    Attributes:
        train: inputs (N, …): an array, arrays by name, or a map-style data set of torch.
        train_labels: targets: (N,) int64 of classes, (N, labels) int64, or (N,) or (N, numbers) float32.
        test, test_labels: likewise, or None when the set has no official test part.
        classes: numbers that a network gives of an example: of classes, labels or targets.
        shape: of an example, as a network is built with it; () where only the network knows.
        val, val_labels: of the set's own validation part, or None.
        groups: (N,) numbers; examples of one group are in one part.
        times: (N,) numbers; the latest examples are test, the latest of the rest validation.
        encoder: how the columns of a table become numbers, fitted to a training part.
        collate: makes a batch of the items of a map-style data set.
        further: arguments that a network is built with beside shape and classes.
        listing, notices: as of a set of images.
        noun: what a reader is told that the examples are.
        names: of classes, in the order of their numbers.
        workers: processes that read the items of a map-style data set.
        padding: id that fills up rows of tokens (N, length) behind their end; batches are cut to their longest row.
    """

    train: Inputs
    train_labels: Array
    test: Inputs | None
    test_labels: Array | None
    classes: int
    shape: tuple[int, ...]
    val: Inputs | None = None
    val_labels: Array | None = None
    groups: Labels | None = None
    times: Array | None = None
    encoder: Callable[[Inputs, Labels], tuple[Inputs, tuple[str, ...]]] | None = None
    collate: Callable[[list[Any]], Any] | None = None
    further: Mapping[str, Any] = field(default_factory=dict)
    listing: str | None = None
    notices: tuple[str, ...] = ()
    noun: str = "examples"
    names: tuple[str, ...] = ()
    padding: int | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        for part, inputs, targets in self.parts():
            if (inputs is None) != (targets is None):
                raise BadInput(f"data: give the {part} part with its labels, or neither")
            if inputs is not None and targets is not None:
                for name, array in arrays_in(inputs).items():
                    _check_array(part, name, array, len(targets), self.encoder is not None)
                if not arrays_in(inputs) and len(inputs) != len(targets):
                    raise BadInput(f"data: the {part} part has {len(inputs)} examples and {len(targets)} labels")

    def parts(self) -> Iterator[tuple[str, Inputs | None, Array | None]]:
        """Name, inputs and targets of each part."""
        yield "training", self.train, self.train_labels
        yield "test", self.test, self.test_labels
        yield "validation", self.val, self.val_labels

    def pooled(self) -> ExampleSet:
        """Training and test part as one set without a test part of its own."""
        if self.test is None or self.test_labels is None or not arrays_in(self.train):
            raise BadInput(NO_POOL)
        ours, theirs = arrays_in(self.train), arrays_in(self.test)
        both = {name: np.concatenate([ours[name], theirs[name]]) for name in ours}
        labels = np.concatenate([self.train_labels, self.test_labels])
        inputs = both if isinstance(self.train, Mapping) else both[""]
        return replace(self, train=inputs, train_labels=labels, test=None, test_labels=None)

    def content(self) -> str:
        """sha256 over shapes, numbers and targets; of a map-style data set its length (and see `sample_in`)."""
        digest = hashlib.sha256()
        for _, inputs, targets in self.parts():
            if inputs is None or targets is None:
                digest.update(b"none")
                continue
            for name, array in {**arrays_in(inputs), "targets": targets}.items():
                digest.update(str((name, array.shape, array.dtype.str)).encode())
                digest.update(np.ascontiguousarray(array).data)
        for column in (self.groups, self.times):
            digest.update(b"none" if column is None else np.ascontiguousarray(column).data)
        if self.padding is not None:  # what a tokenizer says beside its tokens
            digest.update(str(sorted(self.further.items())).encode())
        return digest.hexdigest()


def sample_in(dataset: ExampleSet) -> str | None:
    """What stands for the items of map-style data sets, and for what makes batches of them; None of arrays, or where an
    item is another at every look.

    Raises:
        BadInput: an item cannot be read.
    """
    parts = [inputs for _, inputs, _ in dataset.parts() if inputs is not None and not arrays_in(inputs)]
    try:
        found = [sample_of(inputs, dataset.collate) for inputs in parts]
    except BadItem as error:
        raise BadInput(f"data: {error}") from error
    known = [one for one in found if one is not None]
    return hashlib.sha256(" ".join(known).encode()).hexdigest() if known and len(known) == len(found) else None


def arrays_in(inputs: Inputs) -> dict[str, Array]:
    """The arrays of inputs by name; one alone has the name "", and a map-style data set has none."""
    if isinstance(inputs, np.ndarray):
        return {"": inputs}
    return dict(inputs) if isinstance(inputs, Mapping) else {}


def strata_of(labels: Array) -> Labels:
    """What a split keeps the shares of: classes; nothing where a target is no class."""
    classes = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
    return labels if classes else np.zeros(len(labels), dtype=np.int64)


def _check_array(part: str, name: str, array: Array, count: int, gaps: bool) -> None:
    called = f"the {part} part" + (f"'s {name!r}" if name else "")
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise BadInput(f"data: {called} is an array of {array.dtype}; give numbers")
    if len(array) != count:
        raise BadInput(f"data: {called} has {len(array)} examples and {count} labels")
    if array.dtype.kind == "f" and not gaps and (bad := first_bad(array)) is not None:
        raise BadInput(f"data: {called} is {array[bad]} in row {bad[0]}" + _column(bad) + "; fill it, or leave it out")


def first_bad(array: Array) -> tuple[int, ...] | None:
    """Where the first number is that is not finite."""
    for start in range(0, len(array), 4096):
        wrong = np.argwhere(~np.isfinite(array[start : start + 4096]))
        if len(wrong):
            return (start + int(wrong[0][0]), *(int(place) for place in wrong[0][1:]))
    return None


def _column(place: tuple[int, ...]) -> str:
    return f", column {', '.join(map(str, place[1:]))}" if len(place) > 1 else ""
