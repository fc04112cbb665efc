"""The report in a real browser: figures visible, tables that sort, links that lead somewhere, print; no request."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from silo_analysis.report.page import render
from tests.analysis.browser import (
    check_figures,
    check_page,
    column,
    follow_contents,
    linked_data,
    open_browser,
    open_page,
)
from tests.analysis.builder import ARMS, Row, diverged, make_frame, make_search, make_study

FIGURES, SEARCH_FIGURES = 10, 14
PAPER = "rgb(255, 255, 255)"
HOSTILE = "\"'></style></script><script>alert(1)</script>]]>{{ 7 * 7 }}é漢" + "x" * 200


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    def spoil(row: Row) -> Row:
        return diverged(HOSTILE) if row["max_lr"] > 0.9 and row["cycle"] > 5 else {}

    study = make_study(title=f"A title {HOSTILE}")
    ledger = {"environment": {"python": "3.11", "machine": HOSTILE}}
    return render(make_frame(study, spoil=spoil), study, ledger)


@pytest.fixture(scope="module")
def url(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_bytes(files["report.html"])
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from open_browser()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (375, "dark")])
def test_the_page_is_whole_at_any_width(browser: Any, url: str, width: int, scheme: str) -> None:
    check_page(browser, url, width, scheme, figures=FIGURES)


@pytest.mark.parametrize("width", [1400, pytest.param(375, marks=pytest.mark.slow)])
def test_the_contents_lead_to_every_section(browser: Any, url: str, width: int) -> None:
    with open_page(browser, url, width, folded=True) as page:
        followed = follow_contents(page)
        assert {"short", "cycles", "figures", "cost", "troubles", "how", "study"} <= set(followed)
        assert {"inside", "loses-and-saves", "baselines", "shape", "curve", "gradients"} <= set(followed)
        assert len(followed) == len(set(followed))
        headings = page.evaluate("[...document.querySelectorAll('h2')].map(h => h.id)")
        assert [id_ for id_ in followed if id_ in headings] == headings


def test_the_page_begins_with_five_verdicts_and_a_picture_and_folds_the_rest(browser: Any, url: str) -> None:
    with open_page(browser, url, folded=True) as page:
        assert page.locator(".short li").count() == 5
        assert page.locator("#short ~ figure svg").is_visible()
        assert not page.get_by_text("Cross-fitted cycle regret on test").first.is_visible()
        assert page.evaluate("document.documentElement.scrollHeight") < 5 * 800
        page.locator(".short a").nth(1).click()
        page.get_by_text("Cross-fitted cycle regret on test").first.wait_for(state="visible")


def test_a_heading_shows_the_link_to_itself(browser: Any, url: str) -> None:
    with open_page(browser, url) as page:
        heading = page.locator("h2#cost")
        anchor = heading.locator("a.anchor")
        assert anchor.evaluate("a => getComputedStyle(a).opacity") == "0"
        heading.hover()
        assert anchor.evaluate("a => getComputedStyle(a).opacity") == "1"
        anchor.click()
        assert page.url.endswith("#cost")


def test_a_table_sorts_by_a_click_and_by_the_keyboard(browser: Any, url: str) -> None:
    with open_page(browser, url) as page:
        region = page.get_by_role("region", name="Cycle regret and chain gap per cycle", exact=True)
        head = region.locator("thead th", has_text="Regret, test")
        told = column(page, region.get_attribute("aria-label"), "Regret, test")
        values = sorted(float(text.replace("−", "-")) for text in told)
        assert any(value < 0 for value in values)
        assert head.get_attribute("aria-sort") is None
        for order, expected in (("ascending", values), ("descending", values[::-1])):
            head.get_by_role("button").click()
            assert head.get_attribute("aria-sort") == order
            shown = column(page, region.get_attribute("aria-label"), "Regret, test")
            assert [float(text.replace("−", "-")) for text in shown] == expected
        cycle = region.locator("thead th", has_text="Cycle").first
        cycle.get_by_role("button").focus()
        page.keyboard.press("Enter")
        assert cycle.get_attribute("aria-sort") == "ascending"
        assert head.get_attribute("aria-sort") is None
        assert column(page, region.get_attribute("aria-label"), "Cycle") == [str(cycle) for cycle in range(1, 9)]


SORTED = {
    "numbers": (["10", "−2.5", "+3", "–", "0", "1e-05", "2,000"], ["−2.5", "0", "1e-05", "+3", "10", "2,000", "–"]),
    "bounds": (["0.1", "≥ 0.1", "≤ 0.1", "< 0.001", "–"], ["< 0.001", "≤ 0.1", "0.1", "≥ 0.1", "–"]),
    "intervals": (
        ["−0.3 to +0.2", "≤ 0.01 to 0.3", "−0.3 to −0.1", "–", "0.02 to ≥ 1"],
        ["−0.3 to −0.1", "−0.3 to +0.2", "≤ 0.01 to 0.3", "0.02 to ≥ 1", "–"],
    ),
    "durations": (["2.5 h", "90 s", "", "18.0 min"], ["90 s", "18.0 min", "2.5 h", ""]),
    "shares": (["16.8 %", "100 %", "9 %"], ["9 %", "16.8 %", "100 %"]),
    "counts": (["9 of 9 seeds", "2 of 9 seeds", "2 of 3 seeds"], ["2 of 3 seeds", "2 of 9 seeds", "9 of 9 seeds"]),
    "words": (["inside (0.2)", "–", "arm-10", "arm-9"], ["arm-9", "arm-10", "inside (0.2)", "–"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", SORTED)
def test_cells_are_ordered_by_what_they_mean(browser: Any, url: str, kind: str) -> None:
    told, expected = SORTED[kind]
    with open_page(browser, url) as page:
        sort = """([told, down]) => {
            const table = document.createElement("table");
            const body = table.createTBody();
            for (const text of told) body.insertRow().insertCell().textContent = text;
            sortBy(table, 0, down);
            return [...body.rows].map(row => row.cells[0].textContent);
        }"""
        assert page.evaluate(sort, [told, False]) == expected
        full = [text for text in expected if text not in ("–", "")]
        assert page.evaluate(sort, [told, True]) == full[::-1] + expected[len(full) :]


def test_print_shows_everything_that_is_folded(browser: Any, url: str) -> None:
    with open_page(browser, url, width=720, scheme="dark", folded=True) as page:
        page.emulate_media(media="print")
        check_figures(page, FIGURES)
        assert not page.locator("nav.within").is_visible()
        assert page.locator("pre.study").is_visible()
        assert page.get_by_text("figures/cost.pdf").last.is_visible()
        assert page.locator("main").evaluate("main => getComputedStyle(document.body).backgroundColor") == PAPER
        wide = "[...document.querySelectorAll('main *:not(svg *)')].filter(e => e.getBoundingClientRect().right > 721)"
        assert page.evaluate(f"{wide}.map(e => e.outerHTML.slice(0, 80))") == []
        page.emulate_media(media="screen")
        page.locator("pre.study").wait_for(state="hidden")


def test_the_links_to_data_hold_the_files(browser: Any, url: str, files: dict[str, bytes]) -> None:
    with open_page(browser, url) as page:
        data = linked_data(page)
        assert len(data) == FIGURES
        for name, table in data.items():
            assert table.equals(pd.read_csv(io.BytesIO(files[f"figures/{name}"])))
        with page.expect_download() as saved:
            page.locator("a[download='cost.csv']").click()
        assert Path(saved.value.path()).read_bytes() == files["figures/cost.csv"]


def test_on_a_dark_screen_figures_are_dark(browser: Any, url: str) -> None:
    fill = "svg => getComputedStyle(svg.querySelector('text')).fill"
    with open_page(browser, url, scheme="dark") as page:
        assert page.locator("#fig-accuracy").evaluate(fill) == "rgb(230, 233, 236)"
    with open_page(browser, url, scheme="light") as page:
        assert page.locator("#fig-accuracy").evaluate(fill) == "rgb(31, 35, 40)"


def test_without_scripts_the_page_reads_the_same(browser: Any, url: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(url)
    assert page.locator("svg[role=img]").count() == FIGURES
    assert page.locator("thead th").first.inner_text() != ""
    assert page.locator("thead button").count() == 0
    context.close()


def test_words_of_a_study_run_nothing(browser: Any, url: str) -> None:
    with open_page(browser, url) as page:
        assert page.locator("h1").inner_text() == f"A title {HOSTILE}"
        assert page.locator("script").count() == 1
        assert page.get_by_text("{{ 7 * 7 }}").count() >= 2


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
    check_page(browser, search_url, width, scheme, figures=SEARCH_FIGURES)
