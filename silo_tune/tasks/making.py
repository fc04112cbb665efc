"""A task from a study's [task], and on the training part of a replicate."""

from __future__ import annotations

from torch import Tensor

from silo_tune.errors import BadInput
from silo_tune.study.task import TaskSpec
from silo_tune.tasks.own import own
from silo_tune.tasks.seam import Task
from silo_tune.tasks.supervised import Supervised, classification, supervised


def make_task(spec: TaskSpec | None, outputs: int, targets: Tensor | None) -> Task:
    """The task of one replicate.

    Args:
        spec: the study's [task]; without one it is classification by accuracy.
        outputs: numbers that the network gives of an example: classes, labels or targets.
        targets: of the training part. Without them a guess is that of balanced classes.

    Raises:
        BadInput: a user's class cannot be made, or the data has no targets that the task needs.
    """
    if spec is not None and spec.function is not None:
        return own(spec)
    task: Supervised = classification(outputs) if spec is None else supervised(spec, outputs)
    if targets is not None:
        return task.fit(targets)
    if task.guess is None:
        raise BadInput(f"task: {task.kind} needs a target for each example, and the data gives none")
    return task


def outputs_of(spec: TaskSpec | None, classes: int) -> int:
    """Numbers that a network gives of an example. Raises BadInput for yes or no of more than two classes."""
    if spec is None or spec.name != "binary":
        return classes
    if classes > 2:
        raise BadInput(f"task: a binary task has two classes, and the data has {classes}")
    return 1
