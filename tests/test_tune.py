"""The same on a real Ray cluster: scheduling never changes a number, and no death loses one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray
import tomli_w
from ray.tune import Tuner

from silo_tune.api import run_study
from silo_tune.errors import BadInput, RunFailed
from silo_tune.results.records import load_run
from silo_tune.run.session import Outcome
from silo_tune.store.snapshot import snapshot_of
from silo_tune.store.storage import Storage
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study
from silo_tune.tune.runner import RayRunner
from silo_tune.tune.searcher import ChainSearch
from tests.conftest import example, small_study, small_table
from tests.test_callbacks import Heard
from tests.test_cli import in_process, silo_tune
from tests.test_run import Notes, assert_same_table, committed, local, wait_for
from tests.test_streaming import make_folder, study_of, with_

ROOT = Path(__file__).parent.parent
SEEDS = {"seeds": [0, 1]}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One small cluster for all tests of this file that do not end it."""
    # Not below pytest's folder: the path of a socket has at most 107 characters.
    import tempfile

    with tempfile.TemporaryDirectory(prefix="silo-ray-", ignore_cleanup_errors=True) as scratch:
        ray.init(address="local", num_cpus=2, include_dashboard=False, _temp_dir=scratch, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return local(small_study(replicates=SEEDS), tmp_path_factory.mktemp("reference") / "run")


def on_ray(study: Study, folder: Path, notes: Notes | None = None, preflight: bool = True) -> Outcome:
    return run_study(study, str(folder), runner=RayRunner(patience=0), monitor=notes, preflight=preflight)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_ray_gives_the_same_table_with_any_number_of_workers(
    cluster: None, reference: Outcome, tmp_path: Path, workers: int
) -> None:
    study, notes = small_study(replicates=SEEDS, cluster={"max_concurrent": workers}), Notes()
    outcome = on_ray(study, tmp_path / "run", notes)
    assert_same_table(outcome.frame, reference.frame)
    assert notes.notes == []  # what came by Ray is what stands in the run's files
    assert outcome.counts.trained == reference.counts.trained
    assert on_ray(study, tmp_path / "run").counts.trained == 0


@pytest.mark.slow
def test_ray_gives_the_same_table_of_pipelines(cluster: None, tmp_path: Path) -> None:
    arms = {"ice": {"preset": "ice-pruning", "base": 0.05, "threshold": 0.0}, "while": {"preset": "while-training"}}
    study = small_study(prune={"granularity": "filter", "criterion": "l1-filter"}, arms=arms)
    assert_same_table(on_ray(study, tmp_path / "ray").frame, local(study, tmp_path / "here").frame)


@pytest.mark.slow
def test_ray_gives_the_same_table_of_trainings_that_differ_in_luck_alone(cluster: None, tmp_path: Path) -> None:
    silo = small_table()["arms"]["silo"]
    study = small_study(arms={"best-of": {**silo, "best_of": 3}, "greedy": {"retrain_winner": True}})
    ray_, here = on_ray(study, tmp_path / "ray").frame, local(study, tmp_path / "here").frame
    assert_same_table(ray_, here)
    later = here[(here.arm == "best-of") & (here.cycle > 0)]
    assert later.groupby("cycle").val_loss.nunique().tolist() == [3, 3]  # every training has streams of its own
    assert (here[here.continued & (here.arm == "greedy")].cycle == [1, 2]).all()


@pytest.mark.slow
def test_ray_gives_the_same_table_of_a_streamed_set(cluster: None, tmp_path: Path) -> None:
    data = make_folder(tmp_path / "set")
    memory = local(study_of(data), tmp_path / "memory")
    streamed = on_ray(study_of(with_(data, stream=True, workers=1)), tmp_path / "streamed")
    assert_same_table(streamed.frame, memory.frame)


def killer_study(marker: Path) -> Study:
    model = {"function": "tests.users:killer", "version": "1", "marker": str(marker)}
    table = schedules_alone(small_table(retrain={"epochs": 6}, dense={"epochs": 3}))
    return parse_study({**table, "model": model})


def schedules_alone(table: dict[str, Any]) -> dict[str, Any]:
    """A study without its Oracles: five trials."""
    return {**table, "arms": {name: arm for name, arm in table["arms"].items() if arm["mode"] == "schedule"}}


def test_a_worker_killed_in_mid_cycle_resumes_bit_identically(cluster: None, tmp_path: Path) -> None:
    spared, marker = tmp_path / "spared", tmp_path / "marker"
    spared.touch()  # a network that finds its marker never kills
    expected = local(killer_study(spared), tmp_path / "a").frame
    outcome = on_ray(killer_study(marker), tmp_path / "b")
    assert marker.exists()
    assert not ray.util.list_named_actors()
    told = ["cycle", "arm", "max_lr", "status", "val_score", "val_loss", "test_score", "train_loss", "winner"]
    assert outcome.frame[told].equals(expected[told])  # the keys differ by the marker's name alone
    assert outcome.counts.failed == 0


@pytest.mark.slow
def test_a_unit_that_fails_is_a_row_and_the_study_goes_on(cluster: None, tmp_path: Path) -> None:
    table = small_table(cluster={"max_failures": 0})
    table["arms"]["theirs"] = {
        "mode": "schedule",
        "schedule": {"function": "tests.users:schedule", "version": "1", "low": 0.03},
    }
    model = {"function": "tests.users:fragile", "version": "1", "marker": "always"}
    notes = Notes()
    outcome = on_ray(parse_study({**table, "model": model}), tmp_path / "run", notes, preflight=False)
    assert set(outcome.frame.status) == {"failed"}
    assert outcome.frame.error.str.contains("this network never trains").all()
    assert len(outcome.ended) == 5
    assert any("this network never trains" in note for note in notes.notes)


def test_bad_input_met_by_a_worker_ends_the_run_with_its_own_words(cluster: None, tmp_path: Path) -> None:
    table = {**small_table(), "model": {"name": "timm:no_such_model"}}
    with pytest.raises(BadInput, match="timm cannot build 'no_such_model'"):
        on_ray(parse_study(table), tmp_path / "run")
    data = {"name": "folder", "path": str(tmp_path / "nowhere")}
    with pytest.raises(BadInput, match="no data directory"):
        on_ray(parse_study({**small_table(), "data": data}), tmp_path / "run")


def test_a_unit_that_fits_nowhere_is_refused(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a trial wants 64 CPU; the cluster has 1 node with at most 2 CPU"):
        on_ray(small_study(cluster={"cpus_per_unit": 64}), tmp_path / "run")


@pytest.mark.slow
def test_the_example_runs_in_a_tuner_of_its_own(cluster: None, tmp_path: Path) -> None:
    module = example("own_tuner")
    study = tmp_path / "small.toml"
    study.write_text(tomli_w.dumps(small_table()))
    trained = module.main(str(study), str(tmp_path / "run"))
    assert trained == len(committed(tmp_path / "run"))  # nothing twice
    assert trained >= 10  # where the Oracle goes on from the weights of silo; more where it has its own


def test_a_search_of_ones_own_checks_the_study_as_a_run_does_and_gives_the_run_back(
    cluster: None, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=r"report\.tolerance: 0\.01 is finer than 100 validation images"):
        ChainSearch(small_study(report={"tolerance": 0.01}), str(tmp_path / "run"))
    search = ChainSearch(small_study(), str(tmp_path / "run"))  # the refused one holds no lease
    with pytest.raises(RunFailed, match="is being run by process"):
        ChainSearch(small_study(), str(tmp_path / "run"))
    search.close()


def by_search(study: Study, folder: Path, scratch: Path, **options: Any) -> ChainSearch:
    """A study in a Tuner of one's own, to its end."""
    search = ChainSearch(study, str(folder), preflight=False, **options)
    if not search.planner.done:
        config = search.run_config(str(scratch))
        Tuner(search.trainable(), tune_config=search.tune_config(), run_config=config).fit()
    search.close()
    assert search.error is None
    return search


@pytest.mark.slow
def test_a_search_of_ones_own_leaves_the_files_of_a_run(cluster: None, tmp_path: Path) -> None:
    tuned = {"mode": "tune", "trials": 6, "batch": 3, "eps": [0.02, 0.09], "delta": [0.01, 0.5]}
    study = small_study(arms={"tuned": tuned}, replicates={"seeds": [0]})
    expected = local(study, tmp_path / "expected")
    heard = Heard()
    by_search(study, tmp_path / "run", tmp_path / "scratch", callbacks=[heard])
    frame, _, ledger = load_run(str(tmp_path / "run"))
    assert_same_table(frame, expected.frame)
    assert heard.of("started") == [(study.name, str(tmp_path / "run"))]
    assert {trial.key for trial, _ in heard.of("ended")} == set(frame["key"])
    assert heard.events[-1] == ("finished",)
    assert_same_table(pd.read_parquet(tmp_path / "run" / "table.parquet", dtype_backend="numpy_nullable"), frame)
    weighed = Path("chains", "tuned", "search", "importance.json")
    assert (tmp_path / "run" / weighed).read_bytes() == (tmp_path / "expected" / weighed).read_bytes()
    snapshot, why = snapshot_of(Storage(str(tmp_path / "run")))
    assert snapshot is not None, why
    assert (snapshot.state, snapshot.units) == ("finished", snapshot_of(Storage(expected.url))[0].units)  # type: ignore[union-attr]
    assert ledger["clock_seconds"] > 0
    assert not list((tmp_path / "run" / "lease").iterdir())


@pytest.mark.slow
def test_a_search_of_ones_own_tries_failed_units_again_on_wish_alone(cluster: None, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    table = small_table(cluster={"max_failures": 0})
    study = parse_study({**table, "model": {"function": "tests.users:fragile", "version": "1", "marker": str(marker)}})
    folder, scratch = tmp_path / "run", tmp_path / "scratch"
    first = by_search(study, folder, scratch)
    assert first.planner.counts.failed == 1  # the dense unit, which every chain waits for
    assert (first.planner.counts.trained, marker.exists()) == (0, True)
    assert by_search(study, folder, scratch).suggested == 0
    again = by_search(study, folder, scratch, retry_failed=True)
    assert again.planner.counts.failed == 0
    frame, _, _ = load_run(str(folder))
    assert (frame.status == "ok").all()
    assert_same_table(frame, local(study, tmp_path / "expected").frame)  # where the marker is there from the start


@pytest.mark.parametrize("where", ["--local", pytest.param("on Ray", marks=pytest.mark.slow)])
def test_a_run_below_home_has_its_rows_there(
    where: str, tmp_path: Path, only_svg: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell leaves `~` alone where it is quoted; driver and workers fill it in alike."""
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home, here):
        folder.mkdir()
    (here / "small.toml").write_text(tomli_w.dumps(schedules_alone(small_table())))
    words = ["run", "small.toml", "--out", "~/x"]
    monkeypatch.setenv("HOME", str(home))
    done = in_process(*words, "--local", cwd=here) if where == "--local" else silo_tune(*words, cwd=here, timeout=240)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in here.iterdir()) == ["small.toml"]
    frame, _, _ = load_run(str(home / "x"))
    assert (frame.status == "ok").all()
    assert frame.val_score.notna().all()
    assert len(committed(home / "x")) == frame.key.nunique()
    assert "trials: 0 trained" in in_process(*words, "--local", cwd=here).stdout


@pytest.mark.slow
@pytest.mark.parametrize(("name", "last"), [("own_tuner", "best validation accuracy"), ("asha", "validation")])
def test_an_example_runs_in_a_process_where_nothing_has_started_ray(name: str, last: str, tmp_path: Path) -> None:
    file = ROOT / "experiments" / "examples" / f"{name}.py"
    study = str(ROOT / "experiments" / "digits.toml")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "analysis"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(file), study, str(tmp_path / "run")]
    env = {**{key: value for key, value in os.environ.items() if not key.startswith("RAY_")}, "PYTHONPATH": paths}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert last in done.stdout.splitlines()[-1]
    frame, _, _ = load_run(str(tmp_path / "run"))
    assert (frame.status != "failed").all()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_that_does_not_answer_is_named(tmp_path: Path, address: str) -> None:
    with pytest.raises(BadInput, match="no Ray cluster answers at"):
        run_study(small_study(), str(tmp_path / "run"), address=address)


@pytest.mark.slow
def test_a_driver_that_is_terminated_on_ray_ends_cleanly(tmp_path: Path) -> None:
    file, folder = tmp_path / "small.toml", tmp_path / "run"
    file.write_text(tomli_w.dumps(small_table(replicates={"seeds": list(range(8))}, retrain={"epochs": 8})))
    command = [sys.executable, "-m", "silo_tune", "run", str(file), "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(folder, 3, process, 300)
    process.terminate()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143, said
    assert said.splitlines()[-1].startswith("silo-tune: stopped; nothing committed is lost")
    assert not list((folder / "lease").iterdir())


@pytest.mark.slow
def test_a_driver_killed_on_ray_again_and_again_goes_on_to_the_same_table(reference: Outcome, tmp_path: Path) -> None:
    file, folder = tmp_path / "small.toml", tmp_path / "run"
    file.write_text(tomli_w.dumps(small_table(replicates=SEEDS)))
    command = [sys.executable, "-m", "silo_tune", "run", str(file), "--out", str(folder)]
    rng = random.Random(0)
    kept: dict[str, float] = {}
    for units in (1, 6, 14):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(folder, units, process, 300)
        time.sleep(rng.uniform(0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert {key: at for key, at in committed(folder).items() if key in kept} == kept
        kept = committed(folder)
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert {key: at for key, at in committed(folder).items() if key in kept} == kept
    frame, _, _ = load_run(str(folder))
    assert_same_table(frame, reference.frame)
    assert len(pd.read_parquet(folder / "table.parquet")) == len(frame)


@pytest.mark.slow
def test_a_worker_that_uses_up_the_memory_is_ended_with_the_remedy_and_its_unit_goes_on(
    reference: Outcome, tmp_path: Path
) -> None:
    """Ray ends workers when the machine's memory passes a threshold, which stands a little above what is used now."""
    memory = {line.split(":")[0]: int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines()}
    total, used = memory["MemTotal"], memory["MemTotal"] - memory["MemAvailable"]
    room = 3 * 2**20  # kB
    if used + 3 * room > total:
        pytest.skip("the machine has too little free memory to use some of it up")
    marker, folder = tmp_path / "marker", tmp_path / "run"
    model = {"function": "tests.users:hungry", "version": "1", "marker": str(marker), "megabytes": 2 * room // 1024}
    file = tmp_path / "hungry.toml"
    file.write_text(tomli_w.dumps({**small_table(), "model": model}))
    done = subprocess.run(
        [sys.executable, "-m", "silo_tune", "run", str(file), "--no-preflight", "--out", str(folder)],
        env={
            **os.environ,
            "RAY_memory_usage_threshold": f"{(used + room) / total:.3f}",
            "RAY_memory_monitor_refresh_ms": "50",
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "its worker was ended because the memory of its node was used up" in done.stdout
    assert "it resumes elsewhere from its last partial state" in done.stdout
    frame, _, _ = load_run(str(folder))
    assert set(frame.status) == {"ok"}
