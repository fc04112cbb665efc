from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as reference

from silo_analysis.estimates import stats

DIFFERENCES = [0.004, -0.001, 0.007, 0.002, 0.003]


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_bounds_are_those_of_scipy(level: float) -> None:
    mean, error = np.mean(DIFFERENCES), reference.sem(DIFFERENCES)
    assert stats.upper_bound(DIFFERENCES, level) == pytest.approx(reference.t.ppf(level, 4, mean, error))
    assert stats.lower_bound(DIFFERENCES, level) == pytest.approx(reference.t.ppf(1 - level, 4, mean, error))


def test_interval_is_that_of_scipy() -> None:
    found = stats.paired_interval(DIFFERENCES)
    low, high = reference.ttest_1samp(DIFFERENCES, 0).confidence_interval(0.95)
    assert found.low == pytest.approx(low)
    assert found.high == pytest.approx(high)
    assert found.spread == pytest.approx(np.std(DIFFERENCES, ddof=1))


def test_one_sided_p_values_are_those_of_scipy() -> None:
    below = reference.ttest_1samp(DIFFERENCES, 0.005, alternative="less").pvalue
    above = reference.ttest_1samp(DIFFERENCES, 0.001, alternative="greater").pvalue
    assert stats.p_below(DIFFERENCES, 0.005) == pytest.approx(below)
    assert stats.p_above(DIFFERENCES, 0.001) == pytest.approx(above)


def test_tost_is_the_worse_of_both_sides() -> None:
    below = reference.ttest_1samp(DIFFERENCES, 0.005, alternative="less").pvalue
    above = reference.ttest_1samp(DIFFERENCES, -0.005, alternative="greater").pvalue
    found = stats.tost(DIFFERENCES, 0.005)
    assert found.p == pytest.approx(max(below, above))
    assert found.equivalent is (found.p < 0.05)
    assert stats.tost([0.0001, -0.0001, 0.0002, 0.0, 0.0001], 0.005).equivalent


def test_no_spread_gives_the_mean() -> None:
    same = [0.25, 0.25, 0.25]
    assert stats.upper_bound(same) == stats.lower_bound(same) == 0.25
    assert stats.p_below(same, 0.3) == 0.0
    assert stats.p_below(same, 0.25) == stats.p_below(same, 0.2) == 1.0
    assert stats.paired_interval(same) == stats.Estimate(3, 0.25, 0.0, 0.25, 0.25)


@pytest.mark.parametrize("few", [[], [0.1], [0.1, math.nan]])
def test_below_two_seeds_nothing_is_bounded(few: list[float]) -> None:
    assert stats.upper_bound(few) == math.inf
    assert stats.lower_bound(few) == -math.inf
    assert stats.p_below(few, 0.5) == stats.p_above(few, 0.0) == 1.0
    assert not stats.tost(few, 0.5).equivalent
    assert stats.seeds_needed(few, 0.5) is None
    found = stats.paired_interval(few)
    assert (found.low, found.high, found.spread) == (None, None, None)
    assert found.mean == (0.1 if few else None)


def test_missing_differences_are_left_out() -> None:
    assert stats.paired_interval([0.1, math.nan, 0.3]).n == 2
    assert stats.upper_bound([*DIFFERENCES, math.nan]) == stats.upper_bound(DIFFERENCES)


def test_holm_by_hand() -> None:
    # 0.01·4, then max(0.04, 0.02·3), then max(0.06, 0.03·2), then max(0.06, 0.04·1)
    assert stats.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_seeds_needed_resolve_the_margin_at_the_ends_of_the_spread() -> None:
    found = stats.seeds_needed(DIFFERENCES, 0.002)
    assert found is not None
    low, high = found
    spread, degrees = np.std(DIFFERENCES, ddof=1), 4
    for n, tail in ((low, 0.9), (high, 0.1)):
        end = spread * math.sqrt(degrees / reference.chi2.ppf(tail, degrees))
        assert reference.t.ppf(0.95, n - 1) * end / math.sqrt(n) <= 0.002
        assert reference.t.ppf(0.95, n - 2) * end / math.sqrt(n - 1) > 0.002
    assert stats.seeds_needed([0.1, 0.1], 0.002) == (2, 2)
    assert stats.seeds_needed([0.5, -0.5], 1e-6) == (10_000, 10_000)


@pytest.mark.parametrize("other", [[3, 1, 2, 5, 4], [5, 4, 3, 2, 1], [1, 1, 2, 2, 3], [0.2, 0.2, 0.2, 0.2, 0.9]])
def test_rank_correlation_is_that_of_scipy(other: list[float]) -> None:
    found = stats.rank_correlation(DIFFERENCES, other)
    assert found == pytest.approx(reference.spearmanr(DIFFERENCES, other).statistic)


def test_ranks_need_three_pairs_and_two_values() -> None:
    assert stats.rank_correlation([1, 2], [1, 2]) is None
    assert stats.rank_correlation([1, 2, 3], [7, 7, 7]) is None
    assert stats.rank_correlation([1, 2, math.nan, 4], [1, 2, 3, math.nan]) is None
    assert stats.rank_correlation([1, 2, math.nan, 4], [1, 2, 9, 3]) == pytest.approx(1.0)
