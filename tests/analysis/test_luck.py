"""What of a chain gap is luck, on runs of the engine whose truth is known, and on many simulated chains."""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from silo_analysis.answers import loses
from silo_analysis.answers.answer import Answer
from silo_analysis.estimates import luck
from silo_analysis.estimates.frames import LUCK, typed
from silo_analysis.estimates.oracle import oracle_cycles
from silo_analysis.estimates.regret import chain_rows
from silo_analysis.estimates.stats import FloatArray
from silo_analysis.estimates.summary import Summary, summarise
from silo_analysis.estimates.tuning import ordinary
from silo_tune.planner.planner import Planner
from silo_tune.planner.unit import Unit
from silo_tune.results.rows import rows
from silo_tune.results.table import make_table
from silo_tune.store.run_folder import Run
from silo_tune.study.model import Study
from tests.analysis.test_simulated import allowed
from tests.plain import Drive, MemoryJournal, Outcome, World, resolved, study

OWN, GRID = 0.07, [0.01, 0.03, 0.1, 0.3, 1.0]
CANDIDATES = len(GRID) + 1  # the grid, and the schedule's own rate
SILO: dict[str, Any] = {"mode": "schedule", "schedule": {"name": "constant", "max_lr": OWN}}
ORACLE: dict[str, Any] = {"mode": "oracle", "grid": {"rates": GRID}, "tests": ["silo"]}
ARMS: dict[str, Any] = {
    "silo": SILO,
    "best-of": {**SILO, "best_of": CANDIDATES},
    "greedy": ORACLE,
    "retrained": {**ORACLE, "retrain_winner": True},
}
# Of one training, in accuracy: luck that both its scores share, noise of each score alone, and the share of a parent's
# luck that its children begin with.
TRAINING, SCORE, HANDED = 0.005, 0.002, 0.3


def made_study(arms: dict[str, Any] | None = None, seeds: int = 5, cycles: int = 5) -> Study:
    return study({"arms": arms or ARMS, "replicates.seeds": list(range(seeds)), "cycles": cycles})


@dataclass
class Lucky(World):
    """Training whose luck is in both its scores and is handed on in part; `better` is the truth of the rate 0.3."""

    better: float = 0.0
    draw: int = 0
    had: dict[str, float] = field(default_factory=dict)

    def outcome(self, unit: Unit) -> Outcome:
        made = super().outcome(unit)
        digest = hashlib.sha256(f"{self.draw}/{unit.key}".encode()).digest()
        own, val, test = np.random.default_rng(int.from_bytes(digest[:8], "big")).standard_normal(3)
        self.had[unit.key] = TRAINING * own + HANDED * self.had.get(str(unit.parent), 0.0)
        level = 0.8 + self.had[unit.key] + (self.better if resolved(unit) == 0.3 else 0.0)
        if made["status"] == "ok":
            made |= {"val_score": level + SCORE * val, "test_score": level + SCORE * test, "val_loss": 1 - level}
        return {**made, "train_loss": 0.1}


def frame_of(made: Study, world: World | None = None) -> pd.DataFrame:
    """The table of a run of the engine."""
    journal = MemoryJournal()
    Drive(journal.commit, world or Lucky(), random.Random(0))(Planner(made, journal))
    return make_table(rows(cast(Run, journal), made))


def luck_of(frame: pd.DataFrame, made: Study) -> pd.DataFrame:
    return luck.luck_table(frame, chain_rows(frame), made)


def overall(table: pd.DataFrame, way: str) -> dict[str, Any]:
    """Part → its row over cycles ≥ 2."""
    own = table[(table["way"] == way) & table["cycle"].isna()]
    return {str(row["part"]): row for row in own.to_dict("records")}


# --- what the parts are ---

MADE = made_study()
FRAME = frame_of(MADE)


def by_hand(frame: pd.DataFrame, arm: str, flag: str, seed: int) -> float:
    """Mean test accuracy over cycles ≥ 2 of the marked rows of an arm."""
    own = frame[(frame["arm"] == arm) & (frame["seed"] == seed) & (frame["cycle"] >= 2) & frame[flag]]
    assert own["cycle"].tolist() == [2, 3, 4]
    return float(own["test_score"].mean())


