"""The commands. Everything heavy is imported inside the command that needs it: `--help` must be instant."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from silo_tune.errors import BadInput, RunFailed, SiloTuneError

if TYPE_CHECKING:
    from rich.console import Console

    from silo_tune.run import Monitor, Outcome
    from silo_tune.study import Study

app = typer.Typer(
    help="Find, check and apply learning rates for iterative pruning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="Run folder or URL.")]
GridOracle = Annotated[
    str | None,
    typer.Option("--oracle", metavar="NAME", help="An Oracle with a grid; the one of the verdict when left out."),
]
StudyFile = Annotated[str, typer.Argument(metavar="STUDY.toml", help="The study file.")]
Out = Annotated[str | None, typer.Option("--out", metavar="RUN", help="Run folder or URL; runs/NAME when left out.")]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY.PATH=VALUE", help="Change a value of the study, as written in TOML. Repeatable."
    ),
]
Smoke = Annotated[bool, typer.Option("--smoke", help="Shrink the study to seconds, into runs/NAME-smoke.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


@app.command()
def run(
    study: StudyFile,
    out: Out = None,
    sets: Sets = None,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster: auto, ray://HOST:PORT or HOST:PORT; its own one when left out.")
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="Train in this process, without Ray.")] = False,
    smoke: Smoke = False,
    debug: Debug = False,
) -> None:
    """Run a study, or go on with it, to its table and report."""
    from rich.console import Console

    from silo_tune.console import watch
    from silo_tune.run import run_study
    from silo_tune.study_file import load_study

    if local and address is not None:
        raise BadInput("--local and --address exclude each other")
    loaded = load_study(study, sets or (), smoke)
    _see_functions(study)
    console = Console()
    with watch(console) as monitor:
        _monitors.append(monitor)
        outcome = run_study(loaded, out, address=address, local=local, monitor=monitor)
    _finish(console, loaded, outcome)


def _see_functions(study: str) -> None:
    """A user's functions are imported from the current folder and from that of the study file."""
    sys.path.extend(path for path in (os.getcwd(), os.path.dirname(os.path.abspath(study))) if path not in sys.path)


def _finish(console: Console, study: Study, outcome: Outcome) -> None:
    from analysis.summary import summarise, summary_lines
    from silo_tune.results import searches
    from silo_tune.store import Run

    counts = outcome.counts
    where = _write_report(outcome.url)
    lines = [
        "",
        *summary_lines(summarise(outcome.frame, study, searches(Run(outcome.url), study))),
        "",
        f"units: {counts.trained} trained, {counts.shared} shared, {counts.reused} skipped (done before), "
        f"{counts.failed} failed",
        *(f"ended early: {arm} seed {seed}: {reason}" for (arm, seed), reason in outcome.ended.items()),
        f"report: {where}",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    failed = outcome.frame[outcome.frame.status == "failed"]
    if any(((failed.arm == arm) & ((failed.seed == seed) | failed.trial.notna())).any() for arm, seed in outcome.ended):
        raise RunFailed("chains ended because their units failed; the reasons are above and in the report")


def _write_report(url: str) -> str:
    """Table and report of a run, from its files; returns where the page is."""
    from analysis.report import render
    from silo_tune.results import load_run, searches, write_table
    from silo_tune.store import Run

    frame, study, ledger = load_run(url)
    run_ = Run(url)
    write_table(run_, frame)
    for name, content in render(frame, study, ledger, searches(run_, study)).items():
        run_.storage.replace(f"report/{name}", content)
    return run_.storage.shown("report/report.html")


@app.command()
def plan(study: StudyFile, out: Out = None, sets: Sets = None, smoke: Smoke = False, debug: Debug = False) -> None:
    """Show what a study has to train: units to train, shared and done. Trains nothing."""
    from rich.console import Console
    from rich.table import Table

    from silo_tune.chains import Layout
    from silo_tune.forecast import forecast
    from silo_tune.run import checkpoint_hash, default_run
    from silo_tune.store import Run
    from silo_tune.study_file import load_study

    loaded = load_study(study, sets or (), smoke)
    _see_functions(study)
    run_ = Run(out or default_run(loaded))
    run_.check(loaded)
    arms, seconds = forecast(Layout(loaded, run_.tests_from(loaded), checkpoint_hash(loaded)), run_)
    table = Table(box=None, pad_edge=False)
    for name in ("arm", "units", "done", "shared", "to train"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for name, arm in arms.items():
        most = "" if arm.exact else "≤ "
        table.add_row(name, f"{most}{arm.units}", str(arm.done), str(arm.shared), f"{most}{arm.to_train}")
    console = Console()
    console.print(table)
    exact = all(arm.exact for arm in arms.values())
    to_train = sum(arm.to_train for arm in arms.values())
    console.print(
        f"to train: {'' if exact else 'at most '}{to_train} units, {_expected(to_train, seconds)}", highlight=False
    )


def _expected(to_train: int, seconds: list[float]) -> str:
    from silo_tune.console import clock

    if not seconds:
        return "time unknown before a first unit has run"
    return f"about {clock(to_train * sum(seconds) / len(seconds))} of training on one slot"


@app.command()
def report(run: RunFolder, debug: Debug = False) -> None:
    """Write a run's table and report again, from its files alone."""
    typer.echo(f"report: {_write_report(run)}")


@app.command()
def fit(
    run: RunFolder,
    oracle: GridOracle = None,
    debug: Debug = False,
) -> None:
    """Fit SILO and simpler curves to an Oracle's responses: is max_lr S-shaped over the cycles?"""
    from analysis.curve_fit import compare, response_of
    from analysis.curve_fit.tables import fit_tables
    from analysis.curve_fit.words import arm_toml, fit_lines, title
    from analysis.plots.fit import save_fit
    from silo_tune.results import load_run
    from silo_tune.store import Run

    frame, study, _ = load_run(run)
    compared = compare(response_of(frame, study, oracle))
    files = {f"fit.{kind}": content for kind, content in save_fit(compared, study.report.tolerance).items()}
    files |= {f"{name}.csv": table.to_csv(index=False).encode() for name, table in fit_tables(compared).items()}
    storage = Run(run).storage
    for name, content in files.items():
        storage.replace(f"report/fit/{name}", content)
    for line in [title(compared, study), "", *fit_lines(compared, study), "", arm_toml(compared), ""]:
        typer.echo(line)
    typer.echo(f"fit: {storage.shown('report/fit')} ({', '.join(sorted(files))})")


@app.command()
def replay(
    run: RunFolder,
    oracle: GridOracle = None,
    sampler: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="gp, tpe, cmaes, qmc or random; all that are here if left out. Repeatable."),
    ] = None,
    trials: Annotated[
        list[int] | None, typer.Option(metavar="K", help="Rates per cycle; 4, 5, 6 and 8 when left out. Repeatable.")
    ] = None,
    repeat_top: Annotated[
        int, typer.Option(metavar="N", help="So many of a sampler's best rates are trained twice; 0 when left out.")
    ] = 0,
    repetitions: Annotated[int | None, typer.Option(metavar="N", help="Of every strategy; 15 when left out.")] = None,
    seed: Annotated[int, typer.Option(help="Of noise and samplers.")] = 0,
    debug: Debug = False,
) -> None:
    """Replay search strategies on a recorded grid: regret against units. Trains nothing; about a minute."""
    from analysis import replay as replays
    from analysis.oracle import describe
    from analysis.plots.replay import save_replay
    from silo_tune.results import load_run
    from silo_tune.store import Run

    frame, study, _ = load_run(run)
    recorded = replays.recorded_grid(frame, study, oracle)
    samplers = sampler or replays.available_samplers()
    competing = replays.strategies(recorded, samplers, trials or replays.TRIALS, repeat_top)
    count = replays.REPETITIONS if repetitions is None else repetitions
    tolerance = study.report.tolerance
    compared = replays.replay(recorded, competing, tolerance, count, seed)
    files = {f"replay.{kind}": content for kind, content in save_replay(compared, recorded, tolerance).items()}
    files["replay.csv"] = compared.to_csv(index=False).encode()
    storage = Run(run).storage
    for name, content in files.items():
        storage.replace(f"report/replay/{name}", content)
    lines = replays.replay_lines(recorded, compared, tolerance)
    for line in [replays.title(recorded, describe(study, recorded.oracle)), "", *lines, ""]:
        typer.echo(line)
    typer.echo(f"replay: {storage.shown('report/replay')} ({', '.join(sorted(files))})")


