"""Small tables with known answers, from the rows to the summary."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from silo_analysis.answers.inside import ask
from silo_analysis.answers.missing import notes
from silo_analysis.answers.text_tables import score_table
from silo_analysis.estimates.oracle import oracle_cycle
from silo_analysis.estimates.regret import best_asked
from silo_analysis.estimates.summary import Summary, summarise
from silo_tune.study.model import Study
from tests.analysis.asking import said_of
from tests.analysis.builder import make_search, make_study
from tests.analysis.by_hand import frame_of

JUDGED = {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.1}}
LOW = {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.01}}
GRID = {"low": 0.01, "high": 1.0, "points": 3}
TWO = {"silo": JUDGED, "oracle": {"mode": "oracle", "grid": GRID}}


def study_of(seeds: int = 5, cycles: int = 2, **arms: object) -> Study:
    return make_study({**TWO, **arms}, seeds=seeds, cycles=cycles)


def same_in_all_seeds(head: str, cells: str, seeds: int = 5) -> str:
    return "\n".join([head, *(f"{seed} | {cells}" for seed in range(seeds))])


def summary_of(text: str, study: Study) -> Summary:
    return summarise(frame_of(text, study), study)


def one_cycle(head: str, cells: str, seeds: int = 5) -> Summary:
    """The summary of an Oracle's first cycle that is the same in all seeds."""
    return summary_of(same_in_all_seeds(f"oracle 1 | {head}", cells, seeds), study_of(seeds))


def at(summary: Summary, *columns: str, cycle: int = 1) -> list[object]:
    """Cells of one cycle's row; None where they are null."""
    row = summary.cycles[summary.cycles["cycle"] == cycle].iloc[0]
    return [None if pd.isna(row[name]) else row[name] for name in columns]


# --- one cycle: interval, verdict, regret ---


def test_rates_that_are_near_the_best_in_two_places() -> None:
    found = one_cycle("0.01  0.03  0.1=silo  0.3   1.0", "50.0  90.0  50.0  89.9  50.0")
    assert at(found, "verdict", "point_verdict", "best_max_lr") == ["outside", "outside", 0.03]
    (segments,) = found.intervals["segments"]
    assert segments.count("to") == 2
    low, high = at(found, "interval_low", "interval_high")
    assert 0.01 < float(str(low)) < 0.03 < float(str(high)) < 0.1
    other = one_cycle("0.01  0.03  0.1  0.3=silo   1.0", "50.0  90.0  50.0  89.9  50.0")
    assert at(other, "verdict", "point_verdict") == ["inside", "inside"]  # in the segment that does not hold the best
    assert at(other, "interval_low", "interval_high") == [low, high]


def test_a_grid_of_one_point_has_no_rival() -> None:
    found = one_cycle("0.1=silo", "90.0")
    assert at(found, "verdict", "reason") == ["undetermined", "the Oracle has no other rate"]
    assert at(found, "interval_low", "interval_high", "width_decades") == [0.1, 0.1, 0.0]
    assert at(found, "unbounded_low", "unbounded_high", "cycle_regret_test") == [True, True, 0.0]


def test_a_point_beside_the_schedules_own_is_a_rival() -> None:
    assert at(one_cycle("(0.1=silo)  0.3", "90.0  90.2"), "verdict", "best_max_lr") == ["inside", 0.3]
    assert at(one_cycle("(0.1=silo)  0.3", "90.0  90.8"), "verdict", "best_max_lr") == ["outside", 0.3]


@pytest.mark.parametrize(
    ("cells", "unbounded", "best"), [("90.0  88.0  80.0", [True, False], 0.01), ("80.0  88.0  90.0", [False, True], 1)]
)
def test_the_best_at_an_edge(cells: str, unbounded: list[bool], best: float) -> None:
    found = one_cycle("0.01  0.1=silo  1.0", cells)
    assert at(found, "unbounded_low", "unbounded_high", "clipped", "best_max_lr") == [*unbounded, True, best]
    assert at(found, "verdict", "cycle_regret_val") == ["outside", pytest.approx(0.02)]
    assert any("In 1 cycle the best rate is an edge" in note for note in notes(found))


