"""Tables as Markdown and LaTeX, whatever their cells hold."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from silo_analysis.answers.table_files import to_latex, to_markdown
from silo_analysis.answers.text_tables import Table

HOSTILE = (
    "a|b", "a\\b", "50 %", "a_b", "a&b", "#1", "$x$", "{x}", "^~", "<script>", "`code`", "*bold*", "[link](url)",
    "two\nlines", "\\\\", "\\|", "−0.5", "≤ 0.01 to ≥ 3", "–", "", "[0.5em]", "bell\x07",
)  # fmt: skip
TABLE = Table(("Arm", "Weights, %", "Why"), [(cell, "1", cell) for cell in HOSTILE], frozenset({"Why"}))


def unescaped(text: str) -> str:
    """What a reader of Markdown sees of a cell."""
    plain = re.sub(r"\\([^A-Za-z0-9\s])", r"\1", text)
    return plain.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def test_markdown_holds_every_cell_in_its_place() -> None:
    lines = to_markdown(TABLE).splitlines()
    assert len(lines) == 2 + len(HOSTILE)
    for line, cell in zip(lines[2:], HOSTILE, strict=True):
        inner = [unescaped(part) for part in parted(line)]
        plain = cell.replace("\n", " ").replace("\x07", "\N{REPLACEMENT CHARACTER}")
        assert inner == [plain, "1", plain]


def parted(line: str) -> list[str]:
    """Split at bars that no backslash takes away, walking over the line."""
    parts, escaped = [""], False
    for sign in line:
        if sign == "|" and not escaped:
            parts.append("")
        else:
            parts[-1] += sign
        escaped = sign == "\\" and not escaped
    return [part.strip() for part in parts[1:-1]]


def test_markdown_sets_numbers_right_and_words_left() -> None:
    rule = to_markdown(TABLE).splitlines()[1].split("|")[1:-1]
    assert [(cell.strip().startswith(":"), cell.strip().endswith(":")) for cell in rule] == [
        (True, False), (False, True), (True, False),
    ]  # fmt: skip


def test_no_cell_of_markdown_is_markup() -> None:
    text = to_markdown(TABLE)
    assert "<" not in text
    assert not re.search(r"(?<!\\)[`*\[]", text)


def test_latex_keeps_its_columns() -> None:
    lines = to_latex(TABLE).splitlines()
    assert lines[1] == r"\begin{tabular}{lrl}"
    body = lines[5:-2]
    assert len(body) == len(HOSTILE)
    for line in body:
        assert line.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", line)) == 2
        inside = line.removesuffix(r" \\")
        assert not re.search(r"(?<!\\)[%#_]", inside)
        assert inside.count("{") - inside.count(r"\{") == inside.count("}") - inside.count(r"\}")
        assert not inside.lstrip().startswith("[")  # it would be the space after the row before


def test_latex_by_hand() -> None:
    table = Table(("Arm", "x"), [(r"a_b & c\d {50 %} #1 $~^", "−0.5 ≤")])
    row = to_latex(table).splitlines()[5]
    escaped = r"a\_b \& c\textbackslash{}d \{50 \%\} \#1 \$\textasciitilde{}\textasciicircum{}"
    assert row == rf"{escaped} & $-$0.5 $\leq$ \\"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles(tmp_path: Path) -> None:
    text = to_latex(TABLE).replace("\N{REPLACEMENT CHARACTER}", "?")
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage[utf8]{inputenc}"
    rules = r"\newcommand\toprule{\hline}\newcommand\midrule{\hline}\newcommand\bottomrule{\hline}"  # booktabs may lack
    (tmp_path / "t.tex").write_text(rf"{head}{rules}\begin{{document}}{text}\end{{document}}")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stdout.decode()[-2000:]
