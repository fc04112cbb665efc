"""Rows as a DataFrame, and as a file. Pandas is imported only where a table is made."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from silo_tune.results.columns import COLUMNS, FORMAT, FORMAT_KEY, columns_of
from silo_tune.results.rows import rows
from silo_tune.store.run_folder import TABLE, Run
from silo_tune.store.unit_store import Notice, silent
from silo_tune.study.model import Study

if TYPE_CHECKING:
    import pandas as pd


def make_table(
    rows_: Iterator[dict[str, Any]] | list[dict[str, Any]], columns: Mapping[str, tuple[str, str]] = COLUMNS
) -> pd.DataFrame:
    """A DataFrame with the columns and types of `COLUMNS`, or of these."""
    import pandas as pd

    frame = pd.DataFrame(list(rows_), columns=list(columns))
    frame["mixed"] = mixed_devices(frame)
    return frame.astype({name: kind for name, (kind, _) in columns.items()})


def mixed_devices(frame: pd.DataFrame) -> pd.Series[bool]:
    """The column `mixed`; what is compared is within a seed."""
    return frame.groupby("seed")["device"].transform("nunique") > 1


def table(run: Run, study: Study | None = None, doubt: Notice = silent) -> pd.DataFrame:
    """The table of a run, from its decisions and results; `doubt` is as in `rows`."""
    study = study or run.study()
    return make_table(rows(run, study, doubt), columns_of(study))


def write_table(run: Run, frame: pd.DataFrame) -> None:
    """Write RUN/table.parquet, whole or not at all.

    One without rows is not written: a table without decisions and trials is a record, and nothing resumes it.
    """
    if len(frame):
        run.storage.replace(TABLE, to_parquet(frame))


def lost_rows(run: Run, frame: pd.DataFrame) -> int:
    """Trained rows of the table that stands which the files of the run do not give any more."""
    import pandas as pd

    columns = ["arm", "seed", "trial", "cycle", "candidate", "repeat"]
    try:
        file = io.BytesIO(run.storage.read(TABLE))
        before = pd.read_parquet(file, columns=[*columns, "steps"], dtype_backend="numpy_nullable")
    except (OSError, ValueError, KeyError):  # there is none, or none that can be read
        return 0
    # Steps are those of the trial's own file; a decision, which may still be there, does not tell them.
    stood, known = (
        set(found.loc[found["steps"].notna(), columns].astype("string").fillna("").agg("/".join, axis=1))
        for found in (before, frame)
    )
    return len(stood - known)


def to_parquet(frame: pd.DataFrame) -> bytes:
    """The file of a table, with the version of its columns in its metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    made = pa.Table.from_pandas(frame, preserve_index=False)
    buffer = io.BytesIO()
    parquet.write_table(
        made.replace_schema_metadata({**made.schema.metadata, FORMAT_KEY: str(FORMAT).encode()}), buffer
    )
    return buffer.getvalue()
