"""Where a set's encoded images are: files below a folder, or rows of Parquet files."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from silo_tune.data.arrays import Labels, Pixels
from silo_tune.data.images import Form, Shape
from silo_tune.errors import BadInput, one_line


class ImageSource(Protocol):
    """Encoded images in a fixed order, with their labels.

    Attributes:
        labels: (N,) int64.
    """

    @property
    def labels(self) -> Labels: ...

    def name(self, row: int) -> str:
        """What a message calls an image."""
        ...

    def files(self, rows: Labels | None = None) -> Iterator[Path]:
        """The files that hold these rows, or all."""
        ...

    def lines(self) -> Iterator[str]:
        """What the listing says: names, sizes and labels."""
        ...

    def contents(self) -> Iterator[bytes | Exception]:
        """Every image once, in order; an error that names it in the place of one that cannot be read."""
        ...

    def opened(self) -> Callable[[int], bytes]:
        """Read single images in any order, in this process. Raises BadInput when the files are not seen here."""
        ...


@dataclass(frozen=True)
class FileSource:
    """Image files below a folder.

    Attributes:
        root: the folder.
        names: (N,) paths below it, as bytes of one width: one copy per node serves all its processes.
        labels: (N,) int64.
    """

    root: str
    names: NDArray[np.bytes_]
    labels: Labels

    @classmethod
    def of(cls, root: Path, items: Sequence[tuple[Path, int]]) -> FileSource:
        """The source of (file, label) pairs; files are written as `root / …`."""
        above = os.path.join(root, "")
        names = [os.fsencode(str(file).removeprefix(above)) for file, _ in items]
        labels = np.array([label for _, label in items], dtype=np.int64)
        return cls(os.path.abspath(root), np.array(names, dtype=np.bytes_), labels)

    def name(self, row: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.names[row]))

    def files(self, rows: Labels | None = None) -> Iterator[Path]:
        return (Path(self.name(row)) for row in (range(len(self.names)) if rows is None else rows.tolist()))

    def lines(self) -> Iterator[str]:
        for row, label in enumerate(self.labels.tolist()):
            name = os.fsdecode(self.names[row]).encode(errors="backslashreplace").decode()
            yield f"{name}\t{os.stat(self.name(row)).st_size}\t{label}"

    def contents(self) -> Iterator[bytes | Exception]:
        read = self.opened()
        for row in range(len(self.names)):
            try:
                yield read(row)
            except OSError as error:
                yield error

    def opened(self) -> Callable[[int], bytes]:
        require_seen(self.root)
        return lambda row: Path(self.name(row)).read_bytes()


@dataclass(frozen=True)
class ParquetSource:
    """Rows of Parquet files in Hugging Face layout, in the order of the files.

    Attributes:
        root: the folder that holds the files of all parts.
        paths: the files of this part, absolute.
        image_key: column of the images, each with its `bytes`.
        labels: (N,) int64.
        ends: number of rows up to the end of each file.
    """

    root: str
    paths: tuple[str, ...]
    image_key: str
    labels: Labels
    ends: tuple[int, ...]

    def name(self, row: int) -> str:
        file = int(np.searchsorted(self.ends, row, side="right"))
        return f"row {row - (self.ends[file - 1] if file else 0)} of {self.paths[file]}"

    def files(self, rows: Labels | None = None) -> Iterator[Path]:
        return map(Path, self.paths)

    def lines(self) -> Iterator[str]:
        yield from (f"{os.path.relpath(path, self.root)}\t{os.stat(path).st_size}" for path in self.paths)
        yield f"labels\t{hashlib.sha256(np.ascontiguousarray(self.labels).data).hexdigest()}"

    def contents(self) -> Iterator[bytes | Exception]:
        import pyarrow.parquet as pq

        row = 0
        for path in self.paths:
            with named(Path(path)):
                for batch in pq.ParquetFile(path).iter_batches(batch_size=256, columns=[self.image_key]):
                    for item in batch.column(0).to_pylist():
                        there = item is not None and item["bytes"] is not None
                        yield item["bytes"] if there else self._without_bytes(row, item)
                        row += 1

    def _without_bytes(self, row: int, item: Any) -> BadInput:
        where = "" if item is None else f" (its path is {item.get('path')!r})"
        return BadInput(
            f"{self.name(row)}: an image has no bytes{where}; write the files with their images inside, as `datasets` "
            f"does after Dataset.cast_column(…, Image()) and embedding"
        )

    def opened(self) -> Callable[[int], bytes]:
        require_seen(self.root)
        rows = rows_of(self.root, self.paths, self.image_key)
        return lambda row: rows[row][self.image_key]["bytes"]


@contextmanager
def named(file: Path) -> Iterator[None]:
    """Raises BadInput that names a file which cannot be read."""
    try:
        yield
    except (OSError, ValueError) as error:  # of pyarrow
        raise BadInput(f"{str(file)!r} is not a readable Parquet file: {one_line(error)}; replace it") from error


def require_seen(root: str) -> None:
    """Raises BadInput when a folder is not there."""
    if not os.path.isdir(root):
        raise BadInput(
            f"data.path: {root!r} is not seen on {socket.gethostname()}; a streamed set is read by every worker: put "
            f"it where every node sees it at the same path, or set data.stream = false"
        )


@lru_cache(maxsize=8)
def rows_of(root: str, paths: tuple[str, ...], image_key: str) -> Any:
    """Encoded images of these Parquet files by row, through the package `datasets`.

    It writes them once into a cache of its own, which it maps into memory: Parquet itself gives no single row.

    Raises:
        BadInput: the package is missing, or it groups the files otherwise.
    """
    try:
        import datasets
    except ImportError:
        raise BadInput(
            "data.stream: reading Parquet files as they are needed takes an extra: pip install 'silo-tune[hub]'"
        ) from None
    datasets.disable_progress_bars()
    ours = [os.path.realpath(path) for path in paths]
    grouped = datasets.load_dataset_builder(root).config.data_files or {}
    for split, theirs in grouped.items():
        if [os.path.realpath(str(path)) for path in theirs] == ours:
            rows = datasets.load_dataset(root, split=str(split)).select_columns([image_key])
            return rows.cast_column(image_key, datasets.Image(decode=False))
    raise BadInput(
        f"data.stream: the package datasets finds other parts below {root!r} ({', '.join(map(str, grouped))}) than the "
        f"files {os.path.basename(paths[0])} …; keep only the Parquet files of this set there, or set "
        f"data.stream = false"
    )


def check_shape(name: str, image: Pixels, shape: tuple[int, ...]) -> None:
    """Raises BadInput when an image has another shape than the first."""
    if image.shape != shape:
        raise BadInput(
            f"the images of this set have different sizes: the first is {shape}, {name!r} is {image.shape}; set "
            f"data.size to resize them"
        )


@dataclass(frozen=True)
class Stream:
    """Images that are read and decoded as they are needed, rows counted through all sources.

    Attributes:
        sources: where they are.
        form: how one becomes pixels.
        image: (H, W, C) of every image.
        workers: processes that read; 0 reads in the process that trains. They change nothing.
        moments: (N, C, 2) int64, the sums over each image of its grey levels and their squares; None when they are
            not known yet.
    """

    sources: tuple[ImageSource, ...]
    form: Form
    image: Shape
    workers: int = 0
    moments: NDArray[np.int64] | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C), as of an array."""
        return (sum(len(source.labels) for source in self.sources), *self.image)

    def __len__(self) -> int:
        return self.shape[0]

    def locate(self, row: int) -> tuple[int, int]:
        """The number of the source that holds a row, and the row there."""
        for number, source in enumerate(self.sources):
            if row < len(source.labels):
                return number, row
            row -= len(source.labels)
        raise IndexError(row)

    def files(self, rows: Labels) -> Iterator[Path]:
        """The files that hold these rows."""
        first = 0
        for source in self.sources:
            last = first + len(source.labels)
            yield from source.files(rows[(rows >= first) & (rows < last)] - first)
            first = last
