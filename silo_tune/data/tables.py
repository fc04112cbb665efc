"""Tables: numeric and categorical columns, which become numbers by what the training part shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from silo_tune.data.arrays import Labels
from silo_tune.data.column_files import (
    FIRST,
    UNSEEN,
    coded,
    is_text,
    numeric,
    order_of,
    part_of,
    read,
    require_columns,
    targets_in,
    targets_named,
)
from silo_tune.data.column_parts import PART, in_parts
from silo_tune.data.example_sets import Array, ExampleSet
from silo_tune.errors import BadInput, shown
from silo_tune.study.data import Data
from silo_tune.study.task import TaskSpec

if TYPE_CHECKING:
    import pyarrow as pa


def table(data: Data, task: TaskSpec | None) -> ExampleSet:
    """The set of a CSV, Parquet or JSON lines file, or of a folder with a file for each part.

    Raises:
        BadInput: a column is not there, or holds what it cannot.
    """
    found = read(data)
    return in_parts(of_columns(data, found, task), part_of(found))


def of_columns(data: Data, found: pa.Table, task: TaskSpec | None) -> ExampleSet:
    """The set of a table that is read already. Raises BadInput as `table` does."""
    require_columns(data, found)
    roles = _Roles.of(data, found)
    if targets_named(data) == () or not (roles.numeric or roles.categorical):
        raise BadInput("data: a table needs a target, and a numeric or categorical column beside it")
    targets = targets_in(found, data, task)
    numbers = _beside([numeric(found, name) for name in roles.numeric], found.num_rows, np.float64)
    codes_of = [coded(found, name) for name in roles.categorical]
    codes = _beside([code for code, _ in codes_of], found.num_rows, np.int64)
    gaps, sizes = np.asarray(np.isnan(numbers).any(0)), tuple(size for _, size in codes_of)
    encoder = Encoder(roles.numeric, roles.categorical, gaps, sizes, data.encode or "one-hot", data.scale or "standard")
    return ExampleSet(
        train={"numeric": numbers, "categories": codes},
        train_labels=targets.parts[0],
        test=None,
        test_labels=None,
        classes=targets.outputs,
        shape=(encoder.width,),
        groups=None if data.group is None else coded(found, data.group)[0],
        times=None if data.time is None else order_of(found, data.time),
        encoder=encoder,
        further={"categories": encoder.sizes} if encoder.as_codes else {},
        notices=(
            *targets.notices,
            *_nearly_numbers(found, [n for n in roles.categorical if n not in data.categorical]),
        ),
        noun="rows",
        names=targets.names,
    )


# Of the values of a column, so many are numbers where its words are taken for slips.
NEARLY = 0.9


def _nearly_numbers(found: pa.Table, names: Sequence[str]) -> Iterator[str]:
    """A sentence for each column that is read as categories because a few of its values are no numbers."""
    for name in filter(lambda name: is_text(found.schema.field(name).type), names):
        values = [value for value in found.column(name).to_pylist() if value is not None]
        words = [value for value in values if not _is_number(value)]
        if values and words and len(words) <= (1 - NEARLY) * len(values):
            yield (
                f"column {name!r} is read as categories, though only {len(words):,} of its {len(values):,} values are "
                f"no numbers ({shown(words[0])}); mend them, or name it in data.categorical"
            )


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class _Roles:
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]

    @classmethod
    def of(cls, data: Data, found: pa.Table) -> _Roles:
        """Columns as the study names them; those that it names nowhere, by their type."""
        import pyarrow as pa

        other = [*targets_named(data), *(name for name in (data.group, data.time) if name), *data.ignore, PART]
        left = [name for name in found.column_names if name not in (*other, *data.numeric, *data.categorical)]
        kinds = {name: found.schema.field(name).type for name in left}
        numbers = {n for n, t in kinds.items() if pa.types.is_integer(t) or pa.types.is_floating(t)}
        words = {n for n, t in kinds.items() if pa.types.is_boolean(t) or is_text(t)}
        strange = [name for name in left if name not in numbers | words]
        if strange:
            if pa.types.is_null(kinds[strange[0]]):
                raise BadInput(f"data: column {strange[0]!r} has no value in any row; name it in ignore")
            if pa.types.is_binary(kinds[strange[0]]):
                raise BadInput(
                    f"data: column {strange[0]!r} is not UTF-8; save the file as UTF-8, or name the column in ignore"
                )
            raise BadInput(
                f"data: column {strange[0]!r} is {kinds[strange[0]]}, neither numbers nor words; name it in ignore"
            )
        ordered = [name for name in found.column_names if name not in other]
        return cls(
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
        mostly = [len(seen) > len(rows) / 2 for seen in known]  # the categories are hardly ever alike
        gaps = np.isnan(inputs["numeric"]).sum(0)
        told = tuple(
            f"column {name!r}: {int(count):,} of {len(numbers):,} rows have no number; the training median stands "
            "in, and a column tells of it"
            for name, count in zip(self.numeric, gaps, strict=True)
            if count
        )
        told += tuple(
            f"column {name!r}: {int(new.sum()):,} of {len(new):,} rows have a category that the training part lacks"
            + ("; are they texts? data.ignore leaves them out, data.name = 'text' reads them" if many else "")
            for name, new, many in zip(self.categorical, unseen, mostly, strict=True)
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
