"""Sets that come with a package, through torchvision, or as idx files: decoded into memory."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np

from silo_tune.data.arrays import Pixels
from silo_tune.data.listed import Listed
from silo_tune.data.parquet import holds_parquet, listed
from silo_tune.data.sets import DataSet
from silo_tune.errors import BadInput
from silo_tune.machine import cache_root
from silo_tune.study.data import Data


def digits(data: Data) -> DataSet:
    """scikit-learn's digits: 1,797 real 8×8 images with 17 grey levels, scaled to 0 … 255."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = np.rint(found.images * (255 / 16)).astype(np.uint8)[..., None]
    return DataSet(pixels, found.target.astype(np.int64), None, None, 10)


def cifar10(data: Data) -> DataSet | Listed:
    """CIFAR-10 through torchvision, or from Parquet files in Hugging Face layout."""
    return listed(data) if holds_parquet(data.place()) else _torchvision("CIFAR10", data, 10)


def cifar100(data: Data) -> DataSet | Listed:
    """CIFAR-100 through torchvision, or from Parquet files in Hugging Face layout."""
    return listed(data) if holds_parquet(data.place()) else _torchvision("CIFAR100", data, 100)


def mnist(data: Data) -> DataSet:
    """MNIST through torchvision."""
    return _torchvision("MNIST", data, 10)


def fashion_mnist(data: Data) -> DataSet:
    """Fashion-MNIST through torchvision, or a folder that holds its four idx files (gzipped or not)."""
    place = data.place()
    if place is not None and any(Path(place).glob("train-images*")):
        return _idx(Path(place), 10)
    return _torchvision("FashionMNIST", data, 10)


def _torchvision(name: str, data: Data, classes: int) -> DataSet:
    import torchvision

    root = data.place() or os.path.join(cache_root(), "torchvision")
    parts = [getattr(torchvision.datasets, name)(root, train=train, download=data.download) for train in (True, False)]
    pixels = [np.asarray(part.data, dtype=np.uint8) for part in parts]
    images = [array if array.ndim == 4 else array[..., None] for array in pixels]
    labels = [np.asarray(part.targets, dtype=np.int64) for part in parts]
    return DataSet(images[0], labels[0], images[1], labels[1], classes)


def _idx(folder: Path, classes: int) -> DataSet:
    arrays = []
    for stem in ("train-images", "train-labels", "t10k-images", "t10k-labels"):
        files = sorted(folder.glob(f"{stem}*"))
        if not files:
            raise BadInput(f"no {stem}-idx file in {str(folder)!r}")
        arrays.append(_read_idx(files[0]))
    train, train_labels, test, test_labels = arrays
    return DataSet(
        train[..., None], train_labels.astype(np.int64), test[..., None], test_labels.astype(np.int64), classes
    )


def _read_idx(file: Path) -> Pixels:
    raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    dimensions = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)
