"""Watching a run: what a snapshot says, when it is written, and what is known without one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import tomli_w

from silo_tune.api import run_study
from silo_tune.cli.view import lines_below, tail_lines
from silo_tune.errors import BadInput, RunFailed
from silo_tune.planner.forecast import forecast
from silo_tune.planner.planner import Planner
from silo_tune.planner.unit import Unit
from silo_tune.results.records import read
from silo_tune.run import status as status_module
from silo_tune.run.progress import Progress
from silo_tune.run.status import Status, from_decisions, read_status, recorded
from silo_tune.store.lease import LEASE_EXPIRES_SECONDS, Lease
from silo_tune.store.run_folder import Run
from silo_tune.store.snapshot import (
    CHAINS,
    LETTERS,
    REASONS,
    RECENT,
    RUNNING,
    STATUS,
    ChainView,
    Snapshot,
    foremost,
    shortened,
)
from silo_tune.store.storage import Storage, StorageError, seal
from silo_tune.study.model import Study
from tests.conftest import small_study, small_table
from tests.plain import Drive, MemoryJournal, World, on_disk, resolved, spread, study
from tests.servers import s3
from tests.test_cli import in_process
from tests.test_run import driver, wait_for

GUIDED = {"mode": "oracle", "guided": {"sampler": "random", "low": 0.01, "high": 1.0, "trials": 4}}
PILOT = {
    "pilot": {"seeds": [100, 101], "chains": 3, "low": 0.01, "high": 1.0},
    "arms.constant": {"mode": "schedule", "schedule": {"name": "constant"}},
}


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Session:
    """A session that trains by simulation; every unit takes so many seconds of its clock."""

    def __init__(self, made: Study, journal: Any = None, world: World | None = None, seconds: float = 10.0) -> None:
        self.clock = Clock()
        self.journal = journal or MemoryJournal()
        self.progress = Progress(made, self.clock)
        self.planner = Planner(made, self.journal, listen=self.progress.changed)
        commit = on_disk(self.journal) if isinstance(self.journal, Run) else self.journal.commit

        def passes(unit: Unit) -> None:
            self.progress.began(unit)
            self.clock.seconds += seconds

        def ends(outcome: dict[str, Any]) -> None:
            self.progress.ended(outcome["key"], {**outcome, "train_seconds": 0.8 * seconds})

        self.drive = Drive(commit, world or World(), slots=1, on_ask=passes, on_tell=ends)
        self.progress.begin(self.planner, 1)

    def __call__(self, units: int | None = None) -> Snapshot:
        self.drive(self.planner, units)
        return self.progress.snapshot()


# --- what a snapshot says ---


def test_before_anything_is_measured_there_is_no_pace_and_no_eta() -> None:
    session = Session(study({"arms.greedy": None, "arms.conditioned": None}))
    begun = session.progress.snapshot()
    assert begun.eta is None
    assert begun.per_hour is None
    found = session(4)
    assert found.units is not None
    assert found.units.trained == 4
    assert found.units.left == begun.units.left - 4  # type: ignore[union-attr]
    assert found.per_hour == found.recent_per_hour == pytest.approx(360)
    assert found.eta is not None


def test_the_pace_of_old_units_is_forgotten() -> None:
    session = Session(study({"replicates.seeds": list(range(8))}))
    slow = session(20)
    session.drive.on_ask = lambda unit: setattr(session.clock, "seconds", session.clock.seconds + 1)
    fast = session(RECENT + 1)
    assert fast.recent_per_hour == pytest.approx(3600, rel=0.01)
    assert slow.per_hour is not None
    assert fast.per_hour is not None
    assert slow.per_hour < fast.per_hour < 3500


def test_a_trial_without_progress_shows_and_is_warned_of_after_five_of_its_usual_epochs() -> None:
    session = Session(study({"dense.epochs": 40}), seconds=20 * 40 / 0.8)  # of which epochs of 20 s
    session(1)
    unit = session.planner.ask()
    assert unit is not None
    session.progress.began(unit)
    session.clock.seconds += 30
    session.progress.moved(unit.key, 1)
    session.clock.seconds += 99
    (one,) = session.progress.snapshot().running
    assert (one.chain, one.cycle, one.epoch, one.epochs) == ("silo seed 1", 0, 1, 40)
    assert (one.seconds, one.idle) == (129, 99)
    assert one.usual == pytest.approx(20)
    assert "warning" not in " ".join(lines_below(session.progress.snapshot()))
    assert "silo seed 1 cycle 0, max_lr 0.05: epoch 1 of 40, 1:39 without progress" in under_way(session)
    session.clock.seconds += 2
    warning = lines_below(session.progress.snapshot())[-1]
    assert warning.startswith("warning: silo seed 1 cycle 0, max_lr 0.05 is without progress for 1:41")
    assert "usually takes 20 s" in warning
    session.progress.moved(unit.key, 2)
    assert "warning" not in " ".join(lines_below(session.progress.snapshot()))
    session.progress.ended(unit.key, None)  # its worker died
    assert session.progress.snapshot().running == ()


def under_way(session: Session) -> list[str]:
    status = Status(url="x", at=0.0, driver="running", snapshot=session.progress.snapshot())
    return [line.strip() for line in tail_lines(status)]


def test_of_many_trials_under_way_those_longest_without_progress_are_kept() -> None:
    session = Session(study({"replicates.seeds": list(range(RUNNING + 5))}))
    keys = []
    while (unit := session.planner.ask()) is not None:
        session.progress.began(unit)
        session.clock.seconds += 1
        keys.append(unit.key)
    session.progress.moved(keys[0], 1)
    shown = session.progress.snapshot().running
    assert len(keys) > len(shown) == RUNNING
    idle = [one.idle for one in shown]
    assert idle == sorted(idle, reverse=True)
    assert idle[0] == len(keys) - 1


def test_every_chain_of_a_study_is_told_as_it_stands() -> None:
    found = Session(study())()
    assert {(chain.arm, chain.seed) for chain in found.chains} == {(a, s) for a in study().arms for s in (0, 1)}
    assert all(chain.state == "done" and chain.closed == 4 and not chain.active for chain in found.chains)
    assert all(chain.max_lr is not None and chain.val_score is not None for chain in found.chains)
    assert found.units is not None
    assert found.units.left == 0


def test_a_chain_that_had_ended_before_the_session_has_no_times_of_it() -> None:
    first = Session(study())
    first()
    again = Session(study(), first.journal).progress.snapshot()
    assert {(chain.elapsed, chain.eta) for chain in again.chains} == {(None, None)}
    assert again.units is not None
    assert (again.units.trained, again.units.left) == (0, 0)


def test_the_dense_cycle_does_not_make_the_eta_of_a_chain() -> None:
    others = {f"arms.{name}": None for name in study().arms if name != "silo"}
    session = Session(study({"replicates.seeds": [0], **others}))
    assert [(chain.closed, chain.eta) for chain in session(1).chains] == [(1, None)]
    session.drive.on_ask = lambda unit: setattr(session.clock, "seconds", session.clock.seconds + 7)
    assert [(chain.closed, chain.eta) for chain in session(1).chains] == [(2, 7.0 * 2)]


def test_failed_units_are_named_with_their_reasons_until_they_succeed() -> None:
    world = World(lambda unit: "failed" if unit.cycle == 2 and resolved(unit) == 0.03 else "ok")
    session = Session(study({"replicates.seeds": [0]}), world=world)
    found = session()
    assert found.failure_count == len(found.failures) > 0
    assert {(f.cycle, f.max_lr, f.reason) for f in found.failures} == {(2, 0.03, "OSError: no space")}
    assert [end.chain for end in found.ended] == ["constant seed 0"]
    assert all(chain.elapsed is not None for chain in found.chains)  # one that ended early has its time too
    assert "no candidate of cycle 2 can continue" in found.ended[0].reason
    resumed = Session(study({"replicates.seeds": [0]}), session.journal).progress.snapshot()
    assert resumed.failure_count == found.failure_count  # a later session tells them too
    for chain in session.planner.chains.values():
        for told in chain.told.values():
            told.update(status="ok", val_score=0.5)
        session.progress.changed(chain)
    later = session.progress.snapshot()
    assert later.failure_count < found.failure_count


def test_only_the_last_reasons_are_kept_each_with_both_its_ends() -> None:
    session = Session(study())
    for number in range(REASONS + 5):
        session.progress.notice(f"{number}: " + "x" * 2000 + f" (see the log {number})")
    notices = session.progress.snapshot().notices
    assert len(notices) == REASONS
    assert notices[-1].message.startswith(f"{REASONS + 4}: ")
    assert notices[-1].message.endswith(f"(see the log {REASONS + 4})")
    assert all(len(note.message) <= LETTERS for note in notices)
    assert shortened("short") == "short"


def test_a_search_is_told_by_its_points() -> None:
    session = Session(study(PILOT))
    before = session.progress.snapshot()
    assert [(s.arm, s.kind, s.points, s.finished) for s in before.searches] == [("constant", "pilot", 0, False)]
    assert any(chain.trial is not None for chain in before.chains)
    after = session().searches[0]
    assert after.finished
    assert after.points >= 3
    assert after.best is not None
    assert set(after.params) == {"max_lr"}


def test_what_still_moves_comes_first_and_trials_last() -> None:
    def chain(arm: str, state: str, trial: int | None = None) -> ChainView:
        return ChainView.model_validate(
            {"arm": arm, "seed": 0, "trial": trial, "state": state, "cycle": 0, "closed": 0, "remaining": 1.0}
        )

    chains = [chain("t", "open", 0), chain("a", "done"), chain("b", "open"), chain("c", "waits"), chain("d", "ended")]
    assert [found.arm for found in foremost(chains, 2)] == ["b", "c"]
    assert [found.arm for found in foremost(chains, 3)] == ["t", "b", "c"]
    assert foremost(chains, 9) == chains


def test_a_snapshot_of_a_large_run_is_small_and_cheap() -> None:
    made = study({"cycles": 20, "replicates.seeds": list(range(60)), "arms.greedy.grid.points": 12})
    assert len(made.arms) * 60 > CHAINS
    session = Session(made, world=World(spread), seconds=0.01)
    session(3000)
    for number in range(REASONS):
        session.progress.notice(f"unit {number} failed ({'x' * LETTERS})")
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        data = seal(session.progress.snapshot().model_dump(mode="json"))
        seconds.append(time.perf_counter() - began)
    assert len(data) < 100_000
    assert min(seconds) < 0.005 * status_module.WRITE_SECONDS
    found = session.progress.snapshot()
    assert len(found.chains) == CHAINS
    assert sum(found.more.values()) == len(made.arms) * 60 - CHAINS


def test_counting_what_is_left_takes_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(study({"arms.guided": {**GUIDED, "tests": []}}), seconds=1.0)
    counts = []

    def slow(*given: Any) -> Any:
        counts.append(1)
        session.clock.seconds += 0.5
        return forecast(*given)

    monkeypatch.setattr("silo_tune.run.progress.forecast", slow)
    session.progress.recount()
    assert not counts  # nothing came since the first count
    began = session.clock.seconds
    while session.drive(session.planner, 1):
        session.clock.seconds += 9
        session.progress.recount()
    assert 0.5 * len(counts) <= 0.01 * (session.clock.seconds - began)
    assert len(counts) > 2


# --- when it is written ---


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorder looks and writes more often than it does for users."""
    monkeypatch.setattr(status_module, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(status_module, "WRITE_SECONDS", 0.05)


def until(true: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.02)


def test_a_session_is_written_while_it_goes_and_when_it_ends(tmp_path: Path, quick: None) -> None:
    run = Run(str(tmp_path / "run"))
    run.accept(study(), {})
    with run.lease() as lease:
        session = Session(study(), run)
        with recorded(session.progress, run.storage, lease):
            until((tmp_path / "run" / STATUS).exists)
            assert read_status(run.url).driver == "running"
            session()
            until(lambda: not any(chain.active for chain in _chains(read_status(run.url).snapshot)))
        ended = read_status(run.url)
        assert ended.driver == "finished"  # its own last words, though it still holds the lease
    assert read_status(run.url).driver == "finished"
    assert ended.snapshot is not None
    assert (ended.snapshot.pid, ended.snapshot.attempt) == (os.getpid(), lease.attempt)


def _chains(snapshot: Snapshot | None) -> tuple[ChainView, ...]:
    assert snapshot is not None
    return snapshot.chains


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RunFailed("the storage is full"), "the storage is full"),
        (ValueError("a bug"), "ValueError: a bug"),
        (KeyboardInterrupt(), None),
    ],
)
def test_a_session_says_how_it_was_stopped(
    tmp_path: Path, quick: None, error: BaseException, reason: str | None
) -> None:
    run = Run(str(tmp_path / "run"))
    run.accept(study(), {})
    session = Session(study(), run)
    with pytest.raises(type(error)), run.lease() as lease, recorded(session.progress, run.storage, lease):
        raise error
    found = read_status(run.url)
    assert found.driver == "stopped"
    assert found.snapshot is not None
    assert found.snapshot.reason == reason


