"""`prune`: one network, pruned in cycles with SILO's max_lr, without a study file. The engine is that of a study."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from silo_tune.api import run_study
from silo_tune.data.example_sets import ExampleSet, sample_in
from silo_tune.data.given import of_fields
from silo_tune.data.load import facts, open_examples
from silo_tune.data.objects import digest_of, fields_of
from silo_tune.errors import BadInput, RunFailed, SiloTuneError, raised
from silo_tune.formats import difference, level_sign, percent, plural, rate, size, telling
from silo_tune.machine import paths_from_here
from silo_tune.models.build import init_seed
from silo_tune.models.checkpoint import load_weights, pack
from silo_tune.planner.unit import canonical_json
from silo_tune.planner.winner import gain, guess_told, value_told
from silo_tune.run.callbacks import Callback
from silo_tune.run.monitor import Monitor
from silo_tune.run.session import finest_tolerance
from silo_tune.seeds import seed_globally
from silo_tune.store.unit_store import unit_of
from silo_tune.study.handed import DATA, MODEL, hand_over
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study, put
from silo_tune.study.task import TaskSpec
from silo_tune.study.wording import words_of
from silo_tune.study.workspace import Workspace
from silo_tune.training.worker import Worker

if TYPE_CHECKING:
    import os

    import pandas as pd

ARM = "silo"
# Of the pilot that finds ε and ε + δ where they are not given: whole chains, and the rates that they try (ours).
CHAINS = 8
RATES = {"sgd": (0.003, 1.0), "adamw": (3e-5, 1e-2)}
# A pilot's seed is none of the chain's own.
PILOT_SEED = 1000


@dataclass(frozen=True)
class Pruned:
    """What `prune` gives.

    Attributes:
        model: the smallest network within the tolerance of the dense one on validation, on the CPU, in evaluation mode,
            its pruned weights 0. The dense one where none is.
        cycle: its number of prunes.
        table: a row a cycle: cycle, weights_remaining (a share of the prunable weights), max_lr, status, val_score,
            test_score.
        layers: a row for each layer that can be pruned, of the chosen network: name, weights, left, weights_remaining.
        file_bytes, zipped_bytes: of the dense and of the chosen network's weights, plain and compressed.
        study: as the engine ran it.
        run: folder or URL of the run; the same call resumes there.
        pilot: trials that were trained to find ε and δ; 0 where they were given.
        guessing: the dense network is no better than the best constant prediction.
    """

    model: nn.Module
    cycle: int
    table: pd.DataFrame
    layers: pd.DataFrame
    file_bytes: tuple[int, int]
    zipped_bytes: tuple[int, int]
    study: Study
    run: str
    pilot: int = 0
    guessing: bool = False

    def __str__(self) -> str:
        with telling(words_of(self.study)):
            return "\n".join(_told(self))

    def picture(self, file: str | os.PathLike[str]) -> None:
        """Draw score against weights remaining into a file (.png, .svg or .pdf)."""
        from silo_analysis.figures.draw_chain import save_chain

        with telling(words_of(self.study)):
            save_chain(self.table, self.cycle, self.study.report.tolerance, str(file))


@paths_from_here()
def prune(
    model: nn.Module | Callable[[], nn.Module],
    train: Any,
    validation: Any = None,
    test: Any = None,
    *,
    task: str | Mapping[str, Any] = "classification",
    weights_remaining: float = 0.1,
    cycles: int | None = None,
    epochs: int = 5,
    epsilon: float | None = None,
    delta: float | None = None,
    dense_epochs: int | None = None,
    max_lr: float | None = None,
    after_prune: str = "keep",
    batch: int | None = None,
    optimizer: str | Mapping[str, Any] = "sgd",
    tolerance: float | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    out: str | None = None,
    local: bool = True,
    address: str | None = None,
    monitor: Monitor | None = None,
    callbacks: Sequence[Callback] = (),
) -> Pruned:
    """Prune a network in cycles, each retrained with SILO's max_lr; the same call resumes what was interrupted.

    Args:
        model: the network, whose weights are where it starts; or a function that makes a new one, which is trained
            first.
        train, validation, test: (inputs, targets), a map-style data set of torch, or a DataLoader. Validation chooses,
            test only tells. Without a test part half of validation is test; without both, each is a fifth of train.
        task: as [task] of a study: a name, or a table.
        weights_remaining: share of the prunable weights that the last cycle leaves.
        cycles: prunes; when left out, so many that each takes about a fifth of what is left.
        epochs: of each retraining.
        epsilon, delta: max_lr rises from epsilon to epsilon + delta. When both are left out a pilot finds them: so many
            whole chains of another seed as `CHAINS` says, which multiplies the cost.
        dense_epochs: of the training before the first prune. When left out the network is taken as trained.
        max_lr: of that training; epsilon when left out.
        after_prune: "keep" the weights that are left, "rewind" them to the start of training, or "reinit": draw them
            anew. The last needs a function as model.
        batch: examples of a step; the loader's, or 64.
        optimizer: as [retrain] optimizer of a study: "sgd", "adamw", or a table.
        tolerance: difference of scores that counts as none; where the score is a share 0.01, or what two validation
            examples are worth if that is more.
        seed: of all that is drawn.
        settings: further keys of the study, such as {"retrain.clip": 1.0}.
        out: run folder or URL; runs/prune-… of all the above when left out.
        local, address: train in this process; with local = False on a Ray cluster, a local one without address.
        monitor: hears how it goes; `silo_tune.watch()` shows it.
        callbacks: as of `run_study`: trackers, or your own.

    Raises:
        BadInput: what is given does not fit together, or nothing can be pruned.
        RunFailed: a training failed or diverged at once; what is committed is kept.
    """
    spec = {"name": task} if isinstance(task, str) else dict(task)
    fields, loaded = fields_of(train, validation, test)
    given = _examples(fields, spec)
    sample = sample_in(given) if isinstance(given, ExampleSet) else None
    known = given.content() if sample is None else digest_of(given.content().encode(), sample.encode())
    content = {"model": _network_digest(model), "data": known}
    hand_over({content["model"]: model, content["data"]: given})
    if isinstance(model, nn.Module) and after_prune == "reinit":
        raise BadInput("after_prune: weights are drawn anew of a network that a function makes: give one as model")
    if not isinstance(model, nn.Module) and after_prune == "reinit" and _always_the_same(model):
        raise BadInput("after_prune: nothing is drawn anew, for the function gives the same weights every time")
    if not isinstance(model, nn.Module) and dense_epochs is None:
        raise BadInput("dense_epochs: a new network is trained first; say for how many epochs, and its max_lr")
    table = {
        "data": {
            "function": DATA,
            "version": content["data"][:16],
            "args": {"content": content["data"]},
            "val": "drawn" if validation is None else "given",
            **({"workers": train.num_workers} if isinstance(train, DataLoader) and train.num_workers else {}),
        },
        "model": {"function": MODEL, "version": content["model"][:16], "content": content["model"]},
    }
    asked = PruningPlan(
        table=table, task=spec, weights_remaining=weights_remaining, cycles=cycles, epochs=epochs, epsilon=epsilon,
        delta=delta, after_prune=after_prune, batch=(loaded or 64) if batch is None else batch, optimizer=optimizer,
        dense={"checkpoint": "model"} if dense_epochs is None else {"epochs": dense_epochs, "max_lr": max_lr},
        tolerance=tolerance, seed=seed, settings=settings or {},
    )  # fmt: skip
    return run_pruning(asked, out, local, address, monitor, callbacks)


def _examples(fields: Mapping[str, Any], task: Mapping[str, Any]) -> Any:
    try:
        return of_fields(fields, TaskSpec.model_validate(task))
    except SiloTuneError:
        raise
    except Exception as error:  # a user's data set may raise anything
        raise BadInput(f"data: {raised(error)}") from error


def _network_digest(model: nn.Module | Callable[[], nn.Module]) -> str:
    """Says which network this is: its layers, its weights, and its code where that can be read."""
    if not callable(model):
        raise BadInput(f"model: give a torch.nn.Module or a function that makes one, not {type(model).__name__}")
    try:
        made = model if isinstance(model, nn.Module) else _drawn(model, 0)
    except Exception as error:
        raise BadInput(f"model: {raised(error)}") from error
    if not isinstance(made, nn.Module):
        raise BadInput(f"model: give a torch.nn.Module or a function that makes one; this gives {type(made).__name__}")
    weights = pack({"weights": made.state_dict()})
    kinds = {kind for kind in map(type, made.modules()) if not kind.__module__.startswith("torch.")}
    code = sorted(map(_source, kinds))
    return digest_of(repr(made).encode(), weights, *(text.encode() for text in code))


def _source(kind: type) -> str:
    """The code of a class; nothing where it cannot be read, as in a console."""
    with contextlib.suppress(OSError, TypeError):
        return inspect.getsource(kind)
    return ""


def _drawn(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """What a function makes under a seed; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        seed_globally(seed)
        return make()


