"""One recorded cycle as an objective: a smooth truth, noise to draw from, and where trainings diverge."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from silo_analysis.curve_fit.seen import smoothed
from silo_analysis.estimates.oracle import OracleCycle, oracle_cycles, oracles, verdict_oracle
from silo_analysis.estimates.stats import BoolArray, FloatArray
from silo_tune.errors import BadInput, unknown
from silo_tune.study.arms import OracleArm
from silo_tune.study.model import Study

if TYPE_CHECKING:
    import pandas as pd

FEWEST_RATES = 3
MESH = 401  # points of the truth over log max_lr


@dataclass(frozen=True)
class Landscape:
    """One cycle of a recorded grid as an objective.

    Attributes:
        cycle: which.
        mesh: (MESH,) ln max_lr, rising, over the recorded rates that trained.
        truth: (MESH,) smooth accuracy in [0, 1] of a training that does not diverge.
        noise: (n,) accuracies to draw from, centred; empty where noise is unknown.
        rates: (R,) recorded max_lr, rising.
        collapsed: (S, R) where the recorded training collapsed.
        tested: max_lr of every tested arm at this cycle.
        chance: accuracy of guessing.
    """

    cycle: int
    mesh: FloatArray
    truth: FloatArray
    noise: FloatArray
    rates: FloatArray
    collapsed: BoolArray
    tested: Mapping[str, float]
    chance: float

    def accuracy(self, rate: float) -> float:
        """The truth at a rate, if it does not diverge."""
        return float(np.interp(math.log(rate), self.mesh, self.truth))

    def diverges(self, rate: float, seed: int) -> bool:
        """Did the recorded rate nearest to this one collapse in that seed (by position)?"""
        nearest = int(np.argmin(np.abs(np.log(self.rates) - math.log(rate))))
        return bool(self.collapsed[seed, nearest])

    def best(self, seed: int) -> float:
        """Largest truth among the rates that do not diverge in that seed; guessing where all do."""
        nearest = np.argmin(np.abs(np.log(self.rates)[:, None] - self.mesh[None]), axis=0)
        live = self.truth[~self.collapsed[seed, nearest]]
        return float(live.max()) if len(live) else self.chance


@dataclass(frozen=True)
class RecordedGrid:
    """A recorded grid, ready to be searched.

    Attributes:
        oracle: its name.
        low, high: bounds of max_lr, those of the grid.
        points: asked rates per cycle.
        seeds: number of replicates that it was recorded with.
        landscapes: cycles, rising.
    """

    oracle: str
    low: float
    high: float
    points: int
    seeds: int
    landscapes: tuple[Landscape, ...]

    @property
    def noisy(self) -> bool:
        """Is there noise to draw in some cycle?"""
        return any(len(landscape.noise) for landscape in self.landscapes)

    @property
    def noise(self) -> float | None:
        """Standard deviation of one training's accuracy, root mean square over cycles; None where it is unknown."""
        known = [landscape.noise for landscape in self.landscapes if len(landscape.noise)]
        return math.sqrt(float(np.mean([np.mean(noise**2) for noise in known]))) if known else None


def recorded_grid(frame: pd.DataFrame, study: Study, oracle: str | None = None) -> RecordedGrid:
    """The recorded grid of the named Oracle; left out, of the one that the verdict comes from, if it has a grid.

    Raises:
        BadInput: no such Oracle, none with a grid, or no cycle closed yet with enough rates.
    """
    groups = oracle_cycles(frame, study)
    name = _choose(study, {own for own, _ in groups}, oracle)
    usable = [made for (own, _), group in groups.items() if own == name and (made := landscape_of(group)) is not None]
    arm = study.arms[name]
    assert isinstance(arm, OracleArm)
    assert arm.grid is not None
    if not usable:
        raise BadInput(
            f"Oracle {name!r} has no cycle with {FEWEST_RATES} rates that trained in some seed: nothing to replay"
        )
    seeds = max(len(landscape.collapsed) for landscape in usable)
    pool = np.concatenate([landscape.noise for landscape in usable])
    ordered = tuple(
        landscape if len(landscape.noise) else replace(landscape, noise=pool)
        for landscape in sorted(usable, key=lambda landscape: landscape.cycle)
    )
    return RecordedGrid(name, arm.grid.low, arm.grid.high, arm.grid.points, seeds, ordered)


