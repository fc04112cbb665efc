"""Who wins a cycle: the one rule, for the engine, the samplers and the analysis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

N = TypeVar("N", bound=Any)


def winner_of(told: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Best validation score, then lower validation loss, then smaller max_lr; a diverged one never wins.

    Where some rates were trained again with other random streams the winner is among those, by the mean over repeats
    (a diverged repeat counts as guessing); its repeat 0 is what continues.
    """
    told = list(told)
    repeats: dict[Any, list[Mapping[str, Any]]] = {}
    for outcome in told:
        if outcome["repeat"] > 0:
            repeats.setdefault(outcome["max_lr"], []).extend([outcome] if outcome["status"] != "failed" else [])
    good = [o for o in told if o["status"] == "ok" and o["repeat"] == 0]
    again = [o for o in good if o["max_lr"] in repeats] or good
    best = min(again, key=lambda o: rank(_mean(o, repeats.get(o["max_lr"], []))), default=None)
    return None if best is None else dict(best)


def best_training(told: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The best single training, by the same order; of equal ones the first. None where none trained."""
    best = min((o for o in told if o["status"] == "ok"), key=rank, default=None)
    return None if best is None else dict(best)


def rank(outcome: Mapping[str, Any]) -> tuple[float, float, float]:
    """Sorts the best first: best validation score, then lower validation loss, then smaller max_lr."""
    return (
        -gain(outcome["val_score"], sign_of(outcome)),
        outcome["val_loss"],
        outcome["max_lr"] if outcome["max_lr"] is not None else 0.0,
    )


def gain(score: N, sign: int) -> N:
    """A score, or a difference of scores, signed so that more is better; and back, for it is its own inverse.

    Args:
        score: a number, an array or a column.
        sign: +1 where more is better, -1 where less is.
    """
    turned: N = -score
    return score if sign == 1 else turned


def sign_of(outcome: Mapping[str, Any]) -> int:
    """Direction of an outcome's score; those of earlier versions are accuracies."""
    return int(outcome.get("sign") or 1)


def value_told(outcome: Mapping[str, Any]) -> float:
    """What a sampler hears of an outcome: its validation score as a gain, or that of guessing when it diverged."""
    return gain(float(outcome["val_score"]), sign_of(outcome)) if outcome["status"] == "ok" else guess_told(outcome)


def guess_told(outcome: Mapping[str, Any]) -> float:
    """What guessing is worth, as a gain: the score of the best constant prediction, else 1 / classes."""
    if outcome.get("guess_score") is not None:
        return gain(float(outcome["guess_score"]), sign_of(outcome))
    return 1.0 / outcome["classes"] if outcome.get("classes") else 0.0


def _mean(outcome: Mapping[str, Any], repeats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    losses = [outcome["val_loss"], *(o["val_loss"] for o in repeats if o["val_loss"] is not None)]
    gains = [value_told(outcome), *(value_told(o) for o in repeats)]
    score = gain(sum(gains) / len(gains), sign_of(outcome))
    mean = {"val_score": score, "val_loss": sum(losses) / len(losses)}
    return {**outcome, **mean}
