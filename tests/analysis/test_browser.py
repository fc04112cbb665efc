"""The report in a real browser: every figure visible, nothing fetched, nothing complained about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.report import render
from tests.analysis.browser import check_page, open_browser
from tests.analysis.builder import ARMS, Row, diverged, make_frame, make_search, make_study


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    def spoil(row: Row) -> Row:
        return diverged() if row["max_lr"] > 0.9 and row["cycle"] > 5 else {}

    study = make_study(title="A title with an antidisestablishmentarianismantidisestablishmentarianism")
    files = render(make_frame(study, spoil=spoil), study, {"environment": {"python": "3.11"}})
    path: Path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_bytes(files["report.html"])
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from open_browser()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (375, "dark")])
def test_the_page_is_whole_at_any_width(browser: Any, url: str, width: int, scheme: str) -> None:
    check_page(browser, url, width, scheme)


@pytest.fixture(scope="module")
def search_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with a pilot and a search of the curve."""
    curve = {"mode": "tune", "trials": 16, "eps": [0.01, 0.1], "delta": [0.01, 0.1], "beta": [2.0, 8.0]}
    pilot = {"seeds": [100], "chains": 3, "low": 0.01, "high": 1.0}
    arms = {**ARMS, "silo": {"mode": "schedule", "schedule": {"name": "silo"}}, "curve": curve}
    study = make_study(arms, seeds=2, cycles=4, pilot=pilot)
    pairs = [{"eps": 0.01, "delta": delta} for delta in (0.0, 0.09, 0.99)]
    points = [
        {"eps": 0.01 * (1 + i % 4), "delta": 0.02 * (1 + i // 4), "beta": 2.0 + (i * 7 % 16) / 3} for i in range(16)
    ]
    piloted, first = make_search(study, "silo", "pilot", "silo", pairs, [100])
    tuned, second = make_search(
        study, "curve", "tune", "silo", points, [0, 1], stopped={5: 1}, importance={"eps": 0.8, "delta": 0.2}
    )
    frame = make_frame(study, found={"silo": {"eps": 0.03, "delta": 0.04}})
    files = render(pd.concat([frame, piloted, tuned]), study, {}, {"silo": first, "curve": second})
    path: Path = tmp_path_factory.mktemp("searches") / "report.html"
    path.write_bytes(files["report.html"])
    return path.as_uri()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (375, "light")])
def test_a_page_with_searches_is_whole(browser: Any, search_url: str, width: int, scheme: str) -> None:
    check_page(browser, search_url, width, scheme, figures=10)
