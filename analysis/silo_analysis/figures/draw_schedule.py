"""An arm before it runs: its peaks over cycles, and the learning rate inside one."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from silo_analysis.figures.axes import WIDTH, image_bytes, mark_weights
from silo_analysis.figures.palette import SHADES, our_style
from silo_tune.planner.curves import Curves


def draw_curves(curves: Curves, kind: str) -> bytes:
    """The picture of an arm as a file of that kind ("png" or "svg")."""
    with our_style():
        return image_bytes(curves_figure(curves), kind, curves.arm)


def curves_figure(curves: Curves) -> Figure:
    """Two panels: max_lr over weights remaining, and the learning rate inside a first, a middle and a last cycle."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    known = any(peak is not None for peak in curves.peaks)
    panels = figure.subplots(1, 2 if known else 1, squeeze=False)[0]
    if known:
        _over_cycles(panels[0], curves)
    _inside(panels[-1], curves)
    figure.suptitle(curves.arm, x=0.01, ha="left", fontsize=10)
    return figure


def _over_cycles(axes: Axes, curves: Curves) -> None:
    percents = [100 * share for share in curves.remaining]
    axes.plot(percents, [peak or 0.0 for peak in curves.peaks], "o-", color=SHADES[-1])
    mark_weights(axes, percents, list(curves.cycles))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("max_lr")
    axes.set_title("over cycles")


def _inside(axes: Axes, curves: Curves) -> None:
    share = [100 * (step + 0.5) / len(curves.inside) for step in range(len(curves.inside))]
    for index, color in zip(_shown(curves), SHADES, strict=False):
        peak = curves.peaks[index] if curves.peaks else None
        label = f"cycle {curves.cycles[index]}" if peak is not None else None
        axes.plot(share, [(peak or 1.0) * value for value in curves.inside], color=color, label=label)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of the cycle's steps, %")
    axes.set_ylabel("learning rate" if any(curves.peaks) else "learning rate ÷ max_lr")
    axes.set_title("inside a cycle")
    if any(curves.peaks):
        axes.legend()


def _shown(curves: Curves) -> list[int]:
    """Positions of the cycles to draw: first, at half of the peaks' range, and last; equal ones once."""
    if not any(curves.peaks):
        return [0]
    peaks = [peak or 0.0 for peak in curves.peaks]
    half = (min(peaks) + max(peaks)) / 2
    middle = min(range(len(peaks)), key=lambda i: abs(peaks[i] - half))
    found: dict[float, int] = {}
    for index in (0, middle, len(peaks) - 1):
        found.setdefault(peaks[index], index)
    return list(found.values())
