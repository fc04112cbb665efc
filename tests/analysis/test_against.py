"""The judged schedule against every other schedule arm: tables made by hand, where the differences are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from silo_analysis.estimates.against import against_table, others, outcome
from silo_analysis.estimates.frames import AGAINST
from silo_analysis.estimates.needed import seeds_for_verdict
from silo_analysis.estimates.regret import chain_rows
from silo_analysis.estimates.stats import holm
from silo_analysis.estimates.summary import summarise
from silo_analysis.estimates.typical import two_sided_p
from silo_analysis.figures.draw_against import against_figure, controls_figure, shortened, signed
from silo_tune.results.table import make_table
from silo_tune.study.model import Study
from tests.analysis.builder import ARMS, diverged, failed, make_frame, make_study, oracle_cycle_of

SCHEDULES = {name: ARMS[name] for name in ("silo", "low", "high")}
REMAINING = (1.0, 0.8, 0.64, 0.512)
Accuracy = Callable[[str, int, int], float | None]  # (arm, seed, cycle) → test accuracy


def study_of(seeds: int = 3, arms: Any = SCHEDULES) -> Study:
    return make_study(arms, seeds=seeds, cycles=4)


def chains(accuracy: Accuracy, seeds: int = 3, arms: Any = SCHEDULES) -> pd.DataFrame:
    return make_table(
        [
            {
                "arm": arm, "mode": "schedule", "seed": seed, "cycle": cycle, "candidate": 0, "winner": True,
                "status": "ok" if accuracy(arm, seed, cycle) is not None else "diverged", "weights_remaining": left,
                "test_score": accuracy(arm, seed, cycle),
            }
            for arm in arms
            for seed in range(seeds)
            for cycle, left in enumerate(REMAINING)
        ]
    )  # fmt: skip


def rows_of(accuracy: Accuracy, seeds: int = 3) -> dict[tuple[str, int | None], Any]:
    """(arm, cycle or None) → row."""
    found = against_table(chains(accuracy, seeds), study_of(seeds)).to_dict("records")
    return {(row["arm"], None if pd.isna(row["cycle"]) else row["cycle"]): row for row in found}


def known(arm: str, seed: int, cycle: int) -> float | None:
    """Against low the judged schedule is better by 1, 2, 3 points in the seeds at every cycle; against high worse."""
    base = 0.8 + 0.01 * cycle + 0.02 * seed
    return base - {"silo": 0.0, "low": 0.01 * (1 + seed), "high": -0.02}[arm]


# --- numbers ---


def test_above_0_the_judged_schedule_is_better() -> None:
    rows = rows_of(known)
    assert rows["low", None]["difference"] == pytest.approx(0.02)
    assert rows["high", None]["difference"] == pytest.approx(-0.02)
    assert rows["high", None]["outcome"] == "worse"


def test_the_interval_is_that_of_a_paired_t_test_over_seeds() -> None:
    row = rows_of(known)["low", None]
    half = 4.302652729911275 * 0.01 / math.sqrt(3)  # two-sided 95 % t of two degrees of freedom
    assert (row["low"], row["high"]) == pytest.approx((0.02 - half, 0.02 + half))
    assert row["p"] == pytest.approx(scipy_stats.ttest_1samp([0.01, 0.02, 0.03], 0).pvalue)
    assert (row["n_seeds"], row["left_out"]) == (3, 0)


def test_what_all_arms_share_in_a_seed_cancels() -> None:
    shifted = rows_of(lambda arm, seed, cycle: (known(arm, seed, cycle) or 0) + 0.05 * seed * cycle)
    assert shifted["low", None]["difference"] == pytest.approx(0.02)
    assert shifted["low", None]["spread"] == pytest.approx(0.01)


def test_the_overall_difference_is_over_cycles_from_2_on() -> None:
    late = rows_of(lambda arm, seed, cycle: 0.8 - (0.1 * cycle if arm == "low" else 0.0))
    assert late["low", None]["difference"] == pytest.approx((0.2 + 0.3) / 2)
    assert [late["low", cycle]["difference"] for cycle in (1, 2, 3)] == pytest.approx([0.1, 0.2, 0.3])
    assert ("low", 0) not in late  # the dense cycle is shared


def test_arms_with_the_same_units_differ_by_nothing() -> None:
    row = rows_of(lambda arm, seed, cycle: 0.8 + 0.01 * seed)["low", None]
    assert (row["difference"], row["p"], row["outcome"]) == (0.0, 1.0, "equivalent")


def test_holm_is_over_arms_overall_and_over_arms_and_cycles_by_cycle() -> None:
    study = make_study({name: ARMS[name] for name in ("silo", "low", "high", "ramp")})
    table = against_table(chain_rows(make_frame(study)), study)
    tested = table[table["outcome"] != "identical"]  # low is where the S starts
    for part in (tested[tested["cycle"].isna()], tested[tested["cycle"].notna()]):
        for name in ("p", "p_equivalent"):
            assert part[f"{name}_holm"].tolist() == pytest.approx(holm(part[name].tolist()))
    assert (len(tested[tested["cycle"].isna()]), len(tested[tested["cycle"].notna()])) == (3, 3 * 8 - 1)


def test_arms_that_trained_the_same_units_at_one_cycle_are_identical_there_and_nowhere_else() -> None:
    found = summarise(make_frame(study := make_study(cycles=4)), study)
    rows = {(row["arm"], row["cycle"]): row for row in found.against.to_dict("records") if not pd.isna(row["cycle"])}
    assert [rows["low", cycle]["outcome"] == "identical" for cycle in (1, 2, 3)] == [True, False, False]
    assert not any(rows["high", cycle]["outcome"] == "identical" for cycle in (1, 2, 3))
    tests = ("p", "p_holm", "p_equivalent", "p_equivalent_holm", "needed_low")
    assert all(pd.isna(rows["low", 1][name]) for name in tests)
    assert "identical" not in set(found.against.loc[found.against["cycle"].isna(), "outcome"])
    figure: Any = against_figure(found)
    assert [text.get_text() for text in figure.axes[1].texts].count("=") == 1
    assert figure.axes[1].get_title().endswith("=: the same trials")


def test_a_seed_with_units_of_its_own_makes_a_difference_a_test() -> None:
    study = make_study(cycles=4)
    other = make_frame(study, spoil=lambda row: {"key": "another"} if (row["arm"], row["seed"]) == ("low", 1) else {})
    rows = against_table(chain_rows(other), study)
    assert rows.loc[(rows["arm"] == "low") & (rows["cycle"] == 1), "outcome"].tolist() == ["equivalent"]


def test_a_chain_that_diverged_is_identical_as_long_as_its_last_unit_is_the_same() -> None:
    study = make_study(cycles=4)
    lost = make_frame(
        study, spoil=lambda row: diverged() if row["arm"] in ("silo", "low") and row["cycle"] == 1 else {}
    )
    ends = lost[~(lost["arm"].isin(["silo", "low"]) & (lost["cycle"] > 1))]
    rows = against_table(chain_rows(ends), study)
    assert set(rows.loc[rows["arm"] == "low", "outcome"]) == {"identical"}
    assert "identical" not in set(rows.loc[rows["arm"] == "high", "outcome"])


@pytest.mark.parametrize(
    ("difference", "p", "p_equivalent", "said"),
    [
        (0.01, 0.04, 1.0, "better"),
        (-0.01, 0.04, 1.0, "worse"),
        (0.01, 0.05, 1.0, "undetermined"),
        (0.001, 0.3, 0.04, "equivalent"),
        (0.001, 0.01, 0.01, "better"),  # a shown difference, however small
        (0.01, None, None, "undetermined"),
    ],
)
def test_what_corrected_p_values_say(difference: float, p: float | None, p_equivalent: float | None, said: str) -> None:
    assert outcome(difference, p, p_equivalent) == said


def test_where_no_arm_is_better_few_are_called_so() -> None:
    """Familywise errors of 19 equal arms in 300 runs: with Holm at most about 5 % of the runs."""
    draws, wrong = np.random.default_rng(0), 0
    for _ in range(300):
        p = [two_sided_p(row) for row in draws.standard_normal((19, 5))]
        wrong += any(outcome(1.0, each, None) == "better" for each in holm(p))
    assert wrong / 300 < 0.08


# --- what is missing ---


def test_a_seed_without_a_cycle_is_left_out_of_the_overall_difference_alone() -> None:
    lost = rows_of(lambda arm, seed, cycle: None if (arm, seed, cycle) == ("low", 1, 3) else known(arm, seed, cycle))
    assert lost["low", None]["difference"] == pytest.approx((0.01 + 0.03) / 2)
    assert (lost["low", None]["n_seeds"], lost["low", None]["left_out"]) == (2, 1)
    assert (lost["low", 2]["n_seeds"], lost["low", 3]["n_seeds"]) == (3, 2)
    assert lost["high", None]["n_seeds"] == 3


def test_two_seeds_have_an_interval_and_no_test() -> None:
    row = rows_of(lambda arm, seed, cycle: 0.8 - (0.01 if arm == "low" else 0.0), seeds=2)["low", None]
    assert (row["low"], row["outcome"]) == (pytest.approx(0.01), "undetermined")  # no spread, by chance
    assert pd.isna(row["p"])


def test_one_seed_has_a_difference_and_nothing_more() -> None:
    row = rows_of(known, seeds=1)["low", None]
    assert row["difference"] == pytest.approx(0.01)
    assert all(pd.isna(row[name]) for name in ("spread", "low", "high", "p", "p_holm", "p_equivalent_holm"))
    assert row["outcome"] == "undetermined"


def test_an_arm_without_results_is_null_and_never_0() -> None:
    rows = rows_of(lambda arm, seed, cycle: None if arm == "low" and cycle > 0 else known(arm, seed, cycle))
    assert pd.isna(rows["low", None]["difference"])
    assert pd.isna(rows["low", None]["outcome"])
    assert rows["low", None]["left_out"] == 3


def test_oracles_are_not_among_the_others() -> None:
    assert others(make_study()) == ["low", "high", "ramp"]
    assert others(make_study({name: ARMS[name] for name in ("low", "oracle")})) == []
    assert list(against_table(make_table([]), study_of()).columns) == list(AGAINST)


# --- seeds that a verdict takes ---


def needed(gain: Any) -> tuple[int, int] | None:
    """Of a cycle in which another rate gains so much on the schedule's in each seed."""
    own = np.linspace(0.8, 0.85, len(gain))
    cycle = oracle_cycle_of(np.stack([own, own + gain], axis=1), [0.03, 0.1], {"silo": 0.03})
    return seeds_for_verdict(cycle, "silo", 0.005)


