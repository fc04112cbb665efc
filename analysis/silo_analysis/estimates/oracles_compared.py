"""The greedy and the conditioned Oracle side by side: where they disagree, and what that does to the verdict.

The best rate depends on the weights that a cycle starts from. The greedy Oracle starts each cycle from its own winner,
the conditioned one from the judged schedule's own weights. Where both start from the same weights (always at the first
cycle) they agree by construction, and the agreement is no evidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from silo_analysis.estimates import containment
from silo_analysis.estimates.frames import COMPARED, typed
from silo_analysis.estimates.interval import Interval, interval_of, mean_curve
from silo_analysis.estimates.oracle import OracleCycle, conditioned_oracle, decades, greedy_oracle
from silo_analysis.estimates.stats import rank_correlation
from silo_tune.study.model import Study

SIDES = ("greedy", "conditioned")
NOT_TESTED = "not tested"


@dataclass(frozen=True)
class Pair:
    """Names of the greedy Oracle and of the one that is conditioned on the judged schedule."""

    greedy: str
    conditioned: str


def pair_of(study: Study, present: Mapping[str, Any] | set[str]) -> Pair | None:
    """The two Oracles of a study; None unless both have rows (are in `present`)."""
    greedy, conditioned = greedy_oracle(study, present), conditioned_oracle(study, present)
    if greedy is None or conditioned is None or not {greedy, conditioned} <= set(present):
        return None
    return Pair(greedy, conditioned)


def compare(
    groups: Mapping[tuple[str, int], OracleCycle],
    pair: Pair | None,
    schedule: str,
    tolerance: float,
    weights: Mapping[Any, float],
) -> pd.DataFrame:
    """One row per cycle that both Oracles have closed in some seed (`columns.COMPARED`).

    Args:
        groups: from `oracle.oracle_cycles`.
        pair: the two Oracles; None gives no rows.
        schedule: the judged arm.
        tolerance: difference of accuracies in [0, 1].
        weights: cycle → share of weights remaining.
    """
    if pair is None:
        return typed([], COMPARED)
    cycles = sorted(cycle for name, cycle in groups if name == pair.greedy and (pair.conditioned, cycle) in groups)
    rows = []
    for cycle in cycles:
        row = compare_cycle(groups[pair.greedy, cycle], groups[pair.conditioned, cycle], schedule, tolerance)
        rows.append(row | {"weights_remaining": weights.get(cycle)})
    return typed(rows, COMPARED)


def compare_cycle(greedy: OracleCycle, conditioned: OracleCycle, schedule: str, tolerance: float) -> dict[str, Any]:
    """The two Oracles at one cycle (`columns.COMPARED`, without weights_remaining)."""
    left, right = interval_of(greedy, tolerance), interval_of(conditioned, tolerance)
    row: dict[str, Any] = {"cycle": greedy.cycle}
    row |= _side("greedy", greedy, left, schedule, tolerance)
    row |= _side("conditioned", conditioned, right, schedule, tolerance)
    names = [row["greedy_verdict"], row["conditioned_verdict"]]
    known = [rate for rate in (greedy.tested.get(schedule), conditioned.tested.get(schedule)) if rate is not None]
    both = set(greedy.seeds) & set(conditioned.seeds)
    return row | {
        "max_lr": known[0] if known else None,
        "same_verdict": None if NOT_TESTED in names else names[0] == names[1],
        "distance_decades": abs(decades(left.best, right.best)) if left and right else None,
        "overlap": overlap(left, right) if left and right else None,
        **_response(greedy, conditioned),
        "both_seeds": len(both),
        "same_weights": sum(1 for seed in both if _same_parent(greedy, conditioned, seed)),
    }


def _side(side: str, group: OracleCycle, interval: Interval | None, schedule: str, tolerance: float) -> dict[str, Any]:
    verdict = containment.judge(group, schedule, tolerance)
    cells: dict[str, Any] = {"verdict": verdict.name, "n_seeds": len(group.seeds)}
    if interval is not None:
        cells |= {
            "best": interval.best,
            "low": interval.low,
            "high": interval.high,
            "unbounded_low": interval.unbounded_low,
            "unbounded_high": interval.unbounded_high,
        }
        if verdict.max_lr is not None:
            cells["contains"] = interval.contains(verdict.max_lr)
    return {f"{side}_{name}": value for name, value in cells.items()}


def overlap(left: Interval, right: Interval) -> float:
    """Share of the union of two intervals (low to high, in log max_lr) that lies in both, in [0, 1].

    Two intervals without width overlap wholly when they are the same rate. An end at a grid's edge counts as an end.
    """
    common = _log_width(max(left.low, right.low), min(left.high, right.high))
    union = left.width_decades + right.width_decades - common
    if union <= 0:
        return 1.0 if left.low == right.low else 0.0
    return common / union


def _log_width(low: float, high: float) -> float:
    return math.log10(high / low) if high > low else 0.0


def _response(greedy: OracleCycle, conditioned: OracleCycle) -> dict[str, Any]:
    """Rank correlation of the mean responses on the rates that both Oracles asked for."""
    (rates, left), (others, right) = mean_curve(greedy), mean_curve(conditioned)
    shared, here, there = np.intersect1d(rates, others, return_indices=True)
    return {"shared_rates": len(shared), "rank_correlation": rank_correlation(left[here], right[there])}


def _same_parent(greedy: OracleCycle, conditioned: OracleCycle, seed: int) -> bool:
    parent = greedy.parents.get(seed)
    return parent is not None and parent == conditioned.parents.get(seed)
