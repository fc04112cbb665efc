from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
from pathlib import Path
from typing import Any

import pytest

from silo_tune.errors import BadInput
from silo_tune.store import storage as module
from silo_tune.store.storage import Corrupt, Storage, StorageError, seal, unseal

BODY = {"key": "ab" * 32, "val_score": 0.1 + 0.2, "error": None, "name": "ε + δ", "list": [1, 2.5, {"deep": True}]}


@pytest.fixture
def place(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


# --- exclusive creation ---

WRITERS, NAMES, BYTES = 4, 40, 60_000


def content(writer: int, name: int) -> bytes:
    return f"{writer}/{name};".encode() * (BYTES // 8)


def race(root: str, writer: int, gate: Any, won: Any) -> None:
    place = Storage(root)
    mine = []
    gate.wait()
    for name in range(NAMES):
        try:
            place.create(f"units/{name}.json", content(writer, name))
            mine.append(name)
        except FileExistsError:
            whole = [content(other, name) for other in range(WRITERS)]
            assert place.read(f"units/{name}.json") in whole, "a partial file under its final name"
    won.put((writer, mine))


def test_of_several_processes_exactly_one_creates_each_name_and_no_one_sees_a_part_of_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")  # a fork of this process, which has threads, may hang
    gate, won = context.Barrier(WRITERS), context.Queue()
    workers = [context.Process(target=race, args=(str(tmp_path), w, gate, won)) for w in range(WRITERS)]
    for worker in workers:
        worker.start()
    found = dict(won.get(timeout=30) for _ in workers)
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * WRITERS
    assert sorted(name for mine in found.values() for name in mine) == list(range(NAMES))
    place = Storage(str(tmp_path))
    for writer, mine in found.items():
        assert all(place.read(f"units/{name}.json") == content(writer, name) for name in mine)
    assert len(place.names("units")) == NAMES  # and nothing temporary is left


def test_a_second_create_is_refused_and_changes_nothing(place: Storage) -> None:
    place.create("a/b.json", b"first")
    with pytest.raises(FileExistsError):
        place.create("a/b.json", b"second")
    assert place.read("a/b.json") == b"first"
    assert place.names("a") == ["b.json"]


# --- seals ---


def test_a_sealed_table_comes_back_as_it_was() -> None:
    assert unseal(seal(BODY)) == BODY
    assert unseal(seal({})) == {}


def test_any_flipped_bit_is_noticed() -> None:
    data = seal(BODY)
    noticed = 0
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            try:
                # Only another spelling of the same value may pass: \u03B5 for \u03b5.
                assert unseal(bytes(flipped)) == BODY
            except Corrupt:
                noticed += 1
    assert noticed > 0.99 * 8 * len(data)


def test_a_cut_or_lengthened_or_emptied_file_is_corrupt() -> None:
    data = seal(BODY)
    for cut in range(len(data)):
        with pytest.raises(Corrupt):
            unseal(data[:cut])
    for other in (data + b"x", data + data, b"[1, 2]", b'"text"', b"null", b"{}", b'{"a": 1}', bytes(len(data))):
        with pytest.raises(Corrupt):
            unseal(other)


def test_a_changed_value_is_corrupt() -> None:
    table = json.loads(seal(BODY))
    for key in table:
        with pytest.raises(Corrupt):
            unseal(json.dumps({**table, key: "other"}).encode())


def test_nan_is_never_sealed() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        seal({"val_loss": float("nan")})


def test_a_sealed_table_keeps_every_float_exactly() -> None:
    rng = random.Random(0)
    values = [rng.uniform(-1, 1) * 10 ** rng.randint(-300, 300) for _ in range(500)]
    assert unseal(seal({"values": values}))["values"] == values


# --- files ---


def test_replace_is_whole_and_leaves_nothing_beside(place: Storage) -> None:
    place.replace("a/b", b"one")
    place.replace("a/b", b"two")
    assert place.read("a/b") == b"two"
    assert place.names("a") == ["b"]


def test_a_failed_write_leaves_the_old_content_and_nothing_beside(
    place: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.replace("a/b", b"one")

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(os, "link", full)
    with pytest.raises(StorageError, match="No space left"):
        place.replace("a/b", b"two")
    with pytest.raises(StorageError, match="No space left"):
        place.create("a/c", b"two")
    assert place.names("a") == ["b"]
    assert place.read("a/b") == b"one"


def test_what_is_absent_reads_as_absent(place: Storage) -> None:
    assert not place.exists("a/b")
    assert place.names("a") == []
    place.delete("a/b")
    for operation in (place.read, place.age):
        with pytest.raises(FileNotFoundError):
            operation("a/b")


def test_age_grows_from_the_last_write(place: Storage) -> None:
    place.replace("a", b"x")
    assert -1 < place.age("a") < 5
    os.utime(place.path("a"), (0, os.path.getmtime(place.path("a")) - 100))
    assert 95 < place.age("a") < 105


def test_quarantine_numbers_the_corrupt_files_and_frees_the_name(place: Storage) -> None:
    for number, text in enumerate((b"bad", b"worse"), start=1):
        place.create("a/b.json", text)
        assert place.quarantine("a/b.json") == f"a/b.json.corrupt-{number}"
    assert not place.exists("a/b.json")
    assert place.names("a") == ["b.json.corrupt-1", "b.json.corrupt-2"]
    assert place.read("a/b.json.corrupt-2") == b"worse"


def test_a_file_url_is_the_same_place_as_its_path(tmp_path: Path) -> None:
    Storage(f"file://{tmp_path}/run").create("a", b"x")
    assert Storage(f"{tmp_path}/run/").read("a") == b"x"
    assert Storage(f"file://{tmp_path}/run").shown("a") == f"file://{tmp_path}/run/a"


# --- storage that fails ---


def test_a_failing_operation_is_tried_again(place: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.0, 0.0))
    place.create("a", b"x")
    real, tries = os.path.exists, []

    def flaky(path: str) -> bool:
        tries.append(path)
        if len(tries) < 3:
            raise OSError(errno.EIO, "Input/output error")
        return real(path)

    monkeypatch.setattr(os.path, "exists", flaky)
    assert place.exists("a")
    assert len(tries) == 3


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_storage_that_stays_broken_is_one_clear_error(
    place: Storage, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.0, 0.0))
    tries = []

    def broken(path: str) -> bool:
        tries.append(path)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os.path, "exists", broken)
    with pytest.raises(StorageError, match=r"storage failed at .*/run/a: .*what is committed is safe"):
        place.exists("a")
    assert len(tries) == (3 if code == errno.EIO else 1)  # waiting does not help with the others


# --- backends ---


@pytest.mark.parametrize("url", ["memory://run", "memory:///a/b"])
def test_a_backend_without_exclusive_creation_is_refused_by_name(url: str) -> None:
    with pytest.raises(BadInput, match=r"storage 'memory' of .* has no tested exclusive creation.*choose from file"):
        Storage(url)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(BadInput, match="cannot open 'gopher://x'"):
        Storage("gopher://x")
