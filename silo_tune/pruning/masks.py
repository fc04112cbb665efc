"""Masks outside modules, and exact counts.

A mask is a boolean tensor per prunable parameter, keyed by the parameter's name; True weights are alive. Counts are in
prunable elements, weights or filters: global scope keeps exactly round(G₀·target) of them; layerwise scope reaches the
same total by largest remainders. No layer falls below one element, masks only shrink, and ties break by position (order
of parameters, then row-major order).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import Tensor, nn

from silo_tune.errors import BadInput
from silo_tune.pruning.filters import Filters
from silo_tune.pruning.layers import SCALE, kinds_by_name, weights_of
from silo_tune.study.prune import DEFAULT_LAYERS, LAYERS

Masks = dict[str, Tensor]


def prunable(
    model: nn.Module,
    skip: tuple[str, ...] = (),
    norm_scales: bool = False,
    layers: tuple[str, ...] = DEFAULT_LAYERS,
) -> dict[str, Tensor]:
    """Weights of layers of some kinds, by name; biases are never among them, a tied weight is there once.

    Args:
        model: the network.
        skip: patterns (`fnmatch`) of parameter names to leave alone.
        norm_scales: are the weights of BatchNorm, LayerNorm and GroupNorm prunable too?
        layers: kinds of layers, as in `silo_tune.study.prune.LAYERS`.

    Raises:
        BadInput: a kind beyond the default ones is in no layer, a pattern matches nothing, or nothing is left.
    """
    kinds = (*layers, *((SCALE,) if norm_scales else ()))
    found = {weight.name: weight for weight in weights_of(model, kinds)}
    have = set(kinds_by_name(model).values()) | {weight.kind for weight in found.values()}
    absent = [kind for kind in layers if kind not in have and kind not in DEFAULT_LAYERS]
    if absent:
        there = ", ".join(kind for kind in LAYERS if kind in have) or "none that can be pruned"
        raise BadInput(f"prune.layers: the network has no layer of {', '.join(absent)}; it has {there}")
    return left_by(skip, {name: weight.tensor for name, weight in found.items()})


def left_by(skip: tuple[str, ...], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights that no pattern of prune.skip matches. Raises BadInput as `prunable` does."""
    for pattern in skip:
        if not any(fnmatchcase(name, pattern) for name in found):
            raise BadInput(f"prune.skip: {pattern!r} matches none of {', '.join(found) or 'no prunable layer'}")
    kept = {name: weight for name, weight in found.items() if not any(fnmatchcase(name, pattern) for pattern in skip)}
    if not kept:
        raise BadInput("nothing to prune: the model has no prunable layer that prune.skip leaves")
    made = [name for name, weight in kept.items() if not isinstance(weight, nn.Parameter)]
    if made:
        raise BadInput(computed(made, "a mask would not last"))
    return kept


def computed(names: Sequence[str], why: str) -> str:
    """The message for layers whose stored weight is not the one that they use."""
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return (
        f"model: {shown}: computed from what is stored (weight standardisation, weight norm, spectral norm or another "
        f"parametrization), and {why}; leave these layers out with prune.skip, or take a network without"
    )


