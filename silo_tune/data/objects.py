"""A caller's own data as a study takes it: tensors, arrays, data sets and loaders of torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
)
from torch.utils.data.dataloader import default_collate

from silo_tune.data.arrays import Labels
from silo_tune.errors import BadInput

SHAPES = "give inputs and targets as (inputs, targets), a map-style torch.utils.data.Dataset, or a DataLoader of one"

# What a loader draws with when nobody gives it a sampler.
USUAL = (SequentialSampler, RandomSampler, BatchSampler, type(None))


def fields_of(train: Any, validation: Any, test: Any) -> tuple[dict[str, Any], int | None]:
    """The fields of a user's data, and the batch size of a loader.

    Args:
        train, validation, test: each (inputs, targets), a data set or a loader; all but the first may be None. A
            validation part without a test part is halved: one half chooses, the other one only tells.

    Raises:
        BadInput: one of them is none of these.
    """
    given = {"train": train, "validation": validation, "test": test}
    collates = {name: value.collate_fn for name, value in given.items() if isinstance(value, DataLoader)}
    own = {name: collate for name, collate in collates.items() if collate is not default_collate}
    if own and "train" not in own:
        raise BadInput(f"{', '.join(own)}: the collate_fn of train is used for every part; give train a loader with it")
    parts = {name: _part(name, value) for name, value in given.items() if value is not None}
    for name, value in given.items():
        for sampler in (value.sampler, value.batch_sampler) if isinstance(value, DataLoader) else ():
            if type(sampler) not in USUAL:
                raise BadInput(
                    f"{name}: its {type(sampler).__name__} would not be used, for an epoch here goes once over all "
                    "examples; give the examples as they shall be met, such as a torch.utils.data.Subset"
                )
    if any(parts[name][0] is parts["train"][0] for name in parts if name != "train"):
        raise BadInput("validation and test are not the training part: scores would say how well it is remembered")
    if "validation" in parts and "test" not in parts:
        parts["validation"], parts["test"] = _halves(*parts["validation"])
    fields: dict[str, Any] = {}
    for name, key in (("train", "train"), ("validation", "val"), ("test", "test")):
        if name in parts:
            fields[key], fields[f"{key}_labels"] = parts[name]
    if own:
        fields["collate"] = own["train"]
        # What is an array is sliced to batches; its items go one by one where batches are made of them.
        for key in [key for key in ("train", "val", "test") if isinstance(fields.get(key), Tensor | np.ndarray)]:
            fields[key] = TensorDataset(torch.as_tensor(fields[key]), torch.as_tensor(fields[f"{key}_labels"]))
    return fields, train.batch_size if isinstance(train, DataLoader) else None


def _part(name: str, value: Any) -> tuple[Any, Any]:
    """Inputs and targets; of a data set the targets are in its items."""
    found = value.dataset if isinstance(value, DataLoader) else value
    if isinstance(found, IterableDataset):
        raise BadInput(f"{name}: an IterableDataset has no length and no order to draw batches from; {SHAPES}")
    if isinstance(found, TensorDataset) and len(found.tensors) == 2:
        found = found.tensors
    if isinstance(found, tuple | list) and len(found) == 2 and all(_is_array(part) for part in found):
        inputs, targets = found
        if str(getattr(inputs, "dtype", "")).removeprefix("torch.") == "uint8" and len(inputs.shape) == 4:
            raise BadInput(f"{name}: inputs are bytes; give them as the network takes them: inputs.float() / 255")
        return inputs, targets
    if isinstance(found, tuple) and len(found) == 2:
        kinds = " and ".join(type(part).__name__ for part in found)
        raise BadInput(
            f"{name}: inputs and targets are {kinds}; give tensors or arrays, several inputs by name: "
            '({"left": …, "right": …}, targets)'
        )
    if isinstance(found, tuple | list | str) or not (hasattr(found, "__getitem__") and hasattr(found, "__len__")):
        raise BadInput(f"{name}: {type(found).__name__} is no data; {SHAPES}")
    return found, None


def _is_array(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_array, value.values()))
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _halves(inputs: Any, targets: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Of a part, two halves by chance, the same each time."""
    count = len(inputs) if targets is None else len(targets)
    order: Labels = np.random.default_rng(0).permutation(count)
    rows = np.sort(order[: count - count // 2]), np.sort(order[count - count // 2 :])
    return _rows(inputs, targets, rows[0]), _rows(inputs, targets, rows[1])


def _rows(inputs: Any, targets: Any, rows: Labels) -> tuple[Any, Any]:
    if targets is None:
        return Subset(inputs, rows.tolist()), None
    return {name: value[rows] for name, value in inputs.items()} if isinstance(inputs, Mapping) else inputs[rows], (
        targets[rows]
    )


def digest_of(*parts: bytes) -> str:
    """sha256 of all of them."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
