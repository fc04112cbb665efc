"""Cells that are made of a row of `Summary.cycles`."""

from __future__ import annotations

from typing import Any

from silo_tune.formats import DASH, known, rate


def interval_text(row: Any) -> str:
    """ "0.02 to 0.11"; "≤" and "≥" mark a side where the best rate is the grid's edge."""
    if not known(row["interval_low"]):
        return DASH
    low, high = rate(row["interval_low"]), rate(row["interval_high"])
    return f"{'≤ ' if row['unbounded_low'] else ''}{low} to {'≥ ' if row['unbounded_high'] else ''}{high}"


def width_text(row: Any) -> str:
    """Width in decades, "≥" where the interval reaches the grid's edge."""
    if not known(row["width_decades"]):
        return DASH
    return f"{'≥ ' if row['clipped'] else ''}{float(row['width_decades']):.2f}"