def _always_the_same(make: Callable[[], nn.Module]) -> bool:
    """Does a function give one network's weights, whatever the seed?"""
    first, second = (_drawn(make, seed).state_dict() for seed in (0, 1))
    return all(torch.equal(first[name], second[name]) for name in first)


# --- for the command too ---


@dataclass(frozen=True)
class PruningPlan:
    """What `prune` was asked for, with the study's own [model] and [data] in `table`.

    `dense` is its [dense], whose max_lr may be left out; the others are those of `prune`.
    """

    table: Mapping[str, Any]
    task: Mapping[str, Any]
    dense: Mapping[str, Any]
    weights_remaining: float
    cycles: int | None
    epochs: int
    epsilon: float | None
    delta: float | None
    after_prune: str
    batch: int
    optimizer: str | Mapping[str, Any]
    tolerance: float | None
    seed: int
    settings: Mapping[str, Any]


def run_pruning(
    asked: PruningPlan,
    out: str | None,
    local: bool,
    address: str | None,
    monitor: Monitor | None,
    callbacks: Sequence[Callback] = (),
) -> Pruned:
    """Run what was asked for, or resume it; the other arguments are those of `prune`."""
    study = pruning_study(asked)
    named = study.model_dump(mode="json", exclude={"cluster", "report"})
    url = out or f"runs/prune-{hashlib.sha256(canonical_json(named).encode()).hexdigest()[:8]}"
    outcome = run_study(
        study, url, local=local, address=address, retry_failed=True, monitor=monitor, callbacks=callbacks
    )
    return _gathered(study, outcome.url, outcome.frame)


