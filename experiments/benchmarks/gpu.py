"""One call on a machine with a GPU: what it does for this project, in under eight minutes. Writes one JSON, one table.

    python experiments/benchmarks/gpu.py [--cpu] [--out FILE.json] [--seconds S]

- *speed*: steps per second of networks of several kinds. *bare*: a batch that lies on the device, forward, loss,
  backward and SGD, nothing else; also under bf16, and compiled. *ours*: `Trainer` as a trial runs it, half of the
  weights masked. *usual*: a DataLoader with four workers over arrays, and `torch.nn.utils.prune` masks.
- *together*: ResNet-20, so many trials at once on one device, each in a process of its own; steps per second of all.
- *fused*: so many candidates of one round as one batched computation (`torch.func`); steps per second of all. A probe:
  the engine trains candidates one by one, so that one fused is to be compared with.
- *study*: a short study of ResNet-20 on CIFAR-10 from start to end; of LeNet on digits where
  SILO_TUNE_CIFAR10 is not set.

A part that fails is told in its place, and the others are measured all the same. `--cpu` is the same with the smallest
sizes: does it run, not how fast.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

from silo_tune.api import run_study
from silo_tune.data.example_feed import feed_of
from silo_tune.data.example_sets import ExampleSet
from silo_tune.data.sets import AnySet, DataSet, Split
from silo_tune.machine import VERSION
from silo_tune.models.build import build_model
from silo_tune.planner.unit import Unit, make_unit
from silo_tune.pruning.criteria.scoring import Scoring
from silo_tune.pruning.criteria.weight_scores import magnitude
from silo_tune.pruning.masks import full_masks, prunable, shrink
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study
from silo_tune.study.task import TaskSpec
from silo_tune.tasks.making import make_task
from silo_tune.tasks.seam import Task
from silo_tune.training.trainer import Trainer

LR = 0.01


@dataclass(frozen=True)
class Net:
    """A line of the table of speeds.

    Attributes:
        model: the resolved [model] table.
        shape: (H, W, C) of an image, (columns,) of a row, or (tokens,) of a text.
        batch: examples of a step.
        classes: numbers that it gives; of a text for each token.
    """

    model: dict[str, Any]
    shape: tuple[int, ...]
    batch: int
    classes: int = 10

    @property
    def of_text(self) -> bool:
        return bool(self.model["name"] == "gpt")

    def drawn(self, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Noise: inputs as a data set holds them, and targets."""
        random = np.random.default_rng(0)
        if self.of_text:
            blocks = random.integers(0, self.classes, (2, count, *self.shape))
            return blocks[0], blocks[1]
        labels = random.integers(0, self.classes, count)
        if len(self.shape) == 3:
            return random.integers(0, 256, (count, *self.shape), dtype=np.uint8), labels
        return random.normal(size=(count, *self.shape)).astype(np.float32), labels

    def tensors(self, count: int) -> tuple[Tensor, Tensor]:
        """The same as a network is given it."""
        inputs, labels = (torch.as_tensor(part) for part in self.drawn(count))
        return (inputs.permute(0, 3, 1, 2).float() / 255 if inputs.ndim == 4 else inputs), labels

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs.float().flatten(0, -2), labels.flatten())


NETS = {
    "lenet-300-100": Net({"name": "lenet-300-100"}, (28, 28, 1), 64),
    "mlp": Net({"name": "mlp", "widths": [512, 512, 256]}, (100,), 256),
    "resnet20": Net({"name": "resnet20"}, (32, 32, 3), 128),
    "resnet50 at 224": Net({"name": "timm:resnet50"}, (224, 224, 3), 64),
    "vit-s at 224": Net({"name": "timm:vit_small_patch16_224"}, (224, 224, 3), 64),
    "gpt": Net({"name": "gpt", "width": 384, "depth": 6, "heads": 6}, (256,), 32, 256),
}
SMALL = {
    "lenet-300-100": Net({"name": "lenet-300-100"}, (28, 28, 1), 8),
    "mlp": Net({"name": "mlp", "widths": [16]}, (10,), 8),
    "resnet8": Net({"name": "resnet8"}, (32, 32, 3), 8),
    "gpt": Net({"name": "gpt", "width": 16, "depth": 1, "heads": 2}, (8,), 4, 32),
}


