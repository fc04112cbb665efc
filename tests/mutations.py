"""Ways to damage a file of a run: what a disk, a copy, an editor or a liar does to it.

Kinds of files are found in the folder itself, so that a new kind is met without a word here.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import random
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import tomli_w
import torch

from silo_tune.results.table import to_parquet
from silo_tune.store.run_folder import _digest
from silo_tune.store.storage import Corrupt, seal, unseal


class Pointless(Exception):
    """This change cannot be made to this file, or changes nothing."""


def kind_of(name: str) -> str:
    """What a file of a run is, by its name below the run folder: names of arms, numbers and hashes do not count."""
    name = re.sub(r"^chains/[^/]+", "chains/ARM", name)
    name = re.sub(r"^report/.*(\.[a-z]+)$", r"report/…\1", name)
    name = re.sub(r"^units/[^/]+/[^/]+", "units/KEY", name)
    return re.sub(r"\d+", "N", re.sub(r"[0-9a-f]{16,}", "HEX", name))


def files_of(folder: Path) -> dict[str, list[str]]:
    """Kind → names below the run folder, sorted."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            found.setdefault(kind_of(name), []).append(name)
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class Place:
    """A file that is to be damaged.

    Attributes:
        folder: the run.
        name: of the file, below the run.
        others: folders of other whole runs.
        draws: decides.
    """

    folder: Path
    name: str
    others: tuple[Path, ...]
    draws: random.Random

    @property
    def path(self) -> Path:
        return self.folder / self.name

    def siblings(self, folder: Path | None = None) -> list[Path]:
        """Other files of its kind, in this run or another."""
        where = folder or self.folder
        found = [where / name for name in files_of(where).get(kind_of(self.name), [])]
        return [path for path in found if path != self.path]


Change = Callable[[Place], str]
"""Damages a file; says how, with the names below the run of every file that it touched but its own."""


# --- what a disk does ---


def flip(place: Place) -> str:
    data = bytearray(_bytes(place))
    at = place.draws.randrange(len(data))
    data[at] ^= 1 << place.draws.randrange(8)
    place.path.write_bytes(bytes(data))
    return f"byte {at}"


def cut(place: Place) -> str:
    data = _bytes(place)
    at = place.draws.randrange(len(data))
    place.path.write_bytes(data[:at])
    return f"at byte {at}"


def empty(place: Place) -> str:
    _bytes(place)
    place.path.write_bytes(b"")
    return ""


def zeros(place: Place) -> str:
    """What a crashed file system leaves: the length, and no content."""
    place.path.write_bytes(bytes(len(_bytes(place))))
    return ""


def delete(place: Place) -> str:
    place.path.unlink()
    return ""


def delete_folder(place: Place) -> str:
    above = place.draws.choice([path for path in place.path.parents if place.folder in path.parents] or [None])
    if above is None:
        raise Pointless
    shutil.rmtree(above)
    return f"folder {above.relative_to(place.folder)}"


def folder_instead(place: Place) -> str:
    place.path.unlink()
    place.path.mkdir()
    return ""


# --- what a copy does ---


def swap(place: Place) -> str:
    other = _drawn(place, place.siblings())
    mine, theirs = place.path.read_bytes(), other.read_bytes()
    if mine == theirs:
        raise Pointless
    place.path.write_bytes(theirs)
    other.write_bytes(mine)
    return f"with {other.relative_to(place.folder)}"


def foreign(place: Place) -> str:
    """The file of the same name, or of the same kind, of another run."""
    folder = _drawn(place, place.others)
    other = folder / place.name
    if not other.is_file():
        other = _drawn(place, place.siblings(folder))
    if other.read_bytes() == place.path.read_bytes():
        raise Pointless
    shutil.copyfile(other, place.path)
    return f"{folder.name}/{other.relative_to(folder)}"


def transplant(place: Place) -> str:
    """Another file of its kind takes its place under the other's own name."""
    elsewhere = [path for path in place.siblings() if path.parent != place.path.parent]
    other = _drawn(place, [path for path in elsewhere if path.name != place.path.name])
    place.path.unlink()
    shutil.copyfile(other, place.path.with_name(other.name))
    return f"from {other.relative_to(place.folder)}"


def duplicate(place: Place) -> str:
    """A line, or all of it, is there twice."""
    lines = _bytes(place).splitlines(keepends=True)
    at = place.draws.randrange(len(lines))
    place.path.write_bytes(b"".join([*lines[: at + 1], *lines[at:]]))
    return f"line {at + 1}"


def escapes(place: Place) -> str:
    """Text that moves a terminal's cursor, and half a character."""
    place.path.write_bytes(b"\x1b[2J\x1b]0;owned\x07\xed\xa0\x80\n")
    return ""


