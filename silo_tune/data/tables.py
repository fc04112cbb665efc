"""Tables in CSV or Parquet: numeric and categorical columns, which become numbers by what the training part shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from silo_tune.data.arrays import Labels
from silo_tune.data.example_sets import Array, ExampleSet
from silo_tune.data.targets import targets_of
from silo_tune.errors import BadInput, unknown
from silo_tune.study.data import Data
from silo_tune.study.task import TaskSpec

if TYPE_CHECKING:
    import pyarrow as pa

MISSING, UNSEEN, FIRST = 0, 1, 2  # codes of a category: of none, of one that training did not show, of those it did


def table(data: Data, task: TaskSpec | None) -> ExampleSet:
    """The set of a CSV or Parquet file.

    Raises:
        BadInput: a column is not there, or holds what it cannot.
    """
    place = data.place()
    assert place is not None
    return of_columns(data, read(Path(place)), task)


def of_columns(data: Data, found: pa.Table, task: TaskSpec | None) -> ExampleSet:
    """The set of a table that is read already. Raises BadInput as `table` does."""
    roles = _Roles.of(data, found)
    if roles.target == () or not (roles.numeric or roles.categorical):
        raise BadInput("data: a table needs a target, and a numeric or categorical column beside it")
    raw = [_values(found, name) for name in roles.target]
    joined = raw[0] if len(raw) == 1 else np.stack(raw, 1)
    kind = "classification" if task is None else task.name
    targets = targets_of(kind, [joined], named=f"column {', '.join(map(repr, roles.target))}")
    numeric = _beside([_numeric(found, name) for name in roles.numeric], found.num_rows, np.float64)
    coded = [_coded(found, name) for name in roles.categorical]
    codes = _beside([code for code, _ in coded], found.num_rows, np.int64)
    gaps, sizes = np.asarray(np.isnan(numeric).any(0)), tuple(size for _, size in coded)
    encoder = Encoder(roles.numeric, roles.categorical, gaps, sizes, data.encode or "one-hot", data.scale or "standard")
    return ExampleSet(
        train={"numeric": numeric, "categories": codes},
        train_labels=targets.parts[0],
        test=None,
        test_labels=None,
        classes=targets.outputs,
        shape=(encoder.width,),
        groups=None if data.group is None else _coded(found, data.group)[0],
        times=None if data.time is None else _order(found, data.time),
        encoder=encoder,
        further={"categories": encoder.sizes} if encoder.as_codes else {},
        notices=targets.notices,
        noun="rows",
    )


@dataclass(frozen=True)
class _Roles:
    target: tuple[str, ...]
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]

    @classmethod
    def of(cls, data: Data, found: pa.Table) -> _Roles:
        """Columns as the study names them; those that it names nowhere, by their type."""
        import pyarrow as pa

        target = (data.target,) if isinstance(data.target, str) else tuple(data.target or ())
        other = [*target, *(name for name in (data.group, data.time) if name), *data.ignore]
        for name in (*other, *data.numeric, *data.categorical):
            if name not in found.column_names:
                raise BadInput(f"data: {unknown('column', name, found.column_names)}")
        left = [name for name in found.column_names if name not in (*other, *data.numeric, *data.categorical)]
        kinds = {name: found.schema.field(name).type for name in left}
        numbers = {n for n, t in kinds.items() if pa.types.is_integer(t) or pa.types.is_floating(t)}
        words = {n for n, t in kinds.items() if pa.types.is_boolean(t) or _is_text(t)}
        strange = [name for name in left if name not in numbers | words]
        if strange:
            raise BadInput(
                f"data: column {strange[0]!r} is {kinds[strange[0]]}, neither numbers nor words; name it in ignore"
            )
        ordered = [name for name in found.column_names if name not in other]
        return cls(
            target,
            tuple(name for name in ordered if name in numbers or name in data.numeric),
            tuple(name for name in ordered if name in words or name in data.categorical),
        )


@dataclass(frozen=True)
class Encoder:
    """How columns become numbers, by what the training rows show: gaps are filled by the median and told by a column of
    their own, numbers have mean 0 and deviation 1 (by quantiles a normal shape too), categories a column or a code.

    Attributes:
        numeric, categorical: names of the columns.
        gaps: (numeric,) which have a missing value.
        sizes: numbers of different codes of each categorical column.
        encode: "one-hot" or "codes".
        scale: "standard" or "quantile".
    """

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    gaps: NDArray[np.bool_]
    sizes: tuple[int, ...]
    encode: str
    scale: str = "standard"

    @property
    def as_codes(self) -> bool:
        return self.encode == "codes" and bool(self.categorical)

    @property
    def width(self) -> int:
        """Numbers of an example, but for codes."""
        own = len(self.numeric) + int(self.gaps.sum())
        return own if self.as_codes else own + sum(self.sizes)

    def __call__(self, inputs: Any, rows: Labels) -> tuple[Any, tuple[str, ...]]:
        """Inputs of a network for all examples, fitted to the training rows; and what is to be told."""
        numbers, codes = self._numbers(inputs["numeric"], rows), inputs["categories"]
        known = [np.unique(codes[rows, place]) for place in range(codes.shape[1])]
        unseen = [~np.isin(codes[:, place], seen) & (codes[:, place] >= FIRST) for place, seen in enumerate(known)]
        told = tuple(
            f"column {name!r}: {int(new.sum()):,} of {len(new):,} rows have a category that the training part lacks"
            for name, new in zip(self.categorical, unseen, strict=True)
            if new.any()
        )
        if unseen:
            codes = np.where(np.stack(unseen, 1), UNSEEN, codes)
        if self.as_codes:
            return {"numeric": numbers, "categories": codes}, told
        wide = np.zeros((len(numbers), self.width), dtype=np.float32)
        wide[:, : numbers.shape[1]] = numbers
        start = numbers.shape[1]
        for place, size in enumerate(self.sizes):
            wide[np.arange(len(wide)), start + codes[:, place]] = 1.0
            start += size
        return wide, told

    def _scaled(self, numbers: Array, rows: Labels) -> Array:
        if self.scale == "quantile" and numbers.shape[1]:
            numbers = _normal(numbers, rows)
        mean, std = numbers[rows].mean(0), numbers[rows].std(0)
        return np.asarray((numbers - mean) / np.where(std > 0, std, 1.0))

    def _numbers(self, raw: Array, rows: Labels) -> NDArray[np.float32]:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a column without one number in the training part is all 0
            middle = np.nan_to_num(np.nanmedian(raw[rows], 0)) if raw.shape[1] else np.empty(0)
        missing = np.isnan(raw)
        filled = np.where(missing, middle, raw)
        scaled = self._scaled(filled, rows)
        return np.concatenate([scaled, missing[:, self.gaps]], 1).astype(np.float32)


def _normal(numbers: Array, rows: Labels) -> Array:
    """Each column by its quantile among the training rows, as a normal number."""
    from sklearn.preprocessing import QuantileTransformer

    fitted = QuantileTransformer(
        n_quantiles=min(1000, len(rows)), output_distribution="normal", subsample=None, random_state=0
    ).fit(numbers[rows])
    return np.asarray(fitted.transform(numbers))


def _beside(columns: Sequence[Array], rows: int, kind: type[Any]) -> Array:
    """(rows, columns); of no column it is empty."""
    return np.stack(columns, 1) if columns else np.empty((rows, 0), kind)


# --- columns ---


def read(file: Path) -> pa.Table:
    """A CSV or Parquet file. Raises BadInput where there is none."""
    from pyarrow import csv, parquet

    if not file.exists():
        raise BadInput(f"data.path: no file {str(file)!r}")
    if ".parquet" in file.suffixes:
        return parquet.ParquetFile(file).read()
    return csv.read_csv(file, convert_options=csv.ConvertOptions(strings_can_be_null=True))


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind))


def _values(found: pa.Table, name: str) -> Array:
    """A target's values: numbers, or texts and None."""
    column = found.column(name)
    if _is_text(column.type):
        return _plain(column.to_pylist())
    return np.asarray(column.to_numpy())


