"""The responses of one Oracle as complete matrices, and how a curve over cycles is read off them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from silo_analysis.estimates.oracle import OracleCycle, oracle_cycles, oracles, verdict_oracle
from silo_analysis.estimates.stats import BoolArray, FloatArray
from silo_tune.errors import BadInput, unknown
from silo_tune.formats import plural
from silo_tune.study.arms import OracleArm
from silo_tune.study.model import Study

if TYPE_CHECKING:
    import pandas as pd

FEWEST_CYCLES, FEWEST_RATES = 3, 3


@dataclass(frozen=True)
class Response:
    """The responses of one Oracle, complete: (seeds, rates) matrices per cycle, without gaps.

    Attributes:
        oracle: its name.
        seeds: (S,) replicates with at least one cycle, rising.
        cycles: (M,) cycles with a response, rising.
        pruned: planned cumulative pruned fraction of every cycle from 0 on, up to the last of `cycles`.
        rates: per cycle (R,) max_lr, rising; asked and tested ones alike.
        asked: per cycle (R,) True for a rate of the Oracle's own grid.
        val, test: per cycle (S, R) score, signed so that more is better; a rate that collapsed has that of guessing.
            Rows of a seed without the cycle are NaN.
        low, high: the rates between which every cycle has a response.
        left_out: what was not used, in words.
        sign: +1, or -1 where less of the score is better.
    """

    oracle: str
    seeds: tuple[int, ...]
    cycles: tuple[int, ...]
    pruned: tuple[float, ...]
    rates: tuple[FloatArray, ...]
    asked: tuple[BoolArray, ...]
    val: tuple[FloatArray, ...]
    test: tuple[FloatArray, ...]
    low: float
    high: float
    left_out: tuple[str, ...] = ()
    sign: int = 1

    @property
    def present(self) -> BoolArray:
        """(S, M) the seed has the cycle."""
        return np.stack([np.isfinite(matrix[:, 0]) for matrix in self.val], axis=1)


def response_of(frame: pd.DataFrame, study: Study, oracle: str | None = None) -> Response:
    """The response of the named Oracle; left out, of the one that the verdict comes from, if it has a grid.

    Raises:
        BadInput: no such Oracle, none with a grid, or too few cycles or rates to fit a curve over cycles to.
    """
    groups = oracle_cycles(frame, study)
    name = _choose(study, {name for name, _ in groups}, oracle)
    found = response_from([group for (own, _), group in groups.items() if own == name], study.pruned, name)
    return replace(found, sign=study.scored.sign)


def _choose(study: Study, present: set[str], wanted: str | None) -> str:
    names = oracles(study)
    if not names:
        raise BadInput(
            "the study has no Oracle: a curve is fitted to the responses that an Oracle with a grid measures"
        )
    if wanted is not None and wanted not in names:
        raise BadInput(unknown("Oracle", wanted, names))
    with_grid = [name for name in names if _has_grid(study, name)]
    if wanted is not None and wanted not in with_grid:
        raise BadInput(
            f"Oracle {wanted!r} searches each seed at rates of its own: a fit needs an Oracle with a grid, whose rates "
            "are the same in all seeds"
        )
    if not with_grid:
        raise BadInput("no Oracle of the study has a grid: a fit needs one, whose rates are the same in all seeds")
    if wanted is not None:
        chosen = wanted
    else:
        preferred = verdict_oracle(study, present)
        ranked = ([preferred] if preferred in with_grid else []) + with_grid
        chosen = next((str(name) for name in ranked if name in present), str(ranked[0]))
    if chosen not in present:
        raise BadInput(f"Oracle {chosen!r} has no results yet: let it close cycles first")
    return chosen


def _has_grid(study: Study, oracle: str) -> bool:
    arm = study.arms[oracle]
    return isinstance(arm, OracleArm) and arm.grid is not None


def response_from(groups: Sequence[OracleCycle], pruned: Sequence[float], oracle: str = "oracle") -> Response:
    """The response in an Oracle's cycles.

    Args:
        groups: one Oracle's cycles.
        pruned: planned cumulative pruned fraction of every cycle from 0 on.
        oracle: its name.

    Raises:
        BadInput: fewer than `FEWEST_CYCLES` cycles have `FEWEST_RATES` rates in a seed.
    """
    usable = {group.cycle: found for group in groups if (found := _complete(group)) is not None}
    cycles = tuple(sorted(usable))
    seeds = tuple(sorted({seed for found in usable.values() for seed in found.seeds}))
    if len(cycles) < FEWEST_CYCLES:
        raise BadInput(
            f"Oracle {oracle!r} has {plural(len(cycles), 'cycle')} with results at {FEWEST_RATES} rates or more: a "
            f"curve over cycles is fitted to at least {FEWEST_CYCLES}; study more cycles, or resume a run under way"
        )
    low, high = (max(usable[m].rates[0] for m in cycles), min(usable[m].rates[-1] for m in cycles))
    if low >= high:
        raise BadInput(f"the cycles of Oracle {oracle!r} have no range of rates in common: a fit needs one grid")
    return Response(
        oracle=oracle,
        seeds=seeds,
        cycles=cycles,
        pruned=tuple(pruned[: cycles[-1] + 1]),
        rates=tuple(usable[m].rates for m in cycles),
        asked=tuple(usable[m].asked for m in cycles),
        val=tuple(_spread_rows(usable[m].val, usable[m].seeds, seeds) for m in cycles),
        test=tuple(_spread_rows(usable[m].test, usable[m].seeds, seeds) for m in cycles),
        low=float(low),
        high=float(high),
        left_out=tuple(_left_out(groups, usable)),
    )


@dataclass(frozen=True)
class _Complete:
    """A cycle's (seeds, rates) matrices without gaps."""

    seeds: tuple[int, ...]
    rates: FloatArray
    asked: BoolArray
    val: FloatArray
    test: FloatArray


