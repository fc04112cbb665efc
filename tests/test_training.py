"""Training: truths that hold at run time, and a resume that changes no bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from silo_tune.data.batches import Feed
from silo_tune.data.sets import DataSet, split_rows
from silo_tune.errors import Violation
from silo_tune.models.build import build_model, init_seed
from silo_tune.models.checkpoint import copy_into, pack, unpack
from silo_tune.planner.unit import Unit, make_unit
from silo_tune.pruning.masks import full_masks, prunable, pruned_are_zero, shrink
from silo_tune.schedules.shapes import PROFILES, maximum_of
from silo_tune.tasks.supervised import classification
from silo_tune.training.optimizers import begin_late_momentum, make_optimizer
from silo_tune.training.trainer import Trainer, evaluate
from tests.conftest import small_study

CPU = torch.device("cpu")
CONVNET = {"name": "resnet8", "width": 4}
SGD = {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4}
ADAMW = {"name": "adamw"}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def dataset(count: int = 96, side: int = 16) -> DataSet:
    rng = np.random.default_rng(0)
    labels = np.arange(count, dtype=np.int64) % 4
    pixels = rng.integers(0, 90, (count, side, side, 3), dtype=np.uint8)
    for label in range(4):
        pixels[labels == label, :, :, label % 3] += np.uint8(40 * label)
    return DataSet(pixels, labels, None, None, 4)


def unit_of(epochs: int = 4, peak: float = 0.05, **changes: Any) -> Unit:
    study = small_study(retrain={"epochs": epochs, "batch": 16, **changes.pop("retrain", {})}, **changes)
    settings = study.settings(study.arms["silo"])
    return make_unit(study, settings, parent="0" * 64, cycle=1, seed=3, peak={"value": peak})


def trainer_of(
    unit: Unit, model_table: dict[str, Any] | None = None, peak: float = 0.05, target: float = 0.5
) -> Trainer:
    data = dataset()
    study = small_study(data={"augment": ["crop", "flip"], "crop_padding": 2, "train_examples": 50})
    feed = Feed.make(data, split_rows(data, study.data, unit.seed), study.data.augmentation(), CPU)
    model = build_model(model_table or CONVNET, (16, 16, 3), 4, init_seed(unit.seed))
    weights = prunable(model)
    masks = shrink({n: w.detach().abs() for n, w in weights.items()}, full_masks(weights), target, "global")
    return Trainer(unit, model, masks, feed, peak, classification(4))


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def finish(trainer: Trainer) -> Trainer:
    while not trainer.finished:
        trainer.run_epoch()
    return trainer


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("model", [CONVNET, {"name": "lenet-300-100"}], ids=["channels-last", "linear"])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resume_is_bit_identical(optimizer: dict[str, Any], model: dict[str, Any], stop: int) -> None:
    unit = unit_of(retrain={"optimizer": optimizer})
    straight = finish(trainer_of(unit, model))
    first = trainer_of(unit, model)
    for _ in range(stop):
        first.run_epoch()
    second = trainer_of(unit, model)
    second.restore(*unpack(pack(*first.state())))
    assert second.epoch == stop
    finish(second)
    assert equal(weights_of(straight), weights_of(second))
    assert (straight.train_loss, straight.peak, straight.step) == (second.train_loss, second.peak, second.step)


def test_momentum_comes_back_in_the_layout_of_its_weight() -> None:
    unit = unit_of()
    first = trainer_of(unit)
    first.run_epoch()
    second = trainer_of(unit)
    second.restore(*unpack(pack(*first.state())))
    for parameter in second.parameters.values():
        assert second.optimizer.state[parameter]["momentum_buffer"].stride() == parameter.stride()
    plain = torch.zeros(2, 3, 4, 4)
    assert copy_into(plain.to(memory_format=torch.channels_last), plain).stride() == (48, 1, 12, 3)


def test_a_state_of_other_threads_is_refused() -> None:
    trainer = trainer_of(unit_of())
    groups, meta = trainer.state()
    with pytest.raises(ValueError, match="saved at 2 threads"):
        trainer.restore(groups, {**meta, "threads": "2"})


def test_dropout_resumes_too() -> None:
    table = {"function": "tests.users:model", "version": "1", "dropout": 0.5}
    unit = unit_of()
    straight = finish(trainer_of(unit, table))
    first = trainer_of(unit, table)
    first.run_epoch()
    torch.rand(7)  # the global stream goes its way in between
    second = trainer_of(unit, table)
    second.restore(*unpack(pack(*first.state())))
    assert equal(weights_of(straight), weights_of(finish(second)))


def test_pruned_weights_are_zero_after_every_step() -> None:
    trainer = trainer_of(unit_of())
    checked = []
    step = trainer.optimizer.step

    def watched(*args: Any, **kwargs: Any) -> Any:
        # Before a step, what the step before left.
        checked.append(pruned_are_zero(trainer.parameters, trainer.masks))
        return step(*args, **kwargs)

    trainer.optimizer.step = watched  # type: ignore[method-assign]
    finish(trainer)
    assert len(checked) == trainer.total
    assert all(checked)
    assert pruned_are_zero(trainer.parameters, trainer.masks)


def test_a_pruned_weight_that_comes_back_is_a_violation() -> None:
    trainer = trainer_of(unit_of())
    trainer._masked = []
    with pytest.raises(Violation, match="pruned weight is not zero"):
        finish(trainer)


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_the_realised_peak_is_max_lr_exactly(profile: str) -> None:
    peak = 0.0317
    trainer = finish(trainer_of(unit_of(retrain={"profile": profile}), peak=peak))
    assert trainer.peak == peak * maximum_of(trainer.profile, trainer.total)


def test_two_seeds_differ_and_one_repeats() -> None:
    unit = unit_of()
    assert equal(weights_of(finish(trainer_of(unit))), weights_of(finish(trainer_of(unit))))
    other = Unit.from_spec({**unit.spec, "seed": 4})
    assert not equal(weights_of(finish(trainer_of(unit))), weights_of(finish(trainer_of(other))))


def test_candidates_see_the_same_batches() -> None:
    seen: dict[float, list[Tensor]] = {}
    for peak in (0.01, 0.4):
        trainer = trainer_of(unit_of(peak=peak), peak=peak)
        epoch = trainer.feed.epoch
        seen[peak] = []

        def watched(*args: Any, _epoch: Any = epoch, _seen: list[Tensor] = seen[peak]) -> Any:
            for images, labels in _epoch(*args):
                _seen.append(images.clone())
                yield images, labels

        trainer.feed.epoch = watched  # type: ignore[method-assign,assignment]
        trainer.run_epoch()
    assert all(torch.equal(one, other) for one, other in zip(*seen.values(), strict=True))


def test_a_step_moves_no_further_than_its_clipped_gradient() -> None:
    plain = {"optimizer": {"name": "sgd", "momentum": 0.0, "weight_decay": 0.0}, "profile": "constant"}
    moved = []
    for clip in (None, 1e6, 0.01):
        trainer = trainer_of(unit_of(retrain={**plain, **({} if clip is None else {"clip": clip})}), peak=0.5)
        before = {name: parameter.detach().clone() for name, parameter in trainer.parameters.items()}
        trainer.one_step()
        apart = [(parameter.detach() - before[name]).flatten() for name, parameter in trainer.parameters.items()]
        moved.append(float(torch.cat(apart).norm()) / 0.5)
    free, loose, tight = moved
    assert free == loose > 0.01
    assert tight == pytest.approx(0.01, rel=1e-4)  # pruned weights have no part in it


class Scripted(Trainer):
    """A trainer whose losses are given."""

    losses: list[float]

    def _one_step(self, batch: Any) -> Tensor:
        self.step += 1
        self.peak = self.max_lr
        return torch.tensor(self.losses[self.epoch])


@pytest.mark.parametrize(
    ("losses", "diverged"),
    [
        ([9.0, 9.0, 1.0, 1.0], None),  # a rate that first triples the loss may still end best
        ([9.0, 9.0, 9.0, 1.0], 3),  # late in the budget it may not
        ([1.0, 1.0, 1.0, 2.0], None),  # below 1.5 ln 4 = 2.08
        ([1.0, 1.0, 1.0, 2.1], 4),
        ([math.nan, 1.0, 1.0, 1.0], 1),
        ([1.0, math.inf, 1.0, 1.0], 2),
    ],
)
def test_divergence_is_absolute_and_late(losses: list[float], diverged: int | None) -> None:
    base = trainer_of(unit_of())
    trainer = Scripted(base.unit, base.model, base.masks, base.feed, 0.05, classification(4))
    trainer.losses = losses
    finish(trainer)
    assert trainer.epoch == (diverged or 4)
    assert (trainer.diverged is None) == (diverged is None)


def test_weights_that_overflow_are_a_divergence() -> None:
    trainer = finish(trainer_of(unit_of(), {"name": "lenet-300-100"}, peak=1e9))
    assert trainer.diverged is not None


def test_fused_optimizers_agree_with_plain_ones() -> None:
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(4, 3))
    twin = nn.Parameter(parameter.detach().clone())
    fused = make_optimizer([parameter], {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1, "nesterov": False}, 0.1)
    plain = torch.optim.SGD([twin], lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(5):
        for tensor, optimizer in ((parameter, fused), (twin, plain)):
            optimizer.zero_grad()
            tensor.square().sum().backward()
            optimizer.step()
    assert torch.allclose(parameter, twin, atol=1e-6)


def test_a_weight_whose_first_gradient_comes_late_moves_as_in_plain_sgd() -> None:
    pairs = []
    for kind in ("fused", "plain"):
        torch.manual_seed(0)
        early, late = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))
        settings = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1, "nesterov": False}
        fused = kind == "fused"
        optimizer = make_optimizer([early, late], settings, 0.1) if fused else torch.optim.SGD(
            [early, late], lr=0.1, momentum=0.9, weight_decay=0.1
        )  # fmt: skip
        for step in range(5):
            optimizer.zero_grad()
            (early.square().sum() + (late.square().sum() if step > 1 else 0)).backward()
            if fused and step:
                begin_late_momentum(optimizer)
            optimizer.step()
        pairs.append((early, late))
    for one, other in zip(*pairs, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_evaluate_counts() -> None:
    trainer = trainer_of(unit_of())
    found = evaluate(trainer.task, trainer.model, trainer.feed, trainer.feed.val)
    accuracy, loss = found.score, found.loss
    trainer.model.eval()
    part = trainer.feed.val
    assert isinstance(trainer.feed, Feed)
    logits = trainer.model(trainer.feed.normalised(part.images[part.rows]))
    labels = part.labels[part.rows]
    assert accuracy == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)


def test_states_survive_packing_exactly() -> None:
    trainer = finish(trainer_of(unit_of()))
    groups, meta = trainer.state()
    again, words = unpack(pack(groups, meta))
    assert words == meta
    assert {g: sorted(t) for g, t in again.items()} == {g: sorted(t) for g, t in groups.items()}
    assert all(torch.equal(again[g][n], groups[g][n].contiguous()) for g in groups for n in groups[g])
    with pytest.raises(ValueError, match="not a state"):
        unpack(pack(groups)[:-10])
