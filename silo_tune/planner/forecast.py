"""What a study has left to train: exact where keys are decided, "at most" beyond an open winner, round or pilot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from silo_tune.planner.candidates import OneRound
from silo_tune.planner.chain import Chain
from silo_tune.planner.journal import Journal, decisions
from silo_tune.planner.layout import Layout
from silo_tune.planner.points import Plan


@dataclass
class ArmForecast:
    """Units of one arm, its pilot included.

    Attributes:
        units: distinct units that the arm will have used (at most, when `exact` is False).
        done: of these, committed.
        shared: of these, first used by an earlier arm of the study.
        to_train: of these, not committed and not shared.
        exact: False while a winner, a round or a pilot that decides keys is open.
    """

    units: int = 0
    done: int = 0
    shared: int = 0
    to_train: int = 0
    exact: bool = True


# A unit's key, and whether it failed in a cycle that this arm has closed.
Asked = tuple[str, bool]


def forecast(layout: Layout, journal: Journal) -> tuple[dict[str, ArmForecast], list[float]]:
    """What every arm has to train, and the training seconds of the units that are done. Trains and writes nothing."""
    arms = {name: ArmForecast() for name in layout.study.arms}
    asked: dict[str, list[Asked]] = {name: [] for name in arms}

    def count(name: str, found: list[Asked], unknown: int) -> None:
        asked[name] += found
        arms[name].units += unknown
        arms[name].to_train += unknown
        arms[name].exact &= unknown == 0

    for name, plan in layout.plans.items():
        count(name, *_search(layout, journal, name, plan))
    # Leaders first: a conditioned Oracle's parents are its leader's keys.
    ordered = sorted(arms, key=lambda name: layout.prefix_arm(name) is not None)
    for seed in layout.study.replicates.seeds:
        paths: dict[str, list[str | None]] = {}
        for name in ordered:
            if layout.study.arms[name].mode != "tune":
                found, unknown, paths[name] = _walk(layout, journal, Chain(name, seed), paths)
                count(name, found, unknown)
    results: dict[str, dict[str, Any] | None] = {}
    owner: dict[str, str] = {}
    counted: set[str] = set()
    for name, arm in arms.items():
        arm.units += len({key for key, _ in asked[name]})
        for key, failed in dict.fromkeys(asked[name]):
            if key not in results:
                results[key] = journal.result(key)
            arm.done += results[key] is not None
            arm.shared += owner.setdefault(key, name) != name
            # A closed cycle keeps its failures, but another arm whose cycle is open tries the same unit again.
            if results[key] is None and not failed and key not in counted:
                counted.add(key)
                arm.to_train += 1
    return arms, [result["train_seconds"] for result in results.values() if result is not None]


def _walk(
    layout: Layout, journal: Journal, chain: Chain, paths: Mapping[str, list[str | None]]
) -> tuple[list[Asked], int, list[str | None]]:
    """Units of one chain as far as they are decided, the number of those beyond, and the key after each cycle."""
    asked: list[Asked] = []
    unknown = 0
    path: list[str | None] = []
    leader = layout.prefix_arm(chain.arm)
    for cycle in range(layout.study.cycles):
        chain.cycle = cycle
        if leader is not None and cycle > 0:
            if len(paths[leader]) < cycle:  # the leader ended before
                break
            chain.parent = paths[leader][cycle - 1]
        if cycle > 0 and chain.parent is None:
            unknown += layout.most(chain.arm, cycle)
            path.append(None)
            continue
        rounds = list(closed_rounds(journal, chain))
        found, more = _candidates(layout, chain, rounds)
        asked += found
        unknown += more
        if rounds and rounds[-1]["closes"]:
            chain.parent = rounds[-1]["winner"]
            if chain.parent is None and leader is None:
                break
            told = [outcome for body in rounds for outcome in body["told"]]
            chain.rates.append(next((o["max_lr"] for o in told if o["key"] == chain.parent), None))
        else:
            chain.parent = found[0][0] if len(found) == 1 and not more else None
        path.append(chain.parent)
    return asked, unknown, path


def _candidates(layout: Layout, chain: Chain, rounds: list[dict[str, Any]]) -> tuple[list[Asked], int]:
    """Units of a chain's cycle that are known, and how many more there may be."""
    last = {o["key"]: o["status"] for body in rounds for o in body["told"]}  # a failed unit may have been tried again
    failed = {key for key, status in last.items() if status == "failed"}
    known = list(dict.fromkeys(entry["key"] for body in rounds for entry in body["asked"]))
    if rounds and rounds[-1]["closes"]:
        return [(key, key in failed) for key in known], 0
    if layout.decides(chain.arm, chain.cycle) and not layout.ready(chain.arm) and chain.trial is None:
        return [], layout.most(chain.arm, chain.cycle)
    source = layout.source(chain)
    if isinstance(source, OneRound) or not known:
        known = [layout.unit(chain, proposal).key for proposal in source.ask([])]
    return [(key, key in failed) for key in known], max(0, source.most - len(known))


def closed_rounds(journal: Journal, chain: Chain) -> Iterator[dict[str, Any]]:
    """Decisions of the closed rounds of a chain's cycle, up to that of its winner."""
    for body in decisions(journal, chain.arm, chain.seed, chain.cycle, chain.trial):
        yield body
        if body["winner"] is not None:
            return


def _search(layout: Layout, journal: Journal, name: str, plan: Plan) -> tuple[list[Asked], int]:
    """Units of a search as far as its chains have come, and how many more there may be."""
    heard: list[dict[str, Any]] = []
    number = 1
    while (body := journal.search_round(name, number)) is not None:
        heard += body["points"]
        number += 1
    seeds, asked = layout.study.search_seeds(name), []
    for seed in seeds:
        for trial in range(plan.most):
            found = list(_trial_units(layout, journal, Chain(name, seed, trial)))
            if not found and trial >= len(heard):
                break
            asked += found
    if plan.finished(heard):
        best = plan.best(heard)
        if plan.kind == "pilot" and best is not None:
            layout.take(name, best["params"])
        return asked, 0
    # The dense unit of a seed is shared by all its trials.
    most = len(seeds) * (1 + plan.most * (layout.study.cycles - 1))
    return asked, max(0, most - len({key for key, _ in asked}))


def _trial_units(layout: Layout, journal: Journal, chain: Chain) -> Iterator[Asked]:
    for cycle in range(layout.study.cycles):
        chain.cycle = cycle
        rounds = list(closed_rounds(journal, chain))
        if not rounds:
            return
        for outcome in rounds[0]["told"]:
            yield outcome["key"], outcome["status"] == "failed"
