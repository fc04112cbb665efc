"""Fitted curves: the truth of simulated runs is found, what is left out is not seen, and doubt is said."""

from __future__ import annotations

import math
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from silo_analysis.answers.fit_words import arm_toml, conclusion, fit_lines
from silo_analysis.curve_fit.comparison import Comparison, compare, schedule_of
from silo_analysis.curve_fit.families import BETAS, FAMILIES, RIVALS, highest_rising_path, silo
from silo_analysis.curve_fit.fitted_response import read, response_from, response_of, worth
from silo_analysis.curve_fit.seen import smoothed
from silo_analysis.estimates.oracle import OracleCycle
from silo_analysis.figures.draw_fit import save_fit
from silo_tune.cli import main
from silo_tune.errors import BadInput
from silo_tune.planner.planner import Planner
from silo_tune.schedules.peaks import Linear, Schedule, Silo
from silo_tune.store.run_folder import Run
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study
from tests.analysis.builder import ARMS, diverged, failed, make_frame, make_study, oracle_cycle_of
from tests.plain import Drive, on_disk, table

Best = Callable[[int], float]
CYCLES = 9
PRUNED = [1 - 0.8**m for m in range(CYCLES)]
GRID = [float(f"{0.01 * 10 ** (i / 4):.12g}") for i in range(9)]
S_TRUTH = Silo(GRID[2], GRID[6] - GRID[2])


def constantly(cycle: int) -> float:
    return GRID[4]


def s_shaped(cycle: int) -> float:
    return S_TRUTH.peak(cycle, PRUNED)


def simulate(
    best: Best,
    curvature: float = 0.06,
    noise: float = 0.006,
    seeds: int = 5,
    draw: int = 0,
    loss: Callable[[int, Any], Any] | None = None,
) -> list[OracleCycle]:
    """Cycles 1 … 8 whose accuracy falls off from the best rate as a parabola in log10 max_lr, or as `loss` says."""
    rng = np.random.default_rng(draw)
    found = []
    for m in range(1, CYCLES):
        away = np.log10(np.array(GRID) / best(m))
        level = 0.95 - (curvature * away**2 if loss is None else loss(m, away))
        level = level + 0.005 * rng.standard_normal((seeds, 1))  # how well a seed does at this cycle
        val, test = (level + noise * rng.standard_normal((seeds, len(GRID))) for _ in range(2))
        found.append(replace(oracle_cycle_of(val, GRID, {}, test=test), cycle=m))
    return found


def fitted(groups: Sequence[OracleCycle]) -> Comparison:
    return compare(response_from(groups, PRUNED))


def loss_of(peaks: Sequence[float], best: Best, curvature: float = 0.06) -> float:
    """What a curve truly loses against the truth, mean over cycles, in points."""
    return 100 * float(np.mean([curvature * np.log10(peak / best(m + 1)) ** 2 for m, peak in enumerate(peaks)]))


def said(comparison: Comparison) -> str:
    return "\n".join(conclusion(comparison, make_study()))


# --- truths are found ---


def test_a_true_s_is_recovered_and_found_better_than_the_simpler_curves() -> None:
    comparison = fitted(simulate(s_shaped, curvature=0.3, noise=0.002))
    schedule = schedule_of(comparison, "silo")
    assert isinstance(schedule, Silo)
    assert schedule.eps == pytest.approx(S_TRUTH.eps, rel=0.15)
    assert schedule.eps + schedule.delta == pytest.approx(S_TRUTH.eps + S_TRUTH.delta, rel=0.15)
    assert schedule.q == 1
    assert [comparison.verdict(rival) for rival in RIVALS] == ["better"] * 3
    assert comparison.trend() == ("rise", "silo")
    assert "Is it S-shaped? Yes" in said(comparison)
    assert loss_of(comparison.fits["silo"].peaks.tolist(), s_shaped, 0.3) < 0.1
    assert loss_of(comparison.fits["constant"].peaks.tolist(), s_shaped, 0.3) > 3


def test_a_constant_truth_is_not_called_an_s() -> None:
    runs = [fitted(simulate(constantly, draw=draw)) for draw in range(15)]
    assert not [run for run in runs if "S-shaped? Yes" in said(run)]
    assert not [run for run in runs if run.trend() is not None]
    assert all(loss_of(run.fits["silo"].peaks.tolist(), constantly) < 0.05 for run in runs)


