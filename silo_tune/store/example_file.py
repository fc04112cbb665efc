"""How well a trial does on each single example of a part, as the bytes of one small file.

A line of JSON says what follows: `{"examples": 1, "parts": [{"part": "test", "kind": "bits", "n": 10000}]}`. Then come
the values of each part, in the order of that part. They are one of these kinds:

- `bits`: right or wrong, eight examples in a byte, the first in its highest bit;
- `float16`, `float32`: a score for each example, little-endian. Nothing writes these yet.

Plain bytes, because the readers of a run load no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from silo_tune.formats import parse_json

FORMAT = 1
_FLOATS = {"float16": "<f2", "float32": "<f4"}

Values = npt.NDArray[Any]


def pack_examples(parts: Mapping[str, Values]) -> bytes:
    """The file of some parts.

    Args:
        parts: name of the part → (n,) bool, float16 or float32.
    """
    entries = [{"part": name, "kind": _kind(values), "n": len(values)} for name, values in parts.items()]
    head = json.dumps({"examples": FORMAT, "parts": entries})
    return b"".join([f"{head}\n".encode(), *map(_bytes, parts.values())])


def unpack_examples(data: bytes) -> dict[str, Values]:
    """Name of each part → its (n,) values.

    Raises:
        ValueError: it is no such file, or one of a newer version.
    """
    line, _, body = data.partition(b"\n")
    head = parse_json(line)
    if not isinstance(head, dict) or head.get("examples") != FORMAT:
        raise ValueError("it is no file of examples that this version knows")
    found: dict[str, Values] = {}
    for entry in head["parts"]:
        size = _size(entry["kind"], entry["n"])
        if len(body) < size:
            raise ValueError("it was cut")
        found[entry["part"]] = _values(body[:size], entry["kind"], entry["n"])
        body = body[size:]
    if body:
        raise ValueError("it is longer than it says")
    return found


def pack_bits(right: Values) -> bytes:
    """(n,) bool as bytes, the first example in the highest bit of the first byte."""
    return np.packbits(right.astype(bool)).tobytes()


def unpack_bits(data: bytes, n: int) -> npt.NDArray[np.bool_]:
    """The (n,) bool of `pack_bits`."""
    return np.unpackbits(np.frombuffer(data, np.uint8), count=n).astype(bool)


def _kind(values: Values) -> str:
    kind = "bits" if values.dtype == bool else values.dtype.name
    if kind != "bits" and kind not in _FLOATS:
        raise ValueError(f"values of examples are bool, float16 or float32, not {kind}")
    return kind


def _bytes(values: Values) -> bytes:
    return pack_bits(values) if values.dtype == bool else values.astype(_FLOATS[values.dtype.name]).tobytes()


def _size(kind: str, n: int) -> int:
    if kind != "bits" and kind not in _FLOATS:
        raise ValueError(f"it holds {kind}, which this version does not know")
    return (n + 7) // 8 if kind == "bits" else n * np.dtype(_FLOATS[kind]).itemsize


def _values(data: bytes, kind: str, n: int) -> Values:
    return unpack_bits(data, n) if kind == "bits" else np.frombuffer(data, _FLOATS[kind])
