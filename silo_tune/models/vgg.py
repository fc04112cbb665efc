"""VGG-19 with batch normalisation (Simonyan & Zisserman 2015, configuration E)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from silo_tune.models.arguments import he_normal, one_of, sides_of, small_linears, whole

# Convolutions of each stage, and their channels in units of the base width; a stage ends with a 2×2 maximum.
STAGES = ((2, 1), (2, 2), (4, 4), (4, 8), (4, 8))


class VGG(nn.Module):
    """Sixteen 3×3 convolutions in five stages, then a classifier.

    Args:
        width: channels of the first stage.
        channels: of an image.
        classes: number of outputs.
        head: "linear" is one layer on the mean over positions, as is usual for 32×32 images; "imagenet" is the
            classifier of the ImageNet network: 7×7 positions, two hidden layers of 64 · width units, dropout 0.5.
    """

    def __init__(self, width: int, channels: int, classes: int, head: str) -> None:
        super().__init__()
        self.features = nn.Sequential(*_stages(channels, width))
        self.pool = nn.AdaptiveAvgPool2d(1 if head == "linear" else 7)
        last, hidden = 8 * width, 64 * width
        self.classifier = nn.Linear(last, classes) if head == "linear" else _imagenet_head(last * 49, hidden, classes)
        he_normal(self)
        small_linears(self)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pool(self.features(images)).flatten(1))
        return logits


def _stages(inputs: int, width: int) -> Iterator[nn.Module]:
    for convolutions, factor in STAGES:
        for _ in range(convolutions):
            outputs = factor * width
            # No bias: the normalisation that follows has one.
            yield from (nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
            inputs = outputs
        yield nn.MaxPool2d(2)


def _imagenet_head(inputs: int, hidden: int, classes: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(0.5)),
        nn.Linear(hidden, classes),
    )


def vgg19(shape: tuple[int, int, int], classes: int, width: int = 64, head: str = "linear") -> nn.Module:
    sides_of("vgg19", shape, 32)
    return VGG(whole("width", width), shape[2], classes, one_of("vgg19", "head", head))
