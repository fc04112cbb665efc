"""The row: its columns, their types and meanings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from silo_tune.study.model import Study

# One row is one unit's outcome as one chain uses it. A cell is null, never 0, where there is nothing.
COLUMNS: dict[str, tuple[str, str]] = {
    "arm": ("string", "name of the arm"),
    "mode": ("string", "schedule | oracle | tune, or pilot for the trials of a schedule arm's pilot"),
    "seed": ("Int64", "replicate"),
    "trial": ("Int64", "trial of a search over whole chains (tune, pilot), else null"),
    "cycle": ("Int64", "0 is dense"),
    "candidate": ("Int64", "position among the cycle's candidates"),
    "repeat": ("Int64", "0, or the number of a training with other random streams"),
    "max_lr": ("Float64", "peak learning rate, resolved"),
    "peak_rule": ("string", "rule that resolved it, null for a fixed peak"),
    "asked": ("boolean", "a rate of the arm's own search (false: only a tested arm's value)"),
    "tests": ("string", "arms whose own value this is, comma-separated"),
    "status": ("string", "ok | diverged | failed"),
    "error": ("string", "why, unless ok"),
    "sparsity": ("Float64", "fraction of prunable weights pruned, in [0, 1]"),
    "weights_remaining": ("Float64", "1 - sparsity, as counted"),
    "prunable": ("Int64", "weights of the network that can be pruned, in prune.layers and not in prune.skip"),
    "parameters": ("Int64", "all parameters of the network"),
    "score": ("string", "name of the score: what the network is judged by, accuracy unless [task] says otherwise"),
    "val_score": ("Float64", "on the validation split: the only one that chooses; a share is in [0, 1]"),
    "val_loss": ("Float64", "mean loss of the task on the validation split, cross-entropy in nats unless said"),
    "n_val": ("Int64", "validation examples"),
    "test_score": ("Float64", "on the test split: never used to choose"),
    "test_loss": ("Float64", "mean loss on the test split, null where test_score is the best of several epochs"),
    "n_test": ("Int64", "test examples"),
    "train_loss": ("Float64", "mean loss of the last epoch"),
    "guess_score": ("Float64", "of the best constant prediction; null where that is 1 / classes"),
    "guess_loss": ("Float64", "of the best constant prediction; null where that is ln(classes)"),
    "classes": ("Int64", "number of classes"),
    "epochs": ("Int64", "epochs of this trial"),
    "steps": ("Int64", "optimizer steps of this trial"),
    "train_seconds": ("Float64", "wall seconds of training on its worker"),
    "key": ("string", "identity of the trial"),
    "parent": ("string", "key of the trial it started from, null at cycle 0"),
    "winner": ("boolean", "the best candidate of its cycle on validation"),
    "continued": (
        "boolean",
        "where that is not the winner: the next cycle's parent, or the winner's second training, whatever came of it",
    ),
    "shared_with": ("string", "first arm of the study that owns the key, null when it is this one"),
    "realised_peak_lr": ("Float64", "largest learning rate that the optimizer was given"),
    "grad_spread": ("Float64", "standard deviation of the loss gradient over surviving weights, in nats per unit"),
    "activation_spread": (
        "Float64",
        "standard deviation of hidden representations before normalisation, mean over layers",
    ),
    "activation_spread_norm": ("Float64", "after normalisation; null where the network has none"),
    "device": ("string", "kind of the CPU and of its vector units, or the GPU's name"),
    "mixed": (
        "boolean",
        "units of this seed were trained on more than one kind of device: not comparable to the last bit",
    ),
    "version": ("string", "silo-tune version that trained it"),
}


def also_columns(study: Study) -> Iterator[tuple[str, str, str]]:
    """Column, part and score of each further score of a study (`task.also`): `also_val_log_loss`."""
    for name in study.task.also if study.task is not None else ():
        for part in ("val", "test"):
            yield f"also_{part}_{name.replace('-', '_')}", part, name


def columns_of(study: Study) -> dict[str, tuple[str, str]]:
    """`COLUMNS`, and those of the further scores."""
    return {**COLUMNS, **{column: ("Float64", f"{name} on {part}") for column, part, name in also_columns(study)}}


# The same work on the same machine kind gives equal tables, but for these.
UNSTABLE = ("train_seconds", "device", "mixed")

# Version of the columns, in the metadata of a table's file; a table without it is of the first, which has the names of
# `planner.outcome.EARLIER`.
FORMAT = 2
FORMAT_KEY = b"silo_tune.table"
# Columns that tables of earlier versions do not have. They are null there.
LATER = ("activation_spread_norm", "mixed", "prunable", "parameters", "score", "test_loss", "guess_score", "guess_loss")
# What makes a row one row.
IDENTITY = ("arm", "seed", "trial", "cycle", "candidate", "repeat")
