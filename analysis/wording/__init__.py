"""The words of a summary: headline sentences, what is missing, and the table for a terminal."""

from __future__ import annotations

from analysis.wording.cells import (
    DASH,
    MINUS,
    cycle_list,
    interval_text,
    known,
    p_value,
    percent,
    plural,
    points,
    rate,
    seconds,
    seed_range,
    width_text,
)
from analysis.wording.headline import headline
from analysis.wording.missing import notes
from analysis.wording.searches import STANDINGS, savings_sentence, seed_list, tuning_sentence
from analysis.wording.terminal import summary_lines

__all__ = [
    "DASH",
    "MINUS",
    "STANDINGS",
    "cycle_list",
    "headline",
    "interval_text",
    "known",
    "notes",
    "p_value",
    "percent",
    "plural",
    "points",
    "rate",
    "savings_sentence",
    "seconds",
    "seed_list",
    "seed_range",
    "summary_lines",
    "tuning_sentence",
    "width_text",
]
