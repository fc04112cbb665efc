"""The typical difference: order statistics, their interpolation, and what holds at few seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as reference

from silo_analysis.estimates import typical
from silo_analysis.estimates.stats import Estimate

FIVE = [0.004, -0.001, 0.007, 0.002, 0.003]
TEN = [0.1, 0.4, -0.3, 0.9, 0.5, -0.1, 0.2, 0.7, 0.3, 0.6]


def by_hand(values: list[float], level: float) -> float:
    """Hettmansperger and Sheather's upper bound at a one-sided level, written out anew."""
    x, n = sorted(values), len(values)
    for d in range(n // 2, 0, -1):  # the d-th largest bounds the median with this confidence
        sure, less = (1 - reference.binom.cdf(k, n, 0.5) for k in (d - 1, d))
        if sure >= level:
            if 1 - level < typical.LEAST_SHARE * (1 - less):
                return x[n - d]
            part = (sure - level) / (sure - less)
            weight = (n - d) * part / (d + (n - 2 * d) * part)
            return float((1 - weight) * x[n - d] + weight * x[n - d - 1])
    raise AssertionError("too few values")


@pytest.mark.parametrize("level", [0.9, 0.95, 0.975, 0.99])
def test_bounds_are_interpolated_order_statistics(level: float) -> None:
    calibrated = 1 - (1 - level) / (typical.CALIBRATION if level < 0.98 else typical.FAMILY_CALIBRATION)
    assert typical.upper_bound(TEN, level) == pytest.approx(by_hand(TEN, calibrated))
    assert typical.lower_bound(TEN, level) == pytest.approx(-by_hand([-x for x in TEN], calibrated))


@pytest.mark.parametrize("below", [3, 6, 8, 9])
def test_at_an_ordered_value_the_level_is_that_of_the_sign_test(below: int) -> None:
    margin = sorted(TEN)[below - 1] + 1e-9
    sign = reference.binomtest(below, 10, 0.5, alternative="greater").pvalue
    assert typical.order_p(TEN, margin) == pytest.approx(sign, abs=1e-6)


@pytest.mark.parametrize("n", [2, 3, 5, 6, 8, 10, 20, 40])
def test_a_bound_is_where_the_p_value_crosses_its_level(n: int) -> None:
    rng = np.random.default_rng(n)
    for level in (0.9, 0.95, 0.975, 0.996):
        for values in rng.standard_normal((30, n)).round(2):
            bound = typical.upper_bound(values, level)
            assert typical.p_below(values, bound + 1e-6) <= 1 - level + 1e-9
            assert typical.p_below(values, bound - 1e-6) >= 1 - level - 1e-4


def test_columns_at_once_are_the_single_ones() -> None:
    drawn = np.random.default_rng(0).standard_normal((9, 50)).round(1)
    drawn[0, :10], drawn[1, 5:9] = np.inf, -np.inf
    for margin in (-0.5, 0.0, 0.3):
        assert typical.order_ps(drawn, margin).tolist() == [typical.order_p(one, margin) for one in drawn.T]


def test_few_seeds_speak_only_where_all_agree_and_the_t_test_does() -> None:
    # Five order statistics end at 1 in 32, calibrated 3.9 %: a bound at 97.5 % is beyond them.
    t = reference.t.ppf(0.975, 4, np.mean(FIVE), reference.sem(FIVE))
    assert typical.upper_bound(FIVE, 0.975) == pytest.approx(max(0.007, t))
    assert typical.p_below(FIVE, 0.006) > 0.05  # one seed is above
    below = reference.ttest_1samp(FIVE, 0.02, alternative="less").pvalue
    assert typical.p_below(FIVE, 0.02) == pytest.approx(0.7 * below ** (2 / 3))
    assert below < 0.005
    tight = [1.0, 1.001, 0.999, 1.0, 1.0]
    assert typical.two_sided_p(tight) < 1e-6
    assert typical.two_sided_p([*tight[:4], -0.001]) > 0.05


def test_small_p_values_are_made_larger_and_keep_their_order() -> None:
    p = np.geomspace(1e-9, 1, 2000)
    for made in (typical.calibrated(p), typical.calibrated_t(p)):
        assert (np.diff(made) >= 0).all()
        assert (made >= p).all()
        assert (made[p < 1e-3] > 1.6 * p[p < 1e-3]).all()
    assert (typical.calibrated_t(p) < 0.025).tolist() == (p < 0.025).tolist()  # 95 % intervals of five seeds
    assert (typical.calibrated(p) < 0.05).tolist() == (p < 0.04).tolist()


def test_the_interval_has_the_median_in_it_and_tells_the_mean() -> None:
    found = typical.paired_interval([*TEN, math.nan])
    assert found.n == 10
    assert [found.mean, found.median] == pytest.approx([np.mean(TEN), np.median(TEN)])
    assert found.spread == pytest.approx(np.std(TEN, ddof=1))
    assert found.low is not None
    assert found.high is not None
    assert found.low < np.median(TEN) < found.high


def test_a_rare_loss_moves_the_mean_and_not_the_verdict() -> None:
    # A rival three points better in nine seeds of ten that lost everything in one: its mean gain is below 0.
    gains = [0.03, 0.031, 0.029, 0.03, 0.032, 0.028, 0.03, 0.031, 0.03, -0.8]
    assert np.mean(gains) < 0
    assert typical.p_below(gains, 0.005) > 0.9
    assert typical.p_above(gains, 0.005) < 0.05


def test_an_infinite_difference_has_a_side_and_no_size() -> None:
    one_above = [-1.0] * 9 + [0.001]
    assert typical.order_p(one_above, 0.0) == pytest.approx(11 / 1024 / 2)  # nearly all ten: interpolated, to a half
    lost = [-math.inf] * 9 + [0.001]
    assert typical.order_p(lost, 0.0) == pytest.approx(11 / 1024)  # nine of ten: the sign test
    assert typical.p_below([-math.inf] * 5, 0.0) == pytest.approx(1.25 / 32)
    assert typical.upper_bound([-math.inf] * 4 + [0.2], 0.95) == 0.2


def test_tost_is_the_worse_of_both_sides() -> None:
    found = typical.tost(TEN, 0.8)
    assert found.p == pytest.approx(max(typical.p_below(TEN, 0.8), typical.p_above(TEN, -0.8)))
    assert found.equivalent is (found.p < 0.05)
    assert typical.tost([0.0001, -0.0001, 0.0002, 0.0, 0.0001], 0.005).equivalent


def test_no_spread_gives_the_value() -> None:
    same = [0.25, 0.25, 0.25]
    assert typical.upper_bound(same) == typical.lower_bound(same) == 0.25
    assert typical.p_below(same, 0.3) == 0.0
    assert typical.p_below(same, 0.25) == typical.p_below(same, 0.2) == 1.0
    assert typical.paired_interval(same) == Estimate(3, 0.25, 0.25, 0.0, 0.25, 0.25)


@pytest.mark.parametrize("few", [[], [0.1], [0.1, math.nan]])
def test_below_two_seeds_nothing_is_bounded(few: list[float]) -> None:
    assert typical.upper_bound(few) == math.inf
    assert typical.lower_bound(few) == -math.inf
    assert typical.p_below(few, 0.5) == typical.p_above(few, 0.0) == 1.0
    assert not typical.tost(few, 0.5).equivalent
    assert typical.seeds_needed(few, 0.5) is None
    found = typical.paired_interval(few)
    assert (found.low, found.high, found.spread) == (None, None, None)
    assert found.mean == found.median == (0.1 if few else None)


@pytest.mark.parametrize("margin", [0.002, 0.0005])
def test_with_the_seeds_needed_four_studies_in_five_settle_it(margin: float) -> None:
    found = typical.seeds_needed(FIVE, margin)
    assert found is not None
    spread = np.std(FIVE, ddof=1)
    for n, tail in zip(found, (0.9, 0.1), strict=True):
        end = spread * math.sqrt(4 / reference.chi2.ppf(tail, 4))
        drawn = end * np.sort(np.random.default_rng(n).standard_normal((400, n)), axis=1)
        settled = np.mean([typical.upper_bound(one, 0.95) <= margin for one in drawn])
        assert 0.75 <= settled <= 0.92
    assert typical.seeds_needed([0.1, 0.1], 0.002) == (2, 2)
    assert typical.seeds_needed([0.5, -0.5], 1e-6) == (10_000, 10_000)


@pytest.mark.parametrize(("level", "room"), [(0.975, 2.0), (0.975, 0.7), (0.99, 1.5)])
def test_seeds_needed_have_their_power_at_levels_of_few_seeds_too(level: float, room: float) -> None:
    values = np.random.default_rng(0).standard_normal(500)
    n = (typical.seeds_needed(values / values.std(ddof=1), room, level) or (0, 0))[0]
    drawn = np.random.default_rng(1).standard_normal((400, n))
    settled = np.mean([typical.upper_bound(one, level) <= room for one in drawn])
    assert 0.72 <= settled <= 0.97


@pytest.mark.parametrize(("needed", "said"), [((6, 18), (13, 18)), ((3, 5), (13, 13)), ((20, 30), (20, 30))])
def test_what_twelve_seeds_have_not_settled_takes_more(needed: tuple[int, int], said: tuple[int, int]) -> None:
    assert typical.beyond(12, needed) == said
