"""Other initial weights than a network's own, for `model.init`."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def xavier_normal(model: nn.Module) -> None:
    """As in the authors' scripts: Xavier-normal weights, biases from N(0, 1), scales of batch norm from N(1, 0.02)."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.Linear)):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            nn.init.normal_(module.weight, mean=1.0, std=0.02)
            nn.init.zeros_(module.bias)


INITIALISATIONS: dict[str, Callable[[nn.Module], None]] = {"xavier-normal": xavier_normal}
