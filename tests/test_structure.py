"""Which filters can be removed alone; a masked network and one that is physically smaller agree."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch_pruning
from torch import Tensor, nn

from silo_tune.errors import BadInput
from silo_tune.models.build import build_model
from silo_tune.pruning.filters import removable
from silo_tune.pruning.masks import Masks, PrunableElements, apply_masks
from silo_tune.study import registry

SHAPE = (32, 32, 3)
SMALL = {name: {"name": name, **entry.smoke} for name, entry in registry.MODELS.items() if entry.shape is None}


def used(model: nn.Module) -> nn.Module:
    """In evaluation mode, with weights and statistics as after some training: nothing is 0 or 1 by default."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.add_(torch.rand(buffer.shape, generator=generator))
    return model.eval()


def images(count: int = 4, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.randn(count, shape[2], shape[0], shape[1], generator=torch.Generator().manual_seed(1))


def some_alive(elements: PrunableElements) -> Masks:
    """About half of each layer's filters, at least one."""
    generator = torch.Generator().manual_seed(2)
    alive = {name: torch.rand(filters.count, generator=generator) < 0.5 for name, filters in elements.filters.items()}
    for mask in alive.values():
        mask[0] = True
    return alive


def shrunk(model: nn.Module, alive: Masks, x: Tensor) -> nn.Module:
    """The network without the filters that are not alive, made by torch-pruning."""
    small = copy.deepcopy(model)
    graph: Any = torch_pruning.DependencyGraph().build_dependency(small, example_inputs=x)
    modules = dict(small.named_modules())
    for name, mask in alive.items():
        layer = modules[name.removesuffix(".weight")]
        gone = (~mask).nonzero().squeeze(1).tolist()
        if gone:
            graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, gone).prune()
    return small


@pytest.mark.filterwarnings("ignore:Unwrapped parameters")
@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_masked_network_and_a_smaller_one_agree(name: str) -> None:
    model = used(build_model(SMALL[name], SHAPE, 10, seed=0))
    elements = PrunableElements.of(model, removable=removable(model, SHAPE))
    alive = some_alive(elements)
    masks = elements.masks(alive)
    apply_masks(elements.parameters, masks)
    small = shrunk(model, alive, images(2))
    with torch.no_grad():
        masked, smaller = model(images()), small(images())
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    assert (masked - smaller).abs().max() <= 1e-5 * masked.abs().max()


def test_without_its_companions_a_masked_filter_is_still_heard() -> None:
    model = used(build_model({"name": "resnet8", "width": 4}, SHAPE, 10, seed=0))
    elements = PrunableElements.of(model, removable=removable(model, SHAPE))
    alive = some_alive(elements)
    apply_masks(elements.parameters, elements.counted(elements.masks(alive)))
    small = shrunk(model, alive, images(2))
    with torch.no_grad():
        difference = (model(images()) - small(images())).abs().max()
    assert difference > 1e-3


def found(model: nn.Module, shape: tuple[int, int, int] = SHAPE) -> set[str]:
    return {name.removesuffix(".weight") for name in removable(model, shape)}


def layers(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}


def of(name: str) -> nn.Module:
    return build_model(SMALL[name], SHAPE, 10, seed=0)


def test_a_cifar_resnet_gives_the_first_convolution_of_each_block() -> None:
    assert found(of("resnet20")) == {f"blocks.{number}.conv1" for number in range(9)}


def test_a_bottleneck_gives_both_of_its_inner_convolutions() -> None:
    assert {name.split(".")[-1] for name in found(of("resnet50"))} == {"conv1", "conv2"}


@pytest.mark.parametrize("name", ["lenet-300-100", "vgg19", "densenet40"])
def test_a_network_without_sums_gives_all_but_its_classifier(name: str) -> None:
    model = of(name)
    last = list(model.named_modules())[-1][0]
    assert layers(model) - found(model) == {last}


def test_an_expansion_takes_its_depthwise_convolution_along() -> None:
    model = of("mobilenetv2")
    modules = dict(model.named_modules())
    for name, filters in removable(model, SHAPE).items():
        assert modules[name.removesuffix(".weight")].groups == 1
        depthwise = [part for part in filters.coupled if dict(model.named_parameters())[part].ndim == 4]
        assert len(depthwise) <= 1
    assert not any(getattr(modules[name], "groups", 1) > 1 for name in found(model))


def test_a_vision_transformer_gives_the_first_layer_of_each_mlp() -> None:
    assert {name.split(".")[-1] for name in found(of("vit"))} == {"fc1"}


def test_a_filter_has_its_bias_and_its_own_part_of_every_normalisation() -> None:
    filters = removable(of("densenet40"), SHAPE)
    first = filters["conv1.weight"]
    assert all(where.shape == (first.count, 1) for where in first.coupled.values())
    second = next(value for name, value in filters.items() if name.startswith("blocks.0."))
    # Behind the concatenation its channels come after the first layer's.
    assert all(int(where.min()) == first.count for where in second.coupled.values())


def test_a_flattened_filter_is_several_inputs_of_the_next_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(144), nn.Linear(144, 10))
    filters = removable(model, (8, 8, 3))["0.weight"]
    assert filters.coupled["3.bias"][1].tolist() == list(range(36, 72))
    assert filters.readers["4"][3].tolist() == list(range(108, 144))


class Gated(nn.Module):
    """Two halves of one layer multiplied: a filter has a partner in the other half."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.first(x).chunk(2, 1)
        return self.second(value * gate).mean((2, 3))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "model",
    [
        Gated(),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 10, 6), nn.Flatten()),  # sigmoid(0) is not 0
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 10, 6), nn.Flatten()),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 10, 6), nn.Flatten()),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 10, 6, groups=2), nn.Flatten()),
    ],
    ids=["gate", "sigmoid", "group norm", "no scale", "groups"],
)
def test_filters_that_cannot_be_silenced_or_go_alone_are_left(model: nn.Module) -> None:
    assert found(model, (8, 8, 3)) == set()
    with pytest.raises(BadInput, match="nothing to prune"):
        PrunableElements.of(model, removable=removable(model, (8, 8, 3)))


def test_the_network_is_left_as_it_is() -> None:
    model = build_model({"name": "resnet8", "width": 4}, SHAPE, 10, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    removable(model, SHAPE)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


class Untraceable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("this network has moods")


def test_a_network_that_cannot_be_followed_is_named_bad_input() -> None:
    with pytest.raises(BadInput, match=r"torch-pruning can follow \(ValueError: this network has moods\)"):
        removable(Untraceable(), SHAPE)


def test_skip_patterns_hold_for_filters_too() -> None:
    model = build_model({"name": "resnet8", "width": 4}, SHAPE, 10, seed=0)
    elements = PrunableElements.of(model, ("blocks.0.*",), removable=removable(model, SHAPE))
    assert list(elements.weights) == ["blocks.1.conv1.weight", "blocks.2.conv1.weight"]
    with pytest.raises(BadInput, match="'fc\\.\\*' matches none of blocks"):
        PrunableElements.of(model, ("fc.*",), removable=removable(model, SHAPE))
