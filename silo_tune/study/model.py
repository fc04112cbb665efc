"""The Study itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from silo_tune.errors import Problems, unknown
from silo_tune.formats import plural
from silo_tune.schedules.peaks import AdaptiveSchedule, Schedule, pruned_fractions
from silo_tune.study import registry
from silo_tune.study.arms import Arm, ArmBase, OracleArm, Pilot, ScheduleArm, TuneArm
from silo_tune.study.data import Data
from silo_tune.study.parts import (
    ARM_NAME,
    Cluster,
    Dense,
    Evaluate,
    Frozen,
    ModelRef,
    Replicates,
    Report,
    Retrain,
    StudyPreset,
    whole,
)
from silo_tune.study.pipelines import Boosting, Ice, Pipeline, WhileTraining
from silo_tune.study.prune import Prune
from silo_tune.study.scores import Score
from silo_tune.study.task import USUAL, TaskSpec


class Study(Frozen):
    """One study. `cycles` counts the dense one: cycles 0 … cycles − 1."""

    name: str = Field(
        description="name of the study: letters, digits and . _ + -; the run folder is runs/NAME",
        json_schema_extra=whole(ARM_NAME),
    )
    preset: StudyPreset | None = Field(
        default=None, description='a whole study to start from, "authors-2023"; what this study writes wins'
    )
    cycles: int = Field(ge=1, le=1000, description="number of cycles, the dense one (cycle 0) included")
    data: Data = Field(description="which examples, how they are split and augmented")
    model: ModelRef = Field(
        description="the network: a registered name with its arguments, timm:NAME, torchvision:NAME, hf:NAME, or a "
        "user's function"
    )
    task: TaskSpec | None = Field(
        default=None,
        description="what the network is trained for and judged by; classification by accuracy when left out",
    )
    dense: Dense = Field(description="cycle 0: trained once per seed and shared by all arms, or a pretrained network")
    prune: Prune = Field(default=Prune(), description="what a prune removes and what happens to the weights that stay")
    retrain: Retrain = Field(description="the training of one cycle")
    evaluate: Evaluate = Field(
        default=Evaluate(), description="other ways to measure accuracy, only for comparison with others"
    )
    replicates: Replicates = Field(description="the seeds that the study is repeated with")
    pilot: Pilot | None = Field(
        default=None, description="finds the constants that schedule arms leave out, on seeds of its own"
    )
    arms: dict[str, Arm] = Field(description="the ways to choose max_lr that are compared, by name")
    report: Report = Field(default=Report(), description="which schedule is judged, against which tolerance")
    cluster: Cluster = Field(default=Cluster(), description="resources; they change no number, but for cpus_per_unit")

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not ARM_NAME.fullmatch(value):
            raise ValueError(f"a name is letters, digits and . _ + - of ASCII, got {value!r}")
        return value

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}

    @model_validator(mode="after")
    def _cross(self) -> Study:
        problems = list(prune_problems(self))  # the other checks need a target for every cycle
        checks = (
            score_problems,
            arm_problems,
            dense_problems,
            pilot_problems,
            ends_problems,
            pipeline_problems,
            looks_problems,
            network_problems,
            pattern_problems,
        )
        problems = problems or [problem for check in checks for problem in check(self)]
        if problems:
            raise Problems(problems)
        return self

    @property
    def scored(self) -> Score:
        """What decides who wins, and what is compared."""
        return (self.task or USUAL).scored

    @property
    def remaining(self) -> list[float]:
        """Planned share of weights, or of filters at that granularity, remaining at each cycle."""
        return self.prune.remaining(self.cycles)

    @property
    def pruned(self) -> list[float]:
        """Planned cumulative pruned fraction at each cycle."""
        return pruned_fractions(self.remaining)

    def pruned_by(self, arm: ArmBase) -> list[float]:
        """Planned cumulative pruned fraction of an arm: ICE-Pruning has a ratio of its own."""
        pipeline = self.settings(arm).pipeline
        if isinstance(pipeline, Ice) and pipeline.ratio is not None:
            return pruned_fractions([(1.0 - pipeline.ratio) ** cycle for cycle in range(self.cycles)])
        return self.pruned

    def schedule_of(self, arm: ScheduleArm, found: Mapping[str, Any] | None = None) -> Schedule | AdaptiveSchedule:
        """The schedule of an arm, with what the study fills in and what a pilot found for it."""
        key = next((f"arms.{name}.schedule" for name, one in self.arms.items() if one is arm), "arms")
        return arm.schedule.make(self.dense.epochs, found, key)

    @property
    def functions(self) -> dict[str, str]:
        """The user's functions that are named, "module:function", by key."""
        named = {
            "data.function": self.data.function,
            "model.function": self.model.function,
            "task.function": self.task.function if self.task is not None else None,
            "prune.criterion.function": self.prune.criterion.function,
            "dense.profile.function": self.dense.profile.function,
            "retrain.profile.function": self.retrain.profile.function,
            "retrain.optimizer.function": getattr(self.retrain.optimizer, "function", None),
            **{f"arms.{n}.profile.function": a.profile.function for n, a in self.arms.items() if a.profile is not None},
            **{
                f"arms.{n}.schedule.function": a.schedule.function
                for n, a in self.arms.items()
                if isinstance(a, ScheduleArm)
            },
        }
        return {key: function for key, function in named.items() if function is not None}

    def searched(self, name: str) -> bool:
        """Does a search over whole chains (a pilot, or the arm's own) decide this arm's constants?"""
        arm = self.arms[name]
        return isinstance(arm, TuneArm) or (isinstance(arm, ScheduleArm) and arm.open and arm.ends is None)

    def followers(self, name: str) -> Iterator[tuple[str, ScheduleArm]]:
        """Arms that take the ends that this arm's pilot finds."""
        for other, arm in self.arms.items():
            if isinstance(arm, ScheduleArm) and arm.ends is not None and arm.ends.arm == name:
                yield other, arm

    def pilots(self, name: str) -> bool:
        """Does [pilot] find this arm's constants?"""
        return self.searched(name) and isinstance(self.arms[name], ScheduleArm)

    def search_seeds(self, name: str) -> tuple[int, ...]:
        """Seeds of the trial chains of a searched arm."""
        arm = self.arms[name]
        if isinstance(arm, TuneArm):
            return arm.seeds or self.replicates.seeds
        return self.pilot.seeds if self.pilot is not None and self.searched(name) else ()

    def settings(self, arm: ArmBase) -> ArmSettings:
        """What a cycle ≥ 1 of this arm is trained with, the arm's own choices before the study's."""
        after = arm.after_prune or self.prune.after_prune
        return ArmSettings(
            profile=(arm.profile or self.retrain.profile).resolved(),
            epochs=arm.epochs or self.retrain.epochs,
            after_prune=after,
            rewind_to=(arm.rewind_to or self.prune.rewind_to) if after == "rewind" else None,
            own_dense=arm.own_dense,
            pipeline=getattr(arm, "pipeline", None),
        )

    def tests_of(self, oracle: str) -> tuple[str, ...]:
        """The arms whose values an Oracle always tries: as asked, or every comparable fixed-peak arm."""
        arm = self.arms[oracle]
        assert isinstance(arm, OracleArm)
        return arm.tests if arm.tests is not None else tuple(self.comparable(arm))

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of seeds after which a study of seeds until decided looks at its verdicts; () without."""
        return self.replicates.looks or ()

    def seeds_after(self, looks: int) -> tuple[int, ...]:
        """The seeds that begin after so many looks; in a study without looks all of them after none."""
        ends = (0, *(self.looks or (len(self.replicates.seeds),)))
        return self.replicates.seeds[ends[looks] : ends[looks + 1]] if looks + 1 < len(ends) else ()

    @property
    def decides_until(self) -> str | None:
        """The Oracle whose verdicts end a study of seeds until decided: one with a grid that tests the judged schedule,
        conditioned on it if there is one, else a greedy one."""
        judged = self.report.schedule
        grids = [
            (arm.prefix_arm is None, name)
            for name, arm in self.arms.items()
            if isinstance(arm, OracleArm) and arm.grid is not None and arm.prefix_arm in (None, judged)
        ]
        testing = [pair for pair in grids if judged in self.tests_of(pair[1])]
        return min(testing, key=lambda pair: pair[0])[1] if testing else None

    def comparable(self, oracle: OracleArm) -> Iterator[str]:
        """Fixed-peak arms with the Oracle's own profile, after-prune choice and budget."""
        for name, arm in self.arms.items():
            if isinstance(arm, ScheduleArm) and not incomparable(self, oracle, arm):
                yield name


