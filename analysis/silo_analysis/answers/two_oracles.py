"""Do the greedy and the conditioned Oracle agree on the schedule?"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from silo_analysis.answers.answer import Answer, cycles_of, number
from silo_analysis.answers.text_tables import oracles_table
from silo_analysis.estimates.summary import Summary
from silo_tune.formats import cycle_list, plural

ID = "two-oracles"


def ask(summary: Summary) -> Iterator[Answer]:
    """Their verdicts and best rates side by side; nothing where the study has not both."""
    pair, table = summary.pair, summary.compared
    judged = table[table["same_verdict"].notna()]
    if pair is None or not len(judged):
        return
    agree = int(judged["same_verdict"].sum())
    apart = table["distance_decades"].dropna()
    idle = judged[judged["same_verdict"] & (judged["greedy_verdict"] == "undetermined")]
    told = f" ({len(idle)} of them undetermined in both)" if len(idle) else ""
    numbers = [number("cycles with one verdict", agree), number("cycles compared", len(judged))]
    if len(apart):
        numbers.append(number("decades between the best rates, median", apart.median()))
    yield Answer(
        ID,
        "Do the greedy and the conditioned Oracle agree?",
        f"Greedy ({pair.greedy}) and conditioned ({pair.conditioned}) agree on the verdict of {summary.schedule} in "
        f"{agree} of {plural(len(judged), 'cycle')}{told}{_disagreements(judged)}.",
        tuple(filter(None, (_distances(table).strip(), _same_weights(judged).strip()))),
        tuple(numbers),
        cycles_of(judged),
        "oracles",
        oracles_table(summary),
        table,
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
