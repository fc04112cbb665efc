"""Error rates of the report's rules on tables whose truth is known, at the normal law; `test_error_rates` has others.

Noise is in accuracy units and is *paired*: the standard deviation over seeds of the difference between two rates or
arms. Every bound is the rule's own level plus two binomial standard errors of the simulation (`allowed`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from silo_analysis.estimates.containment import judge
from silo_analysis.estimates.oracle import OracleCycle
from silo_analysis.estimates.ranking import rank_intervals
from silo_analysis.estimates.regret import crossfit_regret, cycle_regret
from silo_analysis.estimates.stats import FloatArray, holm
from silo_analysis.estimates.summary import summarise
from silo_analysis.estimates.typical import p_below, paired_interval, tost, two_sided_p
from tests.analysis.builder import ARMS, make_frame, make_study, oracle_cycle_of

TOLERANCE = 0.005
POINT = 0.01
GRID = np.geomspace(0.01, 1.0, 9)
OWN = 4
NOISES = [0.1 * POINT, 0.5 * POINT, 1.0 * POINT]


def allowed(runs: int, level: float = 0.05) -> float:
    return level + 2 * math.sqrt(level * (1 - level) / runs)


def draw(
    rng: np.random.Generator, levels: Any, shape: tuple[int, ...], noise: float, shared: float = 0.02
) -> FloatArray:
    """(*shape, rates) accuracies around (rates,) levels: noise of each unit, and noise that a seed's rates share."""
    own = noise / math.sqrt(2) * rng.standard_normal((*shape, len(levels)))
    drawn: FloatArray = np.asarray(levels) + own + shared * rng.standard_normal((*shape, 1))
    return drawn


def levels(own: float, best: float, others: float, bests: int = 1) -> FloatArray:
    """Mean accuracies at the grid: of the schedule's rate, of the best ones, of the rest."""
    made = np.full(len(GRID), others)
    made[:bests], made[OWN] = best, own
    return made


def verdicts(val: FloatArray) -> list[str]:
    """The verdict of each of (runs, seeds, rates) tables."""
    return [judge(oracle_cycle_of(one, GRID, {"silo": GRID[OWN]}), "silo", TOLERANCE).name for one in val]


# --- verdicts ---

RUNS = 400


@pytest.mark.parametrize("noise", NOISES)
def test_a_rival_at_the_tolerance_makes_inside_rare(noise: float) -> None:
    val = draw(np.random.default_rng(1), levels(0.9, 0.9 + TOLERANCE, 0.85), (RUNS, 5), noise)
    assert verdicts(val).count("inside") / RUNS <= allowed(RUNS)


@pytest.mark.parametrize("noise", NOISES)
def test_the_best_at_the_tolerance_makes_outside_rare(noise: float) -> None:
    val = draw(np.random.default_rng(2), levels(0.9, 0.9 + TOLERANCE, 0.9 + TOLERANCE), (RUNS, 5), noise)
    assert verdicts(val).count("outside") / RUNS <= allowed(RUNS)


def test_three_seeds_say_nothing() -> None:
    clear = draw(np.random.default_rng(4), levels(0.9, 0.9, 0.85), (20, 3), 0.01 * POINT)
    assert set(verdicts(clear)) == {"undetermined"}


def test_the_rule_has_power_where_seeds_resolve_the_tolerance() -> None:
    rng = np.random.default_rng(5)
    inside = verdicts(draw(rng, levels(0.9, 0.9, 0.85), (200, 5), 0.14 * POINT))
    outside = verdicts(draw(rng, levels(0.9, 0.92, 0.85), (200, 5), 0.14 * POINT))
    assert inside.count("inside") > 190
    assert outside.count("outside") > 190


