from __future__ import annotations

import itertools
import random
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from pydantic import ValidationError

from silo_tune.errors import BadInput, StudyError
from silo_tune.store.run_folder import Run
from silo_tune.study import registry
from silo_tune.study.arms import OracleArm, ScheduleArm
from silo_tune.study.model import Study
from silo_tune.study.places import expand
from silo_tune.study.study_file import load_study, parse_study, smoke_table
from tests.plain import TABLE, study, table

SILO = {"name": "silo", "eps": 0.03, "delta": 0.04}
ALLR = {"mode": "schedule", "schedule": {"name": "allr", "max_lr": 0.1}}
USERS = {"mode": "schedule", "schedule": {"function": "mine:peak", "version": "1", "scale": 2}}


def problems(changes: Mapping[str, Any]) -> dict[str, str]:
    with pytest.raises(StudyError) as caught:
        study(changes)
    assert caught.value.exit_code == 2
    return dict(caught.value.problems)


# --- what is refused, where, and how ---

FILTERS = {"granularity": "filter", "criterion": "l1-filter"}
BAD: list[tuple[Mapping[str, Any], str, str]] = [
    ({"cycels": 4}, "cycels", "unknown key; choose from arms, cluster, cycles, data"),
    ({"cycles": 0}, "cycles", "greater than or equal to 1"),
    ({"cycles": None}, "cycles", "missing"),
    ({"name": "../up"}, "name", "letters, digits"),
    ({"name": ""}, "name", "letters, digits"),
    ({"data": None}, "data", "missing"),
    ({"model": None}, "model", "missing"),
    ({"dense": None}, "dense", "missing"),
    ({"retrain": None}, "retrain", "missing"),
    ({"replicates": None}, "replicates", "missing"),
    ({"arms": None}, "arms", "missing"),
    ({"arms": {}}, "arms", "at least one arm"),
    ({"arms/..": {"mode": "schedule", "schedule": SILO}}, "arms...", "an arm's name is letters"),
    ({"arms/a b": {"mode": "schedule", "schedule": SILO}}, "arms.a b", "an arm's name is letters"),
    ({"data.name": "digit"}, "data", "unknown data set 'digit'; choose from arrays, cifar10, cifar100, digits"),
    ({"data.name": None}, "data", "give either name or function"),
    ({"data.function": "m:f"}, "data", "give either name or function"),
    ({"data": {"function": "m:f"}}, "data", "a function needs a version"),
    ({"data": {"function": "m.f", "version": "1"}}, "data", 'is written "package.module:name"'),
    ({"data.size": 32}, "data", "data set 'digits' takes no 'size'; it takes nothing"),
    ({"data": {"name": "folder"}}, "data", "needs a path"),
    ({"data": {"name": "imagenet"}}, "data", "needs a path"),
    ({"data.stream": True}, "data", "data set 'digits' is held in memory; those that can be streamed are folder"),
    ({"data": {"function": "m:f", "version": "1", "stream": True}}, "data", "a function's images are held in memory"),
    ({"data.workers": 2}, "data", "workers read a streamed set, or the items of a function"),
    ({"data.workers": -1}, "data.workers", "greater than or equal to 0"),
    ({"data.augment": ["rrc"]}, "data", '"rrc" crops the images as they are on disk'),
    (
        {"data": {"name": "imagenet", "path": "x", "augment": ["rrc", "crop"]}},
        "data",
        '"crop" and "rrc" are two ways to crop; choose one',
    ),
    ({"data.val_share": 1.0}, "data.val_share", "less than 1"),
    ({"data.val_share": 0}, "data.val_share", "greater than 0"),
    ({"data.augment": ["turn"]}, "data.augment.0", "unknown value 'turn'; choose from crop, flip, rrc"),
    (
        {"model.name": "resnet9"},
        "model",
        "unknown model 'resnet9'; choose from dcn-v2, densenet40, gpt, hf:NAME, lenet-300-100",
    ),
    ({"model.width": 8}, "model", "takes no 'width'"),
    ({"model": {"name": "vgg19", "head": "big"}}, "model", "unknown head 'big'; choose from linear, imagenet"),
    ({"dense.epochs": 0}, "dense.epochs", "greater than or equal to 1"),
    ({"dense.epochs": None}, "dense", "give epochs and max_lr, or a checkpoint"),
    ({"dense.max_lr": 0}, "dense.max_lr", "greater than 0"),
    ({"dense.max_lr": -0.1}, "dense.max_lr", "greater than 0"),
    ({"dense.max_lr": float("inf")}, "dense.max_lr", "finite"),
    ({"dense.max_lr": float("nan")}, "dense.max_lr", ""),
    ({"dense.profile": "warmup"}, "dense.profile", "unknown profile 'warmup'; choose from constant"),
    ({"dense.checkpoint": "w.safetensors"}, "dense", "not trained again: leave epochs and max_lr out"),
    ({"dense": {"checkpoint": "timm"}}, "dense.checkpoint", "needs a model named timm:NAME"),
    ({"prune.rate": 0}, "prune.rate", "greater than 0"),
    ({"prune.rate": 1}, "prune.rate", "less than 1"),
    ({"prune.rate": -0.2}, "prune.rate", "greater than 0"),
    ({"prune.criterion": "magnitudes"}, "prune.criterion", "unknown criterion 'magnitudes'; choose from entropy, grad"),
    ({"prune.criterion": {"name": "snip", "images": 5}}, "prune.criterion", "takes no 'images'; it takes per_class"),
    ({"prune.criterion": {"name": "snip", "per_class": 0}}, "prune.criterion", "per_class is a count of at least 1"),
    ({"prune.criterion": {"name": "gradient", "images": 0.5}}, "prune.criterion", "at least 1, got 0.5"),
    ({"prune.scope": "local"}, "prune.scope", "unknown value 'local'; choose from global, layerwise"),
    ({"prune.granularity": "channel"}, "prune.granularity", "choose from 2:4, filter, weight"),
    (
        {"prune.granularity": "filter"},
        "prune.criterion",
        "choose from entropy, l1-filter, mean-activation, ",
    ),
    (
        {"prune.criterion": "l1-filter"},
        "prune.criterion",
        "scores filters, and granularity is 'weight'",
    ),
    ({"prune": {**FILTERS, "norm_scales": True}}, "prune.norm_scales", "it prunes single weights"),
    ({"prune.targets": [0.5, 0.4, 0.3]}, "prune.targets", "give rate or targets, not both"),
    ({"prune": {"targets": []}}, "prune.targets", "each below the one before; got []"),
    ({"prune": {"targets": [0.5, 0.5, 0.3]}}, "prune.targets", "each below the one before"),
    ({"prune": {"targets": [1.0, 0.5, 0.3]}}, "prune.targets.0", "less than 1"),
    ({"prune": {"targets": [0.5, 0.3, 0.0]}}, "prune.targets.2", "greater than 0"),
    ({"prune": {"targets": [0.5, 0.3]}}, "prune.targets", "2 targets for 4 cycles: give one for each of cycles 1 to 3"),
    (
        {"dense": {"checkpoint": "w.safetensors"}, "prune.criterion": "last-change"},
        "prune.criterion",
        "'last-change' looks at the last epoch before a prune; a checkpoint in [dense] has none",
    ),
    ({"prune.after_prune": "reset"}, "prune.after_prune", "choose from keep, reinit, rewind"),
    ({"prune.rewind_to": "5 epochs"}, "prune.rewind_to", '"K ep"'),
    ({"prune.rewind_to": "0 ep"}, "prune.rewind_to", '"K ep"'),
    ({"arms.silo.rewind_to": "it 5"}, "arms.silo.rewind_to", '"K ep"'),
    ({"retrain.batch": 0}, "retrain.batch", "greater than or equal to 1"),
    ({"retrain.optimizer": {"name": "adam"}}, "retrain.optimizer", "unknown optimizer 'adam'; choose from Adam"),
    ({"retrain.optimizer": {"momentum": 0.9}}, "retrain.optimizer", "give either name or function"),
    ({"retrain.optimizer": {"name": "sgd", "momentum": 1}}, "retrain.optimizer.momentum", "less than 1"),
    (
        {"retrain.optimizer": {"name": "sgd", "betas": [0.9, 0.99]}},
        "retrain.optimizer.betas",
        "unknown key; choose from momentum, name, nesterov, weight_decay",
    ),
    ({"retrain.optimizer": {"name": "sgd", "momentum": 0, "nesterov": True}}, "retrain.optimizer", "nesterov needs"),
    ({"retrain.precision": "fp8"}, "retrain.precision", "choose from bf16, fp16, fp32"),
    ({"replicates.seeds": []}, "replicates.seeds", "at least one seed"),
    ({"replicates.seeds": [1, 2, 1]}, "replicates.seeds", "each once, got [1, 2, 1]"),
    ({"replicates.seeds": [-1]}, "replicates.seeds.0", "greater than or equal to 0"),
    ({"arms.silo.mode": "tuned"}, "arms.silo", "unknown mode 'tuned'; choose from oracle, schedule"),
    ({"arms.silo.mode": None}, "arms.silo", "missing 'mode'"),
    (
        {"arms.silo.scheduel": 1},
        "arms.silo.scheduel",
        "unknown key; choose from after_prune, best_of, ends, epochs, mode",
    ),
    ({"arms.silo.schedule.name": "slio"}, "arms.silo.schedule", "unknown schedule 'slio'; choose from allr"),
    ({"arms.silo.schedule.gamma": 1}, "arms.silo.schedule", "silo takes no 'gamma'; it takes eps, delta"),
    ({"arms.silo.schedule.eps": 0}, "arms.silo.schedule", "eps must be above 0"),
    ({"arms.silo.schedule.eps": float("inf")}, "arms.silo.schedule", "inf"),
    ({"arms.silo.schedule.q": 1.5}, "arms.silo.schedule", "q"),
    ({"arms.silo.schedule": {"function": "f", "version": "1"}}, "arms.silo.schedule", 'is written "package.module'),
    ({"arms.silo.schedule": {"function": "m:f"}}, "arms.silo.schedule", "a function needs a version"),
    ({"arms.silo.profile": {"function": "m:f"}}, "arms.silo.profile", "a function needs a version"),
    ({"arms.silo.epochs": 0}, "arms.silo.epochs", "greater than or equal to 1"),
    ({"arms.greedy.grid": {"rates": [0.1, 0.01]}}, "arms.greedy.grid", "rates rise, each given once"),
    ({"arms.greedy.grid": {"rates": [0.1, 0.1]}}, "arms.greedy.grid", "rates rise, each given once"),
    ({"arms.greedy.grid": {"rates": []}}, "arms.greedy.grid.low", "missing"),
    ({"arms.greedy.grid.rates": [0.02, 0.1]}, "arms.greedy.grid", "both say the grid; give one"),
    ({"arms.greedy.grid.low": 2.0}, "arms.greedy.grid", "low 2.0 must be below high 1.0"),
    ({"arms.greedy.grid.points": 1}, "arms.greedy.grid", "one point is no grid from low 0.01 to high 1.0"),
    ({"arms.greedy.grid.low": 0}, "arms.greedy.grid.low", "greater than 0"),
    ({"arms.greedy.grid.points": 0}, "arms.greedy.grid.points", "greater than or equal to 1"),
    ({"arms.greedy.grid.steps": 9}, "arms.greedy.grid.steps", "unknown key; choose from high, low, points"),
    ({"arms.greedy.prefix": "silo"}, "arms.greedy.prefix", '"own" or "arm:NAME"'),
    ({"arms.greedy.prefix": "arm:slio"}, "arms.greedy.prefix", "unknown schedule arm 'slio'; choose from constant"),
    ({"arms.greedy.prefix": "arm:conditioned"}, "arms.greedy.prefix", "unknown schedule arm 'conditioned'"),
    ({"arms.silo.own_dense": True}, "arms.conditioned.prefix", "own_dense differs from that of 'silo'"),
    ({"arms.greedy.tests": ["slio"]}, "arms.greedy.tests", "unknown schedule arm 'slio'; choose from"),
    ({"arms.greedy.tests": ["conditioned"]}, "arms.greedy.tests", "unknown schedule arm"),
    ({"arms.allr": ALLR, "arms.greedy.tests": ["allr"]}, "arms.greedy.tests", "its peak is adaptive"),
    ({"arms.linear.epochs": 7, "arms.greedy.tests": ["linear"]}, "arms.greedy.tests", "its epochs differ from"),
    ({"arms.greedy.profile": "constant", "arms.greedy.tests": ["silo"]}, "arms.greedy.tests", "its profile differ"),
    (
        {"arms.linear.after_prune": "rewind", "arms.greedy.tests": ["linear"]},
        "arms.greedy.tests",
        "its after_prune, rewind_to differ",
    ),
    ({"arms.allr": {**ALLR, "own_dense": True}}, "arms.allr.own_dense", "undefined before the first prune"),
    (
        {"dense": {"checkpoint": "w.safetensors"}, "arms.allr": ALLR},
        "arms.allr.schedule",
        "needs train_epochs, because [dense] is a checkpoint",
    ),
    ({"dense": {"checkpoint": "w.safetensors"}, "prune.after_prune": "rewind"}, "arms.silo", "cannot rewind"),
    ({"dense": {"checkpoint": "w.safetensors"}, "arms.silo.own_dense": True}, "arms.silo.own_dense", "beside a check"),
    ({"prune.after_prune": "rewind", "prune.rewind_to": "3 ep"}, "prune.rewind_to", "3 ep"),  # dense has 2 epochs
    ({"report.tolerance": 0}, "report.tolerance", "greater than 0"),
    ({"report.schedule": "slio"}, "report.schedule", "unknown arm 'slio'; choose from conditioned, constant"),
    ({"report.schedule": "greedy"}, "report.schedule", "'greedy' is not a schedule arm; name one"),
    ({"cluster.cpus_per_unit": 0}, "cluster.cpus_per_unit", "greater than or equal to 1"),
    ({"cluster.keep": "some"}, "cluster.keep", "choose from all, chains, needed"),
    ({"cluster.gpus": 1}, "cluster.gpus", "unknown key; choose from cpus_per_unit"),
]


