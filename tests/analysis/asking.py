"""The answers of a summary, without those that take a fit of curves."""

from __future__ import annotations

from silo_analysis.answers import answers_of
from silo_analysis.answers.answer import Answer
from silo_analysis.answers.missing import notes
from silo_analysis.estimates.summary import Summary

NO_FIT = "no curve is fitted here"


def asked(summary: Summary) -> dict[str, Answer]:
    """Id → answer."""
    return {answer.id: answer for answer in answers_of(summary, NO_FIT)}


def text_of(answer: Answer) -> str:
    """Verdict and details."""
    return " ".join([answer.verdict, *answer.details])


def said_of(summary: Summary, id_: str) -> str:
    """Verdict and details of one answer; "" where it is not asked."""
    answer = asked(summary).get(id_)
    return text_of(answer) if answer else ""


def said_missing(summary: Summary) -> list[str]:
    """All that is said to be missing: by the answers, and of the whole run."""
    return [*(answer.missing for answer in asked(summary).values() if answer.missing), *notes(summary)]
