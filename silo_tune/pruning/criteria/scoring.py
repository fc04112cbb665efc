"""What a criterion may look at."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from silo_tune.errors import BadInput
from silo_tune.pruning.filters import Filters
from silo_tune.tasks.seam import Task

# Images per forward pass of a score; ours. It bounds the memory, and changes a mean by rounding only.
SCORE_BATCH = 128


class TrainingImages(Protocol):
    """The training part of one replicate, un-augmented and normalised.

    Attributes:
        shape: of an example: (H, W, C) of an image.
        labels: (N, …) targets; an example's position in them is its position in the part.
        task: gives the loss of a batch.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def labels(self) -> Tensor: ...

    @property
    def task(self) -> Task: ...

    def batches(self, positions: Tensor, batch: int) -> Iterator[Any]:
        """Batches of the examples at these positions, in their order: images (B, C, H, W) and labels (B,), say."""
        ...


@dataclass(frozen=True)
class Scoring:
    """What a criterion may look at.

    Attributes:
        weights: prunable parameters by name, as they are before the prune.
        masks: the masks in force (True = alive), same names and shapes.
        model: the network that the weights belong to; a criterion leaves it as it found it.
        generator: the random stream of this prune.
        images: the replicate's training images.
        previous: all parameters as they were before the parent's last epoch, when the criterion needs them, else None.
        filters: by the names of `weights`, the filters of each layer; empty at weight granularity.
    """

    weights: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    model: nn.Module
    generator: torch.Generator
    images: TrainingImages | None = None
    previous: Mapping[str, Tensor] | None = None
    filters: Mapping[str, Filters] = field(default_factory=dict)

    def copied(self) -> Scoring:
        """The same on a copy of the network: whatever a user's function does to it, the network stays as it is."""
        model = copy.deepcopy(self.model)
        parameters = dict(model.named_parameters())
        return replace(
            self,
            weights={name: parameters[name] for name in self.weights},
            masks={name: mask.clone() for name, mask in self.masks.items()},
            model=model,
            previous=None if self.previous is None else {n: tensor.clone() for n, tensor in self.previous.items()},
        )

    @property
    def training(self) -> TrainingImages:
        """The training images. Raises BadInput when there are none."""
        if self.images is None:
            raise BadInput("prune.criterion: it needs training images, and was given none")
        return self.images

    def batches(self, count: int) -> Iterator[Any]:
        """Batches of so many training examples, or all there are: drawn without replacement by the stream, in order."""
        order = torch.randperm(len(self.training.labels), generator=self.generator)
        return self.training.batches(order[:count].sort().values, SCORE_BATCH)

    def balanced(self, per_class: int) -> Any:
        """One batch with so many training examples of each class, or all that a class has, drawn by the stream; ten
        times as many of all where there are no classes."""
        labels = self.training.labels.cpu()
        order = torch.randperm(len(labels), generator=self.generator)
        if labels.ndim > 1 or labels.is_floating_point():
            return next(self.training.batches(order[: 10 * per_class], 10 * per_class))
        classes = labels.unique().tolist()
        chosen = torch.cat([order[labels[order] == label][:per_class] for label in classes])
        return next(self.training.batches(chosen, len(chosen)))


# Scores by name: in the shape of the weights, or one for each filter.
Criterion = Callable[[Scoring], dict[str, Tensor]]


@contextmanager
def slopes_of_recurrent(model: nn.Module) -> Iterator[None]:
    """Inside, recurrent layers have gradients in evaluation mode too: cuDNN's have none there, torch's own do."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    with torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext():
        yield


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Training or evaluation mode inside; afterwards each module has its own mode again."""
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
