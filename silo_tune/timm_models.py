"""Registers the CIFAR ResNets with timm on import: `timm.create_model("resnet20")` then makes ours."""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from torch import nn

from silo_tune.models import CifarResNet


def _make(n: int, args: dict[str, Any]) -> nn.Module:
    """timm passes its own options along; those that mean nothing to a plain CIFAR ResNet are refused."""
    if args.pop("pretrained", False):
        raise RuntimeError("there are no pretrained weights for the CIFAR ResNets")
    known = {key: args.pop(key, default) for key, default in (("num_classes", 10), ("in_chans", 3), ("width", 16))}
    left = {key: value for key, value in args.items() if value is not None and not key.startswith("pretrained_")}
    if left:
        raise TypeError(f"a CIFAR ResNet takes num_classes, in_chans and width, not {', '.join(left)}")
    return CifarResNet(n, known["width"], known["in_chans"], known["num_classes"])


@register_model
def resnet8(**kwargs: Any) -> nn.Module:
    return _make(1, kwargs)


@register_model
def resnet20(**kwargs: Any) -> nn.Module:
    return _make(3, kwargs)


@register_model
def resnet32(**kwargs: Any) -> nn.Module:
    return _make(5, kwargs)


@register_model
def resnet56(**kwargs: Any) -> nn.Module:
    return _make(9, kwargs)
