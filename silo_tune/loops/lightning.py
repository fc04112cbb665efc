"""Cycles of pruning in a Trainer of Lightning: `pip install 'silo-tune[lightning]'`."""

from __future__ import annotations

from typing import Any

from silo_tune.errors import BadInput
from silo_tune.loops.pruner import Pruner
from silo_tune.loops.silo_lr import the_silo_lr

try:
    from lightning.pytorch import Callback
except ImportError:
    raise BadInput("silo_tune.loops.lightning needs an extra: pip install 'silo-tune[lightning]'") from None


class SiloCallback(Callback):  # type: ignore[misc]
    """Prunes where the cycle of the module's `SiloLR` is done and a further batch is to be trained.

    `configure_optimizers` returns the SiloLR as `lr_scheduler`, with the interval in which its steps are counted.
    Checkpoints hold masks and cycle; `fit(ckpt_path=…)` continues from one. Finish the pruner after the last `fit`.

    Args:
        pruner: of the LightningModule, or of a network in it.
        keep_momentum: as in `Pruner.next_cycle`.
    """

    def __init__(self, pruner: Pruner, keep_momentum: bool = False) -> None:
        self.pruner, self.keep_momentum = pruner, keep_momentum

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Raises BadInput unless the module has one SiloLR."""
        self._lr = the_silo_lr(config.scheduler for config in trainer.lr_scheduler_configs)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Prune before the first batch of a cycle: validation and checkpoints have seen the last one's end."""
        if self._lr.done:
            self.pruner.next_cycle(self._lr, keep_momentum=self.keep_momentum)

    def state_dict(self) -> dict[str, Any]:
        """The pruner's."""
        return self.pruner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The pruner's."""
        self.pruner.load_state_dict(state_dict)