@dataclass(frozen=True)
class Size:
    """How much is measured: seconds of each measurement, batches of data, trials at once, candidates that are fused."""

    seconds: float
    batches: int
    together: tuple[int, ...]
    fused: tuple[int, ...]
    nets: dict[str, Net]


WHOLE = Size(3.0, 12, (1, 2, 4, 8), (1, 9, 16), NETS)
LEAST = Size(0.05, 2, (1, 2), (1, 3), SMALL)


# --- what is trained ---


def data_of(net: Net, batches: int) -> tuple[AnySet, Split]:
    """A data set of noise, all of whose first part is trained on."""
    inputs, labels = net.drawn(net.batch * batches)
    rest = inputs[:4], labels[:4]
    rows = np.arange(len(labels))
    split = Split(train=rows, val=rows[:4], test=rows[:4], test_in_train=False)
    if len(net.shape) == 3:
        return DataSet(inputs, labels, *rest, net.classes), split
    return ExampleSet(inputs, labels, *rest, net.classes, net.shape), split


def task_of(net: Net) -> Task:
    spec = TaskSpec(name="language-model") if net.of_text else None
    return make_task(spec, net.classes, torch.as_tensor(net.drawn(net.batch)[1]))


def study_of(net: Net, precision: str) -> Study:
    return parse_study(
        {
            "name": "gpu",
            "cycles": 2,
            "data": {"name": "digits", "val_share": 0.05},
            "model": net.model,
            "dense": {"epochs": 1, "max_lr": LR},
            "prune": {"rate": 0.5},
            "retrain": {"epochs": 1_000_000, "batch": net.batch, "precision": precision},
            "replicates": {"seeds": [0]},
            "arms": {"silo": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": LR}}},
        }
    )


def unit_of(net: Net, precision: str) -> Unit:
    study = study_of(net, precision)
    return make_unit(study, study.settings(study.arms["silo"]), parent="0" * 64, cycle=1, seed=0, peak={"value": LR})


def network(net: Net, device: torch.device) -> nn.Module:
    return build_model(net.model, net.shape, net.classes, seed=0).to(device).train()


def half(model: nn.Module) -> dict[str, Tensor]:
    """Masks that leave half of the weights."""
    weights = prunable(model)
    full = full_masks(weights)
    return shrink(magnitude(Scoring(weights, full, model, torch.Generator())), full, 0.5, "global")


# --- ways to train; each gives a function that makes a few steps and says how many ---

Turn = Callable[[], int]


def bare(net: Net, size: Size, device: torch.device, precision: str = "fp32", compiled: bool = False) -> Turn:
    model = network(net, device)
    called = torch.compile(model) if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4, fused=True)
    images, labels = (part.to(device) for part in net.tensors(net.batch))
    if images.ndim == 4:
        images = images.to(memory_format=torch.channels_last)

    def turn() -> int:
        for _ in range(size.batches):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = net.loss(called(images), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return size.batches

    return turn


def ours(net: Net, size: Size, device: torch.device, precision: str = "fp32") -> Turn:
    unit = unit_of(net, precision)
    feed = feed_of(*data_of(net, size.batches), unit.augmentation, device)
    model = network(net, device)
    trainer = Trainer(unit, model, half(model), feed, LR, task_of(net))
    trainer.limit = float("inf")  # noise is not learnt

    def turn() -> int:
        before = trainer.step
        trainer.run_epoch()
        return trainer.step - before

    return turn


def usual(net: Net, size: Size, device: torch.device) -> Turn:
    model = network(net, device)
    masks, modules = half(model), dict(model.named_modules())
    for name, mask in masks.items():
        prune.custom_from_mask(modules[name.removesuffix(".weight")], "weight", mask)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    data = TensorDataset(*net.tensors(net.batch * size.batches))
    workers = 4 if device.type == "cuda" else 0
    loader = DataLoader(data, net.batch, shuffle=True, num_workers=workers, pin_memory=bool(workers))

    def turn() -> int:
        count = 0
        for images, labels in loader:
            optimizer.zero_grad()
            net.loss(model(images.to(device)), labels.to(device)).backward()
            optimizer.step()
            count += 1
        return count

    return turn


def pace(turn: Turn, size: Size, device: torch.device) -> float:
    """Steps per second, after a turn that does not count."""
    turn()
    wait(device)
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < size.seconds:
        steps += turn()
        wait(device)
    return steps / (time.perf_counter() - began)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --- the parts ---


def speed(size: Size, device: torch.device) -> Iterator[tuple[str, Any]]:
    for name, net in size.nets.items():
        ways: dict[str, Callable[[], Turn]] = {
            "bare fp32": partial(bare, net, size, device),
            "ours fp32": partial(ours, net, size, device),
            "usual fp32": partial(usual, net, size, device),
            "bare bf16": partial(bare, net, size, device, "bf16"),
            "ours bf16": partial(ours, net, size, device, "bf16"),
        }
        if device.type == "cuda":
            ways["bare bf16 compiled"] = partial(bare, net, size, device, "bf16", True)
        for way, make in ways.items():
            yield f"{name}, {way}", tried(make, size, device)


def one_of_many(net: Net, size: Size, device: str, go: Any, told: Any) -> None:
    place = torch.device(device)
    turn = ours(net, size, place)
    turn()
    wait(place)
    go.wait()
    told.put(pace(turn, size, place))


def together(size: Size, device: torch.device) -> Iterator[tuple[str, Any]]:
    name = "resnet20" if "resnet20" in size.nets else "resnet8"
    spawn = multiprocessing.get_context("spawn")
    for count in size.together:
        go, told = spawn.Barrier(count), spawn.Queue()
        longer = replace(size, seconds=2 * size.seconds)
        trials = [
            spawn.Process(target=one_of_many, args=(size.nets[name], longer, str(device), go, told))
            for _ in range(count)
        ]
        for trial in trials:
            trial.start()
        rates = [told.get(timeout=120) for _ in trials]
        for trial in trials:
            trial.join()
        yield f"{name}, {count} at once", round(sum(rates), 2)


def fused_turn(name: str, count: int, size: Size, device: torch.device) -> Turn:
    """Steps of `count` networks as one computation; the same batch for all, as candidates of a cycle have it."""
    net = size.nets[name]
    models = [network(net, device) for _ in range(count)]
    for model in models:
        torch.func.replace_all_batch_norm_modules_(model)
    weights, buffers = torch.func.stack_module_state(models)
    bones = copy.deepcopy(models[0]).to("meta")
    velocity = {key: torch.zeros_like(value) for key, value in weights.items()}
    images, labels = (part.to(device) for part in net.tensors(net.batch))

    def loss(own: dict[str, Tensor], states: dict[str, Tensor]) -> Tensor:
        return net.loss(torch.func.functional_call(bones, (own, states), (images,)), labels)

    slopes = torch.func.vmap(torch.func.grad(loss))

    def turn() -> int:
        for _ in range(size.batches):
            found = slopes(weights, buffers)
            with torch.no_grad():
                for key, value in weights.items():
                    velocity[key].mul_(0.9).add_(found[key])
                    value.sub_(velocity[key], alpha=LR)
        return size.batches * count

    return turn


def fused(size: Size, device: torch.device) -> Iterator[tuple[str, Any]]:
    for name in [each for each in ("lenet-300-100", "resnet8") if each in size.nets or each in SMALL]:
        here = replace(size, nets={**size.nets, name: size.nets.get(name, replace(SMALL[name], batch=128))})
        for count in size.fused:
            yield f"{name}, {count} fused", tried(partial(fused_turn, name, count, here, device), here, device)


def short_study(size: Size, device: torch.device) -> Iterator[tuple[str, Any]]:
    real, small = bool(os.environ.get("SILO_TUNE_CIFAR10")), size is not WHOLE
    data: dict[str, Any] = {"name": "huggingface", "path": "${SILO_TUNE_CIFAR10}", "augment": ["crop", "flip"]}
    if not real or small:
        data = {"name": "digits"}
    study = parse_study(
        {
            "name": "gpu-study",
            "cycles": 2 if small else 4,
            "data": {**data, "train_examples": 64} if small else data,
            "model": {"name": "lenet-300-100"} if data["name"] == "digits" else {"name": "resnet20"},
            "dense": {"epochs": 1 if small else 3, "max_lr": 0.05},
            "retrain": {"epochs": 1 if small else 2, "batch": 128},
            "replicates": {"seeds": [0]},
            "arms": {
                "silo": {"mode": "schedule", "schedule": {"name": "silo", "eps": 0.05, "delta": 0.05}},
                "oracle": {"mode": "oracle", "grid": {"low": 0.01, "high": 0.5, "points": 3}, "prefix": "arm:silo"},
            },
            "report": {"tolerance": 0.1},
            "cluster": {"device": str(device)},
        }
    )
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        outcome = run_study(study, f"{place}/run", local=True)
        rows = outcome.frame.drop_duplicates("key")
    yield "data and network", f"{'CIFAR-10' if data['name'] != 'digits' else 'digits'}, {study.model.name}"
    yield "trials", len(rows)
    yield "wall seconds", round(time.perf_counter() - began, 1)
    yield "seconds of training", round(float(rows["train_seconds"].sum()), 1)


def tried(make: Callable[[], Turn], size: Size, device: torch.device) -> Any:
    """Steps per second, or why there are none."""
    try:
        return round(pace(make(), size, device), 2)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:120]
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


