"""`cluster.unit_timeout`: a trial that hangs is ended, and the run goes on."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import tomli_w

from silo_tune.api import run_study
from silo_tune.errors import TimedOut
from silo_tune.run.session import Outcome
from silo_tune.store.run_folder import Run
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study
from silo_tune.training import time_limit
from silo_tune.training.time_limit import next_until
from silo_tune.tune import searcher
from silo_tune.tune.runner import RayRunner
from tests.conftest import small_study, small_table
from tests.test_run import Notes, assert_same_table

TOLD = ["cycle", "arm", "max_lr", "status", "val_score", "val_loss", "test_score", "train_loss", "winner"]


def table(how: str, marker: str, limit: float | None = 3.0, failures: int = 1) -> dict[str, Any]:
    """Two arms with a network that hangs in the second epoch of a trial, once or always."""
    made = small_table(cycles=2, cluster={"max_failures": failures})
    if limit is not None:
        made["cluster"]["unit_timeout"] = limit
    arms = {name: made["arms"][name] for name in ("silo", "flat")}
    model = {"function": "tests.users:hanging", "version": "1", "how": how, "marker": marker}
    return {**made, "arms": arms, "model": model}


def local(study: Study, folder: Path, notes: Notes | None = None) -> Outcome:
    return run_study(study, str(folder), local=True, monitor=notes, preflight=False)


@pytest.mark.parametrize("how", ["sleep", "loop"])
def test_a_trial_that_hangs_once_is_tried_again_and_changes_no_number(how: str, tmp_path: Path) -> None:
    spared, marker, notes = tmp_path / "spared", tmp_path / "marker", Notes()
    spared.touch()
    expected = local(parse_study(table(how, str(spared))), tmp_path / "a").frame
    outcome = local(parse_study(table(how, str(marker))), tmp_path / "b", notes)
    assert marker.exists()
    assert outcome.frame[TOLD].equals(expected[TOLD])  # the keys differ by the marker's name alone
    (note,) = notes.notes
    assert "failed (it took longer than cluster.unit_timeout, 3 s, and was last seen after epoch 1 of 2)" in note
    assert "attempt 1 of 2" in note
    assert "forward" in Path(note.partition(", see ")[2]).read_text()  # where it hung


def test_a_trial_that_always_hangs_has_failed_with_its_limit(tmp_path: Path) -> None:
    began = time.monotonic()
    outcome = local(parse_study(table("sleep", "always", 0.5)), tmp_path / "run")
    assert time.monotonic() - began < 30
    assert set(outcome.frame.status) == {"failed"}
    assert outcome.frame.error.str.startswith(
        "it took longer than cluster.unit_timeout, 0.5 s, and was last seen"
    ).all()
    assert outcome.counts.failed == 1


def test_a_limit_that_no_trial_reaches_changes_nothing_and_may_come_and_go(tmp_path: Path) -> None:
    plain = local(small_study(cycles=2), tmp_path / "run")
    limited = local(small_study(cycles=2, cluster={"unit_timeout": 600}), tmp_path / "run")
    assert limited.counts.trained == 0
    assert_same_table(limited.frame, plain.frame)
    assert Run(str(tmp_path / "run")).study().cluster.unit_timeout == 600


def test_a_command_whose_trial_cannot_be_interrupted_ends_with_a_line(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(tomli_w.dumps(table("deaf", "always", 1.0)))
    patched = (
        "from silo_tune.training import time_limit; time_limit.GRACE_SECONDS = 1.0; "
        "from silo_tune.cli import main; main()"
    )
    words = ["run", str(file), "--out", str(tmp_path / "run"), "--local", "--no-preflight"]
    done = subprocess.run(
        [sys.executable, "-c", patched, *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "it took longer than cluster.unit_timeout, 1 s" in line
    assert "cannot be interrupted, so the command ends here. Nothing committed is lost" in line


# --- the interruption itself ---


def slow(seconds: float, values: int = 3) -> Generator[int, None, str]:
    for value in range(values):
        time.sleep(seconds)
        yield value
    return "end"


def test_what_is_in_time_is_left_alone() -> None:
    progress = slow(0.0)
    assert [next_until(time.monotonic() + 9, progress) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StopIteration) as end:
        next_until(time.monotonic() + 9, progress)
    assert end.value.value == "end"
    time.sleep(0.01)
    assert next_until(None, slow(0.0)) == 0


def test_an_interruption_that_got_lost_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "AGAIN_SECONDS", 0.05)
    lost = []

    def forgetful() -> Generator[int, None, None]:
        for _ in range(3):
            try:
                time.sleep(30)
            except BaseException as error:
                lost.append(error)
        time.sleep(30)
        yield 0

    with pytest.raises(TimedOut):
        next_until(time.monotonic() + 0.05, forgetful())
    assert len(lost) == 3


def test_off_the_main_thread_the_time_is_over_between_two_values() -> None:
    found: list[Any] = []

    def there() -> None:
        deadline, progress = time.monotonic() + 0.2, slow(0.3)
        try:
            found.append(next_until(deadline, progress))
            next_until(deadline, progress)
        except TimedOut as error:
            found.append(type(error))

    thread = threading.Thread(target=there)
    thread.start()
    thread.join(10)
    assert found == [0, TimedOut]


# --- on Ray ---


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="silo-ray-", ignore_cleanup_errors=True) as scratch:
        ray.init(address="local", num_cpus=2, include_dashboard=False, _temp_dir=scratch, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(("how", "told"), [("sleep", "attempt 1 of 2"), ("locked", "its process did not hear of it")])
def test_on_ray_a_trial_that_hangs_is_ended_whatever_it_does(
    how: str, told: str, cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searcher, "GRACE_SECONDS", 3.0)
    spared, marker, notes = tmp_path / "spared", tmp_path / "marker", Notes()
    spared.touch()
    expected = local(parse_study(table(how, str(spared))), tmp_path / "a").frame
    study = parse_study(table(how, str(marker), 4.0))
    outcome = run_study(study, str(tmp_path / "b"), runner=RayRunner(patience=0), monitor=notes, preflight=False)
    assert marker.exists()
    assert outcome.frame[TOLD].equals(expected[TOLD])
    (note,) = notes.notes
    assert "it took longer than cluster.unit_timeout, 4 s, and was last seen" in note
    assert told in note


@pytest.mark.slow
def test_on_ray_a_trial_whose_process_always_hangs_has_failed(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searcher, "GRACE_SECONDS", 2.0)
    study = parse_study(table("locked", "always", 2.0, failures=0))
    outcome = run_study(study, str(tmp_path / "run"), runner=RayRunner(patience=0), preflight=False)
    assert set(outcome.frame.status) == {"failed"}
    assert outcome.frame.error.str.startswith("it took longer than cluster.unit_timeout, 2 s").all()
