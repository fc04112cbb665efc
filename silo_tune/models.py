"""Networks for small images. Weights keep their names; masks live outside (see `pruning`).

The same ResNets are registered with timm by `import silo_tune.timm_models`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from silo_tune import names
from silo_tune.errors import BadInput
from silo_tune.streams import stream_seed


def build_model(
    model: Mapping[str, Any], shape: tuple[int, int, int], classes: int, seed: int, pretrained: bool = False
) -> nn.Module:
    """A freshly initialised network.

    Args:
        model: the resolved [model] table: {"name": …, arguments} or {"function": …, "version": …, arguments}.
        shape: (H, W, C) of an image.
        classes: number of outputs.
        seed: stream seed of the initialisation; the caller's random state is left alone.
        pretrained: take timm's pretrained weights (`timm:` models only).

    Raises:
        BadInput: the network is unknown or cannot be built with these arguments.
    """
    args = {key: value for key, value in model.items() if key not in ("name", "function", "version")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if "function" in model:
            built: nn.Module = names.resolve(model["function"])(shape=shape, classes=classes, **args)
        elif model["name"].startswith(names.TIMM_PREFIX):
            built = _timm(model["name"].removeprefix(names.TIMM_PREFIX), shape, classes, args, pretrained)
        else:
            built = names.resolve(names.MODELS[model["name"]].target)(shape=shape, classes=classes, **args)
    if any(module.weight.ndim == 4 for module in built.modules() if isinstance(module, nn.Conv2d)):
        built = built.to(memory_format=torch.channels_last)
    return built


def init_seed(seed: int, cycle: int = 0, repeat: int = 0) -> int:
    """Stream seed of an initialisation; cycle 0 is the one that a rewind to init goes back to."""
    return stream_seed("init", seed, cycle, repeat)


def _timm(name: str, shape: tuple[int, int, int], classes: int, args: Mapping[str, Any], pretrained: bool) -> nn.Module:
    import timm

    import silo_tune.timm_models  # noqa: F401  (registers ours)

    try:
        made = timm.create_model(name, pretrained=pretrained, num_classes=classes, in_chans=shape[2], **args)
        assert isinstance(made, nn.Module)
        return made
    except (RuntimeError, TypeError, ValueError, KeyError, OSError) as error:
        raise BadInput(f"model: timm cannot build {name!r}: {error}") from error


class LeNet300100(nn.Module):
    """Two hidden layers of 300 and 100 ReLU units (LeCun et al. 1998, as pruned by Frankle & Carbin 2019)."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.fc1(images.flatten(1)))
        logits: Tensor = self.fc3(F.relu(self.fc2(hidden)))
        return logits


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with a parameter-free shortcut (option A of He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(images)))
        hidden = self.bn2(self.conv2(hidden))
        shortcut = images
        if self.stride > 1 or self.extra:
            shortcut = images[:, :, :: self.stride, :: self.stride]
            before = self.extra // 2
            shortcut = F.pad(shortcut, (0, 0, 0, 0, before, self.extra - before))
        return F.relu(hidden + shortcut)


class CifarResNet(nn.Module):
    """The ResNet of 6n + 2 layers for 32×32 images (He et al. 2016, §4.2)."""

    def __init__(self, n: int, width: int, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        widths = [width] * n + [2 * width] * n + [4 * width] * n
        strides = [2 if i in (n, 2 * n) else 1 for i in range(3 * n)]
        inputs = [width, *widths[:-1]]
        self.blocks = nn.Sequential(
            *(BasicBlock(i, o, s) for i, o, s in zip(inputs, widths, strides, strict=True)),
        )
        self.fc = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.blocks(F.relu(self.bn1(self.conv1(images))))
        logits: Tensor = self.fc(hidden.mean((2, 3)))
        return logits


def lenet_300_100(shape: tuple[int, int, int], classes: int) -> nn.Module:
    height, width, channels = shape
    return LeNet300100(height * width * channels, classes)


def resnet8(shape: tuple[int, int, int], classes: int, width: int = 16) -> nn.Module:
    return CifarResNet(1, width, shape[2], classes)


def resnet20(shape: tuple[int, int, int], classes: int, width: int = 16) -> nn.Module:
    return CifarResNet(3, width, shape[2], classes)


def resnet32(shape: tuple[int, int, int], classes: int, width: int = 16) -> nn.Module:
    return CifarResNet(5, width, shape[2], classes)


def resnet56(shape: tuple[int, int, int], classes: int, width: int = 16) -> nn.Module:
    return CifarResNet(9, width, shape[2], classes)
