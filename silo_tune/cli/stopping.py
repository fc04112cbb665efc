"""Ctrl-C and its like: a command ends in order, and a second one ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING

from silo_tune.errors import Stopped

if TYPE_CHECKING:
    from silo_tune.run.monitor import Monitor


# A Ray cluster that went away at the same moment keeps its driver waiting: so long, and the command ends without it.
TIDY_SECONDS = 20.0
LAST_WORDS = "stopped; nothing committed is lost, the same command resumes from here"


stops: list[int] = []  # signals received; Ray may turn the exception of the first into one of its own
monitors: list[Monitor] = []  # of the run under way: they end it even where the exception gets lost


def listen() -> None:
    """From here on a signal raises Stopped."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    stops.append(number)
    for monitor in monitors:
        monitor.stop_requested = True
    if len(stops) > 1:  # impatient: no more tidying up
        os._exit(128 + number)
    end = threading.Timer(TIDY_SECONDS, _end, (number,))
    end.daemon = True
    end.start()
    raise Stopped


def _end(number: int) -> None:
    sys.stderr.write(f"silo-tune: {LAST_WORDS}\n")
    sys.stderr.flush()
    os._exit(128 + number)
