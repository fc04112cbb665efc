"""Commands of a run that trains: run, plan, status."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from silo_tune.cli.app import Debug, Out, Preflight, Reused, Sets, Smoke, StudyFile, Tracked, app, see_folders
from silo_tune.cli.stopping import monitors, stops, watched
from silo_tune.cli.streams import outlive_readers, say
from silo_tune.cli.writing import write_report, written_report
from silo_tune.errors import BadInput, RunFailed, SiloTuneError, Stopped, StudyError
from silo_tune.formats import printable

if TYPE_CHECKING:
    from rich.console import Console

    from silo_tune.planner.forecast import ArmForecast, Pace
    from silo_tune.run.session import Outcome, Runner
    from silo_tune.run.status import Status
    from silo_tune.study.model import Study

FOLLOW_SECONDS, FOLLOW_URL_SECONDS = 2.0, 5.0


@app.command()
def run(
    study: StudyFile,
    out: Out = None,
    sets: Sets = None,
    reuse: Reused = None,
    address: Annotated[
        str | None,
        typer.Option(help="A Ray cluster: auto, ray://HOST:PORT, HOST:PORT. Default: starts a local one."),
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="Train in this process, without Ray.")] = False,
    smoke: Smoke = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try failed trials again where a cycle has no winner.")
    ] = False,
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Ray's dashboard for the cluster that is started here.")
    ] = False,
    preflight: Preflight = True,
    track: Tracked = None,
    debug: Debug = False,
) -> None:
    """Run a study, or resume it, to its table and report."""
    from rich.console import Console

    from silo_tune.api import run_study
    from silo_tune.cli.console import watch
    from silo_tune.planner.coincidences import coincidences
    from silo_tune.run.trackers import tracks
    from silo_tune.study.study_file import load_study, run_of

    if local and address is not None:
        raise BadInput("--local and --address exclude each other")
    if dashboard and (local or address is not None):
        raise BadInput("--dashboard is of a cluster that is started here: leave --local and --address out")
    callbacks = tracks(track or ())
    outlive_readers()
    see_functions(study)
    look = _look_at(out) if preflight else None
    loaded = load_study(study, sets or (), smoke, look)
    console = Console()
    _print_lines(console, coincidences(loaded))
    with watched():
        with _all_told(study, sets, smoke, look), watch(console) as monitor:
            monitors.append(monitor)
            outcome = run_study(
                loaded,
                out or (None if smoke else run_of(study)),
                runner=_with_dashboard() if dashboard else None,
                address=address,
                local=local,
                monitor=monitor,
                retry_failed=retry_failed,
                preflight=preflight,
                reuse=reuse or (),
                callbacks=callbacks,
            )
        _finish(console, outcome)


def _look_at(out: str | None) -> Callable[[Study], list[tuple[str, str]]]:
    """Finds what is wrong with a study, whose run would be there."""
    from silo_tune.run.session import default_run, problems_of

    return lambda study: problems_of(study, out or default_run(study))


def _with_dashboard() -> Runner:
    from silo_tune.tune.runner import RayRunner

    return RayRunner(dashboard=True)


def see_functions(study: str) -> None:
    """A user's functions are imported from the current folder and from that of the study file."""
    see_folders(os.getcwd(), os.path.dirname(os.path.abspath(study)))


@contextlib.contextmanager
def _all_told(
    study: str, sets: list[str] | None, smoke: bool, look: Callable[[Study], list[tuple[str, str]]] | None
) -> Iterator[None]:
    """What is found wrong with a study later on has its line of the file too, and all else that is wrong beside it."""
    from silo_tune.study.findings import split_key
    from silo_tune.study.study_file import refused

    try:
        yield
    except BadInput as error:
        problems = error.problems if isinstance(error, StudyError) else [split_key(str(error), "")]
        if any(not key for key, _ in problems) or (isinstance(error, StudyError) and error.source):
            raise
        raise refused(study, problems, sets or (), smoke, look) from None


