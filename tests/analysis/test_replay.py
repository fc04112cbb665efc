"""A replay: where the truth is known the regret is known, and no search learns the noise of a recorded point."""

from __future__ import annotations

import importlib.util
import math
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from silo_analysis.replay import strategies
from silo_analysis.replay.landscape import RecordedGrid, landscape_of, noise_of, recorded_grid
from silo_analysis.replay.replay_tables import replay, replay_lines
from silo_analysis.replay.strategies import GRID, SAMPLERS, Strategy, play, search
from silo_tune.cli import main
from silo_tune.errors import BadInput
from silo_tune.planner.candidates import OneRound, Proposal, grid_source
from silo_tune.planner.planner import Planner
from silo_tune.store.run_folder import Run
from silo_tune.study.study_file import parse_study
from tests.analysis.builder import diverged, make_frame, make_study, oracle_cycle_of
from tests.plain import Drive, on_disk, table

RATES = np.geomspace(0.01, 1.0, 9)
BEST, CURVATURE = 0.07, 0.02
TOLERANCE = 0.005


def basin(rates: Any, best: float = BEST) -> Any:
    """Accuracy that falls by 2 points at a decade from the best rate."""
    return 0.9 - CURVATURE * np.log10(np.asarray(rates) / best) ** 2


def recorded(
    cycles: int = 3, noise: float = 0.0, seeds: int = 4, lost: Any = None, tested: dict[str, float] | None = None
) -> RecordedGrid:
    """A recorded grid whose truth is `basin` at every cycle; `lost` (S, R) collapsed."""
    rng = np.random.default_rng(0)
    found = []
    for cycle in range(1, cycles + 1):
        val = basin(RATES) + noise * rng.standard_normal((seeds, len(RATES))) + 0.01 * np.arange(seeds)[:, None]
        made = landscape_of(replace(oracle_cycle_of(val, RATES, tested or {}, collapsed=lost), cycle=cycle))
        assert made is not None
        found.append(made)
    return RecordedGrid("oracle", float(RATES[0]), float(RATES[-1]), len(RATES), seeds, tuple(found))


def regrets(of: RecordedGrid, strategy: Strategy, repetitions: int = 3) -> list[float]:
    return [one.regret for r in range(repetitions) for one in play(of, strategy.source, r, seed=0)]


# --- a known truth ---


def test_a_grid_loses_what_lies_between_its_best_rate_and_the_truth() -> None:
    of = recorded()
    for points in (1, 2, 3, 5):
        rates = np.geomspace(0.01, 1.0, points)
        by_hand = CURVATURE * np.min(np.log10(rates / BEST) ** 2)
        assert regrets(of, Strategy(GRID, points)) == pytest.approx([by_hand] * 9, abs=2e-6)
    assert CURVATURE * math.log10(0.01 / BEST) ** 2 == pytest.approx(0.01428, abs=1e-5)  # of one rate: the lowest
    assert max(regrets(of, Strategy(GRID, 200))) < 1e-5


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_guided_search_without_noise_finds_the_basin(sampler: str) -> None:
    repetitions = 1 if sampler == "gp" else 4
    last = regrets(recorded(), Strategy(sampler, 7), repetitions)[2::3]  # warm-started twice
    assert max(last) < 0.001


def test_the_next_cycle_starts_from_the_winner() -> None:
    starts: list[float | None] = []

    def source_of(of: RecordedGrid, landscape: Any, start: float | None, seed: int) -> Any:
        starts.append(start)
        return Strategy("tpe", 4).source(of, landscape, start, seed)

    played = list(play(recorded(), source_of, 0, seed=0))
    assert starts == [None, played[0].rate, played[1].rate]


def test_a_rate_diverges_where_its_nearest_neighbour_did_in_the_seed_that_is_played() -> None:
    lost = np.zeros((4, 9), dtype=bool)
    lost[1, 3:] = True  # the best rate of all is lost to seed 1
    of = recorded(lost=lost)
    landscape = of.landscapes[0]
    edge = math.sqrt(RATES[2] * RATES[3])
    assert [landscape.diverges(rate, 1) for rate in (0.99 * edge, 1.01 * edge)] == [False, True]
    assert not landscape.diverges(1.0, 0)
    assert landscape.best(0) == pytest.approx(basin(BEST) + 0.015, abs=1e-4)
    assert landscape.best(1) == pytest.approx(basin(edge) + 0.015, abs=1e-3)
    told = search(grid_source(list(RATES), {}), landscape, 1, np.random.default_rng(0))
    assert [outcome["status"] for outcome in told] == ["ok"] * 3 + ["diverged"] * 6
    chosen = [one.rate for r in range(2) for one in play(of, Strategy(GRID, 9).source, r, seed=0)]
    assert chosen == pytest.approx([RATES[3]] * 3 + [RATES[2]] * 3)


