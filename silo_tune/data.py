"""Images as uint8 arrays in memory: decoded once, one copy per node, split by the replicate's seed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silo_tune import names
from silo_tune.errors import BadInput
from silo_tune.study import Data

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")


@dataclass(frozen=True)
class DataSet:
    """Images and labels of one set; arrays may be read-only and shared between processes.

    Attributes:
        train: (N, H, W, C) uint8.
        train_labels: (N,) int64.
        test: (M, H, W, C) uint8, or None when the set has no official test part.
        test_labels: (M,) int64, or None.
        classes: number of classes.
    """

    train: Pixels
    train_labels: Labels
    test: Pixels | None
    test_labels: Labels | None
    classes: int

    def __post_init__(self) -> None:
        if (self.test is None) != (self.test_labels is None):
            raise BadInput("a data set has test images and their labels, or neither")
        if self.test is not None and self.test.shape[1:] != self.train.shape[1:]:
            raise BadInput(f"training images are {self.train.shape[1:]}, test images are {self.test.shape[1:]}")
        if self.classes < 2:
            raise BadInput(f"a data set has at least two classes, got {self.classes}")
        for pixels, labels in ((self.train, self.train_labels), (self.test, self.test_labels)):
            if pixels is None or labels is None:
                continue
            if pixels.dtype != np.uint8 or pixels.ndim != 4 or len(pixels) != len(labels):
                raise BadInput(
                    f"a data set is uint8 images (N, H, W, C) with one label each; got {pixels.dtype} "
                    f"{pixels.shape} and {len(labels)} labels"
                )
            if labels.dtype != np.int64 or labels.ndim != 1:
                raise BadInput(f"labels are the numbers of classes as int64 (N,); got {labels.dtype} {labels.shape}")
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
                raise BadInput(
                    f"labels run from {labels.min()} to {labels.max()}, but there are {self.classes} classes"
                )

    def content(self) -> str:
        """sha256 over shapes, pixels and labels."""
        digest = hashlib.sha256()
        for array in (self.train, self.train_labels, self.test, self.test_labels):
            if array is None:
                digest.update(b"none")
            else:
                digest.update(str((array.shape, array.dtype.str)).encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Split:
    """Row numbers of one replicate's parts, and where its test images are.

    Attributes:
        train, val: rows of `DataSet.train`.
        test: rows of `DataSet.test`, or of `DataSet.train` when `test_in_train`.
    """

    train: Labels
    val: Labels
    test: Labels
    test_in_train: bool


def load_data(data: Data) -> DataSet:
    """Load and decode the study's data.

    Raises:
        BadInput: it is not there, or not in the shape that its name promises.
    """
    if data.function is not None:
        return _of_user(data.function, data.args)
    assert data.name is not None
    loader = names.resolve(names.DATA[data.name].target)
    try:
        return loader(data)  # type: ignore[no-any-return]
    except BadInput:
        raise
    except MemoryError as error:
        raise BadInput(
            f"data set {data.name!r} does not fit into this machine's memory ({error}); it is held there decoded, as "
            f"one byte for each pixel and channel: take a larger machine, or a smaller data.size"
        ) from error
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise BadInput(
            f"data set {data.name!r} cannot be read from {data.place() or 'its default place'}: {error}"
        ) from error


def _of_user(function: str, args: Mapping[str, Any]) -> DataSet:
    """What a user's function gives. Raises BadInput when it raises, saying where, or gives anything but a data set."""
    make = names.resolve(function)
    try:
        made = make(**args)
    except BadInput:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise BadInput(
            f"data: {function} raised {type(error).__name__}: {error} ({place.filename}, line {place.lineno})"
        ) from error
    try:
        return made if isinstance(made, DataSet) else DataSet(*made)
    except BadInput as error:
        raise BadInput(f"data: {function}: {error}") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise BadInput(
            f"data: {function} must give a DataSet, or its fields in order (train, train_labels, test, test_labels, "
            f"classes); it gave {type(made).__name__}: {error}"
        ) from error


def facts(dataset: DataSet, data: Data) -> dict[str, Any]:
    """What RUN/data.json records."""
    split = split_rows(dataset, data, seed=0)
    return {
        "content": dataset.content(),
        "classes": dataset.classes,
        "shape": list(dataset.train.shape[1:]),
        "n_train": len(split.train),
        "n_val": len(split.val),
        "n_test": len(split.test),
    }


