"""The Ray adapter: a Trainable that trains units, a Searcher that asks the planner, a runner that joins them.

Tune is a scheduler only: our own files are the truth, so nothing here is ever restored from a Tune snapshot.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Read by Ray when it is imported.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import ray
from ray import tune
from ray.tune import Callback, CheckpointConfig, FailureConfig, RunConfig, TuneConfig
from ray.tune.search import Searcher

from silo_tune.chains import Planner
from silo_tune.errors import BadInput, RunFailed, SiloTuneError, unknown
from silo_tune.forecast import forecast
from silo_tune.lease import Lease, is_running
from silo_tune.run import (
    Monitor,
    check_tolerance,
    checkpoint_hash,
    default_run,
    environment,
    require_going,
)
from silo_tune.store import Run, unit_of
from silo_tune.study import Study
from silo_tune.units import Unit, canonical_json, make_unit
from silo_tune.workspace import Workspace

# A step of the Trainable lasts about this long, so that a report is never the larger part of the work.
REPORT_SECONDS = 2.0
CONNECT_SECONDS = 5.0
SCRATCH = "silo-ray-"
# What the planner hears of a unit; the rest is in its result.json.
HEARD = ("key", "status", "max_lr", "val_accuracy", "val_loss", "classes", "error", "train_seconds")


@dataclass(frozen=True)
class Shared:
    """What all trials of a run share: the workspace, and the decoded data (one copy per node, in the object store)."""

    workspace: Workspace
    dataset: Any  # an ObjectRef, or None to load the data in the worker
    cycle: Unit | None = None  # without a peak; a trial's config gives it. None: the config is a whole unit


class PruneRetrain(tune.Trainable):
    """Trains one prune-retrain cycle at one max_lr, from its parent's state.

    Under `ChainSearch` the config holds `unit`, the canonical JSON of a `units.Unit`. A step trains whole epochs for
    about `REPORT_SECONDS`; the last one has `done` and the outcome of the committed unit. Every state is in the run
    folder, so a restarted trial goes on from there, and Tune's own checkpoints are empty.

    In a Tuner of your own, with any scheduler and any search, take `PruneRetrain.for_cycle(…)`: the config holds
    `max_lr`, a step is one epoch, and it reports what `stepwise.Stepwise.step` says. Checkpoints are whole states: a
    trial that was paused, restarted or cloned goes on bit-identically. Nothing is written into a run.
    """

    @classmethod
    def for_cycle(
        cls, study: Study, arm: str | None = None, *, parent: str | None = None, out: str | None = None
    ) -> Any:
        """A Trainable for one cycle of a study, with the study's resources and data. Starts Ray if nobody has.

        Args:
            study: the study.
            arm: whose profile, epochs and after-prune choice; that of `report.schedule` when left out.
            parent: key of the unit to prune and retrain (`key` in the run's table), which also gives seed and cycle;
                None trains the dense cycle 0 of the study's first seed.
            out: the run that holds the parent; `runs/NAME` when left out.

        Raises:
            BadInput: no such arm or parent; the parent's weights are gone; the run is of another study or other data.
        """
        name = arm or study.report.schedule
        if name not in study.arms:
            raise BadInput(unknown("arm", name, study.arms))
        run = Run(out or default_run(study))
        cycle, seed = 0, study.replicates.seeds[0]
        if parent is not None:
            above = _parent(run, study, parent)
            cycle, seed = above.cycle + 1, above.seed
        elif study.dense.checkpoint is not None:
            raise BadInput("dense.checkpoint: a pretrained cycle 0 is not trained; give a parent")
        if cycle >= study.cycles:
            raise BadInput(
                f"unit {str(parent)[:12]} is of the last cycle of the study; raise `cycles` to go on from it"
            )
        unit = make_unit(study, study.settings(study.arms[name]), parent=parent, cycle=cycle, seed=seed, peak=None)
        workspace = Workspace.of(study, run.url)
        facts, dataset = _load(study, workspace)
        if parent is not None:
            run.check_data(facts)
        return _trainable(study, Shared(workspace, dataset, unit))

    def setup(self, config: dict[str, Any], shared: Shared | None = None) -> None:
        if shared is None:
            raise BadInput(
                "PruneRetrain needs its workspace: give the Tuner ChainSearch(study, out).trainable(), or "
                "PruneRetrain.for_cycle(study)"
            )
        self._notices: list[str] = []
        self._broken: SiloTuneError | None = None
        self._cycle = shared.cycle
        try:
            self._worker = self._make_worker(shared)
            self._begin(config)
        except SiloTuneError as error:  # told by the first step: an exception here would only restart the actor
            self._broken = error

    def _make_worker(self, shared: Shared) -> Any:
        from silo_tune.cycle import Worker
        from silo_tune.data import load_data

        workspace = shared.workspace
        dataset = load_data(workspace.data) if shared.dataset is None else ray.get(shared.dataset)
        notice = self._notices.append if shared.cycle is None else logging.getLogger(__name__).warning
        return Worker(workspace, dataset, notice)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next unit without a new process."""
        if self._broken is None:
            self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        from silo_tune.cycle import attempts
        from silo_tune.stepwise import Stepwise, at_rate

        if self._cycle is not None:
            self._stepwise = Stepwise(self._worker, at_rate(self._cycle, config))
            return
        unit = Unit.from_spec(json.loads(config["unit"]))
        self._progress = attempts(self._worker, unit, self._worker.workspace.max_failures)

    def step(self) -> dict[str, Any]:
        """Train for a while. Under `ChainSearch` bad input and failed storage are reported, not raised: trying again
        would not help."""
        if self._cycle is not None:
            return self._one_epoch()
        until = time.monotonic() + REPORT_SECONDS
        report: dict[str, Any] = {"done": False}
        try:
            if self._broken is not None:
                raise self._broken
            while True:
                log = next(self._progress)
                report |= {"epoch": log.epoch, "train_loss": log.train_loss}
                if time.monotonic() >= until:
                    break
        except StopIteration as end:
            report = {"done": True, **{name: end.value.get(name) for name in HEARD}}
        except SiloTuneError as error:
            report = {"done": True, "stop": str(error), "exit_code": error.exit_code}
        report["notices"], self._notices[:] = list(self._notices), []
        return report

    def _one_epoch(self) -> dict[str, Any]:
        if self._broken is not None:
            raise self._broken
        return self._stepwise.step()

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any] | None:
        if self._cycle is None:
            return {}
        self._stepwise.save(checkpoint_dir)
        return None

    def load_checkpoint(self, checkpoint: Any) -> None:
        if self._cycle is not None and self._broken is None:
            self._stepwise.load(checkpoint)


