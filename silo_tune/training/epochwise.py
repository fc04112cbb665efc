"""One unit, epoch by epoch, for a scheduler that may stop, pause or clone it. Knows no Ray.

Only the validation images are looked at, and nothing is committed: what a scheduler chooses here never sees the test
images, and a run's own files stay as they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from silo_tune.errors import BadInput
from silo_tune.models.checkpoint import pack, unpack
from silo_tune.planner.unit import Unit
from silo_tune.pruning.masks import alive
from silo_tune.training.worker import Worker

STATE = "state.safetensors"


def at_rate(unit: Unit, config: Mapping[str, Any]) -> Unit:
    """The unit at the max_lr of a trial's config.

    Raises:
        BadInput: the config is anything but one rate above 0.
    """
    if set(config) != {"max_lr"}:
        raise BadInput(f"param_space: a trial of one cycle takes max_lr and nothing else, got {sorted(config)}")
    try:
        rate = float(config["max_lr"])
    except (TypeError, ValueError):
        rate = math.nan
    if not 0 < rate < math.inf:
        raise BadInput(f"param_space: max_lr is a rate above 0, got {config['max_lr']!r}")
    return Unit.from_spec(replace(unit, peak={"value": rate}).spec)


class Stepwise:
    """Trains a unit with a fixed peak, one epoch per step; its numbers are those of the unit in a run.

    Args:
        worker: has the data, and the run folder that holds the unit's parent.
        unit: the unit.

    Raises:
        BadInput: the study asks for something that its data or model cannot give.
    """

    def __init__(self, worker: Worker, unit: Unit) -> None:
        assert unit.peak is not None
        self._worker, self._unit = worker, unit
        self._rate = float(unit.peak["value"])
        # First epoch (from 0) → its rate: more than one after a clone went on at another rate.
        self._rates = {0: self._rate}
        self._trainer = worker.start(unit)

    def step(self) -> dict[str, Any]:
        """Train one epoch, and evaluate on validation.

        A rate that diverged has the accuracy and the loss of guessing, so that a scheduler can compare it.

        Returns:
            epoch (from 1), train_loss, val_score, val_loss, status (ok | diverged), max_lr, weights_remaining, key
            (of the unit that a run trains with these very numbers; None once rates were mixed) and done.

        Raises:
            Violation: a truth of the engine does not hold.
        """
        trainer = self._trainer
        if not trainer.finished:
            trainer.run_epoch()
        feed = self._worker.feed(self._unit)
        good, scores = trainer.diverged is None, trainer.guess
        if good:
            measured = self._worker.evaluate(self._unit, trainer, feed.val)
            good = math.isfinite(measured.loss)
            scores = (measured.score, measured.loss) if good else scores
        counted = self._worker.pruner_of(self._unit).counted(self._unit, trainer.model, trainer.masks)
        pure = len(self._rates) == 1
        if trainer.finished and pure:
            trainer.check_peak()
        return {
            "epoch": trainer.epoch,
            "train_loss": trainer.train_loss if math.isfinite(trainer.train_loss) else None,
            "val_score": scores[0],
            "val_loss": scores[1],
            "status": "ok" if good else "diverged",
            "max_lr": self._rate,
            "weights_remaining": alive(counted) / sum(mask.numel() for mask in counted.values()),
            "key": self._unit.key if pure else None,
            "done": trainer.finished,
        }

    def save(self, folder: str) -> None:
        """Write the state into a folder: weights, masks, optimizer buffers, and where the training stands."""
        groups, meta = self._trainer.state()
        own = {"cycle": self._cycle(), "rates": list(self._rates.items()), "diverged": self._trainer.diverged}
        Path(folder, STATE).write_bytes(pack(groups, {**meta, "stepwise": json.dumps(own)}))

    def load(self, folder: str) -> None:
        """Go on from a saved state of this cycle, bit-identically; at this unit's rate if it was saved at another.

        Raises:
            ValueError: it is the state of another cycle, seed, parent or setting, or of another number of threads.
        """
        groups, meta = unpack(Path(folder, STATE).read_bytes())
        saved = json.loads(meta["stepwise"])
        if saved["cycle"] != self._cycle():
            raise ValueError("this state was saved by a trial of another cycle, replicate, parent or study")
        if self._trainer.step > 0:
            self._trainer = self._worker.start(self._unit)
        self._trainer.restore(groups, {**meta, "unit": self._unit.key})  # a clone's rate makes it another unit
        self._trainer.diverged = saved["diverged"]
        self._rates = dict(saved["rates"])
        if self._rates[max(self._rates)] != self._rate:
            self._rates[self._trainer.epoch] = self._rate

    def _cycle(self) -> str:
        """What all trials of one cycle share: the key of its unit without a peak."""
        return replace(self._unit, peak=None).key
