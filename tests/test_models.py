"""Networks: parameter counts of the literature, seeds, names, arguments, small forms."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models as torchvision_models

from silo_tune.errors import BadInput
from silo_tune.models.build import build_model
from silo_tune.pruning.masks import prunable
from silo_tune.study import registry
from silo_tune.study.recipes import RECIPES
from silo_tune.study.study_file import parse_study, smoke_table
from tests.conftest import small_study, small_table
from tests.test_cycle import Bench

OF_IMAGES = sorted(name for name, entry in registry.MODELS.items() if entry.shape is None)
CIFAR = (32, 32, 3)
IMAGENET = (224, 224, 3)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def made(name: str, shape: tuple[int, int, int] = CIFAR, classes: int = 10, **args: Any) -> nn.Module:
    return build_model({"name": name, **args}, shape, classes, seed=0)


def small(name: str, **args: Any) -> nn.Module:
    """The small form, on 32×32 images of 10 classes."""
    return made(name, **{**registry.MODELS[name].smoke, **args})


# --- counts ---


@pytest.mark.parametrize(
    ("name", "args", "classes", "millions", "digits"),
    [
        ("resnet20", {}, 10, 0.27, 2),  # He et al. 2016, table 6
        ("resnet32", {}, 10, 0.46, 2),
        ("resnet56", {}, 10, 0.85, 2),
        ("vgg19", {}, 10, 20.04, 2),  # "VGGNet" of Liu et al. 2017 (network slimming), table 1
        ("densenet40", {}, 10, 1.0, 1),  # Huang et al. 2017, table 2
        ("densenet40", {}, 10, 1.02, 2),  # Liu et al. 2017, table 1
        (
            "mobilenetv2",
            {},
            1000,
            3.5,
            1,
        ),  # Sandler et al. 2018: 3.4 M in table 4, which their released network exceeds
        ("resnet50", {}, 1000, 25.56, 2),  # torchvision's table of weights
        ("vit", {"size": "tiny"}, 1000, 5.7, 1),  # Touvron et al. 2021, table 1
        ("vit", {"size": "small"}, 1000, 22.0, 0),
        ("vit", {}, 1000, 86.57, 2),  # torchvision's table of weights: ViT-B/16; 86 M in Dosovitskiy et al. 2021
    ],
)
def test_parameters_are_those_of_the_literature(
    name: str, args: dict[str, Any], classes: int, millions: float, digits: int
) -> None:
    shape = IMAGENET if classes == 1000 else CIFAR
    with torch.device("meta"):  # counted, not drawn
        found = count(registry.resolve(registry.MODELS[name].target)(shape=shape, classes=classes, **args))
    assert round(found / 1e6, digits) == millions


def test_lenet_has_266_610_parameters_on_mnist() -> None:
    assert count(made("lenet-300-100", (28, 28, 1))) == 266_610


def shapes(model: nn.Module) -> list[tuple[int, ...]]:
    return sorted(tuple(parameter.shape) for parameter in model.parameters())


def test_mobilenetv2_has_the_layers_of_torchvisions_whose_strides_alone_differ() -> None:
    assert shapes(made("mobilenetv2")) == shapes(torchvision_models.mobilenet_v2(num_classes=10))
    assert shapes(made("mobilenetv2", width=0.5)) == shapes(
        torchvision_models.mobilenet_v2(num_classes=10, width_mult=0.5)
    )


def test_the_imagenet_head_of_vgg19_is_torchvisions() -> None:
    with torch.device("meta"):
        ours = registry.resolve(registry.MODELS["vgg19"].target)(shape=CIFAR, classes=10, head="imagenet")
        theirs = torchvision_models.vgg19_bn(num_classes=10)
    assert shapes(ours.classifier) == shapes(theirs.classifier)
    biases = sum(module.out_channels for module in theirs.modules() if isinstance(module, nn.Conv2d))
    assert count(ours) == count(theirs) - biases  # which the normalisation behind each convolution makes idle
    assert round(count(ours) / 1e6) == 140


def test_resnet50_computes_what_torchvisions_does_from_the_same_weights() -> None:
    theirs = torchvision_models.ResNet(torchvision_models.resnet.Bottleneck, [3, 4, 6, 3], num_classes=7)
    ours = made("resnet50", classes=7)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(ours.eval()(images), theirs.eval()(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(registry.MODELS))
def test_the_reference_tells_the_number_of_parameters(name: str) -> None:
    table = runpy.run_path(str(Path(__file__).parent.parent / "docs" / "site_parts.py"))["models"]()
    row = next(line for line in table.splitlines() if line.startswith(f"| `{name}`"))
    with torch.device("meta"):
        entry = registry.MODELS[name]
        found = count(registry.resolve(entry.target)(shape=entry.shape or CIFAR, classes=10, **entry.further))
    assert f"{found:,}" in row
    assert all(f"`{argument} = " in row for argument in registry.MODELS[name].args)


# --- laws of every entry ---


@pytest.mark.parametrize("name", OF_IMAGES)
def test_every_model_is_a_function_of_its_seed(name: str) -> None:
    before = torch.get_rng_state()
    table = {"name": name, **registry.MODELS[name].smoke}
    one, same, other = (build_model(table, CIFAR, 7, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("name", OF_IMAGES)
def test_every_model_trains_and_every_prunable_layer_is_found(name: str) -> None:
    model = small(name)
    found = prunable(model)
    layers = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    assert set(found) == layers
    matrices = {path for path, parameter in model.named_parameters() if path.endswith("weight") and parameter.ndim > 1}
    assert set(found) == matrices  # no weight of a kind of layer that pruning does not know
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = model(images)
    assert logits.shape == (4, 10)
    F.cross_entropy(logits, torch.arange(4)).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert all(weight.grad is not None and weight.grad.any() for weight in found.values())


@pytest.mark.parametrize("name", sorted({*OF_IMAGES} - {"lenet-300-100"}))  # as small as it is
def test_every_small_form_is_small_and_of_the_same_layers(name: str) -> None:
    with torch.device("meta"):
        whole = registry.resolve(registry.MODELS[name].target)(shape=CIFAR, classes=10)
    form = small(name)
    assert count(form) < count(whole) / 10
    kinds = [{type(module) for module in model.modules()} for model in (whole, form)]
    assert kinds[0] == kinds[1]
    assert set(registry.MODELS[name].smoke) <= set(registry.MODELS[name].args)


@pytest.mark.parametrize(
    ("name", "args"), [(name, args) for name in OF_IMAGES for args in registry.MODELS[name].choices.items()]
)
def test_every_choice_builds_and_another_word_is_bad_input(name: str, args: tuple[str, tuple[str, ...]]) -> None:
    key, words = args
    for word in words:
        fast = {key: word} if key != "size" else {key: word, "depth": 1}
        assert small(name, **fast).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    with pytest.raises(BadInput, match=f"unknown {key} 'other'; choose from {words[0]}"):
        small(name, **{key: "other"})


@pytest.mark.parametrize(
    ("name", "shape", "args", "message"),
    [
        ("resnet20", CIFAR, {"width": 0}, "model.width: give a whole number of at least 1, got 0"),
        ("resnet50", CIFAR, {"width": "wide"}, "model.width: give a whole number"),
        ("vgg19", CIFAR, {"width": 4.5}, "model.width: give a whole number"),
        ("vgg19", (8, 8, 1), {}, r"needs images of at least 32×32 pixels, these have 8×8; .*data\.size"),
        ("densenet40", CIFAR, {"depth": 39}, r"model.depth: .* 3n \+ 4"),
        ("densenet40", CIFAR, {"growth": True}, "model.growth: give a whole number"),
        ("mobilenetv2", CIFAR, {"width": 0}, "model.width: a multiplier"),
        ("vit", (8, 8, 1), {}, "model.patch: 16 does not divide an image of 8×8; choose from 1, 2, 4, 8$"),
        ("vit", (24, 36, 3), {"patch": 8}, "model.patch: 8 does not divide .*24×36; choose from 1, 2, 3, 4, 6, 12$"),
        ("vit", CIFAR, {"patch": 0}, "model.patch: give a whole number of at least 1"),
    ],
)
def test_arguments_that_do_not_fit_are_bad_input(
    name: str, shape: tuple[int, int, int], args: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        made(name, shape, **args)


def test_convnets_are_channels_last() -> None:
    model = made("resnet8")
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert all(conv.weight.is_contiguous(memory_format=torch.channels_last) for conv in convolutions)


# --- image sizes ---


@pytest.mark.parametrize(("side", "stem", "last"), [(32, "imagenet", 1), (32, "small", 4), (64, "small", 8)])
def test_the_stem_of_resnet50_decides_how_many_positions_are_left(side: int, stem: str, last: int) -> None:
    model = small("resnet50", stem=stem)
    sizes: list[torch.Size] = []
    model.get_submodule("layer4").register_forward_hook(lambda _, __, outputs: sizes.append(outputs.shape[2:]))
    model.eval()(torch.zeros(1, 3, side, side))
    assert sizes == [torch.Size((last, last))]


@pytest.mark.parametrize(("shape", "patch", "tokens"), [((8, 8, 1), 2, 16), ((24, 36, 3), 6, 24), (CIFAR, 32, 1)])
def test_a_vit_takes_any_image_that_its_patch_divides(shape: tuple[int, int, int], patch: int, tokens: int) -> None:
    model = made("vit", shape, patch=patch, size="tiny", depth=1)
    assert model.get_parameter("pos_embed").shape == (1, tokens + 1, 192)
    assert model.eval()(torch.zeros(2, shape[2], *shape[:2])).shape == (2, 10)


def test_pruning_reaches_the_attention_and_mlp_weights_of_a_vit() -> None:
    found = prunable(made("vit", patch=8, size="tiny", depth=1))
    assert {path: tuple(weight.shape) for path, weight in found.items()} == {
        "patch_embed.proj.weight": (192, 3, 8, 8),
        "blocks.0.attn.qkv.weight": (3 * 192, 192),
        "blocks.0.attn.proj.weight": (192, 192),
        "blocks.0.mlp.fc1.weight": (4 * 192, 192),
        "blocks.0.mlp.fc2.weight": (192, 4 * 192),
        "head.weight": (10, 192),
    }


def test_a_vit_is_pruned_and_retrained_on_real_images(tmp_path: Path) -> None:
    study = small_study(
        model={"name": "vit", "patch": 4, "size": "tiny", "depth": 1},
        prune={"scope": "layerwise", "rate": 0.5},
        retrain={"epochs": 1, "batch": 32, "optimizer": {"name": "adamw"}},
        dense={"epochs": 1},
    )
    bench = Bench(tmp_path / "run", study)
    dense = bench.unit(0, None, {"value": 1e-3})
    first = bench.unit(1, dense, {"value": 1e-3})
    results = [bench.train(unit) for unit in (dense, first)]
    assert [result["status"] for result in results] == ["ok", "ok"]
    state, before = bench.weights(first), bench.weights(dense)["weights"]
    for path in ("blocks.0.attn.qkv.weight", "blocks.0.mlp.fc2.weight"):
        mask, weight = state["mask"][path].bool(), state["weights"][path]
        assert mask.sum() == mask.numel() // 2
        assert torch.equal(weight == 0, ~mask)
        assert before[path].abs()[mask].min() >= before[path].abs()[~mask].max()  # by magnitude
    assert "pos_embed" not in state["mask"]


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_IMAGES)
def test_every_small_form_is_pruned_and_retrained_on_real_images(name: str, cifar10: Path, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    table = small_table(
        data={"name": "huggingface", "path": str(cifar10), "augment": list(recipe.augment)},
        model={"name": name},
        dense=recipe.dense,
        retrain=recipe.retrain,
    )
    bench = Bench(tmp_path / "run", parse_study(smoke_table(table)))
    assert bench.dataset.train.shape[1:] == CIFAR
    peak = {"value": 0.01}  # a recipe's rate is for its own data and a whole training, not for two steps on these
    dense = bench.unit(0, None, peak)
    first = bench.unit(1, dense, peak)
    results = [bench.train(unit) for unit in (dense, first)]  # which fails when a truth of the engine does not hold
    assert [result["status"] for result in results] == ["ok", "ok"]
    assert [result["steps"] for result in results] == [2, 2]
    total = sum(mask.numel() for mask in bench.weights(dense)["mask"].values())
    assert round(results[1]["weights_remaining"] * total) == round(0.8 * total)


# --- other people's networks ---


def test_timm_names_work_and_ours_are_registered_there() -> None:
    assert count(made("timm:resnet18")) > 11e6
    for name, args in (("resnet20", {"width": 8}), ("densenet40", {"growth": 4}), ("mobilenetv2", {"width": 0.5})):
        assert shapes(made(f"timm:{name}", **args)) == shapes(made(name, **args))
    with pytest.raises(BadInput, match="timm cannot build 'no_such_model'"):
        made("timm:no_such_model")
    with pytest.raises(BadInput, match=r"timm cannot build 'densenet40': it takes .*growth, not drop_rate"):
        made("timm:densenet40", drop_rate=0.1)


def test_a_users_function_builds_the_model() -> None:
    model = build_model({"function": "tests.users:model", "version": "1", "dropout": 0.1}, (8, 8, 1), 3, 0)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    plain = build_model({"function": "tests.users:fixed", "version": "1"}, (8, 8, 1), 3, 0)
    assert plain(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_the_authors_resnet20_has_as_many_weights_as_their_script() -> None:
    """272,474 of the public script, with projections; 269,722 without, as He et al. 2016 have it for CIFAR-10."""
    for shortcut, weights in {"identity": 269_722, "projection": 272_474}.items():
        network = build_model({"name": "resnet20", "shortcut": shortcut}, CIFAR, 10, seed=0)
        assert sum(parameter.numel() for parameter in network.parameters()) == weights
        assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)
