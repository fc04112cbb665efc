"""What does the schedule lose against the Oracle, and what does it save?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from silo_analysis.answers.answer import (
    Answer,
    Number,
    absent,
    never_collapsed,
    number,
    oracle_to_add,
    over_both,
    second_head,
    second_text,
    sentence,
    way_on,
)
from silo_analysis.answers.text_tables import Table
from silo_analysis.estimates.cost import STUDY
from silo_analysis.estimates.examples import both_ends
from silo_analysis.estimates.luck import RETRAINED, split_of
from silo_analysis.estimates.oracle import describe
from silo_analysis.estimates.regret import Endpoint
from silo_analysis.estimates.stats import Estimate
from silo_analysis.estimates.summary import Summary
from silo_analysis.estimates.typical import paired_interval, tost
from silo_tune.formats import DASH, MINUS, difference, known, p_value, percent, plural, points, seconds, words

ID = "loses-and-saves"
_ENDPOINT, _REGRET, _CROSSFIT = "Chain gap (primary endpoint)", "Cycle regret", "Cross-fitted cycle regret"
_LAST = "Chain gap at the last cycle"
_LUCK, _RATE = "Luck of the best of several trainings", "Chain gap without luck (a lower bound)"


def ask(summary: Summary) -> Answer:
    """Primary endpoint, cycle regret, cross-fitted regret (never mixed), and the cost of both."""
    title = f"What does {summary.schedule} lose against the Oracle, and what does it save?"
    data = pd.DataFrame(_rows(summary), columns=list(_COLUMNS))
    details = (*_endpoint(summary), *_luck(summary), *_regret(summary), *_crossfit(summary, data), *_cost(summary))
    missing = _missing(summary, data)
    if not len(data):
        return Answer(ID, title, missing=missing, figure="regret", data=data)
    return Answer(
        ID, title, sentence(_verdict(summary, data)), details, tuple(_numbers(summary, data)),
        tuple(int(cycle) for cycle in summary.cycles["cycle"]), "regret", _table(summary, data), data, missing,
    )  # fmt: skip


_COLUMNS = (
    "quantity", "oracle", "cycles", "difference", "low", "high", "n_seeds", "p_equivalent", "low_examples",
    "high_examples",
)  # fmt: skip


def _rows(summary: Summary) -> Iterator[dict[str, Any]]:
    end = summary.endpoint
    if end is not None and end.estimate.median is not None:
        row = _row(_ENDPOINT, end.oracle, _span(list(end.cycles)), end.estimate, end.equivalence.p)
        yield row | {"low_examples": end.low_examples, "high_examples": end.high_examples}
        yield from _last_gap(summary, end)
        yield from _parts(summary, end.oracle, _span(list(end.cycles)))
    for quantity, table in ((_REGRET, summary.regret), (_CROSSFIT, summary.crossfit)):
        own = table[table["oracle"] == summary.verdict_oracle]
        per_seed = own.groupby("seed")["regret_test"].mean().dropna().to_numpy(dtype=float)
        if len(per_seed):
            cycles = _span(sorted({int(cycle) for cycle in own["cycle"]}))
            p = tost(per_seed, summary.tolerance).p
            yield _row(quantity, str(summary.verdict_oracle), cycles, paired_interval(per_seed), p)


def _last_gap(summary: Summary, end: Endpoint) -> Iterator[dict[str, Any]]:
    """The gap of the sparsest network, where the endpoint is a mean over several cycles."""
    last = summary.study.cycles - 1
    rows = summary.gaps[(summary.gaps["oracle"] == end.oracle) & (summary.gaps["cycle"] == last)]
    if len(end.cycles) > 1 and len(rows):
        estimate = paired_interval(rows["gap_test"].to_numpy(dtype=float))
        images = summary.scores.differences(end.oracle, end.schedule, [int(seed) for seed in rows["seed"]], [last])
        yield _row(_LAST, end.oracle, str(last), estimate, None) | both_ends(estimate, images)


def _span(cycles: list[int]) -> str:
    whole = len(cycles) > 2 and cycles[-1] - cycles[0] == len(cycles) - 1
    return f"{cycles[0]} to {cycles[-1]}" if whole else ", ".join(map(str, cycles))


def _parts(summary: Summary, oracle: str, cycles: str) -> Iterator[dict[str, Any]]:
    split = _split(summary)
    if split is None:
        return
    yield _row(_LUCK, oracle, cycles, _estimate(split["luck"]), None)
    if split["luck"]["way"] != RETRAINED:  # else the chain gap is the part of the rates
        yield _row(_RATE, oracle, cycles, _estimate(split["rate"]), None)


def _split(summary: Summary) -> Mapping[str, Mapping[str, Any]] | None:
    """The parts of the primary endpoint's chain gap, where the run can tell luck from rates."""
    return split_of(summary.luck, summary.chain_oracle)


