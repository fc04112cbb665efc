from __future__ import annotations

import math

import numpy as np
import pytest

from silo_analysis.estimates.interval import interval_of, mean_curve, point_interval
from tests.analysis.builder import oracle_cycle_of

RATES = [0.01, 0.1, 1.0]


def test_ends_are_interpolated_in_log_max_lr() -> None:
    found = point_interval(RATES, [0.90, 0.92, 0.91], tolerance=0.005)
    assert found.low == pytest.approx(10**-1.25)  # a quarter of the way from 0.1 to 0.01
    assert found.high == pytest.approx(10**-0.5)  # half of the way from 0.1 to 1
    assert found.width_decades == pytest.approx(0.75)
    assert (found.best, found.best_score) == (0.1, 0.92)
    assert (found.unbounded_low, found.unbounded_high, found.clipped) == (False, False, False)


def test_the_order_of_the_rates_does_not_matter() -> None:
    assert point_interval([1.0, 0.01, 0.1], [0.91, 0.90, 0.92], 0.005) == point_interval(
        RATES, [0.90, 0.92, 0.91], 0.005
    )


@pytest.mark.parametrize(("accuracy", "low", "high"), [([0.9, 0.8, 0.7], True, False), ([0.7, 0.8, 0.9], False, True)])
def test_a_best_rate_at_the_edge_makes_that_side_unbounded(accuracy: list[float], low: bool, high: bool) -> None:
    found = point_interval(RATES, accuracy, tolerance=0.01)
    assert (found.unbounded_low, found.unbounded_high) == (low, high)
    assert found.clipped
    assert found.contains(0.001) is low
    assert found.contains(100.0) is high


def test_an_interval_that_reaches_the_edge_without_its_best_there_is_clipped_only() -> None:
    found = point_interval(RATES, [0.899, 0.9, 0.7], tolerance=0.005)
    assert found.clipped
    assert not found.unbounded_low
    assert found.low == 0.01
    assert not found.contains(0.009)


def test_segments_apart_are_all_kept() -> None:
    found = point_interval([0.01, 0.1, 1.0, 10.0, 100.0], [0.5, 0.9, 0.5, 0.899, 0.5], tolerance=0.005)
    assert len(found.segments) == 2
    assert (found.low, found.high) == found.segments[0]
    assert found.contains(0.1)
    assert found.contains(10.0)
    assert not found.contains(1.0)


def test_equals_give_the_smallest_best_and_one_segment() -> None:
    found = point_interval(RATES, [0.9, 0.9, 0.9], tolerance=0.005)
    assert found.best == 0.01
    assert found.segments == ((0.01, 1.0),)


def test_a_difference_of_exactly_the_tolerance_is_within_it() -> None:
    found = point_interval(RATES, [0.1, 0.905, 0.9], tolerance=0.005)
    assert found.high == 1.0
    assert found.clipped


def test_one_point_is_unbounded_on_both_sides() -> None:
    found = point_interval([0.1], [0.9], tolerance=0.005)
    assert (found.low, found.high, found.width_decades) == (0.1, 0.1, 0.0)
    assert found.unbounded_low
    assert found.unbounded_high


def test_rates_without_accuracy_are_left_out() -> None:
    assert point_interval(RATES, [math.nan, 0.9, 0.5], 0.005).grid_low == 0.1
    with pytest.raises(ValueError, match="no rate"):
        point_interval(RATES, [math.nan] * 3, 0.005)


def test_a_seed_that_collapsed_counts_as_guessing_and_the_grid_keeps_its_edge() -> None:
    cycle = oracle_cycle_of(
        [[0.8, 0.9, 0.95], [0.8, 0.9, math.nan]],
        RATES,
        {},
        collapsed=[[False, False, False], [False, False, True]],
    )
    rates, accuracy = mean_curve(cycle)
    assert rates.tolist() == RATES
    assert accuracy.tolist() == pytest.approx([0.8, 0.9, (0.95 + 0.1) / 2])
    found = interval_of(cycle, 0.005)
    assert found is not None
    assert found.best == 0.1
    assert not found.unbounded_high


def test_only_asked_rates_make_the_curve() -> None:
    cycle = oracle_cycle_of([[0.8, 0.99, 0.9]], RATES, {"silo": 0.1}, asked=[True, False, True])
    found = interval_of(cycle, 0.005)
    assert found is not None
    assert found.best == 1.0


def test_a_seed_that_misses_a_rate_is_left_out_of_the_curve() -> None:
    cycle = oracle_cycle_of([[0.8, 0.9, 0.7], [0.5, math.nan, 0.5]], RATES, {})
    assert mean_curve(cycle)[1].tolist() == pytest.approx([0.8, 0.9, 0.7])


def test_a_rate_that_failed_in_every_seed_is_left_out_alone() -> None:
    cycle = oracle_cycle_of([[0.8, math.nan, 0.7], [0.6, math.nan, 0.5]], RATES, {})
    rates, accuracy = mean_curve(cycle)
    assert rates.tolist() == [0.01, 1.0]
    assert accuracy.tolist() == pytest.approx([0.7, 0.6])


def test_no_interval_when_everything_collapsed_or_failed() -> None:
    nothing = np.full((2, 3), math.nan)
    assert interval_of(oracle_cycle_of(nothing, RATES, {}), 0.005) is None
    assert interval_of(oracle_cycle_of(nothing, RATES, {}, collapsed=np.ones((2, 3))), 0.005) is None
