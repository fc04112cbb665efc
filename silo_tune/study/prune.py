"""The [prune] section of a study."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from silo_tune.errors import Problems
from silo_tune.study import registry
from silo_tune.study.parts import LISTED, REWIND_POINT, Frozen, Named, Share, whole

# Kinds of layers whose weights can be pruned: name → which weights. A user's subclass is of its parent's kind.
LAYERS = {
    "linear": "Linear, the output projection of MultiheadAttention among them",
    "conv": "Conv1d, Conv2d and Conv3d",
    "attention": "in_proj_weight of MultiheadAttention",
    "attention-qkv": "q_, k_ and v_proj_weight of a MultiheadAttention whose keys or values have another width",
    "conv-transpose": "ConvTranspose1d, ConvTranspose2d and ConvTranspose3d",
    "conv1d-hf": "Conv1D of the package transformers (a linear layer, its weight transposed)",
    "embedding": "Embedding and EmbeddingBag",
    "lstm": "weight_ih, weight_hh and weight_hr of every layer and direction of LSTM, and LSTMCell",
    "gru": "weight_ih and weight_hh of every layer and direction of GRU, and GRUCell",
    "rnn": "weight_ih and weight_hh of every layer and direction of RNN, and RNNCell",
}
LayerKind = Literal[
    "linear", "conv", "attention", "attention-qkv", "conv-transpose", "conv1d-hf", "embedding", "lstm", "gru", "rnn"
]
DEFAULT_LAYERS: tuple[LayerKind, ...] = ("linear", "conv", "attention")


class CriterionRef(Named):
    @classmethod
    def check_name(cls, name: str, args: Mapping[str, Any]) -> None:
        registry.check_name("criterion", registry.CRITERIA, name, args)
        for key, count in args.items():
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise ValueError(f"criterion {name!r}: {key} is a count of at least 1, got {count!r}")

    @property
    def needs(self) -> tuple[str, ...]:
        """What a parent's state must hold for it beside weights and masks; nothing for a user's function."""
        return () if self.name is None else registry.CRITERIA[self.name].needs


# Share of the remaining weights that a cycle removes, as in the authors' scripts.
DEFAULT_RATE = 0.2


class Prune(Frozen):
    """[prune]: what a prune removes and what happens to the weights that stay."""

    rate: Share | None = Field(
        default=None,
        description="share of the remaining weights (or filters) that each cycle removes; 0.2 unless targets are given",
    )
    targets: Annotated[tuple[Share, ...] | None, LISTED] = Field(
        default=None,
        description="shares of weights that remain after cycles 1, 2, …, each below the one before; instead of rate",
    )
    criterion: CriterionRef = Field(
        default=CriterionRef(name="magnitude"), description="what goes first; `silo-tune list criteria` names them"
    )
    scope: Literal["global", "layerwise"] = Field(
        default="global", description='"global" compares weights over all layers, "layerwise" inside each'
    )
    granularity: Literal["weight", "filter", "2:4"] = Field(
        default="weight",
        description='what is removed: single weights, whole "filter"s, or single weights with at least 2 of each 4 '
        'left ("2:4")',
    )
    skip: Annotated[tuple[str, ...], LISTED] = Field(
        default=(), description='name patterns of parameters that are never pruned, such as "fc.*"'
    )
    layers: Annotated[tuple[LayerKind, ...], LISTED] = Field(
        default=DEFAULT_LAYERS,
        description="kinds of layers whose weights are pruned; `silo-tune list layers` names them",
    )
    norm_scales: bool = Field(default=False, description="prune the weights of normalisation layers too")
    count: Literal["exact", "percentile"] = Field(
        default="exact", description='"exact" keeps the planned number, "percentile" counts as the authors\' scripts do'
    )
    keep_statistics: bool = Field(
        default=False, description="buffers of normalisation layers outlive weights that are drawn anew"
    )
    after_prune: Literal["keep", "rewind", "reinit"] = Field(
        default="keep",
        description='weights that stay: "keep" them, "rewind" them to rewind_to, or "reinit" (draw them anew)',
    )
    rewind_to: str = Field(
        default="init",
        description='point of the dense training to rewind to: "init", "K ep" (epochs) or "K it" (steps)',
        json_schema_extra=whole(REWIND_POINT),
    )

    @field_validator("layers")
    @classmethod
    def _in_one_order(cls, value: tuple[LayerKind, ...]) -> tuple[LayerKind, ...]:
        if not value:
            raise ValueError(f"give at least one kind of layer: {', '.join(LAYERS)}")
        return tuple(kind for kind in get_args(LayerKind) if kind in value)

    @model_validator(mode="before")
    @classmethod
    def _rate_or_targets(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping) or raw.get("rate") is not None:
            return raw
        return raw if raw.get("targets") is not None else {**raw, "rate": DEFAULT_RATE}

    @field_validator("targets")
    @classmethod
    def _falling(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and (not value or any(b >= a for a, b in pairwise(value))):
            raise ValueError(
                f"targets are the shares of weights that remain after cycles 1, 2, …, each below the one "
                f"before; got {list(value)}"
            )
        return value

    @field_validator("rewind_to")
    @classmethod
    def _point(cls, value: str) -> str:
        if not REWIND_POINT.fullmatch(value):
            raise ValueError(
                f'rewind_to is "init", "K ep" (epochs) or "K it" (steps) of the dense training, got {value!r}'
            )
        return value

    @model_validator(mode="after")
    def _check(self) -> Prune:
        if self.rate is not None and self.targets is not None:
            raise Problems([("prune.targets", "give rate or targets, not both")])
        self._check_granularity()
        if self.norm_scales and self.granularity != "weight":
            message = f'it prunes single weights; leave it out with granularity = "{self.granularity}"'
            raise Problems([("prune.norm_scales", message)])
        if self.count == "percentile" and self.granularity != "weight":
            message = f'a percentile is taken of single weights; "{self.granularity}" is counted, "exact"'
            raise Problems([("prune.count", message)])
        self._check_layers()
        return self

    def _check_layers(self) -> None:
        """Kinds that an explicit list adds must have what is pruned of them."""
        added = [kind for kind in self.layers if kind not in DEFAULT_LAYERS]
        if added and self.granularity == "filter":
            message = f"{', '.join(added)}: no filters that can be removed; filters are those of linear and conv layers"
            raise Problems([("prune.layers", message)])
        if added and self.granularity == "2:4":
            message = f"{', '.join(added)}: the pattern 2:4 is for {', '.join(DEFAULT_LAYERS)}; leave the others out"
            raise Problems([("prune.layers", message)])
        name = self.criterion.name
        strange = [kind for kind in added if name is not None and kind in registry.CRITERIA[name].not_for]
        if strange:
            message = f"{name!r} says nothing of {', '.join(strange)}: {registry.CRITERIA[name or ''].why_not}"
            raise Problems([("prune.criterion", f"{message}; choose another criterion, or leave them out of layers")])

    def _check_granularity(self) -> None:
        if self.criterion.name is None:
            return  # a user's function is checked by the scores that it gives
        scored = registry.CRITERIA[self.criterion.name].granularity
        if scored != self.counted:
            fitting = sorted(name for name, entry in registry.CRITERIA.items() if entry.granularity == self.counted)
            message = f"{self.criterion.name!r} scores {scored}s, and granularity is {self.granularity!r}; choose from "
            raise Problems([("prune.criterion", message + ", ".join(fitting))])

    @property
    def counted(self) -> str:
        """What is scored and counted: "weight" or "filter"."""
        return "filter" if self.granularity == "filter" else "weight"

    def remaining(self, cycles: int) -> list[float]:
        """Planned share of weights (or filters) remaining at each of so many cycles."""
        if self.targets is not None:
            return [1.0, *self.targets][:cycles]
        assert self.rate is not None
        return [(1.0 - self.rate) ** cycle for cycle in range(cycles)]
