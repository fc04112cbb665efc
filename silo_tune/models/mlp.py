"""A multi-layer perceptron for tables: numbers, and embeddings of categories."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from silo_tune.errors import BadInput
from silo_tune.models.arguments import whole


class MLP(nn.Module):
    """Hidden layers of ReLU units with dropout; what codes of categories stand for is learnt beside.

    Args:
        inputs: numbers of an example.
        outputs: what the last layer gives.
        widths: units of the hidden layers.
        dropout: share of a hidden layer that training leaves out.
        sizes: numbers of different codes of each category.
        dimension: numbers that a code stands for; 0 takes 1.6 · size^0.56, at most 50, as in fastai.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        widths: Sequence[int],
        dropout: float,
        sizes: Sequence[int],
        dimension: int,
    ) -> None:
        super().__init__()
        wide = [dimension or min(50, round(1.6 * size**0.56)) for size in sizes]
        self.embeddings = nn.ModuleList(nn.Embedding(size, width) for size, width in zip(sizes, wide, strict=True))
        layers: list[nn.Module] = []
        before = inputs + sum(wide)
        for width in widths:
            layers += [nn.Linear(before, width), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
            before = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(before, outputs)

    def forward(self, numeric: Tensor, categories: Tensor | None = None) -> Tensor:
        parts = [numeric.flatten(1)]
        if categories is not None:
            parts += [embed(categories[:, place]) for place, embed in enumerate(self.embeddings)]
        logits: Tensor = self.head(self.body(torch.cat(parts, 1) if len(parts) > 1 else parts[0]))
        return logits


def mlp(
    shape: tuple[int, ...],
    classes: int,
    widths: Sequence[int] = (256, 128),
    dropout: float = 0.0,
    embedding: int = 0,
    categories: Sequence[int] = (),
) -> nn.Module:
    """Raises BadInput for widths that are no counts and a dropout outside 0 … 1."""
    if not isinstance(widths, list | tuple):
        raise BadInput(f"model.widths: give a list of units, got {widths!r}")
    units = [whole("widths", width) for width in widths]
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise BadInput(f"model.dropout: give a share from 0 to below 1, got {dropout!r}")
    dimension = whole("embedding", embedding, least=0)
    return MLP(math.prod(shape), classes, units, float(dropout), categories, dimension)
