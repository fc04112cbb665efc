"""The JSON schema of a study file: it is that of the models, and says what the loader says where a schema can know."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema import Draft7Validator
from pydantic import BaseModel

from silo_tune.errors import StudyError
from silo_tune.study.model import Study
from silo_tune.study.presets import PRESETS
from silo_tune.study.schema import schema_text, study_schema
from silo_tune.study.study_file import load_study, parse_study
from tests import plain
from tests.test_cli import in_process

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
SCHEMA = EXPERIMENTS / "study.schema.json"
STUDIES = sorted([*EXPERIMENTS.glob("*.toml"), *EXPERIMENTS.glob("paper/*.toml")])
RECORDED = sorted(file for file in EXPERIMENTS.glob("records/*/*.toml") if file.name != "study.toml")
VALIDATOR = Draft7Validator(study_schema())


def accepts(table: dict[str, Any]) -> bool:
    return bool(VALIDATOR.is_valid(table))


def loads(table: dict[str, Any]) -> bool:
    try:
        parse_study(table)
    except StudyError:
        return False
    return True


# --- the file ---


def test_the_file_is_the_schema_of_the_models() -> None:
    written = json.loads(SCHEMA.read_text(encoding="utf-8"))  # the order of keys is pydantic's
    assert written == json.loads(schema_text()), "run `silo-tune schema > experiments/study.schema.json`"
    Draft7Validator.check_schema(json.loads(schema_text()))


def test_the_command_prints_it() -> None:
    assert in_process("schema").stdout == schema_text()


@pytest.mark.parametrize("file", [*STUDIES, *RECORDED], ids=lambda file: file.stem)
def test_every_study_of_the_project_is_accepted(file: Path) -> None:
    errors = VALIDATOR.iter_errors(tomllib.loads(file.read_text(encoding="utf-8")))
    assert [(list(error.path), error.message) for error in errors] == []


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_every_study_names_the_schema_in_its_first_line(file: Path) -> None:
    first = file.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("#:schema ")
    assert (file.parent / first.removeprefix("#:schema ")).resolve() == SCHEMA.resolve()


# --- descriptions ---


def models(kind: Any) -> Iterator[type[BaseModel]]:
    """Every model inside an annotation, and inside its fields."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
        for field in kind.model_fields.values():
            yield from models(field.annotation)
    for part in get_args(kind):
        yield from models(part)


MODELS = {model.__name__: model for model in models(Study)}


def test_every_model_of_a_study_is_found() -> None:
    assert {"Study", "Data", "ScheduleArm", "OracleArm", "TuneArm", "Guided", "WhileTraining", "AdamW"} <= set(MODELS)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_every_key_says_what_it_is(model: type[BaseModel]) -> None:
    silent = [name for name, field in model.model_fields.items() if len((field.description or "").split()) < 2]
    assert silent == []


def test_every_key_of_the_schema_that_comes_from_a_model_is_described() -> None:
    parts = study_schema()["$defs"]
    shown = {"Ice": "IceTable"}
    own = {name for name in MODELS if "properties" in parts.get(shown.get(name, name), {})}
    assert len(own) >= 18
    for name in own:
        for key, value in parts[shown.get(name, name)]["properties"].items():
            assert value.get("description"), f"{name}.{key}"


# --- what it accepts and refuses, and that the loader does the same ---

