from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest

from silo_tune.errors import BadInput
from silo_tune.planner.planner import Planner
from silo_tune.planner.unit import Unit
from silo_tune.results.columns import COLUMNS, UNSTABLE
from silo_tune.results.records import load_run
from silo_tune.results.rows import rows
from silo_tune.results.table import make_table, table, write_table
from silo_tune.store.run_folder import Run
from silo_tune.study.model import Study
from tests.plain import Drive, World, on_disk, resolved, study

ALLR = {"mode": "schedule", "schedule": {"name": "allr", "max_lr": 0.1}}
MEASURED = (
    "sparsity", "weights_remaining", "val_score", "val_loss", "n_val", "test_score", "n_test", "train_loss",
    "classes", "epochs", "steps", "train_seconds", "realised_peak_lr", "device", "version",
)  # fmt: skip


def trained(place: Path, made: Study, world: World | None = None, tells: int | None = None) -> Run:
    run = Run(str(place))
    since = run.accept(made, {"silo-tune": "0"})
    Drive(on_disk(run), world or World())(Planner(made, run, since), tells)
    return run


@pytest.fixture(scope="module")
def made() -> Study:
    return study({"arms.allr": ALLR})


@pytest.fixture(scope="module")
def frame(made: Study, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return table(trained(tmp_path_factory.mktemp("run"), made))


def only(frame: pd.DataFrame, **where: Any) -> pd.DataFrame:
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return frame


# --- shape ---


def test_the_table_has_exactly_the_columns_and_types_it_declares(frame: pd.DataFrame) -> None:
    assert list(frame.columns) == list(COLUMNS)
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == {n: kind for n, (kind, _) in COLUMNS.items()}


def test_a_run_without_a_closed_cycle_has_an_empty_table_of_the_same_types(tmp_path: Path, made: Study) -> None:
    frame = table(trained(tmp_path, made, tells=0))
    assert len(frame) == 0
    assert list(frame.columns) == list(COLUMNS)
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == {n: kind for n, (kind, _) in COLUMNS.items()}


def test_every_column_says_what_it_is() -> None:
    assert all(line for _, line in COLUMNS.values())
    assert set(UNSTABLE) <= set(COLUMNS)


def test_the_table_survives_parquet(tmp_path: Path, made: Study) -> None:
    run = trained(tmp_path, made, tells=30)
    frame = table(run)
    write_table(run, frame)
    again = pd.read_parquet(io.BytesIO(run.storage.read("table.parquet")))
    pd.testing.assert_frame_equal(again, frame)


def test_rows_are_in_study_order_and_one_per_candidate(made: Study, frame: pd.DataFrame) -> None:
    arms = {name: position for position, name in enumerate(made.arms)}
    where = list(zip(frame["arm"].map(arms), frame["seed"], frame["cycle"], frame["candidate"], strict=True))
    assert where == sorted(set(where))
    assert len(only(frame, arm="silo", seed=0)) == made.cycles
    assert len(only(frame, arm="greedy", seed=0, cycle=1)) == 3 + 2  # silo and constant ask 0.03, linear its own


# --- values ---

SPREADS = ("grad_spread", "activation_spread", "activation_spread_norm")


class Measured(World):
    """Units whose spreads are measured; those of a plain `World` are as they were made before."""

    def outcome(self, unit: Unit) -> dict[str, Any]:
        return {**super().outcome(unit), **dict(zip(SPREADS, (0.25, 0.5, None), strict=True))}


def test_spreads_come_from_the_results_that_have_them(tmp_path: Path, made: Study) -> None:
    frame = table(trained(tmp_path, made, Measured()))
    assert (frame["grad_spread"] == 0.25).all()
    assert (frame["activation_spread"] == 0.5).all()
    assert frame["activation_spread_norm"].isna().all()


def test_a_cell_is_null_where_there_is_nothing(frame: pd.DataFrame) -> None:
    for name in ("trial", "error", *SPREADS):
        assert frame[name].isna().all()
    assert (frame["parent"].isna() == (frame["cycle"] == 0)).all()
    assert (frame["peak_rule"].notna() == ((frame["arm"] == "allr") & (frame["cycle"] > 0))).all()
    assert frame["tests"].notna().sum() > 0
    assert not (frame["tests"] == "").any()


def test_the_mode_is_that_of_the_arm(made: Study, frame: pd.DataFrame) -> None:
    assert (frame["mode"] == frame["arm"].map({name: arm.mode for name, arm in made.arms.items()})).all()


def test_an_adaptive_peak_shows_its_rule_and_its_resolved_rate(frame: pd.DataFrame) -> None:
    adaptive = only(frame, arm="allr", cycle=1)
    assert list(adaptive["peak_rule"]) == ["allr", "allr"]
    assert list(adaptive["max_lr"]) == [0.05, 0.05]


def test_sparsity_and_weights_remaining_add_up(made: Study, frame: pd.DataFrame) -> None:
    assert ((frame["sparsity"] + frame["weights_remaining"] - 1).abs() < 1e-12).all()
    expected = frame["cycle"].map(dict(enumerate(made.remaining)))
    assert ((frame["weights_remaining"] - expected).abs() < 1e-12).all()


def test_a_tested_value_is_marked_with_its_arms_and_as_not_asked(frame: pd.DataFrame) -> None:
    first = only(frame, arm="greedy", seed=0, cycle=1)
    assert dict(zip(first["max_lr"], first["asked"], strict=True)) == {
        0.01: True, 0.03: False, first["max_lr"].iloc[2]: False, 0.1: True, 1.0: True,
    }  # fmt: skip
    assert list(first["tests"].fillna("-")) == ["-", "silo,constant", "linear", "-", "-"]


# --- winner, continued, shared_with ---


def test_every_closed_cycle_has_one_winner_and_it_is_the_best_on_validation(frame: pd.DataFrame) -> None:
    for _, cycle in frame.groupby(["arm", "seed", "cycle"]):
        winner = cycle[cycle["winner"]]
        assert len(winner) == 1
        assert winner["val_score"].item() == cycle["val_score"].max()


def test_an_arm_goes_on_from_its_winner_unless_another_row_says_continued(made: Study, frame: pd.DataFrame) -> None:
    for where, candidates in frame.groupby(["arm", "seed", "cycle"]):
        arm, seed, cycle = cast(tuple[str, int, int], where)
        parents = set(only(frame, arm=arm, seed=seed, cycle=cycle + 1)["parent"])
        marked = candidates[candidates["continued"]]
        assert len(marked) <= 1
        if cycle == made.cycles - 1:
            assert len(marked) == 0
            continue
        chosen = marked if len(marked) else candidates[candidates["winner"]]
        assert parents == set(chosen["key"])
        assert not (candidates["continued"] & candidates["winner"]).any()


def test_a_conditioned_oracle_continues_with_its_leaders_unit(frame: pd.DataFrame) -> None:
    marked = only(frame, arm="conditioned", continued=True)
    assert len(marked) > 0
    assert not frame[frame["arm"] != "conditioned"]["continued"].any()
    for row in marked.itertuples():
        assert row.key in set(only(frame, arm="silo", seed=row.seed, cycle=row.cycle)["key"])


def test_shared_with_names_the_first_arm_of_the_study_that_owns_the_key(made: Study, frame: pd.DataFrame) -> None:
    for key, users in frame.groupby("key"):
        arms = [arm for arm in made.arms if arm in set(users["arm"])]
        for row in users.itertuples():
            if row.arm == arms[0]:
                assert row.shared_with is pd.NA, key
            else:
                assert row.shared_with == arms[0]
    assert frame["shared_with"].isna().sum() == frame["key"].nunique()


# --- what went wrong is a row ---


def test_a_failed_unit_is_a_row_with_its_reason_and_no_numbers(tmp_path: Path) -> None:
    made = study({"replicates.seeds": [0]})
    world = World(lambda unit: "failed" if unit.cycle == 1 and resolved(unit) == 0.1 else "ok")
    frame = table(trained(tmp_path, made, world))
    bad = only(frame, status="failed")
    assert set(bad["arm"]) == {"greedy", "conditioned"}
    assert set(bad["error"]) == {"OSError: no space"}
    assert set(bad["max_lr"]) == {0.1}
    assert bad[list(MEASURED)].isna().all().all()
    assert bad["key"].notna().all()
    assert not bad["winner"].any()
    assert frame.groupby(["arm", "cycle"]).size()["greedy", 1] == 5  # the grid keeps its edge


def test_a_failed_row_takes_no_numbers_from_a_later_arm_that_trained_the_unit(tmp_path: Path) -> None:
    made, bad = study({"replicates.seeds": [0]}), []

    def fails(unit: Unit) -> str:
        if unit.cycle == 1 and resolved(unit) == 0.03:
            bad.append(unit)
            return "failed"
        return "ok"

    run = trained(tmp_path, made, World(fails))
    on_disk(run)(World().outcome(bad[0]))
    rows_ = only(table(run), key=bad[0].key)
    assert set(rows_["status"]) == {"failed"}
    assert rows_[list(MEASURED)].isna().all().all()


def test_a_diverged_unit_is_a_row_with_its_reason_and_no_accuracy(tmp_path: Path) -> None:
    made = study({"replicates.seeds": [0]})
    world = World(lambda unit: "diverged" if resolved(unit) == 1.0 else "ok")
    frame = table(trained(tmp_path, made, world))
    bad = only(frame, status="diverged")
    assert len(bad) == 2 * (made.cycles - 1)
    assert bad[["val_score", "val_loss", "test_score"]].isna().all().all()
    assert bad[["max_lr", "n_val", "epochs", "train_seconds", "error"]].notna().all().all()
    assert not bad["winner"].any()


def test_a_chain_that_ended_keeps_its_rows(tmp_path: Path) -> None:
    made = study({"replicates.seeds": [0]})
    frame = table(trained(tmp_path, made, World(lambda unit: "failed" if unit.cycle == 2 else "ok")))
    for arm in made.arms:
        assert list(only(frame, arm=arm)["cycle"].unique()) == [0, 1, 2]
        assert not only(frame, arm=arm, cycle=2)["winner"].any()
        assert not only(frame, arm=arm, cycle=2)["continued"].any()


def test_a_row_whose_result_file_is_lost_is_kept(tmp_path: Path) -> None:
    made = study({"replicates.seeds": [0]})
    run = trained(tmp_path, made)
    before = table(run)
    key = before["key"].iloc[3]
    run.storage.delete(f"{run.units.folder(key)}/result.json")
    after = table(run)
    assert len(after) == len(before)
    assert after.loc[3, "status"] == "ok"
    assert after["test_score"].isna()[3]


def test_a_run_that_is_under_way_shows_its_closed_cycles(tmp_path: Path, made: Study) -> None:
    run = trained(tmp_path, made, tells=25)
    frame = table(run)
    assert len(frame) > 0
    for where, chain in frame.groupby(["arm", "seed"]):
        arm, seed = cast(tuple[str, int], where)
        assert list(chain["cycle"].unique()) == list(range(chain["cycle"].nunique()))
        assert run.decision(arm, seed, chain["cycle"].nunique(), 1) is None


# --- the same run, the same table ---


def test_a_table_is_made_from_files_alone(tmp_path: Path, made: Study) -> None:
    run = trained(tmp_path, made)
    frame, again, ledger = load_run(str(tmp_path))
    assert again == made
    assert ledger["environment"] == {"silo-tune": "0"}
    pd.testing.assert_frame_equal(frame, table(run))
    pd.testing.assert_frame_equal(frame, make_table(rows(run, made)))


def test_two_runs_of_one_study_give_one_table(tmp_path: Path, made: Study) -> None:
    first, second = (table(trained(tmp_path / name, made)) for name in ("a", "b"))
    pd.testing.assert_frame_equal(first, second)


def test_a_place_without_a_run_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no run at"):
        load_run(str(tmp_path))