def test_the_parts_are_means_over_later_cycles_and_medians_over_seeds() -> None:
    table = luck_of(FRAME, MADE)
    seeds = MADE.replicates.seeds
    score = {
        name: np.array([by_hand(FRAME, arm, flag, seed) for seed in seeds])
        for name, (arm, flag) in {
            "silo": ("silo", "winner"), "best-of": ("best-of", "winner"), "greedy": ("greedy", "winner"),
            "own": ("retrained", "winner"), "second": ("retrained", "continued"),
        }.items()
    }  # fmt: skip
    expected = {
        ("retrained", "gap"): score["own"] - score["silo"],
        ("retrained", "luck"): score["own"] - score["second"],
        ("retrained", "rate"): score["second"] - score["silo"],
        ("best-of", "gap"): score["greedy"] - score["silo"],
        ("best-of", "luck"): score["best-of"] - score["silo"],
        ("best-of", "rate"): score["greedy"] - score["best-of"],
    }
    for (way, part), values in expected.items():
        row = overall(table, way)[part]
        assert (row["difference"], row["mean"]) == pytest.approx((np.median(values), values.mean()))
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["n_seeds"] == len(seeds)


def test_without_luck_the_chain_gap_of_a_retraining_oracle_is_the_primary_endpoint() -> None:
    arms = {name: ARMS[name] for name in ("silo", "retrained")}
    made = made_study(arms)
    summary = summarise(frame_of(made), made)
    assert summary.endpoint is not None
    rate = overall(summary.luck, "retrained")["rate"]
    found = summary.endpoint.estimate
    assert (rate["difference"], rate["low"], rate["high"]) == (found.median, found.low, found.high)


def test_candidates_are_counted_without_the_second_training() -> None:
    table = luck_of(FRAME, MADE)
    assert set(table["candidates"]) == {CANDIDATES}
    assert set(table.loc[table["way"] == "best-of", "trainings"]) == {CANDIDATES}
    assert table.loc[table["way"] == "retrained", "trainings"].isna().all()


def test_second_trainings_judge_no_rate() -> None:
    groups = oracle_cycles(FRAME, MADE)
    plain, again = groups["greedy", 1], groups["retrained", 1]
    assert again.rates.tolist() == plain.rates.tolist()
    for name in ("val", "test", "ok", "val_loss"):
        assert np.array_equal(getattr(again, name), getattr(plain, name))


@pytest.mark.parametrize(
    ("change", "is_one"),
    [
        ({}, True),
        ({"schedule": {"name": "constant", "max_lr": 0.06}}, False),
        ({"epochs": 3}, False),
        ({"profile": "cosine"}, False),
        ({"best_of": None}, False),
    ],
)
def test_a_best_of_arm_differs_from_the_schedule_in_nothing_else(change: dict[str, Any], is_one: bool) -> None:
    arm = {key: value for key, value in {**ARMS["best-of"], **change}.items() if value is not None}
    made = made_study({"silo": SILO, "best-of": arm}, seeds=1, cycles=3)
    assert luck.best_of_arms(frame_of(made), made) == (["best-of"] if is_one else [])


@pytest.mark.parametrize("judged", [{"mode": "schedule", "schedule": {"name": "silo"}}, {"preset": "silo"}])
def test_one_that_takes_the_constants_of_the_schedules_pilot_is_one(judged: dict[str, Any]) -> None:
    open_ = {"mode": "schedule", "schedule": {"name": "silo"}}
    arms = {"silo": judged, "own": {**open_, "best_of": 3}, "ends": {**open_, "best_of": 4, "ends": {"arm": "silo"}}}
    arms["other"] = {**SILO, "best_of": 3}
    pilot = {"seeds": [100], "chains": 3, "low": 0.01, "high": 1.0}
    made = study({"arms": arms, "pilot": pilot, "replicates.seeds": [0], "cycles": 5})
    assert luck.best_of_arms(ordinary(frame_of(made)), made) == ["own", "ends"]


def test_of_several_best_of_arms_the_one_with_as_many_trainings_as_candidates_answers() -> None:
    made = made_study({**ARMS, "few": {**SILO, "best_of": 2}, "many": {**SILO, "best_of": 9}}, seeds=2, cycles=4)
    found = luck.split_of(luck_of(frame_of(made), made), "greedy")
    assert found is not None
    assert {row["arm"] for row in found.values()} == {"best-of"}


def test_arms_that_train_several_times_are_no_rivals() -> None:
    summary = summarise(FRAME, MADE)
    assert "best-of" not in set(summary.against["arm"]) | set(summary.budgets["arm"]) | set(summary.tuning.written)
    assert "best-of" in set(summary.ranking["arm"])
    units = summary.cost.set_index("arm")["units"].to_dict()
    per_seed = {arm: count / 5 for arm, count in units.items()}
    assert per_seed["best-of"] == per_seed["greedy"] == 1 + 4 * CANDIDATES
    assert per_seed["retrained"] == 1 + 4 * (CANDIDATES + 1)


# --- chains that end ---


