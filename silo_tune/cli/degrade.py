"""Output where the encoding lacks some of our letters: others are written, and nothing ends for want of them."""

from __future__ import annotations

import codecs
import io
from typing import Any

# What ASCII, latin-1 or cp1252 lack, in letters that all have.
PLAIN = {
    "…": "...", "–": "-", "—": "-", "−": "-", "×": "x", "≤": "<=", "≥": ">=", "±": "+-", "·": "-", "→": "->", "≠": "!=",
    "ε": "eps", "δ": "delta", "β": "beta", "Δ": "delta", "∞": "inf", "’": "'", "‘": "'", "“": '"', "”": '"', "²": "^2",
    "─": "-", "│": "|", "┌": "+", "┐": "+", "└": "+", "┘": "+", "├": "+", "┤": "+", "┬": "+", "┴": "+", "┼": "+",
    "╭": "+", "╮": "+", "╰": "+", "╯": "+", "━": "-", "█": "#", "•": "*", "●": "*", "○": "o",
}  # fmt: skip


def _plainer(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(letter, "?") for letter in lacking), error.end


codecs.register_error("silo-tune", _plainer)


def degrade(stream: Any) -> None:
    """Let a text stream replace what its encoding lacks; any other stream is left as it is."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="silo-tune")
