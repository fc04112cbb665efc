"""`silo-tune prune`: one network, without a study file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from silo_tune.cli.app import Debug, Tracked, app, named, see_folders
from silo_tune.cli.stopping import monitors, watched
from silo_tune.cli.streams import outlive_readers, say
from silo_tune.errors import BadInput


@app.command()
def prune(
    model: Annotated[str, typer.Option(help="A network by its name, timm:NAME, or a function, module:name.")],
    data: Annotated[
        str,
        typer.Option(
            help="A data set by its name, a function, a folder of images, or a file: .csv, .parquet, .jsonl, .npz …"
        ),
    ],
    target: Annotated[str | None, typer.Option(help="Of a table: the column that is predicted.")] = None,
    text: Annotated[str | None, typer.Option(help="Of a table: the column of texts that it is predicted from.")] = None,
    task: Annotated[str, typer.Option(help="classification, binary, regression …")] = "classification",
    checkpoint: Annotated[
        str | None, typer.Option(metavar="FILE", help="The trained network: safetensors, a state dict, or timm.")
    ] = None,
    dense_epochs: Annotated[
        int | None, typer.Option(help="Without a checkpoint: epochs of the first training.")
    ] = None,
    max_lr: Annotated[float | None, typer.Option(help="Peak learning rate of that training; ε when left out.")] = None,
    weights_remaining: Annotated[float, typer.Option(help="Share of the weights that is left at last.")] = 0.1,
    cycles: Annotated[int | None, typer.Option(help="Prunes; a fifth each when left out.")] = None,
    epochs: Annotated[int, typer.Option(help="Epochs of each retraining.")] = 5,
    batch: Annotated[int, typer.Option(help="Examples of a step.")] = 64,
    epsilon: Annotated[float | None, typer.Option(help="max_lr rises from ε …")] = None,
    delta: Annotated[float | None, typer.Option(help="… to ε + δ. A pilot finds both when left out.")] = None,
    after_prune: Annotated[str, typer.Option(help="keep, rewind or reinit the weights that are left.")] = "keep",
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.")] = "sgd",
    tolerance: Annotated[float | None, typer.Option(help="Difference of scores that counts as none.")] = None,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="A further key of the study, as in TOML. Repeatable."),
    ] = None,
    out: Annotated[str | None, typer.Option("--out", metavar="RUN", callback=named, help="Run folder or URL.")] = None,
    track: Tracked = None,
    ray: Annotated[bool, typer.Option("--ray", help="Train on a Ray cluster that is started here.")] = False,
    address: Annotated[str | None, typer.Option(help="A Ray cluster: auto, ray://HOST:PORT, HOST:PORT.")] = None,
    debug: Debug = False,
) -> None:
    """Prune a network in cycles with SILO's max_lr; the same command resumes."""
    from silo_tune.cli.console import watch
    from silo_tune.everyday import PruningPlan, run_pruning
    from silo_tune.run.trackers import tracks
    from silo_tune.study.study_file import change_of

    callbacks = tracks(track or ())
    outlive_readers()
    see_folders(os.getcwd())
    if checkpoint is None and dense_epochs is None:
        raise BadInput("--checkpoint, --dense-epochs: give the trained network, or say how long it is trained first")
    if checkpoint is not None and dense_epochs is not None:
        raise BadInput("--checkpoint, --dense-epochs: a checkpoint is not trained again; choose one")
    dense = {"checkpoint": checkpoint} if checkpoint else {"epochs": dense_epochs, "max_lr": max_lr}
    with watched(), watch() as monitor:
        monitors.append(monitor)
        asked = PruningPlan(
            table={"model": reference(model), "data": data_table(data, target, text)}, task={"name": task},
            dense=dense, weights_remaining=weights_remaining, cycles=cycles, epochs=epochs, epsilon=epsilon,
            delta=delta, after_prune=after_prune, batch=batch, optimizer=optimizer, tolerance=tolerance, seed=seed,
            settings=dict(map(change_of, sets or ())),
        )  # fmt: skip
        pruned = run_pruning(asked, out, not ray and address is None, address, monitor, callbacks)
    say("", str(pruned))
    if "://" not in pruned.run:
        picture = Path(pruned.run) / "pruned.png"
        pruned.picture(picture)
        say(f"picture: {picture}")


def reference(name: str) -> dict[str, Any]:
    """A name, or module:name of a function; a run tells where the file of that has changed since."""
    if ":" in name and not name.startswith(("timm:", "torchvision:", "hf:")):
        return {"function": name, "version": "1"}
    return {"name": name}


def data_table(name: str, target: str | None, text: str | None = None) -> dict[str, Any]:
    """[data] of a name, a function, a folder or a file; a table with a column of texts is data of texts."""
    from silo_tune.study import registry

    kinds = {
        ".csv": "table",
        ".parquet": "table",
        ".jsonl": "table",
        ".npz": "arrays",
        ".safetensors": "arrays",
        ".txt": "tokens",
    }
    if name in registry.DATA and text is None:
        return {"name": name}
    kind = "folder" if os.path.isdir(name) else kinds.get(Path(name).suffix)
    if kind is None and text is None:
        return reference(name)  # an unknown name is refused with those that there are
    if kind == "table" and target is None:
        raise BadInput("--target: name the column of the table that is predicted")
    if text is not None:
        if kind != "table":
            raise BadInput(f"--text: a column of a table, and {name!r} is none")
        return {"name": "text", "path": name, "text": text, "target": target}
    return {"name": kind, "path": name} | ({} if target is None else {"target": target})
