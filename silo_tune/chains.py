"""The planner: which unit may be trained next, what a closed cycle decides, and whose weights may go.

Plain Python, without Ray or torch. `ask` gives units that are ready, `tell` takes their outcomes in any order; the
decisions depend only on the outcomes, never on their order. A cycle's decision is written before any child is asked.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from silo_tune.candidates import Proposal, Source, source_for
from silo_tune.errors import BadInput
from silo_tune.study import OracleArm, Study
from silo_tune.units import Unit, make_unit

# What a decision keeps of a unit's outcome.
TOLD = ("status", "max_lr", "val_accuracy", "val_loss", "error")


class Journal(Protocol):
    """The files that the planner reads and writes; `store.Run` is one."""

    def decision(self, arm: str, seed: int, cycle: int, number: int) -> dict[str, Any] | None: ...

    def decide(self, body: Mapping[str, Any]) -> dict[str, Any]: ...

    def result(self, key: str) -> dict[str, Any] | None: ...

    def sweep(self, key: str) -> None: ...


@dataclass(frozen=True)
class Candidate:
    """One candidate of an open round."""

    index: int
    proposal: Proposal
    unit: Unit


@dataclass
class Chain:
    """One (arm, seed): its cycles in order.

    Attributes:
        cycle: the cycle that is open, or the number of closed cycles when none is.
        parent: key of the unit that the open cycle starts from.
        decided: the standing decision of the open round, met when a run goes on.
        candidates: of every round of the open cycle.
        told: outcomes of the open cycle by candidate.
        closed: for each closed cycle, the key that the arm continues with.
        best: winner of the last closed cycle, for display.
        ended: why the chain ended before its last cycle, or None.
        done: no more cycles to come.
    """

    arm: str
    seed: int
    cycle: int = 0
    round: int = 1
    parent: str | None = None
    open: bool = False
    decided: dict[str, Any] | None = None
    candidates: list[Candidate] = field(default_factory=list)
    told: dict[int, dict[str, Any]] = field(default_factory=dict)
    closed: list[str | None] = field(default_factory=list)
    best: dict[str, Any] | None = None
    ended: str | None = None
    done: bool = False

    @property
    def active(self) -> bool:
        return not self.done and self.ended is None


def winner_of(told: Iterator[Mapping[str, Any]] | list[dict[str, Any]]) -> dict[str, Any] | None:
    """Highest validation accuracy, then lower validation loss, then smaller max_lr; a diverged one never wins."""
    good = [dict(outcome) for outcome in told if outcome["status"] == "ok"]
    return min(
        good,
        key=lambda o: (-o["val_accuracy"], o["val_loss"], o["max_lr"] if o["max_lr"] is not None else 0.0),
        default=None,
    )


class Layout:
    """What the study says of every chain, without outcomes: arms, tests in force, candidates of a cycle."""

    def __init__(
        self,
        study: Study,
        tests_from: Mapping[str, Mapping[str, int]] | None = None,
        checkpoint: str | None = None,
    ) -> None:
        self.study = study
        self.tests_from = tests_from or {}
        self.checkpoint = checkpoint
        self.settings = {name: study.settings(arm) for name, arm in study.arms.items()}
        # Peaks depend on (arm, cycle) alone: the sources are made once, for all seeds.
        self._sources: dict[tuple[str, int], Source] = {}
        for name in study.arms:  # a schedule that fails at the last cycle should fail now
            for cycle in range(0 if self.settings[name].own_dense else 1, study.cycles):
                self.source(name, cycle)

    def prefix_arm(self, arm: str) -> str | None:
        found = self.study.arms[arm]
        return found.prefix_arm if isinstance(found, OracleArm) else None

    def tests(self, arm: str, cycle: int) -> list[str]:
        """Arms whose values this Oracle tries at this cycle; one added later counts from the cycle where it could."""
        if not isinstance(self.study.arms[arm], OracleArm):
            return []
        since = self.tests_from.get(arm, {})
        return [test for test in self.study.tests_of(arm) if since.get(test, 0) <= cycle]

    def source(self, arm: str, cycle: int) -> Source:
        """Where the candidates of a cycle come from."""
        where = (arm, cycle)
        if where not in self._sources:
            self._sources[where] = source_for(self.study, arm, cycle, self.tests(arm, cycle))
        return self._sources[where]

    def propose(self, arm: str, cycle: int, told: list[dict[str, Any]]) -> list[Proposal]:
        """The next round of a cycle; the shared dense cycle has one candidate, whatever the arm."""
        if cycle > 0 or self.settings[arm].own_dense:
            return self.source(arm, cycle).ask(told)
        if told:
            return []
        dense = self.study.dense
        return [Proposal(None if self.checkpoint is not None else {"value": float(f"{dense.max_lr:.12g}")})]

    def unit(self, arm: str, seed: int, cycle: int, parent: str | None, proposal: Proposal) -> Unit:
        """The unit of a candidate."""
        return make_unit(
            self.study,
            self.settings[arm],
            parent=parent,
            cycle=cycle,
            seed=seed,
            peak=proposal.peak,
            checkpoint=self.checkpoint if cycle == 0 else None,
        )


@dataclass
class Counts:
    """Units of this session and of the run."""

    trained: int = 0
    failed: int = 0
    reused: int = 0
    shared: int = 0
    train_seconds: float = 0.0


class Planner:
    """Asks for units and decides cycles.

    Args:
        study: the study.
        journal: where decisions are written and results are found.
        tests_from: from `Run.accept`.
        checkpoint: content hash of the pretrained weights, if the study has them.
        listen: called with the chain whenever one changed.

    Raises:
        BadInput: a schedule gives an impossible rate, or the run's files do not belong to this study.
    """

    def __init__(
        self,
        study: Study,
        journal: Journal,
        tests_from: Mapping[str, Mapping[str, int]] | None = None,
        checkpoint: str | None = None,
        listen: Callable[[Chain], None] = lambda chain: None,
    ) -> None:
        self.study, self.journal, self.listen = study, journal, listen
        self.layout = Layout(study, tests_from, checkpoint)
        self.counts = Counts()
        self.chains = {(arm, seed): Chain(arm, seed) for seed in study.replicates.seeds for arm in study.arms}
        self._followers: dict[tuple[str, int], list[Chain]] = {}
        for chain in self.chains.values():
            if prefix := self.layout.prefix_arm(chain.arm):
                self._followers.setdefault((prefix, chain.seed), []).append(chain)
        self._ready: list[tuple[int, int, Unit]] = []
        self._waiters: dict[str, list[tuple[Chain, Candidate]]] = {}
        self._flying: set[str] = set()
        self._known: set[str] = set()
        self._used: dict[int, dict[int, set[str]]] = {seed: {} for seed in study.replicates.seeds}
        self._order = 0
        self._replaying = True
        for chain in list(self.chains.values()):
            self._advance(chain)
        self._replaying = False
        for seed in study.replicates.seeds:
            self._forget_swept(seed)
            self._sweep(seed)

    # --- ask and tell ---

    def ask(self) -> Unit | None:
        """A unit that is ready to be trained, or None when all that is left waits for units under way."""
        if not self._ready:
            return None
        _, _, unit = heapq.heappop(self._ready)
        self._flying.add(unit.key)
        return unit

    @property
    def done(self) -> bool:
        """Nothing is ready and nothing is under way."""
        return not self._ready and not self._flying

    def tell(self, key: str, outcome: Mapping[str, Any]) -> None:
        """The outcome of an asked unit: its committed result, or {"status": "failed", "error": reason}. Idempotent."""
        if key not in self._flying:
            return
        self._flying.discard(key)
        if outcome["status"] == "failed":
            self.counts.failed += 1
        else:
            self.counts.trained += 1
            self.counts.train_seconds += outcome.get("train_seconds") or 0.0
            self._known.add(key)
        waiters = self._waiters.pop(key, [])
        for chain, candidate in waiters:
            self._hear(chain, candidate, outcome)
        for chain, _ in waiters:
            self._advance(chain)
        if not waiters:  # a lost row was trained again: its weights are not needed
            self._sweep(next(seed for seed, used in self._used.items() if any(key in keys for keys in used.values())))

    # --- one chain ---

    def _hear(self, chain: Chain, candidate: Candidate, outcome: Mapping[str, Any]) -> None:
        told = {name: outcome.get(name) for name in TOLD}
        chain.told[candidate.index] = {
            "candidate": candidate.index, "repeat": candidate.unit.repeat, "key": candidate.unit.key, **told,
        }  # fmt: skip
        self.listen(chain)

    def _advance(self, chain: Chain) -> None:
        """Close and open rounds and cycles of a chain until something must be waited for."""
        while chain.active:
            if not chain.open and not self._open(chain):
                return
            if len(chain.told) < len(chain.candidates):
                return
            self._close_round(chain)

    def _open(self, chain: Chain) -> bool:
        """Open the next cycle; False when its parent is not decided yet or there is none to come."""
        if chain.cycle == self.study.cycles:
            chain.done = True
            self._sweep(chain.seed)
            self.listen(chain)
            return False
        leader = self._leader(chain)
        if leader is not None and chain.cycle > 0:
            if len(leader.closed) < chain.cycle:
                if leader.ended is not None:
                    self._end(chain, f"{leader.arm} ended: {leader.ended}")
                return False
            chain.parent = leader.closed[chain.cycle - 1]
        chain.open, chain.round, chain.candidates, chain.told = True, 1, [], {}
        self._ask_round(chain)
        self.listen(chain)
        return True

    def _leader(self, chain: Chain) -> Chain | None:
        prefix = self.layout.prefix_arm(chain.arm)
        return None if prefix is None else self.chains[prefix, chain.seed]

    def _ask_round(self, chain: Chain) -> bool:
        """Add the next round's candidates and look up or queue their units; False when the source has no more."""
        proposals = self.layout.propose(chain.arm, chain.cycle, self._told(chain))
        chain.decided = self.journal.decision(chain.arm, chain.seed, chain.cycle, chain.round) if proposals else None
        first = len(chain.candidates)
        for proposal in proposals:
            unit = self.layout.unit(chain.arm, chain.seed, chain.cycle, chain.parent, proposal)
            chain.candidates.append(Candidate(len(chain.candidates), proposal, unit))
        self._check_decided(chain, first)
        decided = {outcome["key"]: outcome for outcome in chain.decided["told"]} if chain.decided else {}
        for candidate in chain.candidates[first:]:
            self._request(chain, candidate, decided.get(candidate.unit.key))
        return bool(proposals)

    def _request(self, chain: Chain, candidate: Candidate, decided: Mapping[str, Any] | None) -> None:
        """Hear a candidate's outcome if it is known, else wait for it. A closed round's outcomes stand as decided."""
        key = candidate.unit.key
        self._used[chain.seed].setdefault(chain.cycle, set()).add(key)
        if decided is not None and decided["status"] == "failed":
            self._hear(chain, candidate, decided)
            return
        result = None if key in self._waiters else self.journal.result(key)
        if key in self._waiters or (result is not None and key in self._known):
            self.counts.shared += 1
        elif result is not None:
            self.counts.reused += 1
            self._known.add(key)
        else:
            self._order += 1
            heapq.heappush(self._ready, (chain.cycle, self._order, candidate.unit))
            self._waiters[key] = []
        outcome = decided or result
        if outcome is not None:
            self._hear(chain, candidate, outcome)
        else:
            self._waiters[key].append((chain, candidate))

    def _told(self, chain: Chain) -> list[dict[str, Any]]:
        return [chain.told[candidate.index] for candidate in chain.candidates if candidate.index in chain.told]

    def _close_round(self, chain: Chain) -> None:
        """Write the round's decision; ask the next round or close the cycle."""
        told = self._told(chain)
        first = sum(1 for outcome in told if outcome.get("round", chain.round) < chain.round)
        more = self.layout.propose(chain.arm, chain.cycle, told)
        winner = None if more else winner_of(told)
        leader = self._leader(chain) if chain.cycle > 0 else None
        body = {
            "arm": chain.arm,
            "seed": chain.seed,
            "cycle": chain.cycle,
            "round": chain.round,
            "parent": chain.parent,
            "asked": [
                {
                    "candidate": c.index,
                    "key": c.unit.key,
                    "peak": c.unit.peak,
                    "asked": c.proposal.asked,
                    "tests": list(c.proposal.tests),
                }
                for c in chain.candidates[first:]
            ],
            "told": told[first:],
            "closes": not more,
            "winner": winner["key"] if winner else None,
        }
        standing = chain.decided or self.journal.decide(body)
        for outcome in told[first:]:
            outcome["round"] = chain.round
        if more:
            chain.round += 1
            self._ask_round(chain)
            return
        self._close_cycle(chain, standing, winner, leader)

    def _check_decided(self, chain: Chain, first: int) -> None:
        """A standing decision must be of the very candidates that this study asks for."""
        asked = [candidate.unit.key for candidate in chain.candidates[first:]]
        if chain.decided is not None and asked != [entry["key"] for entry in chain.decided["asked"]]:
            raise BadInput(
                f"arms.{chain.arm}: seed {chain.seed} closed cycle {chain.cycle} with other candidates than this study "
                f"asks for; put the study back as it was, or choose another --out"
            )

    def _close_cycle(
        self, chain: Chain, standing: Mapping[str, Any], winner: dict[str, Any] | None, leader: Chain | None
    ) -> None:
        chain.open = False
        key = standing["winner"]
        if key is None and leader is None:
            reasons = sorted({o["error"] or o["status"] for o in chain.told.values()})
            self._end(chain, f"no candidate of cycle {chain.cycle} can go on ({'; '.join(reasons)})")
            return
        if key is not None:  # a conditioned Oracle goes on from its leader's unit even if all its own failed
            chain.best = next((o for o in chain.told.values() if o["key"] == key), winner)
        chain.closed.append(key)
        chain.cycle += 1
        if leader is None:
            chain.parent = key
        self._sweep(chain.seed)
        self.listen(chain)
        self._wake_followers(chain)

    def _end(self, chain: Chain, reason: str) -> None:
        chain.ended, chain.open = reason, False
        self.listen(chain)
        self._wake_followers(chain)
        self._sweep(chain.seed)

    def _wake_followers(self, chain: Chain) -> None:
        for follower in self._followers.get((chain.arm, chain.seed), []):
            if not follower.open:
                self._advance(follower)

    # --- weights that may go ---

    def _floor(self, seed: int) -> int:
        """The lowest cycle that a chain of this seed may still ask for."""
        cycles = (chain.cycle for (_, s), chain in self.chains.items() if s == seed and chain.active)
        return min(cycles, default=self.study.cycles)

    def _held(self, seed: int) -> set[str | None]:
        """Keys whose weights are still needed: parents of open cycles, and the final state of every chain."""
        held: set[str | None] = set()
        for (_, s), chain in self.chains.items():
            if s != seed:
                continue
            if chain.closed and (not chain.active or chain.cycle == self.study.cycles):
                held.add(chain.closed[-1])
            if not chain.active:
                continue
            held.add(chain.parent)
            leader = self._leader(chain)
            if leader is not None and len(leader.closed) >= chain.cycle > 0:
                held.add(leader.closed[chain.cycle - 1])
        return held

    def _forget_swept(self, seed: int) -> None:
        """Leave weights alone that went when their cycles were decided: a resumed run looks only at the last ones."""
        held, floor = self._held(seed), self._floor(seed)
        for cycle, keys in self._used[seed].items():
            if cycle < floor - 2:
                keys &= {*held, *self._waiters}

    def _sweep(self, seed: int) -> None:
        if self._replaying or self.study.cluster.keep == "all":
            return
        floor, held = self._floor(seed), self._held(seed)
        for cycle, keys in self._used[seed].items():
            if cycle < floor:
                gone = {key for key in keys if key not in held and key not in self._waiters}
                for key in gone:
                    self.journal.sweep(key)
                keys -= gone
