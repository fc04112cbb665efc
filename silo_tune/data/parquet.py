"""Parquet files in Hugging Face layout: a local directory, or a data set of the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from silo_tune.data.arrays import Labels
from silo_tune.data.images import MOST_TOLD, Form
from silo_tune.data.listed import Listed, left_out
from silo_tune.data.stream import ParquetSource, named
from silo_tune.errors import BadInput
from silo_tune.study.data import Data

# How the names of the files of a validation part begin; the first that there is counts.
VALIDATION = ("validation", "val", "valid")
# How the Hub itself writes a data set's address.
HUB = "hf://datasets/"


def huggingface(data: Data) -> Listed:
    """Parquet files in Hugging Face layout: a local directory, or a Hub id (extra `hub`)."""
    return listed(data)


def listed(data: Data, test: Sequence[str] = ("test",), form: Form | None = None) -> Listed:
    """The set of a directory or a Hub id.

    Args:
        data: gives the path, the columns and the size.
        test: how the names of the test part's files begin; the first that there is counts.
        form: how images become pixels; by default as they are, or resized to `size`.
    """
    place = data.place()
    assert place is not None
    root = directory(place) / (data.config or "")
    wanted = VALIDATION if data.val == "given" else ()
    parts = {part: files_of(root, part) for part in ("train", *test, *wanted)}
    if not parts["train"]:
        raise BadInput(f"no train*.parquet below {str(root)!r}; a Hugging Face directory has train-….parquet files")
    of_test, of_val = (next((parts[part] for part in names if parts[part]), []) for names in (test, wanted))
    train, tested, val = (
        _source(root, files, data.image_key, data.label_key) if files else None
        for files in (parts["train"], of_test, of_val)
    )
    assert train is not None
    labels = [part.labels for part in (train, tested, val) if part is not None]
    form = form or Form(data.size)
    options = {"kind": "huggingface", "columns": (data.image_key, data.label_key), "form": vars(form)}
    used = {*parts["train"], *of_test, *of_val}
    notices = left_out(root, (file for file in root.rglob("*.parquet") if file not in used), "Parquet file")
    return Listed(train, tested, int(max(part.max() for part in labels)) + 1, form, options, notices, val)


def files_of(root: Path, part: str, kind: str = "parquet") -> list[Path]:
    """The files of one part, as `datasets` writes their names. Raises BadInput where several folders hold some."""
    files = sorted(file for file in root.rglob(f"{part}*.{kind}") if re.fullmatch(rf"{part}(-\d.*|\d*)", file.stem))
    folders = sorted({str(file.parent.relative_to(root)) for file in files})
    if len(folders) > 1:
        raise BadInput(
            f"several sets below {str(root)!r}, in {', '.join(folders)}: name one of these folders with data.config"
        )
    return files


def holds_parquet(place: str | None) -> bool:
    """Is this a directory with Parquet files of a training part, or a data set of the Hub?"""
    return place is not None and (place.startswith(HUB) or any(Path(place).rglob("train*.parquet")))


def is_directory(place: str) -> bool:
    """Is a path meant as a directory, rather than as a Hub id?"""
    return not place.startswith(HUB) and (os.path.exists(place) or place.startswith((".", "/")))


def directory(place: str) -> Path:
    folder = Path(place) if is_directory(place) else Path(_hub_snapshot(place.removeprefix(HUB)))
    if not folder.is_dir():
        raise BadInput(f"no data directory {place!r} (data.path)")
    return folder


def _hub_snapshot(hub_id: str) -> str:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise BadInput(
            f"{hub_id!r} is not a local directory, and reading it from the Hub needs an extra: "
            "pip install 'silo-tune[hub]'"
        ) from None
    try:
        return str(snapshot_download(hub_id, repo_type="dataset", allow_patterns=["*.parquet", "**/*.parquet"]))
    except Exception as error:  # the hub client raises many kinds, all of them "not there"
        raise BadInput(
            f"data.path {hub_id!r} is neither a local directory nor reachable on the Hub: {error}"
        ) from error


def _source(root: Path, files: list[Path], image_key: str | None, label_key: str | None) -> ParquetSource:
    labels, wrong = list[Labels](), list[str]()
    image = label = ""
    for file in files:
        try:
            columns = _schema(file).names
            image = _column(columns, image or image_key, ("img", "image"), file)
            label = _column(columns, label or label_key, ("label", "fine_label"), file)
            labels.append(_labels(file, image, label))
        except BadInput as error:
            wrong.append(str(error))
    if wrong:
        raise BadInput("\n  ".join(wrong[:MOST_TOLD]))
    ends = tuple(np.cumsum([len(part) for part in labels]).tolist())
    paths = tuple(os.path.abspath(file) for file in files)
    return ParquetSource(os.path.abspath(root), paths, image, np.concatenate(labels), ends)


def _labels(file: Path, image: str, label: str) -> Labels:
    """The labels of one file. Raises BadInput when some are missing, or its images are not encoded ones."""
    import pyarrow.parquet as pq
    import pyarrow.types as types

    kind = _schema(file).field(image).type
    if not types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise BadInput(f"{file.name}: column {image!r} is {kind}; in Hugging Face layout an image is {{bytes, path}}")
    with named(file):
        found = pq.read_table(file, columns=[label]).column(label)
    if found.null_count:
        raise BadInput(f"{file.name}: {found.null_count} of its {len(found)} labels ({label!r}) are missing")
    if not types.is_integer(found.type):
        raise BadInput(
            f"{file.name}: labels ({label!r}) are {found.type}; they are the numbers of classes, 0, 1, 2 …: name "
            f"another column with data.label_key, or number the classes"
        )
    labels = np.asarray(found.to_pylist(), dtype=np.int64)
    if len(labels) and labels.min() < 0:
        raise BadInput(
            f"{file.name}: {np.sum(labels < 0):,} of its {len(labels):,} labels ({label!r}) are below 0, which stands "
            f"for images whose class is not told; take those rows or this file out"
        )
    return labels


def _schema(file: Path) -> Any:
    import pyarrow.parquet as pq

    with named(file):
        return pq.read_schema(file)


def _column(columns: list[str], asked: str | None, usual: tuple[str, ...], file: Path) -> str:
    for name in (asked,) if asked else usual:
        if name in columns:
            return str(name)
    raise BadInput(f"{file.name} has columns {', '.join(columns)}; name yours with data.image_key and data.label_key")
