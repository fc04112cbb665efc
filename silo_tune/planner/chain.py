"""One chain: its cycles in order, and what it knows of the open one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from silo_tune.planner.candidates import Heard, Proposal
from silo_tune.planner.unit import Unit


@dataclass(frozen=True)
class Candidate:
    """One candidate of an open round."""

    index: int
    proposal: Proposal
    unit: Unit


@dataclass
class Chain:
    """One (arm, seed), or one (arm, seed, trial) of a search: its cycles in order.

    Attributes:
        trial: of a search over whole chains, else None.
        params: the point that a trial stands for.
        cycle: the cycle that is open, or the number of closed cycles when none is.
        parent: key of the unit that the open cycle starts from.
        decided: the standing decision of the open round, met when a run resumes.
        candidates: of every round of the open cycle.
        asking: those of the open round.
        again: is the open round one that asks failed candidates again?
        told: outcomes of the open cycle by candidate.
        closed: for each closed cycle, the key that the arm continues with.
        rates: for each closed cycle, the winner's max_lr.
        gains: for each closed cycle, the winner's validation score, signed so that more is better.
        guessing: the same of guessing, as far as an outcome told it.
        best: winner of the last closed cycle, for display.
        ended: why the chain ended before its last cycle, or None.
        stopped: the cycle after which a search stopped this trial, or None.
        done: no more cycles to come.
    """

    arm: str
    seed: int
    trial: int | None = None
    params: Mapping[str, float] | None = None
    cycle: int = 0
    round: int = 1
    parent: str | None = None
    open: bool = False
    decided: dict[str, Any] | None = None
    candidates: list[Candidate] = field(default_factory=list)
    asking: list[Candidate] = field(default_factory=list)
    again: bool = False
    told: dict[int, dict[str, Any]] = field(default_factory=dict)
    closed: list[str | None] = field(default_factory=list)
    rates: list[float | None] = field(default_factory=list)
    gains: list[float | None] = field(default_factory=list)
    guessing: float = 0.0
    best: dict[str, Any] | None = None
    ended: str | None = None
    stopped: int | None = None
    done: bool = False

    @property
    def active(self) -> bool:
        return not self.done and self.ended is None

    @property
    def failed(self) -> bool:
        """Did the chain end because units failed?"""
        return self.ended is not None and any(outcome["status"] == "failed" for outcome in self.told.values())

    @property
    def heard(self) -> list[Heard]:
        """Candidates of the open cycle that have an outcome, in order."""
        return [Heard(c.proposal, self.told[c.index]) for c in self.candidates if c.index in self.told]

    @property
    def label(self) -> str:
        """Arm, seed and trial, for people."""
        return f"{self.arm} seed {self.seed}" + ("" if self.trial is None else f" trial {self.trial}")
