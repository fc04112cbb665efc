"""A segmenter as a task of your own: `python experiments/examples/segments.py [RUN]`.

The images are drawn here: a disc or a square before noise. The network says of each pixel whether it is of the shape,
and is judged by the mean intersection over union.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from silo_tune import run_study
from silo_tune.study.study_file import parse_study

STUDY: dict[str, Any] = {
    "name": "segments",
    "cycles": 3,
    "data": {"function": "segments:shapes", "version": "1"},
    "task": {
        "function": "segments:Segmentation",
        "version": "1",
        "score": {"name": "iou", "title": "IoU", "share": True},
        "args": {"dice": 1.0},
    },
    "model": {"function": "segments:network", "version": "1"},
    "dense": {"epochs": 3, "max_lr": 0.2},
    "retrain": {"epochs": 2, "batch": 32},
    "replicates": {"seeds": [0]},
    "arms": {
        "silo": {"mode": "schedule", "schedule": {"name": "silo", "eps": 0.1, "delta": 0.2}},
        "flat": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.1}},
    },
}


def shapes(count: int = 300, side: int = 16) -> dict[str, Any]:
    """Images (N, 1, side, side), and beside each its mask of the same size as labels."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    images, masks = [], []
    for number in range(count):
        x, y, size = rng.integers(5, side - 5), rng.integers(5, side - 5), rng.integers(2, 5)
        apart = (abs(rows - y), abs(columns - x))
        mask = np.maximum(*apart) <= size if number % 2 else np.hypot(*apart) <= size
        images.append(mask + rng.normal(0, 0.5, (side, side)))
        masks.append(mask)
    return {"train": np.asarray(images, np.float32)[:, None], "train_labels": np.asarray(masks, np.float32)}


def network(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Three convolutions, the last of one channel."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 1, 3, padding=1),
    )


class Segmentation:
    """Cross-entropy of pixels and a share of the Dice loss; the score is the mean IoU of the images."""

    def __init__(self, dice: float = 1.0) -> None:
        self.dice = dice

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, masks = batch
        logits = model(images)[:, 0]
        shared = 2 * (logits.sigmoid() * masks).sum((1, 2)) + 1
        dice = 1 - shared / (logits.sigmoid().sum((1, 2)) + masks.sum((1, 2)) + 1)
        loss: Tensor = F.binary_cross_entropy_with_logits(logits, masks) + self.dice * dice.mean()
        return loss

    def evaluate(self, model: nn.Module, batches: Any) -> dict[str, Any]:
        scores, losses = [], []
        for images, masks in batches:
            found, wanted = model(images)[:, 0] > 0, masks > 0
            scores.append((found & wanted).sum((1, 2)) / (found | wanted).sum((1, 2)))
            losses.append(float(self.loss(model, (images, masks))) * len(images))
        scores_of_all = torch.cat(scores)
        loss = sum(losses) / len(scores_of_all)
        return {"iou": scores_of_all.mean(), "loss": loss, "examples": scores_of_all}


def main(out: str = "runs/segments") -> float:
    """Returns the mean IoU of SILO's last network on the test images."""
    frame = run_study(parse_study(STUDY), out, local=True).frame
    last = frame[(frame.arm == "silo") & (frame.cycle == frame.cycle.max())]
    print(f"IoU on test {last.test_score.mean():.3f}; see {out}")
    return float(last.test_score.mean())


if __name__ == "__main__":
    main(*sys.argv[1:])