@pytest.mark.parametrize(("changes", "path", "words"), BAD)
def test_a_bad_value_is_refused_at_its_key(changes: Mapping[str, Any], path: str, words: str) -> None:
    found = problems(changes)
    assert path in found, found
    assert words in found[path]


def test_all_mistakes_of_a_file_are_reported_at_once() -> None:
    mistakes = {
        "cycels": 4,
        "data.name": "digit",
        "prune.rate": 1.5,
        "retrain.optimizer": {"name": "sgd", "momentun": 0.9},
        "replicates.seeds": [1, 1],
        "arms.silo.schedule.eps": 0,
        "arms.greedy.grid.low": 2.0,
        "cluster.gpus": 1,
    }
    found = problems(mistakes)
    assert set(found) == {
        "cycels", "data", "prune.rate", "retrain.optimizer.momentun", "replicates.seeds", "arms.silo.schedule",
        "arms.greedy.grid", "cluster.gpus",
    }  # fmt: skip


def test_all_mistakes_between_sections_are_reported_at_once() -> None:
    found = problems({"arms.greedy.tests": ["slio"], "report.schedule": "x", "arms.silo.own_dense": True})
    assert set(found) == {"arms.greedy.tests", "report.schedule", "arms.conditioned.prefix"}


def test_every_line_of_the_message_names_the_file_and_the_key() -> None:
    with pytest.raises(StudyError) as caught:
        parse_study(table({"cycles": 0, "prune.rate": 2}), "my.toml")
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[:2] for line in lines] == [["my.toml", "cycles"], ["my.toml", "prune.rate"]]


