from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from silo_analysis.estimates.containment import judge
from tests.analysis.builder import oracle_cycle_of

TOLERANCE = 0.005
RATES = [0.01, 0.03, 0.1, 1.0]
SILO = {"silo": 0.03}


def verdict(val: Any, collapsed: Any = None, asked: Any = None) -> tuple[str, str]:
    found = judge(oracle_cycle_of(val, RATES, SILO, collapsed=collapsed, asked=asked), "silo", TOLERANCE)
    return found.name, found.reason


def constant(levels: list[float], seeds: int = 5) -> Any:
    return np.tile(levels, (seeds, 1))


def test_no_spread_gives_the_mean() -> None:
    assert verdict(constant([0.8, 0.9, 0.904, 0.7]))[0] == "inside"
    assert verdict(constant([0.8, 0.9, 0.906, 0.7]))[0] == "outside"


def test_exactly_the_tolerance_is_neither() -> None:
    assert verdict(constant([0.8, 0.9, 0.905, 0.7]))[0] == "undetermined"


def test_the_schedule_that_is_best_is_inside() -> None:
    assert verdict(constant([0.8, 0.9, 0.85, 0.7]))[0] == "inside"


def test_noise_leaves_it_open() -> None:
    val = constant([0.8, 0.9, 0.903, 0.7])
    val[:, 2] += [0.02, -0.02, 0.01, -0.01, 0.0]
    name, reason = verdict(val)
    assert name == "undetermined"
    assert "0.1" in reason


def test_noise_that_all_rates_of_a_seed_share_cancels() -> None:
    val = constant([0.8, 0.9, 0.901, 0.7]) + np.array([[0.05], [-0.05], [0.02], [-0.03], [0.0]])
    assert verdict(val)[0] == "inside"


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_fewer_than_five_seeds_are_undetermined_whatever_they_say(seeds: int) -> None:
    assert verdict(constant([0.8, 0.9, 0.85, 0.7], seeds))[0] == "undetermined"
    assert verdict(constant([0.8, 0.5, 0.9, 0.7], seeds))[0] == "undetermined"


def test_a_missing_seed_of_the_schedule_counts() -> None:
    val = constant([0.8, 0.9, 0.85, 0.7])
    val[2, 1] = math.nan
    assert verdict(val) == ("undetermined", "4 of at least 5 seeds")


def test_a_missing_seed_of_another_rate_blocks_inside_but_not_outside() -> None:
    val = constant([0.8, 0.9, 0.85, 0.7])
    val[2, 2] = math.nan
    name, reason = verdict(val)
    assert name == "undetermined"
    assert "4 of at least 5 seeds" in reason
    val[:, 0] = 0.95
    assert verdict(val)[0] == "outside"


def test_a_better_rate_with_fewer_than_five_seeds_makes_nothing_outside() -> None:
    val = constant([0.8, 0.9, 0.95, 0.7])
    val[2, 2] = math.nan
    assert verdict(val)[0] == "undetermined"


def test_a_better_rate_that_collapsed_once_is_still_compared() -> None:
    val, collapsed = constant([0.8, 0.9, 0.85, 0.93], 12), np.zeros((12, 4))
    assert verdict(val)[0] == "outside"
    collapsed[3, 3] = 1
    assert verdict(val, collapsed)[0] == "outside"
    collapsed[:5, 3] = 1
    assert verdict(val, collapsed)[0] == "undetermined"
    collapsed[:11, 3] = 1
    assert verdict(val, collapsed)[0] == "inside"


def test_a_schedule_that_collapsed_is_judged_by_its_typical_gain_and_its_collapses_are_told() -> None:
    val, collapsed = constant([0.8, 0.9, 0.85, 0.7], 12), np.zeros((12, 4))
    collapsed[3, 1], val[3, 1] = 1, math.nan
    once = judge(oracle_cycle_of(val, RATES, SILO, collapsed=collapsed), "silo", TOLERANCE)
    assert (once.name, once.collapsed, once.n_seeds) == ("inside", 1, 12)
    collapsed[:11, 1] = 1
    often = judge(oracle_cycle_of(val, RATES, SILO, collapsed=collapsed), "silo", TOLERANCE)
    assert (often.name, often.collapsed) == ("outside", 11)


def test_a_collapse_of_the_schedule_where_others_trained_leaves_five_seeds_open() -> None:
    val, collapsed = constant([0.8, 0.9, 0.85, 0.7]), np.zeros((5, 4))
    collapsed[3, 1] = 1
    assert verdict(val, collapsed) == ("undetermined", "max_lr 0.01 trained where this one collapsed")


def test_where_every_training_collapsed_nothing_is_said() -> None:
    val = constant([0.8, 0.9, 0.85, 0.7])
    assert verdict(val, np.ones((5, 4))) == ("undetermined", "every training collapsed")


def test_a_far_worse_rate_does_not_hide_a_better_one() -> None:
    val = constant([0.2, 0.9, 0.95, 0.3]) + 0.003 * np.random.default_rng(0).standard_normal((5, 4))
    assert verdict(val)[0] == "outside"


def test_all_others_collapsed_is_inside_and_no_others_is_undetermined() -> None:
    collapsed = np.ones((5, 4))
    collapsed[:, 1] = 0
    assert verdict(constant([0.1, 0.9, 0.1, 0.1]), collapsed)[0] == "inside"
    assert verdict(constant([0.8, 0.9, 0.85, 0.7]), asked=[False, True, False, False])[0] == "undetermined"


def test_only_asked_rates_are_rivals() -> None:
    assert verdict(constant([0.8, 0.9, 0.95, 0.7]), asked=[True, False, False, True])[0] == "inside"


def test_a_schedule_without_a_row_is_not_tested() -> None:
    found = judge(oracle_cycle_of(constant([0.8, 0.9, 0.85, 0.7]), RATES, {}), "silo", TOLERANCE)
    assert (found.name, found.max_lr, found.rivals) == ("not tested", None, ())


def test_outside_is_corrected_over_rates_and_inside_is_not() -> None:
    rng = np.random.default_rng(0)
    val = constant([0.92, 0.9, 0.9, 0.9], 12) + 0.003 * rng.standard_normal((12, 4))
    alone = judge(oracle_cycle_of(val, RATES, SILO, asked=[True, True, False, False]), "silo", TOLERANCE)
    among = judge(oracle_cycle_of(val, RATES, SILO), "silo", TOLERANCE)
    assert among.rivals[0] == alone.rivals[0]
    assert alone.p_outside is not None
    assert among.p_outside is not None
    assert among.p_outside > alone.p_outside
