"""Errors whose message is for the user: what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
import os
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any


class SiloTuneError(Exception):
    """Base of every error that the command line shows as one clear message instead of a traceback."""

    exit_code = 1


class BadInput(SiloTuneError):
    """The user can fix this: a study, a path, a name, a value. Exit code 2."""

    exit_code = 2


class RunFailed(SiloTuneError):
    """The run could not continue. Exit code 1; nothing committed is lost."""


class Stopped(BaseException):
    """Ctrl-C or SIGTERM. Not a KeyboardInterrupt, which typer would answer in its own way."""


# What ends a run whatever code it is raised in; any other exception of a user's function fails that unit alone.
ENDS = (Stopped, KeyboardInterrupt)


class TimedOut(BaseException):
    """An attempt took longer than its limit. No Exception: a user's code may catch all of those."""


# What is never the mistake of a user's function that it is raised in; all else is, SystemExit too.
FROM_OUTSIDE = (*ENDS, TimedOut)


def words(error: BaseException) -> str:
    """An exception in one line: its kind and what it says."""
    return f"{type(error).__name__}: {one_line(error)}"


def one_line(error: BaseException) -> str:
    """What an exception says, without line breaks and letters that no file could hold; a long text is cut."""
    return _one_line(str, error)


def shown(value: object) -> str:
    """A value of a user's as it is written in Python, in one line as `one_line` has it."""
    return _one_line(repr, value)


def _one_line(write: Callable[[Any], str], what: object) -> str:
    try:
        text = " ".join(write(what).encode(errors="backslashreplace").decode().split())
    except FROM_OUTSIDE:
        raise
    except BaseException as error:  # a user's class may raise anything where it is asked for its text
        return f"({type(what).__name__} whose text cannot be had: it raises {type(error).__name__})"
    return text if len(text) <= 300 else f"{text[:299]}…"


# Where code is that no user wrote: ours, of the standard library, and of packages.
_OURS, _STANDARD = (f"{os.path.dirname(os.path.abspath(file))}{os.sep}" for file in (__file__, os.__file__))


def raised(error: BaseException) -> str:
    """An exception in one line, with the last place in a file that a user wrote."""
    files = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename and not frame.filename.startswith(("<frozen ", _OURS, _STANDARD))
    ]
    return f"{words(error)} ({files[-1].filename}, line {files[-1].lineno})" if files else words(error)


class Violation(Exception):
    """A truth of the engine does not hold; the unit fails with this message."""


class StudyError(BadInput):
    """Everything that is wrong with one study.

    Args:
        source: the file that it is from; "" where nobody knows.
        problems: (key path, message) pairs.
        line: gives the line of the file that a key stands on, or None.
    """

    def __init__(
        self, source: str, problems: Sequence[tuple[str, str]], line: Callable[[str], int | None] = lambda key: None
    ) -> None:
        self.source = source
        self.problems = list(problems)
        super().__init__("\n".join(_told(source, line(path), path, message) for path, message in self.problems))

    def __reduce__(self) -> tuple[type[StudyError], tuple[str, list[tuple[str, str]]]]:
        return StudyError, (self.source, self.problems)  # between processes; lines are added where the file is


def _told(source: str, line: int | None, path: str, message: str) -> str:
    place = source if line is None else f"{source}:{line}"
    return ": ".join(part for part in (place if source else "", path, message) if part)


class Problems(ValueError):
    """Several (key path, message) pairs found by one check; a study's validators raise it."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(f"{path}: {message}" for path, message in problems))


def unknown(kind: str, name: str, choices: Iterable[str]) -> str:
    """The one sentence for a name that does not resolve."""
    return f"unknown {kind} {name!r}; {choose(name, choices)}"


def choose(name: str, choices: Iterable[str]) -> str:
    """What to write instead of a wrong name: all that there is, and one that is nearly the same."""
    known = sorted(choices)
    if not known:
        return "there is none"
    begun = [choice for choice in known if len(name) > 2 and choice.startswith(name)]
    close = begun or difflib.get_close_matches(name, known, n=1)
    return f"choose from {', '.join(known)}{f' (did you mean {close[0]!r}?)' if close else ''}"
