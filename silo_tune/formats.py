"""Numbers as text, for every table, page, terminal and sentence: the one place where each is written."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from datetime import datetime
from typing import Any

DASH = "–"
MINUS = "−"
# Differences of accuracies below this are rounding of the arithmetic.
_NOTHING = 1e-9


def known(value: Any) -> bool:
    """True unless the cell is null: None, NaN, or the NA of pandas, whose truth is a TypeError."""
    try:
        return value is not None and bool(value == value)
    except TypeError:
        return False


def points(value: Any, signed: bool = True) -> str:
    """A difference of accuracies in points (0.0123 → "+1.23"), a dash where there is none.

    What is rounded to 0 keeps its sign: on which side of 0 an end of an interval lies is what it is looked at for.
    """
    if not known(value):
        return DASH
    text = f"{100 * float(value):{'+' if signed else ''}.2f}"
    return "0.00" if abs(float(value)) < _NOTHING or (text == "-0.00" and not signed) else text.replace("-", MINUS)


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
