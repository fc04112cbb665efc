"""The line at the head of a summary, and what its data cannot say."""

from __future__ import annotations

import re

from silo_analysis.answers.headline import headline, unsettled
from silo_analysis.answers.missing import notes
from silo_analysis.answers.terminal import summary_lines
from silo_analysis.estimates.summary import summarise
from tests.analysis.asking import said_of
from tests.analysis.builder import ARMS, diverged, flat, make_frame, make_study


def test_the_head_says_what_is_done_after_a_prune() -> None:
    study = make_study(cycles=4)
    summary = summarise(make_frame(study), study)
    assert headline(summary) == (
        "synthetic: lenet-300-100 on digits, weights kept after every prune, 4 cycles, 5 seeds"
    )
    assert summary_lines(summary, ())[0] == headline(summary)


def test_what_is_undetermined_is_listed_with_the_seeds_that_it_takes() -> None:
    study = make_study(cycles=4)
    noisy = summarise(make_frame(study, flat, noise=0.02), study)
    cycles, arms = unsettled(noisy)
    assert re.search(r"Whether silo is inside in cycles? .*: .* seeds would \(cycle \d\)", cycles)
    assert re.search(r"better than, worse than or within 0\.50 pp of .*low \([−+]\d\.\d\d pp; .* seeds would\)", arms)
    assert any(line.startswith("These data cannot say: whether silo is inside") for line in summary_lines(noisy, ()))


def test_a_run_that_settles_everything_lists_nothing() -> None:
    study = make_study(cycles=4)
    assert unsettled(summarise(make_frame(study, noise=1e-5, shared_noise=0.0), study)) == ()


def test_a_chain_that_ended_and_one_that_goes_on_are_told_apart() -> None:
    study = make_study({name: ARMS[name] for name in ("silo", "low", "high", "oracle")}, cycles=4)
    lost = make_frame(study, spoil=lambda row: diverged() if (row["arm"], row["cycle"]) == ("low", 2) else {})
    under_way = lost[~((lost["arm"] == "low") & (lost["cycle"] > 2) | (lost["arm"] == "high") & (lost["cycle"] > 1))]
    summary = summarise(under_way, study)
    assert {arm for arm, _ in summary.ended} == {"low"}
    said = notes(summary)
    assert (
        "low: nothing after cycle 2 of 3 in seeds 0, 1, 2, 3, 4 (ended early: every candidate diverged or failed)."
        in said
    )
    assert "high: nothing after cycle 1 of 3 in seeds 0, 1, 2, 3, 4 (still to come)." in said


def test_an_oracle_that_follows_an_arm_that_ended_has_ended() -> None:
    study = make_study({name: ARMS[name] for name in ("silo", "oracle-at-silo")}, cycles=4)
    lost = make_frame(study, spoil=lambda row: diverged() if (row["arm"], row["cycle"]) == ("silo", 2) else {})
    summary = summarise(lost[~(lost["cycle"] > 2)], study)
    assert {arm for arm, _ in summary.ended} == {"silo", "oracle-at-silo"}


def test_chains_that_collapsed_stand_beside_what_is_said_of_the_typical_one() -> None:
    study = make_study(cycles=4)
    lost = make_frame(study, spoil=lambda row: diverged() if (row["arm"], row["seed"]) == ("high", 1) else {})
    summary = summarise(lost, study)
    for answer in ("baselines", "shape"):
        assert "silo 5 of 5" in said_of(summary, answer)
        assert "high 4 of 5" in said_of(summary, answer)
