"""Writes the tables of docs/concepts/how-many-seeds.md on seeds that are trained until they are decided.

python docs/looks.py               # rewrites what stands between <!-- NAME --> and <!-- end -->; some minutes

The worlds are those of `error_rates.py`, and the rule is that of `estimates.sequential`, on many runs at once. A run is
one cycle. Its rates are a grid, in whose middle the schedule's own value lies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from error_rates import (
    BETTER,
    FAMILY,
    FAR,
    NOISES,
    RANDOM_SEED,
    RIVALS,
    TOLERANCE,
    WORLDS,
    normal,
    p_values,
    t_values,
    verdicts,
)

from silo_analysis.estimates.containment import LEVEL, p_outside
from silo_analysis.estimates.sequential import DROP_LEVEL, SPENT, T_FACTOR, levels
from silo_analysis.estimates.stats import ROUNDING
from silo_analysis.estimates.typical import CALIBRATION, FAMILY_CALIBRATION, order_ps

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

PAGE = Path(__file__).parent / "concepts" / "how-many-seeds.md"
PLANS = ((5, 10), (6, 12, 18), (5, 10, 15, 20))
RUNS, FAMILIES = 10_000, 1_000
LOST = 1e6  # the gain where only one of two trainings collapsed, in the worlds: such gains stay comparable
FARTHEST = 1e5

# --- the rule, on many runs at once ---


@dataclass(frozen=True)
class Ended:
    """What the looks of T runs came to; (T,) each.

    Attributes:
        inside, outside: decided so.
        seeds: trained when the last look was made.
        trained: trainings of rates and of the schedule's own value up to then.
    """

    inside: BoolArray
    outside: BoolArray
    seeds: npt.NDArray[np.intp]
    trained: npt.NDArray[np.intp]


def run_looks(gains: FloatArray, tolerance: float, looks: tuple[int, ...], drop: bool = True, family: int = 1) -> Ended:
    """Look at runs until they are decided, as `sequential.judge_looks` and `sequential.dropped_at` do.

    Args:
        gains: (T, S, R) score(rate) − score(schedule), rates by rising max_lr; ±`LOST` where one of the two collapsed.
        tolerance: difference of scores.
        looks: seeds at each look.
        drop: drop rates that are shown to be worse than the best.
        family: cycles that p values are corrected for, which must then be firm.
    """
    runs, _, rates = gains.shape
    shown, active = np.zeros((runs, rates), dtype=bool), np.ones((runs, rates), dtype=bool)
    inside, outside = np.zeros(runs, dtype=bool), np.zeros(runs, dtype=bool)
    seeds, trained = np.zeros(runs, dtype=np.intp), np.zeros(runs, dtype=np.intp)
    for before, now, level in zip((0, *looks), looks, levels(looks, SPENT / family), strict=False):
        left = np.flatnonzero(~inside & ~outside)
        trained[left] += (now - before) * (1 + active[left].sum(axis=1))
        seeds[left] = now
        seen, open_ = gains[left, :now], active[left]
        if drop:
            worse, p = _dropped(seen, tolerance, open_)
            active[left] = open_ = open_ & ~worse
            shown[left] |= worse & ((p * len(looks) < (1 - LEVEL) / family) | (family == 1))
        shown[left] |= (_below if family == 1 else _firmly_below)(seen, tolerance, T_FACTOR) < level
        inside[left] = shown[left].all(axis=1)
        outside[left] = _outside(seen, tolerance, open_, level) & ~inside[left]
    return Ended(inside, outside, seeds, trained)


def _below(gains: FloatArray, tolerance: float, t_factor: float) -> FloatArray:
    """(T, R) p values of "below the tolerance": `sequential.early_p` of every rate."""
    runs, seeds, rates = gains.shape
    columns = _lost(gains).transpose(1, 0, 2).reshape(seeds, -1)
    p = np.minimum(1.0, CALIBRATION * order_ps(columns, tolerance))
    agreed = (columns < tolerance - ROUNDING).all(axis=0)
    p[agreed] = np.minimum(p[agreed], t_factor * t_values(columns[:, agreed], tolerance))
    return p.reshape(runs, rates)


def _firmly_below(gains: FloatArray, tolerance: float, t_factor: float) -> FloatArray:
    """(T, R) `sequential.firm_p` of every rate."""
    runs, seeds, rates = gains.shape
    columns = _lost(gains).transpose(1, 0, 2).reshape(seeds, -1)
    return np.maximum(_below(gains, tolerance, t_factor), p_values(columns, tolerance).reshape(runs, rates))


def _lost(gains: FloatArray) -> FloatArray:
    """The gains, infinite where one of the two trainings collapsed."""
    return np.where(gains > FARTHEST, np.inf, np.where(gains < -FARTHEST, -np.inf, gains))


def _outside(gains: FloatArray, tolerance: float, active: BoolArray, level: float) -> BoolArray:
    runs, seeds, rates = gains.shape
    gains = _lost(gains)
    if FAMILY_CALIBRATION * rates * 0.5**seeds <= level:
        p = order_ps(-gains.transpose(1, 0, 2).reshape(seeds, -1), -tolerance).reshape(runs, rates)
        found: BoolArray = np.any((FAMILY_CALIBRATION * rates * p < level) & active, axis=1)
        return found
    found = np.zeros(runs, dtype=bool)
    if 0.5**seeds < level:  # sign flips can say so
        agreed = np.flatnonzero(np.any(np.all(gains > tolerance, axis=1) & active, axis=1))
        found[agreed] = [p_outside(gains[r][:, active[r]], tolerance, level, rates) < level for r in agreed]
    return found


def _dropped(gains: FloatArray, tolerance: float, active: BoolArray) -> tuple[BoolArray, FloatArray]:
    """(T, R) rates that are dropped, and firm p values: `sequential.dropped_at`. The schedule's own rate is kept."""
    runs, _, rates = gains.shape
    middle = rates // 2  # the schedule's own value lies below the rate of this index
    medians = np.where(active, np.median(gains, axis=1), -np.inf)
    best = medians.argmax(axis=1)
    own = medians.max(axis=1) <= 0
    top = np.where(own[:, None], 0.0, gains[np.arange(runs), :, best])
    ahead = gains - top[:, :, None]
    worse = (_below(ahead, -tolerance, 1.0) < DROP_LEVEL) | (ahead < -FARTHEST).all(axis=1)
    kept = np.zeros((runs, rates), dtype=bool)
    kept[~own, best[~own]] = True
    index = np.arange(rates)
    place = np.where(own, middle - 0.5, best)[:, None]
    below = np.where(active & (index < place), index, -1).max(axis=1)
    above = np.where(active & (index > place), index, rates).min(axis=1)
    kept[below >= 0, below[below >= 0]] = True
    kept[above < rates, above[above < rates]] = True
    return worse & active & ~kept, _firmly_below(ahead, -tolerance, 1.0)


