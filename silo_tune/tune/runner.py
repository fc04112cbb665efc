"""Trains a study on a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError

from silo_tune.chains import Planner
from silo_tune.errors import RunFailed
from silo_tune.lease import Lease
from silo_tune.run import Monitor
from silo_tune.study import Study
from silo_tune.tune import cluster
from silo_tune.tune.search import ChainSearch
from silo_tune.tune.trainable import Shared
from silo_tune.workspace import Workspace

# Tune keeps every trial it ever had, some 30 KB each; so many, and the next Tuner takes over.
TRIALS_PER_TUNER = 2000


@dataclass
class RayRunner:
    """Trains on a Ray cluster.

    Args:
        address: "auto" or "HOST:PORT" of an existing cluster; None takes the one that this process is connected to, or
            starts one on this machine.
        num_cpus: cores of a cluster that is started here; all when None.
        dashboard: of a cluster that is started here, on loopback; needs the package ray[default].
        trials_per_tuner: units that one Tuner trains.
        patience: seconds to wait for a first node that fits, on a cluster that is not started here.
    """

    address: str | None = None
    num_cpus: int | None = None
    dashboard: bool = False
    trials_per_tuner: int = TRIALS_PER_TUNER
    patience: float = cluster.PATIENCE_SECONDS

    @contextlib.contextmanager
    def open(self, study: Study, workspace: Workspace, monitor: Monitor) -> Iterator[_RaySession]:
        with cluster.scratch_folder() as scratch, contextlib.ExitStack() as stack:
            patience, token, own = 0.0, None, False
            if self.address is not None:
                stack.enter_context(cluster.connected(self.address, monitor))
            elif not ray.is_initialized():
                url = stack.enter_context(cluster.started_here(self.num_cpus, self.dashboard, scratch))
                if self.dashboard:
                    monitor.notice(f"Ray's dashboard: http://{url}")
                own = True
            if not own:
                token = stack.enter_context(cluster.shared_with_others(study, workspace.run))
                patience = self.patience
            found = cluster.require_slots(study, patience, monitor)
            facts, dataset = cluster.load_everywhere(study, workspace)
            shared = Shared(workspace, dataset, token=token)
            yield _RaySession(study, shared, facts, found, os.path.join(scratch, "results"), self.trials_per_tuner)


@dataclass
class _RaySession:
    study: Study
    shared: Shared
    facts: Mapping[str, Any]
    slots: int
    scratch: str
    trials_per_tuner: int

    def train(self, planner: Planner, lease: Lease, monitor: Monitor) -> None:
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # deaths are told in our own words
        search = ChainSearch.of(self.study, self.shared, planner, lease, monitor, self.trials_per_tuner)
        while not planner.done:
            tuner = tune.Tuner(
                search.trainable(), tune_config=search.tune_config(), run_config=search.run_config(self.scratch)
            )
            try:
                tuner.fit()
            except RuntimeError as error:  # Tune knows not all deaths, and ends at that of a worker out of memory
                if not isinstance(error.__cause__, RayError):
                    raise
                search.bury_all(cluster.reason_of(str(error.__cause__)))
            if search.error is not None:
                raise search.error
            if search.cut_off or not search.suggested:
                raise RunFailed("Tune ended before the study did; run the same command again, it goes on from here")
            search = search.next()
