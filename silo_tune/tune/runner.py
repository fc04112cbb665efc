"""Trains a study on a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.exceptions import RayError

from silo_tune.errors import RunFailed
from silo_tune.planner.planner import Planner
from silo_tune.run.monitor import Monitor
from silo_tune.store.lease import Lease
from silo_tune.study.findings import Findings
from silo_tune.study.model import Study
from silo_tune.study.workspace import Workspace
from silo_tune.tune import cluster
from silo_tune.tune.ready import Ready, Wanted, stand_ready
from silo_tune.tune.searcher import ChainSearch

# Tune keeps every trial it ever had, some 30 KB each; so many, and the next Tuner takes over.
TRIALS_PER_TUNER = 2000


# Read by Ray while a Tuner runs. They are for ours alone: another Tuner of this process keeps its logs.
_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


@contextlib.contextmanager
def _own_settings() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _SETTINGS}
    os.environ.update({name: value for name, value in _SETTINGS.items() if before[name] is None})
    try:
        yield
    finally:
        for name in _SETTINGS:
            if before[name] is None:
                os.environ.pop(name, None)


@dataclass(frozen=True)
class RayRunner(Wanted):
    """Trains on a Ray cluster; for the other arguments see `ready.Wanted`.

    Args:
        trials_per_tuner: units that one Tuner trains.
    """

    trials_per_tuner: int = TRIALS_PER_TUNER

    @contextlib.contextmanager
    def open(self, study: Study, workspace: Workspace, monitor: Monitor) -> Iterator[_RaySession]:
        with stand_ready(self, study, workspace, monitor) as ready:
            yield _RaySession(study, ready, self.trials_per_tuner)


@dataclass
class _RaySession:
    study: Study
    ready: Ready
    trials_per_tuner: int

    @property
    def facts(self) -> Mapping[str, Any]:
        return self.ready.facts

    @property
    def slots(self) -> int:
        return self.ready.slots

    def look(self, study: Study) -> Findings:
        return cluster.look_from(study, self.ready.shared.workspace, self.ready.shared.dataset, self.slots)

    def train(self, planner: Planner, lease: Lease, monitor: Monitor) -> None:
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # deaths are told in our own words
        search = ChainSearch.of(self.study, self.ready.shared, planner, lease, monitor, self.trials_per_tuner)
        while not planner.done:
            tuner = tune.Tuner(
                search.trainable(), tune_config=search.tune_config(), run_config=search.run_config(self.ready.scratch)
            )
            try:
                with _own_settings():
                    tuner.fit()
            except RuntimeError as error:  # Tune knows not all deaths, and ends at that of a worker out of memory
                if not isinstance(error.__cause__, RayError):
                    raise
                search.bury_all(cluster.reason_of(str(error.__cause__)))
            if search.error is not None:
                raise search.error
            if search.cut_off or not search.suggested:
                raise RunFailed("Tune ended before the study did; run the same command again: it resumes from here")
            search = search.next()
