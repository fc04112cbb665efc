"""Of any kind of data: test targets that are drawn anew change test columns alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from silo_tune.api import run_study
from silo_tune.study.study_file import parse_study
from tests.conftest import small_table

N, TESTED = 200, 40
DATA = "tests.test_leaks:items"


class Items(torch.utils.data.Dataset[Any]):
    def __init__(self, inputs: Any, targets: Any) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> Any:
        return torch.from_numpy(self.inputs[row]), int(self.targets[row])


def numbers(seed: int, kind: str) -> dict[str, Any]:
    """Training and test part; the targets of the test part by the seed."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(N + TESTED, 5)).astype(np.float32)
    means = {"regression": inputs[:, :2] @ np.array([1.0, -2.0]), "multilabel": (inputs[:, :3] > 0).astype(np.int64)}
    targets = means.get(kind, (inputs[:, 0] > 0).astype(np.int64))
    tested = np.random.default_rng(seed).permutation(targets[N:])
    return {"train": inputs[:N], "train_labels": targets[:N], "test": inputs[N:], "test_labels": tested}


def items(seed: int) -> dict[str, Any]:
    of = numbers(seed, "classification")
    return {part: Items(of[part], of[f"{part}_labels"]) for part in ("train", "test")}


def arrays(place: Path, seed: int, kind: str) -> dict[str, Any]:
    file = place / f"{kind}-{seed}.npz"
    np.savez(file, **numbers(seed, kind))
    return {"data": {"name": "arrays", "path": str(file)}, "task": kind, "model": {"name": "mlp", "widths": [8]}}


def of_items(place: Path, seed: int, kind: str) -> dict[str, Any]:
    data = {"function": DATA, "version": "1", "args": {"seed": seed}}
    return {"data": data, "model": {"name": "mlp", "widths": [8]}}


def tokens(place: Path, seed: int, kind: str) -> dict[str, Any]:
    """A text whose last fifth is drawn by the seed."""
    ids = np.random.default_rng(0).integers(0, 20, 2000)
    ids[-370:] = np.random.default_rng(seed).integers(0, 20, 370)
    np.save(place / f"{seed}.npy", ids)
    data = {"name": "tokens", "path": str(place / f"{seed}.npy"), "block": 8}
    return {"data": data, "task": {"name": kind, "classes": 20}, "model": {"name": "gpt", "width": 8, "depth": 1}}


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (arrays, "regression"),
        (arrays, "binary"),
        (arrays, "multilabel"),
        (of_items, "classification"),
        (tokens, "language-model"),
    ],
)
def test_random_test_targets_change_test_columns_alone(
    make: Callable[[Path, int, str], dict[str, Any]], kind: str, tmp_path: Path
) -> None:
    def run(seed: int) -> Any:
        study = small_table(cycles=2, report={"tolerance": 0.1})
        study["arms"] = {"silo": study["arms"]["silo"]}
        made = parse_study({**study, **make(tmp_path, seed, kind)})
        return run_study(made, str(tmp_path / f"run-{seed}"), local=True).frame

    one, other = run(1), run(2)
    assert (one.status == "ok").all()
    told = ["key", "parent"] if make is of_items else []  # arguments of a function are in a key
    same = [name for name in one.columns if not name.startswith("test_") and name not in ("train_seconds", *told)]
    assert one[same].equals(other[same])
    assert not one.test_loss.equals(other.test_loss)