SILO = {"mode": "schedule", "schedule": "silo"}
PILOT = {"seeds": [100], "chains": 10, "low": 0.01, "high": 1.0}
TUNE = {"mode": "tune", "trials": 4, "eps": [0.02, 0.5], "delta": 0.1}
GOOD: dict[str, dict[str, Any]] = {
    "as it is": {},
    "a network by a word": {"model": "resnet20", "data": {"name": "cifar10"}},
    "a network with an argument": {"model": {"name": "resnet8", "width": 4}, "data.name": "cifar10"},
    "a user's profile": {"retrain.profile": {"function": "mine:shape", "version": "1", "power": 2}},
    "a user's optimizer": {"retrain.optimizer": {"function": "mine:lion", "version": "1", "beta": 0.9}},
    "an optimizer of torch": {"retrain.optimizer": {"name": "RMSprop", "alpha": 0.9}},
    "its name alone": {"retrain.optimizer": "Adam"},
    "ours by its name": {"retrain.optimizer": "adamw"},
    "steps of several batches": {"retrain.accumulate": 4, "retrain.decay": "weights"},
    "a network of torchvision": {"model": "torchvision:resnet18"},
    "a network of timm": {"model": "timm:resnet18"},
    "timm with arguments": {"model": {"name": "timm:resnet18", "drop_rate": 0.1}},
    "other initial weights": {"model": {"name": "lenet-300-100", "init": "xavier-normal"}},
    "a user's network": {"model": {"function": "mine:net", "version": "1", "depth": 3}},
    "arguments below args": {"prune.criterion": {"name": "gradient", "args": {"images": 64}}},
    "arguments beside the name": {"prune.criterion": {"name": "gradient", "images": 64}},
    "a criterion by a word": {"prune.criterion": "lamp"},
    "targets": {"prune.rate": None, "prune.targets": [0.5, 0.4, 0.3]},
    "weights drawn anew": {"prune.after_prune": "reinit"},
    "a rewind to an epoch": {"prune.after_prune": "rewind", "prune.rewind_to": "1 ep"},
    "a profile by a word": {"retrain.profile": "cosine"},
    "a profile with arguments": {"retrain.profile": {"name": "warmup-drop", "drops": [0.5, 0.75], "warmup": 0.1}},
    "a replayed profile": {"retrain.profile": {"name": "replay", "of": {"name": "step"}, "first": 0.5}},
    "an optimizer": {"retrain.optimizer": {"name": "adamw", "betas": [0.9, 0.99]}},
    "a preset of an arm": {"arms/silo": {"preset": "silo", "eps": 0.03, "delta": 0.04, "epochs": 2}},
    "a preset with its mode": {"arms/flat": {"mode": "schedule", "preset": "lr-warmup", "max_lr": 0.1}},
    "a rewinding preset": {"arms/wr": {"preset": "weight-rewinding", "to": "1 ep"}},
    "open constants": {"arms/silo": SILO, "pilot": PILOT},
    "ends of another arm": {
        "arms/silo": SILO,
        "arms/flat": {"mode": "schedule", "schedule": "constant", "ends": {"arm": "silo", "end": "high"}},
        "pilot": PILOT,
    },
    "a grid of given rates": {"arms/greedy": {"mode": "oracle", "grid": {"rates": [0.01, 0.1, 1.0]}}},
    "a guided oracle": {
        "arms/greedy": {"mode": "oracle", "guided": {"low": 0.01, "high": 1, "trials": 5}, "tests": ["silo"]}
    },
    "a tuned arm": {"arms/tuned": {**TUNE, "q": [0, 2], "rungs": [1], "over": [0.1, 0.9]}},
    "a user's schedule": {"arms/mine": {"mode": "schedule", "schedule": {"function": "mine:peak", "version": "2"}}},
    "a checkpoint": {"dense": {"checkpoint": "weights.safetensors"}},
    "a whole number for a share of seconds": {"cluster.partial_seconds": 0},
    "a task by a word": {"task": "binary"},
    "a task with a loss": {"task": {"name": "regression", "loss": {"name": "huber", "delta": 0.5}, "also": ["r2"]}},
    "a user's task": {"task": {"function": "mine:T", "version": "1", "score": {"name": "iou", "share": True}}},
    "images of a folder": {"data": {"name": "folder", "path": "${HOME}/images", "size": 32, "stream": True}},
}  # fmt: skip
BAD: dict[str, dict[str, Any]] = {
    "an unknown key": {"prune.rte": 0.2},
    "an unknown section": {"prun": {"rate": 0.2}},
    "an unknown key of an arm": {"arms/silo": {**SILO, "budget": 3}, "pilot": PILOT},
    "a word for a number": {"retrain.epochs": "3"},
    "a share above one": {"prune.rate": 1.5},
    "no share": {"prune.rate": 0.0},
    "rate and targets": {"prune.targets": [0.5, 0.4, 0.3]},
    "a truth value for a number": {"retrain.batch": True},
    "a number for a truth value": {"data.pool": 1},
    "half an epoch": {"retrain.epochs": 1.5},
    "no cycle": {"cycles": 0},
    "an unknown mode": {"arms/silo": {"mode": "schedul", "schedule": "silo"}},
    "no mode": {"arms/silo": {"schedule": {"name": "constant", "max_lr": 0.1}}},
    "the keys of another mode": {"arms/silo": {"mode": "oracle", "schedule": "silo"}},
    "an unknown schedule": {"arms/silo": {"mode": "schedule", "schedule": "slio"}},
    "one constant of two": {"arms/silo": {"mode": "schedule", "schedule": {"name": "silo", "eps": 0.1}}},
    "an unknown constant": {"arms/silo": {"mode": "schedule", "schedule": {"name": "constant", "maxlr": 0.1}}},
    "a word that needs an argument": {"arms/linear": {"mode": "schedule", "schedule": "linear"}, "pilot": PILOT},
    "an unknown preset": {"arms/silo": {"preset": "slio"}},
    "another preset's argument": {"arms/silo": {"preset": "lr-warmup", "eps": 0.1}},
    "a preset of another mode": {"arms/silo": {"preset": "lr-warmup", "mode": "oracle"}},
    "a preset and a schedule": {"arms/silo": {"preset": "lr-warmup", "schedule": "constant"}},
    "an oracle without rates": {"arms/greedy": {"mode": "oracle"}},
    "an oracle with two searches": {
        "arms/greedy": {**plain.ORACLE, "guided": {"low": 0.01, "high": 1, "trials": 5}}
    },
    "half a grid": {"arms/greedy": {"mode": "oracle", "grid": {"low": 0.01, "points": 3}}},
    "an unknown sampler": {"arms/tuned": {**TUNE, "sampler": "bo"}},
    "three ends": {"arms/tuned": {**TUNE, "eps": [0.1, 0.2, 0.3]}},
    "a share of a cycle": {"arms/tuned": {**TUNE, "q": [0, 1.5]}},
    "an unknown network": {"model": "resnet21"},
    "an unknown argument of a network": {"model": {"name": "resnet20", "deep": 3}},
    "an unknown word of a network": {"model": {"name": "vgg19", "head": "none"}},
    "a function without a version": {"model": {"function": "mine:net"}},
    "a name and a function": {"model": {"name": "resnet20", "function": "mine:net", "version": "1"}},
    "no path to a function": {"model": {"function": "net", "version": "1"}},
    "an unknown data set": {"data.name": "digit"},
    "a data set without its path": {"data": {"name": "folder"}},
    "a mean without its deviation": {"data.mean": [0.5]},
    "an unknown augmentation": {"data.augment": ["mixup"]},
    "an unknown optimizer": {"retrain.optimizer": {"name": "sgdd"}},
    "an optimizer without a name": {"retrain.optimizer": {"momentum": 0.9}},
    "an unknown profile": {"retrain.profile": "cosin"},
    "an unknown criterion": {"prune.criterion": "magnitud"},
    "an argument of no criterion": {"prune.criterion": {"name": "magnitude", "images": 3}},
    "a point that is none": {"prune.after_prune": "rewind", "prune.rewind_to": "1 epoch"},
    "a checkpoint that is trained": {"dense.checkpoint": "weights.safetensors"},
    "a seed twice": {"replicates.seeds": [1, 1]},
    "no seed": {"replicates.seeds": []},
    "a seed below 0": {"replicates.seeds": [-1]},
    "no arm": {"arms": {}},
    "a blank in an arm's name": {"arms/my arm": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.1}}},
    "no data": {"data": None},
    "a name that is no folder's": {"name": "../up"},
    "an unknown precision": {"retrain.precision": "fp8"},
    "an unknown task": {"task": "ranking"},
    "a task of no kind": {"task": {"score": "auroc"}},
    "a user's task without a score": {"task": {"function": "mine:T", "version": "1"}},
    "another study preset": {"preset": "authors-2024"},
}  # fmt: skip


