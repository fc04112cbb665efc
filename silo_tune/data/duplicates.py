"""Examples that occur more than once in a set: counted by content, since one of two parts tells one of the other."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from silo_tune.data.arrays import Labels
from silo_tune.data.example_sets import Array, ExampleSet, Inputs, arrays_in
from silo_tune.data.sets import DataSet, Split
from silo_tune.errors import BadInput
from silo_tune.formats import parse_json
from silo_tune.machine import cache_root

# Of the validation or of the test images; CIFAR-10, Fashion-MNIST and scikit-learn's digits have none (measured).
MOST_SHARED = 0.01


@dataclass(frozen=True)
class Repeated:
    """How many images of a split are there before.

    Attributes:
        train, val, test: numbers of images of the parts.
        within: training images that repeat another training image.
        val_in_train, test_in_train, test_in_val: images of the first part that the second has too.
    """

    train: int
    val: int
    test: int
    within: int
    val_in_train: int
    test_in_train: int
    test_in_val: int

    @classmethod
    def of(cls, dataset: DataSet | ExampleSet, split: Split, content: str) -> Repeated:
        """Counted once for a content hash and a split, and kept in the cache."""
        rows = hashlib.sha256(b"".join(part.tobytes() for part in (split.train, split.val, split.test))).hexdigest()
        place = Path(cache_root()) / "duplicates" / f"{content[:24]}-{rows[:24]}.json"
        with contextlib.suppress(OSError, ValueError, TypeError):
            return cls(**parse_json(place.read_text(encoding="utf-8")))
        found = cls.counted(dataset, split)
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(asdict(found)), encoding="utf-8")
        return found

    @classmethod
    def counted(cls, dataset: DataSet | ExampleSet, split: Split) -> Repeated:
        known = {"train": (dataset.train, dataset.train_labels), "val": (dataset.val, dataset.val_labels)}
        known["test"] = (dataset.test, dataset.test_labels)
        train = _hashes(*known["train"], split.train)
        val = _hashes(*known["train" if split.val_in_train else "val"], split.val)
        test = _hashes(*known["train" if split.test_in_train else "test"], split.test)
        return cls(
            train=len(train),
            val=len(val),
            test=len(test),
            within=len(train) - len(set(train)),
            val_in_train=_shared(val, train),
            test_in_train=_shared(test, train),
            test_in_val=_shared(test, val),
        )

    def sentences(self, noun: str = "images") -> list[str]:
        """What to say of them; nothing where there are none."""
        told = {
            f"training {noun} that repeat another: {self.within:,} of {self.train:,}": self.within,
            f"validation {noun} that are training {noun} too: {self.val_in_train:,} of {self.val:,}": self.val_in_train,
            f"test {noun} that are training {noun} too: {self.test_in_train:,} of {self.test:,}": self.test_in_train,
            f"test {noun} that are validation {noun} too: {self.test_in_val:,} of {self.test:,}": self.test_in_val,
        }
        return [sentence for sentence, count in told.items() if count]

    def require_few(self, noun: str = "images") -> None:
        """Refuse parts that tell of each other.

        Raises:
            BadInput: more than 1 % of the validation or test images are training images too.
        """
        if self.val_in_train > MOST_SHARED * self.val or self.test_in_train > MOST_SHARED * self.test:
            what = {"images": "pixels", "texts": "tokens and target"}.get(noun, "numbers and target")
            raise BadInput(
                f"data: {'; '.join(self.sentences(noun))} (same {what}), so that scores say how well they are "
                f'remembered; remove the copies, or set data.duplicates = "allow"'
            )


def _hashes(inputs: Inputs | None, targets: Array | None, rows: Labels) -> list[bytes]:
    """A digest of each example: of an image its pixels, of any other its numbers and its target."""
    assert inputs is not None
    assert targets is not None
    own = arrays_in(inputs)
    image = [own[""]] if set(own) == {""} and own[""].dtype == np.uint8 else [*own.values(), targets]
    flat = [np.ascontiguousarray(array[rows]).reshape(len(rows), -1) for array in image]
    if len(flat) == 1:
        return [hashlib.blake2b(row.data, digest_size=16).digest() for row in flat[0]]
    joined = (b"".join(row.tobytes() for row in parts) for parts in zip(*flat, strict=True))
    return [hashlib.blake2b(row, digest_size=16).digest() for row in joined]


def _shared(part: list[bytes], other: list[bytes]) -> int:
    known = set(other)
    return sum(image in known for image in part)
