"""RUN/status.json: written by the driver, read by whoever sees the run's storage.

The file is a cache that nothing else rests on. A reader makes a handful of requests, never lists units, writes nothing,
and imports nothing of the user's. Where the file is missing or damaged the chains' decisions answer instead.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from silo_tune.errors import BadInput, SiloTuneError
from silo_tune.planner.journal import continuing_key, looks_made, seeds_begun, why_ended
from silo_tune.results.doubts import require_own_study
from silo_tune.run.progress import Progress, look_line
from silo_tune.store.bodies import Decision, LookFile, Result, Round, shaped
from silo_tune.store.lease import Holder, Lease, holder, unreadable
from silo_tune.store.run_folder import Run
from silo_tune.store.snapshot import STATUS, ChainView, Ended, SearchView, Snapshot, State, shortened, snapshot_of
from silo_tune.store.storage import Corrupt, Storage, StorageError, seal, unseal
from silo_tune.store.unit_store import UnitStore
from silo_tune.study.arms import OracleArm, TuneArm
from silo_tune.study.model import Study
from silo_tune.study.wording import words_of

WRITE_SECONDS = 10.0
# How often the recording thread looks whether something is due.
TICK_SECONDS = 1.0
# So long a driver waits at its end for storage that does not answer.
LAST_WORD_SECONDS = 10.0
# Without a snapshot so many chains are looked up, with two or three requests each.
LOOKED_UP = 100


# --- the driver's side ---


@contextlib.contextmanager
def recorded(progress: Progress, storage: Storage, lease: Lease) -> Iterator[None]:
    """Keep RUN/status.json up to date from the beginning of training to the end of the session, however it ends.

    A thread writes, so that slow or failing storage costs the session nothing; at its end it waits a little. Another
    one counts what is left, which may take long and is not waited for.
    """
    over = threading.Event()
    progress.earlier = _earlier(storage)
    thread = threading.Thread(target=_record, args=(progress, storage, lease, over), daemon=True, name="status")
    thread.start()
    threading.Thread(target=_count, args=(progress, over), daemon=True, name="count").start()
    try:
        yield
        progress.end("finished" if progress.done else "stopped")
    except BaseException as error:
        progress.end("stopped", _why(error))
        raise
    finally:
        over.set()
        thread.join(LAST_WORD_SECONDS)


def _earlier(storage: Storage) -> float | None:
    """Seconds of training in earlier sessions; of one that was killed, up to its last snapshot."""
    with contextlib.suppress(StorageError):
        found, _ = snapshot_of(storage)
        if found is not None:
            return found.clock
        if not storage.exists("study.toml"):
            return 0.0
    return None


def _why(error: BaseException) -> str | None:
    if isinstance(error, SiloTuneError):
        return str(error)
    return f"{type(error).__name__}: {error}" if isinstance(error, Exception) else None


def _record(progress: Progress, storage: Storage, lease: Lease, over: threading.Event) -> None:
    due = 0.0
    while not over.wait(TICK_SECONDS):
        if progress.begun and time.monotonic() >= due:
            _write(progress, storage, lease)
            due = time.monotonic() + WRITE_SECONDS
    if progress.begun:
        _write(progress, storage, lease)


def _count(progress: Progress, over: threading.Event) -> None:
    while not over.wait(TICK_SECONDS):
        with contextlib.suppress(StorageError):
            progress.recount()


def _write(progress: Progress, storage: Storage, lease: Lease) -> None:
    if lease.lost.is_set():  # another driver writes it now
        return
    with contextlib.suppress(StorageError):
        storage.replace(STATUS, seal(progress.snapshot(lease=lease).model_dump(mode="json")))


# --- the reader's side ---

Driver = Literal["running", "getting ready", "gone", "stopped", "finished", "none"]


class Status(BaseModel):
    """What is known of a run.

    Attributes:
        url: the run folder.
        at: when this was read, in seconds since the epoch.
        driver: running | getting ready (it holds the run, and has no snapshot yet) | gone (it died) | stopped (it said
            so) | finished | none (nobody holds the run, and there is no snapshot that says why).
        host, pid: of the driver that holds the run, or died holding it.
        heartbeat: seconds since its last one.
        created: when the run was made, as the run says it.
        snapshot: None before a first study was accepted.
        note: what to know of the snapshot, or None.
        report: where the report is, or None.
    """

    url: str
    at: float
    driver: Driver
    host: str | None = None
    pid: int | None = None
    heartbeat: float | None = None
    created: str | None = None
    snapshot: Snapshot | None = None
    note: str | None = None
    report: str | None = None


def read_status(url: str) -> Status:
    """How a run stands, from its files.

    Raises:
        BadInput: there is no run at that place, or a record.
        StorageError: the storage failed.
    """
    run = Run(url)
    recorded_study, held = run.recorded(), holder(run.storage)
    if recorded_study is None:
        if held is not None and held.alive:
            return Status(url=url, at=time.time(), driver="getting ready", **_who(held))
        run.study()  # says that there is none
        raise AssertionError
    study, ledger = recorded_study
    snapshot, note = snapshot_of(run.storage)
    if snapshot is not None and snapshot.study != study.name:
        require_own_study(run, study, ledger["recipe"])  # else which of the two is wrong cannot be told
        snapshot, note = None, f"{run.storage.shown(STATUS)} is of another study; this is what the run's decisions say"
    if snapshot is None and run.is_record(study):
        raise BadInput(f"{url} is a record: nothing in it is running; `silo-tune report {url}` shows what came of it")
    if snapshot is None:
        snapshot = from_decisions(run.storage, study)
    if held is None and (damaged := unreadable(run.storage)) is not None:
        note = f"{run.storage.shown(damaged)} is damaged: who held the run is not known" + (f". {note}" if note else "")
    held = _standing(held, snapshot)
    report = "report/report.html"
    return Status(
        url=url,
        at=time.time(),
        driver=_driver(snapshot, held),
        **_who(held),
        created=str(ledger["created"]),
        snapshot=snapshot,
        note=note,
        report=run.storage.shown(report) if run.storage.exists(report) else None,
    )


def runs_of(url: str) -> list[str]:
    """The run at this place, or the runs in the folder there, by name; its folders are not searched.

    Raises:
        BadInput: there is neither.
        StorageError: the storage failed.
    """
    storage = Run(url).storage
    if storage.exists("study.toml"):
        return [url]
    found = [name for name in storage.names("") if storage.exists(f"{name}/study.toml")]
    return [storage.shown(name) for name in found] or [url]


def read_each(urls: Sequence[str]) -> Iterator[tuple[str, Status | SiloTuneError]]:
    """How each of several runs stands, or why it cannot be said: one that is damaged hides none of the others."""
    for url in urls:
        try:
            yield url, read_status(url)
        except SiloTuneError as error:
            yield url, error


def _who(held: Holder | None) -> dict[str, Any]:
    return {} if held is None else {"host": held.host, "pid": held.pid, "heartbeat": held.age}


def _driver(snapshot: Snapshot, held: Holder | None) -> Driver:
    """What became of the driver, from its last words and from the lease."""
    own = held is None or snapshot.attempt == held.attempt  # else the snapshot is of an earlier session
    if own and snapshot.state in ("finished", "stopped"):
        return snapshot.state
    if held is not None and held.alive:
        return "running" if own or snapshot.attempt is None else "getting ready"
    return "none" if held is None and snapshot.state is None else "gone"


def _standing(held: Holder | None, snapshot: Snapshot) -> Holder | None:
    """Who holds the run, but for a driver that died before the snapshot's took over and gave its own lease back."""
    later = held is not None and snapshot.lease is not None and snapshot.lease > held.number
    return None if later else held


