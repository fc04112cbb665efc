"""Peak learning rate over cycles: pure functions of position, standard library only.

A *fixed* schedule answers ``peak(cycle, pruned)`` with the max_lr of a cycle. ``pruned[m]`` is the planned cumulative
fraction of weights pruned when cycle m trains (0 at cycle 0, the dense one). No schedule sees the number of cycles.

An *adaptive* schedule names a rule instead: ``rule(cycle, pruned)`` returns ``(name, args)`` and the worker resolves
the rule to a number after it has pruned (`RULES`), because the number depends on the weights; that of `AtShare` when a
fine-tune begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from numbers import Real
from typing import Any, ClassVar, Protocol, runtime_checkable

from silo_tune.errors import unknown


def rounded(rate: float) -> float:
    """A rate with the 12 significant digits of keys and decisions: the one place where rates are rounded."""
    return float(f"{rate:.12g}")


def as_number(value: object) -> float:
    """What a user's function gives, as a float; NaN for what is no number, such as text and truth values."""
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan


@runtime_checkable
class Schedule(Protocol):
    """A fixed-peak schedule."""

    def peak(self, cycle: int, pruned: Sequence[float]) -> float:
        """max_lr of `cycle` (>= 0), given the planned cumulative pruned fractions up to that cycle."""
        ...


@runtime_checkable
class AdaptiveSchedule(Protocol):
    """A schedule whose peak is resolved by the worker, after pruning."""

    def rule(self, cycle: int, pruned: Sequence[float]) -> tuple[str, dict[str, Any]]:
        """Name and fully resolved arguments of a rule: one of `RULES`, or that of `AtShare`."""
        ...


def s_curve(z: float, beta: float, midpoint: float) -> float:
    """S(z) = z^β / (z^β + (2c − z)^β) for 0 ≤ z < 2c and 1 beyond: a logistic in the log-odds of z, ½ at z = c.

    Source: the authors' schedule (Liu, Ghosh, Tan, Motani, TMLR 2023) in the form that is defined at both ends.
    """
    if z <= 0.0:
        return 0.0
    if z >= 2 * midpoint:
        return 1.0
    log_odds = beta * math.log((2 * midpoint - z) / z)
    # A steep S is a step: exp would overflow where the answer is 0 to every digit.
    return 1.0 / (1.0 + math.exp(log_odds)) if log_odds < 700 else 0.0


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


@dataclass(frozen=True)
class Silo:
    """SILO: max_lr rises in an S from `eps` to `eps + delta` as weights are pruned.

    Args:
        eps: max_lr of the first cycles (ε > 0).
        delta: range of the S (δ ≥ 0; 0 gives a constant peak).
        beta: steepness (β > 0).
        q: delay in cycles; the peak stays at the start of the S up to cycle q.
        midpoint: pruned fraction (rising) or surviving fraction (falling) at which half of δ is reached, in (0, 1].
        direction: "rising" follows the pruned fraction, "falling" the surviving one (ICE-Pruning's use of the S).
        early: max_lr up to cycle q, where it is not that of the S (the authors' later runs begin with the last peak).

    Raises:
        ValueError: an argument is out of range.
    """

    eps: float
    delta: float
    beta: float = 5.0
    q: int = 1
    midpoint: float = 0.5
    direction: str = "rising"
    early: float | None = None

    line: ClassVar[str] = "S-curve from eps to eps + delta over the pruned fraction (SILO)"
    free: ClassVar[tuple[str, ...]] = ("eps", "delta")

    def __post_init__(self) -> None:
        _require(self.eps > 0, f"eps must be above 0, got {self.eps}")
        _require(self.delta >= 0, f"delta must be at least 0, got {self.delta}")
        _require(self.beta > 0, f"beta must be above 0, got {self.beta}")
        _require(self.q >= 0, f"q must be at least 0, got {self.q}")
        _require(0 < self.midpoint <= 1, f"midpoint must be in (0, 1], got {self.midpoint}")
        _require(self.early is None or self.early > 0, f"early must be above 0, got {self.early}")
        known = ("rising", "falling")
        _require(self.direction in known, f"direction must be rising or falling, got {self.direction!r}")

    def peak(self, cycle: int, pruned: Sequence[float]) -> float:
        if self.early is not None and cycle <= self.q:
            return self.early
        gamma = pruned[cycle - self.q] if cycle >= self.q else 0.0
        z = gamma if self.direction == "rising" else 1.0 - gamma
        return self.eps + self.delta * s_curve(z, self.beta, self.midpoint)


