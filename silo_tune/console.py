"""What a run shows while it goes: a live table of chains in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rich.console import Console
from rich.live import Live
from rich.table import Table

from silo_tune.chains import Chain, Planner
from silo_tune.forecast import forecast
from silo_tune.run import Monitor
from silo_tune.study import Study


def clock(seconds: float) -> str:
    """h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def percent(share: float | None) -> str:
    """A share in [0, 1] in percent; a dash where there is none."""
    return "-" if share is None else f"{100 * share:.2f} %"


def rate(value: float | None) -> str:
    """A learning rate with three significant digits; a dash where there is none."""
    return "-" if value is None else f"{value:.3g}"


class _Watch(Monitor):
    """Elapsed time and what is left, shared by both ways to show a run."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.began = time.monotonic()
        self.planner: Planner | None = None
        self.study: Study | None = None
        self.units = 0
        self._rounds = 0
        self._count_again = 0.0
        self.slots = 1

    def started(self, study: Study, planner: Planner, slots: int) -> None:
        self.study, self.planner, self.slots = study, planner, slots
        self._count()
        self.began = time.monotonic()

    def _count(self) -> None:
        """Units of this session: those that are done, and at most those that are left."""
        assert self.planner is not None
        began = time.monotonic()
        arms, _ = forecast(self.planner.layout, self.planner.journal)
        self.units = self.done() + sum(arm.to_train for arm in arms.values())
        self._rounds = self._closed_rounds()
        # A large run has many files to look at: counting takes at most a twentieth of the time.
        self._count_again = time.monotonic() + 20 * (time.monotonic() - began)

    def _closed_rounds(self) -> int:
        return sum(search.rounds for search in self.planner.searches.values()) if self.planner else 0

    def done(self) -> int:
        """Units of this session with an outcome."""
        return self.planner.counts.trained + self.planner.counts.failed if self.planner else 0

    def left(self) -> float | None:
        """Expected seconds to the end, from the pace so far."""
        done = self.done()
        return (time.monotonic() - self.began) / done * max(0, self.units - done) if done else None

    def progress(self) -> str:
        # A search whose round has closed knows better what it will train.
        if self._closed_rounds() != self._rounds and time.monotonic() > self._count_again:
            self._count()
        left = self.left()
        eta = "ETA unknown" if left is None else f"ETA {clock(left)}"
        plural = "s" * (self.slots != 1)
        return f"{self.done()} of at most {self.units} units on {self.slots} slot{plural}, {eta}"

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class PlainWatch(_Watch):
    """One line for every closed cycle."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._seen: dict[str, int] = {}
        self._dense: set[int] = set()

    def started(self, study: Study, planner: Planner, slots: int) -> None:
        super().started(study, planner, slots)
        for chain in planner.every_chain():
            self._seen[chain.label] = chain.cycle
        self._say(self.progress())

    def changed(self, chain: Chain) -> None:
        if self.planner is None or self.study is None:
            return
        if chain.ended is not None:
            self._say(f"{chain.label} ended early: {chain.ended}")
        elif chain.trial is not None and not chain.done:
            return  # of a search's many chains the end is enough
        elif chain.cycle > self._seen.get(chain.label, 0) and not chain.open:
            self._seen[chain.label] = chain.cycle
            if chain.cycle == 1 and chain.seed in self._dense:
                return  # every arm closes the shared dense cycle; once is enough
            self._dense.add(chain.seed)
            best = chain.best or {}
            self._say(
                f"{chain.label} cycle {chain.cycle - 1}/{self.study.cycles - 1}: "
                f"max_lr {rate(best.get('max_lr'))}, validation {percent(best.get('val_accuracy'))}; {self.progress()}"
            )

    def notice(self, message: str) -> None:
        self._say(f"note: {message}")

    def _say(self, line: str) -> None:
        elapsed = clock(time.monotonic() - self.began)
        self.console.print(f"[{elapsed}] {line}", markup=False, highlight=False, soft_wrap=True)


class LiveWatch(_Watch):
    """A table of chains that is redrawn while the run goes."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=2, transient=False)
        self._closed_at: dict[str, list[float]] = {}

    def __enter__(self) -> LiveWatch:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def changed(self, chain: Chain) -> None:
        times = self._closed_at.setdefault(chain.label, [])
        if not chain.open and chain.cycle > len(times):
            times.extend([time.monotonic()] * (chain.cycle - len(times)))

    def notice(self, message: str) -> None:
        self.console.print(f"note: {message}", markup=False, highlight=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, title_justify="left", caption_justify="left")
        if self.planner is None or self.study is None:
            table.title = "getting ready: cluster and data"
            return table
        table.caption = f"{self.progress()}, elapsed {clock(time.monotonic() - self.began)}"
        for name in ("arm", "seed", "cycle", "weights left", "candidates", "best max_lr", "best validation", "elapsed"):
            table.add_column(name, justify="left" if name == "arm" else "right", no_wrap=True)
        table.add_column("ETA", justify="right", no_wrap=True)
        room = max(4, self.console.height - 5)
        chains = list(self.planner.every_chain())
        # With more chains than lines, those that still move come first.
        shown = chains if len(chains) <= room else sorted(chains, key=lambda chain: not chain.active)[: room - 1]
        for chain in shown:
            table.add_row(*self._cells(chain, self.study))
        if len(shown) < len(chains):
            table.add_row(f"… {len(chains) - len(shown)} more")
        return table

    def _cells(self, chain: Chain, study: Study) -> Iterator[str]:
        cycle = min(chain.cycle, study.cycles - 1)
        good = [outcome for outcome in chain.told.values() if outcome["status"] == "ok"]
        best = max(good, key=lambda outcome: outcome["val_accuracy"], default=chain.best or {})
        yield chain.arm if chain.trial is None else f"{chain.arm} trial {chain.trial}"
        yield str(chain.seed)
        yield f"{cycle}/{study.cycles - 1}"
        yield percent(study.remaining[cycle])
        yield (
            f"{len(chain.told)}/{len(chain.candidates)}"
            if chain.open
            else ("ended" if chain.ended else "done" * chain.done)
        )
        yield rate(best.get("max_lr"))
        yield percent(best.get("val_accuracy"))
        times = self._closed_at.get(chain.label, [])
        now = times[-1] if times and not chain.active else time.monotonic()
        yield clock(now - self.began)
        yield self._chain_eta(chain, times, study)

    def _chain_eta(self, chain: Chain, times: list[float], study: Study) -> str:
        if not chain.active:
            return "-"
        fresh = [moment for moment in times if moment >= self.began]
        if not fresh:
            return "unknown"
        return clock((fresh[-1] - self.began) / len(fresh) * (study.cycles - chain.cycle))


def watch(console: Console) -> _Watch:
    """The live table where there is a terminal, else plain lines."""
    return LiveWatch(console) if console.is_terminal else PlainWatch(console)
