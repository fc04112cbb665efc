"""Writes the studies of this folder: one for each network and data set, from the networks' recipes and one template.

python experiments/paper/generate.py        # writes NETWORK-DATA.toml beside this file, the same bytes each time
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from silo_tune.schedules.shapes import make_profile
from silo_tune.study.recipes import RECIPES, Recipe

FOLDER = Path(__file__).parent
CYCLES = 25  # cycles 0 to 24, as in the authors' scripts
RATE = 0.2  # of the authors' scripts
SEEDS = [1, 2, 3, 4, 5]  # five runs are intended there; a verdict takes five
PILOT_SEEDS = [101, 102]  # ours: disjoint from SEEDS
PILOT_CHAINS = 10  # ours: ten rates for one constant, the ten pairs of four rates for two
GRID_POINTS = 9  # ours: four rates per decade
# Share of the dense peak that fine-tuning trains at where the dense profile ends near 0: what two drops by ten leave,
# as at the end of the scripts' profile.
LAST = 0.01


@dataclass(frozen=True)
class Set:
    """One data set of the studies.

    Attributes:
        title: its name in words.
        lines: of [data], all but `val_share` and `augment`.
        val_share: share of the training images that validates.
        models: arguments that a network takes on these images.
    """

    title: str
    lines: tuple[str, ...]
    val_share: float
    models: Mapping[str, Mapping[str, Any]]


SETS = {
    "cifar10": Set(
        "CIFAR-10",
        (
            'name = "huggingface"',
            'path = "${SILO_TUNE_CIFAR10:-uoft-cs/cifar10}" # a folder of Parquet files, else the Hub (extra `hub`)',
        ),
        0.2,
        {},
    ),
    "cifar100": Set(
        "CIFAR-100",
        (
            'name = "huggingface"',
            'path = "${SILO_TUNE_CIFAR100:-uoft-cs/cifar100}" # a folder of Parquet files, else the Hub (extra `hub`)',
        ),
        0.2,
        {},
    ),
    "tiny-imagenet": Set(
        "Tiny-ImageNet (ImageNet-200)",
        (
            'name = "tiny-imagenet"',
            'path = "${SILO_TUNE_TINY_IMAGENET:-zh-plus/tiny-imagenet}" # tiny-imagenet-200 or Parquet, else the Hub',
            "size = 64",
        ),
        0.1,
        {"resnet50": {"stem": "small"}, "vit": {"patch": 8}},
    ),
    "imagenet": Set(
        "ImageNet",
        (
            'name = "imagenet" # streamed, 224×224',
            'path = "${SILO_TUNE_IMAGENET:-ILSVRC/imagenet-1k}" # train/CLASS and val/CLASS or Parquet, else the Hub',
            "size = 224",
        ),
        0.04,
        {"resnet50": {"stem": "imagenet"}, "vit": {"patch": 16}},
    ),
}
TITLES = {
    "resnet20": "ResNet-20",
    "vgg19": "VGG-19",
    "densenet40": "DenseNet-40",
    "mobilenetv2": "MobileNetV2",
    "resnet50": "ResNet-50",
    "vit": "ViT-B",
}
STUDIES = [
    *product(("resnet20", "vgg19", "densenet40", "mobilenetv2"), ("cifar10", "cifar100")),
    *product(("resnet50", "vit"), ("tiny-imagenet", "imagenet")),
]

TEMPLATE = """\
#:schema ../study.schema.json
# {title}: SILO, its Oracles and the baselines.
# Written by experiments/paper/generate.py: change that, not this.
# The recipe's values (`silo-tune list recipes`) are told with their source; "ours" is this project's choice.
# None of them is taken from the paper. The cost: `silo-tune plan` on this file. A look in seconds: `--smoke`.
name = "{name}"
cycles = {cycles} # cycles 0 to {last}, as in the authors' scripts

[data]
{data}
val_share = {val_share} # ours; test images never choose
augment = {augment} # {training}

[model]
{model}

[dense]
epochs = {epochs} # {budget}
max_lr = {eps} # ε of the recipe ({constants})
# The profile: {shape}.
profile = {profile}

[prune]
rate = {rate} # as in the authors' scripts
after_prune = "reinit" # as the authors' scripts do by default; "rewind" is their other choice
criterion = "magnitude" # ours: their own criterion is one of the deviations of `preset = "authors-2023"`

# As long as the dense training. Batch and optimizer: {training}.
[retrain]
epochs = {epochs}
batch = {batch}
profile = {profile}
optimizer = {optimizer}

[replicates]
seeds = {seeds} # five runs, as the authors intended; a verdict takes five

# Equal tuning: every arm that leaves its constants out gets so many whole chains, proposed so that an arm with two
# constants is little behind one with one. Ours: two decades around the recipe's rates, {eps} to {top}.
[pilot]
seeds = {pilot_seeds}
chains = {chains}
proposals = "guided"
low = {low}
high = {high}

# The pilot finds ε and ε + δ of `silo`, `s-cyc` and `ice`, both ends of `linear`, and max_lr of all that are written
# without one.
{arms}

