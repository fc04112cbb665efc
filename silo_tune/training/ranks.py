"""A unit trained by several processes of one machine, by torch's DistributedDataParallel.

The process that has the unit, rank 0, does all but the training of an epoch alone: it prunes, measures, keeps states
and commits. At each epoch it hands the other ranks a state as it would stand on disk, so whatever changed meanwhile,
masks too, is the same everywhere. Each rank then takes its share of every batch, and gradients are averaged.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import subprocess
import sys
import tempfile
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from silo_tune.errors import BadInput, Violation, one_line
from silo_tune.models.checkpoint import pack
from silo_tune.pruning.prune_step import few
from silo_tune.study.workspace import Workspace
from silo_tune.tasks.seam import Losses, Task
from silo_tune.training.trainer import Trainer

# A rank that neither answers nor dies has failed after so long.
SILENT = timedelta(minutes=10)


class RankLost(RuntimeError):
    """A rank died: the attempt has failed, on all of them."""


class Ranks:
    """All processes of a unit during one epoch, as each of them sees it; made by all at once.

    Attributes:
        share: which share of every batch is this one's: its rank, of how many.
    """

    def __init__(self, trainer: Trainer, model: nn.Module, some_unused: bool) -> None:
        self.share, self._device = (dist.get_rank(), dist.get_world_size()), trainer.feed.device
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*broadcast_buffers")  # its name changes between versions
            self._step = DistributedDataParallel(
                _Step(trainer.task, model), find_unused_parameters=some_unused, broadcast_buffers=False
            )

    def losses(self, batch: Any, last: bool) -> Losses:
        """As the task's; gradients are averaged over the ranks once the `last` batch of a step goes backward."""
        with contextlib.nullcontext() if last else self._step.no_sync():
            return Losses(*self._step(batch))

    def total(self, value: float | Tensor) -> Tensor:
        """The sum over the ranks."""
        summed = torch.as_tensor(value, dtype=torch.float32, device=self._device).clone()
        dist.all_reduce(summed)
        return summed


