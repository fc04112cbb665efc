from __future__ import annotations

import itertools
import random
import re
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from silo_tune.cli.training_commands import plan
from silo_tune.planner.forecast import ArmForecast, forecast
from silo_tune.planner.layout import Layout
from silo_tune.planner.planner import Planner
from silo_tune.planner.unit import Unit
from silo_tune.store.run_folder import Run
from silo_tune.study.model import Study
from silo_tune.study.study_file import load_study
from tests.plain import Drive, MemoryJournal, World, on_disk, resolved, spread, study, table

SCHEDULES_ONLY = {"arms.greedy": None, "arms.conditioned": None}
ALLR = {"mode": "schedule", "schedule": {"name": "allr", "max_lr": 0.1}}
OWN = {
    "arms.own": {"mode": "oracle", "own_dense": True, "grid": {"low": 0.01, "high": 1.0, "points": 3}},
    "arms.alone": {"mode": "schedule", "own_dense": True, "schedule": {"name": "constant", "max_lr": 0.05}},
}
SMALL = {"replicates.seeds": [0], "cycles": 3, "arms.allr": ALLR}


def look(made: Study, journal: MemoryJournal) -> tuple[dict[str, ArmForecast], int, bool]:
    arms, _ = forecast(Layout(made, checkpoint=made.dense.checkpoint), journal)
    return arms, sum(arm.to_train for arm in arms.values()), all(arm.exact for arm in arms.values())


def finish(made: Study, journal: MemoryJournal, world: World | None = None, tells: int | None = None) -> int:
    planner = Planner(made, journal, checkpoint=made.dense.checkpoint)
    Drive(journal.commit, world or World(), random.Random(3))(planner, tells)
    return planner.counts.trained + planner.counts.failed


@pytest.mark.parametrize(
    "changes",
    [
        SCHEDULES_ONLY,
        {**SCHEDULES_ONLY, "arms.allr": ALLR},
        {"arms.greedy": None},  # a conditioned Oracle's parents are fixed by its leader
        {"cycles": 2},  # no winner decides another key
        {"cycles": 1},
        {"dense": {"checkpoint": "w.safetensors"}, "cycles": 2},
    ],
)
def test_an_exact_forecast_is_what_a_run_then_trains(changes: dict[str, Any]) -> None:
    made = study(changes)
    _, to_train, exact = look(made, MemoryJournal())
    assert exact
    assert to_train == finish(made, MemoryJournal())


@pytest.mark.parametrize("changes", [{}, OWN, {"arms.conditioned": None}, {"arms.greedy.tests": []}])
def test_beyond_an_open_winner_the_forecast_is_an_upper_bound(changes: dict[str, Any]) -> None:
    made = study(changes)
    arms, to_train, exact = look(made, MemoryJournal())
    assert not exact
    assert not arms["greedy"].exact
    assert arms["silo"].exact
    assert to_train >= finish(made, MemoryJournal())


@pytest.mark.parametrize("world", [World(), World(spread)], ids=["all well", "mixed fates"])
def test_at_every_moment_what_is_left_is_at_most_what_is_forecast(world: World) -> None:
    made = study(SMALL)
    for stop in itertools.count():
        journal = MemoryJournal()
        trained = finish(made, journal, world, stop)
        _, to_train, exact = look(made, journal)
        left = finish(made, journal, world)
        assert left <= to_train
        if exact and world.fate is World().fate:
            assert left == to_train
        if trained < stop:
            break


@pytest.mark.parametrize("fate", ["ok", "diverged", "failed"])
def test_where_no_winner_is_open_the_forecast_is_exact_at_every_moment(fate: str) -> None:
    """A unit that failed for one arm, whose cycle is closed, is tried again for another, whose cycle is open."""
    made = study({"replicates.seeds": [0], "cycles": 2})
    world = World(lambda unit: fate if unit.cycle == 1 and resolved(unit) == 0.03 else "ok")
    for stop in range(9):
        journal = MemoryJournal()
        finish(made, journal, world, stop)
        _, to_train, exact = look(made, journal)
        assert exact
        assert to_train == finish(made, journal, world)


