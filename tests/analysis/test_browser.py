"""The report in a real browser: every figure visible, nothing fetched, nothing complained about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.report import render
from tests.analysis.browser import check_page, open_browser
from tests.analysis.builder import Row, diverged, make_frame, make_study


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
