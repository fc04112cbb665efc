"""Two small networks with ReLU or GELU, with and without batch norm, for the studies of this folder."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}
HIDDEN = (300, 100)
CHANNELS = (16, 32)


def dense(shape: tuple[int, int, int], classes: int, activation: str, norm: bool) -> nn.Module:
    """LeNet-300-100's widths. Takes images (N, C, H, W), gives logits (N, classes)."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise((math.prod(shape), *HIDDEN)):
        layers += [nn.Linear(inputs, outputs), *_between(nn.BatchNorm1d, outputs, activation, norm)]
    return nn.Sequential(*layers, nn.Linear(HIDDEN[-1], classes))


def conv(shape: tuple[int, int, int], classes: int, activation: str, norm: bool) -> nn.Module:
    """Two convolutions with stride 2 and one linear layer. Takes images (N, C, H, W), gives logits (N, classes)."""
    height, width, channels = shape
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((channels, *CHANNELS)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), *_between(nn.BatchNorm2d, outputs, activation, norm)]
    left = math.ceil(height / 4) * math.ceil(width / 4) * CHANNELS[-1]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(left, classes))


def _between(kind: type[nn.Module], features: int, activation: str, norm: bool) -> list[nn.Module]:
    return [*([kind(features)] if norm else []), ACTIVATIONS[activation]()]


def pruned(model: nn.Module) -> dict[str, Tensor]:
    """The weights that are pruned, by name: all matrices and kernels."""
    return {name: weight for name, weight in model.named_parameters() if weight.dim() > 1}
