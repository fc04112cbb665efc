"""The text of a TOML file without the statements that no parser reads, each of which is told with its line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from silo_tune.study.key_lines import key_lines

MOST = 10  # mistakes of one file; more, and it is no TOML
LONGEST = 2000  # lines of a study
SHOWN = 72  # letters of a line
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_HEADER = re.compile(r"\s*\[")
# What to do, by how the parser's words begin.
_REMEDIES = {
    "Cannot overwrite": "a key or table that is there twice",
    "Cannot declare": "a key or table that is there twice",
    "Invalid value": 'a text stands in "quotes", a truth is true or false, 0.1 has its 0',
    "Illegal character '\\n'": "a quote is not closed",
    "Invalid initial character for a key part": "a table in { } stands on one line, without a comma at its end; "
    'letters but A-Z, a-z, 0-9, _ and - stand in "quotes"',
    "Expected '=' after a key": "TOML writes key = value",
}


@dataclass(frozen=True)
class Mistake:
    """A statement that cannot be read.

    Attributes:
        line: where the parser stopped, counted from 1.
        key: what the statement sets, as a dotted key; None for a header, or what is no `key = value`.
        message: what is wrong, with the line and a mark below the place.
    """

    line: int
    key: str | None
    message: str


def without_mistakes(text: str) -> tuple[str, list[Mistake]]:
    """A text that is TOML, with the same line numbers, and the mistakes that were taken out of it.

    What cannot be told apart stays one mistake: the first alone is told, and the text is empty.
    """
    lines, found, error = text.split("\n"), list[Mistake](), _error(text)
    while error is not None:
        stop = _stop(error, lines)
        rows = range(stop, -1, -1) if len(lines) <= LONGEST else ()
        start = next((row for row in rows if _error("\n".join(lines[:row])) is None), stop)
        found.append(_mistake(error, lines, start, stop))
        if len(found) > MOST or not rows or isinstance(error, RecursionError):
            return "", [replace(found[0], key=None)]
        # A bracket that is not closed is noticed in the statement behind, which is not to blame.
        for last in (max(start, stop - 1), stop) if not _HEADER.match(lines[start]) else (_section_end(lines, start),):
            alone = [*lines[:start], *[""] * (last - start + 1), *lines[last + 1 :]]
            left = _error("\n".join(alone))
            if left is None or _stop(left, lines) > stop:
                break
        lines, error = alone, left
    return "\n".join(lines), found


def _section_end(lines: Sequence[str], start: int) -> int:
    """The last row below a header: without the header they would be another table's."""
    return next((row - 1 for row in range(start + 1, len(lines)) if _HEADER.match(lines[row])), len(lines) - 1)


def _error(text: str) -> Exception | None:
    try:
        tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, tables within thousands of others
        return error
    return None


def _stop(error: Exception, lines: Sequence[str]) -> int:
    """The row where the parser stopped, counted from 0; the last one where it does not say."""
    place = _PLACE.search(str(error))
    number = int(place[1]) if place is not None and place[1] else len(lines)
    return max(0, min(number, len(lines)) - 1)


def _mistake(error: Exception, lines: Sequence[str], start: int, stop: int) -> Mistake:
    if isinstance(error, RecursionError):
        return Mistake(stop + 1, None, "not valid TOML: nested too deeply")
    place, key = _PLACE.search(str(error)), _key(lines[: start + 1])
    why = _PLACE.sub("", str(error))
    remedy = next((f" ({words})" for begun, words in _REMEDIES.items() if why.startswith(begun)), "")
    if place is None or not place[1]:  # it read to the end, or does not say
        return Mistake(start + 1, key, f"not valid TOML: {why}{remedy}{_marked(lines[start], 1)}")
    if stop > start:
        remedy = f", in what begins on line {start + 1} (is its bracket or quote closed?)"
    return Mistake(stop + 1, key, f"not valid TOML: {why}{remedy}{_marked(lines[stop], int(place[2]))}")


def _key(lines: Sequence[str]) -> str | None:
    """What the last of these lines sets."""
    header = next((line for line in reversed(lines[:-1]) if _HEADER.match(line) and key_lines(line)), "")
    if _HEADER.match(lines[-1]):
        return None
    return next((key for key, number in key_lines(f"{header}\n{lines[-1]}").items() if number == 2), None)


def _marked(line: str, column: int) -> str:
    """A line, and below it a mark at a column (from 1); of a long one the part around it."""
    first = max(0, column - SHOWN // 2) if len(line) > SHOWN else 0
    part = line[first : first + SHOWN].replace("\t", " ").rstrip()
    return f"\n    {part}\n    {' ' * (column - 1 - first)}^"
