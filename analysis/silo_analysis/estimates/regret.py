"""What a schedule loses against an Oracle: within one cycle (regret), and along whole chains (gap).

*Cycle regret* compares two candidates of the same Oracle at the same cycle, from the same parent. *Chain gap* compares
the Oracle arm's continuation with the schedule arm's own unit, from different parents. The two are never mixed. The
rate is chosen on validation and measured on test as well; positive means that the Oracle is better, and negative values
stay as they are. All values are gains: signed so that more is better (of accuracies 0.01 is one point).

What each estimates: regret on *validation*, where the best was chosen, is too large (the winner's curse; Cawley and
Talbot 2010, "On over-fitting in model selection"). Regret on *test* is without bias for what the Oracle gains by
keeping the trained network that it chose. That includes the luck of one training, which validation and test share, so
it is above 0 even where all rates are equal. *Cross-fitted* regret has no such luck: it is without bias for what the
rate that the other seeds choose gains in a new seed. That is at most the regret against the truly best rate.
`tests/analysis/test_simulated.py` checks all three. How much of a chain gap is luck: `luck`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from silo_analysis.estimates.examples import ChainScores, both_ends
from silo_analysis.estimates.frames import GAPS
from silo_analysis.estimates.oracle import OracleCycle, counted, flags
from silo_analysis.estimates.stats import Equivalence, Estimate, FloatArray
from silo_analysis.estimates.typical import paired_interval, seeds_needed, tost
from silo_tune.planner.winner import rank

FIRST_ENDPOINT_CYCLE = 2


def cycle_regret(cycle: OracleCycle, arm: str) -> list[dict[str, Any]]:
    """Per seed: the best asked candidate on validation minus the schedule's own (`columns.REGRET`).

    The best follows the Oracle's winner rule among asked rates: best validation score, then lower validation
    loss, then smaller max_lr. Where every one collapsed the best is a guess, the smallest rate's. A seed without either
    is left out.
    """
    own = _own_column(cycle, arm)
    if own is None:
        return []
    rows = []
    for s, seed in enumerate(cycle.seeds):
        best = best_asked(cycle, s)
        lost = np.flatnonzero(cycle.asked & cycle.collapsed[s])
        if best is None and len(lost):
            best = int(lost[0])
        if best is not None and np.isfinite(cycle.val[s, own]):
            rows.append(_difference(cycle, s, best, own) | {"seed": seed, "best_max_lr": float(cycle.rates[best])})
    return rows


def best_asked(cycle: OracleCycle, s: int) -> int | None:
    """Column of the asked candidate that wins in the s-th seed, or None when none may win."""
    eligible = np.flatnonzero(cycle.asked & cycle.ok[s] & np.isfinite(cycle.val[s]))
    if len(eligible) == 0:
        return None
    found = {
        int(i): {"val_score": cycle.val[s, i], "val_loss": cycle.val_loss[s, i], "max_lr": cycle.rates[i]}
        for i in eligible
    }
    return min(found, key=lambda i: rank(found[i]))


def crossfit_regret(cycle: OracleCycle, arm: str) -> list[dict[str, Any]]:
    """Per held-out seed: the rate with the best mean validation score in the other seeds, measured in this one.

    Leave one seed out (`columns.CROSSFIT`); needs two seeds. A rate that is missing in one of the others is not chosen.
    An estimate, not a verdict.
    """
    own = _own_column(cycle, arm)
    if own is None or len(cycle.seeds) < 2:
        return []
    rows = []
    for s, seed in enumerate(cycle.seeds):
        chosen = _best_mean(cycle, np.arange(len(cycle.seeds)) != s)
        if chosen is not None and np.isfinite(cycle.val[s, [chosen, own]]).all():
            rows.append(
                _difference(cycle, s, chosen, own) | {"seed": seed, "chosen_max_lr": float(cycle.rates[chosen])}
            )
    return rows


def _best_mean(cycle: OracleCycle, others: FloatArray) -> int | None:
    usable = cycle.asked & np.isfinite(cycle.val[others]).all(axis=0)
    if not usable.any():
        return None
    columns = np.flatnonzero(usable)
    return int(columns[cycle.val[np.ix_(others, columns)].mean(axis=0).argmax()])


def _own_column(cycle: OracleCycle, arm: str) -> int | None:
    return cycle.column(cycle.tested[arm]) if arm in cycle.tested else None


def _difference(cycle: OracleCycle, s: int, better: int, own: int) -> dict[str, Any]:
    return {
        "oracle": cycle.oracle,
        "cycle": cycle.cycle,
        "max_lr": float(cycle.rates[own]),
        "regret_val": float(cycle.val[s, better] - cycle.val[s, own]),
        "regret_test": float(cycle.test[s, better] - cycle.test[s, own]),
    }


# --- chains ---


def chain_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The row that each chain continues with, one per (arm, seed, cycle).

    That is the continued row, else the winner; a schedule's only candidate stands even where it diverged. A training
    that collapsed counts as guessing (`oracle.counted`), and a chain that diverged has guessed from there on: later
    cycles that other chains have are added as rows of status "diverged" without a key.
    """
    rank = np.where(flags(frame, "continued"), 0, np.where(flags(frame, "winner"), 1, 2))
    stands = (rank < 2) | (frame["mode"] == "schedule").to_numpy(dtype=bool, na_value=False)
    ordered = frame.assign(_rank=rank)[stands].sort_values(["_rank", "candidate"], kind="stable")
    chosen = ordered.drop_duplicates(["arm", "seed", "cycle"]).drop(columns="_rank").sort_index()
    return counted(pd.concat([chosen, _guessed(frame, chosen)], ignore_index=True))


