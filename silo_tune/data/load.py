"""A study's data, loaded into memory or opened as streams, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from silo_tune.data.duplicates import Repeated
from silo_tune.data.example_sets import ExampleSet, arrays_in, sample_in
from silo_tune.data.given import of_fields
from silo_tune.data.listed import Listed
from silo_tune.data.sets import AnySet, DataSet, StreamedSet, noun_of, of_dark, of_one_class, split_rows
from silo_tune.errors import FROM_OUTSIDE, BadInput, one_line, raised
from silo_tune.study import registry
from silo_tune.study.data import Data
from silo_tune.study.task import TaskSpec

T = TypeVar("T")
S = TypeVar("S", bound=AnySet)


def open_examples(data: Data, task: TaskSpec | None) -> AnySet:
    """The study's data as it asks for it: decoded into memory, or as streams, with the targets of its [task].

    Raises:
        BadInput: it is not there, or not in the shape that its name promises.
    """
    if not data.streamed:
        return _load(data, task)
    found = _found(data, task)
    if not isinstance(found, Listed):
        raise BadInput(f"data.stream: {data.name!r} at {data.place()!r} cannot be streamed; set data.stream = false")
    streamed = _reading(data, lambda: _measured(found.streamed(data.workers, data.pool), data))
    return _with_classes(streamed, task)


def open_data(data: Data) -> DataSet | StreamedSet:
    """`open_examples` of images with classes. Raises BadInput for any others."""
    found = open_examples(data, None)
    if isinstance(found, ExampleSet):
        raise BadInput(f"data: {data.title} gives no images")
    return found


def load_data(data: Data) -> DataSet:
    """Load and decode images into memory, even if the study asks for streams.

    Raises:
        BadInput: they are not there, or not in the shape that their name promises, or no images.
    """
    found = _load(data, None)
    if isinstance(found, ExampleSet):
        raise BadInput(f"data: {data.title} gives no images")
    return found


def _load(data: Data, task: TaskSpec | None) -> DataSet | ExampleSet:
    found = _of_user(data.function, data.args, task) if data.function is not None else _found(data, task)
    if isinstance(found, ExampleSet):
        found = replace(found, workers=data.workers)
    loaded = found if isinstance(found, DataSet | ExampleSet) else _reading(data, found.decoded)
    if data.val == "drawn" and loaded.val is not None:
        assert loaded.val_labels is not None
        there = f"a validation part of {len(loaded.val_labels):,} {noun_of(loaded)} that is not used"
        unused = f'{there}; data.val = "given" would take it'
        loaded = replace(loaded, val=None, val_labels=None, notices=(*loaded.notices, unused))
    return _with_classes(loaded.pooled() if data.pool else loaded, task)


def _with_classes(found: S, task: TaskSpec | None) -> S:
    """A set of images with as many classes as the task says; any other has them already."""
    if isinstance(found, ExampleSet) or task is None or task.classes is None:
        return found
    if found.classes > task.classes:
        raise BadInput(f"data: {found.classes} classes, and task.classes is {task.classes}")
    return replace(found, classes=task.classes)


def _found(data: Data, task: TaskSpec | None) -> DataSet | ExampleSet | Listed:
    assert data.name is not None
    entry = registry.DATA[data.name]
    make = registry.resolve(entry.target)
    return _reading(data, lambda: make(data) if entry.images else make(data, task))  # type: ignore[no-any-return]


def _reading(data: Data, read: Callable[[], T]) -> T:
    """What `read` gives. Raises BadInput for whatever reading a data set can raise."""
    try:
        return read()
    except BadInput:
        raise
    except MemoryError as error:
        raise BadInput(
            f"data set {data.name!r} does not fit into this machine's memory ({error}); it is held there decoded, as "
            f"one byte for each pixel and channel: take a larger machine, a smaller data.size, or data.stream where "
            f"the set can be streamed"
        ) from error
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise BadInput(
            f"data set {data.name!r} cannot be read from {data.place() or 'its default place'}: {error}"
        ) from error


def _measured(found: StreamedSet, data: Data) -> StreamedSet:
    """With the sums of all training images, when all of them train and say how they are normalised: each worker then
    need not read them first. The other parts are read too, so that an image that is broken is known before the
    training.

    Raises:
        BadInput: images cannot be used; they are named, of every part.
    """
    from silo_tune.data.loader import moments_of

    if data.train_examples is not None or data.mean is not None:
        return found
    moments, wrong = list[Any](), list[str]()
    for part in (found.train, found.test, found.val):
        if part is None:
            continue
        try:
            moments.append(moments_of(part, np.arange(len(part), dtype=np.int64)))
        except BadInput as error:
            wrong.append(str(error))
    if wrong:
        raise BadInput("\n".join(wrong))
    return replace(found, train=replace(found.train, moments=moments[0]))


def _of_user(function: str, args: Mapping[str, Any], task: TaskSpec | None) -> DataSet | ExampleSet:
    """What a user's function gives. Raises BadInput when it raises, saying where, or gives anything but a data set."""
    make = registry.resolve(function, "data.function")
    try:
        made = make(**args)
    except BadInput:
        raise
    except FROM_OUTSIDE:
        raise
    except BaseException as error:
        raise BadInput(f"data: {function} raised {raised(error)}") from error
    try:
        return made if isinstance(made, DataSet | ExampleSet) else of_fields(made, task)
    except BadInput as error:
        raise BadInput(f"data: {function}: {error}") from None
    except (TypeError, AttributeError, ValueError, KeyError) as error:
        raise BadInput(
            f"data: {function} must give a DataSet, or its fields in order (train, train_labels, test, test_labels, "
            f"classes, and if there is one val, val_labels), or a mapping with these names, as numpy.load of an .npz "
            f"file gives it; it gave {type(made).__name__}: {one_line(error)}"
        ) from error


def facts(dataset: AnySet, data: Data) -> dict[str, Any]:
    """What RUN/data.json records."""
    split, content = split_rows(dataset, data, seed=0), dataset.content()
    sample = sample_in(dataset) if isinstance(dataset, ExampleSet) else None
    one_by_one = isinstance(dataset, ExampleSet) and not arrays_in(dataset.train)
    repeated = None if isinstance(dataset, StreamedSet) or one_by_one else Repeated.of(dataset, split, content)
    # Rows of few categories are often alike, and rightly: they are told, and refused nowhere.
    if repeated is not None and data.duplicates == "refuse" and noun_of(dataset) != "rows":
        repeated.require_few(noun_of(dataset))
    twice = () if repeated is None else repeated.sentences(noun_of(dataset))
    return {
        "content": content,
        **({} if sample is None else {"sample": sample}),
        "notices": [*dataset.notices, *of_one_class(dataset, split), *of_dark(dataset), *twice],
        **({} if noun_of(dataset) == "images" else {"noun": noun_of(dataset)}),
        "streamed": isinstance(dataset, StreamedSet),
        "listing": dataset.listing,
        "classes": dataset.classes,
        "shape": list(dataset.shape),
        "n_train": len(split.train),
        "n_val": len(split.val),
        "n_test": len(split.test),
    }
