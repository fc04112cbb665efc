"""A guided search of one cycle's max_lr: warm starts, then rounds from a sampler, then the best ones once more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from silo_tune.planner.candidates import Heard, Proposal, grid_source
from silo_tune.planner.proposals import improvement
from silo_tune.planner.samplers import Dimension, Told, suggest
from silo_tune.planner.winner import rank, value_told
from silo_tune.study.arms import WARM_STARTS, log_spaced
from silo_tune.study.arms import Guided as Settings

# Neighbours of the previous winner, in decades. On recorded grids ±0.4 did as well, nearer ones did worse.
BELOW, ABOVE = -0.5, 0.3
# Rates closer than this (in decades, about 2 %) are one rate: training both would tell nothing.
SAME = 0.01


@dataclass(frozen=True)
class GuidedSource:
    """The source of one (seed, cycle). What it asks is a function of its fields and of what it heard.

    Attributes:
        settings: of the arm.
        start: the previous cycle's winner; None where there is none.
        tested: arm → its max_lr at this cycle; trained in the first round, and told to the sampler.
        seed: of the sampler.
    """

    settings: Settings
    start: float | None = None
    tested: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    @property
    def most(self) -> int:
        return self.settings.trials + len(set(self.tested.values())) + self.settings.repeat_top

    @property
    def rounds(self) -> int:
        """Rounds of a cycle that follow one another, at most."""
        later = math.ceil((self.settings.trials - WARM_STARTS) / self.settings.batch)
        return 1 + later + (self.settings.repeat_top > 0)

    def ask(self, heard: Sequence[Heard]) -> list[Proposal]:
        if not heard:
            starts = warm_starts(self.settings.low, self.settings.high, self.start)
            return list(grid_source(starts, self.tested).proposals)
        if any(one.proposal.repeat for one in heard):
            return []
        left = self.settings.trials - sum(one.proposal.asked for one in heard)
        rates = self._next(heard, min(left, self.settings.batch)) if left > 0 and not self._settled(heard) else []
        if rates:
            return [Proposal({"value": rate}) for rate in rates]
        return [
            Proposal(one.proposal.peak, one.proposal.asked, one.proposal.tests, repeat=1)
            for one in best_of(heard, self.settings.repeat_top)
        ]

    def _next(self, heard: Sequence[Heard], count: int) -> list[float]:
        space = {"max_lr": Dimension(self.settings.low, self.settings.high, log=True)}
        points = suggest(self.settings.sampler, space, self._told(heard), count, self.seed, len(heard))
        seen = [float((one.proposal.peak or {})["value"]) for one in heard]
        rates: list[float] = []
        for point in points:
            rate = self._apart(point["max_lr"], [*seen, *rates])
            if rate not in (*seen, *rates):  # bounds so narrow that every rate was tried
                rates.append(rate)
        return rates

    def _told(self, heard: Sequence[Heard]) -> list[Told]:
        """Rates within the bounds with their gain; a diverged one is as good as guessing."""
        return [
            Told({"max_lr": rate}, value_told(outcome))
            for proposal, outcome in heard
            if outcome["status"] != "failed"
            and self.settings.low <= (rate := float((proposal.peak or {})["value"])) <= self.settings.high
        ]

    def _apart(self, rate: float, seen: Sequence[float]) -> float:
        """The rate with three digits, or the middle of the widest gap where that rate was tried."""
        low, high = self.settings.low, self.settings.high
        rate = min(high, max(low, float(f"{rate:.3g}")))
        if all(abs(math.log10(rate / other)) >= SAME for other in seen):
            return rate
        ends = sorted({low, high, *(other for other in seen if low <= other <= high)})
        widest = max(pairwise(ends), key=lambda gap: gap[1] / gap[0])
        return float(f"{math.sqrt(widest[0] * widest[1]):.3g}")

    def _settled(self, heard: Sequence[Heard]) -> bool:
        """No other rate is expected to improve on the best by `stop_below`."""
        if self.settings.stop_below is None:
            return False
        return expected_improvement(self._told(heard), self.settings) < self.settings.stop_below


def warm_starts(low: float, high: float, start: float | None) -> list[float]:
    """Three rates to begin with: the previous winner and a neighbour on each side, or an even cover of the bounds.

    A neighbour beyond a bound is put to the other side of the winner, so that there are always three.
    """
    if start is None:
        inner = log_spaced(low, high, 2 * WARM_STARTS + 1)[1::2]  # the middles of three equal parts
        return [float(f"{rate:.3g}") for rate in inner]
    first = min(high, max(low, start))
    rates = [first]
    for step in (BELOW, ABOVE):
        rate = first * 10**step
        if not low <= rate <= high:
            rate = first * 10 ** (-step / 2)
        rates.append(min(high, max(low, float(f"{rate:.3g}"))))
    return sorted(set(rates))


def best_of(heard: Sequence[Heard], count: int) -> list[Heard]:
    """The best candidates of repeat 0 in the winner's order, best first; fewer where fewer trained well."""
    good = [one for one in heard if one.outcome["status"] == "ok" and one.proposal.repeat == 0]
    return sorted(good, key=lambda one: rank(one.outcome))[: count if len(good) > 1 else 0]


def expected_improvement(told: Sequence[Told], settings: Settings) -> float:
    """Largest expected improvement over the best mean so far, in the score, over a fine lattice of rates.

    A Gaussian process in log max_lr with a noise term (scikit-learn); the criterion is that of Jones et al. (1998).
    """
    import numpy as np
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    dimension = Dimension(settings.low, settings.high, log=True)
    x = np.array([[dimension.to_unit(point.params["max_lr"])] for point in told])
    y = np.array([point.value for point in told])
    if len(y) < WARM_STARTS or np.ptp(y) == 0:
        return math.inf
    kernel = ConstantKernel(1.0, (0.1, 10.0)) * RBF(0.2, (0.05, 1.0)) + WhiteKernel(0.05, (1e-4, 1.0))
    process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length scale at its bound is an answer here
        process.fit(x, y)
    noise = math.sqrt(process.kernel_.k2.noise_level) * y.std()
    mean, total = process.predict(np.linspace(0, 1, 101)[:, None], return_std=True)
    spread = np.sqrt(np.maximum(total**2 - noise**2, 1e-18))
    return float(improvement(mean - process.predict(x).max(), spread).max())
