"""Does a forward pass use the pruned weights as they are? Some layers compute theirs from what is stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from silo_tune.errors import BadInput
from silo_tune.pruning.criteria.scoring import in_mode
from silo_tune.pruning.masks import Masks, computed

# Operations that weigh their inputs, and how many of their first arguments are never weights. A tensor that is used
# otherwise (reshaped, standardised, multiplied by a norm) is on its way to become the weight, and is not looked at.
_WEIGHING = {
    **dict.fromkeys(("linear", "bilinear", "batch_norm", "layer_norm", "group_norm", "embedding"), 1),
    **dict.fromkeys((f"conv{'_transpose' * up}{n}d" for n in (1, 2, 3) for up in (False, True)), 1),
    **dict.fromkeys(("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "einsum"), 0),
    "multi_head_attention_forward": 3,
    "lstm": 1,
    "gru": 1,
}


class _Watch(TorchFunctionMode):
    """Zeros of the tensors that weigh inputs, by the prunable weight that each may be.

    Attributes:
        found: name → how many zeros the tensor has that has most; a name that nothing was found for is missing.
    """

    def __init__(self, weights: Mapping[str, Tensor], active: list[set[str]]) -> None:
        super().__init__()
        self._weights, self._active = weights, active
        self.found: dict[str, int] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        first = _WEIGHING.get(getattr(func, "__name__", ""))
        if first is not None:
            for tensor in _tensors((args[first:], tuple(kwargs.values()))):
                self._look_at(tensor)
        return func(*args, **kwargs)

    def _look_at(self, tensor: Tensor) -> None:
        inside = set().union(*self._active)
        for name, weight in self._weights.items():
            itself = tensor.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()
            if tensor.numel() == weight.numel() and (itself or name in inside):
                zeros = tensor.numel() - int(tensor.count_nonzero())
                self.found[name] = max(zeros, self.found.get(name, 0))


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)


@contextmanager
def _inside(model: nn.Module, names: Mapping[str, Tensor]) -> Iterator[list[set[str]]]:
    """The prunable weights of the layers whose forward pass is under way, innermost last."""
    active: list[set[str]] = []
    own: dict[str, set[str]] = {}
    for name in names:
        own.setdefault(name.rpartition(".")[0], set()).add(name)
    with ExitStack() as stack:
        for place, module in model.named_modules():
            if place in own:
                enter = module.register_forward_pre_hook(lambda *_, of=own[place]: active.append(of))
                leave = module.register_forward_hook(lambda *_: active.pop() and None)
                stack.callback(enter.remove)
                stack.callback(leave.remove)
        yield active


@torch.no_grad()
def used_zeros(model: nn.Module, weights: Mapping[str, Tensor], images: Tensor) -> dict[str, int]:
    """How many exact zeros each weight has where a forward pass in evaluation mode uses it.

    Args:
        model: left as it is, the random state too.
        weights: prunable weights by name.
        images: (N, C, H, W); two are enough.

    Returns:
        Name → zeros; a weight that the pass does not use is missing.
    """
    with torch.random.fork_rng(devices=[]), in_mode(model, training=False), _inside(model, weights) as active:
        watch = _Watch(weights, active)
        with watch:
            model(images)
    return watch.found


def require_in_effect(model: nn.Module, masks: Masks, images: Tensor) -> None:
    """Hold the share of zeros that the network computes with to that of its masks.

    Args:
        model: pruned.
        masks: of its prunable weights.
        images: as in `used_zeros`.

    Raises:
        BadInput: a layer computes with fewer zeros than its mask says; each is named.
    """
    parameters = dict(model.named_parameters())
    found = used_zeros(model, {name: parameters[name] for name in masks}, images)
    pruned = {name: mask.numel() - int(mask.sum()) for name, mask in masks.items()}
    wrong = [name for name, zeros in found.items() if zeros < pruned[name]]
    if wrong:
        alive = sum(pruned[name] - found[name] for name in wrong) / sum(pruned[name] for name in wrong)
        raise BadInput(computed(wrong, f"{alive:.0%} of the weights pruned there are not zero in the forward pass"))
