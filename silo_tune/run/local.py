"""Trains a study in this process, without Ray."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from silo_tune.planner.planner import Planner
from silo_tune.run.monitor import Monitor, require_going
from silo_tune.store.lease import Lease
from silo_tune.study.findings import Findings
from silo_tune.study.model import Study
from silo_tune.study.workspace import Workspace

if TYPE_CHECKING:
    from silo_tune.training.trainer import EpochLog


class LocalRunner:
    """Trains in this process, one unit after the other."""

    @contextlib.contextmanager
    def open(self, study: Study, workspace: Workspace, monitor: Monitor) -> Iterator[_LocalSession]:
        from silo_tune.training.preflight import opened
        from silo_tune.training.process import require_room
        from silo_tune.training.worker import Worker

        require_room(workspace)
        facts, dataset = opened(study, workspace)
        yield _LocalSession(facts, Worker(workspace, dataset))


@dataclass
class _LocalSession:
    facts: Mapping[str, Any]
    worker: Any
    slots: int = 1

    def look(self, study: Study) -> Findings:
        from silo_tune.training.preflight import preflight

        return preflight(study, self.worker.workspace, self.worker.dataset, self.slots)

    def train(self, planner: Planner, lease: Lease, monitor: Monitor) -> None:
        from silo_tune.training.attempts import attempts

        self.worker.notice = self.worker.units.notice = monitor.notice
        most, limit = self.worker.workspace.max_failures, self.worker.workspace.unit_timeout
        while (unit := planner.ask()) is not None:
            lease.require()
            require_going(monitor)
            monitor.began(unit)
            outcome = heard(unit.key, attempts(self.worker, unit, most, limit, monitor.stuck), monitor)
            monitor.ended(unit.key, outcome)
            planner.tell(unit.key, outcome)


def heard(key: str, progress: Generator[EpochLog | None, None, dict[str, Any]], monitor: Monitor) -> dict[str, Any]:
    """Run a trial to its end; the monitor hears of every epoch."""
    while True:
        try:
            log = next(progress)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        if log is not None:
            monitor.moved(key, log.epoch, log.train_loss)
