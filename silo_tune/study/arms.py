"""The arms of a study, ways to choose max_lr, and the pilot that finds what they leave open."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, ValidationInfo, field_validator, model_validator

from silo_tune.schedules.peaks import constants_at, rounded
from silo_tune.study.parts import (
    LISTED,
    MOST,
    REWIND_POINT,
    Frozen,
    ProfileRef,
    Rate,
    ScheduleRef,
    Seeds,
    distinct,
    whole,
)
from silo_tune.study.pipelines import Ice, Pipeline
from silo_tune.study.prune import Prune

Sampler = Literal["gp", "tpe", "cmaes", "qmc", "random"]

# The previous winner and one neighbour on each side; see candidates.guided.
WARM_STARTS = 3
# A pilot's rates span at least this factor: two decades.
PILOT_SPAN = 100.0


class Grid(Frozen):
    """A grid of max_lr: evenly spaced in log from `low` to `high`, or the `rates` that are given, rising."""

    low: Rate = Field(description="lowest max_lr")
    high: Rate = Field(description="highest max_lr")
    points: int = Field(ge=1, le=1000, description="number of rates, evenly spaced in log from low to high")
    rates: Annotated[tuple[Rate, ...], LISTED] | None = Field(
        default=None, description="the rates themselves, rising; instead of low, high and points"
    )

    @model_validator(mode="before")
    @classmethod
    def _ends_of_rates(cls, value: Any) -> Any:
        rates = value.get("rates") if isinstance(value, Mapping) else None
        if not isinstance(rates, (list, tuple)) or not rates or "points" in value:
            return value
        return {**value, "low": rates[0], "high": rates[-1], "points": len(rates)}

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Grid:
        if self.rates is not None:
            if list(self.rates) != sorted(set(self.rates)):
                raise ValueError("rates rise, each given once")
            if (self.rates[0], self.rates[-1], len(self.rates)) != (self.low, self.high, self.points):
                raise ValueError("rates and low, high, points both say the grid; give one")
        elif self.points == 1 and self.low != self.high and not (info.context or {}).get("recorded"):
            raise ValueError(f"one point is no grid from low {self.low} to high {self.high}; give rates = [{self.low}]")
        elif self.points > 1 and self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self

    def values(self) -> list[float]:
        """The rates, rising."""
        return list(self.rates) if self.rates is not None else log_spaced(self.low, self.high, self.points)


def log_spaced(low: float, high: float, points: int) -> list[float]:
    """Rates evenly spaced in log, rising, both ends included, with 12 significant digits as in keys."""
    if points == 1:
        return [low]
    span = math.log(high / low)
    inner = [low * math.exp(span * i / (points - 1)) for i in range(1, points - 1)]
    return [rounded(x) for x in (low, *inner, high)]


class Guided(Frozen):
    """A search of max_lr that asks for rates in rounds, each knowing the outcomes of the rounds before it."""

    sampler: Sampler = Field(default="gp", description="what proposes rates")
    low: Rate = Field(description="lower bound of max_lr")
    high: Rate = Field(description="upper bound of max_lr")
    trials: int = Field(
        ge=1,
        le=1000,
        description="asked rates per cycle, 3 warm starts included; tested arms' values are trained in addition",
    )
    batch: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="rates per round after the first; 1 is the most frugal, more keeps slots busy",
    )
    repeat_top: int = Field(
        default=0,
        ge=0,
        description="so many of the best rates are trained once more with other random streams; the best mean wins",
    )
    stop_below: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="end a cycle's search when another rate is expected to gain less than this (accuracy)",
    )

    @model_validator(mode="after")
    def _check(self) -> Guided:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        if self.trials < WARM_STARTS:
            raise ValueError(f"trials = {self.trials} are fewer than the {WARM_STARTS} warm starts of every cycle")
        if self.repeat_top == 1 or self.repeat_top > self.trials:
            raise ValueError(f"repeat_top compares at least 2 and at most `trials` rates, got {self.repeat_top}")
        return self


class ArmBase(Frozen):
    """What every arm may set for itself; what it leaves out comes from [retrain] and [prune]."""

    profile: ProfileRef | None = Field(
        default=None, description="learning rate inside a cycle; that of [retrain] when left out"
    )
    epochs: int | None = Field(
        default=None, ge=1, le=MOST, description="epochs of a cycle; those of [retrain] when left out"
    )
    after_prune: Literal["keep", "rewind", "reinit"] | None = Field(
        default=None,
        description='weights that stay after a prune, "keep", "rewind" or "reinit"; as in [prune] when left out',
    )
    rewind_to: str | None = Field(
        default=None,
        description='point to rewind to: "init", "K ep" or "K it"; that of [prune] when left out',
        json_schema_extra=whole(REWIND_POINT),
    )
    own_dense: bool = Field(
        default=False, description="train a dense cycle of its own, with this arm's settings, instead of sharing it"
    )

    _point = field_validator("rewind_to")(lambda cls, v: v if v is None else Prune._point(v))


class Ends(Frozen):
    """Whose ends a control takes: the lower and upper rate that another arm's pilot finds (SILO's ε and ε + δ)."""

    arm: str = Field(description="a schedule arm with two open constants, whose pilot finds the rates")
    end: Literal["low", "high"] | None = Field(
        default=None, description="which of the two rates, for a schedule with one constant"
    )


class ScheduleArm(ArmBase):
    """A fixed or adaptive peak schedule: one candidate per cycle.

    A schedule that leaves its constants out is `open`: [pilot] finds them, or they are the `ends` that it finds for
    another arm. `preset` tells which one filled this arm in.
    """

    mode: Literal["schedule"] = Field(description="one max_lr per cycle, given by a schedule")
    schedule: ScheduleRef = Field(description="max_lr over cycles; constants that are left out are found by [pilot]")
    ends: Ends | None = Field(default=None, description="take the rates that another arm's pilot finds")
    preset: str | None = Field(default=None, description="the published way that filled this arm in")
    pipeline: Pipeline | None = Field(
        default=None, description="what a cycle does instead of one prune and one retraining"
    )
    best_of: int | None = Field(
        default=None,
        ge=2,
        le=1000,
        description="so many trainings a cycle, all at the schedule's own max_lr; the best on validation continues",
    )

    @property
    def open(self) -> bool:
        """Are this arm's constants found while the study runs?"""
        return bool(self.schedule.open)

    def constants_at(self, rates: Sequence[float]) -> dict[str, Any]:
        """This arm's constants where it takes its ends from the arm whose pilot found `rates`, rising."""
        assert self.schedule.name is not None
        assert self.ends is not None
        picked = {"low": rates[:1], "high": rates[-1:], None: rates}[self.ends.end]
        return constants_at(self.schedule.name, picked)


