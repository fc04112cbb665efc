"""Scores of what a prune may remove: the lowest go first. A criterion is a few lines."""

from silo_tune.criteria.filters import entropy, l1_filter, mean_activation, random_filter
from silo_tune.criteria.scoring import Criterion, Scoring, TrainingImages
from silo_tune.criteria.weights import (
    gradient,
    lamp,
    last_change,
    last_change_magnitude,
    magnitude,
    random,
    snip,
    synflow,
)

__all__ = [
    "Criterion",
    "Scoring",
    "TrainingImages",
    "entropy",
    "gradient",
    "l1_filter",
    "lamp",
    "last_change",
    "last_change_magnitude",
    "magnitude",
    "mean_activation",
    "random",
    "random_filter",
    "snip",
    "synflow",
]
