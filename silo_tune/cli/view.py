"""A snapshot, or all that is known of a run, in words and tables. Prints nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from silo_tune.errors import SiloTuneError
from silo_tune.formats import (
    DASH,
    ago,
    clock,
    hourly,
    level_sign,
    moment,
    percent_sign,
    plural,
    printable,
    rate,
    seconds,
    telling,
)
from silo_tune.run.status import Status
from silo_tune.store.snapshot import ChainView, Failure, RunningView, SearchView, Snapshot, Units, foremost

GO_ON = "to resume, run the same command again"
# In a screen that is redrawn so many reasons and notices have room; a plain `status` shows all that are kept.
LATEST = 3
# Lines of a screen for chains, searches and the pace.
LEAST_ROOM = 6

# --- words ---


def counted(units: Units) -> str:
    """Units of a session by what became of them."""
    taken = f"{units.taken} reused from other runs, " if units.taken else ""
    return f"{units.trained} trained, {units.shared} shared, {taken}{units.reused} done before, {units.failed} failed"


def pace_line(snapshot: Snapshot) -> str:
    """Units so far, their pace, and what is left of the time."""
    units = snapshot.units
    if units is None:
        return "trials are not counted"
    if snapshot.slots == 0:
        return "nothing to train"
    running = snapshot.state == "running"
    most = f" of at most {units.whole + units.left}" if units.left or running else ""
    number = units.whole + units.left if most else units.whole
    before = f", {units.reused} from before" if units.reused else ""
    parts = [f"{units.whole}{most} trial{'s' * (number != 1)} on {plural(snapshot.slots, 'slot')}{before}"]
    pace = snapshot.recent_per_hour if running else snapshot.per_hour
    if pace is not None:
        parts.append(f"{hourly(pace)} trials/h")
    if running and snapshot.eta is not None:
        parts.append(f"ETA {clock(snapshot.eta)}")
    return ", ".join(parts)


def search_line(search: SearchView) -> str:
    """A search as far as its rounds are closed."""
    name = f"pilot of {search.arm}" if search.kind == "pilot" else search.arm
    points = (
        f"{search.points} points, finished" if search.finished else f"{search.points} of at most {search.most} points"
    )
    if search.best is None:
        return f"{name}: {points}"
    where = ", ".join(f"{parameter} {rate(value)}" for parameter, value in search.params.items())
    rates = list(search.params.values())
    flat = search.kind == "pilot" and len(rates) == 2 and rates[0] == rates[1]
    no_rise = "; no rise: a constant did as well (pilot.rise = true looks at rising pairs alone)" if flat else ""
    return f"{name}: {points}; best validation {percent_sign(search.best)} at {where}{no_rise}"


def failure_line(failure: Failure) -> str:
    """A failed unit: whose, where and why."""
    return f"{failure.chain} cycle {failure.cycle}, max_lr {rate(failure.max_lr)}: {failure.reason}"


def running_line(trial: RunningView) -> str:
    """A trial under way: whose, where, and since when nothing was heard of it."""
    come = f"epoch {trial.epoch} of {trial.epochs}" if trial.epoch else f"no epoch of {trial.epochs} yet"
    return f"{_whose(trial)}: {come}, {clock(trial.idle)} without progress"


def hanging_lines(snapshot: Snapshot) -> list[str]:
    """A warning for every trial that may hang."""
    return [
        f"warning: {_whose(trial)} is without progress for {clock(trial.idle)}, and an epoch usually takes "
        f"{seconds(trial.usual)}; if trials hang, cluster.unit_timeout ends them"
        for trial in snapshot.running
        if trial.hangs and snapshot.state == "running"
    ]


def _whose(trial: RunningView) -> str:
    return f"{trial.chain} cycle {trial.cycle}, max_lr {rate(trial.max_lr)}"


# --- the table of chains ---


def chain_table(snapshot: Snapshot, room: int, width: int) -> Table:
    """As many chains as there is room for. A session that is over has no ETA."""
    running = snapshot.state == "running"
    gap = 2 if width >= 95 else 1
    heads = [
        "arm",
        "seed",
        "cycle",
        "weights\nleft",
        "rates\ntried",
        "best\nmax_lr",
        f"best\n{snapshot.words.title}",
        "elapsed",
    ]
    heads += ["ETA"] * running
    hidden = sum(snapshot.more.values())
    whole = len(snapshot.chains) + (hidden > 0) <= room
    shown = foremost(snapshot.chains, room if whole else room - 1)
    with telling(snapshot.words):
        rows = [list(_cells(chain, snapshot.cycles, running)) for chain in shown]
    table = Table(box=None, pad_edge=False, padding=(0, gap), collapse_padding=True)
    for head in heads:
        table.add_column(head, justify="left" if head == "arm" else "right", no_wrap=True, vertical="bottom")
    others = sum(_width(head, [row[i] for row in rows]) + gap for i, head in enumerate(heads) if i > 0)
    for row in rows:
        table.add_row(_fitted(row[0], max(8, width - others)), *row[1:])
    hidden += len(snapshot.chains) - len(shown)
    if hidden:
        table.add_row(f"… {hidden} more")
    return table


def _width(head: str, cells: Sequence[str]) -> int:
    return max(map(len, [*head.split("\n"), *cells]))


def _fitted(name: str, room: int) -> str:
    """A name of bounded length: its end holds the number of a trial."""
    return name if len(name) <= room else f"{name[: (room - 1) // 2]}…{name[len(name) - room // 2 :]}"


def _cells(chain: ChainView, cycles: int, running: bool) -> Iterator[str]:
    yield chain.arm if chain.trial is None else f"{chain.arm} trial {chain.trial}"
    yield str(chain.seed)
    yield f"{chain.cycle}/{cycles - 1}"
    yield percent_sign(chain.remaining)
    yield f"{chain.told}/{chain.asked}" if chain.asked else chain.state
    yield rate(chain.best_max_lr)
    yield level_sign(chain.best_val_score)
    yield "-" if chain.elapsed is None else clock(chain.elapsed)
    if running:
        yield "unknown" if chain.active and chain.eta is None else "-" if chain.eta is None else clock(chain.eta)


def table_and_pace(snapshot: Snapshot, room: int, width: int) -> list[RenderableType]:
    """The chains, the searches and the pace: what `run` and `status` have in common."""
    lines = lines_below(snapshot)
    return [chain_table(snapshot, max(2, room - len(lines)), width), _text(lines)]


def lines_below(snapshot: Snapshot) -> list[str]:
    """The searches, the last look, the pace, and what may hang."""
    lines = [*map(search_line, snapshot.searches), *([snapshot.look] if snapshot.look is not None else [])]
    if snapshot.units is None:
        return lines
    total = f" ({clock(snapshot.clock)} with earlier sessions)" if snapshot.earlier and snapshot.clock else ""
    pace = f"{pace_line(snapshot)}, elapsed {clock(snapshot.elapsed)}{total}"
    return [*lines, pace, *hanging_lines(snapshot)]


def _text(lines: Sequence[str]) -> Text:
    return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")


# --- many runs ---

_STANDING = {"gone": "driver gone", "none": "no driver"}


def many_table(found: Sequence[tuple[str, Status | SiloTuneError]], width: int) -> Table:
    """One line for each run."""
    heads = ["run", "state", "trials", "failed", "ETA", "last seen"]
    rows = [list(_line(url, each)) for url, each in found]
    table = Table(box=None, pad_edge=False, padding=(0, 1), collapse_padding=True)
    for head in heads:
        table.add_column(head, justify="left" if head in ("run", "state") else "right", no_wrap=True)
    others = sum(_width(head, [row[i] for row in rows]) + 1 for i, head in enumerate(heads) if i > 0)
    for row in rows:
        table.add_row(Text(_fitted(row[0], max(8, width - others))), *row[1:])
    return table


def _line(url: str, found: Status | SiloTuneError) -> Iterator[str]:
    """A run's cells. What is wrong with one stands below the table."""
    yield printable(url)
    if isinstance(found, SiloTuneError):
        yield from ("see below", DASH, DASH, DASH, DASH)
        return
    yield _STANDING.get(found.driver, found.driver)
    snapshot, last = found.snapshot, _last_sign(found)
    units = None if snapshot is None else snapshot.units
    most = f" of ≤ {units.whole + units.left}" if units is not None and units.left else ""
    yield DASH if units is None else f"{units.whole}{most}"
    yield DASH if snapshot is None else str(snapshot.failure_count)
    eta = snapshot.eta if found.driver == "running" and snapshot is not None else None
    yield DASH if eta is None else clock(eta)
    yield DASH if last is None else moment(last)[:-3]