@dataclass(frozen=True)
class Constant:
    """The same peak in every cycle. Raises ValueError unless max_lr > 0."""

    max_lr: float

    line: ClassVar[str] = "the same max_lr in every cycle"
    free: ClassVar[tuple[str, ...]] = ("max_lr",)

    def __post_init__(self) -> None:
        _require(self.max_lr > 0, f"max_lr must be above 0, got {self.max_lr}")

    def peak(self, cycle: int, pruned: Sequence[float]) -> float:
        return self.max_lr


@dataclass(frozen=True)
class Linear:
    """A straight ramp over cycles, from `start` at cycle 0 to `end` at cycle `over` and beyond.

    Raises:
        ValueError: a rate that is not above 0, or `over` below 1.
    """

    start: float
    end: float
    over: int

    line: ClassVar[str] = "straight ramp from start (cycle 0) to end (cycle `over` and beyond)"
    free: ClassVar[tuple[str, ...]] = ("start", "end")

    def __post_init__(self) -> None:
        _require(self.start > 0, f"start must be above 0, got {self.start}")
        _require(self.end > 0, f"end must be above 0, got {self.end}")
        _require(self.over >= 1, f"over must be at least 1, got {self.over}")

    def peak(self, cycle: int, pruned: Sequence[float]) -> float:
        share = min(1.0, cycle / self.over)
        return self.start + (self.end - self.start) * share


@dataclass(frozen=True)
class Allr:
    """ALLR (Zimmer et al. 2023): the peak shrinks with the damage done by this cycle's prune and with short retraining.

    Args:
        max_lr: upper bound of the peak.
        train_epochs: length of the dense training in epochs (the study's `[dense].epochs` unless given).
    """

    max_lr: float
    train_epochs: int

    line: ClassVar[str] = "max_lr scaled by the norm lost to this cycle's prune and the retraining length (ALLR)"
    free: ClassVar[tuple[str, ...]] = ("max_lr",)

    def __post_init__(self) -> None:
        _require(self.max_lr > 0, f"max_lr must be above 0, got {self.max_lr}")
        _require(self.train_epochs >= 1, f"train_epochs must be at least 1, got {self.train_epochs}")

    def rule(self, cycle: int, pruned: Sequence[float]) -> tuple[str, dict[str, Any]]:
        return "allr", {"max_lr": self.max_lr, "train_epochs": self.train_epochs}


@dataclass(frozen=True)
class AtShare:
    """ICE-Pruning's use of an S: at every fine-tune of a cycle, its value at the share of weights that is left then."""

    schedule: Silo

    def rule(self, cycle: int, pruned: Sequence[float]) -> tuple[str, dict[str, Any]]:
        names = ("eps", "delta", "beta", "midpoint", "direction")
        return "at-share", {name: getattr(self.schedule, name) for name in names}


def rate_at_share(share: float, **curve: Any) -> float:
    """The S of `AtShare`'s arguments where that share of the weights is left, rounded as rates are."""
    return rounded(Silo(**curve, q=0).peak(0, [1.0 - share]))


