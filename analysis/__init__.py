"""Tables in, tables and figures out. Never imports Ray or torch; the heavy imports wait for the first use.

    import analysis
    run = analysis.read("runs/digits")                    # a run folder, a record, or its URL
    summary = analysis.summarise(run.frame, run.study, run.searches)
    print("\\n".join(analysis.summary_lines(summary)))

Names are found in their modules at their first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from analysis.curve_fit import compare, response_of
    from analysis.oracle import oracle_cycles
    from analysis.plots import draw_figures, save_figures
    from analysis.report import render, tables
    from analysis.runs import combine
    from analysis.search import ordinary
    from analysis.summary import Summary, summarise, summary_lines
    from silo_tune.results import Recorded, read, read_files, write_record

__all__ = [
    "Recorded",
    "Summary",
    "combine",
    "compare",
    "draw_figures",
    "load",
    "oracle_cycles",
    "ordinary",
    "read",
    "read_files",
    "render",
    "response_of",
    "save_figures",
    "summarise",
    "summary_lines",
    "tables",
    "write_record",
]

_HOMES = {
    "combine": "analysis.runs",
    "compare": "analysis.curve_fit",
    "response_of": "analysis.curve_fit",
    **dict.fromkeys(("draw_figures", "save_figures"), "analysis.plots"),
    "oracle_cycles": "analysis.oracle",
    "ordinary": "analysis.search",
    **dict.fromkeys(("render", "tables"), "analysis.report"),
    **dict.fromkeys(("Summary", "summarise", "summary_lines"), "analysis.summary"),
    **dict.fromkeys(("Recorded", "read", "read_files", "write_record"), "silo_tune.results"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def load(url: str) -> pd.DataFrame:
    """The table of a run or a record: one row per unit as one chain uses it, columns as in `results.COLUMNS`.

    Args:
        url: the folder, a local path or an fsspec URL.

    Raises:
        BadInput: there is neither at that place, or the table of a record is not right.
    """
    from silo_tune.results import read

    return read(url).frame
