"""One chain: score against weights remaining, and the network that was chosen."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from silo_analysis.figures.axes import new_figure, percent, scores
from silo_analysis.figures.palette import FAINT, INK, our_style
from silo_tune.formats import words


def save_chain(table: pd.DataFrame, chosen: int, tolerance: float, file: str) -> None:
    """Draw a chain into a file.

    Args:
        table: a row a cycle: cycle, weights_remaining, status, val_score, test_score.
        chosen: the cycle that is marked.
        tolerance: half the width of the band around the dense network's validation score, in the score's unit.
        file: .png, .svg or .pdf.
    """
    with our_style():
        _drawn(table, chosen, tolerance).savefig(file, dpi=160)


def _drawn(table: pd.DataFrame, chosen: int, tolerance: float) -> Figure:
    good = table[table["status"] == "ok"]
    figure, axes = new_figure(3.6)
    left = percent(good["weights_remaining"])
    dense, within = scores(good["val_score"])[0], words().scale * tolerance
    axes.axhspan(dense - within, dense + within, color=FAINT, alpha=0.2, lw=0, label="dense network ± tolerance")
    axes.plot(left, scores(good["val_score"]), "-o", color="C0", ms=4, label="validation, which chooses")
    axes.plot(left, scores(good["test_score"]), "--s", color="C1", ms=3.5, label="test")
    mark = good[good["cycle"] == chosen]
    axes.plot(
        percent(mark["weights_remaining"]), scores(mark["val_score"]), "o", ms=11, mfc="none", mec=INK, label="chosen"
    )
    axes.set_xscale("log")
    axes.invert_xaxis()
    ticks = sorted(set(left[:: max(1, len(left) // 8)]), reverse=True)
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("weights remaining, %")
    axes.set_ylabel(words().axis)
    figure.legend(loc="outside lower center", ncols=4)
    return figure
