"""A network from its table in a study: one of ours, one of timm's, or what a user's function makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from silo_tune.errors import BadInput
from silo_tune.models.initialise import INITIALISATIONS
from silo_tune.seeds import stream_seed
from silo_tune.study import registry


def build_model(
    model: Mapping[str, Any],
    shape: tuple[int, ...],
    classes: int,
    seed: int,
    pretrained: bool = False,
    further: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A freshly initialised network.

    Args:
        model: the resolved [model] table: {"name": …, arguments} or {"function": …, "version": …, arguments}.
        shape: of an example: (H, W, C) of an image.
        classes: number of outputs.
        seed: stream seed of the initialisation; the caller's random state is left alone.
        pretrained: take timm's pretrained weights (`timm:` models only).
        further: what the data tells a network beside shape and classes.

    Raises:
        BadInput: the network is unknown or cannot be built with these arguments.
    """
    args = {key: value for key, value in model.items() if key not in ("name", "function", "version")}
    init = None if "function" in model else args.pop("init", None)
    _require_images(model, shape)
    args |= further or {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if "function" in model:
            built: nn.Module = registry.resolve(model["function"])(shape=shape, classes=classes, **args)
        elif model["name"].startswith(registry.TIMM_PREFIX):
            built = _timm(model["name"].removeprefix(registry.TIMM_PREFIX), shape, classes, args, pretrained)
        else:
            built = registry.resolve(registry.MODELS[model["name"]].target)(shape=shape, classes=classes, **args)
        if init is not None:
            INITIALISATIONS[init](built)
    lazy = [name for name, tensor in built.named_parameters() if is_lazy(tensor)]
    if lazy:
        raise BadInput(
            f"model: {', '.join(lazy[:3])} has no shape yet (LazyLinear and its like); call the network once in your "
            f"function, before you return it"
        )
    return laid_out(built)


def _require_images(model: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    name = model.get("name")
    if name is not None and name not in registry.ANY_SHAPE and len(shape) != 3:
        raise BadInput(
            f"model: {name!r} is for images, and these examples are {shape or 'of several parts'}; take "
            f"{' or '.join(registry.ANY_SHAPE)}, or a function of yours"
        )


def laid_out(model: nn.Module) -> nn.Module:
    """The network with its images' channels last in memory, where it has convolutions over images."""
    if any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return model.to(memory_format=torch.channels_last)
    return model


def init_seed(seed: int, cycle: int = 0, repeat: int = 0) -> int:
    """Stream seed of an initialisation; cycle 0 is the one that a rewind to init goes back to."""
    return stream_seed("init", seed, cycle, repeat)


def _timm(name: str, shape: tuple[int, ...], classes: int, args: Mapping[str, Any], pretrained: bool) -> nn.Module:
    import timm

    import silo_tune.models.timm_models  # noqa: F401  (registers ours)

    try:
        made = timm.create_model(name, pretrained=pretrained, num_classes=classes, in_chans=shape[2], **args)
        assert isinstance(made, nn.Module)
        return made
    except (RuntimeError, TypeError, ValueError, KeyError, OSError) as error:
        raise BadInput(f"model: timm cannot build {name!r}: {error}") from error
