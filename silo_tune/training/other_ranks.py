"""A rank of a trial that is not rank 0: see `ranks`."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

from silo_tune.models.checkpoint import unpack
from silo_tune.planner.unit import Unit
from silo_tune.training.ranks import Ranks, digest, join, synchronised
from silo_tune.training.trainer import Trainer
from silo_tune.training.worker import Worker


def follow(handle: int) -> None:
    """The life of a rank that is not 0: train the epochs that come through a pipe, until its other end is gone."""
    pipe, came = Connection(handle), queue.SimpleQueue[Any]()

    def listen() -> None:
        while True:
            try:
                came.put(pipe.recv())
            except (EOFError, OSError):
                os._exit(0)  # rank 0 is gone, and nothing else may notice

    threading.Thread(target=listen, daemon=True).start()
    workspace, dataset, rank, count, store = came.get()
    worker = Worker(replace(workspace, workers=1), dataset)
    pipe.send("ready")
    join(rank, count, store, worker.device)
    while True:
        spec, max_lr, data, some_unused = came.get()
        unit = Unit.from_spec(spec)
        groups, meta = unpack(data)
        masks = {name: mask.to(worker.device) for name, mask in groups["mask"].items()}
        trainer = worker.trainer_of(unit, worker.fresh(unit, 0), masks, max_lr, frozenset())
        trainer.restore(groups, meta)
        trainer.team = _Follower(some_unused)
        trainer.run_epoch()
        pipe.send(digest(trainer.parameters))


@dataclass
class _Follower:
    """A team as a rank that is not 0 sees it."""

    some_unused: bool

    @contextlib.contextmanager
    def epoch(self, trainer: Trainer) -> Iterator[Ranks]:
        yield Ranks(trainer, synchronised(trainer.model, trainer.feed.device), self.some_unused)