def _choose(study: Study, present: set[str], wanted: str | None) -> str:
    names = oracles(study)
    if wanted is not None and wanted not in names:
        raise BadInput(unknown("Oracle", wanted, names))
    with_grid = [name for name in names if _has_grid(study, name)]
    if not with_grid:
        raise BadInput("no Oracle of the study has a grid: a replay searches the responses that a grid recorded")
    if wanted is not None and wanted not in with_grid:
        raise BadInput(f"Oracle {wanted!r} has no grid to replay; choose from {', '.join(with_grid)}")
    preferred = [wanted] if wanted is not None else [str(verdict_oracle(study, present)), *with_grid]
    chosen = next((name for name in preferred if name in with_grid and name in present), None)
    if chosen is None:
        raise BadInput(f"Oracle {wanted or with_grid[0]!r} has no results yet: let it close cycles first")
    return chosen


def _has_grid(study: Study, oracle: str) -> bool:
    arm = study.arms[oracle]
    return isinstance(arm, OracleArm) and arm.grid is not None and arm.grid.points > 1


def landscape_of(group: OracleCycle) -> Landscape | None:
    """The objective in an Oracle's cycle; None where fewer than `FEWEST_RATES` rates trained in any seed."""
    val = np.where(np.isfinite(group.val) & ~group.collapsed, group.val, np.nan)
    alive = np.isfinite(val).any(axis=0)
    if alive.sum() < FEWEST_RATES:
        return None
    rates = group.rates[alive]
    mesh = np.geomspace(rates[0], rates[-1], MESH)
    mesh[[0, -1]] = rates[[0, -1]]
    return Landscape(
        cycle=group.cycle,
        mesh=np.log(mesh),
        truth=smoothed(rates, _levels(val)[1][alive], mesh),
        noise=noise_of(val),
        rates=group.rates,
        collapsed=group.collapsed,
        tested=dict(group.tested),
        chance=group.chance,
    )


def _levels(val: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(S,) level of every seed and (R,) mean of every rate, of an (S, R) matrix: least squares in turns.

    Where cells are missing (NaN), the mean of a rate is not shifted by the levels of the seeds that lack it.
    """
    seeds, rates = np.zeros(len(val)), np.zeros(val.shape[1])
    rows, columns = np.isfinite(val).any(axis=1), np.isfinite(val).any(axis=0)
    for _ in range(50 if np.isnan(val).any() else 1):  # without gaps one turn is exact
        rates[columns] = np.nanmean((val - seeds[:, None])[:, columns], axis=0)
        seeds[rows] = np.nanmean((val - rates)[rows], axis=1)
        seeds[rows] -= seeds[rows].mean()
    return seeds, rates


def noise_of(val: FloatArray) -> FloatArray:
    """Residuals of an (S, R) matrix without levels of seeds and rates, widened for the levels taken out.

    Empty where there are too few seeds or rates to tell noise from levels.
    """
    val = val[np.isfinite(val).any(axis=1)]
    val = val[:, np.isfinite(val).sum(axis=0) >= 2]  # a rate of one seed has no residual
    free = np.isfinite(val).sum() - sum(val.shape) + 1
    if len(val) < 2 or free < 1:
        return np.zeros(0)
    seeds, rates = _levels(val)
    left = (val - seeds[:, None] - rates)[np.isfinite(val)]
    centred: FloatArray = (left - left.mean()) * math.sqrt(len(left) / free)
    return centred