def split_rows(dataset: DataSet, data: Data, seed: int) -> Split:
    """Test by `split_seed` (or official), then train and validation, stratified, by the replicate's seed.

    Raises:
        BadInput: a part would be empty.
    """
    rows = np.arange(len(dataset.train), dtype=np.int64)
    if dataset.test is None:
        rows, test = _stratified(dataset.train_labels, rows, data.test_share, ("test", data.split_seed))
        test_labels = dataset.train_labels
    else:
        assert dataset.test_labels is not None
        test, test_labels = np.arange(len(dataset.test), dtype=np.int64), dataset.test_labels
    train, val = _stratified(dataset.train_labels, rows, data.val_share, ("val", seed))
    train = _limit(dataset.train_labels, train, data.train_images, ("limit-train", seed))
    val = _limit(dataset.train_labels, val, data.val_images, ("limit-val", seed))
    test = _limit(test_labels, test, data.test_images, ("limit-test", data.split_seed))
    for name, part in (("training", train), ("validation", val), ("test", test)):
        if not len(part):
            raise BadInput(
                f"data: the {name} part is empty ({len(dataset.train)} images, val_share {data.val_share}, "
                f"test_share {data.test_share}); change the shares"
            )
    return Split(train, val, test, dataset.test is None)


def _stratified(labels: Labels, rows: Labels, share: float, stream: tuple[str, int]) -> tuple[Labels, Labels]:
    """Rows split in two, the second part holding `share` of every class; both sorted."""
    rng = np.random.default_rng(_seed(stream))
    second = []
    for label in np.unique(labels[rows]):
        members = rng.permutation(rows[labels[rows] == label])
        second.append(members[: round(share * len(members))])
    taken = np.sort(np.concatenate(second)) if second else rows[:0]
    return np.setdiff1d(rows, taken, assume_unique=True), taken


def _limit(labels: Labels, rows: Labels, count: int | None, stream: tuple[str, int]) -> Labels:
    """At most `count` rows, every class in proportion."""
    if count is None or count >= len(rows):
        return rows
    rng = np.random.default_rng(_seed(stream))
    shuffled = rng.permutation(rows)
    # Rank within its class, as a share of the class: the lowest ranks are a stratified sample of exactly `count`.
    rank = np.empty(len(shuffled))
    for label in np.unique(labels[shuffled]):
        members = np.flatnonzero(labels[shuffled] == label)
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(shuffled[np.argsort(rank, kind="stable")[:count]])


def _seed(stream: tuple[str, int]) -> int:
    return int.from_bytes(hashlib.sha256(f"{stream[0]}/{stream[1]}".encode()).digest()[:8], "big")


# --- named sets ---


