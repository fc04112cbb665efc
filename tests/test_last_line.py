"""However a run ends, the last line on stderr says so: what happened, that nothing is lost, and how to resume."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w

from tests.conftest import small_table
from tests.test_cli import silo_tune
from tests.test_run import committed

LOST = "silo-tune: the driver ended in the middle of the run"


def study_file(folder: Path, seeds: int, epochs: int) -> Path:
    """A study with paths that a shell must quote."""
    file = folder / "my study.toml"
    changes = {"replicates": {"seeds": list(range(seeds))}, "retrain": {"epochs": epochs}, "dense": {"epochs": epochs}}
    file.write_text(tomli_w.dumps(small_table(**changes)))
    return file


def begin(file: Path, run: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "silo_tune", "run", str(file), "--out", str(run), "--no-preflight", *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for(run: Path, units: int, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 300
    while len(committed(run)) < units:
        assert process.poll() is None
        assert time.monotonic() < until, "the run commits nothing"
        time.sleep(0.02)


def last_line(process: subprocess.Popen[str], seconds: float = 30) -> str:
    assert process.stderr is not None
    _, said = process.communicate(timeout=seconds)
    return said.splitlines()[-1] if said else ""


def test_a_driver_that_is_killed_has_a_last_line_with_the_command_that_resumes(tmp_path: Path) -> None:
    file, run = study_file(tmp_path, 20, 2), tmp_path / "run"
    process = begin(file, run, "--local")
    wait_for(run, 2, process)
    process.kill()
    line = last_line(process)
    assert line.startswith(LOST)
    assert line.endswith(
        f"nothing committed is lost. To resume: silo-tune run '{file}' --out {run} --no-preflight --local"
    )


def stopped(run: Path, file: Path, *signals: int) -> tuple[str, int]:
    """What a driver says whose whole group hears signals, as that of a terminal or a batch job does; its exit code."""
    command = [sys.executable, "-m", "silo_tune", "run", str(file), "--out", str(run), "--local"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=pipe, text=True, start_new_session=True)
    wait_for(run, 2, process)
    for number in signals:
        os.killpg(process.pid, number)
    _, said = process.communicate(timeout=30)
    return said, process.returncode


def test_a_stop_has_its_own_last_line_and_no_other(tmp_path: Path) -> None:
    said, code = stopped(tmp_path / "run", study_file(tmp_path, 20, 2), signal.SIGINT)
    assert said == "silo-tune: stopped; nothing committed is lost, the same command resumes from here\n"
    assert code == 130


@pytest.mark.slow
def test_a_stop_on_ray_has_its_own_last_line_and_no_stack(tmp_path: Path) -> None:
    process = begin(study_file(tmp_path, 20, 250), tmp_path / "run")
    wait_for(tmp_path / "run", 2, process)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert "***" not in said
    assert said.endswith("silo-tune: stopped; nothing committed is lost, the same command resumes from here\n")
    assert process.returncode == 143


@pytest.mark.slow
def test_a_driver_that_is_stopped_and_soon_killed_has_a_last_line(tmp_path: Path) -> None:
    said, code = stopped(tmp_path / "run", study_file(tmp_path, 20, 2), signal.SIGTERM, signal.SIGKILL)
    assert code == -signal.SIGKILL
    (line,) = said.splitlines()
    assert line.startswith("silo-tune: ")
    assert "nothing committed is lost" in line


@pytest.mark.parametrize(("words", "code"), [((), 0), (("--set", "arms.silo.epochs=0"), 2)])
def test_a_run_that_ends_in_order_says_no_more_than_before(words: tuple[str, ...], code: int, tmp_path: Path) -> None:
    file = study_file(tmp_path, 1, 1)
    done = silo_tune("run", str(file), "--out", str(tmp_path / "run"), "--local", *words)
    assert done.returncode == code
    assert LOST not in done.stderr
    assert done.stderr == "" or code


def rays(process: subprocess.Popen[str], name: str) -> int | None:
    """The pid of one of Ray's processes that this driver started."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            head, _, rest = stat.read_text(errors="replace").rpartition(")")
            if head.partition("(")[2] == name and int(rest.split()[1]) == process.pid:
                return int(stat.parent.name)
    return None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
@pytest.mark.parametrize("units", [-1, 0, 6])
def test_a_driver_that_loses_its_cluster_has_a_last_line(name: str, units: int, tmp_path: Path) -> None:
    """While Ray starts (-1), before the first trial is done, and in the middle."""
    file, run = study_file(tmp_path, 20, 250), tmp_path / "run"
    process = begin(file, run)
    until = time.monotonic() + 120
    while (pid := rays(process, name)) is None or (units >= 0 and not (run / "study.toml").exists()):
        assert time.monotonic() < until, "Ray does not start"
        assert process.poll() is None
        time.sleep(0.02)
    wait_for(run, units, process)
    os.kill(pid, signal.SIGKILL)
    line = last_line(process, 240)
    assert process.returncode == 1
    assert line.startswith("silo-tune: ")
    if units >= 0:
        assert line.startswith(LOST)
        assert f"To resume: silo-tune run '{file}'" in line
        assert "the driver is gone since" in silo_tune("status", str(run)).stdout
        assert len(committed(run)) >= units
    else:
        assert "Ray did not start on this machine" in line
