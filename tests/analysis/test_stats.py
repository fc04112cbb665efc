from __future__ import annotations

import math

import pytest
from scipy import stats as reference

from silo_analysis.estimates import stats

DIFFERENCES = [0.004, -0.001, 0.007, 0.002, 0.003]


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (1, 1), (4, 5)])
def test_the_interval_of_a_share_is_that_of_scipy(k: int, n: int) -> None:
    exact = reference.binomtest(k, n).proportion_ci(0.95, method="exact")
    assert stats.share_interval(k, n) == pytest.approx((exact.low, exact.high))


def test_holm_by_hand() -> None:
    # 0.01·4, then max(0.04, 0.02·3), then max(0.06, 0.03·2), then max(0.06, 0.04·1)
    assert stats.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]
    assert stats.holm([]) == []


@pytest.mark.parametrize("other", [[3, 1, 2, 5, 4], [5, 4, 3, 2, 1], [1, 1, 2, 2, 3], [0.2, 0.2, 0.2, 0.2, 0.9]])
def test_rank_correlation_is_that_of_scipy(other: list[float]) -> None:
    found = stats.rank_correlation(DIFFERENCES, other)
    assert found == pytest.approx(reference.spearmanr(DIFFERENCES, other).statistic)


def test_ranks_need_three_pairs_and_two_values() -> None:
    assert stats.rank_correlation([1, 2], [1, 2]) is None
    assert stats.rank_correlation([1, 2, 3], [7, 7, 7]) is None
    assert stats.rank_correlation([1, 2, math.nan, 4], [1, 2, 3, math.nan]) is None
    assert stats.rank_correlation([1, 2, math.nan, 4], [1, 2, 9, 3]) == pytest.approx(1.0)
