"""What others hear of a run: events of plain values. Each callback has its own thread, so none can hold a run up."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from silo_tune.errors import BadInput, words
from silo_tune.planner.chain import Chain
from silo_tune.planner.planner import Planner
from silo_tune.planner.unit import Unit
from silo_tune.run.monitor import Monitor, Relay
from silo_tune.study.model import Study

WAITING = 10_000  # events that a callback may be behind
END_SECONDS = 5.0  # all callbacks together may take so long after the run's end
# Of an outcome, what an event tells; only what is known is there.
KNOWN = (
    "status", "max_lr", "val_score", "val_loss", "test_score", "weights_remaining", "train_seconds", "error",
)  # fmt: skip


@dataclass(frozen=True)
class ChainId:
    """One chain: an arm and a seed; `trial` is the number of the point, in a search over whole chains."""

    arm: str
    seed: int
    trial: int | None = None

    def __str__(self) -> str:
        return f"{self.arm} seed {self.seed}" + ("" if self.trial is None else f" trial {self.trial}")


@dataclass(frozen=True)
class Asker:
    """A chain that waits for a trial.

    Attributes:
        chain: which.
        candidate: number of the trial in its cycle; None where the cycle has no other.
        step: epochs of the chain's cycles before this one.
    """

    chain: ChainId
    candidate: int | None
    step: int


@dataclass(frozen=True)
class Trial:
    """One training of one cycle.

    Attributes:
        key: its identity on disk, the column `key` of the table.
        seed, cycle: where it stands; cycle 0 is the dense network.
        epochs: that it trains.
        max_lr: None where a rule finds it, or a checkpoint is taken.
        askers: the chains that wait for it. Chains that later need the same trial take it and are not here.
    """

    key: str
    seed: int
    cycle: int
    epochs: int
    max_lr: float | None
    askers: tuple[Asker, ...]


class Callback:
    """Hears how a run goes. Every method may be left as it is; all are called from one thread, in order.

    What it raises is told once, and it hears no more. One that is too slow, or hangs, is left out in the same way. A
    resumed run tells what is new. An outcome has these keys, where they are known: status ("ok", "diverged" or
    "failed"), max_lr, val_score, val_loss, test_score, weights_remaining, train_seconds, error.
    """

    def started(self, study: str, run: str) -> None:
        """Training begins: the study's name and the run's absolute path or URL. Not called where nothing is left."""

    def began(self, trial: Trial) -> None:
        """A trial began; again where its worker died."""

    def epoch(self, trial: Trial, epoch: int, train_loss: float) -> None:
        """So many epochs are done, with the mean training loss of the last. On Ray they come 2 s at a time."""

    def ended(self, trial: Trial, outcome: Mapping[str, Any]) -> None:
        """A trial has an outcome."""

    def closed(self, chain: ChainId, cycle: int, step: int, outcome: Mapping[str, Any]) -> None:
        """A cycle's outcome that its chain continues with; empty where it has none. Step: the chain's epochs so far.

        Of a trial that an earlier session or another run trained, the test score and what remains are not known here.
        """

    def over(self, chain: ChainId, reason: str | None) -> None:
        """A chain ended; with a reason if it ended early."""

    def notice(self, message: str) -> None:
        """Something the user should know."""

    def finished(self) -> None:
        """The session ended, by whatever cause."""


class _Listener:
    """A callback in its own thread. `problem` is why it is left out."""

    def __init__(self, callback: Callback) -> None:
        self.callback, self.name = callback, str(getattr(callback, "name", type(callback).__name__))
        self.problem: str | None = None
        self.told = False
        self._events: queue.Queue[tuple[Any, ...] | None] = queue.Queue(WAITING)
        self.thread = threading.Thread(target=self._run, name=f"callback {self.name}", daemon=True)
        self.thread.start()

    def post(self, event: tuple[Any, ...] | None) -> None:
        if self.problem is None:
            try:
                self._events.put_nowait(event)
            except queue.Full:
                self.problem = f"it is {WAITING} events behind"

    def _run(self) -> None:
        try:
            while (event := self._events.get()) is not None and self.problem is None:
                getattr(self.callback, event[0])(*event[1:])
        except BaseException as error:  # a callback may raise anything, SystemExit too
            self.problem = words(error)


class Callbacks(Relay):
    """Passes everything on to another monitor, and tells callbacks of it. See `heard_by`."""

    def __init__(self, to: Monitor, callbacks: Sequence[Callback], run: str) -> None:
        super().__init__(to)
        self._run, self._listeners = run, [_Listener(callback) for callback in callbacks]
        self._planner: Planner | None = None
        self._units: dict[str, Unit] = {}
        self._outcomes: dict[str, Mapping[str, Any]] = {}
        self._closed: dict[ChainId, int] = {}
        self._over: set[ChainId] = set()

    def started(self, study: Study, planner: Planner, slots: int) -> None:
        super().started(study, planner, slots)
        self._closed = {_id(chain): len(chain.closed) for chain in planner.every_chain()}
        self._over = {_id(chain) for chain in planner.every_chain() if not chain.active}
        self._planner = planner
        self._post("started", study.name, self._run)

    def began(self, unit: Unit) -> None:
        super().began(unit)
        if unit.key not in self._units:  # on Ray it is told again when the worker stands ready
            self._units[unit.key] = unit
            self._post("began", self._trial(unit))

    def moved(self, key: str, epoch: int, train_loss: float) -> None:
        super().moved(key, epoch, train_loss)
        if (unit := self._units.get(key)) is not None:
            self._post("epoch", self._trial(unit), epoch, train_loss)

    def ended(self, key: str, outcome: Mapping[str, Any] | None) -> None:
        super().ended(key, outcome)
        unit = self._units.pop(key, None)
        if unit is not None and outcome is not None:
            told = self._outcomes[key] = _told(outcome)
            self._post("ended", self._trial(unit), told)

    def changed(self, chain: Chain) -> None:
        super().changed(chain)
        if self._planner is None:  # what earlier sessions did is heard again
            return
        name, closed = _id(chain), len(chain.closed)
        if closed > self._closed.get(name, 0):
            self._closed[name] = closed
            key = chain.closed[-1]
            decided = next((outcome for outcome in chain.told.values() if outcome["key"] == key), {})
            told = _told({**decided, **self._outcomes.get(key or "", {})})
            self._post("closed", name, closed - 1, self._step(chain.arm, closed), told)
        if not chain.active and name not in self._over:
            self._over.add(name)
            self._post("over", name, chain.ended)

    def notice(self, message: str) -> None:
        super().notice(message)
        self._post("notice", message)

    def finish(self) -> None:
        """Wait for the callbacks to hear the end, END_SECONDS at most."""
        self._post("finished")
        until = time.monotonic() + END_SECONDS
        for listener in self._listeners:
            listener.post(None)
            listener.thread.join(max(0.0, until - time.monotonic()))
        self._tell()
        for listener in self._listeners:
            if listener.thread.is_alive() and listener.problem is None:
                late = (
                    f"{END_SECONDS:g} s after the end it has not heard all; what is left when this process ends is lost"
                )
                super().notice(f"callback {listener.name}: {late}")

    def _post(self, *event: Any) -> None:
        for listener in self._listeners:
            listener.post(event)
        self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            if listener.problem is not None and not listener.told:
                listener.told = True
                message = f"callback {listener.name}: {listener.problem}; it is left out from here, the run continues"
                if self.progress is not None:
                    self.progress.notice(message)
                super().notice(message)

    def _trial(self, unit: Unit) -> Trial:
        assert self._planner is not None
        askers = tuple(
            Asker(_id(chain), c.index if len(chain.candidates) > 1 else None, self._step(chain.arm, unit.cycle))
            for chain, c in self._planner.askers(unit.key)
        )
        return Trial(unit.key, unit.seed, unit.cycle, unit.epochs, (unit.peak or {}).get("value"), askers)

    def _step(self, arm: str, cycles: int) -> int:
        """Epochs of so many cycles."""
        assert self._planner is not None
        return sum(self._planner.layout.epochs(arm, cycle) for cycle in range(cycles))


def _id(chain: Chain) -> ChainId:
    return ChainId(chain.arm, chain.seed, chain.trial)


def _told(outcome: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType({name: outcome[name] for name in KNOWN if outcome.get(name) is not None})


@contextlib.contextmanager
def heard_by(callbacks: Sequence[Callback], monitor: Monitor, run: str) -> Iterator[Monitor]:
    """A monitor that passes everything on, to callbacks too, until the end of the block.

    Args:
        callbacks: who hears it.
        monitor: hears it as before.
        run: the run's absolute path or URL.

    Raises:
        BadInput: one is no Callback.
    """
    wrong = [
        f"callbacks[{i}]: {one!r} is no silo_tune.Callback"
        for i, one in enumerate(callbacks)
        if not isinstance(one, Callback)
    ]
    if wrong:
        raise BadInput("\n".join(wrong))
    if not callbacks:
        yield monitor
        return
    heard = Callbacks(monitor, callbacks, run)
    try:
        yield heard
    finally:
        heard.finish()
