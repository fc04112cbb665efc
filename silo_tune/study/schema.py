"""The JSON schema of a study file, for editors that complete and check TOML; made from the models of a study.

It accepts every way to write a study, shorthands and presets included. It refuses unknown keys, wrong types and unknown
names; what only the values of several keys show to be wrong is left to `load_study`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from silo_tune.schedules.peaks import SCHEDULES
from silo_tune.schedules.shapes import PROFILES
from silo_tune.study import registry
from silo_tune.study.authors import DEVIATIONS
from silo_tune.study.data import OLDER
from silo_tune.study.model import Study
from silo_tune.study.parts import ARM_NAME, FUNCTION, REWIND_POINT, TORCH_NAME, whole
from silo_tune.study.presets import PRESETS
from silo_tune.study.task import LOSSES

Schema = dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"  # what TOML editors read
# Keys that a study may leave to its [preset].
PRESET_GIVES = {"Retrain": ["epochs"], "Replicates": ["seeds"]}


def study_schema() -> Schema:
    """The schema of a whole study, in JSON schema draft 7."""
    made = plain(Study.model_json_schema())
    parts: dict[str, Schema] = made.pop("$defs")
    parts |= {**references(), "IceTable": parts["Ice"], "Ice": {"anyOf": [_words(["ice"]), _of("IceTable")]}}
    parts["Data"]["properties"]["name"] |= _words(registry.DATA)
    for old, new in OLDER.items():
        parts["Data"]["properties"][old] = {"type": "integer", "minimum": 1, "description": f"older name of {new}"}
    parts["StudyPreset"]["properties"]["without"]["items"] = _words(DEVIATIONS)
    parts["ScheduleArm"]["properties"].pop("preset")  # of an arm that a preset has filled in
    parts["PresetArm"] = preset_arm(parts["ScheduleArm"])
    for name, rule in rules().items():
        parts[name] |= rule
    for name in PRESET_GIVES:
        parts[name].pop("required")
    keys: dict[str, Schema] = made.pop("properties")
    keys["preset"] = described(keys["preset"], {"anyOf": [_words(["authors-2023"]), _of("StudyPreset")]})
    keys["task"] = described(keys["task"], {"anyOf": [_words(LOSSES), _of("TaskSpec")]})
    keys["arms"]["propertyNames"] = whole(ARM_NAME)
    keys["arms"]["additionalProperties"] = {"anyOf": [_of(name) for name in ARMS]}
    required = made.pop("required")
    filled = {"if": {"required": ["preset"]}, "then": {"required": ["name"]}, "else": _unfilled(required)}
    return {"$schema": DRAFT, "title": "A study of silo-tune", **made, **filled, "properties": keys, "$defs": parts}


def schema_text() -> str:
    """The schema as it stands in a file."""
    return json.dumps(study_schema(), indent=1, ensure_ascii=False) + "\n"


ARMS = ("ScheduleArm", "OracleArm", "TuneArm", "PresetArm")


def _unfilled(required: list[str]) -> Schema:
    """What a study without a [preset] must give."""
    sections = {part.lower(): _needs(*keys) for part, keys in PRESET_GIVES.items()}
    rules = {
        "data": _one_of("name", "function"),
        "dense": {"anyOf": [_needs("epochs", "max_lr"), _needs("checkpoint")]},
        "arms": {"minProperties": 1},
    }
    return {"required": required, "properties": {**sections, **rules}}


def plain(schema: Any) -> Any:
    """The schema as an editor wants it.

    TOML has no null; titles repeat keys; "discriminator" and "prefixItems" are not of draft 7, in which a "$ref" hides
    what stands beside it. What some versions of pydantic add and others do not is left out.
    """
    if isinstance(schema, list):
        return [plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: plain(value) for key, value in schema.items() if not _noise(key, value)}
    if "const" in made:
        made.pop("enum", None)
    if made.get("additionalProperties") is True:
        del made["additionalProperties"]
    if "prefixItems" in made:
        made["items"] = made.pop("prefixItems")[0]  # all tuples of a study are pairs of one type
    choices = made.get("anyOf")
    if choices is not None and {"type": "null"} in choices:
        left = [choice for choice in choices if choice != {"type": "null"}]
        del made["anyOf"]
        made = {**left[0], **made} if len(left) == 1 else {"anyOf": left, **made}
    if "$ref" in made and len(made) > 1:
        made = {"allOf": [{"$ref": made.pop("$ref")}], **made}
    return made


def _noise(key: str, value: Any) -> bool:
    return (
        key == "discriminator"
        or (key == "title" and isinstance(value, str))
        or (key == "default" and (value is None or isinstance(value, dict)))
    )


def described(written: Schema, schema: Schema) -> Schema:
    """A schema with the description of another."""
    return {**schema, "description": written["description"]}


# --- a name with its arguments ---


def references() -> dict[str, Schema]:
    """Named things: a word, a table with arguments, or a user's function."""
    schedules = {name: _arguments(one, one.free, {"train_epochs"}) for name, one in SCHEDULES.items()}
    profiles = {name: _arguments(one.factory, (), set(one.preset)) for name, one in PROFILES.items()}
    init = _words(registry.INITS)
    models = {name: _registered(entry, {"init": init}) for name, entry in registry.MODELS.items()}
    criteria = {name: {"properties": dict.fromkeys(entry.args, COUNT)} for name, entry in registry.CRITERIA.items()}
    losses: dict[str, set[str]] = {}
    for table in LOSSES.values():
        for name, args in table.items():
            losses.setdefault(name, set()).update(args)
    free = {"type": "string", "pattern": f"^({registry.TIMM_PREFIX}|{registry.TORCHVISION_PREFIX}).+"}
    other = {"type": "object", "required": ["name"], "properties": {"name": free, "init": init}}
    hf = {"type": "string", "pattern": f"^{registry.HF_PREFIX}.+"}
    own = {"name": hf, "head": _words(registry.HEADS), "pretrained": {"type": "boolean"}, "init": init}
    of_hf = {"type": "object", "required": ["name", "head"], "properties": own}
    of_torch = {"type": "string", **whole(TORCH_NAME)}
    named_of_torch = {"type": "object", "required": ["name"], "properties": {"name": of_torch}}
    return {
        "ScheduleRef": _reference(schedules),
        "ProfileRef": _reference(profiles),
        "OptimizerRef": {"anyOf": [_words(("sgd", "adamw")), of_torch, named_of_torch, USER_FUNCTION]},
        "ModelRef": _reference(models, extra=[free, other, of_hf]),
        "CriterionRef": _reference(criteria),
        "LossRef": _reference(
            {name: {"properties": dict.fromkeys(sorted(args), LOSS_ARGUMENT)} for name, args in losses.items()},
            functions=False,
        ),
    }


