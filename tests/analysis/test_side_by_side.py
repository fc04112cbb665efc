"""Two runs side by side: what differs comes first, only what both have is compared, by seed."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from silo_analysis.combine.side_by_side import side_by_side, side_by_side_json, side_by_side_lines
from silo_analysis.estimates.typical import paired_interval
from silo_tune.errors import BadInput
from silo_tune.results.records import Recorded, write_record
from tests.analysis.builder import ARMS, diverged, make_frame, make_study
from tests.analysis.test_runs import LEDGER, other, part, whole
from tests.analysis.test_scores import mirrored
from tests.test_cli import in_process


def better(run: Recorded, by: float, arm: str = "silo", **cells: Any) -> Recorded:
    """The run with other units in an arm, whose chains are better by so much on test."""
    late = ((run.frame["arm"] == arm) & (run.frame["cycle"] >= 1)).to_numpy(dtype=bool)
    frame = run.frame.assign(
        test_score=run.frame["test_score"] + np.where(late, by, 0.0),
        key=run.frame["key"].mask(late, "x" + run.frame["key"]),
    )
    return replace(run, frame=frame, **cells)


@cache
def compared() -> pd.DataFrame:
    return side_by_side(whole(), better(part(range(1, 6)), 0.03)).table


def of(table: pd.DataFrame, arm: str) -> pd.DataFrame:
    return table[table["arm"] == arm]


def test_a_difference_is_that_of_the_seeds_that_both_have() -> None:
    table = compared()
    silo = of(table, "silo")
    assert table["arm"].unique().tolist() == ["dense", "silo", "low", "high", "ramp", "oracle"]
    assert silo["difference"].tolist() == pytest.approx([0.03] * 4)
    assert (silo["outcome"] == "better").all()
    assert set(silo["n_seeds"]) == {5}
    assert (set(silo["a_n"]), set(silo["b_n"])) == ({6}, {5})
    assert (table.loc[table["arm"] != "silo", "outcome"] == "identical").all()


def test_levels_are_those_of_each_run_and_the_mean_is_of_the_pruned_networks() -> None:
    frame = whole().frame
    silo = frame[frame["arm"] == "silo"].pivot(index="seed", columns="cycle", values="test_score").astype(float)
    rows = of(compared(), "silo")
    assert rows["weights_remaining"].tolist()[1:] == pytest.approx(whole().study.remaining[1:])
    for row, values in zip(
        rows.to_dict("records"), [silo[[1, 2, 3]].mean(axis=1), silo[1], silo[2], silo[3]], strict=True
    ):
        found = paired_interval(values.to_numpy())
        assert (row["a_median"], row["a_low"], row["a_high"]) == pytest.approx((found.median, found.low, found.high))


def test_shares_of_weights_are_matched_whatever_their_cycles() -> None:
    faster = other({"prune.rate": 0.36, "cycles": 3})  # 64 % and 41 %: two cycles of 0.8 each
    found = side_by_side(whole(), faster)
    assert sorted(set(found.table["weights_remaining"].dropna())) == pytest.approx([0.64, 1.0])
    assert "only in A: 80.0 %, 51.2 %" in found.unpaired
    assert "only in B: 41.0 %" in found.unpaired


def test_a_chain_that_diverged_counts_as_guessing() -> None:
    made = make_study(seeds=6, cycles=4)
    lost = make_frame(made, spoil=lambda row: diverged() if (row["arm"], row["cycle"]) == ("low", 2) else {})
    table = side_by_side(whole(), Recorded(lost, made, LEDGER)).table
    assert of(table, "low")["b_median"].tolist()[-2:] == pytest.approx([0.1, 0.1])
    assert of(table, "low")["outcome"].tolist()[-1] == "worse"


def test_of_a_score_where_less_is_better_a_difference_is_still_a_gain() -> None:
    frame, made = mirrored()
    run = Recorded(frame, made, LEDGER)
    less = better(run, -0.1)
    row = of(side_by_side(run, less).table, "silo").to_dict("records")[0]
    assert row["difference"] == pytest.approx(0.1)
    assert row["b_median"] < row["a_median"] < 4


def test_what_differs_is_said_first_with_versions_and_seeds() -> None:
    changed = other({"retrain.epochs": 8, "arms.extra": ARMS["low"], "report.tolerance": 0.5, "name": "another"})
    later = replace(changed, ledger={**LEDGER, "environment": {"python": "3.14", "machine": "one"}})
    found = side_by_side(part(range(5)), later)
    assert set(found.differing) == {
        "retrain.epochs", "arms.extra", "replicates.seeds", "report.tolerance", "environment.python",
    }  # fmt: skip
    assert found.tolerance == 0.5
    lines = side_by_side_lines(found, "runs/a", "runs/b")
    assert lines[:2] == ["A: runs/a", "B: runs/b"]
    assert "  retrain.epochs: 4 in A; 8 in B" in lines[3:9]
    assert "Not compared: only in B: extra." in lines
    assert max(map(len, lines)) <= 80
    json.dumps(side_by_side_json(found), allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": {"name": "classification", "score": "f1-macro"}}, "score: accuracy in A; macro F1 in B"),
        ({"data.test_examples": 100}, "data.test_examples: not set in A; 100 in B"),
        ({"data": {"name": "cifar10"}, "model": {"name": "vgg19"}}, "data: digits in A; cifar10 in B"),
        ({"prune.rate": 0.5}, "share of weights: "),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as error:
        side_by_side(whole(), other(changes))
    assert said in str(error.value)


def test_runs_without_a_common_seed_show_their_levels_alone() -> None:
    found = side_by_side(part([0, 1, 2]), part([3, 4, 5]))
    assert found.table["difference"].isna().all()
    assert found.table["a_median"].notna().all()
    assert "two seeds" in found.unpaired[-1]


def test_the_command_takes_two_records(tmp_path: Path) -> None:
    places = [str(tmp_path / name) for name in "ab"]
    for place, run in zip(places, (whole(), better(whole(), 0.03)), strict=True):
        write_record(place, run)
    said = in_process("compare", *places)
    assert said.returncode == 0, said.stderr
    assert "Their studies are the same." in said.stdout
    assert json.loads(in_process("compare", *places, "--format", "json").stdout)["arms"][1]["outcome"] == "better"
    assert in_process("compare", places[0], str(tmp_path / "none")).returncode == 2
