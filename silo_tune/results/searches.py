"""Searches over whole chains, from the files of their closed rounds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from silo_tune.formats import known
from silo_tune.planner.chain import Chain
from silo_tune.planner.points import plan_of
from silo_tune.planner.search import Search
from silo_tune.planner.search import doubtful_rounds as rounds_in_doubt
from silo_tune.planner.winner import gain, guess_told
from silo_tune.store.run_folder import Run
from silo_tune.study.arms import ScheduleArm
from silo_tune.study.model import Study

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SearchRecord:
    """A search over whole chains, as far as its rounds are closed.

    Attributes:
        arm: whose constants it searches.
        kind: "pilot" | "tune".
        points: in order; each has trial, round, params, objective (mean validation score over the counted cycles and
            the seeds, signed so that more is better; None when it was stopped), told (what the sampler heard), stopped
            (cycle, or None), seeds and, but in runs of earlier versions, by_seed (the objective's part of each seed).
        best: trial of the best point, None before a first round is closed.
        args: the schedule that the best point stands for, as a table of a study.
        importance: share of the objective's variance that each parameter explains, None where it was not computed.
        finished: no more rounds to come.
        extended: a pilot that went beyond the study's lowest or highest rate, where its best lay at that edge.
        adaptive: later points follow the values of earlier ones.
        counted: the cycles that count.
    """

    arm: str
    kind: str
    points: tuple[dict[str, Any], ...]
    best: int | None = None
    args: Mapping[str, Any] | None = None
    importance: Mapping[str, float] | None = None
    finished: bool = False
    extended: bool = False
    adaptive: bool = False
    counted: tuple[int, ...] = ()


def searches(run: Run, study: Study) -> dict[str, SearchRecord]:
    """The searches of a study that have closed a round, by arm."""
    found = {arm: _search(run, study, arm) for arm in study.arms if study.searched(arm)}
    return {arm: record for arm, record in found.items() if record.points}


def _search(run: Run, study: Study, arm: str) -> SearchRecord:
    points = search_points(run, arm)
    plan = plan_of(study, arm)
    best = plan.best(points)
    found = study.arms[arm]
    name = found.schedule.name if isinstance(found, ScheduleArm) else "silo"
    given = found.schedule.args if isinstance(found, ScheduleArm) else {}
    return SearchRecord(
        arm=arm,
        kind=plan.kind,
        points=points,
        best=None if best is None else best["trial"],
        args=None if best is None else {"name": name, **given, **plan.args(best["params"])},
        importance=run.importance(arm, len(points)),
        finished=plan.finished(points),
        extended=plan.kind == "pilot"
        and study.pilot is not None
        and any(study.pilot.beyond(rate) for point in points for rate in point["params"].values()),
        adaptive=plan.adaptive,
        counted=tuple(plan.counted),
    )


def search_points(run: Run, arm: str) -> tuple[dict[str, Any], ...]:
    """Points of the closed rounds of a search, in order."""
    points: list[dict[str, Any]] = []
    number = 1
    while (body := run.search_round(arm, number)) is not None:
        points += [{**point, "seeds": body["seeds"]} for point in body["points"]]
        number += 1
    return tuple(points)


def doubtful_rounds(run: Run, study: Study, frame: pd.DataFrame) -> Iterator[str]:
    """A sentence for every round of a search that does not say what the chains of its points give.

    Args:
        run, study: whose.
        frame: the table of the run.
    """
    rows = defaultdict[tuple[str, int, int], list[dict[str, Any]]](list)
    for found in frame.loc[frame.trial.notna(), _HEARD].to_dict("records"):
        row = {str(name): value for name, value in found.items()}
        rows[row["arm"], row["seed"], row["trial"]].append(row)
    for arm in filter(study.searched, study.arms):
        search, points = Search(arm, plan_of(study, arm), study.search_seeds(arm)), search_points(run, arm)
        chains = [
            _chain(arm, seed, point, rows[arm, seed, point["trial"]], study.scored.sign)
            for point in points
            for seed in search.seeds
        ]
        for number, trials in rounds_in_doubt(search, points, chains):
            yield (
                f"{run.storage.shown(run.search_name(arm, number))} is not what the chains of its points give "
                f"({run.chain_folder(arm, search.seeds[0], trials[0])}): one of them was changed, or trained again on "
                f"another kind of machine"
            )


# What of its rows a chain's place in a search rests on.
_HEARD = ["arm", "seed", "trial", "cycle", "candidate", "status", "winner", "val_score", "classes", "guess_score"]


def _chain(arm: str, seed: int, point: Mapping[str, Any], rows: list[dict[str, Any]], sign: int) -> Chain:
    """A chain of a point, as its rows in the table tell it."""
    chain = Chain(arm, seed, point["trial"], point["params"])
    chain.gains = [gain(row["val_score"], sign) for row in sorted(rows, key=lambda row: row["cycle"]) if row["winner"]]
    last = max((row["cycle"] for row in rows), default=0)
    chain.told = {row["candidate"]: {"status": row["status"]} for row in rows if row["cycle"] == last}
    told = ({**row, "sign": sign, "guess_score": _known(row["guess_score"])} for row in rows)
    chain.guessing = next((guess_told(row) for row in told if row["classes"] or row["guess_score"] is not None), 0.0)
    chain.stopped, chain.ended = point["stopped"], point["ended"].get(str(seed))
    return chain


def _known(cell: Any) -> float | None:
    """The number of a cell; None where it is null."""
    return float(cell) if known(cell) else None
