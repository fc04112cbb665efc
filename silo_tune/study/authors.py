"""The study preset "authors-2023": the authors' public scripts, their deviations listed and switchable one by one.

A deviation is what a correct version would not repeat. Read from `resnet_20_cifar_10.py` and `vgg_19_cifar_10.py` of
the authors' repository (Martin1937/SILO on GitHub); no code of it is here. Two things cannot be switched. Nothing is
seeded there, and here every replicate is. The mask there is read off the weights that are exactly zero, which gives the
same mask unless a living weight becomes exactly zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from silo_tune.errors import unknown
from silo_tune.schedules.peaks import Silo, pruned_fractions
from silo_tune.study.parts import StudyPreset

Table = dict[str, Any]

NAME = "authors-2023"
CYCLES, RATE, BATCH = 25, 0.2, 64
IMAGES = 60_000  # CIFAR-10, training and test part together
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]


@dataclass(frozen=True)
class Script:
    """What the two scripts differ in.

    Attributes:
        model: the network.
        eps, delta: of SILO.
        epochs: of every cycle, the dense one included.
        profile: the shape that is meant.
        ramp: the shape that comes out: a ramp in steps, drops in epochs.
        criterion, scope: of the prune.
    """

    model: str
    eps: float
    delta: float
    epochs: int
    profile: str
    ramp: Mapping[str, Any]
    criterion: str
    scope: str


SCRIPTS = {
    "resnet20": Script(
        "resnet20",
        0.03,
        0.04,
        50,
        "warmup-drop",
        {"steps": 20_000, "drops": [25 / 50, 32 / 50]},
        "last-change",
        "global",
    ),
    "vgg19": Script(
        "vgg19",
        0.04,
        0.06,
        160,
        "warmup-drop-vgg",
        {"steps": 10_000, "plateau": 14 / 160, "drops": [80 / 160, 120 / 160]},
        "last-change-magnitude",
        "layerwise",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Deviation:
    """One thing that the scripts do and a correct version would not.

    Attributes:
        line: what it is.
        change: values at dotted keys of the study, of a script and the number of its run; none where it does not show.
    """

    line: str
    change: Callable[[Script, int], Table]


def fill_preset(table: Mapping[str, Any]) -> Table:
    """The study's table with its `preset` filled in; what the study writes wins.

    Raises:
        ValueError: an unknown preset, network or deviation.
    """
    given = table.get("preset")
    asked = {"name": given} if isinstance(given, str) else dict(given) if isinstance(given, Mapping) else {}
    if "name" not in asked:
        return dict(table)
    if asked["name"] != NAME:
        raise ValueError(unknown("preset of a study", str(asked["name"]), [NAME]))
    preset = _checked(asked)
    network, run, without = preset.network, preset.run, preset.without
    script = SCRIPTS[network]
    filled = _correct(script)
    for name, deviation in DEVIATIONS.items():
        if name not in without:
            for key, value in deviation.change(script, run).items():
                _put(filled, key.split("."), value)
    return _merged(filled, {**table, "preset": {**asked, "network": network, "run": run, "without": list(without)}})


def _checked(asked: Mapping[str, Any]) -> StudyPreset:
    """The [preset] table. Raises ValueError for what is wrong in it."""
    if asked.get("network", "resnet20") not in SCRIPTS:
        raise ValueError(unknown("network", str(asked["network"]), SCRIPTS))
    try:
        preset = StudyPreset.model_validate(asked)
    except ValidationError as error:
        told = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ValueError("; ".join(told)) from None
    for name in preset.without:
        if name not in DEVIATIONS:
            raise ValueError(unknown("deviation", name, DEVIATIONS))
    return preset


def _correct(script: Script) -> Table:
    """The scripts' settings without their deviations."""
    return {
        "cycles": CYCLES,
        "data": {"name": "cifar10", "augment": ["crop", "flip"]},
        "model": {"name": script.model},
        "dense": {"epochs": script.epochs, "max_lr": script.eps, "profile": script.profile},
        "prune": {"rate": RATE},
        "retrain": {
            "epochs": script.epochs,
            "batch": BATCH,
            "profile": script.profile,
            "optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4},
        },
        "replicates": {"seeds": [1, 2, 3, 4, 5]},
        "arms": {"silo": {"mode": "schedule", "schedule": {"name": "silo", "eps": script.eps, "delta": script.delta}}},
    }


def _put(table: Table, path: list[str], value: Any) -> None:
    for key in path[:-1]:
        table = table.setdefault(key, {})
    table[path[-1]] = value


def _merged(filled: Mapping[str, Any], written: Mapping[str, Any]) -> Table:
    """Sections are merged key by key; a key, an arm, another network and anything nested deeper is taken whole."""
    model = written.get("model")
    if isinstance(model, str) or (isinstance(model, Mapping) and model.get("name") != filled["model"]["name"]):
        filled = {**filled, "model": {}}
    both = {
        key: {**_beside(key, filled[key], written[key]), **written[key]}
        for key in filled
        if isinstance(filled[key], dict) and isinstance(written.get(key), Mapping)
    }
    return {**filled, **written, **both}


