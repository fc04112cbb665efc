"""The Study: one TOML file, the whole truth about a run, as frozen pydantic models that refuse extra keys."""

from silo_tune.study.arms import Arm, ArmBase, Grid, Guided, OracleArm, Pilot, ScheduleArm, TuneArm
from silo_tune.study.data import Data, expand
from silo_tune.study.model import ArmSettings, Study
from silo_tune.study.parts import (
    SGD,
    AdamW,
    Cluster,
    Dense,
    Evaluate,
    ModelRef,
    ProfileRef,
    Replicates,
    Report,
    Retrain,
    ScheduleRef,
    StudyPreset,
)
from silo_tune.study.prune import CriterionRef, Prune

__all__ = [
    "SGD",
    "AdamW",
    "Arm",
    "ArmBase",
    "ArmSettings",
    "Cluster",
    "CriterionRef",
    "Data",
    "Dense",
    "Evaluate",
    "Grid",
    "Guided",
    "ModelRef",
    "OracleArm",
    "Pilot",
    "ProfileRef",
    "Prune",
    "Replicates",
    "Report",
    "Retrain",
    "ScheduleArm",
    "ScheduleRef",
    "Study",
    "StudyPreset",
    "TuneArm",
    "expand",
]