class OracleArm(ArmBase):
    """Several candidates per cycle from one parent; the best on validation wins.

    Candidates are those of a `grid` (exhaustive) or are asked for by a sampler (`guided`). `prefix = "own"` is the
    greedy Oracle, `"arm:NAME"` the conditioned one. `tests` are arms whose own values are always among the candidates;
    left out, every fixed-peak arm that is comparable.
    """

    mode: Literal["oracle"] = Field(description="several max_lr per cycle from one parent; the best on validation wins")
    grid: Grid | None = Field(default=None, description="exhaustive search: the same rates in every cycle")
    guided: Guided | None = Field(default=None, description="a sampler asks for rates, each round knowing those before")
    prefix: str = Field(
        default="own",
        description='whose weights a cycle starts from: "own" (the last winner) or "arm:NAME"',
        json_schema_extra={"pattern": "^(own|arm:.+)$"},
    )
    tests: Annotated[tuple[str, ...], LISTED] | None = Field(
        default=None, description="arms whose own values are always tried; every comparable schedule arm when left out"
    )
    retrain_winner: bool = Field(
        default=False,
        description="train a cycle's winning max_lr once more with fresh random streams; that training continues",
    )

    @property
    def retrained_as(self) -> int | None:
        """Repeat of the winner's second training, one that no candidate of its cycle has; None without it."""
        return (2 if self.guided is not None and self.guided.repeat_top else 1) if self.retrain_winner else None

    @property
    def prefix_arm(self) -> str | None:
        """The arm that gives the parents, or None for the Oracle's own winners."""
        return self.prefix.removeprefix("arm:") if self.prefix.startswith("arm:") else None

    @field_validator("prefix")
    @classmethod
    def _prefix(cls, value: str) -> str:
        if value != "own" and not (value.startswith("arm:") and value != "arm:"):
            raise ValueError(f'prefix is "own" or "arm:NAME", got {value!r}')
        return value

    @model_validator(mode="after")
    def _check(self) -> OracleArm:
        if (self.grid is None) == (self.guided is None):
            raise ValueError("give either grid (exhaustive) or guided")
        if self.retrain_winner and self.prefix_arm is not None:
            raise ValueError(f'retrain_winner is of prefix = "own": here {self.prefix_arm} is what continues')
        return self


