"""ResNets of 6n + 2 layers for small images (He et al. 2016, §4.2)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from silo_tune.models.arguments import he_normal, whole


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
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.blocks(F.relu(self.bn1(self.conv1(images))))
        logits: Tensor = self.fc(hidden.mean((2, 3)))
        return logits


def resnet8(shape: tuple[int, int, int], classes: int, width: int = 16) -> nn.Module:
    return CifarResNet(1, whole("width", width), shape[2], classes)


def resnet20(shape: tuple[int, int, int], classes: int, width: int = 16) -> nn.Module:
    return CifarResNet(3, whole("width", width), shape[2], classes)


def resnet32(shape: tuple[int, int, int], classes: int, width: int = 16) -> nn.Module:
    return CifarResNet(5, whole("width", width), shape[2], classes)


def resnet56(shape: tuple[int, int, int], classes: int, width: int = 16) -> nn.Module:
    return CifarResNet(9, whole("width", width), shape[2], classes)
