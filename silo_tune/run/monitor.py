"""Who hears how a run goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from silo_tune.errors import RunFailed
from silo_tune.planner.chain import Chain
from silo_tune.planner.planner import Planner
from silo_tune.planner.unit import Unit
from silo_tune.run.progress import Progress
from silo_tune.study.model import Study


class Monitor:
    """Hears how a run goes; the console is one. Every method may be left as it is.

    Attributes:
        stop_requested: set it to end the run before the next unit; what is committed is kept.
        progress: gives snapshots of how the run stands, from `started` on.
    """

    stop_requested: bool = False
    progress: Progress | None = None

    def looked_at(self, lines: Sequence[str]) -> None:
        """What was found before the training: the data and what is odd about it, in one sentence each."""

    def started(self, study: Study, planner: Planner, slots: int) -> None:
        """The planner is ready; training begins on so many slots."""

    def began(self, unit: Unit) -> None:
        """A trial was given to a slot; or its worker stands ready only now, and it begins."""

    def moved(self, key: str, epoch: int, train_loss: float) -> None:
        """A trial under way has finished so many epochs; the mean training loss of the last one."""

    def ended(self, key: str, outcome: Mapping[str, Any] | None) -> None:
        """A trial under way has an outcome; None where it has none: its worker died."""

    def changed(self, chain: Chain) -> None:
        """A chain heard an outcome, opened, closed or ended."""

    def notice(self, message: str) -> None:
        """Something the user should know, in one sentence."""

    def stuck(self, message: str) -> None:
        """A trial's time is over, and it cannot be interrupted in this process: here that is told, and waited for.

        Called from another thread.
        """
        self.notice(f"{message}; it is in code that cannot be interrupted, and is waited for")


class Relay(Monitor):
    """Passes everything on to another monitor."""

    def __init__(self, to: Monitor) -> None:
        self._to = to

    @property
    def stop_requested(self) -> bool:  # type: ignore[override]
        return self._to.stop_requested

    @property
    def progress(self) -> Progress | None:
        return self._to.progress

    @progress.setter
    def progress(self, progress: Progress | None) -> None:
        self._to.progress = progress

    def looked_at(self, lines: Sequence[str]) -> None:
        self._to.looked_at(lines)

    def started(self, study: Study, planner: Planner, slots: int) -> None:
        self._to.started(study, planner, slots)

    def began(self, unit: Unit) -> None:
        self._to.began(unit)

    def moved(self, key: str, epoch: int, train_loss: float) -> None:
        self._to.moved(key, epoch, train_loss)

    def ended(self, key: str, outcome: Mapping[str, Any] | None) -> None:
        self._to.ended(key, outcome)

    def changed(self, chain: Chain) -> None:
        self._to.changed(chain)

    def notice(self, message: str) -> None:
        self._to.notice(message)

    def stuck(self, message: str) -> None:
        self._to.stuck(message)


class Recorder(Relay):
    """Passes everything on to another monitor, after `progress` has heard it."""

    def __init__(self, progress: Progress, to: Monitor) -> None:
        super().__init__(to)
        self._recorded = to.progress = progress

    def started(self, study: Study, planner: Planner, slots: int) -> None:
        self._recorded.begin(planner, slots)
        super().started(study, planner, slots)

    def began(self, unit: Unit) -> None:
        self._recorded.began(unit)
        super().began(unit)

    def moved(self, key: str, epoch: int, train_loss: float) -> None:
        self._recorded.moved(key, epoch)
        super().moved(key, epoch, train_loss)

    def ended(self, key: str, outcome: Mapping[str, Any] | None) -> None:
        self._recorded.ended(key, outcome)
        super().ended(key, outcome)

    def changed(self, chain: Chain) -> None:
        self._recorded.changed(chain)
        super().changed(chain)

    def notice(self, message: str) -> None:
        self._recorded.notice(message)
        super().notice(message)

    def stuck(self, message: str) -> None:
        self._recorded.notice(message)
        super().stuck(message)


def require_going(monitor: Monitor) -> None:
    """Raises RunFailed when a stop was requested and its exception got lost on the way (in a destructor, say)."""
    if monitor.stop_requested:
        raise RunFailed("stopped")
