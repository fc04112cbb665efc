"""Is the schedule better than each baseline, by how much, at which sparsity?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from silo_analysis.answers.answer import (
    Answer,
    Number,
    absent,
    collapsed,
    cycles_of,
    joined,
    never_collapsed,
    number,
    over_both,
    second_head,
    second_text,
    sentence,
    way_on,
)
from silo_analysis.answers.text_tables import Table
from silo_analysis.estimates.against import SIGNIFICANCE, others
from silo_analysis.estimates.ranking import FEWEST_TOLD_APART
from silo_analysis.estimates.regret import FIRST_ENDPOINT_CYCLE
from silo_analysis.estimates.summary import Summary
from silo_tune.formats import (
    DASH,
    MINUS,
    cycle_list,
    difference,
    known,
    p_value,
    percent,
    plural,
    points,
    seed_range,
    words,
)

ID = "baselines"
# More arms of one outcome than these are counted, not named: the table has them all.
MOST_NAMED = 5
OUTCOMES = {
    "better": "better than",
    "worse": "worse than",
    "equivalent": "equivalent to",
    "identical": "the same trials as",
    "undetermined": "no difference shown from",
}


def ask(summary: Summary) -> Answer:
    """Paired differences against every other schedule arm, overall and per cycle. Above 0 the judged one is better."""
    title = f"Is {summary.schedule} better than each baseline, by how much, at which sparsity?"
    overall, per_cycle = parts(summary)
    known_ = overall.dropna(subset=["difference"])
    any_cycle = per_cycle.dropna(subset=["difference"])
    missing = _missing(summary, known_)
    if not len(known_) and not len(any_cycle):
        return Answer(ID, title, missing=missing, figure="against", data=summary.against)
    details = (
        *_overall(summary, known_), *_by_cycle(summary, any_cycle), *_ranks(summary), *_caveats(summary, known_)
    )  # fmt: skip
    table = _table(summary, overall, per_cycle)
    return Answer(
        ID, title, sentence(_verdict(summary, known_, any_cycle)), details, tuple(_numbers(summary, known_)),
        cycles_of(any_cycle), "against", table, summary.against, missing,
    )  # fmt: skip


def _numbers(summary: Summary, rows: pd.DataFrame) -> Iterator[Number]:
    for row in rows.to_dict("records"):
        yield number(
            f"{summary.schedule} {MINUS} {row['arm']} (p after Holm)", row["difference"], row["low"], row["high"],
            row["n_seeds"], row["p_holm"], (row["low_examples"], row["high_examples"]),
        )  # fmt: skip


def parts(summary: Summary) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The overall differences and those per cycle."""
    overall = summary.against["cycle"].isna()
    return summary.against[overall], summary.against[~overall]


# --- sentences ---


def _overall(summary: Summary, rows: pd.DataFrame) -> Iterator[str]:
    if not len(rows):
        return
    groups = [(name, rows[rows["outcome"] == name]) for name in OUTCOMES]
    said = "; ".join(_group(summary, group, name) for name, group in groups if len(group))
    tested = int(rows["p"].notna().sum())
    holm = f"Holm over {plural(tested, 'arm')}" if tested else _no_test(rows)
    last = summary.study.cycles - 1
    yield (
        f"On test, {summary.schedule} {MINUS} arm, mean over cycles {FIRST_ENDPOINT_CYCLE} to {last} (above 0 "
        f"{summary.schedule} is better; 95 % intervals; {holm}): {said}."
    )
    yield never_collapsed(summary, [summary.schedule, *_named_arms(groups)])
    small = within_tolerance(rows[rows["outcome"].isin(["better", "worse"])])
    if len(small):
        yield (
            f"Significant but within the equivalence margin of {difference(summary.tolerance, signed=False)} "
            f"(TOST, Holm): {joined(list(small['arm']))}."
        )


def _named_arms(groups: list[tuple[str, pd.DataFrame]]) -> list[str]:
    """Arms that the sentence names."""
    return [str(arm) for name, group in groups for arm in _by_size(group)["arm"].head(MOST_NAMED)]


