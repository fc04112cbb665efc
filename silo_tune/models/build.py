"""A network from its table in a study: one of ours, one of timm's, or what a user's function makes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from silo_tune.errors import BadInput, unknown
from silo_tune.models.initialise import INITIALISATIONS
from silo_tune.seeds import seed_globally, stream_seed
from silo_tune.study import registry


def build_model(
    model: Mapping[str, Any],
    shape: tuple[int, ...],
    classes: int,
    seed: int,
    pretrained: bool = False,
    further: Mapping[str, Any] | None = None,
    folder: str | None = None,
) -> nn.Module:
    """A freshly initialised network.

    Args:
        model: the resolved [model] table: {"name": …, arguments} or {"function": …, "version": …, arguments}.
        shape: of an example: (H, W, C) of an image.
        classes: number of outputs.
        seed: stream seed of the initialisation; the caller's random state is left alone.
        pretrained: take timm's pretrained weights (`timm:` models only).
        further: what the data tells a network beside shape and classes.
        folder: of an hf: model, a folder or a name of the Hub.

    Raises:
        BadInput: the network is unknown or cannot be built with these arguments.
    """
    args = {key: value for key, value in model.items() if key not in ("name", "function", "version")}
    init = None if "function" in model else args.pop("init", None)
    _require_told(model, further or {})
    _require_images(model, shape)
    args |= further or {}
    with torch.random.fork_rng(devices=[]):
        seed_globally(seed)
        built = _built(model, shape, classes, args, pretrained, folder)
        if init is not None:
            INITIALISATIONS[init](built)
    lazy = [name for name, tensor in built.named_parameters() if is_lazy(tensor)]
    if lazy:
        raise BadInput(
            f"model: {', '.join(lazy[:3])} has no shape yet (LazyLinear and its like); call the network once in your "
            f"function, before you return it"
        )
    return laid_out(built)


def _built(
    model: Mapping[str, Any],
    shape: tuple[int, ...],
    classes: int,
    args: dict[str, Any],
    pretrained: bool,
    folder: str | None,
) -> nn.Module:
    if "function" in model:
        return of_function(
            registry.resolve(model["function"], "model.function"), {"shape": shape, "classes": classes}, args
        )
    package, _, name = str(model["name"]).partition(":")
    if package == "hf":
        from silo_tune.models.hf_models import hf_model

        return hf_model(folder, shape, classes, args)
    if package == "timm":
        return _timm(name, shape, classes, args, pretrained)
    if package == "torchvision":
        return _torchvision(name, shape, classes, args)
    return registry.resolve(registry.MODELS[package].target)(shape=shape, classes=classes, **args)  # type: ignore[no-any-return]


def of_function(make: Callable[..., nn.Module], told: Mapping[str, Any], args: Mapping[str, Any]) -> nn.Module:
    """What a user's function makes; it is told of shape and classes where it has a place for them."""
    takes = inspect.signature(make).parameters
    every = any(one.kind is one.VAR_KEYWORD for one in takes.values())
    return make(**{key: value for key, value in told.items() if every or key in takes}, **args)


def _require_told(model: Mapping[str, Any], further: Mapping[str, Any]) -> None:
    """What the data tells a network, the network must take. Raises BadInput where it does not."""
    name = str(model.get("function") or model["name"])
    lacking = _lacking(registry.MODELS[name].target if name in registry.MODELS else name, further)
    if lacking:
        able = [one for one in registry.ANY_SHAPE if not _lacking(registry.MODELS[one].target, further)]
        raise BadInput(
            f"model: {name!r} takes no {' and no '.join(lacking)}, which come with these examples; take "
            f"{' or '.join(able)}, or a function with these arguments"
        )


def _lacking(target: str, further: Mapping[str, Any]) -> list[str]:
    """The arguments that a network has no place for."""
    if not further or target.startswith((registry.TIMM_PREFIX, registry.TORCHVISION_PREFIX)):
        return list(further)
    if target.partition(":")[0] == "hf":
        return [key for key in further if key not in ("vocabulary", "padding")]
    takes = inspect.signature(registry.resolve(target)).parameters
    return [] if any(one.kind is one.VAR_KEYWORD for one in takes.values()) else [k for k in further if k not in takes]


def _require_images(model: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    name = str(model.get("name", "hf"))
    if name.partition(":")[0] != "hf" and name not in registry.ANY_SHAPE and len(shape) != 3:
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


def _torchvision(name: str, shape: tuple[int, ...], classes: int, args: Mapping[str, Any]) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise BadInput(f"model: {unknown('classifier of torchvision', name, known)}")
    if shape[2] != 3:
        raise BadInput(
            f"model: the networks of torchvision take images of 3 channels, these have {shape[2]}; take timm:NAME, "
            f"whose first layer fits any number"
        )
    given = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    try:
        return torchvision.models.get_model(name, weights=None, num_classes=classes, **(given | dict(args)))  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise BadInput(f"model: torchvision cannot build {name!r}: {error}") from error
