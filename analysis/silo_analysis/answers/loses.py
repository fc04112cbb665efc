"""What does the schedule lose against the Oracle, and what does it save?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from silo_analysis.answers.headline import cost_sentences, endpoint_sentences, regret_sentences, spread_text
from silo_analysis.answers.question import Question, absent, oracle_to_add
from silo_analysis.answers.text_tables import Table
from silo_analysis.estimates.oracle import describe
from silo_analysis.estimates.stats import Estimate, paired_interval, tost
from silo_analysis.estimates.summary import Summary
from silo_tune.formats import DASH, known, p_value, percent, plural, points

ID = "loses-and-saves"
_ENDPOINT, _REGRET, _CROSSFIT = "Chain gap (primary endpoint)", "Cycle regret", "Cross-fitted cycle regret"


def ask(summary: Summary) -> Question:
    """Primary endpoint, cycle regret, cross-fitted regret (never mixed), and the cost of both."""
    title = f"What does {summary.schedule} lose against the Oracle, and what does it save?"
    data = pd.DataFrame(_rows(summary), columns=list(_COLUMNS))
    answer = (
        *endpoint_sentences(summary), *regret_sentences(summary), *_crossfit(summary, data), *cost_sentences(summary),
    )  # fmt: skip
    missing = _missing(summary, data)
    if not len(data):
        return Question(ID, title, missing=missing, figure="regret", data=data)
    return Question(ID, title, answer, _short(summary, data), "regret", _table(summary, data), data, missing)


_COLUMNS = ("quantity", "oracle", "cycles", "difference", "low", "high", "n_seeds", "p_equivalent")


def _rows(summary: Summary) -> Iterator[dict[str, Any]]:
    end = summary.endpoint
    if end is not None and end.estimate.mean is not None:
        yield _row(_ENDPOINT, end.oracle, _span(list(end.cycles)), end.estimate, end.equivalence.p)
    for quantity, table in ((_REGRET, summary.regret), (_CROSSFIT, summary.crossfit)):
        own = table[table["oracle"] == summary.verdict_oracle]
        per_seed = own.groupby("seed")["regret_test"].mean().dropna().to_numpy(dtype=float)
        if len(per_seed):
            cycles = _span(sorted({int(cycle) for cycle in own["cycle"]}))
            p = tost(per_seed, summary.tolerance).p
            yield _row(quantity, str(summary.verdict_oracle), cycles, paired_interval(per_seed), p)


def _span(cycles: list[int]) -> str:
    whole = len(cycles) > 2 and cycles[-1] - cycles[0] == len(cycles) - 1
    return f"{cycles[0]} to {cycles[-1]}" if whole else ", ".join(map(str, cycles))


def _row(quantity: str, oracle: str, cycles: str, estimate: Estimate, p: float) -> dict[str, Any]:
    return {
        "quantity": quantity, "oracle": oracle, "cycles": cycles, "difference": estimate.mean, "low": estimate.low,
        "high": estimate.high, "n_seeds": estimate.n, "p_equivalent": p if estimate.n > 1 else None,
    }  # fmt: skip


def _crossfit(summary: Summary, data: pd.DataFrame) -> Iterator[str]:
    for row in data[data["quantity"] == _CROSSFIT].to_dict("records"):
        estimate = Estimate(row["n_seeds"], row["difference"], None, *_ends(row))
        yield (
            f"Cross-fitted cycle regret on test, each seed at the rate that is best in the others: "
            f"{points(estimate.mean)} points ({spread_text(estimate)}); an estimate, not a verdict."
        )


def _ends(row: Any) -> tuple[float | None, float | None]:
    return (row["low"], row["high"]) if known(row["low"]) else (None, None)


def _short(summary: Summary, data: pd.DataFrame) -> str:
    parts = [
        f"{row['quantity'].split(' (')[0].lower()} {points(row['difference'])} points ({_interval(row)})"
        for row in data.to_dict("records")
        if row["quantity"] != _CROSSFIT
    ]
    return "; ".join([*parts, *_saved(summary)])


def _saved(summary: Summary) -> Iterator[str]:
    costs: dict[str, Any] = {row["arm"]: row for row in summary.cost.to_dict("records")}
    mine, theirs = costs.get(summary.schedule), costs.get(summary.chain_oracle or summary.verdict_oracle or "")
    if mine is None or theirs is None or not known(theirs["saved_by_schedule"]):
        return
    if theirs["saved_by_schedule"] < 0:
        yield "saves nothing"
        return
    seconds = theirs["train_seconds"] - theirs["tested_seconds"]
    yield f"saves {percent(theirs['saved_by_schedule'], 0)} % of the units{_of_time(mine['train_seconds'], seconds)}"


def _of_time(mine: float, theirs: float) -> str:
    """Training time saved; pilots were perhaps trained on a busier machine, and then it is more than the Oracle's."""
    if not theirs:
        return ""
    saved = 1 - mine / theirs
    return f", {percent(saved, 0)} % of the time" if saved >= 0 else f", but takes {percent(-saved, 0)} % more time"


def _interval(row: Any) -> str:
    if not known(row["low"]):
        return f"{plural(row['n_seeds'], 'seed')}, no interval"
    return f"{points(row['low'])} to {points(row['high'])}"


def _table(summary: Summary, data: pd.DataFrame) -> Table:
    head = ("Oracle − schedule, on test", "Oracle", "Cycles", "Points", "95 % interval", "Seeds", "TOST p")
    rows: list[tuple[str, ...]] = [
        (
            row["quantity"],
            describe(summary.study, row["oracle"]),
            row["cycles"],
            points(row["difference"]),
            _interval(row) if known(row["low"]) else DASH,
            str(row["n_seeds"]),
            p_value(row["p_equivalent"]) if row["quantity"] == _ENDPOINT else DASH,
        )
        for row in data.to_dict("records")
    ]
    return Table(head, rows, frozenset({"Oracle", "Cycles"}))


def _missing(summary: Summary, data: pd.DataFrame) -> str | None:
    if (why := absent(summary)) is not None:
        return why
    if summary.verdict_oracle is None:
        return f"The study has no Oracle. {oracle_to_add(summary.schedule)}"
    found = set(data["quantity"])
    lacking = []
    if _ENDPOINT not in found:
        lacking.append(_no_endpoint(summary))
    if _REGRET not in found:
        tested = summary.schedule in summary.study.tests_of(summary.verdict_oracle)
        todo = "let the run go on" if tested else f"add {summary.schedule} to its tests"
        lacking.append(
            f"No cycle regret: {summary.verdict_oracle} has not tried the value of {summary.schedule}; {todo}."
        )
    return " ".join(lacking) or None


def _no_endpoint(summary: Summary) -> str:
    if summary.chain_oracle is None:
        return 'No chain gap and no primary endpoint: the study has no greedy Oracle; add one with prefix = "own".'
    if summary.endpoint is None or not summary.endpoint.cycles:
        return "No primary endpoint: the study has no cycle ≥ 2; raise cycles."
    first, last = summary.endpoint.cycles[0], summary.endpoint.cycles[-1]
    return f"No primary endpoint: no seed has every cycle from {first} to {last} of both chains; let the run go on."
