"""Learning rates point by point against torch's own schedulers, where the two coincide."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
)

from silo_tune.schedules.shapes import make_profile

PEAK, TOTAL = 0.1, 120
Make = Callable[[torch.optim.Optimizer], LRScheduler]


def theirs(make: Make, lr: float = PEAK, steps: int = TOTAL) -> list[float]:
    """The rate of each step under one of torch's schedulers."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SequentialLR passes an epoch on
            scheduler.step()
    return found


def ours(name: str, **args: Any) -> list[float]:
    profile = make_profile(name, args)
    return [PEAK * profile(step, TOTAL) for step in range(TOTAL)]


def close(values: list[float]) -> Any:
    return pytest.approx(values, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("rising", [0.1, 0.3, 0.5])
def test_one_cycle(rising: float) -> None:
    def make(optimizer: torch.optim.Optimizer) -> LRScheduler:
        return OneCycleLR(
            optimizer,
            PEAK,
            total_steps=TOTAL,
            pct_start=rising,
            div_factor=25.0,
            final_div_factor=1e4,
            cycle_momentum=False,
        )

    assert ours("one-cycle", rising=rising) == close(theirs(make))


def test_one_cycle_runs_momentum_against_the_rate_as_torch_does() -> None:
    profile: Any = make_profile("one-cycle", {"momentum": [0.95, 0.85]})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    scheduler = OneCycleLR(optimizer, max_lr=1.0, total_steps=TOTAL, pct_start=0.3)
    found = []
    for _ in range(TOTAL):
        found.append(float(optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        if len(found) < TOTAL:
            scheduler.step()
    assert [profile.momentum_at(step, TOTAL) for step in range(TOTAL)] == pytest.approx(found, abs=1e-12)


def test_clr_is_a_one_cycle_from_and_to_a_hundredth() -> None:
    def make(optimizer: torch.optim.Optimizer) -> LRScheduler:
        return OneCycleLR(
            optimizer,
            PEAK,
            total_steps=TOTAL,
            pct_start=0.1,
            div_factor=100,
            final_div_factor=100,
            cycle_momentum=False,
        )

    assert ours("one-cycle", rising=0.1, start_div=100.0, end_div=100.0) == close(theirs(make))


def test_cosine() -> None:
    assert ours("cosine") == close(theirs(lambda optimizer: CosineAnnealingLR(optimizer, T_max=TOTAL)))


def test_linear() -> None:
    def make(optimizer: torch.optim.Optimizer) -> LRScheduler:
        return LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=TOTAL)

    assert ours("linear") == close(theirs(make))


def test_a_linear_warmup_before_a_cosine_or_a_line() -> None:
    n = 12

    def make(then: Make) -> Make:
        def sequence(optimizer: torch.optim.Optimizer) -> LRScheduler:
            first = LinearLR(optimizer, start_factor=1 / n, end_factor=1.0, total_iters=n - 1)
            return SequentialLR(optimizer, [first, then(optimizer)], milestones=[n])

        return sequence

    assert ours("cosine", warmup=0.1) == close(theirs(make(lambda o: CosineAnnealingLR(o, T_max=TOTAL - n))))
    line: Make = lambda o: LinearLR(o, start_factor=1.0, end_factor=0.0, total_iters=TOTAL - n)  # noqa: E731
    assert ours("linear", warmup=0.1) == close(theirs(make(line)))


@pytest.mark.parametrize("drops", [(0.5, 0.75), (0.25,), (0.1, 0.2, 0.9)])
def test_step(drops: tuple[float, ...]) -> None:
    milestones = [round(drop * TOTAL) for drop in drops]
    assert ours("step", drops=list(drops)) == close(theirs(lambda o: MultiStepLR(o, milestones, gamma=0.1)))


def test_warmup_then_drops() -> None:
    n = 80

    def make(optimizer: torch.optim.Optimizer) -> LRScheduler:
        first = LinearLR(optimizer, start_factor=1 / n, end_factor=1.0, total_iters=n - 1)
        # Torch's second part counts from 0 where it begins: the drop at its beginning is a lower start.
        then = MultiStepLR(optimizer, [20], gamma=0.1)
        return SequentialLR(optimizer, [first, then], milestones=[n])

    found = theirs(make)
    assert ours("warmup-drop")[:n] == close(found[:n])
    assert ours("warmup-drop")[n:] == close([lr / 10 for lr in found[n:]])


@pytest.mark.parametrize("periods", [1, 3])
def test_triangular(periods: int) -> None:
    half = TOTAL // periods // 2

    def make(optimizer: torch.optim.Optimizer) -> LRScheduler:
        return CyclicLR(
            optimizer, base_lr=0.01, max_lr=PEAK, step_size_up=half, step_size_down=half + 1, cycle_momentum=False
        )

    # Torch spends a step at the base rate, from which ours begins to rise.
    period = theirs(make, lr=0.01, steps=2 * half + 1)[1:]
    assert ours("triangular", periods=periods, low=0.1) == close(period * periods)
