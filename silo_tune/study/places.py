"""Where paths and URLs lead: those of a study file, of a run and of the command line, by one rule."""

from __future__ import annotations

import os
import re

from silo_tune.errors import BadInput
from silo_tune.machine import from_here

# ${NAME} and ${NAME:-default} anywhere, $NAME at the beginning.
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}|^\$(?P<bare>[A-Za-z_]\w*)")


def expand(path: str, key: str = "data.path") -> str:
    """Fill in `${VAR}`, `${VAR:-default}`, a leading `$VAR` and a leading `~`; file:///PATH is that path.

    Args:
        path: as it is written.
        key: where it stands there.

    Raises:
        BadInput: a variable is not set and has no default, or there is no such user.
    """

    def value(match: re.Match[str]) -> str:
        name = match["name"] or match["bare"]
        found = os.environ.get(name) or match["default"]
        if found is None:
            raise BadInput(f"{key}: the variable {name} is not set (path {path!r}); set it, or give a path")
        return found

    filled = _VARIABLE.sub(value, path)
    if "://" in filled:
        return filled.removeprefix("file://") if filled.startswith("file:///") else filled
    filled = os.path.expanduser(filled)
    if filled.startswith("~"):
        user = filled.partition("/")[0]
        raise BadInput(f"{key}: {user!r} has no home folder here (path {path!r}); for a folder of that name: ./{user}")
    return filled


def absolute(path: str) -> str:
    """A run's path that leads there from any folder. A URL stays as it is."""
    filled = expand(path, "run")
    return from_here(filled)
