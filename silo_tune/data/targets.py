"""Targets as a task takes them: classes numbered, yes and no as 1 and 0, numbers as float32; what is wrong is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silo_tune.errors import BadInput
from silo_tune.formats import plural
from silo_tune.study.task import TaskSpec

Array = NDArray[Any]
# More classes than these in a share of all examples, and a target is more likely a number than a class.
MANY_CLASSES = 1000
# More classes than these, each of fewer than two examples in the mean, are no classes (ours).
SINGLES = 20


@dataclass(frozen=True)
class Targets:
    """Targets of the parts that were given, in order.

    Attributes:
        parts: as `ExampleSet` has them.
        outputs: numbers that a network gives of an example.
        notices: what was found out, in sentences.
        names: of classes, in the order of their numbers.
    """

    parts: tuple[Array, ...]
    outputs: int
    notices: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


def targets_of(
    spec: TaskSpec | None, parts: Sequence[Any], classes: int | None = None, named: str = "labels"
) -> Targets:
    """The targets of a task.

    Args:
        spec: the study's [task]; a user's own takes them as they are.
        parts: targets of each part: numbers, or texts.
        classes: number of classes, where the data says it; of the task, it may have classes that no example has.
        named: what a message calls them.

    Raises:
        BadInput: values are missing, of another kind, all one, or out of range.
    """
    task, more = ("classification", None) if spec is None else (spec.name, spec.classes)
    given = [np.asarray(part) for part in parts]
    if not given[0].size:
        raise BadInput(f"data: {named}: no value; there is no example to train on")
    for array in given:
        _require_known(array, named)
    if task == "regression":
        found = tuple(_numbers(array, named) for array in given)
        if all(bool((array == given[0][0]).all()) for array in given):
            raise BadInput(f"data: {named}: one value, {given[0][0]}; there is nothing to learn")
        return Targets(found, _columns(found[0], named))
    if task == "multilabel":
        found = tuple(_yes_no(array, named) for array in given)
        return Targets(found, found[0].shape[1])
    if task == "language-model":
        return _tokens(given, more or classes, named)
    if task is None and given[0].dtype.kind == "f":
        outputs = classes or (1 if given[0].ndim == 1 else int(given[0].shape[1]))
        return Targets(tuple(array.astype(np.float32) for array in given), outputs)
    if task is None and given[0].dtype.kind in "biu":
        most = max(int(array.max(initial=0)) for array in given) + 1
        return Targets(tuple(array.astype(np.int64) for array in given), classes or most)
    return _classes(task, given, classes, named, more)


def _tokens(given: Sequence[Array], tokens: int | None, named: str) -> Targets:
    """Of each place of a sequence, the token that comes next."""
    if any(array.ndim != 2 or array.dtype.kind not in "iu" for array in given):
        raise BadInput(
            f"data: {named}: a language-model takes tokens (N, length), of each place the one that comes next; "
            f'data.name = "tokens" makes them of a text'
        )
    least, most = min(int(array.min(initial=0)) for array in given), max(int(array.max(initial=0)) for array in given)
    if least < 0 or (tokens is not None and most >= tokens):
        raise BadInput(f"data: {named}: from {least} to {most}; tokens are from 0 to {(tokens or most + 1) - 1}")
    return Targets(tuple(array.astype(np.int64) for array in given), tokens or most + 1)


def _classes(
    task: str | None, given: Sequence[Array], classes: int | None, named: str, more: int | None = None
) -> Targets:
    for array in given:
        if array.ndim != 1:
            raise BadInput(f"data: {named}: of shape {array.shape}; give one for each example (N,)")
        if array.dtype.kind == "f" and bool((array != np.rint(array)).any()):
            row = int(np.flatnonzero(array != np.rint(array))[0])
            raise BadInput(f'data: {named}: numbers, such as {array[row]} in row {row}; set task = "regression"')
    known = np.unique(np.concatenate([np.unique(array) for array in given]))
    if len(known) < 2:
        raise BadInput(f"data: {named}: one value, {known[0].item()!r}; there is nothing to learn")
    if task == "binary" and len(known) != 2:
        shown = ", ".join(map(str, known[:5]))
        raise BadInput(f"data: {named}: {len(known)} values ({shown}, …); a binary task has two")
    whole = known.dtype.kind in "iuf"
    if whole and len(known) > MANY_CLASSES and task is not None:
        raise BadInput(f'data: {named}: {len(known):,} values; for numbers set task = "regression"')
    examples = sum(map(len, given))
    if more is None and len(known) > max(SINGLES, examples / 2) and task is not None:
        raise BadInput(
            f"data: {named}: {len(known):,} different values in {examples:,} examples; classes have several examples "
            f"each: name another target"
        )
    classes = more or classes
    if classes is not None and whole:
        if not 0 <= known[0] <= known[-1] < classes:
            raise BadInput(f"data: {named}: from {known[0]} to {known[-1]}, and there are {classes} classes")
        known = np.arange(classes)
    found = tuple(np.searchsorted(known, array).astype(np.int64) for array in given)
    notices = []
    if task == "binary":
        notices.append(f"yes is {str(known[1])!r}, no is {str(known[0])!r}")
    missing = [str(name) for number, name in enumerate(known) if not (found[0] == number).any()]
    if more is not None:
        if len(known) > more:
            raise BadInput(f"data: {named}: {len(known)} classes, and task.classes is {more}")
        if unseen := more - len(known) + len(missing):
            notices.append(f"{plural(unseen, 'class')} of {more} without a training example")
    elif missing:
        raise BadInput(f"data: {plural(len(missing), 'class')} without a training example: {', '.join(missing[:5])}")
    return Targets(found, 1 if task == "binary" else more or len(known), tuple(notices), tuple(map(str, known)))


def _require_known(array: Array, named: str) -> None:
    if not array.size:
        return
    if array.dtype.kind == "f":
        wrong = ~np.isfinite(array)
    elif array.dtype == object:
        wrong = np.array([value is None or value != value for value in array.ravel()]).reshape(array.shape)
    else:
        return
    if wrong.any():
        row, count = int(np.argwhere(wrong)[0][0]), int(wrong.sum())
        what = "not finite" if array.dtype.kind == "f" and not np.isnan(array[wrong]).any() else "missing"
        raise BadInput(f"data: {named}: {plural(count, 'value')} {what}, the first in row {row}; leave such rows out")


def _numbers(array: Array, named: str) -> Array:
    if array.dtype.kind not in "biuf":
        raise BadInput(f"data: {named}: texts, such as {str(array.ravel()[0])!r}; a regression needs numbers")
    return array.astype(np.float32)


def _yes_no(array: Array, named: str) -> Array:
    if array.ndim != 2 or array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise BadInput(f"data: {named}: several labels are 0 or 1 for each example and label (N, labels)")
    return array.astype(np.int64)


def _columns(array: Array, named: str) -> int:
    if array.ndim > 2:
        raise BadInput(f"data: {named}: of shape {array.shape}; give (N,) or (N, numbers)")
    return 1 if array.ndim == 1 else int(array.shape[1])
