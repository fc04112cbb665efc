"""One run of a study: lease, accepted study, data, planner, a runner that trains, the table."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from silo_tune.candidates.points import TunePlan, plan_of
from silo_tune.candidates.samplers import importance
from silo_tune.chains import Chain, Counts, Planner
from silo_tune.errors import BadInput, RunFailed
from silo_tune.lease import Lease
from silo_tune.progress import Progress
from silo_tune.results import searches, table, write_table
from silo_tune.status import recorded
from silo_tune.store import Run
from silo_tune.study import Study
from silo_tune.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


class Monitor:
    """Hears how a run goes; the console is one. Every method may be left as it is.

    Attributes:
        stop_requested: set it to end the run before the next unit; what is committed is kept.
        progress: gives snapshots of how the run stands, from `started` on.
    """

    stop_requested: bool = False
    progress: Progress | None = None

    def started(self, study: Study, planner: Planner, slots: int) -> None:
        """The planner is ready; training begins on so many slots."""

    def changed(self, chain: Chain) -> None:
        """A chain heard an outcome, opened, closed or ended."""

    def notice(self, message: str) -> None:
        """Something the user should know, in one sentence."""


class _Recorder(Monitor):
    """Passes everything on to another monitor, after `progress` has heard it."""

    progress: Progress

    def __init__(self, progress: Progress, to: Monitor) -> None:
        self.progress, self._to = progress, to
        to.progress = progress

    @property
    def stop_requested(self) -> bool:  # type: ignore[override]
        return self._to.stop_requested

    def started(self, study: Study, planner: Planner, slots: int) -> None:
        self.progress.begin(planner, slots)
        self._to.started(study, planner, slots)

    def changed(self, chain: Chain) -> None:
        self.progress.changed(chain)
        self._to.changed(chain)

    def notice(self, message: str) -> None:
        self.progress.notice(message)
        self._to.notice(message)


class Runner(Protocol):
    """Trains what a planner asks for: in this process, or on a Ray cluster."""

    def open(self, study: Study, workspace: Workspace, monitor: Monitor) -> AbstractContextManager[Session]:
        """Load the data and stand ready; the monitor hears what that waits for.

        Raises:
            BadInput: the data or the cluster is not there.
        """
        ...


class Session(Protocol):
    """A runner that stands ready.

    Attributes:
        facts: of the data, for RUN/data.json.
        slots: units that can train at once.
    """

    facts: Mapping[str, Any]
    slots: int

    def train(self, planner: Planner, lease: Lease, monitor: Monitor) -> None:
        """Train until the planner has no more."""
        ...


class LocalRunner:
    """Trains in this process, one unit after the other."""

    @contextlib.contextmanager
    def open(self, study: Study, workspace: Workspace, monitor: Monitor) -> Iterator[_LocalSession]:
        from silo_tune.cycle import Worker
        from silo_tune.data import facts, open_data

        dataset = open_data(study.data)
        worker = Worker(workspace, dataset)
        yield _LocalSession(facts(dataset, study.data), worker, workspace.max_failures)


@dataclass
class _LocalSession:
    facts: Mapping[str, Any]
    worker: Any
    max_failures: int
    slots: int = 1

    def train(self, planner: Planner, lease: Lease, monitor: Monitor) -> None:
        from silo_tune.attempts import attempts, drain

        self.worker.notice = self.worker.units.notice = monitor.notice
        while (unit := planner.ask()) is not None:
            lease.require()
            require_going(monitor)
            planner.tell(unit.key, drain(attempts(self.worker, unit, self.max_failures)))


def require_going(monitor: Monitor) -> None:
    """Raises RunFailed when a stop was requested and its exception got lost on the way (in a destructor, say)."""
    if monitor.stop_requested:
        raise RunFailed("stopped")


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        url: the run folder.
        frame: its table.
        counts: units trained, shared, reused and failed in this session.
        ended: for each chain that ended early, (arm, seed) and the reason.
        seconds: wall seconds of this session.
    """

    url: str
    frame: pd.DataFrame
    counts: Counts
    ended: dict[tuple[str, int], str] = field(default_factory=dict)
    seconds: float = 0.0


