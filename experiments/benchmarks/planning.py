"""The planner's own cost: whole studies with simulated training, on a real run folder of the local disk.

    python experiments/benchmarks/planning.py [--units N …] [--grow seeds|cycles|points] [--json FILE]

Each size is a study of about so many units (SILO, three controls, a greedy and a conditioned Oracle), run to its end in
a process of its own. Training is simulated: an outcome that depends on the key alone, and a state of a few bytes. All
else is real: keys, decisions, results, states, sweeps, and at the end a start of the same run that finds all done.

- *planner*, *worker*: wall milliseconds per unit on the driver's side (asking, telling, decisions, sweeps) and on the
  worker's (writing state and result). *CPU*: of both. *resume*: wall time of that later start over the units.
- *growth*: the exponent of the CPU time between neighbouring sizes, time ~ units^growth; 1 is linear. Wall times follow
  whoever else uses the machine and its disk.
- *RSS*: resident memory of the process at the end; *held*: what Python allocated since the planner was made and still
  holds at the end (tracemalloc, in a run of its own: it makes everything slower).
- *slopes*: between the smallest and the largest size, what each further unit costs of memory and of the later start.
  They are straight lines where *growth* is 1, so they say what 100,000 units would cost.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import math
import multiprocessing
import os
import pstats
import resource
import sys
import tempfile
import time
import tracemalloc
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from silo_tune.planner.planner import Planner
from silo_tune.planner.unit import Unit
from silo_tune.store.run_folder import Run
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study

SIZES = (1000, 2000, 2500, 5000, 10_000)
GOAL_MS = 20.0
MOST = 100_000  # units of a large run
HELD_KIB, RESUMED_S = 1.0, 30.0  # goals there: what is held of each unit, and the CPU time of a later start
FLAT = (2000, 10_000, 0.10)  # resident memory of these two sizes differs by at most this share
SLOTS = 8
ATTEMPT = "0" * 16
# Two of these stay as they are, the third grows with the wanted number of units.
START = {"seeds": 5, "cycles": 12, "points": 9}


def make_study(seeds: int, cycles: int, points: int) -> Study:
    """A study as users have it: SILO, its controls, both Oracles."""

    def schedule(name: str, **args: Any) -> dict[str, Any]:
        return {"mode": "schedule", "schedule": {"name": name, **args}}

    oracle = {"mode": "oracle", "grid": {"low": 0.01, "high": 1.0, "points": points}}
    return parse_study(
        {
            "name": "planner",
            "cycles": cycles,
            "data": {"name": "digits"},
            "model": {"name": "lenet-300-100"},
            "dense": {"epochs": 2, "max_lr": 0.05},
            "prune": {"rate": min(0.2, 2.0 / cycles)},
            "retrain": {"epochs": 1},
            "replicates": {"seeds": list(range(seeds))},
            "arms": {
                "silo": schedule("silo", eps=0.03, delta=0.04),
                "low": schedule("constant", max_lr=0.03),
                "high": schedule("constant", max_lr=0.07),
                "linear": schedule("linear", start=0.03, end=0.07, over=cycles),
                "oracle-greedy": oracle,
                "oracle-conditioned": {**oracle, "prefix": "arm:silo"},
            },
        }
    )


def expected_units(seeds: int, cycles: int, points: int) -> int:
    """About how many units that study has: the Oracles try the grid and up to four more rates."""
    return seeds * (1 + (cycles - 1) * (4 + 2 * (points + 3)))


def shape_of(units: int, grow: str) -> dict[str, int]:
    """The study whose number of units is nearest."""
    least = 2 if grow == "cycles" else 1
    shapes = ({**START, grow: value} for value in range(least, 1000))
    return min(shapes, key=lambda shape: abs(expected_units(**shape) - units))


# --- simulated training ---


def outcome_of(unit: Unit) -> dict[str, Any]:
    """What training gives, by the key alone."""
    draw = int(unit.key[:8], 16) / 0xFFFFFFFF
    remaining = 1.0 if unit.prune is None else unit.prune.target
    assert unit.peak is not None
    return {
        "format": 1, "key": unit.key, "unit": unit.spec, "status": "ok", "error": None, "max_lr": unit.peak["value"],
        "sparsity": 1 - remaining, "weights_remaining": remaining, "val_score": round(0.5 + 0.4 * draw, 3),
        "val_loss": round(1 - draw, 6), "n_val": 400, "test_score": 0.5 + 0.3 * draw, "n_test": 300,
        "train_loss": 1 - draw, "classes": 10, "epochs": unit.epochs, "steps": 10 * unit.epochs, "train_seconds": 1.0,
        "realised_peak_lr": unit.peak["value"], "device": "simulated", "threads": 1, "version": "0",
        "attempt": ATTEMPT, "wall_seconds": 1.0,
    }  # fmt: skip


@dataclass
class Spent:
    """Seconds on the driver's side (planner: ask, tell, decisions, sweeps) and on the worker's (state and result)."""

    planner: float = 0.0
    worker: float = 0.0
    cpu: float = 0.0


def drive(planner: Planner, run: Run) -> Spent:
    """Run a planner to its end, with `SLOTS` units under way; the first asked ends first."""
    spent, flying, cpu = Spent(), deque[Unit](), time.process_time()
    while True:
        began = time.perf_counter()
        while len(flying) < SLOTS and (unit := planner.ask()) is not None:
            flying.append(unit)
        spent.planner += time.perf_counter() - began
        if not flying:
            break
        unit = flying.popleft()
        began = time.perf_counter()
        outcome = outcome_of(unit)
        outcome["state"] = run.units.write_state(unit.key, ATTEMPT, unit.key.encode())
        run.units.commit(outcome)
        spent.worker += time.perf_counter() - began
        began = time.perf_counter()
        planner.tell(unit.key, outcome)
        spent.planner += time.perf_counter() - began
    assert planner.done
    spent.cpu = time.process_time() - cpu
    return spent


# --- one size ---


@dataclass
class Size:
    """What one size took.

    Attributes:
        wanted, seeds, cycles, points: the study.
        units: trained.
        planner_ms, worker_ms, cpu_ms, resume_ms, resume_cpu_ms: milliseconds per unit.
        rss_mib: resident memory at the end; start_mib before the planner was made.
        held_kib: what Python allocated since then and holds, or None where it was not traced.
    """

    wanted: int
    seeds: int
    cycles: int
    points: int
    units: int
    planner_ms: float
    worker_ms: float
    cpu_ms: float
    resume_ms: float
    resume_cpu_ms: float
    start_mib: float
    rss_mib: float
    held_kib: float | None = None


def resident() -> float:
    """Resident memory of this process, in MiB; the peak where the system does not tell the present one."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(wanted: int, grow: str, folder: str, trace: bool, profile: str | None) -> Size:
    """Run one size to its end, and start it once more."""
    shape = shape_of(wanted, grow)
    study = make_study(**shape)
    with tempfile.TemporaryDirectory(prefix="planner-", dir=folder) as place:
        run = Run(os.path.join(place, "run"))
        run.accept(study, {})
        start = resident()
        if trace:
            tracemalloc.start()
        profiler = cProfile.Profile()
        if profile is not None:
            profiler.enable()
        began = time.perf_counter()
        planner = Planner(study, run)
        made = time.perf_counter() - began
        spent = drive(planner, run)
        profiler.disable()
        held = tracemalloc.get_traced_memory()[0] / 1024 if trace else None
        tracemalloc.stop()
        end = resident()
        if profile is not None:
            profiler.dump_stats(profile)
        began, cpu = time.perf_counter(), time.process_time()
        again = Planner(study, run)
        resumed, resumed_cpu = time.perf_counter() - began, time.process_time() - cpu
        assert again.done
        assert again.counts.trained == 0
        units = planner.counts.trained
    per = 1000 / units
    return Size(
        wanted, **shape, units=units, planner_ms=(made + spent.planner) * per, worker_ms=spent.worker * per,
        cpu_ms=spent.cpu * per, resume_ms=resumed * per, resume_cpu_ms=resumed_cpu * per, start_mib=start, rss_mib=end,
        held_kib=held,
    )  # fmt: skip


