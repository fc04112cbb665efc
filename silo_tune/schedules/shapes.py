"""Learning rate inside one cycle, as a multiplier of max_lr: pure functions of (step, total), standard library only.

Every profile reaches its declared `maximum` (1.0) exactly, at some step of every budget of at least one step; one that
shows only a part of a longer shape declares None, and its maximum is what that part reaches (`maximum_of`).
A linear warm-up of n = max(1, round(f·total)) steps has multiplier (step + 1) / n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, Protocol

from silo_tune.errors import unknown
from silo_tune.schedules.peaks import build


class Profile(Protocol):
    """A shape inside a cycle."""

    @property
    def maximum(self) -> float | None:
        """Largest multiplier of every budget; None where it depends on what is shown."""
        ...

    def __call__(self, step: int, total: int) -> float:
        """Multiplier of max_lr at `step` (0 … total − 1) of `total` optimizer steps."""
        ...


def maximum_of(profile: Profile, total: int) -> float:
    """Largest multiplier of a budget: as declared, or what the part that is shown reaches."""
    if profile.maximum is not None:
        return profile.maximum
    return max(profile(step, total) for step in range(total))


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


def _warm(step: int, n: int, shape: str) -> float:
    share = (step + 1) / n
    return share if shape == "linear" else 0.5 * (1.0 - math.cos(math.pi * share))


def _check_warmup(warmup: float, shape: str) -> None:
    _share("warmup", warmup)
    _check(shape in ("linear", "cosine"), f"warmup_shape must be linear or cosine, got {shape!r}")


# An argument that came later is told in the resolved form only where it is not at its default: old keys stand.
ADDED = {"added": True}


@dataclass(frozen=True)
class WarmupDrop:
    """Linear warm-up, plateau, then a division by 1/`factor` at each of `drops` (shares of the budget).

    The default is the shape of the ResNet-20 experiments (20K/25K/30K iterations); `warmup-drop-vgg` is that of VGG-19
    (10K/56K/84K of 112K). The warm-up rises from `start` of the peak, in a straight line or half a cosine.
    """

    warmup: float = 2 / 3
    drops: tuple[float, ...] = (2 / 3, 5 / 6)
    factor: float = 0.1
    warmup_shape: str = field(default="linear", metadata=ADDED)
    start: float = field(default=0.0, metadata=ADDED)

    maximum: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "drops", tuple(self.drops))
        _check_warmup(self.warmup, self.warmup_shape)
        for drop in self.drops:
            _share("each of drops", drop)
        _check(list(self.drops) == sorted(self.drops), f"drops must rise, got {list(self.drops)}")
        _check(0 < self.factor <= 1, f"factor must be in (0, 1], got {self.factor}")
        _check(0 <= self.start < 1, f"start must be in [0, 1), got {self.start}")

    def __call__(self, step: int, total: int) -> float:
        n = warmup_steps(self.warmup, total)
        if step < n:
            return self.start + (1.0 - self.start) * _warm(step, n, self.warmup_shape)
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
    """A cosine rise from peak/`start_div` over a share `rising` of the budget, then a fall to start/`end_div`.

    Args:
        rising, start_div, end_div: as above.
        momentum: two values that the optimizer's momentum (β₁ of AdamW) runs between against the rate: the second where
            the rate is highest, the first at the start and the end (Smith & Topin 2018: 0.95 and 0.85). It stays as the
            study has it when left out.
    """

    rising: float = 0.3
    start_div: float = 25.0
    end_div: float = 1e4
    momentum: tuple[float, ...] = field(default=(), metadata=ADDED)

    maximum: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _share("rising", self.rising)
        _check(self.start_div >= 1, f"start_div must be at least 1, got {self.start_div}")
        _check(self.end_div >= 1, f"end_div must be at least 1, got {self.end_div}")
        pair = len(self.momentum) in (0, 2) and all(0 < value < 1 for value in self.momentum)
        _check(pair, f"momentum is two values in (0, 1), got {list(self.momentum)}")

    def __call__(self, step: int, total: int) -> float:
        start = 1.0 / self.start_div
        rising, height = self._height(step, total)
        low = start if rising else start / self.end_div
        return low + (1.0 - low) * height

    def momentum_at(self, step: int, total: int) -> float | None:
        """The optimizer's momentum at a step; None leaves it as it is."""
        if not self.momentum:
            return None
        most, least = self.momentum
        return most - (most - least) * self._height(step, total)[1]

    def _height(self, step: int, total: int) -> tuple[bool, float]:
        """Is this the rise? And how far up, 1 at the top."""
        top = warmup_steps(self.rising, total) - 1
        if step == top:
            return True, 1.0
        if step < top:
            return True, 0.5 * (1.0 - math.cos(math.pi * step / top))
        return False, 0.5 * (1.0 + math.cos(math.pi * (step - top) / (total - 1 - top)))


