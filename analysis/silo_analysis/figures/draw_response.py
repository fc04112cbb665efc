"""Response curves: validation score against max_lr, a panel per cycle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from silo_analysis.estimates.oracle import OracleCycle
from silo_analysis.estimates.response import live_means, panel_room
from silo_analysis.estimates.stats import BoolArray
from silo_analysis.estimates.summary import Summary
from silo_analysis.figures.axes import MOST_DOTS, WIDTH, as_scores, percent, rate_axis
from silo_analysis.figures.palette import FAINT, INK, looks
from silo_tune.formats import words


def response_figure(groups: Mapping[tuple[str, int], OracleCycle], summary: Summary) -> Figure | None:
    """Validation score against max_lr, one panel per cycle, all with the same height of its axis."""
    shown = [group for (name, _), group in groups.items() if name == summary.verdict_oracle]
    if not shown:
        return None
    columns = min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(WIDTH, max(2.9, 0.75 + 1.85 * lines)), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, squeeze=False)
    room = panel_room(shown, summary.tolerance)
    crowded = sum(group.val.size for group in shown) > MOST_DOTS
    handles: dict[str, Any] = {}
    for position, group in enumerate(shown):
        panel = panels.flat[position]
        _response_panel(panel, group, summary, room, crowded)
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
        panel.tick_params(labelbottom=position + columns >= len(shown))
    for panel in panels.flat[: len(shown)]:
        rate_axis(panel.xaxis, most=4 if columns > 1 else 9)
    figure.supxlabel("max_lr", fontsize=9)
    figure.supylabel(f"validation {words().axis}", fontsize=9)
    spare = panels.flat[len(shown) :]
    for panel in spare:
        panel.set_axis_off()
    if len(spare):
        spare[0].legend(handles.values(), handles.keys(), loc="center left")
    else:
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3)
    return figure


def _response_panel(axes: Axes, group: OracleCycle, summary: Summary, room: tuple[float, float], crowded: bool) -> None:
    style, means = looks(summary.study), words().scale * live_means(group)
    color = style[group.oracle].color
    row = summary.cycles[summary.cycles["cycle"] == group.cycle]
    left = f" · {percent(row['weights_remaining'])[0]:.3g} % left" if len(row) else ""
    axes.set_title(f"cycle {group.cycle}{left}", fontsize=8.5, pad=3)
    axes.set_xscale("log")
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    lost: BoolArray = np.asarray(group.collapsed.any(axis=0))
    if not np.isfinite(means).any():
        axes.set_ylim(0, words().scale)
        axes.plot(group.rates[lost], np.full(lost.sum(), 0.04 * words().scale), "x", color=INK, ms=5, label="collapsed")
        return
    line = group.asked & np.isfinite(means)
    top = means[line].max() if line.any() else np.nanmax(means)
    floor = top - room[0]
    axes.set_ylim(floor - 0.06 * room[0], top + room[1])
    as_scores(axes.yaxis)
    _seeds(axes, group, line, crowded)
    axes.axhline(top - words().scale * summary.tolerance, color=FAINT, lw=0.9, ls=(0, (4, 2)), label="best − tolerance")
    axes.plot(group.rates[line], means[line], "-o", color=color, ms=3.5, lw=1.4, label=f"{group.oracle}: mean")
    low = np.isfinite(means) & (means < floor) & ~lost
    if low.any():
        axes.plot(group.rates[low], np.full(low.sum(), floor), "v", ms=4.5, color=color, label="mean below the panel")
    if lost.any():
        axes.plot(group.rates[lost], np.full(lost.sum(), floor), "x", ms=5, color=INK, label="collapsed in some seeds")
        for rate, count in zip(group.rates[lost], group.collapsed.sum(axis=0)[lost], strict=True):
            axes.annotate(str(count), (rate, floor), (0, 4), textcoords="offset points", ha="center", fontsize=6)
    _mark_schedule(axes, group, summary, means, floor)


def _seeds(axes: Axes, group: OracleCycle, line: BoolArray, crowded: bool) -> None:
    """A dot per seed and rate; with too many of them, one standard deviation around the mean of the line's rates."""
    values = words().scale * np.where(group.collapsed, np.nan, group.val)
    if not crowded:
        rates = np.broadcast_to(group.rates, values.shape)
        axes.plot(rates.ravel(), values.ravel(), "o", ms=2, color=FAINT, alpha=0.75, mew=0, label="one seed")
        return
    seen = pd.DataFrame(values[:, line])
    mean, spread = seen.mean(), seen.std()  # one seed has no spread
    axes.fill_between(
        group.rates[line], mean - spread, mean + spread, color=FAINT, alpha=0.3, lw=0, label="one standard deviation"
    )


def _mark_schedule(axes: Axes, group: OracleCycle, summary: Summary, means: Any, floor: float) -> None:
    rate = group.tested.get(summary.schedule)
    column = None if rate is None else group.column(rate)
    if rate is None or column is None:
        return
    color = looks(summary.study)[summary.schedule].color
    axes.axvline(rate, color=color, lw=1, alpha=0.55, zorder=1.5)
    if np.isfinite(means[column]):
        axes.plot(
            [rate], [max(means[column], floor)], "D", ms=5, color=color, mec="white", label=summary.schedule, zorder=4
        )
