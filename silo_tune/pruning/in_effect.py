"""Does a forward pass use the pruned weights as they are? Some layers compute theirs from what is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from silo_tune.errors import BadInput
from silo_tune.pruning.criteria.scoring import in_mode
from silo_tune.pruning.masks import Masks, computed
from silo_tune.seeds import streams_kept
from silo_tune.tasks.outputs import call

# Operations that weigh, even what was not seen to come from the batch (learned queries, tables of positions), and
# transforms, which spread a zero over all. What they are given is used; what they give is no weight any more.
_WEIGHING = frozenset(
    (
        *("linear", "bilinear", "embedding", "embedding_bag"),
        *(f"conv{'_transpose' * up}{n}d" for n in (1, 2, 3) for up in (False, True)),
        *("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "addmm", "addmv", "baddbmm", "addbmm"),
        *("einsum", "tensordot", "inner", "dot", "outer", "kron", "multi_dot", "chain_matmul"),
        *("multi_head_attention_forward", "scaled_dot_product_attention", "lstm", "gru", "rnn_tanh", "rnn_relu"),
        *(f"{kind}_cell" for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu")),
        *(f"{inverse}{real}fft{n}" for inverse in ("", "i") for real in ("", "r") for n in ("", "2", "n")),
    )
)
# Operations that give a part of a tensor. Another one that gives fewer numbers than it takes (a norm, a mean) gives no
# weight.
_TAKING = frozenset(("__getitem__", "select", "narrow", "index_select", "gather", "take", "masked_select"))

# Operations that write into their first argument, beside those whose name ends in an underscore.
_IN_PLACE = frozenset(
    ("__setitem__", "__set__", *(f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "pow", "and", "or")))
)


@dataclass(frozen=True)
class _Origin:
    """What a tensor would be with other weights.

    Attributes:
        names: prunable weights that it was computed from.
        noise: the tensor, were the zeros of these weights random numbers and all others zero.
        none: the tensor, were they zero throughout.
    """

    names: frozenset[str]
    noise: Any
    none: Any

    def undone(self, tensor: Tensor) -> int:
        """Numbers that rest on a pruned weight and are not zero."""
        noise, none = (torch.nan_to_num(other, posinf=1.0, neginf=-1.0) for other in (self.noise, self.none))
        return int(((noise != none) & (tensor != 0)).sum())


class _Watch(TorchFunctionMode):
    """Follows what is computed from the weights, until it meets what comes from the batch.

    Attributes:
        found: name → how many of the weight's zeros are zero where it is used, where fewest are; a name that nothing
            was found for is missing.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._zeros = {name: weight.numel() - int(weight.count_nonzero()) for name, weight in weights.items()}
        self._origins = WeakTensorKeyDictionary()  # of what is computed from weights
        self._data = WeakTensorKeyDictionary()  # what comes from the batch
        # A parameter by where its numbers lie: on a GPU all of a recurrent layer may be in one storage.
        self._places: dict[tuple[int, int], _Origin] = {}
        for name, weight in weights.items():
            noise = torch.randn(weight.shape).to(weight).masked_fill(weight != 0, 0)
            origin = _Origin(frozenset((name,)), noise, torch.zeros_like(weight))
            self._origins[weight] = self._places[weight.data_ptr(), weight.numel()] = origin
        self.found: dict[str, int] = {}

    def from_batch(self, values: Any) -> None:
        """What is given to the network or to a layer comes from the batch, but for weights."""
        for tensor in _tensors(values):
            if self._origin(tensor) is None:
                self._data[tensor] = True

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        given = list(_tensors((args, kwargs)))
        origins = [(tensor, origin) for tensor in given if (origin := self._origin(tensor)) is not None]
        data = any(tensor in self._data for tensor in given)
        if data or name in _WEIGHING:
            for tensor, origin in origins:
                self._use(tensor, origin)
            result = func(*args, **kwargs)
            if data:
                self._mark([result, *_changed(name, args, kwargs)])
            return result
        if not origins or name.startswith("new_") or name.endswith("_like"):
            return func(*args, **kwargs)
        return self._followed(func, name, args, kwargs, origins)

    def _use(self, tensor: Tensor, origin: _Origin) -> None:
        undone = origin.undone(tensor)
        for name in origin.names:
            zeros = max(0, self._zeros[name] - undone)
            self.found[name] = min(zeros, self.found.get(name, zeros))

    def _mark(self, values: Any) -> None:
        for tensor in _tensors(values):
            self._origins.pop(tensor, None)
            self._data[tensor] = True

    def _followed(self, func: Any, name: str, args: Any, kwargs: Any, origins: list[tuple[Tensor, _Origin]]) -> Any:
        """The result of an operation on weights, and what it would be with the others."""
        names = frozenset[str]().union(*(origin.names for _, origin in origins))
        for target in _tensors(_changed(name, args, kwargs)):
            if self._origin(target) is None:  # what is written into would be changed three times
                self._origins[target] = _Origin(names, target.clone(), target.clone())
        others = [
            func(*_swapped(args, swap), **_swapped(kwargs, swap))
            for swap in (lambda t: self._other(t, "noise"), lambda t: self._other(t, "none"))
        ]
        result = func(*args, **kwargs)
        made = list(_tensors(result))
        largest = max(tensor.numel() for tensor, _ in origins)
        if name in _TAKING or sum(tensor.numel() for tensor in made) >= largest:
            for tensor, noise, none in zip(made, *map(_tensors, others), strict=True):
                if tensor.is_floating_point() or tensor.is_complex():
                    self._origins[tensor] = _Origin(names, noise, none)
        return result

    def _origin(self, tensor: Tensor) -> _Origin | None:
        found: _Origin | None = self._origins.get(tensor)
        if found is None and tensor not in self._data:
            with suppress(RuntimeError):  # some tensors have no place
                found = self._places.get((tensor.data_ptr(), tensor.numel()))
        return found

    def _other(self, tensor: Tensor, which: str) -> Any:
        origin = self._origin(tensor)
        return tensor if origin is None else getattr(origin, which).view_as(tensor)