def _plain(values: Sequence[Any]) -> Array:
    return np.array(values, dtype=object) if any(value is None for value in values) else np.array(values)


def _numeric(found: pa.Table, name: str) -> NDArray[np.float64]:
    """A column of numbers; NaN where one is missing. Raises BadInput for texts and infinities."""
    import pyarrow as pa

    column = found.column(name)
    try:
        numbers = column.cast(pa.float64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise BadInput(f"data: column {name!r} is no column of numbers: {error}") from None
    endless = np.flatnonzero(np.isinf(numbers))
    if len(endless):
        raise BadInput(f"data: column {name!r} is infinite in row {endless[0]}; fill it, or leave the row out")
    return np.asarray(numbers, dtype=np.float64)


def _coded(found: pa.Table, name: str) -> tuple[NDArray[np.int64], int]:
    """Codes of a column of categories, from `FIRST` in the order of their names, `MISSING` where there is none; and how
    many different codes there can be."""
    words = [None if value is None or value != value else str(value) for value in found.column(name).to_pylist()]
    known = {word: FIRST + place for place, word in enumerate(sorted({word for word in words if word is not None}))}
    codes = np.array([MISSING if word is None else known[word] for word in words], dtype=np.int64)
    return codes, FIRST + len(known)


def _order(found: pa.Table, name: str) -> NDArray[np.int64]:
    """The order of the values of a column of times: numbers, dates or texts that sort as times do."""
    values = _plain(found.column(name).to_pylist())
    if values.dtype == object:
        raise BadInput(f"data.time: column {name!r} has a row without a value")
    return np.unique(values, return_inverse=True)[1].astype(np.int64)
