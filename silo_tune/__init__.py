"""silo-tune: learning rates for iterative pruning, found, checked and applied on Ray Tune.

The public names load on first use, so that `import silo_tune` stays instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from silo_tune.machine import VERSION as __version__

if TYPE_CHECKING:
    from silo_tune.api import run_study
    from silo_tune.cli.console import watch
    from silo_tune.data.sets import DataSet
    from silo_tune.errors import BadInput, RunFailed, SiloTuneError, StudyError
    from silo_tune.everyday import Pruned, prune
    from silo_tune.export.network_file import load
    from silo_tune.loops.pruner import Pruner
    from silo_tune.loops.silo_lr import SiloLR
    from silo_tune.pruning.criteria.scoring import Scoring
    from silo_tune.run.callbacks import Callback
    from silo_tune.run.local import LocalRunner
    from silo_tune.run.monitor import Monitor
    from silo_tune.run.session import Outcome
    from silo_tune.run.trackers import Tracker, track
    from silo_tune.schedules.peaks import Silo
    from silo_tune.study.model import Study
    from silo_tune.study.study_file import load_study
    from silo_tune.tune.runner import RayRunner
    from silo_tune.tune.searcher import ChainSearch
    from silo_tune.tune.trainable import PruneRetrain


_HOMES = {
    "BadInput": "errors",
    "Callback": "run.callbacks",
    "ChainSearch": "tune.searcher",
    "DataSet": "data.sets",
    "LocalRunner": "run.local",
    "Monitor": "run.monitor",
    "Outcome": "run.session",
    "PruneRetrain": "tune.trainable",
    "Pruned": "everyday",
    "Pruner": "loops.pruner",
    "RayRunner": "tune.runner",
    "RunFailed": "errors",
    "Scoring": "pruning.criteria.scoring",
    "Silo": "schedules.peaks",
    "SiloLR": "loops.silo_lr",
    "SiloTuneError": "errors",
    "Study": "study.model",
    "StudyError": "errors",
    "Tracker": "run.trackers",
    "load": "export.network_file",
    "load_study": "study.study_file",
    "prune": "everyday",
    "run_study": "api",
    "track": "run.trackers",
    "watch": "cli.console",
}

__all__ = [
    "BadInput",
    "Callback",
    "ChainSearch",
    "DataSet",
    "LocalRunner",
    "Monitor",
    "Outcome",
    "PruneRetrain",
    "Pruned",
    "Pruner",
    "RayRunner",
    "RunFailed",
    "Scoring",
    "Silo",
    "SiloLR",
    "SiloTuneError",
    "Study",
    "StudyError",
    "Tracker",
    "__version__",
    "load",
    "load_study",
    "prune",
    "run_study",
    "track",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'silo_tune' has no attribute {name!r}")
    return getattr(importlib.import_module(f"silo_tune.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
