"""Sets that are given as arrays: by a file, or by a user's function, which may also give a data set of torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from silo_tune.data.example_sets import Array, ExampleSet, Inputs, arrays_in
from silo_tune.data.sets import DataSet
from silo_tune.data.targets import targets_of
from silo_tune.errors import BadInput
from silo_tune.study.data import Data
from silo_tune.study.task import TaskSpec

PARTS = ("train", "val", "test")
_NAMES = {*PARTS, *(f"{part}_labels" for part in PARTS), "classes", "groups", "times", "collate"}
_ORDER = ("train", "train_labels", "test", "test_labels", "classes", "val", "val_labels")


def arrays(data: Data, task: TaskSpec | None) -> DataSet | ExampleSet:
    """The set of an .npz or a safetensors file.

    Raises:
        BadInput: it is neither, or lacks an array.
    """
    place = Path(data.place() or "")
    if place.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return of_fields(load_file(place), task)
    if place.suffix != ".npz":
        raise BadInput(f"data.path: {place.name!r} is no .npz and no .safetensors file")
    with np.load(place, allow_pickle=False) as found:
        return of_fields({name: found[name] for name in found.files}, task)


def of_fields(made: Any, task: TaskSpec | None) -> DataSet | ExampleSet:
    """A set from its fields: in order, or by their names. Images as bytes with classes become a set of images.

    Raises:
        BadInput: a field is not what it must be.
        TypeError, ValueError, KeyError: there are other fields.
    """
    fields = dict(made) if isinstance(made, Mapping) else dict(zip(_ORDER, made, strict=False))
    if not isinstance(made, Mapping) and len(made) not in (5, 7):
        raise TypeError(f"{len(made)} fields")
    fields = _joined({name: _array(value) for name, value in fields.items()})
    if any(isinstance(value, list) for value in fields.values()):
        raise TypeError("'list' object has no attribute 'dtype'; give arrays or tensors")
    if strange := sorted(set(fields) - _NAMES):
        raise TypeError(f"unknown {', '.join(map(repr, strange))}")
    train, classes = fields["train"], fields.get("classes")
    fields["classes"] = None if classes is None else int(classes)
    kinds = {name: value for name, value in fields.items() if name in PARTS and value is not None}
    _check_types(kinds)
    classified = task is None or task.name in ("classification", "binary")
    if classified and all(isinstance(v, np.ndarray) and v.dtype == np.uint8 and v.ndim == 4 for v in kinds.values()):
        images = {name: fields.get(name) for name in _ORDER if name != "classes"}
        if classes is None:
            raise TypeError("images need their number of classes")
        return DataSet(**images, classes=fields["classes"])  # type: ignore[arg-type]
    return _examples(train, fields, task)


def _check_types(parts: Mapping[str, Any]) -> None:
    """Raises BadInput where parts are numbers of different kinds: bytes from 0 to 255, say, beside floats from 0 to 1.

    Floats of any precision go together, and so do signed integers: they are made alike.
    """
    train = arrays_in(parts["train"])
    for part, inputs in parts.items():
        for name, array in arrays_in(inputs).items():
            first = train.get(name, array)
            alike = first.dtype == array.dtype or (first.dtype.kind == array.dtype.kind and first.dtype.kind in "fi")
            if not alike:
                of = f" of {name!r}" if name else ""
                raise BadInput(
                    f"data: the train part{of} is {first.dtype} and the {part} part is {array.dtype}: their numbers "
                    f"may not mean the same; give all parts as one type"
                )


def _examples(train: Any, fields: Mapping[str, Any], task: TaskSpec | None) -> ExampleSet:
    name = "classification" if task is None else task.name
    targets = {part: _targets(fields, part, name) for part in PARTS if fields.get(part) is not None}
    found = targets_of(task, list(targets.values()), fields["classes"])
    known = dict(zip(targets, found.parts, strict=True))
    outputs = fields["classes"] if name is None and fields["classes"] is not None else found.outputs
    inputs = {part: _inputs(fields.get(part)) for part in PARTS}
    optional = {key: fields[key] for key in ("groups", "times", "collate") if fields.get(key) is not None}
    if "groups" in optional:
        optional["groups"] = np.unique(optional["groups"], return_inverse=True)[1].astype(np.int64)
    return ExampleSet(
        train=inputs["train"],
        train_labels=known["train"],
        test=inputs["test"],
        test_labels=known.get("test"),
        val=inputs["val"],
        val_labels=known.get("val"),
        classes=outputs,
        shape=_shape(train),
        notices=found.notices,
        **optional,
    )


def _targets(fields: Mapping[str, Any], part: str, task: str | None) -> Array:
    """The targets of a part: as given, as a data set tells them, or from its items; none for an own task."""
    given = fields.get(f"{part}_labels")
    if given is not None:
        return np.asarray(given)
    source = fields[part]
    if arrays_in(source):
        raise BadInput(f"data: the {part} part has no labels; give {part}_labels")
    for name in ("targets", "labels"):
        if (told := getattr(source, name, None)) is not None and len(told) == len(source):
            return np.asarray(_array(told))
    if task is None:
        return np.zeros(len(source), dtype=np.int64)
    return np.stack([_target(source[row], part, fields.get("collate") is None) for row in range(len(source))])


def _target(item: Any, part: str, pair: bool) -> Array:
    """Of an item of a data set; of a pair, or behind its inputs where a function of the user's makes batches."""
    if not isinstance(item, list | tuple) or len(item) < 2 or (pair and len(item) > 2):
        what = f"{len(item)} values" if isinstance(item, list | tuple) else type(item).__name__
        raise BadInput(
            f"data: an item of the {part} part is {what}; give (inputs, target), several inputs by name: "
            '({"left": …, "right": …}, target)'
        )
    return np.asarray(_array(item[1]))


def _inputs(source: Any) -> Inputs | None:
    """Arrays as a network is given them: single precision for numbers, images (N, H, W, C) as bytes with channels
    first and in [0, 1]."""
    if isinstance(source, np.ndarray):
        if source.dtype == np.uint8 and source.ndim == 4:
            return np.ascontiguousarray(source.transpose(0, 3, 1, 2)).astype(np.float32) / 255
        if source.dtype.kind in "bu" or source.dtype == np.int32:
            return source.astype(np.float32 if source.dtype.kind in "bu" else np.int64)
        return source.astype(np.float32) if source.dtype.kind == "f" else source
    return {name: _inputs(array) for name, array in source.items()} if isinstance(source, Mapping) else source


def _shape(train: Any) -> tuple[int, ...]:
    """Of an example, as a network is built with it: (H, W, C) of what has three dimensions."""
    if isinstance(train, np.ndarray):
        shape = tuple(int(side) for side in train.shape[1:])
        return (shape[1], shape[2], shape[0]) if len(shape) == 3 and train.dtype != np.uint8 else shape
    if isinstance(train, Mapping):
        return ()
    first = train[0]
    inputs = _array(first[0]) if isinstance(first, list | tuple) else None
    return _shape(inputs[None]) if isinstance(inputs, np.ndarray) else ()


def _joined(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`train.NAME` and its like are arrays of one part by name."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        part, dot, inner = name.partition(".")
        if dot and part in PARTS:
            found.setdefault(part, {})[inner] = value
        else:
            found[name] = value
    return found


def _array(value: Any) -> Any:
    """A tensor as an array; those inside a mapping too."""
    if isinstance(value, Mapping):
        return {name: _array(one) for name, one in value.items()}
    return value.detach().cpu().numpy() if hasattr(value, "detach") and hasattr(value, "numpy") else value
