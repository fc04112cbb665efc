"""Synthetic runs with known response curves, in the schema of `silo_tune.results.columns.COLUMNS`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from silo_analysis.estimates.oracle import OracleCycle
from silo_tune.results.example_rows import COLUMNS, Examples
from silo_tune.results.searches import SearchRecord
from silo_tune.results.table import make_table
from silo_tune.schedules.peaks import Schedule, make_schedule
from silo_tune.store.example_file import pack_bits
from silo_tune.study.arms import OracleArm, ScheduleArm, TuneArm
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study

Response = Callable[[int, float], float]  # (cycle, max_lr) → accuracy in [0, 1]
Row = dict[str, Any]
Spoil = Callable[[Row], Mapping[str, Any]]  # row → the cells to change, {} to leave it

ARMS: dict[str, Any] = {
    "silo": {"mode": "schedule", "schedule": {"name": "silo", "eps": 0.03, "delta": 0.04}},
    "low": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.03}},
    "high": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.07}},
    "ramp": {"mode": "schedule", "schedule": {"name": "linear", "start": 0.03, "end": 0.07, "over": 8}},
    "oracle": {"mode": "oracle", "grid": {"low": 0.01, "high": 1.0, "points": 7}},
    "oracle-at-silo": {"mode": "oracle", "prefix": "arm:silo", "grid": {"low": 0.01, "high": 1.0, "points": 7}},
}


def make_study(
    arms: Mapping[str, Any] | None = None,
    seeds: int = 5,
    cycles: int = 9,
    pilot: Mapping[str, Any] | None = None,
    **report: Any,
) -> Study:
    """A study of the digits with the given arms; cycles count the dense one."""
    return parse_study(
        {
            **({"pilot": dict(pilot)} if pilot is not None else {}),
            "name": "synthetic",
            "cycles": cycles,
            "data": {"name": "digits"},
            "model": "lenet-300-100",
            "dense": {"epochs": 4, "max_lr": 0.1},
            "retrain": {"epochs": 4},
            "replicates": {"seeds": list(range(seeds))},
            "arms": dict(arms if arms is not None else ARMS),
            "report": report,
        }
    )


def peaked(cycle: int, max_lr: float) -> float:
    """A parabola in log max_lr whose best rate moves from 0.03 up to 0.1 as weights are pruned."""
    best = 0.03 * (0.1 / 0.03) ** min(1.0, cycle / 6)
    top = 0.92 - 0.004 * cycle
    return max(0.1, top - 0.06 * math.log10(max_lr / best) ** 2)


def flat(cycle: int, max_lr: float) -> float:
    """The same accuracy everywhere."""
    return 0.9


def make_frame(
    study: Study,
    response: Response = peaked,
    noise: float = 0.002,
    shared_noise: float = 0.003,
    spoil: Spoil = lambda row: {},
    random_seed: int = 0,
    found: Mapping[str, Mapping[str, float]] | None = None,
) -> pd.DataFrame:
    """The table of a finished run whose accuracies follow `response` plus noise per unit and per (seed, cycle).

    It has no rows of searches: see `make_search`. `found` gives the constants of the arms that leave theirs open.
    """
    world = _World(response, noise, shared_noise, spoil, random_seed, found or {})
    rows: list[Row] = []
    parents: dict[tuple[str, int, int], str] = {}
    chained = [name for name, arm in study.arms.items() if not isinstance(arm, TuneArm)]
    for name in sorted(chained, key=lambda arm: getattr(study.arms[arm], "prefix_arm", None) is not None):
        for seed in study.replicates.seeds:
            rows += _chain(study, name, seed, parents, world)
    order = list(study.arms)
    rows.sort(key=lambda row: order.index(row["arm"]))
    owner: dict[str, str] = {}
    for row in rows:
        first = owner.setdefault(row["key"], row["arm"])
        row["shared_with"] = None if first == row["arm"] else first
    return make_table(rows)


def make_examples(frame: pd.DataFrame, random_seed: int = 0) -> Examples:
    """Which images the chains of a run got right, as many as their rows say: hard ones are so for all, some for one."""
    rng = np.random.default_rng(random_seed)
    chosen = frame[(frame["winner"] | frame["continued"]) & (frame["status"] == "ok")].drop_duplicates("key")
    ease = {part: rng.standard_normal(n) for part, n in (("val", 2000), ("test", 10_000))}
    own = {(arm, part): rng.standard_normal(len(base)) for arm in chosen["arm"].unique() for part, base in ease.items()}
    rows = []
    for row in chosen.to_dict("records"):
        for part, base in ease.items():
            order = np.argsort(base + 0.5 * own[row["arm"], part] + 0.5 * rng.standard_normal(len(base)))
            right = np.zeros(len(base), dtype=bool)
            right[order[len(base) - round(row[f"{part}_score"] * len(base)) :]] = True
            rows.append({"key": row["key"], "part": part, "n": len(base), "bits": pack_bits(right)})
    return Examples(pd.DataFrame(rows, columns=list(COLUMNS)))


class _World:
    def __init__(
        self,
        response: Response,
        noise: float,
        shared: float,
        spoil: Spoil,
        random_seed: int,
        found: Mapping[str, Mapping[str, float]],
    ) -> None:
        self.response, self.noise, self.shared, self.spoil = response, noise, shared, spoil
        self.random_seed, self.found = random_seed, found

    def draw(self, *what: Any) -> np.random.Generator:
        digest = hashlib.sha256(repr((self.random_seed, *what)).encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big"))

    def outcome(self, seed: int, cycle: int, rate: float, key: str) -> Row:
        together = self.shared * self.draw(seed, cycle).standard_normal()
        val, test = self.noise * self.draw(key).standard_normal(2)
        level = self.response(cycle, rate) + together
        return {
            "score": "accuracy",
            "val_score": min(1.0, level + val),
            "test_score": min(1.0, level + test),
            "val_loss": 1 - level - val,
            "train_loss": 0.1,
            "train_seconds": 20.0 + cycle,
        }

    def spreads(self, remaining: float, key: str) -> Row:
        """Gradients narrow as the root of the weights remaining, representations widen, normalised ones stay."""
        powers = {"grad_spread": 0.5, "activation_spread": -0.25, "activation_spread_norm": 0.0}
        noise = 1 + 0.02 * self.draw(key, "spread").standard_normal(len(powers))
        return {name: 0.01 * remaining**power * by for (name, power), by in zip(powers.items(), noise, strict=True)}


def _chain(study: Study, arm: str, seed: int, parents: dict[tuple[str, int, int], str], world: _World) -> Iterator[Row]:
    definition = study.arms[arm]
    prefix = definition.prefix_arm if isinstance(definition, OracleArm) else None
    parent: str | None = None
    for cycle in range(study.cycles):
        if prefix is not None and cycle > 0:
            parent = parents.get((prefix, seed, cycle - 1))
            if parent is None:
                return
        rows = [
            _row(study, arm, seed, cycle, parent, c, world) for c in enumerate(_proposals(study, arm, cycle, world))
        ]
        good = [row for row in rows if row["status"] == "ok"]
        yield from rows
        if not good:
            return
        winner = min(good, key=lambda row: (-row["val_score"], row["val_loss"], row["max_lr"]))
        winner["winner"] = True
        parent = winner["key"]
        if prefix is None:
            parents[arm, seed, cycle] = winner["key"]


def _proposals(study: Study, arm: str, cycle: int, world: _World) -> list[tuple[float, bool, tuple[str, ...]]]:
    """(max_lr, asked, arms whose value it is) of a cycle, by rising max_lr."""
    definition = study.arms[arm]
    if cycle == 0 and not definition.own_dense:
        return [(float(study.dense.max_lr or 0.1), True, ())]
    if isinstance(definition, ScheduleArm):
        return [(_peak(study, arm, cycle, world), True, ())]
    assert isinstance(definition, OracleArm)
    assert definition.grid is not None
    owners: dict[float, tuple[str, ...]] = {}
    for test in study.tests_of(arm):
        rate = _peak(study, test, cycle, world)
        owners[rate] = (*owners.get(rate, ()), test)
    asked = definition.grid.values()
    return [(rate, rate in asked, owners.get(rate, ())) for rate in sorted({*asked, *owners})]


def _peak(study: Study, arm: str, cycle: int, world: _World) -> float:
    definition = study.arms[arm]
    assert isinstance(definition, ScheduleArm)
    schedule = study.schedule_of(definition, world.found.get(arm))
    assert isinstance(schedule, Schedule)
    return float(f"{schedule.peak(cycle, study.pruned):.12g}")


def _row(
    study: Study,
    arm: str,
    seed: int,
    cycle: int,
    parent: str | None,
    candidate: tuple[int, tuple[float, bool, tuple[str, ...]]],
    world: _World,
) -> Row:
    index, (rate, asked, tests) = candidate
    key = hashlib.sha256(f"{parent}/{seed}/{cycle}/{rate!r}".encode()).hexdigest()
    row: Row = {
        "arm": arm, "mode": study.arms[arm].mode, "seed": seed, "cycle": cycle, "candidate": index, "repeat": 0,
        "max_lr": rate, "asked": asked, "tests": ",".join(tests) or None, "status": "ok",
        "sparsity": 1 - study.remaining[cycle], "weights_remaining": study.remaining[cycle], "n_val": 2000,
        "n_test": 10000, "classes": 10, "epochs": 4, "steps": 100, "key": key, "parent": parent, "winner": False,
        "continued": False, "realised_peak_lr": rate, "device": "cpu", "version": "0.1.0",
    }  # fmt: skip
    row |= world.outcome(seed, cycle, rate, key) | world.spreads(study.remaining[cycle], key)
    return {**row, **world.spoil(row)}


def make_search(
    study: Study,
    arm: str,
    kind: str,
    schedule: str,
    params: Sequence[Mapping[str, float]],
    seeds: Sequence[int],
    stopped: Mapping[int, int] | None = None,
    spoil: Spoil = lambda row: {},
    **record: Any,
) -> tuple[pd.DataFrame, SearchRecord]:
    """Rows and record of a search: one chain per point and seed, on the response `peaked`.

    Args:
        kind: "pilot" | "tune".
        schedule: its registered name, whose arguments `params` give.
        params: of trial 0, 1, …
        stopped: trial → cycle after which it was stopped.
        record: other fields of the record.
    """
    world, stopped = _World(peaked, 0.002, 0.003, spoil, 0, {}), stopped or {}
    rows, points = list[Row](), list[dict[str, Any]]()
    for trial, given in enumerate(params):
        last = stopped.get(trial, study.cycles - 1)
        rates = [_rate_at(study, schedule, given, cycle) for cycle in range(last + 1)]
        chains = [_trial_chain(study, arm, seed, rates, world) for seed in seeds]
        rows += [row | {"mode": kind, "trial": trial} for chain in chains for row in chain]
        told = [row["val_score"] for chain in chains for row in chain[1:] if row["val_score"] is not None]
        mean = float(np.mean(told)) if told else None
        objective = None if trial in stopped else mean
        points.append(
            {"trial": trial, "round": 1 + trial // 4, "params": dict(given), "objective": objective, "told": mean,
             "stopped": stopped.get(trial), "seeds": list(seeds)}
        )  # fmt: skip
    done = [point for point in points if point["objective"] is not None]
    best = max(done, key=lambda point: point["objective"])["trial"] if done else None
    args = None if best is None else {"name": schedule, **params[best]}
    fields: dict[str, Any] = {"best": best, "args": args, "finished": True} | record
    return make_table(rows), SearchRecord(arm, kind, tuple(points), **fields)


def _rate_at(study: Study, schedule: str, params: Mapping[str, float], cycle: int) -> float:
    if cycle == 0:
        return float(study.dense.max_lr or 0.1)
    made = make_schedule(schedule, params)
    assert isinstance(made, Schedule)
    return float(f"{made.peak(cycle, study.pruned):.12g}")


def _trial_chain(study: Study, arm: str, seed: int, rates: Sequence[float], world: _World) -> list[Row]:
    chain: list[Row] = []
    for cycle, rate in enumerate(rates):
        parent = chain[-1]["key"] if chain else None
        chain.append(_row(study, arm, seed, cycle, parent, (0, (rate, True, ())), world) | {"winner": True})
    return chain


def diverged(error: str = "the loss is not finite") -> Row:
    """Cells of a row that diverged."""
    spreads = ("grad_spread", "activation_spread", "activation_spread_norm")
    gone = dict.fromkeys(("val_score", "val_loss", "test_score", "train_loss", *spreads))
    return {"status": "diverged", "error": error, **gone}


def failed(error: str = "the worker died") -> Row:
    """Cells of a row whose retries were used up."""
    results = ("sparsity", "weights_remaining", "n_val", "n_test", "classes", "epochs", "steps", "train_seconds")
    return {**diverged(error), "status": "failed", **dict.fromkeys(results)}


def oracle_cycle_of(
    val: Any,
    rates: Any,
    tested: Mapping[str, float],
    asked: Any = None,
    collapsed: Any = None,
    test: Any = None,
    val_loss: Any = None,
) -> OracleCycle:
    """An Oracle's cycle from (seeds, rates) matrices; what is left out is usual."""
    val, chance = np.asarray(val, dtype=float), 0.1
    lost = np.zeros(val.shape, dtype=bool) if collapsed is None else np.asarray(collapsed, dtype=bool)
    return OracleCycle(
        oracle="oracle",
        cycle=1,
        seeds=tuple(range(len(val))),
        rates=np.asarray(rates, dtype=float),
        asked=np.ones(val.shape[1], dtype=bool) if asked is None else np.asarray(asked, dtype=bool),
        val=np.where(lost, chance, val),
        val_loss=1 - val if val_loss is None else np.asarray(val_loss, dtype=float),
        test=np.where(lost, chance, val if test is None else np.asarray(test, dtype=float)),
        ok=np.isfinite(val) & ~lost,
        collapsed=lost,
        tested=tested,
        chance=chance,
    )
