"""Runs with something missing: every one must still give a summary, its lines and a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pandas as pd

from silo_tune.results.table import make_table
from silo_tune.study.model import Study
from tests.analysis import builder
from tests.analysis.builder import ARMS, Row, diverged, failed, make_frame

Case = Callable[[], tuple[pd.DataFrame, Study]]
PAIR = {name: ARMS[name] for name in ("silo", "oracle")}


def make_study(arms: Mapping[str, Any] = ARMS, seeds: int = 5, cycles: int = 4) -> Study:
    """A study just long enough for every question."""
    return builder.make_study(arms, seeds=seeds, cycles=cycles)


def no_rows() -> tuple[pd.DataFrame, Study]:
    return make_table([]), make_study()


def no_oracle() -> tuple[pd.DataFrame, Study]:
    study = make_study({name: ARMS[name] for name in ("silo", "low")})
    return make_frame(study), study


def no_judged_schedule() -> tuple[pd.DataFrame, Study]:
    study = make_study({name: ARMS[name] for name in ("low", "oracle")})
    return make_frame(study), study


def untested_schedule() -> tuple[pd.DataFrame, Study]:
    study = make_study({**PAIR, "oracle": {**ARMS["oracle"], "tests": []}})
    return make_frame(study), study


def no_controls() -> tuple[pd.DataFrame, Study]:
    study = make_study(PAIR)
    return make_frame(study), study


def conditioned_only() -> tuple[pd.DataFrame, Study]:
    study = make_study({name: ARMS[name] for name in ("silo", "oracle-at-silo")})
    return make_frame(study), study


def conditioned_without_rows() -> tuple[pd.DataFrame, Study]:
    study = make_study()
    frame = make_frame(study)
    return frame[(frame["arm"] != "oracle-at-silo") | (frame["cycle"] == 0)], study


def one_seed() -> tuple[pd.DataFrame, Study]:
    study = make_study(seeds=1)
    return make_frame(study), study


def dense_only() -> tuple[pd.DataFrame, Study]:
    study = make_study(cycles=1)
    return make_frame(study), study


def two_cycles() -> tuple[pd.DataFrame, Study]:
    study = make_study(cycles=2)
    return make_frame(study), study


def under_way() -> tuple[pd.DataFrame, Study]:
    study = make_study()
    frame = make_frame(study)
    return frame[(frame["seed"] < 2) & (frame["cycle"] < 3) & ((frame["seed"] == 0) | (frame["cycle"] < 2))], study


def chain_ended_early() -> tuple[pd.DataFrame, Study]:
    def spoil(row: Row) -> Row:
        return diverged() if row["arm"] == "silo" and row["seed"] == 1 and row["cycle"] == 2 else {}

    study = make_study()
    return make_frame(study, spoil=spoil), study


def one_point_grid() -> tuple[pd.DataFrame, Study]:
    study = make_study({**PAIR, "oracle": {**ARMS["oracle"], "grid": {"low": 0.05, "high": 0.05, "points": 1}}})
    return make_frame(study), study


def everything_diverged() -> tuple[pd.DataFrame, Study]:
    study = make_study()
    return make_frame(study, spoil=lambda row: diverged() if row["cycle"] > 0 else {}), study


def everything_failed() -> tuple[pd.DataFrame, Study]:
    study = make_study()
    return make_frame(study, spoil=lambda row: failed()), study


def every_oracle_rate_collapsed() -> tuple[pd.DataFrame, Study]:
    def spoil(row: Row) -> Row:
        return {"train_loss": 2.30, "val_score": 0.1, "test_score": 0.1} if row["mode"] == "oracle" else {}

    study = make_study(PAIR)
    return make_frame(study, spoil=spoil), study


def high_rates_diverge() -> tuple[pd.DataFrame, Study]:
    def spoil(row: Row) -> Row:
        if row["max_lr"] > 0.9:
            return diverged()
        return failed() if row["arm"] == "oracle" and row["cycle"] == 3 and row["seed"] == 1 and row["asked"] else {}

    study = make_study()
    return make_frame(study, spoil=spoil), study


def many_arms() -> tuple[pd.DataFrame, Study]:
    constants = {
        f"a-constant-with-a-long-name-{i}": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.02 * i}}
        for i in range(1, 12)
    }
    study = make_study({**ARMS, **constants}, seeds=2, cycles=4)
    return make_frame(study), study


def own_dense() -> tuple[pd.DataFrame, Study]:
    study = make_study({"silo": {**ARMS["silo"], "own_dense": True}, "oracle": {**ARMS["oracle"], "own_dense": True}})
    return make_frame(study), study


def two_kinds_of_device() -> tuple[pd.DataFrame, Study]:
    study = make_study()
    frame = make_frame(study)
    elsewhere = (frame["seed"] == 1) & (frame["cycle"] > 1)
    frame["device"] = frame["device"].mask(elsewhere, "EPYC (AVX512)").mask(~elsewhere, "Xeon (AVX2)")
    return frame.assign(mixed=frame["seed"] == 1), study


CASES: dict[str, Case] = {
    case.__name__.replace("_", "-"): cache(case)
    for case in (
        no_rows, no_oracle, no_judged_schedule, untested_schedule, no_controls, conditioned_only,
        conditioned_without_rows, one_seed, dense_only, two_cycles, under_way, chain_ended_early, one_point_grid,
        everything_diverged, everything_failed, every_oracle_rate_collapsed, high_rates_diverge, many_arms, own_dense,
        two_kinds_of_device,
    )
}  # fmt: skip
