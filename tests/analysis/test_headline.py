"""The line at the head of a summary, and what its data cannot say."""

from __future__ import annotations

import re

from silo_analysis.answers.headline import headline, unsettled
from silo_analysis.answers.terminal import summary_lines
from silo_analysis.estimates.summary import summarise
from tests.analysis.builder import flat, make_frame, make_study


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
