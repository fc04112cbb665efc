"""Writes the tables of names in README.md and docs/guide.md, from the registries that they list.

python docs/tables.py        # rewrites what stands between <!-- table: NAME --> and <!-- end -->

A table is changed where its names are registered, never in the text.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from silo_tune.cli.catalogue import KINDS
from silo_tune.schedules.peaks import SCHEDULES
from silo_tune.schedules.shapes import PROFILES
from silo_tune.study import registry
from silo_tune.study.pipelines import PIPELINES
from silo_tune.study.presets import PRESETS
from silo_tune.study.recipes import RECIPES

ROOT = Path(__file__).parent.parent
FILES = (ROOT / "README.md", ROOT / "docs" / "guide.md")
BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
# What parameters are counted on: ten classes of small colour images.
IMAGE, COUNTED_CLASSES = (32, 32, 3), 10


def filled(text: str) -> str:
    """The text with every table between markers made anew. Raises KeyError for a table that nobody makes."""
    return BLOCK.sub(lambda found: f"{found[1]}{TABLES[found['name']]()}\n{found[3]}", text)


def rows(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words) or "–"


# --- one function per table ---


def presets() -> str:
    body = ([f"`{name}`", one.line, one.source, code(one.takes)] for name, one in PRESETS.items())
    return rows(["preset", "what it stands for", "source", "arguments"], body)


def schedules() -> str:
    body = ([f"`{name}`", _defaults(one, {}), one.line] for name, one in SCHEDULES.items())
    return rows(["name", "arguments (defaults)", "max_lr"], body)


def profiles() -> str:
    body = ([f"`{name}`", _defaults(one.factory, one.preset), one.line] for name, one in PROFILES.items())
    return rows(["name", "arguments (defaults)", "shape"], body)


def criteria() -> str:
    body = ([f"`{name}`", one.granularity, one.line, code(one.args)] for name, one in registry.CRITERIA.items())
    return rows(["name", "scores", "what goes first", "arguments"], body)


def models() -> str:
    body = ([f"`{name}`", _signature(one), f"{parameters(one):,}", one.line] for name, one in registry.MODELS.items())
    return rows(["name", "arguments (defaults)", "parameters", "what it is"], body)


def recipes() -> str:
    return rows(["network", "what it is trained with (source)"], ([f"`{n}`", one.line] for n, one in RECIPES.items()))


def data() -> str:
    body = ([f"`{name}`", one.line, code(one.args), _reading(one)] for name, one in registry.DATA.items())
    return rows(["name", "images", "arguments", "read"], body)


def pipelines() -> str:
    body = ([f"`{name}`", one.line, _options(one)] for name, one in PIPELINES.items())
    return rows(["name", "what it does", "options (defaults)"], body)


def deviations() -> str:
    return rows(["name", "what the scripts do"], ([f"`{name}`", line] for name, line in KINDS["deviations"]().items()))


TABLES: dict[str, Callable[[], str]] = {
    "presets": presets,
    "schedules": schedules,
    "profiles": profiles,
    "criteria": criteria,
    "models": models,
    "recipes": recipes,
    "data": data,
    "pipelines": pipelines,
    "deviations": deviations,
}

# --- cells ---


def _defaults(factory: type[Any], fixed: Mapping[str, Any]) -> str:
    """Arguments of a dataclass, with their defaults, or what the name fixes instead."""
    found = {field.name: fixed.get(field.name, field.default) for field in fields(factory)}
    return code(_with_default(name, value) for name, value in found.items())


def _signature(entry: registry.Entry) -> str:
    known = inspect.signature(registry.resolve(entry.target)).parameters
    return code(_with_default(name, known[name].default) for name in entry.args)


def _options(pipeline: Any) -> str:
    found = {name: field for name, field in pipeline.model_fields.items() if name != "name"}
    return code(_with_default(name, MISSING if f.is_required() else f.default) for name, f in found.items())


def _with_default(name: str, value: Any) -> str:
    if value is MISSING or value is None:
        return name
    return f"{name} = {_shown(value)}"


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return f"{value:.3g}" if isinstance(value, float) else f'"{value}"' if isinstance(value, str) else str(value)


def _reading(entry: registry.DataEntry) -> str:
    return "streamed" if entry.stream else "in memory, or streamed" if entry.streams else "in memory"


def parameters(entry: registry.Entry) -> int:
    """Number of parameters of a registered network on ten classes of 32×32 colour images."""
    built = registry.resolve(entry.target)(shape=IMAGE, classes=COUNTED_CLASSES)
    return sum(parameter.numel() for parameter in built.parameters())


if __name__ == "__main__":
    for file in FILES:
        file.write_text(filled(file.read_text(encoding="utf-8")), encoding="utf-8")