# --- without a snapshot ---

_DECISION = re.compile(r"cycle-(\d+)-round-(\d+)\.json")
_ROUND = re.compile(r"round-(\d+)\.json")


def from_decisions(storage: Storage, study: Study) -> Snapshot:
    """What the files of decisions say of a run: two or three requests a chain, for at most `LOOKED_UP` chains."""
    own = [arm for arm, found in study.arms.items() if not isinstance(found, TuneArm)]
    looks = looks_made(_Looks(storage), study)
    every = [(arm, seed) for seed in seeds_begun(study, looks) for arm in own]
    chains: dict[tuple[str, int], ChainView] = {}
    ended: dict[tuple[str, int], str] = {}
    for arm, seed in every[:LOOKED_UP]:
        chains[arm, seed], reason = _chain(storage, study, arm, seed)
        if reason is not None:
            ended[arm, seed] = reason
    _end_followers(study, chains, ended)
    searches = tuple(_search(storage, study, arm) for arm in study.arms if study.searched(arm))
    # A pilot is over when its arm's own chains are.
    searched = all(search.finished for search in searches if search.kind == "tune")
    finished = searched and len(every) <= LOOKED_UP and not any(chain.active for chain in chains.values())
    finished = finished and (not study.looks or (len(looks) > 0 and looks[-1]["over"]))
    return Snapshot(
        words=words_of(study),
        study=study.name,
        cycles=study.cycles,
        state="finished" if finished else None,
        chains=tuple(chains.values()),
        more={"not looked up": len(every) - LOOKED_UP} if len(every) > LOOKED_UP else {},
        searches=searches,
        ended=tuple(Ended(chain=chains[where].label, reason=reason) for where, reason in ended.items()),
        ended_count=len(ended),
        look=look_line(looks[-1]) if looks else None,
    )


