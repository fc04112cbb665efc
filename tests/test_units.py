from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from silo_tune.planner.candidates import peak_of
from silo_tune.planner.unit import Unit, canonical, canonical_json, make_unit
from silo_tune.schedules.shapes import PROFILES, make_profile
from silo_tune.study.arms import ScheduleArm
from silo_tune.study.model import Study
from tests.plain import study

PARENT = hashlib.sha256(b"parent").hexdigest()
ALLR = {"mode": "schedule", "schedule": {"name": "allr", "max_lr": 0.1}}


def unit(
    changes: Mapping[str, Any] | None = None, arm: str = "silo", cycle: int = 2, made: Study | None = None, **more: Any
) -> Unit:
    made = made or study(changes)
    chosen = made.arms[arm]
    assert isinstance(chosen, ScheduleArm)
    settings = made.settings(chosen)
    if cycle == 0 and not settings.own_dense:
        peak: Any = {"value": made.dense.max_lr} if made.dense.checkpoint is None else None
    else:
        peak = peak_of(made.schedule_of(chosen), cycle, made.pruned, arm)
    fixed = {"parent": None if cycle == 0 else PARENT, "cycle": cycle, "seed": 0, "peak": peak, **more}
    return make_unit(made, settings, **fixed)


LAYERWISE = {
    "prune": {"rate": 0.35, "scope": "layerwise", "skip": ["fc.*"], "criterion": "random"},
    "data": {"name": "cifar10", "augment": ["flip", "crop"], "train_examples": 8000},
    "model": {"name": "resnet8", "width": 8},
}
ADAMW = {"retrain.optimizer": {"name": "adamw", "weight_decay": 0.05}, "retrain.precision": "bf16"}
TEN: dict[str, tuple[Unit, str]] = {
    "dense": (unit(cycle=0), "3a3370ee0661c39533b00c63f431f458d029d6c751e4c3293660afb531367f2d"),
    "cycle 2": (unit(), "9bc4c3e3027ee91907fc993f4d9f46737ee53a80c28f183f12c3caa9da1acb8d"),
    "another seed": (unit(seed=7), "59d008d970393afeb6c0aa182665f6bcb3b3a6bebd659c4d5961b71c8546a3ec"),
    "a repeat": (unit(repeat=1), "8b4119b940aae85cea82c17fecec861c07c5ffcfd549a6a0278aed259e556738"),
    "a rule": (
        unit({"arms.allr": ALLR}, arm="allr"),
        "eeb843d5f58c023ff185bdc4cfd85158b7cf0894bf17787c896cce2e97ed1df1",
    ),
    "rewind": (
        unit({"prune.after_prune": "rewind", "prune.rewind_to": "1 ep"}),
        "f196f3dc88e6a3c3edcb6eefa5bff95ecaff8d34c71de4baf0cc58bc461dfc08",
    ),
    "reinit": (
        unit({"prune.after_prune": "reinit", "retrain.profile": "warmup-drop-vgg"}),
        "a1770fa2e5352724156e30c656e4e2514ee61e0441115a6696a200d62bc0feb6",
    ),
    "layerwise": (unit(LAYERWISE), "d524e6a4579fa9badbd4751bc59b0bb1ac0972d3a28d810ae10af83a5feae564"),
    "adamw": (unit(ADAMW), "7d9ea20769315eae4266d7d23a8e4d296db9181556bc73964b62dc0254b9f87e"),
    "a checkpoint": (
        unit({"dense": {"checkpoint": "w.safetensors"}}, cycle=0, checkpoint="ab" * 32),
        "6432b3d3597182f446ab754dfc8bde0023336fc60a0f8621f4d347d5a8f167a9",
    ),
}


@pytest.mark.parametrize("name", TEN)
def test_golden_keys(name: str) -> None:
    made, key = TEN[name]
    assert made.key == key


