"""Networks whose filters were pruned, made smaller: from units of a run to a file, and back in another process."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import silo_tune.export.shrink
from silo_tune import load
from silo_tune.api import run_study
from silo_tune.data.named import digits
from silo_tune.data.sets import DataSet
from silo_tune.errors import BadInput, RunFailed
from silo_tune.export.chosen_unit import weights_of
from silo_tune.export.network_file import FIRST_KEY, About, pack_weights, read_file
from silo_tune.export.shrink import TOLERANCE, Images, Shrunk, compare, images_of, shrink_unit
from silo_tune.models.build import build_model
from silo_tune.models.checkpoint import pack
from silo_tune.pruning.filters import without_filters
from silo_tune.run.local import LocalRunner
from silo_tune.store.run_folder import Run
from silo_tune.store.storage import seal
from silo_tune.study import registry
from silo_tune.study.data import Data
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study
from tests.test_cli import in_process

ICE = {"preset": "ice-pruning", "base": 0.02, "delta": 0.01, "threshold": 0.0}
SILO = {"mode": "schedule", "schedule": {"name": "silo", "eps": 0.1, "delta": 0.1}}
TABLE: dict[str, Any] = {
    "name": "small",
    "cycles": 3,
    "data": {"name": "digits", "train_examples": 256, "val_examples": 100, "test_examples": 50},
    "model": {"name": "lenet-300-100"},
    "dense": {"epochs": 2, "max_lr": 0.1},
    "prune": {"rate": 0.3, "granularity": "filter", "criterion": "l1-filter"},
    "retrain": {"epochs": 1},
    "replicates": {"seeds": [0]},
    "report": {"tolerance": 0.05},
    "arms": {"silo": SILO, "ice": ICE},
}
LARGE = {"function": "tests.test_shrink:large_digits", "version": "1"}
SPLIT = {"train_examples": 64, "val_examples": 64, "test_examples": 40}
KINDS = ("vgg19", "densenet40", "mobilenetv2", "vit")


def large_digits() -> DataSet:
    """The real digits as colour images of 32×32, each pixel sixteen."""
    made = digits(Data(name="digits"))
    pixels = made.train[:600].repeat(4, 1).repeat(4, 2).repeat(3, 3)
    return DataSet(np.ascontiguousarray(pixels), made.train_labels[:600], None, None, 10)


def study(**changes: Any) -> Study:
    return parse_study({**TABLE, **changes})


def of_network(name: str, epochs: int = 1, data: Mapping[str, Any] = LARGE) -> Study:
    """A small form of a network, half of whose filters go in two cycles."""
    return study(
        data={**SPLIT, **data},
        model={"name": name, **registry.MODELS[name].smoke},
        dense={"epochs": epochs, "max_lr": 0.05},
        retrain={"epochs": epochs, "batch": 32},
        arms={"silo": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.02}}},
    )


def trained(study_: Study, folder: Path) -> str:
    return run_study(study_, str(folder), runner=LocalRunner()).url


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run of a LeNet-300-100 on digits: an arm that prunes and retrains, and one of ICE-Pruning."""
    return trained(study(), tmp_path_factory.mktemp("lenet") / "run")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("silo_tune.export.inference.MOST", 10)


def source(url: str, arm: str) -> tuple[nn.Module, Images]:
    """The masked network of a run's last cycle, built anew here, and the validation images."""
    run = Run(url)
    unit, state = weights_of(run, run.study(), arm, 0, None)
    images = images_of(run, run.study(), unit, False)
    model = build_model(unit.model, images.shape, images.classes, seed=1)
    model.load_state_dict(state["weights"])
    return model.eval(), images


APART = """import sys
import safetensors.torch, torch
from silo_tune import load
for file in sys.argv[1:]:
    with torch.inference_mode():
        made = load(file)(safetensors.torch.load_file(file + ".images")["images"])
    safetensors.torch.save_file({"outputs": made}, file + ".outputs")
"""


def outputs_apart(given: Mapping[Path, Tensor]) -> dict[Path, Tensor]:
    """Outputs of exported networks in a process that has never seen a run."""
    for file, images in given.items():
        safetensors.torch.save_file({"images": images.contiguous()}, f"{file}.images")
    subprocess.run([sys.executable, "-c", APART, *map(str, given)], check=True)
    return {file: safetensors.torch.load_file(f"{file}.outputs")["outputs"] for file in given}


