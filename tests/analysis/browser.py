"""A real browser for the report's page, and what a whole page looks like to it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote_to_bytes

import pandas as pd
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


@contextmanager
def open_page(browser: Any, url: str, width: int = 1280, scheme: str = "light", folded: bool = False) -> Iterator[Any]:
    """The page in a window; when it closes: no complaint on the console, no request but for the page itself."""
    complaints: list[str] = []
    requests: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(url)
    if not folded:
        page.evaluate("for (const part of document.querySelectorAll('main details.fold')) part.open = true")
    yield page
    assert complaints == []
    assert {request.partition("#")[0] for request in requests} == {url}
    page.close()


def check_page(browser: Any, url: str, width: int = 1280, scheme: str = "light", *, figures: int) -> None:
    """Every figure visible, nothing wider than the window, no complaint on the console, no request but the page."""
    with open_page(browser, url, width, scheme) as page:
        check_figures(page, figures)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.get_by_text("The study, with every default").click()
        assert page.locator("pre.study").is_visible()


def check_figures(page: Any, figures: int) -> None:
    """So many figures, each with a size and something drawn in it."""
    drawn = page.locator("svg[role=img]")
    boxes = [drawn.nth(i).bounding_box() for i in range(drawn.count())]
    assert len(boxes) == figures
    assert all(box is not None and box["width"] > 200 and box["height"] > 100 for box in boxes)
    marks = "[...document.querySelectorAll('svg path, svg text')]"
    assert page.evaluate(f"{marks}.filter(mark => mark.getBBox().width > 0).length") > 40 * figures


def follow_contents(page: Any) -> list[str]:
    """Click every link of the contents that is shown; each must lead to a heading in the window."""
    narrow = page.locator("nav.within summary")
    links = page.locator("nav.within a" if narrow.is_visible() else "nav.aside a")
    followed = []
    for i in range(links.count()):
        if narrow.is_visible():
            narrow.click()
        links.nth(i).click()
        target = links.nth(i).get_attribute("href").removeprefix("#")
        assert page.evaluate("location.hash") == f"#{target}"
        seen = page.evaluate(
            """id => { const box = document.getElementById(id).getBoundingClientRect();
            return box.height > 5 && box.top >= -1 && box.bottom <= innerHeight; }""",
            target,
        )
        assert seen, target
        followed.append(target)
    return followed


def column(page: Any, label: str, head: str) -> list[str]:
    """The texts of a column, from above."""
    table = page.get_by_role("region", name=label, exact=True).locator("table")
    heads = [text.strip() for text in table.locator("thead th").all_text_contents()]
    place = heads.index(head) + 1
    return [text.strip() for text in table.locator(f"tbody tr > :nth-child({place})").all_text_contents()]


def linked_data(page: Any) -> dict[str, pd.DataFrame]:
    """The tables behind the figures, by the name under which the browser saves them."""
    links = page.locator("figure a[download]")
    found = {}
    for i in range(links.count()):
        content = unquote_to_bytes(links.nth(i).get_attribute("href").partition(",")[2])
        found[links.nth(i).get_attribute("download")] = pd.read_csv(io.BytesIO(content))
    return found
