"""Sentences on what a comparison of arms may rest on: equal budgets, and seeds that all have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from silo_tune.formats import plural

if TYPE_CHECKING:
    from silo_analysis.estimates.summary import Summary


def equal_budgets(summary: Summary) -> Iterator[str]:
    """All schedule arms trained equally long; nothing where one did not, or where there is one arm alone."""
    table = summary.budgets
    if len(table) > 1 and table["matched"].notna().all() and table["matched"].all():
        yield f"Equal budgets: all {len(table)} schedule arms trained the same number of steps per cycle."


def unequal_budgets(summary: Summary) -> Iterator[str]:
    """Arms that trained longer or shorter than the judged schedule, by their share of its steps."""
    table = summary.budgets
    for ratio, rows in table[~table["matched"].fillna(True)].groupby(table["ratio"].round(2), sort=True):
        share = float(str(ratio))
        if share == 1:
            told = f"about as many steps as {summary.schedule}, but not the same in every cycle"
        else:
            told = f"{share:.2f} times the steps of {summary.schedule} per cycle"
        yield f"{', '.join(rows['arm'])} trained {told}: not a matched budget."


def partial_ranking(summary: Summary) -> Iterator[str]:
    """Seeds and arms that the ranking lacks."""
    table, seeds = summary.ranking, summary.seeds
    ranked = table[table["rank"].notna()]
    if not len(table) or not seeds:
        return
    if not len(ranked):
        yield "No seed has every cycle of the arms that are to be compared: no ranking."
        return
    n = int(ranked["n_seeds"].max())
    if n < len(seeds):
        short = ", ".join(ranked.loc[ranked["own_seeds"] < len(seeds), "arm"])
        yield f"The ranking is over {n} of {plural(len(seeds), 'seed')}: {short} did not end every cycle in the others."
    if left := ", ".join(table.loc[table["rank"].isna(), "arm"]):
        yield f"The ranking leaves out {left}, which ended every cycle in too few seeds."
