"""The campaign against runs in a short form, and that it sees what it is there to see."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests import attacks, campaign
from tests.attacks import Attack, Base, Site, interrupt, kill, mutate, process, quick
from tests.campaign import main, summary
from tests.mutations import CHANGES, Place, Pointless, files_of, kind_of


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with quick():
        yield Site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def bases(site: Site) -> dict[str, Base]:
    return {name: site.base(name) for name in ("finished", "half")}


def faults(attacks: list[Attack]) -> list[Attack]:
    return [attack for attack in attacks if not attack.good]


def test_no_damage_is_silent(site: Site, bases: dict[str, Base]) -> None:
    assert faults([mutate(site, bases, number, seed=0, readers=1) for number in range(6)]) == []


def test_a_killed_driver_loses_nothing(site: Site) -> None:
    assert faults([kill(site, 0, seed=0)]) == []


@pytest.mark.slow
def test_a_signal_has_its_exit_code_and_a_last_line(site: Site) -> None:
    assert faults([interrupt(site, number, seed=0) for number in (0, 1)]) == []


@pytest.mark.slow
def test_a_longer_campaign_finds_nothing(site: Site, bases: dict[str, Base]) -> None:
    made = [mutate(site, bases, number, seed=1) for number in range(12)]
    made += [kill(site, number, seed=1) for number in range(2)]
    made += [interrupt(site, number, seed=1) for number in range(4)]
    made += [process(site, number, seed=1, ray=False, whole=6.0) for number in range(2)]
    assert faults(made) == []


# --- it can fail ---


def test_a_run_has_files_of_every_kind_that_the_documentation_names(site: Site) -> None:
    kinds = set(files_of(site.finished)) | set(files_of(site.half))
    assert {
        "study.toml", "data.json", "functions.json", "table.parquet", "status.json", "lease/N.json",
        "chains/ARM/seed-N/cycle-N-round-N.json", "chains/ARM/seed-N/trial-N/cycle-N-round-N.json",
        "chains/ARM/search/round-N.json", "chains/ARM/search/importance.json", "units/KEY/result.json",
        "units/KEY/state-HEX.safetensors", "units/KEY/partial-HEX-N-HEX.safetensors",
        "units/KEY/rewind-N-ep-HEX.safetensors", "units/KEY/examples-HEX.bin", "examples.parquet",
    } <= kinds  # fmt: skip


def test_every_way_to_damage_a_file_changes_some_file_of_the_run(site: Site) -> None:
    base = site.base("half")
    folder = base.fresh()
    shutil.copy(site.finished / "table.parquet", folder)
    whole = contents(folder)
    names = [found[0] for found in files_of(folder).values()]
    for name, change in CHANGES.items():
        for file in names:
            with contextlib.suppress(Pointless):
                change(Place(folder, file, base.others, Random(0)))
                break
        else:
            pytest.fail(f"nothing to {name}")
        damaged = contents(folder)
        assert damaged != whole, name
        base.fresh()
        shutil.copy(site.finished / "table.parquet", folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_loss_that_nobody_tells_is_silent(
    site: Site, bases: dict[str, Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that looks at nothing but what is there says nothing of a decision that is gone."""
    attack = Attack("mutation", 0, 0, file="chains/greedy/seed-0/cycle-003-round-1.json", how="delete")
    base = bases["finished"]
    for silent in (False, True):
        if silent:
            monkeypatch.setattr("silo_tune.results.records.lost_rows", lambda run, frame: 0)
        usual = base.said("report")
        (base.fresh() / attack.file).unlink()
        attacks._judge(attack, "report", attacks.READERS["report"](base), usual, base)
        assert attack.by["report"] == ("SILENT" if silent else "TOLD")


@pytest.mark.slow
def test_a_traceback_is_a_failure(bases: dict[str, Base], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*what: Any) -> None:
        raise KeyError("asked")

    base, attack = bases["finished"], Attack("mutation", 0, 0)
    usual = base.said("fit")
    base.fresh()
    monkeypatch.setattr("silo_tune.results.records.table", broken)
    attacks._judge(attack, "fit", attacks.READERS["fit"](base), usual, base)
    assert attack.by == {"fit": "CRASHED"}


def test_names_arms_numbers_and_hashes_make_no_kind() -> None:
    key = "ab" * 32
    assert kind_of(f"units/ab/{key}/state-0123456789abcdef.safetensors") == "units/KEY/state-HEX.safetensors"
    assert kind_of("chains/a.b/seed-7/trial-12/cycle-003-round-1.json") == (
        "chains/ARM/seed-N/trial-N/cycle-N-round-N.json"
    )


def test_a_campaign_is_continued_from_its_log_and_fails_by_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[int] = []

    def attack(number: int) -> Attack:
        made.append(number)
        return Attack("mutation", number, 3, verdict="SILENT" if number == 4 else "HEALED")

    def kinds(place: Path, asked: argparse.Namespace) -> Iterator[tuple[str, int, Any]]:
        yield "mutation", asked.mutations, attack

    monkeypatch.setattr(campaign, "kinds", kinds)
    log = tmp_path / "log.jsonl"
    words = ["--seed", "3", "--log", str(log)]
    assert main(["--mutations", "2", *words]) == 0
    assert main(["--mutations", "4", *words]) == 0
    assert main(["--mutations", "4", "--seconds", "0", *words]) == 0
    assert made == [0, 1, 2, 3]
    assert main(["--mutations", "5", *words]) == 1
    assert [json.loads(line)["number"] for line in log.read_text().splitlines()] == [0, 1, 2, 3, 4]
    assert "5 attacks, 1 failed" in capsys.readouterr().out


def test_the_summary_says_why_harm_was_none() -> None:
    lines = summary([Attack("mutation", 0, 0, verdict="HARMLESS", kind="status.json", how="cut", rule="a cache")])
    assert "    1  a cache" in lines
    assert lines[-1] == "1 attacks, 0 failed"
