"""States as safetensors bytes: weights, masks, optimizer buffers, and a few words of metadata. No pickle anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from silo_tune.errors import BadInput

Tensors = dict[str, Tensor]


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
        meta = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"not a state: {error}") from None
    groups: dict[str, Tensors] = {}
    for key, tensor in flat.items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = tensor
    return groups, meta


def copy_into(target: Tensor, saved: Tensor) -> Tensor:
    """A tensor with the layout and device of `target` and the numbers of `saved`.

    A buffer whose layout differs from its parameter's makes fused SGD compute silently wrong updates.
    """
    return torch.empty_like(target, memory_format=torch.preserve_format).copy_(saved)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights and buffers into a model, keeping its memory layout. Raises RuntimeError for names that differ."""
    model.load_state_dict(dict(weights), strict=True)


def load_pretrained(model: nn.Module, path: str) -> None:
    """Load a safetensors file of plain weights into a model.

    Raises:
        BadInput: no such file, not safetensors, or weights that do not fit the model; they are named.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise BadInput(f"dense.checkpoint: no file {path!r}")
    try:
        model.load_state_dict(safetensors.torch.load_file(file), strict=True)
    except (SafetensorError, ValueError) as error:
        raise BadInput(f"dense.checkpoint: {path!r} is not a safetensors file: {error}") from error
    except RuntimeError as error:
        raise BadInput(f"dense.checkpoint: {path!r} does not fit the model: {error}") from error
