"""Tasks with a target for each example: classes, yes or no, several labels, numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from silo_tune.errors import BadInput
from silo_tune.study.scores import Score
from silo_tune.study.task import USUAL, TaskSpec
from silo_tune.tasks.measures import DERIVED, SINGLE, known, whole
from silo_tune.tasks.objectives import (
    Objective,
    classes_objective,
    number_objective,
    tokens_objective,
    yes_no_objective,
)
from silo_tune.tasks.outputs import call, logits_of
from silo_tune.tasks.seam import Evaluation, Guess, Losses

# A guess is scored on so many targets of a training part, times what the network gives of each: more say no more of it.
MOST_GUESSED = 20_000_000

_ADVICE = {
    "classification": "one number for each class",
    "binary": "one number for each example, the logit of yes",
    "multilabel": "one number for each label, its logit",
    "regression": "one number for each target",
    "language-model": "one number for each token that may come next",
}


@dataclass(frozen=True)
class Supervised:
    """A task whose batches are pairs of inputs and targets.

    Attributes:
        kind: its name.
        objective: what is minimised.
        score: what decides.
        further: scores that are reported beside it.
        outputs: numbers that the network gives of each example; None looks at none of them.
        guess: the best constant prediction.
        mean, scale: of the targets of a regression over the training part: the network gives (target − mean) / scale.
    """

    kind: str
    objective: Objective
    score: Score
    further: tuple[str, ...] = ()
    outputs: int | None = None
    guess: Guess | None = None
    mean: Tensor | None = field(default=None, repr=False)
    scale: Tensor | None = field(default=None, repr=False)

    def forward(self, model: nn.Module, batch: Any) -> Any:
        return call(model, batch[0])

    def losses(self, model: nn.Module, batch: Any) -> Losses:
        loss = self.loss_of(self.forward(model, batch), batch[1])
        return Losses(loss, loss)

    def loss_of(self, output: Any, targets: Tensor) -> Tensor:
        """Mean loss of what a network gave for a batch."""
        return self.objective.loss(self.fitted(output, targets), self.scaled(targets), "mean")

    def summed(self, model: nn.Module, batch: Any) -> Tensor:
        targets = batch[1]
        total = self.objective.loss(self.fitted(self.forward(model, batch), targets), self.scaled(targets), "sum")
        size = self.objective.size(targets)
        return total if size == len(targets) else total * (len(targets) / size)

    def size(self, batch: Any) -> float:
        return self.objective.size(batch[1])

    def fitted(self, output: Any, targets: Tensor) -> Tensor:
        """The outputs as numbers in the shape that the task has. Raises BadInput when they do not fit."""
        found = logits_of(output)
        wanted: tuple[int | None, ...] = tuple(targets.shape)
        if self.kind in ("classification", "language-model"):
            wanted = (*wanted, self.outputs)
        if not isinstance(found, Tensor):
            raise BadInput(self._unfit(f"a {type(found).__name__}", wanted))
        if targets.ndim == 1 and self.kind != "classification" and found.shape == (len(targets), 1):
            found = found.squeeze(1)
        if self.outputs is not None and tuple(found.shape) != wanted:
            raise BadInput(self._unfit(str(tuple(found.shape)), wanted))
        return found.float()

    def _unfit(self, given: str, wanted: tuple[int | None, ...]) -> str:
        advice = f"it must give a tensor {_shape(wanted)}, {_ADVICE[self.kind]}, or an output that has such `logits`"
        return f"model: gives {given} for a batch of {wanted[0]} examples; {advice}"

    def scaled(self, targets: Tensor) -> Tensor:
        """Targets as the objective sees them."""
        return targets if self.mean is None or self.scale is None else ((targets - self.mean) / self.scale).float()

    def in_units(self, outputs: Tensor) -> Tensor:
        """Outputs in the unit of the targets; those of classes and labels stay logits."""
        if self.mean is None or self.scale is None:
            return outputs
        return outputs.double() * self.scale + self.mean

    # --- judging ---

    def evaluate(self, model: nn.Module, batches: Iterable[Any], count: int) -> Evaluation:
        seen = _Seen(self, count)
        for batch in batches:
            seen.add(self.fitted(self.forward(model, batch), batch[1]), batch[1])
        return seen.evaluation()

    def require_classes(self, part: str, targets: Tensor) -> None:
        """Raises BadInput where a score ranks examples of each class, and a part lacks one."""
        ranked = [name for name in (self.score.name, *self.further) if name in ("auroc", "average-precision")]
        if not ranked or self.kind == "regression":
            return
        classes = self.outputs or 1
        columns = F.one_hot(targets, max(2, classes)) if targets.ndim == 1 else torch.stack([targets, 1 - targets], 2)
        if not bool((columns.flatten(1).sum(0) > 0).all()):
            raise BadInput(
                f"task.score: {ranked[0]} needs an example of each class, and the {part} part ({len(targets)}) lacks "
                f"one; enlarge data.val_share or data.test_share, or take another score"
            )

    def fit(self, targets: Tensor) -> Supervised:
        """The task on a training part with these targets: scale and guess are its own."""
        task = self
        if self.kind == "regression":
            double = targets.double()
            mean, scale = double.mean(0), double.std(0, correction=0)
            task = replace(self, mean=mean, scale=scale)
        return replace(task, guess=task.guessed(targets))

    def guessed(self, targets: Tensor) -> Guess:
        """Score and loss of the best constant prediction of these targets."""
        best = self.objective.constant(self.scaled(targets)).to(targets.device)
        most = max(1, MOST_GUESSED // max(1, best.numel()))
        targets = targets[:: -(-len(targets) // most)]
        seen = _Seen(self, len(targets))
        seen.add(best.expand(len(targets), *best.shape), targets)
        found = seen.evaluation()
        blank = self.objective.loss(
            torch.zeros_like(best).expand(len(targets), *best.shape), self.scaled(targets), "sum"
        )
        return Guess(found.score, found.loss, found.also, float(blank) / self.objective.size(targets))


class _Seen:
    """What an evaluation has seen so far."""

    def __init__(self, task: Supervised, count: int) -> None:
        self.task, self.count, self.done = task, count, 0
        self.losses: list[Tensor] = []  # of batches; nothing is read from the device before the end
        self.size = 0.0
        single = SINGLE[task.kind]
        self.names = (task.score.name, *task.further)
        needed = (DERIVED[name][0] if name in DERIVED else name for name in self.names)
        self.single: dict[str, list[Tensor]] = {name: [] for name in needed if name in single}
        self.collects = any(name not in single and name not in DERIVED for name in self.names)
        self.outputs: list[Tensor] = []
        self.targets: list[Tensor] = []

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        task = self.task
        self.losses.append(task.objective.loss(outputs, task.scaled(targets), "sum"))
        self.size += task.objective.size(targets)
        judged = task.in_units(outputs)
        for name, kept in self.single.items():
            kept.append(SINGLE[task.kind][name](judged, targets))
        if self.collects:
            self.outputs.append(judged.cpu())
            self.targets.append(targets.cpu())
        self.done += len(targets)

    def evaluation(self) -> Evaluation:
        self.known = {name: self._whole(kept) for name, kept in self.single.items()}
        scores = {name: self._score(name) for name in self.names}
        examples = self.known.get(self.task.score.name)
        loss = 0.0
        for told in torch.stack(self.losses).tolist():  # not by `sum`, which newer Pythons round otherwise
            loss += told
        left_out = self.size / self.done * (self.count - self.done)
        also = {name: scores[name] for name in self.task.further}
        return Evaluation(scores[self.task.score.name], loss / (self.size + left_out), examples, also)

    def _whole(self, kept: Sequence[Tensor]) -> Any:
        """Scores of all examples; of those that no batch held, 0."""
        values = torch.cat(list(kept)).cpu().numpy()
        return np.concatenate([values, np.zeros(self.count - self.done, dtype=values.dtype)])

    def _score(self, name: str) -> float:
        if name in DERIVED:
            of, function = DERIVED[name]
            return function(self._score(of))
        values = self.known.get(name)
        if values is not None:
            total = int(values.sum()) if values.dtype == bool else float(values.sum(dtype=np.float64))
            return total / self.count
        return known(name, whole(self.task.kind, name, torch.cat(self.outputs), torch.cat(self.targets)))


def _shape(wanted: tuple[int | None, ...]) -> str:
    return f"({', '.join(map(str, wanted))}{',' if len(wanted) == 1 else ''})"


def supervised(spec: TaskSpec, outputs: int | None) -> Supervised:
    """A named task of a [task], not yet fitted to a training part."""
    kind, loss = str(spec.name), spec.minimised
    objectives: dict[str, Callable[[], Objective]] = {
        "classification": lambda: classes_objective(loss, outputs),
        "language-model": lambda: tokens_objective(loss, outputs),
        "regression": lambda: number_objective(loss),
    }
    objective = objectives.get(kind, lambda: yes_no_objective(loss))()
    return Supervised(kind, objective, spec.scored, spec.also, outputs)


def classification(classes: int | None = None) -> Supervised:
    """Classification by accuracy, whose guess is that of balanced classes."""
    task = supervised(USUAL, classes)
    return task if classes is None else replace(task, guess=Guess(1 / classes, math.log(classes)))
