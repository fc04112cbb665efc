"""What the fits see: smoothed mean curves of everything, without each cycle and without each seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from silo_analysis.curve_fit.fitted_response import Response, read
from silo_analysis.estimates.stats import BoolArray, FloatArray

STEP_DECADES = 0.05  # between neighbours of the parameter grid: 12 %
BANDWIDTH_DECADES = 0.4  # of the smoothing: a rate 0.25 decades away has 0.82 of the weight
# Rates further below the cycle's best are neither smoothed nor used to smooth others: a cliff must not leak.
NEAR = 0.03


@dataclass(frozen=True)
class Seen:
    """What the fits see, one row per fold: everything (0), without each cycle (1 … M), without each seed (the rest).

    Attributes:
        mesh: (L,) rates, rising, from the response's low to its high.
        curves: (F, M, L) smoothed mean accuracy over the fold's seeds, times the cycle's share in the fold's mean.
        shares: (F, M) those shares; 0 where the fold lacks the cycle, else equal.
    """

    mesh: FloatArray
    curves: FloatArray
    shares: FloatArray


def seen_by_folds(response: Response) -> Seen:
    """Every cycle counts alike, and in it every seed that has it."""
    kept = folds(response.present)
    counts = kept.sum(axis=1)
    known = counts > 0
    shares = known / np.maximum(known.sum(axis=1, keepdims=True), 1)
    mesh = np.unique(np.concatenate([levels(response), *response.rates]))
    mesh = mesh[(mesh >= response.low) & (mesh <= response.high)]
    curves = np.zeros((*shares.shape, len(mesh)))
    for m, (rates, val) in enumerate(zip(response.rates, response.val, strict=True)):
        means = kept[:, :, m].astype(float) @ np.nan_to_num(val) / np.maximum(counts[:, m, None], 1)
        for f in np.flatnonzero(known[:, m]):
            curves[f, m] = shares[f, m] * smoothed(rates, means[f], mesh)
    return Seen(mesh, curves, shares)


def folds(present: BoolArray) -> BoolArray:
    """(1 + M + S, S, M) what each fold keeps of what is `present` (S, M)."""
    seeds, cycles = present.shape
    kept = np.repeat(present[None], 1 + cycles + seeds, axis=0)
    for m in range(cycles):
        kept[1 + m, :, m] = False
    for s in range(seeds):
        kept[1 + cycles + s, s] = False
    return kept


def smoothed(rates: FloatArray, curve: FloatArray, mesh: FloatArray) -> FloatArray:
    """(L,) a mean curve (R,) over `rates`, smoothed and read at `mesh`.

    Near the best it is a quadratic in log max_lr, fitted around each point with Gaussian weights. Elsewhere, and where
    fewer than four rates are near the best, it is the curve as it was, along straight lines.
    """
    near = curve >= curve.max() - NEAR
    if near.sum() < 4:
        plain: FloatArray = read(rates, curve[None], mesh)[0]
        return plain
    x, at = np.log10(rates), np.log10(mesh)
    away = x[near] - np.concatenate([x[near], at])[:, None]
    root = np.exp(-0.25 * (away / BANDWIDTH_DECADES) ** 2)  # of the weight
    basis = np.stack([np.ones_like(away), away, away**2], axis=2) * root[:, :, None]
    smooth = ((np.linalg.pinv(basis)[:, 0] * root) @ curve[near]).ravel()
    nodes = curve.copy()
    nodes[near] = smooth[: near.sum()]
    right = np.clip(np.searchsorted(rates, mesh), 1, len(rates) - 1)
    inside = (near[right - 1] & near[right]) | np.isin(mesh, rates[near])
    found: FloatArray = np.where(inside, smooth[near.sum() :], read(rates, nodes[None], mesh)[0])
    return found


def levels(response: Response) -> FloatArray:
    """Rates that the parameters of a family take: the Oracle's grid, each step of it divided further."""
    asked = np.concatenate([r[a] for r, a in zip(response.rates, response.asked, strict=True)])
    inside = asked[(asked > response.low) & (asked < response.high)]
    nodes = np.log10(np.unique([response.low, *inside, response.high]))
    parts = np.maximum(1, np.ceil(np.diff(nodes) / STEP_DECADES - 1e-9)).astype(int)
    pieces = [np.linspace(a, b, n, endpoint=False) for a, b, n in zip(nodes[:-1], nodes[1:], parts, strict=True)]
    rates: FloatArray = np.clip(10 ** np.append(np.concatenate(pieces), nodes[-1]), response.low, response.high)
    return rates