def _measured(pipe: Any, *args: Any) -> None:
    pipe.send(measure(*args))


def apart(*args: Any) -> Size:
    """`measure` in a process of its own: memory that one size freed must not help another."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_measured, args=(theirs, *args))
    process.start()
    theirs.close()
    try:
        found: Size = ours.recv()
    except EOFError:
        raise SystemExit("a size ended early; its traceback is above") from None
    finally:
        process.join()
    return found


# --- the table ---


def growth(sizes: Sequence[Size], one: int, name: str) -> float | None:
    """Exponent of a CPU time between a size and the one before it."""
    if one == 0 or sizes[one].units == sizes[one - 1].units:
        return None
    before, after = sizes[one - 1], sizes[one]
    ratio = (getattr(after, name) * after.units) / (getattr(before, name) * before.units)
    return math.log(ratio) / math.log(after.units / before.units)


def verdicts(sizes: Sequence[Size]) -> dict[str, bool]:
    """Every goal, in words, and whether it is met."""
    found = {
        f"{size.units} units: {size.planner_ms + size.worker_ms:.1f} ms per unit, goal {GOAL_MS:g}": (
            size.planner_ms + size.worker_ms < GOAL_MS
        )
        for size in sizes
    }
    by_size = {size.wanted: size for size in sizes}
    small, large, share = FLAT
    if small in by_size and large in by_size:
        rise = by_size[large].rss_mib / by_size[small].rss_mib - 1
        words = f"memory from {small} to {large} units: {rise:+.1%}, goal within {share:.0%}"
        found[words] = abs(rise) <= share
    return found | slopes(sizes)


def slopes(sizes: Sequence[Size]) -> dict[str, bool]:
    """What a further unit costs, from the smallest size to the largest, and whether a large run stays in its goals."""
    few, many = sizes[0], sizes[-1]
    units = many.units - few.units
    if units <= 0:
        return {}
    found = {}
    if few.held_kib is not None and many.held_kib is not None:
        held = (many.held_kib - few.held_kib) / units
        found[f"each further unit holds {held:.2f} KiB, goal {HELD_KIB:g}"] = held <= HELD_KIB
    resumed = (many.resume_cpu_ms * many.units - few.resume_cpu_ms * few.units) / units
    told = f"each further unit costs a later start {resumed:.2f} ms of CPU: {resumed * MOST / 1000:.0f} s for {MOST:,}"
    return found | {f"{told}, goal {RESUMED_S:g}": resumed * MOST / 1000 <= RESUMED_S}


def table(sizes: Sequence[Size]) -> list[str]:
    """Aligned lines."""
    head = [
        "units", "seeds", "cycles", "points", "planner ms", "worker ms", "CPU ms", "growth", "resume ms", "growth",
        "RSS MiB", "held KiB",
    ]  # fmt: skip
    lines = [head]
    for number, size in enumerate(sizes):
        exponents = [growth(sizes, number, name) for name in ("cpu_ms", "resume_cpu_ms")]
        shown = ["–" if exponent is None else f"{exponent:.2f}" for exponent in exponents]
        held = "–" if size.held_kib is None else f"{size.held_kib:.0f}"
        lines.append(
            [
                str(size.units), str(size.seeds), str(size.cycles), str(size.points), f"{size.planner_ms:.2f}",
                f"{size.worker_ms:.2f}", f"{size.cpu_ms:.2f}", shown[0], f"{size.resume_ms:.2f}", shown[1],
                f"{size.rss_mib:.1f}", held,
            ]
        )  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all sizes; the exit code is 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description="The planner's own time and memory, with simulated training.")
    parser.add_argument("--units", type=int, nargs="+", default=list(SIZES), help="about so many units")
    parser.add_argument("--grow", choices=list(START), default="seeds", help="what makes a study larger")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where the run folders are made")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON too")
    parser.add_argument("--profile", metavar="FILE", help="profile the largest size into FILE, and show what dominates")
    parser.add_argument("--no-trace", action="store_true", help="leave the second, traced run of each size out")
    options = parser.parse_args(arguments)
    sizes: list[Size] = []
    for units in sorted(options.units):
        size = apart(units, options.grow, options.folder, False, None)
        if not options.no_trace:
            size.held_kib = apart(units, options.grow, options.folder, True, None).held_kib
        sizes.append(size)
        sys.stderr.write(f"{size.units} units: {size.planner_ms + size.worker_ms:.2f} ms per unit\n")
    goals = verdicts(sizes)
    lines = [*table(sizes), "", *(f"{'met' if met else 'MISSED'}: {words}" for words, met in goals.items())]
    sys.stdout.write("\n".join(lines) + "\n")
    if options.json:
        figures = {"grow": options.grow, "sizes": [asdict(size) for size in sizes], "goals": goals}
        Path(options.json).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if options.profile:
        apart(max(options.units), options.grow, options.folder, False, options.profile)
        pstats.Stats(options.profile, stream=sys.stdout).sort_stats("tottime").print_stats(25)
    return 0 if all(goals.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
