"""The command that draws an arm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from silo_tune.cli.app import Debug, Sets, StudyFile, app, named
from silo_tune.cli.streams import say
from silo_tune.cli.training_commands import see_functions
from silo_tune.errors import BadInput
from silo_tune.study.places import absolute

if TYPE_CHECKING:
    from silo_tune.planner.curves import Curves

COLUMNS = 60


@app.command()
def show(
    study: StudyFile,
    arm: Annotated[str, typer.Argument(metavar="ARM", help="An arm of the study.")],
    out: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="FILE", callback=named, help="The picture, .png or .svg; NAME-ARM.png when left out."
        ),
    ] = None,
    sets: Sets = None,
    debug: Debug = False,
) -> None:
    """Draw an arm: its peaks over cycles and the learning rate inside one, here and as a picture."""
    from silo_tune.planner.curves import curves_of
    from silo_tune.study.study_file import load_study

    loaded = load_study(study, sets or ())
    see_functions(study)
    file = Path(out or f"{loaded.name}-{arm}.png")
    if file.suffix not in (".png", ".svg"):
        raise BadInput(f"--out: {str(file)!r} is neither .png nor .svg")
    curves = curves_of(loaded, arm)
    say(*_lines(curves))

    from silo_analysis.figures.draw_schedule import draw_curves

    try:
        Path(absolute(str(file))).write_bytes(draw_curves(curves, file.suffix.removeprefix(".")))
    except OSError as error:
        raise BadInput(f"--out: cannot write {str(file)!r}: {error.strerror}") from None
    say(f"picture: {file}")


def _lines(curves: Curves) -> list[str]:
    from silo_tune.cli.sketch import sampled, sketch

    lines = [*curves.words, ""]
    peaks = [peak for peak in curves.peaks if peak is not None]
    if peaks:
        title = f"max_lr over cycles {curves.cycles[0]} to {curves.cycles[-1]}"
        lines += [title, *sketch(peaks, width=min(4, max(1, COLUMNS // len(peaks)))), ""]
    top = max(peaks, default=1.0)
    unit = "" if peaks else ", in multiples of max_lr"
    lines += [f"learning rate inside a cycle{unit}", *sketch([top * x for x in sampled(curves.inside, COLUMNS)]), ""]
    return lines
