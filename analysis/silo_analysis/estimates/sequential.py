"""Verdicts of seeds that are trained until they are decided: looks, the level of each, and rates that are dropped.

The seeds of a study are looked at after fixed numbers of them. Every look is a chance to be wrong, so the 5 % are spent
over the looks (Lan and DeMets 1983, "Discrete sequential boundaries for clinical trials", Biometrika 70), by the power
family α·t² of Kim and DeMets (1987, Biometrika 74) at the share t of all seeds. The level of a look follows from what
was spent by then as if the statistic were a Brownian motion, which medians are for many seeds. What they are for few is
a matter of simulation: docs/looks.py draws the worlds of docs/error_rates.py, and that is why 4.5 % are spent and not
5 %, and why a t test counts four times.

*Inside* needs every other rate to be shown not better, each at some look so far (an intersection-union test over rates,
each with its own sequence). *Outside* needs one rate that is shown better, at one look. A look that decided a cycle is
its last one. Order statistics of five seeds cannot go below 3.9 %: there a decision rests on the t test *and* on all
seeds agreeing, and falls where the noise is small against the tolerance. Otherwise such a look can only drop rates.

*Dropped* is a rate that is shown to be worse than the look's best one by more than the tolerance: later seeds do not
train it, and from this look on it counts as not better than the schedule.

A verdict's p value may be corrected over cycles, and then small levels count. So it is made of *firm* p values,
with which few seeds that agree say less (`typical.p_below`), and where a dropped rate has the p value with which it was
dropped, times the number of looks. It stays on the side of 5 % on which the verdict is.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from silo_analysis.estimates.containment import FEWEST_SEEDS, LEVEL, Verdict, decide, judge, p_outside
from silo_analysis.estimates.oracle import OracleCycle, first_cycle, oracle_cycles, prefix_of
from silo_analysis.estimates.stats import ROUNDING, FloatArray
from silo_analysis.estimates.tuning import ordinary
from silo_analysis.estimates.typical import CALIBRATION, order_p, p_below, t_below
from silo_tune.study.arms import OracleArm
from silo_tune.study.model import Study

SPENT = 0.045
POWER = 2.0
# Where all seeds agree the t test may go below order statistics: at this many times its p value, by simulation.
T_FACTOR = 4.0
DROP_LEVEL = 0.01

_GRID = np.linspace(-8.0, 8.0, 801)
_SPENDS = np.sort(np.append(np.geomspace(1e-6, 0.5, 24), SPENT))


# --- levels ---


def levels(looks: Sequence[int], spent: float = SPENT) -> tuple[float, ...]:
    """The one-sided level of every look: p values below it are shown.

    Args:
        looks: seeds at each look, rising; the last one is where all is spent.
        spent: in all.
    """
    times = [n / looks[-1] for n in looks]
    found: list[float] = []
    density, bound, before, gone = np.zeros_like(_GRID), np.inf, 0.0, 0.0
    for time in times:
        if not found:
            density = _normal(_GRID, time)
        else:  # paths that have not crossed yet, one look further
            stayed = density * (bound > _GRID)
            density = _normal(_GRID[:, None] - _GRID[None, :], time - before) @ stayed * (_GRID[1] - _GRID[0])
        crossed = spent * time**POWER
        bound = _crossed_by(density, crossed - gone)
        found.append(float(special.ndtr(-bound / np.sqrt(time))))
        before, gone = time, crossed
    return tuple(found)


def _normal(x: FloatArray, variance: float) -> FloatArray:
    density: FloatArray = np.exp(-(x**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    return density


def _crossed_by(density: FloatArray, share: float) -> float:
    """Where so much of a density lies above."""
    step = _GRID[1] - _GRID[0]
    above = np.append(np.cumsum((density[::-1][1:] + density[::-1][:-1]) / 2 * step)[::-1], 0.0)
    return float(np.interp(np.log(share), np.log(np.maximum(above[::-1], 1e-300)), _GRID[::-1]))


@functools.lru_cache(maxsize=16)
def _levels_by_spent(looks: tuple[int, ...]) -> FloatArray:
    """(spends, looks) levels, for every total of `_SPENDS`."""
    return np.array([levels(looks, spent) for spent in _SPENDS])


def adjusted(p: float, looks: tuple[int, ...], number: int) -> float:
    """The p value of a look with all looks in mind: below 5 % exactly where it is below the level of the look.

    That is the least error in all at which the look would show it (a sequential p value).
    """
    if p <= 0:
        return 0.0
    column = _levels_by_spent(looks)[:, number - 1]
    if p > column[-1]:
        return 1.0
    least = float(np.exp(np.interp(np.log(p), np.log(column), np.log(_SPENDS))))
    return min(1.0, least * (1 - LEVEL) / SPENT)


# --- a study ---


def look_at(frame: pd.DataFrame, study: Study, number: int) -> dict[str, Any]:
    """What a look decides, from the rows of the seeds that it sees and from nothing else.

    Args:
        frame: rows as in `columns.COLUMNS`; those of later seeds are left out.
        study: with looks.
        number: of the look, from 1.

    Returns:
        look, looks, seeds: which look this is, and what it sees.
        schedule, oracle, tolerance: whose verdicts, by which Oracle, against which tolerance.
        level: below which an unadjusted p value shows something at this look.
        verdicts: cycle → its verdict.
        decided: the cycles of these that are, with the look that decided them.
        dropped: Oracle → cycle → rates that later seeds do not train.
        skipped: Oracle → cycles that later seeds do not search.
        rows: sha256 of the rows that the look saw.
        over: nothing is left to decide, or this is the last look.
    """
    seeds = study.replicates.seeds[: study.looks[number - 1]]
    plan = LookPlan(study.looks, study.replicates.seeds, number)
    rows = ordinary(frame)
    groups = oracle_cycles(rows[rows["seed"].isin(seeds)], study)
    judged_by, schedule, tolerance = study.decides_until, study.report.schedule, study.report.tolerance
    assert judged_by is not None
    cycles = range(first_cycle(study, judged_by), study.cycles)
    found = {
        c: judge_looks(groups[judged_by, c], schedule, tolerance, plan) for c in cycles if (judged_by, c) in groups
    }
    decided = {str(c): one.look for c, one in found.items() if one.decided}
    stops = prefix_of(study, judged_by) is not None
    dropped: dict[str, dict[str, list[float]]] = {}
    for (name, c), group in groups.items():
        if _has_grid(study, name) and not (stops and name == judged_by and str(c) in decided):
            rates = drops(group, tolerance, plan)
            dropped.setdefault(name, {}).update({str(c): sorted(rates)} if rates else {})
    return {
        "look": number,
        "looks": list(study.looks),
        "seeds": list(seeds),
        "schedule": schedule,
        "oracle": judged_by,
        "tolerance": tolerance,
        "level": round(float(levels_of(plan.looks)[number - 1]), 6),
        "verdicts": {str(c): one.verdict.name for c, one in found.items()},
        "decided": decided,
        "dropped": dropped,
        "skipped": {judged_by: [int(c) for c in decided if c != "0"]} if stops else {},
        "rows": _digest(rows[rows["seed"].isin(seeds)]),
        "over": number == len(study.looks) or all(str(c) in decided for c in cycles),
    }


def _digest(rows: pd.DataFrame) -> str:
    seen = rows[["arm", "seed", "cycle", "candidate", "repeat", "key", "status"]].astype("string").fillna("")
    lines = sorted(seen.agg("/".join, axis=1) + "/" + rows["val_score"].map("{:.9g}".format).astype("string"))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _has_grid(study: Study, name: str) -> bool:
    arm = study.arms[name]
    return isinstance(arm, OracleArm) and arm.grid is not None


# --- one cycle ---


@dataclass(frozen=True)
class LookPlan:
    """When a study looks.

    Attributes:
        looks: numbers of seeds, rising.
        seeds: of the study, in the order in which they are trained.
        done: looks that were made.
    """

    looks: tuple[int, ...]
    seeds: tuple[int, ...]
    done: int

    def seen(self, cycle: OracleCycle, number: int) -> OracleCycle:
        """What the look of this number saw of a cycle."""
        return _of_seeds(cycle, self.seeds[: self.looks[number - 1]])


@dataclass(frozen=True)
class Looked:
    """What came of one tested arm at a cycle.

    Attributes:
        verdict: its p values are adjusted for all looks (`adjusted`), and its reason begins with the look.
        look: at which it was decided, or the last one that saw more seeds of the cycle; 0 before the first.
        decided: inside or outside, at a level that all looks share.
        dropped: rates that were dropped at looks so far.
    """

    verdict: Verdict
    look: int
    decided: bool
    dropped: tuple[float, ...]


def judge_looks(cycle: OracleCycle, arm: str, tolerance: float, plan: LookPlan) -> Looked:
    """The verdict of a tested arm at a cycle, by the looks that were made.

    Args:
        cycle: the Oracle's candidates, of all seeds so far.
        arm: the schedule.
        tolerance: difference of scores.
        plan: when the study looks.
    """
    verdict, look, dropped = Verdict("undetermined", "no look was made yet"), 0, set[float]()
    shown: dict[float, float] = {}  # rate → least adjusted p value of "not better" so far
    firm: dict[float, float] = {}  # the same, for a correction over cycles
    p_out, seeds = 1.0, 0
    for number in range(1, plan.done + 1):
        seen = plan.seen(cycle, number)
        if look and len(seen.seeds) == seeds:
            break  # no more seeds of this cycle were trained
        look, seeds, verdict = number, len(seen.seeds), judge(seen, arm, tolerance)
        for rate, p in dropped_at(seen, tolerance, dropped).items():
            dropped.add(rate)
            firm[rate] = min(firm.get(rate, 1.0), p * len(plan.looks))
        if verdict.p_inside is None or verdict.max_lr is None:
            continue
        rivals = [rival for rival in verdict.rivals if rival.max_lr not in dropped]
        own = seen.column(verdict.max_lr)
        assert own is not None
        gains = {rival.max_lr: _known(seen.gains(own)[:, seen.column(rival.max_lr)]) for rival in rivals}
        for rate, gain in gains.items():
            enough = len(gain) >= FEWEST_SEEDS
            for found, p_of in ((shown, early_p), (firm, firm_p)):
                p = adjusted(p_of(gain, tolerance), plan.looks, number) if enough else 1.0
                found[rate] = min(found.get(rate, 1.0), p)
        p_in = max((shown[rate] for rate in gains), default=0.0)
        columns = seen.gains(own)[:, [i for i in range(len(seen.rates)) if float(seen.rates[i]) in gains]]
        level = levels_of(plan.looks)[number - 1]
        p_out = min(p_out, adjusted(p_outside(columns, tolerance, level, len(verdict.rivals)), plan.looks, number))
        name, reason = decide(tuple(rivals), p_in, p_out, tolerance)
        if name == "inside":
            p_in = min(max(firm[rival.max_lr] for rival in verdict.rivals), np.nextafter(1 - LEVEL, 0.0))
        reason = f"{words(plan, number)}: {reason}"
        verdict = replace(verdict, name=name, reason=reason, p_inside=p_in, p_outside=p_out)
        if name in ("inside", "outside"):
            return Looked(verdict, number, True, tuple(sorted(dropped)))
    return Looked(verdict, look, False, tuple(sorted(dropped)))


def levels_of(looks: tuple[int, ...]) -> FloatArray:
    """(looks,) the level of every look."""
    found: FloatArray = _levels_by_spent(looks)[np.searchsorted(_SPENDS, SPENT)]
    return found


def words(plan: LookPlan, number: int) -> str:
    """ "sequential, look 2 of 4, 10 seeds"."""
    return f"sequential, look {number} of {len(plan.looks)}, {plan.looks[number - 1]} seeds"


def early_p(differences: Sequence[float] | FloatArray, margin: float, t_factor: float = T_FACTOR) -> float:
    """One-sided p value of a look for "the typical difference is below the margin"; see `typical.p_below`."""
    values = _known(np.asarray(differences, dtype=float))
    p = min(1.0, CALIBRATION * order_p(values, margin))
    return min(p, t_factor * t_below(values, margin)) if values.max() < margin - ROUNDING else p


def firm_p(differences: Sequence[float] | FloatArray, margin: float, t_factor: float = T_FACTOR) -> float:
    """`early_p`, for a correction over cycles: never below `typical.p_below`."""
    return max(early_p(differences, margin, t_factor), p_below(differences, margin))


def _known(values: FloatArray) -> FloatArray:
    known: FloatArray = values[~np.isnan(values)]
    return known


def _of_seeds(cycle: OracleCycle, seeds: Sequence[int]) -> OracleCycle:
    rows = [i for i, seed in enumerate(cycle.seeds) if seed in set(seeds)]
    parts: dict[str, Any] = {
        name: getattr(cycle, name)[rows] for name in ("val", "val_loss", "test", "ok", "collapsed")
    }
    return replace(cycle, seeds=tuple(cycle.seeds[i] for i in rows), **parts)


# --- rates that are dropped ---


def drops(cycle: OracleCycle, tolerance: float, plan: LookPlan) -> frozenset[float]:
    """Rates of a cycle that later seeds do not train, after the looks that were made."""
    dropped = set[float]()
    for number in range(1, plan.done + 1):
        dropped |= dropped_at(plan.seen(cycle, number), tolerance, dropped).keys()
    return frozenset(dropped)


def dropped_at(seen: OracleCycle, tolerance: float, before: Collection[float] = ()) -> dict[float, float]:
    """Rates that a look shows to be worse than its best by more than the tolerance, or that collapsed in every seed.

    Never the best rate itself, its two neighbours on the grid, or a tested arm's own value.

    Args:
        seen: the candidates of the seeds that the look saw.
        tolerance: difference of scores.
        before: rates that earlier looks dropped.

    Returns:
        rate → its firm p value of "worse than the best".
    """
    active = [i for i, rate in enumerate(seen.rates) if float(rate) not in before]
    counts = np.isfinite(seen.val).sum(axis=0)
    whole = [i for i in active if counts[i] >= max(FEWEST_SEEDS, counts[active].max())]
    if not whole:
        return {}
    best = max(whole, key=lambda i: float(np.nanmedian(seen.val[:, i])))
    grid = [i for i in active if seen.asked[i]]
    below, above = [i for i in grid if i < best], [i for i in grid if i > best]
    kept = {best, *below[-1:], *above[:1]}
    ahead = -seen.gains(best)
    free = [i for i in grid if i not in kept and float(seen.rates[i]) not in seen.tested.values()]
    behind = {float(seen.rates[i]): -_known(ahead[:, i]) for i in free}
    return {
        rate: firm_p(gains, -tolerance, t_factor=1.0) for rate, gains in behind.items() if _is_behind(gains, tolerance)
    }


def _is_behind(gains: FloatArray, tolerance: float) -> bool:
    """Is the best rate shown to be ahead? Of a rate that collapsed in every seed no test asks by how much."""
    if len(gains) < FEWEST_SEEDS:
        return False
    return bool(np.isneginf(gains).all()) or early_p(gains, -tolerance, t_factor=1.0) < DROP_LEVEL
