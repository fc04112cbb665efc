"""What seeds until decided would have said, and saved, on a run whose seeds are all there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from silo_analysis.estimates.containment import judge
from silo_analysis.estimates.oracle import first_cycle, oracle_cycles
from silo_analysis.estimates.sequential import look_at
from silo_analysis.estimates.tuning import ordinary
from silo_tune.study.model import Study
from silo_tune.study.parts import Replicates


@dataclass(frozen=True)
class ReplayedLooks:
    """A recorded run, looked at.

    Attributes:
        looks: the bodies of the looks that were made.
        verdicts: cycle → (that of all seeds and the full grid, that of the looks).
        rows: rows of the trials that would have been trained.
        units, all_units: distinct trials of those rows, and of all.
    """

    looks: tuple[dict[str, Any], ...]
    verdicts: dict[int, tuple[str, str]]
    rows: pd.DataFrame
    units: int
    all_units: int

    @property
    def kept(self) -> int:
        """Cycles whose verdict is the same."""
        return sum(before == after for before, after in self.verdicts.values())

    @property
    def share(self) -> float:
        """Of all trials."""
        return self.units / self.all_units


def replay_looks(frame: pd.DataFrame, study: Study, looks: tuple[int, ...]) -> ReplayedLooks:
    """Look at a recorded run after so many of its seeds each.

    Chains stay as they were recorded: of a greedy Oracle too, whose winner would hardly have been a dropped rate.

    Args:
        frame: rows of every seed.
        study: its study, with or without looks.
        looks: numbers of seeds, rising.
    """
    seeds = study.replicates.seeds
    study = study.model_copy(update={"replicates": Replicates(seeds=seeds, until="decided", looks=looks)})
    rows = ordinary(frame)
    kept, made, before = rows.iloc[:0], list[dict[str, Any]](), 0
    for number, now in enumerate(looks, 1):
        new = rows[rows["seed"].isin(seeds[before:now])]
        kept = pd.concat([kept, new[_trained(new, made[-1])] if made else new])
        made.append(look_at(kept, study, number))
        before = now
        if made[-1]["over"]:
            break
    return ReplayedLooks(tuple(made), _verdicts(rows, study, made[-1]), kept, _units(kept), _units(rows))


def _trained(rows: pd.DataFrame, look: dict[str, Any]) -> pd.Series[bool]:
    """Which rows of later seeds a look leaves to be trained."""
    skipped = {(name, int(cycle)) for name, cycles in look["skipped"].items() for cycle in cycles}
    dropped = {
        (name, int(cycle), rate)
        for name, cycles in look["dropped"].items()
        for cycle, rates in cycles.items()
        for rate in rates
    }
    cells = zip(rows["arm"], rows["cycle"], rows["max_lr"], strict=True)
    return pd.Series([(a, c) not in skipped and (a, c, r) not in dropped for a, c, r in cells], rows.index, dtype=bool)


def _units(rows: pd.DataFrame) -> int:
    return int(rows["key"].nunique())


def _verdicts(rows: pd.DataFrame, study: Study, last: dict[str, Any]) -> dict[int, tuple[str, str]]:
    name, report = last["oracle"], study.report
    groups = oracle_cycles(rows[rows["arm"] == name], study)
    return {
        cycle: (judge(groups[name, cycle], report.schedule, report.tolerance).name, last["verdicts"][str(cycle)])
        for cycle in range(first_cycle(study, name), study.cycles)
        if (name, cycle) in groups
    }
