"""Do gradients and hidden representations narrow as weights are pruned? Spreads over cycles, relative to the dense one.

All is on logarithms: per seed and cycle the log-ratio of a spread to that of the same chain's dense cycle, and per seed
one number, the slope of log spread against log weights remaining by least squares over its pruned cycles. A slope of
0.5 means that the spread falls as the root of the weights remaining; above 0 it narrows, below 0 it widens. The dense
cycle is no point of the line: it has its own budget, and how far a network is trained moves its gradients more than
pruning does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from silo_analysis.estimates import oracle
from silo_analysis.estimates.frames import SLOPES, SPREADS, typed
from silo_analysis.estimates.stats import FloatArray
from silo_analysis.estimates.typical import paired_interval
from silo_tune.study.model import Study

MEASURES = ("grad_spread", "activation_spread", "activation_spread_norm")
# Ours: through fewer pruned cycles any two values draw a line.
FEWEST_CYCLES = 3
# Ours: an interval of two seeds rests on one degree of freedom.
FEWEST_SEEDS = 3


def watched_arms(study: Study) -> list[str]:
    """The judged schedule, and the controls, whose peaks do not follow the curve."""
    own = [study.report.schedule] if study.report.schedule in study.arms else []
    return [*own, *oracle.controls(study, list(study.arms))]


def log_ratios(chains: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Per arm, measure, seed and cycle, in that order: weights remaining, and log of spread over dense spread.

    A row without a spread, or whose chain has none at cycle 0, is left out; and a training that collapsed: a network
    that guesses has hardly a gradient left, whatever was pruned.

    Args:
        chains: from `regret.chain_rows`.
        study: says which arms.
    """
    lives = chains["weights_remaining"].notna() & ~oracle.collapsed_rows(chains)
    known = chains[lives].sort_values(["seed", "cycle"])
    arms = [known[known["arm"] == arm] for arm in watched_arms(study)]
    parts = [_log_ratios(own, measure) for own in [known.iloc[:0], *arms] for measure in MEASURES]
    return pd.concat(parts, ignore_index=True)


def _log_ratios(chains: pd.DataFrame, measure: str) -> pd.DataFrame:
    rows = chains.loc[chains[measure] > 0, ["arm", "seed", "cycle", "weights_remaining", measure]]
    dense = rows.loc[rows["cycle"] == 0, ["arm", "seed", measure]]
    both = rows.merge(dense, on=["arm", "seed"], suffixes=("", "_dense"))
    ratio = oracle.numbers(both, measure) / oracle.numbers(both, f"{measure}_dense")
    return both.assign(measure=measure, log_ratio=np.log(ratio)).drop(columns=[measure, f"{measure}_dense"])


def spread_table(ratios: pd.DataFrame) -> pd.DataFrame:
    """Per arm, measure and cycle: mean and standard deviation over seeds of the log-ratio (`columns.SPREADS`)."""
    grouped: Any = ratios.groupby(["arm", "measure", "cycle"], sort=False)
    rows = [_at_cycle(arm, measure, int(cycle), own) for (arm, measure, cycle), own in grouped]
    return typed(rows, SPREADS)


def _at_cycle(arm: str, measure: str, cycle: int, rows: pd.DataFrame) -> dict[str, Any]:
    estimate = paired_interval(oracle.numbers(rows, "log_ratio"))
    assert estimate.mean is not None
    return {
        "arm": arm,
        "measure": measure,
        "cycle": cycle,
        "weights_remaining": float(rows["weights_remaining"].mean()),
        "ratio": float(np.exp(estimate.mean)),
        "log_ratio_mean": estimate.mean,
        "log_ratio_spread": estimate.spread,
        "n_seeds": estimate.n,
    }


def slope_table(ratios: pd.DataFrame) -> pd.DataFrame:
    """Per arm and measure: median slope over seeds, its 95 % interval, and what it says (`columns.SLOPES`)."""
    grouped: Any = ratios.groupby(["arm", "measure"], sort=False)
    found = [_slope(arm, measure, rows) for (arm, measure), rows in grouped]
    return typed([row for row in found if row["n_seeds"]], SLOPES)


def _slope(arm: str, measure: str, rows: pd.DataFrame) -> dict[str, Any]:
    estimate = paired_interval(list(_slopes_of_seeds(rows)))
    return {
        "arm": arm,
        "measure": measure,
        "slope": estimate.median,
        "slope_spread": estimate.spread,
        "slope_low": estimate.low,
        "slope_high": estimate.high,
        "n_seeds": estimate.n,
        "direction": _direction(estimate.n, estimate.low, estimate.high),
    }


def _slopes_of_seeds(rows: pd.DataFrame) -> Iterator[float]:
    pruned = rows[rows["cycle"] > 0]
    seeds = pruned["seed"].to_numpy(dtype=int)
    remaining, ratio = oracle.numbers(pruned, "weights_remaining"), oracle.numbers(pruned, "log_ratio")
    for seed in np.unique(seeds):
        own = seeds == seed
        if own.sum() >= FEWEST_CYCLES:
            yield slope_of(remaining[own], ratio[own])


def slope_of(weights_remaining: FloatArray, log_ratio: FloatArray) -> float:
    """Least-squares slope of a log-ratio against log weights remaining, the intercept free."""
    x = np.log(weights_remaining) - np.log(weights_remaining).mean()
    return float((x * log_ratio).sum() / (x * x).sum())


def _direction(seeds: int, low: float | None, high: float | None) -> str:
    if seeds < FEWEST_SEEDS or low is None or high is None or low <= 0 <= high:
        return "undetermined"
    return "narrower" if low > 0 else "wider"
