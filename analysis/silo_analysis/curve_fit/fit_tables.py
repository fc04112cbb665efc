"""A comparison of curves as tables of plain numbers, for CSV."""

from __future__ import annotations

import pandas as pd

from silo_analysis.curve_fit.comparison import BetaFit, Comparison, Fit
from silo_analysis.curve_fit.families import RIVALS
from silo_analysis.estimates.frames import typed
from silo_analysis.estimates.stats import FloatArray
from silo_analysis.estimates.typical import paired_interval
from silo_tune.planner import winner

CONSTANTS = ("max_lr", "start", "end", "eps", "delta", "beta", "q")
REGRETS = ("seen", "new_cycle", "new_seed")
FAMILIES = {
    "family": "string",
    **{f"{key}{end}": "Float64" for key in CONSTANTS for end in ("", "_low", "_high")},
    **{f"regret_{kind}{part}": "Float64" for kind in REGRETS for part in ("", "_low", "_high")},
    "test_score": "Float64",
    **{f"silo_gain_{kind}{part}": "Float64" for kind in REGRETS[1:] for part in ("", "_low", "_high")},
    "silo_is": "string",
    "n_seeds": "Int64",
}
PEAKS = {
    "family": "string", "cycle": "Int64", "weights_remaining": "Float64", "max_lr": "Float64", "max_lr_low": "Float64",
    "max_lr_high": "Float64",
}  # fmt: skip
BETAS = {
    "beta": "Float64", **{f"regret_{kind}": "Float64" for kind in REGRETS}, "allowed": "boolean",
}  # fmt: skip


def fit_tables(comparison: Comparison) -> dict[str, pd.DataFrame]:
    """Tables by file name. Shares and their regrets are in [0, 1]; a missing cell is null.

    fit: one row per family: constants (with the range over fits that leave out one seed), regrets with 95 % paired t
    intervals, test score, and what the S gains against it. peaks: max_lr per family and cycle. beta: the profile.
    """
    return {
        "fit": typed([_family(comparison, fit) for fit in comparison.fits.values()], FAMILIES),
        "peaks": typed([row for fit in comparison.fits.values() for row in _peaks(comparison, fit)], PEAKS),
        "beta": typed([_beta(fit) for fit in comparison.betas], BETAS),
    }


def _family(comparison: Comparison, fit: Fit) -> dict[str, object]:
    row: dict[str, object] = {"family": fit.name, "n_seeds": len(comparison.response.seeds)}
    for key, value in fit.parameters.items():
        row |= {key: value, f"{key}_low": fit.ranges[key][0], f"{key}_high": fit.ranges[key][1]}
    for kind in REGRETS:
        row |= _interval(f"regret_{kind}", getattr(fit, kind))
    row["test_score"] = paired_interval(winner.gain(fit.test, comparison.response.sign)).mean
    if fit.name in RIVALS:
        for kind in REGRETS[1:]:
            gain = comparison.gain(fit.name, kind)
            row |= {
                f"silo_gain_{kind}": gain.median,
                f"silo_gain_{kind}_low": gain.low,
                f"silo_gain_{kind}_high": gain.high,
            }
        row["silo_is"] = comparison.verdict(fit.name)
    return row


def _interval(name: str, values: FloatArray) -> dict[str, float | None]:
    estimate = paired_interval(values)
    return {name: estimate.median, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _peaks(comparison: Comparison, fit: Fit) -> list[dict[str, object]]:
    response = comparison.response
    return [
        {
            "family": fit.name,
            "cycle": cycle,
            "weights_remaining": 1 - response.pruned[cycle],
            "max_lr": fit.peaks[m],
            "max_lr_low": fit.peaks_low[m],
            "max_lr_high": fit.peaks_high[m],
        }
        for m, cycle in enumerate(response.cycles)
    ]


def _beta(fit: BetaFit) -> dict[str, object]:
    regrets = {f"regret_{kind}": paired_interval(getattr(fit, kind)).median for kind in REGRETS}
    return {"beta": fit.beta, **regrets, "allowed": fit.allowed}
