"""Learning rate inside one cycle, as a multiplier of max_lr: pure functions of (step, total), standard library only.

Every profile reaches its declared `maximum` (1.0) exactly, at some step of every budget of at least one step.
A linear warm-up of n = max(1, round(f·total)) steps has multiplier (step + 1) / n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from silo_tune.errors import unknown
from silo_tune.schedules import build


class Profile(Protocol):
    """A shape inside a cycle."""

    maximum: ClassVar[float]

    def __call__(self, step: int, total: int) -> float:
        """Multiplier of max_lr at `step` (0 … total − 1) of `total` optimizer steps."""
        ...


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def _share(name: str, value: float) -> None:
    _check(0 <= value <= 1, f"{name} is a share of the budget in [0, 1], got {value}")


def warmup_steps(share: float, total: int) -> int:
    """Number of steps of a warm-up over a share of the budget, at least one."""
    return max(1, round(share * total))


def _drops_passed(drops: tuple[float, ...], step: int, total: int, warmup: int) -> int:
    return sum(step >= max(warmup, round(drop * total)) for drop in drops)


@dataclass(frozen=True)
class WarmupDrop:
    """Linear warm-up, plateau, then a division by 1/`factor` at each of `drops` (shares of the budget).

    The default is the shape of the ResNet-20 experiments (20K/25K/30K iterations); `warmup-drop-vgg` is that of VGG-19
    (10K/56K/84K of 112K).
    """

    warmup: float = 2 / 3
    drops: tuple[float, ...] = (2 / 3, 5 / 6)
    factor: float = 0.1

    maximum: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "drops", tuple(self.drops))
        _share("warmup", self.warmup)
        for drop in self.drops:
            _share("each of drops", drop)
        _check(list(self.drops) == sorted(self.drops), f"drops must rise, got {list(self.drops)}")
        _check(0 < self.factor <= 1, f"factor must be in (0, 1], got {self.factor}")

    def __call__(self, step: int, total: int) -> float:
        n = warmup_steps(self.warmup, total)
        if step < n:
            return (step + 1) / n
        return self.factor ** _drops_passed(self.drops, step, total, n)


@dataclass(frozen=True)
class Flat:
    """The peak at every step."""

    maximum: ClassVar[float] = 1.0

    def __call__(self, step: int, total: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Step:
    """Step decay: from the peak, multiplied by `factor` at each of `drops` (shares of the budget)."""

    drops: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1

    maximum: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "drops", tuple(self.drops))
        for drop in self.drops:
            _share("each of drops", drop)
        _check(0 < self.factor <= 1, f"factor must be in (0, 1], got {self.factor}")

    def __call__(self, step: int, total: int) -> float:
        return self.factor ** _drops_passed(self.drops, step, total, 1)


@dataclass(frozen=True)
class Triangular:
    """Cyclical LR (Smith 2017): `periods` triangles between `low` and 1 of the peak, each topped at its middle step."""

    periods: int = 1
    low: float = 0.1

    maximum: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _check(self.periods >= 1, f"periods must be at least 1, got {self.periods}")
        _check(0 <= self.low < 1, f"low must be in [0, 1), got {self.low}")

    def __call__(self, step: int, total: int) -> float:
        periods = min(self.periods, total)
        index = min(periods - 1, step * periods // total)
        while step >= round((index + 1) * total / periods):
            index += 1
        while step < round(index * total / periods):
            index -= 1
        start, end = round(index * total / periods), round((index + 1) * total / periods)
        top = (start + end - 1) // 2
        height = (step - start + 1) / (top - start + 1) if step <= top else (end - step) / (end - top)
        return self.low + (1.0 - self.low) * height


def _warm(step: int, n: int, shape: str) -> float:
    share = (step + 1) / n
    return share if shape == "linear" else 0.5 * (1.0 - math.cos(math.pi * share))


def _check_warmup(warmup: float, shape: str) -> None:
    _share("warmup", warmup)
    _check(shape in ("linear", "cosine"), f"warmup_shape must be linear or cosine, got {shape!r}")


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from the peak towards 0, after an optional warm-up."""

    warmup: float = 0.0
    warmup_shape: str = "linear"

    maximum: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _check_warmup(self.warmup, self.warmup_shape)

    def __call__(self, step: int, total: int) -> float:
        n = warmup_steps(self.warmup, total) if self.warmup else 0
        if step < n:
            return _warm(step, n, self.warmup_shape)
        return 0.5 * (1.0 + math.cos(math.pi * (step - n) / (total - n)))


