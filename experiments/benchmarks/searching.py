"""Searching less: a guided Oracle against the exhaustive one in the same run, and what S-curve tuning trains.

    python experiments/benchmarks/searching.py digits [--out RUN] [--record FOLDER] [--seeds N] [--only ARM] [--local]
    python experiments/benchmarks/searching.py cifar10 …
    python experiments/benchmarks/searching.py tune …

*digits* and *cifar10*: from the weights of the SILO arm's own chain an exhaustive Oracle tries 15 rates over two
decades at every cycle and a guided one asks for 6 (*guided-twice*: for 4, and trains the best two again); all of them
also try SILO's value. Their choices are made on the validation accuracy of one seed and measured on the *other* seeds'
curves of the exhaustive grid (interpolated in log max_lr): the cross-fitted regret of the guided Oracle is the
exhaustive choice's accuracy there minus the guided choice's. A choice profits from its own noise; on other seeds it
cannot.

*tune*: 20 points of the S-curve over 8 cycles after the dense one, against the 160 units per seed that chains without
sharing and stopping would train.

A run goes on where it was interrupted, and arms may be added to it. `--record` writes the figures, the rows and the
study there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tomli_w

from silo_analysis.estimates.interval import point_interval
from silo_analysis.estimates.oracle import OracleCycle, oracle_cycles
from silo_analysis.estimates.stats import FloatArray
from silo_analysis.estimates.tuning import savings
from silo_analysis.estimates.typical import paired_interval
from silo_tune.api import run_study
from silo_tune.machine import environment
from silo_tune.results.records import load_run
from silo_tune.results.searches import searches
from silo_tune.run.monitor import Monitor
from silo_tune.store.run_folder import Run
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study

EXPERIMENTS = Path(__file__).parent.parent
BOUNDS = {"low": 0.01, "high": 1.0}
ASKED, GRID = 6, 15
GOAL_REGRET, GOAL_UNITS = 0.3, 0.6  # points; share of the units of whole chains

# The cifar10-resnet8 study at half its width and a fifth of its images: 17 s a unit on one core instead of 210 s.
SHORT: dict[str, dict[str, Any]] = {
    "data": {"train_examples": 8000, "val_examples": 5000},
    "model": {"width": 8},
    "retrain": {"batch": 64},
    "report": {"tolerance": 0.01},
}


def search_table(name: str) -> dict[str, Any]:
    """The study of a benchmark, from the study file of that data."""
    import tomllib

    file = {"digits": "digits-rewind.toml", "tune": "digits-rewind.toml", "cifar10": "cifar10-resnet8.toml"}[name]
    table = tomllib.loads((EXPERIMENTS / file).read_text(encoding="utf-8"))
    silo = table["arms"]["silo"]
    if name == "tune":
        return {**table, "name": "search-tune", "arms": {"silo": silo, "tuned": tune_arm()}}
    conditioned = {"mode": "oracle", "prefix": "arm:silo", "tests": ["silo"]}
    arms = {
        "silo": silo,
        "grid": {**conditioned, "grid": {**BOUNDS, "points": GRID}},
        "guided": {**conditioned, "guided": {**BOUNDS, "trials": ASKED}},
        "guided-twice": {**conditioned, "guided": {**BOUNDS, "trials": ASKED - 2, "repeat_top": 2}},
    }
    table |= {"name": f"search-{name}", "arms": arms}
    if name == "cifar10":
        table |= {section: {**table[section], **changes} for section, changes in SHORT.items()}
        table["replicates"] = {"seeds": [0, 1, 2]}
    return table


def tune_arm() -> dict[str, Any]:
    """20 points in rounds of 4; a trial goes on after cycles 2 and 4 if it is among the best third of those before."""
    return {
        "mode": "tune", "trials": 20, "batch": 4, "rungs": [2, 4],
        "eps": [0.02, 0.5], "delta": [0.0, 0.5], "beta": [1.0, 10.0], "q": [0, 3],
    }  # fmt: skip


# --- guided against exhaustive ---


def compare(frame: pd.DataFrame, study: Study, arm: str) -> dict[str, Any]:
    """What a guided Oracle lost and saved against the exhaustive one; differences in points."""
    cycles = oracle_cycles(frame[frame["trial"].isna()], study)
    pairs = [(cycles["grid", m], cycles[arm, m]) for m in range(1, study.cycles) if (arm, m) in cycles]
    seeds = sorted(set(pairs[0][0].seeds) & set(pairs[0][1].seeds))
    won = frame[frame["winner"] & frame["trial"].isna()]
    where = zip(won["arm"].astype(str), won["seed"].astype(int), won["cycle"].astype(int), strict=True)
    winners = dict(zip(where, won["max_lr"].astype(float), strict=True))
    table = pd.DataFrame([row for grid, guided in pairs for row in regrets(grid, guided, seeds, winners)])
    return {
        "seeds": seeds,
        "cycles": [grid.cycle for grid, _ in pairs],
        "units": units_ratio(frame, arm),
        "cross_fitted_regret_test": estimate(table, "cross_test"),
        "cross_fitted_regret_val": estimate(table, "cross_val"),
        "own_seed_regret_test": estimate(table, "own_test"),
        "by_cycle": table.groupby("cycle")[["cross_test", "cross_val", "own_test"]].mean().round(3).to_dict("index"),
        "decades_apart": round(float(table["decades"].mean()), 3),
        "verdict_agreement": agreement(pairs, seeds, study.report.tolerance),
    }


def regrets(
    grid: OracleCycle, guided: OracleCycle, seeds: list[int], winners: Mapping[tuple[str, int, int], float]
) -> Iterator[dict[str, Any]]:
    """Per seed: the exhaustive choice minus the guided one, on the other seeds and on the seed itself, in points."""
    for seed in seeds:
        where = [(cycle.oracle, seed, cycle.cycle) for cycle in (guided, grid)]
        if not all(place in winners for place in where):
            continue
        ours, theirs = (winners[place] for place in where)
        others = [grid.seeds.index(other) for other in seeds if other != seed]
        cross = {
            f"cross_{name}": 100
            * np.nanmean([at(grid.rates, m[s], theirs) - at(grid.rates, m[s], ours) for s in others])
            for name, m in (("val", grid.val), ("test", grid.test))
        }
        own = 100 * (value(grid, seed, theirs) - value(guided, seed, ours))
        yield {"cycle": grid.cycle, "seed": seed, **cross, "own_test": own, "decades": abs(math.log10(ours / theirs))}


def value(cycle: OracleCycle, seed: int, rate: float) -> float:
    """Test accuracy of one candidate."""
    column = cycle.column(rate)
    assert column is not None
    return float(cycle.test[cycle.seeds.index(seed), column])


def at(rates: FloatArray, accuracies: FloatArray, rate: float) -> float:
    """A seed's curve at a rate, interpolated in log max_lr over the rates that did not diverge."""
    known = np.isfinite(accuracies)
    return float(np.interp(math.log(rate), np.log(rates[known]), accuracies[known]))


