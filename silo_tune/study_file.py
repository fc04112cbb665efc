"""Reading a study file: TOML in, `Study` out, with every mistake of the file reported at once."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from silo_tune.errors import BadInput, Problems, StudyError, unknown
from silo_tune.study import (
    SGD,
    AdamW,
    Cluster,
    Data,
    Dense,
    Grid,
    OracleArm,
    Prune,
    Replicates,
    Report,
    Retrain,
    ScheduleArm,
    Study,
)


def load_study(path: str | os.PathLike[str], sets: Sequence[str] = (), smoke: bool = False) -> Study:
    """Read and check one study file.

    Args:
        path: the TOML file.
        sets: "key.path=value" changes, the value written as in TOML (a bare word is a string).
        smoke: shrink the study to seconds (see `smoke_table`).

    Raises:
        BadInput: no such file, or not TOML.
        StudyError: everything that is wrong with its content, at once.
    """
    file = Path(path)
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(
            f"no study file {str(file)!r}; `ls experiments/*.toml` shows those that come with the project"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the study {str(file)!r}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{file}: not valid TOML: {error}") from None
    for change in sets:
        _apply_set(table, change)
    return parse_study(smoke_table(table) if smoke else table, str(file))


def parse_study(table: Mapping[str, Any], source: str = "study") -> Study:
    """The Study of a table. Raises StudyError with every problem found."""
    try:
        return Study.model_validate(table)
    except ValidationError as error:
        raise StudyError(source, list(_readable(error, table))) from None


def _apply_set(table: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise BadInput(f"--set takes key.path=value, got {change!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise BadInput(f"--set {change}: {parent!r} is not a table of the study")
    table[last] = value


SMOKE_IMAGES = {"train_images": 256, "val_images": 128, "test_images": 128}


def smoke_table(table: Mapping[str, Any]) -> dict[str, Any]:
    """The same study shrunk to seconds: 3 cycles, 2 seeds, 1 epoch, 3 grid points, few images, a coarse tolerance."""

    def part(key: str) -> dict[str, Any]:
        found = table.get(key, {})
        return dict(found) if isinstance(found, Mapping) else {}

    small = dict(table)
    small["name"] = f"{table.get('name', 'study')}-smoke"
    small["cycles"] = min(3, table["cycles"]) if isinstance(table.get("cycles"), int) else 3
    small["data"] = {**part("data"), **SMOKE_IMAGES}
    if "checkpoint" not in part("dense"):
        small["dense"] = {**part("dense"), "epochs": 1}
    small["retrain"] = {**part("retrain"), "epochs": 1}
    small["replicates"] = {**part("replicates"), "seeds": list(part("replicates").get("seeds", [0]))[:2]}
    small["arms"] = {name: _smoke_arm(arm) for name, arm in part("arms").items()}
    tolerance = part("report").get("tolerance", 0.0)
    small["report"] = {**part("report"), "tolerance": max(0.05, tolerance)}
    return small


def _smoke_arm(arm: Any) -> Any:
    if not isinstance(arm, Mapping):
        return arm
    small = dict(arm)
    if "epochs" in small:
        small["epochs"] = 1
    if isinstance(arm.get("grid"), Mapping):
        small["grid"] = {**arm["grid"], "points": min(3, arm["grid"].get("points", 3))}
    return small


# --- readable errors ---

_SECTIONS: dict[str, type[BaseModel]] = {
    "data": Data, "dense": Dense, "prune": Prune, "retrain": Retrain, "replicates": Replicates, "report": Report,
    "cluster": Cluster,
}  # fmt: skip
_TAGGED: dict[str, type[BaseModel]] = {
    "schedule": ScheduleArm,
    "oracle": OracleArm,
    "sgd": SGD,
    "adamw": AdamW,
}


def _readable(error: ValidationError, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for item in error.errors():
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, Problems):
            yield from cause.problems
            continue
        location = list(item["loc"])
        model: type[BaseModel] | None = _SECTIONS.get(str(location[0]), Study) if len(location) > 1 else Study
        # A tagged union puts its tag into the location; users do not write it.
        if len(location) > 2 and (location[0] == "arms" or location[:2] == ["retrain", "optimizer"]):
            model = _TAGGED.get(str(location.pop(2)))
        if "grid" in location:
            model = Grid
        yield ".".join(map(str, location)), _sentence(item, cause, model)


def _sentence(item: Any, cause: Exception | None, model: type[BaseModel] | None) -> str:
    kind, value = item["type"], item.get("input")
    if cause is not None:
        return str(cause)
    if kind == "extra_forbidden":
        fields = sorted(model.model_fields) if model else []
        return f"unknown key; choose from {', '.join(fields)}" if fields else "unknown key"
    if kind == "missing":
        return "missing; the study must give it"
    if kind == "union_tag_invalid":
        context = item["ctx"]
        return unknown(context["discriminator"].strip("'"), context["tag"], _words(context["expected_tags"]))
    if kind == "union_tag_not_found":
        return f"missing {item['ctx']['discriminator']}; every such table names it"
    if kind == "literal_error":
        return f"unknown value {value!r}; choose from {', '.join(sorted(_words(item['ctx']['expected'])))}"
    return f"{item['msg'][0].lower()}{item['msg'][1:]}, got {value!r}"


def _words(expected: str) -> list[str]:
    return re.findall(r"'([^']*)'", expected)
