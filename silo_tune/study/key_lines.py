"""On which line of a TOML file each key stands, for messages: the parser of the standard library does not say."""

from __future__ import annotations

import re

_BARE = r"[A-Za-z0-9_-]+"
_QUOTED = r"\"[^\"\n]*\"|'[^'\n]*'"
_PATH = rf"(?:{_BARE}|{_QUOTED})(?:\s*\.\s*(?:{_BARE}|{_QUOTED}))*"
_HEADER = re.compile(rf"\s*\[{{1,2}}\s*({_PATH})\s*\]")
_KEY = re.compile(rf"\s*({_PATH})\s*=")
_PART = re.compile(rf"{_BARE}|{_QUOTED}")


def key_lines(text: str) -> dict[str, int]:
    """Dotted key → line, counted from 1: of every header and of every key that begins a line of a valid file.

    A key inside an inline table has the line of the key that the table belongs to; see `line_of`.
    """
    found: dict[str, int] = {}
    above = ""
    for number, line in enumerate(text.split("\n"), 1):
        if header := _HEADER.match(line):
            above = _dotted(header[1])
            found.setdefault(above, number)
        elif key := _KEY.match(line):
            found.setdefault(f"{above}.{_dotted(key[1])}".removeprefix("."), number)
    return found


def line_of(lines: dict[str, int], key: str) -> int | None:
    """The line of a key, or of the nearest one above it that has a line."""
    parts = key.split(".")
    for count in range(len(parts), 0, -1):
        if (line := lines.get(".".join(parts[:count]))) is not None:
            return line
    return None


def _dotted(path: str) -> str:
    return ".".join(part.strip("\"'") for part in _PART.findall(path))
