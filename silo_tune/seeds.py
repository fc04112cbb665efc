"""Random streams from (seed, cycle, repeat), never from a key: all candidates of a cycle see the same batches.

Each purpose and epoch has its own stream, so the random state at an epoch's start is a function of where it stands and
a resumed unit needs no saved generator.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def stream_seed(purpose: str, seed: int, cycle: int = 0, repeat: int = 0, epoch: int = 0) -> int:
    """A 63-bit seed for one purpose ("init", "order", "augment", "noise", "criterion", "split")."""
    text = f"{purpose}/{seed}/{cycle}/{repeat}/{epoch}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_globally(seed: int) -> None:
    """Seed what layers draw from, as `torch.manual_seed` does.

    Where there is no GPU that one keeps a stack for the day that there is, for up to a millisecond.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.manual_seed(seed)


@contextmanager
def streams_kept(devices: Sequence[Any] = ()) -> Iterator[None]:
    """Afterwards the global streams of torch (of these CUDA devices too), numpy and random are as before."""
    others = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            random.setstate(others[0])
            np.random.set_state(others[1])


def stream(purpose: str, seed: int, cycle: int = 0, repeat: int = 0, epoch: int = 0) -> torch.Generator:
    """A CPU generator of that stream."""
    return torch.Generator().manual_seed(stream_seed(purpose, seed, cycle, repeat, epoch))