def test_where_every_rate_is_as_good_the_data_cannot_tell() -> None:
    runs = [fitted(simulate(constantly, curvature=0.0, draw=draw)) for draw in range(20)]
    verdicts = [run.verdict(rival) for run in runs for rival in RIVALS]
    assert verdicts.count("better") <= 0.1 * len(verdicts)
    assert not [run for run in runs if "S-shaped? Yes" in said(run)]
    assert all(fit.allowed for run in runs for fit in run.betas if fit.beta == 5)
    level = [replace(group, val=np.full_like(group.val, 0.9)) for group in simulate(constantly)]
    perfectly = fitted(level)
    assert perfectly.fits["silo"].parameters["delta"] == 0  # among equals the constant
    assert perfectly.verdict("constant") == "the same curve"
    assert "it is a constant peak" in said(perfectly)
    assert "Nothing can be said" in said(perfectly)


def test_a_falling_truth_is_no_s() -> None:
    comparison = fitted(simulate(lambda m: GRID[7] * (GRID[1] / GRID[7]) ** (m / 8)))
    assert comparison.verdict("exponential") == "worse"
    assert comparison.fits["silo"].parameters["delta"] == 0
    direction, _ = comparison.trend() or ("", "")
    assert direction == "fall"
    assert "S-shaped? No" in said(comparison)


@pytest.mark.parametrize(("beta", "ruled_out"), [(30.0, 3.0), (2.0, 30.0), (5.0, 1.5)])
def test_the_profile_over_beta_holds_the_true_one_and_rules_out_others(beta: float, ruled_out: float) -> None:
    truth = replace(S_TRUTH, beta=beta)
    # With a low noise and many seeds: at five seeds and usual noise no beta is ruled out.
    comparison = fitted(simulate(lambda m: truth.peak(m, PRUNED), curvature=0.5, noise=0.002, seeds=10))
    allowed = {fit.beta: fit.allowed for fit in comparison.betas}
    assert list(allowed) == sorted(BETAS)
    assert allowed[beta]
    assert not allowed[ruled_out]
    assert ("It is not ruled out" in said(comparison)) == allowed[5.0]
    usual = fitted(simulate(lambda m: truth.peak(m, PRUNED)))
    assert "beta = 5 hold? The data cannot tell" in said(usual)


def test_a_fit_does_not_chase_the_best_rates_of_flat_cycles() -> None:
    def loss(cycle: int, away: Any) -> Any:
        return 0.12 * away**2 if cycle % 2 else 0.0 * away

    lost: list[Any] = []
    chased: list[Any] = []
    for draw in range(10):
        comparison = fitted(simulate(s_shaped, loss=loss, draw=draw))
        response = comparison.response
        noisy = np.log(
            [rates[np.nanmean(val, axis=0).argmax()] for rates, val in zip(response.rates, response.val, strict=True)]
        )
        peaks = np.concatenate([peaks for beta in BETAS for _, peaks in silo(response, beta)])
        nearest = peaks[((np.log(peaks) - noisy) ** 2).sum(axis=1).argmin()]  # least squares to the best rates
        for curve, losses in ((comparison.fits["silo"].peaks, lost), (nearest, chased)):
            losses.append(np.mean([loss(m + 1, np.log10(peak / s_shaped(m + 1))) for m, peak in enumerate(curve)]))
    assert np.mean(lost) < 0.25 * np.mean(chased)


# --- how a response is read, and what the fits see ---


def test_a_response_is_read_along_straight_lines_in_log_max_lr() -> None:
    rates, curves = np.array([0.01, 0.1, 1.0]), np.array([[0.2, 0.8, 0.4], [0.0, 1.0, 0.0]])
    at = np.array([0.01, 0.1, 1.0, math.sqrt(0.001), 0.1 * 10**0.25])
    assert read(rates, curves, at) == pytest.approx(np.array([[0.2, 0.8, 0.4, 0.5, 0.7], [0, 1, 0, 0.5, 0.75]]))


