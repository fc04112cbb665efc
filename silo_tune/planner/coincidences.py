"""Which presets and arms come to the same thing under a study's budgets."""

from __future__ import annotations

from typing import Any

from silo_tune.planner.unit import canonical_json
from silo_tune.schedules.peaks import AdaptiveSchedule, Allr, Constant, Schedule
from silo_tune.study.arms import ScheduleArm
from silo_tune.study.model import Study
from silo_tune.study.preset_filling import setting_of
from silo_tune.study.presets import PRESETS, expand

# Presets whose shape is that of the dense training.
REPLAYS = ("lr-rewinding", "weight-rewinding")


def same_as(study: Study, name: str) -> list[str]:
    """Arms, and presets at the same constants, whose every unit is trained alike to those of a schedule arm."""
    arm = study.arms[name]
    if not isinstance(arm, ScheduleArm):
        return []
    told = _alike(study, arm)
    if told is None:
        return []
    others = {other: found for other, found in study.arms.items() if other != name and isinstance(found, ScheduleArm)}
    arms = [f"arm {other}" for other, found in others.items() if _alike(study, found) == told]
    named = {found.preset for found in (arm, *others.values())}
    presets = [preset for preset in PRESETS if preset not in named and _alike(study, _as(preset, study, arm)) == told]
    return [*arms, *(f"preset {preset}" for preset in presets)]


def coincidences(study: Study) -> list[str]:
    """One line for each schedule arm whose every unit is trained alike to those of an earlier arm."""
    seen: dict[str, str] = {}
    lines = []
    for name, arm in study.arms.items():
        told = _alike(study, arm) if isinstance(arm, ScheduleArm) else None
        if told is None or seen.setdefault(told, name) == name:
            continue
        lines.append(f"{name} is the same as {seen[told]} under this study's budgets{_why(study, name, seen[told])}")
    return lines


def _why(study: Study, *names: str) -> str:
    arms = [arm for arm in (study.arms[name] for name in names) if isinstance(arm, ScheduleArm)]
    if any(arm.schedule.adaptive for arm in arms):
        return " (retraining as long as the dense training)"
    if any(arm.preset in REPLAYS for arm in arms):
        return " (it replays the whole dense schedule)"
    return ""


def _as(preset: str, study: Study, arm: ScheduleArm) -> ScheduleArm | None:
    """Another preset at this arm's own constants and budget; None where it does not go with them."""
    own = {"epochs": arm.epochs} if arm.epochs else {}
    args = {key: value for key, value in arm.schedule.args.items() if key in PRESETS[preset].takes}
    try:
        table = expand(preset, setting_of(study.model_dump(mode="json", exclude_none=True), own), args)
        return ScheduleArm.model_validate({**own, **table})
    except ValueError:
        return None


def _alike(study: Study, arm: ScheduleArm | None) -> str | None:
    """What all units of an arm are trained with; None where it is not known before a worker has pruned."""
    if arm is None or arm.schedule.function is not None:
        return None
    settings = study.settings(arm)
    ends = {} if arm.ends is None else arm.ends.model_dump()
    peaks: Any = {"open": {**arm.schedule.resolved(), **ends}}
    if arm.open and arm.schedule.adaptive:
        peaks = {"open": {"name": "constant"}} if _is_whole(study, arm, settings.epochs) else peaks
    elif not arm.open:
        schedule = _resolved(study.schedule_of(arm), settings.epochs)
        if schedule is None:
            return None
        first = 0 if arm.own_dense else 1
        peaks = [schedule.peak(cycle, study.pruned_by(arm)) for cycle in range(first, study.cycles)]
    return canonical_json({**settings.model_dump(mode="json"), "peaks": peaks, "best_of": arm.best_of})


def _resolved(schedule: Schedule | AdaptiveSchedule, epochs: int) -> Schedule | None:
    """A fixed schedule with the same peaks. ALLR's is constant where retraining is as long as the dense training."""
    if isinstance(schedule, Schedule):
        return schedule
    return Constant(schedule.max_lr) if isinstance(schedule, Allr) and epochs >= schedule.train_epochs else None


def _is_whole(study: Study, arm: ScheduleArm, epochs: int) -> bool:
    return epochs >= (arm.schedule.args.get("train_epochs") or study.dense.epochs or epochs + 1)
