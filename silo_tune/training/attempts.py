"""Running a unit to its end: again after an error, and how an error is told."""

from __future__ import annotations

import traceback

from silo_tune.errors import ENDS, SiloTuneError, words
from silo_tune.planner.unit import Unit
from silo_tune.training.worker import Progress, Worker


def attempts(worker: Worker, unit: Unit, max_failures: int) -> Progress:
    """Run a unit, again after an error, up to `max_failures` times more; then the outcome is "failed", with its reason.

    Raises:
        SiloTuneError: bad input or storage that does not answer; trying again would not help, and the run ends.
    """
    for failures in range(max_failures + 1):
        progress = worker.run(unit)
        while True:
            try:
                log = next(progress)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            except (SiloTuneError, *ENDS):
                raise
            except BaseException as error:  # a network may raise anything, SystemExit too
                reason = reason_of(error)
                place = worker.units.write_log(unit.key, traceback.format_exc())
                attempt = f"attempt {failures + 1} of {max_failures + 1}"
                worker.notice(f"trial {unit.key[:12]} failed ({reason}); {attempt}, see {place}")
                break
            yield log
    return {"key": unit.key, "status": "failed", "error": f"{reason} (see {place})"}


# How torch says it: on a CPU a plain RuntimeError.
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


def reason_of(error: BaseException) -> str:
    """Why an attempt failed, in one line, and what to do where that is known."""
    said = words(error)
    memory = isinstance(error, MemoryError) or any(sign in said for sign in OUT_OF_MEMORY)
    if not memory:
        return said
    return (
        f"out of memory ({said}); let each trial reserve more with cluster.memory_per_unit_gb, or train with a "
        f"smaller retrain.batch"
    )
