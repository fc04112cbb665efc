"""The judged schedule against the other arms, overall and by weights remaining; above 0 the judged one is better."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from silo_analysis.estimates.against import SIGNIFICANCE
from silo_analysis.estimates.stats import FloatArray
from silo_analysis.estimates.summary import Summary
from silo_analysis.figures.axes import WIDTH, floats, ints, percent, scores, weights_axis
from silo_analysis.figures.palette import FAINT, INK, Look, looks
from silo_tune.formats import words

_LONGEST = 24  # letters of a name beside a row
_MOST_CELLS = 10  # cycles whose differences are also written as numbers
# Of the numbers in cells. Not those of the style: a page turns these over on a dark screen, and cells stay as they are.
_DARK, _LIGHT = "#111111", "#fefefe"
_PAIR = "PuOr_r"  # purple: the other arm is better; orange, as the judged schedule is drawn: it is better
# An arm whose difference is more than so many times the median one is drawn at the edge, with its number.
_FAR = 5.0


def against_figure(summary: Summary) -> Figure | None:
    """Left: overall difference per arm, sorted, with its intervals. Right: the same by weights remaining."""
    cells = summary.against[summary.against["cycle"].notna()].dropna(subset=["difference"])
    if not len(cells):
        return None
    overall = _overall(summary, cells)
    arms = list(overall["arm"])
    figure = Figure(figsize=(WIDTH, 1.9 + 0.27 * len(arms)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25), sharey=True)
    _forest(left, overall, looks(summary.study), summary)
    _by_weights(figure, right, cells, arms)
    left.set_yticks(range(len(arms)), [shortened(arm) for arm in arms])
    left.set_ylim(len(arms) - 0.4, -0.6)
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
    return figure


def shortened(name: str) -> str:
    """A name that leaves room for the panels, cut in the middle: names of a family differ at their ends."""
    half = _LONGEST // 2
    return name if len(name) <= _LONGEST else f"{name[: half - 1]}…{name[-half:]}"


def _overall(summary: Summary, cells: pd.DataFrame) -> pd.DataFrame:
    """The overall rows of the arms that have any difference, sorted."""
    arms = pd.DataFrame({"arm": cells["arm"].unique()})
    overall = arms.merge(summary.against[summary.against["cycle"].isna()], on="arm", how="left")
    return overall.sort_values("difference", ascending=False, na_position="last", kind="stable")


# --- overall ---


def _forest(axes: Axes, rows: pd.DataFrame, style: dict[str, Look], summary: Summary) -> None:
    tolerance = words().scale * summary.tolerance
    axes.axvspan(-tolerance, tolerance, color=FAINT, alpha=0.16, lw=0)
    axes.axvline(0, color=INK, lw=0.8)
    middle, low, high, *within = (
        scores(rows[name]) for name in ("difference", "low", "high", "within_low", "within_high")
    )
    wide = [scores(rows[name]) for name in ("low_examples", "high_examples")]
    edges = _edges(middle, np.fmin(low, wide[0]), np.fmax(high, wide[1]), tolerance)
    for place, arm in enumerate(rows["arm"]):
        if np.isfinite(middle[place]):
            _estimate(axes, place, (middle[place], low[place], high[place]), edges, style[arm])
            if edges[0] <= middle[place] <= edges[1]:
                axes.plot([end[place] for end in within], [place, place], color=style[arm].color, lw=3.2)
                axes.plot([end[place] for end in wide], [place, place], ":|", color=style[arm].color, lw=1.0, ms=7)
    axes.set_xlim(*edges)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(f"{shortened(summary.schedule)} − arm{_unit()} on test")
    images = f"\ndotted: over test {words().example}s too" if np.isfinite(wide).any() else ""
    axes.set_title(f"cycles ≥ 2; thin: 95 % interval, thick: 90 % (TOST){images}", fontsize=8.5)


def _edges(middle: FloatArray, low: FloatArray, high: FloatArray, tolerance: float) -> tuple[float, float]:
    """Ends of the axis: it holds 0, the tolerance, and all intervals but those of arms that are far off."""
    size = np.abs(middle[np.isfinite(middle)])
    far = max(_FAR * float(np.median(size)), 4 * tolerance) if len(size) else 0.0
    with np.errstate(invalid="ignore"):
        near = np.abs(middle) <= far
    ends = np.concatenate([middle[near], low[near], high[near], [-1.3 * tolerance, 1.3 * tolerance]])
    ends = ends[np.isfinite(ends)]
    room = 0.07 * float(np.ptp(ends))
    return float(ends.min()) - room, float(ends.max()) + room


def _estimate(
    axes: Axes, place: int, values: tuple[float, float, float], edges: tuple[float, float], look: Look
) -> None:
    middle, low, high = values
    if not edges[0] <= middle <= edges[1]:
        right, span = middle > 0, edges[1] - edges[0]
        at, inward = (edges[1], -span) if right else (edges[0], span)
        axes.plot(at + 0.02 * inward, place, ">" if right else "<", color=look.color, ms=6)
        side = "right" if right else "left"
        axes.text(at + 0.06 * inward, place, signed(middle), ha=side, va="center", fontsize=7.5)
        return
    if np.isfinite(low):
        axes.plot([low, high], [place, place], color=look.color, lw=1.5)
    face = look.color if np.isfinite(low) else "white"  # a single seed is hollow
    axes.plot(middle, place, look.marker, color=look.color, mfc=face, ms=5.5)


def _unit() -> str:
    return f",{words().pp}" if words().pp else ""


def signed(value: float) -> str:
    """Points with their sign, to three digits at most: "+0.12", "+1.2", "−12", "0.0"."""
    size = abs(value)
    text = f"{value:+.{2 if size < 0.995 else 1 if size < 9.95 else 0}f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


# --- by weights remaining ---


def _by_weights(figure: Figure, axes: Axes, cells: pd.DataFrame, arms: list[str]) -> None:
    cycles = sorted(set(ints(cells["cycle"])))
    grid, shown, same = (np.full((len(arms), len(cycles)), np.nan) for _ in range(3))
    at = [arms.index(arm) for arm in cells["arm"]], [cycles.index(cycle) for cycle in ints(cells["cycle"])]
    grid[at] = scores(cells["difference"])
    same[at] = cells["outcome"] == "identical"
    with np.errstate(invalid="ignore"):
        shown[at] = floats(cells["p_holm"]) < SIGNIFICANCE
    limit = _limit(grid)
    mesh = axes.pcolormesh(
        np.arange(len(cycles) + 1) - 0.5, np.arange(len(arms) + 1) - 0.5, grid, cmap=_PAIR,
        norm=Normalize(-limit, limit), edgecolors="white", linewidth=0.8,
    )  # fmt: skip
    axes.set_facecolor("#eef1f5")
    axes.grid(visible=False)
    _marks(axes, grid, shown, same, limit)
    remaining = cells.drop_duplicates("cycle").sort_values("cycle")
    every = -(-len(cycles) // _MOST_CELLS)
    labels = [
        f"{left:.3g}\n({cycle})" for left, cycle in zip(percent(remaining["weights_remaining"]), cycles, strict=True)
    ]
    axes.set_xticks(range(0, len(cycles), every), labels[::every])
    axes.set_xlabel("weights remaining, % (cycle)")
    equal = "; =: the same trials" if (same == 1).any() else ""
    axes.set_title(f"by cycle; dot: shown (Holm over all){equal}", fontsize=8.5)
    axes.spines[["left", "bottom"]].set_visible(False)
    bar = figure.colorbar(mesh, ax=axes, extend="both", aspect=30, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(words().pp.strip() or words().title)
    bar.locator = MaxNLocator(5)
    bar.update_ticks()


def _limit(grid: FloatArray) -> float:
    """End of the colours: nine of ten cells lie within it."""
    size = np.abs(grid[np.isfinite(grid)])
    return max(float(np.quantile(size, 0.9)), 0.1) if len(size) else 1.0


def _marks(axes: Axes, grid: FloatArray, shown: FloatArray, same: FloatArray, limit: float) -> None:
    """The number of each cell where there is room, a dot where it is shown, = where the trials are the same."""
    written = grid.shape[1] <= _MOST_CELLS
    for (row, column), value in np.ndenumerate(grid):
        ink = _LIGHT if abs(value) > 0.65 * limit else _DARK
        if same[row, column] == 1:
            axes.text(column, row, "=", ha="center", va="center", fontsize=6.8, color=ink)
        elif written and np.isfinite(value):
            axes.text(column, row, signed(value), ha="center", va="center", fontsize=6.8, color=ink)
        if shown[row, column] == 1:
            x, y = (column + 0.38, row - 0.34) if written else (column, row)
            axes.plot(x, y, ".", color=ink, ms=4)


# --- the controls of the S ---


def controls_figure(summary: Summary, arms: dict[str, str]) -> Figure | None:
    """Differences from the controls over weights remaining, a panel each: seeds' median, 95 % interval.

    Args:
        summary: of the run.
        arms: control → what it is.
    """
    cells = summary.against[summary.against["cycle"].notna()].dropna(subset=["difference"])
    present = [arm for arm in arms if (cells["arm"] == arm).any()]
    if not present:
        return None
    style = looks(summary.study)
    figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
    panels = figure.subplots(1, len(present), sharey=True, squeeze=False)[0]
    for panel, arm in zip(panels, present, strict=True):
        _control(panel, cells[cells["arm"] == arm], style[arm], words().scale * summary.tolerance)
        weights_axis(panel, summary, most=max(3, 11 // len(present)))
        panel.set_title(f"{arms[arm]}\n({shortened(arm)})", fontsize=8.5)
        label = panel.get_xlabel()
        panel.set_xlabel("")  # one for all panels: there is no room for each
    figure.supxlabel(label, fontsize="medium")
    panels[0].set_ylabel(f"{shortened(summary.schedule)} − control{_unit()}")
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles[:1], labels[:1], loc="outside upper right")
    return figure


def _control(axes: Axes, rows: pd.DataFrame, look: Look, tolerance: float) -> None:
    axes.axhspan(-tolerance, tolerance, color=FAINT, alpha=0.16, lw=0, label="± tolerance")
    axes.axhline(0, color=INK, lw=0.8)
    x, middle = percent(rows["weights_remaining"]), scores(rows["difference"])
    error: Any = np.stack([middle - scores(rows["low"]), scores(rows["high"]) - middle])
    ends = np.isfinite(error).all(axis=0)
    axes.errorbar(x[ends], middle[ends], yerr=error[:, ends], fmt="o", color=look.color, capsize=2.5, lw=1.3, ms=5)
    axes.plot(x[~ends], middle[~ends], "o", color=look.color, mfc="white", ms=5)
