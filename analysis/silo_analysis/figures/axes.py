"""What the figures share: their size, their axes, how columns become numbers, how a figure becomes bytes."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from silo_analysis.estimates.response import rate_ticks
from silo_analysis.estimates.summary import Summary
from silo_analysis.figures.palette import our_style
from silo_tune.formats import words
from silo_tune.planner.winner import gain

WIDTH = 7.6  # inches: the width of the report's column
DPI = 110
MOST_DOTS = 2000  # of single seeds in a figure: more are slow to draw and hide each other (ours)
# What would differ between two files of the same figure, by kind.
UNDATED: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}
_CANVASES = {"svg": FigureCanvasSVG, "pdf": FigureCanvasPdf, "png": FigureCanvasAgg}


def save_figure(figure: Figure, name: str) -> dict[str, bytes]:
    """A figure as {"svg": …, "pdf": …, "png": …}; the same figure of the same name gives the same bytes."""
    figure.set_dpi(DPI)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once; every kind keeps the places
    return {kind: image_bytes(figure, kind, name) for kind in UNDATED}


def image_bytes(figure: Figure, kind: str, name: str) -> bytes:
    """The figure as a file of that kind, a key of `UNDATED`, without a date; `name` makes the ids of an SVG.

    Not by `savefig`, which draws every figure twice to ask for a layout.
    """
    buffer = io.BytesIO()
    figure.set_dpi(DPI)  # those of vectors leave it at 72
    canvas: Any = _CANVASES[kind](figure)
    with our_style():
        matplotlib.rcParams["svg.hashsalt"] = name
        getattr(canvas, f"print_{kind}")(buffer, metadata=UNDATED[kind])
    return buffer.getvalue()


def new_figure(height: float) -> tuple[Figure, Axes]:
    """A figure as wide as the report's column and `height` inches high, with one panel."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def floats(column: pd.Series[Any]) -> Any:
    """A column as an array of floats, NaN where it is null."""
    return column.to_numpy(dtype=float, na_value=np.nan)


def percent(column: pd.Series[Any]) -> Any:
    """A column of shares in [0, 1] as an array in %."""
    return 100 * floats(column)


def scores(column: pd.Series[Any]) -> Any:
    """A column of scores, or of their differences, as they are shown: shares in %."""
    return words().scale * floats(column)


def as_scores(axis: Any) -> None:
    """Label an axis of gains with the scores that they stand for; call it after its limits are set."""
    if words().sign < 0:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{gain(value, -1) + 0.0:g}"))


def ints(column: pd.Series[Any]) -> list[int]:
    """A column without nulls as plain integers."""
    return [int(value) for value in column]


def weights_axis(axes: Axes, summary: Summary, most: int = 11) -> None:
    """Log axis of the run's weights remaining, falling, with a tick at every cycle."""
    shown = summary.arms.dropna(subset=["weights_remaining"]).drop_duplicates("cycle").sort_values("cycle")
    mark_weights(axes, percent(shown["weights_remaining"]), ints(shown["cycle"]), most)


def mark_weights(axes: Axes, percents: Sequence[float], cycles: Sequence[int], most: int = 11) -> None:
    """Log axis of weights remaining (%), falling, with a tick at each cycle; at most `most` of them are labelled."""
    if len(percents) == 0:  # rows without results: there is nothing to place
        return
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    every = math.ceil(len(percents) / most)
    labels = [f"{value:.3g}" if i % every == 0 else "" for i, value in enumerate(percents)]
    labels = [f"{label}\n({cycle})" if label else "" for label, cycle in zip(labels, cycles, strict=True)]
    axes.set_xticks(percents, labels)
    axes.set_xlabel("weights remaining, % (cycle)")
    pad = (max(percents) / min(percents)) ** 0.03 if len(percents) > 1 else 1.2
    axes.set_xlim(max(percents) * pad, min(percents) / pad)


def rate_axis(axis: Any, most: int) -> None:
    """At most `most` ticks of a log max_lr axis, as plain numbers; call it after the data is drawn."""
    low, high = sorted(axis.get_view_interval())
    ticks = rate_ticks(low, high, most)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
