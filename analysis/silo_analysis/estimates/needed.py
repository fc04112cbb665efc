"""How many seeds a verdict that is undetermined would take."""

from __future__ import annotations

import numpy as np

from silo_analysis.estimates.containment import FEWEST_SEEDS, LEVEL
from silo_analysis.estimates.oracle import OracleCycle
from silo_analysis.estimates.typical import beyond, seeds_needed, upper_bound


def seeds_for_verdict(cycle: OracleCycle, arm: str, tolerance: float) -> tuple[int, int] | None:
    """Seeds in all at which the verdict would fall in 80 % of studies, did the differences stay as they are: a range.

    It looks at the rival that stands most in the way, the one with the highest upper bound. Below the tolerance its
    upper bound must come down to it (*inside*); above, its lower bound, Bonferroni over rivals, must rise to it
    (*outside*). The range is that of its paired spread (`typical.seeds_needed`), capped like that one where the
    difference lies at the tolerance itself; never below the seeds that any verdict takes. None where no rival has two
    paired seeds, or the schedule's own rate collapsed. A rival that collapsed is compared where it did not.

    Args:
        cycle: the Oracle's candidates.
        arm: the tested schedule.
        tolerance: difference of accuracies in [0, 1].
    """
    own = cycle.column(cycle.tested[arm]) if arm in cycle.tested else None
    if own is None or cycle.collapsed[:, own].any():
        return None
    gains = cycle.gains(own)[:, [i for i in np.flatnonzero(cycle.asked) if i != own]].T
    paired = [gain[np.isfinite(gain)] for gain in gains if np.isfinite(gain).sum() > 1]
    if not paired:
        return None
    worst = max(paired, key=upper_bound)
    gain = float(np.median(worst))
    level = LEVEL if gain < tolerance else 1 - (1 - LEVEL) / len(paired)
    found = seeds_needed(worst, abs(tolerance - gain), level)
    return None if found is None else beyond(max(FEWEST_SEEDS - 1, len(worst)), found)
