"""How widely gradients and hidden representations are spread at the end of a cycle's retraining.

Both are measured on the same few training images in every unit of a replicate, without augmentation and in evaluation
mode: batch normalisation then uses the statistics that it has and keeps them, dropout draws nothing, and an image's
gradient does not depend on which others are beside it. Nothing is changed: weights, statistics, gradients and random
streams are as they were.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from silo_tune.data.batches import Part
from silo_tune.data.example_feed import AnyFeed
from silo_tune.pruning.criteria.scoring import slopes_of_recurrent
from silo_tune.pruning.layers import CONVOLUTIONS
from silo_tune.pruning.masks import Masks
from silo_tune.seeds import stream
from silo_tune.tasks.outputs import examples_in
from silo_tune.tasks.seam import Task

# Ours: enough for stable spreads (see `docs/decisions.md`), a small part of an epoch.
IMAGES = 256
# Pixels that are small enough to go through a network at once, whatever the batch (ours: all images of 8×8).
SMALL = 1 << 16
# A channel whose spread is below this share of its mean is constant: single precision holds no more.
ROUNDING = 1e-6

_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Spreads:
    """Standard deviations at one point of training; None where there is nothing to measure. Fields are columns.

    Attributes:
        grad_spread: of the gradient of the mean loss (per unit of weight), over all surviving weights.
        activation_spread: of hidden representations before normalisation, mean over layers.
        activation_spread_norm: after normalisation, mean over the same layers; None without normalisation layers.
    """

    grad_spread: float | None = None
    activation_spread: float | None = None
    activation_spread_norm: float | None = None


@dataclass(frozen=True)
class Moments:
    """Of one layer's values so far, per channel (C,) in float64: their number, mean and sum of squared deviations."""

    count: int
    mean: Tensor
    squares: Tensor