def test_an_arm_named_grid_gets_the_choices_of_an_arm() -> None:
    found = problems({"arms.grid": {**TABLE["arms"]["greedy"], "point": 3}})
    assert "prefix" in found["arms.grid.point"]


# --- what a study is ---


def test_a_study_is_frozen() -> None:
    made = study()
    with pytest.raises(ValidationError):
        made.cycles = 9
    with pytest.raises(ValidationError):
        made.retrain.batch = 1


def test_cycles_count_the_dense_one() -> None:
    made = study({"cycles": 4})
    assert made.remaining == pytest.approx([1.0, 0.8, 0.64, 0.512])
    assert made.pruned == pytest.approx([0.0, 0.2, 0.36, 0.488])


def test_an_arm_inherits_what_it_leaves_out() -> None:
    made = study({"arms.silo.epochs": 7, "prune.after_prune": "rewind", "prune.rewind_to": "1 ep"})
    silo, constant = (made.settings(made.arms[name]) for name in ("silo", "constant"))
    assert (silo.epochs, constant.epochs) == (7, 1)
    assert silo.rewind_to == constant.rewind_to == "1 ep"
    assert made.settings(study({"arms.silo.rewind_to": "1 ep"}).arms["silo"]).rewind_to == "1 ep"


def test_a_rewind_point_counts_only_when_the_arm_rewinds() -> None:
    made = study({"arms.silo.rewind_to": "1 ep"})
    assert made.settings(made.arms["silo"]).rewind_to is None


