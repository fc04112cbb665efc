"""Folders of image files: one subfolder per class, Tiny-ImageNet as it is published, ImageNet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from silo_tune.data.images import SUFFIXES, Form
from silo_tune.data.listed import Listed, left_out, shortened
from silo_tune.data.parquet import holds_parquet, is_directory, listed
from silo_tune.data.stream import FileSource
from silo_tune.errors import BadInput
from silo_tune.formats import plural
from silo_tune.study.data import Data


def folder(data: Data) -> Listed:
    """A folder of images, one subfolder per class; with `train/` and `test/` (or `val/`) subfolders if it has them.

    Where the study asks for a given validation part, that is `val/` or `validation/`, which then is no test part.
    """
    root = _root(data)
    train = root / "train" if (root / "train").is_dir() else root

    def part(*names: str) -> _Part | None:
        found = (root / name for name in names if train != root and (root / name).is_dir())
        return next(map(_Part.of, found), None)

    if data.val == "given":
        return _listed("folder", Form(data.size), _Part.of(train), part("test"), part("val", "validation"))
    return _listed("folder", Form(data.size), _Part.of(train), part("test", "val"))


def tiny_imagenet(data: Data) -> Listed:
    """Tiny-ImageNet (ImageNet-200), 64×64: the folder tiny-imagenet-200, or Parquet; its validation part is the test.

    The labels of the published test part are not known.
    """
    form = Form(data.size, rgb=True)  # some of its images are grey
    if not _holds_files(data):
        return listed(data, ("valid", "val"), form)
    root = _root(data)
    train = _Part.of(root / "train")
    classes = train.classes
    test = FileSource.of(root / "val", list(_annotated(root / "val", classes)))
    options = _options("tiny-imagenet", form)
    return Listed(train.source(classes), test, len(classes), form, options, train.notices(classes))


def imagenet(data: Data) -> Listed:
    """ImageNet: a folder with train/CLASS and val/CLASS, or Parquet; its validation part is the test.

    The shorter side is resized and the centre cropped, as timm's evaluation does.
    """
    form = Form(data.side, rgb=True, centre=True)
    if not _holds_files(data):
        return listed(data, ("validation", "val"), form)
    root = _root(data)
    train = _Part.of(root / "train")
    first = root / "val" / train.classes[0]
    if not first.is_dir():
        raise BadInput(f"no {str(first)!r}; the validation images too lie in one folder per class")
    return _listed("imagenet", form, train, _Part.of(root / "val"))


def _listed(kind: str, form: Form, train: _Part, test: _Part | None, val: _Part | None = None) -> Listed:
    classes = train.classes
    tested, given = (None if part is None else part.source(classes) for part in (test, val))
    notices = tuple(told for part in (train, test, val) if part is not None for told in part.notices(classes))
    return Listed(train.source(classes), tested, len(classes), form, _options(kind, form), notices, given)


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


@dataclass(frozen=True)
class _Part:
    """What lies in the folder of one part, listed once: a set may have a million files.

    Attributes:
        root: the folder.
        images: class → its images, in order; a subfolder without files is no class.
        others: files that are no image of a class.
        empty: names of subfolders without files.
        gone: links that lead nowhere.
    """

    root: Path
    images: Mapping[str, Sequence[Path]]
    others: Sequence[Path]
    empty: Sequence[str]
    gone: Sequence[Path]

    @classmethod
    def of(cls, root: Path) -> _Part:
        images: dict[str, list[Path]] = {}
        others: list[Path] = []
        gone: list[Path] = []
        for entry in sorted(root.iterdir()):
            # A class may be a link to a folder; a link inside one is not followed.
            for file in sorted(entry.rglob("*")) if entry.is_dir() else [entry]:
                if file.is_dir():
                    continue
                shown = file != entry and not any(map(_hidden, file.relative_to(root).parts))
                found = images.setdefault(entry.name, []) if shown else others
                taken = shown and file.suffix.lower() in SUFFIXES
                (others if not taken else found if file.exists() else gone).append(file)
        folders = (entry.name for entry in sorted(root.iterdir()) if entry.is_dir() and not _hidden(entry.name))
        return cls(root, images, others, [name for name in folders if name not in images], gone)

    @property
    def classes(self) -> list[str]:
        """The classes of a training part. Raises BadInput for one without an image that can be read."""
        if without := [name for name, found in self.images.items() if not found]:
            raise BadInput(
                f"{plural(len(without), 'class')} of {str(self.root)!r} with files and no image that can be read "
                f"({', '.join(SUFFIXES)}): {shortened(without)}; convert them, or take the folders away"
            )
        if not self.images:
            raise BadInput(f"{str(self.root)!r} has no subfolders with images; a folder of images has one per class")
        return sorted(self.images)

    def source(self, classes: Sequence[str]) -> FileSource:
        """The images, labelled by these classes. Raises BadInput for a class that is not one of them."""
        strange = [name for name, found in self.images.items() if found and name not in set(classes)]
        if strange:
            raise BadInput(
                f"{str(self.root)!r} has classes that the training part lacks: {shortened(strange)}; rename them, or "
                f"take them away"
            )
        if self.gone:
            names = [str(file.relative_to(self.root)) for file in self.gone]
            raise BadInput(
                f"{plural(len(names), 'link')} below {str(self.root)!r} with nothing behind: {shortened(names)}; take "
                f"them away, or bring back what they name"
            )
        items = [(file, label) for label, name in enumerate(classes) for file in self.images.get(name, ())]
        if not items:
            raise BadInput(f"{str(self.root)!r} holds no images ({', '.join(SUFFIXES)})")
        return FileSource.of(self.root, items)

    def notices(self, classes: Sequence[str]) -> tuple[str, ...]:
        """What is left out, and which classes are not there."""
        told = list(left_out(self.root, self.others, "file"))
        if lacking := [name for name in classes if not self.images.get(name)]:
            told.append(f"{str(self.root)!r} has no images of {plural(len(lacking), 'class')}: {shortened(lacking)}")
        if empty := [name for name in self.empty if name not in lacking]:
            told.append(f"{str(self.root)!r} has empty subfolders, which are no classes: {shortened(empty)}")
        return tuple(told)


def _hidden(name: str) -> bool:
    """Is this an entry that notebooks, editors and archives leave behind?"""
    return name.startswith(".") or name == "__MACOSX"


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
