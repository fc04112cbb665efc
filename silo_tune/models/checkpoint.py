"""States as safetensors bytes: weights, masks, optimizer buffers, and a few words of metadata. No pickle anywhere."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from silo_tune.errors import BadInput, words
from silo_tune.formats import parse_json

Tensors = dict[str, Tensor]
LFS = b"version https://git-lfs"  # how a file of Git LFS begins that was not fetched


def pack(groups: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, str] | None = None) -> bytes:
    """Bytes of named groups of tensors ("weights", "mask", "optim"), stored as "group/name"."""
    # safetensors refuses channels_last strides and shared memory; the layout is put back by `copy_into`.
    flat = {
        f"{group}/{name}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for group, tensors in groups.items()
        for name, tensor in tensors.items()
    }
    return safetensors.torch.save(flat, dict(meta or {}))


def unpack(data: bytes) -> tuple[dict[str, Tensors], dict[str, str]]:
    """Groups and metadata of `pack`. Raises ValueError for bytes that are no such state."""
    try:
        flat = safetensors.torch.load(data)
        size = int.from_bytes(data[:8], "little")
        meta = parse_json(data[8 : 8 + size]).get("__metadata__", {})
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"not a state: {error}") from None
    groups: dict[str, Tensors] = {}
    for key, tensor in flat.items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = tensor
    return groups, meta


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Name → shape."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def copy_into(target: Tensor, saved: Tensor) -> Tensor:
    """A tensor with the layout and device of `target` and the numbers of `saved`.

    A buffer whose layout differs from its parameter's makes fused SGD compute silently wrong updates.
    """
    return torch.empty_like(target, memory_format=torch.preserve_format).copy_(saved)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights and buffers into a model, keeping its memory layout. Raises RuntimeError for names that differ."""
    model.load_state_dict(dict(weights), strict=True)


def load_pretrained(model: nn.Module, path: str) -> list[str]:
    """Load the weights of a file into a model: safetensors, or a state dict of torch.save, which is read without code.

    What is tied in the model may be there once. The usual wrappings are taken off: "state_dict" and "model" around all,
    and before each name what DataParallel, torch.compile or Lightning put there. Where timm's
    `default_cfg` names the model's classifier, one for another number of classes is left out, as timm does with its own
    pretrained weights.

    Returns:
        The names of the parameters that stay as they were drawn: none, or those of the classifier.

    Raises:
        BadInput: no such file, one that cannot be read so, or weights that do not fit the model; they are named.
    """
    file = Path(path)
    if not file.is_file():
        raise BadInput(f"dense.checkpoint: no file {path!r}")
    own = model.state_dict()
    weights = _unwrapped(_read_weights(file), own)
    tied: dict[int, list[str]] = {}
    for name, tensor in own.items():
        tied.setdefault(tensor.data_ptr(), []).append(name)
    for names in tied.values():
        known = next((name for name in names if name in weights), None)
        if known is not None and len(names) > 1:
            weights |= dict.fromkeys(names, weights[known])
    drawn = [name for name in _classifier(model, own) if name in weights and weights[name].shape != own[name].shape]
    given = {**weights, **{name: own[name] for name in drawn}}
    if misfits := "; ".join(_misfits(given, own)):
        raise BadInput(f"dense.checkpoint: {path!r} does not fit the model: {misfits}")
    model.load_state_dict(given, strict=True)
    return drawn


def _unwrapped(weights: Tensors, own: Mapping[str, Tensor]) -> Tensors:
    """Without the first parts of names that all share and the network does not know: "module.", "_orig_mod.", …"""
    while weights and not set(weights) & set(own):
        heads = {name.partition(".")[::2] for name in weights}
        if len({head for head, _ in heads}) > 1 or not all(rest for _, rest in heads):
            break
        weights = {name.partition(".")[2]: tensor for name, tensor in weights.items()}
    return weights


def _misfits(given: Tensors, own: Mapping[str, Tensor]) -> Iterator[str]:
    """How weights differ from those of a network."""
    missing, unknown = ([name for name in a if name not in b] for a, b in ((own, given), (given, own)))
    shapes = [
        f"{name} ({_shape(given[name])}, the network has {_shape(own[name])})"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    types = [
        f"{name} ({str(given[name].dtype).removeprefix('torch.')})"
        for name in own
        if name in given and own[name].is_floating_point() and not given[name].is_floating_point()
    ]
    found = (("missing", missing), ("unknown", unknown), ("of another shape", shapes), ("no real numbers", types))
    for kind, names in found:
        if names:
            yield f"{len(names)} {kind}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
    if any(name.endswith("_orig") for name in unknown):
        yield "torch.nn.utils.prune was at work: call its remove on each layer before saving"


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"


def _classifier(model: nn.Module, own: Mapping[str, Tensor]) -> list[str]:
    """The parameters of the classifier that timm names; none of another network."""
    named = getattr(model, "default_cfg", {}).get("classifier") or ()
    heads = (named,) if isinstance(named, str) else tuple(named)
    return [name for name in own if name.rpartition(".")[0] in heads]


def _unpickled(file: Path) -> Any:
    """What torch.save wrote: tensors and plain values, for no code of the file is run."""
    return torch.load(file, map_location="cpu", weights_only=True)


def pack_state_dict(weights: Mapping[str, Tensor], key: str, told: str) -> bytes:
    """A state dict as torch.save writes it, for `load_state_dict`; what is told hangs on it as an attribute."""
    state = OrderedDict((name, tensor.detach().cpu().clone()) for name, tensor in weights.items())
    vars(state)[key] = told
    written = io.BytesIO()
    torch.save(state, written)
    return written.getvalue()


def read_state_dict(file: Path, key: str) -> tuple[str | None, Tensors]:
    """The words and the tensors of `pack_state_dict`; None for words that are not there. Raises BadInput."""
    try:
        found = _unpickled(file)
    except Exception as error:  # pickle and zip raise many kinds
        raise BadInput(f"{str(file)!r} cannot be read as weights of torch: {words(error)}") from error
    if not isinstance(found, Mapping) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise BadInput(f"{str(file)!r} holds no state dict, a name and a tensor for each weight")
    return getattr(found, key, None), dict(found)


def _read_weights(file: Path) -> Tensors:
    if file.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        try:
            found = _unpickled(file)
        except Exception as error:  # pickle and zip raise many kinds
            raise BadInput(
                f"dense.checkpoint: {str(file)!r} holds more than tensors, or is damaged ({type(error).__name__}); "
                f"save its state dict alone: torch.save(model.state_dict(), file)"
            ) from error
        for wrapping in ("state_dict", "model_state_dict", "model"):
            if isinstance(found, dict) and isinstance(found.get(wrapping), dict):
                found = found[wrapping]
        if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
            raise BadInput(f"dense.checkpoint: {str(file)!r} holds no state dict, a name and a tensor for each weight")
        return dict(found)
    try:
        return dict(safetensors.torch.load_file(file))
    except (SafetensorError, ValueError) as error:
        with file.open("rb") as opened:
            if opened.read(len(LFS)) == LFS:
                raise BadInput(
                    f"dense.checkpoint: {str(file)!r} only points to its content: fetch it with `git lfs pull`"
                ) from None
        raise BadInput(
            f"dense.checkpoint: {str(file)!r} is not a safetensors file ({error}); those of torch.save end in .pt, "
            f".pth, .bin or .ckpt"
        ) from error