@dataclass(frozen=True)
class PruneFacts:
    """What a rule may know of this cycle's prune.

    Attributes:
        norm_before: Euclidean norm of all weights and biases just before the prune.
        norm_after: the same just after it.
        share_pruned: share of the remaining weights that the prune removed, in (0, 1).
        epochs: length of the retraining that follows.
    """

    norm_before: float
    norm_after: float
    share_pruned: float
    epochs: int


def allr_peak(facts: PruneFacts, max_lr: float, train_epochs: float) -> float:
    """η = max_lr · min(1, max(d1, d2)); d1 = √(‖W‖² − ‖W_pruned‖²) / (‖W‖ √s), d2 = min(T_retrain / T_train, 1)."""
    lost = max(0.0, facts.norm_before**2 - facts.norm_after**2) ** 0.5
    scale = facts.norm_before * facts.share_pruned**0.5
    d1 = lost / scale if scale > 0 else 0.0
    d2 = min(facts.epochs / train_epochs, 1.0)
    return max_lr * min(1.0, max(d1, d2))


SCHEDULES: dict[str, type[Any]] = {"silo": Silo, "constant": Constant, "linear": Linear, "allr": Allr}
RULES: dict[str, Callable[..., float]] = {"allr": allr_peak}


def make_schedule(name: str, args: Mapping[str, Any]) -> Schedule | AdaptiveSchedule:
    """The schedule of that name. Raises ValueError for an unknown name or arguments that do not fit."""
    if name not in SCHEDULES:
        raise ValueError(unknown("schedule", name, SCHEDULES))
    return build(name, SCHEDULES[name], args)  # type: ignore[no-any-return]


def open_constants(name: str, args: Mapping[str, Any]) -> tuple[str, ...]:
    """The constants of a schedule that a table leaves out, if it gives none of them; () when it gives some."""
    free: tuple[str, ...] = SCHEDULES[name].free if name in SCHEDULES else ()
    return () if any(constant in args for constant in free) else free


def constants_at(name: str, rates: Sequence[float]) -> dict[str, float]:
    """The constants of a schedule from peak rates: one rate, or the lowest and the highest (SILO: ε and ε + δ)."""
    free = SCHEDULES[name].free
    if free == ("eps", "delta"):
        return {"eps": rates[0], "delta": rounded(rates[1] - rates[0])}
    return dict(zip(free, rates, strict=True))


def build(name: str, factory: type[Any], args: Mapping[str, Any]) -> Any:
    """Call a dataclass with a table from a study: arguments that do not fit are a ValueError that names the choices."""
    known = {field.name: field for field in fields(factory)}
    extra = [key for key in args if key not in known]
    if extra:
        raise ValueError(f"{name} takes no {', '.join(map(repr, extra))}; it takes {', '.join(known) or 'nothing'}")
    missing = [key for key, field in known.items() if key not in args and field.default is MISSING]
    if missing:
        raise ValueError(f"{name} needs {', '.join(missing)}")
    for key, value in args.items():
        if not _fits(str(known[key].type), value):
            raise ValueError(f"{name}: {key} is {KINDS[str(known[key].type)]}, got {value!r}")
    return factory(**args)


KINDS = {
    "int": "a whole number",
    "float": "a number",
    "float | None": "a number",
    "str": "a word",
    "tuple[float, ...]": "a list of numbers",
    "Mapping[str, Any]": "a name or a table",
}


def _fits(kind: str, value: Any) -> bool:
    if kind == "tuple[float, ...]":
        return isinstance(value, (list, tuple)) and all(_fits("float", item) for item in value)
    if kind == "str":
        return isinstance(value, str)
    if kind == "Mapping[str, Any]":
        return isinstance(value, (str, Mapping))
    wanted = int if kind == "int" else (int, float)
    return isinstance(value, wanted) and not isinstance(value, bool)


def pruned_fractions(remaining: Sequence[float]) -> list[float]:
    """Planned cumulative pruned fractions from targets of weights remaining (index = cycle)."""
    return [1.0 - share for share in remaining]
