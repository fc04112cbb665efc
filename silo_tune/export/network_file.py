"""The file of a network that was taken out of a run: its weights, and in words what to build them into. No pickle."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from silo_tune.errors import BadInput, one_line
from silo_tune.formats import parse_json
from silo_tune.models.build import build_model, laid_out, of_function
from silo_tune.models.checkpoint import read_state_dict
from silo_tune.pruning.filters import without_filters
from silo_tune.study import registry
from silo_tune.study.handed import MODEL as HANDED
from silo_tune.study.places import absolute

FORMAT = 2
# The one key of the file's metadata; its value is JSON. The second is that of files of format 1.
KEY, FIRST_KEY = "silo-tune", "silo-tune-small"
# How the file of a network is called in a folder of its own.
SAFETENSORS, TORCH = "model.safetensors", "model.pt"


@dataclass(frozen=True)
class About:
    """What a file says of its network.

    Attributes:
        model: the resolved [model] table of the study.
        shape: of an example: (H, W, C) of an image.
        classes: number of outputs.
        kept: name of a layer's weight → the filters that it keeps, by their numbers in the network that was pruned;
            nothing of a network that was not made smaller.
        mean, std: per channel, in grey levels from 0 to 255, of the images that it was trained on: it is to be given
            (pixel − mean) / std. None where the examples are no images, or were not read.
        key: of the unit.
        versions: package → version that wrote the file.
        further: what the data tells a network beside shape and classes.
        task: name and score of what it was trained for; None in files of format 1.
    """

    model: Mapping[str, Any]
    shape: tuple[int, ...]
    classes: int
    kept: Mapping[str, tuple[int, ...]]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    key: str
    versions: Mapping[str, str]
    further: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, str] | None = None

    @property
    def words(self) -> str:
        """As the file holds it."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)


def shrunk(model: nn.Module, about: About) -> nn.Module:
    """A smaller copy of a network, without the filters that are not kept. Raises BadInput when they do not fit."""
    height, width, channels = about.shape
    return laid_out(without_filters(model, about.kept, (height, width, channels)))


def pack_weights(weights: Mapping[str, Tensor], about: About | None = None) -> bytes:
    """Weights and buffers of a network as safetensors, by their own names."""
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in weights.items()
    }
    return safetensors.torch.save(tensors, {} if about is None else {KEY: about.words})


def read_file(path: str | Path) -> tuple[About, dict[str, Tensor]]:
    """What a file of `silo-tune weights` or `silo-tune shrink` says of its network, and the weights.

    Args:
        path: the file, `.pt` of torch or safetensors; or the folder that `silo-tune weights` wrote.

    Raises:
        BadInput: there is no such file, or it is another's.
    """
    path = Path(path)
    if path.is_dir():
        path = next((path / name for name in (SAFETENSORS, TORCH) if (path / name).exists()), path / SAFETENSORS)
    words, weights = read_state_dict(path, KEY) if path.suffix == ".pt" else _read_safetensors(path)
    if words is None:
        raise BadInput(
            f"{str(path)!r} does not say what its network is: it is no file of `silo-tune weights` or `silo-tune "
            f"shrink`; build the network yourself, and give its load_state_dict the tensors of the file"
        )
    return _about(words, path), weights


def _read_safetensors(path: Path) -> tuple[str | None, dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{str(path)!r} cannot be read as safetensors: {error}") from error
    return metadata.get(KEY, metadata.get(FIRST_KEY)), weights


def _about(words: str, path: Path) -> About:
    try:
        table = parse_json(words)
        if table.pop("format") > FORMAT:
            raise BadInput(f"{str(path)!r} was written by a newer silo-tune; update")
        shape = tuple(int(side) for side in table.pop("shape"))
        kept = {str(name): tuple(int(index) for index in stay) for name, stay in table.pop("kept").items()}
        if kept and len(shape) != 3:
            raise ValueError("filters are kept of a network for images alone")
        mean, std = (None if (v := table.pop(key)) is None else tuple(map(float, v)) for key in ("mean", "std"))
        return About(shape=shape, kept=kept, mean=mean, std=std, **table)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"the words of {str(path)!r} are damaged ({error}); export the network again") from error


@torch.inference_mode(False)  # a caller's mode would keep torch-pruning from following the network
def load(
    path: str | Path, model: nn.Module | Callable[..., nn.Module] | None = None, *, functions: bool = False
) -> nn.Module:
    """The network of a file of `silo-tune weights` or `silo-tune shrink`, in evaluation mode on the CPU.

    The run is not needed. Nothing is unpickled. `silo_tune.export.network_file.read_file` says what it takes.

    Args:
        path: the file, or the folder that `silo-tune weights` wrote.
        model: where it is not one of this project, timm or torchvision: the network, which is given the weights, or the
            function that makes it.
        functions: import the function that the file names, which must be one that you trust.

    Raises:
        BadInput: there is no such file, it is another's, its function cannot be imported, or its parts do not fit
            together.
    """
    about, weights = read_file(path)
    network = model if isinstance(model, nn.Module) else _built(about, model, functions)
    network = shrunk(network, about) if about.kept else network
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise BadInput(f"the weights of {str(path)!r} do not fit its network: {one_line(error)}") from error
    return network.eval()


def _built(about: About, model: Callable[..., nn.Module] | None, functions: bool) -> nn.Module:
    args = {key: value for key, value in about.model.items() if key not in ("name", "function", "version")}
    try:
        if model is not None:
            if about.model.get("function") == HANDED:
                return laid_out(model())
            told = {"shape": about.shape, "classes": about.classes}
            return laid_out(of_function(model, told, {**args, **about.further}))
        _check_known(about.model, functions)
        return build_model(about.model, about.shape, about.classes, seed=0, further=about.further)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"the network {dict(about.model)} cannot be built: {error}") from error


def _check_known(model: Mapping[str, Any], functions: bool) -> None:
    """Raises BadInput for a network that its words alone do not give: a user's, one of an object, of transformers."""
    name = str(model.get("function") or model.get("name"))
    alone = name == HANDED or name.partition(":")[0] == "hf"
    if alone or ("function" in model and not functions):
        imported = "" if alone else "; or say load(FILE, functions=True), and it is imported"
        raise BadInput(
            f"the network is made by {name!r}, which a file does not hold: give load(FILE, model=…) the network, or "
            f"the function that makes it{imported}"
        )
    if "function" not in model:
        check_plain(model)


def is_plain(model: Mapping[str, Any]) -> bool:
    """Whether building a network reads no file of anybody's, imports nothing and asks no network."""
    name = str(model.get("name"))
    known = name in registry.MODELS or re.fullmatch(r"(timm|torchvision):[\w.-]+", name) is not None
    return known and "checkpoint_path" not in model


def check_plain(model: Mapping[str, Any]) -> None:
    """Raises BadInput for a network that a file must not ask for: building it would read other files or the network."""
    if not is_plain(model):
        raise BadInput(
            f"the network {dict(model)} is none that a file may name: one of this project's, timm:NAME "
            f"or torchvision:NAME"
        )


def write_all(files: Mapping[Path, bytes], option: str = "--out") -> None:
    """Write files, each whole or not at all. Raises BadInput, naming the option that chose the place."""
    for path, content in files.items():
        whole = Path(absolute(str(path)))
        part = whole.with_name(f".{whole.name}.tmp")
        try:
            whole.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content)
            os.replace(part, whole)
        except OSError as error:
            raise BadInput(f"{option}: cannot write {str(path)!r}: {error.strerror}") from None