def test_an_oracle_tests_every_comparable_fixed_peak_arm_by_default() -> None:
    made = study({"arms.long": {"mode": "schedule", "schedule": SILO, "epochs": 9}, "arms.allr": ALLR})
    assert made.tests_of("greedy") == ("silo", "constant", "linear")
    assert study({"arms.greedy.tests": ["linear"]}).tests_of("greedy") == ("linear",)
    assert study({"arms.greedy.tests": []}).tests_of("greedy") == ()


def test_two_spellings_of_a_profile_are_comparable() -> None:
    explicit = {"name": "warmup-drop", "warmup": 10 / 112, "drops": [0.5, 0.75]}
    made = study({"arms.greedy.profile": "warmup-drop-vgg", "arms.silo.profile": explicit})
    assert made.tests_of("greedy") == ("silo",)


def test_a_grid_is_even_in_log_between_its_exact_ends() -> None:
    arm = study({"arms.greedy.grid": {"low": 0.01, "high": 1.0, "points": 9}}).arms["greedy"]
    assert isinstance(arm, OracleArm)
    assert arm.grid is not None
    values = arm.grid.values()
    assert values[0] == 0.01
    assert values[-1] == 1.0
    ratios = [late / early for early, late in itertools.pairwise(values)]
    assert ratios == pytest.approx([10**0.25] * 8)


