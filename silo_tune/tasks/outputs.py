"""How a network is given a batch, and what it says of it, however it hands that out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def call(model: nn.Module, inputs: Any) -> Any:
    """The network's output: of one tensor, of a tuple as its arguments in order, of a mapping as those of that name."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def logits_of(output: Any) -> Any:
    """A network's logits: its output, or the `logits` of an output of several parts.

    So GoogLeNet and Inception of torchvision answer in training (their auxiliary classifiers are then not trained on),
    and the models of transformers.
    """
    if isinstance(output, Mapping):
        return output.get("logits", output)
    return getattr(output, "logits", output)


def beside_logits(output: Any) -> list[str]:
    """The names of the other parts of such an output; none where it is the logits alone."""
    if isinstance(output, Mapping):
        names = list(output) if "logits" in output else []
    else:
        names = list(getattr(output, "_fields", ())) if hasattr(output, "logits") else []
    return [str(name) for name in names if name != "logits"]


def as_tensors(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of an example as a network is given it: (C, H, W) of an image (H, W, C), any other as it is."""
    return (shape[2], shape[0], shape[1]) if len(shape) == 3 else shape


def examples_in(batch: Any) -> int:
    """Examples of a batch: the length of the first tensor in it; 1 where there is none."""
    if isinstance(batch, tuple) and isinstance(batch[0], Tensor) and batch[0].ndim:
        return len(batch[0])
    return _length(batch) or 1


def _length(part: Any) -> int | None:
    if isinstance(part, Tensor):
        return len(part) if part.ndim else None
    if not isinstance(part, Mapping | list | tuple):
        return None
    inside = part.values() if isinstance(part, Mapping) else part
    return next((found for one in inside if (found := _length(one)) is not None), None)
