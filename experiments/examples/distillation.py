"""Knowledge distillation as a task of your own: `python experiments/examples/distillation.py [RUN]`.

Hinton et al. 2015: pruned networks learn from the labels and from what the dense network says of each image. The digits
of scikit-learn and LeNet-300-100 are the registered ones; only the task is new.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from silo_tune import run_study
from silo_tune.study.study_file import parse_study

STUDY: dict[str, Any] = {
    "name": "distillation",
    "cycles": 3,
    "data": {"name": "digits"},
    "task": {
        "function": "distillation:Distillation",
        "version": "1",
        "score": "accuracy",
        "teacher": "dense",
        "args": {"share": 0.5, "temperature": 2.0},
    },
    "model": {"name": "lenet-300-100"},
    "dense": {"epochs": 4, "max_lr": 0.1},
    "retrain": {"epochs": 2, "batch": 64},
    "replicates": {"seeds": [0]},
    "arms": {
        "silo": {"mode": "schedule", "schedule": {"name": "silo", "eps": 0.1, "delta": 0.2}},
        "flat": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.1}},
    },
    "report": {"tolerance": 0.02},
}


class Distillation:
    """(1 − share) · cross-entropy + share · T² · KL(teacher ‖ network), both softened by the temperature T."""

    guess = (0.1, 2.5)  # accuracy and loss of a network that has learnt nothing

    def __init__(self, share: float, temperature: float) -> None:
        self.share, self.temperature = share, temperature

    def begin(self, teacher: nn.Module | None) -> None:
        """None for the dense training, which learns from labels alone."""
        self.teacher = teacher

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        logits = model(images)
        plain = F.cross_entropy(logits, labels)
        if self.teacher is None:
            return plain
        with torch.no_grad():
            taught = F.log_softmax(self.teacher(images) / self.temperature, 1)
        learnt = F.log_softmax(logits / self.temperature, 1)
        apart = F.kl_div(learnt, taught, reduction="batchmean", log_target=True)
        return (1 - self.share) * plain + self.share * self.temperature**2 * apart

    def evaluate(self, model: nn.Module, batches: Any) -> dict[str, Any]:
        right, loss = [], 0.0
        for images, labels in batches:
            logits = model(images)
            right.append(logits.argmax(1) == labels)
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        examples = torch.cat(right)
        return {"accuracy": examples.float().mean(), "loss": loss / len(examples), "examples": examples}


def main(out: str = "runs/distillation") -> float:
    """Returns the accuracy of SILO's last network on the test images."""
    frame = run_study(parse_study(STUDY), out, local=True).frame
    last = frame[(frame.arm == "silo") & (frame.cycle == frame.cycle.max())]
    print(f"accuracy on test {last.test_score.mean():.3f}; see {out}")
    return float(last.test_score.mean())


if __name__ == "__main__":
    main(*sys.argv[1:])
