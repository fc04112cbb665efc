"""Do gradients narrow? Tables made by hand, where the answer is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from silo_analysis.estimates.mechanism import MEASURES, log_ratios, slope_of, slope_table, spread_table, watched_arms
from silo_analysis.estimates.regret import chain_rows
from silo_analysis.estimates.summary import Summary, summarise
from silo_analysis.figures import draw_figures
from silo_analysis.report.page import tables
from silo_tune.results.table import make_table
from silo_tune.study.model import Study
from tests.analysis.asking import said_missing, said_of
from tests.analysis.builder import ARMS, diverged, make_frame, make_study

SCHEDULES = {name: ARMS[name] for name in ("silo", "low", "ramp")}
REMAINING = (1.0, 0.8, 0.64, 0.512)


def study_of(seeds: int = 3, cycles: int = 4) -> Study:
    return make_study(SCHEDULES, seeds=seeds, cycles=cycles)


def by_hand(powers: dict[str, list[float]], arm: str = "silo") -> pd.DataFrame:
    """Chains of one arm, one per power: a spread is (2 + seed) times the weights remaining to that power."""
    rows = [
        {
            "arm": arm, "mode": "schedule", "seed": seed, "cycle": cycle, "candidate": 0, "status": "ok",
            "winner": True, "continued": False, "weights_remaining": left,
            **{measure: (2 + seed) * left ** found[seed] for measure, found in powers.items()},
        }
        for seed in range(len(next(iter(powers.values()))))
        for cycle, left in enumerate(REMAINING)
    ]  # fmt: skip
    return make_table(rows)


def slopes(frame: pd.DataFrame, study: Study) -> dict[tuple[str, str], Any]:
    rows = slope_table(log_ratios(frame, study)).to_dict("records")
    return {(row["arm"], row["measure"]): row for row in rows}


def without(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    return frame.assign(**{name: pd.Series(pd.NA, index=frame.index, dtype="Float64") for name in columns})


def mechanism_line(summary: Summary) -> str:
    return said_of(summary, "gradients")


# --- numbers ---


def test_a_power_law_gives_its_power_back() -> None:
    left = np.array(REMAINING)
    assert slope_of(left, 0.3 * np.log(left)) == pytest.approx(0.3)
    assert slope_of(left, 0.3 * np.log(left) - 5) == pytest.approx(0.3)  # the intercept is free
    assert slope_of(left[:2], np.array([0.0, math.log(0.5)])) == pytest.approx(math.log(0.5) / math.log(0.8))


def test_the_slope_is_one_number_per_seed_with_a_t_interval() -> None:
    found = slopes(by_hand({"grad_spread": [0.4, 0.5, 0.6]}), study_of())["silo", "grad_spread"]
    half = 4.302652729911275 * 0.1 / math.sqrt(3)  # two-sided 95 % t of two degrees of freedom
    assert found["slope"] == pytest.approx(0.5)
    assert (found["slope_low"], found["slope_high"]) == pytest.approx((0.5 - half, 0.5 + half))
    assert found["n_seeds"] == 3


@pytest.mark.parametrize(
    ("powers", "direction"),
    [
        ([0.4, 0.5, 0.6], "narrower"),
        ([-0.4, -0.5, -0.6], "wider"),
        ([-0.4, 0.1, 0.6], "undetermined"),
        ([0.0, 0.0, 0.0], "undetermined"),
        ([0.5, 0.5], "undetermined"),  # two seeds settle nothing
        ([0.5], "undetermined"),
    ],
)
def test_what_a_slope_says(powers: list[float], direction: str) -> None:
    found = slopes(by_hand({"grad_spread": powers}), study_of(len(powers)))
    assert found["silo", "grad_spread"]["direction"] == direction


def test_the_dense_cycle_is_no_point_of_the_line() -> None:
    frame = by_hand({"grad_spread": [0.5, 0.5, 0.5]})
    frame.loc[frame["cycle"] == 0, "grad_spread"] *= 10
    assert slopes(frame, study_of())["silo", "grad_spread"]["slope"] == pytest.approx(0.5)


def test_ratios_are_to_the_dense_cycle_of_the_same_seed() -> None:
    table = spread_table(log_ratios(by_hand({"grad_spread": [0.5, 0.5, 1.0]}), study_of()))
    assert table["cycle"].tolist() == [0, 1, 2, 3]
    assert table["ratio"].tolist() == pytest.approx([left ** (2 / 3) for left in REMAINING])
    assert table["log_ratio_spread"].iloc[0] == 0
    logs = np.log(0.8) * np.array([0.5, 0.5, 1.0])
    assert table["log_ratio_spread"].iloc[1] == pytest.approx(logs.std(ddof=1))


def test_only_the_judged_schedule_and_the_controls_are_watched() -> None:
    study = make_study()
    assert watched_arms(study) == ["silo", "low", "high", "ramp"]
    assert list(dict.fromkeys(summarise(make_frame(study), study).slopes["arm"])) == watched_arms(study)


# --- what is missing ---


def test_a_seed_needs_three_pruned_cycles_and_a_dense_one() -> None:
    study, frame = study_of(), by_hand({"grad_spread": [0.4, 0.5, 0.6]})
    short = frame[(frame["seed"] != 1) | (frame["cycle"] < 2)]
    assert slopes(short, study)["silo", "grad_spread"]["n_seeds"] == 2
    headless = frame[(frame["seed"] != 1) | (frame["cycle"] > 0)]
    assert slopes(headless, study)["silo", "grad_spread"]["n_seeds"] == 2
    assert len(slope_table(log_ratios(frame[frame["cycle"] < 3], study))) == 0


def test_a_training_that_collapsed_is_left_out() -> None:
    frame = by_hand({"grad_spread": [0.5, 0.5, 0.5]})
    told = {
        "classes": 10,
        "guess_score": 0.1,
        "guess_loss": math.log(10),
        "n_val": 400,
        "train_loss": 0.5,
        "val_score": 0.9,
    }
    frame = frame.assign(**{name: pd.Series(value, frame.index, frame[name].dtype) for name, value in told.items()})
    dead = (frame["seed"] == 1) & (frame["cycle"] == 3)
    frame.loc[dead, ["train_loss", "val_score", "grad_spread"]] = [math.log(10), 0.1, 1e-9]
    assert slopes(frame, study_of())["silo", "grad_spread"]["n_seeds"] == 2
    frame.loc[dead, "val_score"] = 0.5  # it learned, whatever its loss is
    assert slopes(frame, study_of())["silo", "grad_spread"]["n_seeds"] == 3


def test_a_diverged_cycle_is_left_out_of_the_slope() -> None:
    study = study_of(seeds=3, cycles=6)
    frame = make_frame(study, spoil=lambda row: diverged() if row["cycle"] == 4 and row["seed"] == 1 else {})
    whole, cut = (slopes(chain_rows(table), study)["silo", "grad_spread"] for table in (make_frame(study), frame))
    assert cut["n_seeds"] == 3
    assert cut["slope"] != whole["slope"]


def test_a_run_made_before_spreads_were_measured_says_so() -> None:
    study = study_of()
    frame = without(make_frame(study), *MEASURES)
    found = summarise(frame, study)
    assert mechanism_line(found) == ""
    assert any("whether gradients narrow is not answered" in note for note in said_missing(found))
    assert "spread" not in draw_figures(frame, found)


def test_too_few_cycles_are_said() -> None:
    study = study_of(cycles=3)
    found = summarise(make_frame(study), study)
    assert mechanism_line(found) == ""
    assert any("no seed with the 3 pruned cycles that a slope takes" in note for note in said_missing(found))


# --- sentences and figure ---


@pytest.mark.parametrize(
    ("powers", "said"),
    [
        (
            [0.4, 0.5, 0.6],
            "Under silo their standard deviation over surviving weights goes as the weights remaining to the",
        ),
        ([0.4, 0.5, 0.6], "power 0.50 (95 % interval 0.25 to 0.75, 3 seeds); at cycle 3, with 51.2 %"),
        ([0.4, 0.5, 0.6], "it is 0.72 times that of the dense network"),
        ([-0.4, -0.5, -0.6], "No, they widen (power −0.5"),
        ([-0.4, 0.1, 0.6], "Not settled (power 0.1"),
        ([0.5, 0.5], "Not settled (power 0.5"),
        ([0.5, 0.5], "It takes at least 3 seeds to settle it."),
        ([0.5], "power 0.50 (1 seed, so no interval)"),
    ],
)
def test_the_answer_comes_with_its_number(powers: list[float], said: str) -> None:
    assert said in mechanism_line(summarise(by_hand({"grad_spread": powers}), study_of(len(powers))))


def test_representations_before_and_after_normalisation_are_told_apart() -> None:
    powers = {
        "grad_spread": [0.4, 0.5, 0.6],
        "activation_spread": [-0.2, -0.3, -0.4],
        "activation_spread_norm": [0.1, -0.1, 0.05],
    }
    said = mechanism_line(summarise(by_hand(powers), study_of()))
    assert "before normalisation wider, power −0.30" in said
    assert "after it undetermined, power 0.05" in said
    bare = mechanism_line(summarise(without(by_hand(powers), "activation_spread_norm"), study_of()))
    assert "Hidden representations: wider, power −0.30" in bare


def test_controls_are_told_beside_the_schedule() -> None:
    both = pd.concat([by_hand({"grad_spread": [0.4, 0.5, 0.6]}, arm) for arm in ("silo", "low")], ignore_index=True)
    assert "Gradients under the controls: low narrower (0.50)." in mechanism_line(summarise(both, study_of()))


def test_a_crowd_of_arms_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("silo_analysis.answers.mechanism_words.MOST_NAMED", 0)
    both = pd.concat([by_hand({"grad_spread": [0.4, 0.5, 0.6]}, arm) for arm in ("silo", "low")], ignore_index=True)
    said = "Gradients under 1 other arm whose peaks are constant or a ramp: 1 narrower."
    assert said in mechanism_line(summarise(both, study_of()))


@pytest.mark.parametrize(("after_prune", "said"), [("keep", True), ("rewind", False)])
def test_that_longer_training_narrows_too_is_said_where_weights_are_kept(after_prune: str, said: bool) -> None:
    silo = {**SCHEDULES["silo"], "after_prune": after_prune}
    study = make_study({**SCHEDULES, "silo": silo}, seeds=3, cycles=4)
    found = mechanism_line(summarise(by_hand({"grad_spread": [0.4, 0.5, 0.6]}), study))
    assert found
    assert ("have trained for longer" in found) == said


@pytest.mark.parametrize(("gone", "panels"), [((), 3), (("activation_spread_norm",), 2), (MEASURES[1:], 1)])
def test_a_panel_for_each_measure_that_the_run_has(gone: tuple[str, ...], panels: int) -> None:
    study = study_of()
    frame = without(make_frame(study), *gone)
    figure: Any = draw_figures(frame, summarise(frame, study))["spread"]
    assert len(figure.axes) == panels
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert low > high  # from 100 % down
        assert {line.get_label() for line in axes.lines if not line.get_label().startswith("_")} == set(SCHEDULES)


def test_both_tables_are_among_the_files() -> None:
    study = study_of()
    written = tables(summarise(make_frame(study), study))
    assert len(written["spreads"]) == 3 * 3 * study.cycles
    assert len(written["spread-slopes"]) == 3 * 3
