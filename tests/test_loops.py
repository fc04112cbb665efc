"""SILO in other people's loops: the scheduler, masks that hold, and callbacks of real trainers."""

from __future__ import annotations

import gc
import io
import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune as torch_prune
from torch.optim.lr_scheduler import ChainedScheduler, ExponentialLR, LambdaLR, LinearLR, LRScheduler, SequentialLR

from silo_tune.errors import BadInput
from silo_tune.loops.pruner import Pruner
from silo_tune.loops.silo_lr import SiloLR, the_silo_lr
from silo_tune.planner.candidates import peak_of
from silo_tune.pruning.filters import without_filters
from silo_tune.schedules.peaks import Silo, pruned_fractions
from silo_tune.schedules.shapes import PROFILES, make_profile
from silo_tune.study.arms import ScheduleArm
from tests.conftest import small_study

SILO = Silo(eps=0.1, delta=0.3)
STEPS = 5


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(32, 8, generator=generator), torch.randint(0, 3, (32,), generator=generator)


def train_on(model: nn.Module, optimizer: torch.optim.Optimizer, step: int, clip: float | None = None) -> None:
    inputs, labels = batch(step)
    optimizer.zero_grad()
    functional.cross_entropy(model(inputs), labels).backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def all_zero(pruner: Pruner) -> bool:
    return not any(bool(pruner.parameters[name][~mask].any()) for name, mask in pruner.masks.items())


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def stored(state: Any) -> Any:
    """A state as a checkpoint gives it back, read without running code."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# --- the scheduler ---


def optimizer_of(*rates: float | Tensor) -> torch.optim.Optimizer:
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups)


def step_both(lr: LRScheduler | ChainedScheduler) -> None:
    lr.optimizer.step()
    lr.step()


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    "schedule",
    [
        {"name": "silo", "eps": 0.03, "delta": 0.04},
        {"name": "constant", "max_lr": 0.05},
        {"name": "linear", "start": 0.1, "end": 0.7, "over": 6},
    ],
    ids=lambda table: table["name"],
)
def test_peaks_and_rates_are_those_of_a_study(schedule: dict[str, Any], profile: str) -> None:
    study = small_study(cycles=9, arms={"mine": {"mode": "schedule", "schedule": schedule}})
    arm = study.arms["mine"]
    assert isinstance(arm, ScheduleArm)
    planned, shape = study.schedule_of(arm), make_profile(profile, {})
    lr = SiloLR(optimizer_of(1.0), planned, STEPS, profile)  # type: ignore[arg-type]
    for cycle, remaining in enumerate(study.prune.remaining(study.cycles)):
        if cycle:
            lr.next_cycle(remaining)
        peak = peak_of(planned, cycle, study.pruned_by(arm), "mine")["value"]
        assert (lr.cycle, lr.max_lr) == (cycle, peak)
        for step in range(STEPS):
            assert lr.get_last_lr() == [lr.optimizer.param_groups[0]["lr"]] == [peak * shape(step, STEPS)]
            assert not lr.done
            step_both(lr)
        assert lr.done
        assert lr.get_last_lr() == [peak * shape(STEPS - 1, STEPS)]  # no step is left: the last rate stands
    assert lr.pruned == tuple(study.pruned_by(arm))


def test_weights_remaining_and_pruned_are_two_ways_to_say_it() -> None:
    one, other = (SiloLR(optimizer_of(1.0), SILO, STEPS) for _ in range(2))
    for remaining in (0.8, 0.64, 0.5, 0.2):
        one.next_cycle(remaining)
        other.next_cycle(pruned=pruned_fractions([remaining])[0])
        assert one.state_dict() == other.state_dict()
        assert one.max_lr == other.max_lr


def test_a_function_is_a_profile() -> None:
    lr = SiloLR(optimizer_of(1.0), SILO, 4, lambda step, steps: (step + 1) / steps)
    for step in range(4):
        assert lr.get_last_lr() == [SILO.eps * (step + 1) / 4]
        step_both(lr)


def test_groups_keep_their_ratio_and_a_rate_in_a_tensor_stays_there() -> None:
    held = torch.tensor(0.5)
    lr = SiloLR(optimizer_of(0.05, held, 0.1), SILO, STEPS)
    for _ in range(2):
        for _ in range(STEPS):
            low, high, middle = (float(rate) for rate in lr.get_last_lr())
            assert (low / high, middle / high) == pytest.approx((0.1, 0.2))
            step_both(lr)
        lr.next_cycle(0.5)
    assert lr.optimizer.param_groups[1]["lr"] is held
    assert float(held) == pytest.approx(lr.max_lr * make_profile("warmup-drop", {})(0, STEPS))


def as_lambda(optimizer: torch.optim.Optimizer) -> LambdaLR:
    """Cycle 0 as torch's own scheduler of a function: the rates are those of the groups times a factor."""
    shape = make_profile("warmup-drop", {})
    return LambdaLR(optimizer, lambda step: SILO.eps * shape(min(step, 29), 30))


