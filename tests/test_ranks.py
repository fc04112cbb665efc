"""A unit trained by several processes: the numbers of one process, whatever becomes of the others."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from silo_tune.data.batches import shared
from silo_tune.errors import BadInput, StudyError
from silo_tune.run.local import LocalRunner
from silo_tune.run.monitor import Monitor
from silo_tune.study.workspace import Workspace
from silo_tune.training import ranks
from silo_tune.training.attempts import attempts
from silo_tune.training.process import require_room
from silo_tune.training.ranks import RankLost, Team, synchronised
from silo_tune.training.worker import drain
from tests.conftest import small_study
from tests.test_cycle import Bench

# Each has what the others lack: a last batch that is short; AdamW, clipping, augmentation and steps of three batches;
# parameters that are frozen, shared or without a gradient.
STUDIES: dict[str, dict[str, Any]] = {
    "mlp": {"retrain": {"epochs": 3, "batch": 30}},
    "convolutions": {
        "model": {"name": None, "function": "tests.users:unnormed", "version": "1"},
        "retrain": {"epochs": 3, "batch": 14, "accumulate": 3, "clip": 0.5, "optimizer": {"name": "adamw"}},
        "data": {"augment": ["crop", "flip"], "crop_padding": 1},
    },
    "odd": {
        "model": {"name": None, "function": "tests.users:mixed", "version": "1"},
        "prune": {"criterion": {"name": "gradient"}},
    },
}
RATE = {"mlp": {"value": 0.1}, "convolutions": {"value": 0.005}, "odd": {"value": 0.05}}


def study_of(name: str = "mlp", workers: int = 2, **cluster: Any) -> Any:
    return small_study(**STUDIES[name], cluster={"workers_per_unit": workers, "partial_seconds": 0, **cluster})


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "two", study_of())
    yield bench
    of(bench).close()


def of(bench: Bench) -> Team:
    assert bench.worker.team is not None
    return bench.worker.team


# --- what is whose ---


@pytest.mark.parametrize(("examples", "batch", "count"), [(96, 32, 2), (97, 13, 3), (31, 64, 4), (128, 30, 5)])
def test_every_example_of_a_batch_is_one_ranks_and_all_have_as_many_steps(
    examples: int, batch: int, count: int
) -> None:
    parts = [shared(examples, batch, (rank, count)) for rank in range(count)]
    steps = [places.split(own) for places, own in parts]
    assert {len(one) for one in steps} == {math.ceil(examples / batch)}
    for number, whole in enumerate(torch.arange(examples).split(batch)):
        assert torch.cat([one[number] for one in steps]).tolist() == whole.tolist()


def test_a_batch_that_is_smaller_than_the_ranks_are_many_is_refused() -> None:
    with pytest.raises(BadInput, match="a batch of 2 examples cannot be shared by 3"):
        shared(32, 10, (0, 3))


# --- the same numbers ---


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_two_ranks_train_as_one_and_either_resumes_the_other(name: str, tmp_path: Path) -> None:
    alone, two = (Bench(tmp_path / f"{count}", study_of(name, count)) for count in (1, 2))
    told: dict[int, list[float]] = {1: [], 2: []}
    results = {}
    for count, bench in ((1, alone), (2, two)):
        dense = bench.unit(0, None, RATE[name])
        first = bench.unit(1, dense, RATE[name])
        units = (dense, first)
        for unit in units:
            progress = bench.worker.run(unit)
            while True:
                try:
                    told[count].append(next(progress).train_loss)
                except StopIteration as end:
                    results[count] = end.value
                    break
                if count == 2 and unit is first and len(told[2]) == 3:  # preempted, and resumed by one process
                    progress.close()
                    of(two).close()
                    two.worker.team = None
                    progress = two.worker.run(unit)
    assert told[2] == pytest.approx(told[1], rel=1e-5)
    assert results[1]["key"] == results[2]["key"]  # how many trained it is no one's business
    for told_of in ("val_loss", "train_loss", "weights_remaining", "steps", "realised_peak_lr"):
        assert results[2][told_of] == pytest.approx(results[1][told_of], rel=1e-5), told_of
    one, other = (bench.weights(units[1]) for bench in (alone, two))
    assert all(torch.equal(one["mask"][layer], other["mask"][layer]) for layer in one["mask"])
    for layer, weight in one["weights"].items():
        torch.testing.assert_close(other["weights"][layer], weight, rtol=1e-4, atol=1e-5)


# --- when one is lost ---


@pytest.mark.slow
def test_a_rank_that_is_killed_fails_the_attempt_and_the_next_one_is_of_all(team: Bench) -> None:
    dense = team.unit(0, None)
    progress = attempts(team.worker, dense, max_failures=1)
    next(progress)
    gone = of(team)._others[0].process
    os.kill(gone.pid, signal.SIGKILL)
    assert next(progress) is None  # the attempt has failed
    assert "rank 1 of 2 was killed by signal 9" in team.notices[-1]
    result = drain(progress)
    assert result["status"] == "ok"
    alone = Bench(Path(team.workspace.run).parent / "one", study_of(workers=1))
    assert result["val_loss"] == pytest.approx(alone.train(dense)["val_loss"], rel=1e-5)


@pytest.mark.slow
def test_the_others_end_with_rank_0_and_after_what_it_raises(team: Bench) -> None:
    dense = team.unit(0, None)
    trainer = team.worker.start(dense)
    assert isinstance(trainer.team, Team)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    trainer.run_epoch()
    (other,) = trainer.team._others
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_one_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            trainer.run_epoch()
    assert other.process.poll() is not None
    trainer.run_epoch()  # they start anew
    (other,) = trainer.team._others
    other.pipe.close()  # as when rank 0 dies
    assert other.process.wait(10) == 0


@pytest.mark.slow
def test_what_another_rank_says_last_is_told(team: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "pack", lambda *state: b"no state")
    with pytest.raises(RankLost, match="rank 1 of 2 died: ValueError: not a state"):
        team.train(team.unit(0, None))


# --- what is refused ---


def test_batch_norm_is_refused_on_cpus_and_synchronised_on_gpus() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
    with pytest.raises(BadInput, match="1 is a BatchNorm"):
        synchronised(model, torch.device("cpu"))
    parameters = list(model.parameters())
    changed = synchronised(model, torch.device("cuda"))
    assert isinstance(changed[1], nn.SyncBatchNorm)  # type: ignore[index]
    assert [id(p) for p in changed.parameters()] == [id(p) for p in parameters]


def test_more_workers_than_the_machine_has_cores_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    study = study_of(workers=4096)
    workspace = Workspace.of(study, str(tmp_path))
    with pytest.raises(BadInput, match="a trial wants 4096 CPUs of one machine, and this one has"):
        require_room(workspace)
    with pytest.raises(BadInput, match="4096 CPUs"), LocalRunner().open(study, workspace, Monitor()):
        pass


def test_a_share_of_a_gpu_one_gpu_by_name_and_a_loop_of_its_own_are_refused() -> None:
    with pytest.raises(StudyError, match="gpus_per_unit is 0 or 1"):
        study_of(gpus_per_unit=0.5)
    with pytest.raises(StudyError, match="say cuda"):
        study_of(device="cuda:0")
    assert study_of(workers=3, cpus_per_unit=2).cluster.reserved == {"CPU": 6.0, "GPU": 0.0}
