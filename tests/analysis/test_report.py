from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from silo_analysis.answers.facts import facts
from silo_analysis.answers.text_tables import trouble_table, verdict_table
from silo_analysis.estimates.oracle import oracle_cycles
from silo_analysis.estimates.summary import summarise
from silo_analysis.figures import draw_fit as fit
from silo_analysis.figures import draw_response as response_plot
from silo_analysis.figures import palette
from silo_analysis.report import inline
from silo_analysis.report import page as report
from silo_analysis.report.inline import csv_link, inline_svg
from silo_analysis.report.outline import contents, with_anchors
from silo_analysis.report.page import CAPTIONS, render
from silo_tune.study.data import Data
from silo_tune.study.study_file import parse_study
from tests.analysis.builder import Row, diverged, failed, make_frame, make_study
from tests.analysis.degenerate import CASES

# Every figure but that of searches, which this run has none of.
FIGURES = sorted(set(CAPTIONS) - {"tuning-curve", "scores"})  # "accuracy" is the name of its figure of scores
PAGES = {"no-rows", "no-oracle", "everything-diverged", "under-way"}  # of degenerate runs, in every run of the tests
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
    for name in FIGURES:
        assert files[f"figures/{name}.png"].startswith(b"\x89PNG")
        assert ElementTree.fromstring(files[f"figures/{name}.svg"]).tag.endswith("svg")
        assert len(read_csv(files[f"figures/{name}.csv"])) > 0
    tables = {name for name in files if name.startswith("tables/")}
    assert {"tables/cycles.csv", "tables/cost.csv", "tables/verdicts.csv", "tables/response-curves.csv"} <= tables
    assert {"tables/cycles.md", "tables/cycles.tex", "tables/cost.md", "tables/verdicts.tex"} <= tables


def test_a_pdf_holds_its_fonts_and_no_date(files: dict[str, bytes]) -> None:
    for name in FIGURES:
        pdf = files[f"figures/{name}.pdf"]
        assert pdf.startswith(b"%PDF")
        assert b"/FontFile2" in pdf
        assert b"/CIDFontType2" in pdf
        assert b"/Type3" not in pdf
        assert b"CreationDate" not in pdf


def read_csv(data: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(data))


def test_tables_are_read_back(files: dict[str, bytes]) -> None:
    cycles = read_csv(files["tables/cycles.csv"])
    assert cycles["cycle"].tolist() == list(range(1, 9))
    assert cycles["max_lr"].between(0.03, 0.07).all()


def test_the_page_stands_alone(page: Page) -> None:
    assert "link" not in page.tags
    assert "img" not in page.tags
    assert "iframe" not in page.tags
    assert all(link.startswith(("#", "data:text/csv;charset=utf-8,", "data:image/png;base64,")) for link in page.links)


def test_only_its_own_script_may_run(files: dict[str, bytes], page: Page) -> None:
    text = files["report.html"].decode()
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    assert page.tags.count("script") == len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert f"script-src 'sha256-{digest}';" in policy[1]
    assert "unsafe-eval" not in policy[1]
    assert not re.search(r"\son[a-z]+=", re.sub(r"<(svg|script).*?</\1>", "", text, flags=re.DOTALL))