@dataclass(frozen=True)
class PrunableElements:
    """What a prune counts and ranks: single weights, or whole filters.

    Attributes:
        weights: the prunable weights by name.
        filters: of the same names, when whole filters go; else empty.
        parameters: all parameters of the network by name; coupled parameters of filters are among them.
        fours: of each four weights in a row of inputs at least two stay.
    """

    weights: Mapping[str, Tensor]
    filters: Mapping[str, Filters]
    parameters: Mapping[str, Tensor]
    fours: bool = False

    @classmethod
    def of(
        cls,
        model: nn.Module,
        skip: tuple[str, ...] = (),
        norm_scales: bool = False,
        removable: Mapping[str, Filters] | None = None,
        layers: tuple[str, ...] = DEFAULT_LAYERS,
        fours: bool = False,
    ) -> PrunableElements:
        """The elements of a network: filters when it is said which are removable, else weights.

        In `fours` layers take part whose inputs (channels of a convolution's group) are a multiple of four.

        Raises:
            BadInput: as `prunable`.
        """
        parameters = dict(model.named_parameters())
        if removable is None:
            found = prunable(model, skip, norm_scales, layers)
            found = {name: weight for name, weight in found.items() if not fours or weight.shape[1] % 4 == 0}
            if not found:
                raise BadInput(
                    'prune.granularity: "2:4" needs a layer whose inputs are a multiple of 4; none has so many'
                )
            return cls(found, {}, parameters, fours)
        meant = {weight.name for weight in weights_of(model, layers)}
        weights = left_by(skip, {name: parameters[name] for name in removable if name in meant})
        return cls(weights, {name: removable[name] for name in weights}, parameters)

    @property
    def noun(self) -> str:
        return "filters" if self.filters else "weights"

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a layer's scores."""
        return (self.filters[name].count,) if self.filters else tuple(self.weights[name].shape)

    def kept(self, target: float) -> int:
        """How many a target leaves. Raises BadInput when that forces a layer below one."""
        sizes = [torch.Size(self.shape(name)).numel() for name in self.weights]
        return kept_count(sum(sizes), len(sizes), target, self.noun)

    def alive(self, masks: Mapping[str, Tensor]) -> Masks:
        """By layer, which are alive: the masks of the weights, or of their rows."""
        return {name: masks[name].flatten(1).any(1) if self.filters else masks[name] for name in self.weights}

    def masks(self, alive_: Mapping[str, Tensor]) -> Masks:
        """The masks of every parameter concerned: a filter takes its row and its coupled parameters along."""
        if not self.filters:
            return dict(alive_)
        made = {name: _rows(alive_[name], weight.shape) for name, weight in self.weights.items()}
        for name, filters in self.filters.items():
            for parameter, where in filters.coupled.items():
                if parameter not in made:
                    made[parameter] = torch.ones(self.parameters[parameter].shape, dtype=torch.bool)
                made[parameter][where[~alive_[name]].flatten()] = False
        return made

    def counted(self, masks: Mapping[str, Tensor]) -> Masks:
        """The masks of the prunable weights alone; those of coupled parameters are never counted."""
        return {name: masks[name] for name in self.weights}


def _rows(alive_: Tensor, shape: torch.Size) -> Tensor:
    return alive_.view(-1, *[1] * (len(shape) - 1)).expand(shape).clone()


def full_masks(weights: Mapping[str, Tensor]) -> Masks:
    """Everything alive."""
    return {name: torch.ones(weight.shape, dtype=torch.bool) for name, weight in weights.items()}


def alive(masks: Mapping[str, Tensor]) -> int:
    """Number of weights, or of other elements, alive."""
    return sum(int(mask.sum()) for mask in masks.values())


def kept_count(total: int, layers: int, target: float, noun: str = "weights") -> int:
    """round(total · target).

    Raises:
        BadInput: it would force a layer below one.
    """
    kept = round(total * target)
    if kept < layers:
        raise BadInput(
            f"prune.rate, cycles: {target:.3%} of {total} {noun} are {kept}, fewer than the {layers} layers: each "
            f"keeps at least one; use fewer cycles, a lower prune.rate or higher prune.targets"
        )
    return kept


def shrink(
    scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], target: float, scope: str, fours: bool = False
) -> Masks:
    """The next masks.

    Args:
        scores: per layer, in the shape of its elements; the highest stay.
        masks: which elements are alive.
        target: share of all elements (alive or not) to keep.
        scope: "global" or "layerwise".
        fours: of each four weights along the second dimension the best two stay; the target is half or more.

    Raises:
        BadInput: the target would force a layer below one element.
    """
    total = sum(mask.numel() for mask in masks.values())
    kept = kept_count(total, len(masks), target)
    if scope == "layerwise":
        counts = layer_counts([mask.numel() for mask in masks.values()], [int(m.sum()) for m in masks.values()], kept)
        return {
            name: _best(scores[name], masks[name], count, fours).view_as(masks[name])
            for (name, count) in zip(masks, counts, strict=True)
        }
    return _shrink_global(scores, masks, kept, fours)