def nested(place: Place) -> str:
    """More levels than a parser goes down."""
    deep = 60_000
    opening, closing = ("a = " + "[" * deep, "]" * deep) if place.name.endswith(".toml") else ("[" * deep, "]" * deep)
    place.path.write_text(opening + closing)
    return ""


# --- what a liar does: the checksum is right ---


def forge(place: Place) -> str:
    """A value that could be true."""
    return _with_leaf(place, _plausible)


def retype(place: Place) -> str:
    """A value of another type."""
    return _with_leaf(
        place, lambda value, draws: draws.choice([None, [], {}, "text", 3, True, [1, "a", None], {"a": 1}])
    )


def huge(place: Place) -> str:
    """A number beyond all use."""
    choices = [1e308, -1e308, 10**400, -(10**30), 2**63, 1e-320]
    return _with_leaf(place, lambda value, draws: draws.choice(choices), numbers=True)


def surrogate(place: Place) -> str:
    """Half a character."""
    return _with_leaf(place, lambda value, draws: f"\ud800{value}", texts=True)


def escape_text(place: Place) -> str:
    """Text that moves a terminal's cursor."""
    return _with_leaf(place, lambda value, draws: f"\x1b[2J\x1b]0;owned\x07{value}", texts=True)


def drop_key(place: Place) -> str:
    def drop(table: Any) -> str:
        inside = [(path, found) for path, found in _tables(table) if found]
        path, found = place.draws.choice(inside)
        key = place.draws.choice(sorted(found))
        del found[key]
        return f"{path}{key}"

    return _edited(place, drop)


def drop_item(place: Place) -> str:
    """One item of a list less."""

    def drop(table: Any) -> str:
        lists = [(path, parent[key]) for path, parent, key in _leaves(table, lists=True) if parent[key]]
        if not lists:
            raise Pointless
        path, found = place.draws.choice(lists)
        del found[place.draws.randrange(len(found))]
        return path

    return _edited(place, drop)


def other_root(place: Place) -> str:
    """JSON or TOML that is no table of ours."""
    if place.name.endswith(".toml"):
        place.path.write_text(
            place.draws.choice(["", "a = 1\n", "[study]\n", "study = 3\nrun = 4\n", "[run]\nformat = 1\n"])
        )
    elif place.name.endswith(".json"):
        roots = ["[]", "3", "null", '"text"', "{}", '{"sha256": 3}', seal({}).decode(), seal({"a": 1}).decode()]
        values = ["NaN", "1e400", '"\\ud800"', "9" * 5000]
        texts = [*roots, *(f'{{"a": {value}, "sha256": ""}}' for value in values)]
        place.path.write_text(place.draws.choice(texts))
    else:
        raise Pointless
    return place.path.read_text()[:40]


def shapes(place: Place) -> str:
    """Tensors of other shapes, types or names, with every checksum right."""
    if place.path.suffix != ".safetensors":
        raise Pointless
    return _with_tensors(place, place.draws.choice([_reshaped, _halved, _renamed, _without_one, _not_finite]))


def rows(place: Place) -> str:
    """A table with a row less, a row twice, or another number."""
    if place.path.suffix != ".parquet":
        raise Pointless
    frame = pd.read_parquet(io.BytesIO(_bytes(place)), dtype_backend="numpy_nullable")
    how = place.draws.choice(["less", "twice", "number", "column"])
    at = place.draws.randrange(len(frame))
    if how == "less":
        frame = frame.drop(index=at)
    elif how == "twice":
        frame = pd.concat([frame, frame.iloc[[at]]], ignore_index=True)
    elif how == "number":
        column = place.draws.choice(["val_score", "test_score", "max_lr", "train_loss"])
        if column not in frame:  # the predictions of single examples
            raise Pointless
        frame.loc[frame.index == at, column] *= 0.5
    else:
        frame = frame.drop(columns=[place.draws.choice(list(frame.columns))])
    place.path.write_bytes(to_parquet(frame.reset_index(drop=True)))
    return how


DISK = (flip, cut, empty, zeros, delete, delete_folder, folder_instead)
COPY = (swap, foreign, transplant, duplicate, escapes, nested)
LIE = (forge, retype, huge, surrogate, escape_text, drop_key, drop_item, other_root, shapes, rows)
CHANGES: dict[str, Change] = {change.__name__.replace("_", " "): change for change in (*DISK, *COPY, *LIE)}


# --- parts ---


def _bytes(place: Place) -> bytes:
    data = place.path.read_bytes()
    if not data:
        raise Pointless
    return data


def _drawn(place: Place, found: Any) -> Path:
    if not found:
        raise Pointless
    chosen: Path = place.draws.choice(list(found))
    return chosen