def test_ids_are_unique_and_references_resolve(files: dict[str, bytes], page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    text = files["report.html"].decode()
    within = {link[1:] for link in page.links if link.startswith("#")}
    wanted = set(re.findall(r"url\(#([^)]+)\)", text)) | within
    assert wanted
    assert wanted <= set(page.ids)


def test_every_figure_has_a_text_for_those_who_do_not_see_it(page: Page) -> None:
    assert sorted(str(image["id"]) for image in page.images) == sorted(f"fig-{name}" for name in FIGURES)
    assert all(len(image["aria-label"] or "") > 40 for image in page.images)


def test_the_page_says_what_the_run_was(files: dict[str, bytes]) -> None:
    text = files["report.html"].decode()
    for said in ("SILO on the digits", "Not equally tuned", "3.11.2", "replicates.seeds", "val_share", "0, 1, 2, 3, 4"):
        assert said in text


def test_facts_count_units_rows_and_time() -> None:
    frame, study = CASES["one-seed"]()
    own = frame.drop_duplicates("key")
    said = dict(facts(summarise(frame, study), frame, LEDGER))
    assert said["Trials"] == f"{len(own)} distinct, in {len(frame)} rows"
    total = own["train_seconds"].sum()
    assert said["Training time"].startswith(f"{total / 60:.1f} min")
    assert said["Environment"] == "python 3.11.2, torch 2.6.0"
    assert said["Trained by"] == "silo-tune 0.1.0"


def test_a_data_set_that_is_read_from_a_path_is_told_with_it() -> None:
    frame, study = CASES["one-seed"]()
    for data, told in (
        ({"name": "digits"}, "digits"),
        ({"name": "fashion-mnist", "path": "here"}, "fashion-mnist"),
        ({"name": "folder", "path": "birds"}, "folder (birds)"),
    ):
        named = study.model_copy(update={"data": Data.model_validate(data)})
        assert dict(facts(summarise(frame, named), frame, {}))["Model and data"] == f"lenet-300-100, {told}"


@pytest.mark.parametrize(
    ("ledger", "told"),
    [
        ({"clock_seconds": 150.0}, "2.5 min by the clock"),
        ({"runs": [{"name": "a", "clock_seconds": 60}]}, "60 s by the clock"),
        (
            {"runs": [{"name": "a", "clock_seconds": 3600.0}, {"name": "b", "clock_seconds": 4500.0}]},
            "2.2 h by the clock, added up over 2 runs",
        ),
        ({"runs": [{"name": "a", "clock_seconds": 60.0}, {"name": "b"}]}, "not recorded"),
        ({"clock_seconds": "long"}, "not recorded"),
        ({}, "not recorded"),
    ],
)
def test_the_duration_is_that_of_the_drivers_or_is_not_told(ledger: dict[str, Any], told: str) -> None:
    frame, study = CASES["one-seed"]()
    assert dict(facts(summarise(frame, study), frame, ledger))["Duration"] == told


def test_facts_of_nothing_are_dashes() -> None:
    frame, study = CASES["no-rows"]()
    said = dict(facts(summarise(frame, study), frame, {}))
    assert said["Trials"] == "0 distinct, in 0 rows"
    assert said["Training time"] == "–"
    assert "Environment" not in said
    assert "Trained by" not in said


def test_the_same_run_gives_the_same_bytes(files: dict[str, bytes]) -> None:
    study = make_study(title="SILO on the digits")
    assert render(make_frame(study), study, LEDGER) == files


# Answers and tables of every case are in test_summary and test_questions; whole pages of the rest are slow.
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in PAGES else pytest.mark.slow) for case in CASES]
)
def test_a_run_with_something_missing_still_has_a_report(case: str, only_svg: None) -> None:
    files = render(*CASES[case](), {})
    page = Page(files["report.html"].decode())
    text = files["report.html"].decode()
    assert page.tags.count("html") == 1
    assert len(page.ids) == len(set(page.ids))
    shown = re.sub(r"<(style|svg).*?</\1>", "", text, flags=re.DOTALL)
    assert not re.search(r"\bnan\b|&lt;NA&gt;|>None<", shown)


def test_strings_of_the_study_and_the_data_are_escaped(only_svg: None) -> None:
    def spoil(row: Row) -> Row:
        return failed(HOSTILE) if row["max_lr"] > 0.9 else diverged(HOSTILE) if row["max_lr"] > 0.4 else {}

    study = make_study(seeds=1, cycles=2, title=HOSTILE)
    ledger = {
        "created": HOSTILE,
        "environment": {HOSTILE: HOSTILE},
        "changes": [{"at": HOSTILE, "keys": [HOSTILE]}],
    }
    text = render(make_frame(study, spoil=spoil), study, ledger)["report.html"].decode()
    assert text.count("<script") == 1  # the page's own
    assert text.count("&lt;script&gt;") >= 8


def test_an_alt_text_is_escaped() -> None:
    svg = '<?xml version="1.0"?><svg width="1pt" height="2pt" viewBox="0 0 1 2"><g id="a"/></svg>'
    made = inline_svg(svg, "f", '"><script>')
    assert "<script>" not in made
    assert 'id="fig-f-a"' in made
    assert "width=" not in made


def test_many_troubles_are_cut_short_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "save_figures", lambda *_, **options: {})

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


# --- parts of the page ---


def test_text_that_looks_like_an_attribute_is_left_alone() -> None:
    said = 'id="a" fill: #0072b2 url(#b)'
    svg = f'<svg width="1pt"><g id="a" style="fill: #0072b2"><text>{said}</text><use href="#a"/></g></svg>'
    made = inline_svg(svg, "f", "alt")
    assert f"<text>{said}</text>" in made
    assert '<g id="fig-f-a" style="fill: var(--c0072b2,#0072b2)">' in made
    assert 'href="#fig-f-a"' in made


def test_every_colour_has_a_twin_for_dark_screens() -> None:
    style = (Path(report.__file__).parent / "templates" / "style.css").read_text()
    dark = dict(re.findall(r"--c([0-9a-f]{6}): #([0-9a-f]{6})", style))
    card = re.search(r"--cffffff: (#[0-9a-f]{6})", style)
    assert card is not None
    sources = [Path(palette.__file__), Path(fit.__file__)]
    used = {color.lower() for file in sources for color in re.findall(r"#([0-9A-Fa-f]{6})\b", file.read_text())}
    assert used | {"ffffff"} == set(dark)
    for light in [*palette._OTHERS, *palette._GREEDY, *palette._CONDITIONED, palette._SCHEDULE, palette.INK]:
        assert contrast(f"#{dark[light[1:].lower()]}", card[1]) > 4.5
    arms = [dark[color[1:].lower()] for color in (palette._SCHEDULE, *palette._OTHERS, *palette._GREEDY)]
    assert len(set(arms)) == len(arms)


