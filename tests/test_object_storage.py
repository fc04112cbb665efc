"""A run on object storage is a matter of its URL: a real S3 server on loopback, exclusive by conditional put."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest

from silo_tune.run import run_study
from silo_tune.storage import Storage
from tests.conftest import small_study
from tests.test_run import assert_same_table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    # One server for all tests: fsspec keeps a client per process.
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield from serve(monkeypatch)


def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.filesystem("s3", skip_instance_cache=True).call_s3("create_bucket", Bucket="runs")
    yield "s3://runs"
    server.stop()


def race(url: str, who: int, wins: multiprocessing.Queue[tuple[int, int]]) -> None:
    storage = Storage(url)
    for number in range(20):
        try:
            storage.create(f"race/{number}", f"{who}".encode())
            wins.put((number, who))
        except FileExistsError:
            pass


def test_exclusive_creation_has_one_winner(bucket: str) -> None:
    context = multiprocessing.get_context("spawn")
    wins: multiprocessing.Queue[tuple[int, int]] = context.Queue()
    racers = [context.Process(target=race, args=(bucket, who, wins)) for who in range(3)]
    for racer in racers:
        racer.start()
    won = [wins.get(timeout=60) for _ in range(20)]
    for racer in racers:
        racer.join()
    assert sorted(number for number, _ in won) == list(range(20))
    storage = Storage(bucket)
    assert all(storage.read(f"race/{number}") == f"{who}".encode() for number, who in won)


def test_a_run_on_s3_has_the_table_of_a_local_one(bucket: str, tmp_path: Path) -> None:
    here = run_study(small_study(), str(tmp_path / "run"), local=True)
    there = run_study(small_study(), f"{bucket}/small", local=True)
    assert_same_table(here.frame, there.frame)
    assert run_study(small_study(), f"{bucket}/small", local=True).counts.trained == 0
