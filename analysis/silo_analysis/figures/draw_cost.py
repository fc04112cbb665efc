"""Cost: distinct units and training time per arm."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from silo_analysis.estimates.cost import STUDY
from silo_analysis.estimates.summary import Summary
from silo_analysis.figures.axes import WIDTH, floats
from silo_analysis.figures.palette import FAINT, looks


def cost_figure(summary: Summary) -> Figure | None:
    """Distinct units and training time per arm; whole study in grey, units of pilots hatched."""
    table = summary.cost[summary.cost["units"] > 0].iloc[::-1]
    if not len(table):
        return None
    figure = Figure(figsize=(WIDTH, 0.9 + 0.3 * len(table)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    style = looks(summary.study)
    colors = [style[name].color if name in style and name != STUDY else FAINT for name in table["arm"]]
    name, divisor = _time_unit(float(table["train_seconds"].max()))
    times = floats(table["train_seconds"]) / divisor
    units, pilots = floats(table["units"]), floats(table["pilot_units"])
    hatched = " (hatched: pilots)" if pilots.any() else ""
    for panel, values, label in (
        (panels[0], units, f"distinct trials trained{hatched}"),
        (panels[1], times, f"training time, {name}"),
    ):
        bars = panel.barh(list(table["arm"]), values, color=colors, height=0.68)
        panel.bar_label(
            bars, fmt=lambda value: f"{value:.3g}" if value < 1000 else f"{value:,.0f}", padding=3, fontsize=8.5
        )
        if values is units:
            panel.barh(list(table["arm"]), pilots, color="none", edgecolor="white", hatch="////", lw=0, height=0.68)
        panel.set_xlabel(label)
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.margins(x=0.16, y=0.5 / len(table))
        panel.grid(visible=False, axis="y")
        panel.tick_params(axis="y", length=0)
    return figure


def _time_unit(longest: float) -> tuple[str, int]:
    return ("hours", 3600) if longest >= 7200 else ("minutes", 60) if longest >= 300 else ("seconds", 1)
