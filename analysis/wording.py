"""The words of a summary: headline sentences, what is missing, and the table for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.containment import FEWEST_SEEDS
from analysis.cost import STUDY
from analysis.oracle import describe, prefix_of
from analysis.regret import FIRST_ENDPOINT_CYCLE, Endpoint
from analysis.stats import paired_interval

if TYPE_CHECKING:
    from analysis.summary import Summary

DASH = "–"
MINUS = "−"


# --- numbers as text ---


def known(value: Any) -> bool:
    """True unless the cell is null."""
    return value is not None and not pd.isna(value)


def points(value: Any, signed: bool = True) -> str:
    """A difference of accuracies in points (0.0123 → "+1.23"), a dash where there is none."""
    if not known(value):
        return DASH
    text = f"{100 * float(value):{'+' if signed else ''}.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", MINUS)


def percent(value: Any, digits: int = 1) -> str:
    """A share in percent, without the sign (0.512 → "51.2"); a dash where there is none."""
    return f"{100 * float(value):.{digits}f}" if known(value) else DASH


def rate(value: Any) -> str:
    """A max_lr to three significant digits; a dash where there is none."""
    return f"{float(value):.3g}" if known(value) else DASH


def p_value(value: Any) -> str:
    """A p value to three digits; a dash where there is none."""
    return DASH if not known(value) else "< 0.001" if float(value) < 0.001 else f"{float(value):.3f}"


def seconds(value: Any) -> str:
    """A duration as seconds, minutes or hours."""
    if not known(value):
        return DASH
    total = float(value)
    if total < 120:
        return f"{total:.0f} s"
    return f"{total / 60:.1f} min" if total < 7200 else f"{total / 3600:.1f} h"


def interval_text(row: Any) -> str:
    """ "0.02 to 0.11"; "≤" and "≥" mark a side where the best rate is the grid's edge."""
    if not known(row["interval_low"]):
        return DASH
    low, high = rate(row["interval_low"]), rate(row["interval_high"])
    return f"{'≤ ' if row['unbounded_low'] else ''}{low} to {'≥ ' if row['unbounded_high'] else ''}{high}"


def width_text(row: Any) -> str:
    """Width in decades, "≥" where the interval reaches the grid's edge."""
    if not known(row["width_decades"]):
        return DASH
    return f"{'≥ ' if row['clipped'] else ''}{float(row['width_decades']):.2f}"


