"""Checks of what a study gives a network, and the first weights that several networks share."""

from __future__ import annotations

from torch import nn

from silo_tune.errors import BadInput
from silo_tune.study import registry


def whole(key: str, value: object, least: int = 1) -> int:
    """The value. Raises BadInput unless it is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise BadInput(f"model.{key}: give a whole number of at least {least}, got {value!r}")
    return value


def share(key: str, value: object) -> float:
    """The value. Raises BadInput unless it is a share from 0 to below 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise BadInput(f"model.{key}: give a share from 0 to below 1, got {value!r}")
    return float(value)


def one_of(name: str, key: str, value: str) -> str:
    """The value. Raises BadInput unless it is one of the words that the network's entry in `names` has for the key."""
    try:
        registry.check_choices(registry.MODELS[name], {key: value})
    except ValueError as error:
        raise BadInput(f"model: {error}") from None
    return value


def sides_of(name: str, shape: tuple[int, int, int], least: int) -> None:
    """Raises BadInput when the network would halve an image of this shape (H, W, C) to nothing."""
    height, width, _ = shape
    if min(height, width) < least:
        raise BadInput(
            f"model: {name} needs images of at least {least}×{least} pixels, these have {height}×{width}; "
            f"take a smaller network, or larger images (data.size)"
        )


def he_normal(model: nn.Module) -> None:
    """Draw every convolution's weights anew, He et al. 2015: normal, by fan-out, for ReLU."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def small_linears(model: nn.Module) -> None:
    """Draw every linear layer's weights anew from N(0, 0.01²), with zero biases (Simonyan & Zisserman 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
            nn.init.zeros_(module.bias)