# --- how often it is wrong ---


def drawn(world: str, runs: int, seeds: int) -> FloatArray:
    """(runs, seeds, RIVALS) gains whose median is 0."""
    rng = np.random.default_rng((RANDOM_SEED, seeds, *world.encode()))
    return np.clip(WORLDS[world](rng, (runs, seeds, RIVALS)), -LOST, LOST)


# What the other rates do while one lies on the tolerance: far worse; a band; all on it.
BANDS = {
    "far": np.array([-40.0, -40, -40, -40, 0, -40, -40, -40]),
    "band": np.array([-40.0, -15, -6, -2, -1, 0, -2, -12]),
    "edge": np.array([0.0, -1, -3, -1, -1, -3, -10, -30]),
}


def errors(world: str, looks: tuple[int, ...], runs: int = RUNS, drop: bool = True) -> tuple[float, float]:
    """False inside (the worst band) and false outside, in [0, 1]."""
    gains = drawn(world, runs, looks[-1])
    inside = [run_looks(gains + band, 0.0, looks, drop).inside.mean() for band in BANDS.values()]
    return float(max(inside)), float(run_looks(gains, 0.0, looks, drop).outside.mean())


def error_table() -> str:
    """A row per world: false inside and false outside of every plan, in percent."""
    plans = [", ".join(map(str, looks)) for looks in PLANS]
    head = ("World", *(f"inside, looks at {plan}" for plan in plans), *(f"outside, looks at {plan}" for plan in plans))
    rows = []
    for world in WORLDS:
        found = [errors(world, looks) for looks in PLANS]
        rows.append((world, *(f"{100 * one[0]:.1f}" for one in found), *(f"{100 * one[1]:.1f}" for one in found)))
    return markdown(head, rows)