def plural(count: int, noun: str) -> str:
    """ "1 seed", "2 seeds"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


# --- sentences ---


def headline(summary: Summary) -> tuple[str, ...]:
    """What to read first: containment, cycle regret, primary endpoint, cost, and the standing of the comparison."""
    return (
        *_containment(summary),
        *_regret(summary),
        *_endpoint(summary),
        *_cost(summary),
        "Not equally tuned: this version runs no pilot chains, so every arm has the constants that the study gives it.",
    )


def _containment(summary: Summary) -> Iterator[str]:
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


def _regret(summary: Summary) -> Iterator[str]:
    own = summary.regret[summary.regret["oracle"] == summary.verdict_oracle]
    per_seed = own.groupby("seed")[["regret_test", "regret_val"]].mean()
    estimate = paired_interval(per_seed["regret_test"].to_numpy(dtype=float))
    if summary.verdict_oracle is None or estimate.mean is None:
        return
    over = "the cycles that each seed has" if own.groupby("seed").size().nunique() > 1 else "cycles"
    yield (
        f"Cycle regret, mean over {over} on test: {points(estimate.mean)} points ({_spread(estimate)}); on validation, "
        f"where the best rate was chosen: {points(per_seed['regret_val'].mean())}. "
        f"Oracle: {describe(summary.study, summary.verdict_oracle)}."
    )


def _spread(estimate: Any) -> str:
    seeds = plural(estimate.n, "seed")
    if estimate.low is None:
        return f"{seeds}, so no interval"
    return f"95 % paired t interval {points(estimate.low)} to {points(estimate.high)}, {seeds}"


def _endpoint(summary: Summary) -> Iterator[str]:
    end = summary.endpoint
    if end is None or end.estimate.mean is None:
        return
    tolerance = points(summary.tolerance, signed=False)
    yes = "equivalent" if end.equivalence.equivalent else "equivalence not shown"
    p_text = p_value(end.equivalence.p) if end.equivalence.p < 0.001 else f"= {p_value(end.equivalence.p)}"
    test = f"{yes} within {tolerance} points (TOST p {p_text})" if end.estimate.n > 1 else ""
    yield (
        f"Primary endpoint, chain gap {end.oracle} {MINUS} {end.schedule} on test, mean over cycles "
        f"{end.cycles[0]} to {end.cycles[-1]}: {points(end.estimate.mean)} points ({_spread(end.estimate)})"
        + (f"; {test}" if test else "")
        + f".{_needed(end, tolerance)} Oracle: {describe(summary.study, end.oracle)}."
    )


def _needed(end: Endpoint, tolerance: str) -> str:
    if end.needed is None or end.equivalence.equivalent:
        return ""
    low, high = end.needed
    seeds = plural(low, "seed") if low == high else f"{low} to {high} seeds"
    return f" Were there no gap, about {seeds} in all would resolve {tolerance} points."


def _cost(summary: Summary) -> Iterator[str]:
    table = summary.cost.set_index("arm")
    own, oracle = summary.schedule, summary.chain_oracle or summary.verdict_oracle
    if own not in table.index or oracle is None or not table.loc[own, "units"] or not table.loc[oracle, "units"]:
        return
    mine, theirs, whole = (table.loc[name].to_dict() for name in (own, oracle, STUDY))
    yield (
        f"Cost: {own} used {plural(int(mine['units']), 'unit')} ({seconds(mine['train_seconds'])} of training), "
        f"{oracle} {int(theirs['units'])} ({seconds(theirs['train_seconds'])}), {theirs['times_schedule']:.1f} times "
        f"as many: {percent(theirs['saved_by_schedule'], 0)} % are saved. The whole study used {int(whole['units'])}."
    )


# --- what is missing ---


def notes(summary: Summary) -> tuple[str, ...]:
    """What is missing or limits the numbers, one sentence each; empty for a full study."""
    return (*_missing_arms(summary), *_missing_seeds(summary), *_missing_rows(summary), *_weak_tests(summary))


def _missing_arms(summary: Summary) -> Iterator[str]:
    study, name = summary.study, summary.schedule
    if not len(summary.arms):
        yield "The run has no results yet."
    if name not in study.arms:
        yield f"The study has no arm {name!r} to judge (report.schedule): no verdict, regret, chain gap or cost ratio."
    if summary.verdict_oracle is None:
        yield f"The study has no Oracle, greedy or conditioned on {name}: no interval, verdict, regret or chain gap."
        return
    if name in study.arms and prefix_of(study, summary.verdict_oracle) is None:
        yield (
            f"No Oracle with results is conditioned on {name}: interval, verdict and cycle regret come from the greedy "
            f"Oracle {summary.verdict_oracle} instead, whose cycles start from its own weights."
        )
    if summary.chain_oracle is None:
        yield "The study has no greedy Oracle: no chain gap and no primary endpoint."
    if name in study.arms and name not in study.tests_of(summary.verdict_oracle):
        yield f"{summary.verdict_oracle} does not test {name}: no verdict and no cycle regret."
    if study.cycles <= FIRST_ENDPOINT_CYCLE:
        yield f"The study has no cycle ≥ {FIRST_ENDPOINT_CYCLE}: no primary endpoint."


def _missing_seeds(summary: Summary) -> Iterator[str]:
    seeds = summary.study.replicates.seeds
    absent = [seed for seed in seeds if seed not in summary.seeds]
    if absent and summary.seeds:
        yield f"No rows yet for {plural(len(absent), 'seed')}: {', '.join(map(str, absent))}."
    if len(seeds) < FEWEST_SEEDS:
        yield f"With {plural(len(seeds), 'seed')} every verdict is undetermined: it takes at least {FEWEST_SEEDS}."
    end = summary.endpoint
    if end is not None and end.cycles and summary.seeds and not end.per_seed:
        yield "No seed has every cycle of both chains: no primary endpoint."
    elif end is not None and end.cycles and summary.seeds and end.incomplete:
        names = ", ".join(map(str, end.incomplete))
        yield (
            f"The primary endpoint leaves out {plural(len(end.incomplete), 'seed')} ({names}) in which a chain has not "
            "reached every cycle; a chain that ended because it diverged is not in that mean."
        )


def _missing_rows(summary: Summary) -> Iterator[str]:
    status = summary.troubles["status"].value_counts()
    if diverged := int(status.get("diverged", 0)):
        yield f"{plural(diverged, 'row')} diverged: such a rate is outside; differences need an accuracy."
    if failed := int(status.get("failed", 0)):
        yield f"{plural(failed, 'row')} failed (retries used up); no number here has them."
    for (seeds, reached), arms in _short_chains(summary).items():
        where = f"after cycle {reached} of {summary.study.cycles - 1}" if reached >= 0 else "at any cycle"
        yield (
            f"{', '.join(arms)}: nothing {where} in seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))} "
            "(still under way, or ended early)."
        )


def _short_chains(summary: Summary) -> dict[tuple[tuple[int, ...], int], list[str]]:
    """Arms whose chains stop early, by the seeds that do and the cycle after which they stop."""
    short: dict[tuple[tuple[int, ...], int], list[str]] = {}
    for arm in summary.study.arms:
        seeds: dict[int, list[int]] = {}
        for seed in summary.seeds:
            seeds.setdefault(summary.reached.get((arm, seed), -1), []).append(seed)
        for reached, members in seeds.items():
            if reached < summary.study.cycles - 1:
                short.setdefault((tuple(members), reached), []).append(arm)
    return short


def _weak_tests(summary: Summary) -> Iterator[str]:
    if summary.n_val and summary.tolerance < 2 / summary.n_val:
        yield (
            f"The tolerance of {points(summary.tolerance, signed=False)} points is below 2 of {summary.n_val} "
            "validation images: a difference that small is not resolved."
        )
    edges = summary.cycles["unbounded_low"].fillna(False) | summary.cycles["unbounded_high"].fillna(False)
    if edge := int(edges.sum()):
        yield f"In {plural(edge, 'cycle')} the best rate is an edge of the Oracle's grid: no end is seen there."
    tested = summary.cycles[summary.cycles["verdict"] != "not tested"]
    if len(tested) and not tested["controls"].notna().any():
        yield "No control (a constant or linear peak) is tested: no cycle can be informative."
    elif len(tested) and not tested["informative"].any():
        yield "No cycle is informative: no control was outside, so being inside says nothing here."


# --- for a terminal ---


def summary_lines(summary: Summary) -> list[str]:
    """A plain-text table per cycle, then the headline sentences and what is missing."""
    header = (
        "cycle",
        "weights %",
        f"{summary.schedule} max_lr",
        "point interval",
        "decades",
        "verdict",
        "regret",
        "gap",
    )
    body = [
        (
            str(row["cycle"]),
            percent(row["weights_remaining"]),
            rate(row["max_lr"]),
            interval_text(row),
            width_text(row),
            f"{row['verdict']}{' *' if row['informative'] else ''}",
            points(row["cycle_regret_test"]),
            points(row["chain_gap"]),
        )
        for _, row in summary.cycles.iterrows()
    ]
    legend = "regret (cycle regret) and gap (chain gap) in points on test, means over seeds; * informative cycle"
    table = [*_aligned([header, *body]), legend] if body else []
    return [*table, *summary.headline, *(f"Note: {note}" for note in summary.notes)]


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
