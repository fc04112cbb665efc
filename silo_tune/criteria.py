"""Scores of prunable parameters: the lowest go first. A criterion is a few lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Scoring:
    """What a criterion may look at.

    Attributes:
        weights: prunable parameters by name, as they are before the prune.
        masks: the masks in force (True = alive), same names and shapes.
        model: the network that the weights belong to.
        generator: the random stream of this prune.
    """

    weights: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    model: nn.Module
    generator: torch.Generator


Criterion = Callable[[Scoring], dict[str, Tensor]]


def magnitude(scoring: Scoring) -> dict[str, Tensor]:
    """|w|."""
    return {name: weight.detach().abs() for name, weight in scoring.weights.items()}


def random(scoring: Scoring) -> dict[str, Tensor]:
    """Uniform in [0, 1), from the replicate's stream."""
    return {name: torch.rand(weight.shape, generator=scoring.generator) for name, weight in scoring.weights.items()}
