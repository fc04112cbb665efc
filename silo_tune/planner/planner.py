"""Asks for units and decides cycles.

`ask` gives units that are ready, `tell` takes their outcomes in any order; the decisions depend only on the outcomes,
never on their order. A cycle's decision is written before any child is asked.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from silo_tune.errors import BadInput
from silo_tune.planner.candidates import OneRound, Proposal, WinnerRetrained
from silo_tune.planner.chain import Candidate, Chain
from silo_tune.planner.journal import Journal, continuing_key, why_ended
from silo_tune.planner.layout import Layout
from silo_tune.planner.outcome import TOLD, measured
from silo_tune.planner.retention import Weights, floor_of
from silo_tune.planner.search import Search, doubtful_rounds
from silo_tune.planner.unit import Unit
from silo_tune.planner.winner import best_training, guess_told, value_told, winner_of
from silo_tune.study.arms import OracleArm, ScheduleArm, TuneArm
from silo_tune.study.model import Study
from silo_tune.study.pipelines import Ice


@dataclass
class Counts:
    """Units of this session and of the run; `reused` were done before, `taken` were done by another run."""

    trained: int = 0
    failed: int = 0
    reused: int = 0
    taken: int = 0
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
        retry_failed: ask failed units again where a chain ended without a winner.
        take: gives the result of a unit that another run has committed, and brings it into this one.
        look: gives what the look of a number decides, once all chains of its seeds have ended; see
            `silo_analysis.estimates.sequential.look_at`. A study of seeds until decided needs it.

    Attributes:
        chains: (arm, seed) → chain, for every arm but those that only search; with looks, of the seeds that have begun.
        looked: the looks that were made.
        searches: arm → its search over whole chains.

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
        retry_failed: bool = False,
        take: Callable[[str], Mapping[str, Any] | None] = lambda key: None,
        look: Callable[[int], Mapping[str, Any]] | None = None,
    ) -> None:
        if study.looks and look is None:
            raise ValueError("a study with replicates.looks needs what looks")
        self.study, self.journal, self.listen, self._look_at = study, journal, listen, look
        self._retry_failed, self._take = retry_failed, take
        self.layout = Layout(study, tests_from, checkpoint)
        self.counts = Counts()
        self.chains: dict[tuple[str, int], Chain] = {}
        self.looked: list[Mapping[str, Any]] = []
        self.searches = {arm: Search(arm, plan, study.search_seeds(arm)) for arm, plan in self.layout.plans.items()}
        self._followers: dict[tuple[str, int], list[Chain]] = {}
        self._ready: list[tuple[int, int, Unit]] = []
        self._waiters: dict[str, list[tuple[Chain, Candidate]]] = {}
        self._flying: set[str] = set()
        self._known: set[str] = set()
        self._weights = Weights(study.cycles, journal.sweep)
        self._order = 0
        self._touched: set[str] = set()
        self._replaying = True
        # seed → the lowest cycle whose end is decided only now: no earlier session swept what it left behind.
        self._unswept: dict[int, int] = {}
        first = self._chains_for(study.seeds_after(0))
        self._resume_searches()
        for chain in first:
            self._advance(chain)
        self._look()
        self._replaying = False
        for seed in self._weights.used:
            floor = min(self._floor(seed), self._unswept.get(seed, self.study.cycles))
            self._weights.forget(seed, self._held(seed), floor, self._waiters)
            self._sweep(seed)

    # --- ask and tell ---

    def ask(self) -> Unit | None:
        """A unit that is ready to be trained, or None when all that is left waits for units under way."""
        if not self._ready:
            return None
        _, _, unit = heapq.heappop(self._ready)
        self._flying.add(unit.key)
        return unit

    def asker(self, key: str) -> Chain | None:
        """The first chain that waits for a unit; None where none does: a lost row is trained again."""
        waiters = self.askers(key)
        return waiters[0][0] if waiters else None

    def askers(self, key: str) -> Sequence[tuple[Chain, Candidate]]:
        """The chains that wait for a unit, and as which candidate."""
        return self._waiters.get(key, ())

    def take_back(self, unit: Unit) -> None:
        """A unit that was asked and whose worker is gone: it is ready again."""
        if unit.key in self._flying:
            self._flying.discard(unit.key)
            self._queue(unit)

    def _queue(self, unit: Unit) -> None:
        self._order += 1
        heapq.heappush(self._ready, (unit.cycle, self._order, unit))

    @property
    def waiting(self) -> int:
        """Units that are ready and not asked yet."""
        return len(self._ready)

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
            outcome = {"measured": measured(outcome), **outcome}  # what comes from afar brings it: it is not whole
            self.counts.trained += 1
            self.counts.train_seconds += outcome.get("train_seconds") or 0.0
            self._known.add(key)
        waiters = self._waiters.pop(key, [])
        for chain, candidate in waiters:
            self._hear(chain, candidate, outcome)
        for chain, _ in waiters:
            self._advance(chain)
        self._close_searches()
        self._look()
        if not waiters and (seed := self._weights.seed_of(key)) is not None:
            self._sweep(seed)  # a lost row was trained again: its weights are not needed

    # --- seeds until decided ---

    def _chains_for(self, seeds: Sequence[int]) -> list[Chain]:
        """New chains of these seeds, one for each arm."""
        arms = [name for name, arm in self.study.arms.items() if not isinstance(arm, TuneArm)]
        made = {(arm, seed): Chain(arm, seed) for seed in seeds for arm in arms}
        for chain in made.values():
            if prefix := self.layout.prefix_arm(chain.arm):
                self._followers.setdefault((prefix, chain.seed), []).append(chain)
        self.chains = {**self.chains, **made}  # another thread may go through the old ones
        return list(made.values())

    def _look(self) -> None:
        """Look at the verdicts where every chain has ended, and begin the seeds that come next."""
        while self._may_look():
            assert self._look_at is not None
            self.looked.append(self._look_at(len(self.looked) + 1))
            for chain in self._chains_for(self.layout.after(self.looked[-1])):
                self._advance(chain)

    def _may_look(self) -> bool:
        over = len(self.looked) == len(self.study.looks) or (self.looked and self.looked[-1]["over"])
        return not over and not any(chain.active for chain in self.chains.values())

    def every_chain(self) -> Iterator[Chain]:
        """Chains of arms, and those of the open rounds of searches."""
        for search in self.searches.values():
            yield from search.past
            yield from search.trials.values()
        yield from self.chains.values()

    # --- one chain ---

    def _hear(self, chain: Chain, candidate: Candidate, outcome: Mapping[str, Any]) -> None:
        told = {name: outcome.get(name) for name in TOLD}
        if told["max_lr"] is None:  # a failed unit never resolved a rule, but a fixed peak is known
            told["max_lr"] = (candidate.unit.peak or {}).get("value")
        chain.told[candidate.index] = {
            "candidate": candidate.index, "repeat": candidate.unit.repeat, "key": candidate.unit.key, **told,
        }  # fmt: skip
        if told["classes"] or told["guess_score"] is not None:
            chain.guessing = guess_told(told)
        self.listen(chain)

    def _advance(self, chain: Chain) -> None:
        """Close and open rounds and cycles of a chain until something must be waited for."""
        while chain.active:
            if not chain.open and not self._open(chain):
                break
            if len(chain.told) < len(chain.candidates):
                return
            self._close_round(chain)
        if chain.trial is not None:
            self._touched.add(chain.arm)

    def _open(self, chain: Chain) -> bool:
        """Open the next cycle; False when it must wait for another chain or there is none to come."""
        if chain.cycle == self.study.cycles:
            chain.done = True
            chain.candidates, chain.told = [], {}
            self._sweep(chain.seed)
            self.listen(chain)
            return False
        if not self._may_open(chain):
            return False
        chain.open, chain.round, chain.candidates, chain.told, chain.again = True, 1, [], {}, False
        chain.decided = self._decision(chain)
        self._ask_round(chain, self._proposals(chain))
        self.listen(chain)
        return True

    def _may_open(self, chain: Chain) -> bool:
        if chain.trial is not None:
            return self._passes_rung(chain)
        if self.layout.decides(chain.arm, chain.cycle) and not self.layout.ready(chain.arm):
            if lost := self.layout.lost_for(chain.arm):
                self._end(chain, f"the pilot of {lost} found no constants: its trials failed")
            return False  # a pilot has not found its constants yet
        leader = self._leader(chain)
        if leader is not None and chain.cycle > 0:
            if len(leader.closed) < chain.cycle:
                if leader.ended is not None:
                    self._end(chain, f"{leader.arm} ended: {leader.ended}")
                return False
            chain.parent = leader.closed[chain.cycle - 1]
        return True

    def _passes_rung(self, chain: Chain) -> bool:
        verdict = self.searches[chain.arm].at_rung(chain)
        if verdict == "stop":
            chain.stopped = chain.cycle - 1
            self._end(chain, f"stopped after cycle {chain.stopped}: others were better by then")
        return verdict == "go"

    def _leader(self, chain: Chain) -> Chain | None:
        prefix = self.layout.prefix_arm(chain.arm)
        return None if prefix is None else self.chains[prefix, chain.seed]

    # --- one round ---

    def _decision(self, chain: Chain) -> dict[str, Any] | None:
        return self.journal.decision(chain.arm, chain.seed, chain.cycle, chain.round, chain.trial)

    def _proposals(self, chain: Chain) -> list[Proposal]:
        """The first round of a cycle: as decided where a sampler chose it, else as the study gives it today."""
        source = self.layout.source(chain)
        if chain.decided is not None and not isinstance(source, OneRound):
            return asked_before(chain.decided)
        return source.ask([])

    def _ask_round(self, chain: Chain, proposals: list[Proposal]) -> None:
        """Add a round's candidates and look up or queue their units."""
        first = len(chain.candidates)
        for proposal in proposals:
            unit = self.layout.unit(chain, proposal)
            chain.candidates.append(Candidate(len(chain.candidates), proposal, unit))
        self._ask(chain, chain.candidates[first:])

    def _ask(self, chain: Chain, candidates: list[Candidate]) -> None:
        chain.asking = candidates
        self._check_decided(chain)
        decided = {outcome["key"]: outcome for outcome in chain.decided["told"]} if chain.decided else {}
        for candidate in candidates:
            self._request(chain, candidate, decided.get(candidate.unit.key))

    def _request(self, chain: Chain, candidate: Candidate, decided: Mapping[str, Any] | None) -> None:
        """Hear a candidate's outcome if it is known, else wait for it. A closed round's outcomes stand as decided."""
        key = candidate.unit.key
        self._weights.use(chain.seed, chain.cycle, key, chain.trial is not None and self._searching(chain.seed))
        if decided is not None and decided["status"] == "failed":
            self._hear(chain, candidate, decided)
            return
        result: Mapping[str, Any] | None = None if key in self._waiters else self.journal.result(key)
        if key in self._waiters or (result is not None and key in self._known):
            self.counts.shared += 1
        elif result is not None:
            self.counts.reused += 1
            self._known.add(key)
        elif (result := self._take(key)) is not None:
            self.counts.taken += 1
            self._known.add(key)
        else:
            self._queue(candidate.unit)
            self._waiters[key] = []
        outcome = decided or (None if result is None else {**result, "measured": measured(result)})
        if outcome is not None:
            self._hear(chain, candidate, outcome)
        else:
            self._waiters[key].append((chain, candidate))

    def _close_round(self, chain: Chain) -> None:
        """Write the round's decision; ask the next round or close the cycle."""
        told = [chain.told[candidate.index] for candidate in chain.candidates]
        more = self._more(chain) if chain.decided is None else None
        closes = not more if chain.decided is None else chain.decided["closes"]
        winner, continues = self._decide(chain, told) if closes else (None, {})
        body = {
            "arm": chain.arm,
            "seed": chain.seed,
            **({} if chain.trial is None else {"trial": chain.trial, "params": dict(chain.params or {})}),
            "cycle": chain.cycle,
            "round": chain.round,
            "parent": chain.parent,
            "asked": [_as_asked(candidate) for candidate in chain.asking],
            "told": [chain.told[candidate.index] for candidate in chain.asking],
            "closes": closes,
            "winner": winner["key"] if winner else None,
            **({} if chain.asking else {"skipped": True}),
            **continues,
        }
        if self._replaying and chain.decided is None:
            self._unswept[chain.seed] = min(chain.cycle, self._unswept.get(chain.seed, chain.cycle))
        standing = chain.decided or self.journal.decide(body)
        if closes:
            self._close_cycle(chain, standing)
            return
        self._next_round(chain)
        if chain.decided is not None:  # what a sampler asked before stands
            more = asked_before(chain.decided)
        self._ask_round(chain, self._more(chain) if more is None else more)

    def _decide(
        self, chain: Chain, told: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, Any] | None, dict[str, str | None]]:
        """The winner of a cycle and, where its rate was trained again, what continues: that training, or nothing.

        A second training that diverged or failed ends the chain, as a schedule's only training would: to fall back to
        the winner would be to choose by luck again.
        """
        repeat = self._retrained_as(chain)
        if repeat is None:
            # A schedule's trainings differ in luck alone, and the best one continues; an Oracle's repeats judge rates.
            oracle = isinstance(self.study.arms[chain.arm], OracleArm)
            return (winner_of if oracle else best_training)(told), {}
        again = [outcome for outcome in told if outcome["repeat"] == repeat]
        key = next((outcome["key"] for outcome in again if outcome["status"] == "ok"), None)
        return winner_of(outcome for outcome in told if outcome["repeat"] != repeat), {"continues": key}

    def _retrained_as(self, chain: Chain) -> int | None:
        arm = self.study.arms[chain.arm]
        decides = self.layout.decides(chain.arm, chain.cycle)
        return arm.retrained_as if isinstance(arm, OracleArm) and decides else None

    def _next_round(self, chain: Chain) -> None:
        chain.round += 1
        chain.decided = self._decision(chain)

    def _more(self, chain: Chain) -> list[Proposal]:
        """The round after those that are complete; empty when the cycle is."""
        source = self.layout.source(chain)
        if chain.again:  # what failed was asked again, and nothing else follows
            return source.second(chain.heard) if isinstance(source, WinnerRetrained) else []
        return source.ask(chain.heard)

    def _check_decided(self, chain: Chain) -> None:
        """A standing decision must be of the candidates that this study asks for, and test the arms that it tests."""
        if chain.decided is None:
            return
        asked = [(candidate.unit.key, candidate.proposal.asked) for candidate in chain.asking]
        found = chain.decided["asked"]
        tested = {arm for entry in found for arm in entry["tests"]}
        tests = set(self.layout.tests(chain.arm, chain.cycle)) if chain.cycle else set()
        whole = tested == tests or chain.round > 1 or not found  # a later round asks some of the first again
        if asked != [(entry["key"], entry["asked"]) for entry in found] or not (whole and tested <= tests):
            raise BadInput(
                f"arms.{chain.arm}: seed {chain.seed} closed cycle {chain.cycle} with other candidates than this study "
                f"asks for; put the study back as it was, or choose another --out. If it is as it was, the decision of "
                f"{chain.label}, cycle {chain.cycle}, round {chain.round} was changed: move that file away"
            )

    # --- the end of a cycle, and of a chain ---

    def _close_cycle(self, chain: Chain, standing: Mapping[str, Any]) -> None:
        chain.open = False
        won, key = standing["winner"], continuing_key(standing)
        if not {won, key} - {None} <= {candidate.unit.key for candidate in chain.candidates}:
            raise BadInput(
                f"arms.{chain.arm}: seed {chain.seed} closed cycle {chain.cycle} with a winner that this study never "
                f"asked for; choose another --out"
            )
        leader = self._leader(chain) if chain.cycle > 0 else None
        if key is None and self._asks_again(chain, won):
            return
        if key is None and leader is None:
            self._end(chain, why_ended(standing, chain.told.values()))
            return
        best = next((o for o in chain.told.values() if o["key"] == won), None)
        if best is not None:  # a conditioned Oracle continues from its leader's unit even if all its own failed
            chain.best = best
        chain.closed.append(key)
        chain.rates.append(best["max_lr"] if best else None)
        chain.gains.append(value_told(best) if best else None)
        chain.cycle += 1
        if leader is None:
            chain.parent = key
        self._sweep(chain.seed)
        self.listen(chain)
        self._wake_followers(chain)

    def _asks_again(self, chain: Chain, won: str | None) -> bool:
        """Open one more round for the failed candidates of a cycle that ended its chain: one that stands, or a new one.

        Where a rate won, its second training alone is asked for again.
        """
        failed = [candidate for candidate in chain.candidates if chain.told[candidate.index]["status"] == "failed"]
        if won is not None:
            failed = [candidate for candidate in failed if candidate.unit.repeat == self._retrained_as(chain)]
        before = chain.decided
        self._next_round(chain)
        wanted = self._retry_failed and chain.trial is None and before is not None  # once a session
        if not failed or not (chain.decided is not None or wanted):
            return False
        chain.open = chain.again = True
        for candidate in failed:
            del chain.told[candidate.index]
        self._ask(chain, failed)
        return True

    def _end(self, chain: Chain, reason: str) -> None:
        chain.ended, chain.open = reason, False
        self.listen(chain)
        self._wake_followers(chain)
        self._sweep(chain.seed)

    def _wake_followers(self, chain: Chain) -> None:
        """Advance those who may have waited for this chain."""
        if chain.trial is not None:
            if chain.cycle - 1 in self.layout.plans[chain.arm].rungs or not chain.active:
                for sibling in self.searches[chain.arm].siblings(chain):
                    if sibling is not chain and not sibling.open:
                        self._advance(sibling)
            return
        for follower in self._followers.get((chain.arm, chain.seed), []):
            if not follower.open:
                self._advance(follower)

    # --- searches over whole chains ---

    def _resume_searches(self) -> None:
        """Take up closed rounds; then go through their chains again, as through every other: a file may be damaged."""
        older = set[str]()  # rounds of earlier versions, whose rules may have been others
        for search in self.searches.values():
            while (body := self.journal.search_round(search.arm, search.rounds + 1)) is not None:
                search.recall(body)
                if "size" not in body:
                    older.add(search.arm)
            search.finished = search.plan.finished(search.closed)
        for search in self.searches.values():
            for point in search.closed:
                self._settle_trial(search, point["trial"], point["params"])
            search.past = [Chain(search.arm, s, p["trial"], p["params"]) for p in search.closed for s in search.seeds]
            chains = search.past
            for chain in chains:
                self._advance(chain)
            search.past = [chain for chain in chains if chain.active]
            if not search.past and search.arm not in older:
                self._check_rounds(search, chains)
            if search.finished:
                self._take_result(search)
            else:
                self._open_search_round(search, search.plan.ask(search.closed))
        self._close_searches()

    def _check_rounds(self, search: Search, chains: Sequence[Chain]) -> None:
        """A round that was changed would find other constants, and train for nothing."""
        again = Search(search.arm, search.plan, search.seeds)
        for number, trials in doubtful_rounds(again, search.closed, chains):
            raise BadInput(
                f"arms.{search.arm}: round {number} of its search is not what the chains of its points give (trial "
                f"{trials[0]}); put back chains/{search.arm}/search/round-{number:03d}.json as it was, or move it "
                f"away: it is derived again"
            )

    def _settle_trial(self, search: Search, trial: int | None, params: Mapping[str, float]) -> None:
        try:
            schedule, pipeline = search.plan.schedule(params), search.plan.pipeline(params)
        except (KeyError, TypeError, ValueError) as error:  # a file says so: what a sampler gives is in range
            raise BadInput(
                f"arms.{search.arm}: trial {trial} of its search began with constants that no schedule has ({error}); "
                f"put back chains/{search.arm}/seed-{search.seeds[0]}/trial-{trial}/cycle-000-round-1.json as it was, "
                f"or move it away"
            ) from None
        self.layout.settle(search.arm, trial, schedule, pipeline)

    def _open_search_round(self, search: Search, points: Sequence[Mapping[str, float]]) -> None:
        chains = search.open([self._point_before(search, i) or point for i, point in enumerate(points)])
        for chain in chains:
            self._settle_trial(search, chain.trial, chain.params or {})
        for chain in chains:
            self._advance(chain)

    def _point_before(self, search: Search, i: int) -> dict[str, float] | None:
        """What an open round asked before it was interrupted, where a chain of it has closed a cycle."""
        for seed in search.seeds:
            decision = self.journal.decision(search.arm, seed, 0, 1, len(search.closed) + i)
            if decision is not None:
                return dict(decision["params"])
        return None

    def _close_searches(self) -> None:
        """Close every open round whose chains have all ended, and open the next ones, until all must wait."""
        while self._touched:
            search = self.searches[self._touched.pop()]
            if not search.finished and search.trials and search.over:
                self._close_search_round(search)

    def _close_search_round(self, search: Search) -> None:
        body = search.close()
        points = search.plan.ask([*search.closed, *body["points"]])
        if not points:  # weights go before the decision: a run that is killed in between then sweeps them again
            search.finished = True
            self._release_weights(search.seeds)
        search.recall(self.journal.decide_search(body))
        search.trials = {}
        if points:
            self._open_search_round(search, points)
        else:
            self._take_result(search)

    def _searching(self, seed: int) -> bool:
        """Is a search open that has chains of this seed?"""
        return any(not search.finished and seed in search.seeds for search in self.searches.values())

    def _release_weights(self, seeds: Iterable[int]) -> None:
        for seed in seeds:
            if self._replaying:
                self._unswept[seed] = 0
            if not self._searching(seed):
                self._weights.shared.pop(seed, None)
            self._sweep(seed)

    def _take_result(self, search: Search) -> None:
        """Give an arm the constants that its pilot found, and resume the chains that wait for them."""
        best = search.best()
        if not isinstance(self.study.arms[search.arm], ScheduleArm):
            return
        if best is None:
            self.layout.lose(search.arm)
        else:
            self.layout.take(search.arm, best["params"])
        for chain in self.chains.values():
            if chain.active and not chain.open:
                self._advance(chain)

    # --- weights that may go ---

    def _chains_of(self, seed: int) -> list[Chain]:
        return [chain for chain in self.every_chain() if chain.seed == seed]

    def _floor(self, seed: int) -> int:
        return floor_of(self._chains_of(seed), self.study.cycles)

    def _held(self, seed: int) -> set[str | None]:
        """Keys whose weights are still needed: parents of open cycles, the final state of every arm's chain, and the
        dense network that ICE-Pruning or a task distils from."""
        held: set[str | None] = set()
        taught = self.study.task is not None and self.study.task.teacher is not None
        for chain in self._chains_of(seed):
            if chain.trial is None and chain.closed:
                held.add(chain.closed[-1])
            if not chain.active:
                continue
            held.add(chain.parent)
            if chain.closed and (taught or isinstance(self.layout.settings[chain.arm].pipeline, Ice)):
                held.add(chain.closed[0])
            leader = self._leader(chain)
            if leader is not None and len(leader.closed) >= chain.cycle > 0:
                held.add(leader.closed[chain.cycle - 1])
        return held

    def _sweep(self, seed: int) -> None:
        keep, pilot = self.study.cluster.keep, self.study.pilot
        tried = pilot is not None and seed in pilot.seeds
        if not self._replaying and (keep == "needed" or (keep == "chains" and tried)):
            self._weights.sweep(seed, self._held(seed), self._floor(seed), self._waiters)


def asked_before(decision: Mapping[str, Any]) -> list[Proposal]:
    """The candidates of a closed round, as they were asked."""
    return [
        Proposal(entry["peak"], entry["asked"], tuple(entry["tests"]), entry.get("repeat", 0))
        for entry in decision["asked"]
    ]


def _as_asked(candidate: Candidate) -> dict[str, Any]:
    proposal = candidate.proposal
    return {
        "candidate": candidate.index,
        "key": candidate.unit.key,
        "peak": candidate.unit.peak,
        "asked": proposal.asked,
        "tests": list(proposal.tests),
        **({"repeat": proposal.repeat} if proposal.repeat else {}),
    }
