"""Searches in the report: their rows change nothing but cost and failures; points, savings and words are right."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from silo_analysis.answers.effort import STANDINGS, savings_sentence
from silo_analysis.answers.missing import no_examples, notes
from silo_analysis.answers.text_tables import search_table, trouble_table
from silo_analysis.estimates import frames as columns
from silo_analysis.estimates.cost import STUDY, cost_table
from silo_analysis.estimates.summary import Summary, summarise
from silo_analysis.estimates.tuning import at_edge, by_merit, fragment, ordinary, points_table, savings, tuning_of
from silo_analysis.figures import axes as plot_axes
from silo_analysis.figures.draw_search import contours_figure, slices_figure, triangulation
from silo_analysis.report import page as report
from silo_analysis.report.page import render, tables
from silo_tune.results.searches import SearchRecord
from silo_tune.schedules.peaks import Schedule
from silo_tune.study.arms import ScheduleArm
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study
from tests.analysis.asking import asked, said_of
from tests.analysis.builder import ARMS, Row, diverged, make_frame, make_search, make_study

pytestmark = pytest.mark.usefixtures("only_svg")

PILOT = {"seeds": [100, 101], "chains": 3, "low": 0.01, "high": 1.0}
OPEN = {
    "silo": {"mode": "schedule", "schedule": {"name": "silo"}},
    "flat": {"mode": "schedule", "schedule": {"name": "constant"}},
}
FOUND = {"silo": {"eps": 0.03, "delta": 0.04}, "flat": {"max_lr": 0.1}, "low": {"max_lr": 0.03}}
PAIRS = [{"lowest": 0.01, "highest": 0.01}, {"lowest": 0.01, "highest": 1.0}, {"lowest": 1.0, "highest": 1.0}]
CURVE = {
    "mode": "tune", "trials": 4, "eps": [0.01, 0.1], "delta": [0.0, 0.1], "beta": 5.0, "q": [0, 2], "rungs": [1],
    "epochs": 2,
}  # fmt: skip
POINTS = [
    {"eps": 0.03, "delta": 0.04, "beta": 5.0, "q": 1},
    {"eps": 0.03, "delta": 0.04, "beta": 5.0, "q": 1},
    {"eps": 0.1, "delta": 0.0, "beta": 5.0, "q": 0},
    {"eps": 0.01, "delta": 0.1, "beta": 5.0, "q": 2},
]

Run = tuple[pd.DataFrame, Study, dict[str, SearchRecord]]


def silo_at(pair: Mapping[str, float]) -> dict[str, float]:
    return {"eps": pair["lowest"], "delta": pair["highest"] - pair["lowest"]}


def run(arms: Mapping[str, Any], cycles: int = 4, seeds: int = 5) -> Run:
    """A run with pilots of silo and flat and, where it is among the arms, a search of the curve."""
    study = make_study(arms, seeds=seeds, cycles=cycles, pilot=PILOT)
    searches, frames = {}, [make_frame(study, found=FOUND)]
    for arm, schedule, params in (
        ("silo", "silo", [silo_at(pair) for pair in PAIRS]),
        ("flat", "constant", [{"max_lr": rate} for rate in (0.01, 0.1, 1.0)]),
    ):
        rows, searches[arm] = make_search(study, arm, "pilot", schedule, params, PILOT["seeds"])  # type: ignore[arg-type]
        frames.append(rows)
    if "curve" in arms:
        share = {"eps": 0.7, "delta": 0.2, "q": 0.1}
        rows, searches["curve"] = make_search(
            study, "curve", "tune", "silo", POINTS, [0, 1], stopped={3: 1}, importance=share, counted=(2, 3)
        )
        frames.append(rows)
    return pd.concat(frames, ignore_index=True), study, searches


@cache
def full() -> Run:
    return run(
        {**OPEN, "low": ARMS["low"], "curve": CURVE, **{name: ARMS[name] for name in ("oracle", "oracle-at-silo")}}
    )


@cache
def summary() -> Summary:
    return summarise(*full())


@cache
def files() -> dict[str, bytes]:
    frame, study, searches = full()
    return render(frame, study, {}, searches)


@cache
def without() -> dict[str, bytes]:
    """The same run without its searches."""
    frame, study, _ = full()
    return render(ordinary(frame), study, {})


@pytest.fixture(autouse=True, scope="module")
def _one_kind_of_figure() -> Iterator[None]:
    """No PNG is drawn: half the time."""
    save = plot_axes.image_bytes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plot_axes, "image_bytes", lambda *what: save(*what) if what[1] == "svg" else b"")
        yield


def page() -> str:
    return files()["report.html"].decode()


# --- rows of searches change nothing but cost and failures ---


def test_no_table_but_cost_and_failures_sees_the_rows_of_searches() -> None:
    frame, study, _ = full()
    without = summarise(ordinary(frame), study)
    for name, table in tables(without).items():
        if name not in ("cost", "searches", "tuning-curve", "diverged-and-failed"):
            pd.testing.assert_frame_equal(table, tables(summary())[name], obj=name)
    assert without.endpoint == summary().endpoint
    assert without.reached == summary().reached
    assert without.seeds == summary().seeds == (0, 1, 2, 3, 4)
    assert notes(without) == notes(summary())
    assert no_examples() in notes(summary())
    assert not without.cost["units"].equals(summary().cost["units"])


def test_no_figure_but_cost_sees_the_rows_of_searches() -> None:
    figures = {name for name in without() if name.endswith(".svg")}
    assert len(figures) >= 6
    for name in figures - {"figures/cost.svg"}:
        assert without()[name] == files()[name], name
    assert without()["figures/cost.svg"] != files()["figures/cost.svg"]


def test_failures_of_searches_are_listed_apart() -> None:
    frame, study, _ = full()
    spoiled = frame.copy()
    pilot = (spoiled["mode"] == "pilot") & (spoiled["max_lr"] > 0.9) & (spoiled["cycle"] == 1)
    for name, cell in diverged().items():
        spoiled.loc[pilot, name] = cell
    found = summarise(spoiled, study)
    assert len(found.troubles) == int(pilot.sum()) == 4
    assert found.troubles["trial"].notna().all()
    assert {row[0] for row in trouble_table(found).rows} == {"silo (pilot)", "flat (pilot)"}
    assert [note for note in notes(found) if "diverged" in note] == [
        "4 rows of searches diverged or failed: a diverged one counts as guessing there."
    ]


def test_a_run_that_has_only_searches_says_so() -> None:
    frame, study, searches = full()
    found = summarise(frame[frame["trial"].notna()], study, searches)
    assert "Only searches have results yet." in notes(found)
    render(frame[frame["trial"].notna()], study, {}, searches)


# --- cost ---


def test_pilots_count_in_the_cost_of_their_arm() -> None:
    study = make_study(OPEN, seeds=1, cycles=2, pilot=PILOT)
    # Per pilot seed: the dense unit and three rates; per report seed: the dense unit and one rate. No seed is shared.
    rows, _ = make_search(
        study, "flat", "pilot", "constant", [{"max_lr": rate} for rate in (0.01, 0.1, 1.0)], [100, 101]
    )
    table = cost_table(pd.concat([make_frame(study, found=FOUND), rows]), study).set_index("arm")
    assert table["units"].to_dict() == {"silo": 2, "flat": 2 + 8, STUDY: 3 + 8}
    assert table["pilot_units"].to_dict() == {"silo": 0, "flat": 8, STUDY: 8}
    assert table.loc["flat", "times_schedule"] == pytest.approx(5.0)


def test_the_page_says_what_pilots_cost() -> None:
    pilots = {row["arm"]: row["pilot_units"] for row in summary().cost.to_dict("records")}["silo"]
    assert pilots > 0
    assert f"{pilots} of them for its pilot" in said_of(summary(), "loses-and-saves")
    assert "For pilots" in page()


# --- equal tuning ---


def said(arms: Mapping[str, Any], change: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame) -> str:
    """The sentence of a run whose table was changed; it agrees with the short word."""
    frame, study, searches = run(arms, cycles=2, seeds=1)
    found = summarise(change(frame), study, searches)
    answer = asked(found)["effort"]
    assert answer.verdict.lower().startswith(STANDINGS[found.tuning.standing])
    return answer.details[0]


def test_every_arm_with_the_same_number_is_equally_tuned() -> None:
    assert said(OPEN) == "Equally tuned: every schedule arm got 6 pilot chains on seeds 100, 101."
    assert said({**OPEN, "oracle": ARMS["oracle"], "curve": {**CURVE, "rungs": []}}).startswith("Equally tuned: every")


def test_an_extended_grid_is_said() -> None:
    def extend(frame: pd.DataFrame) -> pd.DataFrame:
        more = frame[(frame["arm"] == "flat") & (frame["trial"] == 2)].assign(trial=3)
        return pd.concat([frame, more])

    assert said(OPEN, extend).endswith("the best of flat lay on an edge of its grid, which was extended by 2 chains.")


def test_written_constants_are_not_tuned() -> None:
    sentence = said({**OPEN, "low": ARMS["low"], "high": ARMS["high"]})
    assert sentence == (
        "Not equally tuned: silo, flat got 6 pilot chains each on seeds 100, 101; "
        "not tuned, with constants that are written in the study: low, high."
    )


def test_a_control_with_the_ends_of_the_judged_curve_is_no_arm_of_its_own() -> None:
    low = {"mode": "schedule", "schedule": "constant", "ends": {"arm": "silo", "end": "low"}}
    assert said({**OPEN, "low": low}) == (
        "Equally tuned: silo, flat got 6 pilot chains each on seeds 100, 101; "
        "low takes the rates that the pilot of silo found."
    )


@pytest.mark.parametrize("lowest", [0.03, 0.01])
def test_a_pilot_that_finds_a_constant_says_so_as_a_finding_and_names_the_key(lowest: float) -> None:
    frame, study, searches = run(OPEN, cycles=3, seeds=5)
    points = tuple({**p, "params": {"lowest": lowest, "highest": 0.03}} for p in searches["silo"].points)
    args = {"name": "silo", "eps": lowest, "delta": 0.03 - lowest}
    found = summarise(frame, study, {**searches, "silo": replace(searches["silo"], points=points, args=args)})
    shape, effort = asked(found)["shape"], asked(found)["effort"]
    for text in (shape.missing or "", " ".join(effort.details)):
        assert ("found delta = 0: the constant 0.03 did as well as every rising pair" in text) == (lowest == 0.03)
        assert ("pilot.rise = true" in text) == (lowest == 0.03)


def test_pilots_under_way_promise_nothing() -> None:
    sentence = said(OPEN, lambda frame: frame[(frame["arm"] != "flat") | (frame["trial"] == 0)])
    assert sentence == (
        "Pilots under way: silo got 6 pilot chains on seeds 100, 101; flat has 2 of 6 pilot chains on seeds 100, 101."
    )


def test_without_pilots_nothing_is_tuned() -> None:
    study = make_study({"silo": ARMS["silo"]}, cycles=2)
    assert tuning_of(make_frame(study), study).standing == "none"
    assert "Not equally tuned: the study has no pilot" in said_of(summarise(make_frame(study), study), "effort")


# --- points ---


def test_the_points_table_holds_every_point() -> None:
    _, _, searches = full()
    table = points_table(searches)
    assert list(table.columns) == [*columns.POINTS, "param_eps", "param_delta", "param_max_lr", "param_beta", "param_q"]
    assert len(table) == 3 + 3 + 4
    assert table[table["best"]]["arm"].tolist() == ["silo", "flat", "curve"]
    assert table[table["arm"] == "flat"]["param_eps"].isna().all()
    assert table[table["stopped"].notna()]["trial"].tolist() == [3]
    assert list(points_table({}).columns) == list(columns.POINTS)


def test_the_best_point_stands_first_and_the_stopped_ones_last() -> None:
    search = full()[2]["curve"]
    order = [point["trial"] for point in by_merit(search)]
    assert order[0] == search.best
    assert order[-1] == 3
    rows = search_table(search, 20).rows
    assert (rows[0][-1], rows[-1][-1], rows[-1][-2]) == ("best", "stopped", "cycle 1")
    assert len(search_table(search, 2).rows) == 2


def test_a_pilot_whose_best_is_an_edge_says_so() -> None:
    _, study, searches = full()
    flat = searches["flat"]
    assert at_edge(replace(flat, best=1), study) == []
    assert at_edge(replace(flat, best=2), study) == ["max_lr"]
    assert at_edge(replace(flat, best=None), study) == []


def test_a_tuned_best_near_its_bounds_says_so_but_for_zero() -> None:
    _, study, searches = full()
    curve = searches["curve"]
    assert at_edge(replace(curve, best=2), study) == ["eps"]  # eps at 0.1; delta and q at 0, where nothing is below
    assert at_edge(replace(curve, best=0), study) == []


# --- the fragment ---


def test_the_fragment_is_an_arm_with_the_same_peaks() -> None:
    _, study, searches = full()
    text = fragment(searches["curve"], study)
    assert text is not None
    pasted = parse_study(
        {
            "name": "pasted", "cycles": 4, "data": {"name": "digits"}, "model": "lenet-300-100",
            "dense": {"epochs": 4, "max_lr": 0.1}, "retrain": {"epochs": 4}, "replicates": {"seeds": [7]},
            "report": {"schedule": "curve-best"}, **tomllib.loads(text),
        }
    )  # fmt: skip
    arm = pasted.arms["curve-best"]
    assert isinstance(arm, ScheduleArm)
    assert arm.epochs == 2  # what the searched arm sets for itself
    best = searches["curve"].points[searches["curve"].best or 0]["params"]
    schedule = pasted.schedule_of(arm)
    assert isinstance(schedule, Schedule)
    assert schedule.peak(3, pasted.pruned) > best["eps"] - 1e-12
    assert arm.schedule.args == best


def test_the_fragment_takes_a_free_name() -> None:
    arms = {**OPEN, "curve": CURVE, "curve-best": ARMS["low"]}
    _, study, searches = run(arms, seeds=1)
    text = fragment(searches["curve"], study)
    assert text is not None
    assert list(tomllib.loads(text)["arms"]) == ["curve-best-2"]
    assert fragment(replace(searches["curve"], args=None), study) is None


# --- what was saved ---


def test_savings_by_hand() -> None:
    frame, _, searches = full()
    found = savings(searches["curve"], frame, cycles=4)
    # Two seeds, four points, four cycles. Points 0 and 1 are the same; all share the dense unit; 3 stops after cycle 1.
    assert found.planned == 32
    assert found.stopped == 2 * 2
    assert found.trained == 2 * (1 + 3 + 3 + 1)
    assert found.shared == 32 - 4 - 16
    assert (found.failed, found.missing) == (0, 0)
    assert savings_sentence(found) == (
        "16 distinct trials trained against 32 (points × cycles × seeds): 12 shared between chains; "
        "4 not needed after a point was stopped. Sharing and stopping saved 50 %."
    )


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7, 1.0])
def test_savings_add_up_whatever_is_there(keep: float) -> None:
    frame, _, searches = full()
    some = frame.sample(frac=keep, random_state=1)
    some.loc[some.index[::3], "status"] = "failed"
    for search in searches.values():
        found = savings(search, some, cycles=4)
        parts = (found.trained, found.failed, found.shared, found.stopped, found.missing)
        assert found.planned == sum(parts)
        assert min(parts) >= 0
        assert savings_sentence(found)


# --- the page ---


def test_the_page_has_a_section_per_kind() -> None:
    text = page()
    for words in (
        'id="pilots"', 'id="tuned"', "[arms.curve-best]",
        "Objective: mean validation accuracy over cycles 2, 3 and seeds 0, 1.",
        "Not equally tuned: silo, flat got 6 pilot chains each", "16 distinct trials trained against 32",
    ):  # fmt: skip
        assert words in text
    for kind in ("importance", "slices", "contours"):
        assert f'id="fig-search-{kind}-curve"' in text
        assert f"figures/search-{kind}-curve.png" in files()
    assert "tables/searches.csv" in files()


def test_without_searches_the_page_says_nothing_of_them() -> None:
    text = without()["report.html"].decode()
    assert 'id="pilots"' not in text
    assert 'id="tuned"' not in text
    assert "search-" not in re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.filterwarnings("error:constrained_layout")
def test_any_name_of_an_arm_makes_a_whole_page() -> None:
    frame, study, searches = run({**OPEN, "a.b+c": {**CURVE, "rungs": []}}, seeds=1)
    rows, found = make_search(study, "a.b+c", "tune", "silo", POINTS, [0])
    text = render(pd.concat([frame, rows]), study, {}, {**searches, "a.b+c": found})["report.html"].decode()
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)
    assert 'id="fig-search-slices-a.b+c"' in text


def nothing(search: SearchRecord) -> SearchRecord:
    return replace(search, points=(), best=None, args=None, importance=None, finished=False)


def all_stopped(search: SearchRecord) -> SearchRecord:
    points = tuple({**point, "objective": None, "stopped": 1} for point in search.points)
    return replace(search, points=points, best=None, args=None, importance=None)


def nothing_told(search: SearchRecord) -> SearchRecord:
    points = tuple({**point, "objective": None, "told": None, "stopped": 0} for point in search.points)
    return replace(search, points=points, best=None, args=None)


def one_point(search: SearchRecord) -> SearchRecord:
    best = search.points[0]
    return replace(search, points=(best,), best=0, args={"name": "silo", **best["params"]}, importance={})


def one_parameter(search: SearchRecord) -> SearchRecord:
    points = tuple({**point, "params": {"eps": point["params"]["eps"]}} for point in search.points)
    return replace(search, points=points, importance={"eps": 1.0})


def under_way(search: SearchRecord) -> SearchRecord:
    return replace(search, finished=False, importance=None)


@pytest.mark.slow
@pytest.mark.filterwarnings("error:constrained_layout")
@pytest.mark.parametrize("change", [nothing, all_stopped, nothing_told, one_point, one_parameter, under_way])
def test_a_search_with_something_missing_still_has_a_section(
    change: Callable[[SearchRecord], SearchRecord],
) -> None:
    frame, study, searches = run({**OPEN, "curve": CURVE}, cycles=3, seeds=1)
    text = render(frame, study, {}, {**searches, "curve": change(searches["curve"])})["report.html"].decode()
    assert 'id="tuned"' in text
    shown = re.sub(r"<(style|svg).*?</\1>", "", text, flags=re.DOTALL)
    assert not re.search(r"\bnan\b|&lt;NA&gt;|\bNone\b(?!\.)", shown)
    assert ("so far" in shown) == (change in (nothing, under_way))


def test_many_points_are_cut_short_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "save_figures", lambda *_, **options: {})
    monkeypatch.setattr(report, "_MOST_POINTS", 2)
    frame, study, searches = full()
    text = render(frame, study, {}, searches)["report.html"].decode()
    assert "The best 2; 2 more in <code>tables/searches.csv</code>." in text


# --- the figures ---


def test_a_stopped_point_is_hollow() -> None:
    figure = slices_figure(full()[2]["curve"], "#0072B2")
    assert figure is not None
    for panel in figure.axes[:3]:
        lines = {str(line.get_label()): line for line in panel.get_lines()}
        assert lines["stopped early"].get_markerfacecolor() == "none"
        assert len(np.asarray(lines["stopped early"].get_xdata())) == 1
        assert len(np.asarray(lines["finished"].get_xdata())) == 2
        assert len(np.asarray(lines["best"].get_xdata())) == 1
    assert [panel.get_xlabel() for panel in figure.axes[:3]] == ["eps", "delta", "q"]  # beta does not vary


def test_a_surface_needs_enough_points_that_do_not_lie_on_a_line() -> None:
    draw = np.random.default_rng(0)
    assert triangulation(draw.random(11), draw.random(11)) is None
    assert triangulation(draw.random(30), draw.random(30)) is not None
    line = draw.random(30)
    assert triangulation(line, 2 * line) is None
    assert triangulation(line, np.full(30, 0.5)) is None
    assert triangulation(np.repeat(line[:6], 5), np.repeat(line[6:12], 5)) is None  # six places
    steps = np.tile([0.0, 0.5, 1.0], 10)
    assert triangulation(line, steps) is not None  # a whole number, as q is


def test_pairs_are_those_of_the_most_important_parameters() -> None:
    figure = contours_figure(full()[2]["curve"])
    assert figure is not None
    pairs = [(panel.get_xlabel(), panel.get_ylabel()) for panel in figure.axes if panel.get_xlabel()]
    assert pairs == [("eps", "delta"), ("eps", "q"), ("delta", "q")]


def spoil_high(row: Row) -> Row:
    return diverged() if row["max_lr"] > 0.05 else {}


def test_a_point_without_an_accuracy_is_no_best() -> None:
    _, study, _ = full()
    rows, search = make_search(study, "curve", "tune", "silo", POINTS, [0], spoil=spoil_high)
    found = summarise(rows, study, {"curve": search})
    assert len(found.troubles) == int((rows["status"] == "diverged").sum())
    assert dict(zip(found.cost["arm"], found.cost["diverged"], strict=True))["curve"] > 0
