"""The ranking of arms, and their budgets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as reference

from silo_analysis.answers.missing import notes
from silo_analysis.estimates.ranking import chain_scores, rank_arms, rank_intervals, ranked_arms
from silo_analysis.estimates.regret import chain_rows
from silo_analysis.estimates.summary import Summary, summarise
from silo_tune.study.model import Study
from tests.analysis.asking import said_of
from tests.analysis.builder import ARMS, Row, diverged, failed, make_frame, make_search, make_study

CONSTANTS = {
    name: {"mode": "schedule", "schedule": {"name": "constant", "max_lr": rate}}
    for name, rate in {"low": 0.03, "twin": 0.03, "high": 0.07}.items()
}


def ranking_of(frame: pd.DataFrame, study: Study) -> pd.DataFrame:
    return rank_arms(chain_rows(frame), study).set_index("arm")


def spoilt(change: Any, study: Study) -> Summary:
    return summarise(make_frame(study, spoil=change), study)


def small(**more: Any) -> Study:
    return make_study({"silo": ARMS["silo"], **CONSTANTS, **more}, seeds=5, cycles=4)


# --- ranks ---


def test_ranked_are_schedules_and_greedy_oracles() -> None:
    tuned = {"mode": "tune", "eps": [0.01, 0.1], "delta": [0.01, 0.1], "trials": 4}
    study = make_study({**ARMS, "tuned": tuned})
    assert list(ranked_arms(study)) == ["silo", "low", "high", "ramp", "oracle"]
    assert ranked_arms(study)["oracle"] == "oracle"


def test_scores_are_means_over_cycles_from_2_on_of_complete_seeds() -> None:
    study = small()
    frame = make_frame(study)
    own = chain_rows(frame)
    own = own[own["arm"] == "silo"]
    scores = chain_scores(own, study.cycles)
    late = own[(own["seed"] == 3) & own["cycle"].isin([2, 3])]
    assert scores[3] == pytest.approx(late["test_score"].mean())
    assert set(chain_scores(own[(own["seed"] > 0) | (own["cycle"] < 3)], study.cycles)) == {1, 2, 3, 4}


def test_arms_that_come_to_the_same_units_rank_alike() -> None:
    study = make_study({"low": CONSTANTS["low"], "twin": CONSTANTS["twin"], "high": CONSTANTS["high"]}, schedule="low")
    found = ranking_of(make_frame(study), study)
    places = ["rank", "rank_best", "rank_worst", "mean", "low", "high"]
    twins = found.loc[["twin", "low"], places].to_numpy().tolist()
    assert twins[0] == twins[1]
    assert found["same_as"].dropna().to_dict() == {"low": "twin", "twin": "low"}


def test_a_clear_order_is_told_and_noise_leaves_it_open() -> None:
    order = np.tile([0.9, 0.8, 0.85], (5, 1)) + 1e-4 * np.random.default_rng(0).standard_normal((5, 3))
    assert rank_intervals(order) == ([1, 3, 2], [1, 3, 2])
    noise = 0.9 + 0.05 * np.random.default_rng(1).standard_normal((5, 3))
    assert rank_intervals(noise) == ([1, 1, 1], [3, 3, 3])
    mixed = order.copy()  # the third is like the first on average
    mixed[:, 2] += [0.07, 0.03, 0.06, 0.04, 0.05]
    assert rank_intervals(mixed) == ([1, 3, 1], [2, 3, 2])


def test_pairs_of_arms_are_corrected_for_their_number() -> None:
    pair = np.array([[0.003, 0.0], [0.004, 0.0], [0.001, 0.0], [0.006, 0.0]])
    one_sided = reference.ttest_1samp(pair[:, 0], 0, alternative="greater").pvalue
    assert 0.05 / 6 < one_sided < 0.05 / 2
    assert rank_intervals(pair)[0] == [1, 2]
    third = np.column_stack([pair, [0.5, -0.5, 0.1, -0.1]])
    assert rank_intervals(third)[0] == [1, 1, 1]


def test_one_seed_ranks_without_intervals() -> None:
    study = make_study({"silo": ARMS["silo"], **CONSTANTS}, seeds=1, cycles=4)
    found = ranking_of(make_frame(study), study)
    assert found["rank"].is_monotonic_increasing
    assert found["rank_best"].tolist() == [1] * 4
    assert found["rank_worst"].tolist() == [4] * 4
    assert found[["low", "high"]].isna().all(axis=None)
    assert found["n_seeds"].tolist() == [1] * 4


def test_two_seeds_have_intervals_and_tell_no_arms_apart() -> None:
    study = make_study({"silo": ARMS["silo"], **CONSTANTS}, seeds=2, cycles=4)
    found = ranking_of(make_frame(study), study)
    assert found["low"].notna().tolist() == [True] * 4
    assert rank_intervals(np.array([[0.90, 0.91], [0.92, 0.93]])) == ([1, 1], [2, 2])


def test_seeds_that_one_arm_lacks_are_left_out_of_all() -> None:
    def spoil(row: Row) -> Row:
        return failed() if (row["arm"], row["seed"], row["cycle"]) == ("high", 1, 3) else {}

    study = small()
    summary = spoilt(spoil, study)
    found = summary.ranking.set_index("arm")
    assert found["n_seeds"].tolist() == [4] * 4
    assert found["own_seeds"].to_dict() == {"silo": 5, "low": 5, "twin": 5, "high": 4}
    assert "The ranking is over 4 of 5 seeds: high did not end every cycle in the others." in notes(summary)


def test_an_arm_that_hardly_ever_ends_is_left_out_and_named() -> None:
    def spoil(row: Row) -> Row:
        return failed() if row["arm"] == "high" and row["seed"] > 1 and row["cycle"] == 2 else {}

    summary = spoilt(spoil, small())
    found = summary.ranking
    assert found["arm"].tolist()[-1] == "high"
    assert found["rank"].isna().tolist() == [False, False, False, True]
    assert found["n_seeds"].tolist() == [5, 5, 5, 0]
    assert found.iloc[-1][["mean", "rank_best"]].isna().all()
    assert "The ranking leaves out high, which ended every cycle in too few seeds." in notes(summary)


def test_an_arm_that_diverges_in_half_of_the_seeds_does_not_rank_first() -> None:
    def spoil(row: Row) -> Row:
        better = {"test_score": 0.99} if row["arm"] == "high" and row["cycle"] else {}
        return diverged() if row["arm"] == "high" and row["seed"] > 2 and row["cycle"] == 2 else better

    study = make_study({"silo": ARMS["silo"], **CONSTANTS}, seeds=6, cycles=4)
    found = spoilt(spoil, study).ranking
    assert found["n_seeds"].tolist() == [6] * 4
    assert found["arm"].tolist()[-1] == "high"
    assert found["trained"].tolist() == [6, 6, 6, 3]


def test_trials_of_searches_are_not_ranked() -> None:
    arms = {**CONSTANTS, "silo": {"mode": "schedule", "schedule": {"name": "silo"}}}
    study = make_study(arms, cycles=4, pilot={"seeds": [7, 8], "chains": 3, "low": 0.01, "high": 1.0})
    constants = {"silo": {"eps": 0.03, "delta": 0.04}}
    frame = make_frame(study, found=constants)
    rows, record = make_search(study, "silo", "pilot", "silo", [constants["silo"]], seeds=[7, 8])
    both = pd.concat([frame, rows], ignore_index=True)
    alone = summarise(frame, study).ranking
    pd.testing.assert_frame_equal(summarise(both, study, {"silo": record}).ranking, alone)


# --- budgets ---


def test_equal_budgets_are_said() -> None:
    summary = spoilt(lambda row: {}, small())
    assert summary.budgets["matched"].tolist() == [True] * 4
    assert summary.budgets["ratio"].tolist() == [1.0] * 4
    assert summary.budgets["cells"].tolist() == [15] * 4
    assert "all 4 schedule arms trained the same number of steps per cycle" in said_of(summary, "effort")


def test_half_the_steps_speak_up() -> None:
    def spoil(row: Row) -> Row:
        return {"epochs": 2, "steps": 50} if row["arm"] in ("low", "high") and row["cycle"] else {}

    summary = spoilt(spoil, small())
    found = summary.budgets.set_index("arm")
    cells = found.loc[["low"], ["epochs", "steps", "ratio", "matched"]].to_numpy().tolist()
    assert cells == [[2.0, 50.0, 0.5, False]]
    said = "low, high trained 0.50 times the steps of silo per cycle: not a matched budget."
    assert said in said_of(summary, "effort")
    assert "qual budgets" not in said_of(summary, "effort")


def test_steps_that_are_equal_in_all_but_not_in_every_cycle_do_not_match() -> None:
    def spoil(row: Row) -> Row:
        return {"steps": {1: 90, 2: 110}.get(row["cycle"], 100)} if row["arm"] == "low" else {}

    summary = spoilt(spoil, small())
    assert summary.budgets["ratio"].tolist() == [1.0] * 4
    assert summary.budgets["matched"].tolist() == [True, False, True, True]
    said = "low trained about as many steps as silo, but not the same in every cycle: not a matched budget."
    assert said in said_of(summary, "effort")


def test_a_chain_that_ended_early_or_a_longer_dense_cycle_is_no_mismatch() -> None:
    def spoil(row: Row) -> Row:
        if row["cycle"] == 0:
            return {"steps": 400}
        return diverged() if (row["arm"], row["seed"], row["cycle"]) == ("low", 2, 1) else {}

    summary = spoilt(spoil, small())
    assert summary.budgets["matched"].tolist() == [True] * 4
    assert summary.budgets["cells"].tolist() == [15, 12, 15, 15]  # not the training that diverged


def test_without_the_judged_schedule_nothing_is_matched() -> None:
    study = make_study(CONSTANTS, cycles=4)
    found = summarise(make_frame(study), study)
    assert found.budgets["matched"].isna().all()
    assert found.budgets["steps"].tolist() == [100.0] * 3
    assert "budget" not in said_of(found, "effort")
