"""Iterative boosting: stages of one network in sequence, whose predictions become inputs of the next.

Source: XDBoost (Livne et al. 2020, arXiv 2007.13087), its abstract; what is chosen beside it:
`study.pipelines.BOOSTING_CHOICES`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from silo_tune.data.arrays import Labels
from silo_tune.data.batches import Part
from silo_tune.data.example_feed import ExampleFeed
from silo_tune.models.checkpoint import load_weights
from silo_tune.planner.unit import Unit
from silo_tune.pruning.masks import Masks
from silo_tune.tasks.supervised import Supervised
from silo_tune.training.trainer import EpochLog, Trainer

Training = Generator[EpochLog, None, None]
Groups = dict[str, dict[str, Tensor]]
Columns = dict[str, Tensor]
PARTS = ("train", "val", "test")
COUNTED = ("made", "steps", "rows", "seconds")


def is_boosted(unit: Unit) -> bool:
    """Does the unit train in stages?"""
    return unit.pipeline is not None and unit.pipeline["name"] == "boosting"


def columns_of(unit: Unit, outputs: int) -> int:
    """Numbers that the stages put beside an example's own; 0 of a unit without stages.

    Args:
        unit: the unit.
        outputs: numbers that its network gives of an example.
    """
    return (unit.pipeline["stages"] - 1) * outputs if unit.pipeline is not None and is_boosted(unit) else 0


def empty(feed: ExampleFeed, count: int) -> Columns:
    """So many columns of each part before there are predictions."""
    return {name: torch.zeros(len(getattr(feed, name)), count, device=feed.device) for name in PARTS}


@dataclass
class BoostingLoop:
    """The stages of one cycle.

    A stage trains the network on all training rows, with the predictions of the stages before it as inputs. So that its
    own predictions can be inputs too, it is also trained once for each fold, on the other folds alone: this network
    predicts the fold's rows, and is thrown away. Validation and test are predicted by the stage's own network.

    Attributes:
        unit, task, max_lr, masks: as in training, of all trainings.
        model: trained again and again; it stands as the cycle begins.
        feed: without columns.
        folds: positions in the training part.
        keep_previous: as of `Trainer`, of the last stage.
        columns: the predictions so far, by part.
        networks: of the stages that are done, "stage-1" and so on: weights, and mean and scale of what they predict.
        made, steps, rows, seconds: stages that are done, and what all trainings took; rows count once an epoch.
        trainer: of the training that is under way, or was last.
    """

    unit: Unit
    model: nn.Module
    masks: Masks
    feed: ExampleFeed
    folds: Sequence[Tensor]
    task: Supervised
    max_lr: float
    keep_previous: bool
    columns: Columns = field(init=False)
    networks: Groups = field(default_factory=dict)
    made: int = 0
    steps: int = 0
    rows: int = 0
    seconds: float = 0.0
    save: Callable[[], None] = field(default=lambda: None, repr=False)

    def __post_init__(self) -> None:
        self.begun = _copied(self.model)
        self._outputs = self.task.outputs or 1
        self.columns = empty(self.feed, columns_of(self.unit, self._outputs))
        self.trainer = self._trainer(self.feed.beside(self.columns), self.task)

    @property
    def highest(self) -> float:
        """The peak of every training."""
        return self.max_lr

    @property
    def epoch(self) -> int:
        """Passes over the training part."""
        return round(self.rows / len(self.feed.train))

    @property
    def kept(self) -> Groups:
        """What the unit's state holds beside the last network: to predict takes the stages before it too."""
        return {"columns": self.columns, **self.networks}

    def walk(self) -> Training:
        """Train stage after stage; `save` is called behind each.

        Raises:
            Violation: a training had another peak than the unit's.
        """
        assert self.unit.pipeline is not None
        while self.made < self.unit.pipeline["stages"] - 1 and self.trainer.diverged is None:
            yield from self._stage()
        if self.trainer.diverged is None:
            yield from self._train(self.feed.beside(self.columns), self.task)
        self.trainer.epoch, self.trainer.step, self.trainer.seconds = self.epoch, self.steps, self.seconds

    def _stage(self) -> Training:
        feed = self.feed.beside(self.columns)
        found = {name: torch.zeros(len(getattr(feed, name)), self._outputs, device=feed.device) for name in PARTS}
        for fold in self.folds:
            rest = _without(feed, fold)
            yield from self._train(rest, self.task.fit(rest.train.labels[rest.train.rows]))
            if self.trainer.diverged is not None:
                return
            found["train"][fold] = self._predicted(_only(feed.train, fold))
        yield from self._train(feed, self.task)
        if self.trainer.diverged is not None:
            return
        for name in ("val", "test"):
            found[name] = self._predicted(getattr(feed, name))
        here = slice(self.made * self._outputs, (self.made + 1) * self._outputs)
        mean, scale = moments(found["train"])
        for name, given in found.items():
            self.columns[name][:, here] = (given - mean) / scale
        self.made += 1
        self.networks[f"stage-{self.made}"] = {**_copied(self.model), "mean": mean, "scale": scale}
        self.save()

    def _train(self, feed: ExampleFeed, task: Supervised) -> Training:
        load_weights(self.model, self.begun)
        self.trainer = self._trainer(feed, task)
        while not self.trainer.finished:
            yield self.trainer.run_epoch()
        self.trainer.check_peak()
        self.steps += self.trainer.step
        self.rows += self.trainer.epoch * len(feed.train)
        self.seconds += self.trainer.seconds

    def _trainer(self, feed: ExampleFeed, task: Supervised) -> Trainer:
        return Trainer(self.unit, self.model, self.masks, feed, self.max_lr, task, keep_previous=self.keep_previous)

    @torch.inference_mode()
    def _predicted(self, part: Part) -> Tensor:
        """(rows, outputs): what the network just trained gives, in the unit of the targets."""
        task = self.trainer.task
        assert isinstance(task, Supervised)
        self.model.eval()
        given = [
            task.in_units(task.fitted(task.forward(self.model, batch), batch[1]))
            for batch in self.trainer.feed.batches(part)
        ]
        return torch.cat(given).reshape(len(part), -1).float()

    # --- state ---

    def state(self) -> tuple[Groups, dict[str, str]]:
        """The columns and networks so far; the next stage begins as the cycle did."""
        _, meta = self.trainer.state()
        return self.kept, {**meta, **{name: repr(getattr(self, name)) for name in COUNTED}}

    def restore(self, groups: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, str]) -> None:
        """Go on from a state. Raises KeyError, ValueError or RuntimeError when it does not fit."""
        self.trainer.require_written_here(meta)
        made, columns = int(meta["made"]), groups["columns"]
        networks = {f"stage-{stage + 1}" for stage in range(made)}
        shapes = {name: (column.shape, column.dtype) for name, column in self.columns.items()}
        if {name: (column.shape, column.dtype) for name, column in columns.items()} != shapes:
            raise ValueError("its columns are not those of the stages")
        if set(groups) != {"columns", *networks}:
            raise ValueError(f"it holds {', '.join(sorted(groups))} after {made} stages")
        self.columns = {name: column.to(self.feed.device) for name, column in columns.items()}
        self.networks = {name: dict(groups[name]) for name in networks}
        self.made, self.steps, self.rows = made, int(meta["steps"]), int(meta["rows"])
        self.seconds = float(meta["seconds"])


def moments(predicted: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column (rows, outputs); 1 where it is constant."""
    std = predicted.std(0, correction=0)
    return predicted.mean(0), torch.where(std > 0, std, 1.0)


def positions(rows: Tensor, folds: Sequence[Labels]) -> list[Tensor]:
    """Folds as positions in a part that holds these rows."""
    own = rows.cpu().numpy()
    return [torch.from_numpy(np.flatnonzero(np.isin(own, fold))).to(rows.device) for fold in folds]


def _without(feed: ExampleFeed, fold: Tensor) -> ExampleFeed:
    """The feed whose training part lacks these positions."""
    keep = torch.ones(len(feed.train), dtype=torch.bool, device=fold.device)
    keep[fold] = False
    return replace(feed, train=_only(feed.train, keep.nonzero().squeeze(1)))


def _only(part: Part, where: Tensor) -> Part:
    return replace(part, rows=part.rows[where])


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
