"""What an arm costs: the distinct units that it uses, and the seconds that they trained."""

from __future__ import annotations

from typing import Any

import pandas as pd

from silo_analysis.estimates.oracle import flags
from silo_analysis.estimates.tuning import is_pilot
from silo_tune.study.model import Study

STUDY = "whole study"
COLUMNS = (
    "arm",
    "units",
    "pilot_units",
    "tested_units",
    "shared_units",
    "train_seconds",
    "tested_seconds",
    "times_schedule",
    "saved_by_schedule",
    "ok",
    "diverged",
    "failed",
)


def cost_table(frame: pd.DataFrame, study: Study) -> pd.DataFrame:
    """One row per arm and one for the whole study (`COLUMNS`). Searches count: `frame` holds every row of the run.

    units: distinct keys with a result, the dense unit and those of searches included; a key that two arms use counts in
    both, once in the whole study. pilot_units: those of them that pilots of the arm use. tested_units: those that an
    Oracle uses for nothing but the verdicts on other arms' rates; no search would train them. shared_units: those that
    an earlier arm of the study owns. train_seconds, tested_seconds: sums over distinct keys.
    times_schedule: units but the tested ones, divided by those of the judged schedule, with the trials outside the
    study that found its constants (`report.pilot_trials`); saved_by_schedule: 1 − its inverse; both null without one.
    ok, diverged, failed: distinct keys by status; a failed unit has no result and no
    measured cost.
    """
    rows = [_cost(frame[frame["arm"] == arm], arm) for arm in study.arms]
    table = pd.DataFrame([*rows, _cost(frame, STUDY)], columns=list(COLUMNS))
    table.loc[table["arm"] == STUDY, ["shared_units", "tested_units", "tested_seconds"]] = 0
    judged = table.loc[table["arm"] == study.report.schedule, "units"]
    base = int(judged.iloc[0]) + (study.report.pilot_trials or 0) if len(judged) else 0
    units = (table["units"] - table["tested_units"]).astype("Float64")
    table["times_schedule"] = (units / base if base else units * pd.NA).where(units > 0)
    table["saved_by_schedule"] = (1 - base / units if base else units * pd.NA).where(units > 0)
    return table


def _cost(rows: pd.DataFrame, name: str) -> dict[str, Any]:
    # A key that failed for one arm and was trained for another has a result.
    units = rows.sort_values("status", key=lambda status: status == "failed", kind="stable").drop_duplicates("key")
    status = units["status"].value_counts()
    trained = units[units["status"] != "failed"]
    own = rows.loc[rows["asked"].fillna(True).astype(bool) | flags(rows, "continued"), "key"]
    tested = trained[~trained["key"].isin(own)]
    counts = {kind: int(status.get(kind, 0)) for kind in ("ok", "diverged", "failed")}
    return {
        "arm": name,
        "units": len(trained),
        "pilot_units": rows.loc[is_pilot(rows) & (rows["status"] != "failed"), "key"].nunique(),
        "tested_units": len(tested),
        "shared_units": int(trained["shared_with"].notna().sum()),
        "train_seconds": float(trained["train_seconds"].fillna(0).sum()),
        "tested_seconds": float(tested["train_seconds"].fillna(0).sum()),
        **counts,
    }
