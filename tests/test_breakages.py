"""The list of deliberate breakages is of this source, of these tests, and is what docs/breakages.md shows."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.breakages import BREAKAGES, Breakage, caught, table, tried

ROOT = Path(__file__).parent.parent
NAMES = [one.contract for one in BREAKAGES]


@pytest.mark.parametrize("one", BREAKAGES, ids=NAMES)
def test_a_breakage_is_of_this_source_and_names_a_test(one: Breakage) -> None:
    text = (ROOT / one.file).read_text(encoding="utf-8")
    assert text.count(one.old) == 1
    ast.parse(text.replace(one.old, one.new))
    file, _, name = one.test.partition("::")
    tests = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    assert name in {node.name for node in tests if isinstance(node, ast.FunctionDef)}


def test_every_contract_is_there_once() -> None:
    assert len(set(NAMES)) == len(BREAKAGES) >= 12


def test_the_page_is_the_table() -> None:
    page = (ROOT / "docs" / "breakages.md").read_text(encoding="utf-8")
    assert table() in page, "put the output of `python tests/breakages.py --table` into docs/breakages.md"


@pytest.mark.slow
@pytest.mark.parametrize("one", BREAKAGES, ids=NAMES)
def test_a_breakage_is_caught(one: Breakage) -> None:
    found, said = caught(one)
    assert found, said


@pytest.mark.slow
def test_without_a_breakage_the_same_tests_pass() -> None:
    code, said = tried(sorted({one.test for one in BREAKAGES}))
    assert code == 0, said
