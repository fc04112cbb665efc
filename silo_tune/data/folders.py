"""Folders of image files: one subfolder per class, Tiny-ImageNet as it is published, ImageNet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from silo_tune.data.images import SUFFIXES, Form
from silo_tune.data.listed import Listed
from silo_tune.data.parquet import holds_parquet, is_directory, listed
from silo_tune.data.stream import FileSource
from silo_tune.errors import BadInput
from silo_tune.study.data import Data


def folder(data: Data) -> Listed:
    """A folder of images, one subfolder per class; with `train/` and `test/` (or `val/`) subfolders if it has them."""
    root = _root(data)
    train = root / "train" if (root / "train").is_dir() else root
    test = next((root / name for name in ("test", "val") if train != root and (root / name).is_dir()), None)
    classes = _classes(train)
    form, tested = Form(data.size), None if test is None else _by_class(test, classes)
    return Listed(_by_class(train, classes), tested, len(classes), form, _options("folder", form))


def tiny_imagenet(data: Data) -> Listed:
    """Tiny-ImageNet (ImageNet-200), 64×64: the folder tiny-imagenet-200, or Parquet; its validation part is the test.

    The labels of the published test part are not known.
    """
    form = Form(data.size, rgb=True)  # some of its images are grey
    if not _holds_files(data):
        return listed(data, ("valid", "val"), form)
    root = _root(data)
    classes = _classes(root / "train")
    test = FileSource.of(root / "val", list(_annotated(root / "val", classes)))
    return Listed(_by_class(root / "train", classes), test, len(classes), form, _options("tiny-imagenet", form))


def imagenet(data: Data) -> Listed:
    """ImageNet: a folder with train/CLASS and val/CLASS, or Parquet; its validation part is the test.

    The shorter side is resized and the centre cropped, as timm's evaluation does.
    """
    form = Form(data.side, rgb=True, centre=True)
    if not _holds_files(data):
        return listed(data, ("validation", "val"), form)
    root = _root(data)
    classes = _classes(root / "train")
    if not (root / "val" / classes[0]).is_dir():
        raise BadInput(f"no {str(root / 'val' / classes[0])!r}; the validation images too lie in one folder per class")
    test = _by_class(root / "val", classes)
    return Listed(_by_class(root / "train", classes), test, len(classes), form, _options("imagenet", form))


def _options(kind: str, form: Form) -> dict[str, object]:
    return {"kind": kind, "form": vars(form)}


def _holds_files(data: Data) -> bool:
    """Has the path image files in `train/`, rather than Parquet files, here or on the Hub?"""
    place = data.place()
    assert place is not None
    if not is_directory(place):
        return False
    if (_root(data) / "train").is_dir():
        return True
    if not holds_parquet(place):
        raise BadInput(f"neither a folder 'train' nor train*.parquet in {place!r} (data.path)")
    return False


def _root(data: Data) -> Path:
    place = data.place()
    assert place is not None
    if not Path(place).is_dir():
        raise BadInput(f"no data directory {place!r} (data.path)")
    return Path(place)


def _classes(train: Path) -> list[str]:
    classes = sorted(path.name for path in train.iterdir() if path.is_dir())
    if not classes:
        raise BadInput(f"{str(train)!r} has no subfolders; a folder of images has one per class")
    return classes


def _by_class(root: Path, classes: list[str]) -> FileSource:
    items = list(_images_below(root, classes))
    if not items:
        raise BadInput(f"{str(root)!r} holds no images ({', '.join(SUFFIXES)})")
    return FileSource.of(root, items)


def _images_below(root: Path, classes: list[str]) -> Iterator[tuple[Path, int]]:
    for label, name in enumerate(classes):
        for file in sorted((root / name).rglob("*")):
            if file.suffix.lower() in SUFFIXES:
                yield file, label


def _annotated(val: Path, classes: list[str]) -> Iterator[tuple[Path, int]]:
    """Files and labels of val_annotations.txt: a name, a class and a box, separated by tabs, in each line."""
    place, known = val / "val_annotations.txt", {name: label for label, name in enumerate(classes)}
    try:
        lines = place.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BadInput(f"cannot read {str(place)!r}: {error.strerror}; it names the class of each image") from error
    for number, line in enumerate(lines, 1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in known:
            raise BadInput(f"{place}, line {number}: {line[:80]!r} names no image and class of the training part")
        yield val / "images" / fields[0], known[fields[1]]
