"""The point interval: the rates whose mean score, interpolated in log max_lr, is within the tolerance of the best.

It is shown beside the verdict of `containment`, never instead of it: it knows no noise. The definition is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from silo_analysis.estimates.oracle import OracleCycle, decades
from silo_analysis.estimates.stats import ROUNDING, FloatArray


@dataclass(frozen=True)
class Interval:
    """The rates near the best, as one or several segments of the mean curve.

    Attributes:
        low, high: ends of the segment that holds the best rate.
        best: the best asked rate (the smallest of equals).
        best_score: mean score there.
        segments: every (low, high), rising, of which (low, high) is one.
        unbounded_low, unbounded_high: the best rate is the grid's edge on that side, so that no end was seen.
        grid_low, grid_high: the grid's edges.
    """

    low: float
    high: float
    best: float
    best_score: float
    segments: tuple[tuple[float, float], ...]
    unbounded_low: bool
    unbounded_high: bool
    grid_low: float
    grid_high: float

    def contains(self, rate: float) -> bool:
        """Does the rate lie in any segment? An unbounded side has no end, so that a rate beyond it lies inside."""
        if any(low <= rate <= high for low, high in self.segments):
            return True
        return (self.unbounded_low and rate < self.low) or (self.unbounded_high and rate > self.high)

    @property
    def width_decades(self) -> float:
        """Width of the best's segment in powers of ten; only a lower bound where it is `clipped`."""
        return decades(self.low, self.high)

    @property
    def clipped(self) -> bool:
        """The best's segment reaches an edge of the grid: it may go on beyond."""
        return self.low <= self.grid_low or self.high >= self.grid_high


def point_interval(
    rates: Sequence[float] | FloatArray, scores: Sequence[float] | FloatArray, tolerance: float
) -> Interval:
    """The interval of a mean response curve.

    Args:
        rates: (R,) asked max_lr, above 0, in any order.
        scores: (R,) mean score, signed so that more is better; a rate that is not finite here is left out.
        tolerance: difference of scores.

    Raises:
        ValueError: no rate has a score.
    """
    x, y = np.asarray(rates, dtype=float), np.asarray(scores, dtype=float)
    known = np.flatnonzero(np.isfinite(y))
    if len(known) == 0:
        raise ValueError("no rate has a score")
    order = known[np.argsort(x[known], kind="stable")]
    x, y = x[order], y[order]
    best = int(y.argmax())
    segments = _segments(x, y, float(y[best]) - tolerance - ROUNDING)
    low, high = next(segment for segment in segments if segment[0] <= x[best] <= segment[1])
    return Interval(
        low=low,
        high=high,
        best=float(x[best]),
        best_score=float(y[best]),
        segments=segments,
        unbounded_low=best == 0,
        unbounded_high=best == len(x) - 1,
        grid_low=float(x[0]),
        grid_high=float(x[-1]),
    )


def _segments(x: FloatArray, y: FloatArray, line: float) -> tuple[tuple[float, float], ...]:
    """Stretches of the curve at or above `line`; `x` rising."""
    good = y >= line
    starts = [i for i in range(len(x)) if good[i] and (i == 0 or not good[i - 1])]
    ends = [i for i in range(len(x)) if good[i] and (i == len(x) - 1 or not good[i + 1])]
    return tuple(
        (_crossing(x, y, a, a - 1, line), _crossing(x, y, b, b + 1, line)) for a, b in zip(starts, ends, strict=True)
    )


def _crossing(x: FloatArray, y: FloatArray, inner: int, outer: int, line: float) -> float:
    """Where the curve between a rate above the line and its neighbour below meets the line, in log max_lr."""
    if not 0 <= outer < len(x):
        return float(x[inner])
    share = (y[inner] - line) / (y[inner] - y[outer])
    return float(x[inner] * (x[outer] / x[inner]) ** share)


def mean_curve(cycle: OracleCycle) -> tuple[FloatArray, FloatArray]:
    """Asked rates and their mean validation score over the same seeds; (R,) each.

    A rate without any result is left out; a seed that misses one of the others is too, unless every seed does.
    """
    curve = cycle.val[:, cycle.asked]
    present = np.isfinite(curve).any(axis=0)
    curve = curve[:, present]
    complete = np.isfinite(curve).all(axis=1)
    if complete.any():
        curve = curve[complete]
    return cycle.rates[cycle.asked][present], np.nanmean(curve, axis=0) if curve.size else np.zeros(0)


def interval_of(cycle: OracleCycle, tolerance: float) -> Interval | None:
    """The point interval of one Oracle's cycle; None when no asked rate trained without collapsing in any seed."""
    rates, scores = mean_curve(cycle)
    alive = ~cycle.collapsed & np.isfinite(cycle.val) & cycle.asked
    return point_interval(rates, scores, tolerance) if alive.any() else None
