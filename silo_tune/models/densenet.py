"""DenseNet without bottleneck and compression, for small images (Huang et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from silo_tune.errors import BadInput
from silo_tune.models.arguments import he_normal, sides_of, whole

STEM = 16  # channels of the first convolution (Huang et al. 2017, §3)


class DenseLayer(nn.Module):
    """Normalisation, ReLU, a 3×3 convolution; its `growth` channels are put beside those that came in."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat((images, self.conv(F.relu(self.bn(images)))), 1)


class Transition(nn.Module):
    """Normalisation, ReLU, a 1×1 convolution that keeps the channels, and the mean of 2×2 positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.bn(images))), 2)


class DenseNet(nn.Module):
    """Three dense blocks of (depth − 4) / 3 layers, two transitions. No dropout: it is meant for augmented images."""

    def __init__(self, depth: int, growth: int, channels: int, classes: int) -> None:
        super().__init__()
        layers = (depth - 4) // 3
        last = STEM + 3 * layers * growth
        self.conv1 = nn.Conv2d(channels, STEM, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(*_blocks(layers, growth))
        self.bn = nn.BatchNorm2d(last)
        self.fc = nn.Linear(last, classes)
        he_normal(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.bn(self.blocks(self.conv1(images))))
        logits: Tensor = self.fc(hidden.mean((2, 3)))
        return logits


def _blocks(layers: int, growth: int) -> Iterator[nn.Module]:
    inputs = STEM
    for block in range(3):
        if block > 0:
            yield Transition(inputs)
        for _ in range(layers):
            yield DenseLayer(inputs, growth)
            inputs += growth


def densenet40(shape: tuple[int, int, int], classes: int, depth: int = 40, growth: int = 12) -> nn.Module:
    sides_of("densenet40", shape, 4)
    if whole("depth", depth, 7) % 3 != 1:
        raise BadInput(f"model.depth: three equal blocks need a depth of 3n + 4 (7, 10, … 40, …), got {depth}")
    return DenseNet(depth, whole("growth", growth), shape[2], classes)
