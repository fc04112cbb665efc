"""The summary as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from silo_analysis.answers.cells import interval_text, width_text
from silo_analysis.answers.headline import headline, unsettled
from silo_analysis.answers.missing import notes
from silo_analysis.estimates.tuning import PILOT, fragment
from silo_tune.formats import percent, points, rate, words
from silo_tune.study.wording import worded

if TYPE_CHECKING:
    from silo_analysis.answers.answer import Answer
    from silo_analysis.estimates.summary import Summary


@worded(lambda summary, *_, **__: summary.study)
def summary_lines(summary: Summary, answers: Sequence[Answer]) -> list[str]:
    """A plain-text table per cycle, the answers in one line each, and what is missing.

    Args:
        summary: of the run.
        answers: of `silo_analysis.answers.answers_of`.
    """
    header = (
        "cycle",
        "left %",
        "max_lr",
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
    legend = (
        f"left: weights remaining; max_lr: that of {summary.schedule}; * informative cycle",
        f"regret (cycle) and gap (chain): {words().in_points} on test, median over seeds",
    )
    table = [*_aligned([header, *body]), *legend] if body else []
    table = [headline(summary), "", *table]
    partly = [answer.missing for answer in answers if answer.verdict and answer.missing]
    missing = [f"Note: {note}" for note in (*partly, *notes(summary))]
    open_ = [f"These data cannot say: {said[0].lower()}{said[1:]}" for said in unsettled(summary)]
    return [*table, *map(answer_line, answers), *_fragments(summary), *open_, *missing]


def answer_line(answer: Answer) -> str:
    """The question with its answer in one line, or with what is missing."""
    return f"{answer.question} {answer.verdict or f'Not answered: {answer.missing}'}"


def _fragments(summary: Summary) -> Iterator[str]:
    """What a search of the S-curve found, to paste into a study."""
    for search in summary.searches.values():
        text = fragment(search, summary.study) if search.kind != PILOT and search.finished else None
        if text is not None:
            yield from ("", *text.rstrip().splitlines(), "")


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
