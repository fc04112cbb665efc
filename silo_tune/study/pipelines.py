"""Pipelines: what a cycle does instead of one prune and one retraining."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from silo_tune.study.parts import Frozen, Share


class Ice(Frozen):
    """ICE-Pruning: block by block, with fine-tuning where it is needed and layers frozen that change little."""

    line: ClassVar[str] = "ICE-Pruning: block by block, fine-tuned where needed, falling S"

    name: Literal["ice"] = Field(description="the pipeline")
    ratio: Share | None = Field(
        default=None,
        description="share of a block's filters that a cycle removes, rounded up; that of [prune] when left out",
    )
    threshold: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="loss of validation accuracy against the dense network that calls for fine-tuning (0.01 is ours)",
    )
    freeze: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the layers that fine-tuning leaves alone: those that a probe changed least (0 is ours)",
    )


class WhileTraining(Frozen):
    """Filters pruned while training: the cycles are parts of one training, without a retraining of their own."""

    line: ClassVar[str] = "filters pruned while training: the cycles are parts of one training (Roy et al. 2020)"

    name: Literal["while-training"] = Field(description="the pipeline")
    over: int = Field(
        ge=2, description="parts of the training, cycle 0 included; each is as long as a cycle of this arm"
    )


def _by_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


PIPELINES: dict[str, type[Ice] | type[WhileTraining]] = {"ice": Ice, "while-training": WhileTraining}
Pipeline = Annotated[Annotated[Ice | WhileTraining, Field(discriminator="name")], BeforeValidator(_by_name)]


def resolved(pipeline: Ice | WhileTraining, share: float) -> Mapping[str, Any]:
    """What enters the key of a unit whose cycle removes such a share of the remaining filters.

    The parts of a training differ by their profile, so their number is not told again.
    """
    if isinstance(pipeline, Ice):
        return {**pipeline.model_dump(), "ratio": pipeline.ratio or share}
    return {"name": pipeline.name}
