"""What a pilot proposes: even points, then where more is expected; as many for every arm, whatever it finds."""

from __future__ import annotations

import json
import math
import runpy
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from silo_tune.planner.planner import Planner
from silo_tune.planner.points import PilotPlan, plan_of
from silo_tune.planner.proposals import Position, next_positions, not_far_below, promising, spread
from silo_tune.results.searches import searches
from silo_tune.schedules.peaks import rounded
from silo_tune.store.run_folder import Run
from tests.plain import Drive, MemoryJournal, on_disk, study
from tests.test_searches import FEW, OPEN, RATES, Basin, run

DOCS = Path(__file__).parent.parent / "docs"


# --- even points ---


@pytest.mark.parametrize("constants", [1, 2, 3])
def test_any_number_of_first_points_is_even_and_a_later_round_continues_them(constants: int) -> None:
    whole = spread(40, constants, seed=3)
    assert whole == [*spread(10, constants, seed=3), *spread(30, constants, seed=3, first=10)]
    assert whole != spread(40, constants, seed=4)
    assert all(0 <= low <= high < 1 for point in whole for low, high in pairwise((*point, point[-1])))
    if constants == 1:
        for count in (5, 10, 40):
            at = sorted(point[0] for point in whole[:count])
            gaps = [b - a for a, b in pairwise([*at, at[0] + 1])]
            assert max(gaps) < 2.7 / count  # golden ratio squared over count: three gaps, none longer


def test_two_constants_get_as_many_levels_of_each_as_one_constant_gets() -> None:
    for constants in (1, 2, 3):
        for axis in range(constants):
            assert len({point[axis] for point in spread(10, constants, seed=1)}) == 10


def test_the_points_need_neither_scipy_nor_optuna() -> None:
    code = "import sys; from silo_tune.planner import proposals as p; p.spread(9, 2, 1); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"scipy", "optuna", "numpy"} & set(loaded)


# --- where more is expected ---


def test_a_guided_round_looks_near_the_best_and_beyond_an_edge_that_it_is_near() -> None:
    tried: list[Position] = [(0.05,), (0.35,), (0.65,), (0.95,)]
    inside = promising(tried, [0.5, 0.88, 0.9, 0.6], 2, seed=1)
    assert all(0.35 < at < 0.7 for (at,) in inside)
    beyond = promising(tried, [0.9, 0.8, 0.6, 0.3], 2, seed=1)
    assert any(at < 0 for (at,) in beyond)
    assert all(-0.25 <= at <= 1 for (at,) in beyond)


def test_how_far_a_collapsed_point_is_below_does_not_matter() -> None:
    tried: list[Position] = [(0.1,), (0.3,), (0.5,), (0.9,)]
    lower, lowest = [0.85, 0.9, 0.88, 0.5], [0.85, 0.9, 0.88, 0.1]
    assert promising(tried, lower, 2, seed=5) == promising(tried, lowest, 2, seed=5)
    assert not_far_below(lowest)[:3] == lowest[:3]


def test_points_of_which_nothing_is_known_are_followed_by_more_even_points() -> None:
    for value in (None, 0.1):  # all failed, or all guess
        first = next_positions([], 10, 2, 7, guided=True)
        later = next_positions([(point, value) for point in first], 10, 2, 7, guided=True)
        assert [*first, *later] == spread(6, 2, 7)


@pytest.mark.parametrize("chains", [3, 4, 7, 10, 25])
@pytest.mark.parametrize("guided", [True, False])
def test_the_rounds_sum_to_the_chains_and_are_few(chains: int, guided: bool) -> None:
    heard: list[tuple[Position, float | None]] = []
    rounds = []
    while asked := next_positions(heard, chains, 2, 1, guided):
        rounds.append(len(asked))
        heard += [(point, -abs(point[0] - 0.3) - abs(point[1] - 0.6)) for point in asked]
    assert sum(rounds) == chains
    assert len(rounds) == (1 if not guided else len(rounds)) <= 4


# --- equal tuning ---


def simulation() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "equal_tuning.py"))


@pytest.mark.slow
def test_arms_that_are_equally_good_end_equally_good_within_the_noise_if_guided_and_not_on_a_grid() -> None:
    losses, noise = simulation()["losses"], 0.2
    behind = {}
    for way in ("grid", "spread", "guided"):
        one, two, three = (losses(way, constants, noise, runs=150)[0] for constants in (1, 2, 3))
        behind[way] = (two - one, three - one)
    assert max(behind["guided"]) < noise < min(behind["grid"])
    assert behind["guided"][0] < noise / 2
    assert behind["guided"][1] < behind["spread"][1] < behind["grid"][1]


