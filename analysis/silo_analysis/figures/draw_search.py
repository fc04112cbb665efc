"""Searches over whole chains: the best of n chains, what mattered, the objective along and over parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.tri import Triangulation

from silo_analysis.answers.text_tables import CROWD
from silo_analysis.estimates.response import rate_ticks
from silo_analysis.estimates.stats import FloatArray
from silo_analysis.estimates.summary import Summary
from silo_analysis.estimates.tuning import PILOT, logarithmic, parameters
from silo_analysis.figures.axes import WIDTH, as_scores, floats, ints, new_figure, scores
from silo_analysis.figures.palette import FAINT, INK, Look, looks
from silo_tune.formats import words
from silo_tune.planner.winner import gain
from silo_tune.results.searches import SearchRecord

_MOST_PAIRED = 3
# Fewer points than this make a surface that says more about the triangles than about the objective.
_FEWEST_FOR_SURFACE = 12
_COLORS = "viridis"


def search_figures(summary: Summary) -> dict[str, Figure]:
    """Importance, slices and contours of every tune arm that has points: "search-KIND-ARM" → figure."""
    found: dict[str, Figure | None] = {}
    for name, search in summary.searches.items():
        if search.kind != PILOT:
            color = looks(summary.study)[name].color if name in summary.study.arms else INK
            found[f"search-importance-{name}"] = importance_figure(search, color)
            found[f"search-slices-{name}"] = slices_figure(search, color)
            found[f"search-contours-{name}"] = contours_figure(search)
    return {name: figure for name, figure in found.items() if figure is not None}


# --- the best of n chains ---


def tuning_curve_figure(summary: Summary) -> Figure | None:
    """The best of n chains per arm, and its band over seeds; None without a search of several points."""
    table = summary.tuning_curves
    arms = list(dict.fromkeys(table.loc[table["chains"] > 1, "arm"]))
    if not arms:
        return None
    figure, axes = new_figure(3.3)
    style = looks(summary.study)
    for arm in arms:
        rows = table[table["arm"] == arm]
        look = style.get(arm, Look(INK, "-"))
        chains, best = ints(rows["chains"]), scores(rows["best"])
        step: Literal["post"] | None = "post" if bool(rows["in_order"].all()) else None
        axes.plot(
            chains,
            best,
            color=look.color,
            ls=look.dash,
            marker=look.marker,
            ms=3.5,
            label=arm,
            drawstyle=f"steps-{step}" if step else "default",
        )
        if len(arms) <= CROWD and rows["low"].notna().all():
            low, high = scores(rows["low"]), scores(rows["high"])
            axes.fill_between(chains, low, high, step=step, color=look.color, alpha=0.12, lw=0)
    axes.set_xlabel("chains per seed")
    axes.set_ylabel(f"best validation {words().axis}")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_ylim(*curve_limits(floats(table["best"])))
    figure.legend(loc="outside upper center", ncols=4)
    return figure


def curve_limits(best: FloatArray) -> tuple[float, float]:
    """Ends of the axis: the few poor chains with which an arm begins do not hide how the arms end."""
    gains = gain(words().scale * best, words().sign)
    top, low = float(gains.max()), float(np.quantile(gains, 0.1))
    room = max(0.15 * (top - low), _least(0.25, top))
    ends = sorted((gain(low - room, words().sign), gain(top + room, words().sign)))
    return ends[0], ends[1]


def _least(points: float, top: float) -> float:
    """The least room of an axis, in points; of a score that is no share, one hundredth of its size for a point."""
    return points if words().share else 0.01 * points * (abs(top) or 1.0)


# --- importance ---


def importance_figure(search: SearchRecord, color: str) -> Figure | None:
    """A bar per parameter; None without importances."""
    if not search.importance:
        return None
    ranked = sorted(search.importance.items(), key=lambda item: (item[1], item[0]))
    figure = Figure(figsize=(WIDTH, max(1.5, 0.85 + 0.29 * len(ranked))), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([name for name, _ in ranked], [100 * share for _, share in ranked], color=color, height=0.62)
    axes.bar_label(bars, fmt="%.0f %%", padding=3, fontsize=8.5)
    axes.set_xlabel("importance: share of the objective's variance, %")
    axes.set_xlim(0, 108 * max(max(search.importance.values()), 1e-9))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    return figure


def ranked_parameters(search: SearchRecord) -> list[str]:
    """Parameters that vary, the most important first; in their own order where importance is unknown."""
    importance = search.importance or {}
    return sorted(parameters(search), key=lambda name: -importance.get(name, 0.0))


# --- slices ---


def slices_figure(search: SearchRecord, color: str) -> Figure | None:
    """The objective against each parameter; a stopped point is hollow, at what the sampler was told."""
    names = ranked_parameters(search)
    shown = [point for point in search.points if height(point) is not None]
    if not names or not any(point["objective"] is not None for point in shown):
        return None
    columns = 2 if len(names) == 4 else min(3, len(names))
    lines = math.ceil(len(names) / columns)
    figure = Figure(figsize=(WIDTH, 0.7 + 2.1 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flat
    limits = slice_limits(shown)
    for panel, name in zip(panels, names, strict=False):
        _slice(panel, shown, name, search, color, limits)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    figure.supylabel(f"mean validation {words().axis}", fontsize=9)
    handles: dict[str, Any] = {}
    for panel in panels[: len(names)]:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4)
    return figure


def height(point: Mapping[str, Any]) -> float | None:
    """Where a point stands on the axis of the objective: its objective, else what the sampler was told."""
    value = point["objective"] if point["objective"] is not None else point["told"]
    return None if value is None or not math.isfinite(value) else words().scale * float(value)


def slice_limits(points: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Lowest and highest height that is drawn to scale: points far below the rest are marked at the floor."""
    values = np.array([height(point) for point in points], dtype=float)
    top, middle = float(values.max()), float(np.median(values))
    floor = max(float(values.min()), top - 4 * max(top - middle, _least(0.25, top)))
    room = 0.08 * max(top - floor, _least(2.0, top))
    return floor - room, top + room


