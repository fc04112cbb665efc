"""Every table of names that a study can choose from: kind → name → one line. A table is loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from silo_tune.study import registry

Lines = dict[str, str]


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
    return {**_of(registry.MODELS), "timm:NAME": "any model of timm, by its name there"}


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
    """Deviations under their headings: those of the authors' scripts, and those of this project from ICE-Pruning."""
    from silo_tune.study.authors import DEVIATIONS
    from silo_tune.study.pipelines import ICE_DEVIATIONS

    return {
        "authors-2023, what the scripts do and a correct version would not:": _of(DEVIATIONS),
        "ice-pruning, what its public code does otherwise, and why:": dict(ICE_DEVIATIONS),
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
    "data": lambda: _of(registry.DATA),
    "pipelines": _pipelines,
    "deviations": _deviations,
}
