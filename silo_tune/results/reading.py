"""A table that somebody wrote to a file: its version, its columns, its types, and what its cells may be."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from silo_tune.errors import BadInput
from silo_tune.planner.outcome import EARLIER
from silo_tune.results.checks import Wrong, problems
from silo_tune.results.columns import COLUMNS, FORMAT, FORMAT_KEY, LATER, columns_of
from silo_tune.results.table import mixed_devices
from silo_tune.study.model import Study

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_MOST_PROBLEMS, _MOST_ROWS, _MOST_VALUES = 20, 5, 3
_TRUTH = {"true": 1.0, "false": 0.0}


def read_table(data: bytes, source: str, study: Study) -> pd.DataFrame:
    """The table of a Parquet file, with the columns and types of `columns_of`; other columns are left out.

    Args:
        data: the file.
        source: its name, for messages.
        study: what its rows must fit.

    Raises:
        BadInput: it is no such table; the message has a line for each column that is wrong, with rows and values. Rows
            are counted from 0.
    """
    given = _parsed(data, source).rename(columns=EARLIER)
    missing = [name for name in COLUMNS if name not in given.columns and name not in LATER]
    if missing:
        raise BadInput(f"{source}: no column {', '.join(missing)}; it is not a table of this project, or was cut")
    frame, wrong = _typed(given, columns_of(study))
    wrong = wrong or list(problems(frame, study))
    if wrong:
        more = [f"{source}: and {len(wrong) - _MOST_PROBLEMS} more"] if len(wrong) > _MOST_PROBLEMS else []
        lines = [f"{source}: {_line(item, given)}" for item in wrong[:_MOST_PROBLEMS]]
        raise BadInput("\n".join([*lines, *more]))
    frame["mixed"] = mixed_devices(frame).astype("boolean")
    frame["score"] = frame["score"].fillna(study.scored.name)
    return frame


def _parsed(data: bytes, source: str) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        _check_version(file.schema_arrow.metadata or {}, source)
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise BadInput(f"{source}: two columns have one name; put back a copy")
        found = file.read()
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise BadInput(f"{source} is not a whole Parquet file ({reason}); put back a copy") from None
    kinds = {pa.int64(): pd.Int64Dtype(), pa.float64(): pd.Float64Dtype(), pa.bool_(): pd.BooleanDtype()}
    frame: pd.DataFrame = found.to_pandas(types_mapper=kinds.get, ignore_metadata=True)
    return frame


def _check_version(metadata: Mapping[bytes, bytes], source: str) -> None:
    version = metadata.get(FORMAT_KEY, b"1").decode(errors="replace")
    if not version.isdigit() or int(version) < 1:
        raise BadInput(f"{source}: its version {version!r} is none; put back a copy")
    if int(version) > FORMAT:
        raise BadInput(f"{source} was made by a newer silo-tune (table {version}, this one reads {FORMAT}); update")


# --- types ---


def _typed(given: pd.DataFrame, kinds: Mapping[str, tuple[str, str]]) -> tuple[pd.DataFrame, list[Wrong]]:
    """The columns with their types; and what could not be read so, which is null."""
    import pandas as pd

    columns, wrong = dict[str, Any](), list[Wrong]()
    for name, (kind, _) in kinds.items():
        if name not in given:
            columns[name] = pd.Series(pd.NA, index=given.index, dtype=kind)
            continue
        columns[name], unread = _as_kind(given[name], kind)
        if unread.any():
            wrong.append(Wrong(name, f"it holds {_KINDS[kind]}", unread))
    return pd.DataFrame(columns), wrong


_KINDS = {"Int64": "whole numbers", "Float64": "numbers", "boolean": "true or false", "string": "text"}


def _as_kind(column: pd.Series[Any], kind: str) -> tuple[pd.Series[Any], np.ndarray[Any, np.dtype[np.bool_]]]:
    """(the column with this type, its cells that do not fit)."""
    import numpy as np
    import pandas as pd

    if kind == "string" or (str(column.dtype) == kind and kind != "Float64"):
        return column.astype(kind), np.zeros(len(column), dtype=bool)  # type: ignore[call-overload]
    if kind == "boolean":
        column = column.map(lambda cell: _TRUTH.get(cell.lower(), cell) if isinstance(cell, str) else cell)
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    known = np.isfinite(values)
    fits = known.copy()
    if kind == "Int64":
        fits &= (np.where(known, values, 0) % 1 == 0) & (np.abs(np.where(known, values, 0)) < 2**63)
    elif kind == "boolean":
        fits &= np.isin(values, (0.0, 1.0))
    unread = column.notna().to_numpy(dtype=bool) & ~fits
    typed = pd.Series(np.where(fits, values, np.nan), index=column.index).astype("Float64").astype(kind)  # type: ignore[call-overload]
    return typed, unread


# --- words ---


def _line(wrong: Wrong, given: pd.DataFrame) -> str:
    rows = [int(row) for row in wrong.mask.nonzero()[0]]
    cells = list(_values(given, wrong.column, rows))
    shown = f"{', '.join(cells[:_MOST_VALUES])}{', …' if len(cells) > _MOST_VALUES else ''}"
    where = ", ".join(map(str, rows[:_MOST_ROWS])) + (
        f" and {len(rows) - _MOST_ROWS} more" if len(rows) > _MOST_ROWS else ""
    )
    return f"{wrong.column}: {shown} in row{'' if len(rows) == 1 else 's'} {where}; {wrong.expected}"


def _values(given: pd.DataFrame, column: str, rows: list[int]) -> Iterator[str]:
    """The distinct cells of some rows, as text; of several columns together as (a, b)."""
    names = [name for name in column.split(", ") if name in given]
    cells = given[names].iloc[rows].drop_duplicates()
    for row in cells.itertuples(index=False, name=None):
        text = [_shown(cell) for cell in row]
        yield text[0] if len(text) == 1 else f"({', '.join(text)})"


def _shown(cell: Any) -> str:
    import pandas as pd

    return "nothing" if pd.isna(cell) else f"{cell:.12g}" if isinstance(cell, float) else str(cell)