def spoken(masked: nn.Module, run: Run, arm: str) -> nn.Module:
    """The same network, but what goes with a masked filter is 1: its shift, its bias."""
    _, state = weights_of(run, run.study(), arm, 0, None)
    loud = copy.deepcopy(masked)
    with torch.no_grad():
        for name, parameter in loud.named_parameters():
            if name in state["mask"] and parameter.ndim == 1:
                parameter.masked_fill_(~state["mask"][name], 1.0)
    return loud


def check(exports: Mapping[Path, tuple[str, str]]) -> list[Shrunk]:
    """Export networks of (run, arm) to files; in another process they say what the masked ones say here."""
    outcomes = [shrink_unit(url, arm, 0, None, str(file), functions=True) for file, (url, arm) in exports.items()]
    sources = {file: source(url, arm) for file, (url, arm) in exports.items()}
    shown = {file: next(images.batches()) for file, (_, images) in sources.items()}
    outputs = outputs_apart({file: images for file, (images, _) in shown.items()})
    for outcome, (file, (masked, _)) in zip(outcomes, sources.items(), strict=True):
        images, labels = shown[file]
        with torch.inference_mode():
            expected = masked(images)
            loud = spoken(masked, Run(exports[file][0]), exports[file][1])(images)
        limit = TOLERANCE * min(1.0, float(expected.abs().max()))
        assert (outputs[file] - expected).abs().max() <= limit, file
        assert (loud - expected).abs().max() > limit, file  # so the comparison can fail
        assert labels is not None
        right = [int((found.argmax(1) == labels).sum()) / len(labels) for found in (expected, outputs[file])]
        assert outcome.compared.accuracies == tuple(right)
        assert right[0] == right[1]
        assert outcome.compared.images == len(images)  # all of them
        costs = outcome.costs
        assert costs.small.parameters < costs.masked.parameters
        assert costs.small.macs < costs.masked.macs
        assert costs.small.bytes == file.stat().st_size
    return outcomes


# --- every network ---


@pytest.mark.slow
def test_a_small_network_says_what_the_masked_one_says(lenet: str, tmp_path: Path) -> None:
    runs = {
        "silo": (lenet, "silo"),
        "ice": (lenet, "ice"),
        "resnet8": (trained(of_network("resnet8"), tmp_path), "silo"),
    }
    outcomes = check({tmp_path / f"{name}.safetensors": run for name, run in runs.items()})
    assert [outcome.filters for outcome in outcomes] == [(400, 196), (400, 147 + 49), (28, 14)]


@pytest.mark.slow
def test_every_kind_of_network_can_be_made_small(tmp_path: Path) -> None:
    runs = {name: (trained(of_network(name), tmp_path / name), "silo") for name in KINDS}
    outcomes = check({tmp_path / f"{name}.safetensors": run for name, run in runs.items()})
    for outcome in outcomes:  # of all filters that can go alone, what two cycles leave
        assert outcome.filters[1] == round(outcome.filters[0] * 0.49)


@pytest.mark.slow
def test_on_real_photographs_too(cifar10: Path, tmp_path: Path) -> None:
    photographs = {"name": "cifar10", "path": str(cifar10), **SPLIT, "train_examples": 512}
    made = of_network("resnet8", epochs=2, data=photographs)
    check({tmp_path / "small.safetensors": (trained(made, tmp_path / "run"), "silo")})


def lenet_parameters(first: int, second: int) -> int:
    """Of a LeNet with so many trials on 64 pixels and 10 classes: weights and biases of its three layers."""
    return 64 * first + first + first * second + second + second * 10 + 10


@pytest.mark.parametrize("arm", ["silo", "ice"])
def test_a_lenet_has_exactly_the_parameters_of_what_is_left(lenet: str, arm: str, tmp_path: Path) -> None:
    file = tmp_path / "small.safetensors"
    outcome = shrink_unit(lenet, arm, 0, None, str(file))
    about, weights = read_file(file)
    first, second = len(about.kept["fc1.weight"]), len(about.kept["fc2.weight"])
    assert outcome.filters == (400, first + second)
    if arm == "ice":  # a block loses its share rounded up, twice
        assert (first, second) == (147, 49)
    else:
        assert first + second == 196
    costs = outcome.costs
    assert costs.masked.parameters == lenet_parameters(300, 100)
    assert costs.small.parameters == lenet_parameters(first, second) == sum(map(torch.numel, weights.values()))
    assert costs.masked.macs == 64 * 300 + 300 * 100 + 100 * 10
    assert costs.small.macs == 64 * first + first * second + second * 10
    # Inputs of a layer that come from masked units are dead weight in the masked network: never read, not zero.
    assert costs.small.non_zero < costs.masked.non_zero < costs.masked.parameters