def _parent(run: Run, study: Study, key: str) -> Unit:
    """The unit that a trial starts from. Raises BadInput when it is not there, or not of this study."""
    run.study()
    run.check(study)
    try:
        result = run.result(key)
    except ValueError:
        raise BadInput(f"parent: {key!r} is no unit's key; take one from the column `key` of the table") from None
    if result is None:
        raise BadInput(f"parent: {run.url} has no unit {key[:12]}; take one from the column `key` of its table")
    if run.units.read_state(result) is None:
        raise BadInput(
            f"parent: the weights of unit {key[:12]} are gone ({result['status']}, or swept when its chain was past "
            f'it); a run with cluster.keep = "all" keeps them'
        )
    return unit_of(result)


def _trainable(study: Study, shared: Shared) -> Any:
    """The Trainable with a study's resources and what its trials share."""
    cluster = study.cluster
    resources: dict[str, float] = {"cpu": cluster.cpus_per_unit, "gpu": cluster.gpus_per_unit}
    if cluster.memory_per_unit_gb is not None:
        resources["memory"] = cluster.memory_per_unit_gb * 2**30
    return tune.with_resources(tune.with_parameters(PruneRetrain, shared=shared), resources)


class ChainSearch(Searcher):
    """Suggests the units of a study, in the order that its chains allow, and decides their cycles.

    Its state is rebuilt from the run folder, never pickled. It loads and checks the data by a Ray task, which starts
    Ray if the caller has not. Use it in a Tuner of your own:

        search = ChainSearch(load_study("study.toml"), "runs/mine")
        Tuner(search.trainable(), tune_config=search.tune_config(), run_config=search.run_config(scratch)).fit()
        search.close()

    Args:
        study: the study.
        out: the run folder or URL; `runs/NAME` when left out.
        monitor: hears how it goes.

    Raises:
        BadInput, RunFailed: as `run_study`.
    """

    def __init__(self, study: Study, out: str | None = None, monitor: Monitor | None = None) -> None:
        super().__init__()  # no metric: Tune would demand it of every report, and the planner decides
        monitor = monitor or Monitor()
        run = Run(out or default_run(study), monitor.notice)
        workspace, dataset = Workspace.of(study, run.url), None
        with contextlib.ExitStack() as stack:
            lease = stack.enter_context(run.lease())
            run.check(study)
            planner = Planner(study, run, run.tests_from(study), checkpoint_hash(study), monitor.changed)
            if not planner.done:
                facts, dataset = _load(study, workspace)
                check_tolerance(study, facts)
                run.check_data(facts)
            run.accept(study, environment())
            self._own_lease = stack.pop_all()  # held until close(), unless something above refused the study
        self._join(study, workspace, planner, lease, monitor, dataset)

    @classmethod
    def of(
        cls, study: Study, workspace: Workspace, planner: Planner, lease: Lease, monitor: Monitor, dataset: Any = None
    ) -> ChainSearch:
        """A search over a planner that someone else opened and closes."""
        search = cls.__new__(cls)
        Searcher.__init__(search)
        search._own_lease = contextlib.ExitStack()
        search._join(study, workspace, planner, lease, monitor, dataset)
        return search

    def _join(
        self, study: Study, workspace: Workspace, planner: Planner, lease: Lease, monitor: Monitor, dataset: Any = None
    ) -> None:
        self.study, self.planner, self.monitor = study, planner, monitor
        self._lease, self._shared = lease, Shared(workspace, dataset)
        self._keys: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self.error: Exception | None = None

    # --- what a Tuner needs ---

    def trainable(self) -> Any:
        """The Trainable with the study's resources and shared data."""
        return _trainable(self.study, self._shared)

    def tune_config(self, slots: int = 1) -> TuneConfig:
        """Concurrency and reuse. Two trials per slot keep every slot busy while the next ones are set up."""
        arms, _ = forecast(self.planner.layout, self.planner.journal)
        return TuneConfig(
            search_alg=self,
            num_samples=sum(arm.to_train for arm in arms.values()) + len(self.planner.chains) + 1,
            max_concurrent_trials=self.study.cluster.max_concurrent or 2 * slots,
            reuse_actors=True,
        )

    def run_config(self, storage_path: str) -> RunConfig:
        """Nothing kept by Tune, worker failures retried, silence."""
        return RunConfig(
            name="tune",
            storage_path=storage_path,
            failure_config=FailureConfig(max_failures=self.study.cluster.max_failures),
            checkpoint_config=CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            callbacks=[_Reports(self)],
            verbose=0,
        )

    def close(self) -> None:
        """Give the run back."""
        self._own_lease.close()

    # --- Searcher ---

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any, **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next unit, None while all that is left waits for units under way, FINISHED at the end."""
        try:
            self._lease.require()
            require_going(self.monitor)
        except RunFailed as error:
            self.error = error
        if self.error is not None:
            return Searcher.FINISHED
        unit = self.planner.ask()
        if unit is None:
            return Searcher.FINISHED if self.planner.done else None
        self._keys[trial_id] = unit.key
        # As text: Tune flattens, prints and names folders after the leaves of a nested config.
        return {"key": unit.key, "unit": canonical_json(unit.spec)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the planner. An exception in here would make Tune run the trial again, so it is kept for `suggest`."""
        try:
            key = self._keys.pop(trial_id, None)
            if key is None or self.error is not None:
                return
            if error or result is None or not result.get("done"):
                reason = self._reasons.pop(trial_id, "its worker died")
                self.planner.tell(key, {"status": "failed", "error": reason})
            elif "stop" in result:
                kind = BadInput if result["exit_code"] == BadInput.exit_code else RunFailed
                self.error = kind(result["stop"])
            else:
                self.planner.tell(key, result)
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

    def hear(self, notices: list[str]) -> None:
        """Pass a worker's notices on."""
        for message in notices:
            self.monitor.notice(message)

    def blame(self, trial_id: str, reason: str) -> None:
        """Why a trial failed for good."""
        self._reasons[trial_id] = reason


