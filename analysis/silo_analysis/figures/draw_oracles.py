"""The greedy and the conditioned Oracle over pruning: two bands, their best rates, and the judged schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from silo_analysis.estimates.summary import Summary
from silo_analysis.figures.axes import floats, new_figure, percent, rate_axis, weights_axis
from silo_analysis.figures.palette import FAINT, Look, looks

_MARKS = {"greedy": "o", "conditioned": "s"}
_HATCHES = {"greedy": None, "conditioned": "////"}
# Both Oracles' marks of a cycle stand side by side, this share of a cycle from its place.
_ASIDE = {"greedy": -0.11, "conditioned": 0.11}


def oracles_figure(summary: Summary) -> Figure | None:
    """Point intervals and best rates of both Oracles, and the schedule's max_lr; cycles that disagree are shaded."""
    table = summary.compared.dropna(subset=["greedy_low", "conditioned_low"])
    if summary.pair is None or not len(table):
        return None
    figure, axes = new_figure(4.4)
    style = looks(summary.study)
    step = np.log(summary.study.remaining[1])
    handles: list[Any] = []
    for side, name in (("greedy", summary.pair.greedy), ("conditioned", summary.pair.conditioned)):
        handles += _band(axes, table, side, name, style[name], step)
    rows = table.dropna(subset=["max_lr"])
    color = style[summary.schedule].color
    handles += axes.plot(
        percent(rows["weights_remaining"]), floats(rows["max_lr"]), "-D", ms=4, mec="white", mew=0.6, lw=2, color=color,
        zorder=4, label=summary.schedule,
    )  # fmt: skip
    handles += _disagreements(axes, table, step)
    axes.set_yscale("log")
    axes.set_ylabel("max_lr")
    rate_axis(axes.yaxis, most=8)
    weights_axis(axes, summary)
    _room(axes, step)
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def _band(axes: Axes, table: pd.DataFrame, side: str, name: str, look: Look, step: float) -> list[Any]:
    x, mark = percent(table["weights_remaining"]), _MARKS[side]
    low, high, best = (floats(table[f"{side}_{part}"]) for part in ("low", "high", "best"))
    band = axes.fill_between(
        x, low, high, facecolor=f"{look.color}2e", edgecolor=f"{look.color}8c", hatch=_HATCHES[side], linewidth=0.8,
        label=f"{name} ({side}): near the best",
    )  # fmt: skip
    aside = x * np.exp(step * _ASIDE[side])
    axes.vlines(aside, low, high, color=look.color, linewidth=1.8, zorder=2.5)
    found = [
        band,
        *axes.plot(
            aside, best, mark, ms=6, color=look.color, mec="white", zorder=3, label=f"{name} ({side}): best rate"
        ),
    ]
    for end, values, arrow in (("low", low, "v"), ("high", high, "^")):
        open_ = table[f"{side}_unbounded_{end}"].to_numpy(dtype=bool, na_value=False)
        if open_.any():
            label = f"{name} ({side}): no {end} end"
            found += axes.plot(aside[open_], values[open_], arrow, ms=6.5, color=look.color, zorder=3, label=label)
    return found


def _disagreements(axes: Axes, table: pd.DataFrame, step: float) -> list[Any]:
    apart = table[table["same_verdict"].eq(False).fillna(False)]
    for x in percent(apart["weights_remaining"]):
        axes.axvspan(x * np.exp(-0.45 * step), x * np.exp(0.45 * step), color=FAINT, alpha=0.2, lw=0, zorder=0.5)
    return [Patch(color=FAINT, alpha=0.2, lw=0, label="verdicts disagree")] if len(apart) else []


def _room(axes: Axes, step: float) -> None:
    """Half a cycle more on both sides, for the marks that stand aside."""
    left, right = axes.get_xlim()
    axes.set_xlim(left * np.exp(-0.3 * step), right * np.exp(0.3 * step))