def pruning_study(asked: PruningPlan) -> Study:
    """The study of one chain. Raises BadInput for all that is wrong with it."""
    wrong, dense, optimizer = [], asked.dense, asked.optimizer
    if not 0 < asked.weights_remaining < 1:
        wrong.append(f"weights_remaining: {asked.weights_remaining} is no share between 0 and 1")
    if asked.cycles is not None and asked.cycles < 1:
        wrong.append(f"cycles: {asked.cycles} prunes; give 1 or more")
    if (asked.epsilon is None) != (asked.delta is None):
        wrong.append("epsilon, delta: give both, or neither, and a pilot finds them")
    if not isinstance(optimizer, str | Mapping):
        wrong.append(f'optimizer: give a name or a table, such as {{"name": "RMSprop", "alpha": 0.9}}, not {optimizer}')
    if "checkpoint" not in dense and dense.get("max_lr") is None and asked.epsilon is None:
        wrong.append("max_lr: say the peak learning rate of the dense training, or epsilon")
    if wrong:
        raise BadInput("\n".join(wrong))
    prunes = asked.cycles or max(1, math.ceil(math.log(asked.weights_remaining) / math.log(0.8) - 0.5))
    steps = {"name": optimizer} if isinstance(optimizer, str) else dict(optimizer)
    if "checkpoint" not in dense and dense.get("max_lr") is None:
        dense = {**dense, "max_lr": asked.epsilon}
    made: dict[str, Any] = {
        "name": "prune",
        "cycles": prunes + 1,
        **{name: dict(part) for name, part in asked.table.items()},
        "dense": dict(dense),
        "prune": {"rate": 1 - asked.weights_remaining ** (1 / prunes), "after_prune": asked.after_prune},
        "retrain": {"epochs": asked.epochs, "batch": asked.batch, "optimizer": steps},
        "replicates": {"seeds": [asked.seed]},
        "arms": {ARM: {"mode": "schedule", "schedule": {"name": "silo"}}},
        "cluster": {"keep": "chains"},
    }
    if dict(asked.task) != {"name": "classification"}:
        made["task"] = dict(asked.task)
    if asked.epsilon is not None:
        made["arms"][ARM]["schedule"] |= {"eps": asked.epsilon, "delta": asked.delta}
    else:
        low, high = RATES["sgd" if str(steps.get("name")).lower() == "sgd" else "adamw"]
        made["pilot"] = {
            "seeds": [asked.seed + PILOT_SEED], "chains": CHAINS, "low": low, "high": high, "proposals": "guided",
        }  # fmt: skip
    for key, value in asked.settings.items():
        put(made, key, value)
    told = {"tolerance": asked.tolerance} if asked.tolerance is not None else {}
    report = {**told, **made.get("report", {})}
    study = parse_study({**made, "report": {"tolerance": 0.01, **report}}, "prune")
    if "tolerance" in report:
        return study
    if not study.scored.share:
        raise BadInput(f"tolerance: say which difference of {study.scored.title} counts as none")
    return _tolerant(study)


def _tolerant(study: Study) -> Study:
    """With a tolerance that its validation part can show."""
    with contextlib.suppress(BadInput):  # what is wrong with the data is told with all else, when the run looks at it
        known = facts(open_examples(study.data, study.task), study.data)
        tolerance = max(study.report.tolerance, finest_tolerance(study, known))
        return study.model_copy(update={"report": study.report.model_copy(update={"tolerance": tolerance})})
    return study