def test_a_search_whose_rates_all_diverge_has_guessed_and_the_chain_goes_on() -> None:
    lost = np.zeros((1, 9), dtype=bool)
    lost[0, :4] = True
    of = recorded(seeds=1, lost=lost)
    played = list(play(of, lambda *_: OneRound((Proposal({"value": 0.01}),)), 0, seed=0))
    assert [one.rate for one in played] == [None] * 3
    assert played[0].regret == pytest.approx(of.landscapes[0].best(0) - 0.1)
    assert replay(of, [Strategy(GRID, 3)], TOLERANCE, 2)["lost"].tolist() == [0.0]


# --- noise ---


def test_noise_is_what_the_levels_of_seeds_and_rates_leave() -> None:
    assert recorded().noise == pytest.approx(0, abs=1e-12)
    rng = np.random.default_rng(1)
    levels = 0.05 * rng.standard_normal((5, 1)) + 0.05 * rng.standard_normal((1, 15))
    spread = [np.std(noise_of(levels + 0.004 * rng.standard_normal((5, 15)))) for _ in range(200)]
    assert np.sqrt(np.mean(np.square(spread))) == pytest.approx(0.004, rel=0.03)
    gaps = levels + 0.0
    gaps[0, 10:] = np.nan
    assert np.abs(noise_of(gaps)).max() < 1e-6


def test_every_training_draws_its_noise_anew_and_strategies_meet_the_same() -> None:
    landscape = recorded(noise=0.005).landscapes[0]
    twice = OneRound((Proposal({"value": 0.1}), Proposal({"value": 0.1}, repeat=1)))
    first, second = (o["val_score"] for o in search(twice, landscape, 0, np.random.default_rng(0)))
    assert first != second
    other = OneRound((Proposal({"value": 0.03}),))
    (moved,) = (o["val_score"] for o in search(other, landscape, 0, np.random.default_rng(0)))
    assert moved - first == pytest.approx(landscape.accuracy(0.03) - landscape.accuracy(0.1))


def test_one_seed_tells_nothing_of_noise() -> None:
    alone = recorded(noise=0.005, seeds=1)
    assert alone.noise is None
    made = replay(alone, [Strategy(GRID, 5)], TOLERANCE, repetitions=3)
    assert made["regret_se"].tolist() == [0.0]
    assert any("noise is unknown" in line for line in replay_lines(alone, made, TOLERANCE))


def test_a_cycle_of_one_seed_takes_the_noise_of_the_others() -> None:
    study = make_study(cycles=4)
    frame = make_frame(study)
    frame = frame[(frame["cycle"] < 3) | (frame["seed"] == 0)]
    found = recorded_grid(frame, study, "oracle").landscapes
    assert [len(landscape.noise) > 0 for landscape in found] == [True, True, True]
    assert len(found[2].noise) == len(found[0].noise) + len(found[1].noise)


# --- the table ---


