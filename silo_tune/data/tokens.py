"""Texts as sequences of tokens, cut to blocks of one length: each block's targets are its tokens one place on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silo_tune.data.column_files import is_text, part_of, read, require_columns
from silo_tune.data.column_parts import in_parts
from silo_tune.data.example_sets import ExampleSet
from silo_tune.errors import BadInput
from silo_tune.study.data import Data
from silo_tune.study.task import TaskSpec

BYTES = 256
Tokens = NDArray[Any]


def tokens(data: Data, task: TaskSpec | None) -> ExampleSet:
    """The bytes of a text: of a file, of the files of one kind in a folder ("FOLDER/*.py") by their names, or of the
    column `data.text`, row by row; of .npy files their numbers, which a tokenizer gave.

    Where there are no parts, they are stretches of the text: the last is test, the one before it validation.

    Raises:
        BadInput: there is no text, a file of tokens holds something else, or there is too little of it for three parts.
    """
    length, of_bytes = data.block or 128, not (data.place() or "").endswith(".npy")
    if not of_bytes and task is not None and "bits-per-byte" in (task.scored.name, *task.also):
        raise BadInput(
            "task.score: bits-per-byte is of bytes, and these are tokens of a file; take perplexity or log-loss"
        )
    texts = _files(data) if data.text is None else _column(data)
    blocks = {part: _blocks(text, length) for part, text in texts.items()}
    if len(blocks["train"]) < (3 if len(blocks) == 1 else 1):
        told = f"data: {len(texts['train']):,} tokens are fewer than three blocks of {length}"
        raise BadInput(f"{told}; give more, or set data.block")
    most = max(int(part.max(initial=0)) for part in blocks.values())
    classes = task.classes if task is not None and task.classes else BYTES if of_bytes else most + 1
    if most >= classes:
        raise BadInput(f"data: token {most}, and task.classes is {classes}")
    joined = np.concatenate(list(blocks.values()))
    found = ExampleSet(
        train=joined[:, :-1],
        train_labels=joined[:, 1:],
        test=None,
        test_labels=None,
        classes=classes,
        shape=(length,),
        times=np.arange(len(joined)),
        noun="blocks",
    )
    return in_parts(found, np.concatenate([np.full(len(rows), part) for part, rows in blocks.items()]))


def _blocks(text: Tokens, length: int) -> Tokens:
    """(N, length + 1): one token more, for the targets stand one place on."""
    count = len(text) // (length + 1)
    return np.asarray(text[: count * (length + 1)].reshape(count, length + 1).astype(np.int64))


def _files(data: Data) -> dict[str, Tokens]:
    place = Path(data.place() or "")
    files = sorted(place.parent.glob(place.name)) if "*" in place.name else [place]
    found = [_ids(file) if file.suffix == ".npy" else _bytes(file) for file in files if file.is_file()]
    if not found:
        more = '; of a folder name files, FOLDER/*.txt, or the column of texts, text = "…"' if place.is_dir() else ""
        raise BadInput(f"data.path: no file {str(place)!r}{more}")
    return {"train": np.concatenate(found)}


def _column(data: Data) -> dict[str, Tokens]:
    """Of each part, the bytes of its texts, each text on lines of its own."""
    found, name = read(data, [str(data.text)]), str(data.text)
    require_columns(data, found)
    if not is_text(found.column(name).type):
        raise BadInput(f"data.text: column {name!r} is {found.column(name).type}, and texts are needed")
    part, texts = part_of(found), found.column(name).to_pylist()
    of = ["train"] * len(texts) if part is None else part.tolist()
    lines: dict[str, list[str]] = {}
    for one, text in zip(of, texts, strict=True):
        lines.setdefault(one, []).append(text or "")
    return {one: np.frombuffer("\n".join(all_).encode(), dtype=np.uint8) for one, all_ in lines.items()}


def _bytes(file: Path) -> Tokens:
    return np.frombuffer(file.read_bytes(), dtype=np.uint8)


def _ids(file: Path) -> Tokens:
    found = np.load(file, allow_pickle=False)
    if found.ndim != 1 or found.dtype.kind not in "iu" or found.min(initial=0) < 0:
        raise BadInput(
            f"data.path: {file.name!r} is an array of {found.dtype} {found.shape}; tokens are whole numbers (N,)"
        )
    return np.asarray(found)
