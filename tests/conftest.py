"""Shared by all tests: one thread, quiet Ray, and a study small enough to think about."""

from __future__ import annotations

import os

# The many processes of the tests read compiled modules: to compile the package takes each of them a second.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# One thread per worker, and no token: the clusters of the tests live on this machine for seconds.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded data of the tests stays out of the user's cache, and is shared by all tests of a session."""
    monkeypatch.setenv("SILO_TUNE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def only_svg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of the other kinds are empty, for tests of something else: half the time of a report."""
    from silo_analysis.figures import axes

    save = axes.image_bytes
    monkeypatch.setattr(axes, "image_bytes", lambda *what: save(*what) if what[1] == "svg" else b"")


def small_table(**changes: Any) -> dict[str, Any]:
    """Table of a study on digits that trains in a second: 3 cycles, 1 seed, silo, a control and both Oracles."""
    table: dict[str, Any] = {
        "name": "small",
        "cycles": 3,
        "data": {"name": "digits", "train_examples": 128, "val_examples": 100, "test_examples": 100},
        "model": {"name": "lenet-300-100"},
        "dense": {"epochs": 2, "max_lr": 0.1},
        "retrain": {"epochs": 2, "batch": 32},
        "replicates": {"seeds": [0]},
        "arms": {
            "silo": {"mode": "schedule", "schedule": {"name": "silo", "eps": 0.05, "delta": 0.1}},
            "flat": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.05}},
            "greedy": {"mode": "oracle", "grid": {"low": 0.01, "high": 1.0, "points": 3}},
            "conditioned": {
                "mode": "oracle",
                "grid": {"low": 0.01, "high": 1.0, "points": 3},
                "prefix": "arm:silo",
            },
        },
        "report": {"tolerance": 0.05},
        "cluster": {"partial_seconds": 0},
    }
    return merged(table, changes)


def merged(table: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with changes; tables are merged, all else is replaced."""
    result = dict(table)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def small_study(**changes: Any) -> Study:
    """The study of `small_table`."""
    return parse_study(small_table(**changes))


@pytest.fixture(scope="session")
def cifar10() -> Path:
    """The real CIFAR-10 in Hugging Face layout, named by SILO_TUNE_CIFAR10."""
    place = os.environ.get("SILO_TUNE_CIFAR10")
    if not place:
        pytest.skip("SILO_TUNE_CIFAR10 is not set: no real CIFAR-10 here")
    return Path(place)


def example(name: str) -> ModuleType:
    """A module of experiments/examples."""
    spec = importlib.util.spec_from_file_location(
        name, Path(__file__).parent.parent / "experiments" / "examples" / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
