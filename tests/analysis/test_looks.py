"""Seeds until decided: levels, verdicts over looks, dropped rates; error rates and power by simulation."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silo_analysis.answers.headline import headline
from silo_analysis.answers.missing import notes
from silo_analysis.estimates import containment
from silo_analysis.estimates.oracle import OracleCycle
from silo_analysis.estimates.sequential import (
    SPENT,
    LookPlan,
    adjusted,
    dropped_at,
    judge_looks,
    levels,
    levels_of,
    look_at,
)
from silo_analysis.estimates.summary import summarise
from silo_analysis.replay.replayed_looks import replay_looks
from silo_tune.results.records import read
from silo_tune.study import model
from silo_tune.study.model import Study
from silo_tune.study.parts import Replicates
from tests.analysis.builder import make_frame, make_study, oracle_cycle_of

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PLANS = [(5, 10), (6, 12, 18), (5, 10, 15, 20)]
WORLDS = list(runpy.run_path(str(DOCS / "error_rates.py"))["WORLDS"])
TOLERANCE = 0.005


@pytest.fixture(scope="module")
def simulation() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        return runpy.run_path(str(DOCS / "looks.py"))


# --- by simulation ---


@pytest.mark.slow
def test_the_tables_are_as_they_are_generated(simulation: dict[str, Any]) -> None:
    text = (DOCS / "concepts" / "how-many-seeds.md").read_text(encoding="utf-8")
    assert simulation["filled"](text) == text, "run `python docs/looks.py`"


@pytest.mark.slow
@pytest.mark.parametrize("looks", PLANS)
@pytest.mark.parametrize("world", WORLDS)
def test_a_wrong_verdict_is_rarer_than_five_in_a_hundred(
    simulation: dict[str, Any], world: str, looks: tuple[int, ...]
) -> None:
    assert max(simulation["errors"](world, looks)) <= 0.05


@pytest.mark.parametrize("looks", PLANS)
@pytest.mark.parametrize("world", WORLDS)
def test_a_wrong_verdict_is_rare_in_few_runs(simulation: dict[str, Any], world: str, looks: tuple[int, ...]) -> None:
    assert max(simulation["errors"](world, looks, runs=400)) <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / 400)


def test_after_holm_anything_wrong_is_rarer_than_five_in_a_hundred(simulation: dict[str, Any]) -> None:
    """In the table, which is as it is generated."""
    text = (DOCS / "concepts" / "how-many-seeds.md").read_text(encoding="utf-8")
    table = text.partition("<!-- looks-family -->\n")[2].partition("<!-- end -->")[0].splitlines()[2:]
    cells = [cell.strip() for line in table for cell in line.strip("| ").split("|")[1:]]
    assert len(cells) == 6 * len(WORLDS)
    worst = max(0.0 if cell == "never" else float(cell) for cell in cells)
    assert worst / 100 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / simulation["FAMILIES"])


@pytest.mark.parametrize("world", ["normal", "skewed: few large losses", "schedule collapses, 30 %"])
def test_after_holm_anything_wrong_is_rare_in_few_runs(simulation: dict[str, Any], world: str) -> None:
    wrong = simulation["family_errors"](world, PLANS[-1], families=100)
    assert max(wrong) <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / 100)


def test_looks_speak_nearly_as_often_as_fixed_seeds_and_sooner(simulation: dict[str, Any]) -> None:
    for means, inside in simulation["cases"]().values():
        fixed, right, seeds, share = simulation["power"](0.0025, means, inside, runs=500)
        assert right > fixed - 0.01
        assert seeds < 12
        assert share < 0.6


# --- levels ---


@pytest.mark.parametrize("looks", [(10,), *PLANS, (5, 6, 7, 8, 9, 10)])
def test_brownian_motion_crosses_the_levels_as_often_as_is_spent(looks: tuple[int, ...]) -> None:
    steps = np.diff((0, *looks))
    paths = (np.random.default_rng(0).standard_normal((200_000, len(looks))) * np.sqrt(steps)).cumsum(axis=1)
    bounds = np.array([math.sqrt(2) * _erfinv(1 - 2 * level) for level in levels(looks)])
    crossed = (paths / np.sqrt(looks) > bounds).any(axis=1).mean()
    assert crossed == pytest.approx(SPENT, abs=0.0015)


def _erfinv(x: float) -> float:
    from scipy import special

    return float(special.erfinv(x))


def test_an_adjusted_p_value_is_below_five_percent_exactly_below_the_level_of_its_look() -> None:
    for looks in PLANS:
        for number, level in enumerate(levels_of(looks), 1):
            ps = [adjusted(p, looks, number) for p in (0.0, level * 0.5, level * 0.999, level * 1.001, level * 2, 1.0)]
            assert ps == sorted(ps)
            assert [p < 0.05 for p in ps] == [True, True, True, False, False, False]


def test_a_look_takes_as_many_seeds_as_a_verdict() -> None:
    assert model.FEWEST_AT_A_LOOK == containment.FEWEST_SEEDS


# --- one cycle ---


def test_its_verdicts_are_those_of_the_simulation(simulation: dict[str, Any]) -> None:
    looks, middle = (5, 10, 15, 20), 4
    rng = np.random.default_rng(1)
    means = rng.choice([0.0, 0.003, -0.003, 0.012, -0.02, -0.05], size=(150, 1, 8))
    gains = means + rng.choice([0.001, 0.003, 0.006], size=(150, 1, 1)) * rng.standard_normal((150, 20, 8))
    ended = simulation["run_looks"](gains, TOLERANCE, looks)
    plan = LookPlan(looks, tuple(range(20)), len(looks))
    rates = np.geomspace(0.01, 1.0, 9)
    names = []
    for run, gain in enumerate(gains):
        val = 0.9 + np.insert(gain, middle, 0.0, axis=1)
        asked = np.arange(9) != middle
        found = judge_looks(oracle_cycle_of(val, rates, {"silo": rates[middle]}, asked), "silo", TOLERANCE, plan)
        assert (found.verdict.name == "inside", found.verdict.name == "outside") == (
            ended.inside[run],
            ended.outside[run],
        )
        assert looks[found.look - 1] == ended.seeds[run]
        names.append((found.verdict.name, len(found.dropped) > 0))
    assert {name for name, _ in names} == {"inside", "outside", "undetermined"}
    assert {dropped for _, dropped in names} == {True, False}


def _cycle(means: list[float], seeds: int = 5, lost: tuple[int, ...] = ()) -> OracleCycle:
    noise = 0.001 * np.random.default_rng(3).standard_normal((seeds, len(means)))
    rates = np.geomspace(0.01, 1.0, len(means))
    collapsed = np.zeros((seeds, len(means)), dtype=bool)
    collapsed[:, list(lost)] = True
    return oracle_cycle_of(0.9 + np.array(means) + noise, rates, {"silo": rates[3]}, collapsed=collapsed)


def test_far_rates_are_dropped_but_for_the_best_its_neighbours_and_tested_values() -> None:
    cycle = _cycle([-0.1, -0.1, -0.1, -0.1, -0.1, 0.0, -0.1, -0.1, -0.003], lost=(7,))
    assert dropped_at(cycle, TOLERANCE).keys() == {float(cycle.rates[i]) for i in (0, 1, 2, 7)}


def test_nothing_is_dropped_below_five_seeds_or_within_the_tolerance() -> None:
    assert dropped_at(_cycle([-0.1, -0.1, -0.1, 0.0, -0.1, -0.1, -0.1], seeds=4), TOLERANCE) == {}
    assert dropped_at(_cycle([-0.004, -0.004, -0.004, 0.0, -0.004, -0.004, -0.004]), TOLERANCE) == {}


def test_a_dropped_rate_counts_with_the_p_value_of_its_look() -> None:
    plan = LookPlan((5, 10), tuple(range(10)), 2)
    cycle = _cycle([-0.1, -0.1, -0.001, 0.0, -0.001, -0.1, -0.1], seeds=10)
    dropped = dropped_at(plan.seen(cycle, 1), TOLERANCE)
    assert dropped
    val = np.array(cycle.val)
    val[5:, [i for i, rate in enumerate(cycle.rates) if float(rate) in dropped]] = np.nan  # not trained any more
    found = judge_looks(oracle_cycle_of(val, cycle.rates, cycle.tested), "silo", TOLERANCE, plan).verdict
    assert found.name == "inside"
    assert found.p_inside is not None
    assert 2 * max(dropped.values()) <= found.p_inside < 0.05


def test_a_verdict_says_at_which_look_it_fell_and_does_not_change_after() -> None:
    plan = LookPlan((5, 10, 15), tuple(range(15)), 3)
    cycle = _cycle([-0.1, -0.1, -0.001, 0.0, -0.001, -0.1, -0.1], seeds=15)
    found = judge_looks(cycle, "silo", TOLERANCE, plan)
    assert (found.verdict.name, found.decided) == ("inside", True)
    assert found.verdict.reason.startswith(f"sequential, look {found.look} of 3, {plan.looks[found.look - 1]} seeds: ")
    later = np.array(cycle.val)
    later[plan.looks[found.look - 1] :, 5] += 0.3  # what comes after says otherwise
    again = judge_looks(oracle_cycle_of(later, cycle.rates, cycle.tested), "silo", TOLERANCE, plan)
    assert again == found


# --- a study ---


def until_decided(study: Study, *looks: int) -> Study:
    replicates = Replicates(seeds=study.replicates.seeds, until="decided", looks=looks)
    return study.model_copy(update={"replicates": replicates})


def test_a_look_follows_from_the_rows_of_its_seeds_in_any_order() -> None:
    study = until_decided(make_study(seeds=10, cycles=4), 5, 10)
    frame = make_frame(study)
    body = look_at(frame, study, 1)
    mixed = frame.sample(frac=1.0, random_state=0)
    assert look_at(mixed[mixed["seed"] < 5], study, 1) == look_at(mixed, study, 1) == body
    assert body["seeds"] == [0, 1, 2, 3, 4]
    assert body["oracle"] == "oracle-at-silo"
    assert set(body["verdicts"]) == {"1", "2", "3"}
    assert body["dropped"]
    assert look_at(frame, study, 2)["over"] is True


def test_a_report_tells_the_verdicts_of_its_looks_and_misses_no_seed_that_none_called_for() -> None:
    study = until_decided(make_study(seeds=20, cycles=4), 5, 10, 20)
    replayed = replay_looks(make_frame(study, noise=0.0005, shared_noise=0.001), study, study.looks)
    assert len(replayed.looks) < 3
    summary = summarise(replayed.rows, study, looks=len(replayed.looks))
    own = summary.verdicts[(summary.verdicts["arm"] == "silo") & (summary.verdicts["oracle"] == "oracle-at-silo")]
    assert dict(zip(own["cycle"].astype(str), own["verdict"], strict=True)) == replayed.looks[-1]["verdicts"]
    assert own["reason"].str.startswith("sequential, look ").all()
    assert summary.study == study
    assert not any("No rows yet" in line for line in notes(summary))
    assert headline(summary).endswith(f"{len(summary.seeds)} seeds (until decided: look {summary.looks} of 3)")
    assert summarise(replayed.rows, study).verdicts.equals(summary.verdicts)


def test_a_look_that_was_not_made_says_nothing() -> None:
    study = until_decided(make_study(seeds=10, cycles=3), 5, 10)
    summary = summarise(make_frame(study), study, looks=0)
    assert set(summary.verdicts["verdict"]) == {"undetermined"}
    assert set(summary.verdicts["reason"]) == {"no look was made yet"}


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "most"), [(0.003, 0.4), (0.005, 0.45), (0.01, 0.75)])
def test_a_rising_band_keeps_its_verdicts_at_a_share_of_the_trials(noise: float, most: float) -> None:
    def band(cycle: int, max_lr: float) -> float:
        off = max(0.0, abs(math.log10(max_lr / (0.1 * 4 ** min(1.0, cycle / 7)))) - 0.25)
        return max(0.1, 0.95 - 0.002 * cycle - 0.25 * off**2)

    grid = {"low": 0.01, "high": 1.0, "points": 9}
    arms = {
        "silo": {"mode": "schedule", "schedule": {"name": "silo", "eps": 0.1, "delta": 0.4}},
        "constant-eps": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.1}},
        "constant-eps-delta": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.5}},
        "linear": {"mode": "schedule", "schedule": {"name": "linear", "start": 0.1, "end": 0.5, "over": 7}},
        "oracle-greedy": {"mode": "oracle", "grid": grid},
        "oracle-conditioned": {"mode": "oracle", "prefix": "arm:silo", "grid": grid},
    }
    study = make_study(arms, seeds=20, cycles=13, tolerance=0.02)
    replayed = replay_looks(make_frame(study, band, noise=noise), study, (5, 10, 15, 20))
    assert replayed.kept == len(replayed.verdicts) == 12
    assert replayed.share < most


def test_the_fashion_record_keeps_its_verdicts() -> None:
    recorded = read(str(ROOT / "experiments" / "records" / "2026-11-25-fashion-mnist"))
    replayed = replay_looks(recorded.frame, recorded.study, (5, 7, 10))
    assert replayed.kept == len(replayed.verdicts) == 8
    assert replayed.share < 0.7
