"""Runs of one study with other seeds, put together to one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from silo_analysis.combine.same_study import differences, refuse, told
from silo_tune.errors import BadInput
from silo_tune.results.columns import COLUMNS, IDENTITY, LATER, UNSTABLE, columns_of
from silo_tune.results.example_rows import Examples
from silo_tune.results.records import Recorded
from silo_tune.results.searches import SearchRecord
from silo_tune.results.table import mixed_devices
from silo_tune.study.arms import TuneArm
from silo_tune.study.model import Study
from silo_tune.study.parts import Replicates

# Columns in which the same row of two runs may differ; `shared_with` is found again.
_MAY_DIFFER = (*UNSTABLE, "shared_with", "version")


def merge(runs: Mapping[str, Recorded]) -> Recorded:
    """One record of several runs of one study (or of one run): rows, seeds, searches and ledgers united.

    Raises:
        BadInput: two runs have different rows for one seed, different searches, or different data.
    """
    studies = {name: run.study for name, run in runs.items()}
    study = _united(studies)
    return Recorded(
        frame=merge_rows({name: run.frame for name, run in runs.items()}, study),
        study=study,
        ledger=_ledger(runs),
        searches=_searches(runs, study),
        data=_data(runs),
        is_record=True,
        examples=_examples(list(runs.values())),
        looks=next(iter(runs.values())).looks,
    )


def _united(studies: Mapping[str, Study]) -> Study:
    """The first study with the seeds of all, rising."""
    first = next(iter(studies.values()))
    seeds = tuple(sorted({seed for study in studies.values() for seed in study.replicates.seeds}))
    if any(isinstance(arm, TuneArm) and arm.seeds is None for arm in first.arms.values()):
        found = {"replicates.seeds": {name: list(study.replicates.seeds) for name, study in studies.items()}}
        refuse(
            found if any(set(study.replicates.seeds) != set(seeds) for study in studies.values()) else {},
            "a tune arm without seeds of its own was tuned on these: its runs are not put together",
        )
    if first.looks:
        found = {"replicates.looks": {name: list(study.looks) for name, study in studies.items()}}
        refuse(
            found if len(studies) > 1 else {},
            "seeds that were trained until decided are judged by the looks of their own run: they are not put together",
        )
        return first
    return first.model_copy(update={"replicates": Replicates(seeds=seeds)})


# --- rows ---


def merge_rows(frames: Mapping[str, pd.DataFrame], study: Study) -> pd.DataFrame:
    """The rows of all, each once, in study order.

    Raises:
        BadInput: two runs tell different things of one row.
    """
    # A run of an earlier version lacks whole columns: they contradict nobody, and the row that has them is kept.
    lacking = {name: {later for later in LATER if frame[later].isna().all()} for name, frame in frames.items()}
    fullest = sorted(frames, key=lambda name: len(lacking[name]))
    stacked = pd.concat([frames[name].assign(run=name) for name in fullest], ignore_index=True)
    passed = set(_MAY_DIFFER).union(*lacking.values())
    compared = [name for name in COLUMNS if name not in passed]
    once = stacked.drop_duplicates(compared)
    _refuse_clashes(once[once.duplicated(list(IDENTITY), keep=False)], compared)
    arms, seeds = (dict(zip(names, range(len(names)), strict=True)) for names in (study.arms, study.replicates.seeds))
    order = once.assign(
        arm=once["arm"].map(arms),
        own=once["trial"].isna(),
        place=once["seed"].map(seeds).where(once["trial"].isna(), once["seed"]),
    )
    order = order.sort_values(["arm", "own", "trial", "place", "cycle"], kind="stable")
    frame = once.loc[order.index].reset_index(drop=True)
    owner = frame.groupby("key")["arm"].transform("first").astype("string")
    frame["shared_with"] = owner.mask(owner == frame["arm"])
    frame["mixed"] = mixed_devices(frame)
    kinds = {name: kind for name, (kind, _) in columns_of(study).items() if name in frame}
    return frame[list(kinds)].astype(kinds)


def _refuse_clashes(clashing: pd.DataFrame, compared: list[str]) -> None:
    if not len(clashing):
        return
    lines = []
    for _, rows in clashing.groupby(list(IDENTITY), dropna=False, sort=False):
        column = next(name for name in compared if rows[name].nunique(dropna=False) > 1)
        where = rows.iloc[0]
        values = dict(zip(rows["run"], rows[column].astype(object).where(rows[column].notna(), "nothing"), strict=True))
        trial = "" if pd.isna(where["trial"]) else f", trial {where['trial']}"
        lines.append(
            f"seed {where['seed']}, arm {where['arm']}{trial}, cycle {where['cycle']}: {column}: {told(values)}"
        )
        if len(lines) == 5:
            break
    raise BadInput(
        "\n".join(lines) + "\nthese runs trained one seed with different outcomes: leave one of them out, or train "
        "the seed anew"
    )


# --- beside the rows ---


def _searches(runs: Mapping[str, Recorded], study: Study) -> dict[str, SearchRecord]:
    found: dict[str, SearchRecord] = {}
    for arm in study.arms:
        having = {name: run.searches[arm] for name, run in runs.items() if arm in run.searches}
        points = {name: [_plain(point) for point in search.points] for name, search in having.items()}
        if any(value != next(iter(points.values())) for value in points.values()):
            raise BadInput(
                f"the search of {arm} differs between {' and '.join(having)}: its constants may differ too, so these "
                f"runs are not one; report them one by one"
            )
        if having:
            found[arm] = max(having.values(), key=lambda search: search.importance is not None)
    return found


def _examples(runs: list[Recorded]) -> Examples | None:
    """The examples of all runs; of a trial that several have, those of the first."""
    found = [run.examples for run in runs if run.examples is not None]
    if not found:
        return None
    table = pd.concat([examples.table for examples in found], ignore_index=True).drop_duplicates(["key", "part"])
    return Examples(table.reset_index(drop=True), tuple(told for examples in found for told in examples.damaged))


def _plain(point: Mapping[str, Any]) -> dict[str, Any]:
    return {**point, "seeds": list(point["seeds"])}


def _data(runs: Mapping[str, Recorded]) -> Mapping[str, Any] | None:
    known = {name: run.data for name, run in runs.items() if run.data is not None}
    for kind in ("listing", "content"):  # data that was read in two ways is one by the listing of its files
        values = {name: data.get(kind) for name, data in known.items()}
        if len(set(values.values())) <= 1 and None not in values.values():
            break
    else:
        short = {name: str(data.get("content"))[:12] for name, data in known.items()}
        refuse({"content of the data": short} if short else {}, "these runs saw different data: report them one by one")
    return next(iter(known.values()), None)


def _ledger(runs: Mapping[str, Recorded]) -> dict[str, Any]:
    """What is known of how the runs were made, and what was chosen where they differ."""
    ledgers = {name: run.ledger for name, run in runs.items()}
    first = next(iter(ledgers.values()))
    if len(runs) == 1 and first.get("runs"):
        return dict(first)
    changes = [change for ledger in ledgers.values() for change in ledger.get("changes") or ()]
    known = [str(ledger["created"]) for ledger in ledgers.values() if ledger.get("created")]
    since = [ledger.get("tests_from") for ledger in ledgers.values()]
    return {
        "format": first.get("format", 1),
        "recipe": first.get("recipe", 0),
        "created": min(known, default=""),
        "environment": _environment(ledgers),
        "runs": [part for name, run in runs.items() for part in _parts(name, run)],
        **(
            {"notes": notes} if (notes := [n for ledger in ledgers.values() for n in ledger.get("notes") or ()]) else {}
        ),
        "changes": [*sorted(changes, key=lambda change: str(change.get("at"))), *_chosen(runs)],
        **({"tests_from": since[0]} if since[0] and all(item == since[0] for item in since) else {}),
    }


def _parts(name: str, run: Recorded) -> list[dict[str, Any]]:
    own = {"name": name, "seeds": list(run.study.replicates.seeds)}
    if "clock_seconds" in run.ledger:
        own["clock_seconds"] = run.ledger["clock_seconds"]
    return [dict(part) for part in run.ledger.get("runs") or (own,)]


def _environment(ledgers: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    tables = {name: ledger.get("environment") or {} for name, ledger in ledgers.items()}
    keys = dict.fromkeys(key for table in tables.values() for key in table)
    values = {key: {name: str(table.get(key, "unknown")) for name, table in tables.items()} for key in keys}
    return {key: told(v) if len(set(v.values())) > 1 else next(iter(v.values())) for key, v in values.items()}


def _chosen(runs: Mapping[str, Recorded]) -> list[dict[str, Any]]:
    """As a change of the record: which runs it is made of, and what of [report] was taken from the first."""
    if len(runs) == 1:
        return []
    first = next(iter(runs))
    found = differences({name: run.study for name, run in runs.items()}, lambda path: path[0] != "report")
    seeds = ", ".join(f"{name} (seeds {', '.join(map(str, run.study.replicates.seeds))})" for name, run in runs.items())
    return [
        {"at": "put together from", "keys": [seeds]},
        *({"at": f"{key} as in {first}", "keys": [told(values)]} for key, values in found.items()),
    ]
