"""Cycles of pruning in a Trainer of Hugging Face: `pip install 'silo-tune[hf]'`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from silo_tune.errors import BadInput
from silo_tune.loops.pruner import Pruner
from silo_tune.loops.silo_lr import the_silo_lr
from silo_tune.models.checkpoint import pack, unpack

try:
    from transformers import TrainerCallback
except ImportError:
    raise BadInput("silo_tune.loops.hf_trainer needs an extra: pip install 'silo-tune[hf]'") from None

FILE = "silo_pruner.safetensors"


class SiloTrainerCallback(TrainerCallback):
    """Prunes where the cycle of the Trainer's `SiloLR` is done and a further step is to be made.

    The SiloLR, its steps counted in optimizer steps, goes to `Trainer(optimizers=(optimizer, lr))`. Each checkpoint has
    a file with masks and cycle; `train(resume_from_checkpoint=…)` continues from one in `output_dir`. Finish the pruner
    after the last `train`.

    Args:
        pruner: of the Trainer's model.
        keep_momentum: as in `Pruner.next_cycle`.
    """

    def __init__(self, pruner: Pruner, keep_momentum: bool = False) -> None:
        self.pruner, self.keep_momentum = pruner, keep_momentum

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raises BadInput unless the Trainer has one SiloLR, and where a checkpoint has no masks."""
        self._lr = the_silo_lr([kwargs["lr_scheduler"]])
        if state.global_step > 0:
            file = _place(args, state) / FILE
            if not file.is_file():
                raise BadInput(f"no file {str(file)!r}: the checkpoint was written without this callback, or elsewhere")
            groups, meta = unpack(file.read_bytes())
            masks, point = groups["mask"], groups.get("rewind_point")
            self.pruner.load_state_dict({"cycle": int(meta["cycle"]), "masks": masks, "rewind_point": point})

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prune before the first step of a cycle: evaluation and checkpoints have seen the last one's end."""
        if self._lr.done:
            self.pruner.next_cycle(self._lr, keep_momentum=self.keep_momentum)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put masks and cycle beside the weights."""
        if state.is_world_process_zero:
            now = self.pruner.state_dict()
            groups = {"mask": now["masks"], "rewind_point": now["rewind_point"] or {}}
            (_place(args, state) / FILE).write_bytes(pack(groups, {"cycle": str(now["cycle"])}))


def _place(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
