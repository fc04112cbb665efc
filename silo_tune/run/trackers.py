"""Runs in TensorBoard, MLflow and Weights & Biases: one of theirs for each chain, over all its epochs."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from silo_tune.errors import BadInput, choose
from silo_tune.run.callbacks import Callback, ChainId, Trial
from silo_tune.study.places import absolute

FLUSH_METRICS, FLUSH_SECONDS = 500, 5.0


class Tracker(Protocol):
    """Where the numbers of one chain go."""

    def begin(self, tags: Mapping[str, str]) -> None:
        """Open a run of the tracker, or the same one again: `study`, `run`, `chain`, `arm`, `seed`, `id`; or `trial`.

        `id` stands for the run folder and the chain: it is the same whenever the run is resumed.
        """
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Finite numbers; step is the epoch, counted over the cycles of the chain."""
        ...

    def end(self) -> None:
        """The chain or the session is over."""
        ...


class _TensorBoard:
    def __init__(self, place: str | None) -> None:
        self._place = absolute(place or "tensorboard")

    def begin(self, tags: Mapping[str, str]) -> None:
        from tensorboardX import SummaryWriter

        run = hashlib.sha256(tags["run"].encode()).hexdigest()[:8]
        folder = os.path.join(self._place, f"{tags['study']}-{run}", tags["chain"])
        # Without a suffix two sessions that begin in one second would write one file, the second over the first.
        self._writer: Any = SummaryWriter(folder, filename_suffix=f".{time.time_ns()}")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def end(self) -> None:
        self._writer.close()


