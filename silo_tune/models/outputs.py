"""What a network says of each class, however it hands it out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
