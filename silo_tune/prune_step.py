"""The prune at the start of a cycle: scores of a criterion, and the next masks with exact counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from silo_tune import names
from silo_tune.criteria import Scoring
from silo_tune.errors import BadInput
from silo_tune.feed import Feed
from silo_tune.pruning import Granules, Masks, alive, full_masks, shrink
from silo_tune.training import Violation
from silo_tune.units import PruneSpec


@dataclass(frozen=True)
class FeedImages:
    """A replicate's training images as criteria see them: un-augmented, normalised, by position in the training part."""

    feed: Feed
    shape: tuple[int, int, int]

    @property
    def labels(self) -> Tensor:
        return self.feed.train.labels[self.feed.train.rows]

    def batches(self, positions: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        part = self.feed.train
        return self.feed.batches(replace(part, rows=part.rows[positions.to(part.rows.device)]), batch)


def parent_masks(granules: Granules, saved: Mapping[str, Tensor]) -> Masks:
    """The masks in force before a prune; what another skip pattern makes prunable anew is all alive."""
    return {**full_masks(granules.weights), **{name: mask for name, mask in saved.items() if name in granules.weights}}


def next_masks(prune: PruneSpec, granules: Granules, scoring: Scoring) -> Masks:
    """The masks after a prune, those of companions included.

    Raises:
        BadInput: the criterion gives something else than one finite score for each granule, or the target would force a
            layer below one.
        Violation: the count is not the declared one, or a weight came back to life.
    """
    living = granules.alive(scoring.masks)
    chosen = shrink(scores(prune.criterion, granules, scoring), living, prune.target, prune.scope)
    after = granules.masks(chosen)
    _check(granules, scoring.masks, after, granules.kept(prune.target))
    return after


def scores(criterion: Mapping[str, object], granules: Granules, scoring: Scoring) -> dict[str, Tensor]:
    """The criterion's scores on the CPU. Raises BadInput when they are not one finite number for each granule."""
    score = names.resolve(names.target_of(names.CRITERIA, criterion))
    args = {key: value for key, value in criterion.items() if key not in ("name", "function", "version")}
    found = {name: values.detach().cpu() for name, values in score(scoring, **args).items()}
    for name in granules.weights:
        shape = granules.shape(name)
        if name not in found or tuple(found[name].shape) != shape or not bool(found[name].isfinite().all()):
            raise BadInput(
                f"prune.criterion: {dict(criterion)} must give {name} one finite score for each of its "
                f"{granules.noun} {shape}"
            )
    return found


def _check(granules: Granules, before: Mapping[str, Tensor], after: Mapping[str, Tensor], declared: int) -> None:
    if any(bool((after[name] & ~before[name]).any()) for name in granules.weights):
        raise Violation("a pruned weight came back to life")
    kept = alive(granules.alive(after))
    if kept != declared:
        raise Violation(f"{kept} {granules.noun} are alive, {declared} were declared")
