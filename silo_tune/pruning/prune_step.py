"""The prune at the start of a cycle: scores of a criterion, and the next masks with exact counts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from silo_tune.data.example_feed import AnyFeed
from silo_tune.errors import BadInput, Violation
from silo_tune.models.checkpoint import load_weights
from silo_tune.planner.unit import PruneSpec, Unit, canonical_json
from silo_tune.pruning.criteria.scoring import Scoring
from silo_tune.pruning.filters import Filters, removable
from silo_tune.pruning.in_effect import require_in_effect
from silo_tune.pruning.masks import Masks, PrunableElements, alive, apply_masks, by_percentile, full_masks, shrink
from silo_tune.schedules.peaks import PruneFacts
from silo_tune.seeds import stream
from silo_tune.study import registry
from silo_tune.study.workspace import Workspace
from silo_tune.tasks.seam import Task


@dataclass(frozen=True)
class FeedExamples:
    """A replicate's training examples as criteria see them: un-augmented, by position in the training part."""

    feed: AnyFeed
    shape: tuple[int, ...]
    task: Task

    @property
    def labels(self) -> Tensor:
        return self.feed.train.labels[self.feed.train.rows]

    def batches(self, positions: Tensor, batch: int) -> Iterator[Any]:
        part = self.feed.train
        return self.feed.batches(replace(part, rows=part.rows[positions.to(part.rows.device)]), batch)


class UnitPruner:
    """Prunes the networks of one worker; which filters of a network can be removed is found out once.

    Args:
        workspace: what the study's prunes count, and how little they leave in the end.
        shape: of an example: (H, W, C) of an image.
    """

    def __init__(self, workspace: Workspace, shape: tuple[int, ...]) -> None:
        self.workspace, self.shape = workspace, shape
        self._removable: dict[str, Mapping[str, Filters]] = {}

    def elements(self, unit: Unit, model: nn.Module) -> PrunableElements:
        """What the prunes of a unit's study count.

        Raises:
            BadInput: there is nothing to prune, or the study's last target would force a layer below one element.
        """
        here = self.workspace if unit.prune is None else unit.prune
        removable_ = self._removable_of(unit, model) if here.granularity == "filter" else None
        fours = here.granularity == "2:4"
        elements = PrunableElements.of(model, here.skip, here.norm_scales, removable_, here.layers, fours)
        elements.kept(self.workspace.last_target)
        return elements

    def _removable_of(self, unit: Unit, model: nn.Module) -> Mapping[str, Filters]:
        name = canonical_json(unit.model)
        if name not in self._removable:
            self._removable[name] = removable(model, self.shape)
        return self._removable[name]

    def counted(self, unit: Unit, model: nn.Module, masks: Mapping[str, Tensor]) -> Masks:
        """The masks of the prunable weights; what goes along with a filter is never counted."""
        return self.elements(unit, model).counted(masks)

    def prune(
        self, unit: Unit, model: nn.Module, parent: Mapping[str, Mapping[str, Tensor]], feed: AnyFeed, task: Task
    ) -> tuple[Masks, PruneFacts]:
        """Load a parent's state into the model and prune it; weights that go are zero afterwards."""
        assert unit.prune is not None
        load_weights(model, parent["weights"])
        elements = self.elements(unit, model)
        before = parent_masks(elements, parent.get("mask", {}))
        norm_before = weight_norm(model)
        generator = stream("criterion", unit.seed, unit.cycle, unit.repeat)
        images = FeedExamples(feed, self.shape, task)
        after = next_masks(
            unit.prune,
            elements,
            Scoring(elements.weights, before, model, generator, images, parent.get("previous"), elements.filters),
        )
        apply_masks(elements.parameters, after)
        require_in_effect(model, elements.counted(after), few(feed), task.forward)
        share = 1.0 - alive(elements.counted(after)) / alive(before)
        return after, PruneFacts(norm_before, weight_norm(model), share, unit.epochs)


def few(feed: AnyFeed) -> Any:
    """A batch of two training examples, or the one there is: enough for a forward pass."""
    part = feed.train
    return next(feed.batches(replace(part, rows=part.rows[:2]), 2))


def few_images(feed: AnyFeed) -> Tensor:
    """The images (2, C, H, W) of `few`."""
    images: Tensor = few(feed)[0]
    return images


def weight_norm(model: nn.Module) -> float:
    """Euclidean norm of all weights and biases."""
    return math.sqrt(sum(float(parameter.detach().double().square().sum()) for parameter in model.parameters()))


def parent_masks(elements: PrunableElements, saved: Mapping[str, Tensor]) -> Masks:
    """The masks in force before a prune; what another skip pattern makes prunable anew is all alive."""
    return {**full_masks(elements.weights), **{name: mask for name, mask in saved.items() if name in elements.weights}}


def next_masks(prune: PruneSpec, elements: PrunableElements, scoring: Scoring) -> Masks:
    """The masks after a prune, those of coupled parameters included.

    Raises:
        BadInput: the criterion gives something else than one finite score for each element, or the target would force a
            layer below one.
        Violation: the count is not the declared one, or a weight came back to life.
    """
    living, scored = elements.alive(scoring.masks), scores(prune.criterion, elements, scoring)
    if prune.percentile is not None:
        biased = [name for name in living if f"{name.removesuffix('weight')}bias" in elements.parameters]
        chosen = by_percentile(scored, living, prune.percentile, prune.scope, biased)
        declared = alive(chosen)
    else:
        chosen = shrink(scored, living, prune.target, prune.scope, elements.fours)
        declared = elements.kept(prune.target)
    after = elements.masks(chosen)
    _check(elements, scoring.masks, after, declared)
    return after


def scores(criterion: Mapping[str, object], elements: PrunableElements, scoring: Scoring) -> dict[str, Tensor]:
    """The criterion's scores on the CPU. Raises BadInput when they are not one finite number for each element."""
    score = registry.resolve(registry.target_of(registry.CRITERIA, criterion), "prune.criterion.function")
    if "function" in criterion:
        scoring = scoring.copied()
    args = {key: value for key, value in criterion.items() if key not in ("name", "function", "version")}
    found = {name: values.detach().cpu() for name, values in score(scoring, **args).items()}
    for name in elements.weights:
        shape = elements.shape(name)
        if name not in found or tuple(found[name].shape) != shape or not bool(found[name].isfinite().all()):
            raise BadInput(
                f"prune.criterion: {dict(criterion)} must give {name} one finite score for each of its "
                f"{elements.noun} {shape}"
            )
    return found


def _check(
    elements: PrunableElements, before: Mapping[str, Tensor], after: Mapping[str, Tensor], declared: int
) -> None:
    if any(bool((after[name] & ~before[name]).any()) for name in elements.weights):
        raise Violation("a pruned weight came back to life")
    kept = alive(elements.alive(after))
    if kept != declared:
        raise Violation(f"{kept} {elements.noun} are alive, {declared} were declared")
