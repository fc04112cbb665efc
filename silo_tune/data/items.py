"""Batches of a map-style data set's items: the same batches, whatever the number of processes that read them."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data.dataloader import default_collate

from silo_tune.errors import raised, words
from silo_tune.seeds import streams_kept

Collate = Callable[[list[Any]], Any]

# Items of a part that stand for it (ours): few, for reading one may take long.
SAMPLE = 16


class BadItem(Exception):
    """An item cannot be read, or its batch not be made: perhaps for a while only, so that a trial is tried again."""


@dataclass(frozen=True)
class Items(torch.utils.data.Dataset[Any]):
    """A data set whose items come as batches.

    What an item draws from the global streams of torch, numpy and random (augmentation) follows from the seed and the
    rows of its batch, and leaves those streams as they were.

    Attributes:
        dataset: map-style.
        collate: makes a batch of a list of items; torch's own when None.
        seed: of the epoch.
    """

    dataset: Any
    collate: Collate | None = None
    seed: int = 0

    def __getitems__(self, rows: list[int]) -> Any:
        """The batch of these rows, or the error: raised in another process it would lose its text in a traceback."""
        with _seeded(f"{self.seed}/{rows[0]}"):
            try:
                return self._batch(rows)
            except BadItem as error:
                return error

    def _batch(self, rows: Sequence[int]) -> Any:
        items = []
        for row in rows:
            try:
                items.append(self.dataset[row])
            except Exception as error:  # a user's data set may raise anything
                raise BadItem(f"item {row} of the data set raised {raised(error)}") from error
        try:
            return (self.collate or default_collate)(items)
        except Exception as error:  # and so may their collate
            told = (
                f"items {', '.join(map(str, rows[:3]))}{', …' if len(rows) > 3 else ''} make no batch: {raised(error)}"
            )
            raise BadItem(told) from error


def batches(items: Items, rows: Sequence[list[int]], workers: int) -> Iterator[Any]:
    """The batches of these rows, in order.

    Args:
        items: where they are from.
        rows: of each batch.
        workers: processes that read ahead; 0 reads here.

    Raises:
        BadItem: an item or a batch cannot be made, or a process died.
    """
    for made in _read(items, rows, workers) if workers else map(items.__getitems__, rows):
        if isinstance(made, BadItem):
            raise made
        yield made


def _read(items: Items, rows: Sequence[list[int]], workers: int) -> Iterator[Any]:
    loader = torch.utils.data.DataLoader(
        items,
        batch_sampler=rows,
        num_workers=workers,
        collate_fn=_as_it_is,
        # Its own: the loader would draw a number from the global stream, from which dropout draws.
        generator=torch.Generator(),
    )
    try:
        yield from loader
    except (RuntimeError, OSError, EOFError) as error:
        if isinstance(error, RuntimeError) and "worker" not in str(error):
            raise
        if not isinstance(error, RuntimeError):
            # A connection closed before torch's handler of SIGCHLD raised, which it does wherever this process is:
            # better here.
            with suppress(RuntimeError):
                time.sleep(1)
        raise BadItem(
            f"a process that reads the data died ({words(error)}): memory may have run out; set data.workers lower"
        ) from error


def _as_it_is(made: Any) -> Any:
    return made


@contextmanager
def _seeded(text: str) -> Iterator[None]:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    with streams_kept():
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        yield


def sample_of(dataset: Any, collate: Collate | None) -> str | None:
    """sha256 of a batch of a few items from all of a data set: it changes with the items, and with what makes batches.

    None where the same items are not the same twice, as of a data set that draws from a stream of its own.

    Raises:
        BadItem: one of them cannot be read.
    """
    rows = sorted(set(np.linspace(0, len(dataset) - 1, SAMPLE).astype(int).tolist()))
    found = [digest_of_batch(next(batches(Items(dataset, collate), [rows], 0))) for _ in range(2)]
    return found[0] if found[0] == found[1] else None


def digest_of_batch(made: Any) -> str:
    """sha256 over the numbers and texts of a batch, whatever it is made of."""
    digest = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, Tensor):
            part = part.detach().cpu().numpy()
        if isinstance(part, np.ndarray) and part.dtype != object:
            digest.update(str((part.shape, part.dtype.str)).encode() + np.ascontiguousarray(part).tobytes())
        elif isinstance(part, Mapping):
            for name, one in part.items():
                digest.update(repr(name).encode())
                add(one)
        elif isinstance(part, list | tuple):
            digest.update(f"[{len(part)}]".encode())
            for one in part:
                add(one)
        elif isinstance(part, str | bytes | int | float | bool | None):
            digest.update(repr(part).encode())
        else:
            digest.update(type(part).__name__.encode())

    add(made)
    return digest.hexdigest()


def unfinite_in(made: Any) -> bool:
    """Is a number of a batch not finite?"""
    if isinstance(made, Tensor):
        return made.is_floating_point() and not bool(made.isfinite().all())
    inside = made.values() if isinstance(made, Mapping) else made if isinstance(made, list | tuple) else ()
    return any(map(unfinite_in, inside))