@pytest.mark.slow
@pytest.mark.parametrize(("wrong", "others"), [("inside", 0.85), ("outside", 0.9 + TOLERANCE)])
def test_errors_of_whole_runs_by_way_of_their_tables(wrong: str, others: float) -> None:
    def response(cycle: int, rate: float) -> float:
        return 0.9 if rate == 0.1 else 0.9 + TOLERANCE if rate < 0.011 else others

    arms = {
        "silo": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.1}},
        "oracle": {**ARMS["oracle"], "prefix": "arm:silo"},
    }
    study = make_study(arms, seeds=5, cycles=9, tolerance=TOLERANCE)
    found: list[str] = []
    for run in range(24):
        frame = make_frame(study, response, noise=0.003, random_seed=run)
        found += summarise(frame, study).cycles["verdict"].tolist()
    assert len(found) == 24 * 8
    assert found.count(wrong) / len(found) <= allowed(len(found))


def test_holm_over_cycles_keeps_the_familywise_error() -> None:
    # Eight cycles, in each of which the one rival is exactly at the tolerance.
    rng, runs = np.random.default_rng(6), 1500
    gaps = TOLERANCE + 0.3 * POINT * rng.standard_normal((runs, 8, 12))
    wrong = sum(min(holm([p_below(cycle, TOLERANCE) for cycle in run])) < 0.05 for run in gaps)
    assert 0.01 <= wrong / runs <= allowed(runs)


# --- differences of arms ---


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("noise", [NOISES[0], NOISES[-1]])
def test_intervals_cover_what_they_claim(seeds: int, noise: float) -> None:
    runs, truth = 2000, 0.3 * POINT
    found = [paired_interval(d) for d in truth + noise * np.random.default_rng(seeds).standard_normal((runs, seeds))]
    covered = sum(one.low <= truth <= one.high for one in found if one.low is not None and one.high is not None)
    assert 0.94 <= covered / runs <= 0.985


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_cover_with_counts_of_few_images(seeds: int) -> None:
    # Accuracies of two arms on 360 images each: steps of 0.28 pp, and not normal.
    runs, rng = 2000, np.random.default_rng(seeds)
    gaps = (rng.binomial(360, 0.97, (runs, seeds)) - rng.binomial(360, 0.95, (runs, seeds))) / 360
    found = [paired_interval(gap) for gap in gaps]
    covered = sum(one.low <= 0.02 <= one.high for one in found if one.low is not None and one.high is not None)
    assert 0.94 <= covered / runs <= 0.985


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("noise", NOISES)
def test_equivalence_is_rarely_shown_at_the_margin(seeds: int, noise: float) -> None:
    runs, rng = 3000, np.random.default_rng(seeds)
    shown = sum(tost(d, TOLERANCE).equivalent for d in TOLERANCE + noise * rng.standard_normal((runs, seeds))) / runs
    assert shown <= allowed(runs)
    if noise == NOISES[0] and seeds > 3:  # the far margin is out of sight: the level is used up
        assert shown >= 0.025


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("different", [0, 3])
def test_holm_over_arms_keeps_the_familywise_error(seeds: int, different: int) -> None:
    # Eight arms against the judged one, whose noise all differences share; the last ones are two points worse.
    runs, rng = 500, np.random.default_rng(seeds)
    means = np.concatenate([np.zeros(9 - different), np.full(different, -2 * POINT)])
    equal = 8 - different
    wrong = 0
    for scores in draw(rng, means, (runs, seeds), 0.3 * POINT):
        adjusted = holm([two_sided_p(scores[:, i] - scores[:, 0]) for i in range(1, 9)])
        wrong += min(adjusted[:equal]) < 0.05
    assert wrong / runs <= allowed(runs)


# --- ranks ---

RANKED = {
    "all equal": [0.90, 0.90, 0.90, 0.90, 0.90],
    "two best": [0.90, 0.90, 0.898, 0.895, 0.88],
    "a step": [0.90, 0.90, 0.90, 0.89, 0.89],
}
UNEQUAL = np.array([1.0, 1.0, 3.0, 0.3, 1.0])  # noise of each arm, relative