def _best(scores: Tensor, mask: Tensor, count: int, fours: bool) -> Tensor:
    """Of one layer, flat."""
    if not fours:
        return top(scores.flatten(), mask.flatten(), count)
    guard = best_two(scores, mask).flatten()
    return guard | top(scores.flatten(), mask.flatten() & ~guard, count - int(guard.sum()))


def best_two(scores: Tensor, mask: Tensor) -> Tensor:
    """Mask of the best two living of each four along the second dimension; ties go to the earlier one."""
    ranked = scores.double().masked_fill(~mask, -torch.inf).movedim(1, -1)
    order = ranked.reshape(-1, 4).argsort(dim=1, descending=True, stable=True)
    chosen = torch.zeros(order.shape, dtype=torch.bool).scatter_(1, order[:, :2], True)
    return chosen.reshape(ranked.shape).movedim(-1, 1) & mask


def _shrink_global(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], kept: int, fours: bool) -> Masks:
    # Each layer's best one first, so that no layer dies, or the best two of each four; then the best of all others.
    guarded = {
        name: best_two(scores[name], mask).flatten() if fours else top(scores[name].flatten(), mask.flatten(), 1)
        for name, mask in masks.items()
    }
    flat_guard = torch.cat([guarded[name] for name in masks])
    flat_scores = torch.cat([scores[name].flatten() for name in masks])
    flat_alive = torch.cat([masks[name].flatten() for name in masks])
    rest = top(flat_scores, flat_alive & ~flat_guard, kept - int(flat_guard.sum()))
    parts = (flat_guard | rest).split([mask.numel() for mask in masks.values()])
    return {name: part.view_as(mask) for (name, mask), part in zip(masks.items(), parts, strict=True)}


def by_percentile(
    scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], share: float, scope: str, twice: Collection[str]
) -> Masks:
    """The next masks as the authors' scripts make them: a percentile of the living scores decides.

    With global scope all layers share one percentile, in which those of `twice` (layers with a bias) count twice, and
    what is not above it goes; layerwise each layer has its own, and what is below it goes. So the share that goes is
    not exactly `share`, and nothing keeps a layer from losing all.
    """

    def level(names: Iterable[str]) -> float:
        parts = [scores[name][masks[name]].double().numpy() for name in names]
        return float(np.percentile(np.concatenate(parts), 100 * share)) if any(map(len, parts)) else 0.0

    if scope == "layerwise":
        return {name: mask & (scores[name].double() >= level([name])) for name, mask in masks.items()}
    threshold = level([*masks, *(name for name in masks if name in twice)])
    return {name: mask & (scores[name].double() > threshold) for name, mask in masks.items()}


def top(scores: Tensor, alive_: Tensor, count: int) -> Tensor:
    """Mask of the `count` highest of the living scores, all finite; ties go to the earlier position."""
    chosen = torch.zeros_like(alive_)
    positions = alive_.nonzero().squeeze(1)
    if count <= 0:
        return chosen
    if count < len(positions):
        # The lowest score that stays, found without sorting: a fifth of the time on a million weights.
        living = scores[positions]
        level = living.kthvalue(len(living) - count + 1).values
        stays = living > level
        stays[(living == level).nonzero().squeeze(1)[: count - int(stays.sum())]] = True
        positions = positions[stays]
    chosen[positions] = True
    return chosen


def layer_counts(sizes: list[int], living: list[int], kept: int) -> list[int]:
    """Prunable elements that each layer keeps, in proportion to its size, by largest remainders.

    Each keeps at least one and at most what it has alive; what a bound takes is spread over the others.

    Args:
        sizes: elements per layer in the dense network.
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
    left = [(parameters[name].detach() * ~mask.to(parameters[name].device)).any() for name, mask in masks.items()]
    return not left or not bool(torch.stack(left).any())
