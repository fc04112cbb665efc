"""A multi-layer perceptron for tables: numbers, and embeddings of categories."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from silo_tune.errors import BadInput
from silo_tune.models.arguments import share, whole


class MLP(nn.Module):
    """Hidden layers of ReLU units with dropout; what codes of categories stand for is learnt beside.

    Args:
        inputs: numbers of an example.
        outputs: what the last layer gives.
        widths: units of the hidden layers.
        dropout: share of a hidden layer that training leaves out.
        sizes: numbers of different codes of each category.
        dimension: numbers that a code stands for; 0 lets its size say it.
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
        self.embeddings = embeddings_of(sizes, dimension)
        wide = inputs + sum(embed.embedding_dim for embed in self.embeddings)  # type: ignore[misc]
        self.body = hidden(wide, widths, dropout)
        self.head = nn.Linear([wide, *widths][-1], outputs)

    def forward(self, numeric: Tensor, categories: Tensor | None = None) -> Tensor:
        logits: Tensor = self.head(self.body(beside(numeric, categories, self.embeddings)))
        return logits


def embeddings_of(sizes: Sequence[int], dimension: int) -> nn.ModuleList:
    """An embedding for each category; a dimension of 0 takes 1.6 · size^0.56, at most 50, as in fastai."""
    return nn.ModuleList(nn.Embedding(size, dimension or min(50, round(1.6 * size**0.56))) for size in sizes)


def beside(numeric: Tensor, categories: Tensor | None, embeddings: nn.ModuleList) -> Tensor:
    """(N, numbers) and what the codes (N, categories) stand for, in one row each."""
    parts = [numeric.flatten(1)]
    if categories is not None:
        parts += [embed(categories[:, place]) for place, embed in enumerate(embeddings)]
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


def hidden(before: int, widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Hidden layers of ReLU units, with dropout behind each where there is some."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise([before, *widths]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*layers)


def mlp(
    shape: tuple[int, ...],
    classes: int,
    widths: Sequence[int] = (256, 128),
    dropout: float = 0.0,
    embedding: int = 0,
    categories: Sequence[int] = (),
) -> nn.Module:
    """Raises BadInput for widths that are no counts and a dropout outside 0 … 1."""
    dimension = whole("embedding", embedding, least=0)
    return MLP(math.prod(shape), classes, units(widths), share("dropout", dropout), categories, dimension)


def units(widths: object) -> list[int]:
    """The units of hidden layers. Raises BadInput unless it is a list of counts."""
    if not isinstance(widths, list | tuple):
        raise BadInput(f"model.widths: give a list of units, got {widths!r}")
    return [whole("widths", width) for width in widths]
