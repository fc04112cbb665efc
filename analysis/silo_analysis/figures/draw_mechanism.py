"""Spread of gradients and of hidden representations over pruning, relative to the dense network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from silo_analysis.estimates.summary import Summary
from silo_analysis.figures.axes import WIDTH, floats, percent, rate_axis, weights_axis
from silo_analysis.figures.palette import INK, Look, looks, shaded

_TITLES = {
    "grad_spread": "Gradients",
    "activation_spread": "Representations",
    "activation_spread_norm": "After normalisation",
}
_COLUMNS = 4  # of the legend
_BEFORE = "Before normalisation"  # where there is an after


def spread_figure(summary: Summary) -> Figure | None:
    """A panel per measure: geometric mean over seeds of the ratio to the dense cycle, and one standard deviation."""
    measures = [name for name in _TITLES if (summary.spreads["measure"] == name).any()]
    if not measures:
        return None
    titles = _TITLES | ({"activation_spread": _BEFORE} if "activation_spread_norm" in measures else {})
    lines = math.ceil(summary.spreads["arm"].nunique() / _COLUMNS)  # of the legend
    figure = Figure(figsize=(WIDTH, 2.9 + 0.2 * lines), layout="constrained")
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    style = looks(summary.study)
    for panel, measure in zip(panels, measures, strict=True):
        _panel(panel, summary.spreads[summary.spreads["measure"] == measure], style, shaded(summary.study))
        panel.set_title(titles[measure])
        weights_axis(panel, summary, most=12 // len(measures))
    panels[0].set_ylabel("relative to the dense network")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=_COLUMNS, handlelength=3.2)
    return figure


def _panel(axes: Axes, table: pd.DataFrame, style: dict[str, Look], banded: set[str]) -> None:
    axes.axhline(1, color=INK, lw=0.8)
    arms = list(dict.fromkeys(table["arm"]))
    for arm in reversed(arms):  # the judged schedule is first, and drawn on top
        _line(axes, table[table["arm"] == arm].sort_values("cycle"), arm, style[arm], arm in banded)
    axes.set_yscale("log")
    rate_axis(axes.yaxis, most=6)
    low, high = axes.get_ylim()
    if high < 2 * low:  # so little of a decade has hardly a round rate in it
        ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
        axes.set_yticks([tick for tick in ticks if low <= tick <= high])


def _line(axes: Axes, rows: pd.DataFrame, arm: str, look: Look, band: bool) -> list[Any]:
    x, mean = percent(rows["weights_remaining"]), floats(rows["log_ratio_mean"])
    spread = np.nan_to_num(floats(rows["log_ratio_spread"]))
    if band:
        axes.fill_between(x, np.exp(mean - spread), np.exp(mean + spread), color=look.color, alpha=0.12, linewidth=0)
    return axes.plot(x, np.exp(mean), look.dash, marker=look.marker, ms=3, color=look.color, label=arm)
