"""The best of the first n chains of a search, as n grows: was an arm still climbing when its chains were spent?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from silo_analysis.estimates.frames import TUNING_CURVE, typed
from silo_analysis.estimates.stats import FloatArray
from silo_tune.planner.winner import gain
from silo_tune.results.searches import SearchRecord

# Fewer points than this have no part to compare with.
FEWEST_POINTS = 4
# What all points are compared with: any half of them, or, where later ones follow earlier ones, the first three
# quarters.
# A guided search has little but even points in its first half: it would seem to climb wherever it ends.
ANY_PART, FIRST_PART = 1 / 2, 3 / 4


@dataclass(frozen=True)
class Climb:
    """What the last part of an arm's chains brought, as a gain.

    Attributes:
        points: chains per seed.
        before: the chains that they are compared with.
        in_order: these are the first ones; else any so many.
        gain: best of all points minus that, or the expected best, of the part of them.
        elsewhere: the same where the best is chosen on all seeds but one and measured on that one; None with one seed,
            or where the run has no values by seed. The luck of the chosen point is not in it.
        climbing: gain, and elsewhere where it is known, are above the tolerance.
    """

    points: int
    before: int
    in_order: bool
    gain: float
    elsewhere: float | None
    climbing: bool


def shares(points: int, drawn: int) -> FloatArray:
    """Probability that the best of `drawn` of these points, without replacement, is the worst, …, the best; (points,).

    C(i − 1, n − 1) / C(N, n) for the i-th of N: with it the expected maximum is exact (Dodge et al. 2019, "Show your
    work", whose formula draws with replacement).
    """
    every = math.comb(points, drawn)
    return np.array([math.comb(rank, drawn - 1) / every for rank in range(points)])


def weights(values: FloatArray, drawn: int, in_order: bool) -> FloatArray:
    """How often each point is the best of `drawn`; (points,), their sum is 1.

    Args:
        values: (points,), higher is better.
        drawn: how many points.
        in_order: they are the first ones; else any, all alike.
    """
    found = np.zeros(len(values))
    if in_order:
        found[int(np.argmax(values[:drawn]))] = 1.0
    else:
        found[np.argsort(values, kind="stable")] = shares(len(values), drawn)
    return found


def values_of(search: SearchRecord) -> FloatArray:
    """What each point is worth, (points,): its objective, else what it was reported with; only finite ones."""
    told = [point["objective"] if point["objective"] is not None else point["told"] for point in search.points]
    found = np.array([np.nan if value is None else value for value in told], dtype=float)
    finite: FloatArray = found[np.isfinite(found)]
    return finite


def by_seed(search: SearchRecord) -> FloatArray | None:
    """The same by seed, (seeds, points); None where it is not known of every point, or of one seed alone."""
    kept = [dict(point.get("by_seed") or {}) for point in search.points]
    if not kept or min(map(len, kept)) < 2:
        return None
    whole: FloatArray = np.array([[one[seed] for one in kept] for seed in kept[0]], dtype=float)
    return whole if whole.shape[1] == len(values_of(search)) else None


def climb_of(search: SearchRecord, tolerance: float) -> Climb | None:
    """What the last part of the chains brought; None of a search that is under way or has too few points."""
    values = values_of(search)
    if not search.finished or len(values) < FEWEST_POINTS:
        return None
    before, seeds = math.ceil(len(values) * (FIRST_PART if search.adaptive else ANY_PART)), by_seed(search)
    gain = float(_gained(values, before, search.adaptive) @ values)
    elsewhere = None if seeds is None else _cross_fitted(seeds, before, search.adaptive)
    climbing = min(gain, gain if elsewhere is None else elsewhere) > tolerance
    return Climb(len(values), before, search.adaptive, gain, elsewhere, climbing)


def _gained(values: FloatArray, before: int, in_order: bool) -> FloatArray:
    return weights(values, len(values), in_order) - weights(values, before, in_order)


def _cross_fitted(seeds: FloatArray, before: int, in_order: bool) -> float:
    gains = [_gained(np.delete(seeds, i, axis=0).mean(axis=0), before, in_order) @ seeds[i] for i in range(len(seeds))]
    return float(np.mean(gains))


def tuning_curves(searches: Mapping[str, SearchRecord], sign: int = 1) -> pd.DataFrame:
    """Per search and number of chains, the best that is expected of so many (`TUNING_CURVE`).

    `low` and `high` are the least and the greatest over the seeds of what the point that is chosen on all of them
    scores on one. Scores are as they are, not as gains; `sign` is that of the study's.
    """
    rows = []
    for search in searches.values():
        values, seeds = values_of(search), by_seed(search)
        for drawn in range(1, len(values) + 1):
            share = weights(values, drawn, search.adaptive)
            row = {"arm": search.arm, "kind": search.kind, "chains": drawn, "in_order": search.adaptive,
                   "best": gain(float(share @ values), sign)}  # fmt: skip
            if seeds is not None:
                each = seeds @ share
                low, high = sorted((gain(float(each.min()), sign), gain(float(each.max()), sign)))
                row |= {"low": low, "high": high}
            rows.append(row)
    return typed(rows, TUNING_CURVE)
