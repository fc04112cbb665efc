"""Records: what is written is what is read, and a table that somebody changed is refused by name."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from silo_tune.api import run_study
from silo_tune.errors import BadInput
from silo_tune.results.columns import FORMAT, FORMAT_KEY, LATER, columns_of
from silo_tune.results.reading import read_table
from silo_tune.results.records import Recorded, load_run, read, read_files, write_record
from silo_tune.results.table import make_table, to_parquet
from silo_tune.store.run_folder import Run
from silo_tune.study.model import Study
from tests.analysis.builder import make_frame, make_study
from tests.analysis.degenerate import CASES
from tests.plain import World, resolved, study
from tests.test_results import trained
from tests.test_searches import OPEN, TUNE
from tests.test_store import Simulated

RECORDS = Path(__file__).parent.parent / "experiments" / "records"
TABLES = sorted(file for file in RECORDS.glob("*/*.parquet") if file.name != "examples.parquet")
LEDGER: dict[str, Any] = {"format": 1, "recipe": 1, "created": "2026-01-02T03:04:05+0000", "environment": {"a": "1"}}
MADE = make_study(cycles=4, seeds=3)
FRAME = make_frame(MADE)


def reread(frame: pd.DataFrame, made: Study = MADE) -> pd.DataFrame:
    return read_table(to_parquet(frame), "some/table.parquet", made)


def refusal(frame: pd.DataFrame, made: Study = MADE) -> str:
    with pytest.raises(BadInput) as error:
        reread(frame, made)
    return str(error.value)


def changed(column: str, row: int, value: Any) -> pd.DataFrame:
    """The table with one cell written by hand."""
    frame = FRAME.astype(object)
    if isinstance(value, str):
        frame[column] = frame[column].astype(str)
    frame.loc[row, column] = value
    return frame


# --- a record is what its run was ---


@pytest.mark.parametrize(
    "changes",
    [{}, {**OPEN, "arms.linear": None, "arms.tuned": {**TUNE, "seeds": [100, 0]}}],
    ids=["plain", "searches"],
)
def test_a_run_made_a_record_reads_as_before(tmp_path: Path, changes: Mapping[str, Any]) -> None:
    trained(tmp_path / "run", study(changes), World(lambda unit: "diverged" if resolved(unit) == 1.0 else "ok"))
    before = read(str(tmp_path / "run"))
    assert not before.is_record
    assert bool(before.searches) == bool(changes)
    write_record(str(tmp_path / "record"), before)
    after = read(str(tmp_path / "record"))
    assert after.is_record
    assert not (tmp_path / "record" / "units").exists()
    pd.testing.assert_frame_equal(after.frame, before.frame)
    assert (after.study, after.ledger, after.searches) == (before.study, before.ledger, before.searches)
    pd.testing.assert_frame_equal(load_run(str(tmp_path / "record"))[0], before.frame)


@pytest.mark.parametrize("case", CASES)
def test_a_run_with_something_missing_makes_a_whole_record(case: str) -> None:
    frame, made = CASES[case]()
    pd.testing.assert_frame_equal(reread(frame, made), frame.reset_index(drop=True))


def test_a_run_that_has_decisions_derives_its_rows_from_them(tmp_path: Path) -> None:
    run = trained(tmp_path, study())
    before = read(str(tmp_path)).frame
    run.storage.replace("table.parquet", b"nonsense")
    pd.testing.assert_frame_equal(read(str(tmp_path)).frame, before)


def test_a_record_without_rows_is_one(tmp_path: Path) -> None:
    write_record(str(tmp_path), Recorded(make_table([]), MADE, LEDGER))
    found = read(str(tmp_path))
    assert found.is_record
    assert len(found.frame) == 0


def test_nothing_goes_on_with_a_record(tmp_path: Path) -> None:
    write_record(str(tmp_path), Recorded(make_table([]), study(), LEDGER))
    written = (tmp_path / "study.toml").read_bytes()
    for act in (
        lambda: run_study(study({"cycles": 3}), str(tmp_path), runner=Simulated()),
        lambda: Run(str(tmp_path)).accept(study({"cycles": 3}), {}),
    ):
        with pytest.raises(BadInput, match=r"is a record: it has rows and no trials .* choose another --out"):
            act()
    assert (tmp_path / "study.toml").read_bytes() == written


def test_a_record_takes_the_place_of_nothing_but_one_that_was_put_together(tmp_path: Path) -> None:
    trained(tmp_path / "run", study())
    made = Recorded(FRAME, MADE, {**LEDGER, "runs": [{"name": "a", "seeds": [0]}]})
    for name, message in (("run", "holds a run"), ("record", "a record that was not put together")):
        if name == "record":
            write_record(str(tmp_path / name), Recorded(FRAME, MADE, LEDGER))
        with pytest.raises(BadInput, match=message):
            write_record(str(tmp_path / name), made)
    for _ in range(2):
        write_record(str(tmp_path / "together"), made)


def test_a_record_that_was_put_together_loses_no_seed_and_becomes_no_other_study(tmp_path: Path) -> None:
    def made(seeds: int, **changes: Any) -> Recorded:
        of = make_study(cycles=4, seeds=seeds, **changes)
        return Recorded(make_frame(of), of, {**LEDGER, "runs": [{"name": "a", "seeds": list(range(seeds))}]})

    write_record(str(tmp_path), made(3))
    written = (tmp_path / "table.parquet").read_bytes()
    one_arm = {"silo": {"mode": "schedule", "schedule": {"name": "silo", "eps": 0.03, "delta": 0.04}}}
    for other, message in (
        (made(1), "has seeds that would be lost: 1, 2; name the run or record that has them"),
        (made(3, arms=one_arm), "holds the record of another study"),
    ):
        with pytest.raises(BadInput, match=message):
            write_record(str(tmp_path), other)
        assert (tmp_path / "table.parquet").read_bytes() == written
    write_record(str(tmp_path), made(5, tolerance=0.01))
    assert len(read(str(tmp_path)).study.replicates.seeds) == 5


@pytest.mark.parametrize("name", ["table.parquet", "data.json", "report/report.html"])
def test_a_record_is_not_written_among_other_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(BadInput, match=rf"holds other files \({name}\); choose another --out"):
        write_record(str(tmp_path), Recorded(FRAME, MADE, LEDGER))
    assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / "study.toml").exists()


def test_a_file_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="file is a file; name the folder of a run or a record"):
        read(str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("line", "why"), [('format = "x"', "a format that is no number"), ('environment = "x"', "no table")]
)
def test_a_ledger_that_was_edited_by_hand_is_told_by_name(tmp_path: Path, line: str, why: str) -> None:
    key = line.split(" = ")[0]
    value = line.split(" = ")[1].strip('"')
    write_record(str(tmp_path), Recorded(FRAME, MADE, {**LEDGER, key: value}))
    with pytest.raises(BadInput, match=rf"is damaged \(.*{why}.*put back a copy"):
        read(str(tmp_path))


@pytest.mark.parametrize("file", TABLES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_recorded_table_is_read(file: Path) -> None:
    found = read(str(file.parent)) if file.name == "table.parquet" else read_files(file, file.with_suffix(".toml"))
    assert list(found.frame.columns) == list(columns_of(found.study))
    assert len(found.frame) == parquet.read_metadata(file).num_rows > 0


# Rows, winners, and means of the accuracies over rows: what the records hold since they were made.
NUMBERS: dict[str, tuple[int, int, float, float]] = {
    "2026-11-23-search/cifar10.parquet": (585, 81, 0.578959658, 0.567463077),
    "2026-11-23-search/digits.parquet": (2490, 360, 0.967975531, 0.946359002),
    "2026-11-23-search/tune.parquet": (565, 565, 0.970825007, 0.948924002),
    "2026-11-25-baselines/baselines.parquet": (900, 900, 0.979690283, 0.954199938),
    "2026-11-25-baselines/structured.parquet": (180, 180, 0.968737902, 0.945264624),
    "2026-11-25-cifar10-short/table.parquet": (1840, 990, 0.513323261, 0.510452174),
    "2026-11-25-fashion-mnist/table.parquet": (3731, 2025, 0.88578841, 0.877987332),
    "2026-11-30-digits-keep/table.parquet": (3588, 936, 0.975550361, 0.952562981),
    "2026-11-30-digits-reinit/table.parquet": (3566, 912, 0.79298435, 0.772872418),
    "2026-11-30-digits-rewind/table.parquet": (3588, 936, 0.96146862, 0.939876807),
    "2026-11-30-fashion-mnist-reinit/table.parquet": (7251, 2426, 0.822577308, 0.813086768),
    "2026-12-01-adult/table.parquet": (575, 180, 0.806300538, 0.802187636),
    "2026-12-01-digits-20-seeds/table.parquet": (5958, 1536, 0.792990734, 0.772360049),
    "2026-12-01-fashion-mnist-rewind/table.parquet": (7379, 2479, 0.845931581, 0.836122145),
    "2026-12-01-housing/table.parquet": (575, 180, 0.726624233, 0.733295691),
    "2026-12-01-movielens/table.parquet": (738, 262, 0.680401675, 0.670198726),
    "2026-12-01-profiles/table.parquet": (1609, 1584, 0.911891088, 0.89122422),
    "2026-12-01-reviews/table.parquet": (575, 180, 0.707842609, 0.707307826),
    "2026-12-01-transfer/table.parquet": (1169, 1144, 0.332939238, 0.326723416),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_record_is_read_to_the_same_numbers(name: str) -> None:
    file = RECORDS / name
    found = read(str(file.parent)) if file.name == "table.parquet" else read_files(file, file.with_suffix(".toml"))
    frame = found.frame
    assert numbers(frame) == NUMBERS[name]


def numbers(frame: pd.DataFrame) -> tuple[int, int, float, float]:
    val, test = (round(float(frame[part].mean()), 9) for part in ("val_score", "test_score"))
    return len(frame), int(frame["winner"].sum()), val, test


def test_no_record_is_left_out() -> None:
    assert {RECORDS / name for name in NUMBERS} == set(TABLES)


# --- versions and columns ---


def with_version(version: bytes | None) -> bytes:
    found = parquet.read_table(io.BytesIO(to_parquet(FRAME)))
    known = {key: value for key, value in found.schema.metadata.items() if key != FORMAT_KEY}
    buffer = io.BytesIO()
    extra = {} if version is None else {FORMAT_KEY: version}
    parquet.write_table(found.replace_schema_metadata({**known, **extra}), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["val_score", "test_score"])
@pytest.mark.parametrize("value", [float("nan"), None])
def test_what_was_trained_has_its_accuracies(name: str, value: float | None) -> None:
    frame = FRAME.astype({name: object})
    frame.loc[4, name] = value
    assert f"{name}" in refusal(frame)
    assert "a row whose status is ok has one" in refusal(frame)


def test_a_table_says_its_version_and_one_that_does_not_is_of_the_first() -> None:
    assert parquet.read_schema(io.BytesIO(to_parquet(FRAME))).metadata[FORMAT_KEY] == str(FORMAT).encode()
    pd.testing.assert_frame_equal(read_table(with_version(None), "t", MADE), FRAME)


def test_a_table_of_a_newer_version_asks_for_an_update() -> None:
    newer = str(FORMAT + 1).encode()
    with pytest.raises(BadInput, match=rf"^t was made by a newer silo-tune \(table {FORMAT + 1}, .*\); update$"):
        read_table(with_version(newer), "t", MADE)
    with pytest.raises(BadInput, match="its version 'x' is none"):
        read_table(with_version(b"x"), "t", MADE)


def test_missing_columns_are_named_but_those_of_later_versions_are_null() -> None:
    assert "no column seed, key;" in refusal(FRAME.drop(columns=["key", "seed", *LATER]))
    found = reread(FRAME.drop(columns=list(LATER)))
    assert found["activation_spread_norm"].isna().all()
    assert found["mixed"].tolist() == FRAME["mixed"].tolist()


def test_other_columns_and_plain_types_do_no_harm() -> None:
    plain = FRAME.astype(object)
    for name in ("max_lr", "seed", "cycle", "winner"):
        plain[name] = plain[name].astype(str)
    plain["val_score"] = FRAME["val_score"].astype(float)
    plain["candidate"] = FRAME["candidate"].astype(float)
    pd.testing.assert_frame_equal(reread(plain.assign(mine=1)), FRAME)


@pytest.mark.parametrize("cut", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"arm,seed\n"])
def test_a_file_that_is_no_table_is_one_clear_line(cut: Callable[[bytes], bytes]) -> None:
    with pytest.raises(BadInput, match=r"^t is not a whole Parquet file \(.*\); put back a copy$") as error:
        read_table(cut(to_parquet(FRAME)), "t", MADE)
    assert "\n" not in str(error.value)


def test_two_columns_of_one_name_are_refused() -> None:
    made = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["arm", "arm"])
    buffer = io.BytesIO()
    parquet.write_table(made, buffer)
    with pytest.raises(BadInput, match="two columns have one name"):
        read_table(buffer.getvalue(), "t", MADE)


# --- cells written by hand ---

CELLS: list[tuple[str, Any, str]] = [
    ("val_score", 93.1, "val_score: 93.1 in row 7; an accuracy is in [0, 1], not in percent"),
    ("test_score", -0.1, "test_score: -0.1 in row 7; an accuracy is in [0, 1]"),
    ("max_lr", -0.1, "max_lr: -0.1 in row 7; a learning rate is above 0"),
    ("max_lr", 0.0, "max_lr: 0 in row 7; a learning rate is above 0"),
    ("max_lr", "fast", "max_lr: fast in row 7; it holds numbers"),
    ("max_lr", float("inf"), "max_lr: inf in row 7; it holds numbers"),
    ("realised_peak_lr", -1.0, "realised_peak_lr: -1 in row 7; a learning rate is not negative"),
    ("status", "fine", "status: fine in row 7; choose from ok, diverged, failed"),
    ("mode", "oracle", "mode: oracle in row 7; it is that of the arm in the study"),
    ("cycle", 4, "cycle: 4 in row 7; the study has cycles 0 to 3"),
    ("cycle", 1.5, "cycle: 1.5 in row 7; it holds whole numbers"),
    ("seed", 17, "seed: 17 in row 7; the study has 0, 1, 2"),
    ("seed", None, "seed: nothing in row 7; every row has one"),
    ("arm", "slio", "arm: slio in row 7; the study has silo, low, high, ramp, oracle, oracle-at-silo"),
    ("sparsity", 20.0, "sparsity: 20 in row 7; a sparsity is in [0, 1], not in percent"),
    ("weights_remaining", 0.9, "in row 7; they add up to 1"),
    ("winner", "maybe", "winner: maybe in row 7; it holds true or false"),
    ("n_val", -5, "n_val: -5 in row 7; it is not negative"),
    ("trial", 0, "seed: 1 in row 7; the search of silo has none"),
]


@pytest.mark.parametrize(("column", "value", "line"), CELLS, ids=[f"{name}={value}" for name, value, _ in CELLS])
def test_a_cell_that_cannot_be_is_named_with_its_row_and_value(column: str, value: Any, line: str) -> None:
    told = refusal(changed(column, 7, value))
    assert line in told
    assert all(part.startswith("some/table.parquet: ") for part in told.splitlines())


def test_every_wrong_column_is_told_at_once_and_many_rows_are_counted() -> None:
    frame = FRAME.astype(object)
    frame["val_score"] = 100 * FRAME["val_score"]
    frame.loc[3, "status"] = "fine"
    lines = refusal(frame).splitlines()
    assert len(lines) == 2
    assert f"in rows 0, 1, 2, 3, 4 and {len(FRAME) - 5} more; an accuracy" in lines[0]
    assert "status: fine in row 3" in lines[1]


def test_a_row_that_is_there_twice_is_refused() -> None:
    told = refusal(pd.concat([FRAME, FRAME.iloc[[5]]], ignore_index=True))
    assert f"in rows 5, {len(FRAME)}; every row has its own" in told
    assert "arm, seed, trial, cycle, candidate, repeat: (silo, 1, nothing, 1, 0, 0)" in told


def test_a_cycle_with_two_winners_is_refused() -> None:
    cycle = FRAME[(FRAME["arm"] == "oracle") & (FRAME["seed"] == 1) & (FRAME["cycle"] == 2)]
    frame = FRAME.copy()
    frame.loc[cycle.index, "winner"] = True
    assert "(oracle, 1, nothing, 2)" in (told := refusal(frame))
    assert "a cycle has one winner" in told