def test_allr_takes_the_dense_epochs_unless_given() -> None:
    for args, expected in (({}, 2), ({"train_epochs": 50}, 50)):
        made = study({"arms.allr": {"mode": "schedule", "schedule": {"name": "allr", "max_lr": 0.1, **args}}})
        arm = made.arms["allr"]
        assert isinstance(arm, ScheduleArm)
        assert getattr(made.schedule_of(arm), "train_epochs", None) == expected


def test_a_users_function_is_not_imported_by_reading_a_study() -> None:
    study({"arms.mine": USERS, "data": {"function": "no.such:thing", "version": "1"}})


# --- written and read again ---

FULL: Mapping[str, Any] = {
    "data": {"name": "folder", "path": "${X:-y}", "size": 32, "augment": ["crop", "flip"], "train_examples": 100},
    "model": {"name": "timm:resnet18", "drop_rate": 0.1},
    "dense.profile": "warmup-drop-vgg",
    "prune": {"rate": 0.35, "scope": "layerwise", "skip": ["fc.*"], "after_prune": "rewind", "rewind_to": "1 ep"},
    "retrain.optimizer": {"name": "adamw", "betas": [0.9, 0.98], "eps": 1e-8},
    "retrain.profile": {"name": "step", "drops": [0.55, 0.775]},
    "arms.mine": USERS,
    "arms.allr": {**ALLR, "profile": {"name": "linear", "warmup": 0.1, "warmup_shape": "cosine"}},
    "arms.greedy.tests": ["silo"],
    "arms/v1.5": {"mode": "schedule", "schedule": SILO, "after_prune": "reinit"},
    "report": {"tolerance": 0.01, "title": "ε + δ"},
    "cluster": {"memory_per_unit_gb": 1.5, "max_concurrent": 2, "keep": "all"},
}


@pytest.mark.parametrize(
    "changes", [{}, FULL, {"dense": {"checkpoint": "~/w.safetensors"}}, {"data": {"function": "m:f", "version": "2"}}]
)
def test_a_study_survives_writing_and_reading(changes: Mapping[str, Any]) -> None:
    made = study(changes)
    text = tomli_w.dumps(made.model_dump(mode="json", exclude_none=True))
    assert parse_study(tomllib.loads(text)) == made


def test_random_studies_survive_writing_and_reading() -> None:
    rng = random.Random(0)
    for _ in range(20):
        chosen = {key: value for key, value in FULL.items() if rng.random() < 0.5}
        made = study({**chosen, "dense.max_lr": rng.uniform(1e-6, 10), "prune.rewind_to": f"{rng.randint(1, 2)} ep"})
        text = tomli_w.dumps(made.model_dump(mode="json", exclude_none=True))
        assert parse_study(tomllib.loads(text)) == made


# --- targets ---


def test_targets_are_the_shares_that_remain() -> None:
    made = study({"prune": {"targets": [0.5, 0.2, 0.1]}})
    assert made.remaining == [1.0, 0.5, 0.2, 0.1]
    assert made.pruned == pytest.approx([0.0, 0.5, 0.8, 0.9])
    assert made.prune.rate is None


def test_more_targets_than_cycles_wait_for_more_cycles() -> None:
    assert study({"prune": {"targets": [0.5, 0.2, 0.1, 0.05]}}).remaining == [1.0, 0.5, 0.2, 0.1]


def test_a_study_with_targets_survives_its_own_dump() -> None:
    for changes in ({"prune": {"targets": [0.5, 0.2, 0.1]}}, {}):
        made = study(changes)
        assert parse_study(made.model_dump(mode="json", exclude_none=True)) == made


def test_smoke_keeps_targets() -> None:
    small = parse_study(smoke_table(table({"prune": {"targets": [0.5, 0.2, 0.1]}})))
    assert small.remaining == [1.0, 0.5, 0.2]


# --- files, --set, smoke ---


def written(tmp_path: Path, changes: Mapping[str, Any] | None = None) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(tomli_w.dumps(table(changes)), encoding="utf-8")
    return path


def test_a_study_file_loads(tmp_path: Path) -> None:
    assert load_study(written(tmp_path)) == study()


def test_a_missing_or_unreadable_file_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no study file .*none\.toml"):
        load_study(tmp_path / "none.toml")
    with pytest.raises(BadInput, match=r"is a folder; the study of a run is its .*study\.toml"):
        load_study(tmp_path)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="save it as UTF-8"):
        load_study(tmp_path / "bytes.toml")
    (tmp_path / "broken.toml").write_text("name = \n")
    with pytest.raises(BadInput, match=r"broken\.toml:1: not valid TOML: "):
        load_study(tmp_path / "broken.toml")


