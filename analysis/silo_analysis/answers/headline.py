"""The sentences to read first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from silo_analysis.answers.fairness import equal_budgets
from silo_analysis.answers.mechanism_words import mechanism_sentences
from silo_analysis.answers.tuning_words import tuned_sentences, tuning_sentence
from silo_analysis.estimates.cost import STUDY
from silo_analysis.estimates.oracle import describe
from silo_analysis.estimates.regret import Endpoint
from silo_analysis.estimates.stats import Estimate, paired_interval
from silo_tune.formats import MINUS, cycle_list, p_value, percent, plural, points, seconds

if TYPE_CHECKING:
    from silo_analysis.estimates.summary import Summary


def headline(summary: Summary) -> tuple[str, ...]:
    """What to read first: containment, two Oracles, regret, primary endpoint, mechanism, cost, budgets, tuning."""
    return (
        *containment_sentences(summary),
        *_two_oracles(summary),
        *regret_sentences(summary),
        *endpoint_sentences(summary),
        *mechanism_sentences(summary),
        *cost_sentences(summary),
        *tuned_sentences(summary),
        *equal_budgets(summary),
        tuning_sentence(summary),
    )


def containment_sentences(summary: Summary) -> Iterator[str]:
    """In how many informative cycles the schedule is inside; nothing where no cycle was tested."""
    cycles, name = summary.cycles, summary.schedule
    tested = cycles[cycles["verdict"] != "not tested"]
    if summary.verdict_oracle is None or not len(tested):
        return
    informative = tested[tested["informative"]]
    inside = int((informative["verdict"] == "inside").sum())
    oracle = describe(summary.study, summary.verdict_oracle)
    counts = ", ".join(
        f"{kind} in {count}"
        for kind in ("inside", "outside", "undetermined")
        if (count := int((tested["verdict"] == kind).sum()))
    )
    yield (
        f"{name} is inside in {inside} of {plural(len(informative), 'informative cycle')} "
        f"(a cycle is informative when a control is outside); over all {len(tested)} tested: {counts}. "
        f"Interval {_widths(tested)}. Oracle: {oracle}; tolerance {points(summary.tolerance, signed=False)} points."
    )


def _widths(tested: pd.DataFrame) -> str:
    widths = tested["width_decades"].dropna()
    if not len(widths):
        return "widths are unknown"
    clipped = int(tested["clipped"].fillna(False).sum())
    span = f"{widths.min():.2f} to {widths.max():.2f} decades, median {widths.median():.2f}"
    text = f"widths {span}" if len(widths) > 1 else f"width {widths.min():.2f} decades"
    return f"{text}, {clipped} of them reaching the edge of the grid" if clipped else text


def _two_oracles(summary: Summary) -> Iterator[str]:
    pair, table = summary.pair, summary.compared
    judged = table[table["same_verdict"].notna()]
    if pair is None or not len(judged):
        return
    agree = int(judged["same_verdict"].sum())
    idle = judged[judged["same_verdict"] & (judged["greedy_verdict"] == "undetermined")]
    told = f" ({len(idle)} of them undetermined in both)" if len(idle) else ""
    yield (
        f"Two Oracles: greedy ({pair.greedy}) and conditioned ({pair.conditioned}) agree on the verdict of "
        f"{summary.schedule} in {agree} of {plural(len(judged), 'cycle')}{told}{_disagreements(judged)}."
        f"{_distances(table)}{_same_weights(judged)}"
    )


def _disagreements(judged: pd.DataFrame) -> str:
    apart = judged[~judged["same_verdict"]]
    if not len(apart):
        return ""
    where = [
        f"greedy {greedy}, conditioned {conditioned} in {cycle_list(rows['cycle'])}"
        for (greedy, conditioned), rows in apart.groupby(["greedy_verdict", "conditioned_verdict"])
    ]
    against = (apart["greedy_verdict"] != "undetermined") & (apart["conditioned_verdict"] != "undetermined")
    count = int(against.sum())
    held = f"{count} of them" if count else "none of them"
    return f"; where they disagree: {'; '.join(where)} ({held} inside against outside)"


def _distances(table: pd.DataFrame) -> str:
    apart = table["distance_decades"].dropna()
    if not len(apart):
        return ""
    if (apart == 0).all():
        return f" Their best rates are the same in {plural(len(apart), 'cycle')}."
    if len(apart) == 1:
        return f" Their best rates are {apart.iloc[0]:.2f} decades apart."
    return f" Their best rates are {apart.median():.2f} decades apart in the median, {apart.max():.2f} at most."


def _same_weights(judged: pd.DataFrame) -> str:
    same = judged[(judged["same_weights"] == judged["both_seeds"]) & (judged["both_seeds"] > 0)]
    if not len(same):
        return ""
    where = cycle_list(same["cycle"])
    return f" In {where} both start from the same weights in every seed: agreement there is no evidence."


def regret_sentences(summary: Summary) -> Iterator[str]:
    """Mean cycle regret with its interval."""
    own = summary.regret[summary.regret["oracle"] == summary.verdict_oracle]
    per_seed = own.groupby("seed")[["regret_test", "regret_val"]].mean()
    estimate = paired_interval(per_seed["regret_test"].to_numpy(dtype=float))
    if summary.verdict_oracle is None or estimate.mean is None:
        return
    over = "the cycles that each seed has" if own.groupby("seed").size().nunique() > 1 else "cycles"
    yield (
        f"Cycle regret, mean over {over} on test: {points(estimate.mean)} points ({spread_text(estimate)}); on "
        f"validation, where the best rate was chosen: {points(per_seed['regret_val'].mean())}. "
        f"Oracle: {describe(summary.study, summary.verdict_oracle)}."
    )


def spread_text(estimate: Estimate) -> str:
    """The interval of an estimate and its seeds, in words."""
    seeds = plural(estimate.n, "seed")
    if estimate.low is None:
        return f"{seeds}, so no interval"
    return f"95 % paired t interval {points(estimate.low)} to {points(estimate.high)}, {seeds}"


def endpoint_sentences(summary: Summary) -> Iterator[str]:
    """The primary endpoint with its interval and equivalence test."""
    end = summary.endpoint
    if end is None or end.estimate.mean is None:
        return
    tolerance = points(summary.tolerance, signed=False)
    yes = "equivalent" if end.equivalence.equivalent else "equivalence not shown"
    p_text = p_value(end.equivalence.p) if end.equivalence.p < 0.001 else f"= {p_value(end.equivalence.p)}"
    test = f"{yes} within {tolerance} points (TOST p {p_text})" if end.estimate.n > 1 else ""
    yield (
        f"Primary endpoint, chain gap {end.oracle} {MINUS} {end.schedule} on test, mean over cycles "
        f"{end.cycles[0]} to {end.cycles[-1]}: {points(end.estimate.mean)} points ({spread_text(end.estimate)})"
        + (f"; {test}" if test else "")
        + f".{_needed(end, tolerance)} Oracle: {describe(summary.study, end.oracle)}."
    )


def _needed(end: Endpoint, tolerance: str) -> str:
    if end.needed is None or end.equivalence.equivalent:
        return ""
    low, high = end.needed
    seeds = plural(low, "seed") if low == high else f"{low} to {high} seeds"
    return f" Were there no gap, about {seeds} in all would resolve {tolerance} points."


def cost_sentences(summary: Summary) -> Iterator[str]:
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
    yield (
        f"Cost: {own} used {plural(int(mine['units']), 'unit')}{pilots} ({seconds(mine['train_seconds'])} of "
        f"training), {oracle} {int(theirs['units'])} ({seconds(theirs['train_seconds'])}){without} "
        f"{theirs['times_schedule']:.1f} times as many: "
        f"{f'{percent(saved, 0)} % are saved' if saved >= 0 else 'nothing is saved'}. "
        f"The whole study used {int(whole['units'])}."
    )
