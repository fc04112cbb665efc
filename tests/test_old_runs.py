"""A run that an earlier version began: this one goes on with it, and what it cannot know it refuses by version.

tests/data/run-0.1: `study.toml`; `run`, begun by version 0.1.0 before its modules moved and stopped after 9 of 19 units
(without its status.json, which names a machine); `table.parquet`, as that same version finished it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tomli_w

import silo_tune
from silo_tune.api import run_study
from silo_tune.errors import BadInput
from silo_tune.results.columns import LATER, UNSTABLE
from silo_tune.results.reading import read_table
from silo_tune.store.run_folder import FORMAT, Run
from silo_tune.store.unit_store import unit_of
from silo_tune.study.study_file import load_study

OLD = Path(__file__).parent / "data" / "run-0.1"
UNITS, DONE = 19, 9


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A copy of the run that was stopped half-way."""
    shutil.copytree(OLD / "run", tmp_path / "run")
    return tmp_path / "run"


def results(place: Path) -> dict[str, bytes]:
    return {file.parent.name: file.read_bytes() for file in place.glob("units/*/*/result.json")}


def expected() -> pd.DataFrame:
    """The table of the version that began the run, when it had finished it."""
    return read_table((OLD / "table.parquet").read_bytes(), "the old table", load_study(OLD / "study.toml"))


def stable(frame: pd.DataFrame) -> pd.DataFrame:
    """Without what differs between equal runs, and without columns that the old version did not have."""
    return frame.drop(columns=[*UNSTABLE, *(name for name in LATER if name in frame)])


def test_the_old_run_is_small_and_half_done() -> None:
    assert len(results(OLD / "run")) == DONE
    assert expected()["key"].nunique() == UNITS
    assert sum(file.stat().st_size for file in OLD.rglob("*") if file.is_file()) < 300_000


def test_keys_of_the_old_units_are_those_of_today() -> None:
    for key, content in results(OLD / "run").items():
        assert unit_of(json.loads(content)).key == key


def test_an_old_run_goes_on_and_ends_as_it_would_have_ended(begun: Path) -> None:
    """Numbers are compared where the same kind of machine and the same torch train the rest; the rest always."""
    before = results(begun)
    outcome = run_study(load_study(OLD / "study.toml"), str(begun), local=True)
    assert (outcome.counts.trained, outcome.counts.reused) == (UNITS - DONE, DONE)
    after = results(begun)
    assert {key: after[key] for key in before} == before
    assert len(after) == UNITS
    old, new = stable(expected()), stable(outcome.frame)
    known = old["key"].isin(list(before)) & new["key"].isin(list(before))
    pd.testing.assert_frame_equal(new[known], old[known])
    assert known.sum() >= DONE
    if same_machine(begun, outcome.frame):
        pd.testing.assert_frame_equal(new, old)


def same_machine(place: Path, frame: pd.DataFrame) -> bool:
    """Were the new units trained as the old ones were? Else floats differ in their last bits, and winners with them."""
    import torch

    recorded = Run(str(place)).recorded()
    assert recorded is not None
    return frame["device"].nunique() == 1 and recorded[1]["environment"]["torch"] == torch.__version__.split("+")[0]


def test_a_finished_old_run_trains_nothing(begun: Path) -> None:
    study = load_study(OLD / "study.toml")
    run_study(study, str(begun), local=True)
    again = run_study(study, str(begun), local=True)
    assert again.counts.trained == 0


def test_a_study_that_grew_goes_on_in_the_old_run_and_one_that_differs_does_not(begun: Path) -> None:
    with pytest.raises(BadInput, match=r"retrain\.batch: was 32, now 16\n.* decided with the earlier value"):
        Run(str(begun)).accept(load_study(OLD / "study.toml", ["retrain.batch=16"]), {})
    told: list[str] = []
    Run(str(begun), told.append).accept(load_study(OLD / "study.toml", ["replicates.seeds=[0, 1, 2]"]), {})
    assert told == [f"accepted changes to {begun}: replicates.seeds"]


# --- what a newer version wrote ---


def rewritten(place: Path, study: dict[str, Any], ledger: dict[str, Any], sealed: bool = True) -> Run:
    """The run with another study.toml, whole as its writer would leave it."""
    run = Run(str(place))
    found = run.recorded()
    assert found is not None
    table = found[0].model_dump(mode="json", exclude_none=True)
    body = {"study": {**table, **study}, "run": {**found[1], **ledger}}
    if sealed:
        from silo_tune.store.run_folder import _digest

        body["run"] = {"sha256": _digest(body), **body["run"]}
    (place / "study.toml").write_text(tomli_w.dumps(body))
    return run


@pytest.mark.parametrize("study", [{}, {"federation": {"name": "regression"}}], ids=["as it is", "with a key of then"])
def test_a_run_of_a_newer_format_is_refused_with_its_version(begun: Path, study: dict[str, Any]) -> None:
    run = rewritten(begun, study, {"format": FORMAT + 1, "environment": {"silo-tune": "7.3.0"}})
    for act in (run.study, lambda: run_study(load_study(OLD / "study.toml"), str(begun), local=True)):
        with pytest.raises(
            BadInput, match=rf"newer silo-tune \(7\.3\.0, format {FORMAT + 1}; .*reads {FORMAT}\); update"
        ):
            act()


def test_a_study_with_keys_of_another_version_is_refused_with_its_version(begun: Path) -> None:
    run = rewritten(begun, {"federation": {"name": "regression"}}, {"environment": {"silo-tune": "0.9.0"}})
    words = rf"written by silo-tune 0\.9\.0, and this is {silo_tune.__version__}, .*federation: unknown key"
    with pytest.raises(BadInput, match=words):
        run.study()


def test_a_study_that_somebody_spoilt_is_damaged_whatever_version_it_names(begun: Path) -> None:
    run = rewritten(
        begun, {"federation": {"name": "regression"}}, {"environment": {"silo-tune": "0.9.0"}}, sealed=False
    )
    with pytest.raises(BadInput, match=r"is damaged \(.*federation: unknown key"):
        run.study()


def test_a_damaged_header_is_refused(begun: Path) -> None:
    file = begun / "study.toml"
    file.write_text(file.read_text().replace("recipe = 1", "recipe = 2"))
    with pytest.raises(BadInput, match=r"is damaged \(its checksum does not match"):
        Run(str(begun)).study()
