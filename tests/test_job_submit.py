"""`ray job submit` to a cluster with token authentication, as a user would: in a network of its own, so that no token
and no port of this machine is touched."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from silo_tune.results.records import load_run
from tests.conftest import small_study, small_table
from tests.test_run import assert_same_table, committed, local

pytestmark = pytest.mark.slow

DASHBOARD = "http://127.0.0.1:8265"
# Root needs no namespace of users to make the others.
ROOT = os.geteuid() == 0
UNSHARE = ["unshare", *([] if ROOT else ["--map-root-user"]), "--net", "--pid", "--mount-proc", "--fork"]
NSENTER = ["nsenter", *([] if ROOT else ["--user", "--preserve-credentials"]), "--net", "--pid", "--mount", "--wd=."]


@dataclass
class Cluster:
    """A Ray head in namespaces of its own; `home` holds its token."""

    init: int
    home: Path

    def call(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside the head, without the settings that the tests make for themselves."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        ours |= {"HOME": str(self.home), "RAY_USAGE_STATS_ENABLED": "0", **environment}
        inside = [*NSENTER, f"--target={self.init}", "--", *command]
        return subprocess.run(inside, env=ours, cwd=self.home, capture_output=True, text=True, timeout=300, check=False)

    def job(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`ray job` with the token."""
        command, *rest = arguments
        return self.call("ray", "job", command, "--address", DASHBOARD, *rest, RAY_AUTH_MODE="token")

    def status(self, job: str) -> str:
        """How a job stands, in capitals."""
        found = re.search(rf"Job '{job}' ([\w ]+)", said := told(self.job("status", job)))
        assert found is not None, said
        return found[1].removeprefix("was ").upper()


def told(done: subprocess.CompletedProcess[str]) -> str:
    """All that a command said, without colours."""
    return re.sub(r"\x1b\[\d+m", "", done.stdout + done.stderr)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head with two cores that takes nobody without its token."""
    probe = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"no namespaces of one's own are permitted here: {probe.stderr.strip()}")
    # Not below pytest's folder: the path of a socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="silo-", ignore_cleanup_errors=True) as folder:
        inside = ["sh", "-c", "ip link set lo up && echo up && exec sleep infinity"]
        # All that is started below dies with the first process of the namespace, and that one with `unshare`.
        holder = subprocess.Popen([*UNSHARE, "--kill-child", *inside], stdout=subprocess.PIPE, text=True)
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "up\n"
            init = int(Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text())
            made = Cluster(init, Path(folder))
            token = made.call("ray", "get-auth-token", "--generate")
            assert token.returncode == 0, told(token)
            head = made.call("ray", "start", "--head", "--num-cpus=2", f"--temp-dir={folder}/ray")
            assert head.returncode == 0, told(head)
            yield made
        finally:
            holder.kill()
            holder.wait()


def study(folder: Path, **changes: Any) -> str:
    file = folder / "study.toml"
    file.write_text(tomli_w.dumps(small_table(**changes)))
    return str(file)


def wait_for_units(folder: Path, units: int, cluster: Cluster, job: str, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while len(committed(folder)) < units:
        assert time.monotonic() < until, told(cluster.job("logs", job))
        time.sleep(0.1)


def test_a_submitted_study_has_the_table_of_a_run_in_this_process(cluster: Cluster, tmp_path: Path) -> None:
    run = ["silo-tune", "run", study(tmp_path), "--address", "auto", "--out", str(tmp_path / "run")]
    done = cluster.job("submit", "--submission-id", "whole", "--", *run)
    assert done.returncode == 0, told(done)
    assert cluster.status("whole") == "SUCCEEDED"
    assert "trials: 15 trained" in told(done)
    frame, _, _ = load_run(str(tmp_path / "run"))
    assert_same_table(frame, local(small_study(), tmp_path / "reference").frame)


def test_a_job_that_is_stopped_ends_cleanly_and_goes_on_when_submitted_again(cluster: Cluster, tmp_path: Path) -> None:
    longer = {"replicates": {"seeds": [0, 1]}, "retrain": {"epochs": 8}}
    folder = tmp_path / "run"
    run = ["silo-tune", "run", study(tmp_path, **longer), "--address", "auto", "--out", str(folder)]
    patience = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30"}})
    begun = cluster.job("submit", "--no-wait", "--submission-id", "first", "--runtime-env-json", patience, "--", *run)
    assert begun.returncode == 0, told(begun)
    wait_for_units(folder, 3, cluster, "first")
    stopped = cluster.job("stop", "first")
    assert stopped.returncode == 0, told(stopped)
    assert cluster.status("first") == "STOPPED"
    assert "silo-tune: stopped; nothing committed is lost" in told(cluster.job("logs", "first"))
    assert not list((folder / "lease").iterdir())

    kept = committed(folder)
    again = cluster.job("submit", "--submission-id", "second", "--", *run)
    assert again.returncode == 0, told(again)
    after = committed(folder)
    assert len(kept) < len(after)
    assert {key: after[key] for key in kept} == kept
    assert f"{len(after) - len(kept)} trained" in told(again)
    frame, _, _ = load_run(str(folder))
    assert_same_table(frame, local(small_study(**longer), tmp_path / "reference").frame)


def test_nobody_is_let_in_without_the_token(cluster: Cluster, tmp_path: Path) -> None:
    stranger = {"HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"}
    refused = cluster.call("ray", "job", "submit", "--address", DASHBOARD, "--", "true", **stranger)
    assert refused.returncode != 0
    assert "Missing authentication token" in told(refused)
    guess = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    refused = cluster.call("ray", "job", "submit", "--address", DASHBOARD, "--", "true", **guess)
    assert refused.returncode != 0
    assert "the authentication token is invalid" in told(refused)