def estimate(table: pd.DataFrame, column: str) -> dict[str, float | None]:
    """Mean over cycles, then over seeds with a 95 % t interval, in points."""
    found = paired_interval(table.groupby("seed")[column].mean().to_numpy())
    values = {"mean": found.mean, "low": found.low, "high": found.high}
    return {
        name: None if value is None or not math.isfinite(value) else round(value, 3) for name, value in values.items()
    }


def agreement(pairs: list[tuple[OracleCycle, OracleCycle]], seeds: list[int], tolerance: float) -> dict[str, float]:
    """Share of cycles and seeds in which SILO's point verdict from one seed's candidates is the same: of the guided and
    the exhaustive Oracle on one seed, and of the exhaustive Oracle on two seeds."""
    same, itself = [], []
    for grid, guided in pairs:
        verdicts = {seed: inside(grid, seed, tolerance) for seed in seeds}
        same += [inside(guided, seed, tolerance) == verdicts[seed] for seed in seeds]
        itself += [verdicts[a] == verdicts[b] for a, b in itertools.combinations(seeds, 2)]
    return {"guided_with_grid": round(float(np.mean(same)), 3), "grid_with_itself": round(float(np.mean(itself)), 3)}


def inside(cycle: OracleCycle, seed: int, tolerance: float) -> bool:
    """Does SILO's value lie in the point interval of one seed's candidates?"""
    s = cycle.seeds.index(seed)
    return point_interval(cycle.rates, cycle.val[s], tolerance).contains(cycle.tested["silo"])


