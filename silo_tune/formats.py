"""Numbers as text, for every table, page, terminal and sentence: the one place where each is written."""

from __future__ import annotations

import contextlib
import json
import unicodedata
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any

DASH = "–"
MINUS = "−"
# Differences of accuracies below this are rounding of the arithmetic.
_NOTHING = 1e-9


def parse_json(data: str | bytes) -> Any:
    """The value of JSON text. Raises ValueError, also where lists lie within thousands of others."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def known(value: Any) -> bool:
    """True unless the cell is null: None, NaN, or the NA of pandas, whose truth is a TypeError."""
    try:
        return value is not None and bool(value == value)
    except TypeError:
        return False


@dataclass(frozen=True)
class Words:
    """How the score of a study is called and written.

    Attributes:
        title: of the score, as "accuracy" or "RMSE".
        share: it is written in percent, and a difference in percentage points.
        unit: of a difference where it is no share; "" for a plain number.
        bounded: its range ends at 1, so that three decimals say enough.
        sign: +1 where more is better, -1 where less is.
        example: what the network sees one of, as "image".
    """

    title: str = "accuracy"
    share: bool = True
    unit: str = ""
    bounded: bool = True
    sign: int = 1
    example: str = "image"

    @property
    def pp(self) -> str:
        """Follows a difference: " pp", " nats", or nothing."""
        return " pp" if self.share else f" {self.unit}" if self.unit else ""

    @property
    def in_points(self) -> str:
        """What differences are in, for legends: "percentage points (pp)"."""
        return "percentage points (pp)" if self.share else self.unit or f"units of {self.title}"

    @property
    def plain_points(self) -> str:
        """The same without the sign for it: "percentage points"."""
        return self.in_points.removesuffix(" (pp)")

    @property
    def start(self) -> str:
        """The title at the start of a sentence."""
        return f"{self.title[0].upper()}{self.title[1:]}"

    @property
    def scale(self) -> float:
        """What a figure multiplies by."""
        return 100.0 if self.share else 1.0

    @property
    def level_unit(self) -> str:
        """The unit of a score: "%", "nats"; nothing where its title says it, as bits per byte do."""
        return "%" if self.share else "" if self.unit in self.title else self.unit

    @property
    def axis(self) -> str:
        """The score with its unit: "accuracy, %", "RMSE"."""
        return f"{self.title}, {self.level_unit}" if self.level_unit else self.title

    def head(self, text: str) -> str:
        """A head of differences with their unit: "Difference, pp"."""
        return f"{text},{self.pp}" if self.pp else text


_ACCURACY = Words()
_WORDS: ContextVar[Words] = ContextVar("words", default=_ACCURACY)


def words() -> Words:
    """The words of the study that is told of."""
    return _WORDS.get()


@contextlib.contextmanager
def telling(of: Words) -> Iterator[Words]:
    """Within it scores and their differences are written in these words, as numbers are by `decimal.localcontext`."""
    token = _WORDS.set(of)
    try:
        yield of
    finally:
        _WORDS.reset(token)


def points(value: Any, signed: bool = True) -> str:
    """A difference of scores: in points where they are shares (0.0123 → "+1.23"); a dash where there is none.

    What is rounded to 0 keeps its sign: on which side of 0 an end of an interval lies is what it is looked at for.
    """
    if not known(value):
        return DASH
    found = float(value)
    text = f"{'+' if signed and not str(found).startswith('-') else ''}{_number(found)}"
    if abs(found) < _NOTHING or (not signed and text.strip("-0.") == ""):
        return _number(0.0)
    return text.replace("-", MINUS)


def difference(value: Any, signed: bool = True) -> str:
    """`points` with their unit: "+1.23 pp", "−0.41 nats"; a dash where there is none."""
    return f"{points(value, signed)}{words().pp}"


def level(value: Any, digits: int = 1) -> str:
    """A score: a share in percent without the sign (0.682 → "68.2"), else as 0.913 or 3.41; a dash without one."""
    if not known(value):
        return DASH
    return percent(value, digits) if words().share else _number(float(value)).replace("-", MINUS)


def level_sign(value: Any, digits: int = 2) -> str:
    """A score with its unit (0.6823 → "68.23 %"); a dash where there is none."""
    unit = words().level_unit
    return f"{level(value, digits)} {unit}" if known(value) and unit else level(value, digits)


def _number(value: float) -> str:
    """A score or a difference by its range: hundredths of a point, three decimals, or three significant digits."""
    if words().share:
        return f"{100 * value:.2f}"
    if words().bounded and abs(value) < 10:
        return f"{value:.3f}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".") if abs(value) >= 1e-4 or value == 0 else f"{value:.2e}"


def percent(value: Any, digits: int = 1) -> str:
    """A share in percent, without the sign (0.512 → "51.2"); a dash where there is none."""
    return f"{100 * float(value):.{digits}f}" if known(value) else DASH


def rate(value: Any) -> str:
    """A max_lr to three significant digits; a dash where there is none."""
    return f"{float(value):.3g}" if known(value) else DASH


def p_value(value: Any) -> str:
    """A p value to three digits; a dash where there is none."""
    return DASH if not known(value) else "< 0.001" if float(value) < 0.001 else f"{float(value):.3f}"


def seconds(value: Any) -> str:
    """A duration as seconds, minutes or hours."""
    if not known(value):
        return DASH
    total = float(value)
    if total < 120:
        return f"{total:.0f} s"
    return f"{total / 60:.1f} min" if total < 7200 else f"{total / 3600:.1f} h"


def plural(count: int, noun: str) -> str:
    """ "1 seed", "2 seeds", "2 classes"."""
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


# Beyond so many seeds a range says nothing that a study could act on (ours).
_MANY_SEEDS = 500


def seed_range(low: Any, high: Any) -> str:
    """ "12 seeds", "12 to 30 seeds", "12 to more than 500 seeds", "more than 500 seeds"."""
    least, most = int(low), int(high)
    if least > _MANY_SEEDS:
        return f"more than {_MANY_SEEDS} seeds"
    if least == most:
        return plural(least, "seed")
    return f"{least} to {f'more than {_MANY_SEEDS}' if most > _MANY_SEEDS else most} seeds"


def cycle_list(cycles: Iterable[Any]) -> str:
    """ "cycle 3", "cycles 3, 4"."""
    names = [str(cycle) for cycle in cycles]
    return f"{'cycle' if len(names) == 1 else 'cycles'} {', '.join(names)}"


def percent_sign(value: Any) -> str:
    """A share in percent, with the sign (0.6823 → "68.23 %"); a dash where there is none."""
    return f"{percent(value, 2)} %" if known(value) else DASH


def size(count: float) -> str:
    """A number of bytes as MB or GB (of 2^20 and 2^30)."""
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"


def printable(text: str) -> str:
    """A text that is not ours, for a terminal: control characters, which could move its cursor, are written out."""
    return "".join(c if c in "\n\t" or unicodedata.category(c)[0] != "C" else repr(c)[1:-1] for c in text)


def clock(seconds: float) -> str:
    """h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def hourly(value: float) -> str:
    """Units an hour, with three significant digits at least."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ago(seconds: float) -> str:
    """How long ago; clocks of two machines may differ a little."""
    return f"{max(0.0, seconds):.0f} s ago" if seconds < 120 else f"{clock(seconds)} ago"


def moment(at: float) -> str:
    """A local date and time."""
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")
