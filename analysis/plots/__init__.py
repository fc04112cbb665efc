"""Figures of a run. Each function returns a Figure, or None where the run has nothing to show.

Accuracies are shown in %, differences in points, weights remaining in % on a log axis that falls from 100. Figures are
made without pyplot, so that there is no global state, and the same run gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from analysis import oracle
from analysis.curve_fit import Comparison
from analysis.formats import csv_bytes
from analysis.oracle import OracleCycle
from analysis.palette import STYLE
from analysis.plots.accuracy import accuracy_figure, regret_figure
from analysis.plots.against import against_figure, controls_figure
from analysis.plots.axes import save_figure
from analysis.plots.cost import cost_figure
from analysis.plots.data import figure_data
from analysis.plots.fit import fit_figure
from analysis.plots.max_lr import max_lr_figure
from analysis.plots.mechanism import spread_figure
from analysis.plots.oracles import oracles_figure
from analysis.plots.response import response_figure
from analysis.plots.search import search_figures
from analysis.questions.shape import controls_shown
from analysis.summary import Summary

__all__ = ["draw_figures", "save_figures"]


def save_figures(frame: pd.DataFrame, summary: Summary, fit: Comparison | None = None) -> dict[str, dict[str, bytes]]:
    """Every figure that the run can show: name → {"svg": …, "pdf": …, "png": …, "csv": …}, the last its numbers."""
    groups = oracle.oracle_cycles(frame, summary.study)
    data = figure_data(groups, summary, fit)
    with matplotlib.rc_context(STYLE):
        return {
            name: save_figure(figure, name) | ({"csv": csv_bytes(data[name])} if name in data else {})
            for name, figure in draw_figures(groups, summary, fit).items()
        }


def draw_figures(
    groups: Mapping[tuple[str, int], OracleCycle], summary: Summary, fit: Comparison | None = None
) -> dict[str, Figure]:
    """The figures by name, in the order in which the report shows them.

    Args:
        groups: of `oracle.oracle_cycles`.
        summary: of the same run.
        fit: curves fitted to its responses.
    """
    with matplotlib.rc_context(STYLE):
        drawn = {
            "max-lr": max_lr_figure(summary),
            "oracles": oracles_figure(summary),
            "response": response_figure(groups, summary),
            "accuracy": accuracy_figure(summary),
            "regret": regret_figure(summary),
            "against": against_figure(summary),
            "controls": controls_figure(summary, controls_shown(summary)),
            "fit": fit_figure(fit, summary.tolerance) if fit is not None else None,
            "spread": spread_figure(summary),
            "cost": cost_figure(summary),
            **search_figures(summary),
        }
    return {name: figure for name, figure in drawn.items() if figure is not None}
