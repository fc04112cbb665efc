"""Do gradients narrow? The answer as sentences, or what is missing for one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from silo_analysis.estimates.mechanism import FEWEST_CYCLES, FEWEST_SEEDS
from silo_tune.formats import MINUS, known, percent, plural

if TYPE_CHECKING:
    from silo_analysis.estimates.summary import Summary

ANSWERS = {"narrower": "yes", "wider": "no, they widen", "undetermined": "not settled"}
# More arms than these are counted, not named: the table has them all.
MOST_NAMED = 4
_PLACES = {"activation_spread": "before normalisation ", "activation_spread_norm": "after it "}


def mechanism_sentences(summary: Summary) -> Iterator[str]:
    """Whether gradients narrow under the judged schedule, then representations and controls; nothing unmeasured."""
    own = _by_measure(summary.slopes[summary.slopes["arm"] == summary.schedule])
    if "grad_spread" not in own:
        return
    found = own["grad_spread"]
    yield (
        f"Under {summary.schedule} their standard deviation over surviving weights goes as the weights remaining to "
        f"the power {_power(found)}{_end(summary)}."
    )
    for said in (_too_few(found), _longer(summary), _representations(own), _controls(summary)):
        if said:
            yield said.strip()


def _by_measure(slopes: pd.DataFrame) -> dict[str, Any]:
    return {str(row["measure"]): row for row in slopes.to_dict("records")}


def _power(row: Any) -> str:
    seeds = plural(int(row["n_seeds"]), "seed")
    if not known(row["slope_low"]):
        return f"{signed(row['slope'])} ({seeds}, so no interval)"
    ends = f"{signed(row['slope_low'])} to {signed(row['slope_high'])}"
    return f"{signed(row['slope'])} (95 % interval {ends}, {seeds})"


def signed(value: float) -> str:
    """A power to two digits, with a true minus."""
    text = f"{value:.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", MINUS)


def _end(summary: Summary) -> str:
    table = summary.spreads
    rows = table[(table["arm"] == summary.schedule) & (table["measure"] == "grad_spread")].sort_values("cycle")
    last = rows.iloc[-1]
    return (
        f"; at cycle {last['cycle']}, with {percent(last['weights_remaining'])} % of the weights, it is "
        f"{last['ratio']:.2f} times that of the dense network"
    )


def _too_few(row: Any) -> str:
    return f" It takes at least {FEWEST_SEEDS} seeds to settle it." if row["n_seeds"] < FEWEST_SEEDS else ""


def _longer(summary: Summary) -> str:
    arm = summary.study.arms[summary.schedule]
    if summary.study.settings(arm).after_prune != "keep":
        return ""
    return " Weights are kept after a prune: later cycles have trained for longer, which by itself narrows gradients."


def _representations(own: dict[str, Any]) -> str:
    normalised = "activation_spread_norm" in own
    places = _PLACES if normalised else {"activation_spread": ""}
    found = [
        f"{place}{own[measure]['direction']}, power {_power(own[measure])}"
        for measure, place in places.items()
        if measure in own
    ]
    return f" Hidden representations: {'; '.join(found)}." if found else ""


def _controls(summary: Summary) -> str:
    others = summary.slopes[summary.slopes["measure"] == "grad_spread"]
    others = others[others["arm"] != summary.schedule]
    if not len(others):
        return ""
    if len(others) > MOST_NAMED:
        counts = others["direction"].value_counts()
        said = ", ".join(f"{counts[direction]} {direction}" for direction in sorted(counts.index))
        return f" Gradients under {plural(len(others), 'other arm')} whose peaks are constant or a ramp: {said}."
    said = "; ".join(f"{row['arm']} {row['direction']} ({signed(row['slope'])})" for _, row in others.iterrows())
    return f" Gradients under the controls: {said}."


def missing_spreads(summary: Summary) -> Iterator[str]:
    """Why it is not said whether gradients narrow."""
    trained = summary.arms[summary.arms["arm"] == summary.schedule]
    if not len(trained) or (summary.slopes["arm"] == summary.schedule).any():
        return
    if not (summary.spreads["arm"] == summary.schedule).any():
        why = "no standard deviation relative to the dense cycle (made before it was measured, or no trial ended well)"
    else:
        why = f"no seed with the {FEWEST_CYCLES} pruned cycles that a slope takes"
    yield f"{summary.schedule} has {why}: whether gradients narrow is not answered."
