"""The file of a network that was made smaller: its weights as safetensors, and in words what to build them into."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from silo_tune.errors import BadInput
from silo_tune.models.build import build_model, laid_out
from silo_tune.pruning.filters import without_filters
from silo_tune.study import registry

FORMAT = 1
# The one key of the file's metadata; its value is JSON.
KEY = "silo-tune-small"


@dataclass(frozen=True)
class About:
    """What a file says of its network.

    Attributes:
        model: the resolved [model] table of the study.
        shape: (H, W, C) of an image.
        classes: number of outputs.
        kept: name of a layer's weight → the filters that it keeps, by their numbers in the network that was pruned.
        mean, std: per channel, in grey levels from 0 to 255, of the images that it was trained on: it is to be given
            (pixel − mean) / std. None where the images were not read.
        key: of the unit.
        versions: package → version that wrote the file.
    """

    model: Mapping[str, Any]
    shape: tuple[int, int, int]
    classes: int
    kept: Mapping[str, tuple[int, ...]]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    key: str
    versions: Mapping[str, str]


def shrunk(model: nn.Module, about: About) -> nn.Module:
    """A smaller copy of a network, without the filters that are not kept. Raises BadInput when they do not fit."""
    return laid_out(without_filters(model, about.kept, about.shape))


def pack_weights(network: nn.Module, about: About | None = None) -> bytes:
    """Weights and buffers of a network as safetensors, by their own names."""
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
    }
    words = {} if about is None else {KEY: json.dumps({"format": FORMAT, **asdict(about)}, sort_keys=True)}
    return safetensors.torch.save(tensors, words)


def read_small(path: str | Path) -> tuple[About, dict[str, Tensor]]:
    """What a file of `silo-tune shrink` says of its network, and the weights.

    Raises:
        BadInput: there is no such file, or it is another's.
    """
    try:
        with safe_open(path, "pt") as file:
            words = (file.metadata() or {}).get(KEY)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{str(path)!r} cannot be read as safetensors: {error}") from error
    if words is None:
        raise BadInput(f"{str(path)!r} is not a file of `silo-tune shrink`: its metadata has no {KEY!r}")
    return _about(words, path), weights


def _about(words: str, path: str | Path) -> About:
    try:
        table = json.loads(words)
        if table.pop("format") > FORMAT:
            raise BadInput(f"{str(path)!r} was written by a newer silo-tune; update")
        height, width, channels = (int(side) for side in table.pop("shape"))
        kept = {str(name): tuple(int(index) for index in stay) for name, stay in table.pop("kept").items()}
        mean, std = (None if (v := table.pop(key)) is None else tuple(map(float, v)) for key in ("mean", "std"))
        return About(shape=(height, width, channels), kept=kept, mean=mean, std=std, **table)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"the words of {str(path)!r} are damaged ({error}); export the network again") from error


@torch.inference_mode(False)  # a caller's mode would keep torch-pruning from following the network
def load_small(path: str | Path, model: Callable[..., nn.Module] | None = None) -> nn.Module:
    """The network of a file of `silo-tune shrink`, in evaluation mode on the CPU. The run is not needed.

    It takes images (B, C, H, W) that are normalised as `read_small` says.

    Args:
        path: the file.
        model: the function that builds the network before it is made smaller, where the study named one of yours:
            a name in a file is never imported.

    Raises:
        BadInput: there is no such file, it is another's, or its parts do not fit together.
    """
    about, weights = read_small(path)
    network = shrunk(_built(about, model), about)
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise BadInput(f"the weights of {str(path)!r} do not fit its network: {error}") from error
    return network


def _built(about: About, model: Callable[..., nn.Module] | None) -> nn.Module:
    if "function" in about.model:
        if model is None:
            raise BadInput(
                f"the network is made by {about.model['function']!r}: give load_small that function as model"
            )
        args = {key: value for key, value in about.model.items() if key not in ("function", "version")}
        return laid_out(model(shape=about.shape, classes=about.classes, **args))
    check_plain(about.model)
    try:
        return build_model(about.model, about.shape, about.classes, seed=0)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"the network {dict(about.model)} cannot be built: {error}") from error


def check_plain(model: Mapping[str, Any]) -> None:
    """Raises BadInput for a network that a file must not ask for: building it would read other files or the network."""
    name = str(model.get("name"))
    known = name in registry.MODELS or re.fullmatch(r"(timm|torchvision):[\w.-]+", name) is not None
    if not known or "checkpoint_path" in model:
        raise BadInput(
            f"the network {dict(model)} is none that a file may name: one of this project's, timm:NAME "
            f"or torchvision:NAME"
        )
