from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pandas as pd
import pytest

from analysis import report
from analysis.plots import axes
from analysis.report import CAPTIONS, inline_svg, render
from analysis.summary import summarise
from analysis.text_tables import trouble_table
from tests.analysis.builder import Row, diverged, failed, make_frame, make_study
from tests.analysis.degenerate import CASES

LEDGER = {
    "created": "2026-01-02T03:04:05+0000",
    "environment": {"python": "3.11.2", "torch": "2.6.0"},
    "changes": [{"at": "2026-01-03T00:00:00+0000", "keys": ["replicates.seeds"]}],
}
HOSTILE = '<script>alert("x")</script>'


class Page(HTMLParser):
    """Collects what the checks below ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.ids += [value for value in [values.get("id")] if value]
        self.links += [value for name in ("href", "src", "xlink:href") if (value := values.get(name))]
        if values.get("role") == "img":
            self.images.append(values)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    study = make_study(title="SILO on the digits")
    return render(make_frame(study), study, LEDGER)


@pytest.fixture(scope="module")
def page(files: dict[str, bytes]) -> Page:
    return Page(files["report.html"].decode())


def test_every_file_is_there(files: dict[str, bytes]) -> None:
    for name in CAPTIONS:
        assert files[f"figures/{name}.png"].startswith(b"\x89PNG")
        assert ElementTree.fromstring(files[f"figures/{name}.svg"]).tag.endswith("svg")
    tables = {name for name in files if name.startswith("tables/")}
    assert {"tables/cycles.csv", "tables/cost.csv", "tables/verdicts.csv", "tables/response-curves.csv"} <= tables


def test_tables_are_read_back(files: dict[str, bytes]) -> None:
    import io

    cycles = pd.read_csv(io.BytesIO(files["tables/cycles.csv"]))
    assert cycles["cycle"].tolist() == list(range(1, 9))
    assert cycles["max_lr"].between(0.03, 0.07).all()


def test_the_page_stands_alone(page: Page) -> None:
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert "img" not in page.tags
    assert all(link.startswith("#") for link in page.links)


def test_ids_are_unique_and_references_resolve(files: dict[str, bytes], page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    text = files["report.html"].decode()
    wanted = set(re.findall(r"url\(#([^)]+)\)", text)) | {link[1:] for link in page.links}
    assert wanted
    assert wanted <= set(page.ids)


def test_every_figure_has_a_text_for_those_who_do_not_see_it(page: Page) -> None:
    assert [image["id"] for image in page.images] == [f"fig-{name}" for name in CAPTIONS]
    assert all(len(image["aria-label"] or "") > 40 for image in page.images)


def test_the_page_says_what_the_run_was(files: dict[str, bytes]) -> None:
    text = files["report.html"].decode()
    for said in ("SILO on the digits", "Not equally tuned", "3.11.2", "replicates.seeds", "val_share", "0, 1, 2, 3, 4"):
        assert said in text


def test_the_same_run_gives_the_same_bytes(files: dict[str, bytes]) -> None:
    study = make_study(title="SILO on the digits")
    assert render(make_frame(study), study, LEDGER) == files


@pytest.mark.parametrize("case", CASES)
def test_a_run_with_something_missing_still_has_a_report(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save = axes.image_bytes
    monkeypatch.setattr(axes, "image_bytes", lambda *what: save(*what) if what[1] == "svg" else b"")  # half the time
    files = render(*CASES[case](), {})
    page = Page(files["report.html"].decode())
    text = files["report.html"].decode()
    assert page.tags.count("html") == 1
    assert len(page.ids) == len(set(page.ids))
    shown = re.sub(r"<(style|svg).*?</\1>", "", text, flags=re.DOTALL)
    assert not re.search(r"\bnan\b|&lt;NA&gt;|>None<", shown)


def test_strings_of_the_study_and_the_data_are_escaped() -> None:
    def spoil(row: Row) -> Row:
        return failed(HOSTILE) if row["max_lr"] > 0.9 else diverged(HOSTILE) if row["max_lr"] > 0.4 else {}

    study = make_study(seeds=1, cycles=2, title=HOSTILE)
    ledger = {
        "created": HOSTILE,
        "environment": {HOSTILE: HOSTILE},
        "changes": [{"at": HOSTILE, "keys": [HOSTILE]}],
    }
    text = render(make_frame(study, spoil=spoil), study, ledger)["report.html"].decode()
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 8


def test_an_alt_text_is_escaped() -> None:
    svg = '<?xml version="1.0"?><svg width="1pt" height="2pt" viewBox="0 0 1 2"><g id="a"/></svg>'
    made = inline_svg(svg, "f", '"><script>')
    assert "<script>" not in made
    assert 'id="fig-f-a"' in made
    assert "width=" not in made


def test_many_troubles_are_cut_short_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "save_figures", lambda frame, summary: {})

    monkeypatch.setattr(report, "_MOST_TROUBLES", 1)
    text = render(*CASES["high-rates-diverge"](), {})["report.html"].decode()
    assert re.search(r"\d+ more in <code>tables/diverged-and-failed.csv", text)


def test_troubles_of_one_kind_share_a_line() -> None:
    frame, study = CASES["high-rates-diverge"]()
    rows = trouble_table(summarise(frame, study)).rows
    assert ("oracle", "1", "diverged", "15", "1, 2, 3", "0, 1, 2, 3, 4", "the loss is not finite") in rows
    assert sum(int(row[3]) for row in rows) == int(frame["status"].isin(["diverged", "failed"]).sum())


def test_of_many_reasons_the_first_is_shown() -> None:
    frame, study = CASES["high-rates-diverge"]()
    numbered = frame.copy()
    numbered["error"] = numbered["error"].where(numbered["error"].isna(), "reason " + numbered["key"])
    reasons = [row[-1] for row in trouble_table(summarise(numbered, study)).rows]
    assert any(re.fullmatch(r"reason [0-9a-f]+ \(and 14 more\)", reason) for reason in reasons)