# --- a whole status ---


def driver_line(status: Status) -> str:
    """What became of the driver."""
    snapshot = status.snapshot
    process = f"process {status.pid} on {status.host}"
    if status.driver == "running":
        return f"running ({process}, last heartbeat {ago(status.heartbeat or 0.0)})"
    if status.driver == "getting ready":
        return f"{process} holds the run and is getting ready: cluster and data"
    if status.driver == "none":
        return "not finished, and no driver is at work"
    last = _last_sign(status)
    when = "" if last is None else f" at {moment(last)}"
    if status.driver == "finished":
        return f"finished{when}"
    if status.driver == "gone":
        since = "" if last is None else f" since {moment(last)}"
        return f"the driver is gone{since}{'' if status.pid is None else f' ({process})'}"
    why = f": {snapshot.reason}" if snapshot is not None and snapshot.reason else ""
    return f"the driver was stopped{when}{why}"


def _last_sign(status: Status) -> float | None:
    """When the driver was last heard of, by its heartbeat or its snapshot; None where nothing says it."""
    beat = None if status.heartbeat is None else status.at - status.heartbeat
    seen = None if status.snapshot is None else status.snapshot.seen
    if status.driver in ("finished", "stopped"):
        return seen
    # A driver whose clock is ahead was not seen in the future.
    return max((min(sign, status.at) for sign in (beat, seen) if sign is not None), default=None)


