"""Sources: asked for the candidates of one cycle in rounds, each knowing only the rounds that are complete."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from silo_tune.errors import FROM_OUTSIDE, BadInput, raised, shown
from silo_tune.planner.unit import canonical
from silo_tune.planner.winner import winner_of
from silo_tune.schedules.peaks import AdaptiveSchedule, Schedule, as_number, rounded

Peak = Mapping[str, Any] | None


@dataclass(frozen=True)
class Proposal:
    """One candidate peak.

    Attributes:
        peak: as in a unit; None beside a checkpoint.
        asked: True for a rate of the search itself, False for a tested arm's value that the search did not ask for.
        tests: the arms whose own value this is.
        repeat: 0, or the number of a re-evaluation with other random streams.
    """

    peak: Peak
    asked: bool = True
    tests: tuple[str, ...] = ()
    repeat: int = 0


class Heard(NamedTuple):
    """A candidate with its outcome (status, max_lr, val_score, val_loss, classes, …)."""

    proposal: Proposal
    outcome: Mapping[str, Any]


class CandidateSource(Protocol):
    """Candidates of one cycle, in rounds.

    Attributes:
        most: upper bound of the candidates of all rounds.
    """

    @property
    def most(self) -> int: ...

    def ask(self, heard: Sequence[Heard]) -> list[Proposal]:
        """The next round, given every candidate of the complete rounds in order; empty closes the cycle."""
        ...


@dataclass(frozen=True)
class OneRound:
    """All candidates at once: a fixed peak, or a whole grid."""

    proposals: tuple[Proposal, ...]

    @property
    def most(self) -> int:
        return len(self.proposals)

    def ask(self, heard: Sequence[Heard]) -> list[Proposal]:
        return [] if heard else list(self.proposals)


@dataclass(frozen=True)
class WinnerRetrained:
    """The candidates of another source, and in a round of its own the winner's rate once more.

    Attributes:
        source: whose winner.
        repeat: of the training that comes on top: one that the source does not ask for.
    """

    source: CandidateSource
    repeat: int

    @property
    def most(self) -> int:
        return self.source.most + 1

    def ask(self, heard: Sequence[Heard]) -> list[Proposal]:
        again = any(one.proposal.repeat == self.repeat for one in heard)
        return [] if again else self.source.ask(heard) or self.second(heard)

    def second(self, heard: Sequence[Heard]) -> list[Proposal]:
        """The winner's second training; none without a winner, or where it was asked for."""
        if any(one.proposal.repeat == self.repeat for one in heard):
            return []
        winner = winner_of(one.outcome for one in heard)
        if winner is None:
            return []
        won = next(one.proposal for one in heard if one.outcome["key"] == winner["key"])
        return [replace(won, repeat=self.repeat)]


def value_of(rate: float) -> dict[str, float]:
    """A fixed peak, rounded as keys are, so that the trained rate is the rate of the key."""
    return {"value": rounded(rate)}


def peak_of(schedule: Schedule | AdaptiveSchedule, cycle: int, pruned: Sequence[float], name: str) -> dict[str, Any]:
    """The peak that a schedule asks for at a cycle.

    Args:
        schedule: fixed or adaptive.
        cycle: the cycle.
        pruned: planned cumulative pruned fractions.
        name: the arm, for messages.

    Raises:
        BadInput: a user's schedule failed, or gave something that is not a rate above 0.
    """
    if isinstance(schedule, AdaptiveSchedule):
        rule, args = schedule.rule(cycle, pruned[: cycle + 1])
        return {"rule": rule, "args": canonical(args)}
    try:
        given = [schedule.peak(cycle, list(pruned[: cycle + 1])) for _ in range(2)]
        rates = [as_number(value) for value in given]
    except FROM_OUTSIDE:
        raise
    except BaseException as error:  # a user's function may raise anything
        raise BadInput(f"arms.{name}.schedule: {raised(error)} at cycle {cycle}") from error
    for value, rate in zip(given, rates, strict=True):
        if not 0 < rate < math.inf:
            raise BadInput(f"arms.{name}.schedule: max_lr {shown(value)} at cycle {cycle} is not a rate above 0")
    if rates[0] != rates[1]:
        raise BadInput(
            f"arms.{name}.schedule: it gave max_lr {shown(given[0])} at cycle {cycle}, and {shown(given[1])} when it "
            f"was asked again; a schedule is a function of cycle and pruned alone"
        )
    return value_of(rates[0])


def grid_source(rates: Sequence[float], tested: Mapping[str, float]) -> OneRound:
    """A grid, and beside it the tested arms' values, each trained once.

    Args:
        rates: the asked rates.
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
