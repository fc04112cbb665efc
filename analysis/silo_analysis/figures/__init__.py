"""Figures of a run. Each function returns a Figure, or None where the run has nothing to show.

Scores and differences are shown in the words of their study, weights remaining in % on a
log axis that falls from 100. Figures are
made without pyplot, so that there is no global state, and the same run gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from silo_analysis.answers.shape import controls_shown
from silo_analysis.answers.table_files import csv_bytes
from silo_analysis.curve_fit.comparison import Comparison
from silo_analysis.estimates.oracle import OracleCycle, oracle_cycles
from silo_analysis.estimates.summary import Summary
from silo_analysis.figures.axes import save_figure
from silo_analysis.figures.draw_accuracy import regret_figure, score_figure, score_figure_name
from silo_analysis.figures.draw_against import against_figure, controls_figure
from silo_analysis.figures.draw_cost import cost_figure
from silo_analysis.figures.draw_fit import fit_figure
from silo_analysis.figures.draw_max_lr import max_lr_figure
from silo_analysis.figures.draw_mechanism import spread_figure
from silo_analysis.figures.draw_oracles import oracles_figure
from silo_analysis.figures.draw_response import response_figure
from silo_analysis.figures.draw_search import search_figures, tuning_curve_figure
from silo_analysis.figures.figure_data import figure_data
from silo_analysis.figures.palette import our_style
from silo_tune.study.wording import worded

__all__ = ["draw_figures", "save_figures"]


@worded(lambda frame, summary, *_, **__: summary.study)
def save_figures(
    frame: pd.DataFrame, summary: Summary, fit: Comparison | None = None, published: Sequence[Mapping[str, Any]] = ()
) -> dict[str, dict[str, bytes]]:
    """Every figure that the run can show: name → {"svg": …, "pdf": …, "png": …, "csv": …}, the last its numbers.

    Args:
        frame, summary, fit, published: as of `draw_figures`.
    """
    groups = oracle_cycles(frame, summary.study)
    data = figure_data(groups, summary, fit)
    with our_style():
        return {
            name: save_figure(figure, name) | ({"csv": csv_bytes(data[name])} if name in data else {})
            for name, figure in _drawn(groups, summary, fit, published).items()
        }


@worded(lambda frame, summary, *_, **__: summary.study)
def draw_figures(
    frame: pd.DataFrame, summary: Summary, fit: Comparison | None = None, published: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Figure]:
    """The figures by name, in the order in which the report shows them.

    Args:
        frame: the table of a run.
        summary: of the same run.
        fit: curves fitted to its responses, from `fit_of`.
        published: numbers of others, drawn beside the scores (`silo_tune.study.published`).
    """
    with our_style():
        return _drawn(oracle_cycles(frame, summary.study), summary, fit, published)


def _drawn(
    groups: Mapping[tuple[str, int], OracleCycle],
    summary: Summary,
    fit: Comparison | None,
    published: Sequence[Mapping[str, Any]],
) -> dict[str, Figure]:
    drawn = {
        "max-lr": max_lr_figure(summary),
        "oracles": oracles_figure(summary),
        "response": response_figure(groups, summary),
        score_figure_name(): score_figure(summary, published),
        "regret": regret_figure(summary),
        "against": against_figure(summary),
        "controls": controls_figure(summary, controls_shown(summary)),
        "fit": fit_figure(fit, summary.tolerance) if fit is not None else None,
        "spread": spread_figure(summary),
        "cost": cost_figure(summary),
        "tuning-curve": tuning_curve_figure(summary),
        **search_figures(summary),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}