def test_the_schedule_beyond_an_unbounded_edge_lies_in_the_point_interval() -> None:
    found = one_cycle("(0.001=silo)  0.01  0.1  1.0", "88.0  90.0  88.0  80.0")
    assert at(found, "point_verdict", "verdict") == ["inside", "outside"]


def test_equal_accuracies_fall_to_the_lower_loss() -> None:
    found = one_cycle("0.01  0.1=silo  1.0", "90.0/70.0@0.5  88.0/85.0  90.0/86.0@0.4")
    assert found.regret["best_max_lr"].tolist() == [1.0] * 5
    assert at(found, "cycle_regret_val", "cycle_regret_test") == [pytest.approx(0.02), pytest.approx(0.01)]
    assert at(found, "best_max_lr") == [0.01]  # of the mean curve, which knows no loss


def test_equal_accuracies_and_losses_fall_to_the_smaller_rate() -> None:
    found = one_cycle("0.01  0.1=silo  1.0", "90.0/70.0@0.4  88.0/85.0  90.0/86.0@0.4")
    assert found.regret["best_max_lr"].tolist() == [0.01] * 5
    assert at(found, "cycle_regret_test") == [pytest.approx(-0.15)]  # negative values stay


def test_a_tie_of_exactly_the_tolerance_is_neither_inside_nor_outside() -> None:
    assert at(one_cycle("0.1=silo  1.0", "90.0  90.5"), "verdict") == ["undetermined"]
    assert at(one_cycle("0.1=silo  1.0", "90.0  90.5", seeds=4), "n_seeds", "verdict") == [4, "undetermined"]


DIVERGED = """
oracle 1 | 0.01  0.1=silo  1.0
0        | 89.0  90.0      95.0
1        | 89.0  90.0      x
2        | 89.0  90.0      95.0
3        | 89.0  90.0      ~11.0
4        | 89.0  90.0      95.0
"""


def test_a_rate_that_collapsed_counts_as_guessing_and_stays_a_rival() -> None:
    found = summary_of(DIVERGED, study_of())
    # Better in three seeds of five: neither inside nor outside. Its mean is (3 · 95 + 2 · 10) / 5.
    assert at(found, "verdict", "best_max_lr", "unbounded_high") == ["undetermined", 0.1, False]
    assert found.curves["collapsed"].tolist() == [0, 0, 2]
    assert found.curves["n"].tolist() == [5, 5, 5]
    assert found.curves["val_mean"].tolist() == pytest.approx([0.89, 0.90, 0.61])
    assert found.troubles["status"].tolist() == ["diverged"]
    assert found.troubles["seed"].tolist() == [1]
    # Within a seed the Oracle goes by what it saw there: 1.0 wins where it did not diverge.
    assert found.regret["best_max_lr"].tolist() == [1.0, 0.1, 1.0, 0.1, 1.0]
    assert found.regret["regret_val"].tolist() == pytest.approx([0.05, 0, 0.05, 0, 0.05])
    # Chosen on other seeds it never is: its mean there is low.
    assert found.crossfit["chosen_max_lr"].tolist() == [0.1] * 5


def test_a_training_that_scores_above_chance_has_not_collapsed_whatever_its_loss() -> None:
    found = summary_of(DIVERGED.replace("~11.0", "~95.0"), study_of())
    assert found.curves["collapsed"].tolist() == [0, 0, 1]
    assert found.curves["val_mean"].tolist() == pytest.approx([0.89, 0.90, (4 * 0.95 + 0.1) / 5])


