"""The best of n chains: an exact expectation, and who was still climbing when the chains were spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from silo_analysis.answers.table_files import csv_bytes
from silo_analysis.estimates.climbing import climb_of, shares, tuning_curves, weights
from silo_analysis.estimates.frames import TUNING_CURVE
from silo_analysis.estimates.summary import Summary, summarise
from silo_analysis.figures.draw_search import tuning_curve_figure
from silo_analysis.report.page import render
from silo_tune.results.searches import SearchRecord
from tests.analysis.asking import asked
from tests.analysis.test_search_report import OPEN, run

TOLERANCE = 0.005


def search(values: Any, adaptive: bool = False) -> SearchRecord:
    """A pilot of one constant: values by seed and point."""
    each = np.array(values)
    points = tuple(
        {"trial": i, "round": 1, "params": {"max_lr": 0.01 * (i + 1)}, "objective": float(column.mean()), "told": None,
         "stopped": None, "seeds": list(range(len(each))), "by_seed": {str(s): float(v) for s, v in enumerate(column)}}
        for i, column in enumerate(each.T)
    )  # fmt: skip
    best = int(np.argmax(each.mean(axis=0)))
    return SearchRecord("flat", "pilot", points, best=best, finished=True, adaptive=adaptive)


# --- the expectation ---


@pytest.mark.parametrize("drawn", [1, 2, 4, 6])
def test_the_expected_best_is_the_mean_over_all_subsets(drawn: int) -> None:
    values = np.random.default_rng(0).random(6)
    values[1] = values[4]  # a tie
    by_hand = np.mean([max(some) for some in combinations(values, drawn)])
    assert weights(values, drawn, in_order=False) @ values == pytest.approx(by_hand, abs=1e-12)


def test_the_shares_are_exact_however_many_points_there_are() -> None:
    for points, drawn in ((1, 1), (10, 5), (1000, 500)):
        assert shares(points, drawn).sum() == pytest.approx(1, abs=1e-9)
    assert shares(10, 10).tolist() == [0.0] * 9 + [1.0]
    assert shares(4, 1).tolist() == [0.25] * 4


def test_points_that_follow_earlier_ones_keep_their_order() -> None:
    table = tuning_curves({"flat": search([[0.5, 0.7, 0.6, 0.9]], adaptive=True)})
    assert table["best"].tolist() == [0.5, 0.7, 0.7, 0.9]
    assert table["in_order"].all()


def test_a_curve_rises_and_ends_at_the_best_within_its_band_whose_mean_it_is() -> None:
    rng = np.random.default_rng(1)
    found = search(0.8 + 0.05 * rng.random((2, 10)))
    table = tuning_curves({"flat": found})
    assert list(table.columns) == list(TUNING_CURVE)
    assert table["chains"].tolist() == list(range(1, 11))
    best = table["best"].to_numpy(dtype=float)
    assert (np.diff(best) >= 0).all()
    assert best[-1] == pytest.approx(found.points[found.best or 0]["objective"])
    assert ((table["low"] + table["high"]) / 2).to_numpy(dtype=float) == pytest.approx(best)  # two seeds


# --- who was climbing ---


@pytest.mark.parametrize("adaptive", [True, False])
def test_an_arm_whose_second_half_brought_more_than_the_tolerance_was_climbing(adaptive: bool) -> None:
    for gain in (0.002, 0.04):
        line = [0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8 + gain]
        found = climb_of(search([line, line], adaptive), TOLERANCE)
        assert found is not None
        assert (found.points, found.before) == (8, 6 if adaptive else 4)
        assert found.gain == pytest.approx(gain if adaptive else gain / 2)
        assert found.elsewhere == pytest.approx(found.gain)
        assert found.climbing == (gain > TOLERANCE)


@pytest.mark.parametrize("adaptive", [True, False])
def test_luck_is_no_climb(adaptive: bool) -> None:
    """Of equally good points the best of ten looks better than that of five, but not on a seed that did not choose."""
    rng = np.random.default_rng(3)
    found = [climb_of(search(0.9 + TOLERANCE * rng.standard_normal((2, 10)), adaptive), TOLERANCE) for _ in range(500)]
    gains = np.array([one.gain for one in found if one])
    elsewhere = np.array([one.elsewhere for one in found if one], dtype=float)
    assert gains.mean() > (0.05 if adaptive else 0.2) * TOLERANCE
    assert abs(elsewhere.mean()) < 0.1 * TOLERANCE
    assert np.mean([one.climbing for one in found if one]) < 0.06


def test_without_values_by_seed_or_with_few_points_nothing_is_claimed() -> None:
    whole = search([[0.7, 0.8, 0.9, 0.95]])
    old = replace(whole, points=tuple({k: v for k, v in p.items() if k != "by_seed"} for p in whole.points))
    assert tuning_curves({"flat": old})["low"].isna().all()
    found = climb_of(old, TOLERANCE)
    assert found is not None
    assert found.elsewhere is None
    assert climb_of(replace(whole, finished=False), TOLERANCE) is None
    assert climb_of(replace(whole, points=whole.points[:3]), TOLERANCE) is None
    failed = replace(whole, points=({**whole.points[0], "objective": None}, *whole.points[1:]))
    assert len(tuning_curves({"flat": failed})) == 3


# --- in the report ---


def told(line: Sequence[float], **pilot: object) -> Summary:
    frame, study, searches = run(OPEN, cycles=3, seeds=3)
    return summarise(frame, study, {**searches, "flat": search([line, line])})


def test_the_effort_answer_names_who_was_climbing_and_whose_best_lies_at_an_edge() -> None:
    effort = asked(told([0.7, 0.7, 0.7, 0.9]))["effort"]
    assert "flat still climbing" in effort.verdict
    text = " ".join(effort.details)
    assert "The pilot of flat tried 4 points (grid, 0.01 to 1) and found max_lr 0.04, 90.00 % on validation" in text
    assert "at an edge of what it tried (max_lr): a better value may lie beyond" in text
    assert "it was still climbing, more chains may find better" in text
    calm = asked(told([0.9, 0.9001, 0.9, 0.8999]))["effort"]
    assert "climbing" not in " ".join([calm.verdict, *calm.details])
    assert "may lie beyond" not in next(line for line in calm.details if "pilot of flat tried" in line)


def test_a_grid_that_favours_few_constants_says_so() -> None:
    frame, study, searches = run(OPEN, cycles=3, seeds=1)
    assert study.pilot is not None
    guided = study.model_copy(update={"pilot": study.pilot.model_copy(update={"proposals": "guided"})})
    for made, said in ((study, True), (guided, False)):
        text = " ".join(asked(summarise(frame, made, searches))["effort"].details)
        assert ("A grid favours arms with one constant: it tried 3 levels of it, and 2 of each of two" in text) == said


def test_two_rates_that_hardly_differ_are_named() -> None:
    frame, study, searches = run(OPEN, cycles=3, seeds=1)
    for highest, said in ((0.033, True), (0.1, False)):
        points = tuple({**p, "params": {"lowest": 0.03, "highest": highest}} for p in searches["silo"].points)
        found = summarise(frame, study, {**searches, "silo": replace(searches["silo"], points=points)})
        text = " ".join(asked(found)["effort"].details)
        assert ("The pilot of silo found hardly a rise, from 0.03 to 0.033" in text) == said


def test_the_curve_is_a_figure_and_a_table_of_the_report() -> None:
    frame, study, searches = run(OPEN, cycles=3, seeds=1)
    summary = summarise(frame, study, searches)
    assert tuning_curve_figure(summarise(frame, study)) is None
    figure = tuning_curve_figure(summary)
    assert figure is not None
    lines = {str(line.get_label()): line for line in figure.axes[0].get_lines()}
    assert set(lines) == {"silo", "flat"}
    best = summary.tuning_curves[summary.tuning_curves["arm"] == "silo"]["best"].to_numpy(dtype=float)
    assert np.asarray(lines["silo"].get_ydata(), dtype=float) == pytest.approx(100 * best)
    files = render(frame, study, {}, searches)
    assert {f"figures/tuning-curve.{kind}" for kind in ("svg", "png", "pdf", "csv")} <= set(files)
    assert files["tables/tuning-curve.csv"] == csv_bytes(summary.tuning_curves)
    assert 'id="fig-tuning-curve"' in files["report.html"].decode()
