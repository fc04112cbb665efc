"""Is the schedule inside the Oracle's interval, in how many informative cycles, how sure?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from silo_analysis.answers.answer import Answer, Number, absent, cycles_of, number, oracle_to_add, sentence, way_on
from silo_analysis.answers.cells import interval_text, width_text
from silo_analysis.answers.text_tables import Table
from silo_analysis.estimates.against import SIGNIFICANCE
from silo_analysis.estimates.containment import FEWEST_SEEDS, least_p_outside
from silo_analysis.estimates.oracle import describe
from silo_analysis.estimates.summary import Summary
from silo_tune.formats import DASH, cycle_list, difference, p_value, percent, plural, rate, seed_range

ID = "inside"
ROUNDING = 1.001  # of a rate


def ask(summary: Summary) -> Answer:
    """The verdicts of the Oracle that the summary judges by, with Holm's p values and the seeds that they lack."""
    title = f"Is {summary.schedule} inside the Oracle's interval, in how many informative cycles, how sure?"
    details = (*_containment(summary), *_sure(summary), *_lacking(summary))
    data = _data(summary)
    if not details:
        return Answer(ID, title, missing=_missing(summary), figure="max-lr", data=data)
    return Answer(
        ID, title, sentence(_verdict(data) + _reserves(summary, data)), details, tuple(_numbers(data)),
        cycles_of(_tested(data)), "max-lr", _table(data), data, _part_missing(summary, data),
    )  # fmt: skip


def _containment(summary: Summary) -> Iterator[str]:
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
        f"{_collapses(summary)}"
        f"Interval {_widths(tested)}. Oracle: {oracle}; tolerance {difference(summary.tolerance, signed=False)}."
    )


def _collapses(summary: Summary) -> str:
    """How often the schedule's own rate collapsed in the Oracle's trials, where it did."""
    own = summary.verdicts[
        (summary.verdicts["oracle"] == summary.verdict_oracle) & (summary.verdicts["arm"] == summary.schedule)
    ]
    lost, trained = int(own["collapsed"].sum()), int(own["n_seeds"].sum())
    if not lost:
        return f"Its rate collapsed in 0 of {trained} trainings. "
    worst = own.sort_values("collapsed", ascending=False).iloc[0]
    share = f"{percent(worst['collapsed_low'], 0)} to {percent(worst['collapsed_high'], 0)} %"
    return (
        f"Its rate collapsed in {lost} of {trained} trainings, most often in cycle {worst['cycle']} "
        f"({worst['collapsed']} of {worst['n_seeds']}, 95 % interval {share}). "
    )


def _widths(tested: pd.DataFrame) -> str:
    widths = tested["width_decades"].dropna()
    if not len(widths):
        return "widths are unknown"
    clipped = int(tested["clipped"].fillna(False).sum())
    span = f"{widths.min():.2f} to {widths.max():.2f} decades, median {widths.median():.2f}"
    text = f"widths {span}" if len(widths) > 1 else f"width {widths.min():.2f} decades"
    return f"{text}, {clipped} of them reaching the edge of the grid" if clipped else text


def _numbers(data: pd.DataFrame) -> Iterator[Number]:
    tested = _tested(data)
    yield number("cycles tested", len(tested))
    yield number("informative cycles", tested["informative"].sum())
    yield number("informative cycles inside", (tested["informative"] & (tested["verdict"] == "inside")).sum())
    yield number("informative cycles after Holm", tested["informative_holm"].sum())
    for verdict in ("inside", "outside", "undetermined"):
        yield number(f"cycles {verdict}", (tested["verdict"] == verdict).sum())
    for verdict in ("inside", "outside"):
        p = tested.loc[tested["verdict"] == verdict, f"p_{verdict}_holm"]
        yield number(f"cycles {verdict} after Holm", (p < SIGNIFICANCE).sum())