def _changed(operation: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """What an operation writes into."""
    in_place = (operation.endswith("_") and not operation.endswith("__")) or operation in _IN_PLACE
    return [*args[: int(in_place)], kwargs.get("out")]


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, Mapping):
        yield from _tensors(list(values.values()))


def _swapped(values: Any, swap: Callable[[Tensor], Any]) -> Any:
    """The same arguments with other tensors."""
    if isinstance(values, Tensor):
        return swap(values)
    if type(values) in (list, tuple):
        return type(values)(_swapped(value, swap) for value in values)
    return {key: _swapped(value, swap) for key, value in values.items()} if type(values) is dict else values


def _to_train(model: nn.Module) -> None:
    """Training mode, but for what takes its mean over the batch: two examples may be too few."""
    for module in model.modules():
        module.training = not isinstance(module, nn.modules.batchnorm._NormBase)


@contextmanager
def _heard(model: nn.Module, watch: _Watch) -> Iterator[None]:
    """What every layer is given and gives comes from the batch."""
    with ExitStack() as stack:
        for module in model.modules():
            enter = module.register_forward_pre_hook(
                lambda _, args, kwargs: watch.from_batch((args, kwargs)), with_kwargs=True
            )
            leave = module.register_forward_hook(lambda _, __, output: watch.from_batch(output))
            stack.callback(enter.remove)
            stack.callback(leave.remove)
        yield


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Afterwards buffers and random states are as before."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = {tensor.device for tensor in model.parameters() if tensor.is_cuda}
    with streams_kept([device.index for device in devices]):
        yield
    for name, buffer in model.named_buffers():
        if name in before and before[name].shape == buffer.shape:
            buffer.copy_(before[name])


@torch.no_grad()
def used_zeros(
    model: nn.Module, weights: Mapping[str, Tensor], batch: Any, forward: Callable[[nn.Module, Any], Any] = call
) -> dict[str, int]:
    """How many exact zeros each weight has where a forward pass uses it, in evaluation and in training mode.

    Args:
        model: left as it is, the random state too.
        weights: prunable weights by name.
        batch: of two examples, which are enough.
        forward: runs the network on the batch.

    Returns:
        Name → zeros where fewest are; a weight that no pass was seen to use is missing.
    """
    with _as_it_was(model), in_mode(model, training=False):
        watch = _Watch(weights)
        watch.from_batch(batch)
        with _heard(model, watch), watch:
            forward(model, batch)
            # Some losses are of more than two examples; what was seen until then counts.
            with suppress(Exception):
                _to_train(model)
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