def digits(data: Data) -> DataSet:
    """scikit-learn's digits: 1,797 real 8×8 images with 17 grey levels, scaled to 0 … 255."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = np.rint(found.images * (255 / 16)).astype(np.uint8)[..., None]
    return DataSet(pixels, found.target.astype(np.int64), None, None, 10)


def cifar10(data: Data) -> DataSet:
    """CIFAR-10 through torchvision."""
    return _torchvision("CIFAR10", data, 10)


def cifar100(data: Data) -> DataSet:
    """CIFAR-100 through torchvision."""
    return _torchvision("CIFAR100", data, 100)


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

    root = data.place() or os.path.join(_cache_root(), "torchvision")
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
    import gzip

    raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    dimensions = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def huggingface(data: Data) -> DataSet:
    """Parquet files in Hugging Face layout: a local directory, or a Hub id (extra `hub`)."""
    place = data.place()
    assert place is not None
    folder = Path(place) if os.path.exists(place) or place.startswith((".", "/")) else Path(_hub_snapshot(place))
    if not folder.is_dir():
        raise BadInput(f"no data directory {place!r} (data.path)")
    parts = {part: sorted(folder.rglob(f"{part}*.parquet")) for part in ("train", "test")}
    if not parts["train"]:
        raise BadInput(f"no train*.parquet below {place!r}; a Hugging Face directory has train-….parquet files")
    files = [*parts["train"], *parts["test"]]
    columns = (data.image_key, data.label_key)

    def decode() -> Arrays:
        return {
            **_parquet_part("train", parts["train"], *columns),
            **(_parquet_part("test", parts["test"], *columns) if parts["test"] else {}),
        }

    return _from_arrays(_cached(files, {"kind": "huggingface", "columns": columns}, decode))


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


def _parquet_part(part: str, files: list[Path], image_key: str | None, label_key: str | None) -> Arrays:
    import pyarrow.parquet as pq

    images, labels = [], []
    for file in files:
        schema = pq.read_schema(file)
        image = _column(schema.names, image_key, ("img", "image"), file)
        label = _column(schema.names, label_key, ("label", "fine_label"), file)
        table = pq.read_table(file, columns=[image, label])
        images += [_decode(item["bytes"]) for item in table.column(image).to_pylist()]
        labels += table.column(label).to_pylist()
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        raise BadInput(f"the images of {files[0].parent} have different sizes ({shapes[0]}, {shapes[-1]}, …)")
    return {part: np.stack(images), f"{part}_labels": np.asarray(labels, dtype=np.int64)}


def _column(columns: list[str], asked: str | None, usual: tuple[str, ...], file: Path) -> str:
    for name in (asked,) if asked else usual:
        if name in columns:
            return str(name)
    raise BadInput(f"{file.name} has columns {', '.join(columns)}; name yours with data.image_key and data.label_key")


def _decode(data: bytes, size: int | None = None) -> Pixels:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        picture = image if image.mode in ("L", "RGB") else image.convert("RGB")
        if size is not None:
            picture = picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        array = np.asarray(picture, dtype=np.uint8)
    return array if array.ndim == 3 else array[..., None]


def folder(data: Data) -> DataSet:
    """A folder of images, one subfolder per class; with `train/` and `test/` (or `val/`) subfolders if it has them."""
    place = data.place()
    assert place is not None
    root = Path(place)
    if not root.is_dir():
        raise BadInput(f"no data directory {place!r} (data.path)")
    train = root / "train" if (root / "train").is_dir() else root
    test = next((root / name for name in ("test", "val") if train != root and (root / name).is_dir()), None)
    classes = sorted(path.name for path in train.iterdir() if path.is_dir())
    if not classes:
        raise BadInput(f"{str(train)!r} has no subfolders; a folder of images has one per class")
    parts = {"train": train, **({"test": test} if test else {})}
    listed = {part: list(_images_below(path, classes)) for part, path in parts.items()}
    if not all(listed.values()):
        empty = next(parts[part] for part, items in listed.items() if not items)
        raise BadInput(f"{str(empty)!r} holds no images ({', '.join(IMAGE_SUFFIXES)})")

    def decode() -> Arrays:
        arrays: Arrays = {}
        for part, items in listed.items():
            images = [_decode_file(file, data.size) for file, _ in items]
            if len({image.shape for image in images}) > 1:
                raise BadInput(f"the images of {parts[part]} have different sizes; set data.size to resize them")
            arrays[part] = np.stack(images)
            arrays[f"{part}_labels"] = np.asarray([label for _, label in items], dtype=np.int64)
        return arrays

    files = [file for items in listed.values() for file, _ in items]
    return _from_arrays(_cached(files, {"kind": "folder", "size": data.size}, decode), len(classes))


def _decode_file(file: Path, size: int | None) -> Pixels:
    try:
        return _decode(file.read_bytes(), size)
    except (OSError, ValueError) as error:
        raise BadInput(f"data: {str(file)!r} is not a readable image: {error}") from error


def _images_below(root: Path, classes: list[str]) -> Iterator[tuple[Path, int]]:
    for label, name in enumerate(classes):
        for file in sorted((root / name).rglob("*")):
            if file.suffix.lower() in IMAGE_SUFFIXES:
                yield file, label


# --- the cache of decoded sets ---

Arrays = dict[str, NDArray[Any]]


def _cache_root() -> str:
    default = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "silo-tune")
    return os.environ.get("SILO_TUNE_CACHE", default)


def _cached(files: list[Path], options: Mapping[str, Any], decode: Callable[[], Arrays]) -> Arrays:
    """Decoded arrays, kept on disk as plain .npy files: decoding CIFAR-10 takes 20 s, reading it back 0.2 s."""
    # Not resolved: a link's own place says which class and part its image belongs to.
    stamps = [(os.path.abspath(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    name = hashlib.sha256(json.dumps([stamps, dict(options)], sort_keys=True).encode()).hexdigest()[:24]
    place = Path(_cache_root()) / "decoded" / name
    if (place / "complete").exists():
        try:
            # As plain arrays: a memmap would be pickled whole into every worker, an array's buffer is shared.
            kept = sorted(file for file in place.glob("*.npy") if not file.name.startswith("."))
            return {file.stem: np.asarray(np.load(file, mmap_mode="r", allow_pickle=False)) for file in kept}
        except (OSError, ValueError):
            pass  # damaged: decode again
    arrays = decode()
    temporary = place / f".{os.getpid()}.npy"
    try:
        place.mkdir(parents=True, exist_ok=True)
        for key, array in arrays.items():
            np.save(temporary, array, allow_pickle=False)
            os.replace(temporary, place / f"{key}.npy")
        (place / "complete").touch()
    except OSError:  # no room or no right to cache: the next start decodes again
        with contextlib.suppress(OSError):
            temporary.unlink()
    return arrays


def _from_arrays(arrays: Arrays, classes: int | None = None) -> DataSet:
    labels = [arrays[key] for key in ("train_labels", "test_labels") if key in arrays]
    count = classes if classes is not None else int(max(part.max() for part in labels)) + 1
    return DataSet(arrays["train"], arrays["train_labels"], arrays.get("test"), arrays.get("test_labels"), count)
