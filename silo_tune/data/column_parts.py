"""Folders of columns, with a file or more for each part: Parquet in Hugging Face layout, or what `datasets` saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from silo_tune.data.example_sets import ExampleSet, arrays_in
from silo_tune.errors import BadInput
from silo_tune.formats import parse_json

if TYPE_CHECKING:
    import pyarrow as pa

# Of a part, how the names of its files begin; the first that there is counts.
PARTS = {"train": ("train",), "test": ("test",), "val": ("validation", "val", "valid")}
PART = "part of the set"  # the column that says which part a row is of


def read_folder(place: str, config: str | None, columns: Sequence[str] | None, file: Callable[[Path], Any]) -> pa.Table:
    """The rows of all parts, and in the column `PART` of which one they are.

    Args:
        place: a folder, or hf://datasets/NAME.
        config: a folder below it.
        columns: those that are needed; all when None.
        file: reads one file that is not Arrow.

    Raises:
        BadInput: there is no training part, or parts have different columns.
    """
    import pyarrow as pa

    from silo_tune.data.parquet import directory

    root = directory(place) / (config or "")
    parts = _saved(root) or _named(root)
    if "train" not in parts:
        raise BadInput(
            f"data.path: {str(root)!r} has no training part: train*.parquet, .csv or .jsonl, or what save_to_disk wrote"
        )
    tables = []
    for part, files in parts.items():
        for one in files:
            rows = _arrow(one) if one.suffix == ".arrow" else file(one)
            if columns is not None:
                rows = rows.select([name for name in rows.column_names if name in columns])
            tables.append(rows.append_column(PART, pa.array([part] * len(rows), pa.string())))
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise BadInput(f"data.path: the files of {str(root)!r} do not go together: {error}") from None


def _named(root: Path) -> dict[str, list[Path]]:
    from silo_tune.data.parquet import files_of

    found = {}
    for part, names in PARTS.items():
        every = (files_of(root, name, kind) for name in names for kind in ("parquet", "csv", "jsonl"))
        if files := next((files for files in every if files), None):
            found[part] = files
    return found


def _saved(root: Path) -> dict[str, list[Path]]:
    """The Arrow files of a set, or of a mapping of sets, that `save_to_disk` of datasets wrote."""
    if (root / "state.json").is_file():
        return {"train": _files(root)}
    if not (root / "dataset_dict.json").is_file():
        return {}
    splits = parse_json((root / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
    chosen = {part: next((name for name in names if name in splits), None) for part, names in PARTS.items()}
    return {part: _files(root / name) for part, name in chosen.items() if name is not None}


def _files(folder: Path) -> list[Path]:
    state = parse_json((folder / "state.json").read_text(encoding="utf-8"))
    return [folder / one["filename"] for one in state["_data_files"]]


def _arrow(file: Path) -> pa.Table:
    import pyarrow as pa

    with pa.memory_map(str(file)) as source:
        return pa.ipc.open_stream(source).read_all()


def in_parts(found: ExampleSet, part: NDArray[Any] | None) -> ExampleSet:
    """A set of the rows of all parts as one with parts of its own; `part` says of which one each row is."""
    if part is None or set(part) == {"train"}:
        return found
    rows = {name: np.flatnonzero(part == name) for name in PARTS}
    inputs = {name: _rows(found.train, of) if len(of) else None for name, of in rows.items()}
    labels = {name: found.train_labels[of] if len(of) else None for name, of in rows.items()}
    train_labels = labels["train"]
    if train_labels is None:
        raise BadInput("data: no row of the training part is left")
    return replace(
        found,
        train=inputs["train"],
        train_labels=train_labels,
        test=inputs["test"],
        test_labels=labels["test"],
        val=inputs["val"],
        val_labels=labels["val"],
        groups=None if found.groups is None else found.groups[rows["train"]],
        times=None if found.times is None else found.times[rows["train"]],
    )


def _rows(inputs: Any, rows: NDArray[Any]) -> Any:
    taken = {name: array[rows] for name, array in arrays_in(inputs).items()}
    return taken[""] if list(taken) == [""] else taken
