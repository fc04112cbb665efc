"""`silo-tune report`: of a run, of a record, of several; what it prints, how it ends, what it writes where."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from silo_tune.api import run_study
from silo_tune.results.records import Recorded, read, write_record
from silo_tune.results.table import make_table, to_parquet
from silo_tune.study.parts import Replicates
from silo_tune.study.study_file import parse_study
from tests.analysis.builder import ARMS, make_frame, make_study
from tests.plain import study as tiny
from tests.test_cli import in_process
from tests.test_store import Simulated

pytestmark = pytest.mark.usefixtures("only_svg")

FEW = {name: ARMS[name] for name in ("silo", "high", "oracle")}
WHOLE = make_study(FEW, seeds=3, cycles=3)
FRAME = make_frame(WHOLE)
LEDGER: dict[str, Any] = {"format": 1, "recipe": 5, "created": "2026-01-02", "environment": {"python": "3.11"}}


def record(place: Path, seeds: Sequence[int], **ledger: Any) -> str:
    """A record of some seeds."""
    made = WHOLE.model_copy(update={"replicates": Replicates(seeds=tuple(seeds))})
    frame = FRAME[FRAME["seed"].isin(seeds)].reset_index(drop=True)
    write_record(str(place), Recorded(frame, made, {**LEDGER, **ledger}))
    return str(place)


def network(place: Path, name: str) -> str:
    """A record of the same question on another network."""
    table = WHOLE.model_dump(mode="json", exclude_none=True)
    made = parse_study({**table, "name": name, "model": {"name": "vgg19"}, "data": {"name": "cifar10"}})
    write_record(str(place), Recorded(make_frame(made), made, LEDGER))
    return str(place)


def refused(*arguments: str) -> str:
    """What the command says, as it ends with 2 and without a traceback."""
    done = in_process("report", *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


def files(place: Path) -> dict[str, bytes]:
    return {str(file.relative_to(place)): file.read_bytes() for file in place.rglob("*") if file.is_file()}


def test_the_report_of_a_record_leaves_its_table_and_prints_the_short_answers(tmp_path: Path) -> None:
    url = record(tmp_path, range(3))
    (tmp_path / "table.parquet").write_bytes(to_parquet(FRAME.assign(mine=1)))
    before = (tmp_path / "table.parquet").read_bytes()
    done = in_process("report", url)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert any(line.split()[:2] == ["cycle", "left"] for line in lines)
    assert any(
        line.startswith("What does silo lose against the Oracle, and what does it save? Chain gap") for line in lines
    )
    assert lines[-1] == f"report: {tmp_path}/report/report.html"
    assert (tmp_path / "table.parquet").read_bytes() == before


def test_programs_get_the_answers_that_the_terminal_prints(tmp_path: Path) -> None:
    url = record(tmp_path, range(3))
    told = in_process("report", url).stdout
    found = json.loads(in_process("report", url, "--format", "json").stdout)
    assert found["schedule"] == "silo"
    assert found["report"] == f"{tmp_path}/report/report.html"
    assert {answer["id"] for answer in found["answers"]} >= {
        "inside",
        "loses-and-saves",
        "baselines",
        "shape",
        "effort",
    }
    for answer in found["answers"]:
        assert f"{answer['question']} {answer['verdict'] or 'Not answered: ' + answer['missing']}" in told
    gap = next(n for a in found["answers"] for n in a["numbers"] if n["name"].startswith("Chain gap"))
    assert -1 < gap["low"] <= gap["value"] <= gap["high"] < 1
    assert gap["seeds"] == 3


@pytest.mark.slow
def test_a_report_prints_what_the_run_printed(tmp_path: Path) -> None:
    outcome = run_study(tiny({"cycles": 2}), str(tmp_path), runner=Simulated())
    done = in_process("report", str(tmp_path))
    assert "Is silo inside the Oracle's interval, in how many informative cycles, how sure?" in done.stdout
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), outcome.frame)


@pytest.mark.parametrize("is_record", [True, False])
def test_a_run_without_rows_has_a_report_that_says_so(tmp_path: Path, is_record: bool) -> None:
    if is_record:
        write_record(str(tmp_path), Recorded(make_table([]), WHOLE, LEDGER))
    else:
        run_study(tiny(), str(tmp_path), runner=Simulated(tells=0))
    done = in_process("report", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "Note: The run has no results yet." in done.stdout
    assert "no results yet" in (tmp_path / "report" / "report.html").read_text()
    if not is_record:  # and the run can be gone on with
        assert run_study(tiny(), str(tmp_path), runner=Simulated()).counts.trained > 0


def test_runs_of_one_study_become_a_record_whose_report_can_be_made_again(tmp_path: Path) -> None:
    runs = [record(tmp_path / "a", [2, 0]), record(tmp_path / "b", [0, 1])]
    out = tmp_path / "out"
    done = in_process("report", *runs, "--out", str(out))
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(read(str(out)).frame, FRAME)
    written = files(out)
    assert in_process("report", str(out)).stdout == done.stdout
    assert files(out) == written


@pytest.mark.slow
def test_other_networks_become_a_page_with_a_report_for_each(tmp_path: Path) -> None:
    runs = [record(tmp_path / "a", range(3)), network(tmp_path / "b", "other")]
    done = in_process("report", *runs, "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert {"report.html", "overview.csv", "overview.md"} < set(files(tmp_path / "out"))
    for name in ("synthetic", "other"):
        assert (tmp_path / "out" / name / "report" / "report.html").exists()
        assert read(str(tmp_path / "out" / name)).is_record
        assert f'href="{name}/report/report.html"' in (tmp_path / "out" / "report.html").read_text()
    cells = [[cell.strip() for cell in line.split("|")[1:5]] for line in done.stdout.splitlines()]
    assert ["other", "vgg19", "cifar10", "3"] in cells
    assert done.stdout.splitlines()[-1] == f"report: {tmp_path}/out/report.html"


def test_several_runs_need_a_place(tmp_path: Path) -> None:
    a, b = record(tmp_path / "a", [0]), record(tmp_path / "b", [1])
    assert "--out DIR" in refused(a, b)
    assert f"--out {a} is one of the runs" in refused(a, b, "--out", a)
    assert f"{a} is given twice" in refused(a, f"{b}/../a", "--out", str(tmp_path / "out"))
    assert "holds a record that was not put together" in refused(a, "--out", b)
    assert "holds a run or a record" in refused(a, network(tmp_path / "c", "c"), "--out", b)


def test_runs_that_do_not_belong_together_are_named_with_what_differs(tmp_path: Path) -> None:
    a, b = record(tmp_path / "a", [0]), record(tmp_path / "b", [1], recipe=4)
    assert "recipe: 5 in a; 4 in b" in refused(a, b, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_table_that_was_changed_by_hand_is_refused_with_file_column_row_and_value(tmp_path: Path) -> None:
    url = record(tmp_path, range(3))
    wrong = FRAME.copy()
    wrong.loc[4, "test_score"] = 95.2
    (tmp_path / "table.parquet").write_bytes(to_parquet(wrong))
    told = refused(url)
    assert told == (
        f"silo-tune: {tmp_path}/table.parquet: test_score: 95.2 in row 4; an accuracy is in [0, 1], not in percent\n"
    )


def test_a_table_that_is_cut_is_refused(tmp_path: Path) -> None:
    url = record(tmp_path, range(3))
    data = (tmp_path / "table.parquet").read_bytes()
    (tmp_path / "table.parquet").write_bytes(data[: len(data) // 2])
    assert "is not a whole Parquet file" in refused(url)


def test_other_commands_take_a_record_or_say_that_it_is_one(tmp_path: Path) -> None:
    url = record(tmp_path / "a", range(3))
    done = in_process("export", url, "--optuna", str(tmp_path / "a.log"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 study in ")
    done = in_process("status", url)
    assert done.returncode == 2
    assert f"{url} is a record: nothing in it is running; `silo-tune report {url}`" in done.stderr