class ArmSettings(Frozen):
    """Resolved settings of one arm's retraining."""

    profile: dict[str, Any]
    epochs: int
    after_prune: Literal["keep", "rewind", "reinit"]
    rewind_to: str | None
    own_dense: bool
    pipeline: Pipeline | None = None


# --- what only a whole study shows to be wrong, as (key, message) pairs ---


def incomparable(study: Study, oracle: OracleArm, arm: ScheduleArm) -> str | None:
    """Why an Oracle cannot try an arm's values, or None when it can."""
    if arm.schedule.adaptive:
        return "its peak is adaptive"
    if arm.best_of is not None:
        return f"it trains best_of = {arm.best_of} times a cycle"
    if arm.pipeline is not None:
        return f"it is of the pipeline {arm.pipeline.name!r}"
    ours, theirs = study.settings(oracle).model_dump(), study.settings(arm).model_dump()
    differing = [key for key in ours if ours[key] != theirs[key]]
    return f"its {', '.join(differing)} differ from the Oracle's" if differing else None


def prune_problems(study: Study) -> Iterator[tuple[str, str]]:
    targets = study.prune.targets
    if targets is not None and len(targets) < study.cycles - 1:
        yield (
            "prune.targets",
            f"{len(targets)} targets for {study.cycles} cycles: give one for each of cycles 1 to {study.cycles - 1}",
        )


