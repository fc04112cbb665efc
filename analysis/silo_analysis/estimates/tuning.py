"""Searches over whole chains: the pilot of a schedule arm, and a tune arm. Their rows, points, savings and standing.

Rows of a search have a `trial`; every other row is *ordinary*. Verdicts, gaps and accuracies look at ordinary rows
alone; cost and failures count all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd
import tomli_w

from silo_analysis.estimates.frames import POINTS, typed
from silo_analysis.estimates.oracle import rivals
from silo_tune.planner.winner import gain
from silo_tune.results.searches import SearchRecord
from silo_tune.study.arms import ArmBase, TuneArm
from silo_tune.study.model import Study

PILOT = "pilot"
# Bounds or values above 0 that span this factor are shown on a log axis.
LOG_SPAN = 10.0
# A best point in this outer share of a parameter's range is near its bound.
NEAR = 0.05


# --- rows ---


def ordinary(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of chains that are no trial of a search."""
    return frame[frame["trial"].isna()]


def is_pilot(frame: pd.DataFrame) -> pd.Series[bool]:
    """True for the rows of pilots."""
    return (frame["mode"] == PILOT).fillna(False).astype(bool)


def has_chains(study: Study, arm: str) -> bool:
    """Does an arm have ordinary chains? All but a tune arm do."""
    return not isinstance(study.arms[arm], TuneArm)


# --- points ---


def parameters(search: SearchRecord) -> list[str]:
    """Names of the parameters that vary, in the order of the points; all of them if none does."""
    names = list(dict.fromkeys(name for point in search.points for name in point["params"]))
    varying = [name for name in names if len({point["params"].get(name) for point in search.points}) > 1]
    return varying or names


def best_point(search: SearchRecord) -> Mapping[str, Any] | None:
    """The best point, or None."""
    return next((point for point in search.points if point["trial"] == search.best), None)


def by_merit(search: SearchRecord) -> list[Mapping[str, Any]]:
    """Points by falling objective, then the stopped ones by the cycle that they reached; ties by trial."""

    def rank(point: Mapping[str, Any]) -> tuple[bool, float, int]:
        value = point["objective"]
        return (value is None, -(point["stopped"] or 0) if value is None else -value, point["trial"])

    return sorted(search.points, key=rank)


def points_table(searches: Mapping[str, SearchRecord], sign: int = 1) -> pd.DataFrame:
    """Every point of every search (`columns.POINTS`), with a column param_NAME for each parameter.

    `sign` is that of the score: values are scores here, not gains.
    """
    rows, names = [], dict[str, None]()
    for search in searches.values():
        for point in search.points:
            names |= dict.fromkeys(f"param_{name}" for name in point["params"])
            rows.append(
                {name: point.get(name) for name in ("trial", "round", "stopped")}
                | {name: None if point.get(name) is None else gain(point[name], sign) for name in ("objective", "told")}
                | {f"param_{name}": value for name, value in point["params"].items()}
                | {
                    "arm": search.arm,
                    "kind": search.kind,
                    "seeds": ",".join(map(str, point["seeds"])),
                    "best": point["trial"] == search.best,
                }
            )
    return typed(rows, POINTS | dict.fromkeys(names, "Float64"))


def logarithmic(values: Sequence[float]) -> bool:
    """Are these shown on a log axis: all above 0, and a factor of ten or more apart?"""
    return min(values) > 0 and max(values) / min(values) >= LOG_SPAN * (1 - 1e-9)


def at_edge(search: SearchRecord, study: Study) -> list[str]:
    """Parameters whose best value is at the edge of what was tried (pilot) or near a bound (tune)."""
    best, arm = best_point(search), study.arms.get(search.arm)
    if best is None:
        return []
    found = []
    for name in parameters(search):
        tried = [float(point["params"][name]) for point in search.points if name in point["params"]]
        low, high, near = min(tried), max(tried), 0.0
        if isinstance(arm, TuneArm):
            (low, high), near = arm.free.get(name, (low, high)), NEAR
        place = _place(float(best["params"][name]), low, high)
        # No parameter goes below 0, and of two rates each is the other's bound on one side.
        natural = (isinstance(arm, TuneArm) and low == 0) or name == "highest"
        if low < high and ((place <= near and not natural) or (place >= 1 - near and name != "lowest")):
            found.append(name)
    return found


