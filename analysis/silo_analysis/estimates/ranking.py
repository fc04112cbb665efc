"""All arms that have chains, ranked by test accuracy, each with what its place is worth.

The score of an arm is its mean test score over cycles ≥ 2, one number per seed, over the seeds that are complete in
every compared arm. A rank alone says nothing about noise, so each comes with a *rank interval*: the ranks that
simultaneous pairwise paired tests (`typical`) leave open. With a probability of at least 95 % no arm is called better
that is not, so that all intervals hold the true ranks at once. Ranks are read off pairwise tests as by Al Mohamad,
Goeman and van Zwet ("Simultaneous confidence intervals for ranks with application to ranking institutions", Biometrics
2022, with Tukey's test) and by Mogstad, Romano, Shaikh and Wilhelm ("Inference for ranks", Review of Economic Studies
2024, with the bootstrap). The tests and Holm's correction are ours: arms of one seed share its noise and need not be
equally noisy, and a bootstrap needs more seeds than a study has.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd

from silo_analysis.estimates.frames import RANKING, typed
from silo_analysis.estimates.oracle import collapsed_rows, numbers, prefix_of
from silo_analysis.estimates.regret import FIRST_ENDPOINT_CYCLE
from silo_analysis.estimates.stats import ROUNDING, FloatArray, holm
from silo_analysis.estimates.typical import p_above, paired_interval
from silo_tune.planner.winner import gain
from silo_tune.study.arms import OracleArm, ScheduleArm
from silo_tune.study.model import Study

LEVEL = 0.95
# On 360 images two arms differ by the same count in both of two seeds in 4 of 100 cases, by chance: no spread, and a p
# of 0. In three seeds it is 3 of 1000, which a correction for several arms bears.
FEWEST_TOLD_APART = 3


def ranked_arms(study: Study) -> dict[str, Literal["schedule", "oracle"]]:
    """Arms with chains of their own, in study order: schedules and greedy Oracles."""
    kinds: dict[str, Literal["schedule", "oracle"]] = {}
    for name, arm in study.arms.items():
        if isinstance(arm, ScheduleArm):
            kinds[name] = "schedule"
        elif isinstance(arm, OracleArm) and prefix_of(study, name) is None:
            kinds[name] = "oracle"
    return kinds


def rank_arms(chains: pd.DataFrame, study: Study) -> pd.DataFrame:
    """The ranking of a study's arms (`columns.RANKING`), the best first.

    An arm is compared when it is complete in at least half as many seeds as the most complete arm (ours): one chain
    that ended early costs a seed, and an arm that hardly ever ends does not cost the comparison. Arms that are left out
    are the last rows, without a rank. Without a cycle ≥ 2 the table is empty.

    Args:
        chains: from `regret.chain_rows`.
        study: the study; its judged schedule is what the others are compared with.
    """
    kinds = ranked_arms(study)
    scores = {arm: chain_scores(chains[chains["arm"] == arm], study.cycles) for arm in kinds}
    scores = {arm: found for arm, found in scores.items() if (chains["arm"] == arm).any()}
    if study.cycles <= FIRST_ENDPOINT_CYCLE or not scores:
        return typed([], RANKING)
    most = max(len(found) for found in scores.values())
    compared = [arm for arm, found in scores.items() if most and 2 * len(found) >= most]
    seeds = sorted(set.intersection(*(set(scores[arm]) for arm in compared))) if compared else []
    matrix = np.array([[scores[arm][seed] for arm in compared] for seed in seeds]).reshape(len(seeds), len(compared))
    same, trained = _same_units(chains, compared, seeds), _trained(chains, scores)
    found = _compared(matrix, compared, same, study.scored.sign)
    rows: list[dict[str, Any]] = [
        {"arm": arm, "kind": kinds[arm], "judged": arm == study.report.schedule, "n_seeds": len(seeds),
         "own_seeds": len(own), "trained": trained.get(arm, 0), "same_as": ",".join(same[arm]) if arm in same else None,
         **found.get(arm, {"n_seeds": 0})}
        for arm, own in scores.items()
    ]  # fmt: skip
    rows.sort(key=lambda row: row.get("rank", math.inf))
    return typed(rows, RANKING)


def chain_scores(rows: pd.DataFrame, cycles: int) -> dict[int, float]:
    """Seed → mean test score over cycles ≥ 2 of one arm, for each seed that has them all.

    Args:
        rows: the arm's, from `regret.chain_rows`.
        cycles: number of cycles of the study, the dense one included.
    """
    late = rows[(rows["cycle"] >= FIRST_ENDPOINT_CYCLE) & (rows["cycle"] < cycles)].sort_values("cycle")
    found = {int(str(seed)): numbers(own, "test_score") for seed, own in late.groupby("seed")}
    due = cycles - FIRST_ENDPOINT_CYCLE
    return {seed: float(each.mean()) for seed, each in found.items() if len(each) == due and np.isfinite(each).all()}


def _trained(chains: pd.DataFrame, scores: Mapping[str, Mapping[int, float]]) -> dict[str, int]:
    """Arm → complete seeds in which none of its trainings collapsed."""
    late = chains[(chains["cycle"] >= FIRST_ENDPOINT_CYCLE) & chains["test_score"].notna()]
    lost = late.assign(lost=collapsed_rows(late)).groupby(["arm", "seed"])["lost"].any()
    return {arm: sum(not lost.get((arm, seed), True) for seed in own) for arm, own in scores.items()}


def _compared(
    scores: FloatArray, arms: list[str], same: Mapping[str, list[str]], sign: int
) -> dict[str, dict[str, Any]]:
    """Arm → the cells of its place, with its scores as they are; `scores` is (seeds, arms) of gains."""
    if not len(scores):
        return {}
    means = scores.mean(axis=0)
    twins = {(arms.index(arm), arms.index(other)) for arm, others in same.items() for other in others}
    best, worst = rank_intervals(scores, twins)
    found: dict[str, dict[str, Any]] = {}
    for i, arm in enumerate(arms):
        own = paired_interval(gain(scores[:, i], sign))
        found[arm] = {
            "rank": 1 + int((means > means[i] + ROUNDING).sum()),
            "rank_best": best[i],
            "rank_worst": worst[i],
        }
        found[arm] |= {"mean": own.mean, "median": own.median, "low": own.low, "high": own.high}
    return found


def rank_intervals(
    scores: FloatArray, twins: Collection[tuple[int, int]] = (), level: float = LEVEL
) -> tuple[list[int], list[int]]:
    """The best and the worst rank that each arm may have, all at once at `level`; 1 is the highest mean.

    One-sided paired tests of "i is better than j" over all ordered pairs, Holm-adjusted. Best: 1 + the number of arms
    that are better; worst: the number of arms − the number that are worse. Arms whose true means are equal share the
    ranks that they take up. Below three seeds nothing is told apart.

    Args:
        scores: (S, A) one number per seed and arm, all finite.
        twins: pairs of arms that trained the same units: there is nothing to test.
        level: confidence that every interval holds its arm's true rank.
    """
    arms = range(scores.shape[1])
    pairs = [(i, j) for i in arms for j in arms if i != j and (i, j) not in twins]
    told = len(scores) >= FEWEST_TOLD_APART
    adjusted = holm([p_above(scores[:, i] - scores[:, j], 0.0) if told else 1.0 for i, j in pairs])
    better = {pair for pair, p in zip(pairs, adjusted, strict=True) if p < 1 - level}
    best = [1 + sum((j, i) in better for j in arms) for i in arms]
    worst = [len(arms) - sum((i, j) in better for j in arms) for i in arms]
    return best, worst


def _same_units(chains: pd.DataFrame, arms: list[str], seeds: list[int]) -> dict[str, list[str]]:
    """Arm → the other arms that come to the same units at every cycle of these seeds."""
    own = chains[chains["seed"].isin(seeds) & chains["key"].notna()].sort_values(["seed", "cycle"])
    units = {arm: tuple(own.loc[own["arm"] == arm, "key"]) for arm in arms}
    twins = {
        arm: [other for other in arms if other != arm and units[other] == units[arm]] for arm in arms if units[arm]
    }
    return {arm: others for arm, others in twins.items() if others}
