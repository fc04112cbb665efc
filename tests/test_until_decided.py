"""Seeds until decided: what is trained depends on committed rows alone; what a study may say of looks."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from silo_analysis.combine.merge import merge
from silo_analysis.estimates.sequential import look_at
from silo_tune.api import run_study
from silo_tune.cli.writing import write_report
from silo_tune.errors import BadInput, StudyError
from silo_tune.planner.forecast import forecast
from silo_tune.planner.journal import looks_made, seeds_begun
from silo_tune.planner.planner import Planner
from silo_tune.planner.unit import Unit
from silo_tune.results.records import Recorded
from silo_tune.results.rows import rows
from silo_tune.results.table import make_table, table
from silo_tune.run.monitor import Monitor
from silo_tune.run.session import looking
from silo_tune.run.status import from_decisions
from silo_tune.store.run_folder import Run
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study, smoke_table
from tests.conftest import small_table
from tests.plain import Drive, MemoryJournal, Outcome, World, on_disk, resolved, study
from tests.plain import table as tiny

GRID = {"low": 0.01, "high": 1.0, "points": 7}
LOOKS = {
    "replicates.seeds": list(range(12)),
    "replicates.until": "decided",
    "replicates.looks": [5, 8, 12],
    "arms.greedy.grid": GRID,
    "arms.conditioned.grid": GRID,
    "report.tolerance": 0.02,
}
TUNE = {"mode": "tune", "eps": [0.01, 0.1], "delta": [0.0, 0.2], "beta": 5, "q": 1, "trials": 4}


class Peaked(World):
    """Accuracy falls from a best rate in log max_lr; noise by key."""

    def __init__(self, noise: float = 0.001, fate: Callable[[Unit], str] = lambda unit: "ok") -> None:
        super().__init__(fate)
        self.noise = noise

    def outcome(self, unit: Unit) -> Outcome:
        outcome = super().outcome(unit)
        if outcome["status"] != "ok":
            return outcome
        draw = np.random.default_rng(int(unit.key[:8], 16)).standard_normal()
        level = 0.9 - 0.1 * max(0.0, abs(math.log10((resolved(unit) or 0.05) / 0.05)) - 0.2)
        return {**outcome, "val_score": float(level + self.noise * draw), "train_loss": 0.1}


def until(changes: dict[str, Any] | None = None) -> Study:
    merged = {**LOOKS, **(changes or {})}
    return study({key: value for key, value in merged.items() if value is not None or key not in LOOKS})


def planner_of(made: Study, journal: MemoryJournal) -> Planner:
    def look(number: int) -> dict[str, Any]:
        return journal.decide_look(look_at(make_table(rows(cast(Run, journal), made)), made, number))

    return Planner(made, journal, look=look)


def run(made: Study, world: World, journal: MemoryJournal | None = None, order: int = 0, **more: Any) -> MemoryJournal:
    journal = journal or MemoryJournal()
    drive = Drive(journal.commit, world, random.Random(order), slots=more.pop("slots", 3))
    drive(planner_of(made, journal), more.pop("tells", None))
    return journal


def seeds_of(journal: MemoryJournal) -> set[int]:
    return {where[1] for where in journal.decisions}


# --- the planner ---


def test_a_run_ends_when_everything_is_decided() -> None:
    made = until()
    journal = run(made, Peaked(0.0005))
    assert seeds_of(journal) == set(range(5))
    assert [look["over"] for look in looks_made(journal, made)] == [True]


def test_a_run_that_decides_nothing_ends_with_the_last_look() -> None:
    made = until()
    journal = run(made, World())
    looks = looks_made(journal, made)
    assert seeds_of(journal) == set(range(12))
    assert [look["over"] for look in looks] == [False, False, True]
    assert [len(look["seeds"]) for look in looks] == [5, 8, 12]


def test_later_seeds_neither_train_dropped_rates_nor_search_decided_cycles() -> None:
    made = until()
    journal = run(made, Peaked(0.007))
    looks = looks_made(journal, made)
    assert len(looks) > 1
    frame = make_table(rows(cast(Run, journal), made))
    met = 0
    for look in looks[:-1]:
        later = frame[~frame["seed"].isin(look["seeds"])]
        for arm, cycles in look["dropped"].items():
            for cycle, rates in cycles.items():
                met += len(rates)
                own = later[(later["arm"] == arm) & (later["cycle"] == int(cycle))]
                assert not own["max_lr"].isin(rates).any()
        for arm, skipped in look["skipped"].items():
            met += 1000 * len(skipped)
            assert not len(later[(later["arm"] == arm) & later["cycle"].isin(skipped)])
        assert (later[later["arm"] == "silo"].groupby("seed")["cycle"].nunique() == made.cycles).all()
    assert met > 1000
    assert met % 1000


@pytest.mark.parametrize("noise", [0.002, 0.007])
def test_what_is_trained_depends_neither_on_the_workers_nor_on_interruptions(noise: float) -> None:
    made = until()
    world = Peaked(noise, lambda unit: "diverged" if (resolved(unit) or 0) > 0.9 else "ok")
    whole = run(made, world, slots=1)
    for order in range(4):
        other = run(made, world, order=order, slots=2 + order)
        assert (other.decisions, other.looks, set(other.results)) == (whole.decisions, whole.looks, set(whole.results))
    stopped, rng = MemoryJournal(), random.Random(1)
    while (before := len(stopped.results)) < len(whole.results):
        run(made, world, stopped, order=rng.randrange(99), tells=rng.randrange(40, 160))
        assert len(stopped.results) > before
    run(made, world, stopped)
    assert (stopped.decisions, stopped.looks, stopped.results) == (whole.decisions, whole.looks, whole.results)
    assert planner_of(made, stopped).done


def test_keys_are_those_of_a_study_without_looks() -> None:
    made = until()
    plain = study({key: value for key, value in LOOKS.items() if key not in ("replicates.until", "replicates.looks")})
    fixed = MemoryJournal()
    Drive(fixed.commit, Peaked(0.007))(Planner(plain, fixed))
    assert set(run(made, Peaked(0.007)).results) < set(fixed.results)


def test_a_plan_tells_at_least_the_first_seeds_and_at_most_all() -> None:
    made = until()
    journal = MemoryJournal()
    arms, _ = forecast(planner_of(made, journal).layout, journal)
    least, most = (sum(getattr(arm, name) for arm in arms.values()) for name in ("least", "to_train"))
    assert 0 < least < most
    run(made, World(), journal)
    assert least <= len(journal.results) <= most
    arms, _ = forecast(planner_of(made, journal).layout, journal)
    assert [arm.to_train for arm in arms.values()] == [0] * len(arms)


def test_a_plan_of_a_decided_run_has_nothing_left() -> None:
    made = until()
    journal = run(made, Peaked(0.0005))
    arms, _ = forecast(planner_of(made, journal).layout, journal)
    assert sum(arm.to_train for arm in arms.values()) == 0
    assert all(arm.exact for arm in arms.values())
    assert seeds_begun(made, looks_made(journal, made)) == tuple(range(5))


# --- on disk ---


def on_a_disk(made: Study, folder: Path, world: World, tells: int | None = None) -> tuple[Run, list[str]]:
    told: list[str] = []

    class Told(Monitor):
        def notice(self, message: str) -> None:
            told.append(message)

    run_ = Run(str(folder), told.append)
    run_.accept(made, {"silo-tune": "0"})
    planner = Planner(made, run_, look=looking(made, run_, look_at, Told()))
    Drive(on_disk(run_), world)(planner, tells)
    return run_, told


def test_a_look_is_one_file_that_stands_and_its_status_is_told(tmp_path: Path) -> None:
    made = until({"cycles": 2})
    run_, told = on_a_disk(made, tmp_path, Peaked(0.0005))
    assert [path.name for path in (tmp_path / "looks").iterdir()] == ["look-1.json"]
    assert told[-1].startswith("look 1 of 3, 5 seeds: 1 of 1 cycle decided")
    found = from_decisions(run_.storage, made)
    assert (found.state, found.look) == ("finished", told[-1])
    before = (tmp_path / "looks" / "look-1.json").read_bytes()
    (tmp_path / "looks" / "look-1.json").write_bytes(b"damaged")
    on_a_disk(made, tmp_path, Peaked(0.0005))
    assert (tmp_path / "looks" / "look-1.json").read_bytes() == before


def test_a_look_that_its_rows_deny_is_told_by_name(tmp_path: Path) -> None:
    made = until({"cycles": 2})
    run_, _ = on_a_disk(made, tmp_path, Peaked(0.0005))
    standing = run_.look(1)
    assert standing is not None
    (tmp_path / "looks" / "look-1.json").unlink()
    run_.decide_look({**standing, "verdicts": {"1": "outside"}})
    with pytest.raises(BadInput, match=r"look-1\.json: verdicts of this look"):
        on_a_disk(made, tmp_path, Peaked(0.0005))


def test_trials_that_were_tried_again_leave_a_look_as_it_stands(tmp_path: Path) -> None:
    made = until({"cycles": 2})
    run_, _ = on_a_disk(made, tmp_path, Peaked(0.0005))
    standing = run_.look(1)
    assert standing is not None
    (tmp_path / "looks" / "look-1.json").unlink()
    run_.decide_look({**standing, "rows": "of before"})
    assert "trained again since" in on_a_disk(made, tmp_path, Peaked(0.0005))[1][-1]


def test_what_looks_rest_on_is_fixed_once_one_was_made(tmp_path: Path) -> None:
    made = until({"cycles": 2})
    run_, _ = on_a_disk(made, tmp_path, Peaked(0.0005), tells=20)
    looser = {"cycles": 2, "report.tolerance": 0.03, "replicates.looks": [6, 12]}
    assert run_.check(until(looser)) == ["replicates.looks", "report.tolerance"]
    run_, _ = on_a_disk(made, tmp_path, Peaked(0.0005))
    with pytest.raises(BadInput, match=r"replicates\.looks: was(.|\n)*report\.tolerance: was"):
        run_.check(until(looser))
    with pytest.raises(BadInput, match=r"replicates\.seeds"):
        run_.check(until({"cycles": 2, "replicates.seeds": [12, *range(12)]}))
    assert run_.check(until({"cycles": 2, "replicates.seeds": list(range(13)), "report.title": "new"}))


@pytest.mark.slow
@pytest.mark.parametrize("local", [True, False])
def test_a_real_run_looks(tmp_path: Path, local: bool) -> None:
    replicates = {"seeds": list(range(6)), "until": "decided", "looks": [5, 6]}
    made = parse_study(small_table(replicates=replicates, report={"tolerance": 0.3}))
    outcome = run_study(made, str(tmp_path / "run"), local=local, preflight=False)
    look = Run(outcome.url).look(1)
    assert look is not None
    assert outcome.frame["seed"].nunique() == (5 if look["over"] else 6)
    again = run_study(made, outcome.url, local=local, preflight=False)
    assert again.counts.trained == 0
    assert len(table(Run(outcome.url))) == len(outcome.frame)
    assert "until decided: look" in "\n".join(write_report(outcome.url).lines)
    assert "Lan and DeMets" in (tmp_path / "run" / "report" / "report.html").read_text(encoding="utf-8")


# --- siblings ---


def test_a_smoke_study_has_two_seeds_and_no_looks() -> None:
    assert parse_study(smoke_table(tiny(LOOKS))).replicates.model_dump(exclude_none=True) == {"seeds": (0, 1)}


def test_runs_of_seeds_until_decided_are_not_put_together() -> None:
    made, other = until(), until({"replicates.seeds": list(range(12, 24))})
    frame = make_table([])
    with pytest.raises(BadInput, match=r"replicates\.looks(.|\n)*are not put together"):
        merge({"one": Recorded(frame, made, {}), "two": Recorded(frame, other, {})})
    assert merge({"one": Recorded(frame, made, {}, looks=1)}).study == made


# --- bad input ---


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"replicates.looks": [8, 5, 12]}, "replicates.looks: numbers of seeds rise, got [8, 5, 12]"),
        ({"replicates.looks": [5, 13]}, "replicates.looks: [13] of 12 seeds: add seeds, or look earlier"),
        ({"replicates.looks": [3, 12]}, "replicates.looks: a verdict takes 5 seeds: [3] can decide nothing"),
        ({"replicates.looks": []}, "replicates.looks: give at least one number of seeds"),
        ({"replicates.looks": None}, "replicates.until: needs looks, the numbers of seeds after which it looks"),
        ({"replicates.until": None}, 'replicates.looks: needs until = "decided" beside it'),
        ({"arms.greedy": None, "arms.conditioned.prefix": "arm:linear"}, "replicates.until: no verdict to wait for"),
        ({"arms.greedy.tests": ["linear"], "arms.conditioned.tests": []}, "replicates.until: no verdict to wait for"),
        ({"arms.tuned": TUNE}, "arms.tuned.seeds: name the seeds of its chains"),
    ],
)  # fmt: skip
def test_bad_looks_are_told(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(StudyError) as caught:
        until(changes)
    assert words in str(caught.value)


def test_all_that_is_wrong_with_looks_is_told_at_once() -> None:
    with pytest.raises(StudyError) as caught:
        until({"replicates.looks": [13, 3], "replicates.until": None})
    assert str(caught.value).count("replicates.looks") == 4


def test_a_study_with_looks_needs_someone_who_looks() -> None:
    with pytest.raises(ValueError, match=r"replicates\.looks"):
        Planner(until(), MemoryJournal())
