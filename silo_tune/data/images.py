"""From the bytes of one image to its pixels; the same function serves sets in memory and streamed ones."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from silo_tune.data.arrays import Pixels
from silo_tune.errors import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_TOLD = 10  # broken images
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Form:
    """How an image becomes pixels.

    Attributes:
        size: side of the square that it is resized to; None leaves it as it is.
        rgb: three channels, even for a grey image. A resized image always has three.
        centre: resize the shorter side and crop the centre, as timm's evaluation does; otherwise the whole image is
            stretched to the square.
    """

    size: int | None = None
    rgb: bool = False
    centre: bool = False

    @property
    def shape(self) -> Shape | None:
        """(H, W, C) of every image, when the form says it."""
        return None if self.size is None else (self.size, self.size, 3)

    def decode(self, name: str, data: bytes) -> Pixels:
        """Pixels (H, W, C) of an encoded image. Raises BadInput that names it when it cannot be read."""
        with _opened(name, data) as image:
            found = eight_bit(name, image)
            picture = found if found.mode in ("L", "RGB") and not self.rgb else found.convert("RGB")
            return _array(self._resized(picture))

    def _resized(self, picture: Image) -> Image:
        from PIL import Image

        if self.size is None:
            return picture
        picture = picture.convert("RGB")
        if self.centre:
            return _evaluation(self.size)(picture)  # type: ignore[no-any-return]
        return picture.resize((self.size, self.size), Image.Resampling.BILINEAR)


def random_resized_crop(name: str, data: bytes, shape: Shape, seed: int) -> Pixels:
    """A random part of an encoded image, resized to `shape`: timm's, with its own ranges of area and aspect.

    It is a function of the image and the seed alone. Raises BadInput that names the image when it cannot be read.
    """
    with _opened(name, data) as image:
        picture = eight_bit(name, image).convert("RGB" if shape[2] == 3 else "L")
        with _drawn_from(seed):
            return _array(_cropper(shape[:2])(picture))


# Modes of Pillow with at most 8 bits for each number, which its own conversion takes to grey or RGB as they are meant.
_EIGHT_BIT = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")


def eight_bit(name: str, image: Image) -> Image:
    """The image with 8 bits for each number. Of 16-bit grey the high byte counts: Pillow would cut it off at 255.

    Raises:
        BadInput: its pixels are of a kind that no rule makes 8-bit; it is named.
    """
    from PIL import Image

    if image.mode in _EIGHT_BIT:
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # older Pillow: I
        values = np.asarray(image.convert("I"))
        return Image.fromarray(np.rint(values.clip(0, 65535) / 257).astype(np.uint8))
    raise BadInput(
        f"data: {name!r} has pixels of Pillow's mode {image.mode!r}, which have no fixed range; save it with 8 bits "
        f"for each channel, or give the images by a function of yours"
    )


class Broken:
    """Images that cannot be used: all are looked at, and then the first few are told."""

    def __init__(self) -> None:
        self._told: list[str] = []

    def add(self, error: Exception) -> None:
        self._told.append(str(error).removeprefix("data: "))

    @contextmanager
    def one(self) -> Iterator[None]:
        """A look at one image; whatever is wrong with it waits for the others."""
        try:
            yield
        except (BadInput, OSError) as error:
            self.add(error)

    def require_none(self) -> None:
        """Raises BadInput that names them and says how many there are."""
        if len(self._told) == 1:
            raise BadInput(f"data: {self._told[0]}")
        if self._told:
            first = [told.rpartition("; ") for told in self._told[:MOST_TOLD]]  # the last part is the remedy
            if len({remedy for *_, remedy in first}) == 1 and first[0][0]:
                lines, end = [what for what, *_ in first], f"; {first[0][2]}"
            else:
                lines, end = self._told[:MOST_TOLD], ""
            more = ["…"] if len(self._told) > MOST_TOLD else []
            raise BadInput("data: " + "\n  ".join([f"{len(self._told):,} images cannot be used{end}", *lines, *more]))


@contextmanager
def _opened(name: str, data: bytes) -> Iterator[Image]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            yield image
    except Image.DecompressionBombError as error:
        raise BadInput(
            f"data: {name!r} is too large to be decoded safely ({error}); make it smaller, or leave it out"
        ) from error
    except (OSError, ValueError, SyntaxError) as error:  # Pillow calls some broken files a syntax error
        why = str(error).partition(" <_io.")[0]  # Pillow shows the address of our buffer
        raise BadInput(f"data: {name!r} is not a readable image: {why}; replace it, or leave it out") from error


@contextmanager
def _drawn_from(seed: int) -> Iterator[None]:
    """timm draws from the generator of `random`: seed it for one image, and put it back."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


@lru_cache
def _evaluation(size: int) -> Any:
    from timm.data.transforms_factory import create_transform
    from torchvision.transforms import Compose

    # The last step would make a tensor of it; what comes before gives an image.
    return Compose(create_transform((3, size, size), is_training=False, use_prefetcher=True).transforms[:-1])


@lru_cache
def _cropper(size: tuple[int, int]) -> Any:
    from timm.data.transforms import RandomResizedCropAndInterpolation

    return RandomResizedCropAndInterpolation(size)


def _array(picture: Image) -> Pixels:
    array = np.array(picture, dtype=np.uint8)  # a copy: Pillow's own memory cannot be written to, and torch warns
    return array if array.ndim == 3 else array[..., None]
