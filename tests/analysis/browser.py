"""A real browser for the report's page, and what a whole page looks like to it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")


def open_browser() -> Iterator[Any]:
    """Headless Chromium; skips where there is none."""
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH (Debian: apt install chromium)")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as play:
        running = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


def check_page(browser: Any, url: str, width: int = 1280, scheme: str = "light", figures: int = 7) -> None:
    """Every figure visible, nothing wider than the window, no complaint on the console, no request but the page."""
    complaints: list[str] = []
    requests: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(url)

    drawn = page.locator("svg[role=img]")
    boxes = [drawn.nth(i).bounding_box() for i in range(drawn.count())]
    assert len(boxes) == figures
    assert all(box is not None and box["width"] > 200 and box["height"] > 100 for box in boxes)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    marks = "[...document.querySelectorAll('svg path, svg text')]"
    assert page.evaluate(f"{marks}.filter(mark => mark.getBBox().width > 0).length") > 40 * figures
    page.get_by_text("The study, with every default").click()
    assert page.get_by_text("[replicates]").is_visible()
    assert complaints == []
    assert requests == [url]
    page.close()