def _splits(summary: Summary) -> dict[str, Mapping[str, Mapping[str, Any]]]:
    """The same of every greedy Oracle that can tell."""
    found = {str(oracle): split_of(summary.luck, oracle) for oracle in dict.fromkeys(summary.luck["oracle"])}
    return {oracle: split for oracle, split in found.items() if split is not None}


def _estimate(row: Mapping[str, Any]) -> Estimate:
    low, high = _ends(row)
    return Estimate(row["n_seeds"], row["mean"], row["difference"], low=low, high=high)


def _row(quantity: str, oracle: str, cycles: str, estimate: Estimate, p: float | None) -> dict[str, Any]:
    return {
        "quantity": quantity, "oracle": oracle, "cycles": cycles, "difference": estimate.median, "low": estimate.low,
        "high": estimate.high, "n_seeds": estimate.n, "p_equivalent": p if estimate.n > 1 else None,
    }  # fmt: skip


def _regret(summary: Summary) -> Iterator[str]:
    """Mean cycle regret with its interval."""
    own = summary.regret[summary.regret["oracle"] == summary.verdict_oracle]
    per_seed = own.groupby("seed")[["regret_test", "regret_val"]].mean()
    estimate = paired_interval(per_seed["regret_test"].to_numpy(dtype=float))
    if summary.verdict_oracle is None or estimate.median is None:
        return
    over = "the cycles that each seed has" if own.groupby("seed").size().nunique() > 1 else "cycles"
    yield (
        f"Cycle regret, mean over {over}, on test: {difference(estimate.median)} ({interval_text(estimate)}); on "
        f"validation, where the best rate was chosen: {points(per_seed['regret_val'].median())}. "
        f"Oracle: {describe(summary.study, summary.verdict_oracle)}."
    )


def interval_text(estimate: Estimate, second: str = "") -> str:
    """The interval of an estimate and its seeds, in words; and that over seeds and test images, from `second_text`."""
    seeds = plural(estimate.n, "seed")
    if estimate.low is None:
        return f"{seeds}, so no interval"
    ends = f"{points(estimate.low)} to {points(estimate.high)}"
    if second:
        return f"95 % intervals {ends} over {seeds}, {second} over seeds and test {words().example}s"
    return f"95 % interval {ends}, {seeds}"


def _endpoint(summary: Summary) -> Iterator[str]:
    """The primary endpoint with its interval and equivalence test."""
    end = summary.endpoint
    if end is None or end.estimate.median is None:
        return
    tolerance = points(summary.tolerance, signed=False)
    yes = "equivalent" if end.equivalence.equivalent else "equivalence not shown"
    p_text = p_value(end.equivalence.p) if end.equivalence.p < 0.001 else f"= {p_value(end.equivalence.p)}"
    test = f"{yes} within {tolerance}{words().pp} (TOST p {p_text})" if end.estimate.n > 1 else ""
    yield (
        f"Primary endpoint, chain gap {end.oracle} {MINUS} {end.schedule} on test, mean over cycles "
        f"{end.cycles[0]} to {end.cycles[-1]}: {difference(end.estimate.median)} "
        f"({interval_text(end.estimate, _second(end))})"
        + (f"; {test}" if test else "")
        + f".{_needed(end, tolerance)} {never_collapsed(summary, [end.schedule, end.oracle])} "
        f"Oracle: {describe(summary.study, end.oracle)}."
    )


