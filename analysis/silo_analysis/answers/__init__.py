"""The questions that a run is made for, each with its answer: sentences, a figure, a table, or what is missing.

`questions(summary, fit)` gives plain data; the page and the terminal show it.
"""

from __future__ import annotations

from silo_analysis.answers import baselines, curve, gradients, inside, loses, shape
from silo_analysis.answers.curve import Fitted, fit_of
from silo_analysis.answers.question import Question
from silo_analysis.estimates.summary import Summary

__all__ = ["Fitted", "Question", "fit_of", "questions"]


def questions(summary: Summary, fit: Fitted) -> tuple[Question, ...]:
    """All questions, in the order in which they are shown; one that the run cannot answer says what is missing.

    Args:
        summary: of the run.
        fit: from `fit_of`.
    """
    return (
        inside.ask(summary),
        loses.ask(summary),
        baselines.ask(summary),
        shape.ask(summary),
        curve.ask(summary, fit),
        gradients.ask(summary),
    )
