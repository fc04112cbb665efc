"""ResNet-50, the bottleneck network for ImageNet (He et al. 2016, table 1).

Parameters have torchvision's names and shapes, so weights of that network fit.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from silo_tune.models.arguments import he_normal, one_of, whole

BLOCKS = (3, 4, 6, 3)  # of each stage in ResNet-50
EXPANSION = 4


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions beside a shortcut; the stride is in the 3×3 one, as in today's implementations."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(images)))
        hidden = F.relu(self.bn2(self.conv2(hidden)))
        return F.relu(self.bn3(self.conv3(hidden)) + self.downsample(images))


class ResNet(nn.Module):
    """Stem, four stages of bottlenecks, a linear layer on the mean over positions.

    Args:
        width: channels of the stem and of the first stage's bottlenecks.
        channels: of an image.
        classes: number of outputs.
        stem: "imagenet" is a 7×7 convolution of stride 2 and a 3×3 maximum of stride 2; "small", for small images, is a
            3×3 convolution that keeps every position.
    """

    def __init__(self, width: int, channels: int, classes: int, stem: str) -> None:
        super().__init__()
        small = stem == "small"
        self.conv1 = nn.Conv2d(channels, width, *((3, 1, 1) if small else (7, 2, 3)), bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool: nn.Module = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        self.layer1 = _stage(width, width, BLOCKS[0], 1)
        self.layer2 = _stage(4 * width, 2 * width, BLOCKS[1], 2)
        self.layer3 = _stage(8 * width, 4 * width, BLOCKS[2], 2)
        self.layer4 = _stage(16 * width, 8 * width, BLOCKS[3], 2)
        self.fc = nn.Linear(32 * width, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        hidden = self.layer4(self.layer3(self.layer2(self.layer1(hidden))))
        logits: Tensor = self.fc(hidden.mean((2, 3)))
        return logits


def _stage(inputs: int, width: int, blocks: int, stride: int) -> nn.Module:
    rest = (Bottleneck(EXPANSION * width, width, 1) for _ in range(blocks - 1))
    return nn.Sequential(Bottleneck(inputs, width, stride), *rest)


def resnet50(shape: tuple[int, int, int], classes: int, width: int = 64, stem: str = "imagenet") -> nn.Module:
    return ResNet(whole("width", width), shape[2], classes, one_of("resnet50", "stem", stem))
