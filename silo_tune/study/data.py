"""[data]: which images a study takes, and how they are read, split and augmented."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from silo_tune.errors import BadInput
from silo_tune.study import registry
from silo_tune.study.parts import FUNCTION, LISTED, Frozen, Share


class Data(Frozen):
    """[data]: which images, how they are split and augmented.

    How they are reached (`path`, `download`, `stream`, `workers`) changes no number and never enters a unit's key.
    """

    name: str | None = None
    function: str | None = None
    version: str | None = None
    path: str | None = None
    download: bool = True
    stream: bool | None = None
    workers: int = Field(default=0, ge=0)
    image_key: str | None = None
    label_key: str | None = None
    size: int | None = Field(default=None, ge=1)
    args: dict[str, Any] = Field(default_factory=dict)
    val_share: float = Field(default=0.2, gt=0, lt=1)
    test_share: float = Field(default=0.2, gt=0, lt=1)
    split_seed: int = Field(default=0, ge=0)
    pool: bool = False
    train_images: int | None = Field(default=None, ge=1)
    val_images: int | None = Field(default=None, ge=1)
    test_images: int | None = Field(default=None, ge=1)
    augment: Annotated[tuple[Literal["crop", "flip", "rrc"], ...], LISTED] = ()
    crop_padding: int = Field(default=4, ge=1, le=64)
    mean: Annotated[tuple[Share, ...] | None, LISTED] = None
    std: Annotated[tuple[Share, ...] | None, LISTED] = None

    PLACE: ClassVar[tuple[str, ...]] = ("path", "download", "stream", "workers")
    SPLIT: ClassVar[tuple[str, ...]] = (
        "val_share", "test_share", "split_seed", "train_images", "val_images", "test_images", "pool",
    )  # fmt: skip
    AUGMENT: ClassVar[tuple[str, ...]] = ("augment", "crop_padding", "mean", "std")

    @model_validator(mode="after")
    def _check(self) -> Data:
        given = {key: getattr(self, key) for key in ("image_key", "label_key", "size")}
        given = {key: value for key, value in given.items() if value is not None}
        if (self.name is None) == (self.function is None):
            raise ValueError("give either name or function")
        if self.function is not None and not FUNCTION.fullmatch(self.function):
            raise ValueError(f'function is written "package.module:name", got {self.function!r}')
        if self.function is not None and not self.version:
            raise ValueError("a function needs a version; change it when the function changes its data")
        if self.name is not None:
            registry.check_name("data set", registry.DATA, self.name, {**given, **self.args})
        if self._entry.needs_path and not self.path:
            raise ValueError(f"data set {self.name!r} needs a path")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std are given together, one number for each channel; or neither")
        self._check_streaming()
        return self

    def _check_streaming(self) -> None:
        if self.stream and not self._entry.streams:
            able = ", ".join(sorted(name for name, entry in registry.DATA.items() if entry.streams))
            what = "a function's images are" if self.name is None else f"data set {self.name!r} is"
            raise ValueError(f"stream: {what} held in memory; those that can be streamed are {able}")
        if self.workers and not self.streamed:
            raise ValueError("workers read a streamed set; set stream = true, or leave workers out")
        if "rrc" in self.augment and not self.streamed:
            raise ValueError(
                'augment: "rrc" crops the images as they are on disk, which a set in memory no longer has; set '
                'stream = true where the set can be streamed, or take "crop"'
            )
        if {"rrc", "crop"} <= set(self.augment):
            raise ValueError('augment: "crop" and "rrc" are two ways to crop; choose one')

    @property
    def _entry(self) -> registry.DataEntry:
        """The set's line in the table; a function's is one that has nothing."""
        return registry.DataEntry("", "") if self.name is None else registry.DATA[self.name]

    @property
    def title(self) -> str:
        """What a reader is told it is; a way to read says nothing without the path, which stands as it is written."""
        name = self.name or str(self.function)
        return f"{name} ({self.path})" if self._entry.needs_path else name

    @property
    def streamed(self) -> bool:
        """Are images read as they are needed?"""
        return self._entry.stream if self.stream is None else self.stream

    @property
    def side(self) -> int | None:
        """Side that images are resized to; None leaves them as they are."""
        return self._entry.size if self.size is None else self.size

    def source(self) -> dict[str, Any]:
        """The part of the data's identity that says which images; no path."""
        dump = self.model_dump(mode="json", exclude_none=True)
        if self.side is not None:
            dump["size"] = self.side
        return {key: value for key, value in dump.items() if key not in (*self.PLACE, *self.SPLIT, *self.AUGMENT)}

    def split(self) -> dict[str, Any]:
        """The part that says how they are split."""
        found = {key: getattr(self, key) for key in self.SPLIT}
        # A choice that came later is told only where it is made: older keys stand.
        return {key: value for key, value in found.items() if value is not None and (key, value) != ("pool", False)}

    def augmentation(self) -> dict[str, Any]:
        """The part that says how training batches are augmented, and how all are normalised where that is fixed."""
        names_ = sorted(set(self.augment))
        fixed = {"mean": list(self.mean), "std": list(self.std)} if self.mean and self.std else {}
        return {"augment": names_, **({"crop_padding": self.crop_padding} if "crop" in names_ else {}), **fixed}

    def place(self) -> str | None:
        """`path` with `~`, `${VAR}` and `${VAR:-default}` filled in.

        Raises:
            BadInput: the path names a variable that is not set and has no default.
        """
        return None if self.path is None else expand(self.path)


def expand(path: str) -> str:
    """Fill in `${VAR}`, `${VAR:-default}` and a leading `~`. Raises BadInput for a variable that is not set."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match["name"]) or match["default"]
        if found is None:
            raise BadInput(
                f"data.path: the variable {match['name']} is not set (path {path!r}); set it, or give a path"
            )
        return found

    filled = re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}", value, path)
    return os.path.expanduser(filled)
