"""The numbers that each figure shows, as a table. Shares and their differences are in [0, 1]."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from silo_analysis.answers.shape import controls_shown
from silo_analysis.curve_fit.comparison import Comparison
from silo_analysis.curve_fit.fit_tables import fit_tables
from silo_analysis.estimates import oracle
from silo_analysis.estimates.frames import CYCLES
from silo_analysis.estimates.oracle import OracleCycle
from silo_analysis.estimates.response import live_means
from silo_analysis.estimates.summary import Summary
from silo_analysis.estimates.tuning import PILOT, points_table
from silo_analysis.figures.draw_accuracy import score_figure_name
from silo_tune.planner.winner import gain

_ON_THE_BAND = (
    "cycle", "weights_remaining", "max_lr", "verdict", "interval_low", "interval_high", "unbounded_low",
    "unbounded_high", "best_max_lr",
)  # fmt: skip


def figure_data(
    groups: Mapping[tuple[str, int], OracleCycle], summary: Summary, fit: Comparison | None = None
) -> dict[str, pd.DataFrame]:
    """Figure → table; one that has none here shows what its table in tables/ says.

    Args:
        groups: of `oracle.oracle_cycles`.
        summary: of the same run.
        fit: curves fitted to its responses.
    """
    per_cycle = summary.against[summary.against["cycle"].notna()]
    return {
        "max-lr": _on_the_band(summary),
        "oracles": summary.compared,
        "response": _responses(groups, summary),
        score_figure_name(): summary.arms,
        "regret": _differences(summary),
        "against": summary.against,
        "controls": per_cycle[per_cycle["arm"].isin(list(controls_shown(summary)))],
        **({"fit": fit_tables(fit)["peaks"]} if fit is not None else {}),
        "spread": summary.spreads,
        "cost": summary.cost,
        "tuning-curve": summary.tuning_curves,
        **dict(_of_searches(summary)),
    }


def _on_the_band(summary: Summary) -> pd.DataFrame:
    """Per cycle; one more column for each control."""
    assert set(_ON_THE_BAND) <= set(CYCLES)
    table = summary.cycles[list(_ON_THE_BAND)]
    tested = summary.study.tests_of(summary.verdict_oracle) if summary.verdict_oracle else ()
    for name in oracle.controls(summary.study, tested):
        rates = summary.arms[summary.arms["arm"] == name].set_index("cycle")["max_lr"]
        table = table.assign(**{f"max_lr_{name}": table["cycle"].map(rates)})
    return table


def _responses(groups: Mapping[tuple[str, int], OracleCycle], summary: Summary) -> pd.DataFrame:
    """Per cycle and rate of the verdict's Oracle: the mean over seeds, and a column for each seed."""
    sign = summary.study.scored.sign
    rows = [
        {
            "oracle": group.oracle,
            "cycle": group.cycle,
            "max_lr": rate,
            "asked": bool(group.asked[i]),
            "collapsed": int(group.collapsed[:, i].sum()),
            "val_mean": gain(mean, sign),
            **{f"val_seed_{seed}": gain(group.val[row, i], sign) for row, seed in enumerate(group.seeds)},
        }
        for group in groups.values()
        if group.oracle == summary.verdict_oracle
        for i, (rate, mean) in enumerate(zip(group.rates.tolist(), live_means(group).tolist(), strict=True))
    ]
    return pd.DataFrame(rows)


def _differences(summary: Summary) -> pd.DataFrame:
    """Per panel, cycle and seed: Oracle − schedule on test."""
    regrets = summary.regret[summary.regret["oracle"] == summary.verdict_oracle]
    gaps = summary.gaps[summary.gaps["oracle"] == summary.chain_oracle]
    columns = ["measure", "oracle", "cycle", "seed", "difference"]
    parts = (
        regrets.assign(measure="cycle regret", difference=regrets["regret_test"])[columns],
        gaps.assign(measure="chain gap", difference=gaps["gap_test"])[columns],
    )
    return pd.concat(parts, ignore_index=True)


def _of_searches(summary: Summary) -> Iterator[tuple[str, pd.DataFrame]]:
    for name, search in summary.searches.items():
        if search.kind != PILOT:
            points = points_table({name: search}, summary.study.scored.sign)
            shares: dict[str, Any] = dict(search.importance or {})
            yield f"search-importance-{name}", pd.DataFrame({"parameter": list(shares), "share": list(shares.values())})
            yield f"search-slices-{name}", points
            yield f"search-contours-{name}", points
