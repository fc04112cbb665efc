"""Filling presets into the table of a study, before it is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from silo_tune.schedules.peaks import pruned_fractions
from silo_tune.study.arms import ScheduleArm
from silo_tune.study.presets import Setting, expand
from silo_tune.study.prune import Prune
from silo_tune.study.recipes import RECIPES

Table = dict[str, Any]
Problem = tuple[str, str]

# So many cycles are looked at for the S to rise; at 1 % a cycle it has risen by then.
FAR = 1000
# Other arms may name one that cannot be filled in.
STAND_IN = {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 1.0}}
CURVE = ("eps", "delta", "beta", "q", "midpoint")
# Presets of the rising S.
CURVES = ("silo", "s-cyc")


def expand_presets(table: Mapping[str, Any]) -> tuple[Table, list[Problem]]:
    """The table with every `preset` of its arms filled in, and what is wrong with them as (key, message)."""
    arms, problems = table.get("arms"), []
    if not isinstance(arms, Mapping):
        return dict(table), []
    filled: Table = {}
    for name, arm in arms.items():
        try:
            filled[name] = _filled(table, arm)
        except ValueError as error:
            problems.append((f"arms.{name}.preset", str(error)))
            filled[name] = STAND_IN
    return {**table, "arms": filled}, problems


def _filled(table: Mapping[str, Any], arm: Any) -> Any:
    if not isinstance(arm, Mapping) or "preset" not in arm:
        return arm
    if arm.get("mode", "schedule") != "schedule":
        raise ValueError(f"a preset is a schedule arm, not one of mode {arm['mode']!r}; leave mode out")
    if "schedule" in arm:
        raise ValueError("preset and schedule both say max_lr over cycles; give one")
    own = {key: value for key, value in arm.items() if key in ScheduleArm.model_fields}
    args = {key: value for key, value in arm.items() if key not in own}
    return {**expand(str(own.pop("preset")), setting_of(table, own), args), **own}


def setting_of(table: Mapping[str, Any], arm: Mapping[str, Any]) -> Setting:
    """What a study's table tells a preset. What is wrong in the table is left for the study's own check to tell."""
    dense, retrain = _section(table, "dense"), _section(table, "retrain")
    epochs = arm.get("epochs", retrain.get("epochs"))
    return Setting(
        cycles=_number(table.get("cycles"), int) or 2,
        epochs=epochs if isinstance(epochs, int) else 1,
        own_epochs=_number(arm.get("epochs"), int),
        dense_epochs=_number(dense.get("epochs"), int),
        dense_max_lr=_number(dense.get("max_lr"), int, float),
        dense_profile=_profile(dense),
        retrain_profile=_profile(retrain),
        curve=_curve(table),
        pruned=_pruned(_section(table, "prune")),
        tuned=isinstance(table.get("pilot"), Mapping),
        leader=_leader(table),
    )


def _judged(table: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Name and table of the judged arm, an empty one where the study has none."""
    name = str(_section(table, "report").get("schedule", "silo"))
    return name, _section(_section(table, "arms"), name)


def _leader(table: Mapping[str, Any]) -> str | None:
    """The judged arm, where it is a curve whose ε and ε + δ a pilot finds."""
    name, judged = _judged(table)
    if not isinstance(table.get("pilot"), Mapping):
        return None
    schedule = judged.get("schedule")
    shape = {"name": schedule} if isinstance(schedule, str) else _section(judged, "schedule")
    curve = judged.get("preset") in CURVES or shape.get("name") == "silo"
    return name if curve and not {"eps", "delta"} & {*judged, *shape} else None


def _section(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = table.get(name)
    return part if isinstance(part, Mapping) else {}


def _number(value: Any, *kinds: type) -> Any:
    return value if isinstance(value, kinds) and not isinstance(value, bool) else None


def _profile(section: Mapping[str, Any]) -> Mapping[str, Any]:
    profile = section.get("profile", "warmup-drop")
    named = {"name": profile} if isinstance(profile, str) else profile
    if isinstance(named, Mapping) and isinstance(named.get("function"), str):
        return named
    return named if isinstance(named, Mapping) and isinstance(named.get("name"), str) else {"name": "warmup-drop"}


def _pruned(prune: Mapping[str, Any]) -> list[float]:
    targets, rate = prune.get("targets"), _number(prune.get("rate", Prune().rate), int, float)
    if isinstance(targets, (list, tuple)):
        return pruned_fractions([1.0, *(share for share in targets if _number(share, int, float) is not None)])
    return pruned_fractions([(1.0 - rate) ** cycle for cycle in range(FAR)] if rate and 0 < rate < 1 else [1.0])


def _curve(table: Mapping[str, Any]) -> dict[str, float]:
    """Constants of SILO: those of the judged arm before those of the network's recipe."""
    model = table.get("model")
    recipe = RECIPES.get(str(model.get("name") if isinstance(model, Mapping) else model))
    known = {} if recipe is None else {key: getattr(recipe, key) for key in ("eps", "delta", "beta", "q")}
    _, judged = _judged(table)
    if judged.get("preset") in CURVES:
        known |= judged
    schedule = judged.get("schedule")
    if isinstance(schedule, Mapping) and schedule.get("name") == "silo":
        known |= schedule
    return {key: known[key] for key in CURVE if _number(known.get(key), int, float) is not None}
