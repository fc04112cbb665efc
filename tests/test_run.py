"""A whole run in this process: the same table however often and however interrupted it is run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tomli_w
from pandas.testing import assert_frame_equal

from silo_tune.api import run_study
from silo_tune.errors import BadInput, RunFailed
from silo_tune.results.columns import UNSTABLE
from silo_tune.run.monitor import Monitor
from silo_tune.run.session import Outcome
from silo_tune.store.run_folder import Run
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study
from tests.conftest import small_study, small_table


def local(study: Study, folder: Path, monitor: Monitor | None = None) -> Outcome:
    return run_study(study, str(folder), local=True, monitor=monitor)


def assert_same_table(one: pd.DataFrame, other: pd.DataFrame) -> None:
    assert_frame_equal(one.drop(columns=list(UNSTABLE)), other.drop(columns=list(UNSTABLE)))


class Notes(Monitor):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def notice(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return local(small_study(), tmp_path_factory.mktemp("reference") / "run")


def test_a_run_has_every_row(reference: Outcome) -> None:
    frame = reference.frame
    # The Oracles: the shared dense unit, then 3 rates and the tested ones, of which cycle 1 has one and cycle 2 two.
    assert frame.groupby("arm").size().to_dict() == {"silo": 3, "flat": 3, "greedy": 10, "conditioned": 10}
    assert frame.key.nunique() == reference.counts.trained
    assert (frame.status == "ok").all()
    # At cycle 1 silo still has its ε, which is flat's rate: one candidate for both.
    first = frame[(frame.arm == "greedy") & (frame.cycle == 1)]
    assert first.tests.dropna().tolist() == ["silo,flat"]


def test_two_runs_of_one_study_have_the_same_table(reference: Outcome, tmp_path: Path) -> None:
    assert_same_table(reference.frame, local(small_study(), tmp_path / "again").frame)


def test_the_table_on_disk_is_the_table(reference: Outcome) -> None:
    assert_frame_equal(pd.read_parquet(Path(reference.url) / "table.parquet"), reference.frame, check_dtype=False)


def test_a_finished_study_trains_nothing(reference: Outcome) -> None:
    again = local(small_study(), Path(reference.url))
    assert again.counts.trained == again.counts.failed == 0
    assert_frame_equal(again.frame, reference.frame)


def test_only_final_weights_are_left(reference: Outcome) -> None:
    states = list(Path(reference.url).glob("units/*/*/state-*"))
    last = reference.frame[(reference.frame.cycle == 2) & reference.frame.winner]
    final = set(last.key)
    assert {path.parent.name for path in states} == final
    assert not list(Path(reference.url).glob("units/*/*/partial-*"))


def test_more_seeds_arms_and_cycles_are_added(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = local(small_study(), folder)
    linear = {"mode": "schedule", "schedule": {"name": "linear", "start": 0.05, "end": 0.15, "over": 3}}
    grown = small_study(cycles=4, replicates={"seeds": [0, 1]}, arms={"linear": linear})
    notes = Notes()
    second = local(grown, folder, notes)
    assert any("accepted changes" in note and "cycles" in note for note in notes.notes)
    old = second.frame[second.frame.key.isin(first.frame.key)]
    assert set(first.frame.key) <= set(old.key)
    assert second.counts.trained == second.frame.key.nunique() - first.counts.trained
    # The Oracles' closed cycles stay as they were decided; the new arm is tested from the first open one.
    tested = second.frame[second.frame.tests.str.contains("linear", na=False)]
    assert set(tested.cycle) == {3}


def test_a_smaller_study_resumes_the_run_that_has_more(reference: Outcome) -> None:
    smaller = small_table()
    del smaller["arms"]["flat"]
    notes = Notes()
    again = local(parse_study(smaller), Path(reference.url), notes)
    assert again.counts.trained == 0
    assert [note for note in notes.notes if "arm flat, which this study leaves out" in note]
    assert_frame_equal(again.frame, reference.frame)


def test_a_change_that_is_refused_leaves_no_trace(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    local(small_study(cycles=2), folder)
    schedule = {"function": "tests.users:schedule", "version": "1", "low": -1.0}
    with pytest.raises(BadInput, match="is not a rate above 0"):
        local(small_study(cycles=2, arms={"mine": {"mode": "schedule", "schedule": schedule}}), folder)
    with pytest.raises(BadInput, match="fewer than the 3 layers"):
        local(small_study(cycles=80), folder)
    mended = {"mine": {"mode": "schedule", "schedule": {**schedule, "low": 0.1}}}
    assert local(small_study(cycles=2, arms=mended), folder).counts.failed == 0


@pytest.mark.parametrize(
    ("function", "said"), [("textual", "'0.1' at cycle 1 is not a rate above 0"), ("moody", "when it was asked again")]
)
def test_a_schedule_of_ones_own_gives_the_same_number_again(function: str, said: str, tmp_path: Path) -> None:
    schedule = {"function": f"tests.users:{function}", "version": "1"}
    with pytest.raises(BadInput, match=said):
        local(small_study(arms={"mine": {"mode": "schedule", "schedule": schedule}}), tmp_path / "run")


def test_a_decided_value_cannot_change(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    local(small_study(cycles=2), folder)
    with pytest.raises(BadInput, match=r"retrain\.batch: was 32, now 16"):
        local(small_study(cycles=2, retrain={"batch": 16}), folder)
    with pytest.raises(BadInput, match=r"cluster\.cpus_per_unit"):
        local(small_study(cycles=2, cluster={"cpus_per_unit": 2}), folder)


def test_changed_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"name": None, "function": "tests.users:data", "version": "1", "args": {"count": 90}}
    data |= {"train_examples": None, "val_examples": None, "test_examples": None}
    table = small_table(cycles=2, report={"tolerance": 0.2})
    table["data"] = {key: value for key, value in data.items() if value is not None}
    local(parse_study(table), tmp_path / "run")
    import tests.users

    real = tests.users.data
    monkeypatch.setattr(tests.users, "data", lambda count: real(count + 3))
    with pytest.raises(BadInput, match="data changed under"):
        local(parse_study({**table, "cycles": 3}), tmp_path / "run")


def test_a_tolerance_finer_than_the_validation_set_is_refused_and_may_be_mended(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"report\.tolerance: 0\.01 is finer than 100 validation images"):
        local(small_study(report={"tolerance": 0.01}), tmp_path / "run")
    assert local(small_study(report={"tolerance": 0.02}, cycles=1), tmp_path / "run").counts.trained == 1


def test_diverging_candidates_end_a_chain_and_not_the_study(tmp_path: Path) -> None:
    wild = {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 1e8}}
    table = small_table(arms={"wild": wild})
    del table["arms"]["greedy"], table["arms"]["conditioned"]
    outcome = local(parse_study(table), tmp_path / "run")
    assert list(outcome.ended) == [("wild", 0)]
    frame = outcome.frame
    assert frame[frame.arm == "wild"].status.tolist() == ["ok", "diverged"]
    assert len(frame[frame.arm == "silo"]) == 3
    assert local(parse_study(table), tmp_path / "run").counts.trained == 0


@pytest.mark.parametrize("victim", ["result", "decision", "state"])
def test_a_damaged_file_costs_one_unit_at_most(tmp_path: Path, victim: str) -> None:
    folder = tmp_path / "run"
    before = local(small_study(), folder)
    pattern = {"result": "units/*/*/result.json", "decision": "chains/greedy/*/*.json", "state": "units/*/*/state-*"}
    file = sorted(folder.glob(pattern[victim]))[0]
    file.write_bytes(file.read_bytes()[:-40])
    notes = Notes()
    after = local(small_study(), folder, notes)
    assert_same_table(before.frame, after.frame)
    assert after.counts.trained == (1 if victim == "result" else 0)
    if victim != "state":  # a final state is read only by more cycles
        assert any(str(file) in note for note in notes.notes)
        assert list(folder.rglob("*.corrupt-1"))
    longer = local(small_study(cycles=4), folder, notes)
    assert longer.counts.failed == 0


def test_a_second_driver_is_refused(tmp_path: Path) -> None:
    with Run(str(tmp_path / "run")).lease(), pytest.raises(RunFailed, match="is being run by process"):
        local(small_study(), tmp_path / "run")


def driver(file: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "silo_tune", "run", str(file), "--local", "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def committed(folder: Path) -> dict[str, float]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("units/*/*/result.json")}


def wait_for(folder: Path, units: int, process: subprocess.Popen[Any], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while len(committed(folder)) < units:
        assert process.poll() is None, f"the driver ended before it was stopped: {process.communicate()[1]!r}"
        assert time.monotonic() < until, "the driver commits nothing"
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_stopped_driver_goes_on_where_it_was(reference: Outcome, tmp_path: Path, number: int, code: int) -> None:
    file, folder = tmp_path / "small.toml", tmp_path / "run"
    file.write_text(tomli_w.dumps(small_table()))
    process = driver(file, folder)
    wait_for(folder, 4, process)
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code
    if number != signal.SIGKILL:
        assert said.decode().splitlines()[-1].startswith("silo-tune: stopped; nothing committed is lost")
    kept = committed(folder)
    outcome = local(small_study(), folder)
    assert_same_table(outcome.frame, reference.frame)
    after = committed(folder)
    assert {key: after[key] for key in kept} == kept  # no committed unit was trained again
    assert outcome.counts.trained == len(after) - len(kept)
