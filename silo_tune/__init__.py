"""silo-tune: learning rates for iterative pruning, found, checked and applied on Ray Tune.

The public names load on first use, so that `import silo_tune` stays instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from silo_tune.errors import BadInput, RunFailed, SiloTuneError, StudyError
    from silo_tune.run import run_study
    from silo_tune.schedules import Silo
    from silo_tune.small import load_small
    from silo_tune.study import Study
    from silo_tune.study_file import load_study
    from silo_tune.tune import ChainSearch, PruneRetrain

__version__ = "0.1.0"

_HOMES = {
    "BadInput": "errors",
    "ChainSearch": "tune",
    "PruneRetrain": "tune",
    "RunFailed": "errors",
    "Silo": "schedules",
    "SiloTuneError": "errors",
    "Study": "study",
    "StudyError": "errors",
    "load_small": "small",
    "load_study": "study_file",
    "run_study": "run",
}

__all__ = [
    "BadInput",
    "ChainSearch",
    "PruneRetrain",
    "RunFailed",
    "Silo",
    "SiloTuneError",
    "Study",
    "StudyError",
    "__version__",
    "load_small",
    "load_study",
    "run_study",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'silo_tune' has no attribute {name!r}")
    return getattr(importlib.import_module(f"silo_tune.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
