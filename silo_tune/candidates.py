"""Where a cycle's candidates come from: a source is asked for rounds, knowing only the rounds that are complete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from silo_tune.errors import BadInput
from silo_tune.schedules import AdaptiveSchedule
from silo_tune.study import OracleArm, ScheduleArm, Study
from silo_tune.units import canonical

Peak = Mapping[str, Any] | None


@dataclass(frozen=True)
class Proposal:
    """One candidate peak.

    Attributes:
        peak: as in a unit; None beside a checkpoint.
        asked: True for a rate of the search itself, False for a tested arm's value that the search did not ask for.
        tests: the arms whose own value this is.
    """

    peak: Peak
    asked: bool = True
    tests: tuple[str, ...] = ()


class Source(Protocol):
    """Candidates of one cycle, in rounds."""

    def ask(self, told: Sequence[Mapping[str, Any]]) -> list[Proposal]:
        """The next round, given every outcome of the complete rounds in candidate order; empty closes the cycle."""
        ...


@dataclass(frozen=True)
class OneRound:
    """All candidates at once: a fixed peak, or a whole grid."""

    proposals: tuple[Proposal, ...]

    def ask(self, told: Sequence[Mapping[str, Any]]) -> list[Proposal]:
        return [] if told else list(self.proposals)


def value_of(rate: float) -> dict[str, float]:
    """A fixed peak, rounded as keys are, so that the trained rate is the rate of the key."""
    return {"value": float(f"{rate:.12g}")}


def peak_of(study: Study, name: str, cycle: int) -> dict[str, Any]:
    """The peak that a schedule arm asks for at a cycle.

    Raises:
        BadInput: a user's schedule cannot be imported, or gave something that is not a rate above 0.
    """
    arm = study.arms[name]
    assert isinstance(arm, ScheduleArm)
    schedule = study.schedule_of(arm)
    pruned = study.pruned[: cycle + 1]
    if isinstance(schedule, AdaptiveSchedule):
        name, args = schedule.rule(cycle, pruned)
        return {"rule": name, "args": canonical(args)}
    try:
        rate = schedule.peak(cycle, pruned)
    except Exception as error:  # a user's function may raise anything
        raise BadInput(f"arms.{name}.schedule: {type(error).__name__} at cycle {cycle}: {error}") from error
    if not 0 < rate < float("inf"):
        raise BadInput(f"arms.{name}.schedule: max_lr {rate} at cycle {cycle} is not a rate above 0")
    return value_of(rate)


def grid_source(rates: Sequence[float], tested: Mapping[str, float]) -> OneRound:
    """A grid, and beside it the tested arms' values, each trained once.

    Args:
        rates: the asked rates, rising.
        tested: arm → its max_lr at this cycle.
    """
    asked = [value_of(rate)["value"] for rate in rates]
    owners: dict[float, list[str]] = {}
    for arm, rate in tested.items():
        owners.setdefault(value_of(rate)["value"], []).append(arm)
    return OneRound(
        tuple(
            Proposal({"value": rate}, asked=rate in asked, tests=tuple(owners.get(rate, ())))
            for rate in sorted({*asked, *owners})
        )
    )


def source_for(study: Study, name: str, cycle: int, tests: Sequence[str]) -> Source:
    """The source of an arm's candidates at a cycle that the arm decides.

    Args:
        study: the study.
        name: the arm.
        cycle: the cycle (0 only for an arm with `own_dense`).
        tests: the arms whose values an Oracle tries at this cycle.
    """
    arm = study.arms[name]
    if isinstance(arm, OracleArm):
        tested = {test: peak_of(study, test, cycle)["value"] for test in tests}
        return grid_source(arm.grid.values(), tested)
    return OneRound((Proposal(peak_of(study, name, cycle)),))