def test_a_wider_spread_and_a_difference_near_the_tolerance_take_more_seeds() -> None:
    steps = np.array([-2, -1, 0, 1, 2])
    narrow, wide = needed(0.002 * steps), needed(0.006 * steps)
    near, beyond = needed(0.002 * steps + 0.004), needed(0.002 * steps + 0.009)
    assert narrow is not None
    assert wide is not None
    assert near is not None
    assert beyond is not None
    assert 5 <= narrow[0] < narrow[1]
    assert narrow[1] < wide[1]
    assert near[1] > narrow[1]
    assert beyond[1] < near[1]  # away from the tolerance on the other side


def test_no_pair_no_seeds_needed() -> None:
    assert needed(np.array([0.001])) is None
    cycle = oracle_cycle_of([[0.8, 0.9]] * 5, [0.03, 0.1], {"silo": 0.03}, collapsed=[[True, False]] * 5)
    assert seeds_for_verdict(cycle, "silo", 0.005) is None
    assert seeds_for_verdict(cycle, "low", 0.005) is None


# --- figures ---


def crowd(arms: int) -> dict[str, Any]:
    constant = {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.01}}
    rates = {f"arm-{i}": {**constant, "schedule": {"name": "constant", "max_lr": 0.01 * 1.2**i}} for i in range(arms)}
    return {"silo": ARMS["silo"], **rates}


