"""A schedule over cycles as a learning-rate scheduler of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from silo_tune.errors import BadInput
from silo_tune.schedules.peaks import Schedule, rounded
from silo_tune.schedules.shapes import make_profile

# Multiplier of max_lr at a step (0 … steps − 1) of so many.
Shape = Callable[[int, int], float]


class SiloLR(LRScheduler):
    """The learning rate of every step of a cycle, with a new peak (max_lr) in every cycle.

    It begins in cycle 0, the dense one; `next_cycle` begins the next. The group with the highest rate of its own has
    max_lr as its peak, the other groups keep their ratio to it. The rate is a function of where it stands, as that of
    `torch.optim.lr_scheduler.LambdaLR`; so it behaves like that one inside `ChainedScheduler` and `SequentialLR`.

    Args:
        optimizer: its rates are taken for their ratios alone.
        schedule: gives max_lr, such as `Silo(eps=0.1, delta=0.3)`, or your own object with `peak(cycle, pruned)`.
        steps: calls of `step()` in a cycle: its batches, or its epochs, whichever you call it after.
        profile: the shape inside a cycle: a registered name, a table such as `{"name": "cosine", "warmup": 0.1}`, or
            your own function of (step, steps) that gives the multiplier of max_lr.
        last_epoch: as in torch.

    Raises:
        BadInput: everything that is wrong with the arguments.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedule,
        steps: int,
        profile: str | Mapping[str, Any] | Shape = "warmup-drop",
        last_epoch: int = -1,
    ) -> None:
        problems = [*_wrong_schedule(schedule), *_wrong_steps(steps)]
        try:
            self._profile = _profile_of(profile)
        except ValueError as error:
            problems.append(f"profile: {error}")
        rates = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
        if max(rates) <= 0:
            problems.append("optimizer: all of its rates are 0; the groups need rates above 0 for their ratios")
        if problems:
            raise BadInput("\n".join(f"SiloLR: {problem}" for problem in problems))
        self._schedule = schedule
        self._ratios = [rate / max(rates) for rate in rates]
        self.steps, self.first = steps, 0
        self.pruned: tuple[float, ...] = (0.0,)  # of the cycles so far; never changed in place, for states hold it
        super().__init__(optimizer, last_epoch)

    @property
    def cycle(self) -> int:
        """The cycle it is in; 0 is the dense one."""
        return len(self.pruned) - 1

    @property
    def max_lr(self) -> float:
        """The peak of the cycle."""
        return rounded(self._schedule.peak(self.cycle, self.pruned))

    @property
    def done(self) -> bool:
        """Are all declared steps of the cycle made?"""
        return self.last_epoch - self.first >= self.steps

    def next_cycle(
        self, weights_remaining: float | None = None, *, pruned: float | None = None, steps: int | None = None
    ) -> None:
        """Begin the next cycle, whether the declared steps of this one are made or not.

        Args:
            weights_remaining: planned share of all prunable weights that remain in it.
            pruned: or the share that is pruned, 1 − weights_remaining.
            steps: of this and the later cycles, where they are not as many as before.

        Raises:
            BadInput: neither or both shares, a share outside (0, 1], weights remaining that rise, or steps below 1.
        """
        if (weights_remaining is None) == (pruned is None):
            raise BadInput("SiloLR.next_cycle: give weights_remaining or pruned")
        share = 1.0 - weights_remaining if weights_remaining is not None else pruned
        assert share is not None
        problems = list(_wrong_steps(self.steps if steps is None else steps))
        if not 0 <= share < 1:
            problems.append(f"weights_remaining is a share in (0, 1], got {1.0 - share:.6g}")
        elif share < self.pruned[-1]:
            problems.append(f"weights_remaining rises from {1.0 - self.pruned[-1]:.6g} to {1.0 - share:.6g}")
        if problems:
            raise BadInput("\n".join(f"SiloLR.next_cycle: {problem}" for problem in problems))
        self.pruned = (*self.pruned, share)
        self.first = self.last_epoch
        self.steps = self.steps if steps is None else steps
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self._last_lr = [_copied(group["lr"]) for group in self.optimizer.param_groups]

    def get_lr(self) -> list[float | Tensor]:
        """The rates of the groups at this step. Raises BadInput beyond the declared steps of the cycle."""
        position = self.last_epoch - self.first
        if position > self.steps:
            raise BadInput(
                f"SiloLR: step {position + 1} of cycle {self.cycle}, which has {self.steps}: declare more steps, or "
                f"call next_cycle before the next one begins"
            )
        # The call after a cycle's last step has no next step to give a rate to: the last rate stands.
        rate = self.max_lr * self._profile(min(position, self.steps - 1), self.steps)
        return [rate * ratio for ratio in self._ratios]

    def state_dict(self) -> dict[str, Any]:
        """Numbers alone, which `torch.load` reads with `weights_only`; schedule and profile are given anew."""
        return {key: value for key, value in super().state_dict().items() if key not in ("_schedule", "_profile")}


def the_silo_lr(schedulers: Iterable[Any]) -> SiloLR:
    """The one among a training's schedulers, which may be in a wrapper of Accelerate, or in a list of torch's.

    Raises:
        BadInput: there is none, or more than one.
    """
    found = [one for one in _unwrapped(schedulers) if isinstance(one, SiloLR)]
    if len(found) != 1:
        raise BadInput(f"{len(found)} of the training's schedulers are a SiloLR; give it one")
    return found[0]


def _unwrapped(schedulers: Iterable[Any]) -> Iterator[Any]:
    for given in schedulers:
        one = getattr(given, "scheduler", given)
        yield one
        yield from _unwrapped(getattr(one, "_schedulers", ()))


def _copied(rate: float | Tensor) -> float | Tensor:
    return rate.clone() if isinstance(rate, Tensor) else rate


def _profile_of(given: str | Mapping[str, Any] | Shape) -> Shape:
    """Raises ValueError for a name or arguments that do not fit."""
    if callable(given):
        return given
    args = {"name": given} if isinstance(given, str) else dict(given)
    made = make_profile(args.pop("name", ""), args)
    if getattr(made, "momentum", ()):
        raise ValueError("SiloLR sets rates alone; leave momentum out")
    return made


def _wrong_schedule(schedule: Any) -> Iterator[str]:
    if not isinstance(schedule, Schedule):
        yield f"schedule: {schedule!r} has no peak(cycle, pruned); give one such as Silo(eps=0.1, delta=0.3)"


def _wrong_steps(steps: Any) -> Iterator[str]:
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        yield f"steps is a whole number of at least 1, got {steps!r}"
