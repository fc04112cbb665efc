"""Which curve over cycles would fit the responses that an Oracle measured?"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from silo_analysis.answers.answer import Answer, Number, joined, number, oracle_to_add, sentence
from silo_analysis.answers.fit_words import CALLED, conclusion, family_head, family_rows, limits, title
from silo_analysis.answers.text_tables import Table
from silo_analysis.curve_fit.comparison import Comparison, compare
from silo_analysis.curve_fit.families import RIVALS
from silo_analysis.curve_fit.fit_tables import fit_tables
from silo_analysis.curve_fit.fitted_response import response_of
from silo_analysis.estimates.oracle import is_guided, oracles
from silo_analysis.estimates.summary import Summary
from silo_analysis.estimates.tuning import ordinary
from silo_tune.errors import BadInput
from silo_tune.study.model import Study

ID = "curve"
_TOLD = {
    "better": "the S is better than",
    "worse": "the S is worse than",
    "the same curve": "the S is the same as",
    "cannot tell": "cannot tell the S from",
}
Fitted = Comparison | str  # all families on one response, or why there is none


def fit_of(frame: pd.DataFrame, study: Study) -> Fitted:
    """All families of curves on the responses of the run's grid Oracle, or why they cannot be fitted.

    Args:
        frame: rows as in `silo_tune.results.columns.COLUMNS`.
        study: its study.
    """
    try:
        return compare(response_of(ordinary(frame), study))
    except BadInput as error:
        return str(error)


def ask(summary: Summary, fit: Fitted) -> Answer:
    """The conclusion of `curve_fit`."""
    question = f"Which curve over cycles would fit, and is it that of {summary.schedule}?"
    if isinstance(fit, str):
        return Answer(ID, question, figure="fit", missing=_missing(summary, fit))
    said = [line.strip() for line in conclusion(fit, summary.study)]
    details = (f"Fitted to the responses of {title(fit, summary.study)}.", *said, *limits(fit))
    table = Table(family_head(), family_rows(fit), frozenset({"constants"}))
    return Answer(
        ID, question, sentence(_verdict(fit)), details, tuple(_numbers(fit)), tuple(map(int, fit.response.cycles)),
        "fit", table, fit_tables(fit)["fit"],
    )  # fmt: skip


def _numbers(fit: Comparison) -> Iterator[Number]:
    for rival in RIVALS:
        gain = fit.gain(rival)
        yield number(f"S − {CALLED[rival]}, in a new seed", gain.median, gain.low, gain.high, gain.n)


def _verdict(fit: Comparison) -> str:
    trend = fit.trend()
    rise = "no rise shown" if trend is None else f"the best max_lr {trend[0]}s"
    return "; ".join([rise, *_told(fit)])


def _told(fit: Comparison) -> Iterator[str]:
    verdicts = {rival: fit.verdict(rival) for rival in RIVALS}
    for verdict, said in _TOLD.items():
        rivals = [CALLED[rival] for rival, found in verdicts.items() if found == verdict]
        if rivals:
            yield f"{said} {joined(rivals, 'or' if verdict == 'cannot tell' else 'and')}"


def _missing(summary: Summary, why: str) -> str:
    grids = [name for name in oracles(summary.study) if not is_guided(summary.study, name)]
    said = f"{why[0].upper()}{why[1:]}."
    return said if grids else f"{said} {oracle_to_add(summary.schedule)}"
