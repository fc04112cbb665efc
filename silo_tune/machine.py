"""This machine: the versions on it, and where its paths lead."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

# Here, and not in the package itself: whoever needs it would otherwise import what stands on top of everything.
VERSION = "0.1.0"


def cpu_name() -> str:
    """Kind of this machine's CPU, as it names itself."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def located(path: str) -> str:
    """A path as everything on this machine reads it: a leading `~` is filled in. A URL stays as it is."""
    return path if "://" in path else os.path.expanduser(path)


def absolute(path: str) -> str:
    """A path that leads there from any folder. A URL stays as it is."""
    return path if "://" in path else os.path.abspath(located(path))


def environment() -> dict[str, str]:
    """Versions and machine, for the record."""
    from importlib import metadata

    found = {"python": platform.python_version(), "machine": f"{cpu_name()}, {os.cpu_count()} cores"}
    for package in ("silo-tune", "torch", "ray", "numpy", "pandas", "optuna"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
