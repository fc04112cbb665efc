"""Which examples a trial got right: written by its unit, gathered with the table, and never worth a training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from silo_analysis.combine.merge import merge
from silo_tune.api import run_study
from silo_tune.data import batches
from silo_tune.data.batches import Feed
from silo_tune.models.build import build_model
from silo_tune.models.checkpoint import load_weights
from silo_tune.planner.unit import Unit
from silo_tune.results.example_rows import EXAMPLES, gather, to_bytes
from silo_tune.results.records import read, write_record
from silo_tune.run.session import Outcome
from silo_tune.store.example_file import pack_bits, pack_examples, unpack_examples
from silo_tune.store.run_folder import Run
from silo_tune.store.storage import Corrupt, seal, unseal
from silo_tune.study.study_file import load_study
from tests.conftest import small_study
from tests.test_cli import in_process
from tests.test_cycle import Bench
from tests.test_old_runs import OLD
from tests.test_run import Notes, assert_same_table, local

STUDY = small_study(cycles=2, replicates={"seeds": [0, 1]})


# --- the file ---


@pytest.mark.parametrize("n", [1, 7, 8, 9, 1000])
def test_a_file_gives_back_what_was_packed_in_bits_or_floats(n: int) -> None:
    rng = np.random.default_rng(n)
    parts = {
        "val": rng.random(n) < 0.5,
        "loss": rng.standard_normal(n).astype(np.float16),
        "test": rng.random(n + 3) < 0.9,
        "error": rng.standard_normal(n).astype(np.float32),
    }
    data = pack_examples(parts)
    found = unpack_examples(data)
    assert list(found) == list(parts)
    for name, values in parts.items():
        assert found[name].dtype == values.dtype
        assert np.array_equal(found[name], values)
    assert len(data.partition(b"\n")[2]) == (n + 7) // 8 + 2 * n + (n + 10) // 8 + 4 * n


def test_the_first_example_is_the_highest_bit() -> None:
    assert pack_bits(np.array([True, False, False, False, False, False, False, False, True])) == b"\x80\x80"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: b"",
        lambda data: b"\xff\xfe" + data,
        lambda data: b"[1, 2]\n",
        lambda data: data.replace(b'"examples": 1', b'"examples": 2'),
        lambda data: data.replace(b'"bits"', b'"int4"'),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(spoil: Callable[[bytes], bytes]) -> None:
    data = pack_examples({"val": np.ones(20, dtype=bool)})
    with pytest.raises(ValueError):  # noqa: PT011
        unpack_examples(spoil(data))


def test_only_bits_and_small_floats_are_packed() -> None:
    with pytest.raises(ValueError, match="bool, float16 or float32, not int64"):
        pack_examples({"val": np.arange(3)})


# --- a unit's own ---


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "run", small_study())


def examples_of(bench: Bench, result: dict[str, Any]) -> dict[str, Any]:
    data = bench.worker.units.read_examples(result)
    assert data is not None
    return unpack_examples(data)


def test_a_unit_keeps_which_examples_its_committed_weights_get_right(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "EVALUATION_PIXELS", 30 * 64)  # 30 images at a time, and a rest
    dense = bench.unit(0, None)
    unit = bench.unit(1, dense)
    for trained in (dense, unit):
        result = bench.train(trained)
        found = examples_of(bench, result)
        model = build_model(trained.model, bench.dataset.shape, bench.dataset.classes, 0)
        load_weights(model, bench.weights(trained)["weights"])
        feed = bench.worker.feed(trained)
        assert isinstance(feed, Feed)
        for name, part in (("val", feed.val), ("test", feed.test)):
            assert isinstance(part.images, torch.Tensor)
            images = torch.stack([feed.normalised(part.images[row][None])[0] for row in part.rows])  # one by one
            with torch.no_grad():
                right = model.eval()(images).argmax(1) == part.labels[part.rows]
            assert found[name].tolist() == right.tolist()
            assert found[name].mean() == result[f"{name}_score"]
            assert 0 < found[name].mean() < 1  # else this test sees nothing


def test_test_examples_have_one_order_for_all_seeds_and_validation_examples_that_of_their_seed(bench: Bench) -> None:
    feeds = [bench.worker.feed(bench.unit(0, None)), bench.worker.feed(_seeded(bench, 1))]
    assert feeds[0].test.rows.tolist() == feeds[1].test.rows.tolist()
    assert feeds[0].val.rows.tolist() != feeds[1].val.rows.tolist()


def _seeded(bench: Bench, seed: int) -> Unit:
    return replace(bench.unit(0, None), seed=seed)


def test_a_diverged_unit_has_none(bench: Bench) -> None:
    dense = bench.unit(0, None)
    bench.train(dense)
    unit = bench.unit(1, dense, {"value": 1e8})
    result = bench.train(unit)
    assert (result["status"], result["examples"]) == ("diverged", None)
    assert bench.worker.units.read_examples(result) is None
    assert not list((Path(bench.workspace.run) / bench.worker.units.folder(unit.key)).glob("examples-*"))


def test_the_best_of_several_epochs_is_of_no_one_networks_test_images(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "run", small_study(evaluate={"best_on_test": True}))
    result = bench.train(bench.unit(0, None))
    assert list(examples_of(bench, result)) == ["val"]


def test_an_interrupted_unit_has_the_examples_of_one_that_was_not(tmp_path: Path) -> None:
    study = small_study(retrain={"epochs": 4})
    straight, cut = Bench(tmp_path / "a", study), Bench(tmp_path / "b", study)
    for bench in (straight, cut):
        bench.train(bench.unit(0, None))
    unit = straight.unit(1, straight.unit(0, None))
    expected = straight.worker.units.read_examples(straight.train(unit))
    progress = cut.worker.run(unit)
    for _ in range(3):
        next(progress)
    progress.close()
    cut.worker = cut.fresh()
    assert cut.worker.units.read_examples(cut.train(unit)) == expected


def test_the_file_is_there_before_its_result(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    dense, units = bench.unit(0, None), bench.worker.units
    folder, commit = Path(bench.workspace.run) / units.folder(dense.key), units.commit
    there: list[list[str]] = []

    def seen(result: Any) -> dict[str, Any]:
        there.append(sorted(path.name.split("-")[0] for path in folder.iterdir()))
        return commit(result)

    monkeypatch.setattr(units, "commit", seen)
    bench.train(dense)
    assert [set(names) - {"partial"} for names in there] == [{"examples", "state"}]


def test_what_an_attempt_left_behind_goes_and_a_sweep_keeps_the_rest(bench: Bench) -> None:
    dense, units = bench.unit(0, None), bench.worker.units
    units.write_examples(dense.key, "aa", b"of an attempt that died")
    result = bench.train(dense)
    folder = Path(bench.workspace.run) / units.folder(dense.key)
    assert [path.name for path in folder.glob("examples-*")] == [result["examples"]["file"]]
    before = units.read_examples(result)
    units.sweep(dense.key)
    assert units.read_state(result) is None
    assert units.read_examples(result) == before


def test_weights_that_are_trained_again_leave_the_examples_alone(bench: Bench) -> None:
    dense = bench.unit(0, None)
    result = bench.train(dense)
    folder = Path(bench.workspace.run) / bench.worker.units.folder(dense.key)
    (folder / result["examples"]["file"]).unlink()
    (folder / result["state"]["file"]).unlink()
    bench.train(bench.unit(1, dense))
    assert (folder / "restate-1.json").exists()
    assert not list(folder.glob("examples-*"))


def test_a_name_elsewhere_is_not_followed(bench: Bench) -> None:
    dense = bench.unit(0, None)
    result = bench.train(dense)
    file = Path(bench.workspace.run) / bench.worker.units.folder(dense.key) / "result.json"
    for claim in ({"file": "../../../../secret"}, {"file": "examples-../x.bin"}, {"sha256": "0"}, "text", 7):
        body = unseal(file.read_bytes()) if file.exists() else dict(result)
        file.write_bytes(seal({**body, "examples": claim}))
        assert bench.worker.units.result(dense.key) is None
        assert "result.json is corrupt (examples" in bench.notices[-1]


# --- a run's ---


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return local(STUDY, tmp_path_factory.mktemp("examples") / "run")


def copied(finished: Outcome, place: Path) -> Path:
    shutil.copytree(finished.url, place)
    return place


def chosen(finished: Outcome) -> pd.DataFrame:
    frame = finished.frame
    return frame[(frame["winner"] | frame["continued"]) & (frame["status"] == "ok")].drop_duplicates("key")


def test_a_run_gathers_those_of_its_chains(finished: Outcome) -> None:
    run, found = Run(finished.url), read(finished.url).examples
    assert found is not None
    assert found.damaged == ()
    assert set(found.table["key"]) == set(chosen(finished)["key"])
    assert len(found.table) == 2 * len(chosen(finished))
    pd.testing.assert_frame_equal(pd.read_parquet(Path(finished.url) / EXAMPLES), found.table, check_dtype=False)
    for row in chosen(finished).to_dict("records"):
        result = run.result(row["key"])
        assert result is not None
        data = run.units.read_examples(result)
        assert data is not None
        for part, values in unpack_examples(data).items():
            right = found.right(row["key"], part)
            assert right is not None
            assert right.tolist() == values.tolist()
            assert right.mean() == row[f"{part}_score"]
    assert found.right("0" * 64, "test") is None


@pytest.mark.slow
def test_a_second_start_and_a_report_write_the_same_bytes(finished: Outcome, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path / "run")
    before = (folder / EXAMPLES).read_bytes()
    (folder / EXAMPLES).unlink()
    assert local(STUDY, folder).counts.trained == 0
    assert (folder / EXAMPLES).read_bytes() == before
    (folder / EXAMPLES).unlink()
    assert in_process("report", str(folder)).returncode == 0
    assert (folder / EXAMPLES).read_bytes() == before


@pytest.mark.slow
def test_they_are_the_same_on_ray(finished: Outcome, tmp_path: Path) -> None:
    outcome = run_study(STUDY, str(tmp_path / "run"), preflight=False)
    assert_same_table(outcome.frame, finished.frame)
    assert (tmp_path / "run" / EXAMPLES).read_bytes() == (Path(finished.url) / EXAMPLES).read_bytes()


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def harmed(finished: Outcome, folder: Path, harm: Callable[[Path], None]) -> tuple[str, Path]:
    """Damage the examples of one trial of the judged schedule; its key and the file."""
    frame = chosen(finished)
    key = str(frame.loc[(frame["arm"] == "silo") & (frame["cycle"] == 1), "key"].iloc[0])
    file = next((folder / "units" / key[:2] / key).glob("examples-*"))
    harm(file)
    return key, file


@pytest.mark.parametrize(
    ("harm", "said"),
    [(flip, "is corrupt"), (Path.unlink, "is missing"), (lambda file: file.write_bytes(b""), "is corrupt")],
    ids=["flipped", "gone", "emptied"],
)
def test_damage_is_told_by_name_and_costs_nothing_else(
    finished: Outcome, tmp_path: Path, harm: Callable[[Path], None], said: str
) -> None:
    folder, notes = copied(finished, tmp_path / "run"), Notes()
    whole = read(str(folder)).examples
    key, file = harmed(finished, folder, harm)
    (folder / EXAMPLES).unlink()
    table = (folder / "table.parquet").read_bytes()
    again = local(STUDY, folder, notes)
    assert again.counts.trained == 0
    assert_same_table(again.frame, finished.frame)
    assert [note for note in notes.notes if file.name in note and said in note and "not made again" in note]
    found = read(str(folder)).examples
    assert found is not None
    assert whole is not None
    assert found.right(key, "test") is None
    assert len(found.table) == len(whole.table) - 2
    done = in_process("report", str(folder))
    assert done.returncode == 0
    assert f"Note: Damaged: {folder}/units/{key[:2]}/{key}/{file.name} {said}" in done.stdout
    assert (folder / "table.parquet").read_bytes() == table
    assert not list(file.parent.glob("*.corrupt-*"))


def test_what_was_gathered_before_stands_in_for_a_file_that_is_gone(finished: Outcome, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path / "run")
    before = (folder / EXAMPLES).read_bytes()
    _, file = harmed(finished, folder, Path.unlink)
    found = gather(Run(str(folder)), finished.frame)
    assert to_bytes(found.table) == before
    assert found.damaged == (f"{file} is missing; {EXAMPLES} has them still",)


def test_examples_of_another_training_do_not_stand_in(finished: Outcome, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path / "run")
    key, _ = harmed(finished, folder, Path.unlink)
    table = pd.read_parquet(folder / EXAMPLES)
    other = np.zeros(int(table["n"].iloc[0]), dtype=bool)
    table["bits"] = table["bits"].where(table["key"] != key, pack_bits(other))
    (folder / EXAMPLES).write_bytes(to_bytes(table))
    found = gather(Run(str(folder)), finished.frame)
    assert found.right(key, "test") is found.right(key, "val") is None
    assert f"the test examples of trial {key[:12]} do not fit its row; they are left out" in found.damaged


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PAR1" + bytes(40) + b"PAR1", None], ids=str)
def test_a_table_of_examples_that_cannot_be_read_refuses_nothing(
    finished: Outcome, tmp_path: Path, content: bytes | None
) -> None:
    write_record(str(tmp_path / "record"), read(finished.url))
    whole = tmp_path / "record" / EXAMPLES
    if content is None:  # of a later version
        table = pd.read_parquet(whole)
        table.to_parquet(whole)
    else:
        whole.write_bytes(content)
    found = read(str(tmp_path / "record"))
    assert found.examples is not None
    assert len(found.examples.table) == 0
    assert found.examples.damaged[0].startswith(f"{whole} cannot be read (")
    done = in_process("report", str(tmp_path / "record"))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Note: Damaged: {whole} cannot be read" in done.stdout


def test_what_a_unit_claims_without_a_reason_is_refused_when_it_is_read(bench: Bench) -> None:
    result = bench.train(bench.unit(0, None))
    claim = result["examples"]
    with pytest.raises(Corrupt, match=r"examples-.*\.bin is corrupt"):
        bench.worker.units.read_examples({**result, "examples": {**claim, "sha256": "0"}})
    assert bench.worker.units.read_examples({**result, "examples": None}) is None
    old = {name: value for name, value in result.items() if name != "examples"}
    assert bench.worker.units.read_examples(old) is None


# --- records, old runs, several runs ---


def test_a_trial_that_is_reused_comes_with_its_examples(finished: Outcome, tmp_path: Path) -> None:
    again = run_study(STUDY, str(tmp_path / "run"), local=True, reuse=[finished.url])
    assert again.counts.trained == 0
    assert (tmp_path / "run" / EXAMPLES).read_bytes() == (Path(finished.url) / EXAMPLES).read_bytes()
    names = [sorted(path.name for path in Path(url).rglob("examples-*")) for url in (finished.url, again.url)]
    assert names[0] == names[1]


@pytest.mark.slow
def test_a_record_keeps_them_and_reports_the_same(finished: Outcome, tmp_path: Path) -> None:
    before = read(finished.url)
    write_record(str(tmp_path / "record"), before)
    after = read(str(tmp_path / "record"))
    assert before.examples is not None
    assert after.examples is not None
    pd.testing.assert_frame_equal(after.examples.table, before.examples.table)
    assert after.examples.damaged == ()
    copied(finished, tmp_path / "run")
    answers = []
    for place in ("run", "record"):
        done = in_process("report", str(tmp_path / place), "--format", "json")
        assert done.returncode == 0, done.stderr
        answers.append({name: value for name, value in json.loads(done.stdout).items() if name != "report"})
    assert answers[0] == answers[1]


def test_a_record_that_is_written_again_does_not_keep_those_of_before(finished: Outcome, tmp_path: Path) -> None:
    found = read(finished.url)
    assert found.examples is not None
    made = replace(found, ledger={**found.ledger, "runs": [{"name": "a", "seeds": [0, 1]}]})
    write_record(str(tmp_path / "record"), made)
    assert (tmp_path / "record" / EXAMPLES).exists()
    write_record(
        str(tmp_path / "record"), replace(made, examples=replace(found.examples, table=found.examples.table[:0]))
    )
    assert not (tmp_path / "record" / EXAMPLES).exists()


def test_runs_put_together_have_the_examples_of_all(finished: Outcome, tmp_path: Path) -> None:
    other = local(small_study(cycles=2, replicates={"seeds": [1, 2]}), tmp_path / "other")
    runs = {name: read(place) for name, place in (("one", finished.url), ("two", other.url))}
    found = merge(runs)
    assert found.examples is not None
    keys = [set(run.examples.table["key"]) for run in runs.values() if run.examples is not None]
    assert keys[0] & keys[1]
    assert set(found.examples.table["key"]) == keys[0] | keys[1]
    assert not found.examples.table.duplicated(["key", "part"]).any()
    write_record(str(tmp_path / "record"), found)
    again = read(str(tmp_path / "record"))
    assert again.examples is not None
    one, other_ = (
        each.table.sort_values(["key", "part"], ignore_index=True) for each in (again.examples, found.examples)
    )
    pd.testing.assert_frame_equal(one, other_)


@pytest.mark.slow
def test_a_run_of_a_version_without_examples_goes_on_and_says_what_is_missing(tmp_path: Path) -> None:
    shutil.copytree(OLD / "run", tmp_path / "run")
    before = read(str(tmp_path / "run"))
    assert before.examples is not None
    assert len(before.examples.table) == 0
    assert before.examples.damaged == ()
    notes = Notes()
    outcome = local(load_study(OLD / "study.toml"), tmp_path / "run", notes)
    old = set(before.frame["key"].dropna())
    found = read(str(tmp_path / "run")).examples
    assert found is not None
    assert set(found.table["key"]) == set(chosen(outcome)["key"]) - old
    assert not [note for note in notes.notes if "examples" in note]
    done = in_process("report", str(tmp_path / "run"))
    assert done.returncode == 0
    assert "Note: No examples (which test images were right) of " in done.stdout
