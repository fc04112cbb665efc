"""Pipelines on the torch side: ICE-Pruning's cycle, and what carries a training over from one part to the next.

Sources: ICE-Pruning (2025), read in its public code, whose scripts for ResNet-152 on CIFAR-10 are followed point by
point (what is done otherwise here: `study.pipelines.ICE_DEVIATIONS`); Roy, Panda et al. 2020 (arXiv 2003.02800), its
abstract.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from silo_tune.data.example_feed import AnyFeed
from silo_tune.errors import BadInput, Violation
from silo_tune.models.checkpoint import load_weights
from silo_tune.planner.unit import Unit
from silo_tune.pruning.criteria.scoring import Scoring, in_mode
from silo_tune.pruning.filters import NORMALISATIONS
from silo_tune.pruning.layers import CONVOLUTIONS
from silo_tune.pruning.masks import Masks, PrunableElements, top
from silo_tune.pruning.prune_step import FeedExamples, UnitPruner, few_images, parent_masks, scores
from silo_tune.schedules.peaks import rate_at_share
from silo_tune.seeds import stream
from silo_tune.study.pipelines import ICE_VERSION
from silo_tune.tasks.distilled import Distilled
from silo_tune.tasks.seam import Task
from silo_tune.tasks.supervised import Supervised
from silo_tune.training.trainer import EpochLog, Trainer, evaluate

Training = Generator[EpochLog, None, None]
Groups = dict[str, dict[str, Tensor]]
WEIGHED = (nn.Linear, *CONVOLUTIONS)


def is_loop(unit: Unit) -> bool:
    """Does the unit have an inner loop of its own, instead of one prune and one training?"""
    return unit.pipeline is not None and unit.pipeline["name"] in ("ice", "boosting")


def carries(unit: Unit) -> bool:
    """Does the unit's training continue where its parent's stood, momentum included?"""
    return unit.pipeline is not None and unit.pipeline["name"] == "while-training"


@dataclass
class IceLoop:
    """One cycle of ICE-Pruning.

    The blocks are walked in the network's order: those layers whose filters can be removed alone, so the first
    convolution of each block of a ResNet. Of each, the ceil(ratio · filters) that score lowest go. Where validation
    accuracy has then lost `threshold` or more against the dense network, all of the network is fine-tuned for the
    unit's epochs (one, as published), but for the frozen layers: with a new optimizer, at the rate of the weights that
    are left just then, and with the dense network as teacher. Validation decides, never test.

    Frozen are the layers that change least in a probe, and the batch norms behind them: on a copy of the network, which
    is thrown away, the first block is pruned and fine-tuned.

    Attributes:
        unit, model, feed: as in training; the model holds the parent's weights.
        elements, living: filters of each block, and which of them are alive; `living` shrinks.
        declared: filters that each block shall have at the end.
        trainer: of all fine-tuning of this cycle.
        dense_accuracy: on validation, of the dense network.
        shape: (H, W, C) of an image.
        walked: blocks that are done.
        frozen: layers that are frozen; None before the probe.
    """

    unit: Unit
    model: nn.Module
    feed: AnyFeed
    elements: PrunableElements
    living: Masks
    declared: Mapping[str, int]
    trainer: Trainer
    dense_accuracy: float
    shape: tuple[int, ...]
    walked: int = 0
    frozen: list[str] | None = None
    save: Callable[[], None] = field(default=lambda: None, repr=False)

    @classmethod
    def begin(
        cls,
        unit: Unit,
        model: nn.Module,
        parent: Mapping[str, Any],
        pruner: UnitPruner,
        feed: AnyFeed,
        task: Task,
        dense_accuracy: float,
        teacher: nn.Module,
    ) -> IceLoop:
        """Stand ready to walk; the model holds the parent's weights, and the teacher those of the dense network.

        Raises:
            BadInput: the unit is of a version of the pipeline that is trained no more.
        """
        assert unit.pipeline is not None
        version = unit.pipeline.get("version", 1)
        if version != ICE_VERSION:
            raise BadInput(
                f"pipeline: version {version} of ICE-Pruning is trained no more, this is version {ICE_VERSION}; choose "
                f"another --out (what was trained stays readable), or resume with the version that began the run"
            )
        elements = pruner.elements(unit, model)
        living = elements.alive(parent_masks(elements, parent.get("mask", {})))
        declared = {block: left_of(int(mask.sum()), unit.pipeline["ratio"]) for block, mask in living.items()}
        # The network is trained already: every epoch is judged by the rule of divergence, as in a budget of one.
        assert isinstance(task, Supervised)
        distilled = Distilled.of(task, teacher)
        trainer = Trainer(replace(unit, epochs=1), model, elements.masks(living), feed, 1.0, distilled)
        return cls(unit, model, feed, elements, living, declared, trainer, dense_accuracy, pruner.shape)

    def walk(self) -> Training:
        """Prune every block and fine-tune where it is needed; `save` is called where the cycle can be resumed from.

        Raises:
            Violation: a block has lost another number of filters than its share, or a fine-tune had another rate.
        """
        assert self.unit.pipeline is not None
        if self.frozen is None:
            yield from self._freeze(self.unit.pipeline["freeze"])
        for block in list(self.declared)[self.walked :]:
            self._prune(block)
            self.walked += 1
            accuracy = evaluate(self.trainer.task, self.model, self.feed, self.feed.val).score
            if self.dense_accuracy - accuracy >= self.unit.pipeline["threshold"]:
                yield from self._fine_tune(self.rate())
                if self.walked < len(self.declared):
                    self.save()
            if self.trainer.diverged is not None:
                return
        kept = {block: int(mask.sum()) for block, mask in self.living.items()}
        if kept != self.declared:
            raise Violation(f"filters alive are {kept}, {dict(self.declared)} were declared")

    # --- the rate ---

    def rate(self) -> float:
        """The rate of a fine-tune that begins now."""
        peak = self.unit.peak
        assert peak is not None
        if "value" in peak:
            return float(peak["value"])
        return rate_at_share(share_left(self.elements, self.living, counted_layers(self.model)), **peak["args"])

    @property
    def epoch(self) -> int:
        """Epochs that were trained, the probe's included."""
        return self.trainer.epoch

    @property
    def kept(self) -> Groups:
        """What the unit's state holds beside weights and masks."""
        return {}

    @property
    def highest(self) -> float:
        """The highest rate of a fine-tune; where none was needed, the one that a fine-tune would have now."""
        return self.trainer.peak or self.rate()

    def _top(self) -> float:
        """The upper end of the S, which is ICE's base."""
        peak = self.unit.peak
        assert peak is not None
        return float(peak["value"] if "value" in peak else peak["args"]["eps"] + peak["args"]["delta"])

    def _fine_tune(self, rate: float) -> Training:
        self.trainer.begin_anew(rate)
        for _ in range(self.unit.epochs):
            if self.trainer.diverged is None:
                yield self.trainer.run_epoch()
        given = self.trainer.optimizer.param_groups[0]["lr"]
        if given != rate:
            raise Violation(f"the optimizer was given {given}, not {rate}")

    # --- prunes ---

    def _prune(self, block: str) -> None:
        scored = self._scores()[block]
        self.living[block] = top(scored, self.living[block], self.declared[block])
        self.trainer.remask(self.elements.masks(self.living))

    def _scores(self) -> Mapping[str, Tensor]:
        assert self.unit.prune is not None
        masks = self.elements.masks(self.living)
        generator = stream("criterion", self.unit.seed, self.unit.cycle, self.unit.repeat)
        images = FeedExamples(self.feed, self.shape, self.trainer.task)
        scoring = Scoring(self.elements.weights, masks, self.model, generator, images, None, self.elements.filters)
        return scores(self.unit.prune.criterion, self.elements, scoring)

    # --- the probe ---

    def _freeze(self, share: float) -> Training:
        """Freeze the share of the blocks' layers that the probe changes least; without a share there is no probe."""
        layers = layers_of_blocks(self.model, self.elements)
        count = ceil_of(share, len(layers))
        self.frozen = []
        if not count:
            return
        original = {name: value.detach().clone() for name, value in weights_of(self.model).items()}
        probe = self._copy()
        probe._prune(next(iter(probe.living)))
        pruned = {name: value.detach().clone() for name, value in weights_of(probe.model).items()}
        yield from probe._fine_tune(self._top())
        # The probe is part of the unit's cost, and its epochs are not drawn again.
        for name in ("epoch", "step", "seconds"):
            setattr(self.trainer, name, getattr(probe.trainer, name))
        if probe.trainer.diverged is None:
            changes = layer_changes(original, pruned, weights_of(probe.model))
            self.frozen = sorted(layers, key=lambda name: changes[name])[:count]
        self._hold()
        self.save()

    def _hold(self) -> None:
        """Freeze `frozen`: weights, biases, and scales and shifts of the batch norms behind them."""
        behind = norms_behind(self.model, few_images(self.feed))
        modules = [module for name in self.frozen or () for module in (_module(name), *behind.get(_module(name), ()))]
        names = [f"{module}.{part}" for module in modules for part in ("weight", "bias")]
        self.trainer.freeze(name for name in names if name in self.trainer.parameters)

    def _copy(self) -> IceLoop:
        model = copy.deepcopy(self.model)
        parameters = dict(model.named_parameters())
        weights = {name: parameters[name] for name in self.elements.weights}
        elements = PrunableElements(weights, self.elements.filters, parameters)
        trainer = Trainer(self.trainer.unit, model, elements.masks(self.living), self.feed, 1.0, self.trainer.task)
        return replace(self, model=model, elements=elements, living=dict(self.living), trainer=trainer)

    # --- state ---

    def state(self) -> tuple[Groups, dict[str, str]]:
        """Weights and masks after a block, and where the walk stands. The next fine-tune has a new optimizer."""
        groups, meta = self.trainer.state()
        walk = {"walked": str(self.walked), "frozen": "\n".join(self.frozen or ())}
        return {"weights": groups["weights"], "mask": groups["mask"]}, {**meta, **walk}

    def restore(self, groups: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, str]) -> None:
        """Go on from a state. Raises KeyError, ValueError or RuntimeError when it does not fit."""
        self.trainer.require_written_here(meta)
        self.trainer.require_layout(groups, 0, 0)
        walked, frozen = int(meta["walked"]), meta["frozen"].split("\n") if meta["frozen"] else []
        living = self.elements.alive(groups["mask"])
        at_block = {n: self.declared[n] if i < walked else int(self.living[n].sum()) for i, n in enumerate(self.living)}
        if {name: int(mask.sum()) for name, mask in living.items()} != at_block:
            raise ValueError(f"its filters are not those of a walk after {walked} blocks")
        if not set(frozen) <= set(layers_of_blocks(self.model, self.elements)):
            raise ValueError("it froze a layer that the network does not have")
        load_weights(self.model, groups["weights"])
        self.trainer.require_finite()
        self.walked, self.frozen, self.living = walked, frozen, living
        self.trainer.remask(self.elements.masks(living))
        self.trainer.stand(meta)
        self._hold()


