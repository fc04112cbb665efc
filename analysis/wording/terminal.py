"""The summary as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from analysis.search import PILOT, fragment
from analysis.wording.cells import (
    interval_text,
    percent,
    points,
    rate,
    width_text,
)

if TYPE_CHECKING:
    from analysis.summary import Summary


def summary_lines(summary: Summary) -> list[str]:
    """A plain-text table per cycle, then the headline sentences and what is missing."""
    header = (
        "cycle",
        "weights %",
        f"{summary.schedule} max_lr",
        "point interval",
        "decades",
        "verdict",
        "regret",
        "gap",
    )
    body = [
        (
            str(row["cycle"]),
            percent(row["weights_remaining"]),
            rate(row["max_lr"]),
            interval_text(row),
            width_text(row),
            f"{row['verdict']}{' *' if row['informative'] else ''}",
            points(row["cycle_regret_test"]),
            points(row["chain_gap"]),
        )
        for _, row in summary.cycles.iterrows()
    ]
    legend = "regret (cycle regret) and gap (chain gap) in points on test, means over seeds; * informative cycle"
    table = [*_aligned([header, *body]), legend] if body else []
    return [*table, *summary.headline, *_fragments(summary), *(f"Note: {note}" for note in summary.notes)]


def _fragments(summary: Summary) -> Iterator[str]:
    """What a search of the S-curve found, to paste into a study."""
    for search in summary.searches.values():
        text = fragment(search, summary.study) if search.kind != PILOT and search.finished else None
        if text is not None:
            yield from ("", *text.rstrip().splitlines(), "")


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
