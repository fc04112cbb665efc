"""Batches of examples that are no images: slices of tensors in memory, or what a data set gives one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from silo_tune.data.arrays import Labels
from silo_tune.data.batches import Feed, Part, as_tensor, steps_of
from silo_tune.data.example_sets import ExampleSet
from silo_tune.data.sets import AnySet, Split
from silo_tune.errors import BadInput

# Numbers of a chunk that batches are cut from: few large operations for small examples.
CHUNK_NUMBERS = 1 << 20
# Evaluation takes so many examples at once at most, and fewer large ones.
MOST_AT_ONCE = 4096
EVALUATION_NUMBERS = 1 << 23


@dataclass
class ExampleFeed:
    """The three parts of one replicate's data, on one device.

    Attributes:
        train, val, test: tensors of the whole set, or a data set; targets; and the rows that belong to the part.
        collate: makes a batch of the items of a data set.
        device: where batches are.
        notices: what fitting to the training part showed.
    """

    train: Part
    val: Part
    test: Part
    device: torch.device
    collate: Callable[[list[Any]], Any] | None = None
    notices: tuple[str, ...] = ()

    @classmethod
    def make(
        cls, dataset: ExampleSet, split: Split, augmentation: Mapping[str, Any], device: torch.device
    ) -> ExampleFeed:
        """Raises BadInput where a study asks for what only images have."""
        if augmentation.get("augment") or "mean" in augmentation:
            raise BadInput("data: augment, mean and std are for images; leave them out")
        encoded = dataset.encoder or (lambda inputs, rows: (inputs, ()))
        train, notices = encoded(dataset.train, split.train)
        own = _placed(train, device)
        labels = as_tensor(dataset.train_labels).to(device)

        def part(inputs: Any, targets: Any, rows: Labels, in_train: bool) -> Part:
            placed = as_tensor(rows).to(device)
            if in_train:
                return Part(own, labels, placed)
            return Part(_placed(inputs, device), as_tensor(targets).to(device), placed)

        return cls(
            Part(own, labels, as_tensor(split.train).to(device)),
            part(dataset.val, dataset.val_labels, split.val, split.val_in_train),
            part(dataset.test, dataset.test_labels, split.test, split.test_in_train),
            device,
            dataset.collate,
            notices,
        )

    def steps(self, batch: int) -> int:
        """Optimizer steps of an epoch."""
        return steps_of(len(self.train), batch)

    def epoch(self, batch: int, order: torch.Generator, augment: torch.Generator) -> Iterator[Any]:
        """Training batches, every example once, in the order of a stream; what a data set draws comes from another."""
        part, count = self.train, len(self.train)
        shuffled = part.rows[torch.randperm(count, generator=order).to(part.rows.device)]
        yield from self._of(part, shuffled[: min(count, self.steps(batch) * batch)], batch, augment)

    def batches(self, part: Part, batch: int | None = None, augment: torch.Generator | None = None) -> Iterator[Any]:
        """Every example of a part once, in order; as many at a time as memory allows, unless `batch` says how many."""
        batch = batch or max(1, min(MOST_AT_ONCE, EVALUATION_NUMBERS // part.values))
        yield from self._of(part, part.rows, batch, augment)

    def _of(self, part: Part, rows: Tensor, batch: int, draws: torch.Generator | None) -> Iterator[Any]:
        if not isinstance(part.images, Tensor | Mapping):
            yield from self._loaded(part.images, rows, batch, draws)
            return
        for chosen in rows.split(batch * max(1, CHUNK_NUMBERS // (batch * part.values))):
            inputs, targets = _taken(part.images, chosen), part.labels.index_select(0, chosen)
            for first in range(0, len(chosen), batch):
                yield _slice(inputs, first, first + batch), targets[first : first + batch]

    def _loaded(self, dataset: Any, rows: Tensor, batch: int, draws: torch.Generator | None) -> Iterator[Any]:
        loader = torch.utils.data.DataLoader(
            dataset,
            batch_sampler=[chosen.tolist() for chosen in rows.cpu().split(batch)],
            collate_fn=self.collate,
            # Its own: the loader would draw a number from the global stream, from which dropout draws.
            generator=draws or torch.Generator(),
        )
        for made in loader:
            yield _placed(made, self.device)


AnyFeed = Feed | ExampleFeed


def feed_of(dataset: AnySet, split: Split, augmentation: Mapping[str, Any], device: torch.device) -> AnyFeed:
    """The feed of a replicate."""
    if isinstance(dataset, ExampleSet):
        return ExampleFeed.make(dataset, split, augmentation, device)
    return Feed.make(dataset, split, augmentation, device)


def _placed(made: Any, device: torch.device) -> Any:
    """Arrays and tensors, inside lists, tuples and mappings too, as tensors on the device; all else as it is."""
    if isinstance(made, Tensor):
        return made.to(device)
    if hasattr(made, "dtype") and hasattr(made, "ctypes"):
        found = as_tensor(made).to(device)
        return found.float() if found.dtype == torch.float64 else found
    if isinstance(made, Mapping):
        return {name: _placed(one, device) for name, one in made.items()}
    if isinstance(made, list | tuple):
        placed = [_placed(one, device) for one in made]
        return type(made)(*placed) if hasattr(made, "_fields") else tuple(placed)
    return made


def _taken(inputs: Any, rows: Tensor) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.index_select(0, rows)
    return {name: one.index_select(0, rows) for name, one in inputs.items()}


def _slice(inputs: Any, first: int, last: int) -> Any:
    if isinstance(inputs, Tensor):
        return inputs[first:last]
    return {name: one[first:last] for name, one in inputs.items()}
