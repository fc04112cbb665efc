"""One cycle of one Oracle as seed × rate matrices, and which Oracle answers which question."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from silo_analysis.estimates.stats import BoolArray, FloatArray
from silo_tune.planner.winner import gain
from silo_tune.study.arms import OracleArm, ScheduleArm
from silo_tune.study.model import Study

IndexArray = npt.NDArray[np.intp]

# A network that ends a training at 95 % of the loss of guessing and scores no better than guessing has learned nothing.
# By its loss alone a short training at a low rate would be lost that gets most examples right.
COLLAPSED_LOSS = 0.95
_BEYOND_CHANCE = 3.09  # standard errors: guessing passes in one training of a thousand
CONTROLS = ("constant", "linear")


@dataclass(frozen=True)
class OracleCycle:
    """The candidates of one Oracle at one cycle. Matrices are (seeds, rates), NaN where a unit failed or is missing.

    Attributes:
        oracle, cycle: which.
        seeds: (S,) replicates that closed the cycle, rising.
        rates: (R,) max_lr, rising; rates of tested arms included.
        asked: (R,) True for a rate of the Oracle's own grid.
        val, val_loss, test: (S, R) score signed so that more is better, loss, such a score. A training that collapsed
            has the score of guessing.
        ok: (S, R) the rate may win its seed: it trained, and so did its repeats. Where rates were trained again only
            those may.
        collapsed: (S, R) whose training collapsed (`collapsed_rows`).
        tested: arm → its own max_lr at this cycle.
        chance: score of guessing, signed alike; 0 where it is not known.
        parents: seed → key of the unit that its candidates start from; a seed without one is left out.
    """

    oracle: str
    cycle: int
    seeds: tuple[int, ...]
    rates: FloatArray
    asked: BoolArray
    val: FloatArray
    val_loss: FloatArray
    test: FloatArray
    ok: BoolArray
    collapsed: BoolArray
    tested: Mapping[str, float]
    chance: float
    parents: Mapping[int, str] = field(default_factory=dict)

    def gains(self, own: int) -> FloatArray:
        """(S, R) validation score − that of the rate in column `own`; NaN where one is missing.

        Infinite where one of the two collapsed and the other did not: that seed says which is better, not by how much.
        """
        gains: FloatArray = self.val - self.val[:, [own]]
        only_own, only_other = self.collapsed[:, [own]] & ~self.collapsed, self.collapsed & ~self.collapsed[:, [own]]
        gains[only_own & ~np.isnan(gains)] = np.inf
        gains[only_other & ~np.isnan(gains)] = -np.inf
        return gains

    def column(self, rate: float) -> int | None:
        """Index of a rate among `rates`; rates are equal when their floats are."""
        found = np.flatnonzero(self.rates == rate)
        return int(found[0]) if len(found) else None


def numbers(frame: pd.DataFrame, column: str) -> FloatArray:
    """A column as floats, NaN where it is null."""
    return frame[column].to_numpy(dtype=float, na_value=np.nan)


def flags(frame: pd.DataFrame, column: str) -> BoolArray:
    """A boolean column, False where it is null."""
    return frame[column].to_numpy(dtype=bool, na_value=False)


def collapsed_rows(frame: pd.DataFrame) -> BoolArray:
    """Rows whose training collapsed: it diverged, or its last-epoch loss is at least 0.95 of that of guessing and its
    validation score is not above guessing by more than chance.

    Chance: no mean of values in [0, 1] with mean g has a larger variance than g · (1 − g) over their number.
    """
    guessed = guesses(frame)
    with np.errstate(invalid="ignore", divide="ignore"):
        loss = numbers(frame, "guess_loss")
        guess = np.where(np.isnan(loss), np.log(numbers(frame, "classes")), loss)
        lost = numbers(frame, "train_loss") >= np.where(guess > 0, COLLAPSED_LOSS, 2 - COLLAPSED_LOSS) * guess
        error = np.sqrt(np.clip(guessed * (1 - guessed), 0, None) / numbers(frame, "n_val"))
        learned = numbers(frame, "val_score") > guessed + _BEYOND_CHANCE * np.nan_to_num(error)
    return (lost & ~learned) | (frame["status"] == "diverged").to_numpy(dtype=bool, na_value=False)


def counted(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows, with the score of guessing where a training collapsed: it counts in every mean and rank."""
    lost, guess = collapsed_rows(frame), guesses(frame)
    return frame.assign(
        **{name: frame[name].mask(lost, pd.Series(guess, frame.index)) for name in ("val_score", "test_score")}
    )


