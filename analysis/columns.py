"""Columns and types of the summary's tables. A missing cell is null, never 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

INTERVALS = {
    "oracle": "string", "cycle": "Int64", "interval_low": "Float64", "interval_high": "Float64",
    "unbounded_low": "boolean", "unbounded_high": "boolean", "clipped": "boolean", "segments": "string",
    "best_max_lr": "Float64", "best_accuracy": "Float64", "width_decades": "Float64", "n_seeds": "Int64",
}  # fmt: skip
VERDICTS = {
    "oracle": "string", "cycle": "Int64", "arm": "string", "control": "boolean", "max_lr": "Float64",
    "verdict": "string", "point_verdict": "string", "reason": "string", "n_seeds": "Int64", "p_inside": "Float64",
    "p_inside_holm": "Float64", "p_outside": "Float64", "p_outside_holm": "Float64",
}  # fmt: skip
CURVES = {
    "oracle": "string", "cycle": "Int64", "max_lr": "Float64", "asked": "boolean", "tests": "string",
    "val_mean": "Float64", "val_spread": "Float64", "test_mean": "Float64", "test_spread": "Float64", "n": "Int64",
    "collapsed": "Int64",
}  # fmt: skip
ARMS = {
    "arm": "string", "cycle": "Int64", "weights_remaining": "Float64", "max_lr": "Float64", "test_mean": "Float64",
    "test_spread": "Float64", "val_mean": "Float64", "val_spread": "Float64", "n_seeds": "Int64", "diverged": "Int64",
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


def typed(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """A DataFrame with exactly these columns and types; a missing cell is null."""
    return pd.DataFrame(list(rows), columns=list(columns)).astype(dict(columns))
