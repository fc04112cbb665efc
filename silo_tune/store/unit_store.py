"""Units by key on disk: results, which are commit markers, states, and which examples were right.

A unit's `result.json` is created once, whole, and the first writer wins.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from silo_tune.errors import RunFailed
from silo_tune.planner.unit import Unit
from silo_tune.store.bodies import whole
from silo_tune.store.storage import Corrupt, Storage, seal, unseal

REWIND = re.compile(r"rewind-.+-([0-9a-f]{16})\.safetensors")
RESTATED = re.compile(r"restate-(\d+)\.json")

Notice = Callable[[str], None]


def silent(message: str) -> None:
    pass


def restate_number(name: str) -> int:
    """N of restate-N.json, counted from 1; 0 for every other file."""
    found = RESTATED.fullmatch(name)
    return int(found[1]) if found else 0


def require_unit(body: Mapping[str, Any], key: str) -> None:
    """Raises Corrupt where an outcome tells of another unit, lacks something, or names a file elsewhere."""
    if body.get("key") != key:
        raise Corrupt("it is not of this trial")
    whole(body)


def new_attempt() -> str:
    """A name for one attempt at one unit; two attempts never share a file."""
    return uuid.uuid4().hex[:16]


def _nothing(state: bytes) -> None:
    """Nothing is wrong."""


class UnitStore:
    """Units by key: results (commit markers), states, partial states, examples.

    Args:
        storage: the run's storage.
        notice: told, in a sentence, of every corrupt file that was moved aside.
    """

    def __init__(self, storage: Storage, notice: Notice = silent) -> None:
        self.storage, self.notice = storage, notice

    @staticmethod
    def folder(key: str) -> str:
        """Folder of a unit. Raises ValueError for anything but a sha256, so that no key leaves the run."""
        if not re.fullmatch(r"[0-9a-f]{64}", key):
            raise ValueError(f"not a unit key: {key!r}")
        return f"units/{key[:2]}/{key}"

    def result(self, key: str) -> dict[str, Any] | None:
        """The committed result, or None. A corrupt one is moved aside, and the unit is as if never trained."""
        return self._of_unit(key, "result.json", "the trial is trained again")

    def commit(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Commit a result; returns the one that stands, which is an earlier writer's if there was one."""
        folder = self.folder(result["key"])
        whole(result)
        try:
            self.storage.create(f"{folder}/result.json", seal(result))
        except FileExistsError:
            standing = self.result(result["key"])
            if standing is None:  # it was corrupt and is out of the way now
                return self.commit(result)
            for kind in ("state", "examples"):
                if standing.get(kind) != result.get(kind) and result.get(kind) is not None:
                    self.storage.delete(f"{folder}/{result[kind]['file']}")
            return standing
        return dict(result)

    def write_state(self, key: str, attempt: str, data: bytes) -> dict[str, Any]:
        """Write the final state of an attempt; returns what the result says of it: file, sha256, bytes."""
        return self._write(key, f"state-{attempt}.safetensors", data)

    def write_examples(self, key: str, attempt: str, data: bytes) -> dict[str, Any]:
        """Write which examples an attempt got right (`example_file`); returns file, sha256 and bytes, as of a state."""
        return self._write(key, f"examples-{attempt}.bin", data)

    def _write(self, key: str, file: str, data: bytes) -> dict[str, Any]:
        self.storage.replace(f"{self.folder(key)}/{file}", data)
        return {"file": file, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

    def read_examples(self, result: Mapping[str, Any]) -> bytes | None:
        """Which examples a committed unit got right; None where its result names no such file.

        The file is never made anew: one that is damaged stays where it is.

        Raises:
            Corrupt: it is gone or not what was written; the message names it.
        """
        claim = result.get("examples")
        if claim is None:
            return None
        name = f"{self.folder(result['key'])}/{claim['file']}"
        try:
            data = self.storage.read(name)
        except FileNotFoundError:
            raise Corrupt(f"{self.storage.shown(name)} is missing") from None
        if hashlib.sha256(data).hexdigest() != claim["sha256"]:
            raise Corrupt(f"{self.storage.shown(name)} is corrupt (its checksum does not match)")
        return data

    def read_state(self, result: Mapping[str, Any], wrong: Callable[[bytes], str | None] = _nothing) -> bytes | None:
        """The state of a committed unit, restated ones included; None when it was swept or is corrupt.

        Args:
            result: of the unit.
            wrong: what is wrong with a state whose checksum is right, if anything.
        """
        folder = self.folder(result["key"])
        for claim in self._states(result):
            try:
                data = self.storage.read(f"{folder}/{claim['file']}")
            except FileNotFoundError:
                continue
            why = wrong(data) if hashlib.sha256(data).hexdigest() == claim["sha256"] else "its checksum does not match"
            if why is None:
                return data
            self._aside(f"{folder}/{claim['file']}", data, "the trial is trained again for its weights", why)
        return None

    def has_state(self, result: Mapping[str, Any]) -> bool:
        """Are the weights of a committed unit still there?"""
        folder = self.folder(result["key"])
        return any(self.storage.exists(f"{folder}/{claim['file']}") for claim in self._states(result))

    def _states(self, result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """What is said of the states of a committed unit, the latest first."""
        claims = [result["state"], *(restated["state"] for restated in self._restated(result["key"]))]
        return [claim for claim in reversed(claims) if claim is not None]

    def restate(self, result: Mapping[str, Any]) -> None:
        """Record that a unit whose weights were gone was trained again."""
        folder, number = self.folder(result["key"]), 1
        whole(result)
        while True:
            try:
                self.storage.create(f"{folder}/restate-{number}.json", seal(result))
                return
            except FileExistsError:
                number += 1

    def _restated(self, key: str) -> Iterable[dict[str, Any]]:
        for number in sorted(filter(None, map(restate_number, self.storage.names(self.folder(key))))):
            found = self._of_unit(key, f"restate-{number}.json", "it is ignored")
            if found is not None:
                yield found

    def write_partial(self, key: str, attempt: str, epoch: int, data: bytes) -> None:
        """Write a state from which training resumes after `epoch` epochs; it replaces the earlier ones."""
        digest = hashlib.sha256(data).hexdigest()[:16]
        name = f"partial-{attempt}-{epoch:06d}-{digest}.safetensors"
        earlier = self._partials(key)
        self.storage.replace(f"{self.folder(key)}/{name}", data)
        for other in earlier:
            if int(other.split("-")[2]) <= epoch:
                self.storage.delete(f"{self.folder(key)}/{other}")

    def read_partial(self, key: str) -> bytes | None:
        """The furthest partial state that is whole, or None."""
        for name in sorted(self._partials(key), key=lambda name: int(name.split("-")[2]), reverse=True):
            try:
                data = self.storage.read(f"{self.folder(key)}/{name}")
            except FileNotFoundError:
                continue
            if hashlib.sha256(data).hexdigest()[:16] == name.removesuffix(".safetensors").split("-")[3]:
                return data
            self._aside(f"{self.folder(key)}/{name}", data, "the trial starts from an earlier state")
        return None

    def discard_partial(self, key: str, data: bytes) -> None:
        """Remove a partial state that nothing here can resume from, so that it does not hide nearer ones."""
        digest = hashlib.sha256(data).hexdigest()[:16]
        for name in self._partials(key):
            if name.endswith(f"-{digest}.safetensors"):
                self.storage.delete(f"{self.folder(key)}/{name}")

    def _partials(self, key: str) -> list[str]:
        pattern = re.compile(r"partial-[0-9a-f]+-\d{6}-[0-9a-f]{16}\.safetensors")
        return [name for name in self.storage.names(self.folder(key)) if pattern.fullmatch(name)]

    def write_rewind(self, key: str, point: str, data: bytes) -> None:
        """Keep the state of a dense unit at a rewind point ("5 ep", "100 it")."""
        digest = hashlib.sha256(data).hexdigest()[:16]
        self.storage.replace(f"{self.folder(key)}/rewind-{point.replace(' ', '-')}-{digest}.safetensors", data)

    def read_rewind(self, key: str, point: str) -> bytes | None:
        """The state at a rewind point, or None when it must be replayed."""
        prefix = f"rewind-{point.replace(' ', '-')}-"
        for name in self.storage.names(self.folder(key)):
            if name.startswith(prefix) and name.endswith(".safetensors"):
                try:
                    data = self.storage.read(f"{self.folder(key)}/{name}")
                except FileNotFoundError:
                    continue
                if hashlib.sha256(data).hexdigest()[:16] == name.removesuffix(".safetensors").rsplit("-", 1)[1]:
                    return data
                self._aside(f"{self.folder(key)}/{name}", data, "the rewind point is trained again")
        return None

    def write_log(self, key: str, text: str) -> str:
        """Keep the traceback of a failed attempt; returns where."""
        name = f"{self.folder(key)}/failure-{new_attempt()}.txt"
        self.storage.replace(name, text.encode(errors="backslashreplace"))
        return self.storage.shown(name)

    def clear_partials(self, key: str, keep: Collection[str] | None = None) -> None:
        """Remove what attempts left behind beside a committed result; with `keep` also what it does not name."""
        for name in self.storage.names(self.folder(key)):
            orphan = keep is not None and name.startswith(("state-", "examples-")) and name not in keep
            if orphan or name.startswith("partial-") or name.endswith(".tmp"):
                self.storage.delete(f"{self.folder(key)}/{name}")

    def sweep(self, key: str) -> None:
        """Remove a unit's weights. Its result stays."""
        for name in self.storage.names(self.folder(key)):
            if name.startswith(("state-", "partial-")) or name.endswith(".tmp"):
                self.storage.delete(f"{self.folder(key)}/{name}")

    def _of_unit(self, key: str, file: str, then: str) -> dict[str, Any] | None:
        """A sealed outcome of a unit. One that tells of another unit, or names a file elsewhere, counts as corrupt."""
        return self._sealed(f"{self.folder(key)}/{file}", then, lambda body: require_unit(body, key))

    def _sealed(
        self, name: str, then: str, check: Callable[[Mapping[str, Any]], None] = lambda body: None
    ) -> dict[str, Any] | None:
        try:
            data = self.storage.read(name)
        except FileNotFoundError:
            return None
        try:
            body = unseal(data)
            check(body)
        except Corrupt as error:
            return None if self._aside(name, data, then, str(error)) else self._sealed(name, then, check)
        return body

    def _aside(self, name: str, data: bytes, then: str, why: str = "its checksum does not match") -> bool:
        """Move a corrupt file aside. False when another driver was faster to do so and has written a new one."""
        moved = self.storage.quarantine(name)
        try:
            found = self.storage.read(moved)
        except FileNotFoundError:  # it was gone
            return True
        if found != data:  # the new one went aside
            with contextlib.suppress(FileExistsError):
                self.storage.create(name, found)
            self.storage.delete(moved)
            return False
        self.notice(f"{self.storage.shown(name)} is corrupt ({why}); moved to {moved.rsplit('/', 1)[-1]}, {then}")
        return True


def unit_of(result: Mapping[str, Any]) -> Unit:
    """The unit that a committed result is the outcome of.

    Raises:
        RunFailed: its spec is not what its key stands for; to train it would run what whoever wrote the file wants.
    """
    try:
        unit = Unit.from_spec(result["unit"])
    except (KeyError, TypeError):  # a key is missing, or is none of ours
        unit = None
    if unit is None or unit.key != result["key"]:
        raise RunFailed(
            f"the result of trial {result['key'][:12]} tells of another trial; move its folder away and run the study "
            f"again to train it anew"
        )
    return unit