def _data(summary: Summary) -> pd.DataFrame:
    """One row per cycle of the judged schedule: `frames.CYCLES`, and the seeds that an undetermined verdict takes.

    `informative_holm`: a control is outside after Holm's correction over the cycles, too. `reachable`: one could be.
    """
    own = summary.verdicts[
        (summary.verdicts["oracle"] == summary.verdict_oracle) & (summary.verdicts["arm"] == summary.schedule)
    ]
    data = summary.cycles.merge(own[["cycle", "needed_low", "needed_high"]], on="cycle", how="left")
    controls = summary.verdicts[
        (summary.verdicts["oracle"] == summary.verdict_oracle)
        & summary.verdicts["control"]
        & (summary.verdicts["verdict"] == "outside")
        & (summary.verdicts["p_outside_holm"] < SIGNIFICANCE)
    ]
    return data.assign(
        informative_holm=data["informative"] & data["cycle"].isin(controls["cycle"]),
        reachable=_reachable(own, data, summary),
    )


def _reachable(own: pd.DataFrame, data: pd.DataFrame, summary: Summary) -> list[bool]:
    """Would a control be outside after Holm's correction, did all seeds agree?"""
    rates = _asked(summary).groupby("cycle").size().to_dict()
    seeds = own.set_index("cycle")["n_seeds"].to_dict()
    least = [least_p_outside(int(seeds.get(cycle, 0)), rates.get(cycle, 1)) for cycle in data["cycle"]]
    return [p * len(_tested(data)) < SIGNIFICANCE for p in least]


def _asked(summary: Summary) -> pd.DataFrame:
    """The curves of the Oracle's own rates."""
    return summary.curves[(summary.curves["oracle"] == summary.verdict_oracle) & summary.curves["asked"]]


def _tested(data: pd.DataFrame) -> pd.DataFrame:
    return data[data["verdict"] != "not tested"]


def _sure(summary: Summary) -> Iterator[str]:
    tested = _tested(_data(summary))
    parts = []
    for verdict in ("inside", "outside"):
        p = tested.loc[tested["verdict"] == verdict, f"p_{verdict}_holm"].dropna()
        if len(p):
            stand = int((p < SIGNIFICANCE).sum())
            parts.append(f"{stand} of {len(p)} {verdict} (p {_from_to(p)})")
    if parts:
        yield f"Still significant after Holm correction over the cycles: {'; '.join(parts)}."


def _from_to(p: pd.Series[float]) -> str:
    low, high = p_value(p.min()), p_value(p.max())
    return low if low == high else f"{low} to {high}"


def _lacking(summary: Summary) -> Iterator[str]:
    tested = _tested(_data(summary))
    open_ = tested[tested["verdict"] == "undetermined"]
    if not len(open_):
        return
    known = open_.dropna(subset=["needed_low"])
    if not len(known):
        yield f"Undetermined in {cycle_list(open_['cycle'])}; these seeds do not tell how many more are needed."
        return
    each = "; ".join(f"cycle {row['cycle']}: {_seeds(row)}" for row in known.to_dict("records"))
    yield (
        f"Undetermined in {cycle_list(open_['cycle'])}. Seeds needed in all (for a power of 80 % against the best "
        f"rival, at today's differences): {each}."
    )


def _seeds(row: Any) -> str:
    return seed_range(row["needed_low"], row["needed_high"])


def _verdict(data: pd.DataFrame) -> str:
    tested = _tested(data)
    informative = tested[tested["informative"]]
    inside, open_ = (int((tested["verdict"] == name).sum()) for name in ("inside", "undetermined"))
    if not len(informative):
        held = (
            f"inside in {inside} ({_stand(tested, tested['verdict'] == 'inside')} after Holm)"
            if inside
            else "inside in 0"
        )
        held += f" and undetermined in {open_}"
        return f"no informative cycle; {held} of {len(tested)} tested"
    own = int((informative["verdict"] == "inside").sum())
    return (
        f"inside in {own} of {plural(len(informative), 'informative cycle')} ({_after_holm(informative)}), "
        f"undetermined in {open_} of {len(tested)} tested"
    )


