"""The Ray adapter: a Trainable that trains units, a Searcher that asks the planner, a runner that joins them.

Tune is a scheduler only: our own files are the truth, so nothing here is ever restored from a Tune snapshot. No other
part of the project imports Ray.
"""

from __future__ import annotations

from silo_tune.tune.client import drive_from_client
from silo_tune.tune.runner import RayRunner
from silo_tune.tune.searcher import ChainSearch
from silo_tune.tune.trainable import PruneRetrain

__all__ = ["ChainSearch", "PruneRetrain", "RayRunner", "drive_from_client"]
