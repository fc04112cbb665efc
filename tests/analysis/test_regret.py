from __future__ import annotations

import math

import pandas as pd
import pytest

from silo_analysis.estimates import regret
from silo_analysis.estimates.frames import GAPS
from silo_analysis.estimates.summary import summarise
from tests.analysis.builder import ARMS, flat, make_frame, make_study, oracle_cycle_of

RATES = [0.01, 0.03, 0.1]


def test_regret_is_chosen_on_validation_and_measured_on_test() -> None:
    cycle = oracle_cycle_of(
        [[0.80, 0.85, 0.90], [0.92, 0.90, 0.80]], RATES, {"silo": 0.03}, test=[[0.70, 0.88, 0.86], [0.91, 0.90, 0.99]]
    )
    first, second = regret.cycle_regret(cycle, "silo")
    assert (first["seed"], first["best_max_lr"], second["best_max_lr"]) == (0, 0.1, 0.01)
    assert first["regret_val"] == pytest.approx(0.05)
    assert first["regret_test"] == pytest.approx(-0.02)  # negative values stay
    assert second["regret_test"] == pytest.approx(0.01)


def test_the_winner_is_an_asked_rate_that_did_not_diverge() -> None:
    cycle = oracle_cycle_of(
        [[0.80, 0.85, 0.90]], RATES, {"silo": 0.03}, asked=[True, False, True], collapsed=[[False, False, True]]
    )
    assert regret.cycle_regret(cycle, "silo")[0]["best_max_lr"] == 0.01


def test_ties_fall_to_the_lower_loss_then_to_the_smaller_rate() -> None:
    equal = [[0.9, 0.8, 0.9]]
    cycle = oracle_cycle_of(equal, RATES, {}, val_loss=[[0.5, 0.5, 0.4]])
    assert regret.best_asked(cycle, 0) == 2
    assert regret.best_asked(oracle_cycle_of(equal, RATES, {}, val_loss=[[0.4, 0.5, 0.4]]), 0) == 0


def test_seeds_without_the_schedule_or_a_winner_are_left_out() -> None:
    cycle = oracle_cycle_of([[0.8, math.nan, 0.9], [math.nan] * 3, [0.8, 0.85, 0.9]], RATES, {"silo": 0.03})
    assert [row["seed"] for row in regret.cycle_regret(cycle, "silo")] == [2]
    assert regret.cycle_regret(cycle, "absent") == []


def test_crossfit_chooses_on_the_other_seeds() -> None:
    val = [[0.80, 0.85, 0.90], [0.80, 0.85, 0.90], [0.95, 0.85, 0.80]]
    rows = regret.crossfit_regret(oracle_cycle_of(val, RATES, {"silo": 0.03}), "silo")
    # Seeds 0 and 1 see the mean of one seed like them and the odd one: 0.875, 0.85, 0.85. Seed 2 sees 0.8, 0.85, 0.9.
    assert [row["chosen_max_lr"] for row in rows] == [0.01, 0.01, 0.1]
    assert [row["regret_test"] for row in rows] == pytest.approx([-0.05, -0.05, -0.05])


def test_crossfit_needs_two_seeds_and_leaves_out_collapsed_rates() -> None:
    assert regret.crossfit_regret(oracle_cycle_of([[0.8, 0.85, 0.9]], RATES, {"silo": 0.03}), "silo") == []
    val, lost = [[0.8, 0.85, 0.9]] * 3, [[False, False, seed == 0] for seed in range(3)]
    rows = regret.crossfit_regret(oracle_cycle_of(val, RATES, {"silo": 0.03}, collapsed=lost), "silo")
    assert [row["chosen_max_lr"] for row in rows] == [0.1, 0.03, 0.03]


def test_best_of_noise_is_optimistic_on_validation_and_not_on_test() -> None:
    study = make_study(seeds=20, cycles=3)
    frame = make_frame(study, flat, noise=0.01, shared_noise=0.0)
    found = summarise(frame, study).regret
    assert found["regret_val"].mean() > 0.008
    assert abs(found["regret_test"].mean()) < 0.004


def chain(arm: str, accuracies: list[float], seed: int = 0) -> list[dict[str, object]]:
    return [
        {"arm": arm, "seed": seed, "cycle": cycle, "val_score": accuracy, "test_score": accuracy}
        for cycle, accuracy in enumerate(accuracies)
    ]


def test_gaps_are_paired_by_seed_and_cycle_without_the_shared_dense_one() -> None:
    rows = [
        *chain("oracle", [0.9, 0.92, 0.93]),
        *chain("silo", [0.9, 0.91, 0.94]),
        *chain("oracle", [0.9, 0.9, 0.9], 1),
    ]
    gaps = regret.chain_gaps(pd.DataFrame(rows), "oracle", "silo")
    assert gaps["cycle"].tolist() == [1, 2]
    assert gaps["gap_test"].tolist() == pytest.approx([0.01, -0.01])
    assert list(gaps.columns) == list(GAPS)


def test_endpoint_is_the_mean_over_later_cycles_of_complete_seeds() -> None:
    rows = [
        *chain("oracle", [0.9, 0.9, 0.92, 0.94]), *chain("silo", [0.9, 0.1, 0.91, 0.91]),
        *chain("oracle", [0.9, 0.9, 0.93, 0.93], 1), *chain("silo", [0.9, 0.9, 0.93, 0.93], 1),
        *chain("oracle", [0.9, 0.9, 0.93, 0.93], 2), *chain("silo", [0.9, 0.9, 0.93], 2),
    ]  # fmt: skip
    gaps = regret.chain_gaps(pd.DataFrame(rows), "oracle", "silo")
    end = regret.primary_endpoint(gaps, "oracle", "silo", cycles=4, seeds=[0, 1, 2], tolerance=0.005)
    assert end.cycles == (2, 3)
    assert end.per_seed == {0: pytest.approx(0.02), 1: pytest.approx(0.0)}
    assert end.incomplete == (2,)
    assert end.estimate.mean == pytest.approx(0.01)
    assert not end.equivalence.equivalent


def test_a_study_without_later_cycles_has_no_endpoint() -> None:
    gaps = regret.chain_gaps(pd.DataFrame([*chain("oracle", [0.9, 0.9]), *chain("silo", [0.9, 0.9])]), "oracle", "silo")
    end = regret.primary_endpoint(gaps, "oracle", "silo", cycles=2, seeds=[0], tolerance=0.005)
    assert (end.cycles, end.per_seed, end.estimate.mean) == ((), {}, None)


def test_a_chain_goes_on_with_the_continued_row_where_that_is_not_the_winner() -> None:
    study = make_study(arms={"oracle": ARMS["oracle"]}, seeds=1, cycles=2)
    frame = make_frame(study)
    late = frame[frame["cycle"] == 1]
    won = regret.chain_rows(frame)
    assert won["key"].tolist() == frame.loc[frame["winner"], "key"].tolist()
    other = late.index[~late["winner"]][0]
    frame.loc[other, "continued"] = True
    assert regret.chain_rows(frame)["key"].tolist()[-1] == frame.loc[other, "key"]


def test_a_schedule_that_diverged_keeps_its_row_and_an_oracle_without_winner_has_none() -> None:
    study = make_study(arms={name: ARMS[name] for name in ("silo", "oracle")}, seeds=1, cycles=2)
    frame = make_frame(study)
    frame.loc[frame["cycle"] == 1, "winner"] = False
    last = regret.chain_rows(frame)
    assert last.loc[last["cycle"] == 1, "arm"].tolist() == ["silo"]
