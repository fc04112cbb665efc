"""The lease of a run: it saves the work that two drivers of one run would do twice; correctness never rests on it."""

from __future__ import annotations

import os
import re
import socket
import threading
import uuid

from silo_tune.errors import BadInput, RunFailed
from silo_tune.storage import Corrupt, Storage, StorageError, seal, unseal

HEARTBEAT_SECONDS = 10.0
LEASE_EXPIRES_SECONDS = 60.0


def _process_start(pid: int) -> str | None:
    """When a process of this machine started, as the kernel counts; None when it is gone. Tells a reused pid apart."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[19]
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "unknown"


def is_running(pid: int) -> bool:
    """Is there such a process on this machine?"""
    return _process_start(pid) is not None


class Lease:
    """One driver at a time: RUN/lease/000N.json, created exclusively, kept alive by its modification time.

    A lease whose heartbeat stopped for `LEASE_EXPIRES_SECONDS`, or whose process on this host is gone, is taken over by
    creating the next number. `lost` is set when another driver took over.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.lost = threading.Event()
        self._stop = threading.Event()
        self._name = ""
        self._data = seal(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started": _process_start(os.getpid()),
                "attempt": uuid.uuid4().hex,
            }
        )

    def __enter__(self) -> Lease:
        while True:
            number = self._latest()
            if number:
                self._refuse_if_alive(f"lease/{number:04d}.json")
            self._name = f"lease/{number + 1:04d}.json"
            try:
                self.storage.create(self._name, self._data)
                break
            except FileExistsError:
                continue
            except StorageError as error:
                raise BadInput(
                    f"cannot write to the run folder {self.storage.url!r} ({error.__cause__}); choose another --out"
                ) from None
        self._thread = threading.Thread(target=self._beat, daemon=True, name="lease")
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        if not self.lost.is_set():
            self.storage.delete(self._name)

    def require(self) -> None:
        """Raises RunFailed when another driver took the run over."""
        if self.lost.is_set():
            raise RunFailed(f"another driver took over {self.storage.url}; this one stops, and nothing is lost")

    def _latest(self) -> int:
        found = [name for name in self.storage.names("lease") if re.fullmatch(r"\d{4,}\.json", name)]
        return max((int(name.split(".")[0]) for name in found), default=0)

    def _refuse_if_alive(self, name: str) -> None:
        try:
            age = self.storage.age(name)
            holder = unseal(self.storage.read(name))
        except (FileNotFoundError, Corrupt):
            return
        here = holder["host"] == socket.gethostname()
        gone = here and _process_start(int(holder["pid"])) != holder["started"]
        if gone or age > LEASE_EXPIRES_SECONDS:
            return
        raise RunFailed(
            f"{self.storage.url} is being run by process {holder['pid']} on {holder['host']} (seen {age:.0f} s ago); "
            f"wait for it, or stop it: a driver that died is taken over after {LEASE_EXPIRES_SECONDS:.0f} s"
        )

    def _beat(self) -> None:
        mine = int(self._name.removeprefix("lease/").split(".")[0])
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                if self._latest() > mine:
                    self.lost.set()
                    return
                self.storage.replace(self._name, self._data)
            except StorageError:
                continue  # slow or absent storage: the next beat tries again, and a lost lease costs only work
