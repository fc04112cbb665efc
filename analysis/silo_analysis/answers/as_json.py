"""The answers for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from silo_analysis.answers.missing import notes

if TYPE_CHECKING:
    from silo_analysis.answers.answer import Answer
    from silo_analysis.estimates.summary import Summary


def as_json(summary: Summary, answers: Sequence[Answer]) -> dict[str, Any]:
    """What `silo-tune report --format json` prints of a run: plain data, null where there is nothing.

    Accuracies, their differences and shares are in [0, 1]; `table` has the numbers of each answer as text.
    """
    return {
        "study": summary.study.name,
        "schedule": summary.schedule,
        "seeds": list(summary.seeds),
        "tolerance": summary.tolerance,
        "verdict_oracle": summary.verdict_oracle,
        "chain_oracle": summary.chain_oracle,
        "answers": [_answer(answer) for answer in answers],
        "notes": list(notes(summary)),
    }


def _answer(answer: Answer) -> dict[str, Any]:
    table = answer.table
    return {
        "id": answer.id,
        "question": answer.question,
        "verdict": answer.verdict or None,
        "details": list(answer.details),
        "numbers": [asdict(number) for number in answer.numbers],
        "cycles": list(answer.cycles),
        "table": [dict(zip(table.head, row, strict=True)) for row in table.rows] if table is not None else [],
        "missing": answer.missing,
    }