@app.command()
def export(
    run: RunFolder,
    optuna: Annotated[str, typer.Option("--optuna", metavar="FILE", help="A new file, for optuna-dashboard.")],
    debug: Debug = False,
) -> None:
    """Write a run's Oracles and searches as Optuna studies, one per Oracle, seed and cycle."""
    from silo_tune.optuna_export import export as export_optuna

    names = export_optuna(run, optuna)
    typer.echo(f"{len(names)} studies in {optuna}; to see them: optuna-dashboard {optuna}")


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="schedules, profiles, criteria, models or data.")],
    debug: Debug = False,
) -> None:
    """List what a study can name, one line each."""
    entries = _entries(kind)
    width = max(map(len, entries))
    for name, line in entries.items():
        typer.echo(f"{name:<{width}}  {line}")


def _entries(kind: str) -> dict[str, str]:
    from silo_tune import names
    from silo_tune.errors import unknown
    from silo_tune.profiles import PROFILES
    from silo_tune.schedules import SCHEDULES

    if kind == "schedules":
        return {name: schedule.line for name, schedule in SCHEDULES.items()}
    tables: dict[str, Any] = {"profiles": PROFILES, **names.TABLES}
    if kind not in tables:
        raise BadInput(unknown("kind", kind, ["schedules", *tables]))
    found = {name: entry.line for name, entry in tables[kind].items()}
    if kind == "models":
        found["timm:NAME"] = "any model of timm, by its name there"
    return found


class _Stopped(BaseException):
    """Ctrl-C or SIGTERM. Not a KeyboardInterrupt, which typer would answer in its own way."""


_stops: list[int] = []  # signals received; Ray may turn the exception of the first into one of its own
_monitors: list[Monitor] = []  # of the run under way: they end it even where the exception gets lost


def _stop(number: int, frame: FrameType | None) -> None:
    _stops.append(number)
    for monitor in _monitors:
        monitor.stop_requested = True
    if len(_stops) > 1:  # impatient: no more tidying up
        os._exit(128 + number)
    raise _Stopped


def main() -> None:
    """Entry point: errors become one message on stderr and an exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    debug = "--debug" in sys.argv
    try:
        app()
    except (Exception, _Stopped) as error:
        if debug:
            traceback.print_exc()
        message, code = _last_words(error)
        sys.stderr.write(f"silo-tune: {message}\n")
        sys.exit(code)


def _last_words(error: BaseException) -> tuple[str, int]:
    """What to say of the end, and the exit code."""
    if _stops:
        return "stopped; nothing committed is lost, the same command goes on from here", 128 + _stops[0]
    if isinstance(error, SiloTuneError):
        return str(error), error.exit_code
    return f"unexpected {type(error).__name__}: {error}; --debug shows where. Nothing committed is lost", 1


if __name__ == "__main__":
    main()
