"""The session of a driver, as far as snapshots of it need it. Plain Python, without Ray or torch."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from silo_tune.formats import plural
from silo_tune.planner.chain import Chain
from silo_tune.planner.forecast import Pace, Spent, forecast
from silo_tune.planner.planner import Planner
from silo_tune.planner.search import Search
from silo_tune.planner.unit import Unit
from silo_tune.planner.winner import value_told
from silo_tune.store.lease import Lease
from silo_tune.store.snapshot import (
    CHAINS,
    REASONS,
    RECENT,
    RUNNING,
    ChainView,
    Ended,
    Failure,
    Note,
    RunningView,
    SearchView,
    Snapshot,
    State,
    Units,
    foremost,
    shortened,
)
from silo_tune.study.model import Study
from silo_tune.study.wording import words_of

# Counting what is left reads many files of a large run: it takes at most this share of the time.
COUNTING_SHARE = 1 / 200


@dataclass
class _Running:
    """A trial under way, by a clock that only goes forward. `first` is what was heard first of its epochs, and when."""

    unit: Unit
    chain: str
    began: float
    moved: float
    epoch: int = 0
    first: tuple[int, float] | None = None

    def move(self, now: float, epoch: int) -> None:
        self.epoch, self.moved = epoch, now
        self.first = self.first or (epoch, now)

    @property
    def trained(self) -> Spent | None:
        """Epochs that were heard of from the first on: before it may lie those of an earlier attempt."""
        if self.first is None or self.epoch <= self.first[0]:
            return None
        seconds = self.moved - self.first[1]
        return Spent(self.epoch - self.first[0], seconds, seconds)


@dataclass
class _Times:
    """Since when a chain's cycles are timed, after how many; when it last closed one, as which; and when it ended."""

    first: float
    before: int
    closed: int
    last: float | None = None
    over: float | None = None

    def close(self, now: float, closed: int) -> None:
        self.closed, self.last = closed, now
        if self.before == 0:  # the dense cycle tells nothing of the others
            self.first, self.before = now, closed

    @property
    def pace(self) -> float | None:
        """Seconds of a cycle; None before one is timed."""
        timed = self.closed - self.before
        return None if self.last is None or not timed else (self.last - self.first) / timed