def _luck(summary: Summary) -> Iterator[str]:
    """What of each chain gap is luck, how it was told apart, or that it cannot be."""
    end, splits = summary.endpoint, _splits(summary)
    if end is None or end.estimate.median is None:
        return
    if not splits:
        yield (
            "How much of the chain gap is luck cannot be told: the best of several trainings is also the luckiest. Add "
            f"an arm with the schedule of {summary.schedule} and best_of = the number of rates that {end.oracle} tries "
            "a cycle, or an Oracle with retrain_winner = true."
        )
    for oracle, split in splits.items():
        luck, rate = (
            f"{difference(split[part]['difference'])} ({_interval(split[part])})" for part in ("luck", "rate")
        )
        if split["luck"]["way"] == RETRAINED:
            yield (
                f"Luck: the winners of {oracle} were better than a second training of their rates by {luck}. Rates: "
                f"from second trainings alone, which no score chose, {oracle} is better than {summary.schedule} by "
                f"{rate}."
            )
            continue
        arm, tries, rates = split["luck"]["arm"], split["luck"]["trainings"], split["luck"]["candidates"]
        yield (
            f"Luck: {arm}, the best of {tries} trainings at the rates of {summary.schedule}, is better than it by "
            f"{luck}. Rates: {oracle} is better than {arm} by {rate}; that is a lower "
            f"bound where rates differ, since the Oracle then chooses among fewer equals.{_unequal(tries, rates)}"
        )


def _unequal(trainings: int, candidates: float) -> str:
    """A best-of arm has as much luck as the Oracle only with as many trainings."""
    if abs(trainings - candidates) < 0.5:
        return ""
    what = (
        "some luck is left in the part of the rates" if trainings < candidates else "it has more luck than the Oracle"
    )
    return f" The Oracle chooses among {candidates:.3g} trainings a cycle, not {trainings}: {what}."


def _second(end: Endpoint) -> str:
    cells = {"low_examples": end.low_examples, "high_examples": end.high_examples}
    return second_text(cells) if end.low_examples is not None else ""


def _needed(end: Endpoint, tolerance: str) -> str:
    if end.needed is None or end.equivalence.equivalent:
        return ""
    low, high = end.needed
    seeds = plural(low, "seed") if low == high else f"{low} to {high} seeds"
    return f" Were there no gap, about {seeds} in all would resolve {tolerance}{words().pp} (power 80 %)."


def _cost(summary: Summary) -> Iterator[str]:
    """Units and seconds of the schedule and of its Oracle."""
    table = summary.cost.set_index("arm")
    own, oracle = summary.schedule, summary.chain_oracle or summary.verdict_oracle
    if own not in table.index or oracle is None or not table.loc[own, "units"] or not table.loc[oracle, "units"]:
        return
    mine, theirs, whole = (table.loc[name].to_dict() for name in (own, oracle, STUDY))
    tested = int(theirs["tested_units"])
    judging = f", {tested} of them ({seconds(theirs['tested_seconds'])}) only to judge other arms' rates; its other "
    without = f"{judging}{int(theirs['units']) - tested} are" if tested else ","
    pilots = f", {int(mine['pilot_units'])} of them for its pilot" if mine["pilot_units"] else ""
    saved = theirs["saved_by_schedule"]
    outside = summary.study.report.pilot_trials
    pilots += f", and {outside} outside this study that found its constants," if outside else ""
    yield (
        f"Cost: {own} used {plural(int(mine['units']), 'trial')}{pilots} ({seconds(mine['train_seconds'])} of "
        f"training), {oracle} {int(theirs['units'])} ({seconds(theirs['train_seconds'])}){without} "
        f"{theirs['times_schedule']:.1f} times as many: "
        f"{f'{percent(saved, 0)} % are saved' if saved >= 0 else 'nothing is saved'}. "
        f"The whole study used {int(whole['units'])}.{_not_counted(summary)}"
    )


def _not_counted(summary: Summary) -> str:
    """That a pilot elsewhere is not part of the cost; "" where there is none, or its trials are stated."""
    found_here = summary.schedule not in summary.tuning.written
    if found_here or summary.study.report.pilot_trials is not None:
        return ""
    return (
        f" Not counted: trials outside this study by which the constants of {summary.schedule} were found "
        "(report.pilot_trials states them)."
    )


