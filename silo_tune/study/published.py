"""Published numbers that a report shows beside its own: a CSV of arm, weights remaining, score and source."""

from __future__ import annotations

import csv
from typing import Any

from silo_tune.errors import BadInput
from silo_tune.formats import printable
from silo_tune.study.places import absolute, expand

COLUMNS = ("arm", "weights_remaining", "score", "source")
KEY = "report.published"
_MOST_TOLD = 10


def published(path: str) -> list[dict[str, Any]]:
    """The rows of the file: arm (text), weights_remaining and score in (0, 1] and [0, 1], source (text).

    Raises:
        BadInput: no such file, columns missing, or rows with values out of range or without a source; all at once.
    """
    filled = expand(path, KEY)
    try:
        with open(absolute(filled), encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{KEY}: {filled!r} cannot be read as CSV: {error}") from error
    lacking = [name for name in COLUMNS if not rows or name not in rows[0]]
    if lacking:
        raise BadInput(f"{KEY}: {filled!r} lacks {', '.join(lacking)}; its columns are {', '.join(COLUMNS)}")
    mistakes = [f"line {line}: {fault}" for line, row in enumerate(rows, 2) for fault in _faults(row)]
    if mistakes:
        more = f"; {len(mistakes) - _MOST_TOLD} more" if len(mistakes) > _MOST_TOLD else ""
        raise BadInput(f"{KEY}: {filled!r}: {'; '.join(mistakes[:_MOST_TOLD])}{more}")
    return [
        {
            "arm": row["arm"].strip(),
            "weights_remaining": float(row["weights_remaining"]),
            "score": float(row["score"]),
            "source": row["source"].strip(),
        }
        for row in rows
    ]


def _faults(row: dict[str, str | None]) -> list[str]:
    found = [f"no {name}" for name in ("arm", "source") if not (row[name] or "").strip()]
    for name in ("weights_remaining", "score"):
        try:
            value = float(row[name] or "")
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1 or (value == 0 and name == "weights_remaining"):
            found.append(f"{name} {printable(repr(row[name]))} is no share of 1")
    return found
