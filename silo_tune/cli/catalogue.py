"""Every table of names that a study can choose from: kind → name → one line. A table is loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, fields
from textwrap import wrap
from typing import Any

from silo_tune.study import registry

Lines = dict[str, str]
WHOLE = "\N{NO-BREAK SPACE}"  # where a line is never broken


def _of(table: Mapping[str, Any]) -> Lines:
    return {name: entry.line for name, entry in table.items()}


def _presets() -> Lines:
    from silo_tune.study.presets import PRESETS

    return {name: f"{preset.line}; {preset.source}" for name, preset in PRESETS.items()}


def _schedules() -> Lines:
    from silo_tune.schedules.peaks import SCHEDULES

    return _of(SCHEDULES)


def _profiles() -> Lines:
    from silo_tune.schedules.shapes import PROFILES

    return _of(PROFILES)


def _models() -> Lines:
    return {**_of(registry.MODELS), **registry.OTHERS}


def _recipes() -> Lines:
    from silo_tune.study.recipes import RECIPES

    return _of(RECIPES)


def _layers() -> Lines:
    from silo_tune.study.prune import LAYERS

    return dict(LAYERS)


def _pipelines() -> Lines:
    from silo_tune.study.pipelines import PIPELINES

    return _of(PIPELINES)


def deviations() -> dict[str, Lines]:
    """Deviations under their headings: of the authors' scripts, and of this project from its pipelines' sources."""
    from silo_tune.study.authors import DEVIATIONS
    from silo_tune.study.pipelines import BOOSTING_CHOICES, ICE_DEVIATIONS

    return {
        "authors-2023, what the scripts do and a correct version would not:": _of(DEVIATIONS),
        "ice-pruning, what its public code does otherwise, and why:": dict(ICE_DEVIATIONS),
        "boosting, what its abstract leaves open, and what is chosen here:": dict(BOOSTING_CHOICES),
    }


def _deviations() -> Lines:
    return {name: line for lines in deviations().values() for name, line in lines.items()}


def sections(kind: str) -> dict[str, Lines]:
    """The names of a kind by heading; without headings under ""."""
    return deviations() if kind == "deviations" else {"": KINDS[kind]()}


KINDS: dict[str, Callable[[], Lines]] = {
    "presets": _presets,
    "schedules": _schedules,
    "profiles": _profiles,
    "criteria": lambda: _of(registry.CRITERIA),
    "layers": _layers,
    "models": _models,
    "recipes": _recipes,
    "optimizers": lambda: dict(registry.COMMON_OPTIMIZERS),
    "data": lambda: _of(registry.DATA),
    "pipelines": _pipelines,
    "deviations": _deviations,
}


def _dataclass_arguments() -> dict[str, Callable[[], dict[str, list[str]]]]:
    from silo_tune.schedules.peaks import SCHEDULES
    from silo_tune.schedules.shapes import PROFILES
    from silo_tune.study.presets import PRESETS

    return {
        "schedules": lambda: {name: with_defaults(one, {}) for name, one in SCHEDULES.items()},
        "profiles": lambda: {name: with_defaults(one.factory, one.preset) for name, one in PROFILES.items()},
        "presets": lambda: {name: list(one.takes) for name, one in PRESETS.items()},
    }


def arguments(kind: str) -> dict[str, list[str]]:
    """Name → its arguments, with their defaults where the table knows them; {} for a kind without arguments."""
    registered: dict[str, Mapping[str, registry.Entry]] = {
        "criteria": registry.CRITERIA, "models": registry.MODELS, "data": registry.DATA,
    }  # fmt: skip
    if kind in registered:
        return {name: list(entry.args) for name, entry in registered[kind].items()}
    return _dataclass_arguments().get(kind, dict)()


def with_defaults(factory: type[Any], fixed: Mapping[str, Any]) -> list[str]:
    """Arguments of a dataclass as TOML, with their defaults, or what the name fixes instead."""
    return [with_default(field.name, fixed.get(field.name, field.default)) for field in fields(factory)]


def with_default(name: str, value: Any) -> str:
    """ "name = value", or the name alone where there is no default."""
    return name if value is MISSING or value is None else f"{name} = {shown(value)}"


def shown(value: Any) -> str:
    """A value as a study writes it, numbers to three digits."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(shown, value)) + "]"
    return f"{value:.3g}" if isinstance(value, float) else f'"{value}"' if isinstance(value, str) else str(value)


def listed(kind: str | None, width: int) -> Iterator[str]:
    """The lines of `silo-tune list`, none longer than `width`: a name, what it is, and the arguments that it takes."""
    if kind is None:
        names = {name: [", ".join(lines())] for name, lines in KINDS.items()}
        yield from _columns(names.items(), width, max(map(len, names)) + 2)
        return
    takes, found = arguments(kind), sections(kind)
    indent = max(len(name) for lines in found.values() for name in lines) + 2
    for heading, lines in found.items():
        yield from wrap(heading, width)
        yield from _columns(
            ((name, [line, *_takes(takes.get(name, []))]) for name, line in lines.items()), width, indent
        )


def _takes(names: list[str]) -> list[str]:
    return [f"takes {', '.join(name.replace(' ', WHOLE) for name in names)}"] if names else []


def _columns(entries: Iterable[tuple[str, list[str]]], width: int, indent: int) -> Iterator[str]:
    for name, paragraphs in entries:
        text = [
            part
            for paragraph in paragraphs
            for part in wrap(paragraph, max(20, width - indent), break_on_hyphens=False)
        ]
        yield from (f"{name if i == 0 else '':<{indent}}{part}".replace(WHOLE, " ") for i, part in enumerate(text))
