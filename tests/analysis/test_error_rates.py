"""Error rates and power of the verdict, by simulation; the tables of the docs are what their script makes."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silo_analysis.estimates.containment import judge
from silo_analysis.estimates.typical import p_below
from tests.analysis.builder import oracle_cycle_of

DOCS = Path(__file__).parent.parent.parent / "docs"
TOLERANCE = 0.005
WORLDS = list(runpy.run_path(str(DOCS / "error_rates.py"))["WORLDS"])


@pytest.fixture(scope="module")
def simulation() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "error_rates.py"))


@pytest.mark.slow
@pytest.mark.parametrize("page", ["how-many-seeds.md", "error-rates.md"])
def test_the_tables_are_as_they_are_generated(simulation: dict[str, Any], page: str) -> None:
    text = (DOCS / "concepts" / page).read_text(encoding="utf-8")
    assert simulation["filled"](page, text) == text, "run `python docs/error_rates.py`"


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [5, 10, 20])
@pytest.mark.parametrize("world", WORLDS)
def test_a_wrong_verdict_is_rarer_than_five_in_a_hundred(simulation: dict[str, Any], world: str, seeds: int) -> None:
    inside, outside, _, _ = simulation["errors"](world, seeds)
    assert inside <= 0.05
    assert outside <= 0.05


@pytest.mark.parametrize("seeds", [5, 10, 20])
@pytest.mark.parametrize("world", WORLDS)
def test_a_wrong_verdict_is_rare_in_few_runs(simulation: dict[str, Any], world: str, seeds: int) -> None:
    inside, outside, _, _ = simulation["errors"](world, seeds, runs=1000)
    bound = 0.05 + 2 * math.sqrt(0.05 * 0.95 / 1000)
    assert inside <= bound
    assert outside <= bound


@pytest.mark.parametrize("seeds", [9, 10, 12, 20])
def test_no_law_passes_the_bounds_of_all_laws(simulation: dict[str, Any], seeds: int) -> None:
    bounds = simulation["any_law"](seeds)
    assert max(bounds) <= 0.08
    for world in simulation["HARD"]:
        for found, bound in zip(simulation["errors"](world, seeds, runs=2000)[:2], bounds, strict=True):
            assert found <= bound + 2.5 * math.sqrt(bound * (1 - bound) / 2000)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [5, 8, 10, 20])
@pytest.mark.parametrize("world", WORLDS)
def test_after_holm_over_twelve_cycles_anything_false_is_rare(
    simulation: dict[str, Any], world: str, seeds: int
) -> None:
    assert max(simulation["family_errors"](world, seeds)) <= 0.05


@pytest.mark.parametrize("world", ["skewed: few large gains", "two modes, 50 : 50"])  # where the plain t test errs most
def test_after_holm_few_seeds_err_rarely_in_few_runs(simulation: dict[str, Any], world: str) -> None:
    assert max(simulation["family_errors"](world, 5, runs=1000)) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 1000)


@pytest.mark.parametrize("seeds", [3, 5, 8, 12])
def test_its_p_values_are_those_of_the_report(simulation: dict[str, Any], seeds: int) -> None:
    drawn = np.random.default_rng(seeds).standard_normal((seeds, 300)) - np.linspace(-1, 6, 300)
    drawn[0, :40] = -np.inf
    found = simulation["p_values"](drawn, 0.1)
    assert found == pytest.approx([p_below(one, 0.1) for one in drawn.T], rel=1e-9)


def test_the_rule_speaks_at_the_normal_law(simulation: dict[str, Any]) -> None:
    # A rule that never speaks would pass every bound above.
    five, ten = (simulation["shares"](seeds, 0.0025, runs=1000) for seeds in (5, 10))
    assert five[1][0] > 0.8
    assert five[2][0] > 0.5
    assert min(ten[0][0], ten[1][0]) > 0.95
    assert ten[2][0] > 0.7
    assert simulation["errors"]("normal", 5, runs=4000)[0] > 0.025


@pytest.mark.parametrize("seeds", [3, 5, 7, 10])
def test_its_verdicts_are_those_of_the_report(simulation: dict[str, Any], seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    rates, levels = np.geomspace(0.01, 1.0, 5), [0.0, -0.002, 0.0, 0.003, -0.05]
    spread = rng.choice([0.0005, 0.002, 0.005], size=(200, 1, 1))
    val = 0.9 + rng.choice([0.0, 1.0, 4.0], size=(200, 1, 1)) * levels + spread * rng.standard_normal((200, seeds, 5))
    lost = rng.random(val.shape) < 0.03
    cycles = [
        oracle_cycle_of(one, rates, {"silo": rates[2]}, collapsed=gone) for one, gone in zip(val, lost, strict=True)
    ]
    gains = np.stack([np.delete(cycle.gains(2), 2, axis=1) for cycle in cycles])
    inside, outside = simulation["verdicts"](gains, TOLERANCE)
    names = [judge(cycle, "silo", TOLERANCE).name for cycle in cycles]
    assert [name == "inside" for name in names] == inside.tolist()
    assert [name == "outside" for name in names] == outside.tolist()
    assert set(names) == ({"undetermined"} if seeds < 5 else {"inside", "outside", "undetermined"})
