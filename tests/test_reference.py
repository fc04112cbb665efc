"""The parts of the site that are made from the code: nothing is left out, and an unknown name fails."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from silo_tune.cli.catalogue import KINDS
from silo_tune.study import registry
from silo_tune.study.presets import PRESETS

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "site_parts.py"))


def test_every_mark_of_a_page_is_made_and_every_part_is_shown(made: dict[str, Any]) -> None:
    marks = {name for page in DOCS.rglob("*.md") for name in made["MARK"].findall(page.read_text(encoding="utf-8"))}
    assert marks | {"criteria"} == set(made["PARTS"])  # criteria are described by hand, with their formulas
    assert set(KINDS) <= set(made["PARTS"])


def test_a_mark_that_nobody_makes_fails_the_build(made: dict[str, Any]) -> None:
    with pytest.raises(KeyError, match="nothing"):
        made["on_page_markdown"]("before\n<!-- generate: nothing -->\nafter")


def test_readme_and_site_have_a_row_for_every_record_with_a_report(made: dict[str, Any]) -> None:
    found = runpy.run_path(str(DOCS / "found.py"))
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert found["table"]() in readme, "python docs/found.py prints the table of README.md"
    assert made["found"]().count("\n") == 1 + len(found["answered"]()) >= 3


def test_every_key_of_a_study_has_a_type_a_meaning_and_an_example(made: dict[str, Any]) -> None:
    lines = [line for line in made["study_keys"]().splitlines() if line.startswith("| `")]
    assert len(lines) > 80
    for line in lines:
        key, kind, default, meaning, example = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        assert kind not in ("", "any"), key
        assert default, key
        assert len(meaning) > 8, key
        assert example.startswith(f"`{key.strip('`')} = ") or key == "`model`", (key, example)


def test_every_command_and_option_is_told(made: dict[str, Any]) -> None:
    told = made["commands"]()
    for word in ("### run", "### report", "### schema", "`--format", "`--retry-failed`", "`STUDY.toml`"):
        assert word in told
    assert "| – |" not in told


def test_the_floors_are_those_of_the_import_test(made: dict[str, Any]) -> None:
    drawn = made["floors"]()
    assert drawn.count('class="floor"') == 12
    assert drawn.index("<code>cli</code>") < drawn.index("<code>errors</code>")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_reference_names_every_entry(kind: str, made: dict[str, Any]) -> None:
    entries = set(KINDS[kind]()) - set(registry.OTHERS)  # described beside the table
    parts = {"deviations": ("deviations", "ice_deviations", "boosting_choices")}.get(kind, (kind,))
    told = "".join(made["PARTS"][part]() for part in parts)
    assert [name for name in entries if name not in told] == []


def test_the_page_of_presets_has_each_with_its_arguments() -> None:
    text = (DOCS / "reference" / "presets.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([\w-]+)`", row)} == set(PRESETS)
