"""Spread of gradients and of hidden representations: values worked out by hand, and no side effect."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from silo_tune.data.batches import Feed
from silo_tune.data.sets import split_rows
from silo_tune.pruning.masks import full_masks, prunable
from silo_tune.tasks.supervised import classification
from silo_tune.training.gradient_stats import (
    IMAGES,
    Spreads,
    grad_spread,
    layer_spread,
    measure,
    measured_images,
    moments,
    pooled,
    spreads,
)
from tests.conftest import small_study
from tests.test_training import dataset, trainer_of, unit_of

CONV = {"name": "resnet8", "width": 4}
TASK = classification()


def net(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), *modules)


def linear(*rows: list[float], bias: list[float] | None = None) -> nn.Linear:
    """A linear layer with these weights, one row per output."""
    layer = nn.Linear(len(rows[0]), len(rows), bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return layer


def images(*pixels: list[float]) -> Tensor:
    return torch.tensor(pixels)[:, :, None, None]


def all_alive(model: nn.Module) -> dict[str, Tensor]:
    return full_masks(prunable(model))


# --- gradients ---


def test_the_gradient_of_two_weights_by_hand() -> None:
    # One pixel x = 2, weights 0: both classes at 1/2, so d(loss)/d(logit) = p - y = (-1/2, 1/2), times x = (-1, 1).
    model = net(linear([0.0], [0.0]))
    one = [(images([2.0]), torch.tensor([0]))]
    assert spreads(TASK, model, all_alive(model), one).grad_spread == pytest.approx(1.0)
    masks = {"1.weight": torch.tensor([[True], [False]])}
    assert spreads(TASK, model, masks, one).grad_spread == 0.0  # one weight alone has no spread


def test_a_masked_weight_does_not_count() -> None:
    # Gradients -1·(x1, x2)/2 and +1·(x1, x2)/2 with x = (2, 6): -1, -3, 1, 3.
    model = net(linear([0.0, 0.0], [0.0, 0.0]))
    one = [(images([2.0, 6.0]), torch.tensor([0]))]
    assert spreads(TASK, model, all_alive(model), one).grad_spread == pytest.approx(math.sqrt(5))
    assert spreads(TASK, model, all_alive(model), one * 3).grad_spread == pytest.approx(math.sqrt(5))
    masks = {"1.weight": torch.tensor([[True, False], [True, False]])}
    assert spreads(TASK, model, masks, one).grad_spread == pytest.approx(1.0)  # as a zero it would be sqrt(1/2)


def test_all_layers_count_together() -> None:
    gradients = {"a": torch.tensor([1.0, 3.0, 99.0]), "b": torch.tensor([5.0])}
    masks = {"a": torch.tensor([True, True, False]), "b": torch.tensor([True])}
    assert grad_spread(gradients, masks) == pytest.approx(math.sqrt(8 / 3))


def test_the_gradient_is_that_of_the_mean_over_all_images_however_they_are_batched() -> None:
    trainer = trainer_of(unit_of())
    parts = [list(trainer.feed.batches(trainer.feed.train, batch)) for batch in (50, 16, 7)]
    whole, *others = [spreads(TASK, trainer.model, trainer.masks, batches) for batches in parts]
    for other in others:
        for name in ("grad_spread", "activation_spread", "activation_spread_norm"):
            assert getattr(other, name) == pytest.approx(getattr(whole, name), rel=1e-4)


def test_frozen_weights_have_no_gradient() -> None:
    model = net(linear([1.0], [2.0]), linear([0.0, 0.0], [0.0, 0.0]))
    one = [(images([1.0]), torch.tensor([0]))]
    model[1].requires_grad_(False)
    # Of the second layer alone: hidden (1, 2) times (-1/2, 1/2).
    assert spreads(TASK, model, all_alive(model), one).grad_spread == pytest.approx(math.sqrt((0.25 + 1) / 2))
    model.requires_grad_(False)
    assert spreads(TASK, model, all_alive(model), one).grad_spread is None


# --- hidden representations ---


def test_before_and_after_batch_norm_by_hand() -> None:
    # Hidden units x and 3x of x = 1, 5. Batch norm in evaluation: (h - 0) / sqrt(1 + 3) · 2 = h and (h - 0) / 2 · 1.
    norm = nn.BatchNorm1d(2, eps=0.0)
    norm.running_var = torch.tensor([4.0, 4.0])
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, 1.0]))
    model = net(linear([1.0], [3.0]), norm, linear([1.0, 0.0], [0.0, 1.0]))
    found = spreads(TASK, model, all_alive(model), [(images([1.0], [5.0]), torch.tensor([0, 1]))])
    before, after = torch.tensor([1.0, 5.0, 3.0, 15.0]), torch.tensor([1.0, 5.0, 1.5, 7.5])
    assert found.activation_spread == pytest.approx(float(before.std(correction=0)))
    assert found.activation_spread_norm == pytest.approx(float(after.std(correction=0)))


def test_the_mean_is_over_layers_and_the_classifier_is_none() -> None:
    model = net(linear([1.0]), linear([10.0]), linear([100.0], [-100.0]))
    found = spreads(TASK, model, all_alive(model), [(images([1.0], [3.0]), torch.tensor([0, 1]))])
    assert found.activation_spread == pytest.approx((1 + 10) / 2)
    assert found.activation_spread_norm is None


def test_a_single_layer_has_no_hidden_representation() -> None:
    model = net(linear([1.0], [2.0]))
    found = spreads(TASK, model, all_alive(model), [(images([1.0]), torch.tensor([0]))])
    assert (found.activation_spread, found.activation_spread_norm) == (None, None)


def test_a_channel_without_surviving_weights_does_not_fake_a_narrowing() -> None:
    one = [(images([1.0], [3.0], [8.0]), torch.tensor([0, 1, 1]))]
    alive = net(linear([1.0]), nn.BatchNorm1d(1), linear([1.0], [2.0]))
    dead = net(linear([1.0], [0.0], bias=[0.0, 0.3]), nn.BatchNorm1d(2), linear([1.0, 0.0], [2.0, 0.0]))
    expected, found = spreads(TASK, alive, all_alive(alive), one), spreads(TASK, dead, all_alive(dead), one)
    assert found.activation_spread == pytest.approx(expected.activation_spread)
    assert found.activation_spread_norm == pytest.approx(expected.activation_spread_norm)


def test_moments_are_those_of_all_values() -> None:
    torch.manual_seed(0)
    values = 1000 + torch.randn(40, 5, 3, 3)
    both = pooled(moments(values[:9], 1), moments(values[9:], 1))
    exact = values.double().movedim(1, -1).reshape(-1, 5)
    assert torch.allclose(both.mean, exact.mean(0), rtol=1e-7)
    assert torch.allclose(both.squares / both.count, exact.var(0, correction=0), rtol=1e-4)
    assert layer_spread(both) == pytest.approx(float(exact.std(correction=0)), rel=1e-4)
    sequence = values.permute(0, 2, 3, 1).reshape(40, 9, 5)
    assert torch.allclose(moments(sequence, -1).mean, both.mean)


def test_what_is_not_finite_is_null() -> None:
    model = net(linear([math.nan]), nn.BatchNorm1d(1), linear([1.0], [1.0]))
    found = spreads(TASK, model, all_alive(model), [(images([1.0], [2.0]), torch.tensor([0, 1]))])
    assert found == Spreads()


# --- the measured images ---


def feed_of(seed: int, count: int = 96, **data: Any) -> Feed:
    study = small_study(data={"augment": ["crop", "flip"], **data})
    images_ = dataset(count)
    return Feed.make(images_, split_rows(images_, study.data, seed), study.data.augmentation(), torch.device("cpu"))


def test_the_measured_images_are_training_images_of_the_seed() -> None:
    feed = feed_of(0, 900, train_examples=600)
    part = measured_images(feed, 0)
    assert len(part) == len(set(part.rows.tolist())) == IMAGES
    assert set(part.rows.tolist()) <= set(feed.train.rows.tolist())
    assert torch.equal(part.rows, measured_images(feed, 0).rows)
    assert not torch.equal(part.rows, measured_images(feed, 1).rows)
    few = feed_of(0, train_examples=20)
    assert sorted(measured_images(few, 0).rows.tolist()) == sorted(few.train.rows.tolist())


# --- nothing is changed ---


@pytest.mark.parametrize("table", [CONV, {"name": "lenet-300-100"}, {"name": "timm:vit_tiny_patch16_224"}])
def test_nothing_is_changed(table: dict[str, Any]) -> None:
    small = {"img_size": 16, "patch_size": 4, "depth": 2, "drop_rate": 0.5} if "vit" in table["name"] else {}
    trainer = trainer_of(unit_of(), {**table, **small})
    trainer.run_epoch()
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    gradients = [(p.grad, p.grad.clone()) for p in trainer.parameters.values() if p.grad is not None]
    state = torch.get_rng_state()
    found = measure(TASK, trainer.model, trainer.masks, trainer.feed, 3, 16)
    assert found == measure(TASK, trainer.model, trainer.masks, trainer.feed, 3, 16)
    assert found.grad_spread is not None
    assert found.activation_spread is not None
    assert (found.activation_spread_norm is None) == ("lenet" in table["name"])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert gradients
    assert all(p.grad is now for p, (now, _) in zip(trainer.parameters.values(), gradients, strict=True))
    assert all(torch.equal(now, then) for now, then in gradients)
    assert not any(module._forward_hooks for module in trainer.model.modules())


def test_hooks_go_even_when_the_network_fails() -> None:
    model = net(linear([1.0]), nn.BatchNorm1d(1), linear([1.0], [2.0]))

    def broken() -> Any:
        raise RuntimeError("no images")
        yield

    with pytest.raises(RuntimeError, match="no images"):
        spreads(TASK, model, all_alive(model), broken())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("norm", "shape"),
    [(lambda: nn.GroupNorm(2, 4), (4, 1, 1)), (lambda: nn.LayerNorm(4), (4,)), (lambda: nn.RMSNorm(4), (4,))],
    ids=["group", "layer", "rms"],
)
def test_every_normalisation_is_seen(norm: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.Unflatten(1, shape), norm(), nn.Flatten(), nn.Linear(4, 2))
    batch = [(torch.randn(6, 3, 1, 1), torch.tensor([0, 1, 0, 1, 0, 1]))]
    found = spreads(TASK, model, all_alive(model), batch)
    hidden = model[:3](batch[0][0]).detach()
    assert found.activation_spread == pytest.approx(float(hidden.std(correction=0)), rel=1e-4)
    assert found.activation_spread_norm == pytest.approx(float(model[3](hidden).detach().std(correction=0)), rel=1e-4)