def test_a_second_training_that_diverges_ends_the_chain_which_has_guessed_from_there_on() -> None:
    lost = Lucky(lambda u: "diverged" if (u.cycle, u.repeat, u.seed) == (3, 1, 0) else "ok")
    made = made_study({name: ARMS[name] for name in ("silo", "retrained")})
    frame = frame_of(made, lost)
    chain = chain_rows(frame)
    own = chain[(chain["arm"] == "retrained") & (chain["seed"] == 0)].set_index("cycle")["test_score"]
    assert own[2] > 0.7
    assert own[[3, 4]].tolist() == [0.1, 0.1]
    table = luck_of(frame, made)
    at = {(row["part"], row["cycle"]): row for row in table.dropna(subset=["cycle"]).to_dict("records")}
    assert at["rate", 4]["n_seeds"] == at["luck", 4]["n_seeds"] == 5
    assert at["rate", 4]["mean"] < -0.1  # one of five seeds guesses
    assert at["luck", 3]["mean"] > 0.1  # that its winner trained there was luck
    assert at["luck", 4]["mean"] < 0.05  # and after the end nothing is


def test_a_best_of_chain_ends_only_where_all_its_trainings_diverge() -> None:
    some = Lucky(lambda u: "diverged" if u.cycle == 3 and u.repeat not in (2, 4) and u.seed == 0 else "ok")
    every = Lucky(lambda u: "diverged" if u.cycle == 3 and resolved(u) == OWN and u.seed == 0 else "ok")
    made = made_study({name: ARMS[name] for name in ("silo", "best-of", "greedy")})
    for world, score in ((some, 0.7), (every, 0.0)):
        chain = chain_rows(frame_of(made, world))
        own = chain[(chain["arm"] == "best-of") & (chain["seed"] == 0)].set_index("cycle")["test_score"]
        assert all((own[[3, 4]] > 0.7) == (score > 0))


# --- what the report says ---


def asked(arms: dict[str, Any], seeds: int = 5) -> tuple[Summary, Answer]:
    made = made_study(arms, seeds)
    summary = summarise(frame_of(made), made)
    return summary, loses.ask(summary)


def test_the_headline_splits_the_gap_by_a_best_of_arm() -> None:
    summary, answer = asked({name: ARMS[name] for name in ("silo", "best-of", "greedy")})
    found = overall(summary.luck, "best-of")
    assert ", of which luck +" in answer.verdict
    assert "rates " in answer.verdict
    assert any(line.startswith("Luck: best-of, the best of 6 trainings") for line in answer.details)
    numbers = {one.name: one for one in answer.numbers}
    part = numbers["Luck of the best of several trainings, Oracle − schedule"]
    assert (part.value, part.low, part.high) == tuple(found["luck"][name] for name in ("difference", "low", "high"))


def test_the_headline_says_that_a_retraining_oracle_has_no_luck() -> None:
    _, answer = asked({name: ARMS[name] for name in ("silo", "retrained")})
    assert ", without luck, which is +" in answer.verdict
    assert any("from second trainings alone, which no score chose, retrained is better" in s for s in answer.details)


def test_an_oracle_beside_the_one_of_the_chain_gap_may_tell() -> None:
    summary, answer = asked({name: ARMS[name] for name in ("silo", "greedy", "retrained")})
    assert summary.chain_oracle == "greedy"
    assert ", that of retrained without luck " in answer.verdict
    _, both = asked(ARMS)
    assert sum(line.startswith("Luck: ") for line in both.details) == 2


def test_where_neither_is_there_the_report_says_that_it_cannot_tell_and_what_to_add() -> None:
    _, answer = asked({name: ARMS[name] for name in ("silo", "greedy")})
    assert ", luck and rates not told apart" in answer.verdict
    said = next(line for line in answer.details if "cannot be told" in line)
    assert "best_of" in said
    assert "retrain_winner = true" in said


@pytest.mark.parametrize(("trainings", "words"), [(3, "some luck is left"), (9, "more luck than the Oracle")])
def test_another_number_of_trainings_than_candidates_is_told(trainings: int, words: str) -> None:
    arms = {"silo": SILO, "best-of": {**SILO, "best_of": trainings}, "greedy": ORACLE}
    _, answer = asked(arms, seeds=2)
    assert any(words in line and "among 6 trainings a cycle" in line for line in answer.details)


# --- how often it is right: many simulated chains ---

SEEDS, CYCLES = 5, 7


