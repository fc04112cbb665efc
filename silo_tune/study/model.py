"""The Study itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from silo_tune.errors import Problems
from silo_tune.schedules import AdaptiveSchedule, Schedule, pruned_fractions
from silo_tune.study.arms import Arm, ArmBase, OracleArm, Pilot, ScheduleArm, TuneArm
from silo_tune.study.checks import (
    arm_problems,
    dense_problems,
    ends_problems,
    incomparable,
    pilot_problems,
    pipeline_problems,
    prune_problems,
)
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
)
from silo_tune.study.pipelines import Ice, Pipeline
from silo_tune.study.prune import Prune


class Study(Frozen):
    """One study. `cycles` counts the dense one: cycles 0 … cycles − 1."""

    name: str
    preset: StudyPreset | None = None
    cycles: int = Field(ge=1, le=1000)
    data: Data
    model: ModelRef
    dense: Dense
    prune: Prune = Prune()
    retrain: Retrain
    evaluate: Evaluate = Evaluate()
    replicates: Replicates
    pilot: Pilot | None = None
    arms: dict[str, Arm]
    report: Report = Report()
    cluster: Cluster = Cluster()

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not ARM_NAME.fullmatch(value):
            raise ValueError(f"a name is letters, digits and . _ + -, got {value!r}")
        return value

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}

    @model_validator(mode="after")
    def _cross(self) -> Study:
        problems = list(prune_problems(self))  # the other checks need a target for every cycle
        checks = (arm_problems, dense_problems, pilot_problems, ends_problems, pipeline_problems)
        problems = problems or [problem for check in checks for problem in check(self)]
        if problems:
            raise Problems(problems)
        return self

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
        return arm.schedule.make(self.dense.epochs, found)

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
