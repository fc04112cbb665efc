"""A task with a teacher: the loss compares the network's outputs with those of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from silo_tune.tasks.outputs import logits_of
from silo_tune.tasks.seam import Losses
from silo_tune.tasks.supervised import Supervised

# As in ICE-Pruning's public code.
TEMPERATURE = 2.0


@dataclass(frozen=True)
class Distilled(Supervised):
    """A task whose objective has the distillation from a teacher added; what is told is the plain loss.

    Attributes:
        teacher: in evaluation mode.
    """

    teacher: nn.Module | None = None

    @classmethod
    def of(cls, task: Supervised, teacher: nn.Module) -> Distilled:
        return cls(**vars(task), teacher=teacher.eval())

    def losses(self, model: nn.Module, batch: Any) -> Losses:
        output = self.forward(model, batch)
        loss = self.loss_of(output, batch[1])
        assert self.teacher is not None
        with torch.no_grad():
            taught = self.forward(self.teacher, batch)
        return Losses(loss + distillation(logits_of(output), taught), loss)


def distillation(logits: Tensor, taught: Tensor) -> Tensor:
    """KL(softmax(taught / 2) ‖ softmax(logits / 2)) in nats, mean over the examples of a batch (N, classes).

    Source: the loss that ICE-Pruning's public code adds to cross-entropy, with temperature 2 and weight 1, and without
    the usual factor of the temperature squared.
    """
    return F.kl_div(
        F.log_softmax(logits.float() / TEMPERATURE, 1),
        F.softmax(taught.float() / TEMPERATURE, 1),
        reduction="batchmean",
    )
