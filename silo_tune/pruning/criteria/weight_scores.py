"""Scores of single weights, in the shape of their parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from silo_tune.errors import BadInput
from silo_tune.pruning.criteria.scoring import Scoring, in_mode, slopes_of_recurrent
from silo_tune.seeds import seed_globally
from silo_tune.tasks.outputs import call, examples_in, logits_of


def magnitude(scoring: Scoring) -> dict[str, Tensor]:
    """|w|."""
    return {name: weight.detach().abs() for name, weight in scoring.weights.items()}


def random(scoring: Scoring) -> dict[str, Tensor]:
    """Uniform in [0, 1), from the replicate's stream."""
    return {name: torch.rand(weight.shape, generator=scoring.generator) for name, weight in scoring.weights.items()}


def gradient(scoring: Scoring, images: int = 512) -> dict[str, Tensor]:
    """|w·g|, g the gradient of the mean loss over so many training images, in evaluation mode.

    512 images are ours.
    """
    total = {name: torch.zeros_like(weight) for name, weight in scoring.weights.items()}
    count = 0
    with in_mode(scoring.model, training=False), _movable(scoring.weights), slopes_of_recurrent(scoring.model):
        for batch in scoring.batches(images):
            loss = scoring.training.task.summed(scoring.model, batch)
            for name, grad in gradients(loss, scoring.weights).items():
                total[name] += grad
            count += examples_in(batch)
    return {name: (weight.detach() * total[name] / count).abs() for name, weight in scoring.weights.items()}


def last_change(scoring: Scoring) -> dict[str, Tensor]:
    """|Δw| over the last epoch of the parent (the authors' script, ResNet)."""
    return {name: change.abs() for name, change in _changes(scoring).items()}


def last_change_magnitude(scoring: Scoring) -> dict[str, Tensor]:
    """|Δw|·|w|, Δw over the last epoch of the parent (the authors' script, VGG)."""
    return {name: (change * scoring.weights[name].detach()).abs() for name, change in _changes(scoring).items()}


def _changes(scoring: Scoring) -> dict[str, Tensor]:
    if scoring.previous is None:
        raise BadInput("prune.criterion: the parent was not trained, so its weights have no last epoch's change")
    previous = scoring.previous
    return {name: weight.detach() - previous[name].to(weight.device) for name, weight in scoring.weights.items()}


def snip(scoring: Scoring, per_class: int = 10) -> dict[str, Tensor]:
    """|∂L/∂c| over its sum, c the mask at 1: so |w·∂L/∂w| (Lee et al. 2019).

    One mini-batch with the same number of images of each class (10 is ours), in training mode. BatchNorm's running
    statistics are put back; dropout draws from this prune's stream.
    """
    batch = scoring.balanced(per_class)
    with (
        in_mode(scoring.model, training=True),
        _movable(scoring.weights),
        _buffers_kept(scoring.model),
        torch.random.fork_rng(devices=[]),
    ):
        seed_globally(int(torch.randint(2**62, (), generator=scoring.generator)))
        grads = gradients(scoring.training.task.losses(scoring.model, batch).told, scoring.weights)
    sensitivity = {name: (weight.detach() * grads[name]).abs() for name, weight in scoring.weights.items()}
    total = sum(float(values.double().sum()) for values in sensitivity.values())
    # A network whose loss has no slope at all has no sensitivity either.
    return {name: values.double() / (total or 1.0) for name, values in sensitivity.items()}


def synflow(scoring: Scoring) -> dict[str, Tensor]:
    """|w|·∂R/∂|w|, R the sum of the outputs for an input of ones, with |θ| for every parameter θ (Tanaka et al. 2020).

    In evaluation mode and in float64, for R is a product over layers. One score per cycle, where the paper prunes an
    untrained network in 100 rounds. A trained BatchNorm's mean counts as 0 (ours): it is 0 where the paper scores, and
    a shift downwards would cut the flow.
    """
    linear = copy.deepcopy(scoring.model).double().eval()
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.abs_()
        for name, buffer in linear.named_buffers():
            if name.endswith("running_mean"):
                buffer.zero_()
    ones = _ones(next(scoring.training.batches(torch.zeros(1, dtype=torch.long), 1))[0])
    parameters = dict(linear.named_parameters())
    weights = {name: parameters[name] for name in scoring.weights}
    with _movable(weights), slopes_of_recurrent(linear):
        grads = gradients(logits_of(call(linear, ones)).sum(), weights)
    return {name: (weight.detach() * grads[name]).abs() for name, weight in weights.items()}


def _ones(inputs: Any) -> Any:
    """Ones in the shape of an input; its codes of categories as they are, which look up what they look up."""
    if isinstance(inputs, Tensor):
        return torch.ones_like(inputs, dtype=torch.float64) if inputs.is_floating_point() else inputs
    if isinstance(inputs, Mapping):
        return {name: _ones(part) for name, part in inputs.items()}
    return tuple(map(_ones, inputs))


def lamp(scoring: Scoring) -> dict[str, Tensor]:
    """w² over the sum of the squares of the layer's alive weights that are at least as large (Lee et al. 2021)."""
    return {
        name: _lamp(weight.detach().double().square(), scoring.masks[name].to(weight.device))
        for name, weight in scoring.weights.items()
    }


def _lamp(squares: Tensor, alive: Tensor) -> Tensor:
    ascending = squares[alive].sort().values
    # Element i: the sum of the squares from rank i upwards.
    sums = ascending.flip(0).cumsum(0).flip(0)
    # Equal squares share the rank of the first of them.
    ranks = torch.searchsorted(ascending, squares[alive])
    scores = torch.zeros_like(squares)
    # A layer of zeros has no largest weight: all score 0.
    scores[alive] = squares[alive] / sums[ranks].clamp_min(torch.finfo(torch.float64).tiny)
    return scores


def gradients(value: Tensor, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradient of a number by each weight; zero for one that it does not depend on."""
    found = torch.autograd.grad(value, list(weights.values()), materialize_grads=True)
    return {name: grad.detach() for name, grad in zip(weights, found, strict=True)}


@contextmanager
def _movable(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """A frozen weight has a score as any other: it too is pruned."""
    frozen = [weight for weight in weights.values() if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Put every buffer (BatchNorm's running statistics) back afterwards."""
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(kept[name])