@dataclass(frozen=True)
class _Looks:
    """The looks of a run, without opening it."""

    storage: Storage

    def look(self, number: int) -> dict[str, Any] | None:
        return _sealed(self.storage, Run.look_name(number), LookFile)


def _chain(storage: Storage, study: Study, arm: str, seed: int) -> tuple[ChainView, str | None]:
    """A chain as its last decision tells it, and why it ended early."""
    folder = f"chains/{arm}/seed-{seed}"
    found = [match for name in storage.names(folder) if (match := _DECISION.fullmatch(name))]
    last = max(found, key=lambda match: (int(match[1]), int(match[2])), default=None)
    if last is None:
        return _view(study, arm, seed, 0, "waits", {}), None
    cycle = int(last[1])
    body = _sealed(storage, f"{folder}/{last[0]}", Decision)
    if body is None or not body["closes"]:  # a damaged decision is derived again
        return _view(study, arm, seed, cycle, "open", {}), None
    if continuing_key(body) is None and not _follows(study, arm):
        return _view(study, arm, seed, cycle, "ended", {}), shortened(why_ended(body, body["told"]))
    state: State = "done" if cycle + 1 == study.cycles else "waits"
    return _view(study, arm, seed, cycle + 1, state, _winner(storage, body)), None


def _winner(storage: Storage, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The winner's outcome: of this round, or of an earlier one of a search."""
    told: list[dict[str, Any]] = [outcome for outcome in body["told"] if outcome["key"] == body["winner"]]
    if told or body["winner"] is None:
        return told[0] if told else {}
    return _sealed(storage, f"{UnitStore.folder(body['winner'])}/result.json", Result) or {}


def _view(study: Study, arm: str, seed: int, closed: int, state: State, winner: Mapping[str, Any]) -> ChainView:
    cycle = min(closed, study.cycles - 1)
    rate, score = winner.get("max_lr"), winner.get("val_score")
    return ChainView(
        arm=arm,
        seed=seed,
        state=state,
        cycle=cycle,
        closed=closed,
        remaining=study.remaining[cycle],
        max_lr=rate,
        val_score=score,
        best_max_lr=rate,
        best_val_score=score,
    )


def _follows(study: Study, arm: str) -> str | None:
    """The arm that gives a conditioned Oracle its parents."""
    found = study.arms[arm]
    return found.prefix_arm if isinstance(found, OracleArm) else None


def _end_followers(study: Study, chains: dict[tuple[str, int], ChainView], ended: dict[tuple[str, int], str]) -> None:
    """A conditioned Oracle has one more cycle than its leader closed, and ends with it."""
    for (arm, seed), chain in list(chains.items()):
        leader = _follows(study, arm)
        if leader is None or (leader, seed) not in ended or chain.closed <= chains[leader, seed].closed:
            continue
        if chain.active:
            chains[arm, seed] = chain.model_copy(update={"state": "ended"})
            ended[arm, seed] = f"{leader} ended: {ended[leader, seed]}"


def _search(storage: Storage, study: Study, arm: str) -> SearchView:
    """A search as its last round tells it."""
    found = study.arms[arm]
    rounds = [int(match[1]) for name in storage.names(f"chains/{arm}/search") if (match := _ROUND.fullmatch(name))]
    last = max(rounds, default=0)
    body = _sealed(storage, Run.search_name(arm, last), Round) if last else None
    points = 0 if body is None else max(point["trial"] for point in body["points"]) + 1
    tunes = isinstance(found, TuneArm)
    most = found.trials if isinstance(found, TuneArm) else study.pilot.chains if study.pilot is not None else 0
    return SearchView(
        arm=arm,
        kind="tune" if tunes else "pilot",
        points=points,
        most=max(most, points),
        rounds=last,
        finished=tunes and points >= most,
    )


def _sealed(storage: Storage, name: str, kind: type[BaseModel]) -> dict[str, Any] | None:
    """A sealed file; None where it is gone or damaged, which is left to the driver to fix."""
    try:
        body = unseal(storage.read(name))
        shaped(kind, body)
    except (FileNotFoundError, Corrupt):
        return None
    return body