def guesses(frame: pd.DataFrame) -> FloatArray:
    """(rows,) score of guessing: that of the best constant prediction where a row or its seed has one, else 1/classes.

    A trial that was lost early may not have told it: the training part of its seed has one.
    """
    told = pd.Series(numbers(frame, "guess_score"), frame.index)
    of_seed = told.groupby(frame["seed"].to_numpy(dtype=float, na_value=np.nan)).transform("first")
    with np.errstate(divide="ignore"):
        even = 1 / numbers(frame, "classes")
    found = told.fillna(of_seed).to_numpy(dtype=float)
    return np.where(np.isnan(found), np.where(np.isfinite(even), even, np.nan), found)


def as_gains(frame: pd.DataFrame, study: Study) -> pd.DataFrame:
    """The rows with every score signed so that more is better: all that compares looks at these alone."""
    sign = study.scored.sign
    if sign == 1:
        return frame
    return frame.assign(**{name: gain(frame[name], sign) for name in ("val_score", "test_score", "guess_score")})


def first_cycle(study: Study, arm: str) -> int:
    """First cycle that an arm decides: the dense one is shared unless it has its own."""
    return 0 if study.arms[arm].own_dense else 1


def oracle_cycles(frame: pd.DataFrame, study: Study) -> dict[tuple[str, int], OracleCycle]:
    """Every (Oracle arm, cycle) that has rows, in study order."""
    found, frame = {}, as_gains(frame, study)
    for name in oracles(study):
        own = frame[(frame["arm"] == name) & (frame["cycle"] >= first_cycle(study, name)) & frame["max_lr"].notna()]
        own = without_second(own, study, name)
        for cycle, rows in own.groupby("cycle"):
            found[name, int(str(cycle))] = oracle_cycle(name, int(str(cycle)), rows)
    return found


def without_second(rows: pd.DataFrame, study: Study, oracle: str) -> pd.DataFrame:
    """An Oracle's rows without second trainings of winners: these say what a chain is worth, and judge no rate."""
    arm = study.arms[oracle]
    assert isinstance(arm, OracleArm)
    return rows if arm.retrained_as is None else rows[rows["repeat"] != arm.retrained_as]


def oracle_cycle(oracle: str, cycle: int, rows: pd.DataFrame) -> OracleCycle:
    """The matrices of one Oracle's cycle, from its rows (at least one, all with a max_lr). Repeats are averaged."""
    seeds, seed_index = np.unique(rows["seed"].to_numpy(dtype=int), return_inverse=True)
    rates, rate_index = np.unique(numbers(rows, "max_lr"), return_inverse=True)
    at = (seed_index, rate_index)
    shape = (len(seeds), len(rates))
    asked = np.zeros(len(rates), dtype=bool)
    np.logical_or.at(asked, rate_index, flags(rows, "asked"))
    collapsed = _any_into(shape, at, collapsed_rows(rows))
    rows = counted(rows)
    matrix = {name: _mean_into(shape, at, numbers(rows, name)) for name in ("val_score", "val_loss", "test_score")}
    return OracleCycle(
        oracle=oracle,
        cycle=cycle,
        seeds=tuple(int(seed) for seed in seeds),
        rates=rates,
        asked=asked,
        val=matrix["val_score"],
        val_loss=matrix["val_loss"],
        test=matrix["test_score"],
        ok=_may_win(shape, at, rows),
        collapsed=collapsed,
        tested=dict(_tested(rows)),
        chance=_chance(rows),
        parents=_parents(rows),
    )


def _may_win(shape: tuple[int, int], at: tuple[IndexArray, IndexArray], rows: pd.DataFrame) -> BoolArray:
    """Rates that may win their seed, as in the engine (`planner.winner.winner_of`).

    There a repeat that diverged counts as guessing. Here such a rate wins only where every repeated one has such a
    repeat: a mean of a score and a guess is below any score of worth.
    """
    first = ~(numbers(rows, "repeat") > 0)
    status = rows["status"].to_numpy(dtype=object)
    trained = _any_into(shape, at, first & (status == "ok"))
    again = trained & _any_into(shape, at, ~first)
    steady = again & ~_any_into(shape, at, ~first & (status == "diverged"))
    few = np.where(steady.any(axis=1, keepdims=True), steady, again)
    may: BoolArray = np.where(again.any(axis=1, keepdims=True), few, trained)
    return may