COMBINED: dict[str, Callable[[torch.optim.Optimizer, LRScheduler], Any]] = {
    "alone": lambda optimizer, lr: lr,
    "chained": lambda optimizer, lr: ChainedScheduler([lr, ExponentialLR(optimizer, 0.9)]),
    "chained last": lambda optimizer, lr: ChainedScheduler([ExponentialLR(optimizer, 0.9), lr]),
    "first": lambda optimizer, lr: SequentialLR(optimizer, [lr, ExponentialLR(optimizer, 0.9)], [10]),
    "second": lambda optimizer, lr: SequentialLR(optimizer, [LinearLR(optimizer, 0.1), lr], [10]),
}


@pytest.mark.parametrize("combine", COMBINED.values(), ids=COMBINED)
@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_it_behaves_as_the_scheduler_of_a_function_wherever_torch_puts_it(combine: Callable[..., Any]) -> None:
    ours, theirs = optimizer_of(1.0, 0.5), optimizer_of(1.0, 0.5)
    one, other = combine(ours, SiloLR(ours, SILO, 30)), combine(theirs, as_lambda(theirs))
    for _ in range(25):
        assert [group["lr"] for group in ours.param_groups] == [group["lr"] for group in theirs.param_groups]
        assert one.get_last_lr() == other.get_last_lr()
        step_both(one)
        step_both(other)
    assert stored(one.state_dict()).keys() == one.state_dict().keys()


def test_it_begins_where_last_epoch_says_as_the_scheduler_of_a_function() -> None:
    ours, theirs = optimizer_of(1.0, 0.5), optimizer_of(1.0, 0.5)
    for group in (*ours.param_groups, *theirs.param_groups):
        group["initial_lr"] = group["lr"]
    shape = make_profile("warmup-drop", {})
    other = LambdaLR(theirs, lambda step: SILO.eps * shape(step, 30), last_epoch=6)
    assert SiloLR(ours, SILO, 30, last_epoch=6).get_last_lr() == other.get_last_lr()


def test_a_state_continues_where_it_stood_and_later_steps_do_not_touch_it() -> None:
    lr = SiloLR(optimizer_of(1.0), SILO, STEPS)
    lr.next_cycle(0.8, steps=7)
    step_both(lr)
    state, optimizer_state = lr.state_dict(), lr.optimizer.state_dict()
    kept = stored(state)
    again = SiloLR(optimizer_of(1.0), SILO, STEPS)
    again.load_state_dict(kept)
    again.optimizer.load_state_dict(optimizer_state)
    for one in (lr, again):
        one.next_cycle(0.3)
        step_both(one)
    assert again.state_dict() == lr.state_dict() != kept
    assert again.optimizer.param_groups[0]["lr"] == lr.optimizer.param_groups[0]["lr"]
    assert (state, again.steps) == (kept, 7)


def test_the_scheduler_of_a_training_is_found_in_its_wrappers() -> None:
    optimizer = optimizer_of(1.0)
    lr = SiloLR(optimizer, SILO, STEPS)
    assert the_silo_lr([ChainedScheduler([ExponentialLR(optimizer, 0.9), lr])]) is lr
    with pytest.raises(BadInput, match="0 of the training's schedulers are a SiloLR"):
        the_silo_lr([ExponentialLR(optimizer, 0.9)])


# --- masks that hold ---

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": lambda ps: torch.optim.Adam(ps, lr=0.01),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01, weight_decay=0.1),
    "fused adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01, weight_decay=0.1, fused=True),
    "rmsprop": lambda ps: torch.optim.RMSprop(ps, lr=0.01, momentum=0.9),
}


