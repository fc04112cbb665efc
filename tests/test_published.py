"""Published numbers beside a run's own: read with their mistakes, kept by the run, drawn and part of no test."""

from __future__ import annotations

from pathlib import Path

import pytest

from silo_analysis.report.page import render
from silo_tune import run_study
from silo_tune.errors import BadInput
from silo_tune.results.records import read
from silo_tune.study.published import published
from tests.conftest import small_study

GOOD = "arm,weights_remaining,score,source\nSILO,0.2,0.91,Liu 2023\nLR-warmup,1,0.9,Liu 2023\n"


def written(folder: Path, text: str) -> str:
    path = folder / "others.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_rows_are_read(tmp_path: Path) -> None:
    assert published(written(tmp_path, "\ufeff" + GOOD)) == [
        {"arm": "SILO", "weights_remaining": 0.2, "score": 0.91, "source": "Liu 2023"},
        {"arm": "LR-warmup", "weights_remaining": 1.0, "score": 0.9, "source": "Liu 2023"},
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("arm,score\nSILO,0.9\n", "lacks weights_remaining, source"),
        ("", "lacks arm, weights_remaining, score, source"),
        (
            "arm,weights_remaining,score,source\nSILO,20,91,Liu\n,0.2,nan,\n",
            "line 2: weights_remaining '20' is no share of 1; line 2: score '91' is no share of 1; line 3: no arm; "
            "line 3: no source; line 3: score 'nan' is no share of 1",
        ),
    ],
)
def test_all_mistakes_are_told_at_once(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput) as error:
        published(written(tmp_path, text))
    assert said in str(error.value)
    assert "report.published" in str(error.value)


@pytest.mark.slow
def test_a_run_keeps_them_and_its_report_shows_them(tmp_path: Path) -> None:
    study = small_study(report={"tolerance": 0.05, "published": written(tmp_path, GOOD)})
    run_study(study, str(tmp_path / "run"), local=True)
    Path(tmp_path, "others.csv").unlink()
    found = read(str(tmp_path / "run"))
    page = render(found.frame, found.study, found.ledger)["report.html"].decode()
    assert "Liu 2023" in page
    assert "are part of no test" in page
    alone = render(found.frame, found.study, {**found.ledger, "published": []})
    assert "Liu 2023" not in alone["report.html"].decode()


def test_a_file_that_is_not_there_ends_the_run_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"report\.published: 'nowhere\.csv' cannot be read"):
        run_study(
            small_study(report={"tolerance": 0.05, "published": "nowhere.csv"}), str(tmp_path / "run"), local=True
        )
    assert not (tmp_path / "run" / "study.toml").exists()
