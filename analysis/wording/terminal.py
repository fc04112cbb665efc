"""The summary as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    from analysis.questions import Question
    from analysis.summary import Summary


def summary_lines(summary: Summary, answers: Sequence[Question] = ()) -> list[str]:
    """A plain-text table per cycle, the answers in one line each, the headline beside them, and what is missing.

    Args:
        summary: of the run.
        answers: of `questions.questions`; what they say in full is not said again.
    """
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
    said = {sentence for question in answers for sentence in question.answer}
    rest = [sentence for sentence in summary.headline if sentence not in said]
    notes = [f"Note: {note}" for note in summary.notes]
    return [*table, *map(answer_line, answers), *rest, *_fragments(summary), *notes]


def answer_line(question: Question) -> str:
    """The question with its answer in one line, or with what is missing."""
    if question.short:
        return f"{question.title} {question.short[0].upper()}{question.short[1:]}."
    return f"{question.title} Not answered: {question.missing}"


def _fragments(summary: Summary) -> Iterator[str]:
    """What a search of the S-curve found, to paste into a study."""
    for search in summary.searches.values():
        text = fragment(search, summary.study) if search.kind != PILOT and search.finished else None
        if text is not None:
            yield from ("", *text.rstrip().splitlines(), "")


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
