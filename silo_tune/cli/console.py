"""What a run shows: a live table of chains in a terminal, plain lines elsewhere; and the same to those who watch it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live

from silo_tune.cli.stopping import last_words
from silo_tune.cli.view import (
    advice,
    as_it_is,
    chain_table,
    driver_line,
    failure_line,
    head_lines,
    lines_below,
    many_table,
    pace_line,
    screen,
    search_line,
    table_and_pace,
    tail_lines,
)
from silo_tune.errors import RunFailed, SiloTuneError
from silo_tune.formats import Words, clock, level_sign, moment, printable, rate, telling
from silo_tune.planner.chain import Chain
from silo_tune.planner.planner import Planner
from silo_tune.run.monitor import Monitor
from silo_tune.run.status import Status
from silo_tune.store.snapshot import CHAINS, ChainView
from silo_tune.store.storage import StorageError
from silo_tune.study.model import Study
from silo_tune.study.wording import words_of

LEAST_WIDTH = 80


def _say(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def wide(console: Console) -> Console:
    """A console for a table that is printed once: a narrow terminal breaks its lines, and no figure is cut."""
    return console if console.width >= LEAST_WIDTH else Console(file=console.file, width=LEAST_WIDTH)


def print_status(console: Console, status: Status) -> None:
    """All that is known of a run."""
    _say(console, *head_lines(status))
    if status.snapshot is not None:
        console.print()
        roomy = wide(console)
        roomy.print(chain_table(as_it_is(status), CHAINS + 1, roomy.width), highlight=False, markup=False)
        _say(console, *lines_below(as_it_is(status)))
    _say(console, *tail_lines(status))


def print_many(console: Console, found: Sequence[tuple[str, Status | SiloTuneError]]) -> None:
    """A line for each run, and why one has none."""
    roomy = wide(console)
    roomy.print(many_table(found, roomy.width), highlight=False, markup=False)
    errors = [each for _, each in found if isinstance(each, SiloTuneError)]
    _say(console, *([""] if errors else []), *map(str, errors))


# --- the driver's own console ---


class _Closings:
    """Says every closed cycle once; the dense one, which the arms share, once a seed."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._dense: set[int] = set()

    def remember(self, chain: ChainView) -> None:
        """Say nothing of what was closed before."""
        self._seen[chain.label] = chain.closed

    def line(self, chain: ChainView, cycles: int, of: Words) -> str | None:
        """What to say of a chain, if anything, in these words."""
        if chain.trial is not None and chain.state != "done":
            return None  # of a search's many chains the end is enough
        if chain.closed <= self._seen.get(chain.label, 0):
            return None
        self._seen[chain.label] = chain.closed
        if chain.closed == 1 and chain.seed in self._dense:
            return None
        self._dense.add(chain.seed)
        with telling(of):
            score = level_sign(chain.val_score)
        named = "" if of.title == "accuracy" else f" {of.title}"
        where = f"{chain.label} cycle {chain.closed - 1}/{cycles - 1}"
        return f"{where}: max_lr {rate(chain.max_lr)}, validation{named} {score}"


class _Watch(Monitor):
    """Shows a run while it goes."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def looked_at(self, lines: Sequence[str]) -> None:
        _say(self.console, *lines)

    def stuck(self, message: str) -> None:
        last_words(
            f"{message}; it is in code that cannot be interrupted, so the command ends here. Nothing committed is "
            f"lost, the same command resumes from here; without --local the process of such a trial is ended, and the "
            f"run continues"
        )
        os._exit(RunFailed.exit_code)


class PlainWatch(_Watch):
    """One line for every closed cycle."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._began = time.monotonic()
        self._closings = _Closings()

    def started(self, study: Study, planner: Planner, slots: int) -> None:
        assert self.progress is not None
        self._began = time.monotonic()
        for chain in planner.every_chain():
            self._closings.remember(self.progress.view(chain))
        self._line(pace_line(self.progress.snapshot(chains=0)))

    def changed(self, chain: Chain) -> None:
        if self.progress is None or not self.progress.begun:
            return
        if chain.ended is not None:
            self._line(f"{chain.label} ended early: {chain.ended}")
        elif line := self._closings.line(
            self.progress.view(chain), self.progress.study.cycles, words_of(self.progress.study)
        ):
            self._line(f"{line}; {pace_line(self.progress.snapshot(chains=0))}")

    def notice(self, message: str) -> None:
        self._line(f"note: {message}")

    def _line(self, line: str) -> None:
        _say(self.console, f"[{clock(time.monotonic() - self._began)}] {line}")


