"""Writes the tables of docs/concepts/error-rates.md and how-many-seeds.md: how often verdicts and intervals are right.

python docs/error_rates.py         # rewrites what stands between <!-- NAME --> and <!-- end -->; some minutes

Runs with a known truth are drawn, and the rules of `estimates.containment` and `estimates.typical` are applied to them.
A run is one cycle: the gains of eight other rates over the schedule's own, in each of n seeds. Noise is *paired*: of
the difference between two rates, in standard deviations of its normal part. What all rates of a seed share cancels and
is not drawn. Intervals over seeds and test images have worlds of their own, where single images are right or wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import special

from silo_analysis.estimates.containment import FEWEST_SEEDS, LEVEL, p_outside
from silo_analysis.estimates.examples import both_interval, mean_test
from silo_analysis.estimates.stats import ROUNDING
from silo_analysis.estimates.typical import (
    CALIBRATION,
    FAMILY_CALIBRATION,
    LEAST_SHARE,
    calibrated,
    calibrated_t,
    order_ps,
    paired_interval,
    tost,
)

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Draw = Callable[[np.random.Generator, tuple[int, int, int]], FloatArray]

PAGES = Path(__file__).parent / "concepts"
RIVALS = 8
RUNS = 10_000
RANDOM_SEED = 20

# --- the rules, on many runs at once ---


def verdicts(gains: FloatArray, tolerance: float) -> tuple[BoolArray, BoolArray]:
    """Which runs are inside, and which outside; (T,) each. The rule is that of `containment.judge`.

    Args:
        gains: (T, S, R) score(rate) − score(schedule) of T runs, infinite where one of the two collapsed.
        tolerance: difference of scores.
    """
    runs, seeds, rates = gains.shape
    never = np.zeros(runs, dtype=bool)
    if seeds < FEWEST_SEEDS:
        return never, never
    columns = gains.transpose(1, 0, 2).reshape(seeds, -1)
    below = CALIBRATION * order_ps(columns, tolerance).reshape(runs, rates)
    inside: BoolArray = np.all(below < 1 - LEVEL, axis=1)
    if FAMILY_CALIBRATION * rates * 0.5**seeds <= 1 - LEVEL:
        above = order_ps(-columns, -tolerance).reshape(runs, rates)
        outside: BoolArray = np.any(FAMILY_CALIBRATION * rates * above < 1 - LEVEL, axis=1)
    else:
        agreed = np.flatnonzero(np.any(np.all(gains > tolerance, axis=1), axis=1))
        outside = never.copy()
        outside[agreed] = [p_outside(gains[run], tolerance) < 1 - LEVEL for run in agreed]
    return inside, outside & ~inside


def t_verdicts(gains: FloatArray, tolerance: float) -> tuple[BoolArray, BoolArray]:
    """The same by paired t bounds of the mean gain, which the rule does not use; `gains` must be finite."""
    seeds, rates = gains.shape[1:]
    means, errors = gains.mean(axis=1), gains.std(axis=1, ddof=1) / np.sqrt(seeds)
    inside: BoolArray = (means + special.stdtrit(seeds - 1, LEVEL) * errors < tolerance).all(axis=1)
    level = 1 - (1 - LEVEL) / rates
    outside: BoolArray = (means - special.stdtrit(seeds - 1, level) * errors > tolerance).any(axis=1)
    return inside, outside & ~inside


# --- worlds: gains whose median is 0 ---


def normal(rng: np.random.Generator, shape: tuple[int, int, int]) -> FloatArray:
    """Every training has normal noise; the schedule's own is in all gains of a seed."""
    runs, seeds, _ = shape
    drawn: FloatArray = (rng.standard_normal(shape) + rng.standard_normal((runs, seeds, 1))) / np.sqrt(2)
    return drawn


def _heavy(rng: np.random.Generator, shape: tuple[int, int, int]) -> FloatArray:
    return rng.standard_t(3, shape)


def _skewed(rng: np.random.Generator, shape: tuple[int, int, int]) -> FloatArray:
    drawn: FloatArray = rng.exponential(size=shape) - np.log(2)
    return drawn


