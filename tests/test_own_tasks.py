"""Studies of other tasks from end to end: the examples, a table, and what is told before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from torch.nn import functional as F

from silo_tune import run_study
from silo_tune.errors import SiloTuneError
from silo_tune.run.session import look_here
from silo_tune.study.study_file import parse_study
from silo_tune.tasks.own import OwnTask
from silo_tune.training.worker import drain
from tests.conftest import example, small_table
from tests.test_cycle import Bench, stable
from tests.test_tables import columns

EXAMPLES = Path(__file__).parent.parent / "experiments" / "examples"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("segments", 0.5), ("two_heads", 0.8), ("distillation", 0.8)])
def test_the_examples_of_own_tasks_learn(
    name: str, least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    out = str(tmp_path / "run")
    assert example(name).main(out) > least


def table_study(place: Path, changes: dict[str, Any] | None = None, **of_table: Any) -> dict[str, Any]:
    parquet.write_table(pa.table(columns(**of_table)), place / "table.parquet")
    study = small_table(cycles=2)
    study["data"] = {
        "name": "table",
        "path": str(place / "table.parquet"),
        "target": "answer",
        "ignore": ["price"],
        "time": "day",
    }
    study |= {"task": {"name": "binary", "score": "auroc", "also": ["log-loss"]}, "model": {"name": "mlp"}}
    study["arms"] = {"silo": study["arms"]["silo"], "greedy": study["arms"]["greedy"]}
    return {**study, **(changes or {})}


def test_a_table_is_studied_and_random_test_targets_change_test_columns_alone(tmp_path: Path) -> None:
    frame = run_study(parse_study(table_study(tmp_path)), str(tmp_path / "run"), local=True).frame
    assert (frame.score == "auroc").all()
    assert (frame.status == "ok").all()
    assert (frame.guess_score == 0.5).all()
    assert frame[frame.cycle == 0].test_score.min() > 0.7
    assert (frame.also_test_log_loss - frame.test_loss).abs().max() < 1e-6
    other = tmp_path / "other"
    other.mkdir()
    changed = columns()["answer"].copy()
    changed[-48:] = np.random.default_rng(7).permutation(changed[-48:])  # the latest fifth of 240 rows
    again = run_study(parse_study(table_study(other, answer=changed)), str(tmp_path / "again"), local=True).frame
    same = [name for name in frame.columns if not name.startswith(("test_", "also_test_")) and name != "train_seconds"]
    assert frame[same].equals(again[same])
    assert not frame.test_score.equals(again.test_score)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": {"name": "resnet8"}}, r"'resnet8' is for images, and these examples are \(\d+,\)"),
        ({"task": {"name": "regression"}}, "column 'answer': texts"),
        (
            {"model": {"function": "tests.test_own_tasks:wide", "version": "1"}},
            r"must give a tensor \(32,\)",
        ),
        (
            {"task": {"function": "tests.test_own_tasks:Free", "version": "1", "score": "mae"}},
            "depends on none",
        ),
    ],
    ids=["network", "target", "outputs", "loss"],
)
def test_what_cannot_work_is_told_before_anything_is_trained(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(SiloTuneError, match=told):
        run_study(parse_study(table_study(tmp_path, changes)), str(tmp_path / "run"), local=True)


def wide(shape: tuple[int, ...], classes: int) -> Any:
    from torch import nn

    return nn.Linear(shape[0], 3)


class Free:
    """A task whose loss looks at biases alone."""

    def loss(self, model: Any, batch: Any) -> Any:
        return sum(parameter.square().sum() for name, parameter in model.named_parameters() if "bias" in name)

    def evaluate(self, model: Any, batches: Any) -> Any:
        return {"mae": 1.0, "loss": 1.0}


# --- the dense network as a teacher ---


class Taught:
    """Classification that holds what it was given against the dense network, and learns to be like it."""

    def begin(self, teacher: Any) -> None:
        self.teacher = teacher

    def loss(self, model: Any, batch: Any) -> Any:
        logits = model(batch[0])
        plain = F.cross_entropy(logits, batch[1])
        return plain if self.teacher is None else plain + F.mse_loss(logits, self.teacher(batch[0]))

    def evaluate(self, model: Any, batches: Any) -> Any:
        parts = [(F.cross_entropy(model(x), y, reduction="sum"), (model(x).argmax(1) == y).float()) for x, y in batches]
        right = torch.cat([one for _, one in parts])
        return {"accuracy": right.mean(), "loss": sum(float(loss) for loss, _ in parts) / len(right)}


class Untaught(Taught):
    begin = None  # type: ignore[assignment]


def taught(name: str = "Taught", **changes: Any) -> dict[str, Any]:
    task = {"function": f"tests.test_own_tasks:{name}", "version": "1", "score": "accuracy", "teacher": "dense"}
    return {**small_table(**{"cycles": 4, **changes}), "task": task}


def test_a_task_is_given_the_dense_network_of_its_chain(tmp_path: Path) -> None:
    straight, cut = (Bench(tmp_path / place, parse_study(taught())) for place in "ab")
    units = [dense := straight.unit(0, None), first := straight.unit(1, dense), straight.unit(2, first)]
    for unit in units:
        expected = straight.train(unit)
        progress = cut.fresh().run(unit)
        next(progress)
        progress.close()
        assert stable(drain(cut.fresh().run(unit))) == stable(expected)
    worker = straight.fresh()
    tasks = [worker.task(unit) for unit in units]
    assert isinstance(tasks[0], OwnTask)
    assert tasks[0].task.teacher is None
    theirs = straight.weights(dense)["weights"]
    for task in tasks[1:]:
        assert isinstance(task, OwnTask)
        teacher = task.task.teacher
        assert all(torch.equal(value, theirs[name]) for name, value in teacher.state_dict().items())
        assert not teacher.training
        assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_the_dense_weights_stay_until_the_last_training_that_is_taught_by_them(tmp_path: Path) -> None:
    table = taught(replicates={"seeds": [0, 1]})  # a worker remembers one teacher, and they take turns
    table["arms"] = {name: table["arms"][name] for name in ("silo", "flat")}
    outcome = run_study(parse_study(table), str(tmp_path / "run"), local=True)
    assert set(outcome.frame.status) == {"ok"}
    assert not list((tmp_path / "run").rglob("restate-*.json"))  # nothing was trained again to be a teacher


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (taught("Untaught"), r"has no begin; .*with a teacher begin\(teacher\)"),
        (
            {**small_table(), "task": {"name": "classification", "teacher": "dense"}},
            "teacher are those of a user's own",
        ),
    ],
    ids=["no begin", "named"],
)
def test_a_teacher_that_nobody_listens_to_is_refused(table: dict[str, Any], told: str) -> None:
    with pytest.raises(SiloTuneError, match=told):
        look_here(parse_study(table), "none")