def test_the_key_is_the_sha256_of_canonical_json_written_by_hand() -> None:
    text = (
        '{"augmentation":{"augment":[]},"batch":32,"checkpoint":null,"cycle":0,"data":{"args":{},"name":"digits"},'
        '"epochs":2,"model":{"name":"lenet-300-100"},"optimizer":{"momentum":0.9,"name":"sgd","nesterov":false,'
        '"weight_decay":0.0005},"parent":null,"peak":{"value":0.05},"precision":"fp32","profile":{"drops":'
        '[0.666666666667,0.833333333333],"factor":0.1,"name":"warmup-drop","warmup":0.666666666667},"prune":null,'
        '"recipe":1,"repeat":0,"seed":0,"split":{"split_seed":0,"test_share":0.2,"val_share":0.2}}'
    )
    assert canonical_json(unit(cycle=0).spec) == text
    assert unit(cycle=0).key == hashlib.sha256(text.encode()).hexdigest()


# --- what a key does not hold ---


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"cycles": 25},
        {"data.path": "elsewhere"},
        {"data.download": False},
        {"data.pool": False},
        {"cluster": {"device": "cuda", "gpus_per_unit": 1, "cpus_per_unit": 4, "max_concurrent": 3, "keep": "all"}},
        {"replicates.seeds": [0, 5, 6]},
        {"report": {"tolerance": 0.1, "title": "x"}},
        {"arms.linear": None},
        {"arms.allr": ALLR},
        {"arms.greedy.grid.points": 9},
        {"arms.constant.epochs": 9},
        {"dense.epochs": 99},  # the parent's key holds the dense training
        {"dense.max_lr": 0.9},
        {"dense.profile": "cosine"},
        {"prune.rewind_to": "1 ep"},  # nothing rewinds
        {"data.crop_padding": 8},  # nothing is cropped
        {"retrain.profile": {"name": "warmup-drop", "warmup": 2 / 3, "drops": [2 / 3, 5 / 6], "factor": 0.1}},
        {"retrain.optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 0.0005}},
    ],
)
def test_a_key_does_not_change_with_what_cannot_change_the_unit(changes: Mapping[str, Any]) -> None:
    assert unit(changes).key == unit().key


def test_how_images_are_read_is_not_in_the_key_and_their_size_is() -> None:
    def key(**more: Any) -> str:
        return unit({"data": {"name": "imagenet", "path": "a", **more}}).key

    assert key() == key(size=224) == key(stream=False) == key(stream=True, workers=3, path="b")
    assert len({key(), key(size=64), key(augment=["rrc"]), key(augment=["rrc", "flip"])}) == 4


def test_a_key_does_not_hold_the_arm() -> None:
    changes = {"arms/another.name": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.03}}}
    made = study(changes)
    assert unit(made=made, arm="another.name").key == unit(made=made, arm="constant").key
    same = {"arms.constant.epochs": 1, "arms.constant.profile": "warmup-drop", "arms.constant.after_prune": "keep"}
    assert unit(same, arm="constant").key == unit(made=made, arm="constant").key


def test_an_early_cycle_has_one_key_whether_silo_or_its_constant_asks() -> None:
    assert unit(cycle=1).key == unit(cycle=1, arm="constant").key
    assert unit(cycle=3).key != unit(cycle=3, arm="constant").key


def test_eps_plus_delta_is_one_rate_however_it_was_computed() -> None:
    made = study({"arms.other": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.1 + 0.2}}})
    plain = study({"arms.other": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.3}}})
    assert unit(made=made, arm="other").key == unit(made=plain, arm="other").key


def test_a_dense_unit_ignores_the_settings_of_arms_that_share_it() -> None:
    silo: dict[str, Any] = {"mode": "schedule", "schedule": {"name": "silo", "eps": 0.3, "delta": 0.4}}
    silo |= {"epochs": 9, "profile": "cosine", "after_prune": "reinit"}
    several: list[Mapping[str, Any]] = [
        {"arms.silo": silo}, {"prune.rate": 0.5}, {"retrain.epochs": 9}, {"retrain.profile": "cosine"},
    ]  # fmt: skip
    for changes in several:
        assert unit(changes, cycle=0).key == unit(cycle=0).key


