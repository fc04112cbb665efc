"""Replayed strategies as a table, and what it says in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from silo_analysis.estimates.frames import typed
from silo_analysis.estimates.typical import standard_error
from silo_analysis.replay.landscape import RecordedGrid
from silo_analysis.replay.strategies import REPETITIONS, Strategy, play
from silo_tune.errors import BadInput
from silo_tune.formats import difference, plural, points, words

EXACT = (
    "Exact within a cycle only: another winner would have changed the weights that the next cycle starts from, "
    "and with them its responses."
)

TABLE = {
    "strategy": "string", "trials": "Int64", "units": "Float64", "regret": "Float64", "regret_se": "Float64",
    "regret_p90": "Float64", "within": "Float64", "lost": "Float64", "cycles": "Int64", "repetitions": "Int64",
}  # fmt: skip


def replay(
    recorded: RecordedGrid,
    competing: Iterable[Strategy],
    tolerance: float,
    repetitions: int = REPETITIONS,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per strategy; the same arguments give the same table.

    Columns: strategy, trials (asked rates per cycle), units (trainings per cycle, tested values and repeats included),
    regret (mean over cycles and repetitions, in [0, 1]), regret_se (standard error over repetitions), regret_p90 (of
    cycles), within (share of cycles whose regret is below the tolerance), lost (share of cycles in which every rate
    diverged), cycles, repetitions.

    Raises:
        BadInput: no repetition, or a seed below 0.
    """
    if repetitions < 1:
        raise BadInput(f"--repetitions {repetitions}: there must be at least one")
    if seed < 0:
        raise BadInput(f"--seed {seed}: it must not be below 0")
    return typed([_row(recorded, strategy, tolerance, repetitions, seed) for strategy in competing], TABLE)


def _row(
    recorded: RecordedGrid, strategy: Strategy, tolerance: float, repetitions: int, seed: int
) -> dict[str, object]:
    played = [list(play(recorded, strategy.source, repetition, seed)) for repetition in range(repetitions)]
    regrets = np.array([[one.regret for one in cycles] for cycles in played])
    return {
        "strategy": strategy.name,
        "trials": strategy.trials,
        "units": float(np.mean([[one.units for one in cycles] for cycles in played])),
        "regret": float(regrets.mean()),
        "regret_se": standard_error(regrets.mean(axis=1)) if repetitions > 1 else None,
        "regret_p90": float(np.quantile(regrets, 0.9)),
        "within": float((regrets < tolerance).mean()),
        "lost": float(np.mean([[one.rate is None for one in cycles] for cycles in played])),
        "cycles": regrets.shape[1],
        "repetitions": repetitions,
    }


def replay_lines(recorded: RecordedGrid, table: pd.DataFrame, tolerance: float) -> list[str]:
    """The table for a terminal, and what limits it."""
    head = ("strategy", "trials", "units", "regret", "s.e.", "p90", f"< {words().scale * tolerance:g}")
    rows = [head, *(_cells(row) for row in table.to_dict("records"))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    shown = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return [*shown, "", *notes(recorded, tolerance)]


def _cells(row: Mapping[Any, Any]) -> tuple[str, ...]:
    return (
        row["strategy"],
        str(row["trials"]),
        f"{row['units']:.1f}",
        *(points(row[name], signed=False) for name in ("regret", "regret_se", "regret_p90")),
        f"{100 * row['within']:.0f} %",
    )


def notes(recorded: RecordedGrid, tolerance: float) -> list[str]:
    """What the numbers are, and what they are not."""
    noise = recorded.noise
    drawn = (
        f"Noise of one training: {difference(noise, signed=False)}, drawn from what differs between the seeds."
        if noise is not None
        else f"With {plural(recorded.seeds, 'seed')} noise is unknown, and none is drawn: every regret is too small."
    )
    return [
        "Trials: per cycle, values of tested arms and repeats included. Regret: "
        f"{words().plain_points} below the best rate "
        "of the smoothed response, mean over cycles and repetitions; "
        f"last column: share of cycles below the tolerance, {words().scale * tolerance:g}.",
        drawn,
        EXACT,
    ]


def title(recorded: RecordedGrid, oracle: str) -> str:
    """What is replayed; `oracle` describes the Oracle."""
    cycles = [landscape.cycle for landscape in recorded.landscapes]
    span = f"cycle {cycles[0]}" if len(cycles) == 1 else f"cycles {cycles[0]} to {cycles[-1]}"
    return f"Replay of {oracle}: {recorded.points} rates, {plural(recorded.seeds, 'seed')}, {span}"
