"""Do gradients narrow as weights are pruned, layer by layer? Runs gradients.toml for eight networks and measures.

    PYTHONPATH=experiments/gradients python experiments/gradients/by_layer.py runs/gradients

resumes, and writes by_layer.csv and slopes.csv there. What is measured: the gradient of the mean training loss over
1,024 training images of the seed, at the end of every cycle's retraining, in evaluation mode; per layer the standard
deviation over its surviving weights. Per layer, arm and seed the slope is that of log spread against log weights
remaining (of that layer) over cycles ≥ 1, by least squares: above 0 gradients narrow as weights go. slopes.csv has its
median over seeds and the 95 % interval. The study's own report measures all layers together.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import gradient_networks
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from silo_analysis.estimates.typical import paired_interval
from silo_tune import load_study, run_study
from silo_tune.data.load import load_data
from silo_tune.data.sets import split_rows
from silo_tune.export.chosen_unit import weights_of
from silo_tune.models.build import build_model
from silo_tune.models.checkpoint import load_weights
from silo_tune.store.run_folder import Run
from silo_tune.study.model import Study

STUDY = Path(__file__).parent / "gradients.toml"
IMAGES = 1024
NETWORKS = list(product(("dense", "conv"), ("relu", "gelu"), (False, True)))
CELL = ["network", "activation", "norm", "arm", "layer"]


def main(out: Path) -> None:
    cells = []
    for network, activation, norm in NETWORKS:
        name = f"{network}-{activation}{'-norm' if norm else ''}"
        study = load_study(
            STUDY,
            [
                f"name={name}",
                f"model.function=gradient_networks:{network}",
                f"model.activation={activation}",
                f"model.norm={str(norm).lower()}",
            ],
        )
        run_study(study, str(out / name), local=True)
        which = {"network": network, "activation": activation, "norm": norm}
        cells += [which | row for row in spreads(study, Run(str(out / name)))]
        print(f"{name}: done", flush=True)
    frame = pd.DataFrame(cells)
    frame.to_csv(out / "by_layer.csv", index=False, float_format="%.6g")
    slopes(frame).to_csv(out / "slopes.csv", index=False, float_format="%.3f")


def spreads(study: Study, run: Run) -> Iterator[dict[str, Any]]:
    """A row for each arm, seed, cycle and layer: its share of weights remaining, and the spread of their gradient."""
    images = load_data(study.data)
    for seed in study.replicates.seeds:
        rows = split_rows(images, study.data, seed).train
        pixels = torch.from_numpy(images.train[rows]).movedim(3, 1) / 255
        inputs = ((pixels - pixels.mean()) / pixels.std())[:IMAGES]
        labels = torch.from_numpy(images.train_labels[rows])[:IMAGES]
        for arm, cycle in product(study.arms, range(study.cycles)):
            _, state = weights_of(run, study, arm, seed, cycle)
            for layer, (left, spread) in by_layer(study, images.shape, state, inputs, labels).items():
                yield {"arm": arm, "seed": seed, "cycle": cycle, "layer": layer, "left": left, "spread": spread}


def by_layer(
    study: Study, shape: tuple[int, int, int], state: dict[str, dict[str, Tensor]], inputs: Tensor, labels: Tensor
) -> dict[str, tuple[float, float]]:
    """Layer → share of its weights that remain, and standard deviation of the gradient over them."""
    model = build_model(study.model.resolved(), shape, 10, seed=0)
    load_weights(model, state["weights"])
    model.eval()
    F.cross_entropy(model(inputs), labels).backward()
    found = {}
    for name, weight in gradient_networks.pruned(model).items():
        alive = state["mask"][name].bool()
        assert weight.grad is not None
        found[name] = (float(alive.float().mean()), float(weight.grad[alive].std(correction=0)))
    return found


def slopes(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per network, arm and layer: median over seeds of the slope, and its 95 % interval."""
    rows = []
    for cell, of in frame[frame["cycle"] > 0].groupby(CELL, sort=False):
        each = [np.polyfit(np.log(one["left"]), np.log(one["spread"]), 1)[0] for _, one in of.groupby("seed")]
        found = paired_interval(each)
        rows.append(dict(zip(CELL, cell, strict=True)) | {"slope": found.median, "low": found.low, "high": found.high})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
