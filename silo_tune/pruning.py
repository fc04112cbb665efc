"""Masks outside modules, and exact counts.

A mask is a boolean tensor per prunable parameter, keyed by the parameter's name; True weights are alive. Global scope
keeps exactly round(G₀·target) weights; layerwise scope reaches the same total by largest remainders. No layer falls
below one weight, masks only shrink, and ties break by position (order of parameters, then row-major order).
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from silo_tune.errors import BadInput

Masks = dict[str, Tensor]
PRUNABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def prunable(model: nn.Module, skip: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Weights of linear and convolution layers by name; biases and normalisation parameters are never among them.

    Args:
        model: the network.
        skip: patterns (`fnmatch`) of parameter names to leave alone.

    Raises:
        BadInput: a pattern matches nothing, or nothing is left.
    """
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, PRUNABLE) and any(module.weight is other for other in found.values()):
            continue  # tied weights are one parameter, by its first name
        if isinstance(module, PRUNABLE):
            found[f"{prefix}weight"] = module.weight
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            found[f"{prefix}in_proj_weight"] = module.in_proj_weight
    for pattern in skip:
        if not any(fnmatchcase(name, pattern) for name in found):
            raise BadInput(f"prune.skip: {pattern!r} matches none of {', '.join(found)}")
    kept: dict[str, Tensor] = {
        name: weight for name, weight in found.items() if not any(fnmatchcase(name, pattern) for pattern in skip)
    }
    if not kept:
        raise BadInput("nothing to prune: the model has no linear or convolution weight that prune.skip leaves")
    return kept


def full_masks(weights: Mapping[str, Tensor]) -> Masks:
    """Everything alive."""
    return {name: torch.ones(weight.shape, dtype=torch.bool) for name, weight in weights.items()}


def alive(masks: Mapping[str, Tensor]) -> int:
    """Number of weights alive."""
    return sum(int(mask.sum()) for mask in masks.values())


def kept_count(total: int, layers: int, target: float) -> int:
    """round(total · target).

    Raises:
        BadInput: it would force a layer below one weight.
    """
    kept = round(total * target)
    if kept < layers:
        raise BadInput(
            f"prune.rate, cycles: {target:.3%} of {total} weights are {kept}, fewer than the {layers} layers: each "
            f"keeps at least one; use fewer cycles or a lower prune.rate"
        )
    return kept


def shrink(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], target: float, scope: str) -> Masks:
    """The next masks.

    Args:
        scores: per parameter, its shape; the highest stay.
        masks: the masks in force.
        target: share of all prunable weights (alive or not) to keep.
        scope: "global" or "layerwise".

    Raises:
        BadInput: the target would force a layer below one weight.
    """
    total = sum(mask.numel() for mask in masks.values())
    kept = kept_count(total, len(masks), target)
    if scope == "layerwise":
        counts = layer_counts([mask.numel() for mask in masks.values()], [int(m.sum()) for m in masks.values()], kept)
        return {
            name: _top(scores[name].flatten(), masks[name].flatten(), count).view_as(masks[name])
            for (name, count) in zip(masks, counts, strict=True)
        }
    return _shrink_global(scores, masks, kept)


def _shrink_global(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], kept: int) -> Masks:
    # Each layer's best weight first, so that no layer dies; then the best of all others.
    guarded = {name: _top(scores[name].flatten(), mask.flatten(), 1) for name, mask in masks.items()}
    flat_guard = torch.cat([guarded[name] for name in masks])
    flat_scores = torch.cat([scores[name].flatten() for name in masks])
    flat_alive = torch.cat([masks[name].flatten() for name in masks])
    rest = _top(flat_scores, flat_alive & ~flat_guard, kept - len(masks))
    parts = (flat_guard | rest).split([mask.numel() for mask in masks.values()])
    return {name: part.view_as(mask) for (name, mask), part in zip(masks.items(), parts, strict=True)}


def _top(scores: Tensor, alive_: Tensor, count: int) -> Tensor:
    """Mask of the `count` highest scores among the living; ties go to the earlier position."""
    positions = alive_.nonzero().squeeze(1)
    order = torch.sort(scores[positions], descending=True, stable=True).indices[:count]
    chosen = torch.zeros_like(alive_)
    chosen[positions[order]] = True
    return chosen


def layer_counts(sizes: list[int], living: list[int], kept: int) -> list[int]:
    """Weights that each layer keeps, in proportion to its size, by largest remainders.

    Each keeps at least one and at most what it has alive; what a bound takes is spread over the others.

    Args:
        sizes: weights per layer in the dense network.
        living: of these, alive.
        kept: the total to reach.
    """
    quotas = [kept * size / sum(sizes) for size in sizes]
    counts = [min(max(1, int(quota)), have) for quota, have in zip(quotas, living, strict=True)]
    while (left := kept - sum(counts)) != 0:
        step = 1 if left > 0 else -1
        movable = [i for i in range(len(sizes)) if (counts[i] < living[i] if step > 0 else counts[i] > 1)]
        # The layer furthest from its quota moves first; ties by position.
        best = max(movable, key=lambda i: (step * (quotas[i] - counts[i]), -i))
        counts[best] += step
    return counts


def apply_masks(parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Set pruned weights to exactly zero, in place."""
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].masked_fill_(~mask.to(parameters[name].device), 0.0)


def pruned_are_zero(parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> bool:
    """True when every pruned weight is exactly zero; the others must be finite."""
    return not any(
        bool((parameters[name].detach() * ~mask.to(parameters[name].device)).any()) for name, mask in masks.items()
    )
