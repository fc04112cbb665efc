"""Texts as sequences of tokens, cut to blocks of one length: each block's targets are its tokens one place on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from silo_tune.data.example_sets import ExampleSet
from silo_tune.errors import BadInput
from silo_tune.study.data import Data
from silo_tune.study.task import TaskSpec

BYTES = 256


def tokens(data: Data, task: TaskSpec | None) -> ExampleSet:
    """The bytes of a text file, or of the files of one kind in a folder ("FOLDER/*.py"), by their names.

    The parts are stretches of the text: the last is test, the one before it validation.

    Raises:
        BadInput: there is no text, or too little of it for three parts.
    """
    place, length = Path(data.place() or ""), data.block or 128
    files = sorted(place.parent.glob(place.name)) if "*" in place.name else [place]
    found = [np.frombuffer(file.read_bytes(), dtype=np.uint8) for file in files if file.is_file()]
    if not found:
        raise BadInput(f"data.path: no file {str(place)!r}")
    text = np.concatenate(found).astype(np.int64)
    count = len(text) // (length + 1)  # and one token more: the targets stand one place on
    if count < 3:
        told = f"data: {len(text):,} tokens are fewer than three blocks of {length}"
        raise BadInput(f"{told}; give more, or set data.block")
    blocks = text[: count * (length + 1)].reshape(count, length + 1)
    return ExampleSet(
        train=blocks[:, :-1],
        train_labels=blocks[:, 1:],
        test=None,
        test_labels=None,
        classes=BYTES,
        shape=(length,),
        times=np.arange(count),
        noun="blocks",
    )
