"""Two runs side by side: in what they differ, and how well the arms that both have do at each share of weights."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from silo_analysis.combine.same_study import UNSET, differences, may_differ_in_one_study, refuse, told
from silo_analysis.estimates.against import all_same, corrected, estimated, same_keys
from silo_analysis.estimates.frames import typed
from silo_analysis.estimates.oracle import as_gains, numbers
from silo_analysis.estimates.regret import chain_rows
from silo_analysis.estimates.stats import FloatArray
from silo_analysis.estimates.tuning import ordinary
from silo_analysis.estimates.typical import paired_interval
from silo_tune.formats import DASH, MINUS, difference, known, level, percent, points, words
from silo_tune.planner.winner import gain
from silo_tune.results.records import Recorded
from silo_tune.study.arms import OracleArm
from silo_tune.study.model import Study
from silo_tune.study.wording import worded

A, B = "A", "B"
DENSE = "dense"
_LEVEL = ("median", "low", "high", "n")
# Per arm that both runs have and share of weights (null: the mean over the pruned shares that both have). `a_…` and
# `b_…`: test score, the median over a run's seeds with its 95 % interval; `difference`: B − A by seed, above 0 B is
# better; `outcome`: of B, as of `frames.AGAINST`.
COLUMNS = {
    "arm": "string", "weights_remaining": "Float64",
    **{f"{run}_{name}": "Int64" if name == "n" else "Float64" for run in ("a", "b") for name in _LEVEL},
    "difference": "Float64", "low": "Float64", "high": "Float64", "p_holm": "Float64",
    "p_equivalent_holm": "Float64", "outcome": "string", "n_seeds": "Int64",
}  # fmt: skip
# Keys that decide which examples are the test part of the same data.
_TEST = ("test_share", "test_examples", "split_seed", "pool", "group", "time", "target")
_MOST_LINES, _WIDTH = 20, 80


@dataclass(frozen=True)
class SideBySide:
    """Two runs, A and B.

    Attributes:
        study: of A, in whose words scores are told.
        differing: key → run → value, of what the runs differ in and may change numbers.
        seeds: that both have.
        unpaired: what only one of them has, in sentences.
        tolerance: difference that counts as none; the larger one of both.
        table: `COLUMNS`.
    """

    study: Study
    differing: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    unpaired: list[str]
    tolerance: float
    table: pd.DataFrame


def side_by_side(a: Recorded, b: Recorded) -> SideBySide:
    """Compare two runs, whose scores are of one kind and of the same test examples.

    Raises:
        BadInput: they are not, or the runs have no arm or no share of weights in common.
    """
    runs = {A: a, B: b}
    studies = {name: run.study for name, run in runs.items()}
    _refuse_other_scores(runs)
    scores = {name: _scores(run) for name, run in runs.items()}
    arms = _common("arm", {name: list(dict.fromkeys(found["arm"])) for name, found in scores.items()})
    left = _common("share of weights", {name: sorted(set(found["left"]))[::-1] for name, found in scores.items()})
    tolerance = max(study.report.tolerance for study in studies.values())
    seeds = tuple(sorted(set(a.study.replicates.seeds) & set(b.study.replicates.seeds)))
    return SideBySide(
        study=a.study,
        differing=_differing(runs),
        seeds=seeds,
        unpaired=[*_unpaired(arms, str), *_unpaired(left, lambda share: f"{percent(share)} %"), *_no_seeds(seeds)],
        tolerance=tolerance,
        table=_table(scores, arms[""], left[""], tolerance, a.study.scored.sign),
    )


# --- what can be compared ---


def _refuse_other_scores(runs: Mapping[str, Recorded]) -> None:
    studies = {name: run.study for name, run in runs.items()}
    titles = {name: study.scored.title for name, study in studies.items()}
    refuse({"score": titles} if len(set(titles.values())) > 1 else {}, "two kinds of score are not compared")
    content = {name: None if run.data is None else str(run.data.get("content"))[:12] for name, run in runs.items()}
    found: dict[str, dict[str, Any]] = {}
    if None in content.values():  # a table alone does not know its data
        content = {name: study.data.title for name, study in studies.items()}
    if len(set(content.values())) > 1:
        found["data"] = content
    for key in _TEST:
        values = {name: getattr(study.data, key) for name, study in studies.items()}
        if values[A] != values[B]:
            found[f"data.{key}"] = {name: UNSET if value is None else value for name, value in values.items()}
    refuse(found, "the runs were tested on different examples: their scores are not compared")


def _scores(run: Recorded) -> pd.DataFrame:
    """arm, seed, share of weights, key and gain on test, of what every chain goes on with; the dense one by itself."""
    chains = chain_rows(as_gains(ordinary(run.frame), run.study))
    followers = [name for name, arm in run.study.arms.items() if isinstance(arm, OracleArm) and arm.prefix_arm]
    chains = chains[~chains["arm"].isin(followers)]
    own = [name for name, arm in run.study.arms.items() if arm.own_dense]
    arm, cycle = chains["arm"].astype(object), numbers(chains, "cycle").astype(int)
    found = pd.DataFrame(
        {"arm": arm.mask((cycle == 0) & ~arm.isin(own), DENSE), "seed": numbers(chains, "seed").astype(int),
         "left": [round(run.study.remaining[number], 6) for number in cycle], "key": chains["key"].astype(object),
         "gain": numbers(chains, "test_score")}
    ).drop_duplicates(["arm", "seed", "left"])  # fmt: skip
    return found.sort_values("arm", key=lambda names: names != DENSE, kind="stable")


def _common(what: str, of: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """What both have by "", and what one of them alone has by its name."""
    both = [each for each in of[A] if each in of[B]]
    if not [each for each in both if each not in (DENSE, 1.0)]:
        refuse(
            {what: {name: ", ".join(map(str, found)) or "none" for name, found in of.items()}}, f"no {what} is in both"
        )
    return {"": both, **{name: [each for each in found if each not in both] for name, found in of.items()}}


def _unpaired(found: Mapping[str, list[Any]], shown: Any) -> list[str]:
    return [f"only in {name}: {', '.join(map(shown, found[name]))}" for name in (A, B) if found[name]]


def _no_seeds(seeds: tuple[int, ...]) -> list[str]:
    return [] if len(seeds) > 1 else ["differences need two seeds that both have: only the levels are shown"]


def _differing(runs: Mapping[str, Recorded]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {
        **differences({name: run.study for name, run in runs.items()}, may_differ_in_one_study)
    }
    seeds = {name: ", ".join(map(str, run.study.replicates.seeds)) for name, run in runs.items()}
    made = {
        name: {f"environment.{key}": value for key, value in run.ledger.get("environment", {}).items()}
        | {"recipe": run.ledger.get("recipe")}
        for name, run in runs.items()
    }
    others = {key: {name: made[name].get(key, "not known") for name in runs} for key in {**made[A], **made[B]}}
    tolerances = {name: run.study.report.tolerance for name, run in runs.items()}
    others = {"replicates.seeds": seeds, "report.tolerance": tolerances, **others}
    return found | {key: values for key, values in others.items() if values[A] != values[B]}


# --- numbers ---


def _table(
    scores: Mapping[str, pd.DataFrame], arms: list[str], shares: list[float], tolerance: float, sign: int
) -> pd.DataFrame:
    cells, means = [], []
    for arm in arms:
        own = {name: found[(found["arm"] == arm) & found["left"].isin(shares)] for name, found in scores.items()}
        keys = [rows.pivot(index="seed", columns="left", values="key").reindex(columns=shares) for rows in own.values()]
        same = same_keys(*keys)
        gains = {name: rows.pivot(index="seed", columns="left", values="gain") for name, rows in own.items()}
        both = [share for share in shares if all(share in table for table in gains.values())]
        cells += [
            {
                "arm": arm,
                "weights_remaining": share,
                **_cell(gains[A][share], gains[B][share], same[[share]], tolerance, sign),
            }
            for share in both
        ]
        if len(pruned := [share for share in both if share < 1]) > 1:
            whole = {name: table[pruned].dropna().mean(axis=1) for name, table in gains.items()}
            means.append({"arm": arm, **_cell(whole[A], whole[B], same[pruned], tolerance, sign)})
    rows = [*corrected(means), *corrected(cells)]
    rows.sort(key=lambda row: arms.index(row["arm"]))  # stable: an arm's mean before its cells
    return typed([{name: row.get(name) for name in COLUMNS} for row in rows], COLUMNS)


def _cell(a: pd.Series[float], b: pd.Series[float], same: pd.DataFrame, tolerance: float, sign: int) -> dict[str, Any]:
    found = (b - a).dropna()
    return {
        **_level("a", a, sign),
        **_level("b", b, sign),
        **estimated(_values(found), tolerance, all_same(same, found.index, list(same.columns))),
    }


def _level(run: str, gains: pd.Series[float], sign: int) -> dict[str, Any]:
    found = paired_interval(gain(_values(gains), sign))
    return {f"{run}_{name}": getattr(found, name) for name in _LEVEL}


def side_by_side_json(found: SideBySide) -> dict[str, Any]:
    """The same for programs; null where there is no number."""
    table = found.table.astype(object).where(found.table.notna(), None)
    return {
        "differing": dict(found.differing),
        "not_compared": found.unpaired,
        "seeds": list(found.seeds),
        "tolerance": found.tolerance,
        "arms": table.to_dict("records"),
    }


def _values(of: pd.Series[float]) -> FloatArray:
    return np.asarray(of.dropna(), dtype=np.float64)


# --- text ---


@worded(lambda found, *_: found.study)
def side_by_side_lines(found: SideBySide, a: str, b: str) -> list[str]:
    """What differs, then an arm after the other, as a rule within 80 columns.

    Args:
        found: the two runs.
        a, b: what their user calls them.
    """
    differing = [_short(f"  {key}: {told(values)}") for key, values in found.differing.items()]
    more = [f"  and {len(differing) - _MOST_LINES} more"] if len(differing) > _MOST_LINES else []
    legend = (
        f"{words().start} on test, median over seeds with its 95 % interval, and B {MINUS} A by seed "
        f"({len(found.seeds)} in both): above 0 B is better, {difference(found.tolerance, signed=False)} counts as none"
    )
    return [
        f"{A}: {a}",
        f"{B}: {b}",
        "",
        *(["They differ in", *differing[:_MOST_LINES], *more] if differing else ["Their studies are the same."]),
        *(f"Not compared: {each}." for each in found.unpaired),
        "",
        *textwrap.wrap(legend, _WIDTH),
        *_aligned([("", "left %", A, B, words().head(f"B {MINUS} A"), "B is"), *_blocks(found.table)]),
    ]


def _blocks(table: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    last = None
    for row in table.to_dict("records"):
        yield (
            "" if row["arm"] == last else str(row["arm"]),
            percent(row["weights_remaining"]) if known(row["weights_remaining"]) else "mean",
            *(_interval(row, f"{run}_", f"{run}_median", level, DASH) for run in ("a", "b")),
            _interval(row, "", "difference", points, ", "),
            str(row["outcome"]) if known(row["outcome"]) else DASH,
        )
        last = row["arm"]


def _interval(row: Any, run: str, middle: str, shown: Any, between: str) -> str:
    low, high = row[f"{run}low"], row[f"{run}high"]
    return f"{shown(row[middle])} ({shown(low)}{between}{shown(high)})" if known(low) else shown(row[middle])


def _short(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


def _aligned(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if i in (0, 5) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield " ".join(cells).rstrip()
