"""Running a unit to its end: again after an error or when its time is over, and how either is told."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Generator
from typing import Any

from silo_tune.errors import ENDS, SiloTuneError, TimedOut, words
from silo_tune.planner.unit import Unit
from silo_tune.training.time_limit import next_until, over_time
from silo_tune.training.trainer import EpochLog
from silo_tune.training.worker import Worker

Attempts = Generator[EpochLog | None, None, dict[str, Any]]


def attempts(
    worker: Worker,
    unit: Unit,
    max_failures: int,
    limit: float | None = None,
    stuck: Callable[[str], None] = lambda message: None,
) -> Attempts:
    """Run a unit, again after an error, up to `max_failures` times more; then the outcome is "failed", with its reason.

    A GPU whose memory is used up fails it at once.

    Yields after every epoch, and None after an attempt that failed.

    Args:
        worker: trains it.
        unit: the unit.
        max_failures: how often it is tried again.
        limit: most seconds of one attempt; one that takes longer has failed.
        stuck: told, from another thread, of an attempt whose time is over and that cannot be interrupted.

    Raises:
        SiloTuneError: bad input or storage that does not answer; trying again would not help, and the run ends.
    """
    epoch: int | None = None

    def late() -> str:
        return over_time(limit or 0.0, epoch, unit.epochs)

    for failures in range(max_failures + 1):
        progress = worker.run(unit)
        deadline = None if limit is None else time.monotonic() + limit
        while True:
            try:
                log = next_until(deadline, progress, lambda: stuck(f"trial {unit.key[:12]} {late()}"))
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            except (SiloTuneError, *ENDS):
                raise
            except BaseException as error:  # a network may raise anything, SystemExit too
                reason = late() if isinstance(error, TimedOut) else reason_of(error)
                place = worker.units.write_log(unit.key, traceback.format_exc())
                hopeless = CUDA_OUT_OF_MEMORY in reason
                attempt = "not tried again" if hopeless else f"attempt {failures + 1} of {max_failures + 1}"
                worker.notice(f"trial {unit.key[:12]} failed ({reason}); {attempt}, see {place}")
                break
            epoch = log.epoch
            yield log
        yield None
        if hopeless:  # the same batch would not fit the next time
            break
    return {"key": unit.key, "status": "failed", "error": f"{reason} (see {place})"}


# How torch says it: on a CPU a plain RuntimeError.
CUDA_OUT_OF_MEMORY = "CUDA out of memory"
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


def reason_of(error: BaseException) -> str:
    """Why an attempt failed, in one line, and what to do where that is known."""
    said = words(error)
    memory = isinstance(error, MemoryError) or any(sign in said for sign in OUT_OF_MEMORY)
    if not memory:
        return said
    if CUDA_OUT_OF_MEMORY in said:
        return (
            f"the GPU's memory is used up ({said}); train with a smaller retrain.batch (retrain.accumulate keeps the "
            f"step), or let fewer trials share a GPU by a larger cluster.gpus_per_unit"
        )
    return (
        f"out of memory ({said}); let each trial reserve more with cluster.memory_per_unit_gb, or train with a "
        f"smaller retrain.batch"
    )