def _complete(group: OracleCycle) -> _Complete | None:
    """Seeds that have both ends of the cycle's rates; gaps between (failed units) are filled in from the neighbours."""
    val, test = group.val, group.test
    known = np.isfinite(val) & np.isfinite(test)
    columns = np.flatnonzero(known.any(axis=0))
    if len(columns) < FEWEST_RATES:
        return None
    rows = np.flatnonzero(known[:, columns[0]] & known[:, columns[-1]] & (known.sum(axis=1) >= FEWEST_RATES))
    if len(rows) == 0:
        return None
    x = np.log(group.rates)

    def filled(matrix: FloatArray) -> FloatArray:
        return np.stack([np.interp(x[columns], x[known[s]], matrix[s, known[s]]) for s in rows])

    seeds = tuple(group.seeds[s] for s in rows)
    return _Complete(seeds, group.rates[columns], group.asked[columns], filled(val), filled(test))


def _spread_rows(matrix: FloatArray, own: Sequence[int], seeds: Sequence[int]) -> FloatArray:
    rows = np.full((len(seeds), matrix.shape[1]), np.nan)
    rows[[seeds.index(seed) for seed in own]] = matrix
    return rows


def _left_out(groups: Sequence[OracleCycle], usable: Mapping[int, _Complete]) -> Iterator[str]:
    for group in sorted(groups, key=lambda group: group.cycle):
        if group.cycle not in usable:
            yield f"cycle {group.cycle}: no seed has {FEWEST_RATES} rates and both ends of the grid"
        elif lost := [seed for seed in group.seeds if seed not in usable[group.cycle].seeds]:
            yield f"cycle {group.cycle}: without seed {', '.join(map(str, lost))}, where an end of the grid failed"


def read(rates: FloatArray, curves: FloatArray, at: FloatArray) -> FloatArray:
    """(S, C) accuracies of (S, R) curves over `rates` (R,), read at `at` (C,) within them, in log max_lr."""
    x, nodes = np.log(at), np.log(rates)
    right = np.clip(np.searchsorted(nodes, x), 1, len(nodes) - 1)
    gap = nodes[right] - nodes[right - 1]  # 0 between rates that differ in their last bit alone
    share = np.clip(np.divide(x - nodes[right - 1], gap, out=np.ones_like(gap), where=gap > 0), 0.0, 1.0)
    read_off: FloatArray = curves[:, right - 1] * (1 - share) + curves[:, right] * share
    return read_off


def worth(response: Response, peaks: FloatArray, test: bool = False) -> FloatArray:
    """(S, M, C) accuracy of C curves over cycles, given by `peaks` (C, M); NaN where a seed lacks the cycle."""
    matrices = response.test if test else response.val
    return np.stack([read(response.rates[m], matrices[m], peaks[:, m]) for m in range(len(response.cycles))], axis=1)
