"""Two sources of chance: other seeds, and other test images.

An interval over seeds asks what new seeds would give *on these test images*. Here it is widened to new seeds and new
test images. All seeds are measured on the same images, so the two are crossed. With d[s, i] the difference of two
chains in seed s on image i, and mean squares of seeds, images and the rest (S seeds, N images):

    variance from images = (MS_images − MS_rest) / (S N), or 0 where that is negative

That is the images' part of the two-way cluster variance V_seeds + V_images − V_cells (Cameron, Gelbach and Miller 2011,
"Robust inference with multiway clustering"), with the cells' part estimated without bias; not to subtract it, as the
pigeonhole bootstrap does (Owen 2007, Annals of Applied Statistics 1), makes intervals up to 1.4 times too wide.

Two ways to use it. The *typical* difference keeps its interval over seeds (`typical.paired_interval`), and the images'
normal interval is added to each side in squares (Zou and Donner 2008, Statistics in Medicine 27), so that the wider
interval always holds the narrower one. The *mean* difference of one cycle, where images are counted, has both variances
added and the t quantile of S − 1 degrees of freedom. How often they cover: `docs/error_rates.py`.

A chain whose training collapsed has on every image the share of guessing, as everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from silo_analysis.estimates.frames import MCNEMAR, typed
from silo_analysis.estimates.oracle import collapsed_rows, numbers
from silo_analysis.estimates.stats import ROUNDING, Estimate, FloatArray, holm
from silo_analysis.estimates.typical import standard_error
from silo_tune.results.example_rows import Examples
from silo_tune.study.model import Study


class _Link(NamedTuple):
    """One cycle of a chain: its trial, and the share of guessing where it collapsed."""

    key: str | None
    guess: float | None
    images: int


@dataclass(frozen=True)
class ChainScores:
    """What each chain does on each test image.

    Attributes:
        links: (arm, seed, cycle) → its trial.
        examples: which images each trial got right; None where nobody looked.
    """

    links: Mapping[tuple[str, int, int], _Link]
    examples: Examples | None

    def of(self, arm: str, seed: int, cycle: int) -> FloatArray | None:
        """(N,) 1 where the image is right and 0 where it is wrong, or the share of guessing; None if not known."""
        link = self.links.get((arm, seed, cycle))
        if link is None:
            return None
        if link.guess is not None:
            return np.full(link.images, link.guess)
        right = None if self.examples is None or link.key is None else self.examples.right(link.key, "test")
        return None if right is None else right.astype(float)

    def differences(self, one: str, other: str, seeds: Sequence[int], cycles: Sequence[int]) -> FloatArray | None:
        """(S, N) score of one arm − that of the other, mean over cycles; None where a part of it is not known."""
        rows = [self._difference(one, other, seed, cycles) for seed in seeds]
        known = [row for row in rows if row is not None]
        if not rows or len(known) < len(rows) or len({len(row) for row in known}) > 1:
            return None
        return np.stack(known)

    def _difference(self, one: str, other: str, seed: int, cycles: Sequence[int]) -> FloatArray | None:
        total: FloatArray | None = None
        for cycle in cycles:
            left, right = self.of(one, seed, cycle), self.of(other, seed, cycle)
            if left is None or right is None or len(left) != len(right):
                return None
            total = left - right if total is None else total + (left - right)
        return None if total is None else total / len(cycles)

    def same(self, one: str, other: str, seeds: Sequence[int], cycle: int) -> bool:
        """Did both arms train the same units at this cycle? Then there is nothing to test."""
        pairs = [[self.links[arm, seed, cycle].key for arm in (one, other)] for seed in seeds]
        return all(left is not None and left == right for left, right in pairs)

    @property
    def trials(self) -> int:
        """Trials that should have examples."""
        return len(self._own())

    @property
    def lacking(self) -> int:
        """Trials that should have examples and have none."""
        found = self.examples
        return sum(found is None or found.right(key, "test") is None for key in self._own())

    def _own(self) -> set[str]:
        return {link.key for link in self.links.values() if link.guess is None and link.key is not None}


def chain_scores(chains: pd.DataFrame, examples: Examples | None) -> ChainScores:
    """The chains of a run from cycle 1 on, with their examples.

    Args:
        chains: from `regret.chain_rows`.
        examples: of the run.
    """
    known = chains[(chains["cycle"] >= 1) & chains["test_score"].notna() & chains["n_test"].notna()]
    guessed = np.where(collapsed_rows(known), numbers(known, "test_score"), np.nan)
    columns = (known["arm"], known["seed"], known["cycle"], known["key"], guessed, known["n_test"])
    links = {
        (str(arm), int(seed), int(cycle)): _Link(
            None if pd.isna(key) else str(key), None if math.isnan(guess) else float(guess), int(images)
        )
        for arm, seed, cycle, key, guess, images in zip(*columns, strict=True)
    }
    return ChainScores(links, examples)


# --- the two variances ---


def images_variance(differences: FloatArray) -> float:
    """Variance of the mean of (S, N) differences that comes from which N images there are; 0 below two of either."""
    seeds, images = differences.shape
    if seeds < 2 or images < 2:
        return 0.0
    mean, of_seed, of_image = differences.mean(), differences.mean(axis=1), differences.mean(axis=0)
    between = seeds * float(((of_image - mean) ** 2).sum())
    all_ = float(((differences - mean) ** 2).sum())
    rest = all_ - between - images * float(((of_seed - mean) ** 2).sum())
    found: float = (between / (images - 1) - rest / ((seeds - 1) * (images - 1))) / (seeds * images)
    return max(0.0, found)


def both_interval(
    estimate: Estimate, differences: FloatArray | None, level: float = 0.95
) -> tuple[float, float] | None:
    """The interval of a typical difference for new seeds and new test images.

    Args:
        estimate: over seeds, from `typical.paired_interval`.
        differences: (S, N) of the same seeds; None where they are not known.
        level: of the interval.

    Returns:
        Its ends; None without differences, and where there is no interval over seeds.
    """
    if differences is None or estimate.median is None or estimate.low is None or estimate.high is None:
        return None
    reach = float(special.ndtri(1 - (1 - level) / 2)) * math.sqrt(images_variance(differences))
    below, above = estimate.median - estimate.low, estimate.high - estimate.median
    return estimate.median - math.hypot(below, reach), estimate.median + math.hypot(above, reach)


def both_ends(estimate: Estimate, differences: FloatArray | None) -> dict[str, float | None]:
    """`both_interval` as cells of a table."""
    low, high = both_interval(estimate, differences) or (None, None)
    return {"low_examples": low, "high_examples": high}


class MeanTest(NamedTuple):
    """A mean difference, its interval for new seeds and new images, and the two-sided p value of "it is 0"."""

    mean: float
    low: float
    high: float
    p: float


def mean_test(differences: FloatArray, level: float = 0.95) -> MeanTest | None:
    """The mean of (S, N) differences with the t quantile of S − 1 degrees of freedom; None below two seeds."""
    per_seed = differences.mean(axis=1)
    if len(per_seed) < 2:
        return None
    mean, degrees = float(per_seed.mean()), len(per_seed) - 1
    error = math.sqrt(standard_error(per_seed) ** 2 + images_variance(differences))
    reach = float(special.stdtrit(degrees, 1 - (1 - level) / 2)) * error
    if error <= ROUNDING:
        return MeanTest(mean, mean, mean, 1.0 if abs(mean) <= ROUNDING else 0.0)
    return MeanTest(mean, mean - reach, mean + reach, 2 * float(special.stdtr(degrees, -abs(mean) / error)))


# --- right with one alone ---


def mcnemar_table(scores: ChainScores, schedule: str, arms: Sequence[str], study: Study) -> pd.DataFrame:
    """Per arm and cycle: images that only one of two chains gets right, summed over seeds (`columns.MCNEMAR`).

    As in McNemar's test (1947, Psychometrika 12) the difference rests on these alone. His p value takes each pair of
    seed and image for a draw of its own; here it is that of `mean_test`, Holm-corrected over the cycles of an arm; of
    two chains that trained the same units there is none.

    Args:
        scores: from `chain_scores`.
        schedule: the judged schedule.
        arms: to compare it with.
        study: says which cycles.
    """
    rows: list[dict[str, Any]] = []
    for arm in arms:
        own = list(_mcnemar_rows(scores, schedule, arm, study))
        tested = [row for row in own if row["p"] is not None]
        for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
            row["p_holm"] = p
        rows += own
    return typed(rows, MCNEMAR)


def _mcnemar_rows(scores: ChainScores, schedule: str, arm: str, study: Study) -> Iterator[dict[str, Any]]:
    for cycle in range(1, study.cycles):
        seeds = [
            seed
            for seed in study.replicates.seeds
            if all((name, seed, cycle) in scores.links for name in (schedule, arm))
        ]
        found = scores.differences(schedule, arm, seeds, [cycle])
        if found is None:
            continue
        only = [_only(scores, schedule, arm, seed, cycle) for seed in seeds]
        test = None if scores.same(schedule, arm, seeds, cycle) else mean_test(found)
        yield {
            "arm": arm,
            "cycle": cycle,
            "weights_remaining": study.remaining[cycle],
            "n_seeds": len(seeds),
            "n_test": found.shape[1],
            "only_schedule": sum(one for one, _ in only),
            "only_arm": sum(other for _, other in only),
            "difference": float(found.mean()),
            "low": None if test is None else test.low,
            "high": None if test is None else test.high,
            "p": None if test is None else test.p,
        }


def _only(scores: ChainScores, schedule: str, arm: str, seed: int, cycle: int) -> tuple[float, float]:
    """Images that only the schedule gets right, and only the arm; as expected where one of them guesses."""
    one, other = scores.of(schedule, seed, cycle), scores.of(arm, seed, cycle)
    assert one is not None
    assert other is not None
    return float((one * (1 - other)).sum()), float(((1 - one) * other).sum())
