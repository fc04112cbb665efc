"""Columns and types of the summary's tables. A missing cell is null, never 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

INTERVALS = {
    "oracle": "string", "cycle": "Int64", "interval_low": "Float64", "interval_high": "Float64",
    "unbounded_low": "boolean", "unbounded_high": "boolean", "clipped": "boolean", "segments": "string",
    "best_max_lr": "Float64", "best_score": "Float64", "width_decades": "Float64", "n_seeds": "Int64",
}  # fmt: skip
VERDICTS = {
    "oracle": "string", "cycle": "Int64", "arm": "string", "control": "boolean", "max_lr": "Float64",
    "verdict": "string", "point_verdict": "string", "reason": "string", "n_seeds": "Int64", "p_inside": "Float64",
    "p_inside_holm": "Float64", "p_outside": "Float64", "p_outside_holm": "Float64", "needed_low": "Int64",
    "needed_high": "Int64", "collapsed": "Int64", "collapsed_low": "Float64", "collapsed_high": "Float64",
}  # fmt: skip
CURVES = {
    "oracle": "string", "cycle": "Int64", "max_lr": "Float64", "asked": "boolean", "tests": "string",
    "val_mean": "Float64", "val_spread": "Float64", "test_mean": "Float64", "test_spread": "Float64", "n": "Int64",
    "collapsed": "Int64",
}  # fmt: skip
ARMS = {
    "arm": "string", "cycle": "Int64", "weights_remaining": "Float64", "max_lr": "Float64", "test_mean": "Float64",
    "test_spread": "Float64", "test_median": "Float64", "test_low": "Float64", "test_high": "Float64",
    "val_mean": "Float64", "val_spread": "Float64", "n_seeds": "Int64", "diverged": "Int64", "trained": "Int64",
    "trained_low": "Float64", "trained_high": "Float64",
}  # fmt: skip
# Further scores of an arm's chains (`task.also`): medians over the seeds that have one.
ALSO = {
    "score": "string", "arm": "string", "cycle": "Int64", "weights_remaining": "Float64", "val_median": "Float64",
    "test_median": "Float64", "trained": "Int64", "n_seeds": "Int64",
}  # fmt: skip
CYCLES = {
    "cycle": "Int64", "weights_remaining": "Float64", "max_lr": "Float64", "interval_low": "Float64",
    "interval_high": "Float64", "unbounded_low": "boolean", "unbounded_high": "boolean", "clipped": "boolean",
    "best_max_lr": "Float64", "width_decades": "Float64", "verdict": "string", "point_verdict": "string",
    "reason": "string", "p_inside_holm": "Float64", "p_outside_holm": "Float64", "controls": "string",
    "informative": "boolean", "cycle_regret_test": "Float64", "cycle_regret_val": "Float64",
    "regret_crossfit_test": "Float64", "chain_gap": "Float64", "chain_gap_spread": "Float64", "n_seeds": "Int64",
    "n_chain_seeds": "Int64",
}  # fmt: skip
REGRET = {
    "oracle": "string", "cycle": "Int64", "seed": "Int64", "max_lr": "Float64", "best_max_lr": "Float64",
    "regret_val": "Float64", "regret_test": "Float64",
}  # fmt: skip
CROSSFIT = {
    "oracle": "string", "cycle": "Int64", "seed": "Int64", "max_lr": "Float64", "chosen_max_lr": "Float64",
    "regret_val": "Float64", "regret_test": "Float64",
}  # fmt: skip
GAPS = {
    "oracle": "string", "schedule": "string", "cycle": "Int64", "seed": "Int64", "gap_val": "Float64",
    "gap_test": "Float64",
}  # fmt: skip
# Parts of a greedy Oracle's chain gap on test (`luck`); `cycle` is null for the mean over cycles ≥ 2. way: retrained |
# best-of; part: gap | luck | rate; trainings, candidates: that the best-of arm, the Oracle chooses among a cycle.
LUCK = {
    "oracle": "string", "way": "string", "arm": "string", "trainings": "Int64", "candidates": "Float64",
    "part": "string", "cycle": "Int64", "difference": "Float64", "mean": "Float64", "spread": "Float64",
    "low": "Float64", "high": "Float64", "n_seeds": "Int64",
}  # fmt: skip
# `test_low` to `test_high`: 95 % interval of the median. `trained`: chains, of `n_seeds`, that did not collapse.
# The judged schedule − another schedule arm, on test; `cycle` is null for the mean over cycles ≥ 2. Above 0 the judged
# schedule is better. `outcome`: better | worse | equivalent | identical (the same units) | undetermined; `left_out`:
# seeds without a pair; `within_low` to `within_high`: the 90 % interval, which lies within ±tolerance where TOST says
# equivalent; `needed_low` to `needed_high`: seeds in all that would settle an undetermined one. `low` to `high`: new
# seeds, these test images; `low_examples` to `high_examples`: new seeds and new test images (overall only).
AGAINST = {
    "arm": "string", "cycle": "Int64", "weights_remaining": "Float64", "difference": "Float64", "mean": "Float64",
    "spread": "Float64", "low": "Float64", "high": "Float64", "p": "Float64", "p_holm": "Float64",
    "p_equivalent": "Float64", "p_equivalent_holm": "Float64", "outcome": "string", "n_seeds": "Int64",
    "left_out": "Int64", "within_low": "Float64", "within_high": "Float64", "needed_low": "Int64",
    "needed_high": "Int64", "low_examples": "Float64", "high_examples": "Float64",
}  # fmt: skip
# Images, summed over seeds, that only the judged schedule or only the arm gets right; `difference`: of their mean
# accuracies, with its interval for new seeds and new test images.
MCNEMAR = {
    "arm": "string", "cycle": "Int64", "weights_remaining": "Float64", "n_seeds": "Int64", "n_test": "Int64",
    "only_schedule": "Float64", "only_arm": "Float64", "difference": "Float64", "low": "Float64", "high": "Float64",
    "p": "Float64", "p_holm": "Float64",
}  # fmt: skip
# Arms with chains, by mean test accuracy over cycles ≥ 2 on the seeds that all compared arms have. `own_seeds`: seeds
# that the arm has complete; `trained`: those of them without a collapse; `same_as`: arms with the same units.
RANKING = {
    "rank": "Int64", "rank_best": "Int64", "rank_worst": "Int64", "arm": "string", "kind": "string",
    "judged": "boolean", "mean": "Float64", "median": "Float64", "low": "Float64", "high": "Float64",
    "n_seeds": "Int64", "own_seeds": "Int64", "trained": "Int64", "same_as": "string",
}  # fmt: skip
# What schedule arms trained per retrained cycle, over the `cells` (seed and cycle) that the judged one has too.
BUDGETS = {
    "arm": "string", "judged": "boolean", "epochs": "Float64", "steps": "Float64", "ratio": "Float64",
    "matched": "boolean", "cells": "Int64", "n_seeds": "Int64",
}  # fmt: skip
# Spreads relative to the dense cycle: `ratio` is the exponential of the mean log-ratio over seeds.
SPREADS = {
    "arm": "string", "measure": "string", "cycle": "Int64", "weights_remaining": "Float64", "ratio": "Float64",
    "log_ratio_mean": "Float64", "log_ratio_spread": "Float64", "n_seeds": "Int64",
}  # fmt: skip
# Slopes of log spread against log weights remaining; `direction`: narrower | wider | undetermined, as weights go.
SLOPES = {
    "arm": "string", "measure": "string", "slope": "Float64", "slope_spread": "Float64", "slope_low": "Float64",
    "slope_high": "Float64", "n_seeds": "Int64", "direction": "string",
}  # fmt: skip
_ORACLE_SIDE = {
    "best": "Float64", "low": "Float64", "high": "Float64", "unbounded_low": "boolean", "unbounded_high": "boolean",
    "verdict": "string", "contains": "boolean", "n_seeds": "Int64",
}  # fmt: skip
# Two Oracles at one cycle. `contains`: the schedule's rate lies in the point interval; `overlap`: share of the union of
# the two intervals in log max_lr; `rank_correlation`: Spearman, of the mean responses on the shared asked rates;
# `same_weights`: seeds, of `both_seeds`, in which both Oracles start from the same unit.
COMPARED = {
    "cycle": "Int64", "weights_remaining": "Float64", "max_lr": "Float64",
    **{f"{side}_{name}": kind for side in ("greedy", "conditioned") for name, kind in _ORACLE_SIDE.items()},
    "same_verdict": "boolean", "distance_decades": "Float64", "overlap": "Float64", "rank_correlation": "Float64",
    "shared_rates": "Int64", "both_seeds": "Int64", "same_weights": "Int64",
}  # fmt: skip
# Points of searches; one more column "param_NAME" for every parameter that any of them has.
POINTS = {
    "arm": "string", "kind": "string", "trial": "Int64", "round": "Int64", "objective": "Float64", "told": "Float64",
    "stopped": "Int64", "seeds": "string", "best": "boolean",
}  # fmt: skip

# The best of so many chains of a search (per seed): the expected one of any so many, or, `in_order`, that of the first.
TUNING_CURVE = {
    "arm": "string", "kind": "string", "chains": "Int64", "in_order": "boolean", "best": "Float64", "low": "Float64",
    "high": "Float64",
}  # fmt: skip


def typed(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """A DataFrame with exactly these columns and types; a missing cell is null."""
    return pd.DataFrame(list(rows), columns=list(columns)).astype(dict(columns))