@dataclass(frozen=True)
class LinearDecay:
    """A straight line from the peak towards 0, after an optional warm-up (LLR: 10 % cosine warm-up)."""

    warmup: float = 0.0
    warmup_shape: str = "linear"

    maximum: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _check_warmup(self.warmup, self.warmup_shape)

    def __call__(self, step: int, total: int) -> float:
        n = warmup_steps(self.warmup, total) if self.warmup else 0
        if step < n:
            return _warm(step, n, self.warmup_shape)
        return 1.0 - (step - n) / (total - n)


@dataclass(frozen=True)
class OneCycle:
    """A cosine rise from peak/`start_div` over a share `rising` of the budget, then a fall to start/`end_div`."""

    rising: float = 0.3
    start_div: float = 25.0
    end_div: float = 1e4

    maximum: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _share("rising", self.rising)
        _check(self.start_div >= 1, f"start_div must be at least 1, got {self.start_div}")
        _check(self.end_div >= 1, f"end_div must be at least 1, got {self.end_div}")

    def __call__(self, step: int, total: int) -> float:
        top = warmup_steps(self.rising, total) - 1
        start = 1.0 / self.start_div
        if step == top:
            return 1.0
        if step < top:
            return start + (1.0 - start) * 0.5 * (1.0 - math.cos(math.pi * step / top))
        low = start / self.end_div
        return low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * (step - top) / (total - 1 - top)))


@dataclass(frozen=True)
class Entry:
    """One named profile: canonical name, class, a line of description, and the arguments that the name fixes."""

    kind: str
    factory: type[Any]
    line: str
    preset: Mapping[str, Any]


PROFILES: dict[str, Entry] = {
    "warmup-drop": Entry(
        "warmup-drop", WarmupDrop, "ramp over 2/3 of the cycle, ÷10 there, ÷100 from 5/6 (ResNet-20)", {}
    ),
    "warmup-drop-vgg": Entry(
        "warmup-drop",
        WarmupDrop,
        "short ramp, plateau to 1/2, ÷10, ÷100 from 3/4 (VGG-19)",
        {"warmup": 10 / 112, "drops": (56 / 112, 84 / 112)},
    ),
    "constant": Entry("constant", Flat, "the peak at every step", {}),
    "step": Entry("step", Step, "step decay at 1/2 and 3/4", {}),
    "triangular": Entry("triangular", Triangular, "cyclical LR: triangles between low and the peak", {}),
    "cosine": Entry("cosine", Cosine, "half a cosine towards 0, optional warm-up", {}),
    "linear": Entry("linear", LinearDecay, "straight line towards 0, optional warm-up", {}),
    "one-cycle": Entry("one-cycle", OneCycle, "cosine rise, then cosine fall far below the start", {}),
}


def make_profile(name: str, args: Mapping[str, Any]) -> Profile:
    """The profile of that name. Raises ValueError for an unknown name or arguments that do not fit."""
    if name not in PROFILES:
        raise ValueError(unknown("profile", name, PROFILES))
    entry = PROFILES[name]
    return build(name, entry.factory, {**entry.preset, **args})  # type: ignore[no-any-return]


def resolve_profile(name: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """Canonical form that enters a unit's key: the kind and every argument, so that two spellings are one profile."""
    profile = make_profile(name, args)
    return {"name": PROFILES[name].kind, **asdict(profile)}  # type: ignore[call-overload]
