"""A run as Optuna studies: what Optuna reads back is the table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from silo_tune.errors import BadInput
from silo_tune.export.optuna_export import export, study_of_search, write
from silo_tune.planner.planner import Planner
from silo_tune.results.records import load_run
from silo_tune.results.searches import SearchRecord, searches
from silo_tune.store.run_folder import Run
from silo_tune.study.model import Study
from tests.plain import ORACLE, Drive, World, on_disk, spread, study

# Attributes that stand in the table under the same name.
SAME = (
    "seed", "cycle", "winner", "status", "error", "asked", "tests", "candidate", "repeat", "val_loss", "test_score",
    "weights_remaining", "train_seconds", "key",
)  # fmt: skip


def simulated(folder: Path, of: Study, tells: int | None = None) -> str:
    """A run whose units were trained by simulation: some fail, the highest rate diverges."""
    run = Run(str(folder))
    run.accept(of, {})
    Drive(on_disk(run), World(spread))(Planner(of, run), tells)
    return str(folder)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = simulated(tmp_path_factory.mktemp("simulated") / "run", study())
    Run(made).check_data({"content": "c", "classes": 3, "n_train": 9, "n_val": 9, "n_test": 9})
    return made


@pytest.fixture(scope="module")
def file(url: str) -> Path:
    made = Path(url).parent / "optuna.log"
    export(url, str(made))
    return made


def read(file: Path) -> dict[str, optuna.Study]:
    """Every study of a file, as Optuna reads it."""
    storage = JournalStorage(JournalFileBackend(str(file)))
    names = optuna.get_all_study_names(storage)
    return {name: optuna.load_study(study_name=name, storage=storage) for name in names}


def oracle_rows(url: str) -> pd.DataFrame:
    """The rows of cycles that an Oracle decided."""
    frame, _, _ = load_run(url)
    return frame[(frame["mode"] == "oracle") & (frame.cycle > 0)]


def test_there_is_one_study_for_each_oracle(file: Path) -> None:
    assert sorted(read(file)) == ["conditioned / oracle", "greedy / oracle"]


def test_the_trials_are_the_rows_of_the_table(url: str, file: Path) -> None:
    studies, rows = read(file), oracle_rows(url)
    assert set(rows.status) == {"ok", "diverged", "failed"}  # or this test shows nothing
    assert rows.groupby("arm").seed.nunique().min() > 1
    for arm, mine in rows.groupby("arm"):
        trials = studies[f"{arm} / oracle"].get_trials()
        mine = mine.sort_values(["seed", "cycle"], kind="stable")
        assert [trial.params["max_lr"] for trial in trials] == mine.max_lr.tolist()
        for trial, (_, row) in zip(trials, mine.iterrows(), strict=True):
            told = {name: trial.user_attrs.get(name) for name in SAME}
            assert told == {name: None if pd.isna(row[name]) else row[name] for name in SAME}
            assert trial.user_attrs["round"] == 1


def test_a_diverged_rate_is_told_as_guessing_and_a_failed_one_has_no_value(url: str, file: Path) -> None:
    by_key = oracle_rows(url).drop_duplicates("key").set_index("key")
    for made in read(file).values():
        for trial in made.get_trials():
            row = by_key.loc[trial.user_attrs["key"]]
            value = {"ok": row.val_score, "diverged": 1 / 10, "failed": None}[row.status]
            assert trial.value == value
            assert trial.state == (TrialState.FAIL if row.status == "failed" else TrialState.COMPLETE)
            assert trial.user_attrs["diverged"] == (row.status == "diverged")


def test_each_seed_and_cycle_of_an_oracle_has_one_winner(url: str, file: Path) -> None:
    rows = oracle_rows(url)
    for made in read(file).values():
        mine = rows[rows.arm == made.user_attrs["arm"]]
        assert made.direction == optuna.study.StudyDirection.MAXIMIZE
        assert made.metric_names == ["val_score"]
        decided = {(row.seed, row.cycle) for row in mine.itertuples()}
        trials = [trial.user_attrs for trial in made.get_trials()]
        winners = [(trial["seed"], trial["cycle"]) for trial in trials if trial["winner"]]
        assert len(decided) > 2
        assert winners == sorted(decided)


def test_one_logarithmic_range_holds_all_rates_of_an_oracle(url: str, file: Path) -> None:
    rows = oracle_rows(url)
    for made in read(file).values():
        mine = rows[rows.arm == made.user_attrs["arm"]].max_lr
        assert {t.distributions["max_lr"] for t in made.get_trials()} == {
            FloatDistribution(mine.min(), mine.max(), log=True)
        }


def test_a_dense_cycle_is_exported_where_the_oracle_chose_it(tmp_path: Path) -> None:
    of = study({"arms.greedy": {**ORACLE, "own_dense": True}, "arms.conditioned": None, "replicates.seeds": [0]})
    run = Run(str(tmp_path / "run"))
    run.accept(of, {})
    Drive(on_disk(run))(Planner(of, run))
    assert export(str(tmp_path / "run"), str(tmp_path / "optuna.log")) == ["greedy / oracle"]
    (made,) = read(tmp_path / "optuna.log").values()
    assert {trial.user_attrs["cycle"] for trial in made.get_trials()} == {0, 1, 2, 3}


def test_a_run_that_is_under_way_exports_what_is_decided(tmp_path: Path) -> None:
    url = simulated(tmp_path / "run", study(), tells=20)
    export(url, str(tmp_path / "optuna.log"))
    rows = oracle_rows(url)
    assert sum(len(made.get_trials()) for made in read(tmp_path / "optuna.log").values()) == len(rows)
    assert 0 < len(rows.drop_duplicates(["arm", "seed", "cycle"])) < 12


# --- searches over whole chains ---


def point(trial: int, told: float | None, stopped: int | None = None, **params: float) -> dict[str, Any]:
    objective = told if stopped is None else None
    rungs = {"2": 0.6} if stopped is None else {"2": 0.5, str(stopped): 0.3}
    return {
        "trial": trial, "round": 1 + trial // 2, "params": params, "objective": objective, "told": told,
        "stopped": stopped, "rungs": rungs,
    }  # fmt: skip


def test_a_search_is_a_study_of_its_chains(tmp_path: Path) -> None:
    points = [
        point(3, None, eps=0.5, beta=3.5, q=2),
        point(0, 0.7, eps=0.01, beta=4.0, q=1),
        point(1, 0.8, eps=0.1, beta=5.0, q=0),
        point(2, 0.4, stopped=4, eps=1.0, beta=8.0, q=1),
    ]
    record = SearchRecord("silo-tuned", "tune", tuple(points), best=1, importance={"eps": 0.9, "beta": 0.1})
    write([study_of_search(record)], str(tmp_path / "optuna.log"))
    made = read(tmp_path / "optuna.log")["silo-tuned / tune"]
    trials = made.get_trials()
    assert [trial.user_attrs["trial"] for trial in trials] == [0, 1, 2, 3]
    assert [trial.value for trial in trials] == [0.7, 0.8, 0.4, None]
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL"]
    assert [trial.user_attrs["round"] for trial in trials] == [1, 1, 2, 2]
    assert [trial.user_attrs.get("stopped") for trial in trials] == [None, None, 4, None]
    assert trials[2].intermediate_values == {2: 0.5, 4: 0.3}
    assert [trial.params for trial in trials] == [points[i]["params"] for i in (1, 2, 3, 0)]
    assert trials[0].distributions == {
        "eps": FloatDistribution(0.01, 1.0, log=True),
        "beta": FloatDistribution(3.5, 8.0),
        "q": IntDistribution(0, 2),
    }
    assert made.best_trial.user_attrs["best"]
    assert made.user_attrs["best"] == 1
    assert made.user_attrs["importance"] == {"eps": 0.9, "beta": 0.1}


def test_rounds_repeats_pilots_and_tuning_are_exported_beside_the_grids(tmp_path: Path) -> None:
    guided = {"sampler": "random", "trials": 5, "batch": 2, "low": 0.01, "high": 1.0}
    tune = {
        "mode": "tune",
        "sampler": "random",
        "trials": 4,
        "batch": 2,
        "eps": [0.01, 0.3],
        "delta": 0.1,
        "rungs": [1],
    }
    of = study(
        {
            "arms.greedy": {"mode": "oracle", "guided": guided, "tests": ["silo"]},
            "arms.conditioned": None,
            "arms.tuned": tune,
            "arms.constant.schedule": "constant",
            "pilot": {"seeds": [100], "chains": 3, "low": 0.01, "high": 1.0},
        }
    )
    url = simulated(tmp_path / "run", of)
    export(url, str(tmp_path / "optuna.log"))
    made = read(tmp_path / "optuna.log")
    found = searches(Run(url), of)
    assert {"tuned / tune", "constant / pilot"} <= set(made)
    for arm, record in found.items():
        trials = made[f"{arm} / {record.kind}"].get_trials()
        assert [trial.params for trial in trials] == [point["params"] for point in record.points]
        assert [trial.value for trial in trials] == [point["told"] for point in record.points]
        assert [t.state.name == "PRUNED" for t in trials] == [p["stopped"] is not None for p in record.points]
    told = [trial.user_attrs for trial in made["greedy / oracle"].get_trials()]
    places = [(one["seed"], one["cycle"], one["round"]) for one in told]
    assert places == sorted(places)
    assert max(number for _, _, number in places) > 1


def test_a_search_without_a_trial_yet_is_an_empty_study(tmp_path: Path) -> None:
    write([study_of_search(SearchRecord("silo-tuned", "pilot", ()))], str(tmp_path / "optuna.log"))
    assert read(tmp_path / "optuna.log")["silo-tuned / pilot"].get_trials() == []


# --- what is refused ---


def test_an_existing_file_is_left_as_it_is(url: str, file: Path, tmp_path: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(BadInput, match="exists, and an export never writes over or into a file"):
        export(url, str(file))
    assert file.read_bytes() == before
    assert sorted(path.name for path in file.parent.iterdir()) == ["optuna.log", "run"]


def test_a_file_that_cannot_be_written_is_named(url: str, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("no folder")
    for place in ("nowhere/optuna.log", "plain/optuna.log"):
        with pytest.raises(BadInput, match=f"cannot write .*{place}'"):
            export(url, str(tmp_path / place))


def test_there_must_be_a_run_and_something_searched_in_it(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no run at"):
        export(str(tmp_path / "nowhere"), str(tmp_path / "optuna.log"))
    plain = study({"arms.greedy": None, "arms.conditioned": None})
    with pytest.raises(BadInput, match=r"nothing to export from .*: no Oracle of it has closed a cycle, and no search"):
        export(simulated(tmp_path / "plain", plain), str(tmp_path / "optuna.log"))
    with pytest.raises(BadInput, match="nothing to export"):  # nothing of its Oracles is decided yet
        export(simulated(tmp_path / "young", study(), tells=2), str(tmp_path / "optuna.log"))
    assert not (tmp_path / "optuna.log").exists()


# --- the command ---


def test_the_command_says_what_it_wrote_and_what_is_wrong(url: str, tmp_path: Path) -> None:
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "silo_tune", "export", *arguments]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    target = str(tmp_path / "optuna.log")
    done = command(url, "--optuna", target)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout
        == f"{len(read(tmp_path / 'optuna.log'))} studies in {target}; to see them: optuna-dashboard {target}\n"
    )
    assert done.stderr == ""
    again = command(url, "--optuna", target)
    assert again.returncode == 2
    assert again.stderr.startswith(f"silo-tune: '{target}' exists")
