"""Tables as files: CSV for programs, Markdown for a pull request, LaTeX for a paper."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from silo_analysis.answers.text_tables import Table

if TYPE_CHECKING:
    import pandas as pd

_MARKDOWN = {"&": "&amp;", "<": "&lt;", ">": "&gt;"} | {sign: f"\\{sign}" for sign in r"\`*_[]|~$"}
_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "[": "{[}", "]": "{]}", "−": "$-$",
    "–": "--", "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$", "±": r"$\pm$", "→": r"$\rightarrow$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip


def csv_bytes(table: pd.DataFrame) -> bytes:
    """A table as UTF-8 CSV, a line per row; a null cell is empty."""
    return table.to_csv(index=False, lineterminator="\n").encode()


def to_markdown(table: Table) -> str:
    """A table of GitHub's Markdown, its columns padded to be read as they are."""
    lines = [[_escaped(cell, _MARKDOWN) for cell in line] for line in (table.head, *table.rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    left = _left(table)
    padded = [
        [cell.ljust(width) if side else cell.rjust(width) for cell, width, side in zip(line, widths, left, strict=True)]
        for line in lines
    ]
    rule = [
        f":{'-' * (width - 1)}" if side else f"{'-' * (width - 1)}:" for width, side in zip(widths, left, strict=True)
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in (padded[0], rule, *padded[1:]))


def to_latex(table: Table) -> str:
    """A tabular of booktabs' rules, to be put into a table of its own with a caption."""
    lines = [" & ".join(_escaped(cell, _LATEX) for cell in line) + r" \\" for line in (table.head, *table.rows)]
    sides = "".join("l" if side else "r" for side in _left(table))
    parts = (
        "% \\usepackage{booktabs}",
        rf"\begin{{tabular}}{{{sides}}}",
        r"\toprule",
        lines[0],
        r"\midrule",
        *lines[1:],
        r"\bottomrule",
        r"\end{tabular}",
    )
    return "\n".join(parts) + "\n"


def _left(table: Table) -> list[bool]:
    """Which columns are set left: that which heads the rows, and those of words."""
    return [index == 0 or name in table.words for index, name in enumerate(table.head)]


def _escaped(cell: str, signs: dict[str, str]) -> str:
    """A cell in one line, with `signs` replaced in one pass."""
    one_line = re.sub(
        r"\s+", " ", "".join(c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in cell)
    )
    return "".join(signs.get(sign, sign) for sign in one_line.strip())
