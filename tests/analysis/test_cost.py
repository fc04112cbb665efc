from __future__ import annotations

import pytest

from silo_analysis.estimates.cost import STUDY, cost_table
from tests.analysis.builder import ARMS, Row, failed, make_frame, make_study


def test_distinct_units_count_once_per_arm_and_once_in_the_study() -> None:
    grid = {"low": 0.03, "high": 0.3, "points": 2}
    study = make_study(
        {"silo": ARMS["silo"], "oracle-at-silo": {**ARMS["oracle-at-silo"], "grid": grid}}, seeds=2, cycles=2
    )
    table = cost_table(make_frame(study), study).set_index("arm")
    # Per seed: silo trains dense and 0.03 at cycle 1; the Oracle uses both and adds 0.3.
    assert table["units"].to_dict() == {"silo": 4, "oracle-at-silo": 6, STUDY: 6}
    assert table["shared_units"].to_dict() == {"silo": 0, "oracle-at-silo": 4, STUDY: 0}
    assert table["train_seconds"].to_dict() == {"silo": 82.0, "oracle-at-silo": 124.0, STUDY: 124.0}
    assert table.loc["oracle-at-silo", "times_schedule"] == pytest.approx(1.5)
    assert table.loc["oracle-at-silo", "saved_by_schedule"] == pytest.approx(1 / 3)


def test_failed_units_are_counted_apart() -> None:
    def spoil(row: Row) -> Row:
        return failed() if row["max_lr"] > 0.9 else {}

    study = make_study({name: ARMS[name] for name in ("silo", "oracle")}, seeds=1, cycles=2)
    table = cost_table(make_frame(study, spoil=spoil), study).set_index("arm")
    assert table.loc["oracle", "failed"] == 1
    assert table.loc["oracle", "units"] == 8  # dense, 6 grid rates and silo's own value
    assert table.loc["oracle", "tested_units"] == 1  # which no search would train, so it is not saved
    assert table.loc["oracle", "times_schedule"] == 7 / 2


def test_without_the_judged_schedule_there_is_no_ratio() -> None:
    study = make_study({"low": ARMS["low"]}, seeds=1, cycles=2)
    table = cost_table(make_frame(study), study)
    assert table["times_schedule"].isna().all()
    assert table["saved_by_schedule"].isna().all()
