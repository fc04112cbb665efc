"""Samplers behind one function: a throw-away Optuna study is built from what was told and asked for the next points."""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from silo_tune.errors import BadInput

if TYPE_CHECKING:
    import optuna

# Optuna's own default of 10 would be a random search for as many trials as a guided Oracle asks for.
STARTUP = 3
# What a sampler needs beside Optuna: package → extra of this project.
NEEDS = {"gp": ("torch", None), "cmaes": ("cmaes", "cmaes")}


@dataclass(frozen=True)
class Dimension:
    """One searched number between `low` and `high`, in log or not, whole or not."""

    low: float
    high: float
    log: bool = False
    integer: bool = False

    def to_unit(self, value: float) -> float:
        """Position in [0, 1]."""
        scale = math.log if self.log else float
        return (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))

    def from_unit(self, position: float) -> float:
        """Value at a position in [0, 1]."""
        at = min(1.0, max(0.0, position))
        value = self.low * (self.high / self.low) ** at if self.log else self.low + (self.high - self.low) * at
        return round(value) if self.integer else value


Space = Mapping[str, Dimension]


class Told(NamedTuple):
    """A point and its value (higher is better)."""

    params: Mapping[str, float]
    value: float


def require_sampler(sampler: str, where: str) -> None:
    """Raises BadInput, naming the extra, when a sampler's package is missing.

    Args:
        sampler: gp | tpe | cmaes | qmc | random.
        where: the key of the study that names it.
    """
    for package, extra in (("optuna", None), *([NEEDS[sampler]] if sampler in NEEDS else [])):
        if importlib.util.find_spec(package) is None:
            what = f"silo-tune[{extra}]" if extra else package
            raise BadInput(
                f"{where}: sampler {sampler!r} needs the package {package}, which is not here; pip install '{what}'"
            )


def suggest(
    sampler: str, space: Space, told: Sequence[Told], count: int, seed: int, asked: int = 0
) -> list[dict[str, float]]:
    """The next points to try. The same arguments give the same points.

    Args:
        sampler: gp | tpe | cmaes | qmc | random.
        space: what is searched.
        told: points with their values, in the order in which they were asked.
        count: how many points.
        seed: of the search; the same in all its rounds.
        asked: points that it asked for in earlier rounds.
    """
    with _quiet():
        if sampler == "qmc":
            return _ask_qmc(space, count, seed, asked)
        if sampler == "cmaes":
            return _ask_cmaes(space, told, count, seed + asked)
        return _ask_optuna(sampler, space, told, count, seed + asked)


def _ask_optuna(sampler: str, space: Space, told: Sequence[Told], count: int, seed: int) -> list[dict[str, float]]:
    import optuna

    study = optuna.create_study(direction="maximize", sampler=_make(sampler, seed, len(space)))
    distributions = {name: _distribution(dimension) for name, dimension in space.items()}
    for point in told:
        study.add_trial(
            optuna.trial.create_trial(params=dict(point.params), distributions=distributions, value=point.value)
        )
    return [dict(study.ask(distributions).params) for _ in range(count)]


def _make(sampler: str, seed: int, dimensions: int) -> optuna.samplers.BaseSampler:
    from optuna import samplers

    seed %= 2**32
    if sampler == "gp":
        return samplers.GPSampler(seed=seed, n_startup_trials=STARTUP, deterministic_objective=False)
    if sampler == "tpe":
        return samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=dimensions > 1, constant_liar=True)
    return samplers.RandomSampler(seed=seed)


def _distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import FloatDistribution, IntDistribution

    if dimension.integer:
        return IntDistribution(int(dimension.low), int(dimension.high))
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _ask_qmc(space: Space, count: int, seed: int, asked: int) -> list[dict[str, float]]:
    """The next points of one scrambled Sobol' sequence (scipy). Optuna's adapter counts within one study, and a study
    that is built anew in every round would begin the sequence again."""
    from scipy.stats.qmc import Sobol

    points = Sobol(d=len(space), scramble=True, seed=seed % 2**32).random(asked + count)[asked:]
    return [
        {name: dimension.from_unit(float(at)) for (name, dimension), at in zip(space.items(), point, strict=True)}
        for point in points
    ]


def _ask_cmaes(space: Space, told: Sequence[Told], count: int, seed: int) -> list[dict[str, float]]:
    """CMA-ES by the package that Optuna uses. Optuna's own adapter leaves out spaces of one dimension, and keeps its
    state in trials that it asked for itself; here the state follows from what was told, generation by generation."""
    import numpy as np
    from cmaes import CMA

    names = list(space)
    size = max(4, 4 + int(3 * math.log(len(names))))
    points = [np.array([space[name].to_unit(point.params[name]) for name in names]) for point in told]
    best = max(range(len(told)), key=lambda i: told[i].value) if told else None
    optimizer = CMA(
        mean=np.full(len(names), 0.5) if best is None or len(told) > size else points[best],
        sigma=0.25,
        bounds=np.array([[0.0, 1.0]] * len(names)),
        seed=seed % 2**32,
        population_size=size,
    )
    for start in range(0, len(told) - size + 1, size):
        optimizer.tell([(points[i], -told[i].value) for i in range(start, start + size)])
    return [
        {name: space[name].from_unit(float(at)) for name, at in zip(names, optimizer.ask(), strict=True)}
        for _ in range(count)
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna logs every study and warns of what is experimental; neither is news to a user of ours."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def importance(space: Space, told: Sequence[Told], seed: int = 0) -> dict[str, float] | None:
    """Share of the objective's variance that each parameter explains (Optuna's fANOVA), None below four points."""
    values: set[float] = {point.value for point in told}
    if len(told) < 4 or len(values) < 2:
        return None
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    with _quiet():
        study = optuna.create_study(direction="maximize")
        distributions = {name: _distribution(dimension) for name, dimension in space.items()}
        for point in told:
            study.add_trial(
                optuna.trial.create_trial(params=dict(point.params), distributions=distributions, value=point.value)
            )
        found: Mapping[str, Any] = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed))
    return {name: float(share) for name, share in found.items()}
