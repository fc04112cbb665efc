"""The command that makes a pruned network small."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from silo_tune.cli.app import ArmOfRun, Debug, Functions, RunFolder, SeedOfRun, app, named, see_folders
from silo_tune.cli.streams import say

if TYPE_CHECKING:
    from silo_tune.export.shrink import Shrunk


@app.command()
def shrink(
    run: RunFolder,
    arm: ArmOfRun,
    seed: SeedOfRun,
    out: Annotated[
        str, typer.Option("--out", metavar="FILE.safetensors", callback=named, help="A new file for the small network.")
    ],
    cycle: Annotated[
        int | None, typer.Option("--cycle", metavar="M", help="The last cycle with weights when left out.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", metavar="N", help="Images of a timed pass.")] = 1,
    random_images: Annotated[
        bool, typer.Option("--random-images", help="Where the data is not there, compare on random numbers.")
    ] = False,
    functions: Functions = False,
    debug: Debug = False,
) -> None:
    """Write a network whose filters were pruned without them: smaller, with the same outputs."""
    from rich.console import Console
    from rich.table import Table

    from silo_tune.cli.console import wide
    from silo_tune.export.shrink import shrink_unit

    if functions:
        see_folders(os.getcwd())
    outcome = shrink_unit(
        run,
        arm,
        seed,
        cycle,
        out,
        batch=batch,
        random_images=random_images,
        functions=functions,
        notice=lambda message: say(message, err=True),
    )
    table = Table(box=None, pad_edge=False)
    for name in (f"{arm} seed {seed} cycle {outcome.cycle}", "masked", "small", "share"):
        table.add_column(name, justify="right" if table.columns else "left")
    for row in _rows(outcome):
        table.add_row(*row)
    wide(Console()).print(table)
    say(*_words(outcome), f"written: {out} and {out.removesuffix('.safetensors')}.json")


def _rows(outcome: Shrunk) -> list[tuple[str, str, str, str]]:
    masked, small, time = outcome.costs.masked, outcome.costs.small, outcome.costs.latency
    counted = {
        "filters of pruned layers": outcome.filters,
        "parameters": (masked.parameters, small.parameters),
        "parameters, not zero": (masked.non_zero, small.non_zero),
        "MACs per image": (masked.macs, small.macs),
        "weights, bytes": (masked.bytes, small.bytes),
    }
    rows = [(name, f"{a:,}", f"{b:,}", f"{b / a:.0%}") for name, (a, b) in counted.items()]
    share = f"{1 / time.ratio:.0%}"
    return [*rows, (f"latency, ms (batch {time.batch})", f"{time.first_ms:.3g}", f"{time.second_ms:.3g}", share)]


def _words(outcome: Shrunk) -> list[str]:
    time, compared = outcome.costs.latency, outcome.compared
    kind = "images of random numbers" if compared.accuracies is None else "validation images"
    lines = [
        f"{time.ratio:.2f} times as fast (quartiles {time.low:.2f} to {time.high:.2f} of {time.pairs} pairs of passes "
        f"in turn, one thread)",
        f"greatest difference of an output: {compared.difference:.2g}, of outputs up to {compared.greatest:.3g}, on "
        f"{compared.images} {kind}",
    ]
    if compared.accuracies is not None:
        masked, small = compared.accuracies
        lines.append(f"accuracy there: {masked:.2%} masked, {small:.2%} small")
    return lines
