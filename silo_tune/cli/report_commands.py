"""Commands that read a run's files: report, fit, replay, export; and `list`, which reads nothing."""

from __future__ import annotations

import json
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from silo_tune.cli.app import Debug, GridOracle, RunFolder, app, named, tell_notes
from silo_tune.cli.catalogue import KINDS, listed
from silo_tune.cli.streams import say
from silo_tune.cli.writing import write_report, write_together
from silo_tune.errors import BadInput, unknown


class Format(StrEnum):
    """What `report` prints."""

    TEXT = "text"
    JSON = "json"


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run folders or URLs, or records.")],
    out: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="DIR", callback=named, help="A record of the runs, with the report; needed for several."
        ),
    ] = None,
    format_: Annotated[
        Format, typer.Option("--format", help="What is printed: text, or the answers as JSON for programs.")
    ] = Format.TEXT,
    debug: Debug = False,
) -> None:
    """Write the report of a run or record again, or that of several runs together, from their files alone."""
    if out is None and len(runs) > 1:
        raise BadInput("several runs have no folder in common: say where their report goes, --out DIR")
    written = write_report(runs[0]) if out is None else write_together(runs, out)
    if format_ is Format.JSON:
        say(json.dumps(written.data | {"report": written.page}, indent=2, ensure_ascii=False, allow_nan=False))
        return
    say("", *written.lines, "", f"report: {written.page}")


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="Run folder or URL, or a record: A.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="Another one: B.")],
    format_: Annotated[
        Format, typer.Option("--format", help="What is printed: text, or the numbers as JSON for programs.")
    ] = Format.TEXT,
    debug: Debug = False,
) -> None:
    """Show two runs side by side: in what they differ, and every arm that both have at each share of weights."""
    from silo_analysis.combine.side_by_side import side_by_side, side_by_side_json, side_by_side_lines
    from silo_tune.results.records import read

    found = side_by_side(*(read(url, examples=False) for url in (first, second)))
    if format_ is Format.JSON:
        say(json.dumps(side_by_side_json(found), indent=2, ensure_ascii=False, allow_nan=False))
        return
    say(*side_by_side_lines(found, first, second))


@app.command("open")
def open_report(run: RunFolder, debug: Debug = False) -> None:
    """Open the page of a run's report, which is written first where there is none."""
    import webbrowser

    from silo_tune.store.run_folder import Run

    storage = Run(run).storage
    page = storage.shown("report/report.html") if storage.exists("report/report.html") else write_report(run).page
    if "://" in page:
        raise BadInput(f"{page} is not on this machine: fetch the folder report/, or open it where the storage is seen")
    say(page)
    if not webbrowser.open(Path(page).resolve().as_uri()):
        say("no browser is here; open that file where there is one", err=True)


@app.command()
def fit(
    run: RunFolder,
    oracle: GridOracle = None,
    debug: Debug = False,
) -> None:
    """Fit SILO and simpler curves to an Oracle's responses: is max_lr S-shaped over the cycles?"""
    from silo_analysis.answers.fit_words import arm_toml, fit_lines, title
    from silo_analysis.curve_fit.comparison import compare
    from silo_analysis.curve_fit.fit_tables import fit_tables
    from silo_analysis.curve_fit.fitted_response import response_of
    from silo_analysis.figures.draw_fit import save_fit
    from silo_tune.formats import telling
    from silo_tune.results.records import load_run
    from silo_tune.store.run_folder import Run
    from silo_tune.study.wording import words_of

    frame, study, ledger = load_run(run)
    tell_notes(ledger)
    compared = compare(response_of(frame, study, oracle))
    with telling(words_of(study)):
        files = {f"fit.{kind}": content for kind, content in save_fit(compared, study.report.tolerance).items()}
    files |= {f"{name}.csv": table.to_csv(index=False).encode() for name, table in fit_tables(compared).items()}
    storage = Run(run).storage
    for name, content in files.items():
        storage.replace(f"report/fit/{name}", content)
    say(title(compared, study), "", *fit_lines(compared, study), "", arm_toml(compared), "")
    say(f"fit: {storage.shown('report/fit')} ({', '.join(sorted(files))})")


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
    from silo_analysis import replay as replays
    from silo_analysis.estimates.oracle import describe
    from silo_analysis.figures.draw_replay import save_replay
    from silo_tune.formats import telling
    from silo_tune.results.records import load_run
    from silo_tune.store.run_folder import Run
    from silo_tune.study.wording import words_of

    frame, study, ledger = load_run(run)
    tell_notes(ledger)
    recorded = replays.recorded_grid(frame, study, oracle)
    samplers = sampler or replays.available_samplers()
    competing = replays.strategies(recorded, samplers, trials or replays.TRIALS, repeat_top)
    count = replays.REPETITIONS if repetitions is None else repetitions
    tolerance = study.report.tolerance
    compared = replays.replay(recorded, competing, tolerance, count, seed)
    with telling(words_of(study)):
        files = {f"replay.{kind}": content for kind, content in save_replay(compared, recorded, tolerance).items()}
        lines = replays.replay_lines(recorded, compared, tolerance)
    files["replay.csv"] = compared.to_csv(index=False).encode()
    storage = Run(run).storage
    for name, content in files.items():
        storage.replace(f"report/replay/{name}", content)
    say(replays.title(recorded, describe(study, recorded.oracle)), "", *lines, "")
    say(f"replay: {storage.shown('report/replay')} ({', '.join(sorted(files))})")


@app.command()
def export(
    run: RunFolder,
    optuna: Annotated[str, typer.Option("--optuna", metavar="FILE", help="A new file, for optuna-dashboard.")],
    debug: Debug = False,
) -> None:
    """Write a run's Oracles and searches as Optuna studies, one per Oracle, seed and cycle."""
    from silo_tune.export.optuna_export import export as export_optuna

    names = export_optuna(run, optuna, lambda note: say(f"note: {note}", err=True))
    count = "1 study" if len(names) == 1 else f"{len(names)} studies"
    say(f"{count} in {optuna}; to see them: optuna-dashboard {optuna}")


def _kinds(incomplete: str) -> list[str]:
    """For shells that complete."""
    return [kind for kind in KINDS if kind.startswith(incomplete)]


@app.command("list")
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND",
            autocompletion=_kinds,
            help=f"{', '.join([*KINDS][:-1])} or {[*KINDS][-1]}; all names when left out.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """List what a study can name: each with its meaning and its arguments."""
    if kind is not None and kind not in KINDS:
        raise BadInput(unknown("kind", kind, KINDS))
    say(*listed(kind, shutil.get_terminal_size().columns))


@app.command()
def schema(debug: Debug = False) -> None:
    """Print the JSON schema of a study file, for editors that complete and check TOML."""
    from silo_tune.study.schema import schema_text

    say(schema_text().removesuffix("\n"))
