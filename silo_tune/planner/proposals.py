"""Points of a space of rates that favour no number of constants: spread evenly over it, then where more is expected.

A *position* has one number per constant, none below the one before it: 0 is the lowest and 1 the highest rate of the
study, in log. So a curve of two constants is its lowest and its highest rate.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[Any]

Position = tuple[float, ...]

# Positions among which the next one is chosen: about 16 × 16 of two constants.
CHOICES = 256
# Where the best position lies so near an edge, positions as far beyond that edge are choices too.
EDGE, BEYOND = 0.15, 0.25
# A Gaussian process takes the length scale and the share of noise that explain its values best.
LENGTHS, NOISES = (0.3, 0.6, 1.2, 2.4), (1e-4, 1e-2, 1e-1)


# Shares of all chains that a first and a later round get where later ones follow values: four rounds, whatever the sum.
FIRST_ROUND, LATER_ROUND = 2 / 5, 1 / 5
# So many values are the least that another position can follow from.
FEWEST_KNOWN = 3


def next_positions(
    heard: Sequence[tuple[Position, float | None]], chains: int, constants: int, seed: int, guided: bool
) -> list[Position]:
    """The positions of the next round; none when there were `chains` of them.

    Args:
        heard: positions of the complete rounds, in order, with their values (higher is better; None: it failed).
        chains: positions of all rounds.
        constants: of each position.
        seed: of the search; the same in all its rounds.
        guided: later rounds follow the values of earlier ones; else there is one round.
    """
    left = chains - len(heard)
    if left <= 0:
        return []
    share = 1.0 if not guided else LATER_ROUND if heard else FIRST_ROUND
    count = min(left, max(1 if heard else FEWEST_KNOWN, math.ceil(share * chains)))
    known = [(position, value) for position, value in heard if value is not None]
    if len(known) < FEWEST_KNOWN or len({value for _, value in known}) == 1:
        return spread(count, constants, seed, len(heard))
    return promising([position for position, _ in known], [value for _, value in known], count, seed + len(heard))


def spread(count: int, constants: int, seed: int, first: int = 0) -> list[Position]:
    """`count` positions of a low-discrepancy sequence, from number `first` on: Kronecker's, shifted by the seed.

    Its steps are powers of the inverse of the root of x^(d + 1) = x + 1 (Roberts 2018, "The unreasonable effectiveness
    of quasirandom sequences"): the golden ratio where d = 1. Any number of its first points is even, and standard
    Python makes them in microseconds, where importing scipy's Sobol' points takes longer than a plan.
    """
    root = 2.0
    for _ in range(60):
        root = (1.0 + root) ** (1.0 / (constants + 1))
    draw = random.Random(seed)
    shifts = [draw.random() for _ in range(constants)]
    steps = [root ** -(axis + 1) for axis in range(constants)]
    return [
        tuple(sorted((shift + number * step) % 1.0 for shift, step in zip(shifts, steps, strict=True)))
        for number in range(first + 1, first + count + 1)
    ]


def promising(tried: Sequence[Position], values: Sequence[float], count: int, seed: int) -> list[Position]:
    """The `count` positions at which the values of a Gaussian process promise most, one after the other.

    The promise is the expected improvement (Jones et al. 1998) over the best mean so far; a position that is chosen
    counts with its mean until its value is known (Ginsbourger et al. 2010, "kriging believer").

    Args:
        tried: positions.
        values: of these positions, higher is better; not all equal.
        count: how many positions.
        seed: of the positions among which is chosen.
    """
    import numpy as np

    best = tried[max(range(len(tried)), key=lambda i: values[i])]
    low = -BEYOND if min(best) < EDGE else 0.0
    high = 1.0 + BEYOND if max(best) > 1.0 - EDGE else 1.0
    among = low + (high - low) * np.array(spread(CHOICES, len(best), seed))
    places, known = np.array(tried, dtype=float), np.array(not_far_below(values))
    for _ in range(count):
        mean, deviation = _process(places, known, among)
        top = float(_process(places, known, places)[0].max())
        chosen = int(np.argmax(improvement(mean - top, deviation)))
        places, known = np.vstack([places, among[chosen]]), np.append(known, mean[chosen])
    return [tuple(map(float, place)) for place in places[len(tried) :]]


def not_far_below(values: Sequence[float]) -> list[float]:
    """The values, none further below the median than the best is above it: what collapsed tells only that it did."""
    ranked = sorted(values)
    middle = (ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2]) / 2
    return [max(value, 2 * middle - ranked[-1]) for value in values]


def improvement(gain: Floats, deviation: Floats) -> Floats:
    """Expected improvement of a normal variable whose mean lies `gain` above what there is (Jones et al. 1998)."""
    import numpy as np
    from scipy.special import erf

    z = gain / deviation
    found: Floats = gain * 0.5 * (1 + erf(z / math.sqrt(2))) + deviation * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return found


def _process(places: Floats, values: Floats, at: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation, at (m, d) positions, of the process that explains (n,) values at (n, d) places best.

    Squared-exponential kernel, constant mean; length scale and noise of a few (`LENGTHS`, `NOISES`), amplitude in
    closed form.
    """
    import numpy as np

    middle, scale = values.mean(), values.std() or 1.0
    standard = (values - middle) / scale
    apart = _distances(places, places)
    found: tuple[float, float, Floats, Floats, float] | None = None
    for length in LENGTHS:
        for noise in NOISES:
            kernel = np.exp(-apart / (2 * length**2)) + (noise + 1e-8) * np.eye(len(values))
            lower = np.linalg.cholesky(kernel)
            weights = np.linalg.solve(lower.T, np.linalg.solve(lower, standard))
            amplitude = max(float(standard @ weights) / len(values), 1e-12)
            likelihood = -0.5 * len(values) * math.log(amplitude) - float(np.log(np.diag(lower)).sum())
            if found is None or likelihood > found[0]:
                found = (likelihood, length, lower, weights, amplitude)
    assert found is not None
    _, length, lower, weights, amplitude = found
    cross = np.exp(-_distances(at, places) / (2 * length**2))
    explained = (np.linalg.solve(lower, cross.T) ** 2).sum(axis=0)
    deviation = np.sqrt(np.maximum(amplitude * (1 - explained), 1e-12))
    return middle + scale * (cross @ weights), scale * deviation


def _distances(left: Floats, right: Floats) -> Floats:
    """Squared distances, (m, n)."""
    found: Floats = ((left[:, None] - right[None]) ** 2).sum(axis=-1)
    return found
