"""RUN/study.toml, the resolved study that a run writes, is the same study: it is read, resumes, and begins anew."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from silo_tune.api import run_study
from silo_tune.errors import BadInput, StudyError
from silo_tune.store.run_folder import Run
from silo_tune.study.model import Study
from silo_tune.study.presets import PRESETS
from silo_tune.study.study_file import load_study, parse_study
from tests import plain
from tests.conftest import small_study, small_table
from tests.test_cli import in_process
from tests.test_presets import LONG
from tests.test_run import assert_same_table
from tests.test_schema import GOOD, RECORDED, STUDIES

CURVE = {"eps": 0.03, "delta": 0.04}
ODD: dict[str, dict[str, Any]] = {
    **GOOD,
    **{f"preset {name}": {**LONG, "arms/it": {"preset": name}} for name in PRESETS},
    "a grid of one rate": {"arms/greedy": {"mode": "oracle", "grid": {"rates": [0.1]}}},
    "a name with a dot": {"arms/v1.5": {"mode": "schedule", "schedule": {"name": "silo", **CURVE}}},
    "arguments named like keys": {
        "model": {"function": "mine:net", "version": "1", "args": {"name": "x", "version": 2, "args": [1], "depth": 3}}
    },
    "one argument named args": {"prune.criterion": {"function": "mine:c", "version": "1", "args": {"args": 1}}},
    "nested arguments": {"data": {"function": "mine:d", "version": "1", "args": {"a": {"b": [{"c": 1.5}]}}}},
    "whole numbers as rates": {"dense.max_lr": 1, "arms.silo.schedule": {"name": "silo", "eps": 1, "delta": 2}},
    "extreme numbers": {"dense.max_lr": 1e-300, "arms.silo.schedule": {"name": "silo", "eps": 1e16, "delta": 1e-9}},
    "letters": {"report.title": 'ε "δ" \\ \x7f \n ü', "data.path": "~/ö ${HOME:-x}"},
}
WHOLE = {
    "the authors' study": {"preset": "authors-2023"},
    "one of its runs": {"preset": {"name": "authors-2023", "network": "vgg19", "run": 2, "without": ["reinit"]}},
}


def written(study: Study, folder: Path) -> Path:
    """RUN/study.toml of a run of this study."""
    Run(str(folder)).accept(study, {"silo-tune": "0"})
    return folder / "study.toml"


# --- the law ---


@pytest.mark.parametrize("file", [*STUDIES, *RECORDED], ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_resolved_study_of_the_project_is_the_study(file: Path, tmp_path: Path) -> None:
    for smoke in (False, True):
        study = load_study(file, smoke=smoke)
        assert load_study(written(study, tmp_path / str(smoke))) == study


@pytest.mark.parametrize("changes", ODD.values(), ids=ODD)
def test_an_odd_resolved_study_is_the_study(changes: dict[str, Any], tmp_path: Path) -> None:
    study = plain.study(changes)
    file = written(study, tmp_path)
    assert load_study(file) == study
    assert load_study(file, smoke=True).cycles <= 3


@pytest.mark.parametrize("table", WHOLE.values(), ids=WHOLE)
def test_a_resolved_preset_of_a_whole_study_is_the_study(table: dict[str, Any], tmp_path: Path) -> None:
    study = parse_study({"name": "theirs", **table})
    assert load_study(written(study, tmp_path)) == study


# --- values that are set, and mistakes ---


def test_values_are_set_as_in_any_study(tmp_path: Path) -> None:
    file = written(small_study(), tmp_path)
    changed = load_study(file, ["replicates.seeds=[3]", "arms.silo.schedule.eps=0.2"])
    assert changed == small_study(replicates={"seeds": [3]}, arms={"silo": {"schedule": {"eps": 0.2}}})


def test_a_preset_cannot_be_set_where_it_is_only_a_name(tmp_path: Path) -> None:
    table = small_table(arms={"flat": {"preset": "lr-warmup", "max_lr": 0.1}})
    del table["arms"]["flat"]["mode"], table["arms"]["flat"]["schedule"]
    file = written(parse_study(table), tmp_path)
    with pytest.raises(BadInput, match="only a name for what is written out"):
        load_study(file, ["arms.flat.preset=constant-eps"])


def test_a_mistake_in_a_copy_is_told_with_its_line(tmp_path: Path) -> None:
    table = tomllib.loads(written(small_study(), tmp_path).read_text(encoding="utf-8"))
    table["study"]["retrain"]["epochs"] = 0
    copy = tmp_path / "copy.toml"
    copy.write_text(tomli_w.dumps(table), encoding="utf-8")
    line = copy.read_text(encoding="utf-8").splitlines().index("epochs = 0") + 1
    with pytest.raises(StudyError, match=rf"copy\.toml:{line}: retrain\.epochs"):
        load_study(copy)


# --- what a run does with it ---


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resolved") / "run"
    run_study(small_study(), str(folder), local=True)
    return folder


@pytest.mark.usefixtures("only_svg")
def test_it_resumes_its_run_which_it_names_itself(run: Path, tmp_path: Path) -> None:
    before = Run(str(run)).recorded()
    done = in_process("run", str(run / "study.toml"), "--local", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trials: 0 trained" in done.stdout
    assert str(run) in done.stdout
    assert Run(str(run)).recorded() == before
    assert list(tmp_path.iterdir()) == []
    again = in_process("run", str(run / "study.toml"), "--local", "--out", str(run), cwd=tmp_path)
    assert "trials: 0 trained" in again.stdout


def test_the_plan_is_of_its_run(run: Path, tmp_path: Path) -> None:
    done = in_process("plan", str(run / "study.toml"), cwd=tmp_path)
    assert "to train: 0 trials" in done.stdout, done.stderr


def test_it_begins_the_same_run_elsewhere(run: Path, tmp_path: Path) -> None:
    first = run_study(small_study(), str(run), local=True).frame
    other = run_study(load_study(run / "study.toml"), str(tmp_path / "other"), local=True).frame
    assert_same_table(first, other)


@pytest.mark.parametrize("place", [lambda run, to: to / "copy.toml", lambda run, to: to / "study.toml"])
def test_a_copy_that_lies_in_no_run_goes_where_a_study_goes(
    run: Path, place: Callable[[Path, Path], Path], tmp_path: Path
) -> None:
    copy = place(run, tmp_path)
    copy.write_bytes((run / "study.toml").read_bytes())
    done = in_process("plan", str(copy), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "to train: 0 trials" not in done.stdout
