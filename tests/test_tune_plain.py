"""One cycle in a user's own Tuner: the numbers of the run, whoever stops, pauses, restarts or clones its trials."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray
import tomli_w
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from silo_tune.api import run_study
from silo_tune.data.load import load_data
from silo_tune.errors import BadInput
from silo_tune.models.checkpoint import unpack
from silo_tune.planner.unit import Unit
from silo_tune.run.session import Outcome
from silo_tune.store.run_folder import Run
from silo_tune.store.unit_store import unit_of
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study
from silo_tune.study.workspace import Workspace
from silo_tune.training.epochwise import STATE, Stepwise, at_rate
from silo_tune.training.worker import Worker
from silo_tune.tune.trainable import PruneRetrain
from tests.conftest import example, small_study, small_table

EPOCHS = 4
# What a trial reports is in the run's table under the same name.
NUMBERS = ["val_score", "val_loss", "train_loss", "weights_remaining", "max_lr", "key"]


def kept_study(**changes: Any) -> Study:
    """The small study with four epochs per cycle, four rates that all train, and all weights kept."""
    arms = {"greedy": {"grid": {"high": 0.4}}}
    return small_study(retrain={"epochs": EPOCHS}, cluster={"keep": "all"}, arms=arms, **changes)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_study(kept_study(), str(tmp_path_factory.mktemp("done") / "run"), local=True)


def row_of(done: Outcome, arm: str, cycle: int) -> Any:
    frame = done.frame
    return frame[(frame.arm == arm) & (frame.cycle == cycle) & frame.winner].iloc[0]


def worker_of(study: Study, url: str) -> Worker:
    return Worker(Workspace.of(study, url), load_data(study.data))


def numbers(report: dict[str, Any]) -> dict[str, Any]:
    return {name: report[name] for name in NUMBERS}


def finish(trial: Stepwise) -> list[dict[str, Any]]:
    """Every report to the end."""
    reports = [trial.step()]
    while not reports[-1]["done"]:
        reports.append(trial.step())
    return reports


def state_of(trial: Stepwise, folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    folder.mkdir()
    trial.save(str(folder))
    return unpack((folder / STATE).read_bytes())[0]


def assert_same_state(one: Any, other: Any) -> None:
    assert {group: set(tensors) for group, tensors in one.items()} == {g: set(t) for g, t in other.items()}
    assert all(torch.equal(one[group][name], other[group][name]) for group in one for name in one[group])


# --- epoch by epoch, without Ray ---


@pytest.mark.parametrize("cycle", [0, 1, 2])
def test_a_trial_ends_with_the_numbers_of_the_unit_in_the_run(done: Outcome, cycle: int) -> None:
    result = Run(done.url).result(row_of(done, "silo", cycle).key)
    assert result is not None
    reports = finish(Stepwise(worker_of(kept_study(), done.url), unit_of(result)))
    assert numbers(reports[-1]) == {name: result[name] for name in NUMBERS}
    assert [report["epoch"] for report in reports] == list(range(1, result["epochs"] + 1))
    assert [report["done"] for report in reports] == [False] * (len(reports) - 1) + [True]
    assert len({report["val_loss"] for report in reports}) == len(reports)


@pytest.mark.parametrize(
    "model", [{"name": "resnet8"}, {"function": "tests.users:model", "version": "1"}], ids=["norm", "dropout"]
)
def test_a_state_goes_on_bit_identically(tmp_path: Path, model: dict[str, Any]) -> None:
    study = parse_study({**small_table(dense={"epochs": 3}), "model": model})
    worker = worker_of(study, str(tmp_path / "run"))
    unit = dense_unit(study)
    straight = Stepwise(worker, unit)
    expected = finish(straight)[-1]
    final = state_of(straight, tmp_path / "final")
    for epochs in range(4):
        saved, place = Stepwise(worker, unit), tmp_path / str(epochs)
        place.mkdir()
        for _ in range(epochs):
            saved.step()
        saved.save(str(place))
        again = Stepwise(worker, unit)
        again.step()  # it goes on from the state, not from what it did before
        again.load(str(place))
        assert finish(again)[-1] == expected
        assert_same_state(state_of(again, tmp_path / f"final-{epochs}"), final)


def dense_unit(study: Study, rate: float = 0.1) -> Unit:
    from silo_tune.planner.unit import make_unit

    settings = study.settings(study.arms["silo"])
    return make_unit(study, settings, parent=None, cycle=0, seed=0, peak={"value": rate})


def test_a_clone_goes_on_at_its_own_rate_and_is_no_unit_of_a_run(tmp_path: Path) -> None:
    study = small_study(dense={"epochs": 3})
    worker = worker_of(study, str(tmp_path / "run"))
    donor = Stepwise(worker, dense_unit(study, 0.1))
    donor.step()
    donor.save(str(tmp_path))
    clones = [Stepwise(worker, dense_unit(study, 0.3)) for _ in range(2)]
    for clone in clones:
        clone.load(str(tmp_path))
    ends = [finish(clone)[-1] for clone in clones]
    assert ends[0] == ends[1]
    assert ends[0]["key"] is None
    assert (ends[0]["epoch"], ends[0]["max_lr"]) == (3, 0.3)
    assert ends[0]["val_loss"] not in (
        finish(donor)[-1]["val_loss"],
        finish(Stepwise(worker, dense_unit(study, 0.3)))[-1]["val_loss"],
    )


def test_a_state_of_another_cycle_is_refused(done: Outcome, tmp_path: Path) -> None:
    worker = worker_of(kept_study(), done.url)
    results = [Run(done.url).result(row_of(done, "silo", cycle).key) for cycle in (1, 2)]
    first, second = (Stepwise(worker, unit_of(result)) for result in results if result is not None)
    first.step()
    first.save(str(tmp_path))
    with pytest.raises(ValueError, match="another cycle, replicate, parent or study"):
        second.load(str(tmp_path))


def test_a_diverged_rate_reports_guessing_and_stays_ended(tmp_path: Path) -> None:
    study = small_study(dense={"epochs": 4})
    worker = worker_of(study, str(tmp_path / "run"))
    trial = Stepwise(worker, dense_unit(study, 1e12))
    end = finish(trial)[-1]
    assert (end["status"], end["val_score"], end["done"]) == ("diverged", 0.1, True)
    trial.save(str(tmp_path))
    again = Stepwise(worker, dense_unit(study, 1e12))
    again.load(str(tmp_path))
    assert again.step() == end


def test_the_test_images_are_never_looked_at(done: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    worker = worker_of(kept_study(), done.url)
    result = Run(done.url).result(row_of(done, "silo", 1).key)
    assert result is not None
    unit = unit_of(result)
    feed: Any = worker.feed(unit)

    def batches(part: Any, *how: Any) -> Any:
        seen.append(part)
        return type(feed).batches(feed, part, *how)

    monkeypatch.setattr(feed, "batches", batches)
    finish(Stepwise(worker, unit))
    assert seen
    tested = set(feed.test.rows.tolist())
    assert all(part is feed.val or not tested & set(part.rows.tolist()) for part in seen)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, r"takes max_lr and nothing else, got \[\]"),
        ({"max_lr": 0.1, "batch": 32}, r"got \['batch', 'max_lr'\]"),
        ({"max_lr": 0}, "max_lr is a rate above 0, got 0"),
        ({"max_lr": "high"}, "max_lr is a rate above 0, got 'high'"),
    ],
)
def test_a_config_is_one_rate(config: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        at_rate(replace(dense_unit(small_study()), peak=None), config)


# --- in a Tuner ---


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    # Not below pytest's folder: the path of a socket has at most 107 characters.
    import tempfile

    with tempfile.TemporaryDirectory(prefix="silo-ray-", ignore_cleanup_errors=True) as scratch:
        ray.init(address="local", num_cpus=2, include_dashboard=False, _temp_dir=scratch, log_to_driver=False)
        yield
        ray.shutdown()


def fit(
    trainable: Any,
    rates: list[float],
    scheduler: TrialScheduler | None,
    folder: Path,
    frequency: int = 0,
    failures: int = 0,
    at_once: int | None = None,
) -> dict[float, dict[str, Any]]:
    """The last report of each rate."""
    tuner = tune.Tuner(
        trainable,
        param_space={"max_lr": tune.grid_search(rates)},
        tune_config=tune.TuneConfig(scheduler=scheduler, reuse_actors=True, max_concurrent_trials=at_once),
        run_config=tune.RunConfig(
            name="plain",
            storage_path=str(folder),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=frequency),
            failure_config=tune.FailureConfig(max_failures=failures),
        ),
    )
    grid = tuner.fit()
    assert not grid.errors
    return {(grid[i].config or {})["max_lr"]: dict(grid[i].metrics or {}) for i in range(len(grid))}


def oracle_numbers(done: Outcome) -> dict[float, dict[str, Any]]:
    """What the run says of every rate at cycle 1 from the dense network."""
    frame: pd.DataFrame = done.frame
    rows = frame[(frame.arm == "greedy") & (frame.cycle == 1)]
    return {row.max_lr: numbers(dict(row)) for _, row in rows.iterrows()}


@pytest.mark.slow
def test_asha_stops_the_poor_rates_and_changes_no_number(cluster: None, done: Outcome, tmp_path: Path) -> None:
    trainable = PruneRetrain.for_cycle(kept_study(), parent=row_of(done, "silo", 0).key, out=done.url)
    scheduler = ASHAScheduler(metric="val_score", mode="max", max_t=EPOCHS, grace_period=1, reduction_factor=2)
    expected = oracle_numbers(done)
    # One after the other from the highest rate, so that it is no matter of luck who is compared with whom.
    reports = fit(trainable, sorted(expected, reverse=True), scheduler, tmp_path, at_once=1)
    ended = {rate: numbers(report) for rate, report in reports.items() if report["epoch"] == EPOCHS}
    assert 0 < len(ended) < len(reports)
    assert ended == {rate: expected[rate] for rate in ended}


class Pauses(FIFOScheduler):
    """Pauses every trial after its second epoch; it goes on when the others have paused too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision: str = TrialScheduler.PAUSE if result["epoch"] == 2 else TrialScheduler.CONTINUE
        return decision


