"""Scores as functions: of single examples where the score is their mean, of a whole part by torchmetrics elsewhere.

Outputs are what a network gives: logits of classes (n, classes), logits of yes (n,) or (n, labels), or numbers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Measure = Callable[[Tensor, Tensor], Tensor]

# --- of single examples: (n,) of bool or float ---

_CLASSES: dict[str, Measure] = {
    "accuracy": lambda o, t: o.argmax(1) == t,
    "top-5-accuracy": lambda o, t: (o.topk(min(5, o.shape[1]), 1).indices == t[:, None]).any(1),
    "log-loss": lambda o, t: F.cross_entropy(o, t, reduction="none"),
}
_YES: dict[str, Measure] = {
    "accuracy": lambda o, t: (o > 0) == (t > 0),
    "log-loss": lambda o, t: F.binary_cross_entropy_with_logits(o, t.to(o.dtype), reduction="none"),
    "brier": lambda o, t: (o.sigmoid() - t).square(),
}
_LABELS: dict[str, Measure] = {
    "accuracy": lambda o, t: ((o > 0) == (t > 0)).float().mean(1),
    "exact-match": lambda o, t: ((o > 0) == (t > 0)).all(1),
    "log-loss": lambda o, t: F.binary_cross_entropy_with_logits(o, t.to(o.dtype), reduction="none").mean(1),
}
_NUMBERS: dict[str, Measure] = {
    "mse": lambda o, t: _flat((o - t).square()),
    "mae": lambda o, t: _flat((o - t).abs()),
}
_TOKENS: dict[str, Measure] = {
    "accuracy": lambda o, t: _flat((o.argmax(-1) == t).float()),
    "log-loss": lambda o, t: _flat(F.cross_entropy(o.flatten(0, 1), t.flatten(), reduction="none").view(t.shape)),
}
SINGLE: dict[str, dict[str, Measure]] = {
    "classification": _CLASSES, "binary": _YES, "multilabel": _LABELS, "regression": _NUMBERS,
    "language-model": _TOKENS,
}  # fmt: skip


# Scores that are a function of a mean over examples: of which, and the function. A token is a byte.
DERIVED: dict[str, tuple[str, Callable[[float], float]]] = {
    "perplexity": ("log-loss", lambda nats: math.exp(min(nats, 700.0))),
    "bits-per-byte": ("log-loss", lambda nats: nats / math.log(2)),
}


def _flat(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).mean(1)


# --- of a whole part ---


def whole(task: str, name: str, outputs: Tensor, targets: Tensor) -> float:
    """A score of a whole part. One that has no value (a correlation with a constant) is NaN.

    Args:
        task: the kind of task.
        name: the score.
        outputs, targets: of the part, on the CPU.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a part lacks a class is told where the study is looked at
        return float(_WHOLE[task](name, outputs.double(), targets))


def _classification() -> Any:
    import torchmetrics.functional.classification

    return torchmetrics.functional.classification


def _of_classes(name: str, outputs: Tensor, targets: Tensor) -> Any:
    m = _classification()
    count = outputs.shape[1]
    if name in ("auroc", "average-precision"):
        measure = m.multiclass_auroc if name == "auroc" else m.multiclass_average_precision
        return measure(outputs.softmax(1), targets, count)
    if name == "matthews":
        return m.multiclass_matthews_corrcoef(outputs.argmax(1), targets, count)
    measure = m.multiclass_f1_score if name == "f1-macro" else m.multiclass_accuracy
    return measure(outputs.argmax(1), targets, count, average="macro")


def _of_yes(name: str, outputs: Tensor, targets: Tensor) -> Any:
    m = _classification()
    if name in ("auroc", "average-precision"):
        measure = m.binary_auroc if name == "auroc" else m.binary_average_precision
        return measure(outputs.sigmoid(), targets)
    chosen = (outputs > 0).long()
    if name == "balanced-accuracy":
        return m.multiclass_accuracy(chosen, targets, 2, average="macro")
    measures = {
        "f1": m.binary_f1_score, "precision": m.binary_precision, "recall": m.binary_recall,
        "matthews": m.binary_matthews_corrcoef,
    }  # fmt: skip
    return measures[name](chosen, targets)


def _of_labels(name: str, outputs: Tensor, targets: Tensor) -> Any:
    m = _classification()
    count = outputs.shape[1]
    if name == "f1-macro":
        return m.multilabel_f1_score((outputs > 0).long(), targets, count, average="macro")
    measure = m.multilabel_auroc if name == "auroc" else m.multilabel_average_precision
    return measure(outputs.sigmoid(), targets, count)


def _of_numbers(name: str, outputs: Tensor, targets: Tensor) -> Any:
    import torchmetrics.functional.regression

    m: Any = torchmetrics.functional.regression
    targets = targets.double()
    if name == "rmse":
        return m.mean_squared_error(outputs.flatten(), targets.flatten(), squared=False)
    if name == "r2":
        return m.r2_score(outputs, targets)
    measure = m.spearman_corrcoef if name == "spearman" else m.pearson_corrcoef
    return torch.as_tensor(measure(outputs, targets)).mean()


_WHOLE: dict[str, Callable[[str, Tensor, Tensor], Any]] = {
    "classification": _of_classes, "binary": _of_yes, "multilabel": _of_labels, "regression": _of_numbers,
}  # fmt: skip


def known(score: str, value: float) -> float:
    """The value; 0 for a correlation that a constant prediction leaves without one."""
    return 0.0 if math.isnan(value) and score in ("spearman", "pearson", "matthews") else value