class Progress:
    """One session of a driver: hears what a monitor hears, and gives snapshots. Any thread may ask for one.

    Args:
        study: the study.
        now: seconds of a clock that only goes forward.

    Attributes:
        earlier: seconds of training in earlier sessions; None where it is not known.
    """

    def __init__(self, study: Study, now: Callable[[], float] = time.monotonic) -> None:
        self.study, self._now = study, now
        self.earlier: float | None = None
        self._remaining: list[float] = []
        self._lock = threading.Lock()
        self._planner: Planner | None = None
        self._slots = 0
        self._began = self._began_at = 0.0
        self._state: Literal["running", "finished", "stopped"] = "running"
        self._reason: str | None = None
        self._done = 0
        self._outcomes: deque[float] = deque(maxlen=RECENT + 1)
        self._times: dict[str, _Times] = {}
        self._failures: dict[str, Failure] = {}
        self._notices: deque[Note] = deque(maxlen=REASONS)
        self._units = self._counted_done = 0
        self._left, self._epochs_left = 0.0, 0.0  # likely, when they were counted
        self._done_then, self._epochs_then = 0, 0
        self._count_again = 0.0
        self._running: dict[str, _Running] = {}
        self._ended = self._epochs_ended = 0
        self._spent: deque[Spent] = deque(maxlen=RECENT)  # by units of this session
        self._before: list[Spent] = []  # by all that was done when they were counted

    # --- what a session hears ---

    @property
    def begun(self) -> bool:
        """Has training begun?"""
        return self._planner is not None

    @property
    def done(self) -> bool:
        """Is nothing left to train?"""
        return self._planner is not None and self._planner.done

    def begin(self, planner: Planner, slots: int) -> None:
        """The planner is ready; training begins on so many slots."""
        self.study, self._remaining = planner.study, planner.study.remaining  # with what the run has begun before
        self._slots = slots
        self._began, self._began_at = self._now(), time.time()
        self._outcomes.append(self._began)
        for chain in planner.every_chain():
            self._times[chain.label] = _Times(self._began, chain.cycle, chain.cycle)
        self._planner = planner
        if not planner.done:
            self.count()

    def end(self, state: Literal["finished", "stopped"], reason: str | None = None) -> None:
        """The session is over."""
        self._state, self._reason = state, None if reason is None else shortened(reason)

    def notice(self, message: str) -> None:
        """Something that the user should know."""
        with self._lock:
            self._notices.append(Note(at=time.time(), message=shortened(message)))

    def began(self, unit: Unit) -> None:
        """A unit was given to a slot; or its worker stands ready only now, and it begins."""
        now = self._now()
        asker = None if self._planner is None else self._planner.asker(unit.key)
        with self._lock:
            self._running[unit.key] = _Running(unit, "a lost row" if asker is None else asker.label, now, now)

    def moved(self, key: str, epoch: int) -> None:
        """A unit under way has finished so many epochs."""
        with self._lock:
            if key in self._running:
                self._running[key].move(self._now(), epoch)

    def ended(self, key: str, outcome: Mapping[str, Any] | None) -> None:
        """A unit under way has an outcome, or, where that is None, will begin again."""
        with self._lock:
            ended = self._running.pop(key, None)
            if ended is None or outcome is None:
                return
            self._ended += 1
            self._epochs_ended += ended.unit.epochs
            if outcome.get("train_seconds") is not None:
                self._spent.append(Spent(ended.unit.epochs, outcome["train_seconds"], self._now() - ended.began))

    def changed(self, chain: Chain) -> None:
        """A chain heard an outcome, opened, closed or ended."""
        with self._lock:
            for outcome in chain.told.values():
                if outcome["status"] != "failed":
                    self._failures.pop(outcome["key"], None)
                elif outcome["key"] not in self._failures:
                    self._failures[outcome["key"]] = _failure(chain, outcome)
            if self._planner is None:  # what earlier sessions did is heard again
                return
            now, done = self._now(), self._outcomes_of(self._planner)
            self._outcomes.extend([now] * (done - self._done))
            self._done = done
            times = self._times.setdefault(chain.label, _Times(now, chain.cycle, chain.cycle))
            if chain.cycle > times.closed:
                times.close(now, chain.cycle)
            if not chain.active and times.over is None:
                times.over = now

    @staticmethod
    def _outcomes_of(planner: Planner) -> int:
        return planner.counts.trained + planner.counts.failed

    # --- what is left ---

    def count(self) -> None:
        """Count the units of this session: those that are done, and at most those that are left."""
        assert self._planner is not None
        began = self._now()
        done = self._outcomes_of(self._planner)
        ended, epochs_ended = self._ended, self._epochs_ended
        arms, self._before = forecast(self._planner.layout, self._planner.journal)
        self._units, self._counted_done = done + sum(arm.to_train for arm in arms.values()), done
        with self._lock:
            self._left, self._done_then = sum(arm.left for arm in arms.values()), ended
            self._epochs_left, self._epochs_then = sum(arm.epochs for arm in arms.values()), epochs_ended
        now = self._now()
        self._count_again = now + (now - began) / COUNTING_SHARE

    def recount(self) -> None:
        """Count again where an outcome came since, and not too often: a closed round or cycle knows better."""
        if self._planner is None or self._outcomes_of(self._planner) == self._counted_done:
            return
        if self._now() >= self._count_again:
            self.count()

    # --- snapshots ---

    def units(self) -> Units:
        """Units of this session."""
        assert self._planner is not None
        counts = self._planner.counts
        left = 0 if self._planner.done else max(0, self._units - self._outcomes_of(self._planner))
        return Units(
            trained=counts.trained,
            shared=counts.shared,
            reused=counts.reused,
            taken=counts.taken,
            failed=counts.failed,
            left=left,
        )

    def pace(self) -> dict[str, float | None]:
        """Seconds so far, units an hour, the busy share, and the ETA: the one place where they are computed."""
        assert self._planner is not None
        now, units = self._now(), self.units()
        with self._lock:
            first, recent = self._outcomes[0], len(self._outcomes) - 1
        elapsed = now - self._began
        per_second = recent / (now - first) if recent and now > first else None
        capacity = elapsed * self._slots
        return {
            "elapsed": elapsed,
            "per_hour": 3600 * units.done / elapsed if units.done and elapsed > 0 else None,
            "recent_per_hour": 3600 * per_second if per_second else None,
            "busy": min(1.0, self._planner.counts.train_seconds / capacity) if capacity > 0 and units.done else None,
            "eta": self._eta() if units.left else None,
        }

    def _eta(self) -> float | None:
        """Seconds to the end: all that is left, shared by the slots; or the longest chain alone, if that is more.

        No order of the units takes less, and none that leaves no slot idle without need takes more than both together.
        """
        assert self._planner is not None
        with self._lock:
            running = dict(self._running)
            pace = self._pace(running)
            units = max(0.0, self._left - (self._ended - self._done_then))
            epochs = max(0.0, self._epochs_left - (self._epochs_ended - self._epochs_then))
        if pace is None:
            return None
        epochs -= sum(one.epoch for one in running.values())
        slots = min(max(self._slots, len(running), 1), self.study.cluster.max_concurrent or math.inf)
        return max(pace.seconds(units, max(0.0, epochs)) / slots, self._longest(pace, running))

    def _pace(self, running: Mapping[str, _Running]) -> Pace | None:
        """By what was trained in this session, or else before it, or by the epochs that are heard of."""
        heard = [one.trained for one in running.values()]
        return Pace.of(self._spent) or Pace.of(self._before) or Pace.of([spent for spent in heard if spent is not None])

    def _longest(self, pace: Pace, running: Mapping[str, _Running]) -> float:
        """Seconds of the longest chain: its cycles follow one another, however many slots there are."""
        assert self._planner is not None
        searches = [search for search in self._planner.searches.values() if not search.finished]
        searching = {search.arm: self._search_left(search, pace, running) for search in searches}
        pilot = max((searching[search.arm] for search in searches if search.plan.kind == "pilot"), default=0.0)
        ready = {arm: self._planner.layout.ready(arm) for arm in self.study.arms}  # else it waits for a pilot
        chains = [
            self._chain_left(chain, pace, running) + (0.0 if ready[chain.arm] else pilot)
            for chain in self._planner.chains.values()
            if chain.active
        ]
        return max([*chains, *searching.values()], default=0.0)

    def _search_left(self, search: Search, pace: Pace, running: Mapping[str, _Running]) -> float:
        """Seconds of a search: its rounds follow one another."""
        trials = dict(search.trials)
        points = len({trial for trial, _ in trials}) or 1
        rounds = math.ceil(max(0, search.plan.likely(search.closed) - len(search.closed) - points) / points)
        open_round = [self._chain_left(chain, pace, running) for chain in trials.values() if chain.active]
        return max(open_round, default=0.0) + rounds * self._chain_left(Chain(search.arm, 0), pace, {})

    def _chain_left(self, chain: Chain, pace: Pace, running: Mapping[str, _Running]) -> float:
        """Seconds of a chain's cycles that are not closed, of which each waits for the one before."""
        assert self._planner is not None
        layout, last = self._planner.layout, self.study.cycles - 1
        rounds, cycle = layout.rounds(chain.arm), chain.cycle
        dense, other = (pace.seconds(1, layout.epochs(chain.arm, which)) for which in (0, last))
        left = (dense if cycle == 0 else 0.0) + (last + 1 - max(1, cycle)) * rounds * other
        if not chain.open:
            return left
        untold = [candidate.unit.key for candidate in list(chain.candidates) if candidate.index not in chain.told]
        epochs = min((running[key].epoch if key in running else 0 for key in untold), default=0)
        return max(0.0, left - (chain.round - 1) * other - epochs * pace.epoch)

    def under_way(self) -> tuple[RunningView, ...]:
        """Trials under way, the longest without progress first."""
        with self._lock:
            running, now = dict(self._running), self._now()
            pace = self._pace(running)
        found = [
            RunningView(
                chain=one.chain,
                cycle=one.unit.cycle,
                max_lr=(one.unit.peak or {}).get("value"),
                epoch=one.epoch,
                epochs=one.unit.epochs,
                seconds=now - one.began,
                idle=now - one.moved,
                usual=None if pace is None else pace.epoch,
            )
            for one in running.values()
        ]
        return tuple(sorted(found, key=lambda one: -one.idle)[:RUNNING])

    def view(self, chain: Chain) -> ChainView:
        """One chain as it stands."""
        told = list(chain.told.values())  # the driver may add to it meanwhile
        good = [outcome for outcome in told if outcome["status"] == "ok"]
        winner = chain.best or {}
        best = max(good, key=value_told, default=winner)
        cycle = min(chain.cycle, self.study.cycles - 1)
        elapsed, eta = self._chain_times(chain)
        return ChainView(
            arm=chain.arm,
            seed=chain.seed,
            trial=chain.trial,
            state=_state(chain),
            cycle=cycle,
            closed=chain.cycle,
            remaining=self._remaining[cycle],
            told=len(told) if chain.open else 0,
            asked=len(chain.candidates) if chain.open else 0,
            max_lr=winner.get("max_lr"),
            val_score=winner.get("val_score"),
            best_max_lr=best.get("max_lr"),
            best_val_score=best.get("val_score"),
            elapsed=elapsed,
            eta=eta,
        )

    def _chain_times(self, chain: Chain) -> tuple[float | None, float | None]:
        times, now = self._times.get(chain.label), self._now()
        if times is None:
            return None, None
        if not chain.active:
            return None if times.over is None else times.over - self._began, None
        left = self.study.cycles - chain.cycle
        return now - self._began, None if times.pace is None else times.pace * left

    def snapshot(self, chains: int = CHAINS, lease: Lease | None = None) -> Snapshot:
        """How the run stands, with so many chains at most, told by the driver that holds the lease."""
        assert self._planner is not None
        every = list(self._planner.every_chain())
        shown = foremost(every, chains)
        inside = {id(chain) for chain in shown}
        ended = [chain for chain in every if chain.ended is not None and chain.stopped is None]
        with self._lock:
            failures, notices = list(self._failures.values()), tuple(self._notices)
        return Snapshot(
            words=words_of(self.study),
            study=self.study.name,
            cycles=self.study.cycles,
            state=self._state,
            reason=self._reason,
            host=socket.gethostname(),
            pid=os.getpid(),
            lease=None if lease is None else lease.number,
            attempt=None if lease is None else lease.attempt,
            began=self._began_at,
            seen=time.time(),
            earlier=self.earlier,
            slots=self._slots,
            units=self.units(),
            running=self.under_way(),
            **self.pace(),  # type: ignore[arg-type]
            chains=tuple(self.view(chain) for chain in shown),
            more=dict(Counter(_state(chain) for chain in every if id(chain) not in inside)),
            searches=tuple(map(_search_view, self._planner.searches.values())),
            ended=tuple(Ended(chain=c.label, reason=shortened(c.ended or "")) for c in ended[-REASONS:]),
            ended_count=len(ended),
            failures=tuple(failures[-REASONS:]),
            failure_count=len(failures),
            notices=notices,
            look=look_line(self._planner.looked[-1]) if self._planner.looked else None,
        )