def _reserves(summary: Summary, data: pd.DataFrame) -> str:
    """What a reader of the counts alone would miss: seeds that are gone, and rates that no grid surrounds."""
    ended = [seed for seed in summary.seeds if (summary.verdict_oracle, seed) in summary.ended]
    beyond = _beyond_grid(summary, _tested(data))
    said = f"; judged without {len(ended)} of {plural(len(summary.seeds), 'seed')} once their chains ended early"
    return (said if ended else "") + (
        f"; in {cycle_list(beyond)} its rate lies beyond the Oracle's grid, which says nothing of the rates around it"
        if beyond
        else ""
    )


def _beyond_grid(summary: Summary, tested: pd.DataFrame) -> list[int]:
    """Cycles whose own rate lies outside of all that the Oracle's grid asks."""
    ends = _asked(summary).groupby("cycle")["max_lr"].agg(["min", "max"])
    own = tested.set_index("cycle")["max_lr"].dropna()
    ends = ends.reindex(own.index)
    outside = (own < ends["min"] / ROUNDING) | (own > ends["max"] * ROUNDING)
    return [int(cycle) for cycle in own.index[outside.fillna(False)]]


def _stand(cycles: pd.DataFrame, which: pd.Series[bool]) -> int:
    """How many of these are inside once p values are corrected over the cycles."""
    return int((cycles.loc[which, "p_inside_holm"] < SIGNIFICANCE).sum())


def _after_holm(informative: pd.DataFrame) -> str:
    """How many are inside, and how many informative, once both are corrected over the cycles: "3 of 4 after Holm"."""
    remain = informative[informative["informative_holm"]]
    own = _stand(remain, remain["verdict"] == "inside")
    if len(remain):
        return f"{own} of {len(remain)} after Holm"
    return "none informative after Holm" if informative["reachable"].any() else "so few seeds show none after Holm"


def _table(data: pd.DataFrame) -> Table:
    head = (
        "Cycle", "Weights, %", "max_lr", "Point interval", "Decades", "Verdict", "Holm p", "Informative",
        "Seeds needed",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = [
        (
            str(row["cycle"]),
            percent(row["weights_remaining"]),
            rate(row["max_lr"]),
            interval_text(row),
            width_text(row),
            row["verdict"],
            p_value(row.get(f"p_{row['verdict']}_holm")),
            "yes" if row["informative"] else "no",
            DASH if pd.isna(row["needed_low"]) else _seeds(row).removesuffix(" seeds"),
        )
        for row in data.to_dict("records")
    ]
    return Table(head, rows, frozenset({"Verdict", "Informative"}))


# --- what is missing ---


def _missing(summary: Summary) -> str:
    if (why := absent(summary)) is not None:
        return why
    name, oracle = summary.schedule, summary.verdict_oracle
    if oracle is None:
        return f"The study has no Oracle, greedy or conditioned on {name}. {oracle_to_add(name)}"
    if name not in summary.study.tests_of(oracle):
        return f"{oracle} does not try the value of {name}: add {name} to its tests."
    return f"{oracle} has closed no cycle of {name} yet: {way_on(summary)}."


def _part_missing(summary: Summary, data: pd.DataFrame) -> str | None:
    tested = _tested(data)
    seeds = len(summary.study.replicates.seeds)
    if seeds < FEWEST_SEEDS:
        return f"A verdict takes {FEWEST_SEEDS} seeds, the study has {seeds}: add seeds to [replicates]."
    if not tested["controls"].notna().any():
        return (
            "No control is tested, so no cycle can be informative: add a constant or linear peak with the Oracle's own "
            'profile, for example { preset = "constant-high" }.'
        )
    if not tested["informative"].any():
        open_ = tested["controls"].str.contains("undetermined", na=False).any()
        return (
            f"No control is outside in any cycle, so being inside says nothing here: {'more seeds, ' if open_ else ''}"
            "a longer chain, or curves whose rates lie further apart, may tell."
        )
    return None
