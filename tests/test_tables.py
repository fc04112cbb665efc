"""The tables of names in README.md and the guide are those of the registries."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from silo_tune.cli.catalogue import KINDS
from silo_tune.study.presets import PRESETS

ROOT = Path(__file__).parent.parent
README, GUIDE = ROOT / "README.md", ROOT / "docs" / "guide.md"


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "tables.py"))


@pytest.mark.parametrize("file", [README, GUIDE], ids=lambda file: file.name)
def test_every_table_is_as_it_is_generated(file: Path, tables: dict[str, Any]) -> None:
    text = file.read_text(encoding="utf-8")
    assert tables["filled"](text) == text, "run `python docs/tables.py`"


def test_the_readme_has_a_table_of_every_kind() -> None:
    found = re.findall(r"<!-- table: ([\w-]+) -->", README.read_text(encoding="utf-8"))
    assert sorted(found) == sorted(KINDS)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"recipes"}))
def test_the_guide_names_every_entry(kind: str) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    assert [name for name in KINDS[kind]() if name not in text] == []


def test_the_guide_has_the_arguments_of_every_preset() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (`[^|]+`) \|", text[text.index("## Presets") : text.index("## Arms and Oracles")], re.MULTILINE
    )
    assert {name for row in rows for name in re.findall(r"`([\w-]+)`", row)} == set(PRESETS)


def test_a_table_that_differs_is_made_anew(tables: dict[str, Any]) -> None:
    text = "before\n<!-- table: pipelines -->\n| old |\n<!-- end -->\nafter\n"
    assert "| old |" not in tables["filled"](text)
    assert "`while-training`" in tables["filled"](text)