# --- counts and shares ---


def ceil_of(share: float, count: int) -> int:
    """ceil(share · count). A product such as 0.28 · 25 is not rounded up for its last bit."""
    return math.ceil(round(share * count, 9))


def left_of(filters: int, ratio: float) -> int:
    """Filters that a block keeps of so many: ceil(ratio · filters) go, but never the last."""
    return max(1, filters - ceil_of(ratio, filters))


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def weights_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of linear and convolution layers by name, in the network's order, whatever [prune] leaves out."""
    parameters = dict(model.named_parameters())
    names = (f"{name}.weight" for name, module in model.named_modules() if isinstance(module, WEIGHED))
    return {name: parameters[name] for name in names if name in parameters}


def layers_of_blocks(model: nn.Module, elements: PrunableElements) -> list[str]:
    """Names of the weights of a network's blocks, in its order: of layers that lose filters and of those that read
    them, but for the network's last layer. Of a ResNet, the convolutions of its blocks."""
    readers = {f"{reader}.weight" for filters in elements.filters.values() for reader in filters.readers}
    layers = list(weights_of(model))
    return [name for name in layers[:-1] if name in readers or name in elements.filters]


def counted_layers(model: nn.Module) -> list[str]:
    """Names of the weights whose share is what is left: convolutions wider than 1×1 but the first, as in the public
    code; where a network has none, all prunable layers."""
    layers = weights_of(model)
    wide = [name for name, weight in layers.items() if weight.dim() == 4 and weight.shape[-1] > 1]
    return wide[1:] or list(layers)