@pytest.mark.parametrize(
    ("change", "path", "value"),
    [
        ("cycles=9", ("cycles",), 9),
        ("prune.rate = 0.35", ("prune", "rate"), 0.35),
        ("data.path=some/where", ("data", "path"), "some/where"),
        ('report.title="a = b"', ("report", "title"), "a = b"),
        ("report.title=a=b", ("report", "title"), "a=b"),
        ("replicates.seeds=[3, 4]", ("replicates", "seeds"), (3, 4)),
        ("cluster.keep=all", ("cluster", "keep"), "all"),
        ("data.download=false", ("data", "download"), False),
        ("arms.greedy.grid={low = 0.1, high = 0.2, points = 2}", ("arms", "greedy", "grid", "high"), 0.2),
        ("arms.silo.schedule.eps=0.05", ("arms", "silo", "schedule", "args", "eps"), 0.05),
    ],
)
def test_set_changes_one_value(tmp_path: Path, change: str, path: tuple[str, ...], value: Any) -> None:
    found: Any = load_study(written(tmp_path), [change])
    for key in path:
        found = found[key] if isinstance(found, dict) else getattr(found, key)
    assert found == value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("cycles", "takes key.path=value, got 'cycles'"),
        ("=3", "takes key.path=value"),
        ("name.first=x", "'name' is not a table"),
        ("cycles.more.x=1", "'cycles' is not a table"),
        ("prune.rates=0.5", "prune.rates: unknown key"),
        ("prune.rate=most", "prune.rate: "),
    ],
)
def test_a_bad_set_is_bad_input(tmp_path: Path, change: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        load_study(written(tmp_path), [change])


def test_set_leaves_the_file_alone(tmp_path: Path) -> None:
    path = written(tmp_path)
    before = path.read_bytes()
    load_study(path, ["cycles=9"], smoke=True)
    assert path.read_bytes() == before


def test_smoke_shrinks_a_study_to_seconds(tmp_path: Path) -> None:
    changes = {
        "cycles": 25, "dense.epochs": 160, "retrain.epochs": 30, "replicates.seeds": [3, 4, 5], "arms.silo.epochs": 40,
        "arms.greedy.grid.points": 21, "report.tolerance": 0.005,
    }  # fmt: skip
    small = load_study(written(tmp_path, changes), smoke=True)
    assert (small.name, small.cycles, small.replicates.seeds) == ("tiny-smoke", 3, (3, 4))
    assert small.dense.epochs == small.retrain.epochs == small.arms["silo"].epochs == 1
    assert (small.data.train_examples, small.data.val_examples, small.data.test_examples) == (32, 64, 32)
    assert small.retrain.batch == 16
    greedy = small.arms["greedy"]
    assert isinstance(greedy, OracleArm)
    assert greedy.grid is not None
    assert greedy.grid.points == 3
    assert small.report.tolerance >= 2 / 64
    assert small.prune == study(changes).prune


def test_a_grid_of_written_rates_is_what_it_says_and_shrinks_to_three_of_them(tmp_path: Path) -> None:
    rates = [0.01, 0.02, 0.05, 0.1, 0.7]
    made = study({"arms.greedy.grid": {"rates": rates}})
    assert made.arms["greedy"].grid.values() == rates  # type: ignore[union-attr]
    again = parse_study(made.model_dump(mode="json", exclude_none=True))
    assert again == made
    small = parse_study(smoke_table(table({"arms.greedy.grid": {"rates": rates}})))
    assert small.arms["greedy"].grid.values() == [0.01, 0.05, 0.7]  # type: ignore[union-attr]


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_older_names_of_keys_are_read_everywhere_and_change_no_key(tmp_path: Path, part: str) -> None:
    old, new = f"{part}_images", f"{part}_examples"
    path = written(tmp_path, {f"data.{old}": 20})
    assert load_study(path) == study({f"data.{new}": 20})
    assert load_study(path).data.split()[old] == 20  # as keys of units have it
    assert getattr(load_study(path, [f"data.{new}=30"]).data, new) == 30
    assert getattr(load_study(path, [f"data.{old}=30"]).data, new) == 30
    assert getattr(load_study(path, smoke=True).data, new) == 20
    assert getattr(parse_study(smoke_table(table({f"data.{old}": 20}))).data, new) == 20
    assert problems({f"data.{old}": 20, f"data.{new}": 20}) == {
        "data": f"{old} is the older name of {new}; leave it out"
    }
    path = written(tmp_path, {f"data.{old}": 20, "cycels": 4})
    line = path.read_text().splitlines().index(f"{old} = 20") + 1
    with pytest.raises(StudyError, match=rf":{line}: data.{new}: too few"):
        load_study(path, look=lambda _: [(f"data.{new}", "too few")])


def test_smoke_never_makes_a_study_larger(tmp_path: Path) -> None:
    changes = {"cycles": 2, "replicates.seeds": [7], "arms.greedy.grid": {"low": 0.1, "high": 0.1, "points": 1}}
    changes |= {"report.tolerance": 0.2, "data.train_examples": 30, "retrain.batch": 8}
    changes |= {"model": {"name": "densenet40", "growth": 2, "depth": 100}}
    small = load_study(written(tmp_path, changes), smoke=True)
    assert (small.cycles, small.replicates.seeds, small.report.tolerance) == (2, (7,), 0.2)
    assert (small.data.train_examples, small.data.val_examples, small.retrain.batch) == (30, 64, 8)
    assert small.model.args == {"growth": 2, "depth": registry.MODELS["densenet40"].smoke["depth"]}


def test_smoke_keeps_a_checkpoint() -> None:
    small = parse_study(smoke_table(table({"dense": {"checkpoint": "w.safetensors"}})))
    assert small.dense.checkpoint == "w.safetensors"
    assert small.dense.epochs is None


@pytest.mark.parametrize("checkpoint", ["w.safetensors", None])
def test_pretrained_weights_keep_their_network_and_image_size(checkpoint: str | None) -> None:
    dense = {"checkpoint": checkpoint} if checkpoint else {"epochs": 9, "max_lr": 0.1}
    data = {"name": "folder", "path": "x", "size": 224}
    model = {"name": "vit", "patch": 14, "size": "small"}
    small = parse_study(smoke_table(table({"dense": dense, "data": data, "model": model})))
    if checkpoint:
        assert (small.model.args, small.data.size) == ({"patch": 14, "size": "small"}, 224)
    else:
        assert small.model.args == {"patch": 14, "size": "tiny", "depth": 2}
        assert small.data.size == 42  # the least from 32 on that the patch divides


def test_smoke_shrinks_the_images_of_a_set_that_has_a_size_of_its_own() -> None:
    small = parse_study(smoke_table(table({"data": {"name": "imagenet", "path": "x"}, "model": "resnet50"})))
    assert small.data.side == 32


@pytest.mark.parametrize("name", sorted(registry.MODELS))
@pytest.mark.parametrize("form", [str, lambda name: {"name": name}, lambda name: {"name": name, "args": {}}])
def test_smoke_takes_the_small_form_however_the_network_is_written(name: str, form: Callable[[str], Any]) -> None:
    small = parse_study(smoke_table(table({"model": form(name)})))
    assert small.model.resolved() == {"name": name, **registry.MODELS[name].smoke}


def test_smoke_beside_a_set_takes_the_small_form_of_the_network_that_was_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, {"model": {"name": "resnet20", "width": 16}})
    small = load_study(path, ["model.name=mobilenetv2"], smoke=True)
    assert small.model.resolved() == {"name": "mobilenetv2", **registry.MODELS["mobilenetv2"].smoke}
    small = load_study(path, ["model.width=8"], smoke=True)
    assert small.model.resolved() == {"name": "resnet20", "width": 8}