# --- twelve cycles at once ---


def family_errors(world: str, looks: tuple[int, ...], families: int = FAMILIES) -> tuple[float, float]:
    """How often a false inside (in the worst band), and a false outside, stands after Holm's correction over 12 cycles.

    A p value stands where the looks would show it if a twelfth of the errors were spent in all. A cycle goes on here
    until that is so, where a run stops as soon as it is decided: what is found is an upper bound.
    """
    gains = drawn(world, families * FAMILY, looks[-1])

    def any_of(wrong: BoolArray) -> float:
        return float(wrong.reshape(families, FAMILY).any(axis=1).mean())

    inside = [any_of(run_looks(gains + band, 0.0, looks, family=FAMILY).inside) for band in BANDS.values()]
    return max(inside), any_of(run_looks(gains, 0.0, looks, family=FAMILY).outside)


def family_table() -> str:
    """A row per world: errors over 12 cycles after Holm, in percent."""
    plans = [", ".join(map(str, looks)) for looks in PLANS]
    head = ("World", *(f"{kind}, looks at {plan}" for kind in ("inside", "outside") for plan in plans))
    rows = []
    for world in WORLDS:
        found = [family_errors(world, looks) for looks in PLANS]
        rows.append((world, *(f"{100 * one[kind]:.1f}" if one[kind] else "never" for kind in (0, 1) for one in found)))
    return markdown(head, rows)


# --- how often it speaks, and after how many seeds ---


def cases() -> Mapping[str, tuple[FloatArray, bool]]:
    """Gains of the rates over the schedule, and whether *inside* is right."""
    alone, better = np.full(RIVALS, FAR), np.zeros(RIVALS)
    alone[RIVALS // 2] = 0.0
    better[RIVALS // 2] = BETTER
    return {
        "inside: all nine rates equal": (np.zeros(RIVALS), True),
        "inside: one other rate equal, the rest worse": (alone, True),
        "outside: one rate a percentage point better": (better, False),
    }


def power(noise: float, means: FloatArray, inside: bool, runs: int = RUNS) -> tuple[float, float, float, float]:
    """Shares of right verdicts of as many fixed seeds and of the looks; mean seeds; trainings as a share of all."""
    looks = PLANS[-1]
    rng = np.random.default_rng((RANDOM_SEED, looks[-1]))
    gains = noise * normal(rng, (runs, looks[-1], RIVALS)) + means
    fixed, ended = verdicts(gains, TOLERANCE)[0 if inside else 1], run_looks(gains, TOLERANCE, looks)
    right = ended.inside if inside else ended.outside
    share = ended.trained.mean() / (looks[-1] * (1 + RIVALS))
    return float(fixed.mean()), float(right.mean()), float(ended.seeds.mean()), float(share)


def power_table() -> str:
    """A row per noise and case."""
    head = ("paired noise, percentage points", "case", "20 fixed seeds", "looks", "mean seeds", "trainings")
    rows = []
    for noise in NOISES:
        for case, (means, inside) in cases().items():
            fixed, right, seeds, share = power(noise, means, inside)
            cells = (f"{100 * fixed:.0f}", f"{100 * right:.0f}", f"{seeds:.1f}", f"{100 * share:.0f}")
            rows.append((f"{100 * noise:g}", case, *cells))
    return markdown(head, rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" if row else "|" + "---|" * len(head) for row in (head, (), *rows))


# --- the page ---

TABLES: Mapping[str, Callable[[], str]] = {
    "looks-errors": error_table,
    "looks-family": family_table,
    "looks-power": power_table,
}


def filled(text: str) -> str:
    """The text of the page with these tables made anew."""
    for name, table in TABLES.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        made = table()
        text = block.sub(lambda found, made=made: f"{found[1]}{made}\n{found[2]}", text)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