def _by_size(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(size=rows["difference"].abs()).sort_values("size", ascending=False, kind="stable")


def within_tolerance(rows: pd.DataFrame) -> pd.DataFrame:
    """Those of the rows whose difference is shown to be smaller than the tolerance, different from 0 or not."""
    return rows[rows["p_equivalent_holm"].lt(SIGNIFICANCE).fillna(False)]


def _group(summary: Summary, rows: pd.DataFrame, outcome: str) -> str:
    ordered = _by_size(rows)
    named = [f"{row['arm']} ({bare(row)})" for row in ordered.head(MOST_NAMED).to_dict("records")]
    more = len(rows) - len(named)
    within = f" within {difference(summary.tolerance, signed=False)}" if outcome == "equivalent" else ""
    return f"{OUTCOMES[outcome]} {joined([*named, *([f'{more} more'] if more else [])])}{within}"


def bare(row: Any) -> str:
    """ "+1.20 pp, +0.90 to +1.50", or the 90 % interval that TOST tests of what is equivalent.

    The interval over test examples too follows where it is known.
    """
    if row["outcome"] == "equivalent":
        within = f"90 % {points(row['within_low'])} to {points(row['within_high'])}"
        return f"{difference(row['difference'])}, {within}{over_both(row, '95 % ')}"
    ends = f"{points(row['low'])} to {points(row['high'])}" if known(row["low"]) else "1 seed, no interval"
    return f"{difference(row['difference'])}, {ends}{over_both(row)}"


def _by_cycle(summary: Summary, rows: pd.DataFrame) -> Iterator[str]:
    if not len(rows):
        return
    tested = rows.dropna(subset=["p_holm"])
    shown = tested[tested["p_holm"] < SIGNIFICANCE]
    row = largest(shown if len(shown) else rows)
    place = f"{percent(row['weights_remaining'])} % of the weights (cycle {row['cycle']})"
    where = f"at {place}, {bare(row)}, against {row['arm']}"
    if not len(shown):
        why = "no single cycle shows a difference" if len(tested) else _no_test(rows)
        yield f"By cycle {why}; the largest is {where}.{_same_at(rows)}"
        return
    better = int((shown["difference"] > 0).sum())
    yield (
        f"By cycle (Holm over {len(tested)} pairs of arm and cycle) {summary.schedule} is shown better in {better} and "
        f"worse in {len(shown) - better}, in {cycle_list(sorted(set(shown['cycle'])))}; the largest is {where}."
        f"{_same_at(rows)}"
    )


def _no_test(rows: pd.DataFrame) -> str:
    same = bool((rows["outcome"] == "identical").all())
    return "nothing to test" if same else f"no test below {FEWEST_TOLD_APART} seeds"


def _same_at(rows: pd.DataFrame) -> str:
    """Arms that trained the same units as the judged one at single cycles, which no family of tests counts."""
    same = rows[rows["outcome"] == "identical"]
    cycles: dict[tuple[int, ...], list[str]] = {}
    for arm, own in same.groupby("arm", sort=False):
        cycles.setdefault(tuple(int(cycle) for cycle in own["cycle"]), []).append(str(arm))
    return "".join(
        f" The same trials, so not tested: {joined(arms)} in {cycle_list(at)}." for at, arms in cycles.items()
    )


def largest(rows: pd.DataFrame) -> Any:
    """The row with the largest difference, whatever its sign; of equals the one in the earliest cycle."""
    size = rows.assign(size=rows["difference"].abs()).sort_values(["size", "cycle"], ascending=[False, True])
    return size.iloc[0].to_dict()


def _ranks(summary: Summary) -> Iterator[str]:
    """Places with the ranks that the noise leaves open: the first, the judged schedule's, and how many may be first."""
    table = summary.ranking.dropna(subset=["rank"])
    own = table[table["arm"] == summary.schedule]
    if len(table) < 2 or not len(own):
        return
    places = list(dict.fromkeys([summary.schedule, *table.loc[table["rank"] == 1, "arm"]]))
    said = "; ".join(f"{row['arm']} {rank_text(row)}" for arm in places for row in _records(table, arm))
    may = int((table["rank_best"] == 1).sum())
    yield (
        f"Rank among {len(table)} arms, greedy Oracles included, in brackets its simultaneous 95 % confidence set "
        f"({plural(int(own['n_seeds'].iloc[0]), 'seed')}): {said}; {may} of the arms may be the first."
    )


def _records(table: pd.DataFrame, arm: str) -> list[Any]:
    return table[table["arm"] == arm].to_dict("records")


def rank_text(row: Any) -> str:
    """ "2 (1 to 4)": a rank is never shown without its interval."""
    return f"{row['rank']} ({row['rank_best']} to {row['rank_worst']})" if known(row["rank"]) else DASH


def _caveats(summary: Summary, rows: pd.DataFrame) -> Iterator[str]:
    lost = rows[rows["left_out"] > 0]
    if len(lost):
        names = joined([f"{row['arm']} ({row['left_out']})" for row in lost.head(MOST_NAMED).to_dict("records")])
        more = f" and {len(lost) - MOST_NAMED} more" if len(lost) > MOST_NAMED else ""
        yield (
            f"Seeds left out because a chain lacks a cycle (under way, or a trial failed): {names}{more}; a chain "
            "that collapsed counts as guessing."
        )
    if summary.tuning.standing != "equal":
        yield "The arms are not equally tuned: a difference may be one of constants, not of schedules."


def _verdict(summary: Summary, rows: pd.DataFrame, per_cycle: pd.DataFrame) -> str:
    if not len(rows):
        return "no overall difference yet"
    counts = [f"{words} {count}" for name, words in OUTCOMES.items() if (count := int((rows["outcome"] == name).sum()))]
    row = largest(rows)
    # A difference that is shown may still be too small to matter, and one line must not hide that.
    differ = rows[rows["outcome"] != "identical"]
    small = len(within_tolerance(differ)) == len(differ) and bool((differ["outcome"] != "equivalent").any())
    within = f", all within {difference(summary.tolerance, signed=False)}" if small else ""
    lost = collapsed(summary, [summary.schedule, *rows["arm"]])
    return f"{', '.join(counts)} of {plural(len(rows), 'arm')}{within}; largest {bare(row)}, against {row['arm']}{lost}"


# --- table ---


def _table(summary: Summary, overall: pd.DataFrame, per_cycle: pd.DataFrame) -> Table:
    told, second = f"{summary.schedule} is", bool(overall["low_examples"].notna().any())
    head = (
        "Schedule − arm, on test",
        words().head("Difference"),
        "95 % interval",
        *([second_head()] if second else []),
        "90 % (TOST)",
        told,
        "Holm p",
        "TOST p",
        "Largest at",
        "There",
        "Rank",
        "Seeds",
    )
    ranks = {str(row["arm"]): rank_text(row) for row in summary.ranking.to_dict("records")}
    ordered = overall.sort_values("difference", ascending=False, kind="stable", na_position="last")
    arms = list(ordered["arm"]) or list(dict.fromkeys(per_cycle["arm"]))
    rows = [
        _row(arm, overall[overall["arm"] == arm], per_cycle[per_cycle["arm"] == arm], ranks.get(arm, DASH), second)
        for arm in arms
    ]
    return Table(head, rows, frozenset({told}))


def _row(arm: str, overall: pd.DataFrame, per_cycle: pd.DataFrame, rank: str, second: bool) -> tuple[str, ...]:
    row = overall.iloc[0].to_dict() if len(overall) else dict.fromkeys(overall.columns)
    cycles = per_cycle.dropna(subset=["difference"])
    top = largest(cycles) if len(cycles) else None
    return (
        arm,
        points(row["difference"]),
        f"{points(row['low'])} to {points(row['high'])}" if known(row["low"]) else DASH,
        *([second_text(row)] if second else []),
        f"{points(row['within_low'])} to {points(row['within_high'])}" if known(row["within_low"]) else DASH,
        _told(row),
        p_value(row["p_holm"]),
        p_value(row["p_equivalent_holm"]),
        f"{percent(top['weights_remaining'])} %" if top else DASH,
        points(top["difference"]) if top else DASH,
        rank,
        str(row["n_seeds"]) if known(row["n_seeds"]) else DASH,
    )


def _told(row: Any) -> str:
    """The outcome; of an undetermined one also the seeds that it takes."""
    if not known(row["outcome"]):
        return DASH
    if row["outcome"] == "undetermined" and known(row["needed_low"]):
        return f"undetermined, {seed_range(row['needed_low'], row['needed_high'])} needed"
    return str(row["outcome"])


# --- what is missing ---


def _missing(summary: Summary, known_: pd.DataFrame) -> str | None:
    if (why := absent(summary)) is not None:
        return why
    if not others(summary.study):
        return (
            'The study has no other schedule arm: add baselines, for example cosine = { preset = "cosine" } '
            "(`silo-tune list presets` has all)."
        )
    if summary.study.cycles <= FIRST_ENDPOINT_CYCLE:
        return f"The study has no cycle ≥ {FIRST_ENDPOINT_CYCLE}, so no overall difference: raise cycles."
    if not len(known_):
        return f"No seed has every cycle of two schedule arms: {way_on(summary)}."
    if (seeds := int(known_["n_seeds"].max())) < FEWEST_TOLD_APART:
        return f"{plural(seeds, 'seed')} of {FEWEST_TOLD_APART} that a test takes: add seeds to [replicates]."
    lacking = [arm for arm in others(summary.study) if arm not in set(known_["arm"])]
    return f"No seed has every cycle of {joined(lacking)}." if lacking else None
