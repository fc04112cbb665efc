"""Files of the first version, which judged by accuracy alone, read by today's names: and known by their digests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from silo_tune.planner.outcome import EARLIER, FORMAT, is_measured, measured, renamed
from silo_tune.store.run_folder import Run
from silo_tune.store.storage import Corrupt, seal, unseal

OLD = Path(__file__).parent / "data"
# Of a result, as the version that wrote it gave its digest.
DIGESTS = {
    "run-0.1/run/units/05/0564d480a2f90eaca37c39c8dd5d1bd3761604a7280d28796c25e8b003bdb1e6": "3e1cfcc84e7fa26b",
    "run-ice-1/units/0e/0e00d2ab75bfdc1cb84158580f9bc3fe7303cc6314584c4b7df007c7fc6f4841": "16ed1f8943f93f13",
}


def result_of(place: str) -> dict[str, Any]:
    return unseal((OLD / place / "result.json").read_bytes())


def test_no_name_of_the_first_version_is_left_in_any_file() -> None:
    files = [file for file in OLD.rglob("*.json") if any(name in file.read_text() for name in EARLIER)]
    assert len(files) > 20
    for file in files:
        body, before = unseal(file.read_bytes()), json.loads(file.read_text())
        assert not any(name in json.dumps(body) for name in EARLIER)
        assert body.get("val_score") == before.get("val_accuracy")
        for now, then in zip(body.get("told", ()), before.get("told", ()), strict=True):
            assert now["val_score"] == then["val_accuracy"]


@pytest.mark.parametrize("place", DIGESTS)
def test_a_result_has_the_digest_that_its_writer_gave_it(place: str) -> None:
    assert measured(result_of(place)) == DIGESTS[place]


@pytest.mark.parametrize("place", DIGESTS)
def test_a_trial_trained_again_by_this_version_is_the_one_that_an_old_decision_was_told(place: str) -> None:
    again = {**result_of(place), "format": FORMAT, "test_loss": 0.5, "score": "accuracy"}
    assert measured(again) != DIGESTS[place]
    assert is_measured(again, DIGESTS[place])
    for name in ("val_score", "test_score", "train_loss"):
        assert not is_measured({**again, name: 0.123}, DIGESTS[place])
    assert not is_measured({**again, "test_loss": 0.123}, measured(again))


def test_the_checksum_is_that_of_the_file_as_it_was_written() -> None:
    data = seal({"val_accuracy": 0.5, "told": [{"test_accuracy": 0.25}]})
    assert unseal(data) == {"val_score": 0.5, "told": [{"test_score": 0.25}]}
    with pytest.raises(Corrupt, match="checksum"):
        unseal(data.replace(b"val_accuracy", b"val_score"))


def test_what_a_user_named_like_an_old_name_keeps_it() -> None:
    body = {"skipped": {"val_accuracy": [1]}, "arm": "val_accuracy", "params": {"test_accuracy": 0.1}}
    assert renamed(body) == body


def test_a_run_that_is_resumed_is_of_this_format(tmp_path: Path) -> None:
    shutil.copytree(OLD / "run-0.1" / "run", tmp_path / "run")
    run = Run(str(tmp_path / "run"))
    recorded = run.recorded()
    assert recorded is not None
    assert recorded[1]["format"] == 1
    run.accept(recorded[0], {})
    after = run.recorded()
    assert after is not None
    assert {**after[1], **{name: recorded[1][name] for name in recorded[1] if name != "format"}} == after[1]
    assert after[1]["format"] == FORMAT
