"""A run driven inside the cluster for a client outside of it (`ray://HOST:PORT`), where Tune itself cannot run."""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import replace
from typing import Any

import ray

from silo_tune.errors import SiloTuneError
from silo_tune.run.monitor import Monitor
from silo_tune.run.progress import Progress
from silo_tune.run.session import Options, Outcome, default_run, drive
from silo_tune.run.status import read_status
from silo_tune.store.lease import Lease
from silo_tune.store.snapshot import CHAINS, Snapshot, foremost
from silo_tune.study.model import Study
from silo_tune.study.places import absolute
from silo_tune.tune import cluster
from silo_tune.tune.runner import RayRunner

NEWS_SECONDS = 2.0
STOP_SECONDS = 20.0


class _Driver:
    """Runs a study on a node of the cluster and keeps what it says until the client asks."""

    def __init__(self) -> None:
        self._monitor = _News()

    def run(self, study: Study, options: Options) -> Outcome | SiloTuneError:
        try:
            return drive(study, RayRunner(), self._monitor, options)
        except SiloTuneError as error:
            return error

    def news(self) -> list[str]:
        return [self._monitor.news.popleft() for _ in range(len(self._monitor.news))]

    def stop(self) -> None:
        self._monitor.stop_requested = True


class _News(Monitor):
    def __init__(self) -> None:
        self.news: deque[str] = deque()

    def notice(self, message: str) -> None:
        self.news.append(message)


class _Seen(Progress):
    """How the driver's session stands, as its own snapshots say."""

    def __init__(self, study: Study, url: str) -> None:
        super().__init__(study)
        self._url = url
        self._seen: Snapshot | None = None

    @property
    def begun(self) -> bool:
        return self._seen is not None

    def look(self) -> None:
        with contextlib.suppress(SiloTuneError):  # there is no run yet, or the storage does not answer: look again
            found = read_status(self._url)
            if found.driver == "running":
                self._seen = found.snapshot

    def snapshot(self, chains: int = CHAINS, lease: Lease | None = None) -> Snapshot:
        assert self._seen is not None
        return self._seen.model_copy(update={"chains": tuple(foremost(self._seen.chains, chains))})


def drive_from_client(study: Study, address: str, monitor: Monitor, options: Options) -> Outcome:
    """`run_study` on a cluster that is reached by `ray://HOST:PORT`; the driver runs on the cluster's head.

    The run must be seen by this machine and by every node. When this client goes away the driver ends, and the same
    command goes on from there.

    Raises:
        BadInput, RunFailed: as `run_study`.
    """
    url = absolute(options.out or default_run(study))  # the driver stands in another folder
    options = replace(options, out=url, reuse=tuple(map(absolute, options.reuse)))
    with cluster.connected(address, monitor):
        with cluster.seen_everywhere(url, holding=False):
            pass
        made: Any = ray.remote(num_cpus=0)(_Driver)
        driver = made.options(max_concurrency=2).remote()
        outcome = driver.run.remote(study, options)
        done: list[Any] = []
        seen = monitor.progress = _Seen(study, url)
        try:
            while not done:
                seen.look()
                done, _ = ray.wait([outcome], timeout=NEWS_SECONDS)
                for message in ray.get(driver.news.remote()):
                    monitor.notice(message)
        finally:
            if not done:  # Ctrl-C: the driver gives the run back before it goes
                driver.stop.remote()
                ray.wait([outcome], timeout=STOP_SECONDS)
        found = ray.get(outcome)
    if isinstance(found, SiloTuneError):
        raise found
    return found  # type: ignore[no-any-return]
