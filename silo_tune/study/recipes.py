"""How each registered network is trained: optimizer, budget, profile, SILO's constants. Standard library only.

A recipe is the one home of what a network is trained with by default. Every group of values says where it comes from,
or "ours": of the paper's settings nothing is known here but what the authors' public scripts for ResNet-20 and VGG-19
on CIFAR-10 show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

# Images that the authors' scripts train on: 60 % of CIFAR-10's 60,000, in batches of 64.
SCRIPT_IMAGES, SCRIPT_BATCH = 36_000, 64


@dataclass(frozen=True)
class Sources:
    """Where a recipe's values come from.

    Attributes:
        constants: of eps, delta, beta and q.
        training: of optimizer, batch and augmentation.
        profile: of the profile.
        budget: of epochs.
    """

    constants: str
    training: str
    profile: str
    budget: str


@dataclass(frozen=True)
class Recipe:
    """What one cycle of a network is trained with, and SILO's constants for it.

    Attributes:
        optimizer: as [retrain.optimizer].
        batch: images per step.
        epochs: of the dense training and of every cycle.
        profile: name and arguments, as [retrain.profile].
        eps, delta, beta, q: of SILO; max_lr goes from eps to eps + delta.
        augment: as data.augment.
        sources: where these come from.
    """

    optimizer: Mapping[str, Any]
    batch: int
    epochs: int
    profile: Mapping[str, Any]
    eps: float
    delta: float
    sources: Sources
    beta: float = 5.0
    q: int = 1
    augment: tuple[str, ...] = ("crop", "flip")

    @property
    def silo(self) -> dict[str, Any]:
        """The schedule of a silo arm."""
        return {"name": "silo", "eps": self.eps, "delta": self.delta, "beta": self.beta, "q": self.q}

    @property
    def dense(self) -> dict[str, Any]:
        """The [dense] table: SILO's own cycle 0."""
        return {"epochs": self.epochs, "max_lr": self.eps, "profile": dict(self.profile)}

    @property
    def retrain(self) -> dict[str, Any]:
        """The [retrain] table."""
        return {
            "epochs": self.epochs,
            "batch": self.batch,
            "profile": dict(self.profile),
            "optimizer": dict(self.optimizer),
        }

    @property
    def line(self) -> str:
        """Everything in one line, for `silo-tune list recipes`."""
        augment = " + ".join(self.augment) or "no augmentation"
        groups = {
            f"eps {self.eps:g}, delta {self.delta:g}, beta {self.beta:g}, q {self.q}": self.sources.constants,
            f"{_words(self.optimizer)}, batch {self.batch}, {augment}": self.sources.training,
            _words(self.profile): self.sources.profile,
            f"{self.epochs} epochs": self.sources.budget,
        }
        return "; ".join(f"{values} ({source})" for values, source in groups.items())