@pytest.mark.parametrize("changes", GOOD.values(), ids=GOOD)
def test_both_accept(changes: dict[str, Any]) -> None:
    table = plain.table(changes)
    assert [error.message for error in VALIDATOR.iter_errors(table)] == []
    assert loads(table)


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD)
def test_both_refuse(changes: dict[str, Any]) -> None:
    table = plain.table(changes)
    assert not accepts(table)
    assert not loads(table)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_an_arm(name: str) -> None:
    assert accepts(plain.table({"arms/one": {"preset": name}}))
    assert not accepts(plain.table({"arms/one": {"preset": name, "nothing": 1.0}}))


@pytest.mark.parametrize("name", ["authors-2023", {"name": "authors-2023", "network": "vgg19", "without": ["reinit"]}])
def test_a_study_preset_needs_but_a_name(name: Any) -> None:
    for table in ({"name": "theirs", "preset": name}, {"name": "t", "preset": name, "retrain": {"batch": 32}}):
        assert accepts(table)
        assert loads(table)
    for table in ({"preset": name}, {"name": "theirs", "preset": name, "retrain": {"bach": 32}}):
        assert not accepts(table)
        assert not loads(table)


def sections() -> Iterator[tuple[str, str]]:
    parts = study_schema()["$defs"]
    for key, value in study_schema()["properties"].items():
        for part in value.get("allOf", []):
            inner = parts[part["$ref"].rsplit("/", 1)[1]].get("properties", {})
            yield from ((key, name) for name in inner if (key, name) != ("data", "args"))  # a table of anything


@pytest.mark.parametrize(("section", "key"), list(sections()), ids=lambda word: word)
def test_both_refuse_a_key_of_another_type(section: str, key: str) -> None:
    """A table of an unknown key is a value of no key."""
    table = plain.table({"pilot": PILOT, "arms/silo": SILO} if section == "pilot" else {})
    table[section] = {**table.get(section, {}), key: {"no": {"such": "value"}}}
    assert not loads(table)
    assert not accepts(table)


def test_a_small_form_of_a_study_is_accepted_too() -> None:
    study = load_study(EXPERIMENTS / "digits.toml", smoke=True)
    again = json.loads(json.dumps(study.model_dump(mode="json", exclude_none=True)))
    for arm in again["arms"].values():
        assert arm.pop("preset", None) is None
    assert [error.message for error in VALIDATOR.iter_errors(again)] == []


def test_no_pattern_is_of_python_alone() -> None:
    """Editors read patterns as JavaScript does: no named groups, no \\A, no flags."""
    patterns = re.findall(r'"pattern": "((?:[^"\\]|\\.)*)"', schema_text())
    assert patterns
    assert [pattern for pattern in patterns if re.search(r"\(\?P|\\\\A|\\\\Z|\(\?[aiLmsux]", pattern)] == []
