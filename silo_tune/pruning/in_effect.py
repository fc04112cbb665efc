"""Does a forward pass use the pruned weights as they are? Some layers compute theirs from what is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from silo_tune.errors import BadInput
from silo_tune.pruning.criteria.scoring import in_mode
from silo_tune.pruning.masks import Masks, computed
from silo_tune.tasks.outputs import call

# Operations that weigh their inputs, and how many of their first arguments are never weights. A tensor that is used
# otherwise (reshaped, standardised, multiplied by a norm) is on its way to become the weight, and is not looked at.
_WEIGHING = {
    **dict.fromkeys(("linear", "bilinear", "batch_norm", "layer_norm", "group_norm", "embedding"), 1),
    **dict.fromkeys((f"conv{'_transpose' * up}{n}d" for n in (1, 2, 3) for up in (False, True)), 1),
    **dict.fromkeys(("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "einsum"), 0),
    "embedding_bag": 1,
    "multi_head_attention_forward": 3,
    **dict.fromkeys((f"{kind}_cell" for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu")), 2),
}
# Operations whose weights are in a list among their arguments.
_LISTED = ("lstm", "gru", "rnn_tanh", "rnn_relu")


class _Watch(TorchFunctionMode):
    """Zeros of the tensors that weigh inputs, by the prunable weight that each may be.

    Attributes:
        found: name → how many zeros the tensor has that has most; a name that nothing was found for is missing.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor], active: list[set[str]]) -> None:
        super().__init__()
        # A parameter by where its numbers lie: on a GPU all of a recurrent layer may be in one storage.
        self._places = {weight.data_ptr(): name for name, weight in (*model.named_parameters(), *weights.items())}
        self._weights, self._active = weights, active
        self.found: dict[str, int] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for tensor in _tensors(_weights(getattr(func, "__name__", ""), args, kwargs)):
            self._look_at(tensor)
        return func(*args, **kwargs)

    def _look_at(self, tensor: Tensor) -> None:
        # What is no parameter may be computed from any weight of the layers that are under way.
        itself = self._places.get(tensor.data_ptr())
        for name in set().union(*self._active) if itself is None else {itself} & self._weights.keys():
            if tensor.numel() == self._weights[name].numel():
                zeros = tensor.numel() - int(tensor.count_nonzero())
                self.found[name] = max(zeros, self.found.get(name, 0))


def _weights(operation: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any]:
    """The arguments that may be weights; none of an operation that does not weigh."""
    if operation in _LISTED:
        return [value for value in args if isinstance(value, list)]
    first = _WEIGHING.get(operation)
    return () if first is None else (*args[first:], *kwargs.values())


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
def used_zeros(
    model: nn.Module, weights: Mapping[str, Tensor], batch: Any, forward: Callable[[nn.Module, Any], Any] = call
) -> dict[str, int]:
    """How many exact zeros each weight has where a forward pass in evaluation mode uses it.

    Args:
        model: left as it is, the random state too.
        weights: prunable weights by name.
        batch: of two examples, which are enough.
        forward: runs the network on the batch.

    Returns:
        Name → zeros; a weight that the pass does not use is missing.
    """
    with torch.random.fork_rng(devices=[]), in_mode(model, training=False), _inside(model, weights) as active:
        watch = _Watch(model, weights, active)
        with watch:
            forward(model, batch)
    return watch.found


def require_in_effect(
    model: nn.Module, masks: Masks, batch: Any, forward: Callable[[nn.Module, Any], Any] = call
) -> None:
    """Hold the share of zeros that the network computes with to that of its masks.

    Args:
        model: pruned.
        masks: of its prunable weights.
        batch, forward: as in `used_zeros`.

    Raises:
        BadInput: a layer computes with fewer zeros than its mask says; each is named.
    """
    parameters = dict(model.named_parameters())
    found = used_zeros(model, {name: parameters[name] for name in masks}, batch, forward)
    pruned = {name: mask.numel() - int(mask.sum()) for name, mask in masks.items()}
    wrong = [name for name, zeros in found.items() if zeros < pruned[name]]
    if wrong:
        alive = sum(pruned[name] - found[name] for name in wrong) / sum(pruned[name] for name in wrong)
        raise BadInput(computed(wrong, f"{alive:.0%} of the weights pruned there are not zero in the forward pass"))