@dataclass(frozen=True)
class Replay:
    """The part of a longer training's shape from share `first` to share `last` of its budget.

    LR rewinding (Renda et al. 2020) replays the last t of the T epochs of the dense training: `first` = 1 − t/T.

    Args:
        of: the longer shape, a profile by name or as a table.
        first, last: shares of its budget, first < last.
    """

    of: Mapping[str, Any]
    first: float = 0.0
    last: float = 1.0

    maximum: ClassVar[None] = None

    def __post_init__(self) -> None:
        _share("first", self.first)
        _share("last", self.last)
        _check(self.first < self.last, f"first {self.first} must be below last {self.last}")
        given = {"name": self.of} if isinstance(self.of, str) else dict(self.of)
        _check(isinstance(given.get("name"), str), f"of is a profile such as {{ name = 'step' }}, got {self.of!r}")
        object.__setattr__(self, "of", resolve_profile(given.pop("name"), given))

    def __call__(self, step: int, total: int) -> float:
        whole = round(total / (self.last - self.first))
        # Rounding may lay the part's last step one beyond the whole.
        return self._whole(min(round(self.first * whole) + step, whole - 1), whole)

    @cached_property
    def _whole(self) -> Profile:
        return make_profile(self.of["name"], {key: value for key, value in self.of.items() if key != "name"})


@dataclass(frozen=True)
class RampInSteps:
    """A ramp of so many steps, whatever the budget, cut off by drops that are shares of the budget.

    The peak is not reached where the first drop comes before the ramp's end. So in the authors' ResNet-20 script: its
    ramp counts 20,000 steps, its drops come at epochs 25 and 32 of 50, and stand at 1/10 and 1/100 of max_lr. From
    share `plateau` on the peak stands whatever the ramp has reached (their VGG-19 script: from epoch 14 of 160).
    """

    steps: int = 20_000
    drops: tuple[float, ...] = (25 / 50, 32 / 50)
    factor: float = 0.1
    plateau: float = 1.0

    maximum: ClassVar[None] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "drops", tuple(self.drops))
        _check(self.steps >= 1, f"steps must be at least 1, got {self.steps}")
        for drop in self.drops:
            _share("each of drops", drop)
        _check(list(self.drops) == sorted(self.drops), f"drops must rise, got {list(self.drops)}")
        _check(0 < self.factor <= 1, f"factor must be in (0, 1], got {self.factor}")
        _share("plateau", self.plateau)

    def __call__(self, step: int, total: int) -> float:
        passed = _drops_passed(self.drops, step, total, 1)
        if passed or step >= round(self.plateau * total):
            return self.factor**passed
        return min(1.0, (step + 1) / self.steps)


@dataclass(frozen=True)
class ShapeEntry:
    """One named profile: canonical name, class, a line of description, and the arguments that the name fixes."""

    kind: str
    factory: type[Any]
    line: str
    preset: Mapping[str, Any]


PROFILES: dict[str, ShapeEntry] = {
    "warmup-drop": ShapeEntry(
        "warmup-drop", WarmupDrop, "ramp over 2/3 of the cycle, ÷10 there, ÷100 from 5/6 (ResNet-20)", {}
    ),
    "warmup-drop-vgg": ShapeEntry(
        "warmup-drop",
        WarmupDrop,
        "short ramp, plateau to 1/2, ÷10, ÷100 from 3/4 (VGG-19)",
        {"warmup": 10 / 112, "drops": (56 / 112, 84 / 112)},
    ),
    "constant": ShapeEntry("constant", Flat, "the peak at every step", {}),
    "step": ShapeEntry("step", Step, "step decay at 1/2 and 3/4", {}),
    "triangular": ShapeEntry("triangular", Triangular, "cyclical LR: triangles between low and the peak", {}),
    "cosine": ShapeEntry("cosine", Cosine, "half a cosine towards 0, optional warm-up", {}),
    "linear": ShapeEntry("linear", LinearDecay, "straight line towards 0, optional warm-up", {}),
    "one-cycle": ShapeEntry("one-cycle", OneCycle, "cosine rise, then cosine fall far below the start", {}),
    "replay": ShapeEntry(
        "replay", Replay, "a part of a longer shape, such as the end of the dense training's", {"of": "warmup-drop"}
    ),
    "ramp-in-steps": ShapeEntry(
        "ramp-in-steps", RampInSteps, "a ramp of 20,000 steps that drops cut off (the authors' script)", {}
    ),
}


def make_profile(name: str, args: Mapping[str, Any]) -> Profile:
    """The profile of that name. Raises ValueError for an unknown name or arguments that do not fit."""
    if name not in PROFILES:
        raise ValueError(unknown("profile", name, PROFILES))
    entry = PROFILES[name]
    return build(name, entry.factory, {**entry.preset, **args})  # type: ignore[no-any-return]


def resolve_profile(name: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """Canonical form that enters a unit's key: the kind and every argument, so that two spellings are one profile."""
    profile: Any = make_profile(name, args)
    if isinstance(profile, Replay) and (profile.first, profile.last) == (0.0, 1.0):
        return dict(profile.of)  # all of it is the shape itself
    later = [f.name for f in fields(profile) if f.metadata == ADDED and getattr(profile, f.name) == f.default]
    resolved = {key: value for key, value in asdict(profile).items() if key not in later}
    return {"name": PROFILES[name].kind, **resolved}