def true_ranks(means: list[float]) -> list[tuple[int, int]]:
    """Arms of equal means share the ranks that they take up."""
    return [(1 + sum(other > own for other in means), sum(other >= own for other in means)) for own in means]


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("case", RANKED)
def test_rank_intervals_hold_the_true_ranks_all_at_once(seeds: int, case: str) -> None:
    runs, rng, means = 400, np.random.default_rng(seeds), RANKED[case]
    missed = 0
    for noise in (0.1 * POINT, 1.0 * POINT):
        unit = noise / math.sqrt(2) * UNEQUAL * rng.standard_normal((runs // 2, seeds, 5))
        for scores in np.array(means) + unit + 0.02 * rng.standard_normal((runs // 2, seeds, 1)):
            best, worst = rank_intervals(scores)
            truth = true_ranks(means)
            missed += not all(b <= t[0] and t[1] <= w for b, w, t in zip(best, worst, truth, strict=True))
    assert missed / runs <= allowed(runs)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_rank_intervals_hold_with_counts_of_few_images(seeds: int) -> None:
    runs, rng, wrong = 400, np.random.default_rng(seeds), 0
    for scores in rng.binomial(360, 0.95, (runs, seeds, 5)) / 360:
        wrong += rank_intervals(scores) != ([1] * 5, [5] * 5)
    assert wrong / runs <= allowed(runs)


def test_rank_intervals_are_the_true_ranks_where_noise_is_small() -> None:
    scores = draw(np.random.default_rng(0), RANKED["two best"], (10,), 0.02 * POINT)
    assert list(zip(*rank_intervals(scores), strict=True)) == true_ranks(RANKED["two best"])


# --- regret ---

CURVE = np.array([0.880, 0.897, 0.899, 0.900, 0.896, 0.900, 0.898, 0.890, 0.870])


def oracle_of(rng: np.random.Generator, means: FloatArray, seeds: int, luck: float, noise: float) -> OracleCycle:
    """One cycle: `luck` of a training is in both its accuracies, `noise` in each of them alone."""
    trained = means + luck * rng.standard_normal((seeds, len(means)))
    val, test = trained + noise * rng.standard_normal((2, seeds, len(means)))
    return oracle_cycle_of(val, GRID, {"silo": GRID[OWN]}, test=test)


def mean_and_error(values: list[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_crossfit_regret_is_unbiased_for_the_rate_that_other_seeds_choose(seeds: int) -> None:
    rng, off, regret = np.random.default_rng(seeds), dict[str, list[float]](val=[], test=[]), list[float]()
    for _ in range(600):
        rows = crossfit_regret(oracle_of(rng, CURVE, seeds, luck=0.004, noise=0.003), "silo")
        target = [CURVE[GRID.tolist().index(row["chosen_max_lr"])] - CURVE[OWN] for row in rows]
        for split, kept in off.items():
            kept.append(float(np.mean([row[f"regret_{split}"] for row in rows]) - np.mean(target)))
        regret.append(float(np.mean([row["regret_test"] for row in rows])))
    for kept in off.values():
        mean, error = mean_and_error(kept)
        assert abs(mean) <= 3 * error
    mean, error = mean_and_error(regret)
    assert mean <= CURVE.max() - CURVE[OWN] + 2 * error  # the chosen rate is at most as good as the best


def regrets(luck: float, noise: float, kind: Any = cycle_regret) -> dict[str, tuple[float, float]]:
    """Mean and standard error over runs of the regret where all rates are equally good."""
    rng, found = np.random.default_rng(0), list[dict[str, Any]]()
    for _ in range(400):
        found += kind(oracle_of(rng, np.full(9, 0.9), 5, luck, noise), "silo")
    return {split: mean_and_error([row[f"regret_{split}"] for row in found]) for split in ("val", "test")}


def test_cycle_regret_is_optimistic_on_validation_and_not_on_test() -> None:
    found = regrets(luck=0.0, noise=0.005)
    assert found["val"][0] > 0.005  # the best of nine draws lies 1.5 standard deviations up
    assert abs(found["test"][0]) <= 3 * found["test"][1]


def test_the_luck_of_a_training_stays_in_cycle_regret_and_not_in_the_crossfitted_one() -> None:
    kept = regrets(luck=0.005, noise=0.001)
    assert kept["test"][0] > 0.005
    # Held-out differences of one run share the choice of its other seeds: a wide bound.
    for mean, error in regrets(luck=0.005, noise=0.001, kind=crossfit_regret).values():
        assert abs(mean) <= 4 * error