def _gathered(study: Study, url: str, frame: pd.DataFrame) -> Pruned:
    import pandas as pd

    rows = frame[(frame["arm"] == ARM) & (frame["mode"] == "schedule")].sort_values("cycle")
    good = rows[rows["status"] == "ok"]
    if not len(good) or int(good["cycle"].iloc[0]) != 0:
        reason = rows["error"].dropna().iloc[0] if rows["error"].notna().any() else "its run has no dense network"
        advice = "lower max_lr, or " if "diverged" in set(rows["status"]) else ""
        raise RunFailed(f"the dense network has no result: {reason}; {advice}see {url}")
    chosen = _smallest(good, study)
    workspace = Workspace.of(study, url)
    worker = Worker(workspace, open_examples(workspace.data, workspace.task))
    dense, result = (worker.units.result(str(key)) for key in (good["key"].iloc[0], chosen["key"]))
    assert dense is not None
    assert result is not None
    states = worker.state_of(dense["key"]), worker.state_of(result["key"])
    network = worker.fresh(unit_of(result), init_seed(study.replicates.seeds[0]))
    load_weights(network, states[1]["weights"])
    files = [pack({"weights": state["weights"]}) for state in states]
    columns = ["cycle", "weights_remaining", "max_lr", "status", "val_score", "test_score"]
    return Pruned(
        model=network.cpu().eval(),
        cycle=int(chosen["cycle"]),
        table=rows[columns].reset_index(drop=True),
        layers=pd.DataFrame(_layers(states[1]["mask"])),
        file_bytes=(len(files[0]), len(files[1])),
        zipped_bytes=(len(zlib.compress(files[0])), len(zlib.compress(files[1]))),
        study=study,
        run=url,
        guessing=value_told(dense) <= guess_told(dense),
        pilot=int(frame[frame["mode"] == "pilot"]["key"].nunique()),
    )


def _smallest(good: pd.DataFrame, study: Study) -> pd.Series[Any]:
    """The row of the last cycle whose validation score is within the tolerance of the dense network's."""
    gains = [gain(float(score), study.scored.sign) for score in good["val_score"]]
    near = [row for row, worth in enumerate(gains) if worth >= gains[0] - study.report.tolerance]
    return good.iloc[near[-1]]


def _layers(masks: Mapping[str, Tensor]) -> Iterator[dict[str, Any]]:
    for name, mask in masks.items():
        left = int(mask.sum())
        yield {"layer": name, "weights": mask.numel(), "left": left, "weights_remaining": left / mask.numel()}


def _told(of: Pruned) -> Iterator[str]:
    """The summary, in lines of at most 80 columns."""
    rates = [value for value in of.table["max_lr"][1:] if value == value]
    found = f", found by a pilot of {plural(of.pilot, 'trial')}" if of.pilot else ""
    if rates:
        yield f"max_lr from {rate(rates[0])} to {rate(rates[-1])}{found}; {of.study.prune.after_prune} after a prune"
    yield f"{'cycle':>5}  {'weights left':>12}  {'max_lr':>8}  {'validation':>12}  {'test':>12}"
    for row in of.table.to_dict("records"):
        scores = [level_sign(row[name]) for name in ("val_score", "test_score")]
        shown = "  ".join(f"{score:>12}" for score in scores) if row["status"] == "ok" else f"  {row['status']}"
        mark = "  ←" if row["cycle"] == of.cycle else ""
        left = f"{percent(row['weights_remaining'])} %"
        yield f"{row['cycle']:>5}  {left:>12}  {rate(row['max_lr']):>8}  {shown}{mark}"
    dense, chosen = of.table.iloc[0], of.table[of.table["cycle"] == of.cycle].iloc[0]
    if of.guessing:
        yield _guessing(trained=of.study.dense.checkpoint is None)
    lost = difference(chosen["test_score"] - dense["test_score"])
    within = difference(of.study.report.tolerance, signed=False)
    if of.cycle == 0:
        yield f"No pruned network is within {within} of the dense one on validation."
    else:
        yield f"← the smallest within {within} of the dense one on validation;"
        yield f"  on test {lost} against it"
    yield f"File: {_kb(of.file_bytes[1])}, as the dense one: zeros alone save nothing."
    yield f"Zipped: {_kb(of.zipped_bytes[1])}, the dense one {_kb(of.zipped_bytes[0])}."


def _guessing(trained: bool) -> str:
    if trained:
        return "The dense network is no better than guessing: raise dense_epochs, or change max_lr."
    return "The network as given is no better than guessing: give dense_epochs, and it is trained first."


def _kb(count: int) -> str:
    return size(count) if count >= 10 * 2**20 else f"{count / 1024:.0f} KB"
