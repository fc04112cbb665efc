"""The Trainables: `TrainUnit`, units of a run under `ChainSearch`; `PruneRetrain`, one cycle in a user's own Tuner."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError

from silo_tune.errors import BadInput, SiloTuneError, unknown
from silo_tune.planner.outcome import measured
from silo_tune.planner.unit import Unit, make_unit
from silo_tune.run.session import default_run
from silo_tune.store.run_folder import Run
from silo_tune.store.storage import Storage
from silo_tune.store.unit_store import unit_of
from silo_tune.study.model import Study
from silo_tune.study.workspace import Workspace
from silo_tune.tune.cluster import load_everywhere, not_seen, start_if_none

# A step of the Trainable lasts about this long, so that a report is never the larger part of the work.
REPORT_SECONDS = 2.0
# What the planner and the callbacks hear of a unit; the rest is in its result.json.
HEARD = (
    "key", "status", "max_lr", "val_score", "val_loss", "classes", "sign", "guess_score", "error", "train_seconds",
    "test_score", "weights_remaining",
)  # fmt: skip


@dataclass(frozen=True)
class Shared:
    """What all trials of a run share: the workspace, and the decoded data (one copy per node, in the object store)."""

    workspace: Workspace
    dataset: Any  # an ObjectRef, or None to load the data in the worker
    token: str | None = None  # a file of the run that every node must see; None where that is sure


def make_worker(shared: Shared, notice: Callable[[str], None]) -> Any:
    """The worker of this process.

    Raises:
        BadInput: this node does not see the run, or the data.
    """
    from silo_tune.data.load import open_examples
    from silo_tune.training.process import enter
    from silo_tune.training.worker import Worker

    workspace = shared.workspace
    if shared.token is not None and not Storage(workspace.run).exists(shared.token):  # a node that joined late
        raise BadInput(not_seen(workspace.run, [ray.util.get_node_ip_address()]))
    dataset = None
    if shared.dataset is not None:
        with contextlib.suppress(RayError):
            dataset = ray.get(shared.dataset)
    if dataset is None:  # the node that held it died, and it could not be read again where Ray tried
        enter(workspace)
        dataset = open_examples(workspace.data, workspace.task)
    return Worker(workspace, dataset, notice)


class TrainUnit(tune.Trainable):
    """Trains a unit of a run, under `ChainSearch`. The config holds `unit`, a `planner.unit.Unit` as canonical JSON.

    A step trains whole epochs for about `REPORT_SECONDS`; the last one has `done` and the outcome of the unit.
    Every state is in the run folder, so a restarted trial resumes from there, and Tune's own checkpoints are empty.
    """

    def setup(self, config: dict[str, Any], shared: Shared | None = None) -> None:
        if shared is None:
            raise BadInput("TrainUnit needs its workspace: give the Tuner ChainSearch(study, out).trainable()")
        self._notices: list[str] = []
        self._broken: SiloTuneError | None = None
        try:
            self._worker = make_worker(shared, self._notices.append)
            self._begin(config)
        except SiloTuneError as error:  # told by the first step: an exception here would only restart the actor
            self._broken = error

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next unit without a new process."""
        if self._broken is None:
            self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        from silo_tune.training.attempts import attempts

        unit = Unit.from_spec(json.loads(config["unit"]))
        workspace = self._worker.workspace
        self._progress = attempts(self._worker, unit, workspace.max_failures, workspace.unit_timeout)

    def step(self) -> dict[str, Any]:
        """Train for a while. Bad input and failed storage are reported, not raised: trying again would not help."""
        until = time.monotonic() + REPORT_SECONDS
        report: dict[str, Any] = {"done": False}
        losses: list[tuple[int, float]] = []  # epoch, mean training loss
        try:
            if self._broken is not None:
                raise self._broken
            while True:
                log = next(self._progress)
                if log is None:  # an attempt failed: the driver counts the time of the next from here
                    break
                losses.append((log.epoch, log.train_loss))
                if time.monotonic() >= until:
                    break
        except StopIteration as end:
            outcome = end.value
            report = {"done": True, **{name: outcome.get(name) for name in HEARD}}
            if outcome["status"] != "failed":
                report["measured"] = measured(outcome)
        except SiloTuneError as error:
            report = {"done": True, "stop": str(error), "exit_code": error.exit_code}
        report["losses"], report["notices"], self._notices[:] = losses, list(self._notices), []
        return report

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {}

    def load_checkpoint(self, checkpoint: Any) -> None:
        pass


class PruneRetrain(tune.Trainable):
    """Trains one prune-retrain cycle at one max_lr, in a Tuner of your own with any scheduler and any search.

    Take `PruneRetrain.for_cycle(…)`: the config holds `max_lr`, a step is one epoch, and it reports what
    `epochwise.Stepwise.step` says. Checkpoints are whole states: a trial that was paused, restarted or cloned resumes
    bit-identically. Nothing is written into a run.
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
                f"trial {str(parent)[:12]} is of the last cycle of the study; raise `cycles` to continue from it"
            )
        unit = make_unit(study, study.settings(study.arms[name]), parent=parent, cycle=cycle, seed=seed, peak=None)
        workspace = Workspace.of(study, run.url)
        start_if_none()
        facts, dataset = load_everywhere(study, workspace)
        if parent is not None:
            run.check_data(facts)
        return with_study(cls, study, shared=Shared(workspace, dataset), cycle=unit)

    def setup(self, config: dict[str, Any], shared: Shared | None = None, cycle: Unit | None = None) -> None:
        if shared is None or cycle is None:
            raise BadInput("PruneRetrain needs its workspace: give the Tuner PruneRetrain.for_cycle(study)")
        self._cycle = cycle  # without a peak; a trial's config gives it
        self._broken: SiloTuneError | None = None
        try:
            self._worker = make_worker(shared, logging.getLogger(__name__).warning)
            self._begin(config)
        except SiloTuneError as error:  # raised by the first step: an exception here would only restart the actor
            self._broken = error

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial without a new process."""
        if self._broken is None:
            self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        from silo_tune.training.epochwise import Stepwise, at_rate

        self._stepwise = Stepwise(self._worker, at_rate(self._cycle, config))

    def step(self) -> dict[str, Any]:
        """Train one epoch."""
        if self._broken is not None:
            raise self._broken
        return self._stepwise.step()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self._stepwise.save(checkpoint_dir)

    def load_checkpoint(self, checkpoint: Any) -> None:
        if self._broken is None:
            self._stepwise.load(checkpoint)


def _parent(run: Run, study: Study, key: str) -> Unit:
    """The unit that a trial starts from. Raises BadInput when it is not there, or not of this study."""
    run.study()
    run.resumed(study)
    try:
        result = run.result(key)
    except ValueError:
        raise BadInput(f"parent: {key!r} is no trial's key; take one from the column `key` of the table") from None
    if result is None:
        raise BadInput(f"parent: {run.url} has no trial {key[:12]}; take one from the column `key` of its table")
    if run.units.read_state(result) is None:
        raise BadInput(
            f"parent: the weights of trial {key[:12]} are gone ({result['status']}, or swept when its chain was past "
            f'it); a run with cluster.keep = "all" keeps them'
        )
    return unit_of(result)


def with_study(kind: type[tune.Trainable], study: Study, **what: Any) -> Any:
    """A Trainable with a study's resources and what its trials share."""
    reserved = study.cluster.reserved
    resources = {"cpu": reserved.pop("CPU"), "gpu": reserved.pop("GPU"), **reserved}
    return tune.with_resources(tune.with_parameters(kind, **what), resources)