def _words(named: Mapping[str, Any]) -> str:
    """A name and its arguments, numbers to three digits."""
    shown = (f"{key} {_short(value)}" for key, value in named.items() if key != "name")
    return " ".join([named["name"], *shown])


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "/".join(map(_short, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value).lower()


def whole_epochs(iterations: int) -> int:
    """Iterations of the authors' scripts as epochs, rounded: their images are no whole number of batches."""
    return round(iterations * SCRIPT_BATCH / SCRIPT_IMAGES)


def _sgd(weight_decay: float) -> dict[str, Any]:
    return {"name": "sgd", "momentum": 0.9, "weight_decay": weight_decay}


_SCRIPTS = "authors' scripts"
_INTENDED = (
    f"{_SCRIPTS}, as intended"  # their ramp counts steps and their drops epochs, so that the peak is not reached
)
_RESNET20 = Recipe(
    optimizer=_sgd(5e-4),
    batch=SCRIPT_BATCH,
    epochs=whole_epochs(30_000),
    profile={"name": "warmup-drop"},
    eps=0.03,
    delta=0.04,
    sources=Sources(_SCRIPTS, _SCRIPTS, _INTENDED, f"{_SCRIPTS}: 30,000 steps of 36,000 images, rounded"),
)
_OURS = "ours: ResNet-20's"


def _like_resnet20(weight_decay: float = 5e-4, training: str = _OURS) -> Recipe:
    """ResNet-20's values for a network that no constants are known for."""
    sources = Sources(_OURS, training, _OURS, _OURS)
    return replace(_RESNET20, optimizer=_sgd(weight_decay), sources=sources)


RECIPES: dict[str, Recipe] = {
    "lenet-300-100": Recipe(  # of experiments/digits-rewind.toml, which tells how its pilot found them
        optimizer=_sgd(5e-4),
        batch=64,
        epochs=8,
        profile={"name": "warmup-drop"},
        eps=0.1,
        delta=0.2,
        augment=(),
        sources=Sources("ours: a pilot on digits", "ours", _OURS, "ours: for digits"),
    ),
    "mlp": Recipe(  # of experiments/adult.toml, which tells how its pilot found them
        optimizer=_sgd(5e-4),
        batch=128,
        epochs=3,
        profile={"name": "warmup-drop"},
        eps=0.2,
        delta=0.2,
        augment=(),
        sources=Sources("ours: a pilot on Adult", "ours", _OURS, "ours: for some thousand rows"),
    ),
    "dcn-v2": Recipe(  # of experiments/movielens-ctr.toml, which tells how its pilot found them
        optimizer={"name": "adamw", "weight_decay": 0.01},
        batch=256,
        epochs=3,
        profile={"name": "warmup-drop"},
        eps=0.08,
        delta=0.08,
        augment=(),
        sources=Sources("ours: a pilot on MovieLens", "ours", _OURS, "ours: for some thousand rows"),
    ),
    "lstm": Recipe(  # of experiments/reviews.toml, which tells how they came about
        optimizer={"name": "adamw", "weight_decay": 0.01},
        batch=64,
        epochs=3,
        profile={"name": "warmup-drop"},
        eps=0.1,
        delta=0.15,
        augment=(),
        sources=Sources("ours: tries and a pilot on reviews", "ours", _OURS, "ours: for some thousand texts"),
    ),
    "gpt": Recipe(
        optimizer={"name": "adamw", "weight_decay": 0.01},
        batch=64,
        epochs=4,
        profile={"name": "cosine", "warmup": 0.1},
        eps=3e-3,
        delta=4e-3,
        augment=(),
        sources=Sources("ours: guessed, no pilot", "ours", "ours: as small decoders are trained", "ours"),
    ),
    "resnet8": _like_resnet20(),
    "resnet20": _RESNET20,
    "resnet32": _like_resnet20(),
    "resnet56": _like_resnet20(),
    "vgg19": Recipe(
        optimizer=_sgd(5e-4),
        batch=SCRIPT_BATCH,
        epochs=whole_epochs(112_000),
        profile={"name": "warmup-drop-vgg"},
        eps=0.04,
        delta=0.06,
        sources=Sources(_SCRIPTS, _SCRIPTS, _INTENDED, f"{_SCRIPTS}: 112,000 steps of 36,000 images, rounded"),
    ),
    "densenet40": _like_resnet20(1e-4, f"{_OURS}, weight decay of Huang et al. 2017"),
    "mobilenetv2": _like_resnet20(4e-5, f"{_OURS}, weight decay of Sandler et al. 2018"),
    # Goyal et al. 2017 train with a peak of 0.1 for a batch of 256, 90 epochs with 5 of warm-up and drops at 30, 60 and
    # 80. eps and eps + delta lie around that peak in ResNet-20's proportion.
    "resnet50": Recipe(
        optimizer=_sgd(1e-4),
        batch=256,
        epochs=90,
        profile={"name": "warmup-drop", "warmup": 5 / 90, "drops": [30 / 90, 60 / 90, 80 / 90]},
        eps=0.06,
        delta=0.08,
        sources=Sources(
            "ours: around 0.1", "ours: Goyal et al. 2017, padded crops", "ours: Goyal et al. 2017", "ours: the same"
        ),
    ),
    # DeiT is trained by AdamW with a weight decay of 0.05 and a peak of 5e-4 for a batch of 512 (Touvron et al. 2021);
    # eps and eps + delta lie around that peak in ResNet-20's proportion. The budget is ResNet-50's.
    "vit": Recipe(
        optimizer={"name": "adamw", "weight_decay": 0.05},
        batch=512,
        epochs=90,
        profile={"name": "cosine", "warmup": 5 / 90},
        eps=3e-4,
        delta=4e-4,
        sources=Sources(
            "ours: around 5e-4", "ours: Touvron et al. 2021, fewer augmentations", "ours", "ours: ResNet-50's"
        ),
    ),
}
