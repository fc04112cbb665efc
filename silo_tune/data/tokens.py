"""Texts as sequences of tokens, cut to blocks of one length: each block's targets are its tokens one place on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silo_tune.data.example_sets import ExampleSet
from silo_tune.errors import BadInput
from silo_tune.study.data import Data
from silo_tune.study.task import TaskSpec

BYTES = 256
Tokens = NDArray[Any]


def tokens(data: Data, task: TaskSpec | None) -> ExampleSet:
    """The bytes of a text file, or of the files of one kind in a folder ("FOLDER/*.py"), by their names; of .npy files
    their numbers, which a tokenizer gave.

    The parts are stretches of the text: the last is test, the one before it validation.

    Raises:
        BadInput: there is no text, a file of tokens holds something else, or there is too little of it for three parts.
    """
    place, length = Path(data.place() or ""), data.block or 128
    files = sorted(place.parent.glob(place.name)) if "*" in place.name else [place]
    found = [_ids(file) if file.suffix == ".npy" else _bytes(file) for file in files if file.is_file()]
    if not found:
        raise BadInput(f"data.path: no file {str(place)!r}")
    of_bytes = not any(file.suffix == ".npy" for file in files)
    if not of_bytes and task is not None and "bits-per-byte" in (task.scored.name, *task.also):
        raise BadInput(
            "task.score: bits-per-byte is of bytes, and these are tokens of a file; take perplexity or log-loss"
        )
    text = np.concatenate(found).astype(np.int64)
    count = len(text) // (length + 1)  # and one token more: the targets stand one place on
    if count < 3:
        told = f"data: {len(text):,} tokens are fewer than three blocks of {length}"
        raise BadInput(f"{told}; give more, or set data.block")
    classes = task.classes if task is not None and task.classes else BYTES if of_bytes else int(text.max()) + 1
    if text.max() >= classes:
        raise BadInput(f"data: token {text.max()}, and task.classes is {classes}")
    blocks = text[: count * (length + 1)].reshape(count, length + 1)
    return ExampleSet(
        train=blocks[:, :-1],
        train_labels=blocks[:, 1:],
        test=None,
        test_labels=None,
        classes=classes,
        shape=(length,),
        times=np.arange(count),
        noun="blocks",
    )


def _bytes(file: Path) -> Tokens:
    return np.frombuffer(file.read_bytes(), dtype=np.uint8)


def _ids(file: Path) -> Tokens:
    found = np.load(file, allow_pickle=False)
    if found.ndim != 1 or found.dtype.kind not in "iu" or found.min(initial=0) < 0:
        raise BadInput(
            f"data.path: {file.name!r} is an array of {found.dtype} {found.shape}; tokens are whole numbers (N,)"
        )
    return np.asarray(found)
