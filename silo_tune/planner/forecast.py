"""What a study has left to train: exact where keys are decided, "at most" beyond an open winner, round or pilot."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from silo_tune.planner.candidates import OneRound
from silo_tune.planner.chain import Chain
from silo_tune.planner.journal import Journal, continuing_key, decisions, looks_made, seeds_begun
from silo_tune.planner.layout import Layout
from silo_tune.planner.points import Plan
from silo_tune.study.model import Study


@dataclass
class ArmForecast:
    """Units of one arm, its pilot included.

    Attributes:
        units: distinct units that the arm will have used (at most, when `exact` is False).
        done: of these, committed.
        shared: of these, first used by an earlier arm of the study.
        to_train: of these, not committed and not shared.
        least: of `to_train`, those that no look can spare.
        exact: False while a winner, a round, a pilot or a look that decides keys is open.
        left: of `to_train`, those that are likely to be trained: no rare extension of a pilot, few trials that a rung
            stops.
        epochs: of those.
    """

    units: int = 0
    done: int = 0
    shared: int = 0
    to_train: int = 0
    least: int = 0
    exact: bool = True
    left: float = 0.0
    epochs: float = 0.0


@dataclass(frozen=True)
class Spent:
    """What a trained unit took: its epochs, the seconds of their training, and all its seconds."""

    epochs: int
    training: float
    whole: float


@dataclass(frozen=True)
class Pace:
    """Seconds of an epoch, and those of a unit beside its epochs: its parent, its prune, its scores, its way to a slot.

    The training set and the batch are a study's, so that steps and epochs measure alike.
    """

    epoch: float
    rest: float

    @classmethod
    def of(cls, spent: Collection[Spent]) -> Pace | None:
        """The pace of trained units; None where they tell none."""
        epochs = sum(one.epochs for one in spent)
        if not epochs:
            return None
        rest = sum(max(0.0, one.whole - one.training) for one in spent)
        return cls(sum(one.training for one in spent) / epochs, rest / len(spent))

    def seconds(self, units: float, epochs: float) -> float:
        """Seconds of so many units with so many epochs in all, on one slot."""
        return units * self.rest + epochs * self.epoch


class Asked(NamedTuple):
    """A unit's key, whether it failed in a cycle that this arm has closed, and its epochs."""

    key: str
    failed: bool
    epochs: int


class Unknown(NamedTuple):
    """Units whose keys are not decided yet: at most so many, likely so many, and the epochs of those."""

    most: int = 0
    likely: float = 0.0
    epochs: float = 0.0

    def __add__(self, other: Unknown) -> Unknown:  # type: ignore[override]
        return Unknown(self.most + other.most, self.likely + other.likely, self.epochs + other.epochs)


def forecast(layout: Layout, journal: Journal) -> tuple[dict[str, ArmForecast], list[Spent]]:
    """What every arm has to train, and what the units took that are done. Trains and writes nothing."""
    arms = {name: ArmForecast() for name in layout.study.arms}
    asked: dict[str, list[Asked]] = {name: [] for name in arms}

    def count(name: str, found: list[Asked], unknown: Unknown) -> None:
        asked[name] += found
        arms[name].units += unknown.most
        arms[name].to_train += unknown.most
        arms[name].left += unknown.likely
        arms[name].epochs += unknown.epochs
        arms[name].exact &= unknown.most == 0

    for name, plan in layout.plans.items():
        count(name, *_search(layout, journal, name, plan))
    # Leaders first: a conditioned Oracle's parents are its leader's keys.
    ordered = sorted(arms, key=lambda name: layout.prefix_arm(name) is not None)
    looks = looks_made(journal, layout.study)
    for look in looks:
        layout.after(look)
    begun = seeds_begun(layout.study, looks)
    for seed in begun:
        paths: dict[str, list[str | None]] = {}
        for name in ordered:
            if layout.study.arms[name].mode != "tune":
                found, unknown, paths[name] = _walk(layout, journal, Chain(name, seed), paths)
                count(name, found, unknown)
    later = () if looks and looks[-1]["over"] else _seeds_to_come(layout.study, len(looks))
    results: dict[str, dict[str, Any] | None] = {}
    owner: dict[str, str] = {}
    counted: set[str] = set()
    for name, arm in arms.items():
        arm.units += len({one.key for one in asked[name]})
        for key, failed, epochs in dict.fromkeys(asked[name]):
            if key not in results:
                results[key] = journal.result(key)
            arm.done += results[key] is not None
            arm.shared += owner.setdefault(key, name) != name
            # A closed cycle keeps its failures, but another arm whose cycle is open tries the same unit again.
            if results[key] is None and not failed and key not in counted:
                counted.add(key)
                arm.to_train += 1
                arm.left += 1
                arm.epochs += epochs
        arm.least = arm.to_train
    for seed in later:
        for name, most in _at_most(layout, journal, seed, ordered).items():
            count(name, [], most)
    return arms, [_spent(result) for result in results.values() if result is not None]


def _seeds_to_come(study: Study, looks: int) -> tuple[int, ...]:
    """Seeds that later looks may begin."""
    return tuple(seed for number in range(looks + 1, len(study.looks)) for seed in study.seeds_after(number))


