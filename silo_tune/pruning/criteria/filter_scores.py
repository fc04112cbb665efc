"""Scores of whole filters: one number for each filter of a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from silo_tune.pruning.criteria.scoring import Scoring, in_mode


def l1_filter(scoring: Scoring) -> dict[str, Tensor]:
    """Σ|w| over the filter's weights; its bias does not count."""
    return {name: weight.detach().flatten(1).abs().sum(1) for name, weight in scoring.weights.items()}


def random_filter(scoring: Scoring) -> dict[str, Tensor]:
    """Uniform in [0, 1), from the replicate's stream."""
    return {name: torch.rand(len(weight), generator=scoring.generator) for name, weight in scoring.weights.items()}


def mean_activation(scoring: Scoring, images: int = 512) -> dict[str, Tensor]:
    """Mean |activation| over so many training images (512 is ours) and all positions, in evaluation mode.

    The activation is what the next layer is given: after normalisation, non-linearity and pooling (ours).
    """
    return {name: values.mean(0) for name, values in activations(scoring, images).items()}


def entropy(scoring: Scoring, images: int = 512, bins: int = 32) -> dict[str, Tensor]:
    """Entropy in nats of a filter's activation, one mean |activation| per image, in a histogram over its own range.

    After Luo & Wu (2017), who pool each channel of each image to one number too; 512 images and 32 bins are ours.
    """
    return {name: _entropy(values, bins) for name, values in activations(scoring, images).items()}


def _entropy(values: Tensor, bins: int) -> Tensor:
    """Entropy (F,) of the columns of (N, F); a constant column has 0."""
    low, high = values.aminmax(dim=0)
    width = (high - low).clamp_min(torch.finfo(values.dtype).tiny)
    place = ((values - low) / width * bins).long().clamp(0, bins - 1)
    shares = torch.nn.functional.one_hot(place, bins).double().mean(0)
    entropies: Tensor = -torch.special.xlogy(shares, shares).sum(1)
    return entropies


def activations(scoring: Scoring, images: int) -> dict[str, Tensor]:
    """For each layer (N, filters): the mean |activation| of each image, as the first layer that reads it sees it."""
    seen: dict[str, list[Tensor]] = {name: [] for name in scoring.weights}
    modules = dict(scoring.model.named_modules())
    handles = []
    for name in scoring.weights:
        reader, channels = next(iter(scoring.filters[name].readers.items()))
        handles.append(modules[reader].register_forward_pre_hook(_watch(seen[name], channels)))
    try:
        with in_mode(scoring.model, training=False), torch.no_grad():
            for batch in scoring.batches(images):
                scoring.training.task.forward(scoring.model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


def _watch(seen: list[Tensor], channels: Tensor) -> Callable[[nn.Module, Any], None]:
    def hook(module: nn.Module, inputs: Any) -> None:
        seen.append(_pooled(inputs[0], channels, dim=-1 if isinstance(module, nn.Linear) else 1))

    return hook


def _pooled(inputs: Tensor, channels: Tensor, dim: int) -> Tensor:
    """Mean |input| of each image (B, filters), over positions and over the channels (filters, k) of each filter."""
    values = inputs.abs().movedim(dim, 1).reshape(len(inputs), inputs.shape[dim], -1).double().mean(2)
    return values[:, channels.to(inputs.device)].mean(2)