def test_the_file_says_what_its_network_is_and_takes(lenet: str, tmp_path: Path) -> None:
    file = tmp_path / "small.safetensors"
    outcome = shrink_unit(lenet, "silo", 0, 2, str(file), batch=16)
    about, _ = read_file(file)
    pixels = digits(Data(name="digits")).train
    assert about.model == {"name": "lenet-300-100"}
    assert (about.shape, about.classes, about.key) == ((8, 8, 1), 10, outcome.key)
    assert set(about.versions) == {"silo-tune", "torch"}
    assert about.mean is not None
    assert about.std is not None
    assert about.mean[0] == pytest.approx(pixels.mean(), rel=0.05)  # of the replicate's training images
    assert about.std[0] == pytest.approx(pixels.std(), rel=0.05)
    _, images = source(lenet, "silo")
    (batch, _), *_ = images.batches()
    grey = batch * about.std[0] + about.mean[0]  # back to grey levels: whole numbers
    assert (grey - grey.round()).abs().max() < 1e-3
    told = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    assert told["key"] == outcome.key
    assert told["costs"]["latency"]["batch"] == 16
    assert told["compared"]["difference"] == outcome.compared.difference


# --- what must not pass ---


def broken(url: str, folder: Path, change: Callable[[dict[str, dict[str, Tensor]]], None]) -> str:
    """A copy of a run, the last state of its arm silo changed by hand, checksums and all."""
    shutil.copytree(url, folder)
    run = Run(str(folder))
    unit, groups = weights_of(run, run.study(), "silo", 0, None)
    result = run.result(unit.key)
    assert result is not None
    change(groups)
    state = run.units.write_state(unit.key, "0123456789abcdef", pack(groups))
    run.storage.replace(f"{run.units.folder(unit.key)}/result.json", seal({**result, "state": state}))
    return str(folder)


def shout(groups: Mapping[str, Mapping[str, Tensor]]) -> None:
    """A bias of a masked unit that is not zero."""
    gone = int((~groups["mask"]["fc1.bias"]).nonzero()[0])
    groups["weights"]["fc1.bias"][gone] = 1.0


def test_a_masked_filter_that_still_speaks_is_caught(lenet: str, tmp_path: Path) -> None:
    url = broken(lenet, tmp_path / "run", shout)
    out = tmp_path / "small.safetensors"
    done = in_process("shrink", url, "--arm", "silo", "--seed", "0", "--out", str(out))
    assert done.returncode == 1
    assert re.search(r"differ by 0\.\d+, .*: of masked filters fc1\.bias is not zero; nothing is", done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_outputs_that_are_no_numbers_are_a_difference() -> None:
    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) * torch.nan

    x = torch.ones(2, 1, 2, 2)
    compared = compare(nn.Flatten(), Nothing(), Images(lambda: iter([(x, None), (0 * x, None)]), (2, 2, 1), 4))
    assert not compared.difference <= compared.limit
    about = About({}, (2, 2, 1), 4, {}, None, None, "0" * 64, {})
    with pytest.raises(RunFailed, match=r"differ by nan, more than 0\.0001; nothing is written"):
        silo_tune.export.shrink.require_equal(compared, nn.Flatten(), {}, about)


def test_small_outputs_are_held_to_a_smaller_limit() -> None:
    """Against outputs of 1e-5 a network that says nothing would be within 1e-4."""
    x = torch.full((1, 1, 2, 2), 1e-5)
    shown = Images(lambda: iter([(x, None)]), (2, 2, 1), 4)
    about = About({}, (2, 2, 1), 4, {}, None, None, "0" * 64, {})
    same = compare(nn.Flatten(), nn.Flatten(), shown)
    silo_tune.export.shrink.require_equal(same, nn.Flatten(), {}, about)
    other = compare(nn.Flatten(), nn.Sequential(nn.Flatten(), nn.Threshold(1.0, 0.0)), shown)
    assert other.difference < TOLERANCE
    with pytest.raises(RunFailed, match="differ by 1e-05, more than 1e-09"):
        silo_tune.export.shrink.require_equal(other, nn.Flatten(), {}, about)


