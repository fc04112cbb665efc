"""This process as a place to train in: device, memory, thread count and import path."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

import torch

from silo_tune.errors import BadInput
from silo_tune.machine import cpu_name
from silo_tune.study.handed import hand_over
from silo_tune.study.workspace import Workspace


def choose_device(wanted: str, gpus: float = 0.0) -> torch.device:
    """The training device; "auto" is the GPU if this process may use one. GPU paths are not measured.

    Args:
        wanted: the device.
        gpus: GPUs of a unit; of a share of one, this process takes no more of its memory than that.

    Raises:
        BadInput: there is no such device, or no GPU where one is asked for.
    """
    device = _chosen(wanted, gpus)
    if device.type == "cuda" and 0 < gpus < 1:
        torch.cuda.set_per_process_memory_fraction(gpus, device)
    return device


def _chosen(wanted: str, gpus: float) -> torch.device:
    if wanted != "auto":
        try:
            device = torch.device(wanted)
        except RuntimeError as error:
            raise BadInput(f"cluster.device: {str(error).splitlines()[0]}") from None
        if device.type == "cuda" and not torch.cuda.is_available():
            raise BadInput(
                f"cluster.device: {wanted!r} is asked for, and this process sees no CUDA device; on a cluster set "
                f"gpus_per_unit, on a machine without a GPU set device to auto"
            )
        return device
    if gpus and not torch.cuda.is_available():
        raise BadInput(
            f"cluster.gpus_per_unit: {gpus:g} is asked for, and this process sees no CUDA device; leave it out to "
            f"train on CPUs, or plan for a cluster with GPUs by --no-preflight"
        )
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def require_room(workspace: Workspace) -> None:
    """Raises BadInput when this machine has fewer cores or GPUs than the workers of one trial take."""
    if workspace.workers == 1:
        return
    on_gpu = choose_device(workspace.device, workspace.gpus).type == "cuda"
    have = torch.cuda.device_count() if on_gpu else (os.cpu_count() or 1)
    want = workspace.workers * (1 if on_gpu else workspace.threads)
    if want > have:
        raise BadInput(
            f"cluster.workers_per_unit: a trial wants {want} {'GPUs' if on_gpu else 'CPUs'} of one machine, and this "
            f"one has {have}; take fewer workers, or a cluster with larger nodes (plan for it with --no-preflight)"
        )


def device_name(device: torch.device) -> str:
    """Kind of a device. On one kind of CPU a unit has the same numbers; another's vector units may round otherwise."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()} ({torch.backends.cpu.get_cpu_capability()})"


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Tell glibc to reuse freed memory instead of giving it back to the kernel.

    Every step of a convnet allocates and frees the same large activations; fetching their pages anew each time costs
    3 to 14 % of a CPU step (measured on ResNet-8 and ResNet-20, one thread). Elsewhere than on glibc nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        # Some versions cap the first at 32 MB; the second alone would make things worse.
        if libc.mallopt(M_MMAP_THRESHOLD, 2**30) or libc.mallopt(M_MMAP_THRESHOLD, 2**25):
            libc.mallopt(M_TRIM_THRESHOLD, 2**30)


def enter(workspace: Workspace) -> None:
    """Prepare this process: memory, thread count, import path, and what torch loads late.

    Its first optimizer imports a compiler, for seconds: they are not a first trial's, whose time may be limited.
    """
    keep_freed_memory()
    if torch.get_num_threads() != workspace.threads:
        torch.set_num_threads(workspace.threads)
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    hand_over(workspace.handed)
    sys.path.extend(path for path in workspace.sys_path if path not in sys.path)