@pytest.mark.slow
def test_the_table_in_the_docs_is_what_its_script_makes() -> None:
    found = simulation()
    text = (DOCS / "how-to" / "pilot.md").read_text(encoding="utf-8")
    # Which of two nearly equal points is chosen may differ between machines.
    for old, new in zip(numbers(text), numbers(found["filled"](text)), strict=True):
        assert old == pytest.approx(new, abs=0.05)


def numbers(text: str) -> list[float]:
    block = text.split("<!-- proposals -->")[1].split("<!-- end -->")[0]
    words = block.replace("(+", " ").replace(")", " ").split()
    return [float(word) for word in words if word.replace(".", "").isdigit()]


@pytest.mark.parametrize("optimum", [0.004, 0.06, 1.5])
@pytest.mark.parametrize("proposals", ["spread", "guided"])
def test_every_arm_gets_the_same_chains_wherever_its_best_lies(optimum: float, proposals: str) -> None:
    made = study(
        {**OPEN, "pilot.proposals": proposals, "pilot.chains": 9, "arms.linear.schedule": {"name": "linear", "over": 3}}
    )
    journal, planner, _ = run(made, world=Steep(optimum=optimum))
    found = searches(journal, made)  # type: ignore[arg-type]
    assert planner.done
    assert [len(record.points) for record in found.values()] == [9, 9, 9]
    assert all(record.finished for record in found.values())
    assert len({number for _, number in journal.rounds}) == (4 if proposals == "guided" else 1)
    rates = [rate for record in found.values() for point in record.points for rate in point["params"].values()]
    outside = min(rates) < RATES["low"] * 0.99 or max(rates) > RATES["high"] * 1.01
    assert outside == (proposals == "guided" and optimum != 0.06) == any(one.extended for one in found.values())


class Steep(Basin):
    """A basin in which no rate diverges."""

    def outcome(self, unit: Any) -> dict[str, Any]:
        found = super().outcome(unit)
        rate = float(unit.peak["value"])
        return {**found, "status": "ok", "error": None, "val_loss": 1.0,
                "val_score": round(0.9 - 0.1 * math.log10(rate / self.optimum) ** 2, 6)}  # fmt: skip


def test_arms_with_as_many_constants_begin_with_the_same_points() -> None:
    other = {"mode": "schedule", "schedule": {"name": "linear", "over": 3}}
    made = study({**OPEN, "pilot.proposals": "guided", "arms.linear": other})
    one, two, ramp = (plan_of(made, arm).ask([]) for arm in ("constant", "silo", "linear"))
    assert two == ramp
    assert len(one) == len(two) == 3
    moved = study({**OPEN, "pilot.proposals": "guided", "arms.linear": other, "pilot.seeds": [102, 103]})
    assert plan_of(moved, "silo").ask([]) != two


# --- a study without the key ---


def test_a_study_without_the_key_is_the_grid_of_before() -> None:
    made = study(OPEN)
    plan = plan_of(made, "silo")
    assert isinstance(plan, PilotPlan)
    assert made.pilot is not None
    assert made.pilot.proposals == "grid"
    assert [tuple(point.values()) for point in plan.ask([])] == [
        (0.01, 0.01), (0.01, 0.1), (0.01, 1.0), (0.1, 0.1), (0.1, 1.0), (1.0, 1.0),
    ]  # fmt: skip


def test_a_run_from_before_the_key_was_there_resumes_as_it_began(tmp_path: Path) -> None:
    made = study({**OPEN, **FEW})
    run_ = Run(str(tmp_path))
    planner = Planner(made, run_, run_.accept(made, {"silo-tune": "0"}))
    Drive(on_disk(run_), Basin())(planner, 12)
    file = tmp_path / "study.toml"
    recorded = tomllib.loads(file.read_text())
    assert recorded["study"]["pilot"].pop("proposals") == "grid"
    recorded["run"].pop("sha256")  # as runs of then
    file.write_text(tomli_w.dumps(recorded))
    again = Run(str(tmp_path))
    assert again.check(made) == []
    planner = Planner(made, again, again.accept(made, {"silo-tune": "0"}))
    Drive(on_disk(again), Basin())(planner)
    fresh = MemoryJournal()
    run(made, fresh)
    assert searches(again, made) == searches(fresh, made)  # type: ignore[arg-type]


def test_a_round_keeps_what_each_seed_scored() -> None:
    journal, _, _ = run(study({**OPEN, **FEW}))
    for point in json.loads(journal.rounds["silo", 1])["points"]:
        assert rounded(sum(point["by_seed"].values()) / 2) == rounded(point["objective"])
        assert set(point["by_seed"]) == {"100", "101"}
