"""`--retry-failed`: chains that ended for want of failed units go on, and everything that was decided stays."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, cast

import pytest

from silo_tune.planner.forecast import forecast
from silo_tune.planner.layout import Layout
from silo_tune.planner.planner import Planner
from silo_tune.planner.unit import Unit
from silo_tune.results.rows import rows
from silo_tune.store.run_folder import Run
from silo_tune.study.model import Study
from tests.plain import Drive, MemoryJournal, World, resolved, study

GUIDED = {"arms.guided": {"mode": "oracle", "guided": {"sampler": "random", "low": 0.01, "high": 1.0, "trials": 4}}}


def start(made: Study, journal: MemoryJournal, world: World, again: bool = False) -> tuple[Planner, Drive]:
    planner = Planner(made, journal, retry_failed=again)
    drive = Drive(journal.commit, world, random.Random(0))
    drive(planner)
    return planner, drive


def table(made: Study, journal: MemoryJournal) -> list[dict[str, Any]]:
    return list(rows(cast(Run, journal), made))


def failing(when: Callable[[Unit], bool]) -> World:
    return World(lambda unit: "failed" if when(unit) else "ok")


@pytest.mark.parametrize("cycle", [0, 1, 3])
def test_a_run_whose_failed_units_train_at_last_has_the_table_of_one_without_failures(cycle: int) -> None:
    made, smooth, bumpy = study(GUIDED), MemoryJournal(), MemoryJournal()
    start(made, smooth, World())
    ended, _ = start(made, bumpy, failing(lambda unit: unit.cycle == cycle))
    assert all(chain.ended for chain in ended.chains.values() if chain.arm != "conditioned")
    planner, drive = start(made, bumpy, World(), again=True)
    assert all(chain.done for chain in planner.chains.values())
    assert len(set(drive.asked)) == len(drive.asked)
    assert table(made, bumpy) == table(made, smooth)


def test_nothing_is_reopened_without_the_wish_to_and_what_was_reopened_stays() -> None:
    made, journal = study(), MemoryJournal()
    start(made, journal, failing(lambda unit: unit.cycle == 2))
    _, drive = start(made, journal, World())
    assert drive.asked == []
    start(made, journal, World(), again=True)
    kept = dict(journal.decisions)
    for again in (False, True):
        planner, drive = start(made, journal, World(), again)
        assert drive.asked == []
        assert all(chain.done for chain in planner.chains.values())
    assert journal.decisions == kept


def test_units_that_fail_again_are_tried_once_a_session() -> None:
    made, journal = study(), MemoryJournal()
    never = failing(lambda unit: unit.cycle == 1)
    start(made, journal, never)
    for number in (2, 3):
        planner, drive = start(made, journal, never, again=True)
        assert planner.chains["silo", 0].ended
        assert len(drive.asked) == len(set(drive.asked)) > 0
        assert journal.decision("silo", 0, 1, number) is not None
        assert journal.decision("silo", 0, 1, number + 1) is None
    start(made, journal, World(), again=True)
    assert {row["status"] for row in table(made, journal)} == {"ok"}


def test_a_failed_rate_beside_a_winner_and_a_diverged_chain_stay_as_they_are() -> None:
    made, journal = study(), MemoryJournal()

    def fate(unit: Unit) -> str:
        if unit.cycle == 1 and resolved(unit) == 0.1:
            return "failed"  # other rates of the Oracles win this cycle
        return "diverged" if unit.cycle == 2 and resolved(unit) == 0.03 else "ok"

    ended, _ = start(made, journal, World(fate))
    kept = dict(journal.decisions)
    planner, drive = start(made, journal, World(), again=True)
    assert drive.asked == []
    assert journal.decisions == kept
    assert {w: c.ended for w, c in planner.chains.items()} == {w: c.ended for w, c in ended.chains.items()}


def test_a_session_that_is_stopped_amid_a_retry_tries_again_only_on_wish() -> None:
    made, journal = study(), MemoryJournal()
    start(made, journal, failing(lambda unit: unit.cycle == 2))
    Drive(journal.commit, slots=1)(Planner(made, journal, retry_failed=True), 1)
    first = len(journal.results)
    planner, _ = start(made, journal, World())
    assert sum(chain.ended is not None for chain in planner.chains.values()) > 0
    start(made, journal, World(), again=True)
    assert len(journal.results) > first
    assert {row["status"] for row in table(made, journal)} == {"ok"}


def test_the_forecast_of_a_reopened_run_counts_every_unit_once() -> None:
    made, journal = study(), MemoryJournal()
    start(made, journal, failing(lambda unit: unit.cycle == 2))
    before, _ = forecast(Layout(made), journal)
    assert sum(arm.to_train for arm in before.values()) == 0  # what failed is decided
    start(made, journal, World(), again=True)
    after, _ = forecast(Layout(made), journal)
    assert sum(arm.to_train for arm in after.values()) == 0
    assert sum(arm.units - arm.shared for arm in after.values()) == len(journal.results)