def _place(value: float, low: float, high: float) -> float:
    """Where a value lies between two bounds: 0 at the lower, 1 at the upper; in log where the bounds span decades."""
    if low >= high:
        return 0.5
    if logarithmic((low, high)) and value > 0:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def fragment(search: SearchRecord, study: Study) -> str | None:
    """The best point as a schedule arm, to paste into a study file; None while there is none.

    The arm keeps what the searched arm sets for itself (profile, epochs, …) and has a name that the study does not use.
    """
    if search.args is None:
        return None
    arm = study.arms.get(search.arm)
    own = {} if arm is None else arm.model_dump(mode="json", exclude_defaults=True, include=set(ArmBase.model_fields))
    name = f"{search.arm}-best"
    while name in study.arms:
        name += "-2"
    toml = tomli_w.dumps({"arms": {name: {"mode": "schedule", **own, "schedule": dict(search.args)}}})
    seeds = ", ".join(str(seed) for seed in search.points[0]["seeds"])
    rounded = "; its trials rounded max_lr to 20 rates per decade" if search.kind != PILOT else ""
    return f"# the best of {len(search.points)} points on seeds {seeds}{rounded}\n{toml}"


# --- what was saved ---


@dataclass(frozen=True)
class Savings:
    """Where the units of a search went: planned = trained + failed + shared + stopped + missing.

    Attributes:
        planned: points × cycles × seeds, the dense cycle included.
        trained: distinct units with a result.
        failed: distinct units without one.
        shared: uses of a unit that another chain of this search uses too.
        stopped: units that were not needed because their point was stopped.
        missing: units that are still to come, or of chains that ended early.
    """

    planned: int
    trained: int
    failed: int
    shared: int
    stopped: int
    missing: int


def savings(search: SearchRecord, frame: pd.DataFrame, cycles: int) -> Savings:
    """The savings of a search.

    Args:
        search: its record.
        frame: every row of the run.
        cycles: cycles of the study, the dense one included.
    """
    own = frame[(frame["arm"] == search.arm) & frame["trial"].notna()]
    used = own["trial"].value_counts()
    planned = {point["trial"]: cycles * len(point["seeds"]) for point in search.points}
    unused = {trial: max(0, units - int(used.get(trial, 0))) for trial, units in planned.items()}
    stopped = sum(unused[point["trial"]] for point in search.points if point["stopped"] is not None)
    trained = own.loc[own["status"] != "failed", "key"].nunique()
    distinct = own["key"].nunique()
    return Savings(
        planned=sum(planned.values()),
        trained=trained,
        failed=distinct - trained,
        shared=len(own) - distinct,
        stopped=stopped,
        missing=sum(unused.values()) - stopped,
    )


# --- equal tuning ---


@dataclass(frozen=True)
class Tuning:
    """How the schedule arms came by their constants.

    Attributes:
        seeds: of the pilots; () without pilots.
        planned: pilot chains that every tuned arm is due, before any extension of its grid.
        chains: arm → pilot chains that it has, for every arm that a pilot tunes.
        written: schedule arms whose constants are written in the study.
        derived: arm → the arm whose pilot found its constants.
        running: arms whose pilot has not ended.
    """

    seeds: tuple[int, ...]
    planned: int
    chains: Mapping[str, int]
    written: tuple[str, ...]
    running: tuple[str, ...] = ()
    derived: Mapping[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Every tuned arm has the chains that it is due, and its pilot has ended."""
        return not self.running and all(count >= self.planned for count in self.chains.values())

    @property
    def extra(self) -> dict[str, int]:
        """Arm → chains beyond those that every arm is due: its grid was extended."""
        return {arm: count - self.planned for arm, count in self.chains.items() if count > self.planned}

    @property
    def standing(self) -> Literal["none", "under way", "equal", "unequal"]:
        """Equal: every schedule arm got the same number of pilot chains, but for extensions of its grid."""
        if not self.chains:
            return "none"
        if not self.complete:
            return "under way"
        return "unequal" if self.written else "equal"


def tuning_of(frame: pd.DataFrame, study: Study, searches: Mapping[str, SearchRecord] | None = None) -> Tuning:
    """The standing of a run: `frame` holds every row of it.

    A chain is counted from its first row on, and the dense cycle gives all trials theirs; `searches` tell which pilots
    have ended.
    """
    schedules = rivals(study)
    pilots = frame[is_pilot(frame)]
    chains = pilots.drop_duplicates(["arm", "seed", "trial"])["arm"].value_counts()
    derived = {name: arm.ends.arm for name, arm in schedules.items() if arm.ends is not None}
    tuned = [n for n, arm in schedules.items() if n not in derived and (arm.open or n in chains.index)]
    return Tuning(
        seeds=study.pilot.seeds if study.pilot is not None else (),
        planned=study.pilot.chains * len(study.pilot.seeds) if study.pilot is not None else 0,
        chains={name: int(chains.get(name, 0)) for name in tuned},
        written=tuple(name for name in schedules if name not in tuned and name not in derived),
        running=tuple(n for n in tuned if searches is not None and not (n in searches and searches[n].finished)),
        derived=derived,
    )
