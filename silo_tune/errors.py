"""Errors whose message is for the user: what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class SiloTuneError(Exception):
    """Base of every error that the command line shows as one clear message instead of a traceback."""

    exit_code = 1


class BadInput(SiloTuneError):
    """The user can fix this: a study, a path, a name, a value. Exit code 2."""

    exit_code = 2


class RunFailed(SiloTuneError):
    """The run could not continue. Exit code 1; nothing committed is lost."""


class Violation(Exception):
    """A truth of the engine does not hold; the unit fails with this message."""


class StudyError(BadInput):
    """Everything that is wrong with one study file, as (key path, message) pairs."""

    def __init__(self, source: str, problems: Sequence[tuple[str, str]]) -> None:
        self.source = source
        self.problems = list(problems)
        lines = [f"{path}: {message}" if path else message for path, message in self.problems]
        super().__init__("\n".join(f"{source}: {line}" for line in lines))


class Problems(ValueError):
    """Several (key path, message) pairs found by one check; a study's validators raise it."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(f"{path}: {message}" for path, message in problems))


def unknown(kind: str, name: str, choices: Iterable[str]) -> str:
    """The one sentence for a name that does not resolve."""
    return f"unknown {kind} {name!r}; choose from {', '.join(sorted(choices))}"
