"""The [prune] section of a study."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import field_validator, model_validator

from silo_tune.errors import Problems
from silo_tune.study import registry
from silo_tune.study.parts import LISTED, REWIND_POINT, Frozen, Named, Share


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
    """[prune]: what a prune removes and what happens to the weights that stay.

    `rate` is the share of the remaining that each cycle removes; or `targets` are the shares that remain after cycles
    1, 2, …, and `rate` is None. `norm_scales` makes the weights of normalisation layers prunable too. `count` is
    "exact", or "percentile" as in the authors' scripts (see `pruning.by_percentile`). With `keep_statistics` the
    buffers of normalisation layers outlive weights that are drawn anew.
    """

    rate: Share | None = None
    targets: Annotated[tuple[Share, ...] | None, LISTED] = None
    criterion: CriterionRef = CriterionRef(name="magnitude")
    scope: Literal["global", "layerwise"] = "global"
    granularity: Literal["weight", "filter"] = "weight"
    skip: Annotated[tuple[str, ...], LISTED] = ()
    norm_scales: bool = False
    count: Literal["exact", "percentile"] = "exact"
    keep_statistics: bool = False
    after_prune: Literal["keep", "rewind", "reinit"] = "keep"
    rewind_to: str = "init"

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
        if self.norm_scales and self.granularity == "filter":
            raise Problems(
                [("prune.norm_scales", 'it prunes single weights; leave it out with granularity = "filter"')]
            )
        if self.count == "percentile" and self.granularity == "filter":
            raise Problems([("prune.count", 'a percentile is taken of single weights; filters are counted, "exact"')])
        return self

    def _check_granularity(self) -> None:
        if self.criterion.name is None:
            return  # a user's function is checked by the scores that it gives
        scored = registry.CRITERIA[self.criterion.name].granularity
        if scored != self.granularity:
            fitting = sorted(name for name, entry in registry.CRITERIA.items() if entry.granularity == self.granularity)
            message = f"{self.criterion.name!r} scores {scored}s, and granularity is {self.granularity!r}; choose from "
            raise Problems([("prune.criterion", message + ", ".join(fitting))])

    def remaining(self, cycles: int) -> list[float]:
        """Planned share of weights (or filters) remaining at each of so many cycles."""
        if self.targets is not None:
            return [1.0, *self.targets][:cycles]
        assert self.rate is not None
        return [(1.0 - self.rate) ** cycle for cycle in range(cycles)]
