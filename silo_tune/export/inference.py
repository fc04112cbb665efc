"""What a network costs where it is used: parameters, multiply-accumulates, time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

# Pairs of passes: enough for a median on a noisy machine, no more than a reader waits for (all ours).
WARM_UP, LEAST, MOST, SECONDS = 5, 10, 200, 10.0


@dataclass(frozen=True)
class Latency:
    """Forward passes of two networks in turn, on one thread.

    Attributes:
        first_ms, second_ms: median milliseconds of a pass.
        ratio: median over pairs of first / second.
        low, high: quartiles of that ratio.
        pairs: how many were measured.
        batch: images in a pass.
    """

    first_ms: float
    second_ms: float
    ratio: float
    low: float
    high: float
    pairs: int
    batch: int


def parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def non_zero(model: nn.Module) -> int:
    """Number of parameters that are not zero."""
    return sum(int(parameter.detach().count_nonzero()) for parameter in model.parameters())


def macs(model: nn.Module, image: Tensor) -> int:
    """Multiply-accumulates of one image's pass through convolutions and matrix products, those of attention among them.

    Biases, normalisations and activations are left out, as is usual. Weights that are zero count: they are multiplied.

    Args:
        model: in evaluation mode.
        image: (1, C, H, W).
    """
    # Attention then runs as plain products, which the counter sees; it counts two operations for each.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        model(image)
    return int(counter.get_total_flops()) // 2


def latency(first: nn.Module, second: nn.Module, images: Tensor) -> Latency:
    """Time two networks, in evaluation mode, on the same images (B, C, H, W): pass by pass in turn, so that what else
    the machine does falls on both."""
    with _one_thread(), torch.inference_mode():
        for _ in range(WARM_UP):
            _timed(first, images), _timed(second, images)
        pairs: list[tuple[float, float]] = []
        began = time.perf_counter()
        while len(pairs) < LEAST or (len(pairs) < MOST and time.perf_counter() - began < SECONDS):
            pairs.append((_timed(first, images), _timed(second, images)))
    low, ratio, high = statistics.quantiles((a / b for a, b in pairs), n=4)
    firsts, seconds = zip(*pairs, strict=True)
    return Latency(
        1e3 * statistics.median(firsts), 1e3 * statistics.median(seconds), ratio, low, high, len(pairs), len(images)
    )


def _timed(model: nn.Module, images: Tensor) -> float:
    began = time.perf_counter()
    model(images)
    return time.perf_counter() - began


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