def run_study(
    study: Study,
    out: str | None = None,
    *,
    runner: Runner | None = None,
    address: str | None = None,
    local: bool = False,
    monitor: Monitor | None = None,
    retry_failed: bool = False,
) -> Outcome:
    """Run a study, or go on with it, to its table.

    Args:
        study: from `load_study`.
        out: the run folder or URL; `runs/NAME` when left out.
        runner: what trains; a Ray cluster when left out (or this process, with `local`).
        address: of an existing Ray cluster; a cluster of its own on this machine when left out.
        local: train in this process, without Ray.
        monitor: hears how it goes.
        retry_failed: train failed units again where a chain ended for want of them.

    Returns:
        The outcome; RUN/table.parquet holds its table.

    Raises:
        BadInput: the study does not fit the run, the data or the cluster.
        RunFailed: storage failed, or another driver holds the run. What is committed is kept.
    """
    began = time.monotonic()
    monitor = monitor or Monitor()
    if runner is None and not local and address is not None and address.startswith("ray://"):
        from silo_tune.tune import drive_from_client

        return drive_from_client(study, out, address, monitor, retry_failed)
    progress = Progress(study)
    monitor = _Recorder(progress, monitor)
    run = Run(out or default_run(study), monitor.notice)
    checkpoint = checkpoint_hash(study)
    with run.lease() as lease, recorded(progress, run.storage, lease):
        # The study is recorded only when nothing is left that could refuse it.
        run.check(study)
        planner = Planner(study, run, run.tests_from(study), checkpoint, monitor.changed, retry_failed)
        if planner.done:
            check_tolerance(study, run.data_facts())
            run.accept(study, environment())
            progress.begin(planner, 0)
        else:
            workspace = Workspace.of(study, run.url)
            with (runner or _runner(local, address)).open(study, workspace, monitor) as session:
                check_tolerance(study, session.facts)
                run.check_data(session.facts)
                run.accept(study, environment())
                monitor.started(study, planner, session.slots)
                session.train(planner, lease, monitor)
        weigh_parameters(run, study)
        frame = table(run, study)
        write_table(run, frame)
    ended = {where: chain.ended for where, chain in planner.chains.items() if chain.ended is not None}
    return Outcome(run.url, frame, planner.counts, ended, time.monotonic() - began)


def weigh_parameters(run: Run, study: Study) -> None:
    """Write what each parameter of a finished tuning is worth into the run, for the report."""
    for arm, record in searches(run, study).items():
        plan = plan_of(study, arm)
        if isinstance(plan, TunePlan) and record.finished and record.importance is None:
            complete = [point for point in record.points if point["objective"] is not None]
            shares = importance(plan.space(), plan.told(complete))
            if shares is not None:
                run.write_importance(arm, len(record.points), shares)


def _runner(local: bool, address: str | None) -> Runner:
    if local:
        return LocalRunner()
    from silo_tune.tune import RayRunner

    return RayRunner(address)


def default_run(study: Study) -> str:
    """runs/NAME."""
    return f"runs/{study.name}"


def check_tolerance(study: Study, facts: Mapping[str, Any] | None) -> None:
    """Refuse a tolerance finer than the validation set can show (two images).

    Raises:
        BadInput: it is finer.
    """
    if facts is not None and study.report.tolerance < 2 / facts["n_val"]:
        raise BadInput(
            f"report.tolerance: {study.report.tolerance} is finer than {facts['n_val']} validation images can show; "
            f"set it to {2 / facts['n_val']:.4g} or more, or raise data.val_share"
        )


def checkpoint_hash(study: Study) -> str | None:
    """Content hash of the pretrained weights; for timm's, the model's own name stands for its content.

    Raises:
        BadInput: there is no such file.
    """
    path = study.dense.checkpoint
    if path is None:
        return None
    if path == "timm":
        return f"{study.model.name} pretrained"
    try:
        return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()
    except OSError as error:
        raise BadInput(f"dense.checkpoint: cannot read {path!r}: {error.strerror}") from None


def cpu_name() -> str:
    """Kind of this machine's CPU, as it names itself."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def environment() -> dict[str, str]:
    """Versions and machine, for the record."""
    found = {"python": platform.python_version(), "machine": f"{cpu_name()}, {os.cpu_count()} cores"}
    for package in ("silo-tune", "torch", "ray", "numpy", "pandas", "optuna"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
