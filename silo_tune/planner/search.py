"""A search over whole chains: points in rounds, trials that are stopped at rungs, and what came of it.

A round depends on complete rounds alone, and whether a trial continues at a rung too: so neither depends on how many
workers there were or who finished first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any, Literal

from silo_tune.planner.chain import Chain
from silo_tune.planner.points import Plan


@dataclass
class Search:
    """One arm's search.

    Attributes:
        arm, plan, seeds: whose, what it tries, and the seeds of its chains.
        closed: every point of the complete rounds, in order.
        rounds: number of complete rounds.
        trials: chains of the open round by (trial, seed).
        past: chains of complete rounds that are still to be trained again, where a file was damaged.
        finished: no more rounds to come.
    """

    arm: str
    plan: Plan
    seeds: Sequence[int]
    closed: list[dict[str, Any]] = field(default_factory=list)
    rounds: int = 0
    trials: dict[tuple[int, int], Chain] = field(default_factory=dict)
    past: list[Chain] = field(default_factory=list)
    finished: bool = False

    def recall(self, body: Mapping[str, Any]) -> None:
        """Take up a round that was closed before."""
        self.closed += [dict(point) for point in body["points"]]
        self.rounds = body["round"]

    def open(self, points: Sequence[Mapping[str, float]]) -> list[Chain]:
        """The chains of a new round."""
        first = len(self.closed)
        self.trials = {
            (first + i, seed): Chain(self.arm, seed, first + i, params)
            for i, params in enumerate(points)
            for seed in self.seeds
        }
        return list(self.trials.values())

    @property
    def over(self) -> bool:
        """Has every chain of the open round come to its end?"""
        return all(not chain.active for chain in self.trials.values())

    def siblings(self, chain: Chain) -> list[Chain]:
        """The chains of the same trial, this one included."""
        return [self.trials[trial, seed] for trial, seed in self.trials if trial == chain.trial]

    def at_rung(self, chain: Chain) -> Literal["go", "wait", "stop"]:
        """What a trial's chain does before it opens its next cycle."""
        rung = chain.cycle - 1
        if chain.trial is not None and chain.trial < len(self.closed):  # decided before
            return "stop" if self.closed[chain.trial]["stopped"] == rung else "go"
        if rung not in self.plan.rungs:
            return "go"
        siblings = self.siblings(chain)
        if any(len(other.closed) <= rung and other.active for other in siblings):
            return "wait"
        earlier = [point["rungs"][str(rung)] for point in self.closed if str(rung) in point["rungs"]]
        if not earlier:
            return "go"
        bar = sorted(earlier, reverse=True)[math.ceil(self.plan.keep * len(earlier)) - 1]
        return "go" if self._value(siblings, rung) >= bar else "stop"

    def close(self) -> dict[str, Any]:
        """The body of the open round, whose chains have all ended."""
        points = [self._point(trial) for trial in sorted({trial for trial, _ in self.trials})]
        complete = [p for p in [*self.closed, *points] if p["objective"] is not None]
        for point in points:
            if point["stopped"] is not None:
                point["told"] = self._expected(point, complete)
        return {"arm": self.arm, "kind": self.plan.kind, "round": self.rounds + 1, "seeds": list(self.seeds),
                "counted": list(self.plan.counted), "size": len(points), "points": points}  # fmt: skip

    def best(self) -> Mapping[str, Any] | None:
        """The point that wins, of the closed rounds."""
        return self.plan.best(self.closed)

    def _point(self, trial: int) -> dict[str, Any]:
        chains = [chain for (number, _), chain in self.trials.items() if number == trial]
        stopped = next((chain.stopped for chain in chains if chain.stopped is not None), None)
        last = max(self.plan.counted)
        value = self._value(chains, last)
        # A chain that diverged has guessed from there on; of one whose units failed nothing is known.
        objective = None if stopped is not None or any(chain.failed for chain in chains) else value
        reached = [rung for rung in self.plan.rungs if stopped is None or rung <= stopped]
        return {
            "trial": trial,
            "round": self.rounds + 1,
            "params": dict(chains[0].params or {}),
            "objective": objective,
            "told": value,
            "by_seed": {str(chain.seed): self._value([chain], last) for chain in chains},
            "stopped": stopped,
            "rungs": {str(rung): self._value(chains, rung) for rung in reached},
            "ended": {str(chain.seed): chain.ended for chain in chains if chain.ended and chain.stopped is None},
        }

    def _value(self, chains: Iterable[Chain], upto: int) -> float:
        """Mean validation gain over counted cycles up to one, and over seeds; a cycle that a chain did not reach
        counts as guessing. Where none of the cycles so far counts, all do."""
        counted = [cycle for cycle in self.plan.counted if cycle <= upto] or range(1, upto + 1)
        return fmean(fmean(_gain(chain, cycle) for cycle in counted) for chain in chains)

    def _expected(self, point: Mapping[str, Any], complete: Sequence[Mapping[str, Any]]) -> float:
        """What a stopped trial is told: its objective so far and the median of what complete ones gained after."""
        rung = str(point["stopped"])
        gains = [other["objective"] - other["rungs"][rung] for other in complete if rung in other["rungs"]]
        return float(point["rungs"][rung] + (median(gains) if gains else 0.0))


def doubtful_rounds(
    search: Search, points: Sequence[Mapping[str, Any]], chains: Iterable[Chain]
) -> Iterator[tuple[int, list[int]]]:
    """The closed rounds that do not say what the chains of their points give, and the trials that they are wrong about.

    Args:
        search: with no round yet; it takes them up.
        points: of its closed rounds, in order.
        chains: of these points, all ended.
    """
    found = {(chain.trial, chain.seed): chain for chain in chains}
    for number, group in itertools.groupby(points, lambda point: point["round"]):
        told, first = list(group), len(search.closed)
        trials = range(first, first + len(told))
        search.trials = {(t, seed): found[t, seed] for t in trials for seed in search.seeds if (t, seed) in found}
        given = {point["trial"]: _said(point) for point in search.close()["points"]}
        wrong = [trial for trial, point in zip(trials, told, strict=True) if _said(point) != given.get(trial)]
        if wrong:
            yield int(number), wrong
        search.recall({"points": told, "round": number})


def _said(point: Mapping[str, Any]) -> list[Any]:
    return [point[name] for name in ("trial", "round", "objective", "told", "rungs")]


def _gain(chain: Chain, cycle: int) -> float:
    known = chain.gains[cycle] if cycle < len(chain.gains) else None
    return chain.guessing if known is None else known
