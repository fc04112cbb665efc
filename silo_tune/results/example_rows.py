"""Which examples the chains of a run got right: RUN/examples.parquet, gathered from the files of its trials.

One row for each trial and part: key, part (val | test), n, bits (`example_file.pack_bits`). Validation examples are in
the replicate's own order, test examples in one order for all seeds. A trial has none where it diverged or was trained
by a version that did not keep them; its test part has none where `evaluate.best_on_test` took the best of several
epochs. Nothing is trained again for what is damaged: it is told, and left out.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from silo_tune.store.run_folder import Run
from silo_tune.store.storage import Corrupt

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

EXAMPLES = "examples.parquet"
COLUMNS = ("key", "part", "n", "bits")
# Version of the columns, in the file's metadata.
FORMAT = 1
FORMAT_KEY = b"silo_tune.examples"
_COUNTS = {"val": ("val_score", "n_val"), "test": ("test_score", "n_test")}


@dataclass(frozen=True)
class Examples:
    """Which examples the trials that a run's chains continue with got right.

    Attributes:
        table: one row for each trial and part, columns as in `COLUMNS`.
        damaged: what could not be read, a sentence each.
    """

    table: pd.DataFrame
    damaged: tuple[str, ...] = ()

    def right(self, key: str, part: str) -> npt.NDArray[np.bool_] | None:
        """(n,) which examples of a part a trial got right, in the order of the part; None where it is not known."""
        from silo_tune.store.example_file import unpack_bits

        found = self._bits.get((key, part))
        return None if found is None else unpack_bits(*found)

    @cached_property
    def _bits(self) -> dict[tuple[str, str], tuple[bytes, int]]:
        columns = (self.table[name] for name in ("key", "part", "n", "bits"))
        return {(key, part): (bits, int(n)) for key, part, n, bits in zip(*columns, strict=True)}


def gather(run: Run, frame: pd.DataFrame, is_record: bool = False) -> Examples:
    """The examples of a run's chains, from the files of its trials; of those without, from what was gathered before.

    Args:
        run: the run.
        frame: its table. Examples that do not add up to their row are left out.
        is_record: there are no trials, only what was gathered before.
    """
    told: list[str] = []
    standing = {(row["key"], row["part"]): row for row in _standing(run, told)}
    rows: list[dict[str, Any]] = []
    for row in _continued(frame).to_dict("records"):
        key, own = row["key"], dict[str, dict[str, Any]]()
        if not is_record:
            try:
                own = _of_trial(run, key)
            except Corrupt as error:
                kept = any((key, part) in standing for part in _COUNTS)
                told.append(f"{error}; {f'{EXAMPLES} has them still' if kept else 'they are not made again'}")
        found = (own.get(part) or standing.get((key, part)) for part in _COUNTS)
        for entry in (entry for entry in found if entry is not None):
            if _adds_up(entry, row):
                rows.append(entry)
            else:
                told.append(f"the {entry['part']} examples of trial {key[:12]} do not fit its row; they are left out")
    return Examples(_table(rows), tuple(told))


def write_gathered(run: Run, found: Examples) -> None:
    """Write RUN/examples.parquet, whole or not at all. There is none where no trial has examples."""
    if len(found.table):
        run.storage.replace(EXAMPLES, to_bytes(found.table))


def to_bytes(table: pd.DataFrame) -> bytes:
    """The file of a table of examples."""
    import pyarrow as pa
    from pyarrow import parquet

    made = pa.Table.from_pandas(table, preserve_index=False)
    buffer = io.BytesIO()
    parquet.write_table(made.replace_schema_metadata({FORMAT_KEY: str(FORMAT).encode()}), buffer)
    return buffer.getvalue()


def _continued(frame: pd.DataFrame) -> pd.DataFrame:
    """Trials that chains continue with, and the winners that they do not, each once; those of searches are left out."""
    chosen = (frame["winner"].fillna(False) | frame["continued"].fillna(False)).astype(bool)
    rows = frame[chosen & frame["trial"].isna() & (frame["status"] == "ok").fillna(False).astype(bool)]
    return rows.drop_duplicates("key")


def _of_trial(run: Run, key: str) -> dict[str, dict[str, Any]]:
    """Part → its row, from a trial's own file. Raises Corrupt."""
    from silo_tune.store.example_file import pack_bits, unpack_examples

    result = run.result(key)
    data = None if result is None else run.units.read_examples(result)
    try:
        parts = {} if data is None else unpack_examples(data)
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"the examples of trial {key[:12]} cannot be read ({error})") from None
    return {
        part: {"key": key, "part": part, "n": len(values), "bits": pack_bits(values)}
        for part, values in parts.items()
        if values.dtype == bool and part in _COUNTS
    }


def _standing(run: Run, told: list[str]) -> list[dict[str, Any]]:
    """The rows of RUN/examples.parquet."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(run.storage.read(EXAMPLES)))
        version = (file.schema_arrow.metadata or {}).get(FORMAT_KEY, b"?").decode(errors="replace")
        if version != str(FORMAT):
            raise ValueError(f"version {version}, this one reads {FORMAT}")
        rows: list[dict[str, Any]] = file.read(columns=list(COLUMNS)).to_pylist()
        return rows
    except FileNotFoundError:
        return []
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        told.append(f"{run.storage.shown(EXAMPLES)} cannot be read ({reason})")
        return []


def _adds_up(entry: Mapping[str, Any], row: Mapping[Any, Any]) -> bool:
    """Are there as many examples, and as many right, as the row of the table says?"""
    import pandas as pd

    from silo_tune.store.example_file import unpack_bits

    score, count = (row[name] for name in _COUNTS[entry["part"]])
    n, bits = entry["n"], entry["bits"]
    if (
        pd.isna(count)
        or not isinstance(n, int)
        or n != count
        or not isinstance(bits, bytes)
        or len(bits) != (n + 7) // 8
    ):
        return False
    return bool(unpack_bits(bits, n).sum() == round(score * n))


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    kinds = {"key": "string", "part": "string", "n": "Int64", "bits": "object"}
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(kinds)
