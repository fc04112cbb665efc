"""What a search over whole chains tries: a pilot's points of constants, or points of the S-curve from a sampler."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from silo_tune.planner.proposals import next_positions
from silo_tune.planner.samplers import Dimension, Told, suggest
from silo_tune.schedules.peaks import AdaptiveSchedule, Schedule, Silo, constants_at, rounded
from silo_tune.study.arms import CONSTANTS, Pilot, ScheduleArm, TuneArm, log_spaced
from silo_tune.study.model import Study, counted_cycles
from silo_tune.study.pipelines import Ice

Params = Mapping[str, float]

# Peaks of tune trials lie on a lattice of so many rates per decade, so that chains of like points share units.
PER_DECADE = 20


class Plan(Protocol):
    """Points in rounds. A point's outcome is {"params", "objective" (None when stopped), "told", …}."""

    @property
    def kind(self) -> str:
        """pilot | tune."""
        ...

    @property
    def rungs(self) -> Sequence[int]:
        """Cycles after which poor trials are stopped."""
        ...

    @property
    def keep(self) -> float:
        """Share of earlier trials that a trial must not be below."""
        ...

    @property
    def counted(self) -> Sequence[int]:
        """Cycles whose score makes the objective."""
        ...

    @property
    def adaptive(self) -> bool:
        """Do later points depend on the values of earlier ones?"""
        ...

    @property
    def most(self) -> int:
        """Upper bound of the points of all rounds."""
        ...

    def likely(self, heard: Sequence[Mapping[str, Any]]) -> int:
        """The points of all rounds as far as can be said now: what is rare is left out."""
        ...

    def ask(self, heard: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
        """The next round, given every point of the complete rounds in order; empty ends the search."""
        ...

    def finished(self, heard: Sequence[Mapping[str, Any]]) -> bool:
        """Would `ask` give nothing?"""
        ...

    def best(self, heard: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """The point that wins: of the complete ones that may, the one with the highest objective."""
        ...

    def schedule(self, params: Params) -> Schedule | AdaptiveSchedule:
        """What the chains of a point run."""
        ...

    def args(self, params: Params) -> dict[str, Any]:
        """The constants that a point stands for."""
        ...

    def pipeline(self, params: Params) -> Ice | None:
        """The pipeline of a point, where a search of its options made one."""
        ...


def plan_of(study: Study, name: str) -> Plan:
    """The plan of a searched arm."""
    arm = study.arms[name]
    if isinstance(arm, TuneArm):
        return TunePlan(name, arm, tuple(counted_cycles(study, arm.over)))
    assert isinstance(arm, ScheduleArm)
    assert study.pilot is not None
    return PilotPlan(study, arm, study.pilot)


def sampler_seed(*parts: object) -> int:
    """A seed for a sampler's draws, from where it stands."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:4], "big")


# --- the pilot ---


@dataclass(frozen=True)
class PilotPlan:
    """Constants of one rate, or of two rates low ≤ high, as `pilot.proposals` says.

    - grid: all levels of one rate, or all pairs of few levels; extended once where the best lies on its edge.
    - spread: `chains` points of a low-discrepancy sequence, in one round.
    - guided: the first of these, then points where a Gaussian process promises more, beyond an edge that the best is
      near. Neither an edge nor the number of constants changes how many chains there are.
    """

    study: Study
    arm: ScheduleArm
    pilot: Pilot

    kind = "pilot"
    rungs: tuple[int, ...] = ()
    keep = 1.0

    @property
    def counted(self) -> Sequence[int]:
        return range(1, self.study.cycles)

    @property
    def adaptive(self) -> bool:
        return self.pilot.proposals == "guided"

    @property
    def on_grid(self) -> bool:
        return self.pilot.proposals == "grid"

    @property
    def pairs(self) -> bool:
        return len(self.arm.schedule.open) == 2

    @property
    def most(self) -> int:
        one_side = self.pilot.levels + 1
        return self.pilot.chains + (2 * one_side + self.pairs if self.on_grid else 0)

    def likely(self, heard: Sequence[Mapping[str, Any]]) -> int:
        return len(heard) + len(self.ask(heard)) if self.on_grid else self.pilot.chains

    def ask(self, heard: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
        return self._ask_grid(heard) if self.on_grid else self._ask_evenly(heard)

    def finished(self, heard: Sequence[Mapping[str, Any]]) -> bool:
        return not self.ask(heard) if self.on_grid else len(heard) >= self.pilot.chains

    def best(self, heard: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        rising = self.pairs and self.pilot.rise
        return best_point([point for point in heard if not rising or len(set(rates_of(point["params"]))) == 2])

    # --- spread and guided ---

    def _ask_evenly(self, heard: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
        known = [(tuple(map(self._at, rates_of(point["params"]))), point["objective"]) for point in heard]
        # Arms with as many constants begin with the same points: none is luckier.
        seed = sampler_seed("pilot", *self.pilot.seeds)
        constants = len(self.arm.schedule.open)
        positions = next_positions(known, self.pilot.chains, constants, seed, self.adaptive)
        return [_named([self._rate(at) for at in position]) for position in positions]

    def _rate(self, at: float) -> float:
        return float(f"{self.pilot.low * (self.pilot.high / self.pilot.low) ** at:.4g}")

    def _at(self, rate: float) -> float:
        return math.log(rate / self.pilot.low) / math.log(self.pilot.high / self.pilot.low)

    # --- grid ---

    def levels(self) -> list[float]:
        """The rates of the grid before it is extended."""
        points = self.pilot.levels if self.pairs else self.pilot.chains
        return [float(f"{rate:.4g}") for rate in log_spaced(self.pilot.low, self.pilot.high, points)]

    def _ask_grid(self, heard: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
        levels = self.levels()
        if not heard:
            return [_named(rates) for rates in self._cover(levels)]
        if len(heard) > len(self._cover(levels)):
            return []
        best = self.best(heard)
        if best is None:
            return []
        wider = self._extended(levels, rates_of(best["params"]))
        tried = [rates_of(point["params"]) for point in heard]
        return [_named(rates) for rates in self._cover(wider) if rates not in tried]

    def _cover(self, levels: Sequence[float]) -> list[tuple[float, ...]]:
        if not self.pairs:
            return [(rate,) for rate in levels]
        return [(low, high) for low in levels for high in levels if low <= high]

    def _extended(self, levels: Sequence[float], best: Sequence[float]) -> list[float]:
        """The levels and, beyond each edge that the best lies on, one more of two constants, or as many of one constant
        as an extended grid of pairs gets."""
        ratio = levels[1] / levels[0]
        more = 1 if self.pairs else self.pilot.levels + 1
        below = [levels[0] / ratio**i for i in range(more, 0, -1)] if levels[0] in best else []
        above = [levels[-1] * ratio**i for i in range(1, more + 1)] if levels[-1] in best else []
        return [*(float(f"{rate:.4g}") for rate in below), *levels, *(float(f"{rate:.4g}") for rate in above)]

    def schedule(self, params: Params) -> Schedule | AdaptiveSchedule:
        return self.study.schedule_of(self.arm, self.args(params))

    def args(self, params: Params) -> dict[str, Any]:
        assert self.arm.schedule.name is not None
        return constants_at(self.arm.schedule.name, rates_of(params))

    def pipeline(self, params: Params) -> Ice | None:
        return None  # the arm's own


def _named(rates: Sequence[float]) -> dict[str, float]:
    return dict(zip(("max_lr",) if len(rates) == 1 else ("lowest", "highest"), rates, strict=True))


def rates_of(params: Params) -> tuple[float, ...]:
    """The rates of a point: one, or low ≤ high."""
    return tuple(sorted(params.values()))


def best_point(heard: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The complete point with the highest objective, the earlier of equals; None when there is none."""
    complete = [point for point in heard if point["objective"] is not None]
    return max(complete, key=lambda point: point["objective"], default=None)


# --- tuning the S-curve ---


@dataclass(frozen=True)
class TunePlan:
    """Points of the S-curve's parameters from a sampler."""

    name: str
    arm: TuneArm
    counted: tuple[int, ...]

    kind = "tune"

    @property
    def rungs(self) -> Sequence[int]:
        return self.arm.rungs

    @property
    def keep(self) -> float:
        return self.arm.keep

    @property
    def adaptive(self) -> bool:
        return self.arm.sampler not in ("qmc", "random")

    @property
    def most(self) -> int:
        return self.arm.trials

    def likely(self, heard: Sequence[Mapping[str, Any]]) -> int:
        return self.most

    def space(self) -> dict[str, Dimension]:
        """The searched parameters. Rates and steepness are searched in log, where their bounds allow."""
        return {
            name: Dimension(low, high, log=name in ("eps", "delta", "beta") and low > 0, integer=name == "q")
            for name, (low, high) in self.arm.free.items()
        }

    def best(self, heard: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        return best_point(heard)

    def told(self, heard: Sequence[Mapping[str, Any]]) -> list[Told]:
        """Points as the sampler hears them."""
        return [Told(point["params"], point["told"]) for point in heard]

    def ask(self, heard: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
        count = min(self.arm.batch, self.arm.trials - len(heard))
        if count <= 0:
            return []
        seed = sampler_seed(self.name)
        points = suggest(self.arm.sampler, self.space(), self.told(heard), count, seed, len(heard))
        return [{name: _digits(value) for name, value in point.items()} for point in points]

    def finished(self, heard: Sequence[Mapping[str, Any]]) -> bool:
        return len(heard) >= self.arm.trials

    def schedule(self, params: Params) -> Schedule:
        curve = Silo(**self.args(params))
        follows = self.arm.pipeline is not None and self.arm.pipeline.follows_weights
        return curve if follows else Snapped(curve)  # a rate that follows the weights is known to the worker alone

    def args(self, params: Params) -> dict[str, Any]:
        return {**self.arm.pinned, **{name: value for name, value in params.items() if name in CONSTANTS}}

    def pipeline(self, params: Params) -> Ice | None:
        return self.arm.pipeline_at(params)


def _digits(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.4g}")


@dataclass(frozen=True)
class Snapped:
    """A schedule whose peaks lie on a lattice of `PER_DECADE` rates per decade."""

    schedule: Schedule

    def peak(self, cycle: int, pruned: Sequence[float]) -> float:
        step = round(math.log10(self.schedule.peak(cycle, pruned)) * PER_DECADE)
        return rounded(10 ** (step / PER_DECADE))