def _two_modes(lower: float, apart: float = 4.0) -> Draw:
    """Two normal modes so many standard deviations apart, the lower one with this share."""

    def draw(rng: np.random.Generator, shape: tuple[int, int, int]) -> FloatArray:
        def modes(size: tuple[int, ...]) -> FloatArray:
            return np.where(rng.random(size) < lower, -apart / 2, apart / 2) + rng.standard_normal(size)

        return modes(shape) - float(np.median(modes((400_001,))))

    return draw


def _lost(share: float, by: float, *, rival: bool = False, schedule: bool = False) -> Draw:
    """Normal noise; a training of the rival, the schedule or both is lost with this probability, far below."""

    def draw(rng: np.random.Generator, shape: tuple[int, int, int]) -> FloatArray:
        def spoiled(size: tuple[int, int, int]) -> FloatArray:
            runs, seeds, _ = size
            theirs = rival & (rng.random(size) < share)
            ours = np.broadcast_to(schedule & (rng.random((runs, seeds, 1)) < share), size)
            gains = normal(rng, size)
            gains[theirs & ~ours] -= by
            gains[ours & ~theirs] += by
            gains[ours & theirs] = 0.0
            return gains

        return spoiled(shape) - float(np.median(spoiled((200_001, 1, 1))))

    return draw


def _wide_below(rng: np.random.Generator, shape: tuple[int, int, int]) -> FloatArray:
    """Half a normal law, 200 times as wide below its median as above."""
    drawn = np.abs(rng.standard_normal(shape))
    return np.where(rng.random(shape) < 0.5, 0.05 * drawn, -10 * drawn)


def _turned(draw: Draw) -> Draw:
    return lambda rng, shape: -draw(rng, shape)


WORLDS: Mapping[str, Draw] = {
    "normal": normal,
    "t, 3 degrees of freedom": _heavy,
    "skewed: few large gains": _skewed,
    "skewed: few large losses": _turned(_skewed),
    "1 seed in 10: rival 10 sd lower": _lost(0.1, 10, rival=True),
    "1 seed in 10: schedule 10 sd lower": _lost(0.1, 10, schedule=True),
    "two modes, 50 : 50": _two_modes(0.5),
    "two modes, 30 : 70": _two_modes(0.3),
    "two modes, 70 : 30": _two_modes(0.7),
    **{
        f"{who} collapses, {share:.0%}".replace("%", " %"): _lost(share, np.inf, **which)
        for share in (0.05, 0.1, 0.3)
        for who, which in (
            ("rival", {"rival": True}), ("schedule", {"schedule": True}), ("both", {"rival": True, "schedule": True}),
        )
    },
}  # fmt: skip
# Laws made to break an interpolation: a gap or a sharp bend where the median is.
HARD: Mapping[str, Draw] = {
    "two modes, 50 : 50, 10 sd apart": _two_modes(0.5, 10),
    "45 seeds in 100: rival 10 sd lower": _lost(0.45, 10, rival=True),
    "45 seeds in 100: schedule 10 sd lower": _lost(0.45, 10, schedule=True),
    "200 times as wide below the median": _wide_below,
    "200 times as wide above the median": _turned(_wide_below),
}
ERROR_SEEDS = (5, 10, 20)
HARD_SEEDS = (5, 6, 8, 10, 12, 20)


def errors(world: str, seeds: int, runs: int = RUNS) -> tuple[float, float, float | None, float | None]:
    """False inside and false outside, in [0, 1], by the rule and by t bounds (None where a gain is infinite).

    False inside: one rate's typical gain lies on the tolerance, the others are far worse. False outside: all rates'
    lie on it. The tolerance is 0.
    """
    rng = np.random.default_rng((RANDOM_SEED, seeds, *world.encode()))
    drawn = {**WORLDS, **HARD}[world](rng, (runs, seeds, RIVALS))
    one = drawn[:, :, :1]
    found = verdicts(one, 0.0)[0].mean(), verdicts(drawn, 0.0)[1].mean()
    if not np.isfinite(drawn).all():
        return float(found[0]), float(found[1]), None, None
    by_t = t_verdicts(one, 0.0)[0].mean(), t_verdicts(drawn, 0.0)[1].mean()
    return float(found[0]), float(found[1]), float(by_t[0]), float(by_t[1])


