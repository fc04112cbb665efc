"""How figures look: one colour per arm in all of them (Okabe–Ito, told apart by colour-blind readers), one style."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import cycle
from typing import Any, NamedTuple

import matplotlib

from silo_analysis.answers.text_tables import CROWD
from silo_analysis.estimates.oracle import oracles, prefix_of
from silo_tune.study.model import Study

INK = "#1f2328"
FAINT = "#8a9099"
GRID = "#e3e6ea"

STYLE: Any = {
    "axes.axisbelow": True, "axes.edgecolor": FAINT, "axes.grid": True, "axes.labelcolor": INK,
    "axes.labelsize": 9, "axes.linewidth": 0.8, "axes.spines.right": False, "axes.spines.top": False,
    "axes.titlesize": 9.5, "axes.titlelocation": "left", "axes.titlecolor": INK, "figure.facecolor": "white",
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"], "font.size": 9,
    "grid.color": GRID, "grid.linewidth": 0.7, "legend.fontsize": 8.5, "legend.frameon": False, "lines.linewidth": 1.6,
    "lines.markersize": 5, "pdf.fonttype": 42, "svg.fonttype": "none", "text.color": INK, "text.parse_math": False,
    "xtick.color": INK, "xtick.labelsize": 8.5,
    "xtick.major.size": 3, "ytick.color": INK, "ytick.labelsize": 8.5, "ytick.major.size": 3,
}  # fmt: skip


@contextlib.contextmanager
def our_style() -> Iterator[None]:
    """Figures as we draw them, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


VERDICT_MARKS = {"inside": "o", "outside": "X", "undetermined": "D", "not tested": "."}

_SCHEDULE = "#D55E00"
_GREEDY = ("#0072B2", "#3f5f8f")
_CONDITIONED = ("#56B4E9", "#7d8fc9")
_OTHERS = ("#009E73", "#CC79A7", "#E69F00", "#5b4b8a", "#8c6d1f", "#4d4d4d")
_DASHES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D")


class Look(NamedTuple):
    """How an arm is drawn."""

    color: str
    dash: str
    marker: str = "o"


# Cycles of one arm, from the first to the last.
SHADES = ("#9ab8d3", "#4f86b5", "#0b4f84")
# The families of fitted curves.
CURVES = {
    "silo": Look(_SCHEDULE, "-"),
    "constant": Look("#009E73", "--"),
    "linear": Look("#0072B2", "-."),
    "exponential": Look("#CC79A7", "--"),
    "free rising": Look("#4d4d4d", ":"),
}


def looks(study: Study) -> dict[str, Look]:
    """The look of every arm; a colour comes back after all of its kind are used, with another dash and marker."""
    found: dict[str, Look] = {}
    names = [name for name in study.arms if name != study.report.schedule]
    found[study.report.schedule] = Look(_SCHEDULE, "-")
    greedy = [name for name in oracles(study) if prefix_of(study, name) is None]
    conditioned = [name for name in oracles(study) if prefix_of(study, name) is not None]
    others = [name for name in names if name not in (*greedy, *conditioned)]
    for members, colors in ((greedy, _GREEDY), (conditioned, _CONDITIONED), (others, _OTHERS)):
        for index, (name, color) in enumerate(zip(members, cycle(colors), strict=False)):
            lap = index // len(colors) % len(_DASHES)
            found[name] = Look(color, _DASHES[lap], _MARKERS[lap])
    return found


def shaded(study: Study) -> set[str]:
    """Arms whose standard deviation is drawn: all, or in a crowd the judged schedule and the Oracles."""
    return set(study.arms) if len(study.arms) <= CROWD else {study.report.schedule, *oracles(study)}
