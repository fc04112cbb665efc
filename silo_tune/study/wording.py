"""How the score of a study is called and written."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from silo_tune.formats import Words, telling
from silo_tune.study.model import Study
from silo_tune.study.scores import Score
from silo_tune.study.task import USUAL

P = ParamSpec("P")
T = TypeVar("T")


def words_of(study: Study) -> Words:
    """The words of a study: its score's, and what one example of its data is called."""
    of_images = study.data.of_images and (study.task or USUAL).name == "classification"
    return words_for(study.scored, "image" if of_images else "example")


def words_for(score: Score, example: str) -> Words:
    """The words of a score, of examples that are called so."""
    return Words(
        title=score.title,
        share=score.share,
        unit="" if score.share else score.unit,
        bounded=score.high <= 1,
        sign=score.sign,
        example=example,
    )


def worded(find: Callable[..., Study]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Have a function tell in the words of the study that `find` finds in its arguments."""

    def around(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def within(*args: P.args, **kwargs: P.kwargs) -> T:
            with telling(words_of(find(*args, **kwargs))):
                return function(*args, **kwargs)

        return within

    return around


def counts_examples(score: Score) -> bool:
    """Is the score of a part the share of its examples that are right? Then it is known of each whether it is."""
    return score.share and score.mean_over_examples
