"""`--reuse`: what another run has trained is taken, and the table is that of a run that trained everything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from silo_tune.api import run_study
from silo_tune.errors import BadInput
from silo_tune.planner.planner import Planner
from silo_tune.run.session import Outcome
from silo_tune.store.reuse import Foreseen, Reuse
from silo_tune.store.run_folder import Run
from silo_tune.store.storage import seal, unseal
from silo_tune.study.model import Study
from tests.conftest import small_study, small_table
from tests.plain import Drive, on_disk, study
from tests.test_cli import in_process
from tests.test_run import Notes, assert_same_table

PILOT = {"seeds": [100], "chains": 3, "low": 0.01, "high": 1.0}
WIDER = {"grid": {"low": 0.01, "high": 1.0, "points": 5}}  # three of the five rates are those of the small study
GROWN: dict[str, Any] = {"arms": {"greedy": WIDER, "conditioned": WIDER}}
ENVIRONMENT = {"silo-tune": "0"}


def trained(made: Study, folder: Path, reuse: tuple[Path, ...] = (), notes: Notes | None = None) -> Outcome:
    return run_study(made, str(folder), local=True, monitor=notes, reuse=[str(old) for old in reuse])


def files(folder: Path) -> dict[str, bytes]:
    """All that a run holds, but for what its drivers leave of themselves."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose weights are swept as far as they may go."""
    folder = tmp_path_factory.mktemp("old") / "run"
    trained(small_study(), folder)
    return folder


@pytest.fixture(scope="module")
def afresh(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return trained(small_study(**GROWN), tmp_path_factory.mktemp("afresh") / "run")


# --- the law ---


def test_a_wider_grid_trains_the_new_rates_alone_and_has_the_same_table(
    old: Path, afresh: Outcome, tmp_path: Path
) -> None:
    before = files(old)
    keys = {path.parent.name for path in old.glob("units/*/*/result.json")}
    notes = Notes()
    outcome = trained(small_study(**GROWN), tmp_path / "new", (old,), notes)
    assert_same_table(outcome.frame, afresh.frame)
    assert outcome.taken == {str(old): len(keys & set(afresh.frame.key))}
    assert outcome.counts.taken == outcome.taken[str(old)] >= 10
    assert outcome.counts.trained == afresh.frame.key.nunique() - outcome.counts.taken
    assert files(old) == before
    assert not [note for note in notes.notes if "differs" in note]
    # Swept parents of new candidates were trained again for their weights.
    assert list((tmp_path / "new").glob("units/*/*/restate-1.json"))


def test_the_same_study_trains_nothing_and_keeps_its_final_weights(old: Path, tmp_path: Path) -> None:
    outcome = trained(small_study(), tmp_path / "new", (old,))
    assert outcome.counts.trained == 0
    first = run_study(small_study(), str(old), local=True).frame
    assert_same_table(outcome.frame, first)
    states = {path.name: path for path in (tmp_path / "new").glob("units/*/*/state-*")}
    theirs = {path.name: path for path in old.glob("units/*/*/state-*")}
    assert set(states) == set(theirs)
    assert all(path.samefile(theirs[name]) for name, path in states.items())


def test_a_run_that_was_stopped_goes_on_with_what_it_reuses(old: Path, afresh: Outcome, tmp_path: Path) -> None:
    """Nothing is named the second time: the run remembers."""
    new = tmp_path / "new"

    class Stopping(Notes):
        def looked_at(self, lines: Any) -> None:
            self.stop_requested = True

    with pytest.raises(Exception, match="stopped"):
        trained(small_study(**GROWN), new, (old,), Stopping())
    rest = trained(small_study(**GROWN), new)
    assert_same_table(rest.frame, afresh.frame)
    assert rest.counts.trained < afresh.counts.trained
    recorded = Run(str(new)).recorded()
    assert recorded is not None
    assert recorded[1]["reuse"] == [str(old)]


def test_a_resumed_run_may_name_more_and_does_without_those_that_are_gone(old: Path, tmp_path: Path) -> None:
    new, gone = tmp_path / "new", tmp_path / "gone"
    trained(small_study(cycles=2), gone)
    trained(small_study(cycles=2), new, (gone,))
    os.rename(gone, tmp_path / "elsewhere")
    notes = Notes()
    outcome = trained(small_study(), new, (old,), notes)
    assert outcome.counts.trained == 0
    assert any("nothing more is reused" in note and str(gone) in note for note in notes.notes)


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_searches_are_taken_round_by_round(share: float, tmp_path: Path) -> None:
    """Simulated: of an old run that was interrupted or not."""
    made = study(
        {"pilot": PILOT, "arms.silo.schedule": {"name": "silo"}, "arms.constant.schedule": {"name": "constant"}}
    )
    runs = {name: Run(str(tmp_path / name)) for name in ("whole", "old", "new")}
    for run in runs.values():
        run.accept(made, ENVIRONMENT)
    whole = Planner(made, runs["whole"])
    Drive(on_disk(runs["whole"]))(whole)
    count = int(share * whole.counts.trained)
    Drive(on_disk(runs["old"]))(Planner(made, runs["old"]), count)
    reuse = Reuse(runs["new"], [runs["old"].url], made)
    planner = Planner(made, runs["new"], take=reuse.take)
    Drive(on_disk(runs["new"]))(planner)
    assert planner.counts.taken == count
    assert planner.counts.taken + planner.counts.trained == whole.counts.trained
    for chain in whole.chains.values():
        assert planner.chains[chain.arm, chain.seed].closed == chain.closed


# --- what is taken ---


def test_damaged_files_of_the_other_run_are_left_there_and_trained_here(tmp_path: Path) -> None:
    other = tmp_path / "other"
    trained(small_study(cycles=2), other)
    result = next(other.glob("units/*/*/result.json"))
    result.write_bytes(result.read_bytes().replace(b"0", b"1"))
    state = next(path for path in other.glob("units/*/*/state-*") if path.parent != result.parent)
    state.write_bytes(b"x" + state.read_bytes()[1:])
    before = files(other)
    outcome = trained(small_study(cycles=2), tmp_path / "new", (other,))
    assert outcome.counts.trained >= 1
    assert files(other) == before
    assert not list((tmp_path / "new").rglob(state.name))
    whole = trained(small_study(cycles=2), tmp_path / "whole")
    assert_same_table(outcome.frame, whole.frame)


def test_a_rewind_point_and_restated_weights_come_along(tmp_path: Path) -> None:
    """The middle run trained swept weights again and kept them: the last one has no need to."""
    rewinding = {"prune": {"after_prune": "rewind", "rewind_to": "1 ep"}, "arms": {"greedy": WIDER}}
    runs = [tmp_path / name for name in ("first", "middle", "last")]
    trained(small_study(prune=rewinding["prune"]), runs[0])
    trained(small_study(**rewinding, cluster={"keep": "all"}), runs[1], (runs[0],))
    trained(small_study(**rewinding, cluster={"keep": "all"}), runs[2], (runs[1],))
    for name in ("rewind-*", "restate-*.json", "result.json"):
        found = [{p.name: p.read_bytes() for p in run.glob(f"units/*/*/{name}")} for run in runs[1:]]
        assert found[0] == found[1] != {}


def test_a_copy_is_made_where_a_link_cannot_be(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def refused(source: str, target: str) -> None:
        if str(old) in str(source):
            raise OSError(18, "Invalid cross-device link")
        link(source, target)

    monkeypatch.setattr(os, "link", refused)
    outcome = trained(small_study(), tmp_path / "new", (old,))
    assert outcome.counts.trained == 0
    assert all(path.stat().st_nlink == 1 for path in (tmp_path / "new").glob("units/*/*/state-*"))


def test_a_result_of_another_trial_is_not_taken(old: Path, tmp_path: Path) -> None:
    run = Run(str(tmp_path / "new"))
    reuse = Reuse(run, [str(old)], small_study())
    first, second = sorted(old.glob("units/*/*/result.json"))[:2]
    key = unseal(first.read_bytes())["key"]
    assert reuse.find(key) is not None
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    try:
        assert reuse.find(key) is None
    finally:
        first.write_bytes(kept)


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cluster": {"cpus_per_unit": 2}}, r"cpus_per_unit is 1 there and 2 here"),
        ({"data": {"val_examples": 90}}, r"it was trained on other data"),
    ],
)
def test_a_run_with_other_numbers_is_refused(old: Path, changes: Mapping[str, Any], said: str, tmp_path: Path) -> None:
    if "data" in changes:  # the same study, whose data is another
        facts = old / "data.json"
        kept = facts.read_bytes()
        other = Run(str(old))
        body = unseal(kept)
        other.storage.delete("data.json")
        other.storage.replace("data.json", seal({**body, "content": "f" * 64}))
        try:
            with pytest.raises(BadInput, match=said):
                trained(small_study(), tmp_path / "new", (old,))
        finally:
            facts.write_bytes(kept)
    else:
        with pytest.raises(BadInput, match=said):
            trained(small_study(**changes), tmp_path / "new", (old,))
    assert Run(str(tmp_path / "new")).recorded() is None
    assert not (tmp_path / "new" / "units").exists()