def units_ratio(frame: pd.DataFrame, arm: str) -> dict[str, float]:
    """Distinct units after the dense cycle against those of the exhaustive Oracle: all, and without SILO's own."""
    guided, grid, silo = (set(frame[(frame.arm == name) & (frame.cycle >= 1)].key) for name in (arm, "grid", "silo"))
    return {
        "guided": len(guided),
        "grid": len(grid),
        "ratio": round(len(guided) / len(grid), 3),
        "ratio_beside_silo": round(len(guided - silo) / len(grid - silo), 3),
    }


# --- tuning ---


def tuned(frame: pd.DataFrame, study: Study, run: Run) -> dict[str, Any]:
    """Units that S-curve tuning trained, against whole chains without sharing."""
    record = searches(run, study)["tuned"]
    found = savings(record, frame, study.cycles)
    own = frame[(frame.arm == "tuned") & (frame.cycle >= 1)]
    seeds = len(study.replicates.seeds)
    planned = len(record.points) * (study.cycles - 1) * seeds
    return {
        "points": len(record.points),
        "stopped": sum(point["stopped"] is not None for point in record.points),
        "units": int(own.key.nunique()),
        "planned": planned,
        "ratio": round(own.key.nunique() / planned, 3),
        "shared": found.shared,
        "best": record.args,
        "objective": next(p["objective"] for p in record.points if p["trial"] == record.best),
        "importance": record.importance,
        "seeds": list(study.replicates.seeds),
    }


# --- the command ---


class Progress(Monitor):
    """One line for every notice."""

    def notice(self, message: str) -> None:
        print(f"note: {message}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["digits", "cifar10", "tune"])
    parser.add_argument("--out", help="run folder; runs/search-NAME when left out")
    parser.add_argument("--record", type=Path, help="folder for the figures, the rows and the study")
    parser.add_argument("--seeds", type=int, help="number of seeds")
    parser.add_argument("--only", metavar="ARM", help="of the guided Oracles, this one alone")
    parser.add_argument("--local", action="store_true", help="without Ray")
    options = parser.parse_args()
    table = search_table(options.name)
    if options.seeds:
        table["replicates"] = {"seeds": list(range(options.seeds))}
    if options.only:
        table["arms"] = {name: arm for name, arm in table["arms"].items() if name in ("silo", "grid", options.only)}
    study = parse_study(table, options.name)
    outcome = run_study(study, options.out, local=options.local, monitor=Progress())
    frame, study, ledger = load_run(outcome.url)
    if options.name == "tune":
        found = tuned(frame, study, Run(outcome.url))
    else:
        found = {arm: compare(frame, study, arm) for arm in study.arms if arm.startswith("guided")}
    result = {"benchmark": options.name, **found, "environment": environment(), "created": ledger["created"]}
    print(json.dumps(result, indent=1))
    if options.record:
        record(options.record, options.name, result, frame, table)


def record(folder: Path, name: str, result: Mapping[str, Any], frame: pd.DataFrame, table: Mapping[str, Any]) -> None:
    """Write what a reader needs to check the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
    frame.to_parquet(folder / f"{name}.parquet", index=False)


if __name__ == "__main__":
    main()