def test_the_schedules_own_rate_collapsed() -> None:
    text = DIVERGED.replace("0.1=silo  1.0", "0.1  1.0=silo")
    found = summary_of(text, study_of())
    assert at(found, "verdict", "point_verdict") == ["undetermined", "outside"]
    assert at(found, "reason") == ["max_lr 0.01 trained where this one collapsed"]
    own = found.verdicts[found.verdicts["arm"] == "silo"]
    assert own[["collapsed", "collapsed_low", "collapsed_high"]].to_numpy(float).tolist() == [
        pytest.approx([2, 0.053, 0.853], abs=1e-3)
    ]
    assert found.regret["regret_val"].tolist() == pytest.approx([0, 0.8, 0, 0.8, 0])


def test_seeds_that_miss_a_rate_or_everything() -> None:
    found = summary_of(
        """
        oracle 1 | 0.01  0.1=silo  1.0
        0        | 89.0  90.0      80.0
        1        | 89.0  90.0      80.0
        2        | .     90.0      80.0
        3        | 89.0  90.0      80.0
        4        | 89.0  90.0      80.0
        """,
        study_of(seeds=7),
    )
    assert at(found, "verdict", "n_seeds") == ["undetermined", 5]
    assert at(found, "reason") == ["max_lr 0.01 has 4 of at least 5 seeds"]
    assert found.seeds == (0, 1, 2, 3, 4)
    assert any("No rows yet for 2 seeds: 5, 6" in note for note in notes(found))


def test_failed_units_have_no_numbers() -> None:
    found = summary_of(DIVERGED.replace("x", "!").replace("~11.0", "95.0"), study_of())
    assert at(found, "verdict", "best_max_lr") == ["undetermined", 1.0]
    assert at(found, "reason") == ["max_lr 1 has 4 of at least 5 seeds"]
    assert found.troubles["status"].tolist() == ["failed"]
    assert found.curves["collapsed"].tolist() == [0, 0, 0]
    assert any("1 row failed" in note for note in notes(found))
    assert found.cost.set_index("arm").loc["oracle", "units"] == 14


# --- repeats ---


def test_repeats_of_a_rate_are_averaged_and_decide_among_themselves() -> None:
    found = one_cycle("0.01  0.1=silo  1.0", "91.0,89.0  90.4,90.0  90.6")
    assert found.curves["val_mean"].tolist() == pytest.approx([0.90, 0.902, 0.906])
    assert found.curves["n"].tolist() == [5, 5, 5]
    # As in the engine the winner is among the rates that were trained again.
    assert found.regret["best_max_lr"].tolist() == [0.1] * 5
    assert found.regret["regret_val"].tolist() == [0.0] * 5


def test_a_repeat_that_diverged_wins_nothing() -> None:
    found = one_cycle("0.01  0.1=silo  1.0", "92.0,x  90.0,89.0  88.0")
    assert found.regret["best_max_lr"].tolist() == [0.1] * 5
    assert at(found, "verdict", "best_max_lr") == ["inside", 0.1]


def test_a_chain_goes_on_with_repeat_0() -> None:
    study = study_of(cycles=3)
    blocks = [same_in_all_seeds(f"oracle {cycle} | 0.01  0.1=silo", "91.0/88.0,89.0/80.0  85.0") for cycle in (1, 2)]
    blocks += [same_in_all_seeds(f"silo {cycle} | 0.1", "87.0") for cycle in (1, 2)]
    found = summary_of("\n\n".join(blocks), study)
    assert found.gaps["gap_test"].tolist() == pytest.approx([0.01] * 10)


def test_the_winner_of_a_seed_is_that_of_the_engine() -> None:
    rng, study = np.random.default_rng(0), study_of(seeds=1)
    cells = ["90.0", "90.0@0.4", "89.0", "x", "!", "90.0,88.0", "89.0,90.0", "91.0,x", "90.0,!", "."]
    for _ in range(100):
        chosen = rng.choice(cells, 4).tolist()
        if set(chosen) == {"."}:
            continue
        frame = frame_of(f"oracle 1 | 0.01 0.03 0.1 0.3\n0 | {' '.join(chosen)}", study)
        cycle = oracle_cycle("oracle", 1, frame)
        won = frame.loc[frame["winner"], "max_lr"].tolist()
        best = best_asked(cycle, 0)
        assert ([] if best is None else [cycle.rates[best]]) == won, chosen


