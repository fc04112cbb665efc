"""A user's own task: a class with `loss(model, batch)` and `evaluate(model, batches)`, and its mistakes as theirs."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from silo_tune.errors import FROM_OUTSIDE, BadInput, SiloTuneError, raised, shown
from silo_tune.study import registry
from silo_tune.study.scores import Score
from silo_tune.study.task import TaskSpec
from silo_tune.tasks.outputs import examples_in
from silo_tune.tasks.seam import Evaluation, Guess, Losses

_GIVES = (
    "evaluate must give a mapping with the score by its name and the loss, as {told}, and if it has them examples, one "
    "number for each example in the order of the batches"
)


@dataclass(frozen=True)
class OwnTask:
    """A user's task as the engine sees it.

    Attributes:
        name: as the study writes it.
        task: an instance of the user's class.
        score: what decides.
        further: scores that are reported beside it.
        untrained: what an untrained network is worth, where the class does not say its guess.
    """

    name: str
    task: Any
    score: Score
    further: tuple[str, ...] = ()
    untrained: Guess | None = None

    def taught(self, teacher: nn.Module) -> OwnTask:
        """The task of a cycle ≥ 1: its class is given the dense network, in evaluation mode and without gradients."""
        task = copy.copy(self.task)
        with self._theirs("begin"):
            task.begin(teacher.eval().requires_grad_(False))
        return replace(self, task=task)

    @property
    def guess(self) -> Guess | None:
        """What the class says in `guess`, a pair of score and loss; else what an untrained network is worth."""
        found = getattr(self.task, "guess", None)
        return self.untrained if found is None else Guess(float(found[0]), float(found[1]))

    def beside(self, untrained: Evaluation) -> OwnTask:
        """The task with the guess of an untrained network; a loss that is not finite says nothing."""
        loss = untrained.loss if math.isfinite(untrained.loss) else math.inf
        return replace(self, untrained=Guess(untrained.score, loss, untrained.also))

    def forward(self, model: nn.Module, batch: Any) -> Any:
        return self._loss(model, batch)

    def losses(self, model: nn.Module, batch: Any) -> Losses:
        loss = self._loss(model, batch)
        return Losses(loss, loss)

    def summed(self, model: nn.Module, batch: Any) -> Tensor:
        return self._loss(model, batch) * examples_in(batch)

    def size(self, batch: Any) -> float:
        return examples_in(batch)

    def evaluate(self, model: nn.Module, batches: Iterable[Any], count: int) -> Evaluation:
        with self._theirs("evaluate"):
            found = self.task.evaluate(model, batches)
        told = {"loss": 0.7, self.score.name: 0.9, **dict.fromkeys(self.further, 0.5)}
        if not isinstance(found, Mapping) or not set(told) <= set(found):
            given = f"the keys {', '.join(map(repr, found))}" if isinstance(found, Mapping) else type(found).__name__
            raise BadInput(f"task: {self.name}.{_GIVES.format(told=told)}; it gave {given}")
        numbers = {name: self._number(name, found[name]) for name in told}
        score, examples = numbers[self.score.name], found.get("examples")
        if math.isfinite(score) and not self.score.low - 1e-9 <= score <= self.score.high + 1e-9:
            raise BadInput(
                f"task: {self.name}.evaluate gave {self.score.name} = {score:g}, which lies in [{self.score.low:g}, "
                f"{self.score.high:g}]"
            )
        kept = None if examples is None else self._examples(examples, count)
        return Evaluation(score, numbers["loss"], kept, {name: numbers[name] for name in self.further})

    def _loss(self, model: nn.Module, batch: Any) -> Tensor:
        with self._theirs("loss"):
            loss = self.task.loss(model, batch)
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            given = f"a tensor {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise BadInput(f"task: {self.name}.loss must give one number, a tensor without dimensions; it gave {given}")
        if torch.is_grad_enabled() and not loss.requires_grad:
            raise BadInput(f"task: what {self.name}.loss gives does not depend on the network's weights")
        return loss

    def _number(self, name: str, value: Any) -> float:
        try:
            return float(value)
        except (TypeError, ValueError):
            raise BadInput(f"task: {self.name}.evaluate gave {name} = {shown(value)}, which is no number") from None

    def _examples(self, values: Any, count: int) -> Any:
        found = np.asarray(values.cpu() if isinstance(values, Tensor) else values)
        if found.shape != (count,):
            raise BadInput(f"task: {self.name}.evaluate gave examples of shape {found.shape}; the part has {count}")
        return found if found.dtype == bool else found.astype(np.float32)

    @contextmanager
    def _theirs(self, method: str) -> Iterator[None]:
        """Whatever their method raises is told as theirs, with its place; want of memory stays what it is."""
        try:
            yield
        except (SiloTuneError, MemoryError, torch.OutOfMemoryError, *FROM_OUTSIDE):
            raise
        except BaseException as error:
            raise BadInput(f"task: {self.name}.{method} raised {raised(error)}") from error


def own(spec: TaskSpec) -> OwnTask:
    """The user's class of a [task], made with its arguments.

    Raises:
        BadInput: it cannot be imported or made, or lacks a method.
    """
    name = str(spec.function)
    make = registry.resolve(name, "task.function")
    try:
        made = make(**copy.deepcopy(spec.args))
    except FROM_OUTSIDE:
        raise
    except BaseException as error:
        raise BadInput(f"task: {name} raised {raised(error)}") from error
    needed = ("loss", "evaluate") if spec.teacher is None else ("loss", "evaluate", "begin")
    missing = [method for method in needed if not callable(getattr(made, method, None))]
    if missing:
        raise BadInput(
            f"task: {name} has no {' and no '.join(missing)}; a task is a class with loss(model, batch) and "
            f"evaluate(model, batches)" + (", and with a teacher begin(teacher)" if spec.teacher else "")
        )
    task = OwnTask(name.partition(":")[2], made, spec.scored, spec.also)
    if spec.teacher is not None:
        with task._theirs("begin"):
            made.begin(None)
    return task