def _slice(
    axes: Axes,
    points: Sequence[Mapping[str, Any]],
    name: str,
    search: SearchRecord,
    color: str,
    limits: tuple[float, float],
) -> None:
    shown = [point for point in points if name in point["params"]]
    x = np.array([point["params"][name] for point in shown], dtype=float)
    y = np.array([height(point) for point in shown], dtype=float)
    done = np.array([point["objective"] is not None for point in shown], dtype=bool)
    best = np.array([point["trial"] == search.best for point in shown], dtype=bool)
    low = y < limits[0]
    marks: tuple[tuple[str, Any, dict[str, Any]], ...] = (
        ("stopped early", ~done & ~low, {"marker": "o", "ms": 5, "mfc": "none", "mec": color}),
        ("finished", done & ~low & ~best, {"marker": "o", "ms": 5, "color": color, "mec": "white"}),
        ("below the panel", low & done, {"marker": "v", "ms": 5.5, "color": color}),
        ("stopped, below the panel", low & ~done, {"marker": "v", "ms": 5.5, "mfc": "none", "mec": color}),
        ("best", best, {"marker": "*", "ms": 12, "color": INK, "mec": "white", "zorder": 4}),
    )
    for label, which, look in marks:
        if which.any():  # the room of an artist without points would be without bounds
            axes.plot(x[which], np.maximum(y[which], limits[0]), ls="", clip_on=False, label=label, **look)
    axes.set_xlabel(name)
    axes.set_ylim(*limits)
    as_scores(axes.yaxis)
    _parameter_axis(axes, "x", x)


# --- contours ---