# --- chains ---

CHAINS = """
oracle 1 | 0.01       0.1=silo
0        | 80.0       90.0/90.0
1        | 80.0       90.0/90.0
2        | 80.0       90.0/90.0

oracle 2 | 0.01       0.1=silo
0        | 90.0/89.0  88.0
1        | 80.0       90.0/91.0
2        | 80.0       90.0/92.0

oracle 3 | 0.01       0.1=silo
0        | 90.0/90.0  88.0
1        | 80.0       90.0/90.0
2        | 80.0       90.0/90.0

silo 1   | 0.1
0        | 60.0
1        | 90.0
2        | 90.0

silo 2   | 0.1
0        | 90.0/88.0
1        | 90.0/90.0
2        | x

silo 3   | 0.1
0        | 90.0/88.0
1        | 90.0/88.0

low 1    | 0.01
0        | 80.0
1        | 80.0
2        | 80.0

low 2    | 0.01
0        | 80.0
1        | 80.0
2        | !
"""


@pytest.fixture(scope="module")
def chains() -> Summary:
    return summary_of(CHAINS, study_of(seeds=3, cycles=4, low=LOW))


def test_gaps_and_endpoint_of_chains_that_ended(chains: Summary) -> None:
    # In seed 2 silo diverged at cycle 2: it guesses from there on, in the cycle after it too.
    assert chains.gaps["cycle"].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert chains.gaps["seed"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert chains.gaps["gap_test"].tolist() == pytest.approx([0.30, 0, 0, 0.01, 0.01, 0.82, 0.02, 0.02, 0.80])
    end = chains.endpoint
    assert end is not None
    assert end.cycles == (2, 3)
    assert end.per_seed == {0: pytest.approx(0.015), 1: pytest.approx(0.015), 2: pytest.approx(0.81)}
    assert end.incomplete == ()
    assert chains.reached["silo", 2] == 2
    assert chains.reached["low", 1] == 2


def test_the_table_of_scores_has_medians_and_how_many_trained(chains: Summary) -> None:
    rows = {row[0]: row[1:] for row in score_table(chains).rows}
    # Test scores of silo at cycle 2 are 88 and 90 %, and guessing: the mean is 63 %.
    assert rows["silo"][1].startswith("88.0 ")
    assert rows["silo"][1].endswith(" 2/3")


def test_ranks_of_chains_that_ended(chains: Summary) -> None:
    found = chains.ranking
    assert found["arm"].tolist() == ["oracle", "silo", "low"]
    assert found["rank"].fillna(0).tolist() == [1, 2, 0]
    assert found["n_seeds"].tolist() == [3, 3, 0]
    assert found["own_seeds"].tolist() == [3, 3, 0]
    assert found["mean"].fillna(0).tolist() == pytest.approx([(0.895 + 0.905 + 0.91) / 3, (0.88 + 0.89 + 0.1) / 3, 0])
    assert found["median"].fillna(0).tolist() == pytest.approx([0.905, 0.88, 0])
    assert found["trained"].tolist() == [3, 2, 0]  # of complete seeds


def test_status_and_cost_of_chains_that_ended(chains: Summary) -> None:
    assert chains.troubles["status"].tolist() == ["diverged", "failed"]
    cost = chains.cost.set_index("arm")
    counts = cost.loc[["silo", "low"], ["units", "diverged", "failed"]].to_numpy().tolist()
    assert counts == [[8, 1, 0], [5, 0, 1]]
    diverged = chains.arms[(chains.arms["arm"] == "silo") & (chains.arms["cycle"] == 2)]
    assert diverged[["n_seeds", "diverged", "trained"]].to_numpy().tolist() == [[3, 1, 2]]
    assert diverged[["trained_low", "trained_high"]].to_numpy().tolist() == [pytest.approx([0.094, 0.992], abs=1e-3)]
    after = chains.arms[(chains.arms["arm"] == "silo") & (chains.arms["cycle"] == 3)]
    assert after[["n_seeds", "trained"]].to_numpy().tolist() == [[3, 2]]
    assert after["test_mean"].tolist() == pytest.approx([(0.88 + 0.88 + 0.1) / 3])


def test_arms_of_different_budgets() -> None:
    study = study_of(seeds=2, cycles=3, low=LOW)
    text = "\n\n".join(
        same_in_all_seeds(f"{arm} {cycle} | {rate}", "90.0", 2)
        for arm, rate in (("silo", 0.1), ("low", 0.01))
        for cycle in (1, 2)
    )
    frame = frame_of(text, study)
    frame.loc[(frame["arm"] == "low") & (frame["cycle"] == 2), ["epochs", "steps"]] = [2, 50]
    found = summarise(frame, study)
    assert found.budgets["steps"].tolist() == [100, 75]
    assert found.budgets["epochs"].tolist() == [4, 3]
    assert found.budgets["ratio"].tolist() == [1, 0.75]
    assert found.budgets["matched"].tolist() == [True, False]
    assert "low trained 0.75 times the steps of silo per cycle: not a matched budget." in said_of(found, "effort")


# --- searches ---


def test_trials_leak_into_no_interval_gap_regret_or_rank() -> None:
    open_arm = {"mode": "schedule", "schedule": {"name": "constant"}}
    tuned = {"mode": "tune", "eps": [0.01, 0.1], "delta": [0.01, 0.1], "trials": 4}
    arms = {"silo": open_arm, "oracle": TWO["oracle"], "low": LOW, "tuned": tuned}
    pilot = {"seeds": [7, 8], "chains": 3, "low": 0.01, "high": 1.0}
    study = make_study(arms, seeds=3, cycles=4, pilot=pilot)
    frame = frame_of(CHAINS, study)
    points = [{"max_lr": rate} for rate in (0.01, 0.1, 1.0)]
    piloted, record = make_search(study, "silo", "pilot", "constant", points, seeds=[7, 8])
    curves = [{"eps": 0.03, "delta": 0.04}]
    searched, curve = make_search(study, "tuned", "tune", "silo", curves, seeds=[0, 1])
    both = pd.concat([piloted, searched, frame], ignore_index=True)
    found = summarise(both, study, {"silo": record, "tuned": curve})
    alone = summarise(frame, study)
    names = "cycles intervals verdicts curves arms regret crossfit gaps ranking budgets compared"
    for name in names.split():
        pd.testing.assert_frame_equal(getattr(found, name), getattr(alone, name))
    assert found.endpoint == alone.endpoint
    assert (found.seeds, found.n_val, found.reached) == (alone.seeds, alone.n_val, alone.reached)
    assert found.cost["units"].sum() > alone.cost["units"].sum()  # but they cost
    assert found.cost["pilot_units"].tolist()[0] == piloted["key"].nunique()


@pytest.mark.parametrize(("seeds", "said"), [(7, "none informative"), (8, "2 of 2")])
def test_a_cycle_is_informative_after_holm_only_where_its_control_is_outside_after_it(seeds: int, said: str) -> None:
    # The control at 0.01 is worse in every seed: p is 2⁻ⁿ, times 5/3 for each of three rivals, times two cycles.
    cycles = [
        same_in_all_seeds(f"oracle {cycle} | 0.01=low  0.1=silo  0.3  1.0", "80.0  90.0  89.9  89.8", seeds)
        for cycle in (1, 2)
    ]
    answer = ask(summary_of("\n\n".join(cycles), study_of(seeds=seeds, cycles=3, low=LOW)))
    assert f"Inside in 2 of 2 informative cycles ({said} after Holm)" in answer.verdict
