"""Images that occur more than once in a set: counted by content, since an image of two parts tells one of the other."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from silo_tune.data.arrays import Labels, Pixels
from silo_tune.data.sets import DataSet, Split
from silo_tune.errors import BadInput
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
    def of(cls, dataset: DataSet, split: Split, content: str) -> Repeated:
        """Counted once for a content hash and a split, and kept in the cache."""
        rows = hashlib.sha256(b"".join(part.tobytes() for part in (split.train, split.val, split.test))).hexdigest()
        place = Path(cache_root()) / "duplicates" / f"{content[:24]}-{rows[:24]}.json"
        with contextlib.suppress(OSError, ValueError, TypeError):
            return cls(**json.loads(place.read_text(encoding="utf-8")))
        found = cls.counted(dataset, split)
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(asdict(found)), encoding="utf-8")
        return found

    @classmethod
    def counted(cls, dataset: DataSet, split: Split) -> Repeated:
        tested = dataset.train if split.test_in_train else dataset.test
        validated = dataset.train if split.val_in_train else dataset.val
        assert tested is not None
        assert validated is not None
        train, val, test = (
            _hashes(dataset.train, split.train),
            _hashes(validated, split.val),
            _hashes(tested, split.test),
        )
        return cls(
            train=len(train),
            val=len(val),
            test=len(test),
            within=len(train) - len(set(train)),
            val_in_train=_shared(val, train),
            test_in_train=_shared(test, train),
            test_in_val=_shared(test, val),
        )

    def sentences(self) -> list[str]:
        """What to say of them; nothing where there are none."""
        told = {
            f"training images that repeat another: {self.within:,} of {self.train:,}": self.within,
            f"validation images that are training images too: {self.val_in_train:,} of {self.val:,}": self.val_in_train,
            f"test images that are training images too: {self.test_in_train:,} of {self.test:,}": self.test_in_train,
            f"test images that are validation images too: {self.test_in_val:,} of {self.test:,}": self.test_in_val,
        }
        return [sentence for sentence, count in told.items() if count]

    def require_few(self) -> None:
        """Refuse parts that tell of each other.

        Raises:
            BadInput: more than 1 % of the validation or test images are training images too.
        """
        if self.val_in_train > MOST_SHARED * self.val or self.test_in_train > MOST_SHARED * self.test:
            raise BadInput(
                f"data: {'; '.join(self.sentences())} (same pixels), so that accuracies say how well they are "
                f'remembered; remove the copies, or set data.duplicates = "allow"'
            )


def _hashes(images: Pixels, rows: Labels) -> list[bytes]:
    flat = np.ascontiguousarray(images[rows]).reshape(len(rows), -1)
    return [hashlib.blake2b(image.data, digest_size=16).digest() for image in flat]


def _shared(part: list[bytes], other: list[bytes]) -> int:
    known = set(other)
    return sum(image in known for image in part)