def test_smoothing_leaves_a_parabola_and_a_cliff_as_they_are_and_takes_noise_away() -> None:
    rates, mesh = np.array(GRID), np.geomspace(0.01, 1.0, 41)
    parabola = 0.9 - 0.01 * np.log10(rates / 0.07) ** 2
    assert smoothed(rates, parabola, mesh) == pytest.approx(0.9 - 0.01 * np.log10(mesh / 0.07) ** 2)
    cliff = np.where(rates > 0.2, 0.1, parabola)
    below = mesh <= GRID[5]
    assert smoothed(rates, cliff, mesh)[below] == pytest.approx(0.9 - 0.01 * np.log10(mesh[below] / 0.07) ** 2)
    assert smoothed(rates, cliff, rates)[6:] == pytest.approx(cliff[6:])
    noise = 0.002 * np.random.default_rng(0).standard_normal(len(rates))
    assert np.std(smoothed(rates, parabola + noise, rates) - parabola) < 0.8 * np.std(noise)


@pytest.mark.parametrize("beta", [1.0, 5.0, 30.0])
def test_the_curves_of_a_family_are_the_schedules_of_that_name(beta: float) -> None:
    comparison = fitted(simulate(s_shaped))
    rng = np.random.default_rng(1)
    for parameters, peaks in silo(comparison.response, beta):
        for i in rng.integers(0, len(parameters), 20):
            eps, delta, own, q = parameters[i].tolist()
            schedule = Silo(eps, delta, own, int(q))
            assert [schedule.peak(m, PRUNED) for m in range(1, CYCLES)] == pytest.approx(peaks[i].tolist())
    for name in ("silo", "silo, beta 5", "constant", "linear"):
        made = schedule_of(comparison, name)
        assert isinstance(made, Schedule)
        shown = [made.peak(m, PRUNED) for m in range(1, CYCLES)]
        assert shown == pytest.approx(comparison.fits[name].peaks.tolist()), name
    assert schedule_of(comparison, "free") is None


def test_no_curve_leaves_the_rates_that_were_tried() -> None:
    for best in (lambda m: 1e-4, lambda m: 50.0, lambda m: 1e-4 * 10**m):
        comparison = fitted(simulate(best))
        for fit in comparison.fits.values():
            assert (fit.peaks >= GRID[0]).all()
            assert (fit.peaks <= GRID[-1]).all()
        assert "edge of the rates that were tried" in said(comparison)


def test_the_highest_rising_path_is_the_best_of_all() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        curves = rng.random((4, 5))
        every = combinations_with_replacement(range(5), 4)
        best = max(every, key=lambda path: sum(curves[m, j] for m, j in enumerate(path)))
        assert tuple(highest_rising_path(curves)) == best
    assert highest_rising_path(np.zeros((3, 4))).tolist() == [0, 0, 0]


# --- what is left out ---

TINY = [
    # Two seeds, three rates (too few to smooth), three cycles.
    [[0.80, 0.90, 0.70], [0.80, 0.86, 0.90]],
    [[0.80, 0.82, 0.90], [0.80, 0.82, 0.90]],
    [[0.70, 0.90, 0.80], [0.70, 0.70, 0.80]],
]


def tiny() -> Comparison:
    rates = [0.01, 0.1, 1.0]
    return fitted([replace(oracle_cycle_of(val, rates, {}), cycle=m) for m, val in enumerate(TINY, start=1)])


