"""What a look at a study finds before anything is trained: problems by key, and sentences. Plain Python."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from silo_tune.errors import ENDS, SiloTuneError, StudyError, raised
from silo_tune.study.model import Study


@dataclass
class Findings:
    """What a look at a study found.

    Attributes:
        problems: (key, message) of what would end the run, or make its numbers wrong.
        lines: what to tell of a study that can run, in one sentence each.
        layers: its prunable layers, a line for each.
    """

    problems: list[tuple[str, str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def about(self, key: str) -> Iterator[None]:
        """A check: whatever it raises is a problem of that key, and the next check goes on."""
        try:
            yield
        except StudyError as error:
            self.problems += error.problems
        except SiloTuneError as error:
            self.problems.append(split_key(str(error), key))
        except ENDS:
            raise
        except BaseException as error:  # a user's function may raise anything
            self.problems.append((key, raised(error)))

    def of(self, *keys: str) -> list[tuple[str, str]]:
        """The problems whose keys begin so."""
        return [problem for problem in self.problems if problem[0].startswith(keys)]


def split_key(message: str, key: str) -> tuple[str, str]:
    """The key that a message begins with, and the rest of it; `key` where it names none."""
    head, colon, rest = message.partition(": ")
    named = colon and head.split(".")[0].split(",")[0] in Study.model_fields
    return (head, rest) if named else (key, message)
