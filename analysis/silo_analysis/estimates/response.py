"""What the panels of response curves need to know: means of the rates that live, and how high the panels are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from silo_analysis.estimates.oracle import OracleCycle
from silo_analysis.estimates.stats import FloatArray
from silo_tune.formats import words


def live_means(group: OracleCycle) -> FloatArray:
    """(R,) mean validation score over the seeds that have one; NaN for a rate that collapsed in all of them."""
    known = np.isfinite(group.val)
    count = known.sum(axis=0)
    live = (known & ~group.collapsed).any(axis=0)
    total = np.where(known, group.val, 0.0).sum(axis=0)
    means: FloatArray = np.divide(total, count, out=np.full(len(group.rates), np.nan), where=live)
    return means


def rate_ticks(low: float, high: float, most: int) -> list[float]:
    """Round rates between `low` and `high` (above 0) for a log axis: as many as fit, at most `most`, at least one."""
    steps = ([1.0], [1.0, 3.0], [1.0, 2.0, 5.0], [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0])
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices = [[s * 10.0**d for d in decades for s in step if low <= s * 10.0**d <= high] for step in steps]
    fitting = [choice for choice in choices if 0 < len(choice) <= most]
    if fitting:
        return max(fitting, key=len)
    every = math.ceil(len(choices[0]) / most)
    return choices[0][::every] if every else [float(f"{math.sqrt(low * high):.2g}")]


def panel_room(groups: Sequence[OracleCycle], tolerance: float) -> tuple[float, float]:
    """Room below and above the best mean, the same in every panel, so that the tolerance looks the same.

    Below there is room for most rates (those far below are marked at the floor), above for every seed's dot.
    """
    drops: list[float] = []
    rises = [0.0]
    for group in groups:
        means = live_means(group)
        live = np.isfinite(means)
        if live.any():
            best = float(means[live].max())
            drops += (best - means[live]).tolist()
            rises.append(float(np.nanmax(group.val[:, live])) - best)
    below = max(5 * tolerance, 1.25 * float(np.quantile(drops, 0.8)) if drops else 0.0)
    above = min(0.6 * below, max(rises) + 0.06 * below)
    return words().scale * below, words().scale * above