def share_left(elements: PrunableElements, living: Mapping[str, Tensor], layers: Sequence[str]) -> float:
    """Share of these layers' weights that is left where filters go with the channels that they give to their readers.

    Args:
        elements: the network's filters.
        living: by layer, which of its filters are alive.
        layers: names of the weights that count.
    """
    masks, channels = elements.masks(living), _channels(elements, living)
    left = total = 0
    for name in layers:
        weight = elements.parameters[name]
        rows = int(masks[name].flatten(1).any(1).sum()) if name in masks else weight.shape[0]
        read = int(channels[name].sum()) if name in channels else weight.shape[1]
        left += rows * read * weight[0, 0].numel()
        total += weight.numel()
    return left / total


def _channels(elements: PrunableElements, living: Mapping[str, Tensor]) -> Masks:
    """By reader, which of its input channels come from living filters."""
    found: Masks = {}
    for name, filters in elements.filters.items():
        for reader, where in filters.readers.items():
            weight = elements.parameters[f"{reader}.weight"]
            mask = found.setdefault(f"{reader}.weight", torch.ones(weight.shape[1], dtype=torch.bool))
            mask[where[~living[name]].flatten()] = False
    return found


def layer_changes(
    original: Mapping[str, Tensor], before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> dict[str, float]:
    """|‖W‖₁ after − ‖W‖₁ before| / ‖W‖₂ of the original, by layer; 0 where there is nothing.

    Args:
        original: weights before the probe's prune.
        before, after: weights before and after its fine-tune.
    """
    return {
        name: abs(_l1(after[name]) - _l1(before[name])) / (float(weight.detach().norm()) or 1.0)
        for name, weight in original.items()
    }


def _l1(weight: Tensor) -> float:
    return float(weight.detach().abs().sum())


@torch.no_grad()
def norms_behind(model: nn.Module, images: Tensor) -> dict[str, list[str]]:
    """Module name of a linear or convolution layer → those of the batch norms that are given its output as it is.

    Args:
        model: left as it is, the random state too.
        images: (N, C, H, W); two are enough.
    """
    made: list[tuple[Tensor, str]] = []  # holds the tensors: another one must not get their place in memory
    found: dict[str, list[str]] = {}

    def hear(norm: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            for layer in (layer for output, layer in made if output is inputs[0]):
                found.setdefault(layer, []).append(norm)

        return hook

    handles = list(_hooks(model, made, hear))
    try:
        with torch.random.fork_rng(devices=[]), in_mode(model, training=False):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _hooks(
    model: nn.Module, made: list[tuple[Tensor, str]], hear: Callable[[str], Callable[..., None]]
) -> Iterator[Any]:
    for name, module in model.named_modules():
        if isinstance(module, WEIGHED):
            yield module.register_forward_hook(lambda _, inputs, output, name=name: made.append((output, name)))
        elif isinstance(module, NORMALISATIONS):
            yield module.register_forward_pre_hook(hear(name))
