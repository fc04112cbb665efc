"""A run on object storage is a matter of its URL: servers on loopback, exclusive by conditional puts."""

from __future__ import annotations

import functools
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
import tomli_w

from silo_tune.api import run_study
from silo_tune.cli import app
from silo_tune.errors import BadInput, RunFailed
from silo_tune.export.weights import take_weights
from silo_tune.run.session import Outcome
from silo_tune.store import lease
from silo_tune.store.lease import Lease
from silo_tune.store.storage import Storage, seal
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study
from tests.conftest import small_table
from tests.servers import FAULTS, Fault, Front, Gcs, Request, s3
from tests.test_run import assert_same_table

slow = pytest.mark.slow


def table(cycles: int = 3) -> dict[str, Any]:
    """A study of eight units."""
    small = small_table(cycles=cycles)
    greedy = {"mode": "oracle", "grid": {"low": 0.01, "high": 1.0, "points": 2}}
    return {**small, "arms": {"silo": small["arms"]["silo"], "greedy": greedy}}


def study(cycles: int = 3) -> Study:
    return parse_study(table(cycles))


@dataclass
class Place:
    """A folder of a bucket, and the server that it is on, which does as it is told."""

    url: str
    front: Front

    def __post_init__(self) -> None:
        fresh = Front(self.front.app)
        for field in fields(Front):
            if field.name in ("log", "fault", "edit", "edit_answer"):
                setattr(self.front, field.name, getattr(fresh, field.name))


@pytest.fixture(scope="module")
def fronts() -> Iterator[dict[str, Front]]:
    # One server of a kind for all tests: fsspec keeps a client per process.
    with pytest.MonkeyPatch.context() as patch:
        fronts = {"s3": s3(), "gs": Front(Gcs())}
        for front in fronts.values():
            front.start()
        patch.setenv("AWS_ENDPOINT_URL", fronts["s3"].url)
        patch.setenv("STORAGE_EMULATOR_HOST", fronts["gs"].url)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3", skip_instance_cache=True).call_s3("create_bucket", Bucket="runs")
        yield fronts
        for front in fronts.values():
            front.stop()


@pytest.fixture(params=["s3", "gs"])
def place(request: pytest.FixtureRequest, fronts: dict[str, Front], tmp_path: Path) -> Place:
    return Place(f"{request.param}://runs/{tmp_path.name}", fronts[request.param])


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The study on local files."""
    return run_study(study(), str(tmp_path_factory.mktemp("local") / "run"), local=True)


# --- exclusive creation ---

RACER = """
import sys
from silo_tune.store.storage import Storage
storage, who = Storage(sys.argv[1]), sys.argv[2]
storage.names("")
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    try:
        storage.create(f"race/{number}", who.encode())
        print(number)
    except FileExistsError:
        pass