def test_places_that_hold_no_trials_are_refused(old: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no run is there"):
        trained(small_study(), tmp_path / "new", (tmp_path / "none",))
    with pytest.raises(BadInput, match="it is the run itself"):
        trained(small_study(), old, (old,))
    record = tmp_path / "record"
    record.mkdir()
    for name in ("study.toml", "table.parquet"):
        (record / name).write_bytes((old / name).read_bytes())
    with pytest.raises(BadInput, match="it is a record"):
        trained(small_study(), tmp_path / "new", (record,))


# --- what is said ---


@pytest.mark.slow
@pytest.mark.usefixtures("only_svg")
def test_plan_and_run_say_how_many_are_reused(old: Path, afresh: Outcome, tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(tomli_w.dumps(small_table(**GROWN)), encoding="utf-8")
    command = (str(file), "--out", str(tmp_path / "new"), "--reuse", str(old))
    planned = in_process("plan", *command, "--no-preflight")
    assert planned.returncode == 0, planned.stderr
    assert not (tmp_path / "new").exists()
    done = in_process("run", *command, "--local")
    assert done.returncode == 0, done.stderr
    keys = {path.parent.name for path in old.glob("units/*/*/result.json")}
    assert f"trials: {len(keys & set(afresh.frame.key))} reused from {old}" in done.stdout
    assert f"are in {old}" in planned.stdout
    status = in_process("status", str(tmp_path / "new"))
    assert "reused from other runs" in status.stdout


def test_a_plan_follows_the_decisions_as_far_as_the_other_run_has_trials(old: Path, tmp_path: Path) -> None:
    run = Run(str(tmp_path / "new"))
    journal = Foreseen(run, Reuse(run, [str(old)], small_study()))
    planner = Planner(small_study(), journal)
    assert planner.done
    assert sum(map(len, journal.found.values())) == planner.counts.reused
    assert not (tmp_path / "new").exists()
