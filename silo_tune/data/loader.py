"""Streams read with timm's loader: uint8 batches in a given order, whatever the number of its processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data.loader import create_loader, fast_collate
from torch import Tensor

from silo_tune.data.arrays import Labels, Pixels
from silo_tune.data.cache import cached
from silo_tune.data.images import Broken, random_resized_crop
from silo_tune.data.stream import Stream, check_shape
from silo_tune.errors import BadInput

# Images of one reading step when only sums are wanted: small enough to hold, large enough to pay for the step.
SUM_PIXELS = 1 << 20


def read(
    stream: Stream, rows: Tensor, chunk: int, seeds: Tensor | None = None, broken: Broken | None = None
) -> Iterator[Tensor]:
    """Pixels (B, H, W, C) uint8 of `rows`, `chunk` at a time, in their order.

    Args:
        stream: the images.
        rows: (N,) int64.
        chunk: images of one step.
        seeds: (N,) int64; each image is then a random resized crop, drawn from its own seed.
        broken: takes images that cannot be used, whose steps are then left out; without it the first one raises.

    Raises:
        BadInput: an image cannot be decoded, or has another shape; it is named.
        OSError: a file cannot be read; it is named.
    """
    if not len(rows):
        return
    height, width, channels = stream.image
    ordered: Any = _Ordered(stream, rows.cpu().numpy(), None if seeds is None else seeds.cpu().numpy())
    loader = create_loader(
        ordered,
        (channels, height, width),
        chunk,
        num_workers=stream.workers,
        collate_fn=_collated,
        use_prefetcher=False,
        persistent_workers=False,
    )
    # Its own: the loader would draw a number from the global stream, from which dropout draws.
    loader.generator = torch.Generator()
    for pixels in loader:
        if isinstance(pixels, Tensor):
            yield pixels
            continue
        for error in pixels:
            if broken is None or not isinstance(error, BadInput):
                raise error
            broken.add(error)


class _Ordered(torch.utils.data.Dataset[Any]):
    """Images in a given order. timm's factory sets a transform of its own, which is not used: pixels are made by the
    form, and so equal those of a set in memory."""

    transform: Any = None

    def __init__(self, stream: Stream, rows: Labels, seeds: Labels | None) -> None:
        self._stream, self._rows, self._seeds = stream, rows, seeds
        self._readers: list[Callable[[int], bytes]] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> tuple[Pixels, int] | Exception:
        """An error is a value here: raised in another process it would lose its text in a traceback."""
        try:
            return self._image(position), 0
        except (BadInput, OSError) as error:
            return error

    def _image(self, position: int) -> Pixels:
        if self._readers is None:
            self._readers = [source.opened() for source in self._stream.sources]
        number, row = self._stream.locate(int(self._rows[position]))
        name, data = self._stream.sources[number].name(row), self._readers[number](row)
        if self._seeds is not None:
            return random_resized_crop(name, data, self._stream.image, int(self._seeds[position]))
        image = self._stream.form.decode(name, data)
        check_shape(name, image, self._stream.image)
        return image


def _collated(batch: Sequence[tuple[Pixels, int] | Exception]) -> Tensor | list[Exception]:
    """Pixels of a batch by timm's own collation, or the errors in it."""
    failed = [item for item in batch if isinstance(item, Exception)]
    return failed or fast_collate(batch)[0]


# --- exact sums ---


def moments_of(stream: Stream, rows: Labels) -> NDArray[np.int64]:
    """(N, C, 2) sums over each image of its grey levels and their squares: known, kept from before, or read once."""
    if stream.moments is not None:
        return stream.moments[rows]
    named = hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()
    options = {"kind": "moments", "form": vars(stream.form), "rows": named}
    return cached(stream.files(rows), options, lambda: {"moments": _summed(stream, rows)})["moments"]


def _summed(stream: Stream, rows: Labels) -> NDArray[np.int64]:
    chunk = max(1, SUM_PIXELS // int(np.prod(stream.image)))
    for source in stream.sources:
        source.opened()  # what is wrong with all of it is told once
    sums, broken = [], Broken()
    for pixels in read(stream, torch.from_numpy(np.ascontiguousarray(rows)), chunk, broken=broken):
        values = pixels.to(torch.int64)
        sums.append(torch.stack([values.sum((1, 2)), values.square().sum((1, 2))], 2).numpy())
    broken.require_none()
    return np.concatenate(sums)