PARTS: dict[str, Callable[[Size, torch.device], Iterator[tuple[str, Any]]]] = {
    "speed": speed,
    "together": together,
    "fused": fused,
    "study": short_study,
}


def main() -> None:
    """Measure every part that the time allows; each is written as soon as it is there."""
    parser = argparse.ArgumentParser(description="What a GPU does for silo-tune.")
    parser.add_argument("--cpu", action="store_true", help="the smallest sizes on the CPU: does it run")
    parser.add_argument("--out", default="gpu.json", help="the JSON file")
    parser.add_argument("--seconds", type=float, default=450, help="no measurement begins after so many")
    asked = parser.parse_args()
    if not asked.cpu and not torch.cuda.is_available():
        parser.error("no CUDA device is here; --cpu shows that the script runs")
    device, size = torch.device("cpu" if asked.cpu else "cuda"), LEAST if asked.cpu else WHOLE
    card = "CPU" if asked.cpu else torch.cuda.get_device_name(device)
    found: dict[str, Any] = {"device": card, "torch": torch.__version__, "silo-tune": VERSION, "parts": {}}
    began = time.perf_counter()
    print(f"{card}, torch {torch.__version__}, silo-tune {VERSION}\n\n| part | what | figure |\n|---|---|---|")
    for part, measure in PARTS.items():
        figures = found["parts"].setdefault(part, {})
        try:
            for what, figure in measure(size, device):
                figures[what] = figure
                print(f"| {part} | {what} | {figure} |", flush=True)
                Path(asked.out).write_text(json.dumps(found, indent=2), encoding="utf-8")
                if time.perf_counter() - began > asked.seconds:
                    raise TimeoutError("the time is over")
        except Exception as error:
            traceback.print_exc()
            figures["ended"] = f"{type(error).__name__}: {error}"
    found["seconds"] = round(time.perf_counter() - began, 1)
    Path(asked.out).write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