def contours_figure(search: SearchRecord) -> Figure | None:
    """The objective over pairs of the most important parameters; None with fewer than two or without an objective."""
    names = ranked_parameters(search)[:_MOST_PAIRED]
    done = [point for point in search.points if point["objective"] is not None]
    pairs = list(combinations(names, 2))
    if not pairs or not done:
        return None
    values = words().scale * np.array([point["objective"] for point in done], dtype=float)
    levels = np.linspace(*color_limits(values), 9)
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    panels = figure.subplots(1, len(pairs), squeeze=False)[0]
    for panel, (left, right) in zip(panels, pairs, strict=True):
        drawn = _pair(panel, search, done, values, (left, right), levels)
    bar = figure.colorbar(drawn, ax=list(panels), shrink=0.9, pad=0.02, extend="min")
    bar.set_label(f"mean validation {words().axis}", fontsize=8.5)
    bar.ax.yaxis.set_major_locator(MaxNLocator(5))
    as_scores(bar.ax.yaxis)
    handles = [Line2D([], [], ls="", marker="*", ms=11, color=INK, mec="white", label="best")]
    if len(done) < len(search.points):
        handles.append(Line2D([], [], ls="", marker="o", ms=5, mfc="none", mec=FAINT, label="stopped early"))
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def color_limits(values: FloatArray) -> tuple[float, float]:
    """Ends of the colours: the lowest tenth shares one, so that poor points do not hide what good ones differ in."""
    top, low = float(values.max()), float(np.quantile(values, 0.1))
    least = _least(0.01, top)
    return (low, top) if top - low > least else (top - least, top)


def _pair(
    axes: Axes,
    search: SearchRecord,
    done: Sequence[Mapping[str, Any]],
    values: FloatArray,
    names: tuple[str, str],
    levels: FloatArray,
) -> Any:
    axes.use_sticky_edges = False  # a surface would end the axes where the outermost marks are
    x, y = (_column(done, name) for name in names)
    every = [_column(search.points, name) for name in names]
    scaled = [_scaled(column, whole) for column, whole in zip((x, y), every, strict=True)]
    if (triangles := triangulation(scaled[0], scaled[1])) is not None:
        surface = Triangulation(x, y, triangles)
        axes.tricontourf(surface, values, levels=levels, cmap=_COLORS, extend="min", alpha=0.75)
    low, high = float(levels[0]), float(levels[-1])
    drawn = axes.scatter(x, y, c=values, cmap=_COLORS, vmin=low, vmax=high, s=26, edgecolors="white", lw=0.8, zorder=3)
    open_ = [point for point in search.points if point["objective"] is None]
    axes.plot(_column(open_, names[0]), _column(open_, names[1]), "o", ms=5, mfc="none", mec=FAINT, zorder=2)
    best = [point for point in done if point["trial"] == search.best]
    axes.plot(_column(best, names[0]), _column(best, names[1]), "*", ms=13, color=INK, mec="white", zorder=4)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    _parameter_axis(axes, "x", every[0])
    _parameter_axis(axes, "y", every[1])
    axes.grid(visible=False)
    return drawn


def _column(points: Sequence[Mapping[str, Any]], name: str) -> FloatArray:
    return np.array([point["params"].get(name, np.nan) for point in points], dtype=float)


def _scaled(values: FloatArray, whole: FloatArray) -> FloatArray:
    """Values on [0, 1] of the range of `whole`, in log where that is how its axis is drawn."""
    if logarithmic(whole.tolist()):
        values, whole = np.log(values), np.log(whole)
    span = float(np.ptp(whole))
    scaled: FloatArray = (values - whole.min()) / (span if span > 0 else 1.0)
    return scaled


def triangulation(x: FloatArray, y: FloatArray) -> Any:
    """Triangles between points (indices), or None where there are too few of them or they lie on a line."""
    corners = np.unique(np.round(np.stack([x, y]), 9), axis=1)
    flat = np.linalg.svd(corners - corners.mean(axis=1, keepdims=True), compute_uv=False)[-1] < 1e-3
    if corners.shape[1] < _FEWEST_FOR_SURFACE or flat:
        return None
    return Triangulation(x, y).triangles


# --- axes ---


def _parameter_axis(axes: Axes, which: str, values: FloatArray) -> None:
    """A log axis where the values span decades; whole numbers get whole ticks."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    if not logarithmic(values.tolist()):
        whole = bool((values == np.round(values)).all())
        axis.set_major_locator(MaxNLocator(4, integer=whole))
        return
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(FixedLocator(rate_ticks(low, high, 4)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
