"""Greedy against conditioned: known curves give known distances, and the words say what the table says."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex

from silo_analysis.answers.missing import notes
from silo_analysis.estimates.interval import Interval, point_interval
from silo_analysis.estimates.oracle import OracleCycle, verdict_oracle
from silo_analysis.estimates.oracles_compared import compare_cycle, overlap
from silo_analysis.estimates.summary import Summary, summarise
from silo_analysis.figures.draw_oracles import oracles_figure
from tests.analysis.asking import said_of
from tests.analysis.builder import ARMS, Row, make_frame, make_study, oracle_cycle_of
from tests.analysis.degenerate import CASES

RATES = [0.01, 0.1, 1.0]
TOLERANCE = 0.05


def curve(means: list[float], parents: dict[int, str] | None = None, **changes: Any) -> OracleCycle:
    """Five seeds with the same response, silo's own rate being 0.1."""
    made = oracle_cycle_of([means] * 5, RATES, {"silo": 0.1}, **changes)
    return replace(made, parents=parents or {})


def between(low: float, high: float) -> Interval:
    """An interval whose ends are given."""
    return replace(point_interval([low, high], [0.5, 0.5], 0.1), low=low, high=high)


@cache
def apart() -> Summary:
    """From cycle 5 on the conditioned Oracle finds its best a decade higher than the greedy one."""

    def spoil(row: Row) -> Row:
        if row["cycle"] < 5 or row["mode"] != "oracle":
            return {}
        best = 0.1 if row["arm"] == "oracle" else 1.0
        level = 0.9 - 0.02 * abs(math.log10(row["max_lr"] / best))
        return {"val_score": level, "test_score": level}

    study = make_study()
    return summarise(make_frame(study, spoil=spoil), study)


# --- one cycle ---


def test_known_curves_give_known_numbers() -> None:
    row = compare_cycle(curve([0.80, 0.90, 0.80]), curve([0.80, 0.90, 0.87]), "silo", TOLERANCE)
    half = 10**-1.5  # the curve is half-way down, half-way in log max_lr
    assert row["greedy_best"] == row["conditioned_best"] == row["max_lr"] == 0.1
    assert (row["greedy_low"], row["greedy_high"]) == pytest.approx((half, 10**-0.5))
    assert (row["conditioned_low"], row["conditioned_high"]) == pytest.approx((half, 1.0))
    assert row["overlap"] == pytest.approx(1 / 1.5)
    assert row["distance_decades"] == 0
    assert row["same_verdict"]
    assert row["greedy_contains"]
    assert row["conditioned_contains"]


def test_a_better_rate_elsewhere_changes_the_verdict() -> None:
    row = compare_cycle(curve([0.80, 0.90, 0.80]), curve([0.70, 0.80, 0.90]), "silo", TOLERANCE)
    assert (row["greedy_verdict"], row["conditioned_verdict"]) == ("inside", "outside")
    assert row["same_verdict"] is False
    assert (row["greedy_contains"], row["conditioned_contains"]) == (True, False)
    assert row["conditioned_unbounded_high"]
    assert row["distance_decades"] == pytest.approx(1.0)
    assert row["overlap"] == pytest.approx(0, abs=1e-9)  # they touch at one rate
    assert row["rank_correlation"] == pytest.approx(0.0)  # ranks 1.5, 3, 1.5 against 1, 2, 3


def test_nothing_depends_on_which_oracle_is_which() -> None:
    left, right = curve([0.80, 0.90, 0.86]), curve([0.70, 0.85, 0.90])
    one, other = compare_cycle(left, right, "silo", TOLERANCE), compare_cycle(right, left, "silo", TOLERANCE)
    for name in ("distance_decades", "overlap", "rank_correlation", "shared_rates", "both_seeds", "same_verdict"):
        assert one[name] == pytest.approx(other[name])
    assert one["greedy_best"] == other["conditioned_best"]


def test_ranks_are_those_of_the_rates_that_both_asked() -> None:
    left = curve([0.80, 0.90, 0.85])
    wider = oracle_cycle_of([[0.1, 0.80, 0.90, 0.85, 0.99]] * 5, [0.001, *RATES, 10.0], {"silo": 0.1})
    tested_only = replace(wider, asked=np.array([True, True, False, True, True]))
    assert compare_cycle(left, wider, "silo", TOLERANCE)["rank_correlation"] == pytest.approx(1.0)
    assert compare_cycle(left, wider, "silo", TOLERANCE)["shared_rates"] == 3
    few = compare_cycle(left, tested_only, "silo", TOLERANCE)
    assert (few["shared_rates"], few["rank_correlation"]) == (2, None)


def test_a_collapsed_rate_ranks_as_guessing() -> None:
    lost = np.zeros((5, 3), dtype=bool)
    lost[2, 2] = True
    row = compare_cycle(curve([0.80, 0.90, 0.85]), curve([0.80, 0.90, 0.85], collapsed=lost), "silo", TOLERANCE)
    assert row["rank_correlation"] == pytest.approx(0.5)  # 1, 3, 2 against 2, 3, 1


def test_an_untested_schedule_has_no_verdict_to_agree_on() -> None:
    without = replace(curve([0.80, 0.90, 0.85]), tested={})
    row = compare_cycle(curve([0.80, 0.90, 0.85]), without, "silo", TOLERANCE)
    assert row["conditioned_verdict"] == "not tested"
    assert row["same_verdict"] is None
    assert row["max_lr"] == 0.1
    assert "conditioned_contains" not in row