def one_session(run: Run, units: int | None = None) -> Snapshot:
    """A session of so many units, each ten seconds long; gives its last words."""
    session = Session(study(), run)
    with run.lease() as lease, recorded(session.progress, run.storage, lease):
        run.accept(study(), {})
        session(units)
    found = read_status(run.url).snapshot
    assert found is not None
    return found


def test_the_time_of_a_run_is_that_of_all_its_sessions(tmp_path: Path, quick: None) -> None:
    run = Run(str(tmp_path / "run"))
    first, second, third = (one_session(run, units) for units in (4, 7, 2))
    assert (first.earlier, first.elapsed, first.clock) == (0, 40, 40)
    assert (second.earlier, second.elapsed, second.clock) == (40, 70, 110)
    assert (third.earlier, third.elapsed, third.clock) == (110, 20, 130)
    assert "elapsed 1:10 (1:50 with earlier sessions)" in lines_below(second)[-1]
    assert "earlier" not in lines_below(first)[-1]
    assert read(run.url).ledger["clock_seconds"] == 130
    (tmp_path / "run" / STATUS).unlink()
    assert "clock_seconds" not in read(run.url).ledger
    lost = one_session(run, 1)
    assert (lost.earlier, lost.clock) == (None, None)  # and not the time of this session alone
    assert "clock_seconds" not in read(run.url).ledger


