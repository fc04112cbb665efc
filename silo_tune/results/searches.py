"""Searches over whole chains, from the files of their closed rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from silo_tune.planner.points import plan_of
from silo_tune.store.run_folder import Run
from silo_tune.study.arms import ScheduleArm
from silo_tune.study.model import Study


@dataclass(frozen=True)
class SearchRecord:
    """A search over whole chains, as far as its rounds are closed.

    Attributes:
        arm: whose constants it searches.
        kind: "pilot" | "tune".
        points: in order; each has trial, round, params, objective (mean validation accuracy over the counted cycles and
            the seeds; None when it was stopped), told (what the sampler heard), stopped (cycle, or None), seeds and,
            but in runs of earlier versions, by_seed (the objective's part of each seed).
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