Bounds = Annotated[tuple[float, float], LISTED]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number_or_bounds(value: Any) -> Any:
    numbers = list(value) if isinstance(value, (list, tuple)) else [value]
    pair = isinstance(value, (list, tuple))
    if len(numbers) != 1 + pair or not all(_is_number(x) for x in numbers):
        raise ValueError(f"a number, or [low, high] to search it, got {value!r}")
    return tuple(numbers) if pair else value


def _whole_or_bounds(value: Any) -> Any:
    found = _number_or_bounds(value)
    if not all(isinstance(x, int) for x in (found if isinstance(found, tuple) else (found,))):
        raise ValueError(f"a whole number, or [low, high] to search it, got {value!r}")
    return found


@dataclass(frozen=True)
class OrBounds:
    """JSON schema of a value of this kind, or of [low, high]; made anew each time, for pydantic writes into it."""

    kind: str

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        pair = {"type": "array", "items": {"type": self.kind}, "minItems": 2, "maxItems": 2}
        return {"anyOf": [{"type": self.kind}, pair]}


# Any, for pydantic tells what is wrong with a union once for each of its members.
Parameter = Annotated[Any, PlainValidator(_number_or_bounds), OrBounds("number")]
IcePipeline = Annotated[Ice, BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)]
WholeParameter = Annotated[Any, PlainValidator(_whole_or_bounds), OrBounds("integer")]