class _Reports(Callback):
    """Brings workers' notices and reasons of death to the search."""

    def __init__(self, search: ChainSearch) -> None:
        self._search = search

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        lines = str(trial.get_error() or "").strip().splitlines()
        if lines:
            self._search.blame(trial.trial_id, f"its worker died: {lines[0]}")

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        self._search.hear(result.get("notices") or [])

    def __getstate__(self) -> dict[str, Any]:
        return {}


@dataclass
class RayRunner:
    """Trains on a Ray cluster.

    Args:
        address: "auto", "ray://HOST:PORT" or "HOST:PORT" of an existing cluster; None starts one on this machine.
        num_cpus: cores of a cluster that is started here; all when None.
    """

    address: str | None = None
    num_cpus: int | None = None

    @contextlib.contextmanager
    def open(self, study: Study, workspace: Workspace) -> Iterator[_RaySession]:
        _remove_dead_scratch()
        prefix = f"{SCRATCH}{os.getpid()}-"
        with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as scratch:
            started = self._connect(scratch)
            try:
                slots = _slots(study)
                facts, dataset = _load(study, workspace)
                yield _RaySession(study, workspace, facts, slots, dataset, os.path.join(scratch, "results"))
            finally:
                if started:
                    ray.shutdown()
                    shutil.rmtree(scratch, ignore_errors=True)

    def _connect(self, scratch: str) -> bool:
        """Connect or start; True when the connection is ours to close."""
        with _own_signals():
            return self._init(scratch)

    def _init(self, scratch: str) -> bool:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
        if self.address is None:
            if ray.is_initialized():
                return False
            # Large pages for the workers' heaps: 4 to 10 % less time per step of a convnet on a CPU.
            os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
            try:
                ray.init(address="local", num_cpus=self.num_cpus, include_dashboard=False, _temp_dir=scratch, **quiet)
            except Exception as error:  # a machine that is too busy or too full: Ray raises many kinds
                ray.shutdown()
                why = (str(error) or type(error).__name__).splitlines()[0]
                raise RunFailed(
                    f"Ray did not start on this machine ({why}); run the same command again when it is less busy, or "
                    f"train without Ray by --local"
                ) from error
            return True
        _probe(self.address)
        try:
            ray.init(address=self.address, ignore_reinit_error=True, **quiet)
        except Exception as error:  # Ray raises many kinds here, and all of them mean the same to the user
            raise BadInput(_no_answer(self.address, (str(error) or type(error).__name__).splitlines()[0])) from error
        return True


