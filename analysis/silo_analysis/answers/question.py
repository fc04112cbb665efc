"""What a question is: plain data, without HTML."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from silo_analysis.answers.text_tables import Table
from silo_analysis.estimates.summary import Summary


@dataclass(frozen=True)
class Question:
    """A question that a run is asked, and its answer.

    Attributes:
        id: permanent, for links.
        title: the question.
        answer: sentences, each with its numbers; () where the run cannot answer.
        short: the answer in one line; "" where there is none.
        figure: name of a figure of `plots.save_figures`, whether or not the run has it; no two questions share one.
        table: the numbers as text.
        data: the same as numbers, for CSV: accuracies and their differences in [0, 1].
        missing: what the run lacks for an answer, or for a part of it, and what to add; None where nothing is.
    """

    id: str
    title: str
    answer: tuple[str, ...] = ()
    short: str = ""
    figure: str | None = None
    table: Table | None = None
    data: pd.DataFrame = field(default_factory=pd.DataFrame)
    missing: str | None = None


def absent(summary: Summary) -> str | None:
    """Why nothing can be asked of this run's schedule at all, or None."""
    name = summary.schedule
    if name not in summary.study.arms:
        return f"The study has no arm {name!r} to judge: add one, or name another in report.schedule."
    if not (summary.arms["arm"] == name).any():
        return f"{name} has no results yet: let the run go on."
    return None


def oracle_to_add(schedule: str) -> str:
    """The words for "add an Oracle"."""
    return (
        f'Add an arm with mode = "oracle", prefix = "arm:{schedule}" (or "own", the greedy one) and a grid of rates, '
        "for example grid = { low = 0.01, high = 1.0, points = 9 }."
    )


def joined(parts: list[str], last: str = "and") -> str:
    """ "a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}" if parts else ""
