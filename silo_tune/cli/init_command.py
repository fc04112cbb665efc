"""`silo-tune init`: a commented study for the user's own data, after a look at it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from silo_tune.cli.app import Debug, app, named
from silo_tune.cli.prune_command import data_table, reference
from silo_tune.cli.streams import say
from silo_tune.cli.training_commands import see_functions
from silo_tune.errors import BadInput

if TYPE_CHECKING:
    from silo_tune.training.proposal import FirstLook

# Steps that a cycle of a proposed study has, and least and most epochs for it (ours).
STEPS, EPOCHS = 500, (2, 20)
CYCLES, RATE, POINTS, CHAINS = 10, 0.2, 9, 8
# Seeds where the whole study takes less than so many core hours, and where it takes more (ours).
SEEDS, HOURS = (10, 5), 4.0


@app.command()
def init(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="A data set by its name, a function, a folder of images, or a file: .csv, .parquet …"
        ),
    ],
    target: Annotated[str | None, typer.Option(help="Of a table: the column that is predicted.")] = None,
    text: Annotated[str | None, typer.Option(help="Of a table: the column of texts that it is predicted from.")] = None,
    task: Annotated[str | None, typer.Option(help="classification (the usual), binary, regression …")] = None,
    model: Annotated[str | None, typer.Option(help="A network by its name; one of ours when left out.")] = None,
    out: Annotated[
        str, typer.Option("--out", metavar="STUDY.toml", callback=named, help="The file to write.")
    ] = "study.toml",
    debug: Debug = False,
) -> None:
    """Write a commented study for your data, after a look at it and a short training. Never writes over a file."""
    from silo_tune.training.proposal import seen

    file = Path(out)
    if file.exists():
        raise BadInput(f"--out: {out!r} exists, and is not written over; name another")
    see_functions(out)
    table = data_table(data, target, text)
    if table.get("name") == "table":
        table |= _without_ids(table)
    wanted = None if task in (None, "classification") else {"name": task}
    network = reference(model) if model else _network(table, wanted)
    say(f"looking at {data} …")
    found = seen(table, network, wanted)
    try:
        file.write_text(study_text(file.stem, table, network, wanted, found), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"--out: cannot write {out!r}: {error.strerror}") from None
    say(f"wrote {out}. Next:", f"    silo-tune plan {out}     # what is wrong, what it will train")
    say(f"    silo-tune run {out} --smoke   # does it run? in seconds", f"    silo-tune run {out}")


def _without_ids(table: Mapping[str, Any]) -> dict[str, Any]:
    """`ignore` of the columns that only number or name the rows."""
    from silo_tune.data.column_files import id_columns
    from silo_tune.study.data import Data

    found = id_columns(Data.model_validate(dict(table)))
    for name in found:
        say(f"column {name!r} has another value in every row, as a row's number or name: left out by data.ignore")
    return {"ignore": found} if found else {}


def _network(data: Mapping[str, Any], task: Mapping[str, Any] | None) -> dict[str, Any]:
    """One of ours that fits the kind of data."""
    from silo_tune.study import registry

    if data.get("name") == "tokens":
        return {"name": "gpt"}
    if data.get("name") == "text":
        return {"name": "lstm"}
    entry = registry.DATA.get(str(data.get("name")))
    if entry is not None and not entry.images:
        return {"name": "mlp"}
    return (
        {"name": "lenet-300-100"} if data.get("name") in ("digits", "mnist", "fashion-mnist") else {"name": "resnet8"}
    )


# --- the study ---


def _layers(model: Mapping[str, Any]) -> str:
    """Of a network most of whose weights are in kinds of layers that must be named."""
    return '\nlayers = ["embedding", "lstm", "linear"]' if model.get("name") == "lstm" else ""


def study_text(
    name: str, data: Mapping[str, Any], model: Mapping[str, Any], task: Mapping[str, Any] | None, found: FirstLook
) -> str:
    """The study file."""
    epochs = min(EPOCHS[1], max(EPOCHS[0], round(STEPS / found.steps)))
    tolerance, why = _tolerance(found)
    chains = (CYCLES - 1) * (4 + POINTS)
    seconds = epochs * found.steps * found.step_seconds
    hours = {seeds: (seeds * chains + 2 * CHAINS * (CYCLES - 1)) * seconds / 3600 for seeds in SEEDS}
    seeds = SEEDS[0] if hours[SEEDS[0]] <= HOURS else SEEDS[1]
    facts, noun = found.facts, found.facts.get("noun", "images")
    sizes = f"{facts['n_train']:,} training, {facts['n_val']:,} validation and {facts['n_test']:,} test {noun}"
    low, high, left = 0.005, 0.5, 100 * (1 - RATE) ** (CYCLES - 1)
    return f"""\
# Does max_lr have to rise from cycle to cycle for this network, and does SILO's rise fit? Written by silo-tune init.
# About {_hours(hours[seeds])} of one core: {seeds * chains:,} trials of {epochs} epochs, and those of the pilot;
# an epoch takes {found.steps * found.step_seconds:.3g} s here. Fewer seeds, cycles or rates of the Oracle: shorter.
name = {json.dumps(name)}
cycles = {CYCLES} # the dense one and {CYCLES - 1} prunes: {left:.0f} % of the weights are left

# {sizes}
[data]
{_lines(data)}
{_task(task, found)}
[model]
{_lines(model)}

[dense]
epochs = {2 * epochs}
max_lr = 0.1 # try it first: the dense network should be as good as you know it

[prune]
rate = {RATE}{_layers(model)}
after_prune = "reinit" # each cycle trains anew, as SILO's authors do; "keep" gives the better sparse network

[retrain]
epochs = {epochs} # about {STEPS} steps; as many as the network needs to stop getting better
batch = 64

[replicates]
seeds = {list(range(seeds))} # fewer than 5 decide little

# Finds the constants of the arms that leave them out, with the same effort for each, on a seed of its own.
[pilot]
seeds = [100]
chains = {CHAINS}
low = {low}
high = {high}
proposals = "guided"

[arms]
silo = {{ preset = "silo" }}
constant-low = {{ preset = "constant-low" }} # at ε, SILO's first rate
constant-high = {{ preset = "constant-high" }} # at ε + δ, its last
linear = {{ preset = "linear" }} # a straight ramp
oracle = {{ mode = "oracle", grid = {{ low = {low}, high = {high}, points = {POINTS} }}, prefix = "arm:silo" }}

[report]
tolerance = {tolerance:.2g} # {why}
"""


def _task(task: Mapping[str, Any] | None, found: FirstLook) -> str:
    if task is None:
        return ""
    return f"\n[task]\n{_lines(task)} # judged by {found.study.scored.name}; score = … takes another\n"


def _tolerance(found: FirstLook) -> tuple[float, str]:
    """A difference that counts as none, and why so large: what the data can tell."""
    score, count = found.study.scored, found.facts["n_val"]
    if score.share:
        least = max(0.005, 2 / count, math.sqrt(2 * 0.1 * 0.9 / count))
        return least, f"of {score.title}, about the standard error of a difference on {count:,} examples"
    if score.high <= 1:
        return 0.01, f"of {score.title} (ours: say what matters to you)"
    return 0.02 * abs(found.guess), f"2 % of the {score.title} of a guess (ours: say what matters to you)"


def _lines(table: Mapping[str, Any]) -> str:
    return "\n".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items())


def _hours(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{max(1, round(60 * hours))} minutes"
