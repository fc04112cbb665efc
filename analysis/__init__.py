"""Tables in, tables and figures out. Never imports Ray or torch; the heavy imports wait for the first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def load(url: str) -> pd.DataFrame:
    """The table of a run: one row per unit as one chain uses it, columns as in `silo_tune.results.COLUMNS`.

    Args:
        url: the run folder, a local path or an fsspec URL.

    Raises:
        BadInput: there is no run at that place.
    """
    from silo_tune.results import load_run

    frame: pd.DataFrame = load_run(url)[0]
    return frame