@pytest.mark.parametrize("model", [{"name": "timm:resnet18"}, {"function": "a:b", "version": "1", "width": 9}])
def test_smoke_leaves_other_networks_and_their_images_alone(model: dict[str, Any]) -> None:
    data = {"name": "folder", "path": "x", "size": 224}
    small = parse_study(smoke_table(table({"model": model, "data": data})))
    assert (small.model.resolved(), small.data.size) == (model, 224)


def test_smoke_of_a_rewinding_study_rewinds_within_its_one_dense_epoch(tmp_path: Path) -> None:
    path = written(tmp_path, {"prune.after_prune": "rewind", "prune.rewind_to": "2 ep"})
    small = load_study(path, smoke=True)
    assert small.settings(small.arms["silo"]).rewind_to in ("init", "1 ep")


@pytest.mark.parametrize(
    "changes",
    [
        {"replicates.seeds": 3},
        {"report.tolerance": "fine"},
        {"arms.greedy.grid.points": "many"},
        {"arms": ["silo"]},
        {"data": "digits"},
        {"retrain": None},
        {"cycles": "many"},
        {"cycles": None},
        {"cycles": 0},
        {"dense.epochs": 0},
        {"retrain.epochs": None},
        {"report": "x"},
        {"name": None},
        {"replicates": None},
        {"model": None},
        {"model": ["vit"]},
        {"model": {"name": ["vit"]}},
        {"model": {"name": "vit", "size": "huge"}},
        {"model": {"name": "vit", "size": 3}},
        {"model": {"name": "resnet50", "stem": "none"}},
        {"model": {"name": "resnet8", "depth": 3}},
        {"model": {"name": "resnet8", "args": 3}},
        {"data.train_examples": "all"},
        {"retrain.batch": "all"},
        {"retrain.batch": 0},
        {"data.size": 64},
    ],
)
def test_smoke_reports_the_same_mistakes_as_the_study_itself(tmp_path: Path, changes: Mapping[str, Any]) -> None:
    path = written(tmp_path, changes)
    with pytest.raises(StudyError) as whole:
        load_study(path)
    with pytest.raises(StudyError) as small:
        load_study(path, smoke=True)
    assert [path for path, _ in small.value.problems] == [path for path, _ in whole.value.problems]


