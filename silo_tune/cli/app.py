"""The application, and what several commands take."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer
import typer.core

from silo_tune.cli.streams import say
from silo_tune.errors import BadInput
from silo_tune.machine import VERSION

# As a newcomer needs them.
ORDER = (
    "init", "plan", "run", "status", "report", "open", "compare", "show", "prune", "weights", "shrink", "fit", "replay",
    "export", "list", "schema",
)  # fmt: skip


class _Ordered(typer.core.TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    cls=_Ordered,
    help="Find, check and apply learning rates for iterative pruning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        say(f"silo-tune {VERSION}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Find, check and apply learning rates for iterative pruning."""


def tell_notes(ledger: Mapping[str, Any]) -> None:
    """Say where files of a run contradict each other."""
    for note in ledger.get("notes", ()):
        say(f"note: {note}", err=True)


def see_folders(*folders: str) -> None:
    """A user's functions are imported from these folders too."""
    sys.path.extend(folder for folder in folders if folder not in sys.path)


RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="Run folder or URL.")]
GridOracle = Annotated[
    str | None,
    typer.Option("--oracle", metavar="NAME", help="An Oracle with a grid; the one of the verdict when left out."),
]
StudyFile = Annotated[str, typer.Argument(metavar="STUDY.toml", help="The study file, or RUN/study.toml of a run.")]


def named(place: str | None) -> str | None:
    """A place as it is given; of a variable that is not set a shell makes an empty one. Raises BadInput for that."""
    if place is not None and not place.strip():
        raise BadInput("--out is empty (a variable that is not set?); name a place, or leave --out away")
    return place


Out = Annotated[
    str | None,
    typer.Option(
        "--out", metavar="RUN", callback=named,
        help="Run folder or URL; runs/NAME when left out, RUN for RUN/study.toml.",
    ),
]  # fmt: skip
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY.PATH=VALUE", help="Change a value of the study, as written in TOML. Repeatable."
    ),
]
Reused = Annotated[
    list[str] | None,
    typer.Option(
        "--reuse", metavar="OTHER", help="Take trials that another run has, and do not train them again. Repeatable."
    ),
]
Tracked = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="NAME[:PLACE]",
        help="Send numbers to tensorboard, mlflow or wandb, as they come. Repeatable.",
    ),
]
Smoke = Annotated[bool, typer.Option("--smoke", help="Shrink the study to seconds, into runs/NAME-smoke.")]
Preflight = Annotated[
    bool,
    typer.Option(
        "--preflight/--no-preflight",
        help="Look at functions, data, one step and one prune first.",
    ),
]
ArmOfRun = Annotated[str, typer.Option("--arm", metavar="NAME", help="An arm of the run.")]
SeedOfRun = Annotated[int, typer.Option("--seed", metavar="S", help="One of its seeds.")]
Functions = Annotated[
    bool, typer.Option("--functions", help="Import the functions that the run's study names, from here.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
