"""Trains a study in this process, without Ray."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from silo_tune.planner.planner import Planner
from silo_tune.run.monitor import Monitor, require_going
from silo_tune.store.lease import Lease
from silo_tune.study.findings import Findings
from silo_tune.study.model import Study
from silo_tune.study.workspace import Workspace


class LocalRunner:
    """Trains in this process, one unit after the other."""

    @contextlib.contextmanager
    def open(self, study: Study, workspace: Workspace, monitor: Monitor) -> Iterator[_LocalSession]:
        from silo_tune.training.preflight import opened
        from silo_tune.training.worker import Worker

        facts, dataset = opened(study, workspace)
        yield _LocalSession(facts, Worker(workspace, dataset), workspace.max_failures)


@dataclass
class _LocalSession:
    facts: Mapping[str, Any]
    worker: Any
    max_failures: int
    slots: int = 1

    def look(self, study: Study) -> Findings:
        from silo_tune.training.preflight import preflight

        return preflight(study, self.worker.workspace, self.worker.dataset, self.slots)

    def train(self, planner: Planner, lease: Lease, monitor: Monitor) -> None:
        from silo_tune.training.attempts import attempts
        from silo_tune.training.worker import drain

        self.worker.notice = self.worker.units.notice = monitor.notice
        while (unit := planner.ask()) is not None:
            lease.require()
            require_going(monitor)
            planner.tell(unit.key, drain(attempts(self.worker, unit, self.max_failures)))
