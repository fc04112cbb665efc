"""[task]: what a network is trained for, and what it is judged by. Plain Python."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_serializer, model_validator

from silo_tune.errors import unknown
from silo_tune.study.parts import ARM_NAME, FUNCTION, LISTED, Frozen, Named, whole
from silo_tune.study.scores import POINTS, SCORES, Score

# Of each task: its losses with the arguments that they take. The first is the default.
LOSSES: dict[str, dict[str, tuple[str, ...]]] = {
    "classification": {"cross-entropy": ("label_smoothing", "class_weights"), "focal": ("gamma", "class_weights")},
    "binary": {"cross-entropy": ("label_smoothing", "pos_weight"), "focal": ("gamma", "pos_weight")},
    "multilabel": {"cross-entropy": ("label_smoothing", "pos_weight"), "focal": ("gamma", "pos_weight")},
    "regression": {"mse": (), "mae": (), "huber": ("delta",), "quantile": ("q",)},
    "language-model": {"cross-entropy": ("label_smoothing",)},
}
DEFAULT_SCORE = {
    "classification": "accuracy", "binary": "accuracy", "multilabel": "f1-macro", "regression": "rmse",
    "language-model": "perplexity",
}  # fmt: skip
# Of each argument of a loss: its least and greatest value, both left out but where they are finite and said here.
_RANGES = {
    "label_smoothing": (0.0, 1.0), "gamma": (0.0, math.inf), "pos_weight": (0.0, math.inf), "delta": (0.0, math.inf),
    "q": (0.0, 1.0), "class_weights": (0.0, math.inf),
}  # fmt: skip

TaskName = Literal["classification", "binary", "multilabel", "regression", "language-model"]


class LossRef(Named):
    """A loss with its arguments."""

    @classmethod
    def check_name(cls, name: str, args: Mapping[str, Any]) -> None:
        known = {loss: keys for losses in LOSSES.values() for loss, keys in losses.items()}
        if name not in known:
            raise ValueError(unknown("loss", name, known))

    @model_validator(mode="after")
    def _no_function(self) -> LossRef:
        if self.function is not None:
            raise ValueError("a loss is one of the registered names; a loss of your own is a task of your own")
        return self


class OwnScore(Frozen):
    """The score of a user's own task: how it is called and read."""

    name: str = Field(description="its name in tables", json_schema_extra=whole(ARM_NAME))
    title: str | None = Field(default=None, description="as axes write it; the name when left out")
    higher_is_better: bool = Field(default=True, description="is more better?")
    share: bool = Field(default=False, description="is it a share of 1, to be written in percent?")
    unit: str = Field(default="", description="unit of a difference, such as metres")
    low: float | None = Field(default=None, description="least value that it can have; no end when left out")
    high: float | None = Field(default=None, description="greatest value that it can have; no end when left out")

    def made(self) -> Score:
        """As the registered ones are."""
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        if self.share:
            low, high = 0.0, 1.0
        title = self.title or self.name
        return Score(
            self.name, title, self.higher_is_better, self.share, POINTS if self.share else self.unit, low, high
        )


