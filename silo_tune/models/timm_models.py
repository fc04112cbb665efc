"""Registers the networks that timm lacks with it, on import: `timm.create_model("resnet20")` then makes ours.

Names that timm has for another network (vgg19, resnet50) stay timm's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timm.models import register_model
from torch import nn

from silo_tune.models.cifar_resnet import CifarResNet
from silo_tune.models.densenet import DenseNet
from silo_tune.models.mobilenet import MobileNetV2


def _make(build: Callable[..., nn.Module], own: dict[str, Any], args: dict[str, Any]) -> nn.Module:
    """timm passes its own options along; those that mean nothing to a plain network are refused."""
    if args.pop("pretrained", False):
        raise RuntimeError("silo-tune's networks have no pretrained weights")
    classes, channels = args.pop("num_classes", 10), args.pop("in_chans", 3)
    given = {key: args.pop(key, default) for key, default in own.items()}
    left = {key: value for key, value in args.items() if value is not None and not key.startswith("pretrained_")}
    if left:
        raise TypeError(f"it takes num_classes, in_chans and {', '.join(own)}, not {', '.join(left)}")
    return build(*given.values(), channels, classes)


def _resnet(n: int, args: dict[str, Any]) -> nn.Module:
    return _make(lambda *given: CifarResNet(n, *given), {"width": 16}, args)


@register_model
def resnet8(**kwargs: Any) -> nn.Module:
    return _resnet(1, kwargs)


@register_model
def resnet20(**kwargs: Any) -> nn.Module:
    return _resnet(3, kwargs)


@register_model
def resnet32(**kwargs: Any) -> nn.Module:
    return _resnet(5, kwargs)


@register_model
def resnet56(**kwargs: Any) -> nn.Module:
    return _resnet(9, kwargs)


@register_model
def densenet40(**kwargs: Any) -> nn.Module:
    return _make(DenseNet, {"depth": 40, "growth": 12}, kwargs)


@register_model
def mobilenetv2(**kwargs: Any) -> nn.Module:
    return _make(MobileNetV2, {"width": 1.0, "expansion": 6}, kwargs)
