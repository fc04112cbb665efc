"""The lease of a run: it saves the work that two drivers of one run would do twice; correctness never rests on it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import threading
import uuid
from dataclasses import dataclass

from silo_tune.errors import BadInput, RunFailed
from silo_tune.store.bodies import Held, shaped
from silo_tune.store.storage import Corrupt, Storage, StorageError, seal, unseal

HEARTBEAT_SECONDS = 10.0
LEASE_EXPIRES_SECONDS = 60.0
WATCHED_BEATS = 3
LEASE = re.compile(r"\d{4,}\.json")
# Storage that fails with one of these was writable, and will be again.
PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)

# Names of the drivers of this process that hold a run now.
_active: set[str] = set()


def _process_start(pid: int) -> str | None:
    """When a process of this machine started, as the kernel counts; None when it is gone. Tells a reused pid apart."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            state, *fields = file.read().rsplit(")", 1)[1].split()
            return None if state == "Z" else fields[18]  # a zombie is dead, and waits for a parent that may never look
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


@dataclass(frozen=True)
class Holder:
    """The driver that a lease names.

    Attributes:
        number: of the lease; a driver that takes over has a higher one.
        host, pid: its process.
        attempt: its own name.
        age: seconds since its last heartbeat.
        alive: False when that was too long ago, or when its process on this host is gone.
    """

    number: int
    host: str
    pid: int
    attempt: str
    age: float
    alive: bool


def holder(storage: Storage) -> Holder | None:
    """Who holds the run, or did until it died; None when nobody does, or the lease cannot be read."""
    number = _latest(storage)
    return _holder(storage, f"lease/{number:04d}.json") if number else None


def unreadable(storage: Storage) -> str | None:
    """The name of the lease that stands, where it cannot be read."""
    number = _latest(storage)
    return f"lease/{number:04d}.json" if number and holder(storage) is None else None


def _latest(storage: Storage) -> int:
    found = [name for name in storage.names("lease") if LEASE.fullmatch(name)]
    return max((int(name.split(".")[0]) for name in found), default=0)


def _number(name: str) -> int:
    return int(name.removeprefix("lease/").split(".")[0])


def _holder(storage: Storage, name: str, at: str | None = None) -> Holder | None:
    """The driver of one lease; `at` is as in `Storage.age`."""
    try:
        age = storage.age(name, at)
        body = unseal(storage.read(name))
        shaped(Held, body)
        host, pid, attempt, started = body["host"], body["pid"], body["attempt"], body["started"]
    except (FileNotFoundError, Corrupt):
        return None
    here = host == socket.gethostname()
    gone = here and (_process_start(pid) != started or (pid == os.getpid() and attempt not in _active))
    return Holder(_number(name), host, pid, attempt, age, not gone and age <= LEASE_EXPIRES_SECONDS)


class Lease:
    """One driver at a time: RUN/lease/000N.json, created exclusively, kept alive by its modification time.

    A lease whose heartbeat stopped for `LEASE_EXPIRES_SECONDS`, or whose process on this host is gone, is taken over by
    creating the next number. `lost` is set when another driver took over; `attempt` is this driver's own name, `number`
    that of the lease it holds.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.lost = threading.Event()
        self._stop = threading.Event()
        self._name = ""
        self.attempt = uuid.uuid4().hex
        self._data = seal(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started": _process_start(os.getpid()),
                "attempt": self.attempt,
            }
        )

    def __enter__(self) -> Lease:
        while not self._take():
            pass
        _active.add(self.attempt)
        self._thread = threading.Thread(target=self._beat, daemon=True, name="lease")
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._stop.set()
        _active.discard(self.attempt)
        if isinstance(error, StorageError):  # to release the lease would only wait and fail once more: it expires
            return
        self._thread.join()
        if not self.lost.is_set():
            with contextlib.suppress(StorageError):
                self.storage.delete(self._name)

    @property
    def number(self) -> int:
        return _number(self._name)

    def require(self) -> None:
        """Raises RunFailed when another driver took the run over."""
        if self.lost.is_set():
            raise RunFailed(f"another driver took over {self.storage.url}; this one stops, and nothing is lost")

    def _take(self) -> bool:
        """Create the next lease; False when another driver was faster."""
        number = _latest(self.storage)
        try:
            if number:
                self._refuse_if_alive(f"lease/{number:04d}.json")
            self._name = f"lease/{number + 1:04d}.json"
            self.storage.create(self._name, self._data)
            self._refuse_twice()
        except FileExistsError:
            return False
        except StorageError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in PASSING:
                raise  # the run may well be there: it is the storage that must be fixed
            raise BadInput(
                f"cannot write to the run folder {self.storage.url!r} ({error.__cause__}); choose another --out"
            ) from None
        self._remove_earlier(number)
        return True

    def _remove_earlier(self, number: int) -> None:
        """The leases of drivers that were killed."""
        for name in self.storage.names("lease"):
            if LEASE.fullmatch(name) and _number(name) <= number:
                self.storage.delete(f"lease/{name}")

    def _refuse_twice(self) -> None:
        """Raises BadInput on storage that creates one name twice, as S3-like servers without conditional puts do."""
        try:
            self.storage.create(self._name, b"")
        except FileExistsError:
            return
        self.storage.delete(self._name)
        raise BadInput(
            f"the storage of {self.storage.url!r} created one file twice, so that two drivers of one run could spoil "
            f"it for each other: the server or its client package ignores conditional puts; update them, or choose "
            f"another --out"
        )

    def _refuse_if_alive(self, name: str) -> None:
        # By the storage's own clock: on another machine's, a dead driver may look alive, and a living one dead.
        clock = f"lease/clock-{self.attempt}"
        self.storage.replace(clock, b"")
        try:
            other = _holder(self.storage, name, clock)
        finally:
            self.storage.delete(clock)
        if other is None or not other.alive:
            return
        ahead = other.age < -HEARTBEAT_SECONDS
        if ahead and not self._beats(name):
            return
        seen = "its clock is ahead of the storage's" if ahead else f"seen {max(0.0, other.age):.0f} s ago"
        raise RunFailed(
            f"{self.storage.url} is being run by process {other.pid} on {other.host} ({seen}); wait for it, or stop "
            f"it: a driver that died is taken over after {LEASE_EXPIRES_SECONDS:.0f} s"
        )

    def _beats(self, name: str) -> bool:
        """Is a lease renewed while it is watched? The time that it says tells nothing where clocks differ."""
        first = self.storage.modified(name)
        for _ in range(WATCHED_BEATS):
            self._stop.wait(HEARTBEAT_SECONDS)
            with contextlib.suppress(FileNotFoundError):
                if self.storage.modified(name) != first:
                    return True
        return False

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                if _latest(self.storage) > self.number or not self._is_mine():
                    self.lost.set()
                    return
                self.storage.replace(self._name, self._data)
            except StorageError:
                continue  # slow or absent storage: the next beat tries again, and a lost lease costs only work

    def _is_mine(self) -> bool:
        """After a long sleep another driver may have come and gone, and a third have taken the number anew."""
        try:
            return bool(unseal(self.storage.read(self._name))["attempt"] == self.attempt)
        except FileNotFoundError:
            return False
        except (Corrupt, KeyError):
            return True
