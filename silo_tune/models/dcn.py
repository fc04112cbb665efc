"""The deep and cross network, version 2 (Wang et al. 2021, arXiv 2008.13535), for tables of numbers and categories."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from silo_tune.errors import BadInput
from silo_tune.models.arguments import one_of, share, whole
from silo_tune.models.mlp import beside, embeddings_of, hidden, units


class Cross(nn.Module):
    """x ↦ x₀ ⊙ (W·x + b) + x, with a full matrix W, or with W = U·V of a rank (V down to it, U back)."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        full, low = nn.Linear(width, rank or width, bias=not rank), nn.Linear(rank, width) if rank else None
        self.weigh = full if low is None else nn.Sequential(full, low)

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        crossed: Tensor = first * self.weigh(x) + x
        return crossed


class DCNv2(nn.Module):
    """Cross layers beside hidden layers ("parallel"), or in front of them ("stacked"). The mixture of low-rank experts
    of the paper is not offered.

    Args:
        inputs: numbers of an example.
        outputs: what the last layer gives.
        cross: number of cross layers.
        rank: of their matrices; 0 has them full.
        widths, dropout, sizes, dimension: as of `MLP`.
        parallel: beside, and not in front.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        cross: int,
        rank: int,
        widths: Sequence[int],
        dropout: float,
        sizes: Sequence[int],
        dimension: int,
        parallel: bool,
    ) -> None:
        super().__init__()
        self.embeddings = embeddings_of(sizes, dimension)
        wide = inputs + sum(embed.embedding_dim for embed in self.embeddings)  # type: ignore[misc]
        self.cross = nn.ModuleList(Cross(wide, rank) for _ in range(cross))
        self.deep = hidden(wide, widths, dropout)
        self.parallel = parallel
        self.head = nn.Linear([wide, *widths][-1] + (wide if parallel else 0), outputs)

    def forward(self, numeric: Tensor, categories: Tensor | None = None) -> Tensor:
        first = crossed = beside(numeric, categories, self.embeddings)
        for layer in self.cross:
            crossed = layer(first, crossed)
        both = torch.cat([crossed, self.deep(first)], 1) if self.parallel else self.deep(crossed)
        logits: Tensor = self.head(both)
        return logits


def dcn_v2(
    shape: tuple[int, ...],
    classes: int,
    cross: int = 2,
    rank: int = 0,
    widths: Sequence[int] = (256, 128),
    structure: str = "parallel",
    dropout: float = 0.0,
    embedding: int = 0,
    categories: Sequence[int] = (),
) -> nn.Module:
    """Raises BadInput for arguments that are no counts, a dropout outside 0 … 1, and a part that is not there."""
    count, parallel = whole("cross", cross), one_of("dcn-v2", "structure", structure) == "parallel"
    if parallel and not units(widths):
        raise BadInput('model.widths: give hidden layers, or take structure = "stacked"')
    low, dimension = whole("rank", rank, least=0), whole("embedding", embedding, least=0)
    args = (units(widths), share("dropout", dropout), categories, dimension, parallel)
    return DCNv2(math.prod(shape), classes, count, low, *args)
