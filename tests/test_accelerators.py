"""What GPUs ask for, as far as a CPU can show it: one compilation, nothing read from the device, clear refusals."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from silo_tune.errors import BadInput, StudyError
from silo_tune.study.workspace import Workspace
from silo_tune.training import process
from silo_tune.training.attempts import attempts
from silo_tune.training.trainer import evaluate
from silo_tune.training.worker import drain
from tests.conftest import small_study
from tests.test_cycle import Bench
from tests.test_training import finish, trainer_of, unit_of

LENET = {"name": "lenet-300-100"}


class Reads(TorchDispatchMode):
    """Counts the numbers that Python reads from a device: `.item`, float(), bool(), and copies of CPU tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.is_nonzero)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("retrain", [{}, {"clip": 1.0, "accumulate": 2}, {"optimizer": {"name": "adamw"}}])
def test_an_epoch_reads_as_much_from_the_device_however_many_steps_it_has(retrain: dict[str, Any]) -> None:
    counts = []
    for batch in (24, 4):
        trainer = trainer_of(unit_of(retrain={**retrain, "batch": batch}))
        with Reads() as reads:
            trainer.run_epoch()
        counts.append(reads.count)
    assert counts[0] == counts[1] <= 4


def test_an_evaluation_reads_as_much_from_the_device_however_many_batches_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer, counts = trainer_of(unit_of()), []
    batches = type(trainer.feed).batches
    for batch in (24, 3):
        monkeypatch.setattr(type(trainer.feed), "batches", lambda feed, part, *rest, b=batch: batches(feed, part, b))
        with Reads() as reads:
            evaluate(trainer.task, trainer.model, trainer.feed, trainer.feed.train)
        counts.append(reads.count)
    assert counts[0] == counts[1] <= 1


# --- compiled ---


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Graphs that were compiled; they are run as they are."""
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    return graphs


@pytest.mark.slow
def test_all_units_of_a_worker_share_one_compilation(compiled: list[Any]) -> None:
    counts = []
    for peak in (0.05, 0.04, 0.03):
        trainer = finish(trainer_of(unit_of(epochs=1, retrain={"compile": True}), peak=peak, model_table=LENET))
        counts.append(len(compiled))
        assert trainer.called is not trainer.model
    assert counts[0] == counts[1] == counts[2] > 0


@pytest.mark.slow
def test_a_network_that_cannot_be_compiled_is_trained_as_it_is_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler on this machine")

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    bench = Bench(tmp_path / "compiled", small_study(retrain={"compile": True}))
    plain = Bench(tmp_path / "plain", small_study())
    dense = bench.unit(0, None)
    results = [bench.train(dense), bench.train(bench.unit(1, dense))]
    assert [message for message in bench.notices if "no compiler on this machine" in message] == bench.notices
    assert len(bench.notices) == 1
    own = plain.unit(0, None)
    assert plain.train(own)["val_loss"] == results[0]["val_loss"]
    assert own.key != dense.key  # elsewhere it may be compiled, and round otherwise


def test_what_trains_in_one_process_or_changes_its_network_is_not_compiled() -> None:
    with pytest.raises(StudyError, match="a compiled network trains in one process"):
        small_study(retrain={"compile": True}, cluster={"workers_per_unit": 2})


# --- what is not there ---


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_a_precision_that_needs_a_gpu_is_refused_without_one(precision: str) -> None:
    with pytest.raises(BadInput, match=f"retrain.precision: {precision} needs a GPU"):
        trainer_of(unit_of(retrain={"precision": precision}))


@pytest.mark.parametrize("cluster", [{"gpus_per_unit": 0.5}, {"device": "cuda"}, {"device": "cuda:1"}])
def test_a_gpu_that_is_not_there_is_named_and_not_replaced(cluster: dict[str, Any], tmp_path: Path) -> None:
    workspace = Workspace.of(small_study(cluster=cluster), str(tmp_path))
    with pytest.raises(BadInput, match=f"cluster.{next(iter(cluster))}: .* this process sees no CUDA device"):
        process.choose_device(workspace.device, workspace.gpus)


def test_a_share_of_a_gpu_is_a_share_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    capped = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: capped.append(share))
    assert [process.choose_device("auto", gpus).type for gpus in (0.25, 1.0)] == ["cuda", "cuda"]
    assert capped == [0.25]


def test_a_gpu_whose_memory_is_used_up_fails_a_unit_once_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, tries = Bench(tmp_path, small_study()), []

    def full(unit: Any) -> Any:
        tries.append(unit)
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        yield

    monkeypatch.setattr(bench.worker, "run", full)
    outcome = drain(attempts(bench.worker, bench.unit(0, None), max_failures=2))
    assert (outcome["status"], len(tries), len(bench.notices)) == ("failed", 1, 1)
    for told in ("Tried to allocate 20.00 GiB", "smaller retrain.batch", "cluster.gpus_per_unit"):
        assert told in outcome["error"]