def test_errors_on_what_was_left_out_by_hand() -> None:
    # Means: cycle 1 .80 .88 .80, cycle 2 .80 .82 .90, cycle 3 .70 .80 .80. Best: 0.1, 1.0, 0.1 (the first of equals).
    comparison = tiny()
    free, constant, rising = (comparison.fits[name] for name in ("free", "constant", "free rising"))
    assert comparison.best == pytest.approx([0.1, 1.0, 0.1])
    assert free.seen == pytest.approx([0, 0])
    # Constant 0.1: .88 + .82 + .80 = 2.50; 1.0: .80 + .90 + .80 = 2.50, and so is every rate between: the first, 0.1.
    assert constant.parameters == {"max_lr": pytest.approx(0.1)}
    assert constant.seen == pytest.approx([0.08 / 3, 0.08 / 3])
    # Without cycle 1: 0.1 has 1.62, 1.0 has 1.70. Without 2: 1.68 against 1.60. Without 3: 1.70 each, so 0.1.
    # At those: cycle 1 at 1.0, cycle 2 at 0.1, cycle 3 at 0.1.
    seeds = [[0.90 - 0.70, 0.90 - 0.82, 0.0], [0.86 - 0.90, 0.90 - 0.82, 0.0]]
    assert constant.new_cycle == pytest.approx(np.mean(seeds, axis=1))
    # Without seed 0 only seed 1 is seen: 1.0 (.90 + .90 + .80). Without seed 1: 0.1 (.90 + .82 + .90).
    assert constant.new_seed == pytest.approx([(0.20 + 0 + 0.10) / 3, (0 + 0.08 + 0) / 3])
    assert constant.ranges["max_lr"] == pytest.approx((0.1, 1.0))
    # Rising: 0.1, 1.0, 1.0. Without cycle 1 it is 1.0, 1.0 and so 1.0 there; without 2: 0.1, 0.1 and so 0.1 there;
    # without 3: 0.1, 1.0 and so 1.0 there.
    assert rising.peaks == pytest.approx([0.1, 1.0, 1.0])
    seeds = [[0.20, 0.08, 0.90 - 0.80], [-0.04, 0.08, 0.70 - 0.80]]
    assert rising.new_cycle == pytest.approx(np.mean(seeds, axis=1))
    # A free curve that did not see cycle 2 goes from 0.1 to 0.1.
    assert free.new_cycle[0] == pytest.approx(np.mean([0.90 - 0.70, 0.08, 0.90 - 0.80]))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fit_without_a_seed_is_the_fit_to_a_run_that_never_had_it(family: str) -> None:
    groups = simulate(s_shaped, noise=0.01, seeds=4)
    whole = fitted(groups)
    for s in range(4):
        without = [replace(g, **_rows(g, [i for i in range(4) if i != s])) for g in groups]
        other = fitted(without).fits[family].peaks
        values = worth(whole.response, np.stack([other, whole.best]))[s]
        assert whole.fits[family].new_seed[s] == pytest.approx((values[:, 1] - values[:, 0]).mean(), abs=1e-9)


def _rows(group: OracleCycle, keep: list[int]) -> dict[str, Any]:
    matrices = {name: getattr(group, name)[keep] for name in ("val", "val_loss", "test", "ok", "collapsed")}
    return {"seeds": tuple(group.seeds[i] for i in keep), **matrices}


@pytest.mark.parametrize("family", ["silo", "silo, beta 5", "constant"])
def test_a_fit_without_a_cycle_is_the_fit_to_a_run_that_never_had_it(family: str) -> None:
    groups = simulate(s_shaped, noise=0.01)
    whole = fitted(groups)
    top = worth(whole.response, whole.best[None])[:, :, 0]
    lost = []
    for m in range(1, CYCLES):
        schedule = schedule_of(fitted([group for group in groups if group.cycle != m]), family)
        assert isinstance(schedule, Schedule)
        everywhere = np.array([[schedule.peak(cycle, PRUNED) for cycle in range(1, CYCLES)]])
        lost.append((top - worth(whole.response, everywhere)[:, :, 0])[:, m - 1])
    assert whole.fits[family].new_cycle == pytest.approx(np.mean(lost, axis=0))


# --- runs with something missing ---


def test_one_seed_has_no_interval_and_two_no_comparison() -> None:
    one, two = (fitted(simulate(s_shaped, seeds=n)) for n in (1, 2))
    assert np.isnan(one.fits["silo"].new_seed).all()
    assert np.isfinite(one.fits["silo"].new_cycle).all()
    assert np.isfinite(two.fits["silo"].new_seed).all()
    for comparison in (one, two):
        assert {comparison.verdict(rival) for rival in RIVALS} == {"cannot tell"}
        assert comparison.trend() is None
        assert all(fit.allowed for fit in comparison.betas)
        text = "\n".join(fit_lines(comparison, make_study()))
        assert "The data cannot tell which curve is best" in text
        assert "nan" not in text
        assert save_fit(comparison, 0.005)["svg"]


def test_cycles_and_seeds_that_are_missing_are_left_out() -> None:
    groups = simulate(s_shaped, curvature=0.3, noise=0.0)
    early = [replace(g, **_rows(g, [0, 1, 2])) if g.cycle > 5 else g for g in groups if g.cycle != 3]
    comparison = fitted(early)
    assert comparison.response.cycles == (1, 2, 4, 5, 6, 7, 8)
    assert comparison.response.present.sum(axis=1).tolist() == [7, 7, 7, 4, 4]
    assert comparison.fits["silo"].parameters["eps"] == pytest.approx(S_TRUTH.eps, rel=0.15)
    for fit in comparison.fits.values():
        assert np.isfinite([fit.seen, fit.new_cycle, fit.new_seed, fit.test]).all()