class _MLflow:
    """Numbers go out in batches: a request for each would take longer than a short epoch."""

    def __init__(self, place: str | None) -> None:
        folder = place is not None and ":" not in place
        self._place = f"sqlite:///{absolute(os.path.join(place, 'mlflow.db'))}" if place and folder else place
        self._waiting: list[Any] = []
        self._sent = time.monotonic()

    def begin(self, tags: Mapping[str, str]) -> None:
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        if self._place and self._place.startswith("sqlite:///"):
            os.makedirs(os.path.dirname(self._place.removeprefix("sqlite:///")) or ".", exist_ok=True)
        self._client: Any = MlflowClient(self._place)
        found = self._client.get_experiment_by_name(tags["study"])
        experiment = found.experiment_id if found is not None else self._client.create_experiment(tags["study"])
        same = self._client.search_runs([experiment], f"tags.`silo_tune.id` = '{tags['id']}'", max_results=1)
        if same:
            self._run = same[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
        else:
            told = {f"silo_tune.{name}": value for name, value in tags.items()}
            self._run = self._client.create_run(experiment, tags=told, run_name=tags["chain"]).info.run_id

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._waiting += [Metric(name, value, now, step) for name, value in metrics.items()]
        if len(self._waiting) >= FLUSH_METRICS or time.monotonic() - self._sent >= FLUSH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._client.log_batch(self._run, metrics=self._waiting)
        self._waiting, self._sent = [], time.monotonic()

    def end(self) -> None:
        self._flush()
        self._client.set_terminated(self._run)


class _Wandb:
    """Offline unless WANDB_MODE says otherwise."""

    def __init__(self, place: str | None) -> None:
        self._place = place and absolute(place)

    def begin(self, tags: Mapping[str, str]) -> None:
        import wandb

        if self._place:
            os.makedirs(self._place, exist_ok=True)
        quiet = wandb.Settings(console="off", silent=True, x_disable_stats=True, disable_git=True, disable_code=True)
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or tags["study"],
            dir=self._place,
            id=tags["id"],
            name=tags["chain"],
            group=tags["study"],
            config=dict(tags),
            mode=os.environ.get("WANDB_MODE") or "offline",  # type: ignore[arg-type]
            resume="allow",
            reinit="create_new",
            settings=quiet,
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        # Its own steps only rise, and candidates of a cycle share theirs.
        self._run.log({**metrics, "epoch": step})

    def end(self) -> None:
        self._run.finish()


# name → what makes a tracker, the package that it needs, and the extra that has it
TRACKERS: dict[str, tuple[Callable[[str | None], Tracker], str, str]] = {
    "tensorboard": (_TensorBoard, "tensorboardX", "tensorboard"),
    "mlflow": (_MLflow, "mlflow", "mlflow"),
    "wandb": (_Wandb, "wandb", "wandb"),
}


class Tracking(Callback):
    """Gives each chain a tracker.

    Args:
        make: makes one.
        name: of the tracker, for messages.
    """

    def __init__(self, make: Callable[[], Tracker], name: str) -> None:
        self.name, self._make = name, make
        self._study = self._run = ""
        self._open: dict[ChainId, Tracker] = {}

    def started(self, study: str, run: str) -> None:
        self._study, self._run = study, run

    def epoch(self, trial: Trial, epoch: int, train_loss: float) -> None:
        for asker in trial.askers:
            self._log(asker.chain, asker.step + epoch, {_of("train_loss", asker.candidate): train_loss})

    def ended(self, trial: Trial, outcome: Mapping[str, Any]) -> None:
        for asker in trial.askers:
            if asker.candidate is not None:
                found = {_of(name, asker.candidate): outcome.get(name) for name in ("max_lr", "val_score", "val_loss")}
                self._log(asker.chain, asker.step + trial.epochs, found)

    def closed(self, chain: ChainId, cycle: int, step: int, outcome: Mapping[str, Any]) -> None:
        names = ("max_lr", "val_score", "val_loss", "test_score", "weights_remaining")
        self._log(chain, step, {"cycle": cycle, **{name: outcome.get(name) for name in names}})

    def over(self, chain: ChainId, reason: str | None) -> None:
        if chain in self._open:
            self._open.pop(chain).end()

    def finished(self) -> None:
        while self._open:
            self._open.popitem()[1].end()

    def _log(self, chain: ChainId, step: int, found: Mapping[str, float | None]) -> None:
        metrics = {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}
        if not metrics:
            return
        if chain not in self._open:
            tracker = self._make()
            tracker.begin(self._tags(chain))
            self._open[chain] = tracker
        self._open[chain].log(step, metrics)

    def _tags(self, chain: ChainId) -> dict[str, str]:
        label = str(chain)
        return {
            "study": self._study,
            "run": self._run,
            "chain": label,
            "arm": chain.arm,
            "seed": str(chain.seed),
            **({} if chain.trial is None else {"trial": str(chain.trial)}),
            "id": hashlib.sha256(f"{self._run}\n{label}".encode()).hexdigest()[:16],
        }


def _of(name: str, candidate: int | None) -> str:
    return name if candidate is None else f"{name}/candidate-{candidate}"


def track(tracker: str | Callable[[], Tracker], place: str | None = None) -> Callback:
    """A callback that sends the numbers of a run to a tracker: `run_study(…, callbacks=[silo_tune.track("mlflow")])`.

    Args:
        tracker: "tensorboard", "mlflow" or "wandb"; or a function that makes a `Tracker` of yours, one for each chain.
        place: the folder for its files, or MLflow's tracking URI; default: `tensorboard`, or the library's own.

    Raises:
        BadInput: an unknown name, or its package is not installed.
    """
    if not isinstance(tracker, str):
        return Tracking(tracker, getattr(tracker, "__name__", "tracker"))
    if tracker not in TRACKERS:
        raise BadInput(f"unknown tracker {tracker!r}; {choose(tracker, TRACKERS)}")
    make, package, extra = TRACKERS[tracker]
    if importlib.util.find_spec(package) is None:
        raise BadInput(f"tracker {tracker} needs the package {package}: pip install 'silo-tune[{extra}]'")
    return Tracking(lambda: make(place), tracker)


def tracks(wanted: Sequence[str]) -> list[Callback]:
    """A callback for each `NAME` or `NAME:PLACE`.

    Raises:
        BadInput: with every mistake.
    """
    found, problems = [], []
    for one in wanted:
        name, _, place = one.partition(":")
        try:
            found.append(track(name, place or None))
        except BadInput as error:
            problems.append(f"--track {one}: {error}")
    if problems:
        raise BadInput("\n".join(problems))
    return found
