"""The ETA of a run, against the truth of simulated ones."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from silo_tune.planner.planner import Planner
from silo_tune.planner.unit import Unit
from silo_tune.run.progress import Progress
from silo_tune.store.snapshot import Snapshot
from silo_tune.study.model import Study
from tests.plain import MemoryJournal, World, study

STARTUP, EPOCH, REST = 20.0, 3.0, 1.0
LONG = {"cycles": 6, "replicates.seeds": [0, 1], "retrain.epochs": 4}
ALONE = {"arms.constant": None, "arms.linear": None, "arms.greedy": None, "arms.conditioned": None}
GUIDED = {"mode": "oracle", "guided": {"sampler": "random", "low": 0.01, "high": 1.0, "trials": 6, "batch": 2}}
TUNE = {"mode": "tune", "sampler": "random", "trials": 12, "batch": 3, "eps": [0.01, 0.3], "delta": 0.1, "rungs": [2]}
PILOT = {"mode": "schedule", "schedule": "constant"}
STUDIES: dict[str, dict[str, Any]] = {
    "schedules and grids": LONG,
    "a long dense training": {**LONG, "dense.epochs": 40},
    "short cycles": {**LONG, "retrain.epochs": 1, "dense.epochs": 1},
    "arms of different lengths": {**LONG, "arms.constant.epochs": 20},
    "one chain alone": {**LONG, **ALONE, "replicates.seeds": [0]},
    "a guided Oracle": {**LONG, "arms.guided": GUIDED},
    "a tuned arm": {**LONG, "arms.tuned": TUNE},
    "a pilot": {**LONG, "arms.constant": PILOT, "pilot": {"seeds": [100], "chains": 5, "low": 0.01, "high": 1.0}},
}


class Clock:
    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Simulated:
    """A session on so many slots, by a clock of its own. A slot's first unit waits for its worker.

    Attributes:
        seen: snapshots after each outcome, with the share of epochs that were trained by then.
    """

    made: Study
    slots: int
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    seen: list[tuple[float, Snapshot]] = field(default_factory=list)

    def __call__(self, most: int | None = None) -> Simulated:
        """Train to the end, or so many units."""
        self.clock, draws = Clock(), random.Random(1)
        progress = Progress(self.made, self.clock)
        planner = Planner(self.made, self.journal, listen=progress.changed)
        progress.begin(planner, self.slots)
        self.first = progress.snapshot()
        events: list[tuple[float, int, str, Unit, Any]] = []
        idle, cold, epochs, order, told = self.slots, self.slots, 0, 0, 0

        def at(moment: float, kind: str, unit: Unit, what: Any = None) -> None:
            nonlocal order
            order += 1
            heapq.heappush(events, (moment, order, kind, unit, what))

        while True:
            while idle and (unit := planner.ask()) is not None:
                at(self.clock.seconds + STARTUP * (idle <= cold), "begin", unit)
                idle, cold = idle - 1, min(cold, idle - 1)
                progress.began(unit)
            if not events or told == most:
                break
            self.clock.seconds, _, kind, unit, what = heapq.heappop(events)
            if kind == "begin":
                progress.began(unit)
                moment, each = self.clock.seconds + REST, EPOCH * draws.uniform(0.8, 1.25)
                for epoch in range(1, unit.epochs + 1):
                    moment += each
                    at(moment, "epoch", unit, epoch)
                at(moment, "end", unit, each * unit.epochs)
            elif kind == "epoch":
                progress.moved(unit.key, what)
            else:
                outcome = {**World().outcome(unit), "train_seconds": what, "wall_seconds": what + REST}
                self.journal.commit(outcome)
                progress.ended(unit.key, outcome)
                planner.tell(unit.key, outcome)
                idle, told, epochs = idle + 1, told + 1, epochs + unit.epochs
                if told % 20 == 0:
                    progress.recount()
                self.seen.append((epochs, progress.snapshot()))
        self.whole = epochs
        return self

    def at(self, share: float) -> tuple[Snapshot, float]:
        """The first snapshot after this share of the session's epochs, and the seconds that were left then."""
        found = next(snapshot for epochs, snapshot in self.seen if epochs >= share * self.whole)
        return found, self.seen[-1][1].elapsed - found.elapsed


@pytest.mark.parametrize("slots", [1, 2, 8])
@pytest.mark.parametrize("kind", STUDIES)
def test_after_a_tenth_of_a_run_its_eta_is_within_a_factor_of_two(kind: str, slots: int) -> None:
    session = Simulated(study(STUDIES[kind]), slots)()
    assert session.first.eta is None  # nothing was measured yet
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        found, left = session.at(share)
        assert left == 0 or found.eta is not None
        assert left / 2 <= (found.eta or 0.0) <= 2 * left, share


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 2, 8])
@pytest.mark.parametrize("kind", STUDIES)
def test_a_resumed_run_expects_what_is_left_from_its_start(kind: str, slots: int) -> None:
    made = study(STUDIES[kind])
    whole = len(Simulated(made, slots)().seen)
    first = Simulated(made, slots)(most=whole // 3)
    session = Simulated(made, slots, first.journal)()
    assert session.first.units is not None
    assert session.first.units.reused == whole // 3
    left = session.seen[-1][1].elapsed
    assert session.first.eta is not None  # by what was trained before
    assert left / 2 <= session.first.eta <= 2 * left
    found, left = session.at(0.1)
    assert found.eta is not None
    assert left / 2 <= found.eta <= 2 * left
    assert found.units is not None
    assert found.units.whole == whole // 3 + found.units.done


def test_what_a_unit_under_way_has_done_counts_before_it_ends() -> None:
    made = study({**STUDIES["one chain alone"], "dense.epochs": 40})
    clock, journal = Clock(), MemoryJournal()
    progress = Progress(made, clock)
    planner = Planner(made, journal, listen=progress.changed)
    progress.begin(planner, 1)
    unit = planner.ask()
    assert unit is not None
    progress.began(unit)
    left = []
    for epoch in (1, 2, 20):
        clock.seconds = 1000.0 + EPOCH * epoch
        progress.moved(unit.key, epoch)
        left.append(progress.snapshot().eta)
    assert left[0] is None  # one sign of life measures nothing
    assert left[1:] == [pytest.approx(EPOCH * (40 - epoch + 5 * 4)) for epoch in (2, 20)]
