"""Files damaged or moved, code that ends as it should not, texts that are not ours: told, and nothing lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tomli_w

from silo_tune.formats import printable
from silo_tune.run.session import Outcome
from silo_tune.store.run_folder import Run
from silo_tune.study.study_file import parse_study
from tests.conftest import small_study, small_table
from tests.test_cli import in_process
from tests.test_run import Notes, assert_same_table, local

pytestmark = pytest.mark.usefixtures("only_svg")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    study = small_study(cycles=2, replicates={"seeds": [0, 1]})
    return local(study, tmp_path_factory.mktemp("finished") / "run")


def copied(finished: Outcome, place: Path) -> Path:
    shutil.copytree(finished.url, place)
    return place


def decisions(folder: Path) -> list[Path]:
    return sorted(folder.glob("chains/*/seed-*/cycle-*.json"))


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


@pytest.mark.parametrize("harm", [flip, Path.unlink], ids=["flipped", "gone"])
@pytest.mark.parametrize("what", ["chains/silo/seed-0/cycle-001-round-1.json", "units/*/*/result.json"])
def test_a_report_of_a_run_that_lost_a_file_keeps_its_table_and_says_so(
    finished: Outcome, what: str, harm: Any, tmp_path: Path
) -> None:
    folder = copied(finished, tmp_path / "run")
    table, harmed = (folder / "table.parquet").read_bytes(), sorted(folder.glob(what))[0]
    harm(harmed)
    done = in_process("report", str(folder))
    assert done.returncode == 1
    assert "is incomplete; " in done.stderr
    assert "the table stays as it is. `silo-tune run` with its study" in done.stderr
    assert harm is not flip or harmed.name in done.stderr
    assert (folder / "table.parquet").read_bytes() == table
    if harm is Path.unlink:  # a damaged file was moved aside by the first reader
        for words in (["fit"], ["export", "--optuna", str(tmp_path / "log")]):
            assert "is incomplete; " in in_process(words[0], str(folder), *words[1:]).stderr
    again = local(small_study(cycles=2, replicates={"seeds": [0, 1]}), folder)
    assert_same_table(again.frame, finished.frame)
    assert in_process("report", str(folder)).returncode == 0


def test_decisions_that_changed_places_are_derived_again(finished: Outcome, tmp_path: Path) -> None:
    folder, notes = copied(finished, tmp_path / "run"), Notes()
    one, other = (folder / "chains" / arm / "seed-0" / "cycle-001-round-1.json" for arm in ("greedy", "conditioned"))
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    again = local(small_study(cycles=2, replicates={"seeds": [0, 1]}), folder, notes)
    assert_same_table(again.frame, finished.frame)
    assert sum("it says arm" in note for note in notes.notes) == 2


def test_a_round_of_a_search_in_anothers_place_is_as_good_as_damaged(tmp_path: Path) -> None:
    run, told = Run(str(tmp_path / "run")), list[str]()
    run.notice = run.units.notice = told.append
    point = {"trial": 0, "round": 1, "params": {}, "objective": None, "told": 0.5, "stopped": None, "rungs": {}}
    search = {"arm": "a", "kind": "tune", "round": 1, "seeds": [0], "counted": [1]}
    run.decide_search({**search, "points": [{**point, "ended": {}}]})
    moved = tmp_path / "run" / "chains" / "b" / "search"
    moved.mkdir(parents=True)
    shutil.copy(tmp_path / "run" / "chains" / "a" / "search" / "round-001.json", moved)
    assert run.search_round("a", 1) is not None
    assert run.search_round("b", 1) is None
    assert "it says arm 'a' and lies at that of 'b'" in told[0]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("exit", "SystemExit: 0"),
        ("generator", "GeneratorExit: "),
        ("own", "Mine: of mine"),
        ("surrogate", r"ValueError: a lone \udc80"),
        ("escape", "owned"),
    ],
)
def test_a_network_that_ends_as_it_should_not_is_a_failed_trial(how: str, told: str, tmp_path: Path) -> None:
    table = small_table(cluster={"max_failures": 0})
    model = {"function": "tests.users:leaving", "version": "1", "how": how}
    file = tmp_path / "leaving.toml"
    file.write_text(tomli_w.dumps({**table, "model": model}))
    done = in_process("run", str(file), "--local", "--no-preflight", "--out", str(tmp_path / "run"))
    assert done.returncode == 1
    assert "chains ended because their trials failed" in done.stderr
    frame = pd.read_parquet(tmp_path / "run" / "table.parquet")
    assert set(frame.status) == {"failed"}
    assert frame.error.str.contains(told, regex=False).all()
    assert "\x1b" not in done.stdout + done.stderr
    looked = in_process("plan", str(file), "--out", str(tmp_path / "other"))
    assert looked.returncode == 2
    assert "\x1b" not in looked.stderr


def test_control_characters_of_others_are_written_out() -> None:
    assert printable("a\x1b[2Jb\x07\r\u202e\x9bc\nd\te é漢") == "a\\x1b[2Jb\\x07\\r\\u202e\\x9bc\nd\te é漢"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"cycles = {'9' * 5000}", "not valid TOML"),
        ("a = " + "[" * 3000 + "]" * 3000, "not valid TOML: nested too deeply"),
        (f'name = "{"n" * 300}"', "a name is letters, digits"),
        (f"cycles = [{','.join(['1'] * 400_000)}]", "cycles: input should be a valid integer"),
    ],
    ids=["digits", "levels", "name", "long"],
)
def test_a_hostile_study_is_refused_in_a_few_lines(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "hostile.toml"
    file.write_text(text)
    done = in_process("plan", str(file))
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr) < 4000


@pytest.mark.parametrize(
    "change",
    [
        {"dense.epochs": 10**12},
        {"retrain.batch": 10**9},
        {"cluster.cpus_per_unit": 10**9},
        {"dense.max_lr": float("inf")},
    ],
    ids=str,
)
def test_a_count_that_nobody_means_is_refused(change: dict[str, Any]) -> None:
    table = small_table()
    for key, value in change.items():
        section, name = key.split(".")
        table.setdefault(section, {})[name] = value
    with pytest.raises(Exception, match=next(iter(change)).replace(".", r"\.")):
        parse_study(table)


@pytest.mark.slow
def test_a_driver_that_is_terminated_while_ray_starts_says_so(tmp_path: Path) -> None:
    file = tmp_path / "small.toml"
    file.write_text(tomli_w.dumps(small_table()))
    command = [sys.executable, "-m", "silo_tune", "run", str(file), "--out", str(tmp_path / "run")]
    for pause in (2.5, 3.5, 4.5):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        time.sleep(pause)
        os.kill(process.pid, signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 143, said
        assert said.splitlines()[-1].startswith("silo-tune: stopped; nothing committed is lost")