def test_same_weights_are_counted_by_seed() -> None:
    left = curve([0.80, 0.90, 0.85], parents={0: "a", 1: "b", 2: "c", 3: "d"})
    right = curve([0.80, 0.90, 0.85], parents={0: "a", 1: "x", 2: "c", 4: "e"})
    row = compare_cycle(left, right, "silo", TOLERANCE)
    assert (row["same_weights"], row["both_seeds"]) == (2, 5)


@pytest.mark.parametrize(
    ("left", "right", "share"),
    [
        ((0.01, 1.0), (0.01, 1.0), 1.0),
        ((0.01, 1.0), (0.1, 1.0), 0.5),
        ((0.01, 0.1), (1.0, 10.0), 0.0),
        ((0.01, 1.0), (0.1, 10.0), 1 / 3),
        ((0.05, 0.05), (0.05, 0.05), 1.0),
        ((0.05, 0.05), (0.06, 0.06), 0.0),
        ((0.05, 0.05), (0.01, 1.0), 0.0),
    ],
)
def test_overlap_by_hand(left: tuple[float, float], right: tuple[float, float], share: float) -> None:
    assert overlap(between(*left), between(*right)) == pytest.approx(share)
    assert overlap(between(*right), between(*left)) == pytest.approx(share)


# --- a run ---


def test_each_side_says_what_the_other_tables_say() -> None:
    summary = apart()
    assert summary.pair is not None
    for side, name in (("greedy", summary.pair.greedy), ("conditioned", summary.pair.conditioned)):
        intervals = summary.intervals[summary.intervals["oracle"] == name]
        judged = summary.verdicts[(summary.verdicts["oracle"] == name) & (summary.verdicts["arm"] == "silo")]
        assert summary.compared[f"{side}_low"].tolist() == intervals["interval_low"].tolist()
        assert summary.compared[f"{side}_best"].tolist() == intervals["best_max_lr"].tolist()
        assert summary.compared[f"{side}_verdict"].tolist() == judged["verdict"].tolist()
        inside = (judged["point_verdict"] == "inside").tolist()
        assert summary.compared[f"{side}_contains"].tolist() == inside
    assert summary.compared["max_lr"].tolist() == summary.cycles["max_lr"].tolist()


def test_the_first_cycle_starts_from_the_same_weights() -> None:
    table = apart().compared
    assert table["same_weights"].tolist()[0] == 5
    assert table["same_weights"].tolist()[-1] == 0
    sentence = said_of(apart(), "two-oracles")
    assert "In cycle 1 both start from the same weights" in sentence


def test_the_sentence_counts_what_the_table_holds() -> None:
    summary = apart()
    table = summary.compared.set_index("cycle")
    assert table.loc[5:, "distance_decades"].tolist() == pytest.approx([1.0] * 4)
    agree = int(table["same_verdict"].sum())
    sentence = said_of(summary, "two-oracles")
    assert f"agree on the verdict of silo in {agree} of 8 cycles" in sentence
    different = [str(cycle) for cycle in table.index[~table["same_verdict"]]]
    assert {"5", "6", "7", "8"} <= set(different)
    assert "(4 of them inside against outside)" in sentence
    assert "1.00 at most" in sentence


def test_a_run_with_one_oracle_says_nothing() -> None:
    for case in ("no-oracle", "conditioned-only", "no-controls", "no-rows"):
        summary = summarise(*CASES[case]())
        assert summary.pair is None
        assert not len(summary.compared)
        assert said_of(summary, "two-oracles") == ""
        assert not any("not compared" in note for note in notes(summary))
        assert oracles_figure(summary) is None


def test_a_run_that_waits_for_one_of_two_says_so() -> None:
    summary = summarise(*CASES["conditioned-without-rows"]())
    assert any("(oracle, oracle-at-silo) are not compared: not both have results" in note for note in notes(summary))
    frame, study = CASES["under-way"]()
    halves = frame[frame["cycle"] != frame["arm"].map({"oracle": 2, "oracle-at-silo": 1}).fillna(-1)]
    summary = summarise(halves, study)
    assert not len(summary.compared)
    assert any("have no cycle in common" in note for note in notes(summary))


def test_an_oracle_on_a_grid_judges_before_a_guided_one() -> None:
    guided = {"mode": "oracle", "prefix": "arm:silo", "guided": {"low": 0.01, "high": 1.0, "trials": 5}}
    study = make_study({"silo": ARMS["silo"], "cheap": guided, "exact": ARMS["oracle-at-silo"]})
    assert verdict_oracle(study, {"cheap", "exact"}) == "exact"
    assert verdict_oracle(study, {"cheap"}) == "cheap"


# --- the figure ---


def test_the_figure_tells_the_two_apart_without_colour() -> None:
    figure = oracles_figure(apart())
    assert figure is not None
    axes = figure.axes[0]
    marks = {str(line.get_label()): line for line in axes.get_lines()}
    greedy, conditioned = marks["oracle (greedy): best rate"], marks["oracle-at-silo (conditioned): best rate"]
    assert greedy.get_marker() != conditioned.get_marker()
    assert to_hex(greedy.get_color()) != to_hex(conditioned.get_color())
    assert (np.asarray(greedy.get_xdata()) > np.asarray(conditioned.get_xdata())).all()  # side by side
    bands = [patch for patch in axes.collections if "near the best" in str(patch.get_label())]
    assert len({band.get_hatch() for band in bands}) == 2


def test_the_figure_shades_the_cycles_that_disagree() -> None:
    figure = oracles_figure(apart())
    assert figure is not None
    assert len(figure.axes[0].patches) == int((~apart().compared["same_verdict"]).sum())
