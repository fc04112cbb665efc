"""All that can be found before the training is found there, at once, with its line; and nothing of it is paid twice."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tomli_w
import torch

from silo_tune.api import run_study
from silo_tune.errors import BadInput, StudyError
from silo_tune.models.checkpoint import unpack
from silo_tune.run.session import look_here
from silo_tune.study.key_lines import key_lines, line_of
from silo_tune.study.study_file import load_study, parse_study
from silo_tune.training import preflight
from silo_tune.training.worker import drain
from tests.conftest import small_study, small_table
from tests.test_cli import in_process
from tests.test_cycle import Bench, stable
from tests.test_run import Notes, local

TEN_MISTAKES = """\
name = "mine"
cycles = 3
data = { name = "folder", path = "/no/such" }
dense = { epoch = 2, max_lr = 0.1, checkpoint = "/none.safetensors" }
retrain = { epochs = 2 }

[model]
function = "tests.users:nothere"
version = "1"

[replicates]
seeds = [0, 0]

[prune]
criterion = "magnitud"

[arms.silo]
mode = "schedule"
schedule = { name = "silo", eps = -0.1, delta = 0.2 }

[arms.oracle]
mode = "oracle"
grid = { low = 1.0, high = 0.1, points = 5 }
tests = ["sillo"]