def test_an_arm_with_its_own_dense_trains_it_with_its_own_profile_and_peak() -> None:
    changes = {"arms.linear.own_dense": True, "arms.linear.profile": "cosine"}
    own = unit(changes, arm="linear", cycle=0)
    assert own.profile["name"] == "cosine"
    assert own.peak == {"value": 0.03}
    assert own.epochs == 2
    assert own.key != unit(cycle=0).key


# --- what a key holds ---


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, Mapping) and value:
        for key in value:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path, value


def perturbed(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value * (1 + 1e-9) + 1e-9 if isinstance(value, float) else value + 1
    if isinstance(value, str):
        return value + "x"
    return "something" if value is None else [*value, "more"] if isinstance(value, list) else {"more": 1}


@pytest.mark.parametrize("name", TEN)
def test_a_key_changes_with_every_resolved_value(name: str) -> None:
    made, _ = TEN[name]
    seen = {made.key}
    found = list(leaves(made.spec))
    for path, value in found:
        if path == ("prune",):
            continue  # a dense unit has none
        spec = json.loads(json.dumps(made.spec))
        place = spec
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = perturbed(value)
        seen.add(Unit.from_spec(spec).key)
    assert len(seen) == 1 + len(found) - (made.prune is None)


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"name": "mnist"}},
        {"data.val_share": 0.3},
        {"data.split_seed": 1},
        {"data.pool": True},
        {"data.train_examples": 100},
        {"data.test_examples": 100},
        {"data.augment": ["flip"]},
        {"model.name": "resnet8"},
        {"prune.rate": 0.3},
        {"prune.criterion": "random"},
        {"prune.scope": "layerwise"},
        {"prune.skip": ["fc.*"]},
        {"prune.norm_scales": True},
        {"prune": {"targets": [0.8, 0.6, 0.5]}},
        {"prune": {"criterion": "l1-filter", "granularity": "filter"}},
        {"prune.criterion": {"name": "gradient", "images": 100}},
        {"prune.after_prune": "reinit"},
        {"prune.after_prune": "rewind"},
        {"arms.silo.after_prune": "rewind", "arms.silo.rewind_to": "1 it"},
        {"retrain.epochs": 2},
        {"arms.silo.epochs": 3},
        {"retrain.batch": 64},
        {"retrain.precision": "bf16"},
        {"retrain.profile": "cosine"},
        {"arms.silo.profile": "linear"},
        {"retrain.optimizer": {"name": "sgd", "momentum": 0.8}},
        {"retrain.optimizer": {"name": "sgd", "nesterov": True}},
        {"retrain.optimizer": {"name": "adamw"}},
        {"arms.silo.schedule.eps": 0.031},
    ],
)
def test_a_key_changes_with_every_study_value_that_changes_the_unit(changes: Mapping[str, Any]) -> None:
    assert unit(changes).key != unit().key


def test_keys_differ_by_seed_repeat_cycle_parent_and_peak() -> None:
    several = [
        unit(), unit(seed=1), unit(repeat=1), unit(cycle=3), unit(cycle=3, arm="constant"), unit(parent="0" * 64),
        unit(peak={"value": 0.5}), unit(peak={"rule": "allr", "args": {"max_lr": 0.5, "train_epochs": 2}}),
        unit(peak={"rule": "allr", "args": {"max_lr": 0.5, "train_epochs": 3}}),
    ]  # fmt: skip
    assert len({one.key for one in several}) == len(several)


def test_the_pretrained_content_is_in_the_key_of_its_unit() -> None:
    changes = {"dense": {"checkpoint": "w.safetensors"}}
    first, second = (unit(changes, cycle=0, checkpoint=content * 32) for content in ("ab", "cd"))
    assert first.key != second.key
    assert first.epochs == 0
    assert first.peak is None


