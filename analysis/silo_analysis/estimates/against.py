"""The judged schedule against every other schedule arm, between chains: paired differences on test.

A difference is the typical one, the median over seeds (`typical`); a chain that collapsed counts as guessing.

Sign: difference = judged schedule − other arm, so *above 0 the judged schedule is better*. (The chain gap of `regret`
is the Oracle's arm − the schedule: there, above 0 the Oracle is better.) Accuracies are in [0, 1]; 0.01 is one point.

Two families of tests, each corrected by Holm (1979) by itself: the overall differences, one per arm, and the
differences per arm and cycle. Equivalence is a TOST (Schuirmann 1987) at the tolerance, corrected over the same family.
Where two arms trained the same units they are *identical*: there is nothing to test, and no family counts it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from silo_analysis.estimates.examples import ChainScores, both_ends
from silo_analysis.estimates.frames import AGAINST, typed
from silo_analysis.estimates.oracle import numbers, rivals
from silo_analysis.estimates.ranking import FEWEST_TOLD_APART
from silo_analysis.estimates.regret import FIRST_ENDPOINT_CYCLE
from silo_analysis.estimates.stats import FloatArray, holm
from silo_analysis.estimates.typical import beyond, paired_interval, seeds_needed, tost, two_sided_p
from silo_tune.study.model import Study

SIGNIFICANCE = 0.05


def others(study: Study) -> list[str]:
    """Schedule arms beside the judged one that train once a cycle, in study order; none when there is no judged one."""
    judged = study.report.schedule
    if judged not in study.arms:
        return []
    return [name for name in rivals(study) if name != judged]


def against_table(chains: pd.DataFrame, study: Study, scores: ChainScores | None = None) -> pd.DataFrame:
    """Per other schedule arm: the overall difference (`cycle` null), and that of every cycle ≥ 1 (`columns.AGAINST`).

    The overall difference is per seed the mean over all cycles ≥ 2, then the median over seeds; a seed in which a cycle
    of either chain is missing (under way, or failed) is left out, and counted in `left_out`. Below three seeds there is
    no p value (`ranking.FEWEST_TOLD_APART`).

    Args:
        chains: from `regret.chain_rows`.
        study: says which arms and cycles.
        scores: of the same chains, for the interval over seeds and test images; None leaves it out.
    """
    judged = study.report.schedule
    found = differences(chains, judged, others(study))
    same = same_units(chains, judged, list(found))
    overall = [row for arm, table in found.items() for row in _overall(arm, table, same[arm], study, scores)]
    per_cycle = [row for arm, table in found.items() for row in _per_cycle(arm, table, same[arm], study)]
    return typed([*corrected(overall), *corrected(per_cycle)], AGAINST)


def same_units(chains: pd.DataFrame, judged: str, arms: list[str]) -> dict[str, pd.DataFrame]:
    """Arm → (seeds, cycles) True where its chain has the unit that the judged one has, from cycle 1 on."""
    late = chains[(chains["cycle"] >= 1) & chains["arm"].isin([judged, *arms])]
    plain = pd.DataFrame(
        {"arm": late["arm"].astype(object), "seed": numbers(late, "seed").astype(int),
         "cycle": numbers(late, "cycle").astype(int), "key": late["key"].astype(object)}
    )  # fmt: skip
    of = {str(arm): rows.pivot(index="seed", columns="cycle", values="key") for arm, rows in plain.groupby("arm")}
    empty = pd.DataFrame()
    return {arm: same_keys(of.get(judged, empty), of.get(arm, empty)) for arm in arms}


def same_keys(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Where two tables of keys, seeds by cycles in their order, have the same unit: no seed can tell the two apart.

    A chain that diverged has its last unit from there on. False where either has none.
    """
    left, right = one.ffill(axis=1), other.ffill(axis=1)
    return left.eq(right.reindex_like(left)) & left.notna()


def all_same(same: pd.DataFrame, seeds: Any, cycles: list[Any]) -> bool:
    """Did both train the same units in all these seeds and cycles (rows and columns of `same_keys`)?"""
    return len(seeds) > 0 and bool(same.reindex(index=seeds, columns=cycles, fill_value=False).to_numpy().all())


def differences(chains: pd.DataFrame, judged: str, arms: list[str]) -> dict[str, pd.DataFrame]:
    """Arm → (seeds, cycles) test accuracy of the judged arm − the arm's, from cycle 1 on; NaN where either is missing.

    Args:
        chains: from `regret.chain_rows`.
        judged: whose differences they are.
        arms: the others.
    """
    late = chains[(chains["cycle"] >= 1) & chains["arm"].isin([judged, *arms])]
    plain = pd.DataFrame(
        {"arm": late["arm"].astype(object), "seed": numbers(late, "seed").astype(int),
         "cycle": numbers(late, "cycle").astype(int), "accuracy": numbers(late, "test_score")}
    )  # fmt: skip
    of = {str(arm): rows.pivot(index="seed", columns="cycle", values="accuracy") for arm, rows in plain.groupby("arm")}
    empty = pd.DataFrame()
    return {arm: of.get(judged, empty) - of.get(arm, empty) for arm in arms}


