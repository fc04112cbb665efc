"""How long a report of many rows takes, and how much memory.

    python experiments/benchmarks/reporting.py [--rows N] [--keep DIR] [--profile]

It makes a record of so many rows with two grid Oracles and eight schedules over nine cycles, more seeds until there are
enough rows, and runs `silo-tune report` on it in a process of its own: wall seconds, and the greatest resident memory.
The accuracies are made up. `--help` and `report --help` are timed beside it, the best of three. `--profile` shows where
the time of a report goes, in this process instead.
"""

from __future__ import annotations

import argparse
import cProfile
import hashlib
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from silo_tune.machine import environment
from silo_tune.planner.unit import RECIPE
from silo_tune.results.records import Recorded, write_record
from silo_tune.results.table import make_table
from silo_tune.schedules.peaks import Schedule
from silo_tune.study.arms import OracleArm, ScheduleArm
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study

CYCLES, POINTS = 9, 15
GRID = {"low": 0.01, "high": 1.0, "points": POINTS}
HIGH = (0.03, 0.05, 0.07, 0.1, 0.15, 0.2)
GOAL_SECONDS, GOAL_BYTES = 30, 2e9

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--keep", metavar="DIR", help="leave the record there")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        url = given.keep or f"{place}/record"
        count, seeds = make_record(url, given.rows)
        if given.profile:
            profile(url)
            return
        commands = {"--help": ["--help"], "report --help": ["report", "--help"]}
        for name, arguments in commands.items():
            print(f"silo-tune {name}: {min(timed(arguments)[0] for _ in range(3)):.2f} s", flush=True)
        seconds, peak = timed(["report", url])
        print(f"silo-tune report, {count} rows, {seeds} seeds: {seconds:.1f} s, {peak / 1e9:.2f} GB")
        print(f"goal: {GOAL_SECONDS} s, {GOAL_BYTES / 1e9:.0f} GB: {met(seconds, peak)}; {environment()['machine']}")


def met(seconds: float, peak: float) -> str:
    """In words, whether the goal is."""
    return "met" if seconds < GOAL_SECONDS and peak < GOAL_BYTES else "missed"