def _print_lines(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def _finish(console: Console, outcome: Outcome) -> None:
    counts = outcome.counts
    report = (None if counts.trained else written_report(outcome.url)) or write_report(outcome.url)
    lines = [
        "",
        *report.lines,
        "",
        f"trials: {counts.trained} trained, {counts.shared} shared, {counts.reused} skipped (done before), "
        f"{counts.failed} failed",
        *(f"trials: {count} reused from {url}" for url, count in outcome.taken.items()),
        *(f"ended early: {arm} seed {seed}: {reason}" for (arm, seed), reason in outcome.ended.items()),
        f"report: {report.page}",
    ]
    _print_lines(console, lines)
    failed = outcome.frame[outcome.frame.status == "failed"]
    if any(((failed.arm == arm) & ((failed.seed == seed) | failed.trial.notna())).any() for arm, seed in outcome.ended):
        raise RunFailed(
            "chains ended because their trials failed; the reasons are above and in the report: fix the cause, then "
            "run the same command with --retry-failed"
        )


@app.command()
def plan(
    study: StudyFile,
    out: Out = None,
    sets: Sets = None,
    smoke: Smoke = False,
    preflight: Preflight = True,
    reuse: Reused = None,
    debug: Debug = False,
) -> None:
    """Show what a study has to train, after a look at all that can be wrong with it. Trains nothing."""
    from silo_tune.run.session import default_run
    from silo_tune.study.study_file import load_study, run_of

    see_functions(study)
    if preflight and find_spec("torch") is None:
        say("note: torch is not installed here, so nobody has looked at the data and the network", err=True)
        preflight = False
    look = _look_at(out) if preflight else None
    loaded = load_study(study, sets or (), smoke, look)
    url = out or (None if smoke else run_of(study)) or default_run(loaded)
    with _all_told(study, sets, smoke, look):
        _plan(loaded, url, preflight, reuse or ())


def _plan(study: Study, url: str, preflight: bool, others: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    from silo_tune.cli.console import wide
    from silo_tune.planner.coincidences import coincidences
    from silo_tune.planner.forecast import Pace, forecast
    from silo_tune.planner.layout import Layout
    from silo_tune.planner.planner import Planner
    from silo_tune.run.session import checkpoint_hash, look_here, told_of_functions
    from silo_tune.store.reuse import Foreseen, Reuse
    from silo_tune.store.run_folder import Run

    console = Console()
    run = Run(url, lambda message: _print_lines(console, [f"note: {message}"]))
    study = run.resumed(study)
    since, checkpoint = run.tests_from(study), checkpoint_hash(study)
    journal = Foreseen(run, Reuse(run, others, study))
    told_of_functions(run, study)
    if not study.looks:  # what later looks drop is not known
        # Refuses what a run refuses, and decides what can be decided by what others have.
        Planner(study, journal, since, checkpoint)
    arms, spent = forecast(Layout(study, since, checkpoint), journal)
    to_train = sum(arm.to_train for arm in arms.values())
    seen = look_here(study, run.url) if preflight and to_train else []
    table = Table(box=None, pad_edge=False)
    for name in ("arm", "trials", "done", "shared", "to train"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for name, arm in arms.items():
        most = "" if arm.exact else "≤ "
        table.add_row(name, f"{most}{arm.units}", str(arm.done), str(arm.shared), f"{most}{arm.to_train}")
    wide(console).print(table)
    found = [f"{len(keys)} of the trials that are done are in {url}" for url, keys in journal.found.items()]
    _print_lines(console, [*found, *coincidences(study)])
    exact = all(arm.exact for arm in arms.values())
    least = f"at least {sum(arm.least for arm in arms.values())}, " if study.looks and not exact else ""
    most = f"{'' if exact else 'at most '}{to_train} trials"
    _print_lines(console, [f"to train: {least}{most}, {_expected(arms.values(), Pace.of(spent))}", *seen])


def _expected(arms: Collection[ArmForecast], pace: Pace | None) -> str:
    from silo_tune.formats import clock

    if pace is None:
        return "time unknown before a first trial has run"
    seconds = pace.seconds(sum(arm.left for arm in arms), sum(arm.epochs for arm in arms))
    return f"about {clock(seconds)} of training on one slot"


@app.command()
def status(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run folders or URLs, or a folder of runs: a line for each.")
    ],
    following: Annotated[
        bool, typer.Option("--follow", help="Show it again and again, until the run has finished or Ctrl-C.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON, for programs; a list of several runs.")] = False,
    debug: Debug = False,
) -> None:
    """Show how a run stands, from any machine that sees its files. Imports nothing of the user's, writes nothing."""
    from rich.console import Console

    from silo_tune.cli.console import follow, print_many, print_status
    from silo_tune.run.status import read_each, read_status, runs_of

    if json and following:
        raise BadInput("--json and --follow exclude each other")
    urls = [url for place in runs for url in runs_of(place)]
    if urls != runs or len(runs) > 1:
        if following:
            raise BadInput("--follow shows one run: name one, as runs/NAME")
        found = [*read_each(urls)]
        say_json([_plain(url, each) for url, each in found]) if json else print_many(Console(), found)
        return
    run = runs[0]
    if json:
        say_json(_plain(run, read_status(run)))
    elif following:
        try:
            follow(Console(), lambda: read_status(run), FOLLOW_URL_SECONDS if "://" in run else FOLLOW_SECONDS)
        except Stopped:
            raise typer.Exit(128 + stops[-1]) from None  # the run itself continues: there is nothing to say
    else:
        print_status(Console(), read_status(run))


def _plain(url: str, found: Status | SiloTuneError) -> dict[str, Any]:
    return {"url": url, "error": str(found)} if isinstance(found, SiloTuneError) else found.model_dump(mode="json")


def say_json(body: Any) -> None:
    """Print it as JSON, escaped: a text of the run may hold half a character, which no stream takes."""
    from json import dumps

    say(dumps(body, indent=2))