@dataclass
class _RaySession:
    study: Study
    workspace: Workspace
    facts: Mapping[str, Any]
    slots: int
    dataset: Any
    scratch: str
    counts: dict[str, int] = field(default_factory=dict)

    def train(self, planner: Planner, lease: Lease, monitor: Monitor) -> None:
        search = ChainSearch.of(self.study, self.workspace, planner, lease, monitor, self.dataset)
        tuner = tune.Tuner(
            search.trainable(), tune_config=search.tune_config(self.slots), run_config=search.run_config(self.scratch)
        )
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # deaths are told in our own words
        tuner.fit()
        if search.error is not None:
            raise search.error
        if not planner.done:
            raise RunFailed("Tune ended before the study did; run the same command again, it goes on from here")


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts a SIGTERM handler of its own over the caller's; put the caller's back."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _remove_dead_scratch() -> None:
    """Ray never cleans its own folder; those of drivers that were killed are removed by the next one."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*-*"):
        pid = folder.name.removeprefix(SCRATCH).split("-")[0]
        if pid.isdigit() and not is_running(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _slots(study: Study) -> int:
    """Units that the cluster can train at once. Raises BadInput when not even one fits."""
    cluster, have = study.cluster, ray.cluster_resources()
    wanted = {"CPU": float(cluster.cpus_per_unit), "GPU": cluster.gpus_per_unit}
    fits = [int(have.get(name, 0.0) / amount) for name, amount in wanted.items() if amount > 0]
    if min(fits) < 1:
        shown = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items() if amount > 0)
        raise BadInput(
            f"cluster.cpus_per_unit, cluster.gpus_per_unit: a unit wants {shown}; the cluster has "
            f"{have.get('CPU', 0.0):g} CPU and {have.get('GPU', 0.0):g} GPU"
        )
    return min(fits)


def _load(study: Study, workspace: Workspace) -> tuple[Mapping[str, Any], Any]:
    """Load the data in a worker, into the object store: the driver imports neither torch nor the user's functions."""

    def load(place: Workspace) -> tuple[Any, Any]:
        from silo_tune.cycle import enter
        from silo_tune.data import facts, load_data

        enter(place)
        try:
            dataset = load_data(place.data)
            return facts(dataset, place.data), dataset
        except SiloTuneError as error:
            return error, None

    task: Any = ray.remote(num_cpus=study.cluster.cpus_per_unit, num_returns=2, max_retries=1)(load)
    found, dataset = task.remote(workspace)
    known = ray.get(found)
    if isinstance(known, SiloTuneError):
        raise known
    return known, dataset


def _probe(address: str) -> None:
    """Ask the host before Ray does: Ray waits a minute for one that is not there."""
    place = address.removeprefix("ray://")
    if place in ("auto", "local"):
        return
    host, colon, port = place.rpartition(":")
    if not colon or not port.isdigit():
        raise BadInput(f"--address takes auto, ray://HOST:PORT or HOST:PORT, got {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise BadInput(_no_answer(address, str(error))) from None


def _no_answer(address: str, why: str) -> str:
    return f"no Ray cluster answers at {address!r} ({why}); start one with `ray start --head`, or leave --address out"
