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
class DataEntry(Entry):
    """A data set.

    Attributes:
        needs_path: there is nothing to read without a path.
        streams: its images can be read as they are needed, instead of being held in memory.
        stream: it is streamed unless the study says otherwise.
        size: side of its images unless the study gives one; None leaves them as they are.
    """

    needs_path: bool = False
    streams: bool = False
    stream: bool = False
    size: int | None = None


MODELS: dict[str, Entry] = {
    "lenet-300-100": Entry("silo_tune.models:lenet_300_100", "two hidden layers of 300 and 100 units (any image size)"),
    "resnet8": Entry("silo_tune.models:resnet8", "CIFAR ResNet, n = 1, for 32×32 images", ("width",)),
    "resnet20": Entry("silo_tune.models:resnet20", "CIFAR ResNet, n = 3, for 32×32 images", ("width",)),
    "resnet32": Entry("silo_tune.models:resnet32", "CIFAR ResNet, n = 5, for 32×32 images", ("width",)),
    "resnet56": Entry("silo_tune.models:resnet56", "CIFAR ResNet, n = 9, for 32×32 images", ("width",)),
}
TIMM_PREFIX = "timm:"

DATA: dict[str, DataEntry] = {
    "digits": DataEntry(
        "silo_tune.data.named:digits", "1,797 real 8×8 digits inside scikit-learn; nothing to download"
    ),
    "cifar10": DataEntry(
        "silo_tune.data.named:cifar10",
        "CIFAR-10 through torchvision (path: where its files are or go), or Parquet (path: a directory, hf://datasets/…)",
    ),
    "cifar100": DataEntry("silo_tune.data.named:cifar100", "CIFAR-100, likewise"),
    "mnist": DataEntry("silo_tune.data.named:mnist", "MNIST through torchvision"),
    "fashion-mnist": DataEntry(
        "silo_tune.data.named:fashion_mnist", "Fashion-MNIST through torchvision, or a folder of its idx files"
    ),
    "tiny-imagenet": DataEntry(
        "silo_tune.data.folders:tiny_imagenet",
        "Tiny-ImageNet (ImageNet-200), 64×64 (path: the folder tiny-imagenet-200, Parquet or a Hub id)",
        ("size", "image_key", "label_key"),
        needs_path=True,
        streams=True,
    ),
    "imagenet": DataEntry(
        "silo_tune.data.folders:imagenet",
        "ImageNet, streamed, 224×224 (path: a folder with train/CLASS and val/CLASS, Parquet or a Hub id)",
        ("size", "image_key", "label_key"),
        needs_path=True,
        streams=True,
        stream=True,
        size=224,
    ),
    "huggingface": DataEntry(
        "silo_tune.data.parquet:huggingface",
        "Parquet in Hugging Face layout (path: a local directory or a Hub id)",
        ("size", "image_key", "label_key"),
        needs_path=True,
        streams=True,
    ),
    "folder": DataEntry(
        "silo_tune.data.folders:folder",
        "a folder of images, one subfolder per class (path)",
        ("size",),
        needs_path=True,
        streams=True,
    ),
}

CRITERIA: dict[str, Entry] = {
    "magnitude": Entry("silo_tune.criteria:magnitude", "|w|: remove the smallest weights"),
    "random": Entry("silo_tune.criteria:random", "remove weights at random, by the replicate's seed"),
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