# --- canonical numbers ---


def test_numbers_are_rounded_to_twelve_significant_digits() -> None:
    assert canonical(0.1 + 0.2) == canonical(0.3) == 0.3
    assert canonical_json(0.123456789012349) == canonical_json(0.123456789012) == "0.123456789012"
    assert canonical_json(0.123456789012) != canonical_json(0.123456789013)
    assert canonical_json(1.23456789012e-30) != canonical_json(1.23456789013e-30)


def test_an_integral_float_is_its_integer() -> None:
    assert canonical_json(1.0) == canonical_json(1) == "1"
    assert canonical_json(-0.0) == "0"
    assert canonical_json({"eps": 2.0, "list": (1.0, 2.5)}) == '{"eps":2,"list":[1,2.5]}'
    assert canonical_json(True) == "true"


def test_canonical_is_idempotent_and_independent_of_the_order_of_keys() -> None:
    rng = random.Random(0)
    for _ in range(300):
        table = {f"k{i}": rng.uniform(-1, 1) * 10 ** rng.randint(-12, 12) for i in range(5)}
        again = dict(rng.sample(sorted(table.items()), 5))
        assert canonical(canonical(table)) == canonical(table)
        assert canonical_json(again) == canonical_json(json.loads(canonical_json(table))) == canonical_json(table)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, {"a": [math.nan]}])
def test_nan_and_infinity_have_no_key(bad: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(bad)


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(TypeError, match="not a JSON value"):
        canonical({"a": object()})


# --- a unit travels as its spec ---


@pytest.mark.parametrize("name", TEN)
def test_a_unit_survives_its_spec_through_json(name: str) -> None:
    made, _ = TEN[name]
    again = Unit.from_spec(json.loads(json.dumps(made.spec)))
    assert again.key == made.key
    assert again.spec == made.spec


@pytest.mark.parametrize("name", TEN)
def test_a_unit_holds_the_very_numbers_of_its_key(name: str) -> None:
    made, _ = TEN[name]
    again = Unit.from_spec(json.loads(json.dumps(made.spec)))
    differing = {
        path: (value, theirs)
        for (path, value), (_, theirs) in zip(
            leaves(json.loads(json.dumps(vars_of(made)))), leaves(json.loads(json.dumps(vars_of(again)))), strict=True
        )
        if value != theirs
    }
    assert differing == {}


def vars_of(made: Unit) -> dict[str, Any]:
    fields = {key: getattr(made, key) for key in made.__dataclass_fields__}
    return {**fields, "prune": None if made.prune is None else vars(made.prune)}


@pytest.mark.parametrize("name", PROFILES)
def test_a_unit_and_its_copy_from_json_train_at_the_same_rate_in_every_step(name: str) -> None:
    here = unit({"retrain.profile": name})
    there = Unit.from_spec(json.loads(json.dumps(here.spec)))
    shapes = []
    for one in (here, there):
        args = {key: value for key, value in one.profile.items() if key != "name"}
        profile = make_profile(one.profile["name"], args)
        shapes.append({total: [profile(step, total) for step in range(total)] for total in range(1, 101)})
    assert [total for total in shapes[0] if shapes[0][total] != shapes[1][total]] == []


def test_a_target_has_one_key_however_it_was_asked_for() -> None:
    asked = study({"prune": {"targets": [0.8, 0.64, 0.512]}})
    assert [unit(made=asked, cycle=cycle).key for cycle in (1, 2, 3)] == [unit(cycle=cycle).key for cycle in (1, 2, 3)]


def test_a_choice_at_its_default_is_not_told() -> None:
    assert "norm_scales" not in unit().spec["prune"]
    assert unit({"prune.norm_scales": True}).spec["prune"]["norm_scales"] is True
    again = Unit.from_spec(json.loads(json.dumps(unit({"prune.norm_scales": True}).spec)))
    assert again.prune is not None
    assert again.prune.norm_scales
