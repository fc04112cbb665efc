"""A comparison of curves in words: the table for a terminal, the conclusion, and a schedule arm in TOML."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from silo_analysis.curve_fit.comparison import FEWEST_SEEDS, Comparison, Fit
from silo_analysis.curve_fit.families import NOMINAL_BETA, RIVALS
from silo_analysis.estimates.oracle import describe
from silo_analysis.estimates.stats import Estimate, FloatArray
from silo_analysis.estimates.typical import paired_interval
from silo_tune.formats import DASH, difference, level, plural, points, rate, words
from silo_tune.planner.winner import gain
from silo_tune.study.model import Study
from silo_tune.study.wording import worded

CALLED = {
    "silo": "the S",
    "silo, beta 5": "the S with beta = 5",
    "constant": "a constant peak",
    "linear": "a straight line",
    "exponential": "an exponential",
}


@worded(lambda comparison, study: study)
def fit_lines(comparison: Comparison, study: Study) -> list[str]:
    """The table of families, the conclusion, and what limits it."""
    return [*_table(comparison), "", *conclusion(comparison, study), "", *limits(comparison)]


# --- the table ---


def family_head() -> tuple[str, ...]:
    """Heads the columns of `family_rows`."""
    test = "test %" if words().share else "test"
    return ("curve", "constants", "fitted", "new cycle", "95 % interval", "new seed", "95 % interval", test)


def family_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """One row of text per family, under `family_head`: its constants, regrets, test score."""
    return [_row(fit) for fit in comparison.fits.values()]


def _table(comparison: Comparison) -> Iterator[str]:
    rows = [family_head(), *family_rows(comparison)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        left = "  ".join(cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True))
        right = "  ".join(cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True))
        yield f"{left}  {right}".rstrip()


def _row(fit: Fit) -> tuple[str, ...]:
    constants = ", ".join(f"{key} {_short(value)}" for key, value in fit.parameters.items())
    cycle, seed = paired_interval(fit.new_cycle), paired_interval(fit.new_seed)
    return (
        fit.name,
        constants or DASH,
        points(_mean(fit.seen)),
        points(cycle.median),
        _ends(cycle),
        points(seed.median),
        _ends(seed),
        _level(fit.test),
    )


def _level(gains: FloatArray) -> str:
    mean = _mean(gains)
    return DASH if mean is None else level(gain(mean, words().sign), 2)


def _short(value: float) -> str:
    return f"{value:.3g}"


def _mean(values: FloatArray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _ends(estimate: Estimate) -> str:
    return DASH if estimate.low is None else f"{points(estimate.low)} to {points(estimate.high)}"


# --- the conclusion ---


def conclusion(comparison: Comparison, study: Study) -> list[str]:
    """Is there a rise, is it an S, does beta = 5 hold, how sure are the constants: in plain sentences."""
    seeds = len(comparison.response.seeds)
    sure = _sure(comparison)
    if seeds < FEWEST_SEEDS:
        return [
            f"The data cannot tell which curve is best: the run has {plural(seeds, 'seed')}, and curves are compared "
            f"over at least {FEWEST_SEEDS}.",
            *sure,
        ]
    return [_rise(comparison), _shape(comparison), *_rivals(comparison, study), _steepness(comparison), *sure]


def _rise(comparison: Comparison) -> str:
    found = comparison.trend()
    if found is None:
        return (
            "Does the best max_lr rise over the cycles? The data cannot tell: no curve that rises or falls is better "
            "than a constant peak on new seeds and on new cycles."
        )
    direction, name = found
    if direction == "fall":
        return f"The best max_lr does not rise, it falls: {CALLED[name]} that falls is better than a constant peak."
    return f"The best max_lr rises over the cycles: {CALLED[name]} is better than a constant peak."


def _shape(comparison: Comparison) -> str:
    verdicts = {rival: comparison.verdict(rival) for rival in RIVALS}
    better = [CALLED[rival] for rival, verdict in verdicts.items() if verdict == "worse"]
    if set(verdicts.values()) == {"better"}:
        return (
            "Is it S-shaped? Yes, as far as these families go: the S is better than each of the three simpler curves."
        )
    if better:
        return f"Is it S-shaped? No: {' and '.join(better)} did better than the S."
    if verdicts["constant"] == "the same curve":
        return "Is it S-shaped? The data cannot tell: the S that fits best has delta = 0, it is a constant peak."
    untold = [CALLED[rival] for rival, verdict in verdicts.items() if verdict != "better"]
    return f"Is it S-shaped? The data cannot tell the S from {' or '.join(untold)}."


def _rivals(comparison: Comparison, study: Study) -> Iterator[str]:
    for rival in RIVALS:
        verdict = comparison.verdict(rival)
        if verdict == "the same curve":
            yield f"  against {CALLED[rival]}: the same curve."
            continue
        seed, cycle = comparison.gain(rival), comparison.gain(rival, "new_cycle")
        yield (
            f"  against {CALLED[rival]}: {verdict}; gain {difference(seed.median)} on new seeds ({_ends(seed)}), "
            f"{points(cycle.median)} on new cycles ({_ends(cycle)}){_small((seed, cycle), study.report.tolerance)}."
        )


def _small(gains: tuple[Estimate, ...], tolerance: float) -> str:
    """Whatever the sign: is the difference surely below the tolerance?"""
    ends = [end for gain in gains for end in (gain.low, gain.high) if end is not None]
    within = ends and max(map(abs, ends)) < tolerance
    return f"; in any case less than the tolerance of {difference(tolerance, signed=False)}" if within else ""


def _steepness(comparison: Comparison) -> str:
    if comparison.fits["silo"].parameters["delta"] == 0:
        return "Does beta = 5 hold? Nothing can be said: the S that fits best has no rise."
    allowed = [fit.beta for fit in comparison.betas if fit.allowed]
    tried = [fit.beta for fit in comparison.betas]
    if allowed == tried:
        return (
            f"Does beta = 5 hold? The data cannot tell: from {tried[0]:g} to {tried[-1]:g} no beta does worse than "
            "another by more than the noise."
        )
    holds = "It is not ruled out" if NOMINAL_BETA in allowed else "No, another beta does better"
    ruled_out = [beta for beta in tried if beta not in allowed]
    return (
        f"Does beta = 5 hold? {holds}. Of those tried the data allow {', '.join(f'{beta:g}' for beta in allowed)} "
        f"and rule out {', '.join(f'{beta:g}' for beta in ruled_out)}."
    )


def _sure(comparison: Comparison) -> Iterator[str]:
    fit = comparison.fits["silo"]
    if len(comparison.response.seeds) > 1:
        yield f"Its constants over the fits that leave out one seed: {', '.join(_spans(fit))}."
    response = comparison.response
    edges = [
        f"cycle {cycle}"
        for cycle, best in zip(response.cycles, comparison.best.tolist(), strict=True)
        if best in (response.low, response.high)
    ]
    if edges:
        yield (
            f"The best rate is an edge of the rates that were tried ({rate(response.low)} to {rate(response.high)}) in "
            f"{', '.join(edges)}: no curve was fitted beyond."
        )


def _spans(fit: Fit) -> Iterator[str]:
    for key, (low, high) in fit.ranges.items():
        yield f"{key} {_short(low)}" if low == high else f"{key} {_short(low)} to {_short(high)}"


def limits(comparison: Comparison) -> Iterator[str]:
    """What the numbers are, and what limits them."""
    scores = "accuracies" if words().title == "accuracy" else "scores"
    yield (
        f"Regret: {words().plain_points} on validation below the best rate of each cycle in hindsight; of the fit to "
        "all, on "
        "each cycle of the fit without it, on each seed of the fit without it. Test: of the fit without the seed."
    )
    yield (
        f"All {scores} are read off the Oracle's responses, from the weights that its cycles started from: no network "
        "was trained along a fitted curve. Judge a fitted schedule on seeds that it was not fitted to."
    )
    yield from comparison.response.left_out


# --- the schedule ---


def arm_toml(comparison: Comparison) -> str:
    """The fitted S as a schedule arm of a study."""
    fit = comparison.fits["silo"].parameters
    values = ", ".join(f"{key} = {_number(fit[key])}" for key in ("eps", "delta", "beta"))
    return f'[arms.silo-fitted]\nmode = "schedule"\nschedule = {{ name = "silo", {values}, q = {int(fit["q"])} }}'


def _number(value: Any) -> str:
    return f"{float(f'{value:.4g}')!r}"


def title(comparison: Comparison, study: Study) -> str:
    """What was fitted to."""
    response = comparison.response
    return (
        f"Oracle {describe(study, response.oracle)}, {plural(len(response.seeds), 'seed')}, cycles "
        f"{response.cycles[0]} to {response.cycles[-1]}"
    )
