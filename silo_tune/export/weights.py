"""From a run to a network that others can use: the weights of a committed unit, a model card, and the Hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from silo_tune.data.batches import Feed
from silo_tune.data.example_feed import feed_of
from silo_tune.data.example_sets import ExampleSet
from silo_tune.data.load import facts, open_examples
from silo_tune.data.sets import split_rows
from silo_tune.errors import BadInput, words
from silo_tune.export.chosen_unit import network_of, require_chain, require_functions, weights_of
from silo_tune.export.model_card import card
from silo_tune.export.network_file import KEY, SAFETENSORS, TORCH, About, is_plain, pack_weights, write_all
from silo_tune.export.onnx_file import ONNX, require_onnx, to_onnx
from silo_tune.machine import VERSION
from silo_tune.models.build import build_model
from silo_tune.models.checkpoint import pack_state_dict
from silo_tune.planner.unit import Unit
from silo_tune.results.doubts import own_study
from silo_tune.seeds import stream
from silo_tune.store.run_folder import Run
from silo_tune.study.handed import DATA
from silo_tune.study.hf_folder import place_of
from silo_tune.study.model import Study
from silo_tune.study.registry import HF_PREFIX
from silo_tune.study.task import USUAL
from silo_tune.tasks.making import outputs_of
from silo_tune.tasks.outputs import as_tensors

FILES = {"safetensors": SAFETENSORS, "torch": TORCH, "onnx": ONNX}
CARD = "README.md"
PACKERS: dict[str, Callable[[Mapping[str, Tensor], About], bytes]] = {
    "safetensors": pack_weights,
    "torch": lambda weights, about: pack_state_dict(weights, KEY, about.words),
}
# So many examples an ONNX file is checked on (ours).
CHECKED = 5


@dataclass(frozen=True)
class Taken:
    """What was written, of which unit; its result as committed; and where it is on the Hub."""

    folder: Path
    files: tuple[str, ...]
    cycle: int
    result: Mapping[str, Any]
    address: str | None


@dataclass(frozen=True)
class Given:
    """What the data tells of a network.

    Attributes:
        shape, classes, further: as in `About`.
        batch: a few examples as the network is given them, or random numbers in their place.
        mean, std: as in `About`.
    """

    shape: tuple[int, ...]
    classes: int
    batch: Any
    further: Mapping[str, Any]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def take_weights(
    url: str,
    arm: str,
    seed: int,
    cycle: int | None = None,
    *,
    form: str = "safetensors",
    out: str | None = None,
    force: bool = False,
    functions: bool = False,
    push: str | None = None,
    notice: Callable[[str], None] = lambda message: None,
) -> Taken:
    """Write the weights of a unit and a model card into a folder.

    Args:
        url: the run.
        arm, seed, cycle: whose network; the last cycle with weights when left out.
        form: one of `FILES`.
        out: the folder; NAME-ARM-seed-S-cycle-M here when left out.
        force: write over files that are there.
        functions: import the functions that the run's study names, for its network and data.
        push: "OWNER/NAME" of a repository on the Hugging Face Hub, to which the folder's two files go too.
        notice: told of corrupt files, and of data that is not there.

    Raises:
        BadInput: there is no such unit, its weights are gone, a package is missing, or the files cannot be written or
            uploaded.
        RunFailed: an ONNX file gives other outputs; nothing is written.
    """
    if form == "onnx":
        require_onnx()
    if push is not None:
        _require_hub(push)
    run = Run(url, notice)
    study = own_study(run)
    require_chain(run, study, arm, seed)
    unit, state = weights_of(run, study, arm, seed, cycle)
    folder = Path(out or f"{study.name}-{arm}-seed-{seed}-cycle-{unit.cycle}")
    names = (FILES[form], CARD)
    _require_new(folder, names, force)
    given = _given(run, study, unit, functions, notice)
    about = _about(study, unit, given)
    result = run.result(unit.key)
    assert result is not None
    command = ["silo-tune", "weights", url, "--arm", arm, "--seed", str(seed), "--cycle", str(unit.cycle)]
    command += [*(["--format", form] if form != "safetensors" else []), *(["--functions"] if functions else [])]
    told = card(study, arm, result, run.data_facts(), about, FILES[form], command)
    if form == "onnx" or functions or is_plain(unit.model):
        network = _network(study, unit, given, state["weights"], functions)  # what does not fit is refused
    data = to_onnx(network, given.batch) if form == "onnx" else PACKERS[form](state["weights"], about)
    write_all({folder / FILES[form]: data, folder / CARD: told.encode()})
    address = None if push is None else _upload(folder, names, push)
    return Taken(folder, names, unit.cycle, result, address)


def _require_new(folder: Path, names: tuple[str, ...], force: bool) -> None:
    there = [str(folder / name) for name in names if (folder / name).exists()]
    if there and not force:
        raise BadInput(f"--out: {' and '.join(there)} would be written over; name another folder, or say --force")


# --- the data ---


def _given(run: Run, study: Study, unit: Unit, functions: bool, notice: Callable[[str], None]) -> Given:
    """What the data tells; of data that is not there what the run recorded, if the network needs no more.

    Raises:
        BadInput: the data is not that of the run, or not there and needed.
    """
    try:
        require_functions(study.data, functions)
        dataset = open_examples(study.data, study.task)
    except BadInput as error:
        known = run.data_facts()
        if known is None or (len(known["shape"]) != 3 and study.model.function is None):
            raise
        if study.data.function != DATA:  # what was handed over is never normalised
            notice(f"{error}; so nothing is written of how its inputs are normalised")
        return _recorded(tuple(known["shape"]), outputs_of(study.task, known["classes"]), unit.seed)
    run.check_data(facts(dataset, study.data))
    feed = feed_of(dataset, split_rows(dataset, study.data, unit.seed), unit.augmentation, torch.device("cpu"))
    batch = next(iter(feed.batches(replace(feed.val, rows=feed.val.rows[:CHECKED]), CHECKED)))
    further = dataset.further if isinstance(dataset, ExampleSet) else {}
    classes = outputs_of(study.task, dataset.classes)
    if not isinstance(feed, Feed):
        return Given(dataset.shape, classes, batch, further)
    mean, std = tuple(feed.mean.tolist()), tuple((1.0 / feed.scale).tolist())
    return Given(dataset.shape, classes, batch, further, mean, std)


def _recorded(shape: tuple[int, ...], classes: int, seed: int) -> Given:
    """With random images or other random numbers."""
    inputs = torch.randn(CHECKED, *as_tensors(shape), generator=stream("random-images", seed))
    return Given(shape, classes, (inputs, None), {})


def _network(study: Study, unit: Unit, given: Given, weights: Mapping[str, Tensor], functions: bool) -> nn.Module:
    """The network as the run has it, in evaluation mode on the CPU."""
    require_functions(study.model, functions)
    name = study.model.name or ""
    folder = place_of(name) if name.startswith(HF_PREFIX) else None
    model = build_model(unit.model, given.shape, given.classes, seed=0, further=given.further, folder=folder)
    return network_of(unit, model, weights)


def _about(study: Study, unit: Unit, given: Given) -> About:
    versions = {"silo-tune": VERSION, "torch": str(torch.__version__)}
    task = {"name": (study.task or USUAL).title, "score": study.scored.name}
    return About(
        unit.model, given.shape, given.classes, {}, given.mean, given.std, unit.key, versions, given.further, task
    )


# --- the Hub ---


def _require_hub(push: str) -> None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", push):
        raise BadInput(f"--push: {push!r} is not OWNER/NAME, a repository of the Hugging Face Hub")
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise BadInput(f"--push needs the package huggingface_hub ({error}): pip install 'silo-tune[hub]'") from None


def _upload(folder: Path, names: tuple[str, ...], push: str) -> str:
    """The address of a commit with these files, in a repository that is made if need be. Raises BadInput."""
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(push, exist_ok=True)
        found = api.upload_folder(repo_id=push, folder_path=folder, allow_patterns=list(names))
    except Exception as error:  # of HTTP, of the Hub, of a name: the client has kinds of its own
        raise BadInput(
            f"--push: {folder} is written, and could not be uploaded to {push} ({words(error)}); check the name, your "
            f"token (`hf auth login`) and the network, and say it again with --force"
        ) from error
    return str(found)
