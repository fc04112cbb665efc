"""Texts with a label each: a column of a file becomes rows of tokens, which are bytes, words or a tokenizer's ids."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from silo_tune.data.arrays import Labels
from silo_tune.data.column_files import (
    coded,
    is_text,
    order_of,
    part_of,
    read,
    require_columns,
    targets_in,
    targets_named,
)
from silo_tune.data.column_parts import in_parts
from silo_tune.data.example_sets import ExampleSet
from silo_tune.data.targets import Targets
from silo_tune.errors import BadInput
from silo_tune.formats import percent
from silo_tune.study.data import TOKENIZERS, Data
from silo_tune.study.places import expand
from silo_tune.study.task import TaskSpec

if TYPE_CHECKING:
    import pyarrow as pa

LENGTH, VOCABULARY = 256, 10_000  # when the study says nothing
PADDING, UNKNOWN, FIRST = 0, 1, 2  # ids of words: of none, of one that is not in the vocabulary, of those that are
WORD = re.compile(r"\w+(?:'\w+)*|[^\w\s]")
Tokens = NDArray[np.int32]


def texts(data: Data, task: TaskSpec | None) -> ExampleSet:
    """The set of a CSV, Parquet or JSON lines file with a column of texts, or of a folder with a file for each part.

    Raises:
        BadInput: a column is not there or holds no texts, a text or a label is missing, or the tokenizer is none.
    """
    found, length, name = read(data), data.length or LENGTH, str(data.text)
    require_columns(data, found)
    if not is_text(found.column(name).type):
        raise BadInput(f"data.text: column {name!r} is {found.column(name).type}, and texts are needed")
    made = TOKENIZE.get(data.tokenizer or "bytes", _by_file)([one or "" for one in _texts(found, name)], data, length)
    found, rows, notices = _whole(found, made.rows, made.padding, data)
    if made.cut:
        notices += (f"{made.cut:,} of {len(made.rows):,} texts are cut to {length} tokens (data.length)",)
    targets = targets_in(found, data, task)
    return in_parts(_set(data, found, rows, made, targets, length, notices), part_of(found))


def _set(
    data: Data, found: pa.Table, rows: Tokens, made: _Made, targets: Targets, length: int, notices: tuple[str, ...]
) -> ExampleSet:
    return ExampleSet(
        train=rows,
        train_labels=targets.parts[0],
        test=None,
        test_labels=None,
        classes=targets.outputs,
        shape=(length,),
        groups=None if data.group is None else coded(found, data.group)[0],
        times=None if data.time is None else order_of(found, data.time),
        encoder=made.encoder,
        further={"vocabulary": made.vocabulary, "padding": made.padding},
        notices=(*notices, *targets.notices),
        noun="texts",
        names=targets.names,
        padding=made.padding,
    )


def _texts(found: pa.Table, name: str) -> list[str | None]:
    texts_: list[str | None] = found.column(name).to_pylist()
    return texts_


def _whole(found: pa.Table, rows: Tokens, padding: int, data: Data) -> tuple[pa.Table, Tokens, tuple[str, ...]]:
    """The rows that have tokens and targets; where the study does not drop others, all must."""
    import pyarrow as pa

    empty = ~(rows != padding).any(1)
    unlabelled = np.any([found.column(name).is_null(nan_is_null=True).to_numpy() for name in targets_named(data)], 0)
    if data.missing == "drop":
        whole = ~(empty | unlabelled)
        told = (f"{int((~whole).sum()):,} of {len(whole):,} rows have no text or no label and are left out",)
        if not whole.any():
            raise BadInput("data: no row has a text and a label")
        return found.filter(pa.array(whole)), rows[whole], () if whole.all() else told
    if empty.any():
        row = int(np.flatnonzero(empty)[0])
        what = "is missing" if _texts(found, str(data.text))[row] is None else "gives no token"
        raise BadInput(
            f"data.text: column {data.text!r} {what} in row {row}, and {int(empty.sum()):,} of {len(empty):,} rows are "
            f'so; data.missing = "drop" leaves them out'
        )
    if unlabelled.any():
        raise BadInput(
            f"data.target: {int(unlabelled.sum()):,} of {len(unlabelled):,} rows have no label, the first is row "
            f'{np.flatnonzero(unlabelled)[0]}; data.missing = "drop" leaves them out'
        )
    return found, rows, ()


# --- tokens ---


@dataclass(frozen=True)
class Vocabulary:
    """The words that are frequent in the training part; the others of it, and what it lacks, are one unknown word.

    Attributes:
        size: number of ids, those of padding and of the unknown word among them.
    """

    size: int

    def __call__(self, inputs: Any, rows: Labels) -> tuple[Any, tuple[str, ...]]:
        """Ids (N, length) of all texts, from those of all words of the file; and how many are unknown."""
        counts = np.bincount(inputs[rows].ravel(), minlength=int(inputs.max()) + 1)
        counts[PADDING] = 0
        known = np.argsort(-counts, kind="stable")[: self.size - FIRST]  # ties: in the order of the alphabet
        known = known[counts[known] > 0]
        ids = np.full(len(counts), UNKNOWN, dtype=np.int32)
        ids[PADDING], ids[known] = PADDING, FIRST + np.arange(len(known), dtype=np.int32)
        encoded = ids[inputs]
        training = np.zeros(len(inputs), dtype=bool)
        training[rows] = True
        parts = (encoded[training], encoded[~training])
        here, there = (percent((part == UNKNOWN).sum() / max(1, (part != PADDING).sum())) for part in parts)
        told = f"of the words {here} % in training texts and {there} % in others are not among the {len(known):,} known"
        return encoded, (told,)


class _Made(NamedTuple):
    rows: Tokens
    cut: int
    vocabulary: int
    padding: int
    encoder: Vocabulary | None = None


def _rows(tokens: Sequence[Any], length: int, padding: int) -> Tokens:
    """Texts (N, length), each cut and filled up."""
    rows = np.full((len(tokens), length), padding, dtype=np.int32)
    for row, one in enumerate(tokens):
        rows[row, : min(length, len(one))] = one[:length]
    return rows


def _by_bytes(texts_: Sequence[str], data: Data, length: int) -> _Made:
    """A byte's id is one more than it: 0 is padding."""
    found = [one.encode() for one in texts_]
    numbers = [1 + np.frombuffer(one[:length], dtype=np.uint8).astype(np.int32) for one in found]
    return _Made(_rows(numbers, length, PADDING), sum(len(one) > length for one in found), 257, PADDING)


