"""How much of a chain gap is luck: the best of several trainings is also the luckiest, whatever their rates are worth.

A run can tell the two apart in either of two ways. Both take, per seed, the mean over cycles ≥ 2 on test, and then the
typical value over seeds (`typical`), as the primary endpoint does. In each seed gap = luck + rate, exactly; their
medians over seeds need not add up.

*retrained*: an Oracle with `retrain_winner` trains each winning rate once more with fresh random streams, and continues
from that. Nothing was chosen by the second training's score, so:
    gap  = winner's own training − schedule,
    luck = winner's own training − its second training,
    rate = second training − schedule: the chain gap of such an Oracle.
The luck is that of one cycle's choice: parents are second trainings, so none of it is handed on.

*best-of*: a schedule arm with `best_of` = K at the judged schedule's own rates chooses among K trainings of one rate,
as an Oracle without `retrain_winner` chooses among its candidates. Both hand luck on alike, so:
    gap  = Oracle − schedule, the chain gap,
    luck = best-of arm − schedule,
    rate = Oracle − best-of arm.
Where all rates are equal, the rate's part is without luck if K is the number of the Oracle's candidates, tested values
included (`candidates`); with a smaller K some luck stays in it. Where rates differ it is too small: the Oracle then
chooses among fewer equals, and has less luck than the arm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from silo_analysis.estimates.frames import LUCK, typed
from silo_analysis.estimates.oracle import counted, flags, numbers, oracles, prefix_of, without_second
from silo_analysis.estimates.regret import FIRST_ENDPOINT_CYCLE
from silo_analysis.estimates.typical import paired_interval
from silo_tune.study.arms import OracleArm, ScheduleArm
from silo_tune.study.model import Study

RETRAINED, BEST_OF = "retrained", "best-of"
PARTS = ("gap", "luck", "rate")


def luck_table(rows: pd.DataFrame, chains: pd.DataFrame, study: Study) -> pd.DataFrame:
    """The parts of every greedy Oracle's chain gap that the run can tell apart (`frames.LUCK`).

    `cycle` is null for the mean over cycles ≥ 2, which takes seeds that have all of these cycles.

    Args:
        rows: of the run, without those of searches.
        chains: from `regret.chain_rows`.
        study: its study.
    """
    judged = study.report.schedule
    if judged not in study.arms:
        return typed([], LUCK)
    schedule, found = _scores(chains, judged), list[dict[str, Any]]()
    for name in oracles(study):
        own = _scores(chains, name)
        if prefix_of(study, name) is not None or own.empty:
            continue
        where = {"oracle": name, "candidates": _candidates(rows, study, name)}
        if _retrains(study, name):
            winners = _scores(counted(rows[flags(rows, "winner")]), name).reindex_like(own)
            winners = winners.where(winners.notna(), own)  # a chain that is over has guessed, with every training
            found += split(where | {"way": RETRAINED}, winners - schedule, winners - own, study.cycles)
            continue
        for arm in best_of_arms(rows, study):
            other = _scores(chains, arm)
            about = where | {"way": BEST_OF, "arm": arm, "trainings": study.arms[arm].best_of}  # type: ignore[union-attr]
            found += split(about, own - schedule, other - schedule, study.cycles)
    return typed(found, LUCK)


def best_of_arms(rows: pd.DataFrame, study: Study) -> list[str]:
    """Arms that train the judged schedule's own rates several times a cycle, and nothing else differs.

    The rates that were trained decide, not how a schedule is written: constants may come from a preset or a pilot.
    """
    judged = study.arms.get(study.report.schedule)
    if not isinstance(judged, ScheduleArm):
        return []
    rates, settings = _rates(rows, study.report.schedule), study.settings(judged)
    return [
        name
        for name, arm in study.arms.items()
        if isinstance(arm, ScheduleArm) and arm.best_of is not None
        if study.settings(arm) == settings and _agree(_rates(rows, name), rates)
    ]


def _rates(rows: pd.DataFrame, arm: str) -> pd.Series[float]:
    """(seed, cycle) → max_lr of an arm from cycle 1 on."""
    own = rows[(rows["arm"] == arm) & (rows["cycle"] >= 1)].drop_duplicates(["seed", "cycle"])
    return own.set_index(["seed", "cycle"])["max_lr"].astype(float)


def _agree(one: pd.Series[float], other: pd.Series[float]) -> bool:
    both = one.index.intersection(other.index)
    return len(both) > 0 and bool(np.allclose(one[both], other[both], rtol=1e-9, atol=0.0))


def split_of(table: pd.DataFrame, oracle: str | None) -> Mapping[str, Mapping[str, Any]] | None:
    """Part → its row of the mean over cycles ≥ 2, for one Oracle; None where the run cannot tell the parts apart.

    Of several best-of arms it is the one whose number of trainings is nearest to the Oracle's candidates.
    """
    own = table[(table["oracle"] == oracle) & table["cycle"].isna() & table["difference"].notna()]
    if own.empty:
        return None
    near = (own["trainings"] - own["candidates"]).abs().fillna(0.0).to_numpy(dtype=float)
    best = own[(own["arm"] == own["arm"].iloc[int(np.argmin(near))]) | own["arm"].isna()]
    return {str(row["part"]): row for row in best.to_dict("records")}


def split(where: Mapping[str, Any], gap: pd.DataFrame, luck: pd.DataFrame, cycles: int) -> Iterator[dict[str, Any]]:
    """Rows of `frames.LUCK`, each part over cycles ≥ 2 and at every cycle ≥ 1.

    Args:
        where: cells that all rows have.
        gap, luck: (seeds, cycles) differences of test accuracies in [0, 1].
        cycles: of the study, the dense one included.
    """
    luck = luck.reindex_like(gap)
    gap = gap.where(luck.notna())
    wanted = list(range(FIRST_ENDPOINT_CYCLE, cycles))
    for part, table in zip(PARTS, (gap, luck.where(gap.notna()), gap - luck), strict=True):
        complete = table.reindex(columns=wanted).dropna()
        if wanted:
            yield {**where, "part": part, **_estimated(complete.mean(axis=1))}
        for cycle in range(1, cycles):
            values = table.get(cycle, pd.Series(dtype=float)).dropna()
            yield {**where, "part": part, "cycle": cycle, **_estimated(values)}


def _estimated(values: pd.Series[float]) -> dict[str, Any]:
    found = paired_interval(np.asarray(values, dtype=np.float64))
    return {
        "difference": found.median, "mean": found.mean, "spread": found.spread, "low": found.low, "high": found.high,
        "n_seeds": found.n,
    }  # fmt: skip


def _scores(rows: pd.DataFrame, arm: str) -> pd.DataFrame:
    """(seeds, cycles) test accuracy of an arm's rows from cycle 1 on."""
    own = rows[(rows["arm"] == arm) & (rows["cycle"] >= 1)].drop_duplicates(["seed", "cycle"])
    plain = pd.DataFrame({name: numbers(own, name) for name in ("seed", "cycle", "test_score")})
    return plain.astype({"seed": int, "cycle": int}).pivot(index="seed", columns="cycle", values="test_score")


def _candidates(rows: pd.DataFrame, study: Study, oracle: str) -> float | None:
    """Mean number of candidates that an Oracle chooses among in a cycle ≥ 2."""
    own = without_second(rows[(rows["arm"] == oracle) & (rows["cycle"] >= FIRST_ENDPOINT_CYCLE)], study, oracle)
    return float(own.groupby(["seed", "cycle"])["key"].nunique().mean()) if len(own) else None


def _retrains(study: Study, oracle: str) -> bool:
    arm = study.arms[oracle]
    return isinstance(arm, OracleArm) and arm.retrain_winner