# --- the command ---


def test_the_command_shows_both_networks(lenet: str, tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    command = ("shrink", lenet, "--arm", "ice", "--seed", "0", "--out", str(out), "--batch", "8")
    done = in_process(*command)
    assert done.returncode == 0, done.stderr
    lines = {line.split("  ")[0]: line.split() for line in done.stdout.splitlines()}
    parameters = lenet_parameters(147, 49)
    assert lines["parameters"][1:] == ["50,610", f"{parameters:,}", f"{parameters / 50_610:.0%}"]
    assert "latency, ms (batch 8)" in lines
    assert "greatest difference of an output" in done.stdout
    assert "on 100 validation images" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.json", "small.safetensors"]
    again = in_process(*command)
    assert again.returncode == 2
    assert "exists, and an export never writes over a file" in again.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"--arm": "silk"}, "unknown arm 'silk'; choose from ice, silo"),
        ({"--seed": "7"}, "unknown seed 7; choose from 0"),
        ({"--cycle": "0"}, "cycle 0 is the dense network"),
        ({"--cycle": "3"}, "has no network of cycle 3; it has of 1, 2"),
        ({"--cycle": "1"}, "the weights of cycle 1 of arm 'silo', seed 0 are gone: .* cluster.keep = \"chains\""),
        ({"--out": "small.pt"}, "'small.pt' does not end in .safetensors"),
        ({"--out": "none/small.safetensors"}, "there is no folder 'none'"),
        ({"--batch": "0"}, "0 is not a number of images"),
    ],
)
def test_mistakes_are_named(lenet: str, options: dict[str, str], words: str, tmp_path: Path) -> None:
    given = {"--arm": "silo", "--seed": "0", "--out": "small.safetensors", **options}
    done = in_process("shrink", lenet, *(word for pair in given.items() for word in pair), cwd=tmp_path)
    assert done.returncode == 2
    assert not list(tmp_path.iterdir())
    assert re.search(words, done.stderr), done.stderr


def test_single_weights_cannot_be_removed(tmp_path: Path) -> None:
    made = study(prune={"rate": 0.3}, arms={"silo": SILO}, cycles=2)
    url = trained(made, tmp_path / "run")
    with pytest.raises(BadInput, match="nothing can be removed: single weights were pruned; prune filters"):
        shrink_unit(url, "silo", 0, None, str(tmp_path / "small.safetensors"))


def test_any_cycle_can_be_made_small_where_all_weights_are_kept(tmp_path: Path) -> None:
    made = study(arms={"silo": SILO}, cluster={"keep": "all"})
    url = trained(made, tmp_path / "run")
    outcomes = [shrink_unit(url, "silo", 0, cycle, str(tmp_path / f"{cycle}.safetensors")) for cycle in (1, 2)]
    assert [outcome.filters for outcome in outcomes] == [(400, 280), (400, 196)]


def test_a_users_functions_are_imported_only_when_asked(tmp_path: Path) -> None:
    made = study(
        data={**LARGE, **SPLIT}, model={"function": "tests.users:model", "version": "1", "dropout": 0.1}, cycles=2,
        arms={"silo": SILO},
    )  # fmt: skip
    url, file = trained(made, tmp_path / "run"), tmp_path / "small.safetensors"
    with pytest.raises(BadInput, match=r"names tests\.users:model, tests\.test_shrink:large_digits: say --functions"):
        shrink_unit(url, "silo", 0, None, str(file))
    shrink_unit(url, "silo", 0, None, str(file), functions=True)
    from tests.users import model

    assert load(file, model).body[0].out_features == 22  # type: ignore[union-attr,index]
    with pytest.raises(BadInput, match=r"made by 'tests\.users:model', which a file does not hold: give load"):
        load(file)


