"""Losses by their names. Each gives the mean or the sum over the numbers of a batch, and knows its best constant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from silo_tune.errors import BadInput

Loss = Callable[[Tensor, Tensor, str], Tensor]


@dataclass(frozen=True)
class Objective:
    """A loss.

    Attributes:
        loss: (outputs, targets, "mean" or "sum") → a scalar.
        constant: the targets of a part (n, …) → the outputs (…) that are best for all examples alike.
        weights: of each class, where the mean is weighted by them.
    """

    loss: Loss
    constant: Callable[[Tensor], Tensor]
    weights: Tensor | None = None

    def size(self, targets: Tensor) -> float:
        """What a sum over these targets is divided by to be a mean."""
        if self.weights is None:
            return targets.numel()
        return float(self.weights.to(targets.device)[targets].sum())


def classes_objective(loss: Mapping[str, Any], classes: int | None) -> Objective:
    """Cross-entropy or focal loss over classes; targets (n,) int64, outputs (n, classes)."""
    given = loss.get("class_weights")
    if given is not None and classes is not None and len(given) != classes:
        raise BadInput(f"task.loss.class_weights: give {classes} numbers, one for each class; got {len(given)}")
    weights = None if given is None else torch.tensor(given, dtype=torch.float32)
    gamma, smoothing = float(loss.get("gamma", 2.0)), float(loss.get("label_smoothing", 0.0))

    def cross_entropy(outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
        weight = None if weights is None else weights.to(outputs.device)
        return F.cross_entropy(outputs, targets, weight, reduction=reduction, label_smoothing=smoothing)

    def focal(outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
        chosen = F.log_softmax(outputs, 1).gather(1, targets[:, None]).squeeze(1)
        weight = torch.ones_like(chosen) if weights is None else weights.to(outputs.device)[targets]
        total = (-((1.0 - chosen.exp()) ** gamma) * chosen * weight).sum()
        return total / weight.sum() if reduction == "mean" else total

    def constant(targets: Tensor) -> Tensor:
        counts = torch.bincount(targets.cpu(), minlength=classes or 0).double()
        shares = counts * (1.0 if weights is None else weights)
        return ((1 - smoothing) * shares / shares.sum() + smoothing / len(shares)).clamp_min(1e-12).log().float()

    return Objective(focal if loss["name"] == "focal" else cross_entropy, constant, weights)


def tokens_objective(loss: Mapping[str, Any], tokens: int | None) -> Objective:
    """Cross-entropy of the next token; targets (n, length) int64, outputs (n, length, tokens)."""
    smoothing, single = float(loss.get("label_smoothing", 0.0)), classes_objective(loss, tokens)

    def cross_entropy(outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
        flat = outputs.flatten(0, 1)
        return F.cross_entropy(flat, targets.flatten(), reduction=reduction, label_smoothing=smoothing)

    return Objective(cross_entropy, lambda targets: single.constant(targets.flatten()).expand(targets.shape[1], -1))


def yes_no_objective(loss: Mapping[str, Any]) -> Objective:
    """Cross-entropy or focal loss of yes or no; targets (n,) or (n, labels) of 0 and 1, outputs alike, as logits."""
    given = loss.get("pos_weight")
    pos_weight = None if given is None else torch.tensor(given, dtype=torch.float32)
    gamma, smoothing = float(loss.get("gamma", 2.0)), float(loss.get("label_smoothing", 0.0))

    def cross_entropy(outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
        weight = None if pos_weight is None else pos_weight.to(outputs.device)
        wanted = targets.to(outputs.dtype) * (1 - smoothing) + smoothing / 2 if smoothing else targets.to(outputs.dtype)
        return F.binary_cross_entropy_with_logits(outputs, wanted, pos_weight=weight, reduction=reduction)

    def focal(outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
        wanted = targets.to(outputs.dtype)
        chosen = F.logsigmoid(outputs * (2 * wanted - 1))
        weight = 1.0 if pos_weight is None else 1 + (pos_weight.to(outputs.device) - 1) * wanted
        values = -((1.0 - chosen.exp()) ** gamma) * chosen * weight
        return values.mean() if reduction == "mean" else values.sum()

    def constant(targets: Tensor) -> Tensor:
        share = targets.cpu().double().mean(0)
        weighted = share * (1.0 if pos_weight is None else pos_weight.double())
        return torch.logit(((1 - smoothing) * weighted / (weighted + 1 - share) + smoothing / 2).clamp(1e-12)).float()

    return Objective(focal if loss["name"] == "focal" else cross_entropy, constant)


def number_objective(loss: Mapping[str, Any]) -> Objective:
    """Losses of numbers: mse, mae, huber, quantile; targets (n,) or (n, numbers) float, outputs alike."""
    name, delta, q = loss["name"], float(loss.get("delta", 1.0)), float(loss.get("q", 0.5))

    def quantile(outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
        short = targets - outputs
        values = torch.maximum(q * short, (q - 1) * short)
        return values.mean() if reduction == "mean" else values.sum()

    losses: dict[str, Loss] = {
        "mse": lambda o, t, reduction: F.mse_loss(o, t, reduction=reduction),
        "mae": lambda o, t, reduction: F.l1_loss(o, t, reduction=reduction),
        "huber": lambda o, t, reduction: F.huber_loss(o, t, reduction=reduction, delta=delta),
        "quantile": quantile,
    }

    def constant(targets: Tensor) -> Tensor:
        middle = torch.from_numpy(_quantile(targets, q if name == "quantile" else 0.5)).to(targets)
        if name in ("mae", "quantile"):
            return middle
        mean = targets.mean(0)
        if name == "mse":
            return mean
        # Huber's lies between the two; the better of them is near enough for a guess.
        return min((mean, middle), key=lambda c: float(losses[name](c.expand_as(targets), targets, "mean")))

    return Objective(losses[name], constant)


def _quantile(targets: Tensor, q: float) -> Any:
    import numpy as np

    return np.asarray(np.quantile(targets.cpu().double().numpy(), q, axis=0))
