"""The seam between the engine and what a network is trained for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from silo_tune.study.scores import Score

Examples = npt.NDArray[np.bool_] | npt.NDArray[np.float32]


class Losses(NamedTuple):
    """Two scalars of a batch: what is minimised, and what is told as the training loss. They differ in distillation."""

    objective: Tensor
    told: Tensor


@dataclass(frozen=True)
class Evaluation:
    """A network on a part.

    Attributes:
        score: of the task.
        loss: mean over the examples.
        examples: (n,) the scores of single examples, where the score is their mean; else None.
        also: further scores by name.
    """

    score: float
    loss: float
    examples: Examples | None = None
    also: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Guess:
    """Of the best constant prediction: its score, and its loss. A task that cannot say has an infinite loss.

    Attributes:
        score, loss: of it.
        also: further scores by name.
        blank: loss of outputs that are all zero, about what an untrained network gives: ln 2 of yes or no, ln(classes)
            of classes. The guess knows the shares of rare classes, which a network has to learn first, so its loss may
            be a small part of that.
    """

    score: float
    loss: float = math.inf
    also: Mapping[str, float] = field(default_factory=dict)
    blank: float = 0.0

    @property
    def highest(self) -> float:
        """The loss of one that knows nothing: what a training is held to."""
        return max(self.loss, self.blank)


class Task(Protocol):
    """What a network is trained for and judged by, on the data of one replicate."""

    @property
    def score(self) -> Score:
        """What decides."""
        ...

    @property
    def guess(self) -> Guess | None:
        """What no network should be worse than; None where only an untrained network can say."""
        ...

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """Run the network on a batch as the task does."""
        ...

    def losses(self, model: nn.Module, batch: Any) -> Losses:
        """Mean over the examples of a batch. Raises BadInput when the network does not fit the task."""
        ...

    def summed(self, model: nn.Module, batch: Any) -> Tensor:
        """The told loss, summed over the examples of a batch."""
        ...

    def size(self, batch: Any) -> float:
        """What its mean loss was divided by: of the means of several batches, these are the weights of their mean."""
        ...

    def evaluate(self, model: nn.Module, batches: Iterable[Any], count: int) -> Evaluation:
        """Judge the network on a part of `count` examples; those that no batch holds count as wrong."""
        ...
