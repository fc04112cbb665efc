"""Which curve fits: fitted curves on the responses, what each loses where it did not look, the profile over beta."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from silo_analysis.curve_fit.comparison import Comparison
from silo_analysis.curve_fit.families import NOMINAL_BETA
from silo_analysis.curve_fit.fitted_response import Response, read
from silo_analysis.estimates.stats import FloatArray
from silo_analysis.estimates.typical import paired_interval
from silo_analysis.figures.axes import WIDTH, mark_weights, rate_axis, save_figure
from silo_analysis.figures.palette import CURVES, FAINT, GRID, INK, our_style
from silo_tune.formats import words

# How far below the cycle's best, in tolerances, and how dark.
BANDS = ((4.0, "#eef1f5"), (2.0, "#d5dce6"), (1.0, "#b3bfcf"))
HALF_GAP = 0.44  # half the width of a cycle's column, in steps between cycles


def save_fit(comparison: Comparison, tolerance: float) -> dict[str, bytes]:
    """The figure as {"svg": …, "png": …}."""
    with our_style():
        return save_figure(fit_figure(comparison, tolerance), "fit")


def fit_figure(comparison: Comparison, tolerance: float) -> Figure:
    """Curves on the responses above; regrets and the profile over beta below.

    Args:
        comparison: what was fitted.
        tolerance: difference of scores, the unit of the shades.
    """
    figure = Figure(figsize=(WIDTH, 6.6), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(3.5, 3.1))
    upper, lower = halves
    _curves(upper, upper.subplots(), comparison, tolerance)
    left, right = lower.subplots(1, 2, width_ratios=(1.25, 1))
    _regrets(left, comparison)
    _profile(right, comparison)
    return figure


# --- curves on the responses ---


def _curves(figure: Any, axes: Axes, comparison: Comparison, tolerance: float) -> None:
    response = comparison.response
    left = np.array([100 * (1 - response.pruned[cycle]) for cycle in response.cycles])
    step = float(np.median(np.log(left[:-1] / left[1:])))
    for factor, color in BANDS:
        for m, segments in enumerate(bands(response, comparison.best, factor * tolerance)):
            for low, high in segments:
                ends = left[m] * np.exp(step * HALF_GAP), left[m] * np.exp(-step * HALF_GAP)
                axes.fill_between(ends, low, high, color=color, lw=0)
    handles: list[Any] = axes.plot(left, comparison.best, "o", ms=4.5, mfc="white", mec=INK, label="best in hindsight")
    for name, look in CURVES.items():
        fit = comparison.fits[name]
        width = 2.2 if name == "silo" else 1.5
        handles += axes.plot(left, fit.peaks, look.dash, color=look.color, lw=width, label=name)
    silo = comparison.fits["silo"]
    axes.fill_between(left, silo.peaks_low, silo.peaks_high, color=CURVES["silo"].color, alpha=0.18, lw=0)
    handles.append(Patch(color=CURVES["silo"].color, alpha=0.18, lw=0, label="silo without one seed"))
    shown = words().scale * tolerance
    labels = (f"within {4 * shown:.2g}", f"within {2 * shown:.2g}", f"within {shown:.2g}{words().pp}")
    shades = [Patch(color=color, lw=0, label=label) for (_, color), label in zip(BANDS, labels, strict=True)]
    axes.set_yscale("log")
    axes.set_ylim(response.low / 1.12, response.high * 1.12)
    axes.set_ylabel("max_lr")
    axes.grid(visible=False)
    rate_axis(axes.yaxis, most=8)
    mark_weights(axes, left.tolist(), response.cycles)
    axes.set_xlim(left[0] * np.exp(0.6 * step), left[-1] * np.exp(-0.6 * step))
    axes.set_title("fitted curves; shaded: rates near the cycle's best, mean over seeds")
    figure.legend(handles=[*handles, *reversed(shades)], loc="outside right upper")


def bands(response: Response, best: FloatArray, depth: float) -> Iterator[list[tuple[float, float]]]:
    """Per cycle the stretches of rates whose mean score is at most `depth` below that of the best rate."""
    mesh = np.geomspace(response.low, response.high, 400)
    for rates, val, top in zip(response.rates, response.val, best, strict=True):
        means = np.nanmean(val, axis=0)[None]
        good = read(rates, means, mesh)[0] >= read(rates, means, np.array([top]))[0, 0] - depth
        edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(int)))
        yield [(float(mesh[a]), float(mesh[b - 1])) for a, b in zip(edges[::2], edges[1::2], strict=True)]


# --- what each family loses ---

KINDS = (
    ("seen", "fitted to everything", "o", -0.24),
    ("new_cycle", "on a new cycle", "s", 0.0),
    ("new_seed", "on a new seed", "D", 0.24),
)


def _regrets(axes: Axes, comparison: Comparison) -> None:
    names = list(comparison.fits)
    for kind, label, mark, shift in KINDS:
        for row, name in enumerate(names):
            estimate = paired_interval(words().scale * getattr(comparison.fits[name], kind))
            if estimate.median is None:
                continue
            color = CURVES[name].color if name in CURVES else FAINT
            if estimate.low is not None and estimate.high is not None:
                axes.plot([estimate.low, estimate.high], [row + shift] * 2, color=color, lw=1.2)
            face = "white" if kind == "seen" else color
            axes.plot(estimate.median, row + shift, mark, ms=4.5, color=color, mfc=face)
        axes.plot([], [], mark, color=INK, ms=4.5, mfc="white" if kind == "seen" else INK, label=label)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(f"{words().head('regret')} on validation")
    axes.set_title("regret, 95 % interval over seeds")
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.2), ncols=3, handletextpad=0.1, columnspacing=0.9)


def _profile(axes: Axes, comparison: Comparison) -> None:
    betas = [fit.beta for fit in comparison.betas]
    unseen = [words().scale * float(np.mean(fit.new_seed)) for fit in comparison.betas]
    seen = [words().scale * float(np.mean(fit.seen)) for fit in comparison.betas]
    color = CURVES["silo"].color
    axes.axvline(NOMINAL_BETA, color=GRID, lw=5, zorder=0.5)
    axes.plot(betas, seen, "-o", color=color, mfc="white", ms=4.5, lw=1.1, label="fitted")
    if np.isfinite(unseen).all():
        axes.plot(betas, unseen, "-D", color=color, ms=4.5, lw=1.4, label="new seed")
        _ruled_out(axes, betas, unseen, [fit.allowed for fit in comparison.betas])
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([beta for beta in betas if beta in (1, 2, 3, 5, 10, 30)]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(5))
    low, high = axes.get_ylim()
    if words().share and high - low < 0.05:  # a flat profile must look flat
        axes.set_ylim((low + high) / 2 - 0.025, (low + high) / 2 + 0.025)
    axes.set_xlabel("beta of the S")
    axes.set_ylabel(words().head("regret"))
    axes.set_title("the S with each beta")
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.2), ncols=3, handletextpad=0.3, columnspacing=0.9)


def _ruled_out(axes: Axes, betas: Sequence[float], unseen: Sequence[float], allowed: Sequence[bool]) -> None:
    gone = [(beta, value) for beta, value, kept in zip(betas, unseen, allowed, strict=True) if not kept]
    if gone:
        axes.plot(*zip(*gone, strict=True), "X", color=INK, ms=7, zorder=4, label="ruled out")