def _reference(entries: Mapping[str, Schema], functions: bool = True, extra: Iterable[Schema] = ()) -> Schema:
    """Every way to write one of these names; a word alone where the name needs no argument."""
    alone = [name for name, entry in entries.items() if not entry.get("required")]
    tables = [table for name, entry in entries.items() for table in _tables(name, entry)]
    return {"anyOf": [_words(alone), *extra, *tables, *([USER_FUNCTION] if functions else [])]}


def _tables(name: str, entry: Schema) -> list[Schema]:
    """The table of a name: its arguments beside it, or below `args`."""
    own = {"name": {"const": name}}
    needed = entry.get("required", [])
    beside = {**entry, "type": "object", "required": ["name", *needed], "additionalProperties": False}
    below = {
        "type": "object",
        "required": ["name", "args"],
        "properties": {**own, "args": {**entry, "type": "object", "additionalProperties": False}},
        "additionalProperties": False,
    }
    return [{**beside, "properties": {**own, **entry["properties"]}}, below]


USER_FUNCTION: Schema = {
    "type": "object",
    "required": ["function", "version"],
    "properties": {
        "function": {"type": "string", **whole(FUNCTION), "description": 'a user\'s function, "package.module:name"'},
        "version": {"type": "string", "minLength": 1, "description": "change it when the function changes its numbers"},
    },
    "not": {"required": ["name"]},
}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 1}
LOSS_ARGUMENT: Schema = {"type": ["number", "array"], "items": NUMBER}
KINDS: dict[str, Schema] = {
    "int": {"type": "integer"},
    "float": NUMBER,
    "float | None": NUMBER,
    "str": {"type": "string"},
    "tuple[float, ...]": {"type": "array", "items": NUMBER},
    "Mapping[str, Any]": {"type": ["string", "object"]},
}


