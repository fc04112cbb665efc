"""Names of models, data sets and criteria: name → ("module:function", arguments, one line). Standard library only.

A study is validated against these tables without importing torch; `resolve` imports the entry where it is used.
To add an entry, write the function and one line here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from silo_tune.errors import BadInput, unknown


@dataclass(frozen=True)
class Entry:
    """Where a named thing lives.

    Attributes:
        target: "module:function".
        line: one line for `silo-tune list`.
        args: names of the arguments that a study may give.
    """

    target: str
    line: str
    args: tuple[str, ...] = ()


@dataclass(frozen=True)
class CriterionEntry(Entry):
    """A criterion. Its arguments are counts.

    Attributes:
        granularity: what it scores, "weight" or "filter".
        needs: what the parent's state must hold beside weights and masks: "previous", as its last epoch began.
    """

    granularity: str = "weight"
    needs: tuple[str, ...] = ()


MODELS: dict[str, Entry] = {
    "lenet-300-100": Entry("silo_tune.models:lenet_300_100", "two hidden layers of 300 and 100 units (any image size)"),
    "resnet8": Entry("silo_tune.models:resnet8", "CIFAR ResNet, n = 1, for 32×32 images", ("width",)),
    "resnet20": Entry("silo_tune.models:resnet20", "CIFAR ResNet, n = 3, for 32×32 images", ("width",)),
    "resnet32": Entry("silo_tune.models:resnet32", "CIFAR ResNet, n = 5, for 32×32 images", ("width",)),
    "resnet56": Entry("silo_tune.models:resnet56", "CIFAR ResNet, n = 9, for 32×32 images", ("width",)),
}
TIMM_PREFIX = "timm:"

DATA: dict[str, Entry] = {
    "digits": Entry("silo_tune.data:digits", "1,797 real 8×8 digits inside scikit-learn; nothing to download"),
    "cifar10": Entry("silo_tune.data:cifar10", "CIFAR-10 through torchvision (path: where its files are or go)"),
    "cifar100": Entry("silo_tune.data:cifar100", "CIFAR-100 through torchvision"),
    "mnist": Entry("silo_tune.data:mnist", "MNIST through torchvision"),
    "fashion-mnist": Entry(
        "silo_tune.data:fashion_mnist", "Fashion-MNIST through torchvision, or a folder of its idx files"
    ),
    "huggingface": Entry(
        "silo_tune.data:huggingface",
        "Parquet in Hugging Face layout (path: a local directory or a Hub id)",
        ("image_key", "label_key"),
    ),
    "folder": Entry("silo_tune.data:folder", "a folder of images, one subfolder per class (path)", ("size",)),
}

CRITERIA: dict[str, CriterionEntry] = {
    "magnitude": CriterionEntry("silo_tune.criteria:magnitude", "|w|: remove the smallest weights"),
    "random": CriterionEntry("silo_tune.criteria:random", "remove weights at random, by the replicate's seed"),
    "gradient": CriterionEntry("silo_tune.criteria:gradient", "|w·g|, g the mean gradient of the loss", ("images",)),
    "last-change": CriterionEntry(
        "silo_tune.criteria:last_change", "|Δw|, Δw the change over the parent's last epoch", needs=("previous",)
    ),
    "last-change-magnitude": CriterionEntry(
        "silo_tune.criteria:last_change_magnitude", "|Δw|·|w|, Δw as in last-change", needs=("previous",)
    ),
    "snip": CriterionEntry(
        "silo_tune.criteria:snip",
        "connection sensitivity on one class-balanced batch (Lee et al. 2019)",
        ("per_class",),
    ),
    "synflow": CriterionEntry("silo_tune.criteria:synflow", "synaptic flow, no data needed (Tanaka et al. 2020)"),
    "lamp": CriterionEntry(
        "silo_tune.criteria:lamp", "w² over the sum of the larger squares of its layer (Lee et al. 2021)"
    ),
    "l1-filter": CriterionEntry("silo_tune.criteria:l1_filter", "L1 norm of a filter", granularity="filter"),
    "mean-activation": CriterionEntry(
        "silo_tune.criteria:mean_activation", "mean activation of a filter", ("images",), granularity="filter"
    ),
    "entropy": CriterionEntry(
        "silo_tune.criteria:entropy",
        "entropy of a filter's activation over images",
        ("images", "bins"),
        granularity="filter",
    ),
    "random-filter": CriterionEntry(
        "silo_tune.criteria:random_filter", "remove filters at random, by the replicate's seed", granularity="filter"
    ),
}

TABLES: dict[str, Mapping[str, Entry]] = {"models": MODELS, "data": DATA, "criteria": CRITERIA}


def check_name(kind: str, table: Mapping[str, Entry], name: str, args: Mapping[str, Any]) -> None:
    """Raises ValueError when the name is not in the table or takes none of these arguments."""
    if name not in table:
        raise ValueError(unknown(kind, name, table))
    extra = [key for key in args if key not in table[name].args]
    if extra:
        takes = ", ".join(table[name].args) or "nothing"
        raise ValueError(f"{kind} {name!r} takes no {', '.join(map(repr, extra))}; it takes {takes}")


def target_of(table: Mapping[str, Entry], reference: Mapping[str, Any]) -> str:
    """ "module:function" of a resolved reference: a user's function, or a registered name."""
    return str(reference["function"]) if "function" in reference else table[reference["name"]].target


def resolve(target: str) -> Callable[..., Any]:
    """Import "module:function". Raises BadInput that names the part that is missing."""
    module_name, _, function = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise BadInput(f"cannot import {target!r}: {error}; is its folder the current one, or installed?") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise BadInput(f"{module_name} has no function {function!r} (asked for as {target!r})")
    return found  # type: ignore[no-any-return]