def _any_into(shape: tuple[int, int], at: tuple[IndexArray, IndexArray], where: BoolArray) -> BoolArray:
    found = np.zeros(shape, dtype=bool)
    np.logical_or.at(found, at, where)
    return found


def _mean_into(shape: tuple[int, int], at: tuple[IndexArray, IndexArray], values: FloatArray) -> FloatArray:
    total, count = np.zeros(shape), np.zeros(shape)
    known = np.isfinite(values)
    where = (at[0][known], at[1][known])
    np.add.at(total, where, values[known])
    np.add.at(count, where, 1.0)
    mean: FloatArray = np.divide(total, count, out=np.full(shape, np.nan), where=count > 0)
    return mean


def _tested(rows: pd.DataFrame) -> Iterator[tuple[str, float]]:
    marked = rows[rows["tests"].notna()]
    for names, rate in zip(marked["tests"], numbers(marked, "max_lr"), strict=True):
        for name in str(names).split(","):
            yield name, float(rate)


def _parents(rows: pd.DataFrame) -> dict[int, str]:
    known = rows[rows["parent"].notna()]
    return {int(seed): str(parent) for seed, parent in zip(known["seed"], known["parent"], strict=True)}


def _chance(rows: pd.DataFrame) -> float:
    found = guesses(rows)
    known = found[np.isfinite(found)]
    return float(known[0]) if len(known) else 0.0


# --- which Oracle ---


def oracles(study: Study) -> list[str]:
    """Names of the Oracle arms, in study order."""
    return [name for name, arm in study.arms.items() if isinstance(arm, OracleArm)]


def prefix_of(study: Study, oracle: str) -> str | None:
    """The arm whose weights a conditioned Oracle starts from; None for a greedy one."""
    arm = study.arms[oracle]
    assert isinstance(arm, OracleArm)
    return arm.prefix_arm


def is_guided(study: Study, oracle: str) -> bool:
    """Does a sampler choose the Oracle's rates, so that they differ between seeds?"""
    arm = study.arms[oracle]
    assert isinstance(arm, OracleArm)
    return arm.grid is None


def describe(study: Study, oracle: str) -> str:
    """Name of an Oracle with what its cycles start from, for captions."""
    prefix = prefix_of(study, oracle)
    return f"{oracle} (greedy)" if prefix is None else f"{oracle} (conditioned on {prefix})"


def greedy_oracle(study: Study, present: Collection[str]) -> str | None:
    """The Oracle that continues from its own winners: one with rows that tests the judged schedule, if there is one."""
    return _preferred(study, present, [name for name in oracles(study) if prefix_of(study, name) is None])


def conditioned_oracle(study: Study, present: Collection[str]) -> str | None:
    """The Oracle whose cycles start from the judged schedule's own weights, with rows if any has them."""
    schedule = study.report.schedule
    return _preferred(study, present, [name for name in oracles(study) if prefix_of(study, name) == schedule])


def verdict_oracle(study: Study, present: Collection[str]) -> str | None:
    """Where interval, verdict and cycle regret come from: the conditioned Oracle, else the greedy one."""
    conditioned = conditioned_oracle(study, present)
    greedy = greedy_oracle(study, present)
    if conditioned is not None and (conditioned in present or greedy not in present):
        return conditioned
    return greedy


def _preferred(study: Study, present: Collection[str], names: list[str]) -> str | None:
    schedule = study.report.schedule

    def worse(name: str) -> tuple[bool, bool, bool]:
        return name not in present, schedule not in study.tests_of(name), is_guided(study, name)

    ranked = sorted(names, key=worse)
    return ranked[0] if ranked else None


def rivals(study: Study) -> dict[str, ScheduleArm]:
    """Schedule arms that train once a cycle, in study order: one with `best_of` is a control of luck, and no rival."""
    return {name: arm for name, arm in study.arms.items() if isinstance(arm, ScheduleArm) and arm.best_of is None}


def controls(study: Study, tested: Collection[str]) -> list[str]:
    """Tested arms that have a constant or linear peak, without the judged schedule: they show that a test can fail."""
    return [name for name in tested if name != study.report.schedule and _is_control(study, name)]


def _is_control(study: Study, name: str) -> bool:
    arm = study.arms.get(name)
    return isinstance(arm, ScheduleArm) and arm.schedule.name in CONTROLS


def decades(low: float, high: float) -> float:
    """Width from low to high in powers of ten."""
    return math.log10(high / low)
