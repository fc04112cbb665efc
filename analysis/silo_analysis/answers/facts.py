"""What was run, on what and for how long: the facts at the head of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from silo_analysis.answers.effort import STANDINGS
from silo_analysis.answers.headline import AFTER, after_prune
from silo_analysis.estimates.cost import STUDY
from silo_tune.formats import DASH, difference, percent, plural, seconds, words
from silo_tune.study.model import Study

if TYPE_CHECKING:
    from silo_analysis.estimates.summary import Summary


_MOST_SEEDS = 20  # that are named one by one


def facts(summary: Summary, frame: pd.DataFrame, ledger: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and text of each fact; `frame` holds every row of the run, `ledger` is as in `report.render`."""
    return [*_what_was_run(summary, ledger), ("Duration", _duration(ledger)), *_amounts(summary, frame)]


def _what_was_run(summary: Summary, ledger: Mapping[str, Any]) -> list[tuple[str, str]]:
    study = summary.study
    facts = [
        ("Judged schedule", summary.schedule),
        ("Cycles", f"0 to {study.cycles - 1}, {_pruning(study)}"),
        ("After a prune", AFTER[after_prune(study)]),
        ("Seeds", _seeds(summary.seeds)),
        ("Tolerance", f"{difference(summary.tolerance, signed=False)}"),
        ("Model and data", f"{study.model.title}, {study.data.title}"),
        (f"Validation {words().example}s", str(summary.n_val) if summary.n_val else DASH),
        ("Tuning", STANDINGS[summary.tuning.standing]),
    ]
    versions = ", ".join(f"{name} {version}" for name, version in (ledger.get("environment") or {}).items())
    made = [("Run made", str(ledger["created"]))] if ledger.get("created") else []
    return [*facts, *made, *([("Environment", versions)] if versions else [])]


def _duration(ledger: Mapping[str, Any]) -> str:
    """By the clock, as the drivers timed themselves: of one run, or of those that a record is made of."""
    runs = ledger.get("runs") or [ledger]
    timed = [found for run in runs if isinstance(found := run.get("clock_seconds"), int | float)]
    if len(timed) < len(runs):
        return "not recorded"
    return f"{seconds(sum(timed))} by the clock" + (f", added up over {len(runs)} runs" if len(runs) > 1 else "")


def _amounts(summary: Summary, frame: pd.DataFrame) -> list[tuple[str, str]]:
    """How much was trained, on what, and for how long."""
    whole = summary.cost[summary.cost["arm"] == STUDY]
    times = frame.loc[~frame["key"].duplicated(), "train_seconds"].dropna()
    took = f"{seconds(times.sum())}, added up over trials; the longest {seconds(times.max())}" if len(times) else DASH
    counted = frame[["prunable", "parameters"]].dropna().drop_duplicates().itertuples(index=False)
    devices = sorted(frame["device"].dropna().unique())
    versions = sorted(frame["version"].dropna().unique())
    return [
        ("Trials", f"{int(whole['units'].sum())} distinct, in {plural(len(frame), 'row')}"),
        ("Training time", took),
        *[("Prunable weights", _prunable(summary.study, int(some), int(of))) for some, of in counted],
        *([("Trained on", ", ".join(devices))] if devices else []),
        *([("Trained by", f"silo-tune {', '.join(versions)}")] if versions else []),
    ]


def _prunable(study: Study, some: int, of: int) -> str:
    return f"{some:,} of {of:,} ({percent(some / of)} %), in layers of {', '.join(study.prune.layers)}"


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) > _MOST_SEEDS:
        return f"{len(seeds)}, from {seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds)) or DASH


def _pruning(study: Study) -> str:
    if study.prune.rate is not None:
        return f"pruning {percent(study.prune.rate, 0)} % of the remaining {study.prune.counted}s each"
    return f"leaving {', '.join(percent(share, 1) for share in study.remaining[1:])} % of the {study.prune.counted}s"
