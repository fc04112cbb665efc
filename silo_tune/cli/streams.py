"""The standard streams of any environment: closed ones, encodings that lack our letters, readers that go away."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from typing import Any

import click

from silo_tune.formats import printable

# What ASCII, latin-1 or cp1252 lack, in letters that all have.
PLAIN = {
    "…": "...", "–": "-", "—": "-", "−": "-", "×": "x", "≤": "<=", "≥": ">=", "±": "+-", "·": "-", "→": "->", "≠": "!=",
    "ε": "eps", "δ": "delta", "β": "beta", "Δ": "delta", "∞": "inf", "’": "'", "‘": "'", "“": '"', "”": '"', "²": "^2",
    "─": "-", "│": "|", "┌": "+", "┐": "+", "└": "+", "┘": "+", "├": "+", "┤": "+", "┬": "+", "┴": "+", "┼": "+",
    "╭": "+", "╮": "+", "╰": "+", "╯": "+", "━": "-", "█": "#", "•": "*", "●": "*", "○": "o",
    "▁": "_", "▂": ".", "▃": ":", "▄": "-", "▅": "=", "▆": "+", "▇": "*",
    "‖": "|", "÷": "/", "∂": "d", "√": "sqrt", "§": "section ", "½": "1/2", "₀": "0", "₁": "1", "₂": "2", "Σ": "sum",
    "α": "alpha", "η": "eta", "θ": "theta", "π": "pi",
}  # fmt: skip


def _plainer(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(letter, "?") for letter in lacking), error.end


codecs.register_error("silo-tune", _plainer)


def made_whole() -> None:
    """Open what this process was started without (`>&-`), and let both outputs replace what their encoding lacks.

    Without this the next file that is opened would get the number of a standard stream, and what a library prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        degrade(getattr(sys, name))


def degrade(stream: Any) -> None:
    """Let a text stream replace what its encoding lacks; any other stream is left as it is."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="silo-tune")


class _Dropped(io.FileIO):
    """A file that takes everything: what nobody reads any more, or a full disk has no room for, is dropped."""

    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):
            return super().write(data)
        return memoryview(data).nbytes


def outlive_readers() -> None:
    """From here on no output ends this process: a run that trains for days is worth more than its lines."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.flush()
            file = io.BufferedWriter(_Dropped(stream.fileno(), "w", closefd=False))
            setattr(sys, name, io.TextIOWrapper(file, stream.encoding, stream.errors, line_buffering=True))


def say(*lines: str, err: bool = False) -> None:
    """Print lines. Click, left alone, writes UTF-8 to an output that says it is ASCII."""
    for line in lines:
        click.echo(printable(line), file=sys.stderr if err else sys.stdout)