[arms.mine]
mode = "schedule"
schedule = { function = "nofile:f", version = "1" }
"""
TOLD = {
    "data.path": (3, "no data directory '/no/such'"),
    "dense.epoch": (4, "(did you mean 'epochs'?)"),
    "dense.checkpoint": (4, "no file '/none.safetensors'"),
    "model.function": (8, "tests.users has no function 'nothere'"),
    "replicates.seeds": (12, "each once"),
    "prune.criterion": (15, "(did you mean 'magnitude'?)"),
    "arms.silo.schedule": (19, "eps must be above 0"),
    "arms.oracle.grid": (23, "low 1.0 must be below high 0.1"),
    "arms.oracle.tests": (24, "(did you mean 'silo'?)"),
    "arms.mine.schedule.function": (28, "cannot import 'nofile:f'"),
}


@pytest.mark.parametrize("command", ["plan", "run"])
def test_ten_mistakes_of_ten_kinds_are_told_at_once_each_with_its_line(command: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(TEN_MISTAKES)
    done = in_process(command, str(file), "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    lines = done.stderr.removeprefix("silo-tune: ").splitlines()
    assert [line.removeprefix(f"{file}:").split(": ")[:2] for line in lines] == [
        [str(number), key] for key, (number, _) in TOLD.items()
    ]
    assert all(words in line for line, (_, words) in zip(lines, TOLD.values(), strict=True))
    assert not (tmp_path / "run").exists()


HIDDEN = """\
name = "mine"
cycles = 3
data = "digits"
model = { name = "lenet-300-100", depth = 3 }
dense = { epochs = 2, max_lr = 0.1, checkpoint = "wrong.safetensors" }
retrain = { epochs = 2.5 }
prune = { criterion = { function = "tests.users:no_criterion", version = "1" } }
replicates = { seeds = [0] }
report = { tolerance = 0.0001, schedule = "sillo" }
cluster = { keep = true }
[arms]
silo = { mode = "schedule", schedule = { function = "tests.users:text_rate", version = "1" } }
oracle = { mode = "orakle", grid = { low = 0.1, high = 1.0, points = 3 } }
"""
HIDDEN_TOLD = {
    "data": (3, "got 'digits'"),
    "model": (4, "takes no 'depth'"),
    "dense": (5, "leave epochs and max_lr out"),
    "dense.checkpoint": (5, "does not fit the model"),
    "retrain.epochs": (6, "got 2.5"),
    "prune": (7, "KeyError: 'no criterion' ("),
    "report.tolerance": (9, "finer than 287 validation images"),
    "report.schedule": (9, "(did you mean 'silo'?)"),
    "cluster.keep": (10, "choose from all, chains, needed"),
    "arms.silo.schedule": (12, "max_lr '0.1' at cycle 1 is not a rate above 0"),
    "arms.oracle": (13, "(did you mean 'oracle'?)"),
}


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_mistake_hides_no_other(command: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(HIDDEN)
    safetensors.torch.save_file({"fc1.weight": torch.zeros(3, 3)}, tmp_path / "wrong.safetensors")
    done = in_process(command, str(file), "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    told = [line for line in done.stderr.removeprefix("silo-tune: ").splitlines() if line.startswith(str(file))]
    assert {key: int(number) for number, key in (line[len(f"{file}:") :].split(": ")[:2] for line in told)} == {
        key: number for key, (number, _) in HIDDEN_TOLD.items()
    }
    assert len(told) == len(HIDDEN_TOLD)
    assert all(any(words in line for line in told) for _, words in HIDDEN_TOLD.values())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'name = "a"\ncycles = 3\ncycles = 4\n', ":3: not valid TOML: Cannot overwrite a value (a key or table that"),
        (b'[data]\nname = "a"\n[data]\n', ":3: not valid TOML: Cannot declare ('data',) twice (a key or table that is"),
        (b"name = \n", ":1: not valid TOML: Invalid value (a text stands in"),
        (b"a = {\n  b = 1 }\n", ":1: not valid TOML: Invalid initial character for a key part (a table in { } stands"),
        (b'# caf\xe9\nname = "a"\n', ":1: invalid continuation byte for UTF-8, which TOML is written in: save it as"),
    ],
)
def test_a_file_that_is_not_toml_is_told_with_its_line(content: bytes, told: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        load_study(file)
    assert str(caught.value).startswith(f"{file}{told}")


@pytest.mark.parametrize(
    ("part", "keys"),
    [
        ('data = { name = "digts", augment = ["flop", "crop"] }', ["data.augment.0", "data"]),
        ('data = { name = "digts", val_share = 2 }', ["data.val_share", "data"]),
        ('model = { name = "lenet", depth = 3 }', ["model"]),
    ],
)
def test_a_wrong_value_of_a_part_does_not_hide_its_wrong_name(part: str, keys: list[str], tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    table_ = {key: value for key, value in small_table().items() if key != part.split()[0]}
    file.write_text(f"{part}\n{tomli_w.dumps(table_)}")
    done = in_process("plan", str(file))
    assert done.returncode == 2
    assert [line.split(": ")[1] for line in done.stderr.removeprefix("silo-tune: ").splitlines()] == keys


NO_TOML = """\
name = "mine"
cycles = three
data = { name = "digits" }
model = { name = "lenet-300-100" }
dense = { epochs = 2, max_lr = 0.1, }
replicates = { seeds = [0, 1 }
[retrain]
epochs = 2.5
[prune]
rate = [
  0.2,
criterion = "magnitud"
[arms.silo]
mode = "schedule
schedule = { name = "silo", eps = 0.1, delta = 0.2 }
[arms.oracle]
mode = "oracle"
grid = { low = 1.0, high = 0.1, points = 5 }
tests = ["silo"]
[report]
tolerance = 0.05
"""


def test_what_is_no_toml_hides_no_other_mistake(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(NO_TOML)
    done = in_process("plan", str(file), "--out", str(tmp_path / "run"))
    told = done.stderr.removeprefix("silo-tune: ").splitlines()
    lines = [int(line[len(f"{file}:") :].split(":")[0]) for line in told if line.startswith(f"{file}:")]
    assert (done.returncode, lines) == (2, [2, 5, 6, 12, 14, 8, 12, 18])
    assert told[1:3] == ["    cycles = three", "             ^"]
    assert "in what begins on line 10" in done.stderr
    assert "did you mean 'magnitude'" in done.stderr


def test_a_header_that_is_no_toml_takes_its_section_with_it(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    text = tomli_w.dumps(small_table())
    file.write_text(f"{text}\n[data]\nname = 3\n[arms.\u00e4rm]\nmode = 1\n[x]\nmode = maybe\n")
    done = in_process("plan", str(file))
    last = len(text.splitlines()) + 1
    told = [line for line in done.stderr.removeprefix("silo-tune: ").splitlines() if line.startswith(str(file))]
    assert [int(line[len(f"{file}:") :].split(":")[0]) for line in told] == [last + 1, last + 3, last + 6]
    assert "Cannot declare" in told[0]
    assert 'stand in "quotes"' in told[1]


def test_a_file_of_another_kind_is_told_at_its_first_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    for text in ("key: value\n" * 30, "a = [\n" + "1,\n" * 5000):
        file.write_text(text)
        with pytest.raises(BadInput, match="not valid TOML") as caught:
            load_study(file)
        assert len(str(caught.value).splitlines()) == 4


def test_without_a_header_the_rest_of_a_file_is_not_judged(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("[data\nname = 3\n")
    done = in_process("plan", str(file))
    assert done.stderr.splitlines()[1:] == [
        "    [data",
        "         ^",
        "what else is in the file was not looked at: without these lines it is another study",
    ]


def test_a_key_that_the_command_line_wrote_has_no_line(tmp_path: Path) -> None:
    file = tmp_path / "small.toml"
    file.write_text(tomli_w.dumps(small_table()))
    done = in_process("plan", str(file), "--set", "dense.epochs=0")
    assert done.stderr.startswith(f"silo-tune: {file}: dense.epochs: ")


def test_the_line_of_a_key_is_its_own_or_that_of_the_table_around_it() -> None:
    lines = key_lines('a = 1\n[b]\n"c.d" = { e = 2 }\n[b.f]\n  g.h = 3\n[[i]]\nj = """\n[k]\n"""\n')
    assert (lines["a"], lines["b"], lines["b.f.g.h"], lines["i.j"]) == (1, 2, 5, 7)
    assert [line_of(lines, key) for key in ("b.f.g.h", "b.f.x", "b.y.z", "nowhere")] == [5, 4, 2, None]


def table(**model: Any) -> dict[str, Any]:
    return {**small_table(), "model": {"version": "1", **model}}


WRONG = {
    "pair": r"model: gives a tuple for a batch of 32 examples; it must give a tensor \(32, 10\)",
    "lazy": r"model: 1\.weight, 1\.bias has no shape yet \(LazyLinear .* call the network once",
    "normed": r"model: 1\.weight: computed from what is stored",
    "broken": r"model: KeyError: 'no such layer' \(.*users\.py, line \d+\)",
    "nothere": r"model\.function: tests\.users has no function 'nothere'",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_network_that_cannot_work_is_told_before_anything_is_trained(name: str, tmp_path: Path) -> None:
    made = parse_study(table(function=f"tests.users:{name}"))
    with pytest.raises(StudyError, match=WRONG[name]):
        local(made, tmp_path / "run")
    assert not (tmp_path / "run" / "units").exists()
    assert not (tmp_path / "run" / "study.toml").exists()


def test_what_is_wrong_with_the_network_the_criterion_and_the_tolerance_is_told_together(tmp_path: Path) -> None:
    made = small_study(
        prune={"criterion": {"function": "tests.users:flat_scores", "version": "1"}}, report={"tolerance": 0.001}
    )
    with pytest.raises(StudyError) as caught:
        local(made, tmp_path / "run")
    assert [key for key, _ in caught.value.problems] == ["report.tolerance", "prune.criterion"]


def test_prunable_weights_are_told_with_their_whole() -> None:
    lines = look_here(parse_study(table(function="tests.users:recurrent")), "none")
    assert re.search(r"network: [\d,]+ weights, 320 prunable \(\d\.\d %\); never pruned: rows\.weight_hh_l0", lines[1])


def test_a_mixed_network_trains_resumes_and_is_scored_by_every_criterion(tmp_path: Path) -> None:
    """Frozen, unused, whole-number and tied parameters."""
    made = parse_study(table(function="tests.users:mixed"))
    assert "was not seen to use spare.weight" in look_here(made, "none")[2]
    straight, bench = (Bench(tmp_path / name, made) for name in "ab")
    unit = bench.unit(0, None)
    expected = straight.train(unit)
    progress = bench.worker.run(unit)
    assert next(progress).epoch == 1
    progress.close()
    again = bench.fresh().run(unit)
    assert next(again).epoch == 2  # from its partial state
    assert stable(drain(again)) == stable(expected)
    frozen = unpack(straight.worker.units.read_state(expected) or b"")[0]["weights"]["backbone.weight"]
    assert frozen.equal(bench.worker.prepared(unit)[0].state_dict()["backbone.weight"])
    for criterion in ("magnitude", "gradient", "snip", "synflow", "lamp"):
        outcome = local(
            parse_study({**table(function="tests.users:mixed"), "prune": {"criterion": criterion}}),
            tmp_path / criterion,
        )
        assert (outcome.frame.status != "failed").all()


def test_a_softmax_before_the_loss_is_told() -> None:
    said = [look_here(parse_study(table(function=f"tests.users:{name}")), "none") for name in ("shares", "model")]
    assert ["its outputs are probabilities" in " ".join(lines) for lines in said] == [True, False]


def test_a_look_is_paid_once_and_again_when_a_function_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "theirs.py"
    code = "from tests.users import model\ndef net(shape, classes):\n    return model(shape, classes)\n"
    file.write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = parse_study(table(function="theirs:net"))
    looks: list[bool] = []
    sizes = preflight._Network._sizes

    def counted(*what: Any) -> None:
        looks.append(True)
        sizes(*what)

    monkeypatch.setattr(preflight._Network, "_sizes", counted)
    first = look_here(made, str(tmp_path / "run"))
    assert look_here(made, str(tmp_path / "run")) == first
    assert len(looks) == 1
    file.write_text(code + "# changed\n")
    look_here(made, str(tmp_path / "run"))
    assert len(looks) == 2


def test_a_function_that_changed_under_its_version_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "once.py"
    code = "def rate(cycle, pruned):\n    return 0.1\n"
    file.write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    arm = {"mode": "schedule", "schedule": {"function": "once:rate", "version": "1"}}
    grown = [small_study(cycles=cycles, arms={"mine": arm}) for cycles in (2, 3)]
    local(grown[0], tmp_path / "run")
    file.write_text(code + "# changed\n")
    notes = Notes()
    local(grown[1], tmp_path / "run", notes)
    assert any(
        note.startswith("arms.mine.schedule.function: the file of this function changed") for note in notes.notes
    )


def test_plan_refuses_what_run_refuses_when_a_function_changed(tmp_path: Path) -> None:
    file, code = tmp_path / "twice.py", "def rate(cycle, pruned):\n    return 0.1\n"
    file.write_text(code)
    arms = {
        "mine": {"mode": "schedule", "schedule": {"function": "twice:rate", "version": "1"}},
        "oracle": {"mode": "oracle", "grid": {"low": 0.01, "high": 1.0, "points": 3}, "tests": ["mine"]},
    }
    study = tmp_path / "study.toml"
    study.write_text(tomli_w.dumps({**small_table(cycles=2), "arms": arms}))
    words = (str(study), "--out", str(tmp_path / "run"))
    assert in_process("run", *words, "--local").returncode == 0
    sys.modules.pop("twice")
    file.write_text(code.replace("0.1", "0.3"))
    plan, run = in_process("plan", *words), in_process("run", *words, "--local")
    assert (plan.returncode, run.returncode, plan.stderr) == (2, 2, run.stderr)
    assert all("the file of this function changed since the run began" in done.stdout for done in (plan, run))


def test_too_little_memory_or_disk_is_told_with_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_available", lambda: 0)
    monkeypatch.setattr(preflight, "_resident", lambda: 3 * 2**30)
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 1000}))
    with pytest.raises(StudyError) as caught:
        look_here(small_study(dense={"epochs": 5}), str(tmp_path / "run"))
    told = dict(caught.value.problems)
    assert told["cluster"].startswith("1 trial at once: about 3.0 GB of memory, and 0 MB are free")
    assert re.match(
        r"weights that are kept at once: up to \d+ MB \(\d+ MB each\), and .* has 0 MB free", told["cluster.keep"]
    )


def test_without_a_look_a_run_trains(tmp_path: Path) -> None:
    made = parse_study(table(function="tests.users:fragile", marker="always"))
    with pytest.raises(StudyError, match="this network never trains"):
        run_study(made, str(tmp_path / "run"), local=True)
    assert run_study(made, str(tmp_path / "run"), local=True, preflight=False).counts.failed == 1


BLIND = {"function": "tests.users:of_other_size", "version": "1"}
WRONG_WITHOUT_A_STEP = {
    "retrain.optimizer": "tests.users:no_optimizer cannot be made: KeyError: 'no such optimizer' (",
    "dense.profile": "tests.users:too_high gives 2.0 at step 0 of 8; a profile gives shares",
    "arms.flat.profile": "tests.users:too_high gives 2.0 at step 0 of 8; a profile gives shares",
    "prune.criterion": "must give 1.weight one finite score for each of its weights (8, 7)",
}


def test_a_network_that_takes_no_batch_hides_nothing_that_needs_none() -> None:
    changes = small_table(
        dense={"profile": {"function": "tests.users:too_high", "version": "1"}},
        retrain={"optimizer": {"function": "tests.users:no_optimizer", "version": "1"}},
        prune={"criterion": {"function": "tests.users:flat_scores", "version": "1"}},
        arms={"flat": {"profile": {"function": "tests.users:too_high", "version": "1"}}},
    )
    with pytest.raises(StudyError) as caught:
        look_here(parse_study({**changes, "model": BLIND}), "none")
    told = dict(caught.value.problems)
    assert len(told) == len(caught.value.problems)
    assert told.pop("model").startswith("RuntimeError: mat1 and mat2 shapes cannot be multiplied")
    assert told.keys() == WRONG_WITHOUT_A_STEP.keys()
    assert all(words in told[key] for key, words in WRONG_WITHOUT_A_STEP.items())


def test_a_criterion_that_calls_a_network_that_takes_no_batch_is_not_told_for_it() -> None:
    with pytest.raises(StudyError) as caught:
        look_here(parse_study({**small_table(prune={"criterion": "snip"}), "model": BLIND}), "none")
    assert [key for key, _ in caught.value.problems] == ["model"]


@pytest.mark.parametrize("also", [{}, {"retrain": {"epochs": 2.5}}, {"dense": {"epochs": 0}}, {"name": 3}])
def test_an_optimizers_wrong_name_is_told_beside_every_other_mistake(also: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    of_data = {"data": {"name": "folder", "path": "/no/such"}, "retrain": {"epochs": 2, "optimizer": "SDG"}}
    table_ = {**small_table(), **of_data}
    table_ |= {key: {**table_[key], **part} if isinstance(part, dict) else part for key, part in also.items()}
    file.write_text(tomli_w.dumps(table_))
    done = in_process("plan", str(file))
    line = file.read_text().splitlines().index('optimizer = "SDG"') + 1
    assert f"{file}:{line}: retrain.optimizer: unknown class of torch.optim 'SDG'; choose from " in done.stderr
    assert len(done.stderr.splitlines()) == 2 + len(also)


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_checkpoint_that_is_not_there_is_told_once(command: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    table_ = {**small_table(), "dense": {"checkpoint": "none.safetensors"}}
    file.write_text(tomli_w.dumps(table_))
    done = in_process(command, str(file), "--out", str(tmp_path / "run"))
    line = file.read_text().splitlines().index("[dense]") + 2
    assert done.stderr == f"silo-tune: {file}:{line}: dense.checkpoint: no file 'none.safetensors'\n"