def contrast(first: str, second: str) -> float:
    """Ratio of luminances, as WCAG 2 defines it."""

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_contents_follow_the_headings() -> None:
    body = '<h2 id="a">A &amp; b</h2><h3 id="b">B</h3><h3>no id</h3><h2 id="c">C</h2><p>&lt;h2 id="x"&gt;</p>'
    found = [(entry.id, str(entry.title), [part.id for part in entry.parts]) for entry in contents(body)]
    assert found == [("a", "A &amp; b", ["b"]), ("c", "C", [])]
    assert str(with_anchors(body)).count('class="anchor"') == 3


def test_a_link_to_data_gives_the_same_bytes() -> None:
    data = b'a,"b ""c"" <script> %41 #\n' + "é−\n".encode()
    link = csv_link(data)
    assert link is not None
    assert not set(link) & set("<>\"' #\n")
    assert unquote_to_bytes(link.split(",", 1)[1]) == data


def test_data_too_long_for_a_page_is_only_named(only_svg: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline, "MOST_INLINE", 100)
    assert csv_link(b"1,2\n" * 50) is None
    text = render(*CASES["one-seed"](), {})["report.html"].decode()
    assert "data:text/csv" not in text
    assert "Data, too long for this page: <code>figures/response.csv</code>" in text


def test_the_numbers_of_a_figure(files: dict[str, bytes]) -> None:
    band = read_csv(files["figures/max-lr.csv"])
    assert band["cycle"].tolist() == list(range(1, 9))
    assert band["max_lr_low"].tolist() == pytest.approx([0.03] * 8)
    response = read_csv(files["figures/response.csv"])
    seeds = [f"val_seed_{seed}" for seed in range(5)]
    assert response["val_mean"].tolist() == pytest.approx(response[seeds].mean(axis=1).tolist())
    cost = read_csv(files["figures/cost.csv"]).set_index("arm")
    assert cost.loc["silo", "units"] == 45
    regret = read_csv(files["figures/regret.csv"])
    assert regret.groupby("measure").size().to_dict() == {"chain gap": 40, "cycle regret": 40}


def test_many_seeds_make_bands_of_dots(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, study = CASES["two-cycles"]()
    groups, summary = oracle_cycles(frame, study), summarise(frame, study)

    def legend() -> set[str]:
        figure = response_plot.response_figure(groups, summary)
        assert figure is not None
        return {text.get_text() for box in figure.legends for text in box.get_texts()}

    assert "one seed" in legend()
    assert "one standard deviation" not in legend()
    monkeypatch.setattr(response_plot, "MOST_DOTS", 3)
    assert "one seed" not in legend()
    assert "one standard deviation" in legend()


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_rate_that_all_seeds_but_one_lost_has_no_band_and_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, study = CASES["two-cycles"]()
    groups, summary = oracle_cycles(frame, study), summarise(frame, study)
    for where, group in groups.items():
        lost = np.array(group.collapsed)
        lost[1:, 0] = True
        groups[where] = replace(group, collapsed=lost)
    monkeypatch.setattr(response_plot, "MOST_DOTS", 3)
    assert response_plot.response_figure(groups, summary) is not None


def test_a_crowd_of_arms_has_a_row_each() -> None:
    frame, study = CASES["many-arms"]()
    summary = summarise(frame, study)
    tested = verdict_table(summary)
    assert tested.head == ("Arm", "Cycle 1", "Cycle 2", "Cycle 3")
    assert {row[0] for row in tested.rows} == set(study.tests_of("oracle-at-silo"))
    assert all("inside" in row[1] or "outside" in row[1] or row[1] == "undetermined" for row in tested.rows)


def test_hostile_words_stay_words(only_svg: None, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "]]></style></script>{{7*7}}{% raw %}'\"><img src=x onerror=alert(1)>é漢" + "x" * 300
    model = {"function": "package.module:name", "version": "1", "args": {hostile: hostile}}
    study = make_study(seeds=1, cycles=2, title=hostile)
    raw = study.model_dump(mode="json", exclude_none=True) | {"model": model}
    hostile_study = parse_study(raw)
    ledger = {"created": hostile, "environment": {hostile: hostile}, "changes": [{"at": hostile, "keys": [hostile]}]}

    def spoil(row: Row) -> Row:
        return failed(hostile) if row["max_lr"] > 0.4 else {"device": hostile, "version": hostile}

    made = render(make_frame(hostile_study, spoil=spoil), hostile_study, ledger)
    text = made["report.html"].decode()
    for raw_text in ("<img", "{{7*7}}<", "]]></style>"):
        assert raw_text not in text
    assert text.count("</style>") == 1 + text.count('<style type="text/css">')
    assert text.count("</script>") == 1
    assert "49" not in re.findall(r"<title>(.*?)</title>", text)[0]
    assert hostile.replace("|", "\\|")[:4] not in made["tables/diverged-and-failed.tex"].decode()
    assert "<img" not in made["tables/diverged-and-failed.md"].decode()
