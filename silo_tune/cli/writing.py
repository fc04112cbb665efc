"""What `run` and `report` write: tables, reports, records, and the overview of several studies."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from silo_tune.cli.app import tell_notes
from silo_tune.errors import BadInput
from silo_tune.formats import parse_json
from silo_tune.machine import VERSION
from silo_tune.study.places import absolute

if TYPE_CHECKING:
    from silo_analysis.answers.answer import Answer
    from silo_analysis.combine.groups import Group
    from silo_analysis.estimates.summary import Summary
    from silo_tune.store.storage import Storage


@dataclass(frozen=True)
class Written:
    """What a report says, as lines for a terminal and as data for programs, and where its page is."""

    lines: list[str]
    data: dict[str, Any]
    page: str


def write_report(url: str) -> Written:
    """Table and report of a run, from its files, or report of a record."""
    from silo_analysis.answers.as_json import as_json
    from silo_analysis.answers.terminal import summary_lines
    from silo_tune.store.run_folder import Run

    summary, answers, page = _write_report(url)
    written = Written(summary_lines(summary, answers), as_json(summary, answers), page)
    storage = Run(url).storage
    body = {"of": _made_of(storage), "lines": written.lines, "answers": written.data}
    storage.replace(ANSWERS, json.dumps(body, indent=1, ensure_ascii=False).encode())
    return written


# What the report says, beside the page, and what it was made of.
ANSWERS = "report/answers.json"


def written_report(url: str) -> Written | None:
    """The report that stands, where it is of this table, this study and this version; else None."""
    from silo_tune.store.run_folder import Run
    from silo_tune.store.storage import StorageError

    run = Run(url)
    try:
        body = parse_json(run.storage.read(ANSWERS))
        if body["of"] != _made_of(run.storage) or not run.storage.exists("report/report.html"):
            return None
        written = Written(list(body["lines"]), dict(body["answers"]), run.storage.shown("report/report.html"))
    except (StorageError, FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    recorded = run.recorded()
    if recorded is not None:
        tell_notes(recorded[1])
    return written


def _made_of(storage: Storage) -> str:
    """sha256 of what a report is made from, our own code too."""
    found = hashlib.sha256(VERSION.encode())
    for name in ("table.parquet", "examples.parquet", "study.toml", "data.json"):
        found.update(storage.read(name) if storage.exists(name) else b"none")
    analysis = importlib.util.find_spec("silo_analysis")
    assert analysis is not None
    for file in sorted(Path(str(analysis.origin)).parent.rglob("*.py")):
        stat = file.stat()
        found.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    return found.hexdigest()


def _write_report(url: str) -> tuple[Summary, tuple[Answer, ...], str]:
    from silo_analysis.answers import answers_of
    from silo_analysis.answers.curve import fit_of
    from silo_analysis.estimates.summary import summarise
    from silo_analysis.report.page import render_summary
    from silo_tune.results.example_rows import write_gathered
    from silo_tune.results.records import read
    from silo_tune.results.table import write_table
    from silo_tune.store.run_folder import Run

    found, run = read(url), Run(url)
    tell_notes(found.ledger)
    if not found.is_record:
        if found.examples is not None:
            write_gathered(run, found.examples)
        write_table(run, found.frame)
    summary = summarise(found.frame, found.study, found.searches, found.examples, found.looks)
    fit = fit_of(found.frame, found.study)
    answers = answers_of(summary, fit)
    for name, content in render_summary(summary, answers, fit, found.frame, found.ledger).items():
        run.storage.replace(f"report/{name}", content)
    return summary, answers, run.storage.shown("report/report.html")


def write_together(urls: list[str], out: str) -> Written:
    """Several runs as one record with its report, or as a record for each group and an overview, in `out`.

    Raises:
        BadInput: a run is given twice, or the runs do not belong together; see `silo_analysis.combine.groups.combine`.
    """
    from silo_analysis.combine.groups import combine
    from silo_tune.results.records import read

    groups = combine({name: read(url) for name, url in short_names(urls, out).items()})
    with _writes_to(out):
        return _write_groups(groups, out)


# A place where nothing can be written, which is a mistake in --out; a full disk is not.
_NO_PLACE = (errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)


@contextlib.contextmanager
def _writes_to(out: str) -> Iterator[None]:
    from silo_tune.store.storage import StorageError

    try:
        yield
    except StorageError as error:
        if getattr(error.__cause__, "errno", None) in _NO_PLACE:
            raise BadInput(f"cannot write to {out} ({error.__cause__}); choose another --out") from None
        raise


def _write_groups(groups: Sequence[Group], out: str) -> Written:
    from silo_analysis.answers.as_json import as_json
    from silo_analysis.combine import overview
    from silo_analysis.combine.overview import overview_lines
    from silo_tune.results.records import check_place, write_record
    from silo_tune.store.run_folder import Run
    from silo_tune.store.storage import Storage

    if len(groups) == 1:
        write_record(out, groups[0].recorded)
        return write_report(out)
    if Run(out).recorded() is not None:
        raise BadInput(f"{out} holds a run or a record; an overview of several takes a folder of its own: choose --out")
    storage = Storage(out)
    ours = [storage.exists(name) for name in ("report.html", "overview.csv")]
    if any(ours) and not all(ours):
        raise BadInput(
            f"{out} holds other files (report.html or overview.csv); choose another --out, or an empty folder"
        )
    places = {f"{out.rstrip('/')}/{group.name}": group for group in groups}
    for place, group in places.items():  # all of them, before anything is written
        check_place(place, group.recorded)
    found = []
    for place, group in places.items():
        write_record(place, group.recorded)
        found.append((group, *_write_report(place)[:2]))
    for name, content in overview(found).items():
        storage.replace(name, content)
    data = {"studies": {group.name: as_json(summary, answers) for group, summary, answers in found}}
    return Written(overview_lines(found), data, storage.shown("report.html"))


def short_names(urls: list[str], out: str) -> dict[str, str]:
    """Name → run folder: the last part of its path, or the whole of it where two have the same last part.

    Raises:
        BadInput: two are one place.
    """
    places = Counter(map(_place, urls))
    twice = next((url for url in urls if places[_place(url)] > 1), None)
    if twice is not None:
        raise BadInput(f"{twice} is given twice")
    if _place(out) in places:
        raise BadInput(f"--out {out} is one of the runs: choose another folder")
    last = [url.rstrip("/").rsplit("/", 1)[-1] for url in urls]
    count = Counter(last)
    return {name if count[name] == 1 else url: url for name, url in zip(last, urls, strict=True)}


def _place(url: str) -> str:
    """A folder by the one name that it has."""
    return url.rstrip("/") if "://" in url else os.path.realpath(absolute(url))