def _arguments(factory: type[Any], free: tuple[str, ...], given: set[str]) -> Schema:
    """Arguments of a dataclass; `free` constants are given all or none, what is `given` elsewhere may be left out."""
    known = {field.name: field for field in fields(factory)}
    needed = [name for name, field in known.items() if field.default is MISSING and name not in (*free, *given)]
    made: Schema = {"properties": {name: KINDS[str(field.type)] for name, field in known.items()}}
    if needed:
        made["required"] = needed
    if len(free) > 1:
        made["dependencies"] = {name: [other for other in free if other != name] for name in free}
    return made


def _registered(entry: registry.Entry, more: Schema) -> Schema:
    return {
        "properties": {
            **{key: _words(entry.choices[key]) if key in entry.choices else {} for key in entry.args},
            **more,
        }
    }


# --- an arm from a preset ---


def preset_arm(schedule_arm: Schema) -> Schema:
    """An arm that names a preset: the keys of a schedule arm but its schedule, and what the preset takes."""
    own = {key: value for key, value in schedule_arm["properties"].items() if key != "schedule"}
    takes = {key: NUMBER for preset in PRESETS.values() for key in preset.takes}
    takes["to"] = {"type": "string", **whole(REWIND_POINT)}
    preset = {**_words(PRESETS), "description": "a published way to set the learning rate, by name"}
    limits = [
        {
            "if": {"properties": {"preset": {"const": name}}},
            "then": {"propertyNames": {"enum": [*own, "preset", *one.takes]}},
        }
        for name, one in PRESETS.items()
    ]
    return {
        "type": "object",
        "description": "An arm of a published way to set the learning rate; what it leaves out comes from the study.",
        "required": ["preset"],
        "properties": {"preset": preset, **takes, **own},
        "additionalProperties": False,
        "allOf": limits,
    }


# --- rules between the keys of one table ---


def rules() -> dict[str, Schema]:
    """What the models check in code and a schema can say too, by model."""
    paths = [name for name, entry in registry.DATA.items() if entry.needs_path]
    named = {"properties": {"name": {"enum": paths}}, "required": ["name"]}
    not_again = {"not": {"anyOf": [_needs("epochs"), _needs("max_lr")]}}
    return {
        "Data": {
            "dependencies": {"mean": ["std"], "std": ["mean"], "function": ["version"]},
            "if": named,
            "then": _needs("path"),
            "not": _needs("name", "function"),
        },
        "Dense": {"if": _needs("checkpoint"), "then": not_again},
        "TaskSpec": {**_one_of("name", "function"), "dependencies": {"function": ["version", "score"]}},
        "Prune": {"not": _needs("rate", "targets")},
        "Grid": {"required": [], "anyOf": [_needs("low", "high", "points"), _needs("rates")]},
        "OracleArm": {"oneOf": [_needs("grid"), _needs("guided")]},
        "SGD": _needs("name"),
        "AdamW": _needs("name"),
    }


def _needs(*keys: str) -> Schema:
    return {"required": list(keys)}


def _one_of(*keys: str) -> Schema:
    return {"oneOf": [_needs(key) for key in keys]}


def _words(words: Iterable[str]) -> Schema:
    return {"enum": list(words)}


def _of(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}
