"""Scores by their names, which are those of torchmetrics: direction, range, how they are written. Plain Python."""

from __future__ import annotations

import math
from dataclasses import dataclass

POINTS = "percentage points"
CLASSES, REAL, LANGUAGE = ("classification", "binary", "multilabel"), ("regression",), ("language-model",)
SINGLE = ("classification", "binary")


@dataclass(frozen=True)
class Score:
    """What a network is judged by.

    Attributes:
        name: as a study writes it.
        title: as axes and tables write it.
        higher_is_better: direction.
        share: it lies in [0, 1] and is written in percent; a difference is then in percentage points.
        unit: the word for a difference; "" where a number has none.
        low, high: its range; infinite where it has no end.
        mean_over_examples: the score of a part is the mean of those of its examples.
        tasks: the tasks that can have it; none for a score of a user's own task.
    """

    name: str
    title: str
    higher_is_better: bool = True
    share: bool = False
    unit: str = ""
    low: float = 0.0
    high: float = 1.0
    mean_over_examples: bool = False
    tasks: tuple[str, ...] = ()

    @property
    def sign(self) -> int:
        """+1 where more is better, −1 where less is: a gain is `sign` times a difference."""
        return 1 if self.higher_is_better else -1


def _share(name: str, title: str, tasks: tuple[str, ...], mean: bool = False) -> Score:
    return Score(name, title, share=True, unit=POINTS, mean_over_examples=mean, tasks=tasks)


def _loss(name: str, title: str, tasks: tuple[str, ...], unit: str = "", mean: bool = False, low: float = 0.0) -> Score:
    return Score(name, title, False, unit=unit, low=low, high=math.inf, mean_over_examples=mean, tasks=tasks)


SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        _share("accuracy", "accuracy", (*CLASSES, *LANGUAGE), mean=True),
        _share("top-5-accuracy", "top-5 accuracy", ("classification",), mean=True),
        _share("balanced-accuracy", "balanced accuracy", SINGLE),
        _share("exact-match", "exact match", ("multilabel",), mean=True),
        _share("precision", "precision", ("binary",)),
        _share("recall", "recall", ("binary",)),
        Score("f1", "F1", tasks=("binary",)),
        Score("f1-macro", "macro F1", tasks=("classification", "multilabel")),
        Score("auroc", "AUROC", tasks=CLASSES),
        Score("average-precision", "average precision", tasks=CLASSES),
        Score("matthews", "Matthews correlation", low=-1.0, tasks=SINGLE),
        _loss("log-loss", "log-loss", (*CLASSES, *LANGUAGE), "nats", mean=True),
        Score("brier", "Brier score", False, mean_over_examples=True, tasks=("binary",)),
        _loss("rmse", "RMSE", REAL),
        _loss("mse", "MSE", REAL, mean=True),
        _loss("mae", "MAE", REAL, mean=True),
        Score("r2", "R²", low=-math.inf, tasks=REAL),
        Score("spearman", "Spearman correlation", low=-1.0, tasks=REAL),
        Score("pearson", "Pearson correlation", low=-1.0, tasks=REAL),
        _loss("perplexity", "perplexity", LANGUAGE, low=1.0),
        _loss("bits-per-byte", "bits per byte", LANGUAGE, "bits"),
    )
}