def best(rng: np.random.Generator, handed: FloatArray, means: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The best on validation of trainings from one parent: its luck, its test score, its mean; (runs, seeds) each."""
    shape = (*handed.shape, len(means))
    had = TRAINING * rng.standard_normal(shape) + HANDED * handed[..., None]
    val, test = means + had + SCORE * rng.standard_normal((2, *shape))
    at = val.argmax(axis=-1)[..., None]
    taken = (np.take_along_axis(each, at, axis=-1)[..., 0] for each in (had, test, np.broadcast_to(means, shape)))
    return tuple(taken)  # type: ignore[return-value]


def chains(rng: np.random.Generator, runs: int, better: float) -> dict[str, FloatArray]:
    """Test scores (runs, seeds, cycles ≥ 1) of whole chains; one of the Oracle's rates is better than all others."""
    rates, own = np.zeros(CANDIDATES), np.zeros(1)
    rates[0] = better
    had = {name: np.zeros((runs, SEEDS)) for name in ("silo", "best-of", "greedy", "second")}
    found: dict[str, list[FloatArray]] = {name: [] for name in (*had, "own")}
    for _ in range(1, CYCLES):
        for name, means in (("silo", own), ("best-of", np.zeros(CANDIDATES)), ("greedy", rates)):
            had[name], test, _ = best(rng, had[name], means)
            found[name].append(test)
        _, test, mean = best(rng, had["second"], rates)
        found["own"].append(test)
        had["second"], again, _ = best(rng, had["second"], own)
        found["second"].append(again + mean)
    return {name: np.stack(each, axis=-1) for name, each in found.items()}


def splits(runs: int, better: float = 0.0) -> dict[tuple[str, str], list[tuple[float, float, float]]]:
    """(way, part) → median, low and high of every run."""
    drawn = chains(np.random.default_rng(int(1e4 * better) + runs), runs, better)
    pairs = {"best-of": ("greedy", "best-of", "silo"), "retrained": ("own", "own", "second")}
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for way, (oracle, more, less) in pairs.items():
        for run in range(runs):
            gap, part = (
                pd.DataFrame(drawn[a][run] - drawn[b][run], columns=range(1, CYCLES))
                for a, b in ((oracle, "silo"), (more, less))
            )
            for row in luck.split({"way": way}, gap, part, CYCLES):
                if "cycle" not in row:
                    found.setdefault((way, row["part"]), []).append((row["difference"], row["low"], row["high"]))
    return found


def covers(found: list[tuple[float, float, float]], truth: float = 0.0) -> float:
    return float(np.mean([low <= truth <= high for _, low, high in found]))


def check(flat_runs: int, real_runs: int) -> None:
    flat, real = splits(flat_runs), splits(real_runs, better=0.02)
    assert np.mean([mid > 0 for mid, _, _ in flat["best-of", "gap"]]) > 0.97  # every run seems to gain by its rates
    for way in ("best-of", "retrained"):
        assert covers(flat[way, "rate"]) >= 1 - allowed(flat_runs)
        assert covers(flat[way, "luck"]) < 0.2  # the luck is seen
        assert np.mean([low > 0 for _, low, _ in real[way, "rate"]]) > 0.9  # and so are two points of a better rate
    assert abs(np.mean([mid for mid, _, _ in flat["retrained", "rate"]])) < 4 * TRAINING / math.sqrt(SEEDS * flat_runs)


@pytest.mark.slow
def test_on_a_flat_truth_the_part_of_the_rates_covers_0_and_a_better_rate_is_seen() -> None:
    check(flat_runs=150, real_runs=40)


@pytest.mark.slow
def test_the_same_in_many_more_runs() -> None:
    check(flat_runs=3000, real_runs=500)


def engine_runs(runs: int, better: float) -> pd.DataFrame:
    made = made_study()
    return pd.concat(
        [luck_of(frame_of(made, Lucky(better=better, draw=draw)), made).assign(run=draw) for draw in range(runs)]
    )


@pytest.mark.slow
def test_whole_runs_of_the_engine_say_the_same() -> None:
    flat, real = (engine_runs(runs, better) for runs, better in ((150, 0.0), (40, 0.02)))
    for way in ("best-of", "retrained"):
        of = {}
        for name, table in (("flat", flat), ("real", real)):
            own = table[(table["way"] == way) & table["cycle"].isna()].set_index("part")
            of[name] = {part: own.loc[[part]] for part in luck.PARTS}
        rate = of["flat"]["rate"]
        assert ((rate["low"] <= 0) & (rate["high"] >= 0)).mean() >= 1 - allowed(150)
        assert (of["flat"]["luck"]["low"] > 0).mean() > 0.5  # three cycles of five seeds
        assert (of["real"]["rate"]["low"] > 0).mean() > 0.9


def test_a_table_of_nothing_has_its_columns() -> None:
    made = made_study({"silo": SILO})
    found = luck_of(frame_of(made), made)
    assert found.empty
    assert list(found.columns) == list(typed([], LUCK).columns)
    assert luck.split_of(found, None) is None
