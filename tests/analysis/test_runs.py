"""Several runs: those of one study are one run, those of several networks are groups, anything else is refused."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from silo_analysis.combine import overview
from silo_analysis.combine.groups import combine, group_names
from silo_analysis.combine.merge import merge, merge_rows
from silo_analysis.combine.overview import Judged, overview_frame, overview_lines, row_of
from silo_analysis.estimates.summary import summarise
from silo_analysis.estimates.typical import paired_interval
from silo_tune.cli.writing import write_together
from silo_tune.errors import BadInput
from silo_tune.results.records import Recorded, read, write_record
from silo_tune.study.model import Study
from silo_tune.study.parts import Replicates
from silo_tune.study.study_file import parse_study
from tests.analysis.asking import asked
from tests.analysis.builder import ARMS, failed, make_frame, make_study
from tests.analysis.test_report import HOSTILE, Page
from tests.analysis.test_search_report import OPEN as OPEN_ARMS
from tests.analysis.test_search_report import full as tuned
from tests.analysis.test_search_report import run as searched
from tests.plain import study as tiny
from tests.test_results import trained
from tests.test_searches import OPEN

LEDGER: dict[str, Any] = {
    "format": 1,
    "recipe": 5,
    "created": "2026-01-02T00:00:00+0000",
    "environment": {"python": "3.11", "machine": "one"},
}


@cache
def whole() -> Recorded:
    made = make_study(seeds=6, cycles=4)
    return Recorded(make_frame(made), made, LEDGER)


def part(seeds: Sequence[int], of: Recorded | None = None, **ledger: Any) -> Recorded:
    """The rows of some seeds, as a run of their own."""
    of = of or whole()
    made = of.study.model_copy(update={"replicates": Replicates(seeds=tuple(seeds))})
    frame = of.frame[of.frame["seed"].isin(seeds)].reset_index(drop=True)
    return replace(of, frame=frame, study=made, ledger={**of.ledger, **ledger})


def other(changes: Mapping[str, Any], seeds: int = 6) -> Recorded:
    """A run of the study with values at dotted keys changed."""
    table = make_study(seeds=seeds, cycles=4).model_dump(mode="json", exclude_none=True)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = table
        for name in parents:
            place = place.setdefault(name, {})
        if value is None:
            place.pop(last)
        else:
            place[last] = value
    made = parse_study(table)
    return Recorded(make_frame(made), made, LEDGER)


NETWORK = {"name": "second", "model": {"name": "vgg19"}, "data": {"name": "cifar10"}}


def refusal(*runs: Recorded) -> str:
    with pytest.raises(BadInput) as error:
        combine(dict(zip("abcdef", runs, strict=False)))
    return str(error.value)


# --- one study ---


def test_seeds_of_several_runs_make_the_run_of_all_seeds() -> None:
    (group,) = combine({"a": part([3, 1]), "b": part([0, 2]), "c": part([4, 5])})
    pd.testing.assert_frame_equal(group.recorded.frame, whole().frame)
    assert group.recorded.study == whole().study
    assert group.runs == ("a", "b", "c")


def test_the_order_of_the_runs_changes_no_row() -> None:
    runs = {"a": part([0, 1]), "b": part([1, 2, 3]), "c": part([4, 5])}
    names = list(runs)
    random.Random(3).shuffle(names)
    again = merge({name: runs[name] for name in names})
    pd.testing.assert_frame_equal(again.frame, merge(runs).frame)


def test_a_run_merged_alone_is_as_it_was(tmp_path: Path) -> None:
    trained(tmp_path, tiny({**OPEN, "arms.linear": None}))
    before = read(str(tmp_path))
    assert before.searches
    after = merge({"a": before})
    pd.testing.assert_frame_equal(after.frame, before.frame)
    assert (after.study, after.searches) == (before.study, before.searches)


def test_runs_that_were_trained_apart_are_the_run_that_was_trained_at_once(tmp_path: Path) -> None:
    for name, seeds in (("a", [0]), ("b", [1]), ("all", [0, 1])):
        trained(tmp_path / name, tiny({"replicates.seeds": seeds}))
    found = merge({name: read(str(tmp_path / name)) for name in "ab"})
    pd.testing.assert_frame_equal(found.frame, read(str(tmp_path / "all")).frame)


def test_a_column_that_an_earlier_version_did_not_write_contradicts_nobody() -> None:
    first, earlier = part([0, 1]), part([1, 2])
    first.frame["test_loss"] = 0.5
    earlier.frame["test_loss"] = pd.NA
    for runs in ({"a": first, "b": earlier}, {"b": earlier, "a": first}):
        frame = merge(runs).frame
        assert len(frame) == len(whole().frame) / 2
        assert set(frame[frame.seed == 1].test_loss) == {0.5}


def test_the_same_seed_twice_is_merged_where_its_rows_are_equal() -> None:
    first, second = part([0, 1, 2]), part([2, 3, 4, 5])
    second.frame["train_seconds"] = 999.0
    second.frame["device"] = "another"
    frame = merge({"a": first, "b": second}).frame
    assert len(frame) == len(whole().frame)
    assert frame.loc[frame["seed"] == 2, "train_seconds"].max() < 999


def test_mixed_is_found_again() -> None:
    first, second = part([0, 1]), part([1, 2])
    late = second.frame["cycle"] == 3
    first = replace(first, frame=first.frame[first.frame["cycle"] < 3].reset_index(drop=True))
    second.frame.loc[late, "device"] = "gpu"
    frame = merge({"a": first, "b": second}).frame
    assert {int(seed) for seed in frame.loc[frame["mixed"], "seed"]} == {1, 2}


def test_the_same_seed_with_other_numbers_is_refused_by_name() -> None:
    second = part([1, 2])
    row = second.frame[(second.frame["arm"] == "oracle") & (second.frame["seed"] == 1) & (second.frame["cycle"] == 2)]
    was = row["val_score"].iloc[0]
    second.frame.loc[row.index[0], "val_score"] = 0.5
    told = refusal(part([0, 1]), second)
    assert told.splitlines()[0] == f"seed 1, arm oracle, cycle 2: val_score: {was} in a; 0.5 in b"
    assert "leave one of them out" in told


def test_a_missing_cell_is_another_outcome() -> None:
    second = part([1, 2])
    second.frame.loc[second.frame["seed"] == 1, "test_score"] = pd.NA
    assert "nothing in b" in refusal(part([0, 1]), second)


def test_what_reaches_no_number_may_differ_and_is_that_of_the_first() -> None:
    second = part([4, 5])
    changed = second.study.model_copy(
        update={
            "report": second.study.report.model_copy(update={"tolerance": 0.02}),
            "cluster": second.study.cluster.model_copy(update={"max_concurrent": 3}),
            "data": second.study.data.model_copy(update={"path": "/elsewhere"}),
        }
    )
    (group,) = combine({"a": part([0, 1, 2, 3]), "b": replace(second, study=changed)})
    assert group.recorded.study.report.tolerance == 0.005
    told = [": ".join((change["at"], *change["keys"])) for change in group.recorded.ledger["changes"]]
    assert told == [
        "put together from: a (seeds 0, 1, 2, 3), b (seeds 4, 5)",
        "report.tolerance as in a: 0.005 in a; 0.02 in b",
    ]


def test_environments_that_differ_are_told_apart() -> None:
    ledger = merge(
        {
            "a": part([0]),
            "b": part([1], environment={"python": "3.11", "machine": "two"}, created="2025", clock_seconds=9),
        }
    ).ledger
    assert ledger["environment"] == {"python": "3.11", "machine": "one in a; two in b"}
    assert ledger["created"] == "2025"
    assert ledger["runs"] == [{"name": "a", "seeds": [0]}, {"name": "b", "seeds": [1], "clock_seconds": 9}]


def test_searches_agree_or_come_from_the_one_that_has_them() -> None:
    frame, made, searches = searched({**OPEN_ARMS, "oracle": ARMS["oracle"]})
    seeds = list(made.replicates.seeds)
    ordinary = frame["trial"].isna()
    first = part(seeds[:2], Recorded(frame, made, LEDGER))
    first = replace(
        first, frame=frame[~ordinary | frame["seed"].isin(seeds[:2])].reset_index(drop=True), searches=searches
    )
    second = part(seeds[2:], Recorded(frame[ordinary], made, LEDGER))
    merged = merge({"b": second, "a": first})
    assert merged.searches == searches
    pd.testing.assert_frame_equal(
        merge({"a": first, "b": second}).frame, merge_rows({"all": frame}, made), check_like=True
    )
    search = searches["silo"]
    changed = replace(search, points=({**search.points[0], "objective": 0.1}, *search.points[1:]))
    second = replace(second, searches={**searches, "silo": changed})
    with pytest.raises(BadInput, match="the search of silo differs between a and b"):
        merge({"a": first, "b": second})


def test_a_search_on_the_seeds_of_the_run_is_not_put_together_with_one_on_others() -> None:
    frame, made, searches = tuned()
    found = Recorded(frame, made, LEDGER, searches)
    assert "replicates.seeds: [0, 1] in a; [2, 3] in b" in refusal(part([0, 1], found), part([2, 3], found))
    assert merge({"a": found}).study == made


def test_other_data_is_refused() -> None:
    runs = {name: replace(part([seed]), data={"content": name * 20}) for name, seed in (("a", 0), ("b", 1))}
    with pytest.raises(BadInput, match=r"content of the data: a{12} in a; b{12} in b"):
        merge(runs)
    runs["b"] = replace(runs["b"], data={"content": "a" * 20})
    assert merge(runs).data == {"content": "a" * 20}


# --- groups ---


@cache
def groups() -> list[Judged]:
    second = other(
        {**NETWORK, "retrain.epochs": 8, "report.tolerance": 0.01, "arms.low.schedule.max_lr": 0.02}, seeds=5
    )
    found = combine({"a": part([0, 1, 2]), "b": second, "c": part([3, 4, 5])})
    summaries = [summarise(group.recorded.frame, group.recorded.study) for group in found]
    return [(group, summary, tuple(asked(summary).values())) for group, summary in zip(found, summaries, strict=True)]


def test_other_networks_are_groups_and_runs_of_one_study_are_one() -> None:
    assert [(group.name, group.runs) for group, _, _ in groups()] == [("synthetic", ("a", "c")), ("second", ("b",))]


def test_the_overview_shows_the_numbers_of_each_group_and_no_mean() -> None:
    rows = [row_of(group, summary) for group, summary, _ in groups()]
    frame = overview_frame(rows)
    assert frame["group"].tolist() == ["synthetic", "second"]
    for row, (group, summary, _) in zip(rows, groups(), strict=True):
        informative = summary.cycles[summary.cycles["informative"]]
        assert row.informative == len(informative)
        assert row.inside == (informative["verdict"] == "inside").sum()
        assert summary.endpoint is not None
        assert row.endpoint == summary.endpoint.estimate
        chains = group.recorded.frame
        late = chains[chains["cycle"] >= 2].set_index(["arm", "seed", "cycle"])["test_score"]
        apart = late["silo"] - late["high"]
        expected = paired_interval(apart.groupby("seed").mean().to_numpy(dtype=float))
        assert row.against["high"].mean == pytest.approx(expected.mean)
        assert row.against["high"].low == pytest.approx(expected.low)
    assert sum(line.startswith("| synthetic | ") for line in overview_lines(groups())) == 2
    assert frame["model"].tolist() == ["lenet-300-100", "vgg19"]
    assert frame["data"].tolist() == ["digits", "cifar10"]
    shown = [line for line in overview_lines(groups()) if "lenet-300-100" in line or "vgg19" in line]
    assert [re.split(r"\s*\|\s*", line)[2:4] for line in shown] == [["lenet-300-100", "digits"], ["vgg19", "cifar10"]]


def test_the_page_of_the_overview_leads_to_every_group_and_escapes_what_it_shows() -> None:
    (group, summary, answers), second = groups()
    report = summary.study.report.model_copy(update={"schedule": "silo"})
    model = summary.study.model.model_copy(update={"name": HOSTILE})
    hostile = replace(summary, study=summary.study.model_copy(update={"model": model, "report": report}))
    files = overview([(group, hostile, answers), second])
    text = files["report.html"].decode()
    page = Page(text)
    assert set(page.links) == {"synthetic/report/report.html", "second/report/report.html"}
    assert "script" not in page.tags
    assert "No mean over rows" in text
    assert files["overview.md"].decode().splitlines()[0].split()[:4] == ["|", "Study", "|", "Model"]
    assert files["overview.csv"].decode().splitlines()[2].startswith("second,vgg19,cifar10,5,0.01,")


def test_a_group_without_an_oracle_or_rows_has_dashes() -> None:
    arms = {name: ARMS[name] for name in ("silo", "high")}
    made = make_study(arms, seeds=2, cycles=4)
    for frame in (make_frame(made), make_frame(made, spoil=lambda row: failed()), make_frame(made).iloc[:0]):
        summary = summarise(frame, made)
        answers = tuple(asked(summary).values())
        (group,) = combine({"a": Recorded(frame, made, LEDGER)})
        row = row_of(group, summary)
        assert (row.inside, row.endpoint.mean, row.saved, row.equivalent) == (None, None, None, None)
        assert "nan" not in "".join(overview_lines([(group, summary, answers)])).lower()
        assert overview([(group, summary, answers)])["report.html"]


def named(*pairs: tuple[str, str, str]) -> list[Study]:
    return [other({"name": n, "model": {"name": m}, "data": {"name": d}}, seeds=1).study for n, m, d in pairs]


def test_groups_have_folders_of_their_own() -> None:
    assert group_names(named(("a", "vgg19", "cifar10"), ("b", "vgg19", "cifar10"))) == ["a", "b"]
    found = group_names(named(("a", "vgg19", "cifar10"), ("a", "resnet20", "cifar10")))
    assert found == ["a-vgg19-cifar10", "a-resnet20-cifar10"]
    assert len(set(group_names(named(*[("a", "vgg19", "cifar10")] * 3)))) == 3
    assert all(re.fullmatch(r"[\w.+-]+", name) for name in found)


# --- where they are written ---


def test_groups_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    records = {"a": part([0, 1]), "b": other(NETWORK, seeds=2)}
    for name, recorded in records.items():
        write_record(str(tmp_path / name), recorded)
    urls = [str(tmp_path / name) for name in records]
    out = tmp_path / "out"
    write_record(str(out / "second"), records["b"])  # one of the groups has no room
    with pytest.raises(BadInput, match="second holds a record that was not put together from others"):
        write_together(urls, str(out))
    assert [path.name for path in out.iterdir()] == ["second"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.html").write_text("mine")
    with pytest.raises(BadInput, match=r"mine holds other files .* choose another --out"):
        write_together(urls, str(tmp_path / "mine"))
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/below"):
        with pytest.raises(BadInput, match=rf"cannot write to .*{place} .*; choose another --out"):
            write_together(urls[:1], str(tmp_path / place))


# --- anything else ---


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"retrain.epochs": 8}, "retrain.epochs: 4 in a; 8 in b"),
        ({"cluster.cpus_per_unit": 2}, "cluster.cpus_per_unit: 1 in a; 2 in b"),
        ({"data.path": "/x", "prune.rate": 0.5}, "prune.rate: 0.2 in a; 0.5 in b"),
        ({"arms.high.schedule.max_lr": 0.1}, "arms.high.schedule.max_lr: 0.07 in a; 0.1 in b"),
        ({**NETWORK, "cycles": 3}, "cycles: 4 in a; 3 in b"),
        ({**NETWORK, "arms.ramp": None}, "arms.ramp: schedule in a; not set in b"),
        ({**NETWORK, "arms.oracle.after_prune": "rewind"}, "arms.oracle.after_prune: not set in a; rewind in b"),
        ({**NETWORK, "report.schedule": "high"}, "report.schedule: silo in a; high in b"),
        ({**NETWORK, "evaluate.drop_last": True}, "evaluate.drop_last: False in a; True in b"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_runs_that_differ_otherwise_are_refused_with_keys_and_values(changes: Mapping[str, Any], line: str) -> None:
    told = refusal(part(range(6)), other(changes))
    assert line in told.splitlines()
    assert told.splitlines()[-1].startswith("runs are put together when")
    assert "data.path" not in told


def test_a_name_alone_makes_no_other_study() -> None:
    mine = part([1])
    mine = replace(mine, study=mine.study.model_copy(update={"name": "mine"}))
    (group,) = combine({"a": part([0]), "b": mine})
    assert (group.name, group.runs, group.recorded.study.replicates.seeds) == ("synthetic", ("a", "b"), (0, 1))


def test_recipes_do_not_mix() -> None:
    assert refusal(part([0]), part([1], recipe=4)).startswith("recipe: 5 in a; 4 in b")
    assert refusal(part([0]), replace(other(NETWORK), ledger={**LEDGER, "recipe": 4})).startswith("recipe: ")
