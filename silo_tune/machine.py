"""This machine: the versions on it, and where its paths lead."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
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


def writable_home() -> str | None:
    """The user's own folder, if something can be kept there: in a container there may be none, or a read-only one."""
    home = os.path.expanduser("~")  # stays "~" without one
    return home if home != "~" and os.access(home, os.W_OK | os.X_OK) else None


def cache_root() -> str:
    """The folder that SILO_TUNE_CACHE names, or the user's own."""
    if named := os.environ.get("SILO_TUNE_CACHE"):
        return named
    if named := os.environ.get("XDG_CACHE_HOME"):
        return os.path.join(named, "silo-tune")
    if home := writable_home():
        return os.path.join(home, ".cache", "silo-tune")
    return os.path.join(tempfile.gettempdir(), f"silo-tune-{os.getuid()}")


def environment() -> dict[str, str]:
    """Versions and machine, for the record."""
    from importlib import metadata

    found = {"python": platform.python_version(), "machine": f"{cpu_name()}, {os.cpu_count()} cores"}
    for package in ("silo-tune", "torch", "ray", "numpy", "pandas", "optuna"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
