"""ResNets of 6n + 2 layers for small images (He et al. 2016, §4.2)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from silo_tune.models.arguments import he_normal, one_of, whole


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut.

    Where sizes differ it has no parameters ("identity", option A of He et al. 2016), or it is a 1×1 convolution with
    BatchNorm ("projection", their option B).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, outputs - inputs
        self.shortcut: nn.Module | None = None
        if shortcut == "projection" and (stride > 1 or inputs != outputs):
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(images)))
        hidden = self.bn2(self.conv2(hidden))
        shortcut = images
        if self.shortcut is not None:
            shortcut = self.shortcut(images)
        elif self.stride > 1 or self.extra:
            shortcut = images[:, :, :: self.stride, :: self.stride]
            before = self.extra // 2
            shortcut = F.pad(shortcut, (0, 0, 0, 0, before, self.extra - before))
        return F.relu(hidden + shortcut)


class CifarResNet(nn.Module):
    """The ResNet of 6n + 2 layers for 32×32 images (He et al. 2016, §4.2)."""

    def __init__(self, n: int, width: int, channels: int, classes: int, shortcut: str = "identity") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        widths = [width] * n + [2 * width] * n + [4 * width] * n
        strides = [2 if i in (n, 2 * n) else 1 for i in range(3 * n)]
        inputs = [width, *widths[:-1]]
        self.blocks = nn.Sequential(
            *(BasicBlock(i, o, s, shortcut) for i, o, s in zip(inputs, widths, strides, strict=True)),
        )
        self.fc = nn.Linear(4 * width, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.blocks(F.relu(self.bn1(self.conv1(images))))
        logits: Tensor = self.fc(hidden.mean((2, 3)))
        return logits


def resnet8(shape: tuple[int, int, int], classes: int, width: int = 16, shortcut: str = "identity") -> nn.Module:
    return CifarResNet(1, whole("width", width), shape[2], classes, one_of("resnet20", "shortcut", shortcut))


def resnet20(shape: tuple[int, int, int], classes: int, width: int = 16, shortcut: str = "identity") -> nn.Module:
    return CifarResNet(3, whole("width", width), shape[2], classes, one_of("resnet20", "shortcut", shortcut))


def resnet32(shape: tuple[int, int, int], classes: int, width: int = 16, shortcut: str = "identity") -> nn.Module:
    return CifarResNet(5, whole("width", width), shape[2], classes, one_of("resnet20", "shortcut", shortcut))


def resnet56(shape: tuple[int, int, int], classes: int, width: int = 16, shortcut: str = "identity") -> nn.Module:
    return CifarResNet(9, whole("width", width), shape[2], classes, one_of("resnet20", "shortcut", shortcut))