@pytest.mark.slow
def test_trials_that_a_scheduler_pauses_end_with_the_same_numbers(cluster: None, done: Outcome, tmp_path: Path) -> None:
    trainable = PruneRetrain.for_cycle(kept_study(), parent=row_of(done, "silo", 0).key, out=done.url)
    expected = oracle_numbers(done)
    reports = fit(trainable, list(expected), Pauses(), tmp_path)
    assert [report["iterations_since_restore"] for report in reports.values()] == [EPOCHS - 2] * len(expected)
    assert {rate: numbers(report) for rate, report in reports.items()} == expected


@pytest.mark.slow
def test_a_trial_whose_worker_is_killed_goes_on_from_its_checkpoint(cluster: None, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    model = {"function": "tests.users:killer", "version": "1", "marker": str(marker)}
    study = parse_study({**small_table(retrain={"epochs": 6}, cluster={"keep": "all"}), "model": model})
    marker.touch()  # a network that finds its marker never kills
    done = run_study(study, str(tmp_path / "run"), local=True)
    marker.unlink()
    trainable = PruneRetrain.for_cycle(study, parent=row_of(done, "silo", 0).key, out=done.url)
    reports = fit(trainable, [0.01, 0.1], None, tmp_path, frequency=1, failures=1)
    assert marker.exists()
    assert any(report["iterations_since_restore"] < 6 for report in reports.values())
    expected = oracle_numbers(done)
    assert {rate: numbers(report) for rate, report in reports.items()} == {r: expected[r] for r in (0.01, 0.1)}


def test_what_cannot_be_a_parent_is_named(cluster: None, done: Outcome, tmp_path: Path) -> None:
    study = kept_study()
    for message, changes in {
        "unknown arm 'slio'; choose from conditioned, flat, greedy, silo": {"arm": "slio"},
        "no run at": {"parent": "0" * 64, "out": str(tmp_path / "nowhere")},
        "'first' is no trial's key": {"parent": "first"},
        "has no trial 000000000000; take one from the column `key`": {"parent": "0" * 64},
        "is of the last cycle of the study; raise `cycles`": {"parent": row_of(done, "silo", 2).key},
    }.items():
        with pytest.raises(BadInput, match=message):
            PruneRetrain.for_cycle(study, **{"out": done.url, **changes})
    with pytest.raises(BadInput, match=r"dense\.max_lr: was 0.1, now 0.2"):
        PruneRetrain.for_cycle(kept_study(dense={"max_lr": 0.2}), parent=row_of(done, "silo", 1).key, out=done.url)
    swept = run_study(small_study(), str(tmp_path / "swept"), local=True)
    with pytest.raises(BadInput, match=r'are gone .* cluster\.keep = "all" keeps them'):
        PruneRetrain.for_cycle(small_study(), parent=row_of(swept, "silo", 1).key, out=swept.url)


@pytest.mark.slow
def test_the_example_runs(cluster: None, tmp_path: Path) -> None:
    module = example("asha")
    study = tmp_path / "small.toml"
    study.write_text(tomli_w.dumps(small_table()))
    results = module.main(str(study), str(tmp_path / "run"))
    assert len(results) == module.SAMPLES
    assert not results.errors