def _edited(place: Place, edit: Callable[[Any], str]) -> str:
    """Change the table of a sealed file, and seal it again."""
    if place.name == "study.toml":
        try:
            table = tomllib.loads(_bytes(place).decode())
        except ValueError:
            raise Pointless from None
        said = edit(table)
        try:
            if isinstance(table.get("run"), dict):
                table["run"].pop("sha256", None)
                table["run"] = {"sha256": _digest(table), **table["run"]}
            text = tomli_w.dumps(table)
            place.path.write_bytes(text.encode(errors="surrogatepass"))
        except (TypeError, ValueError, AttributeError):  # TOML has no such value
            raise Pointless from None
        return said
    try:
        body = unseal(_bytes(place))
    except Corrupt:
        raise Pointless from None
    said = edit(body)
    place.path.write_bytes(seal(body))
    return said


def _tables(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        yield path, value
        for key in value:
            yield from _tables(value[key], f"{path}{key}.")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _tables(item, f"{path}{number}.")


def _leaves(value: Any, lists: bool = False) -> list[tuple[str, Any, Any]]:
    """(path, what holds it, its key there) of every leaf, or of every list."""
    found: list[tuple[str, Any, Any]] = []

    def walk(parent: Any, path: str) -> None:
        for key in list(parent) if isinstance(parent, dict) else range(len(parent)):
            item, here = parent[key], f"{path}{key}"
            if isinstance(item, list) if lists else not isinstance(item, (dict, list)):
                found.append((here, parent, key))
            if isinstance(item, (dict, list)):
                walk(item, f"{here}.")

    walk(value, "")
    return found


def _with_leaf(
    place: Place, new: Callable[[Any, random.Random], Any], numbers: bool = False, texts: bool = False
) -> str:
    def edit(table: Any) -> str:
        leaves = [
            (path, parent, key)
            for path, parent, key in _leaves(table)
            if (not numbers or (isinstance(parent[key], (int, float)) and not isinstance(parent[key], bool)))
            and (not texts or isinstance(parent[key], str))
        ]
        if not leaves:
            raise Pointless
        path, parent, key = place.draws.choice(leaves)
        before = copy.deepcopy(parent[key])
        parent[key] = new(before, place.draws)
        if parent[key] == before and type(parent[key]) is type(before):
            raise Pointless
        return f"{path}: {str(before)[:20]} → {str(parent[key])[:20]}".encode(errors="backslashreplace").decode()

    return _edited(place, edit)


def _plausible(value: Any, draws: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draws.choice([value + 1, max(0, value - 1), 2 * value])
    if isinstance(value, float):
        return draws.choice([value * 0.9, value * 1.05, value / 2, 0.5])
    if isinstance(value, str):
        if re.fullmatch(r"[0-9a-f]{16,}", value):
            return "".join(draws.choice("0123456789abcdef") for _ in value)
        return draws.choice(["ok", "diverged", "silo", "greedy", f"{value}x", value[::-1]])
    return draws.choice([0, 0.5, "text"])


# --- states ---

Tensors = dict[str, torch.Tensor]


def _reshaped(found: Tensors, draws: random.Random) -> None:
    name = draws.choice(sorted(found))
    found[name] = found[name].flatten()[:-1].clone() if found[name].numel() > 1 else found[name].reshape(1, 1, -1)


def _halved(found: Tensors, draws: random.Random) -> None:
    name = draws.choice(sorted(found))
    found[name] = found[name].to(torch.float64 if found[name].dtype != torch.float64 else torch.float32)


def _renamed(found: Tensors, draws: random.Random) -> None:
    name = draws.choice(sorted(found))
    found[f"{name}x"] = found.pop(name)


def _without_one(found: Tensors, draws: random.Random) -> None:
    found.pop(draws.choice(sorted(found)))


def _not_finite(found: Tensors, draws: random.Random) -> None:
    name = draws.choice(sorted(name for name in found if found[name].is_floating_point()))
    found[name] = torch.full_like(found[name], float("nan"))


def _with_tensors(place: Place, change: Callable[[Tensors, random.Random], None]) -> str:
    """Change the tensors of a state; its sum, wherever it is written, becomes that of the new content."""
    data = _bytes(place)
    found = safetensors.torch.load(data)
    meta = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    change(found, place.draws)
    new = safetensors.torch.save(found, meta)
    digest = hashlib.sha256(new).hexdigest()
    said = change.__name__.strip("_").replace("_", " ")
    if place.path.name.startswith("state-"):
        place.path.write_bytes(new)
        result = place.path.with_name("result.json")
        if result.exists():
            body = unseal(result.read_bytes())
            if body["state"] and body["state"]["file"] == place.path.name:
                body["state"] |= {"sha256": digest, "bytes": len(new)}
                result.write_bytes(seal(body))
        return said
    place.path.unlink()
    renamed = re.sub(r"-[0-9a-f]{16}\.safetensors$", f"-{digest[:16]}.safetensors", place.path.name)
    place.path.with_name(renamed).write_bytes(new)
    return f"{said}, as {renamed}"