def _at_most(layout: Layout, journal: Journal, seed: int, ordered: Collection[str]) -> dict[str, Unknown]:
    """Units of a seed that a look may spare, by arm: a unit that several arms use is that of the first."""
    paths: dict[str, list[str | None]] = {}
    seen: set[str] = set()
    found: dict[str, Unknown] = {}
    for name in ordered:
        if layout.study.arms[name].mode != "tune":
            asked, unknown, paths[name] = _walk(layout, journal, Chain(name, seed), paths)
            new = {one for one in asked if one.key not in seen}
            seen |= {one.key for one in new}
            found[name] = unknown + Unknown(len(new), len(new), sum(one.epochs for one in new))
    return found


def _spent(result: Mapping[str, Any]) -> Spent:
    seconds = result["train_seconds"]
    return Spent(result["unit"]["epochs"], seconds, result.get("wall_seconds") or seconds)


def _walk(
    layout: Layout, journal: Journal, chain: Chain, paths: Mapping[str, list[str | None]]
) -> tuple[list[Asked], Unknown, list[str | None]]:
    """Units of one chain as far as they are decided, those beyond, and the key after each cycle."""
    asked: list[Asked] = []
    unknown = Unknown()
    path: list[str | None] = []
    leader = layout.prefix_arm(chain.arm)
    for cycle in range(layout.study.cycles):
        chain.cycle = cycle
        if leader is not None and cycle > 0:
            if len(paths[leader]) < cycle:  # the leader ended before
                break
            chain.parent = paths[leader][cycle - 1]
        if cycle > 0 and chain.parent is None:
            unknown += _unknown(layout, chain, layout.most(chain.arm, cycle))
            path.append(None)
            continue
        rounds = list(closed_rounds(journal, chain))
        found, more = _candidates(layout, chain, rounds)
        asked += found
        unknown += _unknown(layout, chain, more)
        if rounds and rounds[-1]["closes"]:
            chain.parent = continuing_key(rounds[-1])
            if chain.parent is None and leader is None:
                break
            told = [outcome for body in rounds for outcome in body["told"]]
            chain.rates.append(next((o["max_lr"] for o in told if o["key"] == chain.parent), None))
        else:
            chain.parent = found[0].key if len(found) == 1 and not more else None
        path.append(chain.parent)
    return asked, unknown, path


def _unknown(layout: Layout, chain: Chain, most: int) -> Unknown:
    return Unknown(most, most, most * layout.epochs(chain.arm, chain.cycle))


def _candidates(layout: Layout, chain: Chain, rounds: list[dict[str, Any]]) -> tuple[list[Asked], int]:
    """Units of a chain's cycle that are known, and how many more there may be."""
    last = {o["key"]: o["status"] for body in rounds for o in body["told"]}  # a failed unit may have been tried again
    failed = {key for key, status in last.items() if status == "failed"}
    epochs = layout.epochs(chain.arm, chain.cycle)
    known = list(dict.fromkeys(entry["key"] for body in rounds for entry in body["asked"]))
    if rounds and rounds[-1]["closes"]:
        return [Asked(key, key in failed, epochs) for key in known], 0
    if layout.decides(chain.arm, chain.cycle) and not layout.ready(chain.arm) and chain.trial is None:
        return [], layout.most(chain.arm, chain.cycle)
    source = layout.source(chain)
    if isinstance(source, OneRound) or not known:
        known = [layout.unit(chain, proposal).key for proposal in source.ask([])]
    return [Asked(key, key in failed, epochs) for key in known], max(0, source.most - len(known))


def closed_rounds(journal: Journal, chain: Chain) -> Iterator[dict[str, Any]]:
    """Decisions of the closed rounds of a chain's cycle, up to that which says what continues."""
    for body in decisions(journal, chain.arm, chain.seed, chain.cycle, chain.trial):
        yield body
        if continuing_key(body) is not None:
            return


def _search(layout: Layout, journal: Journal, name: str, plan: Plan) -> tuple[list[Asked], Unknown]:
    """Units of a search as far as its chains have come, and those beyond."""
    heard: list[dict[str, Any]] = []
    number = 1
    while (body := journal.search_round(name, number)) is not None:
        heard += body["points"]
        number += 1
    seeds, asked = layout.study.search_seeds(name), list[Asked]()
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
        return asked, Unknown()
    # The dense unit of a seed is shared by all its trials.
    known, cycles = set(asked), layout.study.cycles
    most = len(seeds) * (1 + plan.most * (cycles - 1))
    each = _cycles_of_a_trial(plan, cycles)
    likely = len(seeds) * (1 + plan.likely(heard) * each)
    epochs = len(seeds) * (layout.epochs(name, 0) + plan.likely(heard) * each * layout.epochs(name, cycles - 1))
    return asked, Unknown(
        max(0, most - len({one.key for one in known})),
        max(0.0, likely - len({one.key for one in known})),
        max(0.0, epochs - sum(one.epochs for one in known)),
    )


def _cycles_of_a_trial(plan: Plan, cycles: int) -> float:
    """Cycles ≥ 1 that a trial of a search is likely to train: a rung lets the study's share pass."""
    first = min(plan.rungs, default=cycles - 1)
    return first + plan.keep * (cycles - 1 - first)


def _trial_units(layout: Layout, journal: Journal, chain: Chain) -> Iterator[Asked]:
    for cycle in range(layout.study.cycles):
        chain.cycle = cycle
        rounds = list(closed_rounds(journal, chain))
        if not rounds:
            return
        for outcome in rounds[0]["told"]:
            yield Asked(outcome["key"], outcome["status"] == "failed", layout.epochs(chain.arm, cycle))
