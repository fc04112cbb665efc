"""The schedule's max_lr on the Oracle's band."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from silo_analysis.estimates import oracle
from silo_analysis.estimates.summary import Summary
from silo_analysis.figures.axes import floats, new_figure, percent, rate_axis, weights_axis
from silo_analysis.figures.palette import VERDICT_MARKS, Look, looks


def max_lr_figure(summary: Summary) -> Figure | None:
    """The schedule's max_lr over cycles on the Oracle's point interval, with the controls and the best rates."""
    cycles = summary.cycles.dropna(subset=["max_lr"])
    banded = summary.cycles.dropna(subset=["interval_low"])
    if not len(cycles) and not len(banded):
        return None
    figure, axes = new_figure(max(3.6, 1.2 + 0.2 * len(_controls(summary))))
    handles = _band(axes, banded, summary) if len(banded) else []
    style = looks(summary.study)
    handles += [_control_line(axes, summary, name, style[name]) for name in _controls(summary)]
    if len(cycles):
        handles += _schedule_line(axes, cycles, summary, style[summary.schedule])
    axes.set_yscale("log")
    axes.set_ylabel("max_lr")
    rate_axis(axes.yaxis, most=8)
    weights_axis(axes, summary)
    figure.legend(handles=handles, loc="outside right upper")
    return figure


def _controls(summary: Summary) -> list[str]:
    tested = summary.study.tests_of(summary.verdict_oracle) if summary.verdict_oracle else ()
    return oracle.controls(summary.study, tested)


def _band(axes: Axes, banded: pd.DataFrame, summary: Summary) -> list[Any]:
    x, low, high = (floats(banded[name]) for name in ("weights_remaining", "interval_low", "interval_high"))
    x = 100 * x
    name = str(summary.verdict_oracle)
    color = looks(summary.study)[name].color
    band = axes.fill_between(x, low, high, color=color, alpha=0.22, linewidth=0, label=f"{name}: near the best")
    axes.vlines(x, low, high, color=color, alpha=0.45, linewidth=1.2)
    best = axes.plot(
        x, floats(banded["best_max_lr"]), "o", ms=5, color=color, mec="white", zorder=3, label=f"{name}: best rate"
    )
    handles = [band, *best]
    for side, mark, ends in (("low", "v", low), ("high", "^", high)):
        open_ = banded[f"unbounded_{side}"].to_numpy(dtype=bool, na_value=False)
        if open_.any():
            handles += axes.plot(x[open_], ends[open_], mark, ms=6.5, color=color, label=f"no {side} end: grid's edge")
    return handles


def _control_line(axes: Axes, summary: Summary, name: str, look: Look) -> Line2D:
    first = summary.cycles["cycle"].min()
    rows = summary.arms[(summary.arms["arm"] == name) & (summary.arms["cycle"] >= first)]
    x, y = percent(rows["weights_remaining"]), floats(rows["max_lr"])
    alone = "_" if len(x) == 1 else None  # a line of one point is not seen
    return axes.plot(x, y, look.dash, marker=alone, ms=16, color=look.color, lw=1.1, label=name)[0]


def _schedule_line(axes: Axes, cycles: pd.DataFrame, summary: Summary, look: Look) -> list[Any]:
    x, y = percent(cycles["weights_remaining"]), floats(cycles["max_lr"])
    handles: list[Any] = axes.plot(x, y, color=look.color, lw=2, zorder=3, label=summary.schedule)
    for verdict, mark in VERDICT_MARKS.items():
        rows = (cycles["verdict"] == verdict).to_numpy(dtype=bool)
        face = look.color if verdict != "undetermined" else "white"
        if rows.any():
            handles += axes.plot(
                x[rows],
                y[rows],
                mark,
                ms=7,
                color=look.color,
                mfc=face,
                mec=look.color,
                zorder=4,
                label=f"{summary.schedule}: {verdict}",
            )
    return handles
