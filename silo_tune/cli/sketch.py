"""A curve as lines of text, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

BLOCKS = " ▁▂▃▄▅▆▇█"


def sketch(values: Sequence[float], height: int = 8, width: int = 1) -> list[str]:
    """A column of blocks for each value, from 0 up to the largest, with the scale at the left.

    Args:
        values: at least 0, one of them above it.
        height: lines.
        width: characters of a column.
    """
    top = max(values)
    levels = [round(value / top * height * 8) for value in values]
    # What is above 0 shows.
    levels = [max(1, level) if value > 0 else 0 for level, value in zip(levels, values, strict=True)]
    lines = []
    for line in range(height - 1, -1, -1):
        cells = (BLOCKS[min(8, max(0, level - 8 * line))] * width for level in levels)
        mark = f"{top:.4g}" if line == height - 1 else "0" if line == 0 else ""
        lines.append(f"{mark:>8} ┤{''.join(cells)}".rstrip())
    return lines


def sampled(values: Sequence[float], columns: int) -> list[float]:
    """The largest value of each of so many equal parts: no peak is lost."""
    edges = [i * len(values) // columns for i in range(columns + 1)]
    return [max(values[a:b]) for a, b in pairwise(edges) if b > a]