class TuneArm(ArmBase):
    """Tunes the S-curve's own parameters over whole chains.

    A parameter is a number (pinned) or [low, high]. Every trial is one chain per seed; a trial's objective is the mean
    validation accuracy over the cycles whose planned weights remaining lie in `over`, and over its seeds. At a rung (a
    cycle) a trial continues only if it is among the best share `keep` of what the complete rounds saw at that rung.
    """

    mode: Literal["tune"] = Field(description="a search of the S-curve's own parameters over whole chains")
    sampler: Sampler = Field(default="tpe", description="what proposes points")
    trials: int = Field(ge=2, le=10_000, description="points that are tried, each a chain per seed")
    batch: int = Field(default=4, ge=1, le=10_000, description="points per round")
    seeds: Seeds | None = Field(default=None, description="seeds of the chains; those of [replicates] when left out")
    eps: Parameter = Field(description="ε, max_lr of the first cycles: a number, or [low, high] to search it")
    delta: Parameter = Field(description="δ, range of the S: a number, or [low, high] to search it")
    beta: Parameter = Field(default=5.0, description="β, steepness of the S: a number, or [low, high] to search it")
    q: WholeParameter = Field(
        default=1, description="delay of the S in cycles: a whole number, or [low, high] to search it"
    )
    midpoint: Parameter = Field(
        default=0.5, description="share at which half of δ is reached: a number, or [low, high] to search it"
    )
    direction: Literal["rising", "falling"] = Field(
        default="rising", description='"rising" follows the pruned share, "falling" the surviving one'
    )
    pipeline: IcePipeline | None = Field(default=None, description="ICE-Pruning, whose schedule this is")
    threshold: Parameter | None = Field(
        default=None,
        description="loss of accuracy from which on ICE-Pruning fine-tunes: a number, or [low, high] to search it",
    )
    freeze: Parameter | None = Field(
        default=None, description="share of layers that ICE-Pruning freezes: a number, or [low, high] to search it"
    )
    over: Bounds | None = Field(
        default=None,
        description="[least, most] share of weights remaining of the cycles that count; every cycle ≥ 1 when left out",
    )
    rungs: Annotated[tuple[int, ...], LISTED] = Field(
        default=(), description="cycles after which poor trials are stopped"
    )
    keep: float = Field(
        default=1 / 3, gt=0, le=1, description="share of earlier trials that a trial must be among to continue"
    )

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return value if value is None else distinct(value)

    @property
    def free(self) -> dict[str, tuple[float, float]]:
        """Parameters that are searched, with their bounds."""
        values = {name: getattr(self, name) for name in PARAMETERS}
        return {name: value for name, value in values.items() if isinstance(value, tuple)}

    @property
    def pinned(self) -> dict[str, Any]:
        """Constants of the schedule that stay, with their values."""
        numbers = {name: getattr(self, name) for name in CONSTANTS if name not in self.free}
        return numbers if self.direction == "rising" else {**numbers, "direction": self.direction}

    def pipeline_at(self, params: Mapping[str, Any]) -> Ice | None:
        """The pipeline of a point."""
        if self.pipeline is None:
            return None
        own = {name: params.get(name, getattr(self, name)) for name in ("threshold", "freeze")}
        given = {name: float(value) for name, value in own.items() if isinstance(value, (int, float))}
        return self.pipeline.model_copy(update=given)

    @model_validator(mode="after")
    def _check(self) -> TuneArm:
        problems = [*self._bad_parameters(), *self._bad_rest()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _bad_parameters(self) -> Iterator[str]:
        for name, (lowest, highest, open_) in PARAMETERS.items():
            value = getattr(self, name)
            if value is None:
                continue
            ends = value if isinstance(value, tuple) else (value, value)
            if isinstance(value, tuple) and ends[0] >= ends[1]:
                yield f"{name}: low {ends[0]} must be below high {ends[1]}"
            elif ends[0] < lowest or ends[1] > highest or (open_ and ends[0] <= lowest):
                yield f"{name} lies in {'(' if open_ else '['}{lowest:g}, {highest:g}], got {value}"
        if not self.free:
            yield "nothing to tune: give at least one parameter as [low, high]"

    def _bad_rest(self) -> Iterator[str]:
        if self.pipeline is None and (self.threshold is not None or self.freeze is not None):
            yield 'threshold and freeze are of pipeline = "ice"'
        if list(self.rungs) != sorted(set(self.rungs)) or any(rung < 1 for rung in self.rungs):
            yield f"rungs are cycles ≥ 1, rising, got {list(self.rungs)}"
        if self.over is not None and not 0 <= self.over[0] < self.over[1] <= 1:
            yield f"over is [least, most] weights remaining in [0, 1], got {list(self.over)}"


# Lowest and highest value, and whether the lowest itself is excluded.
PARAMETERS: dict[str, tuple[float, float, bool]] = {
    "eps": (0.0, math.inf, True),
    "delta": (0.0, math.inf, False),
    "beta": (0.0, math.inf, True),
    "q": (0, math.inf, False),
    "midpoint": (0.0, 1.0, True),
    "threshold": (0.0, 1.0, False),
    "freeze": (0.0, 0.99, False),
}
# Of these, the constants of the schedule.
CONSTANTS = ("eps", "delta", "beta", "q", "midpoint")

Arm = Annotated[ScheduleArm | OracleArm | TuneArm, Field(discriminator="mode")]


class Pilot(Frozen):
    """[pilot]: finds the constants that schedule arms leave open, with the same number of chains for every arm.

    How they are found is `proposals`; see `silo_tune.planner.points.PilotPlan`. Without `rise` a pair low = high may
    win, whose curve is a constant peak, which arms of their own stand for: what is judged then is no curve.
    """

    seeds: Seeds = Field(description="seeds of the pilot's chains, disjoint from those of [replicates]")
    chains: int = Field(default=10, ge=3, le=1000, description="chains per arm and seed")
    low: Rate = Field(
        description="lowest max_lr of the range; what lies beyond it is tried only where the best is at that edge"
    )
    high: Rate = Field(description="highest max_lr of the range, at least two decades above low")
    # A study without the key is one from before it was there: it means the grid that its run began with.
    proposals: Literal["grid", "spread", "guided"] = Field(
        default="grid",
        description='"guided" (the fairest to arms with several constants): even points, then where more is expected; '
        '"spread": even points alone; "grid": few levels of two constants, many of one',
    )
    rise: bool = Field(
        default=False,
        description="of an arm with two constants only a pair low < high may win; without it a constant may, as δ = 0",
    )

    _distinct = field_validator("seeds")(distinct)

    @model_validator(mode="after")
    def _check(self) -> Pilot:
        if self.high < self.low * PILOT_SPAN * (1 - 1e-9):
            raise ValueError(f"low {self.low} to high {self.high} is less than two decades")
        return self

    @property
    def levels(self) -> int:
        """Levels of a grid of two constants: the largest g with g (g + 1) / 2 pairs ≤ chains."""
        return (math.isqrt(8 * self.chains + 1) - 1) // 2

    def beyond(self, rate: float) -> bool:
        """Does a rate that the pilot tried lie below `low` or above `high`? They have four digits."""
        return not self.low * (1 - 1e-3) <= rate <= self.high * (1 + 1e-3)