@pytest.mark.parametrize("changes", [{}, SMALL, OWN])
def test_a_finished_run_has_nothing_to_train(changes: dict[str, Any]) -> None:
    made, journal = study(changes), MemoryJournal()
    finish(made, journal)
    arms, to_train, exact = look(made, journal)
    assert exact
    assert to_train == 0
    assert all(arm.done == arm.units for arm in arms.values())
    assert sum(arm.units - arm.shared for arm in arms.values()) == len(journal.results)


@pytest.mark.parametrize("fate", ["diverged", "failed"])
def test_a_finished_run_with_failures_has_nothing_to_train(fate: str) -> None:
    made, journal = study(), MemoryJournal()
    finish(made, journal, World(lambda unit: fate if unit.cycle > 0 and resolved(unit) in (0.03, 1.0) else "ok"))
    assert Planner(made, journal).done
    _, to_train, exact = look(made, journal)
    assert exact
    assert to_train == 0


def test_a_chain_that_ended_is_not_forecast_beyond_its_end() -> None:
    made, journal = study(), MemoryJournal()
    finish(made, journal, World(lambda unit: "diverged" if unit.cycle == 1 else "ok"))
    arms, to_train, _ = look(made, journal)
    assert to_train == 0
    assert arms["silo"].units == 2 * 2
    assert arms["conditioned"].units == arms["conditioned"].done


def test_a_lost_result_is_forecast_to_be_trained_again() -> None:
    made, journal = study(), MemoryJournal()
    finish(made, journal)
    del journal.results[sorted(journal.results)[0]]
    assert look(made, journal)[1] == 1 == finish(made, journal)


def test_units_are_distinct_and_shared_ones_belong_to_the_first_arm() -> None:
    made = study({**SCHEDULES_ONLY, "arms.linear": None, "replicates.seeds": [0]})
    arms, to_train, _ = look(made, MemoryJournal())
    # The dense unit and cycle 1 (both at 0.03) are common; silo leaves 0.03 at cycle 2.
    assert (arms["silo"].units, arms["silo"].shared, arms["silo"].to_train) == (4, 0, 4)
    assert (arms["constant"].units, arms["constant"].shared, arms["constant"].to_train) == (4, 2, 2)
    assert to_train == 6


def test_a_conditioned_oracle_before_its_leader_is_forecast_alike() -> None:
    plain = study({"arms.greedy": None})
    turned = plain.model_copy(update={"arms": dict(reversed(plain.arms.items()))})
    (_, first, one), (_, second, two) = look(plain, MemoryJournal()), look(turned, MemoryJournal())
    assert first == second
    assert one is two is True


def test_forecasting_writes_nothing() -> None:
    made, journal = study(), MemoryJournal()
    finish(made, journal, tells=11)
    before = (dict(journal.decisions), dict(journal.results), set(journal.states), list(journal.swept))
    look(made, journal)
    assert (journal.decisions, journal.results, journal.states, journal.swept) == before


def test_the_seconds_are_those_of_the_units_that_are_done() -> None:
    made, journal = study(), MemoryJournal()
    seen: list[float] = []

    def remember(unit: Unit) -> str:
        seen.append(World().outcome(unit)["train_seconds"])
        return "ok"

    finish(made, journal, World(remember), 9)
    _, spent = forecast(Layout(made), journal)
    assert sorted(one.training for one in spent) == sorted(seen)


# --- silo-tune plan ---


def planned(file: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """Units to train as the command shows them."""
    plan(str(file), str(run), None, False, False)
    found = re.search(r"to train: (?:at most )?(\d+) trials", capsys.readouterr().out)
    assert found is not None
    return int(found[1])


def carry_on(file: Path, place: Path, tells: int | None = None) -> int:
    made, run = load_study(file), Run(str(place))
    planner = Planner(made, run, run.accept(made, {}))
    Drive(on_disk(run))(planner, tells)
    return planner.counts.trained


def test_a_plan_counts_what_the_run_will_train_also_after_an_arm_was_added(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, place = tmp_path / "study.toml", tmp_path / "run"
    file.write_text(tomli_w.dumps(table({"arms.linear": None, "arms.greedy": None})))
    assert planned(file, place, capsys) == carry_on(file, place)
    assert planned(file, place, capsys) == 0
    file.write_text(tomli_w.dumps(table({"arms.greedy": None})))
    expected = planned(file, place, capsys)
    assert expected == carry_on(file, place)
