"""Searches: guided Oracles ask in rounds, pilots find constants, tune arms stop poor trials; no order matters."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import optuna
import pytest

from silo_tune.errors import BadInput, StudyError
from silo_tune.planner import samplers
from silo_tune.planner.candidates import Heard, Proposal
from silo_tune.planner.chain import Chain
from silo_tune.planner.forecast import forecast
from silo_tune.planner.guided import GuidedSource, expected_improvement, warm_starts
from silo_tune.planner.layout import Layout
from silo_tune.planner.planner import Planner
from silo_tune.planner.points import PilotPlan, Snapped, TunePlan, plan_of
from silo_tune.planner.samplers import Dimension, Told, importance, suggest
from silo_tune.planner.unit import Unit
from silo_tune.planner.winner import winner_of
from silo_tune.results.rows import rows
from silo_tune.results.searches import searches
from silo_tune.results.table import make_table
from silo_tune.schedules.peaks import Silo
from silo_tune.store.run_folder import Run
from silo_tune.study.arms import Guided as Settings
from silo_tune.study.model import Study
from tests.plain import Drive, MemoryJournal, Outcome, World, on_disk, resolved, study

RATES = {"low": 0.01, "high": 1.0}


def guided(**changes: Any) -> dict[str, Any]:
    table = {"sampler": "tpe", "trials": 5, **RATES, **changes}
    return {"mode": "oracle", "guided": table, "tests": ["silo"]}


GUIDED = guided()
TUNE = {
    "mode": "tune", "sampler": "random", "trials": 9, "batch": 3, "eps": [0.01, 0.3], "delta": [0.0, 0.5],
    "q": [0, 2], "rungs": [1, 2], "keep": 0.5,
}  # fmt: skip
PILOT = {"seeds": [100, 101], "chains": 6, **RATES}
OPEN = {"pilot": PILOT, "arms.silo.schedule": "silo", "arms.constant.schedule": "constant"}
SILO_ENDS = {"mode": "schedule", "schedule": "constant", "ends": {"arm": "silo", "end": "high"}}
LOW_END = {"arm": "silo", "end": "low"}
RAMP_OF_SILO = {"mode": "schedule", "schedule": {"name": "linear", "over": 3}, "ends": {"arm": "silo"}}
ENDS = {"pilot": PILOT, "arms.silo.schedule": "silo", "arms.constant": SILO_ENDS, "arms.linear": RAMP_OF_SILO}
FEW = {"arms.greedy": None, "arms.conditioned": None, "arms.linear": None}


@dataclass
class Basin(World):
    """Accuracy falls with the distance of max_lr from an optimum, in decades; rates above 0.6 diverge."""

    optimum: float = 0.1

    def outcome(self, unit: Unit) -> Outcome:
        found = super().outcome(unit)
        rate = resolved(unit)
        if found["status"] != "ok" or rate is None:
            return found
        if rate > 0.6:
            return {**found, "status": "diverged", "error": "loss", "val_score": None, "val_loss": None}
        noise = 0.01 * (found["val_score"] - 0.7)
        return {**found, "val_score": round(0.9 - 0.2 * abs(math.log10(rate / self.optimum)) + noise, 6)}


def run(
    made: Study, journal: MemoryJournal | None = None, world: World | None = None, order: int = 0, slots: int = 3
) -> tuple[MemoryJournal, Planner, Drive]:
    journal = journal or MemoryJournal()
    planner = Planner(made, journal)
    drive = Drive(journal.commit, world or Basin(), random.Random(order), slots)

    def parent_is_there(unit: Unit) -> None:
        assert unit.parent is None or unit.parent in journal.states, f"cycle {unit.cycle} starts from swept weights"

    drive.on_ask = parent_is_there
    drive(planner)
    return journal, planner, drive


def table_of(journal: MemoryJournal, made: Study) -> str:
    frame = make_table(rows(journal, made))  # type: ignore[arg-type]
    return frame.to_csv()


STUDIES: dict[str, Mapping[str, Any]] = {
    "guided": {**FEW, "arms.guided": {**GUIDED, "prefix": "arm:silo"}, "arms.own": GUIDED},
    "repeats": {**FEW, "arms.own": guided(repeat_top=2, batch=2)},
    "pilot": {**OPEN, "arms.linear": None, "arms.own": GUIDED},
    "guided pilot": {**OPEN, "pilot.proposals": "guided", "pilot.chains": 7, "arms.linear": None, "arms.own": GUIDED},
    "ends": {**ENDS, "arms.greedy": {**GUIDED, "tests": ["silo", "constant", "linear"]}},
    # CMA-ES learns in generations of four, which rounds of three cut apart: it minds the order in which it hears.
    "generations": {**FEW, "arms.own": guided(sampler="cmaes", trials=12, batch=3)},
    "tune": {**FEW, "arms.tuned": TUNE},
    "all": {**OPEN, "arms.linear": None, "arms.own": GUIDED, "arms.tuned": {**TUNE, "seeds": [100, 0]}},
}


@pytest.mark.parametrize("changes", STUDIES.values(), ids=STUDIES)
def test_the_table_does_not_depend_on_the_order_or_number_of_workers(changes: Mapping[str, Any]) -> None:
    made = study(changes)
    reference, planner, _ = run(made, slots=1)
    assert planner.done
    for order in range(6):
        journal, _, _ = run(made, order=order, slots=2 + order)
        assert (journal.decisions, journal.rounds) == (reference.decisions, reference.rounds)
        assert table_of(journal, made) == table_of(reference, made)


@pytest.mark.parametrize("changes", STUDIES.values(), ids=STUDIES)
def test_a_run_killed_anywhere_ends_as_if_it_had_not_been(changes: Mapping[str, Any]) -> None:
    made = study(changes)
    reference, _, whole = run(made)
    rng = random.Random(1)
    journal, trained = MemoryJournal(), 0
    for start in range(60):
        planner = Planner(made, journal)
        if planner.done:
            break
        drive = Drive(journal.commit, Basin(), random.Random(start), 3)
        trained += drive(planner, rng.randrange(1, 12))
    assert planner.done
    assert table_of(journal, made) == table_of(reference, made)
    assert trained == len(set(whole.asked)) == len(whole.asked)


@pytest.mark.parametrize("changes", STUDIES.values(), ids=STUDIES)
def test_in_the_end_only_the_final_weights_of_the_arms_own_chains_are_left(changes: Mapping[str, Any]) -> None:
    journal, planner, _ = run(study(changes))
    assert journal.states == {chain.closed[-1] for chain in planner.chains.values()}


def test_a_decided_round_stands_whatever_the_sampler_would_ask_today(monkeypatch: pytest.MonkeyPatch) -> None:
    made = study(STUDIES["all"])
    journal, _, _ = run(made)
    monkeypatch.setattr(samplers, "_ask_optuna", lambda *args: pytest.fail("asked again"))
    assert Planner(made, journal).done


def test_an_open_round_of_a_search_goes_on_with_the_points_that_it_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    made = study(STUDIES["tune"])
    reference, _, _ = run(made)
    journal = MemoryJournal()
    Drive(journal.commit, Basin())(Planner(made, journal), 6)  # within the first round: its chains have begun
    monkeypatch.setattr(samplers, "_make", lambda *args: optuna.samplers.TPESampler(seed=1))
    planner = Planner(made, journal)
    assert [c.params for c in planner.searches["tuned"].trials.values()][::2] == [
        point["params"] for point in json.loads(reference.rounds["tuned", 1])["points"]
    ]


# --- the guided Oracle ---


def heard(*pairs: tuple[float, float | None], asked: bool = True) -> list[Heard]:
    return [
        Heard(
            Proposal({"value": rate}, asked),
            {
                "status": "diverged" if accuracy is None else "ok",
                "val_score": accuracy,
                "val_loss": 1.0,
                "max_lr": rate,
                "classes": 10,
            },
        )
        for rate, accuracy in pairs
    ]


def settings(**changes: Any) -> Settings:
    return Settings.model_validate({"sampler": "tpe", **RATES, "trials": 6, **changes})


def test_the_first_round_is_the_warm_starts_and_the_tested_values() -> None:
    first = GuidedSource(settings(), start=0.1, tested={"silo": 0.05}).ask([])
    assert [(p.peak["value"], p.asked) for p in first if p.peak] == [
        (0.0316, True), (0.05, False), (0.1, True), (0.2, True),
    ]  # fmt: skip


@pytest.mark.parametrize("start", [None, 0.01, 0.012, 0.1, 0.7, 1.0, 5.0, 0.0001])
def test_there_are_always_three_warm_starts_within_the_bounds(start: float | None) -> None:
    starts = warm_starts(0.01, 1.0, start)
    assert len(starts) == 3
    assert starts == sorted(starts)
    assert starts[0] >= 0.01
    assert starts[-1] <= 1.0
    if start is not None and 0.01 <= start <= 1.0:
        assert start in starts


@pytest.mark.parametrize("sampler", ["gp", "tpe", "cmaes", "qmc", "random"])
def test_every_sampler_asks_as_many_rates_as_wanted_all_different_and_the_same_each_time(sampler: str) -> None:
    source = GuidedSource(settings(sampler=sampler, trials=8, batch=2), start=0.1, tested={"silo": 0.3}, seed=7)

    def whole() -> list[Heard]:
        known: list[Heard] = []
        while asked := source.ask(known):
            rates = [float((proposal.peak or {})["value"]) for proposal in asked]
            told = heard(*((rate, 0.9 - (math.log10(rate) + 1) ** 2) for rate in rates))
            known += [Heard(proposal, one.outcome) for proposal, one in zip(asked, told, strict=True)]
        return known

    known = whole()
    rates = [float((one.proposal.peak or {})["value"]) for one in known]
    assert sum(one.proposal.asked for one in known) == 8
    assert len(known) == source.most == 9
    assert all(RATES["low"] <= rate <= RATES["high"] for rate in rates)
    assert all(b / a > 1.01 for a, b in pairwise(sorted(rates)))
    assert [one.proposal for one in whole()] == [one.proposal for one in known]


def test_what_diverged_is_told_as_guessing_and_what_failed_is_not_told() -> None:
    known = heard((0.1, 0.9), (1.0, None), (5.0, 0.5))
    known.append(Heard(Proposal({"value": 0.2}), {"status": "failed", "val_score": None}))
    assert GuidedSource(settings())._told(known) == [Told({"max_lr": 0.1}, 0.9), Told({"max_lr": 1.0}, 0.1)]


def test_a_rate_that_was_tried_is_not_asked_again_but_the_widest_gap_is_halved() -> None:
    assert GuidedSource(settings())._apart(0.1002, [0.02, 0.05, 0.1, 0.2]) == 0.447
    assert GuidedSource(settings())._apart(0.15, [0.01, 0.1, 0.2]) == 0.15


def test_a_search_ends_early_when_no_improvement_is_expected() -> None:
    flat = heard((0.02, 0.9), (0.05, 0.901), (0.1, 0.9), (0.3, 0.899))
    assert GuidedSource(settings(stop_below=0.01)).ask(flat) == []
    assert len(GuidedSource(settings(stop_below=1e-9)).ask(flat)) == 1
    steep = heard((0.02, 0.2), (0.05, 0.5), (0.1, 0.9))
    assert expected_improvement(GuidedSource(settings())._told(steep), settings()) > 0.01


def test_the_two_best_are_trained_once_more_and_the_better_mean_wins() -> None:
    made = study(STUDIES["repeats"])
    journal, _, _ = run(made)
    for seed in made.replicates.seeds:
        bodies = [journal.decision("own", seed, 1, number) for number in range(1, 9)]
        told = [outcome for body in bodies if body for outcome in body["told"]]
        again = [outcome for outcome in told if outcome["repeat"] == 1]
        first = {o["max_lr"]: o for o in told if o["repeat"] == 0}
        best = sorted((o for o in first.values() if o["status"] == "ok"), key=lambda o: -o["val_score"])[:2]
        assert {o["max_lr"] for o in again} == {o["max_lr"] for o in best}
        means = {o["max_lr"]: (o["val_score"] + first[o["max_lr"]]["val_score"]) / 2 for o in again}
        winner = max(means, key=lambda rate: means[rate])
        assert [body["winner"] for body in bodies if body and body["closes"]] == [first[winner]["key"]]
    frame = make_table(rows(journal, made))  # type: ignore[arg-type]
    own = frame[(frame.arm == "own") & (frame.cycle == 2)]
    assert set(own.parent) <= set(frame[(frame.cycle == 1) & (frame.repeat == 0) & frame.winner].key)
    assert (own.groupby("seed").winner.sum() == 1).all()


def test_the_winner_is_among_those_trained_again_and_a_repeat_that_diverged_counts_as_guessing() -> None:
    def outcome(rate: float, accuracy: float | None, repeat: int) -> Outcome:
        status = "ok" if accuracy is not None else "diverged"
        return {"status": status, "val_score": accuracy, "val_loss": 1.0 if accuracy else None, "max_lr": rate,
                "repeat": repeat, "key": f"{rate}/{repeat}", "classes": 10}  # fmt: skip

    told = [
        outcome(0.1, 0.9, 0),
        outcome(0.2, 0.84, 0),
        outcome(0.3, 0.85, 0),
        outcome(0.1, None, 1),
        outcome(0.3, 0.8, 1),
    ]
    best = winner_of(told)
    assert best is not None
    assert best["key"] == "0.3/0"


def test_a_missing_package_of_a_sampler_is_bad_input_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cmaes" else True)
    with pytest.raises(BadInput, match=r"arms\.own\.guided\.sampler: .*pip install 'silo-tune\[cmaes\]'"):
        Layout(study({"arms.own": guided(sampler="cmaes")}))


# --- the pilot ---


def test_every_arm_gets_the_same_number_of_pilot_chains_on_the_pilots_seeds() -> None:
    made = study(OPEN)
    journal, _, _ = run(made, world=Basin(optimum=0.06))
    found = searches(journal, made)  # type: ignore[arg-type]
    assert set(found) == {"silo", "constant"}
    assert {record.kind for record in found.values()} == {"pilot"}
    assert [len(record.points) for record in found.values()] == [6, 6]
    assert all(point["seeds"] == [100, 101] for record in found.values() for point in record.points)
    frame = make_table(rows(journal, made))  # type: ignore[arg-type]
    assert set(frame[frame["mode"] == "pilot"].seed) == {100, 101}
    assert set(frame[frame["mode"] != "pilot"].seed) == {0, 1}


def test_the_value_with_the_best_mean_validation_accuracy_is_what_the_arm_runs_with() -> None:
    made = study({**OPEN, "arms.linear": None})
    journal, planner, _ = run(made)
    found = searches(journal, made)  # type: ignore[arg-type]
    frame = make_table(rows(journal, made))  # type: ignore[arg-type]
    for arm in ("silo", "constant"):
        pilot = frame[(frame.arm == arm) & (frame["mode"] == "pilot") & (frame.cycle >= 1)]
        # A trial that ends early has guessed in the cycles that it did not reach.
        means = pilot.assign(val_score=pilot.val_score.fillna(0.1)).groupby("trial").val_score.sum()
        lengths = pilot.groupby("trial").cycle.nunique()
        means = (means + 0.1 * 2 * (made.cycles - 1 - lengths)) / (2 * (made.cycles - 1))
        assert found[arm].best == means.idxmax()
        schedule = planner.layout._schedules[arm, None]
        ran = frame[(frame.arm == arm) & (frame["mode"] == "schedule") & (frame.seed == 0) & (frame.cycle >= 1)]
        assert list(ran.max_lr) == [float(f"{schedule.peak(m, made.pruned):.12g}") for m in range(1, made.cycles)]  # type: ignore[union-attr]


@pytest.mark.parametrize(("optimum", "beyond"), [(0.004, "low"), (0.1, None)])
def test_a_grid_is_extended_once_beyond_the_edge_that_the_best_lies_on(optimum: float, beyond: str | None) -> None:
    made = study({**OPEN, "arms.greedy": None, "arms.conditioned": None})
    journal, _, _ = run(made, world=Basin(optimum=optimum))
    for record in searches(journal, made).values():  # type: ignore[arg-type]
        rates = sorted({rate for point in record.points for rate in point["params"].values()})
        assert record.extended == (beyond == "low")
        assert (rates[0] < RATES["low"]) == record.extended
        assert len(record.points) == 6 + 4 * record.extended  # one more level of three: four pairs, or four rates
    assert len({number for _, number in journal.rounds}) <= 2


def test_a_curve_that_must_rise_is_the_best_of_the_rising_pairs() -> None:
    found = {}
    for rise in (False, True):
        made = study({**OPEN, "arms.greedy": None, "arms.conditioned": None, "pilot.rise": rise})
        journal, planner, _ = run(made)
        found[rise] = searches(journal, made)["silo"]  # type: ignore[arg-type]
        assert planner.done
    flat, rising = found[False], found[True]
    assert flat.args is not None
    assert rising.args is not None
    assert flat.args["delta"] == 0 < rising.args["delta"]
    assert flat.points == rising.points[: len(flat.points)]  # the flat pairs are tried as well
    objectives = {p["trial"]: p["objective"] for p in rising.points if len(set(p["params"].values())) == 2}
    assert rising.best == max(objectives, key=lambda trial: objectives[trial] or 0)


def test_pilot_chains_with_the_same_rates_share_their_units() -> None:
    made = study({**OPEN, **FEW})
    journal, _, drive = run(made)
    frame = make_table(rows(journal, made))  # type: ignore[arg-type]
    assert len(drive.asked) == frame.key.nunique() < len(frame)


def test_an_oracle_waits_for_the_constants_of_the_arms_that_it_tests() -> None:
    made = study({**OPEN, "arms.linear": None, "arms.greedy": {**GUIDED, "tests": ["silo", "constant"]}})
    journal = MemoryJournal()
    planner = Planner(made, journal)
    drive = Drive(journal.commit, Basin(), slots=1)
    while not planner.layout.ready("greedy"):
        waiting = [chain for (arm, _), chain in planner.chains.items() if arm == "greedy"]
        assert all(chain.cycle <= 1 and not (chain.open and chain.cycle) for chain in waiting)
        drive(planner, 1)
    drive(planner)
    assert all(chain.done for chain in planner.chains.values())


def test_an_arm_takes_the_ends_that_another_arms_pilot_found() -> None:
    alone = {**ENDS, "pilot.rise": True, "arms.greedy": None, "arms.conditioned": None}
    made = study(alone)
    journal, planner, _ = run(made, world=Basin(optimum=0.01))
    [record] = searches(journal, made).values()  # type: ignore[arg-type]
    assert record.args is not None
    low, high = record.args["eps"], record.args["eps"] + record.args["delta"]
    assert low < high
    frame = make_table(rows(journal, made))  # type: ignore[arg-type]
    assert set(frame[frame["mode"] == "pilot"].arm) == {"silo"}
    peaks = {arm: rows_.max_lr.tolist() for arm, rows_ in frame[(frame.seed == 0) & (frame.cycle >= 1)].groupby("arm")}
    assert peaks["constant"] == pytest.approx([high] * 3)
    assert (peaks["linear"][0] - low, peaks["linear"][-1]) == pytest.approx(((high - low) / 3, high))
    # Added to a run whose pilot has ended, it has its constants at once.
    later = study({**alone, "arms.low": {**SILO_ENDS, "ends": LOW_END}})
    told = forecast(Layout(later), journal)[0]["low"]
    assert (told.exact, told.to_train) == (True, 2 * 2)  # cycle 1 is that of silo
    planner = Planner(later, journal)  # not `run`: parents that silo is past are swept, and made again
    Drive(journal.commit, Basin(optimum=0.01), random.Random(0), 3)(planner)
    assert planner.done
    added = make_table(rows(journal, later))  # type: ignore[arg-type]
    assert added[(added.arm == "low") & (added.cycle >= 1)].max_lr.tolist() == pytest.approx([low] * 6)


def test_an_arm_waits_for_the_ends_of_another_and_ends_with_its_pilot() -> None:
    made = study({**ENDS, "arms.greedy": None, "arms.conditioned": None})
    _, planner, _ = run(made, world=Basin(lambda unit: "failed" if unit.seed >= 100 and unit.cycle else "ok"))
    told = {chain.ended for chain in planner.chains.values()}
    assert told == {
        f"the pilot of {arm} found no constants: its trials failed" for arm in ("silo", "constant", "linear")
    }


def test_without_a_pilot_open_constants_are_asked_for() -> None:
    with pytest.raises(StudyError, match=r"arms\.silo\.schedule: needs eps, delta; give them, or a \[pilot\]"):
        study({"arms.silo.schedule": "silo"})


# --- tuning the S-curve ---


def test_a_stopped_trial_is_told_its_objective_so_far_and_the_median_gain_of_complete_ones() -> None:
    made = study(STUDIES["tune"])
    journal, _, _ = run(made)
    points = searches(journal, made)["tuned"].points  # type: ignore[arg-type]
    assert len(points) == 9
    stopped = [point for point in points if point["stopped"] is not None]
    assert stopped
    for point in stopped:
        known = [p for p in points if p["objective"] is not None and p["round"] <= point["round"]]
        rung = str(point["stopped"])
        gain = median(p["objective"] - p["rungs"][rung] for p in known)
        assert point["told"] == pytest.approx(point["rungs"][rung] + gain)
        earlier = [p["rungs"][rung] for p in points if p["round"] < point["round"] and rung in p["rungs"]]
        assert point["rungs"][rung] < sorted(earlier, reverse=True)[math.ceil(len(earlier) / 2) - 1]


def test_the_objective_is_the_mean_validation_accuracy_over_the_counted_cycles_and_seeds() -> None:
    made = study({**FEW, "arms.tuned": {**TUNE, "over": [0.5, 0.7]}})  # 0.64 and 0.512 are left at cycles 2 and 3
    journal, _, _ = run(made)
    record = searches(journal, made)["tuned"]  # type: ignore[arg-type]
    assert record.counted == (2, 3)
    frame = make_table(rows(journal, made))  # type: ignore[arg-type]
    trials = frame[(frame.arm == "tuned") & frame.cycle.isin([2, 3])].groupby("trial").val_score.mean()
    for point in record.points:
        if point["objective"] is not None:
            assert point["objective"] == pytest.approx(trials[point["trial"]])
    complete = [point for point in record.points if point["objective"] is not None]
    assert record.best == max(complete, key=lambda p: p["objective"])["trial"]
    assert Silo(**{key: value for key, value in (record.args or {}).items() if key != "name"})


def test_peaks_lie_on_a_lattice_of_twenty_per_decade_so_that_trials_share_units() -> None:
    snapped = Snapped(Silo(eps=0.0973, delta=0.2))
    peaks = [snapped.peak(cycle, study().pruned) for cycle in range(4)]
    assert all(abs(20 * math.log10(peak) - round(20 * math.log10(peak))) < 1e-6 for peak in peaks)
    made = study({**FEW, "arms.tuned": {**TUNE, "eps": [0.09, 0.11], "rungs": []}})
    journal, _, drive = run(made)
    frame = make_table(rows(journal, made))  # type: ignore[arg-type]
    tuned = frame[frame.arm == "tuned"]
    assert tuned.key.nunique() < len(tuned) / 1.5
    assert len(drive.asked) == frame.key.nunique()


def test_a_trial_whose_chain_ends_has_guessed_in_the_cycles_that_it_did_not_reach() -> None:
    made = study({**FEW, "arms.tuned": {**TUNE, "rungs": [], "eps": [0.5, 2.0]}})
    journal, _, _ = run(made)
    points = searches(journal, made)["tuned"].points  # type: ignore[arg-type]
    ended = [point for point in points if point["ended"]]
    assert ended
    for point in ended:
        assert point["objective"] is not None
        assert point["objective"] < 0.75


def test_importance_finds_the_parameter_that_matters() -> None:
    space = {"eps": Dimension(0.01, 1.0, log=True), "beta": Dimension(1, 10)}
    rng = random.Random(0)
    points = [{"eps": 10 ** rng.uniform(-2, 0), "beta": rng.uniform(1, 10)} for _ in range(30)]
    told = [Told(point, -abs(math.log10(point["eps"]) + 1)) for point in points]
    found = importance(space, told)
    assert found is not None
    assert found["eps"] > 0.8
    assert sum(found.values()) == pytest.approx(1)
    assert importance(space, told[:3]) is None


@pytest.mark.parametrize("sampler", ["gp", "tpe", "cmaes", "qmc", "random"])
def test_a_sampler_gives_points_within_the_space(sampler: str) -> None:
    space = {"eps": Dimension(0.01, 0.1, log=True), "beta": Dimension(1, 10), "q": Dimension(0, 3, integer=True)}
    told: list[Told] = []
    for seed in range(4):
        for point in suggest(sampler, space, told, 2, seed):
            assert set(point) == set(space)
            assert all(space[name].low <= value <= space[name].high for name, value in point.items())
            assert isinstance(point["q"], int)
            told.append(Told(point, point["eps"] + seed / 100))


# --- what is left to train ---


@pytest.mark.parametrize("changes", STUDIES.values(), ids=STUDIES)
def test_the_forecast_is_never_below_what_is_trained_and_exact_in_the_end(changes: Mapping[str, Any]) -> None:
    made = study(changes)
    journal = MemoryJournal()
    before, _ = forecast(Layout(made), journal)
    _, _, drive = run(made, journal)
    assert sum(arm.to_train for arm in before.values()) >= len(drive.asked)
    after, _ = forecast(Layout(made), journal)
    frame = make_table(rows(journal, made))  # type: ignore[arg-type]
    for name, arm in after.items():
        assert (arm.to_train, arm.exact) == (0, True)
        assert arm.units == arm.done == frame[frame.arm == name].key.nunique()


# --- what a study refuses ---


def ends(**table: str) -> dict[str, Any]:
    return {**ENDS, "arms.constant": {**SILO_ENDS, "ends": table}}


BAD = {
    "low above high": ({"arms.own": guided(low=2.0)}, "low 2.0 must be below high 1.0"),
    "few trials": ({"arms.own": guided(trials=2)}, "fewer than the 3 warm starts"),
    "both": ({"arms.own": {**GUIDED, "grid": {**RATES, "points": 3}}}, "give either grid"),
    "sampler": ({"arms.own": guided(sampler="bayes")}, "unknown value 'bayes'"),
    "bounds": ({"arms.tuned": {**TUNE, "beta": [5, 1]}}, "beta: low 5 must be below high 1"),
    "range": ({"arms.tuned": {**TUNE, "eps": [0.0, 1.0]}}, "eps lies in (0, inf]"),
    "words": ({"arms.tuned": {**TUNE, "eps": "low"}}, "a number, or [low, high] to search it"),
    "whole": ({"arms.tuned": {**TUNE, "q": [0.5, 2]}}, "a whole number, or [low, high]"),
    "nothing": ({"arms.tuned": {**TUNE, "eps": 0.1, "delta": 0.1, "q": 1}}, "nothing to tune"),
    "rungs": ({"arms.tuned": {**TUNE, "rungs": [1, 3]}}, "[3] exceed its 4 cycles"),
    "rungs order": ({"arms.tuned": {**TUNE, "rungs": [2, 1]}}, "rungs are cycles"),
    "over": ({"arms.tuned": {**TUNE, "over": [0.9, 0.95]}}, "no cycle ≥ 1 leaves a share"),
    "seeds": ({**OPEN, "pilot.seeds": [1, 100]}, "pilot.seeds: [1] are seeds of [replicates] too"),
    "decades": ({**OPEN, "pilot.high": 0.5}, "less than two decades"),
    "pairs": ({**OPEN, "pilot.chains": 7}, "all pairs of its levels: 6 or 10, not 7"),
    "idle pilot": ({"pilot": PILOT}, "nothing to find"),
    "no such leader": (ends(arm="silo2", end="low"), "unknown arm whose pilot finds two rates 'silo2'"),
    "leader with one": ({**ENDS, "arms.linear": {**RAMP_OF_SILO, "ends": {"arm": "constant"}}}, "arms.linear.ends.arm"),
    "no end": (ends(arm="silo"), 'max_lr is one of two rates: "low" or "high"'),
    "an end too many": ({**ENDS, "arms.linear": {**RAMP_OF_SILO, "ends": LOW_END}}, "start and end take both rates"),
    "ends and constants": (
        {**ENDS, "arms.constant": {**SILO_ENDS, "schedule": {"name": "constant", "max_lr": 0.1}}},
        "leave them out, or ends",
    ),
    "infinite": ({"arms.tuned": {**TUNE, "eps": [0.01, math.inf]}}, "a number, or [low, high]"),
    "one cycle": ({**OPEN, **FEW, "cycles": 1}, "there is no cycle ≥ 1"),
    "one of two": ({**OPEN, "arms.silo.schedule": {"name": "silo", "eps": 0.1}}, "needs delta"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), BAD.values(), ids=BAD)
def test_a_search_that_cannot_be_is_refused_at_its_key(changes: Mapping[str, Any], words: str) -> None:
    with pytest.raises(StudyError) as caught:
        study(changes)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_the_plans_bound_the_number_of_points() -> None:
    made = study({**OPEN, "arms.tuned": TUNE})
    pilot, tune = plan_of(made, "silo"), plan_of(made, "tuned")
    assert isinstance(pilot, PilotPlan)
    assert isinstance(tune, TunePlan)
    assert (pilot.most, tune.most) == (15, 9)  # three levels, and one beyond each end: five
    assert Layout(made).most("greedy", 1) >= 3
    assert Chain("tuned", 0, 3).label == "tuned seed 0 trial 3"


# --- on disk, and when the study changes ---


def begun(place: Path, changes: Mapping[str, Any], tells: int | None = None) -> Run:
    made = study(changes)
    run_ = Run(str(place))
    planner = Planner(made, run_, run_.accept(made, {"silo-tune": "0"}))
    Drive(on_disk(run_), Basin())(planner, tells)
    return run_


MORE: dict[str, tuple[str, Mapping[str, Any]]] = {
    "an arm that tunes": ("pilot", {"arms.tuned": TUNE}),
    "more trials": ("tune", {"arms.tuned": {**TUNE, "trials": 15}}),
    "a pilot": ("tune", {"pilot": PILOT, "arms.open": {"mode": "schedule", "schedule": "constant"}}),
    "more seeds": ("pilot", {"replicates.seeds": [0, 1, 2]}),
}
NEVER: dict[str, tuple[str, Mapping[str, Any], str]] = {
    "the pilot's grid": ("pilot", {"pilot.low": 0.001}, "pilot.low"),
    "the pilot's proposals": ("pilot", {"pilot.proposals": "spread"}, "pilot.proposals"),
    "the pilot's seeds": ("pilot", {"pilot.seeds": [100, 102]}, "pilot.seeds"),
    "an open constant": ("pilot", {"arms.constant.schedule": {"name": "constant", "max_lr": 0.1}}, "arms.constant"),
    "the cycles of a search": ("tune", {"cycles": 5}, "cycles"),
    "bounds": ("tune", {"arms.tuned": {**TUNE, "eps": [0.02, 0.3]}}, "arms.tuned.eps"),
    "rungs": ("tune", {"arms.tuned": {**TUNE, "rungs": [1]}}, "arms.tuned.rungs"),
    "fewer trials": ("tune", {"arms.tuned": {**TUNE, "trials": 4}}, "arms.tuned.trials"),
    "the seeds that a tune arm took": ("tune", {"replicates.seeds": [0, 1, 2]}, "replicates.seeds"),
    "a guided Oracle's trials": ("guided", {"arms.own": guided(trials=6)}, "arms.own.guided.trials"),
}


@pytest.mark.parametrize(("name", "changes"), MORE.values(), ids=MORE)
def test_a_finished_run_takes_up_more(tmp_path: Path, name: str, changes: Mapping[str, Any]) -> None:
    run_ = begun(tmp_path, STUDIES[name])
    before = make_table(rows(run_, study(STUDIES[name])))
    made = study({**STUDIES[name], **changes})
    planner = Planner(made, run_, run_.accept(made, {"silo-tune": "0"}))
    assert not planner.done
    Drive(on_disk(run_), Basin())(planner)
    after = make_table(rows(run_, made))
    assert len(after) > len(before)
    assert set(before.key) <= set(after.key)
    assert all(chain.done for chain in planner.chains.values())


@pytest.mark.parametrize(("name", "changes", "key"), NEVER.values(), ids=NEVER)
def test_what_a_search_has_begun_with_stays(tmp_path: Path, name: str, changes: Mapping[str, Any], key: str) -> None:
    run_ = begun(tmp_path, STUDIES[name], 40)
    with pytest.raises(BadInput, match=re.escape(key)):
        run_.accept(study({**STUDIES[name], **changes}), {"silo-tune": "0"})


def test_a_round_of_a_search_that_is_damaged_is_derived_again_from_its_chains(tmp_path: Path) -> None:
    run_ = begun(tmp_path, STUDIES["tune"])
    made = study(STUDIES["tune"])
    before = searches(run_, made)
    file = tmp_path / run_.search_name("tuned", 2)
    file.write_bytes(file.read_bytes().replace(b"0.", b"1.", 1))
    planner = Planner(made, Run(str(tmp_path)))
    assert planner.done
    assert planner.counts.trained == 0
    assert searches(run_, made) == before


def test_a_damaged_file_of_a_closed_search_is_made_again(tmp_path: Path) -> None:
    made = study(STUDIES["pilot"])
    run_ = begun(tmp_path, STUDIES["pilot"])
    before = make_table(rows(run_, made)).to_csv()
    decision = run_.decision("silo", 100, 2, 1, 1)
    assert decision is not None
    for seed in made.search_seeds("silo"):
        (tmp_path / run_.decision_name("silo", seed, 0, 1, 0)).write_text("{")
    (tmp_path / run_.units.folder(decision["told"][0]["key"]) / "result.json").write_text("{")
    planner = Planner(made, Run(str(tmp_path)))
    Drive(on_disk(run_), Basin())(planner)
    assert planner.counts.trained == 1
    assert make_table(rows(run_, made)).to_csv() == before


def test_weights_of_a_search_go_however_often_the_run_was_killed(tmp_path: Path) -> None:
    made = study({**OPEN, **FEW})
    journal = MemoryJournal()
    for _ in range(200):
        planner = Planner(made, journal)
        if planner.done:
            break
        Drive(journal.commit, Basin(), slots=1)(planner, 2)
    assert journal.states == {chain.closed[-1] for chain in planner.chains.values()}


@pytest.mark.slow
def test_many_rounds_that_close_from_known_units_do_not_nest() -> None:
    tune = {**TUNE, "eps": 0.05, "delta": 0.1, "q": [0, 2], "rungs": [], "trials": 400, "batch": 1}
    made = study({**FEW, "arms.tuned": tune})
    journal, planner, _ = run(made)
    assert planner.done
    assert len(searches(journal, made)["tuned"].points) == 400  # type: ignore[arg-type]


def test_a_pilot_whose_units_fail_finds_nothing_and_says_so() -> None:
    made = study({**OPEN, **FEW, "arms.own": {**GUIDED, "tests": ["silo"]}})
    journal, planner, _ = run(made, world=Basin(lambda unit: "failed" if unit.seed >= 100 and unit.cycle else "ok"))
    assert planner.done
    for (arm, _), chain in planner.chains.items():
        lost = "silo" if arm == "own" else arm
        assert chain.ended == f"the pilot of {lost} found no constants: its trials failed"
    assert searches(journal, made)["silo"].best is None  # type: ignore[arg-type]


def test_a_repeat_that_failed_leaves_its_rate_in_the_race() -> None:
    told: list[Outcome] = [
        {"status": "ok", "val_score": 0.9, "val_loss": 1.0, "max_lr": 0.1, "repeat": 0, "key": "a"},
        {"status": "ok", "val_score": 0.5, "val_loss": 1.0, "max_lr": 0.2, "repeat": 0, "key": "b"},
        {"status": "failed", "val_score": None, "val_loss": None, "max_lr": 0.1, "repeat": 1, "key": "c"},
        {"status": "ok", "val_score": 0.5, "val_loss": 1.0, "max_lr": 0.2, "repeat": 1, "key": "d"},
    ]
    best = winner_of(told)
    assert best is not None
    assert best["key"] == "a"


def test_quasi_random_points_are_one_sequence_over_all_rounds() -> None:
    space = {"x": Dimension(0.0, 1.0)}
    at_once = suggest("qmc", space, [], 8, 3)
    one_by_one = [suggest("qmc", space, [], 1, 3, asked)[0] for asked in range(8)]
    assert at_once == one_by_one
    xs = sorted(point["x"] for point in at_once)
    assert max(b - a for a, b in pairwise(xs)) < 0.3


def test_bounds_so_narrow_that_every_rate_was_tried_end_the_search() -> None:
    made = study({**FEW, "arms.own": guided(low=0.1, high=0.101, trials=12, sampler="random")})
    journal, _, _ = run(made)
    frame = make_table(rows(journal, made))  # type: ignore[arg-type]
    own = frame[(frame.arm == "own") & (frame.cycle >= 1)]
    assert (own.groupby(["seed", "cycle"]).winner.sum() == 1).all()
