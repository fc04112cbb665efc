"""Hundreds of units: what a run keeps in memory and on disk does not grow with them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from silo_tune.api import run_study
from silo_tune.planner.planner import Planner
from silo_tune.run.local import LocalRunner
from silo_tune.run.monitor import Monitor
from silo_tune.run.session import Runner
from silo_tune.store.lease import Lease
from silo_tune.store.run_folder import Run
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study
from silo_tune.study.workspace import Workspace
from silo_tune.tune.runner import RayRunner
from tests.conftest import small_table
from tests.test_run import assert_same_table

pytestmark = pytest.mark.slow


def long_study(seeds: int, cycles: int = 8) -> Study:
    """Units of a few milliseconds: 65 for each seed."""
    model = {"function": "tests.users:model", "version": "1", "dropout": 0.0}
    table = small_table(
        cycles=cycles,
        data={"train_examples": 64},
        dense={"epochs": 1},
        retrain={"epochs": 1},
        replicates={"seeds": list(range(seeds))},
        cluster={"partial_seconds": 5.0},
    )
    return parse_study({**table, "model": model})


@dataclass
class Looks:
    """A runner that looks at the run after every outcome.

    Attributes:
        look: called with the planner.
        seen: what it gave, in order.
    """

    inner: Runner
    look: Callable[[Planner], Any]
    seen: list[Any] = field(default_factory=list)

    @contextlib.contextmanager
    def open(self, study: Study, workspace: Workspace, monitor: Monitor) -> Iterator[Any]:
        with self.inner.open(study, workspace, monitor) as session:
            train = session.train

            def watched(planner: Planner, lease: Lease, monitor: Monitor) -> None:
                tell = planner.tell

                def also(key: str, outcome: Mapping[str, Any]) -> None:
                    tell(key, outcome)
                    self.seen.append(self.look(planner))

                planner.tell = also  # type: ignore[method-assign]
                train(planner, lease, monitor)

            session.train = watched  # type: ignore[method-assign]
            yield session


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_five_hundred_units_leave_flat_memory_small_results_and_the_weights_of_open_chains(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def states_and_their_bound(planner: Planner) -> tuple[int, int]:
        """States on disk, and the most there may be: candidates of open cycles, a parent and an end for each chain."""
        chains = list(planner.every_chain())
        return len(list(folder.glob("units/*/*/state-*"))), sum(len(c.candidates) + 2 for c in chains)

    study = long_study(8)
    memory, weights = [], []

    def look(planner: Planner) -> None:
        memory.append(resident())
        if len(memory) % 10 == 0:
            weights.append(states_and_their_bound(planner))

    outcome = run_study(study, str(folder), runner=Looks(LocalRunner(), look))
    assert outcome.counts.trained == len(memory) > 500
    assert max(memory[len(memory) // 4 :]) < 1.1 * memory[len(memory) // 4]
    assert all(count <= bound for count, bound in weights)
    assert max(path.stat().st_size for path in folder.glob("units/*/*/result.json")) < 4096
    assert len(list(folder.glob("units/*/*/state-*"))) <= len(Planner(study, Run(str(folder))).chains)


def test_one_tuner_follows_another_and_changes_nothing(tmp_path: Path) -> None:
    study = long_study(2, cycles=4)
    expected = run_study(study, str(tmp_path / "local"), local=True)
    outcome = run_study(study, str(tmp_path / "ray"), runner=RayRunner(num_cpus=2, trials_per_tuner=15))
    assert outcome.counts.trained == expected.counts.trained > 3 * 15
    assert_same_table(outcome.frame, expected.frame)
