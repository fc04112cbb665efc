"""MobileNetV2 (Sandler et al. 2018, table 2) in the form for 32×32 images."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from silo_tune.errors import BadInput
from silo_tune.models.arguments import he_normal, small_linears, whole

# Channels, blocks, stride of the first block. The stem and the second stage have stride 1, not 2: a 32×32 image then
# ends as 4×4 positions (a 224×224 image ends as 7×7 in the network for ImageNet). The first stage does not expand.
STAGES = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
STEM, LAST = 32, 1280


class InvertedResidual(nn.Module):
    """1×1 expansion, 3×3 depthwise, linear 1×1 projection; added to its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = _convolution(inputs, hidden, 1) if expansion > 1 else ()
        depthwise = _convolution(hidden, hidden, 3, stride, groups=hidden)
        project = (nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.layers = nn.Sequential(*expand, *depthwise, *project)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        hidden: Tensor = self.layers(images)
        return images + hidden if self.residual else hidden


class MobileNetV2(nn.Module):
    """Stem, seven stages of inverted residuals, a 1×1 convolution, a linear layer on the mean over positions.

    Args:
        width: multiplies the channels of every layer.
        expansion: how many times wider a block is inside than outside, from the second stage on.
        channels: of an image.
        classes: number of outputs.
    """

    def __init__(self, width: float, expansion: int, channels: int, classes: int) -> None:
        super().__init__()
        last = eights(LAST * max(1.0, width))  # a narrow network keeps the last layer (§3.2 there)
        self.stem = nn.Sequential(*_convolution(channels, eights(STEM * width), 3))
        self.blocks = nn.Sequential(*_blocks(width, expansion))
        self.last = nn.Sequential(*_convolution(eights(STAGES[-1][0] * width), last, 1))
        self.fc = nn.Linear(last, classes)
        he_normal(self)
        small_linears(self)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.last(self.blocks(self.stem(images)))
        logits: Tensor = self.fc(hidden.mean((2, 3)))
        return logits


def _convolution(inputs: int, outputs: int, side: int, stride: int = 1, groups: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU6()


def _blocks(width: float, expansion: int) -> Iterator[nn.Module]:
    inputs = eights(STEM * width)
    for stage, (channels, blocks, stride) in enumerate(STAGES):
        outputs = eights(channels * width)
        for block in range(blocks):
            yield InvertedResidual(inputs, outputs, stride if block == 0 else 1, expansion if stage > 0 else 1)
            inputs = outputs


def eights(channels: float) -> int:
    """The nearest multiple of 8, at least 8, and not more than a tenth below (as the authors' code rounds)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def mobilenetv2(shape: tuple[int, int, int], classes: int, width: float = 1.0, expansion: int = 6) -> nn.Module:
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0 < width <= 16:
        raise BadInput(f"model.width: a multiplier of the channels above 0 and at most 16, got {width!r}")
    return MobileNetV2(float(width), whole("expansion", expansion), shape[2], classes)
