"""The verdict: does a schedule's max_lr do as well as every other rate of an Oracle, to within the tolerance?

It is judged on validation scores, against the asked rates of one Oracle at one cycle (same parent, same rates in every
seed), by the *typical gain* of each rate over the schedule: the median over seeds of score(rate) − score(schedule). A
training that collapsed counts, as the score of guessing; how often the schedule's own rate and its rivals collapsed is
told beside the verdict.

*Inside*: for every other rate the typical gain is shown to be below the tolerance (`typical.p_below` at 5 %; an
intersection-union test, so that no correction over rates is due: Berger 1982, "Multiparameter hypothesis testing and
acceptance sampling"). *Outside*: for some rate it is shown to be above (`p_outside`). Otherwise *undetermined*, as is
everything below five seeds. Each is wrong in at most 5 % of cycles: docs/concepts/error-rates.md has the simulation.
The rule, its names and the five seeds are ours.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np

from silo_analysis.estimates.oracle import OracleCycle
from silo_analysis.estimates.stats import ROUNDING, FloatArray
from silo_analysis.estimates.typical import (
    FAMILY_CALIBRATION,
    lower_bound,
    order_p,
    p_below,
    t_below,
    upper_bound,
)
from silo_tune.formats import difference

Name = Literal["inside", "outside", "undetermined", "not tested"]

LEVEL = 0.95
FEWEST_SEEDS = 5


@dataclass(frozen=True)
class Rival:
    """One other rate compared with the schedule's own.

    Attributes:
        max_lr: the other rate.
        n: seeds that have both.
        gain: median over seeds of score(rate) − score(schedule), a collapsed training counting as guessing; NaN
            without seeds.
        lower, upper: one-sided 95 % bounds of the typical gain; infinite below five seeds.
        p_inside: one-sided p value of "the gain is below the tolerance".
        collapsed: seeds in which this rate collapsed.
    """

    max_lr: float
    n: int
    gain: float
    lower: float
    upper: float
    p_inside: float
    collapsed: int


@dataclass(frozen=True)
class Verdict:
    """The outcome for one schedule at one cycle.

    Attributes:
        name: inside | outside | undetermined | not tested.
        reason: why, in a few words.
        n_seeds: seeds in which the schedule's own rate has a result.
        collapsed: seeds of these in which its training collapsed.
        max_lr: the schedule's own rate, None when it was not tested.
        p_inside: the largest over rates (intersection-union); None without a test.
        p_outside: corrected over rates; None without a test.
        rivals: every rate that was compared.
    """

    name: Name
    reason: str
    n_seeds: int = 0
    collapsed: int = 0
    max_lr: float | None = None
    p_inside: float | None = None
    p_outside: float | None = None
    rivals: tuple[Rival, ...] = ()


def judge(cycle: OracleCycle, arm: str, tolerance: float) -> Verdict:
    """The verdict of a tested arm at an Oracle's cycle.

    Args:
        cycle: the Oracle's candidates.
        arm: the schedule; its value is the candidate that names it.
        tolerance: difference of scores.
    """
    rate = cycle.tested.get(arm)
    own = None if rate is None else cycle.column(rate)
    if rate is None or own is None:
        return Verdict("not tested", f"{cycle.oracle} did not try the value of {arm} at this cycle")
    n, collapsed = int(np.isfinite(cycle.val[:, own]).sum()), int(cycle.collapsed[:, own].sum())
    others = [int(i) for i in np.flatnonzero(cycle.asked) if i != own]
    few = too_few(cycle, n, others)
    if few is not None:
        return Verdict("undetermined", few, n, collapsed, rate)
    gains = cycle.gains(own)[:, others]
    rivals = tuple(_rival(cycle, own, i, tolerance) for i in others)
    p_inside = max(rival.p_inside for rival in rivals)
    p_out = p_outside(gains, tolerance)
    name, reason = decide(rivals, p_inside, p_out, tolerance)
    return Verdict(name, reason, n, collapsed, rate, p_inside, p_out, rivals)


def too_few(cycle: OracleCycle, n: int, others: list[int]) -> str | None:
    """Why a cycle can have no verdict, or None: seeds, other rates, anything that trained."""
    if n < FEWEST_SEEDS:
        return f"{n} of at least {FEWEST_SEEDS} seeds"
    if not others:
        return "the Oracle has no other rate"
    if not (np.isfinite(cycle.val) & ~cycle.collapsed).any():
        return "every training collapsed"
    return None


def _rival(cycle: OracleCycle, own: int, other: int, tolerance: float) -> Rival:
    differences = cycle.val[:, other] - cycle.val[:, own]
    known = np.isfinite(differences)
    gains = cycle.gains(own)[known, other]
    enough = gains if len(gains) >= FEWEST_SEEDS else gains[:0]
    return Rival(
        max_lr=float(cycle.rates[other]),
        n=len(gains),
        gain=float(np.median(differences[known])) if known.any() else float("nan"),
        lower=lower_bound(enough, LEVEL),
        upper=upper_bound(enough, LEVEL),
        p_inside=p_below(enough, tolerance),
        collapsed=int(cycle.collapsed[:, other].sum()),
    )


def p_outside(gains: FloatArray, tolerance: float, level: float = 1 - LEVEL, family: int | None = None) -> float:
    """p value of "some rate is better by more than the tolerance", corrected over rates.

    Order statistics with Bonferroni's correction over rates (Dunn 1961, "Multiple comparisons among means"), where so
    many seeds can reach the level. Fewer seeds must all agree on one rate, and then two tests must both say so:
    the paired t test with Bonferroni's correction, which errs on laws of two modes, and sign flips of whole seeds with
    the greatest mean over rates (Westfall and Young 1993, "Resampling-based multiple testing"), which err on skewed
    ones. A rate that no seed finds better is no part of the flips: turned round, it would look like the best of all.

    Args:
        gains: (S, R) score(rate) − score(schedule); infinite where one of the two collapsed, NaN where one is missing.
        tolerance: difference of scores.
        level: below which the p value shows something.
        family: rates that the correction is for; those of `gains` when left out.
    """
    columns = [np.asarray(column[~np.isnan(column)], dtype=float) for column in gains.T]
    columns = [column for column in columns if len(column) >= FEWEST_SEEDS]
    if not columns:
        return 1.0
    rates, seeds = family or len(columns), min(len(column) for column in columns)
    if FAMILY_CALIBRATION * rates * 0.5**seeds <= level:
        return min(1.0, FAMILY_CALIBRATION * rates * min(order_p(-column, -tolerance) for column in columns))
    agreed = [column for column in columns if column.min() > tolerance + ROUNDING]
    if not agreed:
        return 1.0
    p = min(1.0, rates * min(t_below(-column, -tolerance) for column in agreed))
    return max(p, _flipped_p(gains - tolerance))


def least_p_outside(seeds: int, rates: int) -> float:
    """The smallest `p_outside` that seeds which all agree can reach."""
    ordered = FAMILY_CALIBRATION * rates * 0.5**seeds
    return float(ordered if ordered <= 1 - LEVEL else 0.5**seeds)


def _flipped_p(excess: FloatArray) -> float:
    """Share of all sign flips of seeds whose greatest mean over rates is at least the one seen; `excess` is (S, R)."""
    excess = excess[:, ~np.isnan(excess).any(axis=0) & (excess > ROUNDING).any(axis=0)]
    if excess.size == 0:
        return 1.0
    largest = np.abs(excess[np.isfinite(excess)]).max(initial=0.0)
    excess = np.clip(excess, -largest, largest)
    signs = np.array(list(itertools.product([1.0, -1.0], repeat=len(excess))))
    means = (signs @ excess).max(axis=1)
    return float((means >= means[0] - ROUNDING).mean())


def decide(rivals: tuple[Rival, ...], p_inside: float, p_out: float, tolerance: float) -> tuple[Name, str]:
    """The verdict and why, in a few words."""
    if p_inside < 1 - LEVEL:
        return "inside", f"no other rate is better by {difference(tolerance, signed=False)}"
    if p_out < 1 - LEVEL:
        best = max((r for r in rivals if r.n >= FEWEST_SEEDS), key=lambda rival: rival.lower)
        return "outside", f"max_lr {best.max_lr:.3g} is better by {difference(best.gain, signed=False)}"
    worst = max(rivals, key=lambda rival: rival.upper)
    if worst.n < FEWEST_SEEDS:
        return "undetermined", f"max_lr {worst.max_lr:.3g} has {worst.n} of at least {FEWEST_SEEDS} seeds"
    if not np.isfinite(worst.upper):
        return "undetermined", f"max_lr {worst.max_lr:.3g} trained where this one collapsed"
    return "undetermined", f"max_lr {worst.max_lr:.3g} may be better by {difference(worst.upper, signed=False)}"
