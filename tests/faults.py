"""Faults of one machine, injected into a run in a process of its own, at a named operation on its real files.

A driver is forked from a server that has torch loaded: a restart costs a tenth of a second. In it, every operation of
the run's storage and every training step is an `Event`; a fault is called with each of them, and kills the process,
fills the disk, raises an error or waits when its moment has come.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from silo_tune.api import run_study
from silo_tune.cli import main
from silo_tune.data.sets import DataSet
from silo_tune.errors import SiloTuneError
from silo_tune.planner.layout import Layout
from silo_tune.run.monitor import Monitor
from silo_tune.store import storage
from silo_tune.store.lease import Lease
from silo_tune.store.unit_store import UnitStore
from silo_tune.study.study_file import parse_study
from silo_tune.training.trainer import EpochLog, Trainer
from tests.conftest import merged
from tests.users import Net

# --- a study that has every kind of file and trains in half a second ---


def faulty_table(**changes: Any) -> dict[str, Any]:
    """Table of a study with an arm of every kind: schedules, greedy, conditioned and guided Oracles, a search, a
    rewind."""
    grid = {"low": 0.01, "high": 1.0, "points": 3}
    table: dict[str, Any] = {
        "name": "faulty",
        "cycles": 3,
        "data": {"function": "tests.users:data", "version": "1", "args": {"count": 150}},
        "model": {"function": "tests.users:model", "version": "1"},
        "dense": {"epochs": 3, "max_lr": 0.1},
        "retrain": {"epochs": 3, "batch": 16},
        "replicates": {"seeds": [0]},
        "arms": {
            "silo": {"mode": "schedule", "schedule": {"name": "silo", "eps": 0.05, "delta": 0.1}},
            "back": {
                "mode": "schedule",
                "schedule": {"name": "constant", "max_lr": 0.05},
                "after_prune": "rewind",
                "rewind_to": "1 ep",
            },
            "greedy": {"mode": "oracle", "grid": grid},
            "conditioned": {"mode": "oracle", "grid": grid, "prefix": "arm:silo"},
            "guided": {"mode": "oracle", "guided": {"sampler": "tpe", "low": 0.01, "high": 1.0, "trials": 4}},
            "search": {
                "mode": "tune", "trials": 6, "batch": 2, "eps": [0.02, 0.09], "delta": [0.01, 0.5], "rungs": [1],
            },
        },
        "report": {"tolerance": 0.1},
        "cluster": {"partial_seconds": 0, "max_failures": 0},
    }  # fmt: skip
    return merged(table, changes)


# --- events ---

KINDS = {
    "lease": r"lease/\d+\.json",
    "study": r"study\.toml",
    "data": r"data\.json",
    "decision": r"chains/.+/cycle-\d+-round-\d+\.json",
    "chain": r"chains/[^/]+/seed-\d+",
    "search": r"chains/[^/]+/search/round-\d+\.json",
    "importance": r"chains/[^/]+/search/importance\.json",
    "partial": r"units/.+/partial-[^/]+",
    "state": r"units/.+/state-[^/]+",
    "examples": r"units/.+/examples-[^/]+",
    "rewind": r"units/.+/rewind-[^/]+",
    "result": r"units/.+/result\.json",
    "log": r"units/.+/failure-[^/]+",
    "gathered": r"examples\.parquet",
    "table": r"table\.parquet",
    "report": r"report/.+",
}


def kind_of(name: str) -> str:
    """What a file of a run is, by its name below the run folder."""
    return next((kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, name)), "other")


@dataclass(frozen=True)
class Event:
    """An operation of a driver.

    Attributes:
        what: read | write | link | replace | rename | unlink | list | stat | step (of training) | plan (a unit).
        when: before | amid | after. After is told of those that succeed.
        kind: of the file, see `KINDS`; "" for steps and plans.
        temporary: it is the temporary file that becomes this one.
    """

    what: str
    when: str
    kind: str = ""
    temporary: bool = False


Fault = Callable[[Event], None]


class Tapped:
    """A file that is written in two halves, with an event between them."""

    def __init__(self, file: Any, between: Callable[[], None]) -> None:
        self.file, self.between = file, between

    def __enter__(self) -> Tapped:
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        self.between()
        self.file.write(data[len(data) // 2 :])


def tap(root: str, fault: Fault) -> None:
    """Let a fault hear of everything that this process does below a run folder, and of every training step."""
    inside = os.path.abspath(root) + "/"

    def event(what: str, path: Any) -> Event | None:
        if not isinstance(path, str) or not path.startswith(inside):
            return None
        head, tail = os.path.split(path.removeprefix(inside))
        final = re.sub(r"^\.(.+)\.[0-9a-f]{12}\.tmp$", r"\1", tail)
        return Event(what, "before", kind_of(os.path.join(head, final)), final != tail)

    def heard(what: str, real: Callable[..., Any], at: Callable[[tuple[Any, ...]], Event | None]) -> Callable[..., Any]:
        @functools.wraps(real)
        def told(*args: Any, **kwargs: Any) -> Any:
            before = at(args)
            if before is None:
                return real(*args, **kwargs)
            fault(before)
            result = real(*args, **kwargs)
            fault(Event(what, "after", before.kind, before.temporary))
            return result

        return told

    def opened(path: str, mode: str) -> Any:
        before = event("write" if "w" in mode else "read", path)
        if before is None:
            return open(path, mode)
        fault(before)
        file = open(path, mode)  # noqa: SIM115
        if "w" in mode:
            return Tapped(file, lambda: fault(Event("write", "amid", before.kind, before.temporary)))
        fault(Event("read", "after", before.kind))
        return file

    storage.open = opened  # type: ignore[attr-defined]
    calls = {"link": 1, "replace": 1, "rename": 0, "unlink": 0, "listdir": 0, "stat": 0}
    for name, position in calls.items():
        what = {"listdir": "list"}.get(name, name)
        at = lambda args, what=what, position=position: event(what, args[position])  # noqa: E731
        setattr(os, name, heard(what, getattr(os, name), at))
    Trainer._one_step = heard("step", Trainer._one_step, lambda args: Event("step", "before"))  # type: ignore[method-assign]
    Layout.unit = heard("plan", Layout.unit, lambda args: Event("plan", "before"))  # type: ignore[method-assign]


# --- faults ---


def kill() -> None:
    """What a power cut or the kernel's memory killer does."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk(root: str) -> None:
    """Leave not one byte free on the disk of a run."""
    with open(Path(root).parent / "ballast", "wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def remount(place: Path, mode: str) -> None:
    """Remount a file system "ro" or "rw"."""
    subprocess.run(["mount", "-o", f"remount,{mode}", str(place)], check=True)


@dataclass
class Strike:
    """Something that happens once, at the n-th event of a sort.

    Args:
        what, when, kind: of the event.
        count: from 1.
        action: "kill", "fill" the disk, make it "read-only", or "stop" the process as Ctrl-Z does.
        root: the run folder.
    """

    what: str
    when: str
    kind: str
    count: int
    action: str
    root: str

    def __call__(self, event: Event) -> None:
        if (event.what, event.when, event.kind) != (self.what, self.when, self.kind):
            return
        self.count -= 1
        if self.count != 0:
            return
        if self.action == "kill":
            kill()
        elif self.action == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.action == "fill":
            fill_disk(self.root)
        else:
            remount(Path(self.root).parent, "ro")


@dataclass
class Flaky:
    """A share of operations fails, before or after it took effect; some take their time.

    Args:
        seed: of the draws.
        share: of operations that fail.
        broken_after: from this operation on, every one fails.
    """

    seed: int
    share: float
    broken_after: float = float("inf")
    operations: int = 0
    failures: int = 0
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def __call__(self, event: Event) -> None:
        if event.what in ("step", "plan") or (event.kind == "lease" and event.what == "list"):
            return
        self.operations += 1
        if self._random.random() < self.share:
            time.sleep(0.002)
        if self.operations > self.broken_after or self._random.random() < self.share:
            self.failures += 1
            code = self._random.choice((errno.EIO, errno.ETIMEDOUT, errno.ESTALE))
            raise OSError(code, os.strerror(code))


@dataclass
class Broken:
    """One operation on one kind of file fails: every time, or with `lost` every second time, after it was done."""

    what: str
    kind: str
    lost: bool = False
    failures: int = 0
    _heard: int = 0

    def __call__(self, event: Event) -> None:
        if (event.what, event.when, event.kind) != (self.what, "after" if self.lost else "before", self.kind):
            return
        self._heard += 1
        if not self.lost or self._heard % 2:
            self.failures += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@dataclass
class Jitter:
    """Waits a little at a share of operations, so that two drivers meet at ever other places."""

    seed: int
    share: float = 0.2
    longest: float = 0.01
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def __call__(self, event: Event) -> None:
        if self._random.random() < self.share:
            time.sleep(self._random.uniform(0, self.longest))


@dataclass
class Slow:
    """Every operation on one kind of file takes this long."""

    what: str
    kind: str
    seconds: float

    def __call__(self, event: Event) -> None:
        if (event.what, event.when, event.kind) == (self.what, "before", self.kind):
            time.sleep(self.seconds)


@dataclass
class LimitMemory:
    """From the first training step on, this process may hold so many bytes more than it does."""

    more: int
    _done: bool = False

    def __call__(self, event: Event) -> None:
        if event.what == "step" and not self._done:
            self._done = True
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + self.more
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@dataclass
class Both:
    """Several faults at once."""

    faults: Sequence[Fault]

    def __call__(self, event: Event) -> None:
        for fault in self.faults:
            fault(event)


def quiet(event: Event) -> None:
    """No fault."""


def lease_is_free(lease: Lease, name: str) -> None:
    """In place of `Lease._refuse_if_alive`: never refuses."""


def lease_is_never_lost(lease: Lease) -> None:
    """In place of `Lease._beat`: looks at no other lease."""


# --- drivers ---

# What a run loads late is loaded once, in the server that drivers are forked from.
PRELOADED = ["tests.faults", "optuna", "pandas", "pyarrow.parquet", "torch._dynamo", "sklearn.datasets"]


@dataclass(frozen=True)
class Ended:
    """How a driver ended.

    Attributes:
        code: exit code; below zero for a signal.
        error: message of the error that ended it, or None.
        exit_code: that the command line gives this error.
        notes: what it noticed.
        said: what it wrote to stdout and stderr.
        counts: trained, failed … of the session.
        ended: chains that ended early, with their reasons.
        faults: operations that were made to fail.
    """

    code: int
    error: str | None = None
    exit_code: int | None = None
    notes: list[str] = field(default_factory=list)
    said: str = ""
    counts: Mapping[str, Any] = field(default_factory=dict)
    ended: Mapping[str, str] = field(default_factory=dict)
    faults: int = 0


class _Notes(Monitor):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def notice(self, message: str) -> None:
        self.notes.append(message)


class Driver:
    """A driver of a run in a process of its own.

    Args:
        table: the study.
        folder: the run; its neighbours `NAME.log` (see `work`) and `NAME.PID.end` are ours, or lie in `scratch`.
        fault: called with every event.
        patches: "module:attribute.path" → value, set in the process before it starts.
        command: run the command line with these arguments instead of `run_study`.
    """

    def __init__(
        self,
        table: Mapping[str, Any],
        folder: Path,
        fault: Fault = quiet,
        patches: Mapping[str, Any] | None = None,
        command: Sequence[str] | None = None,
        scratch: Path | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.beside = scratch or folder.parent
        self.folder = folder
        arguments = (dict(table), str(folder), fault, dict(patches or {}), command, str(self.beside))
        self.process: ForkServerProcess = context.Process(target=_driver, args=arguments, daemon=True)
        self.process.start()
        assert self.process.pid is not None
        self.pid: int = self.process.pid

    def wait(self, seconds: float = 120) -> Ended:
        """Wait for its end."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, "the driver does not end"
        file = _end_file(self.beside, self.folder, self.pid)
        told = json.loads(file.read_text()) if file.exists() else {}
        said = file.with_suffix(".said")
        return Ended(self.process.exitcode, said=said.read_text() if said.exists() else "", **told)


def drive(table: Mapping[str, Any], folder: Path, fault: Fault = quiet, **more: Any) -> Ended:
    """A driver from its start to its end."""
    return Driver(table, folder, fault, **more).wait()


def _end_file(beside: Path, folder: Path, pid: int) -> Path:
    return beside / f"{folder.name}.{pid}.end"


def _driver(
    table: Mapping[str, Any],
    folder: str,
    fault: Fault,
    patches: Mapping[str, Any],
    command: Sequence[str] | None,
    beside: str,
) -> None:
    """The process of a driver."""
    log_work(Path(beside) / f"{Path(folder).name}.log")
    for target, value in patches.items():
        module, _, path = target.partition(":")
        *owners, name = path.split(".")
        setattr(functools.reduce(getattr, owners, importlib.import_module(module)), name, value)
    tap(folder, fault)
    end = _end_file(Path(beside), Path(folder), os.getpid())
    if command is not None:
        with open(end.with_suffix(".said"), "w", buffering=1) as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            sys.stdout = sys.stderr = said
            sys.argv = ["silo-tune", *command]
            main()
        return
    notes, told = _Notes(), dict[str, Any]()
    try:
        outcome = run_study(parse_study(dict(table)), folder, local=True, monitor=notes)
        told["counts"] = vars(outcome.counts)
        told["ended"] = {f"{arm} seed {seed}": reason for (arm, seed), reason in outcome.ended.items()}
    except SiloTuneError as error:
        told |= {"error": str(error), "exit_code": error.exit_code}
    except BaseException as error:
        told |= {"error": "".join(traceback.format_exception(error)), "exit_code": None}
    end.write_text(json.dumps({**told, "notes": notes.notes, "faults": getattr(fault, "failures", 0)}))


def log_work(file: Path) -> None:
    """Append a line for every epoch that this process begins to train, and for every unit that it committed."""
    run_epoch, commit = Trainer.run_epoch, UnitStore.commit

    def write(what: str, key: str) -> None:
        with open(file, "a", encoding="utf-8") as log:
            log.write(f"{what} {key}\n")

    def logged_epoch(self: Trainer) -> EpochLog:
        write("epoch", self.unit.key)
        return run_epoch(self)

    def logged_commit(self: UnitStore, result: Mapping[str, Any]) -> dict[str, Any]:
        standing = commit(self, result)
        write("commit", result["key"])
        return standing

    Trainer.run_epoch = logged_epoch  # type: ignore[method-assign]
    UnitStore.commit = logged_commit  # type: ignore[method-assign]


def work(folder: Path, beside: Path | None = None) -> list[tuple[str, str]]:
    """What the drivers of a run did, in order: ("epoch" | "commit", key of the unit)."""
    log = (beside or folder.parent) / f"{folder.name}.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [(what, key) for what, key in map(str.split, lines)]


def stands_still(pid: int) -> bool:
    """Is this process stopped, as by Ctrl-Z?"""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


def wait_until(true: Callable[[], bool], otherwise: str, seconds: float = 60) -> None:
    """Wait for something; fails with `otherwise` when it takes too long."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, otherwise
        time.sleep(0.01)


def files(folder: Path, kind: str) -> list[Path]:
    """The files of a kind in a run, sorted."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if kind_of(path.relative_to(folder).as_posix()) == kind)


@contextlib.contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own of this size.

    Raises:
        PermissionError: this process may not mount one.
    """
    place.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise PermissionError(str(error)) from None
    if done.returncode != 0:
        raise PermissionError(done.stderr.strip())
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


# --- what a user might write ---


def bad_data(how: str) -> Any:
    """A data function that raises or gives nonsense."""
    good = DataSet(np.zeros((60, 8, 8, 1), dtype=np.uint8), np.arange(60, dtype=np.int64) % 3, None, None, 3)
    pixels, labels = good.train, good.train_labels
    if how == "raises":
        raise KeyError("column 'image'")
    given: dict[str, Any] = {
        "nothing": None,
        "a number": 3,
        "lists": ([[1]], [1], None, None, 3),
        "float images": (pixels.astype(np.float32), labels, None, None, 3),
        "one-hot labels": (pixels, np.eye(3, dtype=np.int64)[labels], None, None, 3),
        "float labels": (pixels, labels.astype(np.float64), None, None, 3),
        "too few labels": (pixels, labels[:-1], None, None, 3),
        "labels beyond the classes": (pixels, labels, None, None, 2),
        "one class": (pixels, labels * 0, None, None, 1),
        "no number of classes": (pixels, labels, None, None, None),
        "test images without labels": (pixels, labels, pixels, None, 3),
        "test images of another size": (pixels, labels, pixels[:, :4], labels, 3),
        "no images": (pixels[:0], labels[:0], None, None, 3),
        "int32 labels": (pixels, labels.astype(np.int32), None, None, 3),
    }
    return given[how]


class Fails(Net):
    """Fails once in a file's life, in the retraining of one unit."""

    def __init__(self, inputs: int, classes: int, how: str, marker: str) -> None:
        super().__init__(inputs, classes, 0.0)
        self.how, self.marker = how, marker

    def forward(self, images: Tensor) -> Tensor:
        pruned = not all(parameter.all() for parameter in self.body[0].parameters())
        if self.training and torch.is_grad_enabled() and pruned and not Path(self.marker).exists():
            Path(self.marker).touch()
            if self.how == "memory":
                # More than any machine's address space may hold under the limit that the test sets.
                return super().forward(images) + torch.zeros(1 << 33).sum()
            raise ZeroDivisionError("the temperature is 0")
        return super().forward(images)


def failing(shape: tuple[int, int, int], classes: int, how: str, marker: str) -> nn.Module:
    """A model function whose network fails in one unit only."""
    return Fails(shape[0] * shape[1] * shape[2], classes, how, marker)