class TaskSpec(Frozen):
    """[task]: what the network is trained for and judged by. Left out, it is classification, judged by accuracy.

    An own task is a class with `loss(model, batch)` and `evaluate(model, batches)`.
    """

    name: TaskName | None = Field(default=None, description="the kind of task")
    function: str | None = Field(
        default=None,
        description='a user\'s own task, "package.module:Class"; instead of name',
        json_schema_extra=whole(FUNCTION),
    )
    version: str | None = Field(
        default=None, description="version of the class; change it when the class changes its numbers"
    )
    args: dict[str, Any] = Field(default_factory=dict, description="arguments that the user's class is made with")
    score: str | OwnScore | None = Field(
        default=None,
        description="what decides and what is compared, by its name; of an own task also a table that describes it",
    )
    also: Annotated[tuple[str, ...], LISTED] = Field(
        default=(), description="further scores, which are reported and never chosen by"
    )
    classes: int | None = Field(
        default=None,
        ge=2,
        description="classes that the network tells apart, or tokens of a language model, where the data does not hold "
        "all of them; those that it holds when left out",
    )
    loss: LossRef | None = Field(default=None, description="what training minimises; the task's own when left out")
    teacher: Literal["dense"] | None = Field(
        default=None, description='"dense": an own task is given the dense network of its chain, to distil from'
    )

    @model_validator(mode="before")
    @classmethod
    def _word(cls, raw: Any) -> Any:
        return {"name": raw} if isinstance(raw, str) else raw

    @model_validator(mode="after")
    def _check(self) -> TaskSpec:
        if (self.name is None) == (self.function is None):
            raise ValueError(f"give either name ({', '.join(LOSSES)}) or function")
        if self.function is None:
            self._check_named()
        else:
            self._check_own()
        return self

    def _check_own(self) -> None:
        if not FUNCTION.fullmatch(str(self.function)):
            raise ValueError(f'function is written "package.module:Class", got {self.function!r}')
        if not self.version:
            raise ValueError("a function needs a version; change it when the function changes its numbers")
        if self.score is None:
            raise ValueError("an own task says what it is judged by: give score, a name or a table that describes it")
        if self.classes is not None:
            raise ValueError("classes: an own task has as many outputs as its data says; leave it out")
        if self.loss is not None:
            raise ValueError("loss: an own task has its own loss; leave it out")
        if isinstance(self.score, str) and self.score not in SCORES:
            raise ValueError(
                f"{unknown('score', self.score, SCORES)}; or describe your own: "
                f'score = {{ name = "{self.score}", higher_is_better = true, share = false }}'
            )

    def _check_named(self) -> None:
        task = str(self.name)
        if self.version is not None or self.args or self.teacher is not None:
            raise ValueError("version, args and teacher are those of a user's own task; leave them out")
        if self.classes is not None and task not in ("classification", "language-model"):
            raise ValueError(f"classes: they are of classification and language-model, and not of {task}; leave it out")
        able = [name for name, score in SCORES.items() if task in score.tasks]
        for name in (self.score or DEFAULT_SCORE[task], *self.also):
            if name not in able:
                told = name if isinstance(name, str) else name.name
                raise ValueError(f"{unknown('score', told, able)} (those of {task})")
        if self.scored.name in self.also or len(set(self.also)) < len(self.also):
            raise ValueError("also: name each further score once, and not the score itself")
        if self.loss is not None:
            self._check_loss(self.loss, LOSSES[task])

    def _check_loss(self, loss: LossRef, losses: Mapping[str, tuple[str, ...]]) -> None:
        name = str(loss.name)
        if name not in losses:
            raise ValueError(f"{unknown('loss', name, losses)} (those of {self.name})")
        for key, value in loss.args.items():
            if key not in losses[name]:
                takes = ", ".join(losses[name]) or "nothing"
                raise ValueError(f"loss {name!r} takes no {key!r}; it takes {takes}")
            least, most = _RANGES[key]
            numbers = value if isinstance(value, list | tuple) and key in ("class_weights", "pos_weight") else [value]
            if not numbers or not all(_number(one) and least <= one < most for one in numbers):
                raise ValueError(f"loss.{key}: give numbers from {least:g} to below {most:g}, got {value!r}")
        if name == "quantile" and loss.args.get("q") == 0:
            raise ValueError("loss.q: a quantile lies between 0 and 1")

    @property
    def title(self) -> str:
        """What a reader is told it is."""
        return self.name or str(self.function)

    @property
    def scored(self) -> Score:
        """The score that decides."""
        if isinstance(self.score, OwnScore):
            return self.score.made()
        return SCORES[self.score or DEFAULT_SCORE[str(self.name)]]

    @property
    def further(self) -> tuple[Score, ...]:
        """The scores that are reported beside it."""
        return tuple(SCORES.get(name) or Score(name, name) for name in self.also)

    @property
    def minimised(self) -> dict[str, Any]:
        """The loss of a named task, with its arguments."""
        return (self.loss or LossRef(name=next(iter(LOSSES[str(self.name)])))).resolved()

    def resolved(self) -> dict[str, Any] | None:
        """What enters a unit's key; nothing for classification judged by accuracy, as studies always were."""
        table: dict[str, Any] = {"score": self.scored.name}
        if self.function is not None:
            table |= {"function": self.function, "version": self.version, "args": self.args}
            table |= {"teacher": self.teacher} if self.teacher is not None else {}
        else:
            table |= {"name": self.name, "loss": self.minimised}
        if self.classes is not None:
            table["classes"] = self.classes
        if self.also:
            table["also"] = sorted(self.also)
        return None if table == _USUAL else table

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        found = {key: getattr(self, key) for key in TaskSpec.model_fields}
        dumped = {
            key: value.model_dump(exclude_none=True) if isinstance(value, Frozen) else value
            for key, value in found.items()
        }
        return {key: list(v) if isinstance(v, tuple) else v for key, v in dumped.items() if v not in (None, (), {})}


_USUAL = {"score": "accuracy", "name": "classification", "loss": {"name": "cross-entropy"}}
USUAL = TaskSpec(name="classification")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
