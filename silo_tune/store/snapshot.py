"""How a run stands, as one small table: what the live table of `run` and `status` show, and RUN/status.json holds.

It knows nothing of the user's functions, so that whoever sees it can read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from silo_tune.formats import Words
from silo_tune.store.storage import Corrupt, Storage, unseal

STATUS = "status.json"
# The recent pace is that of so many units.
RECENT = 50
# What a snapshot holds at most: with all of it a snapshot stays below 100 KB.
CHAINS, REASONS, LETTERS, RUNNING = 150, 20, 500, 20
# A trial without progress for so many of its usual epochs, and for so many seconds, may hang.
HANGING_EPOCHS, HANGING_SECONDS = 5, 60.0

State = Literal["waits", "open", "done", "ended"]


class _Part(BaseModel):
    """A part of a snapshot. Keys that this version does not know are left out: a newer driver can be watched."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ChainView(_Part):
    """One chain.

    Attributes:
        state: waits (for another chain, a round or a rung) | open | done | ended (before its last cycle).
        cycle: the open one, or the last.
        closed: number of closed cycles.
        remaining: planned share of weights that this cycle leaves.
        told, asked: candidates of the open cycle with an outcome, and all that are asked so far.
        max_lr, val_score: of the last closed cycle's winner.
        best_max_lr, best_val_score: best so far of the open cycle, or that winner's.
        elapsed: seconds of this session until the chain's end, or until now; None where it had ended before.
        eta: expected seconds to its end.
    """

    arm: str
    seed: int
    trial: int | None = None
    state: State
    cycle: int
    closed: int
    remaining: float
    told: int = 0
    asked: int = 0
    max_lr: float | None = None
    val_score: float | None = None
    best_max_lr: float | None = None
    best_val_score: float | None = None
    elapsed: float | None = None
    eta: float | None = None

    @property
    def active(self) -> bool:
        return self.state in ("waits", "open")

    @property
    def label(self) -> str:
        """Arm, seed and trial, for people."""
        return f"{self.arm} seed {self.seed}" + ("" if self.trial is None else f" trial {self.trial}")


class SearchView(_Part):
    """A search over whole chains (a pilot, or a tune arm): points of its closed rounds, out of at most `most`."""

    arm: str
    kind: str
    points: int
    most: int
    rounds: int
    finished: bool = False
    best: float | None = None
    params: dict[str, float] = {}


class Units(_Part):
    """Units of this session by what became of them; `left` are those to come, at most.

    `reused` are those from before that it found done: with them the units are those of the whole run.
    """

    trained: int = 0
    shared: int = 0
    reused: int = 0
    taken: int = 0
    failed: int = 0
    left: int = 0

    @property
    def done(self) -> int:
        return self.trained + self.failed

    @property
    def whole(self) -> int:
        """Done in this session and before."""
        return self.reused + self.done


class RunningView(_Part):
    """A trial under way.

    Attributes:
        chain, cycle, max_lr: the first that asked for it.
        epoch, epochs: epochs that it is known to have finished, and all.
        seconds: since it began.
        idle: seconds since its last finished epoch that was heard of, or since it began.
        usual: seconds of an epoch of this study; None before one is known.
    """

    chain: str
    cycle: int
    max_lr: float | None = None
    epoch: int = 0
    epochs: int = 0
    seconds: float = 0.0
    idle: float = 0.0
    usual: float | None = None

    @property
    def hangs(self) -> bool:
        """Is it without progress for so long that something may be wrong?"""
        return self.usual is not None and self.idle > max(HANGING_EPOCHS * self.usual, HANGING_SECONDS)


class Failure(_Part):
    """A unit that failed for good; the reason names the kept log where there is one."""

    chain: str
    cycle: int
    max_lr: float | None = None
    reason: str


class Note(_Part):
    """What the driver had to say, and when (seconds since the epoch)."""

    at: float
    message: str


class Ended(_Part):
    """A chain that ended before its last cycle."""

    chain: str
    reason: str


class Snapshot(_Part):
    """How a run stands.

    Attributes:
        state: of the session: running | finished | stopped; None where no driver told it.
        reason: why it stopped, where that is known.
        host, pid, lease, attempt: of the driver; the number and attempt of its lease.
        began, seen: of this session's training and of this snapshot, in seconds since the epoch, by the driver's clock.
        elapsed: seconds of training so far, in this session.
        earlier: those of earlier sessions; None where it is not known.
        slots: units that can train at once.
        units: None where no driver counted them.
        per_hour, recent_per_hour: units an hour, of this session and of the last `RECENT` units.
        busy: share of the slots' time that went into training.
        eta: expected seconds to the end: all that is left, shared by the slots, or the longest chain alone. None before
            a pace is known.
        running: at most `RUNNING` trials under way, the longest without progress first.
        chains: at most `CHAINS`, those that still move first.
        more: the number of other chains by state.
        ended, failures, notices: the last `REASONS` of each; `ended_count` and `failure_count` count them all.
        words: how its scores are called and written.
        look: what came of the last look, in one line; None before the first, and in a study without.
    """

    study: str
    cycles: int
    state: Literal["running", "finished", "stopped"] | None = None
    reason: str | None = None
    host: str | None = None
    pid: int | None = None
    lease: int | None = None
    attempt: str | None = None
    began: float | None = None
    seen: float | None = None
    elapsed: float = 0.0
    earlier: float | None = None
    slots: int = 0
    units: Units | None = None
    per_hour: float | None = None
    recent_per_hour: float | None = None
    busy: float | None = None
    eta: float | None = None
    running: tuple[RunningView, ...] = ()
    chains: tuple[ChainView, ...] = ()
    more: dict[str, int] = {}
    searches: tuple[SearchView, ...] = ()
    ended: tuple[Ended, ...] = ()
    ended_count: int = 0
    failures: tuple[Failure, ...] = ()
    failure_count: int = 0
    notices: tuple[Note, ...] = ()
    look: str | None = None
    words: Words = Words()

    @property
    def clock(self) -> float | None:
        """Seconds that drivers trained so far, in all sessions; None where it is not known."""
        return None if self.earlier is None else self.earlier + self.elapsed


def snapshot_of(storage: Storage) -> tuple[Snapshot | None, str | None]:
    """The driver's last snapshot of a run, or None and why there is none."""
    try:
        return Snapshot.model_validate(unseal(storage.read(STATUS))), None
    except FileNotFoundError:
        return None, f"the run has no {STATUS} yet: this is what its decisions say"
    except (Corrupt, ValidationError):
        return None, (
            f"{storage.shown(STATUS)} is damaged, or of a newer version; the driver writes it anew. This is what the "
            f"run's decisions say"
        )


class _Moving(Protocol):
    """A chain, or the view of one."""

    @property
    def active(self) -> bool: ...

    @property
    def trial(self) -> int | None: ...


C = TypeVar("C", bound=_Moving)


def foremost(chains: Sequence[C], room: int) -> list[C]:
    """As many chains as there is room for, in their order: those that still move first, trials of searches last."""
    ranked = sorted(range(len(chains)), key=lambda i: (not chains[i].active, chains[i].trial is not None))
    return [chains[i] for i in sorted(ranked[:room])]


def shortened(text: str, letters: int = LETTERS) -> str:
    """A text of bounded length. Its end stays: a reason names its log there."""
    if len(text) <= letters:
        return text
    return f"{text[: letters // 2 - 2]} … {text[len(text) - letters // 2 + 1 :]}"