def measure(task: Task, model: nn.Module, masks: Masks, feed: AnyFeed, seed: int, batch: int) -> Spreads:
    """The spreads of a network in evaluation mode, on the replicate's measured images.

    Args:
        task: gives the loss.
        model: on the training device; left in evaluation mode.
        masks: by parameter name; a weight that is pruned does not count.
        feed: the replicate's data.
        seed: the replicate.
        batch: images at once, as in training, so that it takes no more memory; small images go together.
    """
    at_once = max(batch, SMALL // feed.train.values)
    return spreads(task, model, masks, feed.batches(measured_images(feed, seed), at_once))


def measured_images(feed: AnyFeed, seed: int) -> Part:
    """Up to `IMAGES` training images, drawn by the seed alone: the same in all cycles and for all candidates."""
    chosen = torch.randperm(len(feed.train), generator=stream("spread", seed))[:IMAGES]
    return replace(feed.train, rows=feed.train.rows[chosen.to(feed.train.rows.device)])


def spreads(task: Task, model: nn.Module, masks: Masks, batches: Iterable[Any]) -> Spreads:
    """The spreads over batches, in one pass."""
    model.eval()
    parameters = dict(model.named_parameters())
    weights = {name: parameters[name] for name in masks if parameters[name].requires_grad}
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    count = 0
    with watched(model) as hidden, slopes_of_recurrent(model):
        for batch in batches:
            _add_gradients(task.summed(model, batch), weights, sums)
            count += examples_in(batch)
    gradients = {name: total / count for name, total in sums.items()}
    return Spreads(grad_spread(gradients, masks), mean_spread(hidden.before()), mean_spread(hidden.after))


def _add_gradients(loss: Tensor, weights: Mapping[str, Tensor], sums: Mapping[str, Tensor]) -> None:
    """Add the gradient of a loss; what `backward` would write beside the parameters stays as it is."""
    if not weights:
        return
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    for name, gradient in zip(weights, found, strict=True):
        if gradient is not None:
            sums[name].add_(gradient)


def grad_spread(gradients: Mapping[str, Tensor], masks: Masks) -> float | None:
    """Standard deviation of a gradient over all surviving weights of all layers together.

    A masked weight has a gradient too, but training does not see it; as a zero it would fake a narrowing.
    """
    alive = [gradient[masks[name].to(gradient.device)] for name, gradient in gradients.items()]
    return _known(torch.cat(alive).double().std(correction=0)) if alive else None


# --- hidden representations ---


class Hidden:
    """Moments of hidden representations, gathered by forward hooks.

    Where a network normalises, that is at its normalisation layers: what goes into them and what comes out. Elsewhere
    it is what comes out of the linear and convolution layers, but for the last to run, which classifies.
    """

    def __init__(self) -> None:
        self.inputs, self.after = dict[nn.Module, Moments](), dict[nn.Module, Moments]()
        self.outputs = dict[nn.Module, Moments]()
        self._last: nn.Module | None = None

    def at_norm(self, norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        """Hook of a normalisation layer."""
        _add(self.inputs, norm, next(iter((*args, *kwargs.values()))))
        _add(self.after, norm, output)

    def at_layer(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Hook of a linear or convolution layer."""
        _add(self.outputs, layer, output)
        self._last = layer

    def before(self) -> dict[nn.Module, Moments]:
        """Per layer, before normalisation."""
        return self.inputs or {layer: moments for layer, moments in self.outputs.items() if layer is not self._last}


@contextlib.contextmanager
def watched(model: nn.Module) -> Iterator[Hidden]:
    """Gather moments of every forward pass within; the hooks are gone afterwards."""
    hidden = Hidden()
    norms = [module for module in model.modules() if isinstance(module, NORMS)]
    layers = [] if norms else [module for module in model.modules() if isinstance(module, (nn.Linear, *CONVOLUTIONS))]
    hooks = [norm.register_forward_hook(hidden.at_norm, with_kwargs=True) for norm in norms]
    hooks += [layer.register_forward_hook(hidden.at_layer) for layer in layers]
    try:
        yield hidden
    finally:
        for hook in hooks:
            hook.remove()


def _add(into: dict[nn.Module, Moments], module: nn.Module, values: Tensor) -> None:
    found = moments(values.detach(), -1 if isinstance(module, _CHANNELS_LAST) else 1)
    into[module] = pooled(into[module], found) if module in into else found


def moments(values: Tensor, channels: int) -> Moments:
    """Moments of a batch of representations whose dimension `channels` tells its channels apart."""
    rows = values.movedim(channels, -1).reshape(-1, values.shape[channels])
    # Shifted by a value of its own, a constant channel is exactly 0 and none loses its digits to a large mean.
    shifted = rows - rows[0]
    mean, square = shifted.mean(0).double(), shifted.square().mean(0).double()
    return Moments(len(rows), rows[0].double() + mean, len(rows) * (square - mean.square()).clamp(min=0))


def pooled(one: Moments, other: Moments) -> Moments:
    """Moments of two sets of values together (Chan, Golub & LeVeque 1979)."""
    count, apart = one.count + other.count, other.mean - one.mean
    squares = one.squares + other.squares + apart.square() * (one.count * other.count / count)
    return Moments(count, one.mean + apart * (other.count / count), squares)


def layer_spread(layer: Moments) -> float | None:
    """Standard deviation of all values of a layer, None when all its channels are constant.

    A constant channel is left out: nothing that survives feeds it, and it too would fake a narrowing.
    """
    constant = layer.squares <= layer.count * (ROUNDING * layer.mean).square()
    if bool(constant.all()):
        return None
    mean, squares = layer.mean[~constant], layer.squares[~constant] / layer.count
    return float((squares.mean() + mean.var(correction=0)).sqrt())


def mean_spread(layers: Mapping[nn.Module, Moments]) -> float | None:
    """Mean over layers of their spreads."""
    found = [spread for moments in layers.values() if (spread := layer_spread(moments)) is not None]
    return _known(sum(found) / len(found)) if found else None


def _known(value: Tensor | float) -> float | None:
    return float(value) if math.isfinite(value) else None
