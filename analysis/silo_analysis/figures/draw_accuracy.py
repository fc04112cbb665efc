"""What comes out on test: the score of every arm, and what the schedule loses against the Oracle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from silo_analysis.estimates import oracle
from silo_analysis.estimates.summary import Summary
from silo_analysis.estimates.typical import paired_interval
from silo_analysis.figures.axes import MOST_DOTS, WIDTH, ints, new_figure, percent, scores, weights_axis
from silo_analysis.figures.palette import FAINT, INK, looks, shaded
from silo_tune.formats import words


def score_figure_name() -> str:
    """Name of the figure of every arm's score, and of its files."""
    return "accuracy" if words().title == "accuracy" else "scores"


def score_figure(summary: Summary, published: Sequence[Mapping[str, Any]] = ()) -> Figure | None:
    """Test score against weights remaining for every arm: mean, and one standard deviation over seeds.

    Args:
        summary: of the run.
        published: numbers of others, drawn as hollow marks (`silo_tune.study.published`).
    """
    arms = summary.arms.dropna(subset=["test_mean", "weights_remaining"])
    if not len(arms):
        return None
    figure, axes = new_figure(max(3.8, 0.2 + 0.2 * len(summary.study.arms)))
    style = looks(summary.study)
    handles = []
    order = [name for name in summary.study.arms if name != summary.schedule] + [summary.schedule]
    for name in order:
        rows = arms[arms["arm"] == name].sort_values("cycle")
        if not len(rows):
            continue
        x, mean, spread = (
            percent(rows["weights_remaining"]),
            scores(rows["test_mean"]),
            scores(rows["test_spread"]),
        )
        look = style[name]
        if name in shaded(summary.study):
            axes.fill_between(x, mean - spread, mean + spread, color=look.color, alpha=0.08, linewidth=0)
        handles += axes.plot(x, mean, look.dash, marker=look.marker, ms=3.5, color=look.color, label=name)
    axes.set_ylabel(f"test {words().axis}")
    weights_axis(axes, summary)
    handles.sort(key=lambda line: list(summary.study.arms).index(str(line.get_label())))
    handles += _published(axes, published)
    figure.legend(handles=handles, loc="outside right upper", handlelength=3.2)
    return figure


def _published(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    """Numbers that others published, a hollow mark for each arm and source."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(f"{row['arm']}, {row['source']}", []).append(row)
    for mark, (label, own) in zip(cycle("osD^v<>ph"), groups.items()):
        own = sorted(own, key=lambda row: -row["weights_remaining"])
        x, y = ([by * row[name] for row in own] for name, by in (("weights_remaining", 100), ("score", words().scale)))
        yield from axes.plot(x, y, ":", marker=mark, ms=5, mfc="white", color=INK, lw=0.8, label=f"published: {label}")


def regret_figure(summary: Summary) -> Figure | None:
    """Cycle regret and chain gap per cycle on test: seeds, median, 95 % interval."""
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
        _differences_panel(
            panel, table.assign(left=_left(table, summary)), column, color, words().scale * summary.tolerance
        )
        weights_axis(panel, summary, most=12 // len(shown))
        panel.set_title(f"{title}: {oracle.describe(summary.study, str(name))}", fontsize=8.5)
    panels[0].set_ylabel(f"{words().pp.strip() or words().title} on test (Oracle − schedule)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _left(table: pd.DataFrame, summary: Summary) -> list[float]:
    """Weights remaining at each row's cycle, in %, as on the axis of `weights_axis`; as planned where none is known."""
    shown = summary.arms.dropna(subset=["weights_remaining"]).drop_duplicates("cycle")
    known = dict(zip(ints(shown["cycle"]), percent(shown["weights_remaining"]), strict=True))
    return [known.get(cycle, 100 * summary.study.remaining[cycle]) for cycle in ints(table["cycle"])]


def _differences_panel(axes: Axes, table: pd.DataFrame, column: str, color: str, tolerance: float) -> None:
    axes.axhspan(-tolerance, tolerance, color=FAINT, alpha=0.16, lw=0, label="± tolerance")
    axes.axhline(0, color=INK, lw=0.8)
    if len(table) <= MOST_DOTS // 2:  # two panels
        aside = 1.03 * table["left"]  # to the left of the mean
        axes.plot(aside, scores(table[column]), "o", color=FAINT, ms=2.6, mew=0, label="one seed")
    places, means, below, above = [], [], [], []
    for left, rows in table.groupby("left"):
        estimate = paired_interval(scores(rows[column]))
        if estimate.median is not None:
            places.append(float(str(left)))
            means.append(estimate.median)
            below.append(estimate.median - (estimate.median if estimate.low is None else estimate.low))
            above.append((estimate.median if estimate.high is None else estimate.high) - estimate.median)
    axes.errorbar(
        places,
        means,
        yerr=[below, above],
        fmt="o",
        color=color,
        capsize=2.5,
        lw=1.3,
        ms=5,
        label="median, 95 % interval",
    )
    axes.grid(visible=False, axis="x")