def look_line(look: Mapping[str, Any]) -> str:
    """What came of a look, in one line."""
    rates = sum(len(rates) for cycles in look["dropped"].values() for rates in cycles.values())
    end = "nothing is left to train" if look["over"] else "training goes on"
    return (
        f"look {look['look']} of {len(look['looks'])}, {plural(len(look['seeds']), 'seed')}: {len(look['decided'])} of "
        f"{plural(len(look['verdicts']), 'cycle')} decided, {plural(rates, 'rate')} dropped; {end}"
    )


def _state(chain: Chain) -> State:
    if chain.ended is not None:
        return "ended"
    return "done" if chain.done else "open" if chain.open else "waits"


def _failure(chain: Chain, outcome: Mapping[str, Any]) -> Failure:
    reason = shortened(str(outcome["error"] or "no reason is known"))
    return Failure(chain=chain.label, cycle=chain.cycle, max_lr=outcome["max_lr"], reason=reason)


def _search_view(search: Search) -> SearchView:
    best = search.best()
    return SearchView(
        arm=search.arm,
        kind=search.plan.kind,
        points=len(search.closed),
        most=search.plan.most,
        rounds=search.rounds,
        finished=search.finished,
        best=None if best is None else best["objective"],
        params={} if best is None else dict(best["params"]),
    )