# What a section cannot have beside a key that the study writes.
INSTEAD = {
    ("data", "function"): ("name",),
    ("dense", "checkpoint"): ("epochs", "max_lr"),
    ("prune", "targets"): ("rate",),
}


def _beside(section: str, filled: Mapping[str, Any], written: Mapping[str, Any]) -> Table:
    gone = {name for (where, key), names in INSTEAD.items() if where == section and key in written for name in names}
    return {key: value for key, value in filled.items() if key not in gone}


# --- the runs of a script ---


def parts_of_run(run: int) -> tuple[int, int, int]:
    """Training, validation and test images of a run: each run draws its parts from the last one's training and test."""
    left = IMAGES
    for number in range(run + 1):
        kept = int(0.8 * left)
        train, test = int(0.75 * kept), left - kept
        if number < run:
            left = train + test
    return train, kept - train, test


def _smaller(script: Script, run: int) -> Table:
    if run == 0:
        return {}
    names = ("data.train_examples", "data.val_examples", "data.test_examples")
    return dict(zip(names, parts_of_run(run), strict=True))


def _leaked(script: Script, run: int) -> Table:
    if run == 0:
        return {}
    pruned = pruned_fractions([(1.0 - RATE) ** cycle for cycle in range(CYCLES)])
    last = Silo(script.eps, script.delta).peak(CYCLES - 1, pruned)
    return {
        "dense.max_lr": last,
        "arms.silo.schedule": {"name": "silo", "eps": script.eps, "delta": script.delta, "early": last},
    }


def _ramp(script: Script, run: int) -> Table:
    profile = {"name": "ramp-in-steps", **script.ramp}
    return {"dense.profile": profile, "retrain.profile": profile}


DEVIATIONS: dict[str, Deviation] = {
    "change-criterion": Deviation(
        "weights go by |Δw| over the last epoch (ResNet-20) or |Δw|·|w| layer by layer (VGG-19), not by magnitude",
        lambda script, run: {"prune.criterion": script.criterion, "prune.scope": script.scope},
    ),
    "reinit": Deviation(
        "all weights are drawn anew after every prune", lambda script, run: {"prune.after_prune": "reinit"}
    ),
    "stale-statistics": Deviation(
        "running statistics of batch norm outlive the weights that are drawn anew",
        lambda script, run: {"prune.keep_statistics": True},
    ),
    "initialisation": Deviation(
        "Xavier-normal weights, batch norm scales from N(1, 0.02), biases of the classifier from N(0, 1)",
        lambda script, run: {"model.init": "xavier-normal"},
    ),
    "norm-scales": Deviation(
        "scales of batch norm are pruned: they are parameters named weight",
        lambda script, run: {"prune.norm_scales": True},
    ),
    "percentile-count": Deviation(
        "a percentile decides, where batch norm scales and the classifier count twice (ResNet-20): not exactly 20 %",
        lambda script, run: {"prune.count": "percentile"},
    ),
    "pooled-test": Deviation(
        "the official test images are mixed with the training images and all are split anew, 60/20/20",
        lambda script, run: {"data.pool": True, "data.test_share": 0.2, "data.val_share": 0.25},
    ),
    "shrinking-data": Deviation(
        "run r draws its parts from the training and test images of run r − 1: 0.8^r of the images are left", _smaller
    ),
    "leaking-peak": Deviation(
        "max_lr of the last cycle of a run is that of the first cycles of the next", _leaked
    ),
    "ramp-in-steps": Deviation(
        "the ramp counts steps and the drops epochs: ResNet-20 reaches 0.70 of max_lr in run 0, later less", _ramp
    ),
    "fixed-normalisation": Deviation(
        "images are normalised by fixed numbers, not by the training images of the replicate",
        lambda script, run: {"data.mean": MEAN, "data.std": STD},
    ),
    "augmented-evaluation": Deviation(
        "validation and test images are cropped and flipped at random", lambda script, run: {"evaluate.augment": True}
    ),
    "dropped-batch": Deviation(
        "the last incomplete test batch is left out, but counted as wrong",
        lambda script, run: {"evaluate.drop_last": True},
    ),
    "best-on-test": Deviation(
        "the accuracy told is the greatest over epochs on the test images, each before its epoch is trained",
        lambda script, run: {"evaluate.best_on_test": True},
    ),
    "imagenet-head": Deviation(
        "VGG-19 carries the classifier of the ImageNet network",
        lambda script, run: {"model.head": "imagenet"} if script.model == "vgg19" else {},
    ),
    "projection-shortcuts": Deviation(
        "ResNet-20 projects its shortcuts (272,474 weights), where the network of He et al. for CIFAR-10 adds none",
        lambda script, run: {"model.shortcut": "projection"} if script.model == "resnet20" else {},
    ),
}  # fmt: skip
