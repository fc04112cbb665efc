"""The table "How many seeds" is what its script makes, by the rules of the report."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silo_analysis.estimates.containment import judge
from silo_analysis.estimates.stats import tost
from tests.analysis.builder import oracle_cycle_of

DOCS = Path(__file__).parent.parent.parent / "docs"
TOLERANCE = 0.005


@pytest.fixture(scope="module")
def power() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "power.py"))


def test_the_table_is_as_it_is_generated(power: dict[str, Any]) -> None:
    text = (DOCS / "concepts" / "how-many-seeds.md").read_text(encoding="utf-8")
    without = power["BLOCK"].sub(r"\1| old |\n\2", text)
    assert without != text
    assert power["filled"](without) == text, "run `python docs/power.py`"


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_its_verdicts_are_those_of_the_report(power: dict[str, Any], seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    rates, levels = np.geomspace(0.01, 1.0, 5), [0.0, -0.002, 0.0, 0.003, -0.05]
    spread = rng.choice([0.0005, 0.002, 0.005], size=(200, 1, 1))
    val = 0.9 + rng.choice([0.0, 1.0, 4.0], size=(200, 1, 1)) * levels + spread * rng.standard_normal((200, seeds, 5))
    inside, outside = power["verdicts"](val, 2, TOLERANCE)
    names = [judge(oracle_cycle_of(one, rates, {"silo": rates[2]}), "silo", TOLERANCE).name for one in val]
    assert [name == "inside" for name in names] == inside.tolist()
    assert [name == "outside" for name in names] == outside.tolist()
    assert set(names) == ({"undetermined"} if seeds < 5 else {"inside", "outside", "undetermined"})


@pytest.mark.parametrize("seeds", [3, 10])
def test_its_equivalence_is_that_of_the_report(power: dict[str, Any], seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    differences = rng.choice([0.0, 0.004], size=(200, 1)) + 0.003 * rng.standard_normal((200, seeds))
    told = power["equivalent"](differences, TOLERANCE).tolist()
    assert told == [tost(one, TOLERANCE).equivalent for one in differences]
    assert set(told) == {True, False}
