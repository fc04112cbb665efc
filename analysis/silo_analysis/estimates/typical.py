"""The typical difference of paired seeds, their median: p values, bounds, interval, equivalence, seeds needed.

Why the median: a t bound of the mean is wrong off the normal law, where a rare collapse or a skew moves the mean. At
five or ten seeds only the median can be bounded whatever the law is, by order statistics (David and Nagaraja 2003,
"Order Statistics", chapter 7). These come in coarse levels, so neighbouring ones are interpolated (Hettmansperger and
Sheather 1986, "Confidence intervals based on interpolated order statistics", Statistics & Probability Letters 4).

Two choices are ours, found by the simulation of `docs/error_rates.py`. The interpolation errs on skewed and two-moded
laws, by up to a third and more at the small levels that a correction over many tests asks for, so a p value is made
larger (`calibrated`). And where every difference lies on one side, which is all that order statistics can see, the
p value of the t test may go below theirs: what few seeds say at a level that order statistics cannot reach rests on the
normal law *and* on all seeds agreeing. At small levels that is not enough, and it is made larger too (`calibrated_t`).

A difference may be infinite: a seed in which one of the two trainings collapsed says on which side it lies, but not how
far. It is never interpolated to. NaN is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from silo_analysis.estimates.stats import ROUNDING, Equivalence, Estimate, FloatArray

CALIBRATION = 1.25
# An interpolated p value is never less than this share of that of the coarser level, which holds whatever the law is.
LEAST_SHARE = 0.5
# At the small levels that a correction over rates, cycles or arms asks for.
FAMILY_CALIBRATION = 5 / 3
_SMALL = 0.02
# Five seeds in one mode of two look like one normal law: at 0.1 % the t test is then wrong in 0.6 %.
_T_SMALL, _T_SHARE, _T_POWER = 0.0249, 0.7, 2 / 3
_MOST_SEEDS = 10_000
_LARGE = 100  # from here on the normal approximation of order statistics is good to 1 %


def _known(differences: Sequence[float] | FloatArray) -> FloatArray:
    values: FloatArray = np.asarray(differences, dtype=float)
    known: FloatArray = np.sort(values[~np.isnan(values)])
    return known


def _miss(n: int) -> FloatArray:
    """(n,) how often each of n ordered values, from the smallest on, lies below the median of a continuous law."""
    missed: FloatArray = special.bdtr(n - 1 - np.arange(n), n, 0.5)
    return missed


# --- p values ---


def order_p(differences: Sequence[float] | FloatArray, margin: float) -> float:
    """Level of the interpolated order statistic that meets the margin: small where the median is below it.

    Not calibrated (see `p_below`). A difference within rounding of the margin is not below it. 1 without differences.
    """
    values = _known(differences)
    return float(order_ps(values[:, None], margin)[0]) if len(values) else 1.0


def order_ps(differences: FloatArray, margin: float) -> FloatArray:
    """`order_p` of every column of (S, K) differences, none of them NaN; (K,)."""
    values, columns = np.sort(differences, axis=0), np.arange(differences.shape[1])
    n, below = len(values), (values < margin - ROUNDING).sum(axis=0)
    missed = np.append(_miss(n), 0.0)
    lower, upper = values[np.maximum(below - 1, 0), columns], values[np.minimum(below, n - 1), columns]
    far = np.isfinite(lower) & np.isfinite(upper) & (below < n) & (2 * below > n + 1)
    upper, lower = np.where(far, upper, 1.0), np.where(far, lower, 0.0)
    share = np.where(far, np.minimum(1.0, (upper - margin) / (upper - lower)), 1.0)
    above = n - below  # the ordered value `upper` is the smallest of these
    scale = (n - above) - (n - 2 * above) * share
    weight = np.where(far, above * share / np.where(far, scale, 1.0), 1.0)
    outer = missed[below]
    inner = missed[below - 1]
    p: FloatArray = np.where(below == 0, 1.0, np.maximum(outer + weight * (inner - outer), LEAST_SHARE * inner))
    return p


def calibrated(p: FloatArray) -> FloatArray:
    """p values of interpolated order statistics, made so large that they err in no more than their level."""
    most: FloatArray = np.minimum(1.0, np.maximum(CALIBRATION * p, np.minimum(FAMILY_CALIBRATION * p, _SMALL)))
    return most


def calibrated_t(p: FloatArray) -> FloatArray:
    """p values of the t test of seeds that all agree, likewise; those of a single test at 5 % stay as they are."""
    most: FloatArray = np.maximum(p, np.minimum(_T_SHARE * np.power(p, _T_POWER), _T_SMALL))
    return most


def _order_level(alpha: float) -> float:
    """What `calibrated` makes `alpha` of."""
    return alpha / (CALIBRATION if alpha > _SMALL else FAMILY_CALIBRATION)


def _t_level(alpha: float) -> float:
    """What `calibrated_t` makes `alpha` of."""
    return alpha if alpha > _T_SMALL else min(alpha, float((alpha / _T_SHARE) ** (1 / _T_POWER)))


def p_below(differences: Sequence[float] | FloatArray, margin: float) -> float:
    """One-sided p value for "the typical difference is below the margin". 1 below two seeds."""
    values = _known(differences)
    if len(values) < 2:
        return 1.0
    p = float(calibrated(np.array(order_p(values, margin))))
    agreed = values[-1] < margin - ROUNDING
    return min(p, float(calibrated_t(np.array(t_below(values, margin))))) if agreed else p


def p_above(differences: Sequence[float] | FloatArray, margin: float) -> float:
    """One-sided p value for "the typical difference is above the margin". 1 below two seeds."""
    return p_below(-_known(differences), -margin)


def two_sided_p(differences: Sequence[float] | FloatArray) -> float:
    """Two-sided p value for "the typical difference is not 0". 1 below two seeds."""
    return min(1.0, 2 * min(p_below(differences, 0.0), p_above(differences, 0.0)))


def t_below(differences: Sequence[float] | FloatArray, margin: float) -> float:
    """One-sided p value of the paired t test (Student 1908) that the mean is below the margin; finite values only."""
    values = _known(differences)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return 1.0
    error, gap = standard_error(values), float(values.mean()) - margin
    if error <= ROUNDING:
        return 0.0 if gap < -ROUNDING else 1.0
    return float(special.stdtr(len(values) - 1, gap / error))


def standard_error(differences: Sequence[float] | FloatArray) -> float:
    """Standard error of the mean; infinite below two values, 0 for equal values."""
    values = _known(differences)
    if len(values) < 2:
        return math.inf
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def tost(differences: Sequence[float] | FloatArray, margin: float, level: float = 0.95) -> Equivalence:
    """Is the typical difference within ±margin? Both one-sided tests must say so (TOST; Schuirmann 1987).

    Each is made at the full level: an intersection-union test (Berger 1982, Technometrics 24).
    """
    p = max(p_below(differences, margin), p_above(differences, -margin))
    return Equivalence(p, p < 1 - level)


# --- bounds ---


def upper_bound(differences: Sequence[float] | FloatArray, level: float = 0.95) -> float:
    """One-sided upper confidence bound: the smallest margin that `p_below` rejects. Infinite below two seeds."""
    values = _known(differences)
    n, alpha = len(values), _order_level(1 - level)
    if n < 2:
        return math.inf
    missed = _miss(n)
    if missed[-1] > alpha:  # beyond the reach of order statistics
        return max(float(values[-1]), _t_upper(values, 1 - _t_level(1 - level)))
    top = int(np.argmax(missed <= alpha))
    if top == 0 or not np.isfinite(values[top - 1 : top + 1]).all() or alpha < LEAST_SHARE * missed[top - 1]:
        return float(values[top])
    weight, above = (alpha - missed[top]) / (missed[top - 1] - missed[top]), n - top
    share = (n - above) * weight / (above + (n - 2 * above) * weight)
    return float((1 - share) * values[top] + share * values[top - 1])


def lower_bound(differences: Sequence[float] | FloatArray, level: float = 0.95) -> float:
    """One-sided lower confidence bound: the greatest margin that `p_above` rejects. -Infinite below two seeds."""
    return -upper_bound(-_known(differences), level)


def _t_upper(values: FloatArray, level: float) -> float:
    finite = values[np.isfinite(values)]
    if len(finite) < 2:
        return math.inf
    return float(finite.mean() + special.stdtrit(len(finite) - 1, level) * standard_error(finite))


def paired_interval(differences: Sequence[float] | FloatArray, level: float = 0.95) -> Estimate:
    """Mean, median and the two-sided interval of the median; differences that are not finite are left out."""
    values = _known(differences)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return Estimate(0)
    mean, median = float(values.mean()), float(np.median(values))
    if len(values) == 1:
        return Estimate(1, mean, median)
    one_sided = 1 - (1 - level) / 2
    return Estimate(
        n=len(values),
        mean=mean,
        median=median,
        spread=float(values.std(ddof=1)),
        low=lower_bound(values, one_sided),
        high=upper_bound(values, one_sided),
    )


# --- seeds needed ---


POWER = 0.8
# A bound's own standard deviation, of n normal differences with a standard deviation of 1: by simulation.
_ORDER_ERROR, _T_ERROR = 1.35, 0.65


def seeds_needed(
    differences: Sequence[float] | FloatArray, margin: float, level: float = 0.95, sides: int = 1
) -> tuple[int, int] | None:
    """Seeds in all at which a one-sided bound lies within `margin` of the median in 80 % of studies: a range.

    At the normal law. With two `sides` both bounds must, as an equivalence test asks where there is no difference.

    The range comes from the 80 % chi-square interval of the spread, since a spread over few seeds is itself uncertain
    (Browne 1995, Statistics in Medicine 14, plans with its upper end; the 80 % is ours). None below two finite
    differences; capped at 10,000.
    """
    values = _known(differences)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return None
    degrees, spread = len(values) - 1, float(values.std(ddof=1))
    ends = (spread * math.sqrt(degrees / special.chdtri(degrees, tail)) for tail in (0.1, 0.9))
    power = 1 - (1 - POWER) / sides
    low, high = (_seeds_for(end, margin, level, power) for end in ends)
    return low, high


def beyond(n: int, needed: tuple[int, int]) -> tuple[int, int]:
    """A range of seeds needed, above the n at hand: those have not settled it."""
    return max(needed[0], n + 1), max(needed[1], n + 1)


def _seeds_for(spread: float, margin: float, level: float, power: float) -> int:
    for n in range(2, _LARGE):
        if spread * _reach(n, level, power) <= margin:
            return n
    if margin <= 0:
        return _MOST_SEEDS
    far = _normal_half_width(level) + float(special.ndtri(power)) * math.sqrt(math.pi / 2)
    return min(_MOST_SEEDS, max(_LARGE, math.ceil((spread * far / margin) ** 2)))


def _reach(n: int, level: float, power: float) -> float:
    """How far above the median of n normal differences their one-sided bound lies at most, in this share of studies."""
    half = half_width(n, level)
    by_t = 0.5**n > _order_level(1 - level)
    error = max(_ORDER_ERROR / math.sqrt(n), _T_ERROR * half if by_t else 0.0)
    return half + float(special.ndtri(power)) * error


def half_width(n: int, level: float) -> float:
    """How far a one-sided bound of n normal differences lies above their median, in their standard deviations."""
    scores = special.ndtri((np.arange(1, n + 1) - 0.375) / (n + 0.25))  # expected order statistics (Blom 1958)
    return upper_bound(scores, level)


def _normal_half_width(level: float) -> float:
    """√n times `half_width` for large n: the sampling error of a median is √(π/2) times that of a mean."""
    return float(special.ndtri(1 - _order_level(1 - level)) * math.sqrt(math.pi / 2))