class _Step(nn.Module):
    """What a task does with a network, as one module: so a task may call the network, or parts of it, as it likes."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.model, self._losses = model, task.losses

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        losses = self._losses(self.model, batch)
        return losses.objective, losses.told.detach()


class Team:
    """Rank 0's hold on the other ranks. They start at the first epoch, and end with this process or `close`.

    Args:
        workspace: of the run.
        dataset: as the worker has it; each rank takes a copy.
        device: that rank 0 trains on; rank r takes the r-th GPU.
    """

    def __init__(self, workspace: Workspace, dataset: Any, device: torch.device) -> None:
        self._workspace, self._dataset, self._device = workspace, dataset, device
        self._others: list[_Other] = []
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    @contextlib.contextmanager
    def epoch(self, trainer: Trainer) -> Iterator[Ranks]:
        """One epoch of all ranks; they stand where this trainer stands.

        Raises:
            BadInput: the network cannot be trained so.
            RankLost: one of them died.
            Violation: their weights differ at the end.
        """
        try:
            model = synchronised(trainer.model, self._device)
            if not self._others:
                self._start()
            some_unused = leaves_some_out(trainer)
            told = (trainer.unit.spec, trainer.max_lr, pack(*trainer.state()), some_unused)
            for other in self._others:
                other.pipe.send(told)
            yield Ranks(trainer, model, some_unused)
            own = digest(trainer.parameters)
            for other in self._others:
                if other.pipe.recv() != own:
                    raise Violation(f"weights of rank {other.rank} differ from those of rank 0")
        except BaseException as error:
            lost = self._reason(error)
            self.close()
            if lost is not None:
                raise RankLost(lost) from error
            raise

    def _start(self) -> None:
        if dist.is_initialized():
            raise BadInput("cluster.workers_per_unit: this process is already one of several (torch.distributed)")
        count = self._workspace.workers
        self._scratch = tempfile.TemporaryDirectory(prefix="silo-ranks-", ignore_cleanup_errors=True)
        store = os.path.join(self._scratch.name, "store")
        self._others = [_Other(rank, Path(self._scratch.name)) for rank in range(1, count)]
        self._end = weakref.finalize(self, _end_all, self._others)
        for other in self._others:
            place = self._workspace
            if self._device.type == "cuda":
                place = replace(place, device=f"cuda:{other.rank}")
            try:
                other.pipe.send((place, self._dataset, other.rank, count, store))
            except (OSError, EOFError):
                raise
            except Exception as error:  # whatever could not be taken apart
                raise BadInput(
                    f"cluster.workers_per_unit: what was handed over cannot be sent to another process "
                    f"({one_line(error)}); define it in a module of its own"
                ) from error
        for other in self._others:
            other.pipe.recv()  # it has the data, and joins
        join(0, count, store, self._device)

    def _reason(self, error: BaseException) -> str | None:
        """Which rank died and why, where an error came from that."""
        if not (isinstance(error, OSError | EOFError | dist.DistError) or "gloo" in str(error)):
            return None
        for other in self._others:
            with contextlib.suppress(subprocess.TimeoutExpired):
                other.process.wait(5.0)
        dead = [other for other in self._others if other.process.returncode is not None]
        # Those that were killed first: the others died of that.
        dead.sort(key=lambda other: other.process.returncode >= 0)
        return dead[0].told(self._workspace.workers) if dead else None

    def close(self) -> None:
        """End the other ranks."""
        if self._others:
            self._end()
            self._others = []
            if dist.is_initialized():
                dist.destroy_process_group()
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None


class _Other:
    """Another rank: its process, and the pipe to it."""

    def __init__(self, rank: int, scratch: Path) -> None:
        self.rank, self.log = rank, scratch / f"rank-{rank}.log"
        self.pipe, theirs = Pipe()
        code = f"import sys; sys.path[:] = {sys.path!r}; from silo_tune.training.other_ranks import follow; "
        with theirs, self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"{code}follow({theirs.fileno()})"],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for rank 0, whose end ends this one
            )

    def told(self, count: int) -> str:
        """How it died."""
        code = self.process.returncode
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = lines[-1].removeprefix(f"[rank{self.rank}]: ") if lines else f"exit {code}"
        how = f"was killed by signal {-code}" if code < 0 else f"died: {said}"
        return f"rank {self.rank} of {count} {how}"


def _end_all(others: Sequence[_Other]) -> None:
    for other in others:
        other.process.kill()
    for other in others:
        other.process.wait()
        other.pipe.close()


def join(rank: int, count: int, store: str, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(rank)
    elif sys.platform == "linux":  # all ranks are on this machine: nothing listens elsewhere
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=count,
        timeout=SILENT,
    )


def synchronised(model: nn.Module, device: torch.device) -> nn.Module:
    """The network with batch statistics over all ranks.

    Raises:
        BadInput: it has BatchNorm, which torch can synchronise on GPUs alone.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-any-return]
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            raise BadInput(
                f"cluster.workers_per_unit: {name} is a BatchNorm, which looks at a whole batch, and torch "
                f"synchronises it on GPUs alone; leave workers_per_unit out, train on GPUs, or take another "
                f"normalisation"
            )
    return model


def leaves_some_out(trainer: Trainer) -> bool:
    """Are there parameters that the loss does not depend on? DistributedDataParallel waits for them unless it knows."""
    moving = [p for p in trainer.parameters.values() if p.requires_grad]
    if all(parameter.grad is None for parameter in moving):  # before a first step
        model = copy.deepcopy(trainer.model)
        trainer.task.losses(model, few(trainer.feed)).objective.backward()
        moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return any(parameter.grad is None for parameter in moving)


def digest(parameters: Mapping[str, Tensor]) -> str:
    """Stands for the exact weights."""
    told = hashlib.sha256()
    for parameter in parameters.values():
        told.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return told.hexdigest()