class LiveWatch(_Watch):
    """A table of chains that is redrawn while the run goes."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._live = Live(console=console, get_renderable=self._screen, refresh_per_second=2, transient=False)

    def __enter__(self) -> LiveWatch:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def notice(self, message: str) -> None:
        _say(self.console, f"note: {message}")

    def _screen(self) -> RenderableType:
        if self.progress is None or not self.progress.begun:
            return "getting ready: cluster and data"
        room = self.console.height - 4  # two of the table's heads, and the cursor's
        return Group(*table_and_pace(self.progress.snapshot(max(2, room)), room, self.console.width))


def watch(console: Console | None = None) -> _Watch:
    """A monitor that shows a run, as a context: the live table where there is a terminal, else plain lines."""
    console = console or Console()
    return LiveWatch(console) if console.is_terminal else PlainWatch(console)


# --- watching a run from elsewhere ---


def follow(console: Console, read: Callable[[], Status], seconds: float) -> None:
    """Show a run every so many seconds until it has finished: a screen in a terminal, else a line for every change."""
    status = read()
    with (_screen_follower if console.is_terminal else _line_follower)(console, status) as show:
        while status.driver != "finished":
            time.sleep(seconds)
            with contextlib.suppress(StorageError):  # a network may be away for a while; the next look tries again
                status = read()
            show(status)


Show = Callable[[Status], None]


@contextlib.contextmanager
def _screen_follower(console: Console, status: Status) -> Iterator[Show]:
    """Redraws the screen; in the end, however it comes, the last status stays in full."""
    latest = status

    def show(status: Status) -> None:
        nonlocal latest
        latest = status

    live = Live(
        console=console,
        get_renderable=lambda: screen(latest, console.height, console.width),
        refresh_per_second=1,
        transient=True,
    )
    try:
        with live:
            yield show
    finally:
        print_status(console, latest)


@contextlib.contextmanager
def _line_follower(console: Console, status: Status) -> Iterator[Show]:
    """Prints the status, then what changed."""
    changes = _Changes(status)
    print_status(console, status)
    yield lambda status: _say(console, *(f"[{moment(status.at)[11:]}] {line}" for line in changes.since(status)))


class _Changes:
    """What is new in a status, in lines."""

    def __init__(self, status: Status) -> None:
        self._closings = _Closings()
        for chain in status.snapshot.chains if status.snapshot is not None else ():
            self._closings.remember(chain)
        self._said = dict(_events(status))

    def since(self, status: Status) -> Iterator[str]:
        """Lines for what was not said yet."""
        snapshot = status.snapshot
        if snapshot is not None:
            closed = [self._closings.line(chain, snapshot.cycles, snapshot.words) for chain in snapshot.chains]
            yield from filter(None, closed)
            if any(closed):
                yield pace_line(as_it_is(status))
        for event, line in _events(status):
            if event not in self._said:
                self._said[event] = line
                yield line


def _events(status: Status) -> Iterator[tuple[tuple[object, ...], str]]:
    """What is said once each, by what makes it the same."""
    snapshot = status.snapshot
    if snapshot is not None:
        for search in snapshot.searches:
            yield (search.arm, search.points, search.finished), search_line(search)
        for end in snapshot.ended:
            yield (end.chain, end.reason), f"{end.chain} ended early: {end.reason}"
        for failure in snapshot.failures:
            yield (failure.chain, failure.cycle, failure.reason), f"failed: {failure_line(failure)}"
        for note in snapshot.notices:
            yield (note.at, note.message), f"note: {note.message}"
    what = advice(status)
    yield (status.driver, status.host, status.pid), driver_line(status) + (f"; {what}" if what is not None else "")
    if status.driver == "finished" and status.report is not None:
        yield (status.report,), f"report: {status.report}"
