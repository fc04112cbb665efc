"""What a search costs and what it loses: regret of replayed strategies against units per cycle."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from silo_analysis.figures.axes import floats, new_figure, save_figure
from silo_analysis.figures.palette import FAINT, INK, Look, our_style
from silo_analysis.replay.landscape import RecordedGrid
from silo_analysis.replay.strategies import GRID
from silo_tune.formats import difference, plural, words

LOOKS = {
    "gp": (Look("#D55E00", "-"), "o"),
    "tpe": (Look("#0072B2", "-"), "s"),
    "cmaes": (Look("#CC79A7", "-."), "D"),
    "qmc": (Look("#009E73", "--"), "^"),
    "random": (Look("#8c6d1f", ":"), "v"),
}
TICKS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50, 70, 100)


def save_replay(table: pd.DataFrame, recorded: RecordedGrid, tolerance: float) -> dict[str, bytes]:
    """The figure as {"svg": …, "png": …}."""
    with our_style():
        return save_figure(replay_figure(table, recorded, tolerance), "replay")


def replay_figure(table: pd.DataFrame, recorded: RecordedGrid, tolerance: float) -> Figure:
    """One line per sampler and one for grids; bars are one standard error each way.

    Args:
        table: of `silo_analysis.replay.replay_tables.replay`.
        recorded: the grid, for the caption.
        tolerance: difference of scores.
    """
    figure, axes = new_figure(3.6)
    names = [GRID, *(name for name in LOOKS if (table["strategy"] == name).any())]
    for position, name in enumerate(names):
        _line(
            axes, table[table["strategy"] == name].sort_values("trials"), name, 1 + 0.008 * (position - len(names) / 2)
        )
    axes.set_xscale("log")
    tops = floats(table["regret"]) + floats(table["regret_se"].fillna(0.0))
    _show_tolerance(axes, words().scale * tolerance, drawn=words().scale * max(float(tops.max()), 1e-4))
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in TICKS if low <= tick <= high]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("trials per cycle: rates suggested, values of tested arms, repeats")
    axes.set_ylabel(f"{words().head('regret')} on validation")
    cycles = plural(len(recorded.landscapes), "cycle")
    noise = (
        "noise unknown, none drawn" if recorded.noise is None else f"noise {difference(recorded.noise, signed=False)}"
    )
    axes.set_title(f"replayed on {recorded.oracle}: {recorded.points} rates, {cycles}, {noise}")
    figure.legend(loc="outside right upper")
    figure.supxlabel(
        "exact within a cycle only; bars: ± one standard error over repetitions", fontsize=7.5, color=FAINT
    )
    return figure


def _line(axes: Axes, rows: pd.DataFrame, name: str, shift: float) -> None:
    look, mark = LOOKS.get(name, (Look(INK, "-"), "X"))
    units, regret = shift * floats(rows["units"]), words().scale * floats(rows["regret"])
    bars = words().scale * floats(rows["regret_se"])
    axes.errorbar(
        units, regret, yerr=bars, color=look.color, ls=look.dash, marker=mark, ms=4.5, lw=1.4, elinewidth=0.8,
        label=name, ecolor=look.color, capsize=0, alpha=0.95,
    )  # fmt: skip


def _show_tolerance(axes: Axes, tolerance: float, drawn: float) -> None:
    """Name the line of the tolerance, unless it lies so far above everything `drawn` that it would flatten it."""
    if tolerance > 2 * drawn:
        axes.set_ylim(0, 1.25 * drawn)
        return
    axes.set_ylim(0, 1.1 * max(drawn, tolerance))
    axes.axhline(tolerance, color=FAINT, lw=1, ls=(0, (4, 3)), zorder=1)
    axes.annotate(
        f"tolerance {tolerance:g}", (1, tolerance), xycoords=("axes fraction", "data"), ha="right", va="bottom",
        fontsize=8, color=FAINT,
    )  # fmt: skip