def test_a_failed_unit_inside_is_bridged_and_one_at_an_end_leaves_the_seed_out() -> None:
    groups = simulate(s_shaped, noise=0.0)
    inner, edge = (groups[i].val.copy() for i in (0, 1))
    inner[2, 4], edge[3, 0] = np.nan, np.nan
    response = response_from([replace(groups[0], val=inner), replace(groups[1], val=edge), *groups[2:]], PRUNED)
    assert np.isfinite(response.val[0]).all()
    x = np.log(response.rates[0])
    assert response.val[0][2, 4] == pytest.approx(np.interp(x[4], x[[3, 5]], inner[2, [3, 5]]))
    assert response.present[:, 1].tolist() == [True, True, True, False, True]
    assert response.left_out == ("cycle 2: without seed 3, where an end of the grid failed",)


def test_a_rate_that_collapsed_counts_as_guessing_and_the_fit_stays_off_it() -> None:
    groups = []
    for group in simulate(lambda m: GRID[6], noise=0.001):
        lost = np.zeros(group.val.shape, dtype=bool)
        lost[:, 6:] = True
        val = np.where(lost, group.chance, group.val)
        groups.append(replace(group, val=val, test=val.copy(), collapsed=lost, ok=~lost))
    comparison = fitted(groups)
    assert (comparison.response.val[0][:, 6:] == 0.1).all()
    for fit in comparison.fits.values():
        assert fit.peaks == pytest.approx([GRID[5]] * 8)
        assert (fit.test > 0.9).all()
    in_one = [
        replace(
            g,
            collapsed=g.collapsed & (np.arange(5) == 0)[:, None],
            val=np.where(np.arange(5)[:, None] == 0, g.val, np.where(g.collapsed, 0.95, g.val)),
        )
        for g in groups
    ]
    assert (fitted(in_one).fits["constant"].peaks <= GRID[5] * 1.001).all()


def test_a_table_with_divergence_and_failures_is_fitted() -> None:
    def spoil(row: dict[str, Any]) -> dict[str, Any]:
        if row["cycle"] and row["max_lr"] > 0.4:
            return diverged()
        return failed() if row["seed"] == 1 and row["cycle"] == 3 and 0.02 < row["max_lr"] < 0.03 else {}

    study = make_study()
    comparison = compare(response_of(make_frame(study, spoil=spoil), study))
    assert comparison.response.oracle == "oracle-at-silo"  # the one that the verdict comes from
    assert comparison.fits["free rising"].peaks.max() < 0.4
    greedy = response_of(make_frame(study), study, "oracle")
    assert greedy.oracle == "oracle"
    assert {len(rates) for rates in greedy.rates} == {7 + 4, 7 + 3}  # tested rates count alike
    assert "nan" not in "\n".join(fit_lines(comparison, study))


def test_test_accuracy_chooses_nothing() -> None:
    groups = simulate(s_shaped)
    rng = np.random.default_rng(0)
    mixed = fitted([replace(g, test=rng.random(g.test.shape)) for g in groups])
    plain = fitted(groups)
    for name, fit in plain.fits.items():
        assert (fit.peaks == mixed.fits[name].peaks).all()
        assert (fit.new_seed == mixed.fits[name].new_seed).all()
        assert not np.allclose(fit.test, mixed.fits[name].test)


# --- what is refused ---


def study_with(arms: dict[str, Any], cycles: int = CYCLES) -> Study:
    return make_study({"silo": ARMS["silo"], **arms}, cycles=cycles)


GUIDED = {"mode": "oracle", "guided": {"low": 0.01, "high": 1.0, "trials": 6}}


