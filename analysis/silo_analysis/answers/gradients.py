"""Do gradients narrow as weights are pruned?"""

from __future__ import annotations

from typing import Any

from silo_analysis.answers.answer import Answer, absent, cycles_of, number, sentence
from silo_analysis.answers.mechanism_words import ANSWERS, mechanism_sentences, missing_spreads, signed
from silo_analysis.answers.text_tables import Table
from silo_analysis.estimates.mechanism import FEWEST_CYCLES, FEWEST_SEEDS
from silo_analysis.estimates.summary import Summary
from silo_tune.formats import DASH, known

ID = "gradients"
MEASURES = {
    "grad_spread": "gradients",
    "activation_spread": "representations",
    "activation_spread_norm": "representations, normalised",
}


def ask(summary: Summary) -> Answer:
    """The slopes of `mechanism`."""
    title = "Do gradients narrow as weights are pruned?"
    details = tuple(mechanism_sentences(summary))
    if not details:
        return Answer(ID, title, figure="spread", missing=_missing(summary), data=summary.slopes)
    own = summary.slopes[(summary.slopes["arm"] == summary.schedule) & (summary.slopes["measure"] == "grad_spread")]
    row = own.iloc[0].to_dict()
    short = f"{ANSWERS[row['direction']]} (power {signed(row['slope'])}, {_interval(row)})"
    few = int(row["n_seeds"]) < FEWEST_SEEDS
    missing = f"It takes {FEWEST_SEEDS} seeds to settle it: add seeds to [replicates]." if few else None
    power = number("power of the weights remaining", *(row[x] for x in ("slope", "slope_low", "slope_high", "n_seeds")))
    return Answer(
        ID, title, sentence(short), details, (power,), cycles_of(summary.spreads), "spread", _table(summary),
        summary.slopes, missing,
    )  # fmt: skip


def _interval(row: Any) -> str:
    return f"{signed(row['slope_low'])} to {signed(row['slope_high'])}" if known(row["slope_low"]) else "no interval"


def _table(summary: Summary) -> Table:
    head = ("Arm", "Standard deviation of", "Power of the weights remaining", "95 % interval", "As weights go", "Seeds")
    rows: list[tuple[str, ...]] = [
        (
            row["arm"],
            MEASURES[row["measure"]],
            signed(row["slope"]),
            _interval(row) if known(row["slope_low"]) else DASH,
            row["direction"],
            str(row["n_seeds"]),
        )
        for row in summary.slopes.to_dict("records")
    ]
    return Table(head, rows, frozenset({"Standard deviation of", "As weights go"}))


def _missing(summary: Summary) -> str:
    if (why := absent(summary)) is not None:
        return why
    said = " ".join(missing_spreads(summary)) or f"{summary.schedule} has no standard deviation of gradients."
    return (
        f"{said} Every trial measures them when it ends: it takes {FEWEST_CYCLES} pruned cycles or more and "
        f"{FEWEST_SEEDS} seeds."
    )
