"""The limit of one attempt at a trial, `cluster.unit_timeout`, in the process that trains it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Generator
from types import FrameType
from typing import TypeVar

from silo_tune.errors import TimedOut

T = TypeVar("T")

# An exception that got lost (in a destructor, say) is raised again after so many seconds.
AGAIN_SECONDS = 1.0
# So much later an attempt that did not end counts as one that cannot be interrupted.
GRACE_SECONDS = 10.0


def over_time(limit: float, epoch: int | None, epochs: int) -> str:
    """What to say of an attempt that took longer than its limit: the limit, and how far it had come."""
    seen = "before the end of an epoch" if epoch is None else f"after epoch {epoch} of {epochs}"
    return f"it took longer than cluster.unit_timeout, {limit:g} s, and was last seen {seen}"


def next_until(
    deadline: float | None, progress: Generator[T, None, object], stuck: Callable[[], None] | None = None
) -> T:
    """The next value of a generator, which is interrupted when its time is over.

    Python code, sleeping and waiting are interrupted; native code is not before it returns, and in a thread that is not
    the main one nothing is before the value is there.

    Args:
        deadline: when its time is over, by `time.monotonic`; None is never.
        progress: the generator.
        stuck: called from another thread when it is still not interrupted `GRACE_SECONDS` later.

    Raises:
        TimedOut: its time is over.
        StopIteration: the generator has ended.
    """
    if deadline is None:
        return next(progress)
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimedOut
    watch = None if stuck is None else threading.Timer(left + GRACE_SECONDS, stuck)
    if watch is not None:
        watch.daemon = True
        watch.start()
    try:
        return _interrupted_after(left, progress)
    finally:
        if watch is not None:
            watch.cancel()


def _interrupted_after(left: float, progress: Generator[T, None, object]) -> T:
    if threading.current_thread() is not threading.main_thread():  # only that one hears signals
        return next(progress)
    before = signal.signal(signal.SIGALRM, _raise)
    try:
        signal.setitimer(signal.ITIMER_REAL, left, AGAIN_SECONDS)
        return next(progress)
    finally:
        try:
            _disarm(before)
        except TimedOut:  # it came meanwhile; the next would come a second later
            _disarm(before)
            raise


def _disarm(before: object) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before or signal.SIG_DFL)  # type: ignore[arg-type]


def _raise(number: int, frame: FrameType | None) -> None:
    raise TimedOut
