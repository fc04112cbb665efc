"""The questions that a run is made for, each with its answer as data.

`answers_of(summary, fit)` makes them once; the terminal, the page, JSON and the tables render them.
"""

from __future__ import annotations

from silo_analysis.answers import baselines, curve, effort, gradients, inside, loses, shape, two_oracles
from silo_analysis.answers.answer import COLLAPSED, Answer, nothing_trained
from silo_analysis.answers.curve import Fitted
from silo_analysis.estimates.summary import Summary
from silo_tune.study.wording import worded


@worded(lambda summary, *_, **__: summary.study)
def answers_of(summary: Summary, fit: Fitted) -> tuple[Answer, ...]:
    """All answers, in the order in which they are shown; one that the run cannot give says what is missing.

    Args:
        summary: of the run.
        fit: from `fit_of`.
    """
    found = (
        inside.ask(summary),
        loses.ask(summary),
        baselines.ask(summary),
        shape.ask(summary),
        curve.ask(summary, fit),
        gradients.ask(summary),
        *two_oracles.ask(summary),
    )
    if nothing_trained(summary):  # guesses are equal, and say nothing of what made them
        found = tuple(Answer(each.id, each.question, figure=each.figure, missing=COLLAPSED) for each in found)
    return (*found, effort.ask(summary))
