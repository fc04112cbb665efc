"""What small samples of seeds are said in: an estimate, an equivalence, success counts; Holm's correction; ranks.

Differences are one number per seed, in score units (0.01 of an accuracy is one point). Pairing by seed takes out what
all arms of a seed share, its split and initial weights (why that matters: Bouthillier et al. 2021, "Accounting for
variance in machine learning benchmarks"). The tests are in `typical`. Bootstrap intervals are not offered: at three to
five seeds they cover far less than they claim (Hesterberg 2015, "What teachers should know about the bootstrap").
`scipy.special` is used because importing `scipy.stats` takes a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# Accuracies are ratios of counts: two that differ by exactly the tolerance may differ by a rounding error more.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """What seeds say of a quantity: its mean, and its median with a two-sided interval (`typical.paired_interval`).

    Attributes:
        n: number of seeds.
        mean: None when there is no seed.
        median: None when there is no seed.
        spread: standard deviation over seeds, None below two.
        low, high: ends of the interval of the median; None below two seeds.
    """

    n: int
    mean: float | None = None
    median: float | None = None
    spread: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests (TOST) of |typical difference| < margin.

    Attributes:
        p: the larger of the two one-sided p values, 1 below two seeds.
        equivalent: p below the level that was asked for.
    """

    p: float
    equivalent: bool


def share_interval(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval of a share of which k of n were seen (Clopper and Pearson 1934, Biometrika 26)."""
    tail = (1 - level) / 2
    low = 0.0 if k == 0 else float(special.betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(special.betaincinv(k + 1, n - k, 1 - tail))
    return low, high


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
