"""The report in a real browser: every figure visible, nothing fetched, nothing complained about."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.report import render
from tests.analysis.builder import Row, diverged, make_frame, make_study

CHROMIUM = shutil.which("chromium")


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
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH (Debian: apt install chromium)")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as play:
        running = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (375, "dark")])
def test_the_page_is_whole_at_any_width(browser: Any, url: str, width: int, scheme: str) -> None:
    complaints: list[str] = []
    requests: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(url)

    figures = page.locator("svg[role=img]")
    boxes = [figures.nth(i).bounding_box() for i in range(figures.count())]
    assert len(boxes) == 5
    assert all(box is not None and box["width"] > 200 and box["height"] > 100 for box in boxes)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    marks = "[...document.querySelectorAll('svg path, svg text')]"
    drawn = page.evaluate(f"{marks}.filter(mark => mark.getBBox().width > 0).length")
    assert drawn > 200
    page.get_by_text("The study, with every default").click()
    assert page.get_by_text("[replicates]").is_visible()
    assert complaints == []
    assert requests == [url]
    page.close()