def test_a_session_that_never_trains_writes_nothing(tmp_path: Path, quick: None) -> None:
    run = Run(str(tmp_path / "run"))
    with pytest.raises(BadInput), run.lease() as lease, recorded(Progress(study()), run.storage, lease):
        raise BadInput("the study does not fit the run")
    assert not (tmp_path / "run" / STATUS).exists()


def test_a_driver_that_lost_its_lease_leaves_the_file_to_the_other(tmp_path: Path, quick: None) -> None:
    run = Run(str(tmp_path / "run"))
    with run.lease() as lease:
        lease.lost.set()
        with recorded(Session(study(), run).progress, run.storage, lease):
            time.sleep(0.2)
    assert not (tmp_path / "run" / STATUS).exists()


def test_storage_that_fails_costs_a_session_nothing(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(str(tmp_path / "run"))
    tried = []

    def fails(self: Storage, name: str, data: bytes) -> None:
        tried.append(name)
        time.sleep(0.3)
        raise StorageError("no answer")

    with run.lease() as lease:
        monkeypatch.setattr(Storage, "replace", fails)
        session = Session(study(), MemoryJournal())
        with recorded(session.progress, run.storage, lease):
            until(lambda: tried)
            began = time.monotonic()
            session()
            assert time.monotonic() - began < 5
            until(lambda: tried.count(STATUS) > 2)  # it goes on trying
        monkeypatch.undo()


def test_counting_that_takes_long_does_not_keep_a_session_from_its_last_words(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(str(tmp_path / "run"))
    run.accept(study(), {})
    counts, done = threading.Event(), threading.Event()

    def long(*given: Any) -> Any:
        counts.set()
        assert done.wait(60)
        return forecast(*given)

    with run.lease() as lease:
        session = Session(study(), run)
        monkeypatch.setattr("silo_tune.run.progress.forecast", long)
        with recorded(session.progress, run.storage, lease):
            session(4)
            session.clock.seconds += 10_000
            assert counts.wait(30)
            session()
    assert read_status(run.url).driver == "finished"
    done.set()


# --- what a reader makes of it ---


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with failures, divergence, repeats and chains that ended early, simulated to its end."""
    run = Run(str(tmp_path_factory.mktemp("mixed") / "run"))
    made = study({"arms.guided": {**GUIDED, "guided": {**GUIDED["guided"], "repeat_top": 2}}})  # type: ignore[dict-item]
    run.accept(made, {})
    with run.lease() as lease:
        session = Session(made, run, World(spread))
        with recorded(session.progress, run.storage, lease):
            session()
    return run


def test_decisions_alone_say_the_same_of_the_chains(mixed: Run) -> None:
    told = read_status(mixed.url).snapshot
    assert told is not None
    derived = from_decisions(mixed.storage, mixed.study())
    names = ("arm", "seed", "state", "closed", "max_lr", "val_score")

    def facts(snapshot: Snapshot) -> dict[str, tuple[Any, ...]]:
        # Of a chain that ended early the last winner is not looked up.
        return {c.label: tuple(getattr(c, n) for n in (names[:4] if c.state == "ended" else names))
                for c in snapshot.chains}  # fmt: skip

    assert facts(derived) == facts(told)
    assert {end.chain for end in derived.ended} == {end.chain for end in told.ended}
    assert told.ended
    assert derived.state == "finished"
    assert derived.units is None


def test_decisions_alone_say_that_a_conditioned_oracle_ended_with_its_leader(tmp_path: Path) -> None:
    run, made = Run(str(tmp_path / "run")), study({"replicates.seeds": [0], "arms.greedy": None})
    silo = made.schedule_of(made.arms["silo"])  # type: ignore[arg-type]
    rate = silo.peak(2, made.pruned)  # type: ignore[union-attr]

    def fate(unit: Unit) -> str:
        return "failed" if unit.cycle == 2 and resolved(unit) == pytest.approx(rate) else "ok"

    session = Session(made, run, World(fate))
    told = {end.chain: end.reason for end in session().ended}
    assert told["conditioned seed 0"] == f"silo ended: {told['silo seed 0']}"
    derived = from_decisions(run.storage, made)
    assert {end.chain: end.reason for end in derived.ended} == told
    assert derived.state == "finished"


@pytest.mark.parametrize("damage", ["deleted", "cut", "of another version", "flipped"])
def test_a_missing_or_damaged_snapshot_is_made_up_for(mixed: Run, damage: str) -> None:
    file = Path(mixed.url) / STATUS
    whole = file.read_bytes()
    try:
        if damage == "deleted":
            file.unlink()
        elif damage == "cut":
            file.write_bytes(whole[:-100])
        elif damage == "flipped":
            file.write_bytes(whole.replace(b"done", b"dune", 1))
        else:
            file.write_bytes(seal({"study": "tiny", "cycles": 4, "state": "on its way to the moon"}))
        found = read_status(mixed.url)
        assert found.driver == "finished"
        assert found.note is not None
        assert "decisions" in found.note
        assert len(_chains(found.snapshot)) == 12
        assert file.exists() == (damage != "deleted")  # a reader mends nothing
    finally:
        file.write_bytes(whole)


def test_keys_of_a_newer_version_are_left_alone(mixed: Run) -> None:
    body = json.loads((Path(mixed.url) / STATUS).read_bytes())
    assert Snapshot.model_validate({**body, "mood": "good"}).chains


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_reader_writes_nothing_even_where_files_are_damaged(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    run.accept(study(), {})
    Session(study(), run)(40)
    decision = max((tmp_path / "run" / "chains" / "silo" / "seed-0").iterdir())
    decision.write_bytes(b"{")
    before = files(tmp_path / "run")
    found = read_status(run.url)
    assert found.driver == "none"
    assert files(tmp_path / "run") == before
    silo = _chains(found.snapshot)[0]
    assert (silo.arm, silo.state, silo.closed) == ("silo", "open", int(decision.name[6:9]))


def test_many_runs_have_a_line_each_and_a_damaged_one_hides_none(tmp_path: Path, mixed: Run) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(mixed.url, runs / ("a-very-long-name-" * 3))
    for name in ("begun", "at-work", "damaged"):
        Run(str(runs / name)).accept(study(), {})
    lease_elsewhere(Run(str(runs / "at-work")), 5, "x")
    (runs / "damaged" / "study.toml").write_text("x = 1")
    (runs / "no-run").mkdir()
    whole = in_process("status", str(runs))
    table, _, below = whole.stdout.partition("\n\n")
    assert whole.returncode == 0
    assert all(len(line) <= 80 for line in table.splitlines()), table
    states = dict(zip(("long", "at-work", "begun", "damaged"), table.splitlines()[1:], strict=True))
    words = {"long": "finished", "at-work": "running", "begun": "no driver", "damaged": "see below"}
    assert all(word in states[name] for name, word in words.items())
    assert below.startswith(f"{runs}/damaged/study.toml is a study and not the record of a run")
    named = in_process("status", str(runs / "begun"), mixed.url, "--json")
    assert [each["driver"] for each in json.loads(named.stdout)] == ["none", "finished"]
    assert in_process("status", str(runs), "--follow").returncode == 2
    assert in_process("status", str(runs / "no-run")).returncode == 2


def lease_elsewhere(run: Run, age: float, attempt: str) -> None:
    body = {"host": "elsewhere", "pid": 4242, "started": "1", "attempt": attempt}
    run.storage.replace("lease/0001.json", seal(body))
    moment = time.time() - age
    os.utime(run.storage.path("lease/0001.json"), (moment, moment))


def test_what_became_of_the_driver(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    with pytest.raises(BadInput, match="no run at"):
        read_status(run.url)
    lease_elsewhere(run, 5, "x")
    assert read_status(run.url).driver == "getting ready"  # it has not recorded its study yet
    run.accept(study(), {})
    assert read_status(run.url).driver == "running"  # of a version without snapshots, as far as can be seen
    body = Session(study(), run).progress.snapshot().model_dump(mode="json")
    run.storage.replace(STATUS, seal({**body, "lease": 1, "attempt": "x"}))
    found = read_status(run.url)
    assert (found.driver, found.pid, found.host) == ("running", 4242, "elsewhere")
    assert found.heartbeat == pytest.approx(5, abs=4)
    lease_elsewhere(run, 5, "the next")
    assert read_status(run.url).driver == "getting ready"  # the snapshot is of the session before
    lease_elsewhere(run, LEASE_EXPIRES_SECONDS + 1, "x")
    assert read_status(run.url).driver == "gone"
    run.storage.delete("lease/0001.json")
    assert read_status(run.url).driver == "gone"  # its last words say that it was at work
    run.storage.delete(STATUS)
    assert read_status(run.url).driver == "none"


def test_the_lease_of_a_driver_that_died_says_nothing_of_those_after_it(tmp_path: Path, quick: None) -> None:
    run = Run(str(tmp_path / "run"))
    run.accept(study(), {})
    lease_elsewhere(run, LEASE_EXPIRES_SECONDS + 1, "died")
    with run.lease() as lease:
        session = Session(study(), run)
        with recorded(session.progress, run.storage, lease):
            session()
    assert run.storage.names("lease") == []
    found = read_status(run.url)
    assert (found.driver, found.pid) == ("finished", None)


def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of this thread's operations on storage from here on."""
    made: list[str] = []
    reader = threading.current_thread()
    for name in ("read", "exists", "names", "age", "create", "replace", "delete", "quarantine"):

        def counted(self: Storage, *given: Any, real: Any = getattr(Storage, name), name: str = name) -> Any:
            if threading.current_thread() is reader:  # a lease beats, and a driver counts
                made.append(f"{name} {given[0]}")
            return real(self, *given)

        monkeypatch.setattr(Storage, name, counted)
    return made


@pytest.mark.parametrize("units", [3, 200])
def test_a_status_takes_a_handful_of_requests_however_many_units_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None, units: int
) -> None:
    run = Run(str(tmp_path / "run"))
    made = study({"cycles": 12})
    run.accept(made, {})
    with run.lease() as lease:
        session = Session(made, run)
        with recorded(session.progress, run.storage, lease):
            session(units)
        with monkeypatch.context() as patch:
            asked = counting(patch)
            read_status(run.url)
    assert len(asked) == 6
    assert not [name for name in asked if "units" in name or "chains" in name]
    asked = counting(monkeypatch)
    from_decisions(run.storage, made)
    assert len(asked) <= 3 * len(made.arms) * 2
    assert not [name for name in asked if name.startswith(("names units", "exists"))]


def test_without_a_snapshot_only_so_many_chains_are_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(str(tmp_path / "run"))
    made = study({"replicates.seeds": list(range(200))})
    run.accept(made, {})
    asked = counting(monkeypatch)
    found = from_decisions(run.storage, made)
    assert len(asked) <= 3 * status_module.LOOKED_UP
    assert len(found.chains) == status_module.LOOKED_UP
    assert found.more == {"not looked up": 900}
    assert found.state is None


# --- whole runs ---


def test_a_run_from_python_can_be_watched_too(tmp_path: Path) -> None:
    outcome = run_study(small_study(), str(tmp_path / "run"), local=True)
    found = read_status(outcome.url)
    assert found.driver == "finished"
    assert found.snapshot is not None
    assert found.snapshot.units is not None
    assert found.snapshot.units.trained == outcome.counts.trained
    run_study(small_study(), str(tmp_path / "run"), local=True)
    again = read_status(outcome.url).snapshot
    assert again is not None
    assert again.units is not None
    assert (again.state, again.units.trained, again.units.reused) == ("finished", 0, outcome.counts.trained)


def test_the_log_of_a_failed_unit_is_named(tmp_path: Path) -> None:
    fragile = {"name": None, "function": "tests.users:fragile", "version": "1", "marker": "always"}
    table = {**small_table(cluster={"max_failures": 1}), "model": {k: v for k, v in fragile.items() if v is not None}}
    from silo_tune.study.study_file import parse_study

    run_study(parse_study(table), str(tmp_path / "run"), local=True, preflight=False)
    found = read_status(str(tmp_path / "run")).snapshot
    assert found is not None
    assert found.failure_count == 1
    assert "RuntimeError: this network never trains" in found.failures[0].reason
    log = found.failures[0].reason.partition("(see ")[2].rstrip(")")
    assert "this network never trains" in Path(log).read_text()
    assert [note.message for note in found.notices if "attempt 1" in note.message]
    assert len(found.ended) == len(table["arms"])


def status_of(place: Path, *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "silo_tune", "status", str(place), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **more)


@pytest.mark.slow
def test_a_killed_driver_is_gone_and_its_chains_are_known(tmp_path: Path) -> None:
    file, folder = tmp_path / "small.toml", tmp_path / "run"
    file.write_text(tomli_w.dumps(small_table(replicates={"seeds": list(range(20))})))
    process = driver(file, folder)
    wait_for(folder, 4, process)
    until((folder / STATUS).exists)
    assert "running (process" in status_of(folder).stdout
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    said = status_of(folder)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith(f"small at {folder}: the driver is gone since ")
    assert f"(process {process.pid} on" in said.stdout.splitlines()[0]
    assert "run the same command again" in said.stdout.splitlines()[1]
    assert "ETA" not in said.stdout
    (folder / STATUS).unlink()
    assert "the driver is gone" in status_of(folder).stdout


USER = "import pathlib\npathlib.Path('seen').touch()\ndef falling(cycle, pruned):\n    return 0.1\n"
PROBE = """import json, sys
from silo_tune.cli import main
sys.argv = ["silo-tune", "status", "run"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps(sorted(sys.modules)))
"""


def test_a_status_imports_nothing_heavy_and_nothing_of_the_users(tmp_path: Path, only_svg: None) -> None:
    (tmp_path / "mine.py").write_text(USER)
    arm = {"mode": "schedule", "schedule": {"function": "mine:falling", "version": "1"}}
    (tmp_path / "theirs.toml").write_text(tomli_w.dumps(small_table(cycles=2, arms={"theirs": arm})))
    assert in_process("run", "theirs.toml", "--local", "--out", "run", cwd=tmp_path).returncode == 0
    sys.modules.pop("mine", None)
    (tmp_path / "seen").unlink()  # the driver did import it
    for kept in (True, False):
        if not kept:
            (tmp_path / "run" / STATUS).unlink()
        done = subprocess.run([sys.executable, "-c", PROBE], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "theirs" in done.stdout
        loaded = set(json.loads(done.stdout.splitlines()[-1]))
        assert not loaded & {"mine", "torch", "ray", "optuna", "pandas", "matplotlib", "numpy"}
        assert not (tmp_path / "seen").exists()


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    front = s3()
    with pytest.MonkeyPatch.context() as patch:
        front.start()
        patch.setenv("AWS_ENDPOINT_URL", front.url)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3", skip_instance_cache=True).call_s3("create_bucket", Bucket="runs")
        yield "s3://runs"
        front.stop()


@pytest.mark.slow
def test_a_run_on_object_storage_is_watched_as_any_other(bucket: str) -> None:
    url = f"{bucket}/watched"
    run_study(small_study(cycles=2), url, local=True)
    found = read_status(url)
    assert found.driver == "finished"
    assert found.note is None
    Storage(url).delete(STATUS)
    derived = read_status(url)
    assert derived.driver == "finished"
    assert [(c.label, c.closed) for c in _chains(derived.snapshot)] == [
        (c.label, c.closed) for c in _chains(found.snapshot)
    ]
    with Lease(Storage(url)):
        assert read_status(url).driver == "running"
    with pytest.raises(BadInput, match="no run at"):
        read_status(f"{bucket}/nothing")
