"""Did the schedule arms train equally long? A comparison of schedules at unequal budgets compares budgets.

Counted are optimizer steps, from the rows of the run: the same epochs on fewer images are fewer steps. Whether all arms
were tuned with equal effort is another question, which `search.tuning_of` answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from silo_analysis.estimates.frames import BUDGETS, typed
from silo_analysis.estimates.oracle import rivals
from silo_tune.study.model import Study

Cell = tuple[int, int]  # seed, cycle


def budget_table(chains: pd.DataFrame, study: Study) -> pd.DataFrame:
    """What every schedule arm trained per retrained cycle, beside the judged schedule (`columns.BUDGETS`).

    Only cells (a seed and a cycle ≥ 1) that both arms have trained are compared, so that a chain under way or one that
    ended early is no mismatch. epochs, steps: means over these cells, or over the arm's own where none is shared.
    ratio: steps divided by the judged schedule's over the same cells. matched: equal steps in every cell. Both are null
    without a judged schedule or a shared cell.

    Args:
        chains: from `regret.chain_rows`.
        study: the study.
    """
    whole = chains["status"] != "diverged"  # one that diverged was stopped: its arm has no smaller budget for that
    late = chains[(chains["cycle"] >= 1) & chains["steps"].notna() & whole]
    arms = list(rivals(study))
    steps = {name: _cells(late[late["arm"] == name], "steps") for name in arms}
    epochs = {name: _cells(late[late["arm"] == name], "epochs") for name in arms}
    judged = study.report.schedule
    rows = [_row(name, steps[name], epochs[name], steps.get(judged)) for name in arms if steps[name]]
    return typed([row | {"judged": row["arm"] == judged} for row in rows], BUDGETS)


def _cells(rows: pd.DataFrame, column: str) -> dict[Cell, float]:
    return {
        (int(seed), int(cycle)): float(value)
        for seed, cycle, value in zip(rows["seed"], rows["cycle"], rows[column], strict=True)
    }


def _row(arm: str, steps: Mapping[Cell, float], epochs: Mapping[Cell, float], base: Any) -> dict[str, Any]:
    shared = [cell for cell in steps if cell in base] if base else []
    cells = shared or list(steps)
    row: dict[str, Any] = {
        "arm": arm,
        "epochs": sum(epochs[cell] for cell in cells) / len(cells),
        "steps": sum(steps[cell] for cell in cells) / len(cells),
        "cells": len(shared),
        "n_seeds": len({seed for seed, _ in shared}),
    }
    if not shared or not (theirs := sum(base[cell] for cell in shared)):
        return row
    return row | {
        "ratio": sum(steps[cell] for cell in shared) / theirs,
        "matched": all(steps[cell] == base[cell] for cell in shared),
    }
