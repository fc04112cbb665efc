"""Batches from one decoded copy in memory, or from a stream: augmented and normalised on the training device."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from silo_tune.data.arrays import Labels, Pixels
from silo_tune.data.sets import DataSet, Split, StreamedSet
from silo_tune.data.stream import Stream
from silo_tune.errors import BadInput

# Batches are made in chunks of about this many pixels: few large operations for small images, little memory for large.
CHUNK_PIXELS = 1 << 20
# Evaluation takes 512 images up to 64×64 at a time (ours), and fewer larger ones: 512 of 224×224 are 300 MB as floats,
# and a network's first layers hold several times that.
EVALUATION_PIXELS = 512 * 64 * 64 * 3


@dataclass
class Part:
    """Images and labels of one part, as rows of a shared set.

    Attributes:
        images: uint8 (N, H, W, C) of the whole set, or a stream of them; inputs of another kind where they are none.
        labels: (N,) int64 of the whole set; other targets likewise.
        rows: those that belong to the part.
        lengths: (N,) tokens of each example of the whole set, on the CPU, where they are of different lengths.
    """

    images: Any
    labels: Tensor
    rows: Tensor
    lengths: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def values(self) -> int:
        """Numbers of one example."""
        parts = self.images.values() if isinstance(self.images, Mapping) else (self.images,)
        return sum(math.prod(getattr(part, "shape", (1,))[1:]) for part in parts) or 1

    def pixels(self, rows: Tensor, chunk: int, seeds: Tensor | None = None) -> Iterator[Tensor]:
        """Images (B, H, W, C) of rows in their order, `chunk` at a time; of a stream, cropped at random by seeds."""
        if isinstance(self.images, Tensor):
            for chosen in rows.split(chunk):
                yield self.images.index_select(0, chosen)
            return
        from silo_tune.data.loader import read

        for pixels in read(self.images, rows, chunk, seeds):
            yield pixels.to(self.labels.device)


@dataclass
class Feed:
    """The three parts of one replicate's data, on one device.

    Attributes:
        train, val, test: images, labels and the rows that belong to the part.
        mean, scale: per channel (C,), of the training rows only: normalised = (pixel − mean) · scale.
        augmentation: the resolved augmentation table.
    """

    train: Part
    val: Part
    test: Part
    mean: Tensor
    scale: Tensor
    augmentation: Mapping[str, Any]

    @classmethod
    def make(
        cls, dataset: DataSet | StreamedSet, split: Split, augmentation: Mapping[str, Any], device: torch.device
    ) -> Feed:
        """Tensors over the arrays of a data set, without copying them on the CPU; streams as they are."""
        images, labels = _images(dataset.train, device), as_tensor(dataset.train_labels).to(device)

        def part(images_: Pixels | Stream | None, labels_: Labels | None, rows: Labels, in_train: bool) -> Part:
            placed = as_tensor(rows).to(device)
            if in_train:
                return Part(images, labels, placed)
            assert images_ is not None
            assert labels_ is not None
            return Part(_images(images_, device), as_tensor(labels_).to(device), placed)

        mean, std = _fixed(augmentation, dataset) or channel_statistics(dataset.train, split.train)
        return cls(
            train=part(None, None, split.train, True),
            val=part(dataset.val, dataset.val_labels, split.val, split.val_in_train),
            test=part(dataset.test, dataset.test_labels, split.test, split.test_in_train),
            mean=torch.tensor(mean, dtype=torch.float32, device=device),
            scale=torch.tensor(1.0 / std, dtype=torch.float32, device=device),
            augmentation=augmentation,
        )

    def steps(self, batch: int) -> int:
        """Optimizer steps of an epoch."""
        return steps_of(len(self.train), batch)

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return self.mean.device

    def epoch(
        self, batch: int, order: torch.Generator, augment: torch.Generator, share: Share | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches (B, C, H, W) and labels (B,), every training image once, in the order of a stream.

        With a `share` those of one rank: its part of each batch.
        """
        part, count = self.train, len(self.train)
        shuffled = part.rows[torch.randperm(count, generator=order).to(part.rows.device)]
        draws = self._draws(count, augment)
        used = min(count, self.steps(batch) * batch)
        shuffled = shuffled[:used]
        if share is not None:
            own, batch = shared(used, batch, share)
            shuffled, draws = shuffled[own], {name: draw[own] for name, draw in draws.items()}
        seeds, start = draws.pop("rrc", None), 0
        chunk = batch * max(1, CHUNK_PIXELS // (batch * part.values))
        for pixels in part.pixels(shuffled, chunk, seeds):
            stop = start + len(pixels)
            pixels = self._augmented(pixels, {name: draw[start:stop] for name, draw in draws.items()})
            images = self.normalised(pixels)
            labels = part.labels.index_select(0, shuffled[start:stop])
            for first in range(0, stop - start, batch):
                yield images[first : first + batch], labels[first : first + batch]
            start = stop

    def batches(
        self, part: Part, batch: int | None = None, augment: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image of a part once, in order; as many at a time as memory allows, unless `batch` says how many.

        With a stream `augment` they are augmented as training images are.
        """
        batch = batch or max(1, min(512, EVALUATION_PIXELS // part.values))
        draws = {} if augment is None else self._draws(len(part), augment)
        seeds, start = draws.pop("rrc", None), 0
        for rows, pixels in zip(part.rows.split(batch), part.pixels(part.rows, batch, seeds), strict=True):
            stop = start + len(rows)
            pixels = self._augmented(pixels, {name: draw[start:stop] for name, draw in draws.items()})
            yield self.normalised(pixels), part.labels.index_select(0, rows)
            start = stop

    def normalised(self, pixels: Tensor) -> Tensor:
        """Float images (B, C, H, W) of uint8 pixels (B, H, W, C); the memory is channels_last, as it was stored."""
        return pixels.to(torch.float32).sub_(self.mean).mul_(self.scale).permute(0, 3, 1, 2)

    def _draws(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        device, names, draws = self.train.rows.device, self.augmentation["augment"], {}
        if "crop" in names:
            side = 2 * self.augmentation["crop_padding"] + 1
            draws["crop"] = torch.randint(0, side, (count, 2), generator=generator).to(device)
        if "flip" in names:
            draws["flip"] = (torch.rand(count, generator=generator) < 0.5).to(device)
        if "rrc" in names:
            draws["rrc"] = torch.randint(2**62, (count,), generator=generator)
        return draws

    def _augmented(self, pixels: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        if "crop" in draws:
            pixels = random_crop(pixels, draws["crop"], self.augmentation["crop_padding"])
        if "flip" in draws:
            pixels = torch.where(draws["flip"][:, None, None, None], pixels.flip(2), pixels)
        return pixels


Share = tuple[int, int]  # a rank's number, and how many there are


def shared(examples: int, batch: int, share: Share) -> tuple[Tensor, int]:
    """The places of one rank's examples among all of an epoch, and how many of a whole batch are its own.

    Raises:
        BadInput: a batch has fewer examples than there are ranks.
    """
    rank, ranks = share
    if min(batch, examples % batch or batch) < ranks:
        raise BadInput(
            f"cluster.workers_per_unit: a batch of {examples % batch or batch} examples cannot be shared by {ranks}; "
            f"take fewer workers, or another retrain.batch"
        )

    def own(size: int) -> tuple[int, int]:
        each, more = divmod(
            size, ranks
        )  # the first ranks take what is over, so no last batch gives one more than a whole
        first = rank * each + min(rank, more)
        return first, first + each + (rank < more)

    places = torch.arange(examples)
    taken = [part[slice(*own(len(part)))] for part in places.split(batch)]
    first, last = own(batch)
    return torch.cat(taken), last - first


def steps_of(examples: int, batch: int) -> int:
    """Optimizer steps of an epoch. A last batch of a single example is left out: batch norm cannot train on it."""
    full, rest = divmod(examples, batch)
    return max(1, full + (rest > 1))


def _fixed(augmentation: Mapping[str, Any], dataset: DataSet | StreamedSet) -> tuple[Any, Any] | None:
    """Mean and standard deviation that the study gives, in grey levels. Raises BadInput for another channel count."""
    if "mean" not in augmentation:
        return None
    mean, std = (255 * np.asarray(augmentation[key], dtype=np.float64) for key in ("mean", "std"))
    channels = dataset.shape[2]
    if len(mean) != channels or len(std) != channels:
        raise BadInput(f"data.mean, data.std: give {channels} numbers each, one for each channel of the images")
    return mean, std


def random_crop(pixels: Tensor, offsets: Tensor, padding: int) -> Tensor:
    """Crops of the original size from images padded with black.

    Args:
        pixels: (B, H, W, C) uint8.
        offsets: (B, 2) top and left, each in 0 … 2·padding.
        padding: pixels added on every side.
    """
    count, height, width, _ = pixels.shape
    padded = torch.nn.functional.pad(pixels, (0, 0, padding, padding, padding, padding))
    windows = padded.unfold(1, height, 1).unfold(2, width, 1)  # (B, rows, columns, C, H, W), a view
    crops = windows[torch.arange(count, device=pixels.device), offsets[:, 0], offsets[:, 1]]
    return crops.permute(0, 2, 3, 1).contiguous()


def channel_statistics(images: Pixels | Stream, rows: Labels) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Mean and standard deviation per channel, in grey levels, from exact integer sums; a flat channel has std 1."""
    if isinstance(images, Stream):
        from silo_tune.data.loader import moments_of

        sums = moments_of(images, rows).sum(0)
        first, second, total = sums[:, 0], sums[:, 1], np.int64(len(rows) * math.prod(images.image[:2]))
    else:
        first, second, total = _sums(images, rows)
    mean = first / total
    std = np.sqrt(np.maximum(second / total - mean**2, 0.0))
    return mean, np.where(std > 0, std, 1.0)


def _sums(images: Pixels, rows: Labels) -> tuple[Labels, Labels, np.int64]:
    """Per channel the sums of grey levels and of their squares, and how many there are."""
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for chunk in np.array_split(rows, max(1, len(rows) // 4096)):
        pixels = images[chunk].reshape(-1, channels)
        for channel in range(channels):
            counts[channel] += np.bincount(pixels[:, channel], minlength=256)
    levels = np.arange(256)
    return counts @ levels, counts @ levels**2, counts.sum(1)[0]


def _images(images: Pixels | Stream, device: torch.device) -> Tensor | Stream:
    return images if isinstance(images, Stream) else as_tensor(images).to(device)


def as_tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """The tensor over an array, without a copy; one that is read backwards (`x[::-1]`) is copied."""
    with warnings.catch_warnings():
        # Shared arrays are read-only, and nothing here writes to them.
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(array if all(step >= 0 for step in array.strides) else array.copy())