def test_the_same_seed_gives_the_same_table_and_another_does_not() -> None:
    of = recorded(noise=0.005)
    competing = [Strategy("tpe", 4), Strategy("random", 5), Strategy(GRID, 5)]
    first, same, other = (replay(of, competing, TOLERANCE, 3, seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, same)
    assert (first["regret"] != other["regret"]).all()


def test_more_trials_never_cost_fewer_units_and_tested_values_are_counted() -> None:
    of = recorded(noise=0.005, tested={"silo": 0.05, "low": 0.02})
    here = [sampler for sampler in SAMPLERS if sampler != "gp" and not (sampler == "cmaes" and not _has("cmaes"))]
    made = replay(of, strategies(of, here, [3, 4, 6]), TOLERANCE, 2)
    for name, rows in made.groupby("strategy"):
        assert rows["trials"].is_monotonic_increasing
        assert (rows["units"].diff().dropna() > 0).all(), name
        assert ((rows["units"] >= rows["trials"]) & (rows["units"] <= rows["trials"] + 2)).all()
    assert made.loc[made["strategy"] == GRID, "trials"].tolist() == [3, 4, 5, 6, 8, 9]
    assert ((made["within"] >= 0) & (made["within"] <= 1) & (made["regret"] > -1e-9)).all()


def test_repeats_cost_units_and_under_noise_they_are_worth_more_than_as_many_rates() -> None:
    of = recorded(cycles=4, noise=0.01)
    repeated = replay(of, strategies(of, ["random"], [4], repeat_top=2), TOLERANCE, 40).iloc[-1]
    asked = replay(of, strategies(of, ["random"], [6]), TOLERANCE, 40).iloc[-1]
    assert repeated["units"] == asked["units"] == 6
    assert repeated["regret"] < asked["regret"]


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def test_a_replay_of_a_table_reads_the_oracle_of_the_verdict() -> None:
    study = make_study(cycles=4)
    spoiled = make_frame(study, spoil=lambda row: diverged() if row["max_lr"] == 1.0 else {})
    found = recorded_grid(spoiled, study)
    assert found.oracle == "oracle-at-silo"
    assert [landscape.cycle for landscape in found.landscapes] == [1, 2, 3]
    assert (found.low, found.high, found.points, found.seeds) == (0.01, 1.0, 7, 5)
    assert set(found.landscapes[0].tested) == {"silo", "low", "high", "ramp"}
    assert found.landscapes[0].diverges(0.9, 0)
    assert found.noise == pytest.approx(0.002, rel=0.25)


# --- the command ---


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with a grid and a guided Oracle, trained by simulation."""
    arms = {
        "arms.greedy": {"mode": "oracle", "grid": {"low": 0.01, "high": 1.0, "points": 5}},
        "arms.conditioned": {
            "mode": "oracle", "prefix": "arm:silo", "guided": {"sampler": "tpe", "low": 0.01, "high": 1.0, "trials": 3},
        },
    }  # fmt: skip
    return trained(tmp_path_factory.mktemp("replayed") / "run", arms)


def trained(folder: Path, arms: dict[str, Any]) -> str:
    made = parse_study(table({"cycles": 4, **arms}))
    run = Run(str(folder))
    run.accept(made, {})
    run.check_data({"content": "c", "classes": 3, "n_train": 9, "n_val": 9, "n_test": 9})
    Drive(on_disk(run))(Planner(made, run))
    return str(folder)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["silo-tune", "replay", *arguments])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command_prints_the_table_and_writes_figure_and_table(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--sampler", "tpe", "--sampler", "random", "--trials", "4", "--trials", "3", "--repetitions", "2")
    assert command(monkeypatch, url, *options) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Replay of greedy (greedy): 5 rates, 2 seeds, cycles 1 to 3\n")
    assert "Exact within a cycle only" in shown
    lines = [re.split(" {2,}", line)[:2] for line in shown.splitlines() if re.match("(grid|tpe|random) ", line)]
    assert lines == [
        ["grid", "3"], ["grid", "4"], ["grid", "5"], ["tpe", "3"], ["tpe", "4"], ["random", "3"], ["random", "4"],
    ]  # fmt: skip
    files = Path(url) / "report" / "replay"
    assert sorted(file.name for file in files.iterdir()) == ["replay.csv", "replay.pdf", "replay.png", "replay.svg"]
    ElementTree.parse(files / "replay.svg")
    assert len(pd.read_csv(files / "replay.csv")) == len(lines)
    before = [file.read_bytes() for file in sorted(files.iterdir())]
    assert command(monkeypatch, url, *options) == 0
    assert [file.read_bytes() for file in sorted(files.iterdir())] == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--oracle", "silo"), "unknown Oracle 'silo'; choose from conditioned, greedy"),
        (("--oracle", "conditioned"), "Oracle 'conditioned' has no grid to replay; choose from greedy"),
        (("--sampler", "grid"), "unknown sampler 'grid'; choose from cmaes, gp, qmc, random, tpe"),
        (("--trials", "2"), "--trials 2 are fewer than the 3 warm starts"),
        (("--trials", "5000"), "--trials 5000 are more than a study allows"),
        (("--repeat-top", "1"), "--repeat-top 1: it compares at least 2 and at most --trials rates"),
        (("--repeat-top", "6"), "--repeat-top 6: it compares at least 2 and at most --trials rates"),
        (("--repetitions", "0"), "--repetitions 0: there must be at least one"),
        (("--seed", "-1"), "--seed -1: it must not be below 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line(
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    assert command(monkeypatch, url, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_there_must_be_a_run_with_a_grid_that_has_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without = trained(tmp_path / "without", {"arms.greedy": None, "arms.conditioned": None})
    for place, message in ((str(tmp_path / "nowhere"), "no run at"), (without, "no Oracle of the study has a grid")):
        assert command(monkeypatch, place) == 2
        assert message in capsys.readouterr().err
    study = make_study()
    frame = make_frame(study)
    with pytest.raises(BadInput, match="Oracle 'oracle' has no results yet"):
        recorded_grid(frame[frame["arm"] == "silo"], study, "oracle")
    lost = make_frame(study, spoil=lambda row: diverged() if row["cycle"] and row["max_lr"] > 0.025 else {})
    with pytest.raises(BadInput, match="has no cycle with 3 rates that trained"):
        recorded_grid(lost, study, "oracle")


def test_a_sampler_whose_package_is_missing_is_named_with_its_extra(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "cmaes" else found(name, *rest)
    )
    assert command(monkeypatch, url, "--sampler", "cmaes") == 2
    assert "pip install 'silo-tune[cmaes]'" in capsys.readouterr().err
