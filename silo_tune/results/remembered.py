"""Does a checkpoint know the validation images from its own training? Only its accuracies can tell. Plain Python."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from silo_tune.formats import percent
from silo_tune.study.model import Study

# Chance of a false warning in a whole study (ours): the warning is loud, and a checkpoint that has seen the images is
# nearly always far beyond it.
ALPHA = 1e-3


def may_be_remembered(study: Study) -> str | None:
    """The sentence for every study that begins with a checkpoint; None for others."""
    if study.dense.checkpoint is None:
        return None
    instead = ', or give a part that it never saw with data.val = "given"' if study.data.val == "drawn" else ""
    return (
        "cycle 0 is a checkpoint, and validation images may have been part of its training; then validation chooses "
        f"winners by what the network remembers: make sure that they were not{instead}"
    )


def remembered(study: Study, results: Iterable[Mapping[str, Any]]) -> str | None:
    """A warning where a checkpoint is right on validation clearly more often than on test; else None.

    Fisher's exact test in each seed, one-sided, at `ALPHA` over the number of seeds: so for a checkpoint that does as
    well on both parts, a study warns with a probability of at most `ALPHA`. Where [evaluate] measures both parts in
    different ways there is nothing to compare.

    Args:
        study: the study.
        results: of its cycle 0: seed, val_score and test_score in [0, 1] or None, n_val, n_test.
    """
    if study.dense.checkpoint is None or study.evaluate.resolved() is not None:
        return None
    known = [one for one in results if one["val_score"] is not None and one["test_score"] is not None]
    found = min(((_chance(one), one) for one in known), key=lambda pair: pair[0], default=None)
    if found is None or found[0] >= ALPHA / len(study.replicates.seeds):
        return None
    val, test = (percent(found[1][f"{part}_score"]) for part in ("val", "test"))
    return (
        f"WARNING: the checkpoint is right on {val} % of the validation images and on {test} % of the test images "
        f"(seed {found[1]['seed']}), which is not chance: it was trained on validation images, or test images are of "
        f'another kind; winners are chosen on validation, so give images that it never saw, with data.val = "given"'
    )


def _chance(one: Mapping[str, Any]) -> float:
    counts = ((round(one[f"{part}_score"] * one[f"n_{part}"]), one[f"n_{part}"]) for part in ("val", "test"))
    (right, of), (others_right, of_others) = counts
    return at_least(int(right), int(of), int(others_right), int(of_others))


def at_least(right: int, of: int, others_right: int, of_others: int) -> float:
    """Fisher's exact test, one-sided: the chance of so many or more right answers in the first part, if all right
    answers of both parts fall on their images at random."""
    total = right + others_right
    whole = _log_choose(of + of_others, total)
    terms = (_log_choose(of, k) + _log_choose(of_others, total - k) - whole for k in range(right, min(of, total) + 1))
    return min(1.0, math.fsum(map(math.exp, terms)))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
