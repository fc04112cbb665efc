"""Figures of a run. Each function returns a Figure, or None where the run has nothing to show.

Accuracies are shown in %, differences in points, weights remaining in % on a log axis that falls from 100. Figures are
made without pyplot, so that there is no global state, and the same run gives the same bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from analysis import oracle
from analysis.cost import STUDY
from analysis.oracle import OracleCycle
from analysis.palette import FAINT, INK, STYLE, VERDICT_MARKS, Look, looks
from analysis.response import live_means, panel_room, rate_ticks
from analysis.stats import paired_interval
from analysis.summary import Summary

WIDTH = 7.6  # inches: the width of the report's column
DPI = 110


def save_figures(frame: pd.DataFrame, summary: Summary) -> dict[str, dict[str, bytes]]:
    """Every figure that the run can show: name → {"svg": …, "png": …}."""
    saved = {}
    with matplotlib.rc_context(STYLE):
        for name, figure in draw_figures(frame, summary).items():
            svg = _bytes(figure, "svg", name)
            figure.set_layout_engine("none")  # laid out once; the second kind keeps the places
            saved[name] = {"svg": svg, "png": _bytes(figure, "png", name)}
    return saved


def draw_figures(frame: pd.DataFrame, summary: Summary) -> dict[str, Figure]:
    """The figures by name, in the order in which the report shows them."""
    with matplotlib.rc_context(STYLE):
        drawn = {
            "max-lr": max_lr_figure(summary),
            "response": response_figure(oracle.oracle_cycles(frame, summary.study), summary),
            "accuracy": accuracy_figure(summary),
            "regret": regret_figure(summary),
            "cost": cost_figure(summary),
        }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _bytes(figure: Figure, kind: str, name: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
    return buffer.getvalue()


# --- (a) the schedule on the Oracle's band ---


def max_lr_figure(summary: Summary) -> Figure | None:
    """The schedule's max_lr over cycles on the Oracle's point interval, with the controls and the best rates."""
    cycles = summary.cycles.dropna(subset=["max_lr"])
    banded = summary.cycles.dropna(subset=["interval_low"])
    if not len(cycles) and not len(banded):
        return None
    figure, axes = _figure(max(3.6, 1.2 + 0.2 * len(_controls(summary))))
    handles = _band(axes, banded, summary) if len(banded) else []
    style = looks(summary.study)
    handles += [_control_line(axes, summary, name, style[name]) for name in _controls(summary)]
    if len(cycles):
        handles += _schedule_line(axes, cycles, summary, style[summary.schedule])
    axes.set_yscale("log")
    axes.set_ylabel("max_lr")
    _rate_axis(axes.yaxis, most=8)
    _weights_axis(axes, summary)
    figure.legend(handles=handles, loc="outside right upper")
    return figure


def _controls(summary: Summary) -> list[str]:
    tested = summary.study.tests_of(summary.verdict_oracle) if summary.verdict_oracle else ()
    return oracle.controls(summary.study, tested)


def _band(axes: Axes, banded: pd.DataFrame, summary: Summary) -> list[Any]:
    x, low, high = (_floats(banded[name]) for name in ("weights_remaining", "interval_low", "interval_high"))
    x = 100 * x
    name = str(summary.verdict_oracle)
    color = looks(summary.study)[name].color
    band = axes.fill_between(x, low, high, color=color, alpha=0.22, linewidth=0, label=f"{name}: near the best")
    axes.vlines(x, low, high, color=color, alpha=0.45, linewidth=1.2)
    best = axes.plot(
        x, _floats(banded["best_max_lr"]), "o", ms=5, color=color, mec="white", zorder=3, label=f"{name}: best rate"
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
    x, y = _percent(rows["weights_remaining"]), _floats(rows["max_lr"])
    alone = "_" if len(x) == 1 else None  # a line of one point is not seen
    return axes.plot(x, y, look.dash, marker=alone, ms=16, color=look.color, lw=1.1, label=name)[0]


def _schedule_line(axes: Axes, cycles: pd.DataFrame, summary: Summary, look: Look) -> list[Any]:
    x, y = _percent(cycles["weights_remaining"]), _floats(cycles["max_lr"])
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


# --- (b) response curves ---


def response_figure(groups: Mapping[tuple[str, int], OracleCycle], summary: Summary) -> Figure | None:
    """Validation accuracy against max_lr, one panel per cycle, all with the same height of the accuracy axis."""
    shown = [group for (name, _), group in groups.items() if name == summary.verdict_oracle]
    if not shown:
        return None
    columns = min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(WIDTH, max(2.9, 0.75 + 1.85 * lines)), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, squeeze=False)
    room = panel_room(shown, summary.tolerance)
    handles: dict[str, Any] = {}
    for position, group in enumerate(shown):
        panel = panels.flat[position]
        _response_panel(panel, group, summary, room)
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
        panel.tick_params(labelbottom=position + columns >= len(shown))
    for panel in panels.flat[: len(shown)]:
        _rate_axis(panel.xaxis, most=4 if columns > 1 else 9)
    figure.supxlabel("max_lr", fontsize=9)
    figure.supylabel("validation accuracy, %", fontsize=9)
    spare = panels.flat[len(shown) :]
    for panel in spare:
        panel.set_axis_off()
    if len(spare):
        spare[0].legend(handles.values(), handles.keys(), loc="center left")
    else:
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3)
    return figure


def _response_panel(axes: Axes, group: OracleCycle, summary: Summary, room: tuple[float, float]) -> None:
    style, means = looks(summary.study), 100 * live_means(group)
    color = style[group.oracle].color
    row = summary.cycles[summary.cycles["cycle"] == group.cycle]
    left = f" · {_percent(row['weights_remaining'])[0]:.3g} % left" if len(row) else ""
    axes.set_title(f"cycle {group.cycle}{left}", fontsize=8.5, pad=3)
    axes.set_xscale("log")
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    lost = group.collapsed.any(axis=0)
    if not np.isfinite(means).any():
        axes.set_ylim(0, 100)
        axes.plot(group.rates[lost], np.full(lost.sum(), 4), "x", color=INK, ms=5, label="collapsed")
        return
    line = group.asked & np.isfinite(means)
    top = means[line].max() if line.any() else np.nanmax(means)
    floor = top - room[0]
    axes.set_ylim(floor - 0.06 * room[0], top + room[1])
    for accuracies in 100 * np.where(lost, np.nan, group.val):
        axes.plot(group.rates, accuracies, "o", ms=2, color=FAINT, alpha=0.75, mew=0, label="one seed")
    axes.axhline(top - 100 * summary.tolerance, color=FAINT, lw=0.9, ls=(0, (4, 2)), label="best − tolerance")
    axes.plot(group.rates[line], means[line], "-o", color=color, ms=3.5, lw=1.4, label=f"{group.oracle}: mean")
    low = np.isfinite(means) & (means < floor)
    if low.any():
        axes.plot(group.rates[low], np.full(low.sum(), floor), "v", ms=4.5, color=color, label="mean below the panel")
    if lost.any():
        axes.plot(group.rates[lost], np.full(lost.sum(), floor), "x", ms=5, color=INK, label="collapsed in a seed")
    _mark_schedule(axes, group, summary, means, floor)


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


# --- (c) accuracy ---


def accuracy_figure(summary: Summary) -> Figure | None:
    """Test accuracy against weights remaining for every arm: mean, and one standard deviation over seeds."""
    arms = summary.arms.dropna(subset=["test_mean", "weights_remaining"])
    if not len(arms):
        return None
    figure, axes = _figure(max(3.8, 0.2 + 0.2 * len(summary.study.arms)))
    style = looks(summary.study)
    handles = []
    order = [name for name in summary.study.arms if name != summary.schedule] + [summary.schedule]
    for name in order:
        rows = arms[arms["arm"] == name].sort_values("cycle")
        if not len(rows):
            continue
        x, mean, spread = (
            _percent(rows["weights_remaining"]),
            _percent(rows["test_mean"]),
            _percent(rows["test_spread"]),
        )
        axes.fill_between(x, mean - spread, mean + spread, color=style[name].color, alpha=0.08, linewidth=0)
        handles += axes.plot(x, mean, style[name].dash, marker="o", ms=3.5, color=style[name].color, label=name)
    axes.set_ylabel("test accuracy, %")
    _weights_axis(axes, summary)
    handles.sort(key=lambda line: list(summary.study.arms).index(str(line.get_label())))
    figure.legend(handles=handles, loc="outside right upper")
    return figure


# --- (d) regret and gap ---


def regret_figure(summary: Summary) -> Figure | None:
    """Cycle regret and chain gap per cycle, in points on test: seeds, mean, 95 % paired t interval."""
    judged = (summary.regret, "regret_test", summary.verdict_oracle, "Cycle regret")
    chained = (summary.gaps, "gap_test", summary.chain_oracle, "Chain gap")
    shown = [
        (table[table["oracle"] == name].dropna(subset=[column]), column, name, title)
        for table, column, name, title in (judged, chained)
        if name is not None
    ]
    shown = [part for part in shown if len(part[0])]
    if not shown:
        return None
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for panel, (table, column, name, title) in zip(panels, shown, strict=True):
        color = looks(summary.study)[str(name)].color
        _differences_panel(panel, table, column, color, 100 * summary.tolerance)
        panel.set_title(f"{title}: {oracle.describe(summary.study, str(name))}", fontsize=8.5)
    panels[0].set_ylabel("points on test (Oracle − schedule)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _differences_panel(axes: Axes, table: pd.DataFrame, column: str, color: str, tolerance: float) -> None:
    axes.axhspan(-tolerance, tolerance, color=FAINT, alpha=0.16, lw=0, label="± tolerance")
    axes.axhline(0, color=INK, lw=0.8)
    axes.plot(
        _floats(table["cycle"]) - 0.17, _percent(table[column]), "o", color=FAINT, ms=2.6, mew=0, label="one seed"
    )
    cycles, means, below, above = [], [], [], []
    for cycle, rows in table.groupby("cycle"):
        estimate = paired_interval(_percent(rows[column]))
        if estimate.mean is not None:
            cycles.append(int(str(cycle)))
            means.append(estimate.mean)
            below.append(estimate.mean - (estimate.mean if estimate.low is None else estimate.low))
            above.append((estimate.mean if estimate.high is None else estimate.high) - estimate.mean)
    axes.errorbar(
        cycles,
        means,
        yerr=[below, above],
        fmt="o",
        color=color,
        capsize=2.5,
        lw=1.3,
        ms=5,
        label="mean, 95 % t interval",
    )
    axes.set_xlabel("cycle")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False, axis="x")


# --- (e) cost ---


def cost_figure(summary: Summary) -> Figure | None:
    """Distinct units and training time per arm; whole study in grey."""
    table = summary.cost[summary.cost["units"] > 0].iloc[::-1]
    if not len(table):
        return None
    figure = Figure(figsize=(WIDTH, 0.9 + 0.3 * len(table)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    style = looks(summary.study)
    colors = [style[name].color if name in style and name != STUDY else FAINT for name in table["arm"]]
    name, divisor = _time_unit(float(table["train_seconds"].max()))
    times = _floats(table["train_seconds"]) / divisor
    for panel, values, label in (
        (panels[0], _floats(table["units"]), "distinct units trained"),
        (panels[1], times, f"training time, {name}"),
    ):
        bars = panel.barh(list(table["arm"]), values, color=colors, height=0.68)
        panel.bar_label(
            bars, fmt=lambda value: f"{value:.3g}" if value < 1000 else f"{value:,.0f}", padding=3, fontsize=8.5
        )
        panel.set_xlabel(label)
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.margins(x=0.16)
        panel.grid(visible=False, axis="y")
        panel.tick_params(axis="y", length=0)
    return figure


def _time_unit(longest: float) -> tuple[str, int]:
    return ("hours", 3600) if longest >= 7200 else ("minutes", 60) if longest >= 300 else ("seconds", 1)


# --- axes ---


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _floats(column: pd.Series[Any]) -> Any:
    return column.to_numpy(dtype=float, na_value=np.nan)


def _percent(column: pd.Series[Any]) -> Any:
    return 100 * _floats(column)


def _ints(column: pd.Series[Any]) -> list[int]:
    return [int(value) for value in column]


def _weights_axis(axes: Axes, summary: Summary) -> None:
    """Log axis of weights remaining, falling, with a tick at every cycle; labels thin out where they would touch."""
    shown = summary.arms.dropna(subset=["weights_remaining"]).drop_duplicates("cycle").sort_values("cycle")
    percents, cycles = _percent(shown["weights_remaining"]), _ints(shown["cycle"])
    if len(percents) == 0:  # rows without results: there is nothing to place
        return
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    every = math.ceil(len(percents) / 11)
    labels = [f"{value:.3g}" if i % every == 0 else "" for i, value in enumerate(percents)]
    labels = [f"{label}\n({cycle})" if label else "" for label, cycle in zip(labels, cycles, strict=True)]
    axes.set_xticks(percents, labels)
    axes.set_xlabel("weights remaining, % (cycle)")
    pad = (max(percents) / min(percents)) ** 0.03 if len(percents) > 1 else 1.2
    axes.set_xlim(max(percents) * pad, min(percents) / pad)


def _rate_axis(axis: Any, most: int) -> None:
    """At most `most` ticks of a log max_lr axis, as plain numbers; call it after the data is drawn."""
    low, high = sorted(axis.get_view_interval())
    ticks = rate_ticks(low, high, most)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
