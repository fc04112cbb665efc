"""Tables in, tables and figures out. Never imports Ray or torch; the heavy imports wait for the first use.

    import silo_analysis
    run = silo_analysis.read("runs/digits")                    # a run folder, a record, or its URL
    summary = silo_analysis.summarise(run.frame, run.study, run.searches, run.examples)
    answers = silo_analysis.answers_of(summary, silo_analysis.fit_of(run.frame, run.study))
    print("\\n".join(silo_analysis.summary_lines(summary, answers)))

Names are found in their modules at their first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from silo_analysis.answers import answers_of
    from silo_analysis.answers.answer import Answer, Number
    from silo_analysis.answers.as_json import as_json
    from silo_analysis.answers.curve import fit_of
    from silo_analysis.answers.missing import notes
    from silo_analysis.answers.terminal import summary_lines
    from silo_analysis.combine.groups import combine
    from silo_analysis.curve_fit.comparison import compare
    from silo_analysis.curve_fit.fitted_response import response_of
    from silo_analysis.estimates.oracle import oracle_cycles
    from silo_analysis.estimates.summary import Summary, summarise
    from silo_analysis.estimates.tuning import ordinary
    from silo_analysis.figures import draw_figures, save_figures
    from silo_analysis.report.page import render, tables
    from silo_tune.results.records import Recorded, read, read_files, write_record

__all__ = [
    "Answer",
    "Number",
    "Recorded",
    "Summary",
    "answers_of",
    "as_json",
    "combine",
    "compare",
    "draw_figures",
    "fit_of",
    "load",
    "notes",
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
    "Answer": "silo_analysis.answers.answer",
    "Number": "silo_analysis.answers.answer",
    "answers_of": "silo_analysis.answers",
    "as_json": "silo_analysis.answers.as_json",
    "Recorded": "silo_tune.results.records",
    "Summary": "silo_analysis.estimates.summary",
    "combine": "silo_analysis.combine.groups",
    "compare": "silo_analysis.curve_fit.comparison",
    "draw_figures": "silo_analysis.figures",
    "fit_of": "silo_analysis.answers.curve",
    "notes": "silo_analysis.answers.missing",
    "oracle_cycles": "silo_analysis.estimates.oracle",
    "ordinary": "silo_analysis.estimates.tuning",
    "read": "silo_tune.results.records",
    "read_files": "silo_tune.results.records",
    "render": "silo_analysis.report.page",
    "response_of": "silo_analysis.curve_fit.fitted_response",
    "save_figures": "silo_analysis.figures",
    "summarise": "silo_analysis.estimates.summary",
    "summary_lines": "silo_analysis.answers.terminal",
    "tables": "silo_analysis.report.page",
    "write_record": "silo_tune.results.records",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'silo_analysis' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__


def load(url: str) -> pd.DataFrame:
    """The table of a run or a record: a row per unit as one chain uses it.

    Columns are those of `silo_tune.results.columns.COLUMNS`.

    Args:
        url: the folder, a local path or an fsspec URL.

    Raises:
        BadInput: there is neither at that place, or the table of a record is not right.
    """
    from silo_tune.results.records import read

    return read(url).frame
