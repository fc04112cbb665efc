"""Two heads and an auxiliary loss as a task of your own: `python experiments/examples/two_heads.py [RUN]`.

The digits of scikit-learn: one head names the digit, a second one, which only helps to train, says how much ink it has.
Batches are mappings, as the data set's own collate makes them.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from silo_tune import run_study
from silo_tune.study.study_file import parse_study

STUDY: dict[str, Any] = {
    "name": "two-heads",
    "cycles": 3,
    "data": {"function": "two_heads:data", "version": "1"},
    "task": {
        "function": "two_heads:TwoHeads",
        "version": "1",
        "score": "accuracy",
        "also": ["mae"],
        "args": {"share": 0.3},
    },
    "model": {"function": "two_heads:network", "version": "1"},
    "dense": {"epochs": 4, "max_lr": 0.1},
    "retrain": {"epochs": 2, "batch": 64},
    "replicates": {"seeds": [0]},
    "arms": {
        "silo": {"mode": "schedule", "schedule": {"name": "silo", "eps": 0.1, "delta": 0.2}},
        "flat": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.1}},
    },
    "report": {"tolerance": 0.02},
}


class Digits(torch.utils.data.Dataset[Any]):
    """Items that are mappings. `targets` lets the split keep the share of each digit."""

    def __init__(self) -> None:
        found = load_digits()
        self.images = torch.from_numpy(found.images).float() / 16
        self.targets = torch.from_numpy(found.target)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"image": self.images[row], "digit": self.targets[row], "ink": self.images[row].mean()}


def collate(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def data() -> dict[str, Any]:
    return {"train": Digits(), "collate": collate, "classes": 10}


class Network(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU())
        self.digit, self.ink = nn.Linear(100, classes), nn.Linear(100, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(images)
        return self.digit(hidden), self.ink(hidden).squeeze(1)


def network(shape: tuple[int, ...], classes: int) -> nn.Module:
    return Network(classes)


class TwoHeads:
    """Cross-entropy of the digit, and a share of the squared error of the ink."""

    guess = (0.1, 2.5)  # accuracy and loss of a network that has learnt nothing

    def __init__(self, share: float) -> None:
        self.share = share

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        digit, ink = model(batch["image"])
        return F.cross_entropy(digit, batch["digit"]) + self.share * F.mse_loss(ink, batch["ink"])

    def evaluate(self, model: nn.Module, batches: Any) -> dict[str, Any]:
        right, apart, loss = [], [], 0.0
        for batch in batches:
            digit, ink = model(batch["image"])
            right.append(digit.argmax(1) == batch["digit"])
            apart.append((ink - batch["ink"]).abs())
            loss += float(self.loss(model, batch)) * len(ink)
        examples = torch.cat(right)
        accuracy, mae = examples.float().mean(), torch.cat(apart).mean()
        return {"accuracy": accuracy, "mae": mae, "loss": loss / len(examples), "examples": examples}


def main(out: str = "runs/two-heads") -> float:
    """Returns the accuracy of SILO's last network on the test images."""
    frame = run_study(parse_study(STUDY), out, local=True).frame
    last = frame[(frame.arm == "silo") & (frame.cycle == frame.cycle.max())]
    print(f"accuracy on test {last.test_score.mean():.3f}; see {out}")
    return float(last.test_score.mean())


if __name__ == "__main__":
    main(*sys.argv[1:])
