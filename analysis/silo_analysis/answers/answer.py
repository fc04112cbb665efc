"""What an answer is: plain data, without HTML. The terminal, the page and the files are renderings of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from silo_analysis.answers.text_tables import Table
from silo_analysis.estimates.summary import Summary
from silo_analysis.estimates.tuning import has_chains
from silo_tune.formats import DASH, known, points, words


@dataclass(frozen=True)
class Number:
    """A number of an answer, with its interval where it has one.

    Attributes:
        name: what it is of.
        value: as it is; shares and their differences are in [0, 1].
        low, high: ends of its 95 % interval over seeds; None without one.
        seeds: that it rests on; None where it is a count.
        p: of its test, corrected where `name` says so; None without one.
        low_examples, high_examples: ends of its 95 % interval over seeds and test images; None without one.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    seeds: int | None = None
    p: float | None = None
    low_examples: float | None = None
    high_examples: float | None = None


def number(
    name: str,
    value: Any,
    low: Any = None,
    high: Any = None,
    seeds: Any = None,
    p: Any = None,
    examples: tuple[Any, Any] = (None, None),
) -> Number:
    """A `Number` of cells that may be null."""
    cells = (value, low, high, p, *examples)
    mid, least, most, p_, low_, high_ = (float(cell) if known(cell) else None for cell in cells)
    return Number(name, mid, least, most, int(seeds) if known(seeds) else None, p_, low_, high_)


def second_head() -> str:
    """Heads the column of the second interval."""
    return f"over test {words().example}s too"


def second_text(row: Any) -> str:
    """ "+0.10 to +0.90", the interval over seeds and test images; a dash without one."""
    if not known(row.get("low_examples")):
        return DASH
    return f"{points(row['low_examples'])} to {points(row['high_examples'])}"


def over_both(row: Any, level: str = "") -> str:
    """ " over seeds; +0.10 to +0.90 over seeds and test images", to follow an interval over seeds; "" without one.

    `level` is named where that interval has another one.
    """
    if not known(row.get("low_examples")):
        return ""
    return f" over seeds; {level}{second_text(row)} over seeds and test {words().example}s"


@dataclass(frozen=True)
class Answer:
    """A question that a run is asked, and its answer.

    Attributes:
        id: permanent, for links.
        question: in words.
        verdict: the answer in one sentence; "" where the run cannot answer.
        details: sentences, each with its numbers, that say more than the verdict.
        numbers: those that the verdict rests on.
        cycles: that the answer is about.
        figure: name of a figure of `figures.save_figures`, whether or not the run has it; no two answers share one.
        table: the numbers as text.
        data: the same as numbers, for CSV: shares and their differences in [0, 1].
        missing: what the run lacks for an answer, or for a part of it, and what to add; None where nothing is.
    """

    id: str
    question: str
    verdict: str = ""
    details: tuple[str, ...] = ()
    numbers: tuple[Number, ...] = ()
    cycles: tuple[int, ...] = ()
    figure: str | None = None
    table: Table | None = None
    data: pd.DataFrame = field(default_factory=pd.DataFrame)
    missing: str | None = None


def cycles_of(data: pd.DataFrame) -> tuple[int, ...]:
    """The cycles in a table, sorted."""
    return tuple(sorted({int(cycle) for cycle in data["cycle"].dropna()}))


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}." if text else ""


def absent(summary: Summary) -> str | None:
    """Why nothing can be asked of this run's schedule at all, or None."""
    name = summary.schedule
    if name not in summary.study.arms:
        return f"The study has no arm {name!r} to judge: add one, or name another in report.schedule."
    if not (summary.arms["arm"] == name).any():
        return f"{name} has no results yet: resume the run."
    return None


def collapsed(summary: Summary, arms: list[str]) -> str:
    """ "; collapsed: constant in 2 of 12 chains", of the arms that lost some; "" where none did."""
    rows = summary.ranking[
        summary.ranking["arm"].isin(arms) & (summary.ranking["trained"] < summary.ranking["own_seeds"])
    ]
    said = [
        f"{r['arm']} in {r['own_seeds'] - r['trained']} of {r['own_seeds']} chains" for r in rows.to_dict("records")
    ]
    return f"; collapsed: {joined(said)}" if said else ""


COLLAPSED = "Every training after the dense one collapsed, so there is nothing to compare: try lower rates."


def nothing_trained(summary: Summary) -> bool:
    """Did every chain collapse at every cycle from 1 on?"""
    late = summary.arms[(summary.arms["cycle"] >= 1) & (summary.arms["n_seeds"] > 0)]
    return len(late) > 0 and not (late["trained"] > 0).any()


def way_on(summary: Summary) -> str:
    """What brings chains further: to resume the run, where one is still to come."""
    arms = [name for name in summary.study.arms if has_chains(summary.study, name)]
    under_way = any(
        summary.reached.get((arm, seed), -1) < summary.study.cycles - 1 and (arm, seed) not in summary.ended
        for arm in arms
        for seed in summary.seeds
    )
    return "resume the run" if under_way or not summary.seeds else "its chains ended early, so try lower rates"


def never_collapsed(summary: Summary, arms: list[str]) -> str:
    """ "Chains without a collapse: silo 12 of 12, oracle 11 of 12.": a median says nothing of a few that were lost."""
    rows = {str(row["arm"]): row for row in summary.ranking.to_dict("records") if row["arm"] in arms}
    said = [f"{arm} {rows[arm]['trained']} of {rows[arm]['own_seeds']}" for arm in dict.fromkeys(arms) if arm in rows]
    return f"Chains without a collapse: {', '.join(said)}." if said else ""


def oracle_to_add(schedule: str) -> str:
    """The words for "add an Oracle"."""
    return (
        f'Add an arm with mode = "oracle", prefix = "arm:{schedule}" (or "own", the greedy one) and a grid of rates, '
        "for example grid = { low = 0.01, high = 1.0, points = 9 }."
    )


def joined(parts: list[str], last: str = "and") -> str:
    """ "a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}" if parts else ""
