"""A run as it is read: table, study, ledger, searches; and records, run folders that have rows and no units.

A *record* is a folder with `study.toml`, `table.parquet`, `examples.parquet`, `data.json` and the rounds of its
searches, as in a run. Its rows are those of the table. A run that has decisions or units derives its rows from them,
and its table is only an output.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from silo_tune.errors import BadInput, RunFailed
from silo_tune.formats import plural
from silo_tune.planner.journal import looks_made
from silo_tune.results.doubts import gaps, require_own_study
from silo_tune.results.example_rows import EXAMPLES, Examples, gather, write_gathered
from silo_tune.results.reading import read_table
from silo_tune.results.searches import SearchRecord, doubtful_rounds, searches
from silo_tune.results.table import lost_rows, table, to_parquet
from silo_tune.store.run_folder import TABLE, Run
from silo_tune.store.snapshot import snapshot_of
from silo_tune.store.storage import seal
from silo_tune.study.model import Study
from silo_tune.study.study_file import load_study

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Recorded:
    """What is known of a run.

    Attributes:
        frame: one row per unit as one chain uses it, columns as in `COLUMNS`.
        study: its study.
        ledger: recipe, created, environment, accepted changes; `clock_seconds` of a run whose drivers timed themselves;
            `notes` where files of the run say different things.
        searches: arm → its pilot or tune search.
        data: what is recorded of the data, None where it is not known.
        is_record: the rows were read from a table, and there are no units.
        examples: which examples its chains got right; None where nobody looked.
        looks: that were made, in a study of seeds until decided; None where no file tells.
    """

    frame: pd.DataFrame
    study: Study
    ledger: Mapping[str, Any]
    searches: Mapping[str, SearchRecord] = field(default_factory=dict)
    data: Mapping[str, Any] | None = None
    is_record: bool = False
    examples: Examples | None = None
    looks: int | None = None


def read(url: str, examples: bool = True) -> Recorded:
    """A run or a record, from its files: every reader of a run goes through here.

    Args:
        url: its folder.
        examples: look which examples its chains got right, a small file for each trial. Damage to them is told in
            `Recorded.examples` and refuses nothing.

    Raises:
        RunFailed: the run has damaged files, or its table has rows that are in no other file any more.
        BadInput: there is neither at that place, its study is damaged, or the table of a record is not right.
    """
    damaged: list[str] = []
    run = Run(url, damaged.append)
    if run.storage.local and os.path.isfile(run.storage.root):
        raise BadInput(f"{url} is a file; name the folder of a run or a record, as runs/NAME")
    study = run.study()
    recorded = run.recorded()
    assert recorded is not None
    is_record = run.is_record(study)
    notes: list[str] = []
    if is_record:
        frame, ledger = read_table(run.storage.read(TABLE), run.storage.shown(TABLE), study), recorded[1]
        data = Run(url, notes.append).data_facts()
    else:
        require_own_study(run, study, recorded[1]["recipe"])
        frame = table(run, study, notes.append)
        notes += doubtful_rounds(run, study, frame)
        damaged = damaged or [*gaps(run, study, frame)]
        data = _data_facts(run, len(frame), notes)
        ledger = {**recorded[1], **_clock(run)}
    ledger = {**ledger, **({"notes": notes} if notes else {})}
    looks = None if is_record else len(looks_made(run, study))
    found = Recorded(frame, study, ledger, searches(run, study), data, is_record, looks=looks)
    _require_whole(run, found, damaged)
    return replace(found, examples=gather(run, frame, is_record)) if examples else found


def _data_facts(run: Run, rows: int, notes: list[str]) -> dict[str, Any] | None:
    """What a run recorded of its data. That it is damaged or gone is told, and refuses nothing: no row rests on it."""
    told: list[str] = []
    facts = Run(run.url, told.append).data_facts()
    if facts is None and not told and rows:
        told = [f"{run.storage.shown('data.json')} is gone: nothing is known of the data; a run that trains writes it"]
    notes += told
    return facts


def _require_whole(run: Run, found: Recorded, damaged: list[str]) -> None:
    lost = 0 if found.is_record else lost_rows(run, found.frame)
    if damaged or lost:
        rows = f"{plural(lost, 'row')} of its table are in no other file any more" if lost else ""
        raise RunFailed(
            "; ".join([f"{run.url} is incomplete", *damaged, *([rows] if rows else [])])
            + f"; the table stays as it is. `silo-tune run` with its study and --out {run.url} derives and trains "
            f"again what is missing"
        )


def _clock(run: Run) -> dict[str, float]:
    """Seconds that drivers of the run trained, as they told it."""
    snapshot, _ = snapshot_of(run.storage)
    return {} if snapshot is None or snapshot.clock is None else {"clock_seconds": round(snapshot.clock, 1)}


def read_files(table_file: str | Path, study_file: str | Path) -> Recorded:
    """A table and a study file that lie elsewhere than in a run folder. Nothing is known of searches and environment.

    Raises:
        BadInput: a file is not there, or is not right.
    """
    study = load_study(study_file)
    try:
        data = Path(table_file).read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read the table {str(table_file)!r}: {error.strerror}") from None
    return Recorded(read_table(data, str(table_file), study), study, {}, is_record=True)


def load_run(url: str) -> tuple[pd.DataFrame, Study, dict[str, Any]]:
    """Table, study and ledger of a run or a record; see `read`."""
    found = read(url, examples=False)
    return found.frame, found.study, dict(found.ledger)


def check_place(url: str, recorded: Recorded) -> None:
    """See that a record may be written there: nothing is, or an earlier state of it, put together from others.

    Raises:
        BadInput: something else is at that place, or seeds of it would be lost.
    """
    run = Run(url)
    before = run.recorded()
    if before is None:
        found = [name for name in (TABLE, EXAMPLES, "data.json", "report/report.html") if run.storage.exists(name)]
        if found:
            raise BadInput(f"{url} holds other files ({', '.join(found)}); choose another --out, or an empty folder")
        return
    if run.started(before[0]) or not before[1].get("runs"):
        kind = "a run" if run.started(before[0]) else "a record that was not put together from others"
        raise BadInput(f"{url} holds {kind}, and nothing is written over it; choose another --out")
    if _compared(before[0]) != _compared(recorded.study):
        raise BadInput(f"{url} holds the record of another study ({before[0].name}); choose another --out")
    lost = [seed for seed in before[0].replicates.seeds if seed not in recorded.study.replicates.seeds]
    if lost:
        raise BadInput(
            f"{url} has seeds that would be lost: {', '.join(map(str, lost))}; name the run or record that has them as "
            f"well, or choose another --out"
        )


def _compared(study: Study) -> dict[str, Any]:
    """What two states of one record have in common, whatever their seeds and wherever the data lay."""
    return {**study.model_dump(exclude={"replicates", "report", "cluster", "data"}), "data": study.data.name}


def write_record(url: str, recorded: Recorded) -> None:
    """Write a record: study, data, rounds of searches, examples, and last the table.

    It takes the place of nothing but an earlier state of itself, put together from others (whose ledger has `runs`).

    Raises:
        BadInput: see `check_place`.
    """
    check_place(url, recorded)
    run = Run(url)
    run.write_study(recorded.study, recorded.ledger)
    if recorded.data is not None:
        run.storage.replace("data.json", seal(recorded.data))
    for search in recorded.searches.values():
        for body in _rounds(search):
            run.storage.replace(run.search_name(search.arm, body["round"]), seal(body))
        if search.importance is not None:
            run.write_importance(search.arm, len(search.points), search.importance)
    if recorded.examples is not None:
        run.storage.delete(EXAMPLES)  # those of an earlier state of the record
        write_gathered(run, recorded.examples)
    run.storage.replace(TABLE, to_parquet(recorded.frame))


def _rounds(search: SearchRecord) -> list[dict[str, Any]]:
    """The files of a search's rounds, as the planner wrote them."""
    return [
        {
            "arm": search.arm,
            "kind": search.kind,
            "round": number,
            "seeds": list(points[0]["seeds"]),
            "counted": list(search.counted),
            "points": [{name: value for name, value in point.items() if name != "seeds"} for point in points],
        }
        for number, points in (
            (number, list(group)) for number, group in itertools.groupby(search.points, lambda point: point["round"])
        )
    ]
