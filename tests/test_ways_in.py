"""The ways in: a cluster of one's own stays on loopback, and one of others is reached by address or as a client."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import tomli_w

from silo_tune.errors import RunFailed
from silo_tune.results.records import load_run
from silo_tune.run.monitor import Monitor
from silo_tune.tune.cluster import CLIENT_TRIES, connected
from tests.conftest import small_study, small_table
from tests.test_run import assert_same_table, committed, local, wait_for

LISTEN = "0A"
# In Ray's own processes: the first server for a client dies as it starts, as Ray's do now and then.
FIRST_SERVER_DIES = """
import os, sys
if "--mode=specific-server" in sys.orig_argv:
    try:
        os.close(os.open(os.path.join(os.path.dirname(__file__), "died"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        pass
    else:
        os._exit(1)
"""
PROBE = """
import sys
from silo_tune.tune.cluster import scratch_folder, started_here
import ray
with scratch_folder() as scratch, started_here(1, False, scratch):
    ray.get(ray.remote(lambda: 1).remote())
    print("up", flush=True)
    sys.stdin.readline()
"""


def descendants(pid: int) -> set[int]:
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError):
            continue
    found = {pid}
    while grown := {child for child, parent in parents.items() if parent in found and child not in found}:
        found |= grown
    return found


def listening(pids: set[int]) -> set[str]:
    """Addresses, as the kernel writes them, on which these processes listen."""
    sockets = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(os.readlink(fd))
            except OSError:
                continue
    lines = [line.split() for file in ("tcp", "tcp6") for line in Path(f"/proc/net/{file}").read_text().splitlines()]
    return {
        line[1].rsplit(":", 1)[0]
        for line in lines
        if line[0] != "sl" and line[3] == LISTEN and f"socket:[{line[9]}]" in sockets
    }


@pytest.mark.slow
def test_a_cluster_of_ones_own_listens_on_loopback_only() -> None:
    with subprocess.Popen([sys.executable, "-c", PROBE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"up\n"
        found = listening(descendants(driver.pid))
        driver.stdin.close()
    loopback, mapped = "0100007F", "0000000000000000FFFF00000100007F"  # 127.0.0.1 and ::ffff:127.0.0.1
    assert found
    assert found <= {loopback, mapped}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Impatient(Monitor):
    """Hears what is said, and asks to stop after so many words."""

    def __init__(self, words: int) -> None:
        self.words, self.said = words, list[str]()

    def notice(self, message: str) -> None:
        self.said.append(message)
        self.stop_requested = len(self.said) >= self.words


@pytest.mark.parametrize(
    ("words", "tries", "why"),
    [
        (99, CLIENT_TRIES, f"did not start a server for this client, {CLIENT_TRIES} times .no server."),
        (1, 1, "stopped"),
    ],
)
def test_a_client_whose_servers_all_die_says_so_and_may_be_stopped(
    monkeypatch: pytest.MonkeyPatch, words: int, tries: int, why: str
) -> None:
    asked = []

    def dies(**how: object) -> None:
        asked.append(how)
        raise ConnectionAbortedError("Initialization failure from server:\nno server")

    monkeypatch.setattr(ray, "init", dies)  # a head that loses every server takes four minutes to say so
    monitor = Impatient(words)
    with socket.create_server(("127.0.0.1", 0)) as answers:
        address = f"ray://127.0.0.1:{answers.getsockname()[1]}"
        with pytest.raises(RunFailed, match=why), connected(address, monitor):
            pytest.fail("there is no cluster")
    assert len(asked) == tries
    assert len(monitor.said) == min(tries, CLIENT_TRIES - 1)


@pytest.fixture
def head() -> Iterator[tuple[int, int]]:
    """A cluster that `ray start` made: its port, and the one for clients."""
    port, client = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="silo-ray-", ignore_cleanup_errors=True) as scratch:
        command = [
            str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=2",
            f"--ray-client-server-port={client}", "--include-dashboard=false", f"--temp-dir={scratch}",
        ]  # fmt: skip
        (Path(scratch) / "sitecustomize.py").write_text(FIRST_SERVER_DIES)
        environment = {
            **os.environ,
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # without this a head takes half a minute to end
            "PYTHONPATH": os.pathsep.join(filter(None, [scratch, os.environ.get("PYTHONPATH")])),
        }
        with open(os.devnull, "wb") as nowhere:
            process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=nowhere, stderr=nowhere)
        try:
            until = time.monotonic() + 60
            while time.monotonic() < until:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", client)) == 0:
                        break
                time.sleep(0.2)
            yield port, client
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


@pytest.mark.slow
def test_a_client_outside_of_the_cluster_gets_the_same_table_and_may_stop_and_go_on(
    head: tuple[int, int], tmp_path: Path
) -> None:
    _, client = head
    file, out = tmp_path / "small.toml", tmp_path / "run"
    file.write_text(tomli_w.dumps(small_table(replicates={"seeds": [0, 1]})))
    command = [
        sys.executable, "-m", "silo_tune", "run", str(file), "--out", str(out),
        "--address", f"ray://127.0.0.1:{client}",
    ]  # fmt: skip
    with open(tmp_path / "first.txt", "w") as told:
        first = subprocess.Popen(command, stdout=told, stderr=subprocess.PIPE, text=True)
    wait_for(out, 4, first, 240)
    first.terminate()
    _, said = first.communicate(timeout=60)
    assert first.returncode == 143, said
    assert "lost the server that it started for this client" in (tmp_path / "first.txt").read_text()
    kept = committed(out)
    assert not list((out / "lease").iterdir()), "the driver gave the run back"
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert {key: at for key, at in committed(out).items() if key in kept} == kept
    expected = local(small_study(replicates={"seeds": [0, 1]}), tmp_path / "expected")
    assert_same_table(load_run(str(out))[0], expected.frame)
    assert "report:" in done.stdout


@pytest.mark.slow
def test_a_cluster_is_reached_by_its_address(head: tuple[int, int], tmp_path: Path) -> None:
    port, _ = head
    file, out = tmp_path / "small.toml", tmp_path / "run"
    file.write_text(tomli_w.dumps(small_table()))
    command = [sys.executable, "-m", "silo_tune", "run", str(file), "--out", str(out)]
    done = subprocess.run(
        [*command, "--address", f"127.0.0.1:{port}"], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert_same_table(load_run(str(out))[0], local(small_study(), tmp_path / "expected").frame)