"""


@slow
def test_exclusive_creation_has_one_winner(place: Place) -> None:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen([sys.executable, "-c", RACER, place.url, str(who)], **pipes) for who in range(3)]
    assert [racer.stdout.readline() for racer in racers if racer.stdout] == ["ready\n"] * 3
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = {who: [int(number) for number in racer.communicate()[0].split()] for who, racer in enumerate(racers)}
    assert sorted(number for mine in won.values() for number in mine) == list(range(20))
    storage = Storage(place.url)
    assert all(storage.read(f"race/{number}") == f"{who}".encode() for who, mine in won.items() for number in mine)


BLOCK = 5 * 2**20


@slow
@pytest.mark.parametrize("size", [0, 1000, 2 * BLOCK + 1000], ids=["empty", "small", "in parts"])
def test_a_body_of_any_size_is_created_once(place: Place, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, data = Storage(place.url), bytes(size)
    # A smaller block than the packages' own 50 MiB; above two of them both upload in parts.
    monkeypatch.setattr(storage.fs, "pipe_file", functools.partial(storage.fs.pipe_file, chunksize=BLOCK))
    storage.create("a/b", data)
    for other in (b"second", data[:-1] + b"x"):
        with pytest.raises(FileExistsError):
            storage.create("a/b", other)
    assert storage.read("a/b") == data
    assert storage.names("a") == ["b"]


@slow
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.late], ids=["500", "503", "hung up"])
def test_a_writer_that_is_refused_for_its_own_first_write_has_won(place: Place, fault: Fault) -> None:
    storage, met = Storage(place.url), iter([fault])
    place.front.fault = lambda request: next(met, None) if request.method in ("PUT", "POST") else None
    storage.create("a", b"mine")
    assert storage.read("a") == b"mine"
    assert sum(request.method in ("PUT", "POST") for request in place.front.log) == 2
    with pytest.raises(FileExistsError):
        storage.create("a", b"other")
    assert storage.read("a") == b"mine"


@slow
def test_a_refusal_that_does_not_name_its_condition_is_a_refusal(fronts: dict[str, Front]) -> None:
    place = Place("s3://runs/terse", fronts["s3"])
    place.front.edit_answer = lambda body: re.sub(rb"<Condition>.*?</Condition>", b"", body)
    storage = Storage(place.url)
    storage.create("a", b"first")
    with pytest.raises(FileExistsError):
        storage.create("a", b"second")
    assert storage.read("a") == b"first"


def ignore_conditions(environ: dict[str, Any]) -> None:
    environ.pop("HTTP_IF_NONE_MATCH", None)
    environ["RAW_URI"] = environ["RAW_URI"].replace("ifGenerationMatch=0", "")


@slow
def test_a_server_that_ignores_conditions_is_refused_before_anything_is_trained(place: Place) -> None:
    place.front.edit = ignore_conditions
    with pytest.raises(BadInput, match="created one file twice"):
        run_study(study(), place.url, local=True)
    assert Storage(place.url).names("") == []


def test_gs_is_written_by_the_class_whose_creation_is_exclusive_in_every_bucket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gcsfs.core import GCSFileSystem

    monkeypatch.setenv("NO_GCE_CHECK", "true")  # it would wait for a machine of Google's to say who it is
    for url in ("gs://bucket/run", "gcs://bucket/run"):
        assert type(Storage(url).fs) is GCSFileSystem


# --- which URLs ---


@pytest.mark.parametrize(
    "url", ["memory://run", "ftp://127.0.0.1:1/run", "hf://a/b", "http://x/y", "simplecache::s3://b"]
)
def test_a_backend_without_exclusive_creation_is_refused_by_name_before_it_is_opened(url: str) -> None:
    protocol = url.partition("://")[0]
    with pytest.raises(BadInput, match=rf"storage '{protocol}' of this URL has no tested exclusive .*gs, local, s3"):
        Storage(url)


@pytest.mark.parametrize(("url", "package", "extra"), [("s3://b/r", "s3fs", "s3"), ("gs://b/r", "gcsfs.core", "gs")])
def test_a_missing_package_is_named_with_its_extra(
    url: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(sys.modules["fsspec.registry"], "_registry", {})
    monkeypatch.setattr(sys.modules["fsspec.registry"], "registry", {})
    with pytest.raises(BadInput, match=rf"needs {package.split('.')[0]} .*pip install 'silo-tune\[{extra}\]'"):
        Storage(url)


@pytest.mark.parametrize("url", ["s3://", "gs:///run"])
def test_a_url_without_a_bucket_is_refused(url: str) -> None:
    with pytest.raises(BadInput, match="it names no bucket"):
        Storage(url)


def test_a_local_path_is_taken_as_it_is(tmp_path: Path) -> None:
    for name in ("a::b", "s3:x", "who@where"):
        Storage(f"{tmp_path}/{name}").create("file", b"x")
        assert (tmp_path / name / "file").read_bytes() == b"x"


# --- a run ---


@slow
def test_a_run_has_the_table_of_a_local_one_and_never_lists_its_units(
    place: Place, here: Outcome, tmp_path: Path
) -> None:
    """Of many thousand units each listing would cost seconds, and money."""
    there = run_study(study(), place.url, local=True)
    assert_same_table(here.frame, there.frame)
    for name, url in (("here", here.url), ("there", place.url)):
        take_weights(url, "silo", 0, 2, out=str(tmp_path / name))
    assert len({(tmp_path / name / "model.safetensors").read_bytes() for name in ("here", "there")}) == 1
    assert run_study(study(), place.url, local=True).counts.trained == 0
    assert run_study(study(4), place.url, local=True).counts.trained > 0
    for words in (["plan", study_file(place, 4), "--out", place.url], ["status", place.url], ["report", place.url]):
        app(words, standalone_mode=False)
    folder = place.url.split("://runs/")[1]
    listings = [request for request in place.front.log if request.listed is not None]
    listed = {(request.listed or "").removeprefix(folder).strip("/") for request in listings}
    assert {"lease"} < listed
    assert all(request.query.get("delimiter") == "/" for request in listings)
    # s3fs looks for a unit that has no files among its neighbours: one of 256 parts.
    assert all(re.match(r"units/\w\w(/|$)", prefix) for prefix in listed if prefix.startswith("units"))


def study_file(place: Place, cycles: int = 3) -> str:
    path = Path(os.environ["SILO_TUNE_CACHE"]) / f"{place.url.rpartition('/')[2]}.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(tomli_w.dumps(table(cycles)))
    return str(path)


# --- servers that fail ---


@slow
def test_trials_are_reused_from_object_storage_and_there(place: Place, here: Outcome, tmp_path: Path) -> None:
    there = run_study(study(), place.url, local=True, reuse=[here.url])
    back = run_study(study(), str(tmp_path / "back"), local=True, reuse=[place.url])
    for outcome in (there, back):
        assert outcome.counts.trained == 0
        assert_same_table(outcome.frame, here.frame)
    states = {path.name for path in (tmp_path / "back").glob("units/*/*/state-*")}
    assert states == {path.name for path in Path(here.url).glob("units/*/*/state-*")}
    assert states


@slow
def test_a_flaky_server_gives_the_same_table(place: Place, here: Outcome) -> None:
    rng, met = random.Random(1), []

    def fault(request: Request) -> Fault | None:
        if rng.random() < 0.04:
            met.append(rng.choice(FAULTS))
            return met[-1]
        return None

    place.front.fault = fault
    there = run_study(study(), place.url, local=True)
    assert_same_table(here.frame, there.frame)
    assert there.counts.failed == 0
    assert len(met) >= 5


# The clients of object stores wait minutes for a server; here all that they wait for is shorter.
PATIENTLESS = """
import asyncio
real = asyncio.sleep
asyncio.sleep = lambda seconds, *result: real(min(seconds, 0.02), *result)
from silo_tune.cli import main
main()
"""


@slow
def test_a_server_that_goes_away_gives_one_clear_end_and_the_run_resumes_when_it_is_back(
    place: Place, here: Outcome
) -> None:
    left = iter(range(100))

    def fault(request: Request) -> Fault | None:
        if next(left, None) is not None:
            return None
        place.front.stop()
        return Fault(None)

    place.front.fault = fault
    words = [sys.executable, "-c", PATIENTLESS, "run", study_file(place), "--out", place.url, "--local"]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=80)
    assert ended.returncode == 1
    assert ended.stderr.count("silo-tune: storage failed at") == 1
    assert "Traceback" not in ended.stderr
    place.front.start()
    place.front.fault = lambda request: None
    again = run_study(study(), place.url, local=True)
    assert_same_table(here.frame, again.frame)
    assert 0 < again.counts.trained < len(set(here.frame.key))


# --- clocks ---


def leave_lease(storage: Storage) -> None:
    body = {"host": "another-machine", "pid": 4242, "started": "1", "attempt": "x"}
    storage.replace("lease/0001.json", seal(body))


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_lease_is_as_old_as_its_storage_says_whatever_this_machines_clock_says(
    tmp_path: Path, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(tmp_path))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)
    leave_lease(storage)
    with pytest.raises(RunFailed, match=r"process 4242 on another-machine \(seen 0 s ago\)"):
        Lease(storage).__enter__()
    old = real() - lease.LEASE_EXPIRES_SECONDS - 5
    os.utime(tmp_path / "lease/0001.json", (old, old))
    with Lease(storage):
        assert storage.names("lease") == ["0002.json"]


@slow
def test_a_servers_clock_may_be_off(fronts: dict[str, Front], monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place("gs://runs/clocks", fronts["gs"])
    store, storage = place.front.app, Storage(place.url)
    assert isinstance(store, Gcs)
    for hours in (-1, 1):
        monkeypatch.setattr(store, "skew", timedelta(hours=hours))
        leave_lease(storage)
        with pytest.raises(RunFailed, match="seen 0 s ago"):
            Lease(storage).__enter__()
        monkeypatch.setattr(store, "skew", timedelta(hours=hours, seconds=lease.LEASE_EXPIRES_SECONDS + 5))
        with Lease(storage):
            assert storage.names("lease") == ["0002.json"]
