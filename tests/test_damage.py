"""Files of a run whose checksum is right and whose content is not: told, healed, never believed in silence."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from silo_tune.cli.writing import written_report
from silo_tune.errors import BadInput, RunFailed
from silo_tune.models.checkpoint import pack, unpack
from silo_tune.planner.outcome import measured
from silo_tune.results.records import read
from silo_tune.results.table import table
from silo_tune.run.session import Outcome
from silo_tune.run.status import read_status
from silo_tune.store.bodies import Decision, Facts, Importance, Result, Round, shaped
from silo_tune.store.lease import unreadable
from silo_tune.store.run_folder import Run
from silo_tune.store.storage import Corrupt, seal, unseal
from silo_tune.store.unit_store import unit_of
from silo_tune.study.study_file import parse_study
from tests.attacks import no_figures
from tests.faults import faulty_table
from tests.plain import decision_of, result_of
from tests.test_cli import in_process
from tests.test_cycle import Bench
from tests.test_run import Notes, assert_same_table, local

Change = Callable[[dict[str, Any]], Any]

TABLE = faulty_table()
STUDY = parse_study(TABLE)
SILO = "chains/silo/seed-0/cycle-001-round-1.json"
ROUND = "chains/search/search/round-001.json"


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("silo_analysis.report.page.save_figures", no_figures)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return local(STUDY, tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def folder(finished: Outcome, tmp_path: Path) -> Path:
    shutil.copytree(finished.url, tmp_path / "run")
    return tmp_path / "run"


def forged(file: Path, change: Change) -> Path:
    """Change a sealed file, and seal it again."""
    body = unseal(file.read_bytes())
    change(body)
    file.write_bytes(seal(body))
    return file


def result_file(folder: Path, decision: str = SILO) -> Path:
    key = str(unseal((folder / decision).read_bytes())["winner"])
    return folder / "units" / key[:2] / key / "result.json"


def heals(folder: Path, finished: Outcome) -> list[str]:
    """Run the study again: its table is the one from before. Returns what was said."""
    notes = Notes()
    assert_same_table(local(STUDY, folder, notes).frame, finished.frame)
    return notes.notes


# --- the shape of what is sealed ---

KEY = "ab" * 32
POINT = {"trial": 0, "round": 1, "params": {"eps": 0.1}, "objective": 0.5, "told": 0.5, "stopped": None, "rungs": {}}
BODIES = [
    (Result, result_of(KEY)),
    (Decision, decision_of(KEY)),
    (Round, {"arm": "a", "kind": "tune", "round": 1, "seeds": [0], "counted": [1], "points": [{**POINT, "ended": {}}]}),
    (Importance, {"points": 3, "shares": {"eps": 1.0}}),
    (Facts, {"content": "c", "classes": 3, "n_train": 9, "n_val": 9, "n_test": 9}),
]


@pytest.mark.parametrize(("kind", "body"), BODIES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_body_without_a_key_or_with_another_type_is_damaged(kind: Any, body: dict[str, Any]) -> None:
    kind.model_validate(body)
    later = {name for name, field in kind.model_fields.items() if not field.is_required()}
    for name in set(kind.model_fields) & set(body) - later:
        rest = {key: value for key, value in body.items() if key != name}
        for wrong in (rest, {**body, name: object()}, {**body, name: {"a": [1]}} if name != "unit" else rest):
            with pytest.raises(ValueError, match=name):
                kind.model_validate(wrong)
    kind.model_validate({**body, "of_a_later_version": 1})


@pytest.mark.parametrize(
    "text", ['{"a": NaN, "sha256": ""}', '{"a": 1e400, "sha256": ""}', "[" * 60_000, "[]", "3", ""]
)
def test_json_that_is_none_of_ours_is_corrupt(text: str) -> None:
    with pytest.raises(Corrupt):
        unseal(text.encode())


def loser(body: dict[str, Any]) -> str:
    return next(str(one["key"]) for one in body["asked"] if one["key"] != body["winner"])


SPOILT: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    (SILO, lambda body: body.pop("asked")),
    (SILO, lambda body: body["told"][0].update(max_lr=10**400)),
    (SILO, lambda body: body["told"].clear()),
    (SILO, lambda body: body.update(winner=None)),
    (SILO, lambda body: body.update(closes=False)),
    ("chains/greedy/seed-0/cycle-001-round-1.json", lambda body: body.update(winner=loser(body))),
    ("chains/guided/seed-0/cycle-001-round-2.json", lambda body: body.update(winner=loser(body))),
    (ROUND, lambda body: body["points"][0].pop("rungs")),
    (ROUND, lambda body: body["points"][0].update(stopped=0)),
    (ROUND, lambda body: body["points"][0]["params"].popitem()),
    (ROUND, lambda body: body["points"][0]["params"].update(eps=0.5)),
    ("data.json", lambda body: body.pop("n_val")),
]


@pytest.mark.parametrize(("name", "spoil"), SPOILT)
def test_a_sealed_file_that_cannot_be_is_moved_aside_and_made_again(
    folder: Path, finished: Outcome, name: str, spoil: Callable[[dict[str, Any]], Any]
) -> None:
    whole = (folder / name).read_bytes()
    forged(folder / name, spoil)
    assert any(f"{name} is corrupt (" in note for note in heals(folder, finished))
    # A finished run looks at no data: the next one that trains writes down what it sees.
    assert name == "data.json" or (folder / name).read_bytes() == whole


def test_what_is_written_has_the_shape_that_is_read(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    with pytest.raises(Corrupt, match="val_loss"):
        run.units.commit(result_of(KEY, val_loss=None))
    with pytest.raises(Corrupt, match="seed"):
        run.decide(decision_of(KEY, seed="0"))
    assert not (tmp_path / "run").exists()


def test_a_recorded_study_that_nests_too_deeply_is_damaged(folder: Path) -> None:
    (folder / "study.toml").write_text("a = " + "[" * 60_000 + "]" * 60_000)
    done = in_process("report", str(folder))
    assert done.returncode == 2
    assert f"{folder}/study.toml is damaged (" in done.stderr


# --- two files that say different things ---


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"val_score": 0.25}, "val_score"),
        ({"test_score": 0.25}, "measured"),
        ({"train_loss": 0.25}, "measured"),
        ({"epochs": 9}, "measured"),
    ],
)
def test_a_result_that_was_changed_is_told_by_its_decision(folder: Path, change: dict[str, Any], told: str) -> None:
    file = forged(result_file(folder), lambda body: body.update(change))
    shown = f"{folder}/{SILO} and {file.relative_to(folder)} tell different things of one trial ("
    for words in (["report"], ["fit"], ["export", "--optuna", str(folder.parent / "log")]):
        said = in_process(words[0], str(folder), *words[1:]).stderr
        assert shown in said
        assert told in said.partition(shown)[2].partition(")")[0]
    assert "Files that contradict each other" in (folder / "report" / "report.html").read_text()
    notes = Notes()
    local(STUDY, folder, notes)
    assert any(shown in note for note in notes.notes)


def test_a_decision_that_was_changed_is_told_by_the_results(folder: Path) -> None:
    forged(folder / SILO, lambda body: body["told"][0].update(val_loss=0.25))
    assert f"{folder}/{SILO} and units/" in in_process("report", str(folder)).stderr


def test_a_result_that_is_trained_again_is_the_one_that_was_told(folder: Path, finished: Outcome) -> None:
    file = result_file(folder)
    before = unseal(file.read_bytes())
    file.unlink()
    assert heals(folder, finished) == []
    after = unseal(file.read_bytes())
    assert after["attempt"] != before["attempt"]
    assert measured(after) == measured(before)


def test_a_decision_of_an_earlier_version_tells_less_and_no_doubt_comes_of_it(folder: Path, finished: Outcome) -> None:
    for file in folder.glob("chains/*/seed-0/cycle-*.json"):
        forged(file, lambda body: [told.pop("measured") for told in body["told"]])
    assert "notes" not in read(str(folder)).ledger
    assert heals(folder, finished) == []


def test_a_round_of_a_search_that_was_changed_is_told(folder: Path) -> None:
    forged(folder / ROUND, lambda body: body["points"][0].update(objective=0.999, told=0.999))
    shown = f"{folder}/{ROUND} is not what the chains of its points give"
    assert shown in in_process("report", str(folder)).stderr
    with pytest.raises(BadInput, match=r"round 1 of its search is not what the chains of its points give") as refused:
        local(STUDY, folder, Notes())
    assert f"put back {ROUND} as it was, or move it away" in str(refused.value)
    (folder / ROUND).unlink()
    local(STUDY, folder, Notes())
    assert shown not in in_process("report", str(folder)).stderr


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["points"].pop(),
        lambda body: body["points"].pop(0),
        lambda body: body["points"][1].update(round=2),
        lambda body: body["points"][0].update(trial=7),
    ],
)
def test_a_round_of_a_search_without_all_its_points_is_damaged(folder: Path, change: Change) -> None:
    forged(folder / ROUND, change)
    said = in_process("export", str(folder), "--optuna", str(folder / "x.log")).stderr
    assert f"{folder}/{ROUND} is corrupt (it has" in said


def test_counts_of_the_data_that_were_changed_are_written_anew(finished: Outcome, tmp_path: Path) -> None:
    folder, notes = tmp_path / "run", Notes()
    shutil.copytree(finished.url, folder)
    whole = (folder / "data.json").read_bytes()
    forged(folder / "data.json", lambda body: body.update(classes=9))
    shutil.rmtree(folder / "chains" / "silo")
    shutil.rmtree(folder / "units")
    local(STUDY, folder, notes)
    assert f"{folder}/data.json was wrong about classes; it is written anew" in notes.notes
    assert (folder / "data.json").read_bytes() == whole


@pytest.mark.parametrize(
    "change",
    [lambda params: params.pop("delta"), lambda params: params.update(eps=-1.0)],
)
def test_a_trial_of_a_search_that_began_with_no_schedule_is_told(folder: Path, change: Change) -> None:
    name = "chains/search/seed-0/trial-5/cycle-000-round-1.json"
    forged(folder / name, lambda body: change(body["params"]))
    with pytest.raises(BadInput, match=f"put back {name} as it was, or move it away"):
        local(STUDY, folder, Notes())
    (folder / name).unlink()
    local(STUDY, folder, Notes())


# --- a study that is not the run's ---


@pytest.mark.parametrize(
    "change",
    [
        {"replicates": {"seeds": [1]}},
        {"retrain": {"batch": 32}},
        {"prune": {"rate": 0.3}},
        {"arms": {"silo": {"schedule": {"eps": 0.0525}}}},
    ],
)
def test_the_study_of_another_run_is_refused(folder: Path, change: dict[str, Any]) -> None:
    (folder / "table.parquet").unlink()
    other = Run(str(folder.parent / "other"))
    recorded = Run(str(folder)).recorded()
    assert recorded is not None
    other.write_study(parse_study(faulty_table(**change)), recorded[1])
    shutil.copy(folder.parent / "other" / "study.toml", folder)
    done = in_process("report", str(folder))
    assert done.returncode == 2
    assert f"{folder}/study.toml is not the study of this run: chains/" in done.stderr
    done = in_process("weights", str(folder), "--arm", "silo", "--seed", "0", "--out", str(folder / "taken"))
    assert done.returncode == 2


def test_a_run_that_an_earlier_recipe_made_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("silo_tune.results.doubts.RECIPE", 2)
    monkeypatch.setattr("silo_tune.planner.unit.RECIPE", 2)
    assert len(read(str(folder)).frame)


# --- what is gone from a run under way ---


def under_way(folder: Path) -> None:
    (folder / "table.parquet").unlink()


def test_a_decision_that_is_gone_before_later_ones_is_told(folder: Path, finished: Outcome) -> None:
    under_way(folder)
    gone = folder / "chains" / "silo" / "seed-0" / "cycle-000-round-1.json"
    gone.unlink()
    done = in_process("report", str(folder))
    assert done.returncode == 1
    assert f"{gone} is gone, and later ones are there" in done.stderr
    heals(folder, finished)


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("chains/silo/seed-0/cycle-000-round-1.json", "chains/silo/seed-0/cycle-000-round-1.json is gone"),
        ("chains", "rows of its table are in no other file any more"),
    ],
)
def test_a_finished_run_that_lost_decisions_is_no_record(
    tmp_path: Path, finished: Outcome, folder: Path, lost: str, told: str
) -> None:
    """Its table stands, and its trials too: they are told and derived again, as in a run under way."""
    gone = folder / lost
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    done = in_process("report", str(folder))
    assert done.returncode == 1
    assert told in done.stderr
    heals(folder, finished)


def test_a_chain_that_was_moved_to_another_seed_is_told(folder: Path) -> None:
    (folder / "chains" / "silo" / "seed-0").rename(folder / "chains" / "silo" / "seed-9")
    done = in_process("report", str(folder))
    assert done.returncode == 2
    assert "chains/silo/seed-9 tells of trials that it does not give" in done.stderr


@pytest.mark.parametrize("content", [b"{}", None])
def test_lost_facts_of_the_data_are_told_in_the_report(folder: Path, content: bytes | None) -> None:
    file = folder / "data.json"
    file.unlink()
    told = "data.json is gone: nothing is known of the data"
    if content is not None:
        file.write_bytes(content)
        told = "data.json is corrupt"
    done = in_process("report", str(folder))
    assert done.returncode == 0
    assert told in done.stderr


def test_files_that_systems_leave_in_folders_are_no_chains(folder: Path) -> None:
    for name in ("chains/.DS_Store", "chains/desktop.ini", "chains/silo/.DS_Store", "chains/silo/seed-0/.DS_Store"):
        (folder / name).write_bytes(b"\0")
    assert in_process("report", str(folder)).returncode == 0


def test_a_result_that_is_gone_is_told_even_without_a_table(folder: Path, finished: Outcome) -> None:
    under_way(folder)
    file = result_file(folder)
    file.unlink()
    done = in_process("report", str(folder))
    assert done.returncode == 1
    assert f"{file} is gone" in done.stderr
    heals(folder, finished)


# --- readers that write nothing ---


def test_a_plan_names_what_it_moves_aside(folder: Path) -> None:
    (folder / SILO).write_bytes(b"")
    study = folder.parent / "study.toml"
    study.write_text(tomli_w.dumps(TABLE))
    done = in_process("plan", str(study), "--no-preflight", "--out", str(folder))
    assert f"note: {folder}/{SILO} is corrupt (" in done.stdout


def test_a_snapshot_of_another_study_is_no_snapshot(folder: Path) -> None:
    forged(folder / "status.json", lambda body: body.update(study="other"))
    found = read_status(str(folder))
    assert found.snapshot is not None
    assert found.snapshot.study == STUDY.name
    assert found.note is not None
    assert f"{folder}/status.json is of another study" in found.note


def test_a_lease_that_cannot_be_read_is_told(folder: Path) -> None:
    (folder / "lease" / "0007.json").write_bytes(bytes(40))
    note = read_status(str(folder)).note
    assert note == f"{folder}/lease/0007.json is damaged: who held the run is not known"


@pytest.mark.parametrize("wrong", [{"host": []}, {"pid": -(10**300)}, {"pid": 2**40}, {"attempt": None}], ids=str)
def test_a_lease_that_cannot_be_is_taken_over(folder: Path, finished: Outcome, wrong: dict[str, Any]) -> None:
    body = {"host": "here", "pid": 1, "attempt": "a", "started": "1"}
    (folder / "lease" / "0007.json").write_bytes(seal({**body, **wrong}))
    assert "lease/0007.json is damaged" in str(read_status(str(folder)).note)
    heals(folder, finished)


def test_a_status_holds_half_a_character(folder: Path) -> None:
    forged(folder / "status.json", lambda body: body["chains"][0].update(arm="\ud800"))
    done = in_process("status", str(folder), "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["snapshot"]["chains"][0]["arm"] == "\ud800"


@pytest.mark.parametrize("damage", ["chains/silo/seed-0/cycle-001-round-1.json", ROUND])
def test_a_status_from_decisions_that_cannot_be_is_made_of_the_others(folder: Path, damage: str) -> None:
    (folder / "status.json").unlink()
    forged(folder / damage, lambda body: [body.pop(name) for name in list(body) if name not in ("arm", "seed")])
    assert read_status(str(folder)).snapshot is not None


# --- states ---


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda weights: weights.update(y=weights.popitem()[1]), "it is of another network"),
        (
            lambda weights: weights.update({name: part[:1] for name, part in weights.items()}),
            "it is of another network",
        ),
        (lambda weights: weights.update({name: part * math.nan for name, part in weights.items()}), "it is not finite"),
        (lambda weights: weights.clear(), "it is of trial abababababab"),
    ],
)
def test_a_state_that_no_trial_leaves_is_trained_again(tmp_path: Path, change: Change, why: str) -> None:
    bench, notices = Bench(tmp_path, STUDY), list[str]()
    dense = bench.train(bench.unit(0, None))
    expected = bench.worker.state_of(dense["key"])
    folder = tmp_path / "units" / dense["key"][:2] / dense["key"]
    state = folder / dense["state"]["file"]
    groups, meta = unpack(state.read_bytes())
    change(groups["weights"])
    state.write_bytes(data := pack(groups, meta | ({} if groups["weights"] else {"unit": "ab" * 32})))
    forged(folder / "result.json", lambda told: told["state"].update(sha256=hashlib.sha256(data).hexdigest()))
    bench.worker.units.notice = notices.append
    found = bench.worker.state_of(dense["key"])
    assert {name: tensor.tolist() for name, tensor in found["weights"].items()} == {
        name: tensor.tolist() for name, tensor in expected["weights"].items()
    }
    assert f"{state} is corrupt ({why}" in notices[0]


def test_a_partial_state_of_another_trial_is_not_resumed(tmp_path: Path) -> None:
    bench, straight = Bench(tmp_path / "a", STUDY), Bench(tmp_path / "b", STUDY)
    dense, expected = bench.unit(0, None), straight.train(straight.unit(0, None, {"value": 0.05}))
    next(bench.worker.run(dense))
    data = bench.worker.units.read_partial(dense.key)
    assert data is not None
    other = bench.unit(0, None, {"value": 0.05})
    bench.worker.units.write_partial(other.key, "00", 1, data)
    notices: list[str] = []
    bench.worker.notice = notices.append
    assert measured(bench.train(other)) == measured(expected)
    assert f"does not fit (it is of trial {dense.key[:12]})" in notices[0]
    groups, meta = unpack(data)
    assert meta.pop("unit") == dense.key
    bench.worker.units.write_partial(dense.key, "11", 1, pack(groups, meta))  # as earlier versions wrote it
    bench.train(dense)
    assert len(notices) == 1


def test_the_table_is_of_decisions_and_results_alone(folder: Path, finished: Outcome) -> None:
    assert_same_table(table(Run(str(folder)), STUDY), finished.frame)


# --- texts that no file of ours holds ---


def test_lists_within_thousands_of_others_are_no_report(folder: Path) -> None:
    (folder / "report").mkdir(exist_ok=True)
    (folder / "report" / "answers.json").write_text("[" * 100_000)
    assert written_report(str(folder)) is None


def test_a_lease_of_a_host_that_no_machine_is_named_like_cannot_be_read(folder: Path) -> None:
    body = {"host": "\ud800vm", "pid": 1, "attempt": "a", "started": None}
    storage = Run(str(folder)).storage
    storage.replace("lease/0007.json", seal(body))
    assert unreadable(storage) == "lease/0007.json"


def test_a_study_of_another_run_is_told_beside_a_status_that_names_its_own(folder: Path) -> None:
    recorded = Run(str(folder)).recorded()
    assert recorded is not None
    other = Run(str(folder.parent / "other"))
    other.write_study(parse_study(faulty_table(name="other", replicates={"seeds": [1]})), recorded[1])
    shutil.copy(folder.parent / "other" / "study.toml", folder)
    done = in_process("status", str(folder))
    assert done.returncode == 2
    assert f"{folder}/study.toml is not the study of this run: chains/" in done.stderr


def test_a_round_that_an_earlier_version_wrote_by_other_rules_stands(folder: Path) -> None:
    def older(body: dict[str, Any]) -> None:
        del body["size"]
        body["points"][0]["told"] += 1e-3

    forged(folder / ROUND, older)
    notes = Notes()
    local(STUDY, folder, notes)
    assert any(f"{ROUND} is not what the chains of its points give" in note for note in notes.notes)


def test_a_partial_state_that_is_not_finite_is_not_resumed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, STUDY)
    unit = bench.unit(0, None)
    next(bench.worker.run(unit))
    data = bench.worker.units.read_partial(unit.key)
    assert data is not None
    groups, meta = unpack(data)
    spoiled = {name: part * math.nan for name, part in groups["weights"].items()}
    bench.worker.units.discard_partial(unit.key, data)
    bench.worker.units.write_partial(unit.key, "00", 1, pack({**groups, "weights": spoiled}, meta))
    assert bench.train(unit)["status"] == "ok"
    assert any("does not fit (its weights are not finite)" in note for note in bench.notices)


def test_a_trial_of_half_a_character_is_damaged(folder: Path) -> None:
    place = next((folder / "units").rglob("result.json"))
    body = unseal(place.read_bytes())
    with pytest.raises(Corrupt, match=r"unit: .*surrogates not allowed"):
        shaped(Result, {**body, "unit": {**body["unit"], "dense": "\ud800"}})


@pytest.mark.parametrize("change", [{"peak": None}, {"seed": 99}, {"more": 1}])
def test_a_result_that_tells_of_another_trial_is_no_parent(folder: Path, change: dict[str, Any]) -> None:
    body = unseal(next((folder / "units").rglob("result.json")).read_bytes())
    spec = {key: value for key, value in body["unit"].items() if change.get(key, 0) is not None}
    with pytest.raises(RunFailed, match="tells of another trial"):
        unit_of({**body, "unit": {**spec, **{key: value for key, value in change.items() if value is not None}}})