# --- path variables ---


def test_a_path_takes_variables_defaults_and_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/srv/x")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("UNSET", raising=False)
    assert expand("${PLACE}/cifar") == "/srv/x/cifar"
    assert expand("${PLACE:-y}") == "/srv/x"
    assert expand("${UNSET:-y}/z") == "y/z"
    assert expand("${EMPTY:-y}") == "y"
    assert expand("${UNSET:-}") == ""
    assert expand("~/data") == "/home/someone/data"
    assert expand("${UNSET:-~/d}") == "/home/someone/d"
    assert expand("$PLACE/cifar") == "/srv/x/cifar"
    assert expand("plain/$HOME") == "plain/$HOME"
    assert expand("file:///srv/x") == "/srv/x"
    assert expand("s3://bucket/~x") == "s3://bucket/~x"
    assert Run("${PLACE}/runs").url == Run("file:///srv/x/runs").url == "/srv/x/runs"
    assert study({"data.path": "${PLACE}"}).data.place() == "/srv/x"


def test_an_unset_variable_is_bad_input_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNSET", raising=False)
    with pytest.raises(BadInput, match=r"data.path: the variable UNSET is not set \(path '\$\{UNSET\}/x'\)"):
        expand("${UNSET}/x")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("$UNSET/x", "run: the variable UNSET is not set"),
        ("~no-such-user/x", r"run: '~no-such-user' has no home folder here .*: \./~no-such-user"),
    ],
)
def test_a_run_is_never_at_an_unknown_place(path: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNSET", raising=False)
    with pytest.raises(BadInput, match=told):
        Run(path)


@pytest.mark.parametrize(("section", "name"), [("data", "path"), ("dense", "checkpoint")])
def test_a_variable_that_is_not_set_is_told_by_the_key_that_names_it(section: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    changes = {section: {**({"name": "digits"} if section == "data" else {}), name: "${UNSET}/x"}, "cycels": 1}
    file.write_text(tomli_w.dumps(table(changes)), encoding="utf-8")
    with pytest.raises(StudyError) as caught:
        load_study(file, look=lambda study: [])
    found = dict(caught.value.problems)
    assert found[f"{section}.{name}"].startswith("the variable UNSET is not set (path '${UNSET}/x')")
    assert "cycels" in found


def test_the_studies_that_come_with_the_project_are_valid() -> None:
    files = sorted((Path(__file__).parent.parent / "experiments").glob("*.toml"))
    assert files
    for file in files:
        loaded = load_study(file)
        assert isinstance(loaded, Study)
        assert load_study(file, smoke=True).name == f"{loaded.name}-smoke"


def test_wrong_names_between_arms_are_told_together_with_wrong_values() -> None:
    found = problems({"prune.rate": 2.0, "arms.greedy.tests": ["nobody"], "report.schedule": "none"})
    assert {"prune.rate", "arms.greedy.tests", "report.schedule"} <= set(found)


@pytest.mark.parametrize(("path", "value"), [("cycles", "4"), ("retrain.epochs", True), ("prune.rate", "0.2")])
def test_a_value_of_another_type_is_refused(path: str, value: Any) -> None:
    assert path in problems({path: value})


def test_patterns_and_defaults_of_variables_too_are_meant_from_the_folder_of_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("abc")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.delenv("SILO_TUNE_NOT_SET", raising=False)
    for path in ("texts/*.txt", "${SILO_TUNE_NOT_SET:-texts}", "../texts"):
        file = tmp_path / "study.toml"
        file.write_text(tomli_w.dumps({**table(), "data": {"name": "tokens", "path": path}}))
        at = "" if path.startswith("..") else f"{tmp_path}/"
        assert load_study(file).data.path == f"{at}{'texts' if '$' in path else path}"
        standing = load_study(file).data.standing().path
        assert standing is not None
        assert standing.startswith(str(tmp_path))