@pytest.mark.parametrize("anew", [False, True], ids=["one optimizer", "one a cycle"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_pruned_weights_are_zero_after_every_step_and_the_others_move(make: Any, anew: bool, bf16: bool) -> None:
    model = network()
    optimizer = make(model.parameters())
    pruner = Pruner(model, rate=0.3)
    for cycle in range(4):
        if cycle:
            pruner.prune()
            optimizer = make(model.parameters()) if anew else optimizer
        for step in range(3):
            before = {name: value.detach().clone() for name, value in model.named_parameters()}
            with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
                train_on(model, optimizer, 10 * cycle + step)
            assert all_zero(pruner)
            for name, mask in pruner.masks.items():
                assert bool((pruner.parameters[name] != before[name])[mask].any()), name
    assert pruner.counts.kept == round(pruner.counts.total * 0.7**3)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_weights_that_stay_train_as_if_the_others_were_not_there(make: Any) -> None:
    """As under a mask in the forward pass: torch's own pruning. Clipping sees the same norm, too."""
    ours, theirs = network(), network()
    pruner = Pruner(ours, rate=0.6)
    pruner.prune()
    for place in ("0", "3"):
        torch_prune.custom_from_mask(theirs.get_submodule(place), "weight", pruner.masks[f"{place}.weight"])
    one, other = make(ours.parameters()), make(theirs.parameters())
    for step in range(5):
        train_on(ours, one, step, clip=0.1)
        train_on(theirs, other, step, clip=0.1)
    inputs, _ = batch(99)
    assert torch.allclose(ours(inputs), theirs(inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scope", ["global", "layerwise"])
@pytest.mark.parametrize("criterion", ["magnitude", "lamp", "random"])
def test_counts_are_exact_and_the_same_in_every_process(scope: str, criterion: str) -> None:
    one, other = (Pruner(network(), criterion=criterion, scope=scope, skip=["3.*"], seed=3) for _ in range(2))
    for cycle in range(1, 8):
        torch.rand(cycle)  # the global stream differs between processes
        counts = one.prune()
        torch.rand(1)
        assert other.prune() == counts
        assert (counts.cycle, counts.kept, counts.weights_remaining) == (cycle, round(128 * 0.8**cycle), 0.8**cycle)
        assert dict(counts.layers) == {"0.weight": (counts.kept, 128)}
        assert str(counts).startswith(f"cycle {cycle}: {counts.kept} of 128 weights remain")
        assert torch.equal(one.masks["0.weight"], other.masks["0.weight"])


def test_targets_are_taken_in_order_and_end() -> None:
    pruner = Pruner(network(), targets=[0.5, 0.1])
    assert [pruner.prune().weights_remaining for _ in range(2)] == [0.5, 0.1]
    with pytest.raises(BadInput, match="all 2 of them are reached"):
        pruner.prune()
    assert pruner.counts.cycle == 2


def test_the_weights_that_stay_are_kept_rewound_or_drawn_anew() -> None:
    def after(way: str, **more: Any) -> tuple[Pruner, dict[str, Tensor]]:
        model = network()
        pruner = Pruner(model, after_prune=way, **more)
        train_on(model, sgd(model), 0)
        trained = {name: value.clone() for name, value in model.state_dict().items()}
        before = torch.random.get_rng_state()
        pruner.prune()
        assert torch.equal(torch.random.get_rng_state(), before)
        assert all_zero(pruner)
        return pruner, trained

    def alive(pruner: Pruner, weights: Mapping[str, Tensor]) -> bool:
        now = pruner.model.state_dict()
        full = {name: torch.ones(value.shape, dtype=torch.bool) for name, value in now.items()} | pruner.masks
        return all(torch.equal(value[full[name]], weights[name][full[name]]) for name, value in now.items())

    kept, trained = after("keep")
    assert alive(kept, trained)
    rewound, _ = after("rewind")
    assert alive(rewound, network().state_dict())
    train_on(rewound.model, sgd(rewound.model), 1)
    later = {name: value.clone() for name, value in rewound.model.state_dict().items()}
    rewound.rewind_here()
    train_on(rewound.model, sgd(rewound.model), 2)
    rewound.prune()
    assert alive(rewound, later)
    (drawn, trained), (again, _) = (after("reinit", fresh=lambda: nn.DataParallel(fresh())) for _ in range(2))
    assert same_bits(drawn.model, again.model)
    assert not alive(drawn, trained)
    first = {name: value.clone() for name, value in drawn.model.state_dict().items()}
    drawn.prune()
    assert not alive(drawn, first)  # each cycle draws its own


def fresh() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def test_masks_of_torch_are_where_it_starts() -> None:
    model = network()
    linear = model.get_submodule("0")
    optimizer = sgd(model)
    torch_prune.l1_unstructured(linear, "weight", 0.5)
    torch_prune.random_unstructured(linear, "bias", 0.25)
    mask, weight = linear.get_buffer("weight_mask").bool(), linear.get_parameter("weight_orig")
    pruner = Pruner(model)
    assert linear.get_parameter("weight") is weight
    assert model.state_dict().keys() == network().state_dict().keys()
    assert torch.equal(pruner.masks["0.weight"], mask)
    assert (pruner.counts.kept, pruner.counts.weights_remaining) == (64 + 48, 112 / 176)
    assert pruner.prune().kept == round(112 * 0.8)
    train_on(model, optimizer, 0)
    assert all_zero(pruner)
    assert int((linear.get_parameter("bias") == 0).sum()) == 4  # held, and not counted


def test_a_network_of_fewer_filters_is_pruned_as_any_other() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3))
    small = without_filters(model, {"0.weight": [0, 3, 5]}, (8, 8, 1)).train()
    pruner = Pruner(small, rate=0.5)
    pruner.check(torch.ones(2, 1, 8, 8))
    counts = pruner.prune()
    assert (counts.total, counts.kept) == (3 * 9 + 3 * 3 * 36, round((27 + 324) / 2))
    pruner.check(torch.ones(2, 1, 8, 8))
    optimizer = torch.optim.AdamW(small.parameters(), lr=0.1)
    small(torch.ones(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    assert all_zero(pruner)


class Standardised(nn.Linear):
    """Computes its weights from what is stored."""

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, self.weight - self.weight.mean(), self.bias)


def test_zeros_that_a_layer_does_not_compute_with_are_found() -> None:
    pruner = Pruner(nn.Sequential(Standardised(8, 8)))
    pruner.prune()
    with pytest.raises(BadInput, match=r"0\.weight: computed from what is stored"):
        pruner.check(torch.ones(2, 8))


def test_after_finish_nothing_is_held_and_the_zeros_stand_until_something_moves_them() -> None:
    model = network()
    pruner, optimizer = Pruner(model), sgd(model)
    pruner.prune()
    train_on(model, optimizer, 0)
    assert pruner.finish() == pruner.counts
    assert all_zero(pruner)
    train_on(model, optimizer, 1)
    assert not all_zero(pruner)
    with pytest.raises(BadInput, match="finished"):
        pruner.prune()


def test_a_pruner_lives_exactly_as_long_as_its_network() -> None:
    model = network()
    optimizer = sgd(model)
    pruner = Pruner(model)
    pruner.prune()
    masks, there = pruner.masks, weakref.ref(pruner)
    del pruner
    gc.collect()
    train_on(model, optimizer, 0)
    assert not any(bool(model.get_parameter(name)[~mask].any()) for name, mask in masks.items())
    del model, optimizer
    gc.collect()
    assert there() is None


# --- a loop of one's own ---


def begun(after_prune: str) -> tuple[nn.Module, torch.optim.Optimizer, SiloLR, Pruner]:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    return model, optimizer, SiloLR(optimizer, SILO, STEPS), Pruner(model, after_prune=after_prune, fresh=fresh)


def go_on(until: int, model: nn.Module, optimizer: torch.optim.Optimizer, lr: SiloLR, pruner: Pruner) -> None:
    for step in range(lr.last_epoch, until):
        if lr.done:
            pruner.next_cycle(lr)
        train_on(model, optimizer, step)
        lr.step()


@pytest.mark.parametrize("after_prune", ["keep", "rewind", "reinit"])
@pytest.mark.parametrize("stop", [3, 5, 7, 12])
def test_a_resumed_loop_gives_the_same_bits(after_prune: str, stop: int) -> None:
    whole = begun(after_prune)
    go_on(18, *whole)
    stopped = begun(after_prune)
    go_on(stop, *stopped)
    states = stored([part.state_dict() for part in stopped])
    resumed = begun(after_prune)
    for part, state in zip(resumed, states, strict=True):
        assert isinstance(part, (nn.Module, torch.optim.Optimizer, SiloLR, Pruner))
        part.load_state_dict(state)
    go_on(18, *resumed)
    assert same_bits(resumed[0], whole[0])
    assert resumed[3].counts == whole[3].counts
    assert (resumed[2].cycle, resumed[3].cycle) == (3, 3)


def test_a_cycle_begins_without_the_momentum_of_the_last_unless_it_is_kept() -> None:
    model, optimizer, lr, pruner = begun("keep")
    go_on(STEPS, model, optimizer, lr, pruner)
    pruner.next_cycle(lr, keep_momentum=True)
    assert optimizer.state
    pruner.next_cycle(lr)
    assert not optimizer.state
    assert lr.pruned == (0.0, 1 - 0.8, 1 - 0.8**2)


# --- bad input ---


def overrun() -> None:
    lr = SiloLR(optimizer_of(1.0), SILO, 2)
    for _ in range(3):
        step_both(lr)


def rising() -> None:
    lr = SiloLR(optimizer_of(1.0), SILO, STEPS)
    lr.next_cycle(0.5)
    lr.next_cycle(0.6)


def replaced(do: Callable[[Pruner], object]) -> None:
    model = network()
    pruner = Pruner(model)
    model.load_state_dict(network(1).state_dict(), assign=True)
    do(pruner)


def half_pruned() -> nn.Module:
    model = network()
    torch_prune.l1_unstructured(model.get_submodule("0"), "weight", 0.9)
    return model


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "no layer": (lambda: Pruner(nn.BatchNorm1d(3)), "the model has no prunable layer"),
    "skip": (lambda: Pruner(network(), skip=["fc.*"]), "'fc.*' matches none of 0.weight, 3.weight"),
    "too sparse": (lambda: Pruner(network(), targets=[0.5, 0.001]), "0.100% of 176 weights are 0, fewer than the 2"),
    "already sparser": (lambda: Pruner(half_pruned(), targets=[0.9]), "90.000% of the weights are to remain, and"),
    "targets rise": (lambda: Pruner(network(), targets=[0.2, 0.3]), "prune.targets: targets are the shares"),
    "rate": (lambda: Pruner(network(), rate=20), "prune.rate: "),
    "both": (lambda: Pruner(network(), rate=0.2, targets=[0.5]), "give rate or targets, not both"),
    "scope": (lambda: Pruner(network(), scope="locl"), "prune.scope: "),
    "criterion": (lambda: Pruner(network(), criterion="magnitud"), "unknown criterion 'magnitud'"),
    "needs images": (lambda: Pruner(network(), criterion="gradient"), "needs training images, and was given none"),
    "reinit": (lambda: Pruner(network(), after_prune="reinit"), "reinit needs fresh"),
    "another network": (
        lambda: Pruner(network()).load_state_dict(Pruner(nn.Linear(2, 2)).state_dict()),
        "the masks are of another network",
    ),
    "replaced before a prune": (lambda: replaced(Pruner.prune), "0.weight is no longer the parameter that it was"),
    "replaced before the end": (lambda: replaced(Pruner.finish), "0.weight is no longer the parameter that it was"),
    "overrun": (overrun, "step 4 of cycle 0, which has 2: declare more steps, or call next_cycle"),
    "rises": (rising, "weights_remaining rises from 0.5 to 0.6"),
    "percent": (lambda: SiloLR(optimizer_of(1.0), SILO, 5).next_cycle(80), "a share in (0, 1], got 80"),
    "nothing": (lambda: SiloLR(optimizer_of(1.0), SILO, 5).next_cycle(), "give weights_remaining or pruned"),
    "profile": (lambda: SiloLR(optimizer_of(1.0), SILO, 5, "cosin"), "unknown profile 'cosin'"),
    "momentum": (
        lambda: SiloLR(optimizer_of(1.0), SILO, 5, {"name": "one-cycle", "momentum": (0.95, 0.85)}),
        "sets rates alone; leave momentum out",
    ),
    "rates of 0": (lambda: SiloLR(optimizer_of(0.0), SILO, 5), "all of its rates are 0"),
}


@pytest.mark.parametrize(("do", "told"), BAD.values(), ids=BAD)
def test_bad_input_is_told_in_one_line(do: Callable[[], object], told: str) -> None:
    with pytest.raises(BadInput) as caught:
        do()
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(BadInput) as caught:
        SiloLR(optimizer_of(1.0), 0.1, 0, "cosin")  # type: ignore[arg-type]
    lines = str(caught.value).splitlines()
    assert [line.split()[1] for line in lines] == ["schedule:", "steps", "profile:"]
    with pytest.raises(BadInput) as caught:
        Pruner(network(), rate=20, scope="locl", after_prune="forget")
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "prune.rate",
        "prune.scope",
        "prune.after_prune",
    ]