def score_problems(study: Study) -> Iterator[tuple[str, str]]:
    """What counts accuracies, and a tolerance of another score."""
    score = study.scored
    if score.share and study.report.tolerance >= 1:
        yield (
            "report.tolerance",
            f"{score.title} is a share of 1, and so is its tolerance; got {study.report.tolerance}",
        )
    rules = study.evaluate.resolved() or {}
    if score.name != "accuracy" and (rules.get("drop_last") or rules.get("best_on_test")):
        yield "evaluate", f"drop_last and best_on_test are ways to count accuracy, and the score is {score.title}"


def pattern_problems(study: Study) -> Iterator[tuple[str, str]]:
    """Of each four weights two stay: no more than half can go."""
    least = study.remaining[-1]
    if study.prune.granularity == "2:4" and least < 0.5:
        key = "cycles" if study.prune.targets is None else "prune.targets"
        yield key, f'granularity "2:4" keeps half of the weights or more, and {least:.1%} would remain in the end'


def network_problems(study: Study) -> Iterator[tuple[str, str]]:
    """A head that does not fit the task, and weights that are read and would be drawn anew."""
    kind = (study.task or USUAL).name
    if (study.model.name or "").startswith(registry.HF_PREFIX) and kind is not None:
        head, fitting = study.model.args["head"], [h for h, (_, tasks) in registry.HEADS.items() if kind in tasks]
        if head not in fitting:
            yield (
                "model.head",
                f"{head!r} does not fit the task {kind!r}; take {' or '.join(fitting)}, or a task of yours",
            )
    if study.model.pretrained:
        for name, arm in study.arms.items():
            if study.settings(arm).after_prune == "reinit":
                yield (
                    f"arms.{name}",
                    'reinit draws weights anew, and the model has pretrained ones: take after_prune = "rewind", which '
                    'goes back to them with rewind_to = "init"',
                )


def arm_problems(study: Study) -> Iterator[tuple[str, str]]:
    if not study.arms:
        yield "arms", "a study needs at least one arm"
    for name, arm in study.arms.items():
        if not ARM_NAME.fullmatch(name):
            yield f"arms.{name}", "an arm's name is letters, digits and . _ + - of ASCII"
        if isinstance(arm, OracleArm):
            yield from _oracle_problems(study, name, arm)
        elif isinstance(arm, TuneArm):
            yield from _tune_problems(study, name, arm)
        else:
            yield from _peak_problems(study, name, arm)
    shown = study.arms.get(study.report.schedule)
    if shown is None:
        if study.report.schedule != "silo":  # the default may be absent
            yield "report.schedule", unknown("arm", study.report.schedule, study.arms)
    elif not isinstance(shown, ScheduleArm):
        yield "report.schedule", f"{study.report.schedule!r} is not a schedule arm; name one"
    elif shown.best_of is not None:
        yield "report.schedule", f"{study.report.schedule!r} is a best_of arm; judge the arm that trains once"


