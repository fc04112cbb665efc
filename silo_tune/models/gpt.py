"""A small decoder over tokens, with attention to what stands before: a language model, or a classifier of texts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from silo_tune.errors import BadInput
from silo_tune.models.arguments import whole
from silo_tune.models.lstm import tokens_in


class _Block(nn.Module):
    """Attention and a two-layer perceptron, each after a layer norm, added to what goes in (GPT-2)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        count, length, width = hidden.shape
        parts = self.attend(self.before(hidden)).view(count, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.project(seen.transpose(1, 2).reshape(count, length, width))
        out: Tensor = hidden + self.narrow(F.gelu(self.widen(self.between(hidden))))
        return out


class GPT(nn.Module):
    """Embeddings of tokens and of their places, blocks, a last norm and a head.

    Args:
        length: most tokens of a sequence.
        tokens: number of different ones.
        outputs: what the head gives.
        width, depth, heads: of a hidden vector, blocks, and parts of each attention.
        padding: the token that fills up texts, whose last one the head then looks at; None looks at every token.
        tied: the head has the weight of the embeddings.
    """

    def __init__(
        self,
        length: int,
        tokens: int,
        outputs: int,
        width: int,
        depth: int,
        heads: int,
        padding: int | None,
        tied: bool,
    ) -> None:
        super().__init__()
        self.length, self.padding = length, padding
        self.embed, self.places = nn.Embedding(tokens, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs, bias=False)
        if tied:
            self.head.weight = self.embed.weight
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.shape[1] > self.length:
            raise BadInput(f"model: a sequence of {tokens.shape[1]} tokens, and the network takes {self.length}")
        places = torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self.blocks(self.embed(tokens) + self.places(places))
        if self.padding is not None:
            hidden = hidden.take_along_dim(tokens_in(tokens, self.padding)[:, None, None] - 1, 1).squeeze(1)
        logits: Tensor = self.head(self.norm(hidden))
        return logits


def gpt(
    shape: tuple[int, ...],
    classes: int,
    width: int = 64,
    depth: int = 2,
    heads: int = 4,
    context: int = 0,
    tied: bool = False,
    vocabulary: int = 0,
    padding: int | None = None,
) -> nn.Module:
    """Raises BadInput for examples that are no sequences or too long, and a width that its heads do not divide."""
    if len(shape) != 1:
        raise BadInput(f"model: 'gpt' takes sequences of tokens, and these examples are {shape or 'of several parts'}")
    for key, value in (("width", width), ("depth", depth), ("heads", heads)):
        whole(key, value)
    if width % heads:
        raise BadInput(f"model.heads: {heads} heads do not divide a width of {width}")
    if whole("context", context, least=0) and context < shape[0]:
        raise BadInput(
            f"model.context: the network takes {context} tokens, and sequences have up to {shape[0]}; shorten them "
            f"(data.length, data.block), or enlarge the context"
        )
    if tied and vocabulary:
        raise BadInput("model.tied: the head of a classifier has no weight for each token; leave it out")
    return GPT(context or shape[0], vocabulary or classes, classes, width, depth, heads, padding, tied)