def _by_words(texts_: Sequence[str], data: Data, length: int) -> _Made:
    """Words in the order of the alphabet; which of them are known is up to the training part."""
    found = [WORD.findall(one.lower()) for one in texts_]
    numbers = {word: 1 + place for place, word in enumerate(sorted({word for one in found for word in one}))}
    rows = _rows([[numbers[word] for word in one[:length]] for one in found], length, PADDING)
    size = min(data.vocabulary or VOCABULARY, FIRST + len(numbers))
    return _Made(rows, sum(len(one) > length for one in found), size, PADDING, Vocabulary(size))


def _by_file(texts_: Sequence[str], data: Data, length: int) -> _Made:
    """By a file of the tokenizers library, with the special tokens that it adds to every text."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise BadInput("data.tokenizer: a tokenizer's file takes an extra: pip install 'silo-tune[text]'") from None
    file = expand(str(data.tokenizer), "data.tokenizer")
    try:
        tokenizer = Tokenizer.from_file(file)
    except Exception as error:  # the library raises nothing narrower
        raise BadInput(f"data.tokenizer: {file!r} is no file of the tokenizers library: {error}") from None
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    padding = highest + 1 if tokenizer.padding is None else int(tokenizer.padding["pad_id"])
    tokenizer.no_padding()
    tokenizer.enable_truncation(length)
    found = tokenizer.encode_batch(list(texts_))
    rows = _rows([[] if all(one.special_tokens_mask) else one.ids for one in found], length, padding)
    return _Made(rows, sum(bool(one.overflowing) for one in found), max(highest, padding) + 1, padding)


Maker = Callable[[Sequence[str], Data, int], _Made]
TOKENIZE: dict[str, Maker] = dict(zip(TOKENIZERS, (_by_bytes, _by_words), strict=True))
