from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from silo_tune.errors import BadInput, RunFailed
from silo_tune.store import lease as module
from silo_tune.store.lease import Lease
from silo_tune.store.storage import Storage, seal


@pytest.fixture
def place(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


def held_elsewhere(place: Storage, name: str = "0001.json", age: float = 0.0) -> None:
    body = {"host": "another-machine", "pid": 4242, "started": "1", "attempt": "x"}
    place.replace(f"lease/{name}", seal(body))
    moment = time.time() - age
    os.utime(place.path(f"lease/{name}"), (moment, moment))


def test_a_second_driver_is_refused_while_the_first_lives(place: Storage) -> None:
    with Lease(place):
        with pytest.raises(RunFailed, match=rf"is being run by process {os.getpid()} on {socket.gethostname()}"):
            Lease(place).__enter__()
        assert place.names("lease") == ["0001.json"]


def test_the_run_is_free_again_when_the_driver_ends(place: Storage) -> None:
    for _ in range(2):
        with Lease(place) as lease:
            lease.require()
        assert place.names("lease") == []


def test_the_run_is_free_again_when_the_driver_fails(place: Storage) -> None:
    with pytest.raises(KeyError), Lease(place):
        raise KeyError
    with Lease(place):
        pass


def test_a_driver_of_this_host_that_died_is_taken_over_at_once(place: Storage) -> None:
    dies = (
        "import os, sys; from silo_tune.store.lease import Lease; from silo_tune.store.storage import Storage; "
        "Lease(Storage(sys.argv[1])).__enter__(); os._exit(9)"
    )
    ended = subprocess.run([sys.executable, "-c", dies, place.url], check=False)
    assert ended.returncode == 9
    assert place.names("lease") == ["0001.json"]
    assert place.age("lease/0001.json") < module.LEASE_EXPIRES_SECONDS
    with Lease(place):
        assert place.names("lease") == ["0002.json"]


def test_a_living_process_of_this_host_keeps_its_lease(place: Storage) -> None:
    holds = (
        "import sys; from silo_tune.store.lease import Lease; from silo_tune.store.storage import Storage\n"
        "with Lease(Storage(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", holds, place.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(RunFailed, match=f"process {other.pid} on"):
        Lease(place).__enter__()
    other.communicate("")
    with Lease(place):
        assert place.names("lease") == ["0001.json"]


def test_a_reused_pid_is_not_the_driver_that_died(place: Storage) -> None:
    body = {"host": socket.gethostname(), "pid": os.getpid(), "started": "long ago", "attempt": "x"}
    place.create("lease/0001.json", seal(body))
    with Lease(place):
        assert place.names("lease") == ["0002.json"]


def test_a_lease_of_another_host_is_taken_over_only_when_its_heartbeat_stopped(place: Storage) -> None:
    held_elsewhere(place, age=module.LEASE_EXPIRES_SECONDS - 20)
    with pytest.raises(RunFailed, match="process 4242 on another-machine"):
        Lease(place).__enter__()
    held_elsewhere(place, age=module.LEASE_EXPIRES_SECONDS + 5)
    with Lease(place):
        assert place.names("lease") == ["0002.json"]
    assert place.names("lease") == []


def test_a_lease_from_the_future_counts_while_it_is_renewed_alone(
    place: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the host that wrote it is an hour ahead."""
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.05)
    held_elsewhere(place, age=-3600)
    beating = threading.Event()

    def beat() -> None:
        while not beating.wait(0.02):
            held_elsewhere(place, age=-3600)

    driver = threading.Thread(target=beat)
    driver.start()
    with pytest.raises(RunFailed, match=r"another-machine \(its clock is ahead of the storage's\)"):
        Lease(place).__enter__()
    beating.set()
    driver.join()
    with Lease(place):
        assert place.names("lease") == ["0002.json"]


def test_only_the_latest_lease_counts_whatever_its_number_of_digits(place: Storage) -> None:
    held_elsewhere(place, "9999.json", age=1000)
    held_elsewhere(place, "10000.json")
    with pytest.raises(RunFailed):
        Lease(place).__enter__()
    held_elsewhere(place, "10000.json", age=1000)
    with Lease(place):
        assert "10001.json" in place.names("lease")


def test_a_corrupt_lease_does_not_block_the_run(place: Storage) -> None:
    place.create("lease/0001.json", b"{ half")
    with Lease(place):
        assert place.names("lease") == ["0002.json"]


def test_the_heartbeat_keeps_a_lease_young(place: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.02)
    with Lease(place):
        os.utime(place.path("lease/0001.json"), (0, 0))
        until = time.monotonic() + 5
        while place.age("lease/0001.json") > 5 and time.monotonic() < until:
            time.sleep(0.01)
        assert place.age("lease/0001.json") < 5


def test_a_driver_that_slept_while_others_came_and_went_does_not_take_their_number(
    place: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.02)
    with Lease(place) as sleeper:
        until = time.monotonic() + 5
        while not sleeper.lost.wait(0.1) and time.monotonic() < until:  # a beat may just be under way
            held_elsewhere(place)  # the same number, of another driver
        assert sleeper.lost.is_set()
    assert b"another-machine" in place.read("lease/0001.json")


def test_a_driver_learns_that_another_took_over(place: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.02)
    with Lease(place) as first:
        assert not first.lost.is_set()
        held_elsewhere(place, "0002.json")
        assert first.lost.wait(5)
        with pytest.raises(RunFailed, match="another driver took over"):
            first.require()
    assert "0002.json" in place.names("lease")  # its lease is not ours to release


def test_a_folder_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match=r"cannot write to the run folder .*choose another --out"):
        Lease(Storage(str(tmp_path / "file"))).__enter__()


def test_a_file_in_the_way_of_the_lease_is_named_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "lease").write_text("in the way")
    with pytest.raises(BadInput, match="a file is in the way"), Lease(Storage(str(tmp_path))):
        pass
