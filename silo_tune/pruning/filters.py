"""Which filters of a network can be removed alone, and what else must go with each. The only user of torch-pruning."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from silo_tune.errors import BadInput
from silo_tune.pruning.layers import CONVOLUTIONS
from silo_tune.tasks.outputs import as_tensors

NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Filters:
    """The filters of one layer: rows of its weight.

    Attributes:
        count: number of filters.
        coupled: parameter name → (count, k) int64, the indices along its first dimension that belong to each filter:
            the layer's bias, BatchNorms fed by that filter alone, a depthwise convolution behind it. A filter that is
            masked gives exactly zero to its readers only if its coupled parameters are zero too.
        readers: module name → (count, k) int64, the input channels of that layer that come from each filter.
    """

    count: int
    coupled: Mapping[str, Tensor]
    readers: Mapping[str, Tensor]


def removable(model: nn.Module, shape: tuple[int, ...]) -> dict[str, Filters]:
    """Layers whose filters can be removed one by one, by the name of their weight, in the order of the network.

    A convolution or linear layer is one if no other layer's outputs would have to go with its own, and if what its
    readers see of a masked filter is exactly zero (tried on a copy with random weights). So in a ResNet it is the first
    convolution of each block, in a plain network every layer but the classifier, in a ViT the first layer of each MLP:
    attention heads, residual streams, and layers that feed a LayerNorm or GroupNorm are left alone.

    Args:
        model: the network; it is left as it is.
        shape: of an example: (H, W, C) of an image.

    Raises:
        BadInput: torch-pruning cannot follow the network.
    """
    trial = _scrambled(model)
    images = _noise((2, *as_tensors(shape)))
    graph = _graph(trial, images)
    own = {module: name for name, module in trial.named_modules()}
    found = {}
    for module, name in own.items():
        if module in graph.module2node and _is_layer(module):
            filters = _filters(graph, module, own)
            if filters is not None and _is_silent(trial, f"{name}.weight", filters, images):
                found[f"{name}.weight"] = filters
    return found


def without_filters(model: nn.Module, kept: Mapping[str, Collection[int]], shape: tuple[int, int, int]) -> nn.Module:
    """A smaller copy of a network, in evaluation mode on the CPU: filters go with all that hangs on them.

    Args:
        model: the network; it is left as it is.
        kept: name of a layer's weight → the filters that stay, in any order; other layers keep theirs.
        shape: of an example: (H, W, C) of an image.

    Raises:
        BadInput: torch-pruning cannot follow the network, or there are no such filters in it.
    """
    small = copy.deepcopy(model).cpu().float().eval()
    modules = dict(small.named_modules())
    graph = _graph(small, _noise((2, shape[2], shape[0], shape[1])))
    for name, stay in kept.items():
        layer = modules.get(name.removesuffix(".weight"))
        if layer is None or layer not in graph.module2node or not _is_layer(layer):
            raise BadInput(f"the network has no layer with filters of the name {name!r}")
        count = len(layer.weight)
        if not stay or not set(stay) <= set(range(count)):
            raise BadInput(f"{name!r} has filters 0 to {count - 1}, of which one or more stay, not {list(stay)}")
        gone = sorted(set(range(count)) - set(stay))
        if gone:
            graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, gone).prune()
    return small


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, CONVOLUTIONS) and module.groups == 1)


def _scrambled(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode with other weights and statistics: at its start a normalisation's shift is 0."""
    trial = copy.deepcopy(model).cpu().float().eval()
    with torch.no_grad():
        for parameter in trial.parameters():
            parameter.add_(0.1 * _noise(parameter.shape))
        for buffer in trial.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.1 * _noise(buffer.shape).abs())  # a variance stays above 0
    return trial


def _noise(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _graph(model: nn.Module, images: Tensor) -> Any:
    import torch_pruning

    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")  # it tells of positional embeddings, which we never touch
            return torch_pruning.DependencyGraph().build_dependency(model, example_inputs=images, verbose=False)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise BadInput(
            f'prune.granularity: "filter" needs a network that torch-pruning can follow ({type(error).__name__}: '
            f"{reason}); prune single weights of this one"
        ) from error


def _filters(graph: Any, layer: nn.Module, own: Mapping[nn.Module, str]) -> Filters | None:
    """The filters of a layer, or None when they cannot be removed alone."""
    pruner = graph.get_pruner_of_module(layer)
    count = len(layer.weight)  # type: ignore[arg-type]
    coupled: dict[str, Tensor] = {}
    readers: dict[str, Tensor] = {}
    for item in graph.get_pruning_group(layer, pruner.prune_out_channels, list(range(count))):
        module = item.dep.target.module
        where = _by_filter(item.idxs, item.root_idxs, count)
        if where is None:
            return None
        if module is layer and graph.is_out_channel_pruning_fn(item.dep.handler):
            coupled |= {name: where for name in _parameters(own[module], module) if not name.endswith("weight")}
        elif isinstance(module, NORMALISATIONS) or _is_depthwise(module):
            coupled |= dict.fromkeys(_parameters(own[module], module), where)
        elif _is_layer(module) and graph.is_in_channel_pruning_fn(item.dep.handler):
            readers[own[module]] = where
        elif module in own or isinstance(module, nn.Parameter):
            return None
    return Filters(count, coupled, readers) if readers else None


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, CONVOLUTIONS) and module.groups == module.in_channels == module.out_channels


def _parameters(prefix: str, module: nn.Module) -> Iterator[str]:
    for name, _ in module.named_parameters(recurse=False):
        yield f"{prefix}.{name}"


def _by_filter(indices: list[int], roots: list[int], count: int) -> Tensor | None:
    """Indices (count, k) by filter; None unless each filter has equally many, as the three parts of a qkv do not."""
    found: list[list[int]] = [[] for _ in range(count)]
    for index, root in zip(indices, roots, strict=True):
        found[root].append(index)
    if not found[0] or any(len(part) != len(found[0]) for part in found):
        return None
    return torch.tensor(found)


def _is_silent(model: nn.Module, name: str, filters: Filters, images: Tensor) -> bool:
    """Do the readers of every other filter see exact zeros when those filters and their coupled parameters are zero?"""
    parameters = dict(model.named_parameters())
    rows = {name: torch.arange(filters.count)[:, None], **filters.coupled}
    if not set(rows) <= set(parameters):
        return False  # tied to another layer's
    masked = torch.arange(filters.count) % 2 == 0
    kept = {part: parameters[part].detach().clone() for part in rows}
    with torch.no_grad():
        for part, where in rows.items():
            parameters[part][where[masked].flatten()] = 0.0
        silent = all(not values.any() for values in _read(model, filters, masked, images))
        for part, values in kept.items():
            parameters[part].copy_(values)
    return silent


def _read(model: nn.Module, filters: Filters, masked: Tensor, images: Tensor) -> list[Tensor]:
    """What the readers are given by the masked filters."""
    seen: list[Tensor] = []
    modules = dict(model.named_modules())

    def watch(where: Tensor) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            dim = -1 if isinstance(module, nn.Linear) else 1
            seen.append(inputs[0].index_select(dim, where[masked].flatten()))

        return hook

    handles = [modules[reader].register_forward_pre_hook(watch(where)) for reader, where in filters.readers.items()]
    model(images)
    for handle in handles:
        handle.remove()
    return seen
