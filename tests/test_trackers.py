"""What TensorBoard, MLflow and Weights & Biases hold of a run, read back by their own libraries."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from silo_tune.api import run_study
from silo_tune.run.monitor import Monitor
from silo_tune.run.trackers import track
from tests.conftest import small_study

pytestmark = pytest.mark.slow

Series = dict[str, dict[str, list[tuple[int, float]]]]  # chain → metric → (step, value)


def of_tensorboard(place: Path) -> Series:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found: Series = {}
    for folder in place.glob("small-*/*"):
        events = accumulator.EventAccumulator(str(folder))
        events.Reload()
        names = events.Tags()["scalars"]
        found[folder.name] = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in names}
    return found


def of_mlflow(place: Path) -> Series:
    client = pytest.importorskip("mlflow").MlflowClient(f"sqlite:///{place / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "small"]
    found: Series = {}
    for run in client.search_runs([experiment.experiment_id]):
        assert run.info.status == "FINISHED"
        assert run.info.run_name not in found  # a resumed run goes on with the same one
        assert run.data.tags["silo_tune.arm"] == run.info.run_name.split()[0]
        found[run.info.run_name] = {
            name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
    return found


def logged(data: bytes) -> Iterator[bytes]:
    """Records of a log in LevelDB's format, which is what a .wandb file is after its first 7 bytes."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no header begins in the last bytes of a block
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield whole
            whole = b""


def of_wandb(place: Path) -> Series:
    from wandb.proto import wandb_internal_pb2

    found: Series = {}
    for file in sorted(place.glob("wandb/offline-run-*/*.wandb")):
        chain = ""
        for data in logged(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                chain = record.run.display_name
            if record.HasField("history"):
                items = {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                for name, value in items.items():
                    found.setdefault(chain, {}).setdefault(name, []).append((items["epoch"], value))
    return found


def of_arm(frame: pd.DataFrame, arm: str, column: str) -> list[float]:
    return [float(v) for v in frame[(frame.arm == arm) & frame.winner].sort_values("cycle")[column]]


@pytest.mark.parametrize(
    ("name", "read"), [("tensorboard", of_tensorboard), ("mlflow", of_mlflow), ("wandb", of_wandb)]
)
def test_a_tracker_holds_the_whole_of_a_run_that_was_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, read: Callable[[Path], Series]
) -> None:
    pytest.importorskip({"tensorboard": "tensorboardX"}.get(name, name))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    notes: list[str] = []

    class Notes(Monitor):
        def notice(self, message: str) -> None:
            notes.append(message)

    monkeypatch.setattr("silo_tune.run.callbacks.END_SECONDS", 60.0)
    for cycles in (2, 3):
        outcome = run_study(
            small_study(cycles=cycles),
            "run",
            local=True,
            monitor=Notes(),
            callbacks=[track(name, str(tmp_path / "there"))],
        )
    assert not [note for note in notes if "callback" in note]
    found = read(tmp_path / "there")
    assert set(found) == {f"{arm} seed 0" for arm in small_study().arms}
    for arm in ("silo", "flat", "greedy"):
        metrics = found[f"{arm} seed 0"]
        for column in ("val_score", "test_score", "max_lr", "weights_remaining"):
            steps, values = zip(*sorted(metrics[column]), strict=True)
            assert steps == (2, 4, 6)
            assert values == pytest.approx(of_arm(outcome.frame, arm, column), rel=1e-6)
    assert [step for step, _ in sorted(found["silo seed 0"]["train_loss"])] == [1, 2, 3, 4, 5, 6]
    assert {path.name for path in tmp_path.iterdir()} <= {"run", "there", "runs"}