def _crossfit(summary: Summary, data: pd.DataFrame) -> Iterator[str]:
    for row in data[data["quantity"] == _CROSSFIT].to_dict("records"):
        low, high = _ends(row)
        estimate = Estimate(row["n_seeds"], median=row["difference"], low=low, high=high)
        yield (
            f"Cross-fitted cycle regret on test, each seed at the rate that is best in the others: "
            f"{difference(estimate.median)} ({interval_text(estimate)}); an estimate, not a verdict."
        )


def _ends(row: Any) -> tuple[float | None, float | None]:
    return (row["low"], row["high"]) if known(row["low"]) else (None, None)


def _verdict(summary: Summary, data: pd.DataFrame) -> str:
    parts = [
        f"{_named(summary, row)} {difference(row['difference'])} ({_interval(row)}{over_both(row)})"
        + (_of_which(summary) if row["quantity"] == _ENDPOINT else "")
        for row in data.to_dict("records")
        if row["quantity"] in (_ENDPOINT, _LAST, _REGRET)
    ]
    return "; ".join([*parts, *_saved(summary)])


def _named(summary: Summary, row: Any) -> str:
    if row["quantity"] == _LAST:
        return f"at the last cycle, {percent(summary.study.remaining[-1])} % of the weights,"
    return str(row["quantity"].split(" (")[0].lower())


def _of_which(summary: Summary) -> str:
    """The part of luck in the chain gap, in a few words."""
    split, others = _split(summary), _splits(summary)
    if split is None and not others:
        return ", luck and rates not told apart"
    if split is None:
        oracle, other = next(iter(others.items()))
        return f", that of {oracle} without luck {_short(other['rate'])}"
    if split["luck"]["way"] == RETRAINED:
        return f", without luck, which is {_short(split['luck'])}"
    return f", of which luck {_short(split['luck'])}, rates at least {_short(split['rate'])}"


def _short(row: Mapping[str, Any]) -> str:
    return f"{points(row['difference'])} ({_interval(row)})"


def _numbers(summary: Summary, data: pd.DataFrame) -> Iterator[Number]:
    for row in data.to_dict("records"):
        yield number(
            f"{row['quantity']}, Oracle − schedule", row["difference"], row["low"], row["high"], row["n_seeds"],
            row["p_equivalent"], (row["low_examples"], row["high_examples"]),
        )  # fmt: skip
    saved = summary.cost.set_index("arm")["saved_by_schedule"].get(summary.chain_oracle or summary.verdict_oracle or "")
    if known(saved):
        yield number("share of the Oracle's trials saved", saved)


def _saved(summary: Summary) -> Iterator[str]:
    costs: dict[str, Any] = {row["arm"]: row for row in summary.cost.to_dict("records")}
    mine, theirs = costs.get(summary.schedule), costs.get(summary.chain_oracle or summary.verdict_oracle or "")
    if mine is None or theirs is None or not known(theirs["saved_by_schedule"]):
        return
    if theirs["saved_by_schedule"] < 0:
        yield "saves nothing"
        return
    time = theirs["train_seconds"] - theirs["tested_seconds"]
    share = f"saves {percent(theirs['saved_by_schedule'], 0)} % of the trials"
    if summary.study.report.pilot_trials:
        yield f"{share}, a pilot outside this study counted"
        return
    elsewhere = ", a pilot outside this study not counted" if _not_counted(summary) else ""
    yield f"{share}{_of_time(mine['train_seconds'], time)}{elsewhere}"


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
    second = bool(data["low_examples"].notna().any())
    head = (
        "Oracle − schedule, on test", "Oracle", "Cycles", words().head("Difference"), "95 % interval",
        *([second_head()] if second else []), "Seeds", "TOST p",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = [
        (
            row["quantity"],
            describe(summary.study, row["oracle"]),
            row["cycles"],
            points(row["difference"]),
            _interval(row) if known(row["low"]) else DASH,
            *([second_text(row)] if second else []),
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
        todo = way_on(summary) if tested else f"add {summary.schedule} to its tests"
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
    return f"No primary endpoint: no seed has every cycle from {first} to {last} of both chains; {way_on(summary)}."
