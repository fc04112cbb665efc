"""Pipelines on the torch side: ICE-Pruning's cycle, and what carries a training over from one part to the next.

Sources: ICE-Pruning (2025), read in its public code; Roy, Panda et al. 2020 (arXiv 2003.02800), its abstract. What they
leave open is said where it is chosen.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from silo_tune.data.batches import Feed
from silo_tune.errors import Violation
from silo_tune.planner.unit import Unit
from silo_tune.pruning.criteria.scoring import Scoring
from silo_tune.pruning.masks import Masks, PrunableElements, prunable, top
from silo_tune.pruning.prune_step import FeedImages, Pruner, parent_masks, scores
from silo_tune.seeds import stream
from silo_tune.training.trainer import EpochLog, Trainer, evaluate

Training = Generator[EpochLog, None, None]


def is_loop(unit: Unit) -> bool:
    """Does the unit have an inner loop of its own, instead of one prune and one training?"""
    return unit.pipeline is not None and unit.pipeline["name"] == "ice"


def carries(unit: Unit) -> bool:
    """Does the unit's training continue where its parent's stood, momentum included?"""
    return unit.pipeline is not None and unit.pipeline["name"] == "while-training"


@dataclass
class IceLoop:
    """One cycle of ICE-Pruning.

    The blocks are walked in the network's order: those layers whose filters can be removed alone, so the first
    convolution of each block of a ResNet. Of each, the ceil(ratio · filters) that score lowest go. Where validation
    accuracy has then lost `threshold` or more against the dense network, all of the network is fine-tuned for the
    unit's epochs (one, as published) at max_lr, but for the frozen layers. Validation decides, never test.

    Frozen are the layers that change least in a probe, change = |‖W‖₁ after − ‖W‖₁ before| / ‖W‖₂ before: on a copy of
    the network the first block is pruned and fine-tuned. That the copy is thrown away is ours.

    Attributes:
        unit, model, feed: as in training; the model holds the parent's weights.
        elements, living: filters of each block, and which of them are alive; `living` shrinks.
        trainer: of all fine-tuning of this cycle.
        dense_accuracy: on validation, of the dense network.
        shape: (H, W, C) of an image.
    """

    unit: Unit
    model: nn.Module
    feed: Feed
    elements: PrunableElements
    living: Masks
    trainer: Trainer
    dense_accuracy: float
    shape: tuple[int, int, int]

    @classmethod
    def begin(
        cls,
        unit: Unit,
        model: nn.Module,
        parent: Mapping[str, Any],
        pruner: Pruner,
        feed: Feed,
        classes: int,
        dense: float,
    ) -> IceLoop:
        """Stand ready to walk; the model holds the parent's weights."""
        elements = pruner.elements(unit, model)
        living = elements.alive(parent_masks(elements, parent.get("mask", {})))
        assert unit.peak is not None
        # The network is trained already: every epoch is judged by the rule of divergence, as in a budget of one.
        trainer = Trainer(
            replace(unit, epochs=1), model, elements.masks(living), feed, float(unit.peak["value"]), classes
        )
        return cls(unit, model, feed, elements, living, trainer, dense, pruner.shape)

    def walk(self) -> Training:
        """Prune every block and fine-tune where it is needed.

        Raises:
            Violation: a block has lost another number of filters than its share.
        """
        assert self.unit.pipeline is not None
        ratio, threshold = self.unit.pipeline["ratio"], self.unit.pipeline["threshold"]
        declared = {block: left_of(int(mask.sum()), ratio) for block, mask in self.living.items()}
        yield from self._freeze(self.unit.pipeline["freeze"], ratio)
        for block in declared:
            self._prune(block, ratio)
            accuracy, _ = evaluate(self.model, self.feed, self.feed.val)
            if self.dense_accuracy - accuracy >= threshold:
                yield from _fine_tune(self.trainer, self.unit.epochs)
            if self.trainer.diverged is not None:
                return
        kept = {block: int(mask.sum()) for block, mask in self.living.items()}
        if kept != declared:
            raise Violation(f"filters alive are {kept}, {declared} were declared")

    def _prune(self, block: str, ratio: float) -> None:
        before = self.living[block]
        scored = self._scores()[block]
        self.living[block] = top(scored, before, left_of(int(before.sum()), ratio))
        self.trainer.remask(self.elements.masks(self.living))

    def _scores(self) -> Mapping[str, Tensor]:
        assert self.unit.prune is not None
        masks = self.elements.masks(self.living)
        generator = stream("criterion", self.unit.seed, self.unit.cycle, self.unit.repeat)
        images = FeedImages(self.feed, self.shape)
        scoring = Scoring(self.elements.weights, masks, self.model, generator, images, None, self.elements.filters)
        return scores(self.unit.prune.criterion, self.elements, scoring)

    def _freeze(self, share: float, ratio: float) -> Training:
        """Freeze the share of the layers that the probe changes least; without a share there is no probe."""
        before = prunable(self.model)
        count = math.floor(share * len(before))
        if not count:
            return
        probe = self._copy()
        first = next(iter(self.living))
        probe._prune(first, ratio)
        yield from _fine_tune(probe.trainer, self.unit.epochs)
        # The probe is part of the unit's cost, and its epochs are not drawn again.
        for name in ("epoch", "step", "seconds", "peak"):
            setattr(self.trainer, name, getattr(probe.trainer, name))
        if probe.trainer.diverged is None:
            changes = layer_changes(before, prunable(probe.model))
            self.trainer.freeze(sorted(changes, key=lambda name: changes[name])[:count])

    def _copy(self) -> IceLoop:
        model = copy.deepcopy(self.model)
        elements = PrunableElements(
            {name: dict(model.named_parameters())[name] for name in self.elements.weights},
            self.elements.filters,
            dict(model.named_parameters()),
        )
        masks = elements.masks(self.living)
        trainer = Trainer(self.trainer.unit, model, masks, self.feed, self.trainer.max_lr, self.trainer.classes)
        return replace(self, model=model, elements=elements, living=dict(self.living), trainer=trainer)


def left_of(filters: int, ratio: float) -> int:
    """Filters that a block keeps of so many: ceil(ratio · filters) go, but never the last."""
    # A product such as 0.2 · 5 must not be rounded up for its last bit.
    return max(1, filters - math.ceil(round(ratio * filters, 9)))


def layer_changes(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, float]:
    """|‖W‖₁ after − ‖W‖₁ before| / ‖W‖₂ before, by layer; 0 where there is nothing left."""
    return {
        name: abs(float(after[name].detach().abs().sum()) - float(weight.detach().abs().sum()))
        / (float(weight.detach().norm()) or 1.0)
        for name, weight in before.items()
    }


def _fine_tune(trainer: Trainer, epochs: int) -> Training:
    for _ in range(epochs):
        if trainer.diverged is None:
            yield trainer.run_epoch()