def test_random_numbers_stand_in_for_lost_data_where_that_is_allowed(
    lenet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(data: Data) -> DataSet:
        raise BadInput("data set 'digits' is gone")

    out = str(tmp_path / "small.safetensors")
    # The data is there: it is used.
    told = shrink_unit(lenet, "silo", 0, None, str(tmp_path / "real.safetensors"), random_images=True)
    assert told.compared.accuracies is not None
    monkeypatch.setattr("silo_tune.export.shrink.open_data", lost)
    with pytest.raises(BadInput, match="is gone \\(--random-images compares on random numbers then\\)"):
        shrink_unit(lenet, "silo", 0, None, out)
    done = in_process("shrink", lenet, "--arm", "silo", "--seed", "0", "--out", out, "--random-images")
    assert done.returncode == 0, done.stderr
    assert "on 64 images of random numbers" in done.stdout
    about, _ = read_file(out)
    assert (about.mean, about.std) == (None, None)
    same = [read_file(path)[1] for path in (out, tmp_path / "real.safetensors")]
    assert all(torch.equal(value, same[1][name]) for name, value in same[0].items())


def test_other_data_than_the_runs_is_refused(lenet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = digits(Data(name="digits"))
    other = DataSet(255 - made.train, made.train_labels, None, None, 10)
    monkeypatch.setattr("silo_tune.export.shrink.open_data", lambda data: other)
    with pytest.raises(BadInput, match="the data changed under"):
        shrink_unit(lenet, "silo", 0, None, str(tmp_path / "small.safetensors"))


# --- the file ---


def about_of(**changes: Any) -> dict[str, Any]:
    told = {
        "model": {"name": "lenet-300-100"},
        "shape": [8, 8, 1],
        "classes": 10,
        "kept": {},
        "mean": None,
        "std": None,
    }
    return {"format": 1, **told, "key": "0" * 64, "versions": {}, **changes}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 3}, "written by a newer silo-tune"),
        ({"shape": [64], "kept": {"fc1.weight": [0]}}, "the words of .* are damaged"),
        ({"extra": 1}, "the words of .* are damaged"),
        ({"model": {"name": "lenet"}}, "none that a file may name"),
        ({"model": {"name": "timm:hf-hub:someone/something"}}, "none that a file may name"),
        ({"model": {"name": "timm:vit_tiny_patch16_224", "checkpoint_path": "/tmp/x.pt"}}, "none that a file may name"),
        ({"model": {"function": "os:system", "version": "1"}}, "a file does not hold"),
        ({"model": {"name": "resnet8", "width": 4, "depth": 9}}, "cannot be built"),
        ({"kept": {"fc1.weight": [0, 400]}}, "has filters 0 to 299"),
        ({"kept": {"fc1.weight": []}}, "has filters 0 to 299, of which one or more stay"),
        ({"kept": {"fc9.weight": [0]}}, "no layer with filters of the name 'fc9.weight'"),
        ({"kept": {"fc1.weight": [0, 1]}}, "do not fit its network"),
    ],
)
def test_a_file_that_is_not_whole_or_asks_for_too_much_is_refused(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    file = tmp_path / "small.safetensors"
    weights = build_model({"name": "lenet-300-100"}, (8, 8, 1), 10, seed=0).state_dict()
    file.write_bytes(safetensors.torch.save(weights, {FIRST_KEY: json.dumps(about_of(**changes))}))
    with pytest.raises(BadInput, match=words):
        load(file)


def test_other_files_are_refused(lenet: str, tmp_path: Path) -> None:
    other, text = tmp_path / "other.safetensors", tmp_path / "text.safetensors"
    other.write_bytes(pack_weights(nn.Linear(2, 2).state_dict()))
    text.write_text("weights", encoding="utf-8")
    for file, words in (
        (other, "does not say what its network is"),
        (text, "cannot be read"),
        (tmp_path / "none", "cannot be read"),
    ):
        with pytest.raises(BadInput, match=words):
            read_file(file)


def test_a_network_is_left_as_it_is() -> None:
    model = build_model({"name": "resnet8", "width": 4}, (32, 32, 3), 10, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small = without_filters(model, {"blocks.0.conv1.weight": [0, 3]}, (32, 32, 3))
    assert [tuple(small.state_dict()[f"blocks.0.conv{n}.weight"].shape) for n in (1, 2)] == [(2, 4, 3, 3), (4, 2, 3, 3)]
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    kept = small.state_dict()["blocks.0.conv1.weight"]
    assert torch.equal(kept, before["blocks.0.conv1.weight"][[0, 3]])


def test_what_is_exported_is_the_winner_of_the_last_cycle(lenet: str, tmp_path: Path) -> None:
    decision = Run(lenet).decision("silo", 0, 2, 1)
    assert decision is not None
    assert shrink_unit(lenet, "silo", 0, None, str(tmp_path / "small.safetensors")).key == decision["winner"]