# Ours: {points} rates over the pilot's two decades, which hold [ε/2, 2(ε + δ)] = [{half}, {double}] of the recipe. The
# values of all arms with the same profile, budget and weights are tried beside them.
[arms.oracle-greedy]
mode = "oracle"
grid = {{ low = {low}, high = {high}, points = {points} }}

[arms.oracle-conditioned]
mode = "oracle"
grid = {{ low = {low}, high = {high}, points = {points} }}
prefix = "arm:silo"

[report]
title = "{title}"
tolerance = 0.005 # ours
"""


def study_text(network: str, data: str) -> str:
    """The study of a network on a data set, as TOML."""
    recipe, images = RECIPES[network], SETS[data]
    sources = recipe.sources
    low, high = decades(recipe)
    return TEMPLATE.format(
        title=f"{TITLES[network]} on {images.title}",
        name=f"{network}-{data}",
        cycles=CYCLES,
        last=CYCLES - 1,
        data="\n".join(images.lines),
        val_share=images.val_share,
        augment=_toml(list(recipe.augment)),
        training=sources.training,
        model="\n".join(_model(network, images.models.get(network, {}))),
        epochs=recipe.epochs,
        budget=sources.budget,
        eps=_toml(recipe.eps),
        constants=sources.constants,
        profile=_toml(recipe.profile),
        shape=sources.profile,
        rate=RATE,
        batch=recipe.batch,
        optimizer=_toml(recipe.optimizer),
        seeds=SEEDS,
        top=_toml(_top(recipe)),
        half=_toml(recipe.eps / 2),
        double=_toml(2 * _top(recipe)),
        pilot_seeds=PILOT_SEEDS,
        chains=PILOT_CHAINS,
        low=_toml(low),
        high=_toml(high),
        arms="\n\n".join(_arm(name, lines) for name, lines in arms_of(recipe).items()),
        points=GRID_POINTS,
    )


def decades(recipe: Recipe) -> tuple[float, float]:
    """Two decades around ε and ε + δ: from a tenth of their geometric mean, to one digit."""
    low = float(f"{math.sqrt(recipe.eps * _top(recipe)) / 10:.1g}")
    return low, float(f"{100 * low:.12g}")


def arms_of(recipe: Recipe) -> dict[str, list[str]]:
    """Every baseline by the name of its arm: the lines of its table."""
    late = max(1, round(recipe.epochs / 10))
    named = ["silo", "s-cyc", "lr-warmup", "constant", "step", "cyclical", "cosine", "one-cycle"]
    arms = {name: [_preset(name)] for name in named}
    arms["lr-rewinding"] = [_preset("lr-rewinding", "fixed by its definition: the dense training's schedule again")]
    arms["weight-rewinding"] = [_preset("weight-rewinding", "the same, and the weights that the schedule began with")]
    arms["weight-rewinding-late"] = [
        _preset("weight-rewinding"),
        f'to = "{late} ep" # ours: a tenth of the dense training',
    ]
    arms["fine-tuning"] = [
        _preset("fine-tuning", "fixed by its definition: the dense training's last rate"),
        *_last(recipe),
    ]
    arms |= {name: [_preset(name)] for name in ("slr", "clr", "llr", "allr", "ice")}
    # With pilots of their own the two would be lr-warmup again.
    arms["constant-low"] = [_preset("constant-low", "the ε that the pilot of silo finds, the lower control")]
    arms["constant-high"] = [_preset("constant-high", "the ε + δ that it finds, the upper control")]
    arms["linear"] = [_preset("linear")]
    return arms


def _last(recipe: Recipe) -> list[str]:
    """The rate of fine-tuning where the dense training ends too low to train at."""
    shape = dict(recipe.profile)
    ends_low = make_profile(shape.pop("name"), shape)(10**6 - 1, 10**6) < LAST / 10
    rate = _toml(recipe.eps * LAST)
    return [
        f"max_lr = {rate} # ours: a hundredth of the dense peak, as two drops leave it; this profile ends near 0"
    ] * ends_low


def _model(network: str, args: Mapping[str, Any]) -> list[str]:
    return [f'name = "{network}"', *(f"{key} = {_toml(value)} # ours" for key, value in args.items())]


def _preset(name: str, comment: str = "") -> str:
    return f'preset = "{name}"' + (f" # {comment}" if comment else "")


def _arm(name: str, lines: list[str]) -> str:
    return "\n".join([f"[arms.{name}]", *lines])


def _top(recipe: Recipe) -> float:
    return recipe.eps + recipe.delta


def _toml(value: Any) -> str:
    """A value as TOML; numbers to 12 digits, as in keys."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return f'"{value}"'
    return repr(float(f"{value:.12g}")) if isinstance(value, float) else str(value)


def texts() -> dict[str, str]:
    """Every file of the folder by its name."""
    return {f"{network}-{data}.toml": study_text(network, data) for network, data in STUDIES}


if __name__ == "__main__":
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