def advice(status: Status) -> str | None:
    """What to do where no driver is at work."""
    return GO_ON if status.driver in ("gone", "stopped", "none") else None


def head_lines(status: Status) -> list[str]:
    """Study, place, driver, times, units and pace."""
    snapshot, what = status.snapshot, advice(status)
    name = status.url if snapshot is None else f"{snapshot.study} at {status.url}"
    lines = [f"{name}: {driver_line(status)}"] + ([f"  {what}"] if what is not None else [])
    if status.created is not None:
        lines.append(f"  run made {_local(status.created)}")
    if snapshot is None:
        return lines
    if snapshot.began is not None and snapshot.seen is not None:
        seen = f"last seen {moment(snapshot.seen)} ({ago(status.at - snapshot.seen)})"
        lines.append(f"  session began {moment(snapshot.began)}, {seen}")
    if snapshot.units is not None:
        left = "" if snapshot.state == "finished" else f"; at most {snapshot.units.left} left"
        lines.append(f"  trials: {counted(snapshot.units)}{left}")
    if snapshot.per_hour is not None and snapshot.recent_per_hour is not None:
        busy = "" if snapshot.busy is None else f"; slots train {100 * snapshot.busy:.0f} % of the time"
        lines.append(f"  trials/h: {hourly(snapshot.per_hour)}, lately {hourly(snapshot.recent_per_hour)}{busy}")
    return lines + ([f"  note: {status.note}"] if status.note is not None else [])


def _local(created: str) -> str:
    try:
        return moment(datetime.fromisoformat(created).timestamp())
    except ValueError:
        return created


def tail_lines(status: Status, most: int | None = None) -> list[str]:
    """Trials under way, chains that ended early, failures, notices (so many of each), and the report."""
    snapshot = status.snapshot
    lines: list[str] = []
    if snapshot is not None and as_it_is(status).state == "running":
        under_way = [*map(running_line, snapshot.running)]
        lines += _section("trials under way, the longest without progress first", under_way[:most], 0, None)
    if snapshot is not None:
        ended = [f"{end.chain}: {end.reason}" for end in snapshot.ended]
        lines += _section("ended early", ended, snapshot.ended_count, most)
        lines += _section("failed trials", [*map(failure_line, snapshot.failures)], snapshot.failure_count, most)
        notices = [f"{moment(note.at)[11:]} {note.message}" for note in snapshot.notices]
        lines += _section("notices", notices, len(notices), most)
    if status.report is not None:
        lines += ["", f"report: {status.report}"]
    elif status.driver == "finished":
        lines += ["", f"no report yet; `silo-tune report {status.url}` writes it"]
    return lines


def _section(title: str, lines: Sequence[str], count: int, most: int | None) -> list[str]:
    shown = lines if most is None else lines[-most:]
    earlier = f", the last {len(shown)} of {count}" if count > len(shown) else ""
    return ["", f"{title}{earlier}:", *(f"  {line}" for line in shown)] if shown else []


def as_it_is(status: Status) -> Snapshot:
    """The snapshot, which does not know of its driver's death."""
    assert status.snapshot is not None
    dead = status.snapshot.state == "running" and status.driver != "running"
    return status.snapshot.model_copy(update={"state": None}) if dead else status.snapshot


def screen(status: Status, height: int, width: int) -> RenderableType:
    """A status that fits a terminal; in a low one the chains come before reasons and notices."""
    head, tail = head_lines(status), tail_lines(status, LATEST)
    if status.snapshot is None:
        return _text(head)
    room = height - len(head) - 4  # an empty line, two of the table's heads, and the cursor's
    tail = tail if room - len(tail) >= LEAST_ROOM else []
    body = table_and_pace(as_it_is(status), room - len(tail), width)
    return Group(_text([*head, ""]), *body, *([_text(tail)] if tail else []))
