"""A look at a user's data, for the study that is proposed for it: its sizes, and what an epoch takes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from silo_tune.data.load import facts, open_examples
from silo_tune.planner.unit import make_unit
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study
from silo_tune.study.workspace import Workspace
from silo_tune.training.worker import Worker

# Examples of the epoch that is measured: enough for a pace, few enough to wait for.
MEASURED = 6400
BATCH = 64


@dataclass(frozen=True)
class FirstLook:
    """What was seen.

    Attributes:
        study: the smallest one of this data, network and task.
        facts: of the data, as RUN/data.json has them.
        steps: of an epoch.
        step_seconds: of one of them, on this machine.
        guess: score of the best constant prediction.
    """

    study: Study
    facts: Mapping[str, Any]
    steps: int
    step_seconds: float
    guess: float


def seen(data: Mapping[str, Any], model: Mapping[str, Any], task: Mapping[str, Any] | None) -> FirstLook:
    """Look at data and network, and train for an epoch of at most `MEASURED` examples. Writes nothing that stays.

    Raises:
        BadInput: the data is not there, or the network does not fit it.
    """
    study = _smallest(data, model, task)
    with tempfile.TemporaryDirectory() as place:
        workspace = Workspace.of(study, place)
        dataset = open_examples(workspace.data, workspace.task)
        known = facts(dataset, study.data)
        few = {**data, "train_examples": min(known["n_train"], MEASURED)}
        short = _smallest(few, model, task)
        worker = Worker(Workspace.of(short, place), dataset)
        settings = short.settings(short.arms["silo"])
        unit = make_unit(short, settings, parent=None, cycle=0, seed=short.replicates.seeds[0], peak={"value": 0.01})
        trainer = worker.start(unit)
        trainer.one_step()  # what is only once, is not the pace
        log = trainer.run_epoch()
    steps = -(-known["n_train"] // BATCH)
    return FirstLook(study, known, steps, log.seconds / trainer.steps_per_epoch, trainer.guess[0])


def _smallest(data: Mapping[str, Any], model: Mapping[str, Any], task: Mapping[str, Any] | None) -> Study:
    table: dict[str, Any] = {
        "name": "look",
        "cycles": 2,
        "data": dict(data),
        "model": dict(model),
        "dense": {"epochs": 1, "max_lr": 0.01},
        "retrain": {"epochs": 1, "batch": BATCH},
        "replicates": {"seeds": [0]},
        "arms": {"silo": {"mode": "schedule", "schedule": {"name": "silo", "eps": 0.01, "delta": 0.01}}},
    }
    return parse_study({**table, **({} if task is None else {"task": dict(task)})}, "init")
