"""Small-sample statistics on paired differences: t bounds, t interval, equivalence, Holm, seeds needed; ranks.

Differences are one number per seed, in accuracy units (0.01 is one point). Pairing by seed takes out what all arms of a
seed share, its split and initial weights (why that matters: Bouthillier et al. 2021, "Accounting for variance in
machine learning benchmarks"). Bootstrap intervals are not offered: at three to five seeds they cover far less than they
claim (Hesterberg 2015, "What teachers should know about the bootstrap"). `scipy.special` is used because importing
`scipy.stats` takes a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# Accuracies are ratios of counts: two that differ by exactly the tolerance may differ by a rounding error more.
ROUNDING = 1e-12
_MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its two-sided paired t interval.

    Attributes:
        n: number of seeds.
        mean: None when there is no seed.
        spread: standard deviation over seeds, None below two.
        low, high: ends of the interval; None below two seeds, where a t interval has no end.
    """

    n: int
    mean: float | None = None
    spread: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests (TOST) of |mean| < margin.

    Attributes:
        p: the larger of the two one-sided p values, 1 below two seeds.
        equivalent: p below the level that was asked for.
    """

    p: float
    equivalent: bool


def _known(differences: Sequence[float] | FloatArray) -> FloatArray:
    values: FloatArray = np.asarray(differences, dtype=float)
    known: FloatArray = values[np.isfinite(values)]
    return known


def standard_error(differences: Sequence[float] | FloatArray) -> float:
    """Standard error of the mean; infinite below two values, 0 for equal values."""
    values = _known(differences)
    if len(values) < 2:
        return math.inf
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def upper_bound(differences: Sequence[float] | FloatArray, level: float = 0.95) -> float:
    """One-sided upper confidence bound of the mean (paired t, Student 1908).

    Infinite below two seeds; no spread gives the mean.
    """
    return -lower_bound(-_known(differences), level)


def lower_bound(differences: Sequence[float] | FloatArray, level: float = 0.95) -> float:
    """One-sided lower confidence bound of the mean (paired t). -Infinite below two seeds; no spread gives the mean."""
    values = _known(differences)
    if len(values) < 2:
        return -math.inf
    return float(values.mean() - special.stdtrit(len(values) - 1, level) * standard_error(values))


def p_below(differences: Sequence[float] | FloatArray, margin: float) -> float:
    """One-sided p value for "the mean is below the margin" (H0: at or above it). 1 below two seeds."""
    values = _known(differences)
    if len(values) < 2:
        return 1.0
    error, gap = standard_error(values), float(values.mean()) - margin
    if error <= ROUNDING:
        return 0.0 if gap < -ROUNDING else 1.0
    return float(special.stdtr(len(values) - 1, gap / error))


def p_above(differences: Sequence[float] | FloatArray, margin: float) -> float:
    """One-sided p value for "the mean is above the margin" (H0: at or below it). 1 below two seeds."""
    return p_below(-_known(differences), -margin)


def two_sided_p(differences: Sequence[float] | FloatArray) -> float:
    """Two-sided p value of the paired t test for "the mean is not 0". 1 below two seeds."""
    return min(1.0, 2 * min(p_below(differences, 0.0), p_above(differences, 0.0)))


def paired_interval(differences: Sequence[float] | FloatArray, level: float = 0.95) -> Estimate:
    """Mean and two-sided paired t interval; missing (not finite) differences are left out."""
    values = _known(differences)
    if len(values) == 0:
        return Estimate(0)
    if len(values) == 1:
        return Estimate(1, float(values[0]))
    one_sided = 1 - (1 - level) / 2
    return Estimate(
        n=len(values),
        mean=float(values.mean()),
        spread=float(values.std(ddof=1)),
        low=lower_bound(values, one_sided),
        high=upper_bound(values, one_sided),
    )


def tost(differences: Sequence[float] | FloatArray, margin: float, level: float = 0.95) -> Equivalence:
    """Is the mean within ±margin? Both one-sided t tests must say so (Schuirmann 1987, J. Pharmacokin. Biopharm. 15).

    Each is made at the full level: an intersection-union test (Berger 1982, Technometrics 24).
    """
    p = max(p_below(differences, margin), p_above(differences, -margin))
    return Equivalence(p, p < 1 - level)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given (Holm 1979, Scand. J. Statist. 6).

    Valid under any dependence between the tests. An adjusted p below 5 % is a rejection, with at most 5 % for any false
    one among them.
    """
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def seeds_needed(
    differences: Sequence[float] | FloatArray, margin: float, level: float = 0.95
) -> tuple[int, int] | None:
    """Seeds in all at which a one-sided t bound is within `margin` of the mean, as a range.

    The range comes from the 80 % chi-square interval of the spread, since a spread over few seeds is itself uncertain
    (Browne 1995, Statistics in Medicine 14, plans with its upper end; the 80 % is ours). None below two seeds; capped
    at 10,000.
    """
    values = _known(differences)
    if len(values) < 2:
        return None
    degrees, spread = len(values) - 1, float(values.std(ddof=1))
    ends = (spread * math.sqrt(degrees / special.chdtri(degrees, tail)) for tail in (0.1, 0.9))
    low, high = (_seeds_for(end, margin, level) for end in ends)
    return low, high


def _seeds_for(spread: float, margin: float, level: float) -> int:
    n = np.arange(2, _MOST_SEEDS + 1)
    enough = special.stdtrit(n - 1, level) * spread / np.sqrt(n) <= margin
    return int(n[enough.argmax()]) if enough.any() else _MOST_SEEDS


def rank_correlation(left: Sequence[float] | FloatArray, right: Sequence[float] | FloatArray) -> float | None:
    """Spearman's rank correlation (1904) of two series of equal length, ties sharing their mean rank.

    None below three pairs, and where one side has no two different values. Pairs that are not finite are left out.
    """
    x, y = np.asarray(left, dtype=float), np.asarray(right, dtype=float)
    both = np.isfinite(x) & np.isfinite(y)
    a, b = _ranks(x[both]), _ranks(y[both])
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: FloatArray) -> FloatArray:
    """Ranks from 1; equal values share the mean of theirs."""
    column = values[:, None]
    ranks: FloatArray = (column > values).sum(axis=1) + ((column == values).sum(axis=1) + 1) / 2
    return ranks
