"""The commands. Everything heavy is imported inside the command that needs it: `--help` must be instant."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback

# Commands register themselves where they are imported.
from silo_tune.cli import (  # noqa: F401
    init_command,
    prune_command,
    report_commands,
    show_command,
    shrink_command,
    training_commands,
    weights_command,
)
from silo_tune.cli.app import app
from silo_tune.cli.stopping import LAST_WORDS, listen, stops
from silo_tune.cli.streams import made_whole
from silo_tune.errors import SiloTuneError, Stopped, words
from silo_tune.formats import printable
from silo_tune.machine import cache_root, paths_from_here, writable_home

__all__ = ["app", "main"]

# Of an output stream, which has no file name.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def main() -> None:
    """Entry point: errors become one message on stderr and an exit code."""
    made_whole()
    listen()
    os.environ["MPLBACKEND"] = "agg"  # a notebook's is not here, and nothing is shown on a screen
    if not writable_home():  # matplotlib would look for its fonts at every start, and say so
        os.environ.setdefault("MPLCONFIGDIR", os.path.join(cache_root(), "matplotlib"))
    debug = "--debug" in sys.argv
    try:
        with paths_from_here():
            app()
    except (Exception, Stopped) as error:
        if debug:
            traceback.print_exc()
        message, code = _last_words(error)
        sys.stderr.write(f"silo-tune: {printable(message)}\n")
        if stops:  # all is closed; Ray's native threads have been seen to abort an interpreter that ends after a signal
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
        sys.exit(code)


def _last_words(error: BaseException) -> tuple[str, int]:
    """What to say of the end, and the exit code."""
    if stops:
        return LAST_WORDS, 128 + stops[0]
    if isinstance(error, SiloTuneError):
        return str(error), error.exit_code
    if isinstance(error, OSError) and error.errno in UNWRITABLE and error.filename is None:
        return f"what it says cannot be written: {error.strerror}", 1
    if isinstance(error, ModuleNotFoundError) and error.name in ("torch", "torchvision", "ray"):
        return f"{error.name} is needed for this and is not installed here: pip install {error.name}", 2
    return f"unexpected {words(error)}; --debug shows where. Nothing committed is lost", 1
