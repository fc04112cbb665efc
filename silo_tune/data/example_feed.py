"""Batches of examples that are no images: slices of tensors in memory, or what a data set gives one by one.

Sequences of tokens go with others of about their length, and no further than the longest of their batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from silo_tune.data.arrays import Labels
from silo_tune.data.batches import Feed, Part, Share, as_tensor, shared, steps_of
from silo_tune.data.example_sets import ExampleSet, arrays_in
from silo_tune.data.items import Items, batches, unfinite_in
from silo_tune.data.sets import AnySet, Split
from silo_tune.errors import BadInput

# Numbers of a chunk that batches are cut from: few large operations for small examples.
CHUNK_NUMBERS = 1 << 20
# Evaluation takes so many examples at once at most, and fewer large ones.
MOST_AT_ONCE = 4096
EVALUATION_NUMBERS = 1 << 23
# Tokens that are evaluated at once: each becomes hundreds of numbers inside a network (ours).
EVALUATION_TOKENS = 1 << 15
# Batches whose sequences are sorted by length together: enough that little is padded, few enough that they stay mixed
# (ours).
BUCKET = 50


@dataclass
class ExampleFeed:
    """The three parts of one replicate's data, on one device.

    Attributes:
        train, val, test: tensors of the whole set, or a data set; targets; and the rows that belong to the part.
        collate: makes a batch of the items of a data set.
        device: where batches are.
        notices: what fitting to the training part showed.
        workers: processes that read the items of a data set.
    """

    train: Part
    val: Part
    test: Part
    device: torch.device
    collate: Callable[[list[Any]], Any] | None = None
    notices: tuple[str, ...] = ()
    workers: int = 0

    @classmethod
    def make(
        cls, dataset: ExampleSet, split: Split, augmentation: Mapping[str, Any], device: torch.device
    ) -> ExampleFeed:
        """Raises BadInput where a study asks for what only images have."""
        if augmentation.get("augment") or "mean" in augmentation:
            raise BadInput("data: augment, mean and std are for images; leave them out")
        (train, val, test), notices = _encoded(dataset, split.train)

        def whole(inputs: Any, targets: Any) -> Part:
            lengths = None if dataset.padding is None else lengths_of(as_tensor(inputs), dataset.padding)
            return Part(_placed(inputs, device), as_tensor(targets).to(device), torch.empty(0), lengths)

        own = whole(train, dataset.train_labels)

        def part(inputs: Any, targets: Any, rows: Labels, in_train: bool) -> Part:
            return replace(own if in_train else whole(inputs, targets), rows=as_tensor(rows).to(device))

        return cls(
            part(None, None, split.train, True),
            part(val, dataset.val_labels, split.val, split.val_in_train),
            part(test, dataset.test_labels, split.test, split.test_in_train),
            device,
            dataset.collate,
            notices,
            dataset.workers,
        )

    def beside(self, columns: Mapping[str, Tensor]) -> ExampleFeed:
        """The same examples with further numbers behind their own; a part then holds its own rows alone.

        Args:
            columns: (rows, numbers) of "train", "val" and "test", in the order of each part.
        """
        train, val, test = (_widened(getattr(self, name), columns[name]) for name in ("train", "val", "test"))
        return replace(self, train=train, val=val, test=test)

    def steps(self, batch: int) -> int:
        """Optimizer steps of an epoch."""
        return steps_of(len(self.train), batch)

    def epoch(
        self, batch: int, order: torch.Generator, augment: torch.Generator, share: Share | None = None
    ) -> Iterator[Any]:
        """Training batches, every example once, in the order of a stream; what a data set draws comes from another.

        With a `share` those of one rank: its part of each batch.
        """
        part, count = self.train, len(self.train)
        shuffled = part.rows[torch.randperm(count, generator=order).to(part.rows.device)]
        shuffled = shuffled[: min(count, self.steps(batch) * batch)]
        if part.lengths is not None:
            shuffled = bucketed(shuffled, part.lengths, batch, order)
        if share is not None:
            own, batch = shared(len(shuffled), batch, share)
            shuffled = shuffled[own.to(shuffled.device)]
        yield from self._of(part, shuffled, batch, augment)

    def batches(self, part: Part, batch: int | None = None, augment: torch.Generator | None = None) -> Iterator[Any]:
        """Every example of a part once, in order; as many at a time as memory allows, unless `batch` says how many."""
        most = EVALUATION_NUMBERS if part.lengths is None else EVALUATION_TOKENS
        batch = batch or max(1, min(MOST_AT_ONCE, most // part.values))
        yield from self._of(part, part.rows, batch, augment)

    def _of(self, part: Part, rows: Tensor, batch: int, draws: torch.Generator | None) -> Iterator[Any]:
        if not isinstance(part.images, Tensor | Mapping):
            yield from self._loaded(part.images, rows, batch, draws)
            return
        if part.lengths is not None:
            longest = [int(one.max()) for one in part.lengths[rows.cpu()].split(batch)]
            for chosen, end in zip(rows.split(batch), longest, strict=True):
                yield part.images[:, :end].index_select(0, chosen).long(), part.labels.index_select(0, chosen)
            return
        for chosen in rows.split(batch * max(1, CHUNK_NUMBERS // (batch * part.values))):
            inputs, targets = _taken(part.images, chosen), part.labels.index_select(0, chosen)
            for first in range(0, len(chosen), batch):
                yield _slice(inputs, first, first + batch), targets[first : first + batch]

    def _loaded(self, dataset: Any, rows: Tensor, batch: int, draws: torch.Generator | None) -> Iterator[Any]:
        seed = 0 if draws is None else int(torch.empty((), dtype=torch.int64).random_(generator=draws))
        chosen = [one.tolist() for one in rows.cpu().split(batch)]
        for made in batches(Items(dataset, self.collate, seed), chosen, self.workers):
            yield _placed(made, self.device)

    @cached_property
    def unfinite(self) -> str | None:
        """Which training item of a data set has a number that is not finite; None where none has, or all is known."""
        if isinstance(self.train.images, Tensor | Mapping):
            return None
        for row in self.train.rows.tolist():
            if unfinite_in(next(batches(Items(self.train.images, self.collate), [[row]], 0))):
                return f"item {row} of the data set has a number that is not finite"
        return None


def _encoded(dataset: ExampleSet, rows: Labels) -> tuple[list[Any], tuple[str, ...]]:
    """Inputs of the three parts as a network is given them, fitted to these training rows; and what is to be told."""
    parts = [dataset.train, dataset.val, dataset.test]
    if dataset.encoder is None:
        return parts, ()
    found = [arrays_in(part) for part in parts if part is not None]
    joined = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    encoded, told = dataset.encoder(joined[""] if list(joined) == [""] else joined, rows)
    made, start = [], 0
    for part in parts:
        count = 0 if part is None else len(next(iter(arrays_in(part).values())))
        made.append(None if part is None else _slice(encoded, start, start + count))
        start += count
    return made, told


def lengths_of(tokens: Tensor, padding: int) -> Tensor:
    """(N,) tokens of each row (N, length) up to its last one that is no padding."""
    places = torch.arange(1, tokens.shape[1] + 1, dtype=torch.int32)
    return torch.where(tokens != padding, places, 0).amax(1)


def bucketed(rows: Tensor, lengths: Tensor, batch: int, order: torch.Generator) -> Tensor:
    """Rows in batches of like lengths, which come in the order of a stream; a last batch that is not full stays last.

    Args:
        rows: (N,) shuffled; what comes near each other here stays near.
        lengths: of all rows of the set, on the CPU.
        batch: rows of a batch.
        order: where the order of the batches is drawn from.
    """
    full = len(rows) // batch
    here = lengths[rows[: full * batch].cpu()].long()
    buckets = torch.arange(full * batch) // (batch * BUCKET)
    by_length = torch.argsort(buckets * (int(lengths.max()) + 1) + here, stable=True).view(full, batch)
    drawn = by_length[torch.randperm(full, generator=order)].flatten()
    return torch.cat([rows[drawn.to(rows.device)], rows[full * batch :]])


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


def _widened(part: Part, more: Tensor) -> Part:
    own = _taken(part.images, part.rows)
    numbers = own if isinstance(own, Tensor) else own["numeric"]
    wide = torch.cat([numbers, more.to(numbers)], 1)
    inputs = wide if isinstance(own, Tensor) else {**own, "numeric": wide}
    return Part(inputs, part.labels.index_select(0, part.rows), torch.arange(len(part), device=part.rows.device))


def _slice(inputs: Any, first: int, last: int) -> Any:
    if isinstance(inputs, Mapping):
        return {name: one[first:last] for name, one in inputs.items()}
    return inputs[first:last]