def error_table() -> str:
    """A row per world; in each cell the rule, then in brackets t bounds of the mean."""
    head = ("World", *(f"inside, {n}" for n in ERROR_SEEDS), *(f"outside, {n}" for n in ERROR_SEEDS))
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for world in WORLDS:
        found = [errors(world, seeds) for seeds in ERROR_SEEDS]
        inside = [_pair(one[0], one[2]) for one in found]
        outside = [_pair(one[1], one[3]) for one in found]
        lines.append("| " + " | ".join((world, *inside, *outside)) + " |")
    return "\n".join(lines)


def any_law(seeds: int) -> tuple[float, float | None]:
    """Bounds of false inside and false outside whatever the law is; None where outside takes the t test.

    A p value is at least `LEAST_SHARE` of the order statistic's, so one that passes has that level at most.
    """
    levels = special.bdtr(np.arange(seeds), seeds, 0.5)
    inside = levels[levels <= (1 - LEVEL) / CALIBRATION / LEAST_SHARE].max()
    if FAMILY_CALIBRATION * RIVALS * 0.5**seeds > 1 - LEVEL:
        return float(inside), None
    return float(inside), float(
        RIVALS * levels[levels <= (1 - LEVEL) / FAMILY_CALIBRATION / RIVALS / LEAST_SHARE].max()
    )


def hard_table() -> str:
    """A row per hard law, and one for any: false inside / false outside in percent."""
    head = ("Law", *(f"{n} seeds" for n in HARD_SEEDS))
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for world in HARD:
        found = [errors(world, seeds)[:2] for seeds in HARD_SEEDS]
        lines.append("| " + " | ".join((world, *(f"{100 * a:.1f} / {100 * b:.1f}" for a, b in found))) + " |")
    bounds = [any_law(seeds) for seeds in HARD_SEEDS]
    cells = (f"{100 * a:.1f} / {'–' if b is None else f'{100 * b:.1f}'}" for a, b in bounds)
    return "\n".join([*lines, "| " + " | ".join(("*any law, at most*", *cells)) + " |"])


def _pair(rule: float, by_t: float | None) -> str:
    return f"{100 * rule:.1f}" + ("" if by_t is None else f" ({100 * by_t:.0f})")


# --- twelve cycles at once ---

FAMILY = 12


def p_values(columns: FloatArray, margin: float) -> FloatArray:
    """`typical.p_below` of every column of (S, K) differences; (K,)."""
    p = calibrated(order_ps(columns, margin))
    agreed = (columns < margin - ROUNDING).all(axis=0)
    p[agreed] = np.minimum(p[agreed], calibrated_t(t_values(columns[:, agreed], margin)))
    return p


def t_values(columns: FloatArray, margin: float) -> FloatArray:
    """`typical.t_below` of every column."""
    finite = np.isfinite(columns)
    n, values = finite.sum(axis=0), np.where(finite, columns, 0.0)
    mean = values.sum(axis=0) / np.maximum(n, 1)
    squares = (np.where(finite, values - mean, 0.0) ** 2).sum(axis=0)
    error = np.sqrt(squares / np.maximum(n - 1, 1) / np.maximum(n, 1))
    ratio = (mean - margin) / np.maximum(error, ROUNDING)
    return np.where(n < 2, 1.0, special.stdtr(np.maximum(n - 1, 1), ratio))