@pytest.mark.parametrize("arms", [1, 20])
def test_a_row_per_arm_sorted_by_difference(arms: int) -> None:
    study = make_study(crowd(arms), seeds=2, cycles=4)
    found = summarise(make_frame(study), study)
    figure: Any = against_figure(found)
    overall = found.against[found.against["cycle"].isna()].sort_values("difference", ascending=False)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == overall["arm"].tolist()
    assert figure.axes[0].get_ylim()[0] > figure.axes[0].get_ylim()[1]  # the best for the schedule on top
    assert figure.axes[1].collections[0].get_array().size == arms * 3


def test_an_arm_that_is_far_off_leaves_room_for_the_others() -> None:
    far = {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 1000.0}}
    study = make_study({**SCHEDULES, "far": far}, cycles=4)
    found = summarise(make_frame(study), study)
    figure: Any = against_figure(found)
    high = figure.axes[0].get_xlim()[1]
    assert 0.5 < high < 10  # points; far is off by 80
    assert any(text.get_text().startswith("+8") for text in figure.axes[0].texts)


def test_no_other_arm_no_figure() -> None:
    study = make_study({"silo": ARMS["silo"], "oracle": ARMS["oracle"]}, cycles=4)
    found = summarise(make_frame(study), study)
    assert against_figure(found) is None
    assert controls_figure(found, {}) is None


def test_a_panel_per_control_with_a_hollow_mark_for_one_seed() -> None:
    study = make_study(seeds=1, cycles=4)
    figure: Any = controls_figure(summarise(make_frame(study), study), {"high": "constant", "ramp": "ramp"})
    assert len(figure.axes) == 2
    assert figure.axes[0].lines[-1].get_markerfacecolor() == "white"
    assert len(figure.axes[0].lines[-1].get_xdata()) == 3


def test_numbers_and_names_are_short() -> None:
    assert [signed(value) for value in (1.24, -12.4, -0.04, -0.004)] == ["+1.2", "−12", "−0.04", "0.0"]
    cut = {shortened(f"a-constant-with-a-very-long-name-{i}") for i in range(20)}
    assert len(cut) == 20
    assert max(map(len, cut)) <= 24


@pytest.mark.parametrize(("end", "n_seeds"), [(diverged, 5), (failed, 4)])
def test_a_chain_that_diverged_counts_and_one_whose_trial_failed_is_left_out(end: Any, n_seeds: int) -> None:
    study = make_study(cycles=4)
    frame = make_frame(study, spoil=lambda row: end() if row["arm"] == "low" and row["seed"] == 1 else {})
    table = summarise(frame, study).against
    rows = table[(table["arm"] == "low") & table["cycle"].isna()]
    assert (rows["n_seeds"].tolist(), rows["left_out"].tolist()) == ([n_seeds], [5 - n_seeds])
    # One seed of five at a guess moves the mean by some 16 points, and the typical difference hardly.
    assert (rows["mean"].item() > 0.1) == (end is diverged)
    assert abs(rows["difference"].item()) < 0.05
