"""What the study says of every chain, without outcomes: arms, tests in force, candidates of a cycle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from silo_tune.planner.candidates import (
    CandidateSource,
    OneRound,
    Proposal,
    WinnerRetrained,
    grid_source,
    peak_of,
    value_of,
)
from silo_tune.planner.chain import Chain
from silo_tune.planner.guided import GuidedSource
from silo_tune.planner.points import Params, Plan, plan_of, rates_of, sampler_seed
from silo_tune.planner.samplers import require_sampler
from silo_tune.planner.unit import Unit, UnitMaker
from silo_tune.schedules.peaks import AdaptiveSchedule, AtShare, Schedule, Silo
from silo_tune.study.arms import Arm, OracleArm, ScheduleArm, TuneArm
from silo_tune.study.model import Study
from silo_tune.study.pipelines import Ice


class Layout:
    """Candidates and units of every chain.

    Args:
        study: the study.
        tests_from: from `Run.accept`.
        checkpoint: content hash of the pretrained weights, if the study has them.

    Raises:
        BadInput: a schedule gives an impossible rate, or a sampler's package is missing.
    """

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
        self._pruned = {name: study.pruned_by(arm) for name, arm in study.arms.items()}
        self._makers = {name: UnitMaker(study, settings) for name, settings in self.settings.items()}
        # Which arms can be tested compares all arms: asked of the study once, not at every cycle.
        self._tests = {name: study.tests_of(name) for name, arm in study.arms.items() if isinstance(arm, OracleArm)}
        self.plans: dict[str, Plan] = {name: plan_of(study, name) for name in study.arms if study.searched(name)}
        self.lost: set[str] = set()  # arms whose pilot found nothing
        self._schedules: dict[tuple[str, int | None], Schedule | AdaptiveSchedule] = {}
        self._pipelines: dict[tuple[str, int | None], Ice] = {}  # of trials that search its options
        # Peaks of a fixed schedule or grid depend on (arm, trial, cycle) alone: made once, for all seeds.
        self._sources: dict[tuple[str, int | None, int], CandidateSource] = {}
        self._looks: dict[int, Mapping[str, Any]] = {}  # seed → the look that came before it
        for name, arm in study.arms.items():
            if isinstance(arm, ScheduleArm) and not arm.open:
                self.settle(name, None, study.schedule_of(arm))
            require_samplers(name, arm)

    def settle(
        self, arm: str, trial: int | None, schedule: Schedule | AdaptiveSchedule, pipeline: Ice | None = None
    ) -> None:
        """Fix the schedule of an arm, or of a search's trial. One that fails at its last cycle should fail now."""
        used = pipeline or self.settings[arm].pipeline
        if isinstance(used, Ice) and used.follows_weights and isinstance(schedule, Silo):
            schedule = AtShare(schedule)
        self._schedules[arm, trial] = schedule
        if pipeline is not None:
            self._pipelines[arm, trial] = pipeline
        first = 0 if self.settings[arm].own_dense else 1
        for cycle in range(first, self.study.cycles):
            peak = self._peak(arm, trial, cycle)
            self._sources[arm, trial, cycle] = OneRound(
                tuple(Proposal(peak, repeat=repeat) for repeat in range(self._trainings(arm, trial)))
            )

    def _trainings(self, arm: str, trial: int | None) -> int:
        """Trainings of a schedule's cycle. A trial of a pilot trains once: what it finds is a rate."""
        found = self.study.arms[arm]
        return found.best_of or 1 if isinstance(found, ScheduleArm) and trial is None else 1

    def take(self, arm: str, params: Params) -> None:
        """Fix what a pilot found: its arm's schedule, and those of the arms that take its ends."""
        plan = self.plans[arm]
        self.settle(arm, None, plan.schedule(params), plan.pipeline(params))
        for name, follower in self.study.followers(arm):
            self.settle(name, None, self.study.schedule_of(follower, follower.constants_at(rates_of(params))))

    def lose(self, arm: str) -> None:
        """A pilot found nothing: for its arm, and for those that take its ends."""
        self.lost.update((arm, *(name for name, _ in self.study.followers(arm))))

    def ready(self, arm: str) -> bool:
        """Do all arms whose rates this arm tries have their schedules? One with a pilot waits for it."""
        return all((needed, None) in self._schedules for needed in self._tests.get(arm, (arm,)))

    def lost_for(self, arm: str) -> str | None:
        """An arm that this one needs the constants of and whose pilot found none."""
        return next((name for name in self._tests.get(arm, (arm,)) if name in self.lost), None)

    def after(self, look: Mapping[str, Any]) -> tuple[int, ...]:
        """Leave to the next seeds what a look leaves to be trained; returns these seeds."""
        seeds = () if look["over"] else self.study.seeds_after(look["look"])
        self._looks.update(dict.fromkeys(seeds, look))
        return seeds

    def prefix_arm(self, arm: str) -> str | None:
        found = self.study.arms[arm]
        return found.prefix_arm if isinstance(found, OracleArm) else None

    def tests(self, arm: str, cycle: int) -> list[str]:
        """Arms whose values this Oracle tries at this cycle; one added later counts from the cycle where it could."""
        since = self.tests_from.get(arm, {})
        return [test for test in self._tests.get(arm, ()) if since.get(test, 0) <= cycle]

    def decides(self, arm: str, cycle: int) -> bool:
        """Does the arm choose this cycle's max_lr? The dense one is shared unless it has its own."""
        return cycle > 0 or self.settings[arm].own_dense

    def source(self, chain: Chain) -> CandidateSource:
        """Where the candidates of a chain's open cycle come from."""
        arm, cycle = self.study.arms[chain.arm], chain.cycle
        if not self.decides(chain.arm, cycle):
            return self._dense()
        source = self._first_trainings(chain, arm)
        repeat = arm.retrained_as if isinstance(arm, OracleArm) else None
        return source if repeat is None else WinnerRetrained(source, repeat)

    def _first_trainings(self, chain: Chain, arm: Arm) -> CandidateSource:
        cycle = chain.cycle
        if isinstance(arm, OracleArm) and arm.guided is not None:
            first = cycle == 0 or not self.decides(chain.arm, cycle - 1)
            return GuidedSource(
                arm.guided,
                start=None if first else next((rate for rate in reversed(chain.rates) if rate is not None), None),
                tested=self._tested(chain.arm, cycle),
                seed=sampler_seed(chain.arm, chain.seed, cycle),
            )
        where = (chain.arm, chain.trial, cycle)
        if where not in self._sources and isinstance(arm, OracleArm):
            assert arm.grid is not None
            self._sources[where] = grid_source(arm.grid.values(), self._tested(chain.arm, cycle))
        source = self._sources[where]
        look = self._looks.get(chain.seed)
        if look is None or not isinstance(source, OneRound) or chain.trial is not None:
            return source
        if cycle in look["skipped"].get(chain.arm, ()):
            return OneRound(())
        gone = look["dropped"].get(chain.arm, {}).get(str(cycle), ())
        return OneRound(tuple(one for one in source.proposals if (one.peak or {}).get("value") not in gone))

    def most(self, arm: str, cycle: int) -> int:
        """Upper bound of the candidates of a cycle."""
        found = self.study.arms[arm]
        if not self.decides(arm, cycle):
            return 1
        if not isinstance(found, OracleArm):
            return self._trainings(arm, None)
        if self.ready(arm):
            return self.source(Chain(arm, 0, cycle=cycle)).most
        asked = found.grid.points if found.grid else found.guided.trials + found.guided.repeat_top  # type: ignore[union-attr]
        return asked + len(self.tests(arm, cycle)) + found.retrain_winner

    def rounds(self, arm: str) -> int:
        """Rounds of a decided cycle that follow one another, at most."""
        found = self.study.arms[arm]
        if not isinstance(found, OracleArm):
            return 1
        return found.retrain_winner + (GuidedSource(found.guided).rounds if found.guided is not None else 1)

    def epochs(self, arm: str, cycle: int) -> int:
        """Epochs of a unit of a cycle."""
        return self._makers[arm].epochs(cycle, self.checkpoint if cycle == 0 else None)

    def _dense(self) -> OneRound:
        dense = self.study.dense
        return OneRound((Proposal(None if self.checkpoint is not None else value_of(dense.max_lr or 0.0)),))

    def _tested(self, arm: str, cycle: int) -> dict[str, float]:
        return {test: self._peak(test, None, cycle)["value"] for test in self.tests(arm, cycle)}

    def _peak(self, arm: str, trial: int | None, cycle: int) -> dict[str, Any]:
        return peak_of(self._schedules[arm, trial], cycle, self._pruned[arm], arm)

    def unit(self, chain: Chain, proposal: Proposal) -> Unit:
        """The unit of a candidate of a chain's open cycle."""
        return self._makers[chain.arm].make(
            parent=chain.parent,
            cycle=chain.cycle,
            seed=chain.seed,
            peak=proposal.peak,
            repeat=proposal.repeat,
            checkpoint=self.checkpoint if chain.cycle == 0 else None,
            pipeline=self._pipelines.get((chain.arm, chain.trial)),
        )


def require_samplers(name: str, arm: object) -> None:
    if isinstance(arm, OracleArm) and arm.guided is not None:
        require_sampler(arm.guided.sampler, f"arms.{name}.guided.sampler")
    if isinstance(arm, TuneArm):
        require_sampler(arm.sampler, f"arms.{name}.sampler")
