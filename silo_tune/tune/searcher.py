"""The Searcher: gives Tune the units of a study, and the planner their outcomes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback, CheckpointConfig, FailureConfig, RunConfig, TuneConfig
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from silo_tune.errors import BadInput, RunFailed
from silo_tune.planner.planner import Planner
from silo_tune.planner.unit import Unit, canonical_json
from silo_tune.run.callbacks import Callback as Heard
from silo_tune.run.callbacks import heard_by
from silo_tune.run.monitor import Monitor, require_going
from silo_tune.run.session import Look, Options, default_run, open_run
from silo_tune.store.lease import Lease
from silo_tune.study.findings import Findings
from silo_tune.study.model import Study
from silo_tune.study.places import absolute
from silo_tune.study.workspace import Workspace
from silo_tune.training.time_limit import GRACE_SECONDS, over_time
from silo_tune.tune.cluster import ask_autoscaler, look_from, reason_of, slots
from silo_tune.tune.ready import Ready, Wanted, stand_ready
from silo_tune.tune.trainable import Shared, TrainUnit, with_study

# How often the number of slots is asked for: nodes come and go.
SLOTS_SECONDS = 5.0
# A driver that stood still does not take its own silence for that of a trial: one look at it adds no more than this.
LOOK_SECONDS = 1.0
# Tune starts no more trials than this at once; how many there are is for `suggest` to say, as nodes come and go.
NO_LIMIT = 100_000


class ChainSearch(Searcher):
    """Suggests the units of a study, in the order that its chains allow, and decides their cycles.

    Its state is rebuilt from the run folder, never pickled. It opens the run as `run_study` does, on the cluster
    that the caller is connected to; where there is none it starts one. Use it in a Tuner of your own:

        search = ChainSearch(load_study("study.toml"), "runs/mine")
        Tuner(search.trainable(), tune_config=search.tune_config(), run_config=search.run_config(scratch)).fit()
        search.close()

    A unit whose worker or node dies is trained again elsewhere, from its last partial state; after
    `cluster.max_failures` more deaths without an epoch in between it has failed.

    Args:
        study: the study.
        out: the run folder or URL; `runs/NAME` when left out.
        monitor: hears how it goes.
        retry_failed, preflight, reuse, callbacks: as in `run_study`.
        look_at: decides the looks of a study of seeds until decided: `silo_analysis.estimates.sequential.look_at`.

    Attributes:
        error: what ended the search before its study was done, or None.
        suggested: number of units given to Tune.

    Raises:
        BadInput, RunFailed: as `run_study`.
    """

    def __init__(
        self,
        study: Study,
        out: str | None = None,
        monitor: Monitor | None = None,
        retry_failed: bool = False,
        preflight: bool = True,
        reuse: Sequence[str] = (),
        look_at: Look | None = None,
        callbacks: Sequence[Heard] = (),
    ) -> None:
        options = Options(out, retry_failed, preflight, tuple(reuse), look_at)
        with contextlib.ExitStack() as stack:
            told = heard_by(callbacks, monitor or Monitor(), absolute(out or default_run(study)))
            opened = stack.enter_context(open_run(study, _Caller(), stack.enter_context(told), options))
            study = opened.planner.study
            ready = opened.session.ready if isinstance(opened.session, _Standing) else None
            shared = ready.shared if ready is not None else Shared(Workspace.of(study, opened.run.url), None)
            self._join(study, shared, opened.planner, opened.lease, opened.monitor, None)
            self._opened = stack.pop_all()  # held until close()

    @classmethod
    def of(
        cls, study: Study, shared: Shared, planner: Planner, lease: Lease, monitor: Monitor, most: int
    ) -> ChainSearch:
        """A search over a planner that someone else opened and closes; it ends after `most` units."""
        search = cls.__new__(cls)
        search._join(study, shared, planner, lease, monitor, most)
        return search

    def next(self) -> ChainSearch:
        """The search that continues in another Tuner."""
        assert self._most is not None
        after = self.of(self.study, self._shared, self.planner, self._lease, self.monitor, self._most)
        after._deaths, after._epochs = self._deaths, self._epochs
        return after

    def _join(
        self, study: Study, shared: Shared, planner: Planner, lease: Lease, monitor: Monitor, most: int | None
    ) -> None:
        super().__init__()  # no metric: Tune would demand it of every report, and the planner decides
        self.study, self.planner, self.monitor = study, planner, monitor
        self.error: Exception | None = None
        self.suggested = 0
        self._lease, self._shared, self._most = lease, shared, most
        self._opened = contextlib.ExitStack()
        self._live: dict[str, Unit] = {}  # by trial
        self._lost: dict[str, Unit] = {}  # trials that ended without an outcome, until their reason is known
        self._deaths: dict[str, int] = {}  # by key, since the last epoch that was reported
        self._epochs: dict[str, int] = {}
        self._slots, self._slots_at = 0, -SLOTS_SECONDS
        self._silent: dict[str, float] = {}  # by trial: seconds since it began, or reported
        self._overdue: dict[str, str] = {}  # trials whose process was ended, and why
        self._looked_at = time.monotonic()

    # --- what a Tuner needs ---

    def trainable(self) -> Any:
        """The Trainable with the study's resources and shared data."""
        return with_study(TrainUnit, self.study, shared=self._shared)

    def tune_config(self) -> TuneConfig:
        """As many trials as `suggest` gives, by workers that stay."""
        return TuneConfig(
            search_alg=self,
            scheduler=_Patient(),  # type: ignore[no-untyped-call]
            num_samples=-1,
            max_concurrent_trials=NO_LIMIT,
            reuse_actors=True,
        )

    def run_config(self, storage_path: str) -> RunConfig:
        """Nothing kept or retried by Tune, silence."""
        return RunConfig(
            name="tune",
            storage_path=storage_path,
            failure_config=FailureConfig(max_failures=0),  # Tune gives up at once on a worker that dies while it starts
            checkpoint_config=CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            callbacks=[_Reports(self)],
            verbose=0,
        )

    def close(self) -> None:
        """Write the table and give the run back; after an error nothing is written, and status tells the error."""
        if self.error is None:
            self._opened.close()
        else:
            with contextlib.suppress(type(self.error)):  # the caller reads it in `error`
                self._opened.__exit__(type(self.error), self.error, None)

    @property
    def cut_off(self) -> bool:
        """Did Tune end with units under way?"""
        return bool(self._live)

    # --- Searcher ---

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any, **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next unit, None while all that is left waits for units under way, FINISHED at the end."""
        try:
            return self._suggested(trial_id)
        except Exception as error:  # Tune would end in its own words
            self.error = error
            return Searcher.FINISHED

    def _suggested(self, trial_id: str) -> Any:
        for lost in list(self._lost):
            self.bury(lost, "its worker died")
        self._lease.require()
        require_going(self.monitor)
        if self.error is not None or self.planner.done or self.suggested == self._most:
            return Searcher.FINISHED
        if len(self._live) >= self._room():
            return None
        unit = self.planner.ask()
        if unit is None:
            return None
        self._live[trial_id] = unit
        self.monitor.began(unit)
        self.suggested += 1
        # As text: Tune flattens, prints and names folders after the leaves of a nested config.
        return {"key": unit.key, "unit": canonical_json(unit.spec)}

    def _room(self) -> int:
        """Trials at once: one for each slot of now, so that none waits whose turn has come."""
        if time.monotonic() - self._slots_at >= SLOTS_SECONDS:
            self._slots, self._slots_at = slots(self.study.cluster), time.monotonic()
            if self._shared.token is not None:
                ask_autoscaler(self.study.cluster, min(self._limit, len(self._live) + self.planner.waiting))
        return max(1, min(self._limit, self._slots))

    @property
    def _limit(self) -> int:
        return self.study.cluster.max_concurrent or NO_LIMIT

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the planner. An exception in here would make Tune run the trial again, so it is kept for `suggest`."""
        try:
            unit = self._live.pop(trial_id, None)
            self._silent.pop(trial_id, None)
            if unit is None or self.error is not None:
                return
            if error or result is None or not result.get("done"):
                self._lost[trial_id] = unit
                self.monitor.ended(unit.key, None)
            elif "stop" in result:
                kind = BadInput if result["exit_code"] == BadInput.exit_code else RunFailed
                self.error = kind(result["stop"])
            else:
                self._forget(unit.key)
                self.monitor.ended(unit.key, result)
                self.planner.tell(unit.key, result)
        except Exception as problem:
            self.error = problem

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the run folder is the state."""
        with open(checkpoint_path, "wb"):
            pass

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the run folder is the state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    # --- what Tune's callbacks tell ---

    def start(self, trial_id: str) -> None:
        """A trial's worker stands ready: its time counts from here."""
        if (unit := self._live.get(trial_id)) is not None:
            self._silent[trial_id] = 0.0
            self.monitor.began(unit)

    def hear(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass a worker's notices on, and the epochs of its unit; Tune, which keeps results, need not keep those."""
        losses = result.pop("losses", None) or ()
        for message in result.get("notices") or []:
            self.monitor.notice(message)
        unit = self._live.get(trial_id)
        if unit is None:
            return
        self._silent[trial_id] = 0.0
        for epoch, train_loss in losses:
            self.monitor.moved(unit.key, epoch, train_loss)
            if epoch > self._epochs.get(unit.key, 0):
                self._epochs[unit.key] = epoch
                self._deaths.pop(unit.key, None)

    def overdue(self) -> list[str]:
        """Trials that should have ended themselves by `cluster.unit_timeout` and did not: their processes must end.

        No attempt that is in time is silent for longer than the limit.
        """
        now, limit = time.monotonic(), self.study.cluster.unit_timeout
        passed, self._looked_at = min(now - self._looked_at, LOOK_SECONDS), now
        if limit is None:
            return []
        for trial_id in self._silent:
            self._silent[trial_id] += passed
            if self._silent[trial_id] > limit + GRACE_SECONDS and trial_id not in self._overdue:
                unit = self._live[trial_id]
                why = over_time(limit, self._epochs.get(unit.key), unit.epochs)
                self._overdue[trial_id] = f"{why}; its process did not hear of it, and was ended"
        return list(self._overdue)

    def bury(self, trial_id: str, reason: str) -> None:
        """A trial's worker died: its unit is trained again, or has failed."""
        unit = self._lost.pop(trial_id, None)
        if unit is None:
            return
        reason = self._overdue.pop(trial_id, reason)
        deaths = self._deaths[unit.key] = self._deaths.get(unit.key, 0) + 1
        if deaths <= self.study.cluster.max_failures:
            self.monitor.notice(f"trial {unit.key[:12]}: {reason}; it resumes elsewhere from its last partial state")
            self.planner.take_back(unit)
            return
        self._forget(unit.key)
        self.planner.tell(
            unit.key, {"status": "failed", "error": f"{reason} ({deaths} times without an epoch between)"}
        )

    def bury_all(self, reason: str) -> None:
        """Tune itself ended, and with it every trial under way."""
        for trial_id in list(self._live):
            unit = self._lost[trial_id] = self._live.pop(trial_id)
            self._silent.pop(trial_id, None)
            self.monitor.ended(unit.key, None)
            self.bury(trial_id, reason)

    def _forget(self, key: str) -> None:
        self._deaths.pop(key, None)
        self._epochs.pop(key, None)


@dataclass(frozen=True)
class _Caller(Wanted):
    """The cluster of the caller's own Tuner, or one that is started for it; the Tuner trains."""

    @contextlib.contextmanager
    def open(self, study: Study, workspace: Workspace, monitor: Monitor) -> Iterator[_Standing]:
        with stand_ready(self, study, workspace, monitor) as ready:
            yield _Standing(ready)


@dataclass(frozen=True)
class _Standing:
    ready: Ready

    @property
    def facts(self) -> Mapping[str, Any]:
        return self.ready.facts

    @property
    def slots(self) -> int:
        return self.ready.slots

    def look(self, study: Study) -> Findings:
        return look_from(study, self.ready.shared.workspace, self.ready.shared.dataset, self.slots)

    def train(self, planner: Planner, lease: Lease, monitor: Monitor) -> None:
        raise NotImplementedError("the caller's Tuner trains")


class _Patient(FIFOScheduler):
    """Lets a trial wait for its own worker.

    Tune's order gives a worker that became free to the trial that waits longest, and ends the one that is starting for
    it on another slot: with units shorter than a start that slot is never used.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        return None


class _Reports(Callback):
    """Brings workers' notices and reasons of death to the search, and ends the processes of trials that hang."""

    def __init__(self, search: ChainSearch) -> None:
        self._search = search

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        try:
            late = set(self._search.overdue())
            for trial in trials if late else ():
                if trial.trial_id in late and trial.temporary_state.ray_actor is not None:
                    ray.kill(trial.temporary_state.ray_actor)
        except Exception as problem:  # an exception in a callback ends Tune in its own words
            self._search.error = problem

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        try:
            self._search.start(trial.trial_id)
        except Exception as problem:
            self._search.error = problem

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        try:
            self._search.bury(trial.trial_id, reason_of(_said(trial)))
        except Exception as problem:
            self._search.error = problem

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        try:
            self._search.hear(trial.trial_id, result)
        except Exception as problem:
            self._search.error = problem

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _said(trial: Any) -> str:
    """What Ray said of a trial's death: Tune writes it into a file of the driver's scratch folder."""
    return Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
