"""The verdict: does a schedule's max_lr do as well as every other rate of an Oracle, to within the tolerance?

The rule, on validation accuracy, against the asked rates of one Oracle at one cycle (same parent, same rates in every
seed). A rate that collapsed in any seed is outside and left out of both tests. *Inside*: for every other rate the
one-sided 95 % paired-t upper bound of accuracy(rate) − accuracy(schedule) is below the tolerance; an intersection-union
test, so that no correction over rates is due (Berger 1982, "Multiparameter hypothesis testing and acceptance
sampling"). *Outside*: for some rate the lower bound, Bonferroni over rates (Dunn 1961, "Multiple comparisons among
means"), is above it. Otherwise *undetermined*, as is everything below five seeds. A wrong inside and a wrong outside
have at most 5 % each; the rule, its names and the five seeds are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from silo_analysis.estimates.oracle import OracleCycle
from silo_analysis.estimates.stats import ROUNDING, FloatArray, lower_bound, p_above, p_below, upper_bound

Name = Literal["inside", "outside", "undetermined", "not tested"]

LEVEL = 0.95
FEWEST_SEEDS = 5


@dataclass(frozen=True)
class Rival:
    """One other rate compared with the schedule's own.

    Attributes:
        max_lr: the other rate.
        n: seeds that have both.
        mean: mean of accuracy(rate) − accuracy(schedule), in accuracy units.
        lower, upper: one-sided bounds of that mean, the lower one Bonferroni over rates; infinite below two seeds.
        p_inside, p_outside: one-sided p values, neither corrected.
    """

    max_lr: float
    n: int
    mean: float
    lower: float
    upper: float
    p_inside: float
    p_outside: float


@dataclass(frozen=True)
class Verdict:
    """The outcome for one schedule at one cycle.

    Attributes:
        name: inside | outside | undetermined | not tested.
        reason: why, in a few words.
        n_seeds: seeds in which the schedule's own rate has a result.
        max_lr: the schedule's own rate, None when it was not tested.
        p_inside: the largest over rates (intersection-union); None without a test.
        p_outside: the smallest over rates, times their number; None without a test.
        rivals: every rate that was compared.
    """

    name: Name
    reason: str
    n_seeds: int = 0
    max_lr: float | None = None
    p_inside: float | None = None
    p_outside: float | None = None
    rivals: tuple[Rival, ...] = ()


def judge(cycle: OracleCycle, arm: str, tolerance: float) -> Verdict:
    """The verdict of a tested arm at an Oracle's cycle.

    Args:
        cycle: the Oracle's candidates.
        arm: the schedule; its value is the candidate that names it.
        tolerance: difference of accuracies in [0, 1].
    """
    rate = cycle.tested.get(arm)
    own = None if rate is None else cycle.column(rate)
    if rate is None or own is None:
        return Verdict("not tested", f"{cycle.oracle} did not try the value of {arm} at this cycle")
    n = int((np.isfinite(cycle.val[:, own]) | cycle.collapsed[:, own]).sum())
    if n < FEWEST_SEEDS:
        return Verdict("undetermined", f"{n} of at least {FEWEST_SEEDS} seeds", n, rate)
    if lost := int(cycle.collapsed[:, own].sum()):
        return Verdict("outside", f"its own rate collapsed in {lost} of {n} seeds", n, rate)
    return _compare(cycle, own, n, tolerance)


def _compare(cycle: OracleCycle, own: int, n: int, tolerance: float) -> Verdict:
    others = [i for i in np.flatnonzero(cycle.asked) if i != own]
    standing = [i for i in others if not cycle.collapsed[:, i].any()]
    rate = float(cycle.rates[own])
    if not others:
        return Verdict("undetermined", "the Oracle has no other rate", n, rate)
    if not standing:
        return Verdict("inside", "every other rate collapsed", n, rate)
    level = 1 - (1 - LEVEL) / len(standing)
    rivals = tuple(
        _rival(float(cycle.rates[i]), cycle.val[:, i] - cycle.val[:, own], tolerance, level) for i in standing
    )
    name, reason = _decide(rivals, tolerance)
    p_inside = max(rival.p_inside for rival in rivals)
    p_outside = min(1.0, len(rivals) * min(rival.p_outside for rival in rivals))
    return Verdict(name, reason, n, rate, p_inside, p_outside, rivals)


def _rival(rate: float, differences: FloatArray, tolerance: float, level: float) -> Rival:
    known = differences[np.isfinite(differences)]
    enough = known if len(known) >= FEWEST_SEEDS else known[:0]
    return Rival(
        max_lr=rate,
        n=len(known),
        mean=float(known.mean()) if len(known) else 0.0,
        lower=lower_bound(enough, level),
        upper=upper_bound(enough, LEVEL),
        p_inside=p_below(enough, tolerance),
        p_outside=p_above(enough, tolerance),
    )


def _decide(rivals: tuple[Rival, ...], tolerance: float) -> tuple[Name, str]:
    worst = max(rivals, key=lambda rival: rival.upper)
    if worst.upper < tolerance - ROUNDING:
        return "inside", f"no other rate is better by {100 * tolerance:.2f} pp"
    better = max(rivals, key=lambda rival: rival.lower)
    if better.lower > tolerance + ROUNDING:
        return "outside", f"max_lr {better.max_lr:.3g} is better by {100 * better.mean:.2f} pp"
    if worst.n < FEWEST_SEEDS:
        return "undetermined", f"max_lr {worst.max_lr:.3g} has {worst.n} of at least {FEWEST_SEEDS} seeds"
    return "undetermined", f"max_lr {worst.max_lr:.3g} may be better by {100 * worst.upper:.2f} pp"