def test_what_cannot_be_fitted_is_said() -> None:
    plain = make_study()
    frame = make_frame(plain)
    with pytest.raises(BadInput, match="unknown Oracle 'orcale'; choose from oracle, oracle-at-silo"):
        response_of(frame, plain, "orcale")
    with pytest.raises(BadInput, match="the study has no Oracle"):
        response_of(frame, study_with({}))
    guided = study_with({"oracle": ARMS["oracle"], "guided": GUIDED})
    with pytest.raises(BadInput, match="Oracle 'guided' searches each seed at rates of its own"):
        response_of(frame, guided, "guided")
    assert response_of(frame, guided).oracle == "oracle"  # the one with a grid
    with pytest.raises(BadInput, match="no Oracle of the study has a grid"):
        response_of(frame, study_with({"guided": GUIDED}))
    short = make_study(cycles=3)
    with pytest.raises(BadInput, match="has 2 cycles with results at 3 rates or more"):
        response_of(make_frame(short), short)
    with pytest.raises(BadInput, match="'oracle-at-silo' has no results yet"):
        response_of(frame[frame["cycle"] == 0], plain)


# --- the command ---


def trained(folder: Path, cycles: int = 5) -> str:
    """A run whose units were trained by simulation."""
    grid = {"mode": "oracle", "grid": {"low": 0.01, "high": 1.0, "points": 5}}
    arms = {"arms.greedy": grid, "arms.conditioned": {**grid, "prefix": "arm:silo"}}
    made = parse_study(table({"cycles": cycles, **arms}))
    run = Run(str(folder))
    run.accept(made, {})
    run.check_data({"content": "c", "classes": 3, "n_train": 9, "n_val": 9, "n_test": 9})
    Drive(on_disk(run))(Planner(made, run))
    return str(folder)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["silo-tune", *arguments])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 0


def test_the_command_prints_the_table_and_writes_figure_and_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = trained(tmp_path / "run")
    assert command(monkeypatch, "fit", url) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Oracle conditioned (conditioned on silo), 2 seeds, cycles 1 to 4\n")
    assert all(re.search(rf"^{name} ", shown, re.MULTILINE) for name in FAMILIES)
    files = tmp_path / "run" / "report" / "fit"
    figures = [f"fit.{kind}" for kind in ("pdf", "png", "svg")]
    assert sorted(file.name for file in files.iterdir()) == ["beta.csv", "fit.csv", *figures, "peaks.csv"]
    ElementTree.parse(files / "fit.svg")
    assert list(pd.read_csv(files / "fit.csv")["family"]) == list(FAMILIES)
    first = (files / "fit.svg").read_bytes()
    assert command(monkeypatch, "fit", url, "--oracle", "greedy") == 0
    assert command(monkeypatch, "fit", url) == 0
    assert (files / "fit.svg").read_bytes() == first
    arm = shown[shown.index("[arms.silo-fitted]") : shown.index("\nfit: ")]
    loaded = parse_study({**table(), "arms": {**table()["arms"], **tomllib.loads(arm)["arms"]}})  # a study can use it
    assert "silo-fitted" in loaded.arms


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "no run at"),
        (("run", "--oracle", "silo"), "unknown Oracle 'silo'; choose from conditioned, greedy"),
        (("short",), "has 2 cycles with results at 3 rates or more"),
    ],
    ids=["no run", "no such Oracle", "too short"],
)
def test_a_mistake_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    trained(tmp_path / "run")
    trained(tmp_path / "short", cycles=3)
    place, *options = arguments
    assert command(monkeypatch, "fit", str(tmp_path / place), *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_command_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    url = trained(tmp_path / "run")
    program = (
        "import sys\nfrom silo_tune.cli import main\n"
        f"sys.argv = ['silo-tune', 'fit', {url!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'torch', 'ray', 'optuna'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_arm_is_the_fit() -> None:
    comparison = fitted(simulate(s_shaped))
    arm = tomllib.loads(arm_toml(comparison))["arms"]["silo-fitted"]["schedule"]
    assert arm.pop("name") == "silo"
    made, fit = Silo(**arm), schedule_of(comparison, "silo")
    assert isinstance(fit, Silo)
    assert made.peak(8, PRUNED) == pytest.approx(fit.peak(8, PRUNED), rel=1e-3)
    assert isinstance(schedule_of(comparison, "linear"), Linear)


def test_lowest_rates_that_differ_in_their_last_bit_are_read_off_without_a_gap() -> None:
    rates = np.array([0.01, np.nextafter(0.01, 1), 1.0])
    assert np.log(rates[0]) == np.log(rates[1])
    read_off = read(rates, np.array([[0.5, 0.6, 0.9]]), np.array([*rates, 0.1]))
    assert np.isfinite(read_off).all()
    assert read_off[0].tolist() == pytest.approx([0.6, 0.6, 0.9, 0.75])