def _overall(
    arm: str, table: pd.DataFrame, same: pd.DataFrame, study: Study, scores: ChainScores | None
) -> Iterator[dict[str, Any]]:
    wanted = list(range(FIRST_ENDPOINT_CYCLE, study.cycles))
    if wanted:
        complete = table.reindex(columns=wanted).dropna()
        values = complete.mean(axis=1).to_numpy(dtype=float)
        seeds = [int(seed) for seed in complete.index]
        images = None if scores is None else scores.differences(study.report.schedule, arm, seeds, wanted)
        twins = all_same(same, complete.index, wanted)
        yield {"arm": arm} | _found(values, study, twins) | both_ends(paired_interval(values), images)


def _per_cycle(arm: str, table: pd.DataFrame, same: pd.DataFrame, study: Study) -> Iterator[dict[str, Any]]:
    for cycle in range(1, study.cycles):
        known = table.get(cycle, pd.Series(dtype=float)).dropna()
        found = {"arm": arm, "cycle": cycle, "weights_remaining": study.remaining[cycle]}
        yield found | _found(known.to_numpy(dtype=float), study, all_same(same, known.index, [cycle]))


def _found(values: FloatArray, study: Study, twins: bool) -> dict[str, Any]:
    found = estimated(values, study.report.tolerance, twins)
    return found | {"left_out": len(study.replicates.seeds) - found["n_seeds"]}


def estimated(values: FloatArray, tolerance: float, twins: bool) -> dict[str, Any]:
    """What paired differences, one a seed, say before a correction: cells of `AGAINST`, `_needed` and `_twins`.

    Of twins, which trained the same units, there is no test.
    """
    estimate = paired_interval(values)
    within = paired_interval(values, 0.9)  # both one-sided tests at 5 % (TOST)
    enough = estimate.n >= FEWEST_TOLD_APART and not twins
    return {
        "difference": estimate.median,
        "mean": estimate.mean,
        "spread": estimate.spread,
        "low": estimate.low,
        "high": estimate.high,
        "p": two_sided_p(values) if enough else None,
        "p_equivalent": tost(values, tolerance).p if enough else None,
        "n_seeds": estimate.n,
        "within_low": within.low,
        "within_high": within.high,
        "_twins": twins,
        "_needed": _needed(values, tolerance),
    }


def _needed(values: FloatArray, tolerance: float) -> dict[str, int]:
    """Seeds in all at which in 80 % of studies the interval leaves 0, or lies within the tolerance: the fewer of both.

    At the differences seen and without a correction over arms: a least number.
    """
    estimate = paired_interval(values)
    if estimate.median is None:
        return {}
    size = abs(estimate.median)
    asks = ((size, 0.975, 1), (tolerance - size, 0.95, 2))
    found = [each for ask in asks if (each := seeds_needed(values, *ask)) is not None]
    return {} if not found else dict(zip(("needed_low", "needed_high"), beyond(estimate.n, min(found)), strict=True))


def corrected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one family with Holm's p values and what they say together."""
    tested = [row for row in rows if row["p"] is not None]
    for name in ("p", "p_equivalent"):
        for row, p in zip(tested, holm([row[name] for row in tested]), strict=True):
            row[f"{name}_holm"] = p
    said = [row | {"outcome": _outcome(row)} for row in rows]
    return [
        {name: cell for name, cell in row.items() if not name.startswith("_")}
        | (row["_needed"] if row["outcome"] == "undetermined" else {})
        for row in said
    ]


def _outcome(row: dict[str, Any]) -> str | None:
    """better | worse | equivalent | identical | undetermined, of the judged schedule; None with nothing to compare."""
    if row["difference"] is None:
        return None
    if row["_twins"]:
        return "identical"
    return outcome(row["difference"], row.get("p_holm"), row.get("p_equivalent_holm"))


def outcome(difference: float, p: float | None, p_equivalent: float | None) -> str:
    """What corrected p values say of a difference: a shown difference before equivalence, which it does not exclude."""
    if p is not None and p < SIGNIFICANCE:
        return "better" if difference > 0 else "worse"
    return "equivalent" if p_equivalent is not None and p_equivalent < SIGNIFICANCE else "undetermined"
