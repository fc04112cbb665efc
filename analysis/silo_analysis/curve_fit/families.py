"""The families of curves, each as a finite set, and the best curve of a family in every fold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from silo_analysis.curve_fit.fitted_response import Response, read
from silo_analysis.curve_fit.seen import Seen, levels
from silo_analysis.estimates.stats import FloatArray
from silo_tune.schedules.peaks import s_curve

NOMINAL_BETA, NOMINAL_Q = 5.0, 1
# In the order in which ties are broken: SILO's own value first. At 1 the S follows the pruned fraction; at 30 it is a
# step in the middle.
BETAS = (5.0, 4.0, 7.0, 3.0, 10.0, 2.0, 15.0, 1.5, 30.0, 1.0)
DELAYS = (1, 0, 2, 3)
TIE = 1e-12  # accuracies that differ by less are equal: sums of the same numbers in another order

# Family → names of its parameters; in the order shown.
FAMILIES: dict[str, tuple[str, ...]] = {
    "silo": ("eps", "delta", "beta", "q"),
    "silo, beta 5": ("eps", "delta", "beta", "q"),
    "constant": ("max_lr",),
    "linear": ("start", "end"),
    "exponential": ("start", "end"),
    "free rising": (),
    "free": (),
}
RIVALS = ("constant", "linear", "exponential")
RISING = ("silo", "linear", "exponential")


Block = tuple[FloatArray, FloatArray]  # parameters (C, P), peaks (C, M)


def _constants(response: Response, columns: Callable[[float], Sequence[float]]) -> Block:
    rates = levels(response)
    return np.array([columns(rate) for rate in rates]), np.repeat(rates[:, None], len(response.cycles), axis=1)


def constant(response: Response) -> Iterator[Block]:
    """max_lr."""
    yield _constants(response, lambda rate: (rate,))


def linear(response: Response) -> Iterator[Block]:
    """start (cycle 0), end (the last cycle): a straight line, rising or falling."""
    yield _constants(response, lambda rate: (rate, rate))
    start, end, share = _ramp(response)
    yield np.stack([start, end], axis=1), start[:, None] + (end - start)[:, None] * share


def exponential(response: Response) -> Iterator[Block]:
    """start (cycle 0), end (the last cycle): a straight line in log max_lr, rising or falling."""
    yield _constants(response, lambda rate: (rate, rate))
    start, end, share = _ramp(response)
    peaks = start[:, None] * (end / start)[:, None] ** share
    yield np.stack([start, end], axis=1), np.clip(peaks, response.low, response.high)


def _ramp(response: Response) -> tuple[FloatArray, FloatArray, FloatArray]:
    rates = levels(response)
    start, end = (grid.ravel() for grid in np.meshgrid(rates, rates, indexing="ij"))
    return start, end, np.array(response.cycles) / response.cycles[-1]


def silo(response: Response, beta: float) -> Iterator[Block]:
    """eps, delta, beta, q with the given beta."""
    yield _constants(response, lambda rate: (rate, 0.0, beta, NOMINAL_Q))
    rates = levels(response)
    i, j = np.triu_indices(len(rates), k=1)
    eps, delta = rates[i], rates[j] - rates[i]
    for q in DELAYS:
        fractions = [response.pruned[m - q] if m >= q else 0.0 for m in response.cycles]
        shape = np.array([s_curve(z, beta, 0.5) for z in fractions])
        columns = np.stack([eps, delta, np.full(len(eps), beta), np.full(len(eps), q)], axis=1)
        yield columns, np.clip(eps[:, None] + delta[:, None] * shape, response.low, response.high)


@dataclass(frozen=True)
class Found:
    """The best curve of a family in every fold: scores (F,), parameters (F, P), peaks (F, M)."""

    scores: FloatArray
    parameters: FloatArray
    peaks: FloatArray


def search(seen: Seen, blocks: Iterator[Block]) -> Found:
    """The curve of a family that is worth most in each fold; the first of equals."""
    found: Found | None = None
    for parameters, peaks in blocks:
        scores = np.zeros((len(seen.curves), len(peaks)))
        for m in range(peaks.shape[1]):
            scores += read(seen.mesh, seen.curves[:, m], peaks[:, m])
        first = first_best(scores)
        top = np.take_along_axis(scores, first[:, None], axis=1)[:, 0]
        found = better_of(found, Found(top, parameters[first], peaks[first]))
    assert found is not None
    return found


def better_of(old: Found | None, new: Found) -> Found:
    """Fold by fold the better one; the old one of equals."""
    if old is None:
        return new
    won = new.scores > old.scores + TIE
    return Found(
        np.where(won, new.scores, old.scores),
        np.where(won[:, None], new.parameters, old.parameters),
        np.where(won[:, None], new.peaks, old.peaks),
    )


def free(response: Response, seen: Seen, rising: bool) -> Found:
    """The best rate of each cycle, or the best sequence that never falls.

    A cycle that a fold leaves out lies between its neighbours (in log max_lr); at an end it has its neighbour's rate.
    """
    cycles = np.array(response.cycles)
    peaks = np.full(seen.shares.shape, response.low)
    for f in np.flatnonzero(seen.shares.any(axis=1)):
        known = seen.shares[f] > 0
        columns = highest_rising_path(seen.curves[f, known]) if rising else first_best(seen.curves[f, known])
        peaks[f] = np.exp(np.interp(cycles, cycles[known], np.log(seen.mesh[columns])))
        peaks[f, known] = seen.mesh[columns]  # exactly
    return Found(np.zeros(len(peaks)), np.zeros((len(peaks), 0)), np.clip(peaks, response.low, response.high))


def first_best(curves: FloatArray) -> Any:
    """Index of the largest value along the last axis; the first of equals."""
    return (curves >= curves.max(axis=-1, keepdims=True) - TIE).argmax(axis=-1)


def highest_rising_path(curves: FloatArray) -> Any:
    """(M,) columns of (M, L) that never fall from row to row and have the largest sum; the smallest of equals."""
    total, came_from = curves[0], []
    for row in curves[1:]:
        reached = np.maximum.accumulate(total)
        came_from.append([int(first_best(total[: j + 1])) for j in range(len(total))])
        total = reached + row
    path = [int(first_best(total))]
    for back in reversed(came_from):
        path.append(back[path[-1]])
    return np.array(path[::-1])
