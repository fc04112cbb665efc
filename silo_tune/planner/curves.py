"""What an arm does with the learning rate: its peaks over cycles, and the shape inside one. Nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass

from silo_tune.errors import BadInput, unknown
from silo_tune.planner.candidates import peak_of
from silo_tune.planner.coincidences import same_as
from silo_tune.study.arms import OracleArm, ScheduleArm, TuneArm
from silo_tune.study.model import Study
from silo_tune.study.parts import made_profile
from silo_tune.study.pipelines import Ice
from silo_tune.study.presets import PRESETS

# Steps that a drawn cycle is divided into: every profile shows its corners at this many.
STEPS = 600


@dataclass(frozen=True)
class Curves:
    """What `silo-tune show` draws of one arm.

    Attributes:
        arm: its name.
        remaining: planned share of weights remaining at each cycle ≥ 1.
        peaks: max_lr of each cycle ≥ 1; None where it is known only after a prune or a pilot.
        inside: multiplier of max_lr at each of `STEPS` equal parts of a cycle.
        words: what the arm is, line by line.
    """

    arm: str
    remaining: tuple[float, ...]
    peaks: tuple[float | None, ...]
    inside: tuple[float, ...]
    words: tuple[str, ...]

    @property
    def cycles(self) -> range:
        """Numbers of the drawn cycles."""
        return range(1, 1 + len(self.peaks))


def curves_of(study: Study, name: str) -> Curves:
    """The curves of an arm. Raises BadInput when the study has no such arm."""
    if name not in study.arms:
        raise BadInput(unknown("arm", name, study.arms))
    arm = study.arms[name]
    settings = study.settings(arm)
    profile = made_profile(settings.profile)
    return Curves(
        arm=name,
        remaining=tuple(1.0 - pruned for pruned in study.pruned_by(arm)[1:]),
        peaks=tuple(_peak(study, name, cycle) for cycle in range(1, study.cycles)),
        inside=tuple(profile(step, STEPS) for step in range(STEPS)),
        words=tuple(words_of(study, name)),
    )


def _peak(study: Study, name: str, cycle: int) -> float | None:
    arm = study.arms[name]
    if not isinstance(arm, ScheduleArm) or arm.open:
        return None
    value = peak_of(study.schedule_of(arm), cycle, study.pruned_by(arm), name).get("value")
    return None if value is None else float(value)


def words_of(study: Study, name: str) -> list[str]:
    """What an arm is, line by line: its preset and source, its peaks, its profile, what follows a prune."""
    arm, settings = study.arms[name], study.settings(study.arms[name])
    lines = [f"arm {name}, mode {arm.mode}"]
    if isinstance(arm, ScheduleArm) and arm.preset in PRESETS:
        preset = PRESETS[arm.preset]
        lines.append(f"preset: {arm.preset}, {preset.line} ({preset.source})")
    lines.append(f"peaks: {_peaks_in_words(study, name)}")
    if isinstance(arm, ScheduleArm) and arm.best_of is not None:
        lines.append(f"trainings: {arm.best_of} a cycle, the best on validation continues")
    if isinstance(arm, OracleArm) and arm.retrain_winner:
        lines.append("the winner of a cycle is trained once more, and that training continues")
    epochs = f"{settings.epochs} epoch{'' if settings.epochs == 1 else 's'}"
    lines.append(f"profile: {_table(settings.profile)}, over {epochs} a cycle")
    if settings.pipeline is not None:
        lines.append(f"pipeline: {_table(settings.pipeline.model_dump(exclude_none=True))}")
    after = settings.after_prune if settings.rewind_to is None else f"{settings.after_prune} to {settings.rewind_to}"
    lines.append(f"after a prune: {after}")
    lines += [f"the same as {other}, under this study's budgets" for other in same_as(study, name)]
    return lines


def _peaks_in_words(study: Study, name: str) -> str:
    arm = study.arms[name]
    if isinstance(arm, OracleArm):
        searched = arm.grid or arm.guided
        assert searched is not None
        count = f"{arm.grid.points} rates" if arm.grid else f"at most {arm.guided.trials} asked rates"  # type: ignore[union-attr]
        return f"{count} from {searched.low:g} to {searched.high:g} at each cycle"
    if isinstance(arm, TuneArm):
        searched_ = ", ".join(f"{key} is searched in {list(at)}" for key, at in arm.free.items())
        return f"{_table({'name': 'silo', **arm.pinned})} whose {searched_}"
    if arm.ends is not None:
        which = f"the {arm.ends.end} one" if arm.ends.end else "both"
        return f"{_table(arm.schedule.resolved())}; takes {which} of the rates that {arm.ends.arm}'s pilot finds"
    if arm.open:
        return f"{_table(arm.schedule.resolved())}; [pilot] finds its {' and '.join(arm.schedule.open)}"
    late = "; the worker resolves it after each prune" if arm.schedule.adaptive else ""
    if isinstance(arm.pipeline, Ice) and arm.pipeline.follows_weights and arm.schedule.name == "silo":
        late = "; taken at the weights left when a fine-tune begins, drawn for those left at a cycle's end"
    return _table(arm.schedule.resolved()) + late


def _table(table: dict[str, object]) -> str:
    """A resolved table in one line."""
    name = table.get("name") or table.get("function")
    rest = ", ".join(f"{key} {_value(value)}" for key, value in table.items() if key not in ("name", "function"))
    return f"{name} ({rest})" if rest else str(name)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return " ".join(_value(item) for item in value)
    return _table(value) if isinstance(value, dict) else str(value)