def _oracle_problems(study: Study, name: str, arm: OracleArm) -> Iterator[tuple[str, str]]:
    schedule_arms = [key for key, other in study.arms.items() if isinstance(other, ScheduleArm)]
    if arm.prefix_arm is not None:
        if arm.prefix_arm not in schedule_arms:
            yield f"arms.{name}.prefix", unknown("schedule arm", arm.prefix_arm, schedule_arms)
        elif study.arms[arm.prefix_arm].own_dense != arm.own_dense:
            yield f"arms.{name}.prefix", f"own_dense differs from that of {arm.prefix_arm!r}"
    for test in arm.tests or ():
        other = study.arms.get(test)
        if not isinstance(other, ScheduleArm):
            yield f"arms.{name}.tests", unknown("schedule arm", test, schedule_arms)
        elif reason := incomparable(study, arm, other):
            yield f"arms.{name}.tests", f"{test!r} cannot be tested by this Oracle: {reason}"


def _tune_problems(study: Study, name: str, arm: TuneArm) -> Iterator[tuple[str, str]]:
    late = [rung for rung in arm.rungs if rung > study.cycles - 2]
    if late:
        yield (
            f"arms.{name}.rungs",
            f"{late} exceed its {study.cycles} cycles: the last after which a trial can stop is {study.cycles - 2}",
        )
    if study.cycles < 2:
        yield f"arms.{name}", "there is no cycle ≥ 1 to tune"
    elif not counted_cycles(study, arm.over):
        yield f"arms.{name}.over", f"no cycle ≥ 1 leaves a share of weights in {list(arm.over or ())}"
    if arm.own_dense:
        yield f"arms.{name}.own_dense", "trials share the dense cycle"


def counted_cycles(study: Study, over: tuple[float, float] | None) -> list[int]:
    """Cycles ≥ 1 whose planned weights remaining lie in `over`; all when it is None."""
    least, most = over or (0.0, 1.0)
    return [cycle for cycle in range(1, study.cycles) if least - 1e-9 <= study.remaining[cycle] <= most + 1e-9]


def pipeline_problems(study: Study) -> Iterator[tuple[str, str]]:
    """A pipeline has its own idea of a cycle; most remove whole filters."""
    if study.retrain.compile and study.cluster.workers_per_unit > 1:
        yield "cluster.workers_per_unit", "a compiled network trains in one process; leave retrain.compile out"
    for name, arm in study.arms.items():
        pipeline = study.settings(arm).pipeline
        if isinstance(pipeline, Ice | Boosting) and study.cluster.workers_per_unit > 1:
            yield f"arms.{name}.pipeline", "trains in one process; leave cluster.workers_per_unit out"
        if isinstance(pipeline, Ice | Boosting) and study.retrain.compile:
            yield f"arms.{name}.pipeline", "changes its network as it trains; leave retrain.compile out"
        if isinstance(pipeline, Boosting):
            yield from _boosting_problems(study, name)
        if pipeline is None or isinstance(pipeline, Boosting):
            continue
        if pipeline.name == "ice" and study.evaluate.resolved() is not None:
            yield f"arms.{name}.pipeline", "compares accuracies that are measured as usual; leave [evaluate] out"
        if study.prune.granularity != "filter":
            yield (
                f"arms.{name}.pipeline",
                'removes whole filters; set prune.granularity = "filter" and a criterion of it',
            )
        if isinstance(pipeline, WhileTraining):
            yield from _part_problems(study, name, pipeline)
        elif study.settings(arm).profile.get("name") != "constant":
            yield (
                f"arms.{name}.profile",
                'fine-tunes a number of epochs that nobody knows before: its profile is "constant"',
            )
        elif study.settings(arm).after_prune != "keep":
            yield f"arms.{name}.after_prune", "fine-tunes what is left: it keeps its weights"
        elif pipeline.follows_weights and (key := _beside_weights(arm)):
            yield (
                f"arms.{name}.{key}",
                "its rate follows the weights that are left at each fine-tune, not cycles: give a fixed schedule with "
                "q = 0 and without early",
            )


def _beside_weights(arm: ArmBase) -> str | None:
    """The key of a schedule that knows more than the weights left: a delay in cycles, or an adaptive rule."""
    if isinstance(arm, TuneArm):
        return None if arm.q == 0 else "q"
    if not isinstance(arm, ScheduleArm) or arm.schedule.name not in ("silo", "allr"):
        return None
    args = arm.schedule.args
    return None if arm.schedule.name == "silo" and args.get("q") == 0 and args.get("early") is None else "schedule"


