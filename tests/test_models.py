"""Networks: parameter counts of the literature, seeds, names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from silo_tune import names
from silo_tune.errors import BadInput
from silo_tune.models import build_model


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "millions"), [("resnet20", 0.27), ("resnet32", 0.46), ("resnet56", 0.85)]
)  # He et al. 2016, table 6
def test_resnets_have_the_parameters_of_the_literature(name: str, millions: float) -> None:
    assert count(build_model({"name": name}, (32, 32, 3), 10, 0)) / 1e6 == pytest.approx(millions, abs=0.01)


def test_lenet_has_266_610_parameters_on_mnist() -> None:
    assert count(build_model({"name": "lenet-300-100"}, (28, 28, 1), 10, 0)) == 266_610


@pytest.mark.parametrize("name", sorted(names.MODELS))
def test_every_model_trains_on_its_shape_and_is_a_function_of_its_seed(name: str) -> None:
    shape = (8, 8, 1) if name == "lenet-300-100" else (32, 32, 3)
    before = torch.get_rng_state()
    one, same, other = (build_model({"name": name}, shape, 7, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert one(torch.zeros(2, shape[2], *shape[:2])).shape == (2, 7)
    weights = [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_convnets_are_channels_last() -> None:
    model = build_model({"name": "resnet8"}, (32, 32, 3), 10, 0)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert all(conv.weight.is_contiguous(memory_format=torch.channels_last) for conv in convolutions)


def test_timm_names_work_and_ours_are_registered_there() -> None:
    theirs = build_model({"name": "timm:resnet18"}, (32, 32, 3), 10, 0)
    assert count(theirs) > 11e6
    ours = build_model({"name": "timm:resnet20", "width": 8}, (32, 32, 3), 10, 0)
    assert count(ours) == count(build_model({"name": "resnet20", "width": 8}, (32, 32, 3), 10, 0))
    with pytest.raises(BadInput, match="timm cannot build 'no_such_model'"):
        build_model({"name": "timm:no_such_model"}, (32, 32, 3), 10, 0)


def test_a_users_function_builds_the_model() -> None:
    made = build_model({"function": "tests.users:model", "version": "1", "dropout": 0.1}, (8, 8, 1), 3, 0)
    assert made(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