# What a row keeps that was lost with an earlier one: whose it is, and what is known of guessing.
_KEPT = (
    "arm", "mode", "seed", "classes", "n_val", "n_test", "status", "score", "guess_score", "guess_loss",
)  # fmt: skip


def _guessed(frame: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """Rows for the cycles that chains lack because in an earlier one all candidates, or what continues, diverged."""
    cycles = sorted(frame["cycle"].dropna().unique())
    blank = [str(name) for name in frame if name not in _KEPT]
    have = set(zip(chosen["arm"], chosen["seed"], chosen["cycle"], strict=True))
    rows = []
    for (arm, seed), own in frame.groupby(["arm", "seed"], sort=False):
        last = own[own["cycle"] == own["cycle"].max()]
        lost = last[last["status"] == "diverged"]
        if len(lost) == len(last) or flags(lost, "continued").any():
            empty = lost.iloc[:1].assign(**dict.fromkeys(blank, pd.NA))
            rows += [empty.assign(cycle=c) for c in cycles if c >= last["cycle"].iloc[0] and (arm, seed, c) not in have]
    return pd.concat(rows).astype(chosen.dtypes) if rows else chosen.iloc[:0]


def chain_gaps(chains: pd.DataFrame, oracle: str, schedule: str, first_cycle: int = 1) -> pd.DataFrame:
    """Per seed and cycle: the Oracle arm's continuation minus the schedule arm's row (`columns.GAPS`).

    Args:
        chains: from `chain_rows`.
        oracle, schedule: names of arms; only seeds and cycles present in both are paired.
        first_cycle: earlier cycles are shared by both arms and left out.
    """
    keep = ["seed", "cycle", "val_score", "test_score"]
    late = chains[chains["cycle"] >= first_cycle]
    left, right = (late.loc[late["arm"] == arm, keep] for arm in (oracle, schedule))
    both = left.merge(right, on=["seed", "cycle"], suffixes=("_oracle", "_schedule"))
    both = both.assign(
        oracle=oracle,
        schedule=schedule,
        gap_val=(both["val_score_oracle"] - both["val_score_schedule"]).astype("Float64"),
        gap_test=(both["test_score_oracle"] - both["test_score_schedule"]).astype("Float64"),
    )
    return both[list(GAPS)].dropna(subset=["gap_test"]).sort_values(["cycle", "seed"], ignore_index=True)


@dataclass(frozen=True)
class Endpoint:
    """The primary endpoint: per seed the mean over cycles ≥ 2 of the chain gap on test.

    Attributes:
        oracle, schedule: the arms.
        cycles: the cycles that each seed's mean is over.
        per_seed: seed → mean gap.
        incomplete: seeds left out because a cycle of either chain is missing or has no score.
        estimate: over seeds, a chain that collapsed counting as guessing.
        equivalence: TOST at the tolerance.
        needed: range of seeds, in all, that in 80 % of studies would resolve the tolerance if there were no gap; None
            below two seeds.
        low_examples, high_examples: the interval of the estimate for new seeds and new test images; None where it is
            not known which images each trial got right.
    """

    oracle: str
    schedule: str
    cycles: tuple[int, ...]
    per_seed: dict[int, float]
    incomplete: tuple[int, ...]
    estimate: Estimate
    equivalence: Equivalence
    needed: tuple[int, int] | None
    low_examples: float | None = None
    high_examples: float | None = None


def primary_endpoint(
    gaps: pd.DataFrame,
    oracle: str,
    schedule: str,
    cycles: int,
    seeds: Sequence[int],
    tolerance: float,
    scores: ChainScores | None = None,
) -> Endpoint:
    """The primary endpoint of a study.

    Args:
        gaps: from `chain_gaps` of the greedy Oracle.
        oracle, schedule: the arms.
        cycles: number of cycles of the study, the dense one included.
        seeds: replicates of the study.
        tolerance: difference of scores.
        scores: of the same chains, for the interval over seeds and test images; None leaves it out.
    """
    wanted = tuple(range(FIRST_ENDPOINT_CYCLE, cycles))
    late = gaps[gaps["cycle"].isin(wanted)]
    grouped = {int(str(seed)): rows["gap_test"].to_numpy(dtype=float) for seed, rows in late.groupby("seed")}
    per_seed = {
        seed: float(grouped[seed].mean()) for seed in seeds if wanted and len(grouped.get(seed, ())) == len(wanted)
    }
    values = list(per_seed.values())
    estimate = paired_interval(values)
    images = None if scores is None else scores.differences(oracle, schedule, list(per_seed), wanted)
    return Endpoint(
        oracle=oracle,
        schedule=schedule,
        cycles=wanted,
        per_seed=per_seed,
        incomplete=tuple(seed for seed in seeds if seed not in per_seed),
        estimate=estimate,
        equivalence=tost(values, tolerance),
        needed=seeds_needed(values, tolerance, sides=2),
        **both_ends(estimate, images),
    )
