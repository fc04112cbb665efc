"""Ctrl-C and its like: a command ends in order, and a second one ends it at once. However a run ends, a line says so.

Ray ends its driver from native code when the cluster is lost (within a minute, exit code 1), and the kernel may kill
it: then no line of Python's is run any more. A tiny process of its own writes the last one.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import IO, TYPE_CHECKING

from silo_tune.errors import Stopped
from silo_tune.formats import printable

if TYPE_CHECKING:
    from silo_tune.run.monitor import Monitor


# A Ray cluster that went away at the same moment keeps its driver waiting: so long, and the command ends without it.
TIDY_SECONDS = 20.0
LAST_WORDS = "stopped; nothing committed is lost, the same command resumes from here"
LOST_WORDS = (
    "the driver ended in the middle of the run: its Ray cluster was lost (the raylet or the GCS died), or it was "
    "killed itself, as happens when memory is used up; nothing committed is lost. To resume: {command}"
)
# Says the last line that it was told once nobody is left who could tell it another; an empty one is not said.
_WATCHER = 'last=$1; while IFS= read -r line; do last=$line; done; [ -z "$last" ] || printf "%s\\n" "$last" >&2'


stops: list[int] = []  # signals received; Ray may turn the exception of the first into one of its own
monitors: list[Monitor] = []  # of the run under way: they end it even where the exception gets lost


_watchers: list[IO[bytes]] = []  # of the runs under way: hear what the last line would be


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """A last line on stderr, should this process end in the middle of the block without one of its own."""
    command = shlex.join(["silo-tune", *sys.argv[1:]])
    line = _line(LOST_WORDS.format(command=command))
    try:
        watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHER, "silo-tune", line],
            bufsize=0,  # a handler of signals may write while this process does
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a signal to the group of this process is not for it
        )
    except OSError:  # no shell here
        yield
        return
    assert watcher.stdin is not None
    _watchers.append(watcher.stdin)
    try:
        yield
    finally:
        _tell("")
        _watchers.remove(watcher.stdin)
        with contextlib.suppress(OSError):
            watcher.stdin.close()
        watcher.wait()


def _tell(line: str) -> None:
    """What the last line would be from now on."""
    for watcher in _watchers:
        with contextlib.suppress(OSError):
            watcher.write(f"{line}\n".encode(errors="replace"))


def _line(words: str) -> str:
    return f"silo-tune: {printable(words)}"


def listen() -> None:
    """From here on a signal raises Stopped."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    stops.append(number)
    for monitor in monitors:
        monitor.stop_requested = True
    if len(stops) > 1:  # impatient: no more tidying up; a watcher has the last word
        os._exit(128 + number)
    _tell(_line(LAST_WORDS))
    end = threading.Timer(TIDY_SECONDS, _end, (number,))
    end.daemon = True
    end.start()
    raise Stopped


def _end(number: int) -> None:
    last_words(LAST_WORDS)
    os._exit(128 + number)


def last_words(words: str) -> None:
    """The last line of this process."""
    sys.stderr.write(f"{_line(words)}\n")
    sys.stderr.flush()
    _tell("")
