"""What a study has left to train: exact where keys are decided, "at most" beyond an open winner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from silo_tune.chains import Journal, Layout


@dataclass
class ArmForecast:
    """Units of one arm.

    Attributes:
        units: distinct units that the arm will have used (at most, when `exact` is False).
        done: of these, committed.
        shared: of these, first used by an earlier arm of the study.
        to_train: of these, not committed and not shared.
        exact: False while a winner that decides keys is open.
    """

    units: int = 0
    done: int = 0
    shared: int = 0
    to_train: int = 0
    exact: bool = True


def forecast(layout: Layout, journal: Journal) -> tuple[dict[str, ArmForecast], list[float]]:
    """What every arm has to train, and the training seconds of the units that are done. Trains and writes nothing."""
    arms = {name: ArmForecast() for name in layout.study.arms}
    asked: dict[str, list[Asked]] = {name: [] for name in arms}
    # Leaders first: a conditioned Oracle's parents are its leader's keys.
    ordered = sorted(arms, key=lambda name: layout.prefix_arm(name) is not None)
    for seed in layout.study.replicates.seeds:
        paths: dict[str, list[str | None]] = {}
        for name in ordered:
            found, unknown, paths[name] = _walk(layout, journal, name, seed, paths)
            asked[name] += found
            arms[name].units += len(found) + unknown
            arms[name].to_train += unknown
            arms[name].exact &= unknown == 0
    results: dict[str, dict[str, Any] | None] = {}
    owner: dict[str, str] = {}
    counted: set[str] = set()
    for name, arm in arms.items():
        for key, failed in asked[name]:
            if key not in results:
                results[key] = journal.result(key)
            arm.done += results[key] is not None
            arm.shared += owner.setdefault(key, name) != name
            # A closed cycle keeps its failures, but another arm whose cycle is open tries the same unit again.
            if results[key] is None and not failed and key not in counted:
                counted.add(key)
                arm.to_train += 1
    return arms, [result["train_seconds"] for result in results.values() if result is not None]


# A unit's key, and whether it failed in a cycle that this arm has closed.
Asked = tuple[str, bool]


def _walk(
    layout: Layout, journal: Journal, name: str, seed: int, paths: Mapping[str, list[str | None]]
) -> tuple[list[Asked], int, list[str | None]]:
    """Units of one chain as far as they are decided, the number of those beyond, and the key after each cycle."""
    asked: list[Asked] = []
    unknown = 0
    path: list[str | None] = []
    parent: str | None = None
    leader = layout.prefix_arm(name)
    for cycle in range(layout.study.cycles):
        if leader is not None and cycle > 0:
            if len(paths[leader]) < cycle:  # the leader ended before
                break
            parent = paths[leader][cycle - 1]
        proposals = layout.propose(name, cycle, [])
        if cycle > 0 and parent is None:
            unknown += len(proposals)
            path.append(None)
            continue
        keys = [layout.unit(name, seed, cycle, parent, proposal).key for proposal in proposals]
        decision = journal.decision(name, seed, cycle, 1)
        told = decision["told"] if decision is not None else []
        failed = {outcome["key"] for outcome in told if outcome["status"] == "failed"}
        asked += [(key, key in failed) for key in keys]
        if decision is None:
            parent = keys[0] if len(keys) == 1 else None
        else:
            parent = decision["winner"]
            if parent is None and leader is None:
                break
        path.append(parent)
    return asked, unknown, path
