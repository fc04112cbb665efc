"""Columns of CSV, Parquet and JSON lines files: numbers, codes of categories, an order in time, targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from silo_tune.data.column_parts import PART, read_folder
from silo_tune.data.example_sets import Array
from silo_tune.data.targets import Targets, targets_of
from silo_tune.errors import BadInput, one_line, unknown
from silo_tune.study.data import Data
from silo_tune.study.task import TaskSpec

if TYPE_CHECKING:
    import pyarrow as pa

MISSING, UNSEEN, FIRST = 0, 1, 2  # codes of a category: of none, of one that training did not show, of those it did
JSON_LINES = (".jsonl", ".ndjson", ".json")


def read(data: Data, columns: Sequence[str] | None = None) -> pa.Table:
    """The columns of the file that [data] names; of a folder the rows of all parts (`column_parts`).

    Args:
        data: names it.
        columns: of a folder, those that are needed; all when None.

    Raises:
        BadInput: there is none.
    """
    place = data.place() or ""
    if place.startswith("hf://") or Path(place).is_dir():
        return read_folder(place, data.config, columns, lambda file: read_file(file, data.text))
    return read_file(Path(place), data.text)


def part_of(found: pa.Table) -> NDArray[Any] | None:
    """Of which part each row is; None where the file has none."""
    return np.array(found.column(PART).to_pylist()) if PART in found.column_names else None


def read_file(file: Path, text: str | None = None) -> pa.Table:
    """A CSV, Parquet or JSON lines file. Raises BadInput where there is none.

    Args:
        file: its place.
        text: a column of texts, even where all of them look like numbers.
    """
    if not file.exists():
        raise BadInput(f"data.path: no file {str(file)!r}")
    found = _parsed(file, text)
    names = found.column_names
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise BadInput(f"data.path: {str(file)!r} has more than one column {twice!r}; give each another name")
    return found


def _parsed(file: Path, text: str | None) -> pa.Table:
    from pyarrow import csv, json, parquet, string

    try:
        if ".parquet" in file.suffixes:
            return parquet.ParquetFile(file).read()
        if file.suffix in JSON_LINES:
            return json.read_json(file)
        types = {text: string()} if text else {}
        return csv.read_csv(
            file,
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(strings_can_be_null=True, column_types=types),
        )
    except (OSError, ValueError) as error:  # of pyarrow
        raise BadInput(f"data.path: cannot read {str(file)!r}: {one_line(error)}") from error


def require_columns(data: Data, found: pa.Table) -> None:
    """Raises BadInput where [data] names a column that is not there."""
    named = (*targets_named(data), data.text, data.group, data.time, *data.ignore, *data.numeric, *data.categorical)
    for name in named:
        if name and name not in found.column_names:
            raise BadInput(f"data: {unknown('column', name, found.column_names)}")


# Fewer rows say nothing of a column whose values all differ (ours).
_ROWS_OF_IDS = 20


def id_columns(data: Data) -> list[str]:
    """Columns that number or name the rows of a table: integers without wide gaps, or single words, no value twice.

    A network that sees one learns the rows by heart, or the order in which they were written.

    Raises:
        BadInput: the file is not there, or has not the columns that [data] names.
    """
    import pyarrow.compute as pc

    found = read(data)
    require_columns(data, found)
    known = {*targets_named(data), data.group, data.time, *data.ignore, *data.numeric, *data.categorical}
    return [
        name
        for name in found.column_names
        if name not in known and found.num_rows >= _ROWS_OF_IDS
        if pc.count_distinct(found[name], mode="all").as_py() == found.num_rows and _names_rows(found[name])
    ]


def _names_rows(values: Any) -> bool:
    """Of different values: are they row numbers, or words without a space?"""
    import pyarrow as pa
    import pyarrow.compute as pc

    if values.null_count:
        return False
    if pa.types.is_integer(values.type):
        ends = pc.min_max(values).as_py()
        return bool(ends["max"] - ends["min"] < 2 * len(values))
    return is_text(values.type) and not pc.any(pc.match_substring(values.cast(pa.string()), " ")).as_py()


def targets_named(data: Data) -> tuple[str, ...]:
    """The columns that are predicted."""
    return (data.target,) if isinstance(data.target, str) else tuple(data.target or ())


def targets_in(found: pa.Table, data: Data, task: TaskSpec | None) -> Targets:
    """The targets of a task, from the columns that [data] names. Raises BadInput as `targets_of` does."""
    if task is not None and task.name == "language-model":
        raise BadInput('task: a language-model is trained on data.name = "tokens"')
    raw = [_values(found, name) for name in targets_named(data)]
    joined = raw[0] if len(raw) == 1 else np.stack(raw, 1)
    return targets_of(task, [joined], named=f"column {', '.join(map(repr, targets_named(data)))}")


def is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind))


def _values(found: pa.Table, name: str) -> Array:
    """A target's values: numbers, or texts and None."""
    column = found.column(name)
    if is_text(column.type):
        return _plain(column.to_pylist())
    return np.asarray(column.to_numpy())


def _plain(values: Sequence[Any]) -> Array:
    return np.array(values, dtype=object) if any(value is None for value in values) else np.array(values)


def numeric(found: pa.Table, name: str) -> NDArray[np.float64]:
    """A column of numbers; NaN where one is missing. Raises BadInput for texts, infinities, and what is too large."""
    import pyarrow as pa

    column = found.column(name)
    try:
        numbers = column.cast(pa.float64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise BadInput(f"data: column {name!r} is no column of numbers: {error}") from None
    endless = np.flatnonzero(np.isinf(numbers))
    if len(endless):
        raise BadInput(f"data: column {name!r} is infinite in row {endless[0]}; fill it, or leave the row out")
    huge = np.flatnonzero(np.abs(numbers) > np.finfo(np.float32).max)
    if len(huge):
        raise BadInput(
            f"data: column {name!r} is {numbers[huge[0]]:g} in row {huge[0]}, more than single precision can hold; "
            f"correct it, or leave the row out"
        )
    return np.asarray(numbers, dtype=np.float64)


def coded(found: pa.Table, name: str) -> tuple[NDArray[np.int64], int]:
    """Codes of a column of categories, from `FIRST` in the order of their names, `MISSING` where there is none; and how
    many different codes there can be."""
    words = [None if value is None or value != value else str(value) for value in found.column(name).to_pylist()]
    known = {word: FIRST + place for place, word in enumerate(sorted({word for word in words if word is not None}))}
    codes = np.array([MISSING if word is None else known[word] for word in words], dtype=np.int64)
    return codes, FIRST + len(known)


def order_of(found: pa.Table, name: str) -> NDArray[np.int64]:
    """The order of the values of a column of times: numbers, dates or texts that sort as times do."""
    values = _plain(found.column(name).to_pylist())
    if values.dtype == object:
        raise BadInput(f"data.time: column {name!r} has a row without a value")
    return np.unique(values, return_inverse=True)[1].astype(np.int64)
