"""Tables of runs written out as text: `rows_of(text, study)`.

A block per arm and cycle, blank lines between blocks. Its first line is the arm, the cycle and the rates; then comes
one line per seed, with a cell per rate:

    oracle 2 | 0.01   0.1=silo   (0.3=low,ramp)     # "=": arms whose value it is; brackets: not asked
    0        | 88.2   90.0       90.1/89.5          # validation accuracy in %, or validation/test
    1        | x      ~10.0      90.1@0.4           # diverged; collapsed; @ validation loss
    2        | !      90.0,89.0  .                  # failed; two repeats; no row

The engine's rule says which row wins.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from silo_tune.planner.winner import winner_of
from silo_tune.results.table import make_table
from silo_tune.study.model import Study
from tests.analysis.builder import Row, diverged, failed

RATE = re.compile(r"(?P<bracket>\()?(?P<rate>[\d.e-]+)(=(?P<arms>[\w,-]+))?\)?")


def frame_of(text: str, study: Study, **cells: Any) -> pd.DataFrame:
    """The table of a run; `cells` are set in every row."""
    return make_table([row | cells for row in rows_of(text, study)])


def rows_of(text: str, study: Study) -> list[Row]:
    """The rows of all blocks."""
    lines = [line.split("#")[0].rstrip() for line in text.strip().splitlines()]
    blocks = [block.splitlines() for block in re.split(r"\n\s*\n", "\n".join(lines))]
    return [row for block in blocks for row in _block(block, study)]


def _block(lines: list[str], study: Study) -> Iterator[Row]:
    (arm, cycle), rates = (part.split() for part in lines[0].split("|"))
    for line in lines[1:]:
        (seed,), cells = (part.split() for part in line.split("|"))
        where = {"arm": arm, "cycle": int(cycle), "seed": int(seed), "mode": study.arms[arm].mode}
        where |= {"sparsity": 1 - study.remaining[int(cycle)], "weights_remaining": study.remaining[int(cycle)]}
        rows: list[Row] = []
        for rate, cell in zip(rates, cells, strict=True):
            rows += [where | {"candidate": len(rows) + i} | one for i, one in enumerate(_candidate(rate, cell, where))]
        yield from _with_winner(rows)


def _candidate(rate: str, cell: str, where: Mapping[str, Any]) -> Iterator[Row]:
    found = RATE.fullmatch(rate)
    assert found, rate
    max_lr = float(found["rate"])
    for repeat, text in enumerate(cell.split(",") if cell != "." else ()):
        key = f"{where['seed']}/{where['cycle']}/{where['arm']}/{max_lr!r}/{repeat}"
        yield {
            "repeat": repeat, "max_lr": max_lr, "asked": not found["bracket"], "tests": found["arms"], "status": "ok",
            "n_val": 2000, "n_test": 10000, "classes": 10, "epochs": 4, "steps": 100, "key": key, "winner": False,
            "continued": False, "train_loss": 0.1, "train_seconds": 1.0, "device": "cpu", "score": "accuracy",
            **_outcome(text),
        }  # fmt: skip


def _outcome(text: str) -> Row:
    if text in ("x", "!"):
        return diverged() if text == "x" else failed()
    accuracies, _, loss = text.removeprefix("~").partition("@")
    val, _, test = accuracies.partition("/")
    lost = {"train_loss": math.log(10)} if text.startswith("~") else {}
    percent = {"val_score": float(val) / 100, "test_score": float(test or val) / 100}
    return {**percent, "val_loss": float(loss) if loss else 1 - float(val) / 100, **lost}


def _with_winner(rows: list[Row]) -> list[Row]:
    won = winner_of(rows)
    for row in rows:
        row["winner"] = won is not None and row["key"] == won["key"]
    return rows
