"""Grids and the engine's own guided searches, played on recorded cycles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from silo_analysis.replay.landscape import Landscape, RecordedGrid
from silo_tune.errors import BadInput, unknown
from silo_tune.planner.candidates import CandidateSource, Heard, grid_source
from silo_tune.planner.guided import GuidedSource
from silo_tune.planner.points import sampler_seed
from silo_tune.planner.samplers import require_sampler
from silo_tune.planner.winner import winner_of
from silo_tune.study.arms import WARM_STARTS, log_spaced
from silo_tune.study.arms import Guided as Settings

SAMPLERS = ("gp", "tpe", "cmaes", "qmc", "random")
GRID = "grid"
TRIALS = (4, 5, 6, 8)
GRID_SIZES = (3, 4, 5, 6, 8, 10, 15, 20, 30)
REPETITIONS = 15
MOST_TRIALS = 1000


@dataclass(frozen=True)
class Strategy:
    """One way to choose a cycle's max_lr.

    Attributes:
        name: a sampler, or "grid".
        trials: asked rates per cycle.
        repeat_top: so many of a sampler's best rates are trained once more, as a guided Oracle's `repeat_top`.
    """

    name: str
    trials: int
    repeat_top: int = 0

    def source(self, recorded: RecordedGrid, landscape: Landscape, start: float | None, seed: int) -> CandidateSource:
        """What the engine would make for this cycle."""
        if self.name == GRID:
            return grid_source(log_spaced(recorded.low, recorded.high, self.trials), landscape.tested)
        settings = Settings.model_validate(
            {
                "sampler": self.name,
                "low": recorded.low,
                "high": recorded.high,
                "trials": self.trials,
                "repeat_top": self.repeat_top,
            }
        )
        return GuidedSource(settings, start=start, tested=landscape.tested, seed=seed)


def strategies(
    recorded: RecordedGrid, samplers: Sequence[str], trials: Sequence[int], repeat_top: int = 0
) -> list[Strategy]:
    """Grids up to the recorded size, and every sampler with every number of trials.

    Raises:
        BadInput: unknown sampler, one whose package is missing, impossible numbers of trials or repeats.
    """
    for sampler in samplers:
        if sampler not in SAMPLERS:
            raise BadInput(unknown("sampler", sampler, SAMPLERS))
        require_sampler(sampler, "--sampler")
    for count in trials:
        if count < WARM_STARTS:
            raise BadInput(f"--trials {count} are fewer than the {WARM_STARTS} warm starts of every cycle")
        if count > MOST_TRIALS:
            raise BadInput(f"--trials {count} are more than a study allows: at most {MOST_TRIALS}")
    if repeat_top and not 2 <= repeat_top <= min(trials):
        raise BadInput(f"--repeat-top {repeat_top}: it compares at least 2 and at most --trials rates; 0 for none")
    sizes = sorted({*(size for size in GRID_SIZES if size < recorded.points), recorded.points})
    grids = [Strategy(GRID, size) for size in sizes]
    return grids + [
        Strategy(sampler, count, repeat_top) for sampler in dict.fromkeys(samplers) for count in sorted({*trials})
    ]


def available_samplers() -> list[str]:
    """The samplers whose packages are here."""
    return [sampler for sampler in SAMPLERS if _is_here(sampler)]


def _is_here(sampler: str) -> bool:
    try:
        require_sampler(sampler, "--sampler")
    except BadInput:
        return False
    return True


# --- playing ---


class Played(NamedTuple):
    """What one strategy did at one cycle of one repetition.

    Attributes:
        cycle: which.
        rate: the chosen max_lr, None where every rate diverged.
        regret: truth at the best rate minus truth at the chosen one, in [0, 1].
        units: trainings: asked, tested and repeated.
    """

    cycle: int
    rate: float | None
    regret: float
    units: int


SourceOf = Callable[[RecordedGrid, Landscape, "float | None", int], CandidateSource]


def play(recorded: RecordedGrid, source_of: SourceOf, repetition: int, seed: int) -> Iterator[Played]:
    """One repetition over all cycles: a cycle's search is warm-started with the winner of the one before it.

    Repetitions with the same number and seed meet the same noise in the same order, whatever the strategy: their
    differences are those of the strategies.

    Args:
        recorded: the grid.
        source_of: makes a cycle's source from (recorded, landscape, start, seed of the sampler).
        repetition: its number; the recorded seeds take turns.
        seed: of noise and samplers.
    """
    start: float | None = None
    for landscape in recorded.landscapes:
        row = repetition % len(landscape.collapsed)
        random = np.random.default_rng([seed, repetition, landscape.cycle])
        source = source_of(recorded, landscape, start, sampler_seed("replay", seed, repetition, landscape.cycle))
        told = search(source, landscape, row, random)
        winner = winner_of(told)
        rate = None if winner is None else float(winner["max_lr"])
        reached = landscape.chance if rate is None else landscape.accuracy(rate)
        yield Played(landscape.cycle, rate, landscape.best(row) - reached, len(told))
        start = start if rate is None else rate


def search(
    source: CandidateSource, landscape: Landscape, row: int, random: np.random.Generator
) -> list[dict[str, Any]]:
    """Outcomes of everything that a source asks for, as the engine would tell them."""
    heard: list[Heard] = []
    while proposals := source.ask(heard):
        heard += [
            Heard(proposal, _outcome(float((proposal.peak or {})["value"]), proposal.repeat, landscape, row, random))
            for proposal in proposals
        ]
    return [dict(one.outcome) for one in heard]


def _outcome(rate: float, repeat: int, landscape: Landscape, row: int, random: np.random.Generator) -> dict[str, Any]:
    noise = float(random.choice(landscape.noise)) if len(landscape.noise) else 0.0
    known = {"max_lr": rate, "repeat": repeat, "error": None, "guess_score": landscape.chance}
    if landscape.diverges(rate, row):
        return {**known, "status": "diverged", "val_score": None, "val_loss": None}
    accuracy = landscape.accuracy(rate) + noise
    return {**known, "status": "ok", "val_score": accuracy, "val_loss": 1 - accuracy}