def _part_problems(study: Study, name: str, pipeline: WhileTraining) -> Iterator[tuple[str, str]]:
    arm = study.arms[name]
    if not arm.own_dense:
        yield f"arms.{name}.own_dense", "cycle 0 is the first part of its training: set own_dense = true"
    if study.cycles > pipeline.over:
        yield f"arms.{name}.pipeline", f"its training has {pipeline.over} parts, and there are {study.cycles} cycles"
    if "function" in study.settings(arm).profile:
        yield f"arms.{name}.profile", "each cycle has a part of the profile, which takes a registered one"
    if study.settings(arm).after_prune != "keep":
        yield f"arms.{name}.after_prune", "is one training: it keeps its weights"
    if isinstance(arm, ScheduleArm) and (arm.open or arm.schedule.adaptive):
        yield f"arms.{name}.schedule", "is one training with one peak: give its constants, and no adaptive rule"


def _boosting_problems(study: Study, name: str) -> Iterator[tuple[str, str]]:
    arm, settings, task = study.arms[name], study.settings(study.arms[name]), study.task or USUAL
    if not arm.own_dense:
        yield f"arms.{name}.own_dense", "its network has inputs that others lack: set own_dense = true"
    if settings.after_prune == "keep" or settings.rewind_to not in (None, "init"):
        yield (
            f"arms.{name}.after_prune",
            'kept weights have seen every training row, and would tell of them: take "reinit", or "rewind" to "init"',
        )
    if task.name in (None, "language-model") or (study.data.name is not None and study.data.of_images):
        yield (
            f"arms.{name}.pipeline",
            "gives predictions as further numbers of a row: it takes classes, labels or numbers of a table, or of "
            "arrays (N, numbers)",
        )
    if study.evaluate.resolved() is not None:
        yield f"arms.{name}.pipeline", "predicts rows as they are; leave [evaluate] out"


def pilot_problems(study: Study) -> Iterator[tuple[str, str]]:
    """Open constants need a pilot, and a pilot something to find."""
    arms = [(name, arm) for name, arm in study.arms.items() if isinstance(arm, ScheduleArm)]
    open_ = {name: arm.schedule.open for name, arm in arms if study.searched(name)}
    pilot = study.pilot
    if pilot is None:
        for name, constants in open_.items():
            yield f"arms.{name}.schedule", f"needs {', '.join(constants)}; give them, or a [pilot] that finds them"
        return
    if not open_:
        yield "pilot", "nothing to find: leave out the constants of the schedules that it shall tune"
    if both := sorted(set(pilot.seeds) & set(study.replicates.seeds)):
        yield "pilot.seeds", f"{both} are seeds of [replicates] too; a pilot's are disjoint"
    pairs = pilot.levels * (pilot.levels + 1) // 2
    two = any(len(constants) == 2 for constants in open_.values())
    if pilot.proposals == "grid" and two and pairs != pilot.chains:
        more = (pilot.levels + 1) * (pilot.levels + 2) // 2
        yield (
            "pilot.chains",
            f"a grid of two constants has all pairs of its levels: {pairs} or {more}, not {pilot.chains}; "
            'proposals = "guided" takes any number',
        )
    if open_ and study.cycles < 2:
        yield "pilot", "there is no cycle ≥ 1 to find constants for"
    for name in open_:
        if study.arms[name].own_dense:
            yield f"arms.{name}.own_dense", "pilot chains share the dense cycle"


FEWEST_AT_A_LOOK = 5  # seeds that a verdict takes


def looks_problems(study: Study) -> Iterator[tuple[str, str]]:
    """Looks rise within the seeds, with something to look at."""
    until, looks, seeds = study.replicates.until, study.replicates.looks, len(study.replicates.seeds)
    if looks is None:
        if until is not None:
            yield "replicates.until", "needs looks, the numbers of seeds after which it looks: looks = [5, 10, 20]"
        return
    if until is None:
        yield "replicates.looks", 'needs until = "decided" beside it'
    if not looks:
        yield "replicates.looks", "give at least one number of seeds"
    if any(late <= early for early, late in itertools.pairwise(looks)):
        yield "replicates.looks", f"numbers of seeds rise, got {list(looks)}"
    if few := [look for look in looks if look < FEWEST_AT_A_LOOK]:
        yield "replicates.looks", f"a verdict takes {FEWEST_AT_A_LOOK} seeds: {few} can decide nothing"
    if many := [look for look in looks if look > seeds]:
        yield "replicates.looks", f"{many} of {plural(seeds, 'seed')}: add seeds, or look earlier"
    if study.decides_until is None:
        yield (
            "replicates.until",
            f"no verdict to wait for: it takes an Oracle with a grid that tests {study.report.schedule!r}, greedy or "
            f'with prefix = "arm:{study.report.schedule}"',
        )
    for name, arm in study.arms.items():
        if isinstance(arm, TuneArm) and arm.seeds is None:
            yield f"arms.{name}.seeds", "name the seeds of its chains: how many [replicates] trains is not known before"