def family_errors(world: str, seeds: int, runs: int = RUNS) -> tuple[float, float, float]:
    """How often anything false stands after Holm's correction over 12 cycles: inside, outside, better or worse.

    In every cycle the truth is that of `errors`; better or worse is wrong because the typical difference is 0. Where
    all tests are of true hypotheses, some p stands after Holm exactly where the smallest times their number does.
    """
    rng = np.random.default_rng((RANDOM_SEED, seeds, FAMILY, *world.encode()))
    below, above, out = np.zeros(runs, dtype=bool), np.zeros(runs, dtype=bool), np.zeros(runs, dtype=bool)
    level = (1 - LEVEL) / FAMILY
    reached = FAMILY_CALIBRATION * RIVALS * 0.5**seeds < level  # else outside cannot stand
    for _ in range(FAMILY):
        gains = WORLDS[world](rng, (runs, seeds, RIVALS if reached else 1))
        one = gains[:, :, 0].T
        p_down, p_up = p_values(one, 0.0), p_values(-one, 0.0)
        below |= p_down < level
        above |= 2 * np.minimum(p_down, p_up) < level
        if reached:
            p = order_ps(-gains.transpose(1, 0, 2).reshape(seeds, -1), 0.0).reshape(runs, RIVALS).min(axis=1)
            out |= FAMILY_CALIBRATION * RIVALS * p < level
    return float(below.mean()), float(out.mean()), float(above.mean())


def family_table() -> str:
    """A row per world: family-wise errors over 12 cycles in percent."""
    kinds = ("inside", "outside", "better or worse")
    head = ("World", *(f"{kind}, {n}" for kind in kinds for n in ERROR_SEEDS))
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for world in WORLDS:
        found = [family_errors(world, seeds) for seeds in ERROR_SEEDS]
        cells = [f"{100 * one[kind]:.1f}" if one[kind] else "never" for kind in range(3) for one in found]
        lines.append("| " + " | ".join((world, *cells)) + " |")
    return "\n".join(lines)


# --- how many seeds ---

SEEDS = (3, 5, 8, 10, 12, 20)
NOISES = (0.001, 0.0025, 0.005, 0.01)
TOLERANCE = 0.005
FAR, BETTER = -0.05, 0.01


def equivalent(differences: FloatArray, margin: float) -> BoolArray:
    """Which runs show equivalence (`typical.tost`); (T,). `differences` is (T, S)."""
    return np.array([tost(one, margin).equivalent for one in differences])


