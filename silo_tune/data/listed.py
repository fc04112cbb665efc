"""A whole set, before a pixel is read: decoded into memory, or opened as streams."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from silo_tune.data.arrays import Pixels
from silo_tune.data.cache import Arrays, cached
from silo_tune.data.images import Broken, Form, Shape
from silo_tune.data.sets import NO_POOL, DataSet, StreamedSet
from silo_tune.data.stream import ImageSource, Stream, check_shape
from silo_tune.errors import BadInput
from silo_tune.formats import plural

# Raise it when an image becomes other pixels than before.
DECODER = 2
MOST_NAMED = 5


def left_out(root: Path, files: Iterable[Path], what: str) -> tuple[str, ...]:
    """One sentence that counts what a listing leaves out and names the first few; none where it is nothing."""
    names = sorted(str(file.relative_to(root)) for file in files)
    return (f"{plural(len(names), what)} below {str(root)!r} left out: {shortened(names)}",) if names else ()


def shortened(names: Sequence[str]) -> str:
    """The first few names, with a sign that there are more."""
    return ", ".join(names[:MOST_NAMED]) + (", …" if len(names) > MOST_NAMED else "")


@dataclass(frozen=True)
class Listed:
    """A set whose images are known by name and label, and not read yet.

    Attributes:
        train: its training images.
        test: its official test part, or None.
        val: its own validation part where that is asked for, or None.
        classes: number of classes.
        form: how an image becomes pixels.
        options: what else the decoded arrays depend on, for the cache.
        notices: what was left out of it, in sentences.
    """

    train: ImageSource
    test: ImageSource | None
    classes: int
    form: Form
    options: Mapping[str, Any]
    notices: tuple[str, ...] = ()
    val: ImageSource | None = None

    def parts(self) -> dict[str, ImageSource]:
        """The parts that there are, by name."""
        found = {"train": self.train, "test": self.test, "val": self.val}
        return {name: source for name, source in found.items() if source is not None}

    def listing(self) -> str:
        """sha256 over sorted names, sizes and labels."""
        digest = hashlib.sha256()
        for part, source in self.parts().items():
            for line in sorted(source.lines()):
                digest.update(f"{part}\t{line}\n".encode())
        return digest.hexdigest()

    def decoded(self) -> DataSet:
        """The set in memory."""
        files = [file for source in self.parts().values() for file in source.files()]
        arrays = cached(files, {**self.options, "decoder": DECODER}, self._decode)
        train, train_labels = arrays["train"], arrays["train_labels"]
        test, test_labels = arrays.get("test"), arrays.get("test_labels")
        val = arrays.get("val"), arrays.get("val_labels")
        return DataSet(train, train_labels, test, test_labels, self.classes, self.listing(), self.notices, *val)

    def _decode(self) -> Arrays:
        arrays: Arrays = {}
        broken = Broken()
        for part, source in self.parts().items():
            arrays[part], arrays[f"{part}_labels"] = _stacked(source, self.form, broken), source.labels
        broken.require_none()
        return arrays

    def _first_shape(self) -> Shape:
        """(H, W, C) of the first training image that can be read. Raises BadInput that names them when none can."""
        broken = Broken()
        for row, data in enumerate(self.train.contents()):
            with broken.one():
                if isinstance(data, Exception):
                    raise data
                return self.form.decode(self.train.name(row), data).shape
        broken.require_none()
        raise AssertionError("a training part has images")

    def streamed(self, workers: int, pool: bool) -> StreamedSet:
        """The set as streams; `pool` joins its test part to its training images."""
        shape = self.form.shape or self._first_shape()
        listing, empty = self.listing(), Stream((), self.form, shape, workers)
        if not pool:
            test = None if self.test is None else replace(empty, sources=(self.test,))
            labels = None if self.test is None else self.test.labels
            train = replace(empty, sources=(self.train,))
            val = None if self.val is None else replace(empty, sources=(self.val,))
            given = (val, None if self.val is None else self.val.labels)
            return StreamedSet(train, self.train.labels, test, labels, self.classes, listing, self.notices, *given)
        if self.test is None:
            raise BadInput(NO_POOL)
        both = replace(empty, sources=(self.train, self.test))
        labels = np.concatenate([self.train.labels, self.test.labels])
        return StreamedSet(both, labels, None, None, self.classes, listing, self.notices)


def _stacked(source: ImageSource, form: Form, broken: Broken) -> Pixels:
    images = np.empty((0,), dtype=np.uint8)
    for row, data in enumerate(source.contents()):
        with broken.one():
            if isinstance(data, Exception):
                raise data
            image = form.decode(source.name(row), data)
            if not len(images):
                images = np.empty((len(source.labels), *image.shape), dtype=np.uint8)
            check_shape(source.name(row), image, images.shape[1:])
            images[row] = image
    return images
