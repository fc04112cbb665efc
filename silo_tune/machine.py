"""This machine: the versions on it, and where it keeps what is kept."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
from collections.abc import Iterator
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


_from = ""  # where a relative path is meant from; empty is where this process stands


@contextlib.contextmanager
def paths_from_here() -> Iterator[None]:
    """Until its end `from_here` means relative paths from where it began, even if a user's function goes elsewhere."""
    global _from
    before = _from
    with contextlib.suppress(OSError):  # the folder is gone: whoever needs it says so
        _from = before or os.getcwd()
    try:
        yield
    finally:
        _from = before


def from_here(path: str) -> str:
    """A path that leads there from any folder. A URL stays as it is."""
    return path if "://" in path else os.path.abspath(os.path.join(_from, path))


def writable_home() -> str | None:
    """The user's own folder, if something can be kept there: in a container there may be none, or a read-only one."""
    home = os.path.expanduser("~")  # stays "~" without one
    return home if home != "~" and os.access(home, os.W_OK | os.X_OK) else None


def cache_root() -> str:
    """The folder that SILO_TUNE_CACHE names, or the user's own."""
    if named := os.environ.get("SILO_TUNE_CACHE"):
        return from_here(named)
    if named := os.environ.get("XDG_CACHE_HOME"):
        return from_here(os.path.join(named, "silo-tune"))
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
