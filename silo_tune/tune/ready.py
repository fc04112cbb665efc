"""A cluster that stands ready for a run: reached or started, seen by its nodes, with the data in its object store."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from silo_tune.run.monitor import Monitor
from silo_tune.study.model import Study
from silo_tune.study.workspace import Workspace
from silo_tune.tune import cluster
from silo_tune.tune.trainable import Shared


@dataclass(frozen=True)
class Wanted:
    """Which cluster.

    Attributes:
        address: "auto" or "HOST:PORT" of an existing one; None takes the one that this process is connected to, or
            starts one on this machine.
        num_cpus: cores of a cluster that is started here; all when None.
        dashboard: of a cluster that is started here, on loopback; needs the package ray[default].
        patience: seconds to wait for a first node that fits, on a cluster that is not started here.
    """

    address: str | None = None
    num_cpus: int | None = None
    dashboard: bool = False
    patience: float = cluster.PATIENCE_SECONDS


@dataclass(frozen=True)
class Ready:
    """What trials share, the facts of the data, the slots of now, and a folder for Tune's own files."""

    shared: Shared
    facts: Mapping[str, Any]
    slots: int
    scratch: str


@contextlib.contextmanager
def stand_ready(wanted: Wanted, study: Study, workspace: Workspace, monitor: Monitor) -> Iterator[Ready]:
    """The cluster, until the end of the block.

    Raises:
        BadInput: no cluster answers, no unit fits on a node, a node does not see the run, or the data is not there.
        RunFailed: Ray does not start.
    """
    with cluster.scratch_folder() as scratch, contextlib.ExitStack() as stack:
        patience, token, own = 0.0, None, False
        if wanted.address is not None:
            stack.enter_context(cluster.connected(wanted.address, monitor))
        elif not cluster.is_connected():
            url = stack.enter_context(cluster.started_here(wanted.num_cpus, wanted.dashboard, scratch))
            if wanted.dashboard:
                monitor.notice(f"Ray's dashboard: http://{url}")
            own = True
        if not own:
            token = stack.enter_context(cluster.shared_with_others(study, workspace.run))
            patience = wanted.patience
        slots = cluster.require_slots(study, patience, monitor)
        facts, dataset = cluster.load_everywhere(study, workspace)
        yield Ready(Shared(workspace, dataset, token=token), facts, slots, os.path.join(scratch, "results"))
