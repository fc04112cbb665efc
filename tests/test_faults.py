"""Everything that goes wrong on one machine: nothing committed is lost, the table is the same, the message helps."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w

from silo_tune.data.cache import cached
from silo_tune.errors import BadInput, RunFailed
from silo_tune.models.checkpoint import pack, unpack
from silo_tune.planner.unit import Unit
from silo_tune.results.records import load_run
from silo_tune.run.session import Outcome
from silo_tune.store.unit_store import UnitStore
from silo_tune.study.study_file import parse_study
from silo_tune.training.worker import drain
from tests.faults import (
    Both,
    Broken,
    Driver,
    Flaky,
    Jitter,
    LimitMemory,
    Slow,
    Strike,
    drive,
    faulty_table,
    files,
    lease_is_free,
    lease_is_never_lost,
    quiet,
    remount,
    small_disk,
    stands_still,
    wait_until,
    work,
)
from tests.test_cycle import Bench, stable
from tests.test_run import Notes, assert_same_table, committed, local

TABLE = faulty_table()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return local(parse_study(TABLE), tmp_path_factory.mktemp("reference") / "run")


def weights_left(folder: Path) -> list[str]:
    """Units whose weights are there, once for each state."""
    return sorted(path.parent.name for path in files(folder, "state"))


def assert_whole(folder: Path, reference: Outcome) -> None:
    """The run has ended as the one that nothing happened to."""
    frame, _, _ = load_run(str(folder))
    assert_same_table(frame, reference.frame)
    assert_same_table(pd.read_parquet(folder / "table.parquet"), pd.read_parquet(Path(reference.url) / "table.parquet"))
    assert weights_left(folder) == weights_left(Path(reference.url))


def assert_trained_once(folder: Path, beside: Path | None = None) -> None:
    """No epoch of a unit was trained after it was committed."""
    done: set[str] = set()
    for what, key in work(folder, beside):
        assert what == "commit" or key not in done, "a committed unit was trained again"
        done |= {key} if what == "commit" else set()
    assert done == set(committed(folder))


# --- a driver that dies ---

# Where it dies: at the n-th such event of its life, n drawn from 1 to the number given. A study and its data are
# recorded at every start before the first cycle is closed; the other places come in a drawn order.
FIRST = [
    ("write", "amid", "lease", 1),
    ("replace", "before", "study", 1),
    ("write", "amid", "data", 1),
    ("write", "amid", "rewind", 1),
]
PLACES = [
    ("plan", "before", "", 8),
    ("read", "after", "decision", 6),
    ("read", "after", "result", 6),
    ("step", "before", "", 20),
    ("step", "after", "", 20),
    ("write", "amid", "partial", 4),
    ("replace", "before", "partial", 4),
    ("unlink", "before", "partial", 4),
    ("write", "amid", "state", 2),
    ("replace", "after", "state", 2),
    ("write", "amid", "result", 2),
    ("link", "before", "result", 2),
    ("link", "after", "result", 2),
    ("link", "before", "decision", 2),
    ("link", "after", "decision", 2),
    ("unlink", "before", "state", 1),
    ("unlink", "after", "state", 1),
]
# The units of a search come before those of later cycles.
EARLY = [("link", "before", "search", 1), ("link", "after", "search", 1)]
LAST = [("write", "amid", "table", 1)]


def places(seed: int) -> Iterator[tuple[str, str, str, int]]:
    draws = random.Random(seed)
    middle = draws.sample(PLACES, len(PLACES))
    for what, when, kind, most in [*FIRST, *middle[:5], *EARLY, *middle[5:], *LAST]:
        yield what, when, kind, draws.randint(1, most)


def kill_by_kill(table: dict[str, Any], folder: Path, seed: int) -> int:
    """Kill the drivers of one run at one place after the other, and let the last one end. Returns the deaths."""
    deaths = 0
    for what, when, kind, count in places(seed):
        before, kept = len(work(folder)), committed(folder)
        ended = drive(table, folder, Strike(what, when, kind, count, "kill", str(folder)))
        assert ended.code == -9, f"no {count}. {what} of {kind or 'a unit'} was left: {ended}"
        deaths += 1
        assert not {key for _, key in work(folder)[before:]} & set(kept), "a committed unit was trained again"
    kept = committed(folder)
    ended = drive(table, folder)
    assert (ended.code, ended.error, ended.notes) == (0, None, [])
    after = committed(folder)
    assert {key: after[key] for key in kept} == kept
    return deaths


SLOW_SEEDS = [pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 3, 4, 5)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *SLOW_SEEDS])
def test_a_driver_that_dies_twenty_times_loses_nothing(reference: Outcome, tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "run"
    assert kill_by_kill(TABLE, folder, seed) >= 20
    assert_whole(folder, reference)


def test_a_final_state_that_was_written_and_not_committed_does_not_stay(tmp_path: Path) -> None:
    table, folder = {**TABLE, "arms": {"silo": TABLE["arms"]["silo"]}}, tmp_path / "run"
    assert drive(table, folder, Strike("replace", "after", "state", 3, "kill", str(folder))).code == -9
    assert [len(committed(folder)), len(weights_left(folder))] == [2, 2]
    assert drive(table, folder).error is None
    assert_whole(folder, local(parse_study(table), tmp_path / "again"))


# --- a disk that is full, or that can no longer be written ---

WRITES = ["study", "data", "rewind", "partial", "state", "result", "decision", "search", "table", "report"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    try:
        with small_disk(tmp_path / "disk", megabytes=8) as place:
            yield place
    except PermissionError as error:
        pytest.skip(f"this process may not mount a small file system: {error}")


@pytest.mark.parametrize(
    ("action", "said", "remedy"),
    [
        ("fill", "No space left on device", "make room on that disk"),
        pytest.param(
            "read-only", "Read-only file system", "make that file system writable again", marks=pytest.mark.slow
        ),
    ],
)
def test_a_disk_that_fails_in_any_write_ends_the_run_clearly_and_the_same_command_goes_on(
    disk: Path, tmp_path: Path, reference: Outcome, action: str, said: str, remedy: str
) -> None:
    folder = disk / "run"
    file = tmp_path / "faulty.toml"
    file.write_text(tomli_w.dumps(TABLE))
    command = ["run", str(file), "--local", "--out", str(folder)]
    for kind in WRITES:
        kept = committed(folder)
        ended = drive(
            TABLE, folder, Strike("write", "before", kind, 1, action, str(folder)), command=command, scratch=tmp_path
        )
        last = ended.said.splitlines()[-1]
        assert ended.code == 1, f"{kind}: {ended.said}"
        assert re.fullmatch(
            rf"silo-tune: storage failed at {folder}/.+: {said}; what is committed is safe: {remedy} and run the same "
            r"command again",
            last,
        )
        assert "Traceback" not in ended.said
        remount(disk, "rw")
        (disk / "ballast").unlink(missing_ok=True)
        after = committed(folder)
        assert {key: after[key] for key in kept} == kept
    ended = drive(TABLE, folder, scratch=tmp_path)
    assert (ended.code, ended.error, ended.notes) == (0, None, [])
    assert_whole(folder, reference)
    assert_trained_once(folder, tmp_path)


def test_a_cache_of_decoded_images_that_does_not_fit_is_done_without(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "images"
    source.touch()
    monkeypatch.setenv("SILO_TUNE_CACHE", str(disk / "cache"))
    decoded = {"train": np.zeros(16 << 20, dtype=np.uint8)}
    assert cached([source], {}, lambda: decoded) is decoded
    assert [path for path in disk.rglob("*") if path.is_file()] == []  # what was written of it gives its room back


# --- weights that are gone ---


def dense_without_weights(folder: Path) -> tuple[Bench, Unit]:
    bench = Bench(folder, parse_study(TABLE))
    dense = bench.unit(0, None)
    bench.train(dense)
    files(folder, "state")[0].unlink()
    return bench, dense


def test_weights_that_another_driver_sweeps_again_are_still_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, dense = dense_without_weights(tmp_path / "run")
    restate = UnitStore.restate

    def swept(units: UnitStore, result: Mapping[str, Any]) -> None:
        restate(units, result)
        units.sweep(result["key"])

    monkeypatch.setattr(UnitStore, "restate", swept)
    assert bench.train(bench.unit(1, dense))["status"] == "ok"


def test_weights_that_cannot_be_made_again_end_the_run_and_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, dense = dense_without_weights(tmp_path / "run")
    monkeypatch.setattr("silo_tune.training.trainer.DIVERGED_LOSS", 0.0)
    why = rf"trial {dense.key[:12]} was trained again for its weights, .* and diverged this time \(mean training loss"
    with pytest.raises(RunFailed, match=why):
        bench.train(bench.unit(1, dense))


# --- damaged files ---


def spoil(file: Path, how: str, draws: random.Random) -> None:
    """Cut a file, or flip one of its bits, somewhere."""
    data = bytearray(file.read_bytes())
    if how == "cut":
        data = data[: draws.randrange(len(data))]
    else:
        data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
    file.write_bytes(bytes(data))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed when most of it was done, and has a file of every kind."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    ended = drive(TABLE, folder, Strike("replace", "after", "partial", 43, "kill", str(folder)))
    assert ended.code == -9
    assert all(files(folder, kind) for kind in DAMAGED)
    return folder


# A rewind point is needed only while its arm is at work, and only the driver's own heartbeat reads a lease's number.
READ = {(moment, kind) for moment in ("stopped", "finished") for kind in ("result", "decision", "search", "data")}
READ |= {("stopped", "partial"), ("stopped", "state")}
DAMAGED = ["state", "result", "decision", "partial", "rewind", "data", "study", "lease", "search"]


@pytest.mark.parametrize("how", ["cut", "flip"])
@pytest.mark.parametrize(
    ("moment", "kind"),
    # A run that has ended has no partial states and no lease.
    [("stopped", kind) for kind in DAMAGED]
    + [("finished", kind) for kind in DAMAGED if kind not in ("partial", "lease")],
)
def test_damaged_files_change_nothing_but_the_work(
    stopped: Path, reference: Outcome, tmp_path: Path, moment: str, kind: str, how: str
) -> None:
    draws = random.Random(f"{moment} {kind} {how}")
    folder = tmp_path / "run"
    shutil.copytree(stopped if moment == "stopped" else reference.url, folder)
    victims = files(folder, kind)
    for victim in victims:
        spoil(victim, how, draws)
    notes = Notes()
    if kind == "study":
        with pytest.raises(BadInput, match=rf"{folder}/study\.toml is damaged .*move it away and run the same study"):
            local(parse_study(TABLE), folder)
        (folder / "study.toml").rename(tmp_path / "study.toml")
    outcome = local(parse_study(TABLE), folder, notes)
    assert outcome.counts.failed == 0
    assert_same_table(outcome.frame, reference.frame)
    if (moment, kind) in READ:
        told = [note for note in notes.notes if " is corrupt (" in note and ".corrupt-1, " in note]
        assert told
        assert any(str(victim) in note for victim in victims for note in told)
    left = 0 if moment == "finished" else reference.counts.trained - len(committed(stopped))
    assert outcome.counts.trained == left + (len(victims) if kind == "result" else 0)
    again = local(parse_study(TABLE), folder)
    assert again.counts.trained == 0
    assert_same_table(again.frame, reference.frame)


def test_a_flipped_digit_of_the_recorded_study_is_damage_and_not_a_change(reference: Outcome, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(reference.url, folder)
    record = folder / "study.toml"
    whole = record.read_text()
    assert "max_lr = 0.1\n" in whole
    record.write_text(whole.replace("max_lr = 0.1\n", "max_lr = 0.5\n"))
    with pytest.raises(BadInput, match=r"study\.toml is damaged \(its checksum does not match its content\); put back"):
        local(parse_study(TABLE), folder)
    record.write_text(whole)
    assert local(parse_study(TABLE), folder).counts.trained == 0


# --- a partial state that another version wrote ---


def other_names(groups: Any, meta: Any) -> None:
    groups["weights"] = {f"module.{name}": tensor for name, tensor in groups["weights"].items()}


def other_shapes(groups: Any, meta: Any) -> None:
    groups["weights"] = {name: tensor[..., :5] for name, tensor in groups["weights"].items()}


def other_types(groups: Any, meta: Any) -> None:
    groups["weights"] = {name: tensor.half() for name, tensor in groups["weights"].items()}


def other_buffers(groups: Any, meta: Any) -> None:
    groups["optim"] = {key.replace("momentum_buffer", "momentum"): t for key, t in groups["optim"].items()}


def shaped_buffers(groups: Any, meta: Any) -> None:
    groups["optim"] = {key: tensor.flatten()[:1].reshape(1, 1) for key, tensor in groups["optim"].items()}


def no_buffers(groups: Any, meta: Any) -> None:
    del groups["optim"]


def one_buffer_less(groups: Any, meta: Any) -> None:
    del groups["optim"][next(iter(groups["optim"]))]


def no_weights(groups: Any, meta: Any) -> None:
    del groups["weights"]


def no_metadata(groups: Any, meta: Any) -> None:
    meta.clear()


def no_place(groups: Any, meta: Any) -> None:
    del meta["step"]


def other_place(groups: Any, meta: Any) -> None:
    meta["step"] = "3"


def newer_format(groups: Any, meta: Any) -> None:
    meta["format"] = "99"


def other_torch(groups: Any, meta: Any) -> None:
    meta["torch"] = "1.13.1"


def other_version(groups: Any, meta: Any) -> None:
    meta["silo-tune"] = "9.0"


STRANGE = [
    (other_names, "Missing key"),
    (other_shapes, "size mismatch"),
    (other_types, "has another shape or type than the network's"),
    (other_buffers, "the optimizer's buffers are momentum, not momentum_buffer"),
    (shaped_buffers, "has another shape or type"),
    (no_buffers, "some of the optimizer's buffers are missing"),
    (one_buffer_less, "some of the optimizer's buffers are missing"),
    (no_weights, "it holds no weights"),
    (no_metadata, "saved with format unknown, not 3; silo-tune unknown, not"),
    (no_place, "it does not say its step"),
    (other_place, "step 3 of epoch 2 is not where"),
    (newer_format, "saved with format 99, not 3"),
    (other_torch, "saved with torch 1.13.1, not "),
    (other_version, "saved with silo-tune 9.0, not "),
]


@pytest.mark.parametrize(("change", "why"), STRANGE, ids=lambda value: getattr(value, "__name__", ""))
def test_a_partial_state_of_another_version_is_removed_and_the_unit_starts_from_its_parent(
    tmp_path: Path, change: Callable[[Any, Any], None], why: str
) -> None:
    straight, bench = (Bench(tmp_path / name, parse_study(TABLE)) for name in "ab")
    unit = bench.unit(0, None)
    expected = straight.train(unit)
    progress = bench.worker.run(unit)
    assert [next(progress).epoch, next(progress).epoch] == [1, 2]
    progress.close()
    units = bench.worker.units
    data = units.read_partial(unit.key)
    assert data is not None
    groups, meta = unpack(data)
    change(groups, meta)
    units.write_partial(unit.key, "abc", 2, pack(groups, meta))
    again = bench.fresh().run(unit)
    assert next(again).epoch == 1
    again.close()
    message = f"a partial state of trial {unit.key[:12]} does not fit ("
    assert [message in note and why in note for note in bench.notices] == [True], bench.notices
    assert bench.notices[0].endswith("; it is removed, and the trial starts from its parent")
    rest = bench.fresh().run(unit)  # its own partial state is not hidden by the one that did not fit
    assert next(rest).epoch == 2
    assert stable(drain(rest)) == stable(expected)


# --- storage that fails now and then ---

FAST_RETRIES = {"silo_tune.store.storage:RETRY_SECONDS": (0.001, 0.002, 0.004)}


@pytest.mark.parametrize("seed", [0, *SLOW_SEEDS])
def test_storage_that_fails_now_and_then_changes_nothing(reference: Outcome, tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "run"
    ended = drive(TABLE, folder, Flaky(seed, share=0.01), patches=FAST_RETRIES)
    assert (ended.code, ended.error, ended.notes) == (0, None, [])
    assert ended.faults > 20
    assert not files(folder, "lease")
    assert_whole(folder, reference)
    assert_trained_once(folder)


def test_storage_that_stays_broken_is_one_clear_end_from_which_the_run_goes_on(
    reference: Outcome, tmp_path: Path
) -> None:
    folder, draws = tmp_path / "run", random.Random(0)
    for _ in range(3):
        kept = committed(folder)
        fault = Flaky(0, share=0.0, broken_after=draws.randrange(20, 600))
        ended = drive(TABLE, folder, fault, patches=FAST_RETRIES)
        assert ended.error is not None
        assert re.match(rf"storage failed at {folder}/.+; what is committed is safe: fix the storage", ended.error)
        assert ended.exit_code == 1
        after = committed(folder)
        assert {key: after[key] for key in kept} == kept
    ended = drive(TABLE, folder)
    assert (ended.code, ended.error, ended.notes) == (0, None, [])
    assert_whole(folder, reference)
    assert_trained_once(folder)


@pytest.mark.parametrize("kind", ["lease", "result", "decision", "search"])
def test_a_file_that_is_created_though_storage_says_it_failed_is_ones_own(
    reference: Outcome, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "run"
    ended = drive(TABLE, folder, Broken("link", kind, lost=True), patches=FAST_RETRIES)
    assert (ended.code, ended.error, ended.notes) == (0, None, [])
    assert ended.faults > 0
    assert_whole(folder, reference)
    assert_trained_once(folder)


def test_a_decided_run_on_storage_that_fails_at_its_start_is_not_taken_for_a_new_one(
    reference: Outcome, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(reference.url, folder)
    changed = faulty_table(retrain={"batch": 8})
    ended = drive(changed, folder, Broken("list", "chain"), patches=FAST_RETRIES)
    assert ended.error is not None
    assert re.match(rf"storage failed at {folder}/chains/.+/seed-\d+: Input/output error;", ended.error)
    assert (folder / "study.toml").read_bytes() == (Path(reference.url) / "study.toml").read_bytes()


# --- two drivers ---

SHORT_LEASE = {"silo_tune.store.lease:HEARTBEAT_SECONDS": 0.1, "silo_tune.store.lease:LEASE_EXPIRES_SECONDS": 0.6}
NO_LEASE = {
    "silo_tune.store.lease:Lease._refuse_if_alive": lease_is_free,
    "silo_tune.store.lease:Lease._beat": lease_is_never_lost,
}
TAKEN = "another driver took over {}; this one stops, and nothing is lost"


def test_a_driver_that_stands_still_is_taken_over_and_stops_when_it_goes_on(reference: Outcome, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    stops = Both([Strike("step", "before", "", 60, "stop", str(folder)), Slow("step", "", 0.005)])
    first = Driver(TABLE, folder, stops, patches=SHORT_LEASE)
    wait_until(lambda: stands_still(first.pid), "the first driver does not stand still")
    refused = drive(TABLE, folder, patches=SHORT_LEASE | {"silo_tune.store.lease:LEASE_EXPIRES_SECONDS": 3600.0})
    assert refused.error is not None
    assert f"is being run by process {first.pid} on" in refused.error
    kept = committed(folder)
    wait_until(lambda: time.time() - files(folder, "lease")[-1].stat().st_mtime > 1, "its heart still beats")
    second = Driver(TABLE, folder, Slow("step", "", 0.005), patches=SHORT_LEASE)
    wait_until(lambda: len(committed(folder)) > len(kept), "the second driver commits nothing")
    os.kill(first.pid, signal.SIGCONT)
    ended = first.wait()
    assert (ended.error, ended.exit_code) == (TAKEN.format(folder), 1)
    ended = second.wait()
    assert (ended.error, ended.notes) == (None, [])
    after = committed(folder)
    assert {key: after[key] for key in kept} == kept
    assert_whole(folder, reference)


def test_a_driver_whose_heartbeat_is_late_is_taken_over_and_stops(reference: Outcome, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    late = Both([Slow("replace", "lease", 0.3), Slow("step", "", 0.02)])  # it is not done before the second has begun
    first = Driver(TABLE, folder, late, patches=SHORT_LEASE)
    wait_until(lambda: bool(committed(folder)), "the first driver commits nothing")
    impatient = SHORT_LEASE | {"silo_tune.store.lease:LEASE_EXPIRES_SECONDS": 0.0}
    second = Driver(TABLE, folder, Slow("step", "", 0.005), patches=impatient)
    assert first.wait().error == TAKEN.format(folder)
    ended = second.wait()
    assert (ended.error, ended.notes) == (None, [])
    assert_whole(folder, reference)


@pytest.mark.parametrize("seed", [0, *SLOW_SEEDS])
def test_two_drivers_that_ignore_each_other_write_one_run(reference: Outcome, tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "run"
    drivers = [Driver(TABLE, folder, Jitter(2 * seed + i), patches=NO_LEASE | FAST_RETRIES) for i in range(2)]
    ends = [driver.wait() for driver in drivers]
    assert [(ended.code, ended.error, ended.notes) for ended in ends] == [(0, None, [])] * 2
    assert [ended.counts["failed"] for ended in ends] == [0, 0]
    assert not list(folder.rglob("*.corrupt-*"))
    assert len(committed(folder)) == reference.frame.key.nunique()
    assert_whole(folder, reference)


def test_a_slow_writer_whose_temporary_file_was_tidied_up_loses_nothing(reference: Outcome, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    slow = Driver(TABLE, folder, Slow("link", "result", 0.3), patches=NO_LEASE | FAST_RETRIES)
    fast = Driver(TABLE, folder, patches=NO_LEASE)
    for ended in (fast.wait(), slow.wait()):
        assert (ended.code, ended.error, ended.notes, ended.counts["failed"]) == (0, None, [], 0)
    assert_whole(folder, reference)


# --- candidates that all diverge ---


def test_chains_whose_candidates_all_diverge_end_with_a_reason_and_the_others_go_on(tmp_path: Path) -> None:
    mild, wild = {"low": 0.01, "high": 0.1, "points": 2}, {"low": 1e7, "high": 1e9}
    arms: dict[str, Any] = {
        "silo": TABLE["arms"]["silo"],
        "wild": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 1e8}},
        "greedy": {"mode": "oracle", "grid": {**wild, "points": 2}, "tests": []},
        "follower": {"mode": "oracle", "grid": mild, "prefix": "arm:wild", "tests": []},
        "unmoved": {"mode": "oracle", "grid": {**wild, "points": 2}, "prefix": "arm:silo", "tests": []},
        "guided": {"mode": "oracle", "guided": {"sampler": "tpe", "trials": 3, **wild}, "tests": []},
        "search": {"mode": "tune", "trials": 2, "batch": 2, "eps": [1e7, 1e9], "delta": 0.1},
        "piloted": {"mode": "schedule", "schedule": "constant"},
    }
    pilot = {"seeds": [7], "chains": 3, "low": 1e6, "high": 1e8}
    table = {**TABLE, "arms": arms, "pilot": pilot}
    file, folder = tmp_path / "wild.toml", tmp_path / "run"
    file.write_text(tomli_w.dumps(table))
    ended = drive(table, folder, command=["run", str(file), "--local", "--out", str(folder)])
    assert ended.code == 0, ended.said
    frame, _, _ = load_run(str(folder))
    own = frame[frame.trial.isna()]
    assert set(own[own.arm == "silo"].status) == {"ok"}
    assert len(own[own.arm == "silo"]) == 3
    retrained = own[(own.cycle > 0) & ~own.arm.isin(["silo", "follower"])]
    assert set(retrained.arm) == {"wild", "greedy", "unmoved", "guided", "piloted"}
    assert set(retrained.status) == {"diverged"}
    said = " ".join(ended.said.split())
    for arm in ("wild", "greedy", "guided", "piloted"):
        assert f"ended early: {arm} seed 0: no candidate of cycle 1 can continue (" in said
    assert "ended early: follower seed 0: wild ended: no candidate of cycle 1 can continue (" in said
    assert "not finite in epoch 1 of 3" in said
    assert len(own[own.arm == "unmoved"]) == 5  # its parents are another arm's
    again = drive(table, folder)
    assert (again.error, again.counts["trained"]) == (None, 0)


# --- what users write ---


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", r"tests\.faults:bad_data raised KeyError: .*column.* \(.*faults\.py, line \d+\)"),
        ("nothing", "must give a DataSet, or its fields in order .* it gave NoneType"),
        ("a number", "it gave int"),
        ("lists", "it gave tuple: 'list' object has no attribute"),
        ("float images", "training examples that repeat another"),
        ("one-hot labels", r"labels are the numbers of classes as int64 \(N,\); got int64 \(60, 3\)"),
        ("float labels", "got float64"),
        ("int32 labels", "got int32"),
        ("too few labels", "got uint8 .* and 59 labels"),
        ("labels beyond the classes", "labels run from 0 to 2, but there are 2 classes"),
        ("one class", "at least two classes, got 1"),
        ("no number of classes", "it gave tuple: images need their number of classes"),
        ("test images without labels", "test images and their labels, or neither"),
        ("test images of another size", r"training images are \(8, 8, 1\), test images are \(4, 8, 1\)"),
        ("no images", "the training part is empty"),
    ],
)
def test_a_data_function_that_raises_or_gives_nonsense_is_bad_input(tmp_path: Path, how: str, message: str) -> None:
    data = {"function": "tests.faults:bad_data", "version": "1", "args": {"how": how}}
    with pytest.raises(BadInput, match=message) as raised:
        local(parse_study({**TABLE, "data": data}), tmp_path / "run")
    assert str(raised.value).startswith("data: ")
    mended = {**TABLE, "cycles": 1, "arms": {"silo": TABLE["arms"]["silo"]}}
    assert local(parse_study(mended), tmp_path / "run").counts.trained == 1  # nothing stands in its way


def failing_table(how: str, marker: Path) -> dict[str, Any]:
    model = {"function": "tests.faults:failing", "version": "1", "how": how, "marker": str(marker)}
    return {**TABLE, "model": model}


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raise", "ZeroDivisionError: the temperature is 0"),
        (
            "memory",
            r"out of memory \(RuntimeError: .*can't allocate memory: you tried to allocate \d+ bytes.*\); let each "
            r"trial reserve more with cluster\.memory_per_unit_gb, or train with a smaller retrain\.batch",
        ),
    ],
)
def test_a_model_that_fails_in_one_unit_costs_that_unit_alone(tmp_path: Path, how: str, reason: str) -> None:
    marker = tmp_path / "marker"
    table, folder = failing_table(how, marker), tmp_path / "run"
    limit = LimitMemory(4 << 30) if how == "memory" else quiet
    ended = drive(table, folder, limit)
    assert (ended.code, ended.error, ended.counts["failed"]) == (0, None, 1)
    frame, _, _ = load_run(str(folder))
    failed = frame[frame.status == "failed"]
    assert failed.key.nunique() == 1
    (log,) = files(folder, "log")
    assert log.parent.name == failed.key.iloc[0]
    assert "in forward" in log.read_text()
    for error in failed.error:
        assert re.fullmatch(rf"{reason} \(see {log}\)", error)
    (note,) = ended.notes
    assert re.fullmatch(rf"trial {failed.key.iloc[0][:12]} failed \({reason}\); attempt 1 of 1, see {log}", note)
    assert (frame[~frame.key.isin(failed.key)].status == "ok").all()
    again = drive(table, folder)
    assert (again.error, again.counts["trained"], again.counts["failed"]) == (None, 0, 0)