def shares(seeds: int, noise: float, runs: int = RUNS) -> tuple[tuple[float, float | None], ...]:
    """How often, by the rule and by t bounds: inside among nine equals, inside beside one equal, outside (one better).

    Last, how often equivalence is shown, by the rule alone.
    """
    rng = np.random.default_rng((RANDOM_SEED, seeds))
    drawn = noise * normal(rng, (runs, seeds, RIVALS))
    alone, better = np.full(RIVALS, FAR), np.zeros(RIVALS)
    alone[0], better[0] = 0.0, BETTER
    cases = ((drawn, 0), (drawn + alone, 0), (drawn + better, 1))
    both = [(verdicts(gains, TOLERANCE)[k].mean(), t_verdicts(gains, TOLERANCE)[k].mean()) for gains, k in cases]
    if seeds < FEWEST_SEEDS:
        both = [(0.0, 0.0)] * 3
    told = equivalent(drawn[: runs // 5, :, 0], TOLERANCE).mean()
    return (*((float(rule), float(t)) for rule, t in both), (float(told), None))


def power_table() -> str:
    """The table in Markdown: one row per noise and number of seeds, cells in percent."""
    head = (
        "paired noise, percentage points", "seeds", "inside: all nine rates equal",
        "inside: one other rate equal, the rest worse", "outside: one rate a percentage point better",
        "equivalent: no chain gap",
    )  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for noise in NOISES:
        for seeds in SEEDS:
            cells = (f"{100 * noise:g}", str(seeds), *(_cell(*share) for share in shares(seeds, noise)))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(rule: float, by_t: float | None) -> str:
    """A share of simulated runs in percent; a verdict that too few seeds cannot have is "never"."""
    if rule == 0 and not by_t:
        return "never"
    return f"{100 * rule:.0f}" + ("" if by_t is None else f" ({100 * by_t:.0f})")


# --- seeds and test images ---

# A network gets an image right where image + seed ± (gap + arm in this seed + arm on this image) / 2 + noise is above
# 0, with + for the one arm and − for the other. Here: spreads of arm by seed, of arm by image, of noise; and the gap.
IMAGE_WORLDS: Mapping[str, tuple[float, float, float, float]] = {
    "seeds alone": (0.3, 0.0, 0.5, 0.1),
    "images alone": (0.0, 0.6, 0.3, 0.1),
    "both": (0.15, 0.4, 0.4, 0.1),
    "both, no gap": (0.15, 0.4, 0.4, 0.0),
    "noise alone": (0.0, 0.0, 0.5, 0.1),
}
IMAGES = (200, 1000, 10_000)
IMAGE_RUNS, MANY_IMAGES_RUNS = 1000, 300
_EASE, _IMAGE, _SEED = 1.5, 1.5, 0.1  # mean and spread of images, spread of seeds


def right_minus_right(rng: np.random.Generator, world: str, seeds: int, images: int) -> FloatArray:
    """(S, N) one arm right − the other right."""
    by_seed, by_image, noise, gap = IMAGE_WORLDS[world]
    base = rng.normal(_EASE, _IMAGE, images) + rng.normal(0, _SEED, (seeds, 1))
    half = (gap + rng.normal(0, by_seed, (seeds, 1)) + rng.normal(0, by_image, images)) / 2
    one, other = (noise * rng.standard_normal((seeds, images), dtype=np.float32) for _ in range(2))
    found: FloatArray = (base + half + one > 0).astype(float) - (base - half + other > 0)
    return found


def true_gap(world: str) -> float:
    """The mean difference over all seeds and all images."""
    by_seed, by_image, noise, gap = IMAGE_WORLDS[world]
    spread = np.sqrt(_IMAGE**2 + _SEED**2 + (by_seed**2 + by_image**2) / 4 + noise**2)
    return float(special.ndtr((_EASE + gap / 2) / spread) - special.ndtr((_EASE - gap / 2) / spread))


def covered(world: str, seeds: int, images: int, runs: int = IMAGE_RUNS) -> tuple[float, float, float]:
    """How often an interval holds the true gap: over seeds, over seeds and images, and that of the mean over both."""
    rng = np.random.default_rng((RANDOM_SEED, seeds, images, *world.encode()))
    truth, hits = true_gap(world), np.zeros(3)
    for _ in range(runs):
        differences = right_minus_right(rng, world, seeds, images)
        estimate, mean = paired_interval(differences.mean(axis=1)), mean_test(differences)
        both = both_interval(estimate, differences)
        assert estimate.low is not None
        assert estimate.high is not None
        assert both is not None
        assert mean is not None
        ends = ((estimate.low, estimate.high), both, (mean.low, mean.high))
        hits += [low <= truth <= high for low, high in ends]
    alone, wide, of_mean = (float(share) for share in hits / runs)
    return alone, wide, of_mean


def image_table() -> str:
    """A row per world and number of images; in each cell seeds and images, then in brackets seeds alone."""
    head = ("Chance comes from", "test images", *(f"{n} seeds" for n in ERROR_SEEDS))
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for world in IMAGE_WORLDS:
        for images in IMAGES:
            runs = IMAGE_RUNS if images < IMAGES[-1] else MANY_IMAGES_RUNS
            found = [covered(world, seeds, images, runs) for seeds in ERROR_SEEDS]
            cells = (f"{100 * both:.0f} ({100 * alone:.0f})" for alone, both, _ in found)
            lines.append("| " + " | ".join((world, f"{images:,}", *cells)) + " |")
    return "\n".join(lines)


# --- pages ---

TABLES = {
    "how-many-seeds.md": {"power": power_table},
    "error-rates.md": {"errors": error_table, "hard": hard_table, "family": family_table, "images": image_table},
}


def filled(page: str, text: str) -> str:
    """The text of a page with its tables made anew."""
    for name, table in TABLES[page].items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        made = f"{table()}\n"
        text = block.sub(lambda found, made=made: f"{found[1]}{made}{found[2]}", text)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    for page in TABLES:
        path = PAGES / page
        path.write_text(filled(page, path.read_text(encoding="utf-8")), encoding="utf-8")