def ends_problems(study: Study) -> Iterator[tuple[str, str]]:
    """An arm that takes another's ends has none of its own, and the other has a pilot that finds two."""
    for name, arm in study.arms.items():
        if not isinstance(arm, ScheduleArm) or arm.ends is None:
            continue
        leader, constants = study.arms.get(arm.ends.arm), arm.schedule.open
        pairs = [key for key in study.arms if study.pilots(key) and _finds_two(study.arms[key])]
        if not constants:
            yield f"arms.{name}.ends", "the schedule has its constants: leave them out, or ends"
        elif leader is None or arm.ends.arm not in pairs:
            yield f"arms.{name}.ends.arm", unknown("arm whose pilot finds two rates", arm.ends.arm, pairs)
        elif len(constants) == 1 and arm.ends.end is None:
            yield f"arms.{name}.ends.end", f'{constants[0]} is one of two rates: "low" or "high"'
        elif len(constants) == 2 and arm.ends.end is not None:
            yield f"arms.{name}.ends.end", f"{' and '.join(constants)} take both rates: leave it out"


def _finds_two(arm: object) -> bool:
    return isinstance(arm, ScheduleArm) and len(arm.schedule.open) == 2


def _peak_problems(study: Study, name: str, arm: ScheduleArm) -> Iterator[tuple[str, str]]:
    if arm.schedule.function is not None:
        return  # imported by the planner, which checks every value it is given
    if arm.schedule.adaptive:
        if study.dense.checkpoint is not None and "train_epochs" not in arm.schedule.args:
            yield f"arms.{name}.schedule", "needs train_epochs, because [dense] is a checkpoint"
        if arm.own_dense:
            yield f"arms.{name}.own_dense", "an adaptive peak is undefined before the first prune"
        return
    if arm.open:
        return
    schedule = study.schedule_of(arm)
    assert isinstance(schedule, Schedule)
    peaks = [schedule.peak(cycle, study.pruned_by(arm)) for cycle in range(study.cycles)]
    if not all(math.isfinite(peak) and peak > 0 for peak in peaks):
        yield f"arms.{name}.schedule", f"gives a max_lr that is not a finite number above 0: {peaks}"


def _rewind_problems(study: Study) -> Iterator[tuple[str, str]]:
    """An epoch to rewind to must lie within the dense training; a number of steps is known only with the data."""
    assert study.dense.epochs is not None
    for name, arm in study.arms.items():
        point = study.settings(arm).rewind_to
        if point is not None and point.endswith(" ep") and int(point.split()[0]) > study.dense.epochs:
            key = "prune.rewind_to" if arm.rewind_to is None else f"arms.{name}.rewind_to"
            yield key, f"{point!r} is beyond the dense training of {study.dense.epochs} epochs"


def dense_problems(study: Study) -> Iterator[tuple[str, str]]:
    if study.dense.checkpoint is None:
        yield from _rewind_problems(study)
        return
    if study.dense.checkpoint == "timm" and not (study.model.name or "").startswith(registry.TIMM_PREFIX):
        yield "dense.checkpoint", '"timm" needs a model named timm:NAME'
    if study.dense.checkpoint == "model" and study.model.function is None:
        yield "dense.checkpoint", '"model" needs a function in [model], which gives a trained network'
    if "previous" in study.prune.criterion.needs:
        yield (
            "prune.criterion",
            f"{study.prune.criterion.name!r} looks at the last epoch before a prune; a checkpoint in [dense] has none",
        )
    for name, arm in study.arms.items():
        if arm.own_dense:
            yield f"arms.{name}.own_dense", "there is no dense training of its own beside a checkpoint"
        if study.settings(arm).after_prune == "rewind":
            yield (
                f"arms.{name}",
                "cannot rewind: [dense] is a checkpoint, whose training is not part of this study",
            )
        if study.dense.checkpoint == "model" and study.settings(arm).after_prune == "reinit":
            yield f"arms.{name}", "cannot draw weights anew: the function of [model] gives trained ones"
