"""The command that takes a network out of a run."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated

import typer

from silo_tune.cli.app import ArmOfRun, Debug, Functions, RunFolder, SeedOfRun, app, named, see_folders
from silo_tune.cli.streams import say
from silo_tune.formats import percent


class FileForm(StrEnum):
    """What `weights` writes."""

    SAFETENSORS = "safetensors"
    TORCH = "torch"
    ONNX = "onnx"


@app.command()
def weights(
    run: RunFolder,
    arm: ArmOfRun,
    seed: SeedOfRun,
    cycle: Annotated[
        int | None, typer.Option("--cycle", metavar="M", help="The last cycle with weights when left out; 0 is dense.")
    ] = None,
    form: Annotated[
        FileForm, typer.Option("--format", help="safetensors, a state dict of torch, or ONNX.")
    ] = FileForm.SAFETENSORS,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="DIR", callback=named, help="A folder; NAME-ARM-seed-S-cycle-M here when left out."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
    push: Annotated[
        str | None, typer.Option("--push", metavar="OWNER/NAME", help="Upload both files to the Hugging Face Hub too.")
    ] = None,
    functions: Functions = False,
    debug: Debug = False,
) -> None:
    """Write the weights of a trained network and a model card, for `silo_tune.load` and others."""
    from silo_tune.export.weights import take_weights

    if functions:
        see_folders(os.getcwd())
    taken = take_weights(
        run,
        arm,
        seed,
        cycle,
        form=form.value,
        out=out,
        force=force,
        functions=functions,
        push=push,
        notice=lambda message: say(message, err=True),
    )
    left = percent(taken.result["weights_remaining"])
    say(f"{arm}, seed {seed}, cycle {taken.cycle}: {left} % of the prunable weights remain")
    say(f"written: {', '.join(str(taken.folder / name) for name in taken.files)}")
    if taken.address is not None:
        say(f"uploaded: {taken.address}")
