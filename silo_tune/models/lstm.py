"""LSTM layers for texts: tokens in, one number for each class out, whatever fills the texts up."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from silo_tune.errors import BadInput
from silo_tune.models.arguments import one_of, share, whole


def tokens_in(tokens: Tensor, padding: int) -> Tensor:
    """(B,) tokens of each text (B, length), up to its last one that is no padding; 1 of an empty one."""
    places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    return torch.where(tokens != padding, places, 1).amax(1)


class LSTM(nn.Module):
    """Embeddings, LSTM layers that read from the first token on, and a linear layer on their pooled outputs.

    What stands behind a text reaches no output of its tokens, and the pool leaves it out.

    Args:
        vocabulary: number of different tokens.
        padding: the one that fills up texts.
        outputs: what the last layer gives.
        embedding: numbers that a token stands for.
        width, depth: units of an LSTM layer, and layers.
        dropout: share of embeddings and outputs of layers that training leaves out.
        pool: "max" or "mean" over a text's tokens, or the output at its "last" one.
    """

    def __init__(
        self,
        vocabulary: int,
        padding: int,
        outputs: int,
        embedding: int,
        width: int,
        depth: int,
        dropout: float,
        pool: str,
    ) -> None:
        super().__init__()
        self.padding, self.pool = padding, pool
        self.embed = nn.Embedding(vocabulary, embedding, padding_idx=padding)
        self.lstm = nn.LSTM(embedding, width, depth, batch_first=True, dropout=dropout if depth > 1 else 0.0)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(width, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.dropout(self.embed(tokens)))
        logits: Tensor = self.head(self.dropout(self._pooled(hidden, tokens_in(tokens, self.padding)[:, None])))
        return logits

    def _pooled(self, hidden: Tensor, count: Tensor) -> Tensor:
        """(B, width) of outputs (B, length, width) and numbers of tokens (B, 1)."""
        if self.pool == "last":
            return hidden.take_along_dim(count[..., None] - 1, 1).squeeze(1)
        beyond = (torch.arange(hidden.shape[1], device=hidden.device) >= count)[..., None]
        if self.pool == "mean":
            return hidden.masked_fill(beyond, 0.0).sum(1) / count
        return hidden.masked_fill(beyond, -1.0).amax(1)  # no output of an LSTM is lower


def lstm(
    shape: tuple[int, ...],
    classes: int,
    width: int = 64,
    depth: int = 1,
    embedding: int = 32,
    dropout: float = 0.0,
    pool: str = "max",
    vocabulary: int = 0,
    padding: int = 0,
) -> nn.Module:
    """Raises BadInput for examples that are no texts, and arguments that are none."""
    if not vocabulary:
        raise BadInput(f"model: 'lstm' takes texts with a label (data.name = \"text\"), and these examples are {shape}")
    for key, value in (("width", width), ("depth", depth), ("embedding", embedding)):
        whole(key, value)
    pool = one_of("lstm", "pool", pool)
    return LSTM(vocabulary, padding, classes, embedding, width, depth, share("dropout", dropout), pool)
