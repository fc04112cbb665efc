"""LeNet-300-100, a fully connected network for any image size."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F


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


def lenet_300_100(shape: tuple[int, ...], classes: int) -> nn.Module:
    return LeNet300100(math.prod(shape), classes)