def timed(arguments: list[str]) -> tuple[float, float]:
    """(wall seconds, greatest resident bytes so far of a child) of a command."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "silo_tune", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began, 1024.0 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def profile(url: str) -> None:
    """Print where the time of a report goes."""
    from silo_tune.cli.writing import write_report

    watching = cProfile.Profile()
    watching.runcall(write_report, url)
    pstats.Stats(watching).sort_stats("cumulative").print_stats(60)


# --- a record ---


def make_record(url: str, count: int) -> tuple[int, int]:
    """A record with at least so many rows; returns how many rows and seeds it has."""
    study = study_of(1)
    each = len(list(rows_of(study, 0)))
    study = study_of(-(-count // each))
    frame = make_table([row for seed in study.replicates.seeds for row in rows_of(study, seed)])
    ledger = {"format": 1, "recipe": RECIPE, "created": "2026-01-01T00:00:00+0000", "environment": {}}
    write_record(url, Recorded(frame, study, ledger))
    return len(frame), len(study.replicates.seeds)


def study_of(seeds: int) -> Study:
    """The study, with so many seeds."""
    schedules: dict[str, Any] = {"silo": {"name": "silo", "eps": 0.03, "delta": 0.04}}
    schedules |= {"ramp": {"name": "linear", "start": 0.03, "end": 0.07, "over": 8}}
    schedules |= {f"constant-{rate:g}": {"name": "constant", "max_lr": rate} for rate in HIGH}
    arms: dict[str, Any] = {name: {"mode": "schedule", "schedule": found} for name, found in schedules.items()}
    arms |= {"oracle-greedy": {"mode": "oracle", "grid": GRID}}
    arms |= {"oracle-at-silo": {"mode": "oracle", "grid": GRID, "prefix": "arm:silo"}}
    return parse_study(
        {
            "name": "many-rows",
            "cycles": CYCLES,
            "data": {"name": "digits"},
            "model": "lenet-300-100",
            "dense": {"epochs": 4, "max_lr": 0.1},
            "retrain": {"epochs": 4},
            "replicates": {"seeds": list(range(seeds))},
            "arms": arms,
        }
    )


def rows_of(study: Study, seed: int) -> Iterator[Row]:
    """The rows of one seed."""
    owner: dict[str, str] = {}
    silo: list[str] = []
    for name, arm in study.arms.items():
        parent: str | None = None
        for cycle in range(study.cycles):
            rates = rates_of(study, name, cycle)
            rows = [unit(study, name, seed, cycle, parent, number, *rate) for number, rate in enumerate(rates)]
            winner = max(rows, key=lambda row: row["val_score"])
            winner["winner"] = True
            for row in rows:
                first = owner.setdefault(row["key"], name)
                row["shared_with"] = None if first == name else first
            yield from rows
            silo += [winner["key"]] if name == study.report.schedule else []
            parent = silo[cycle] if isinstance(arm, OracleArm) and arm.prefix_arm else winner["key"]


def rates_of(study: Study, name: str, cycle: int) -> list[tuple[float, bool, tuple[str, ...]]]:
    """(max_lr, asked, arms whose value it is) of a cycle."""
    arm = study.arms[name]
    if cycle == 0:
        return [(0.1, True, ())]
    if isinstance(arm, ScheduleArm):
        return [(peak(study, name, cycle), True, ())]
    assert isinstance(arm, OracleArm)
    assert arm.grid is not None
    asked = arm.grid.values()
    tests: dict[float, tuple[str, ...]] = {}
    for test in study.tests_of(name):
        rate = peak(study, test, cycle)
        tests[rate] = (*tests.get(rate, ()), test)
    return [(rate, rate in asked, tests.get(rate, ())) for rate in sorted({*asked, *tests})]


def peak(study: Study, name: str, cycle: int) -> float:
    """The rate of a schedule arm, with the digits of a key."""
    arm = study.arms[name]
    assert isinstance(arm, ScheduleArm)
    schedule = study.schedule_of(arm)
    assert isinstance(schedule, Schedule)
    return float(f"{schedule.peak(cycle, study.pruned):.12g}")


def unit(
    study: Study, arm: str, seed: int, cycle: int, parent: str | None, number: int, rate: float, asked: bool,
    tests: tuple[str, ...],
) -> Row:  # fmt: skip
    """One row, with accuracies that follow a parabola in log max_lr."""
    key = hashlib.sha256(f"{parent}/{seed}/{cycle}/{rate!r}".encode()).hexdigest()
    draw = np.random.default_rng(int(key[:16], 16)).standard_normal(2)
    level = 0.92 - 0.004 * cycle - 0.06 * np.log10(rate / 0.06) ** 2
    remaining = study.remaining[cycle]
    return {
        "arm": arm, "mode": study.arms[arm].mode, "seed": seed, "cycle": cycle, "candidate": number, "repeat": 0,
        "max_lr": rate, "asked": asked, "tests": ",".join(tests) or None, "status": "ok", "sparsity": 1 - remaining,
        "weights_remaining": remaining, "val_score": level + 0.004 * draw[0],
        "test_score": level + 0.004 * draw[1], "val_loss": 1 - level, "train_loss": 0.1, "n_val": 2000,
        "n_test": 10000, "classes": 10, "epochs": 4, "steps": 100, "train_seconds": 20.0, "key": key,
        "parent": parent, "winner": False, "continued": False, "realised_peak_lr": rate,
        "grad_spread": 0.01 * remaining**0.5, "activation_spread": 0.1, "device": "cpu", "version": "0.1.0",
    }  # fmt: skip


if __name__ == "__main__":
    main()
