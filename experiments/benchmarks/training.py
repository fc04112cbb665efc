"""Training speed: a bare loop, silo-tune, and the usual way, in one run on the same model, batch and images.

    python experiments/benchmarks/training.py [--quick] [--rounds N] [--models NAME …]

The three ways take turns (limit, ours, usual, limit, …), each training the same number of images in its turn, on one
torch thread, each in a process of its own: memory that one way freed must not help another. A ratio is taken inside a
round, so that a machine that slows down for a while slows all three; the table shows the median over rounds, with the
least and the greatest. Speeds are per second of CPU time, which other users of the machine disturb least (nothing here
waits for anything but the processor); the ratios by the wall clock are printed below the table. CIFAR-10 comes from the
directory that the environment variable SILO_TUNE_CIFAR10 names; without it the images are synthetic, and the table says
so.

- *limit*: batches that were gathered, augmented, normalised and laid out beforehand (float, channels_last), then only
  forward, cross-entropy, backward and the same fused SGD, in a process set up as a worker's is. No data work, no masks,
  no learning-rate changes: whatever is done about data, training this network in this layout is not faster.
- *ours*: `training.trainer.Trainer` as a unit runs it: random order, gathering, augmentation, normalisation, the rate
  of every step, half of the weights masked after every step, checks after every epoch.
- *usual*: a DataLoader without worker processes (every way has one core) over PIL images with torchvision's transforms,
  `torch.nn.utils.prune` masks, contiguous (NCHW) memory, SGD with its default options.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import pickle
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from silo_tune.data.batches import Feed
from silo_tune.data.load import load_data
from silo_tune.data.sets import DataSet, Split, split_rows
from silo_tune.machine import environment
from silo_tune.models.build import build_model, init_seed
from silo_tune.planner.unit import Unit, make_unit
from silo_tune.pruning.criteria.scoring import Scoring
from silo_tune.pruning.criteria.weight_scores import magnitude
from silo_tune.pruning.masks import Masks, full_masks, prunable, shrink
from silo_tune.seeds import stream
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study
from silo_tune.study.workspace import Workspace
from silo_tune.tasks.supervised import classification
from silo_tune.training.optimizers import make_optimizer
from silo_tune.training.process import enter
from silo_tune.training.trainer import Trainer

CIFAR10 = "SILO_TUNE_CIFAR10"
MAX_LR = 0.03
PRUNED = 0.5

# A turn of one way: trains, and returns the number of images.
Turn = Callable[[], int]


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        model: a registered name.
        images: "digits" or "cifar10".
        batch: images per step.
        train_examples: images per epoch, drawn from the whole training part; None for all.
        epochs: epochs per turn.
        goals: least acceptable ratios, by denominator.
    """

    model: str
    images: str
    batch: int
    train_examples: int | None
    epochs: int
    goals: Mapping[str, float]


CONVNET = {"limit": 0.90, "usual": 1.3}
CASES = (
    Case("lenet-300-100", "digits", 64, None, 20, {"usual": 5.0}),
    Case("resnet8", "cifar10", 128, 8192, 1, CONVNET),
    Case("resnet20", "cifar10", 128, 4096, 1, CONVNET),
)


@dataclass(frozen=True)
class Bench:
    """What the three ways share: images, masks, and where every way starts."""

    case: Case
    study: Study
    unit: Unit
    dataset: DataSet
    split: Split
    feed: Feed
    masks: Masks

    def model(self) -> nn.Module:
        """The network, the same for every way."""
        height, width, channels = self.dataset.train.shape[1:]
        return build_model(self.unit.model, (height, width, channels), self.dataset.classes, init_seed(0))


def synthetic() -> DataSet:
    """Noise in the shape of CIFAR-10."""
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for count in (50_000, 100)]
    labels = [rng.integers(0, 10, len(part), dtype=np.int64) for part in parts]
    return DataSet(parts[0], labels[0], parts[1], labels[1], 10)


def data_table(case: Case) -> dict[str, Any]:
    """[data] of a case."""
    if case.images == "digits":
        return {"name": "digits"}
    limit = {} if case.train_examples is None else {"train_examples": case.train_examples}
    return {"name": "huggingface", "path": f"${{{CIFAR10}}}", "augment": ["crop", "flip"], **limit}


def make_study(case: Case, turns: int) -> Study:
    """A study whose cycle 1 prunes half of the weights."""
    return parse_study(
        {
            "name": "benchmark",
            "cycles": 2,
            "data": data_table(case),
            "model": {"name": case.model},
            "dense": {"epochs": 1, "max_lr": MAX_LR},
            "prune": {"rate": PRUNED},
            "retrain": {"epochs": turns * case.epochs, "batch": case.batch},
            "replicates": {"seeds": [0]},
            "arms": {"silo": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": MAX_LR}}},
        }
    )


def prepare(case: Case, dataset: DataSet, turns: int) -> Bench:
    """The unit of cycle 1, its data and its masks."""
    study = make_study(case, turns)
    settings = study.settings(study.arms["silo"])
    unit = make_unit(study, settings, parent="0" * 64, cycle=1, seed=0, peak={"value": MAX_LR})
    split = split_rows(dataset, study.data, seed=0)
    feed = Feed.make(dataset, split, unit.augmentation, torch.device("cpu"))
    bench = Bench(case, study, unit, dataset, split, feed, {})
    model = bench.model()
    weights = prunable(model)
    scores = magnitude(Scoring(weights, full_masks(weights), model, torch.Generator()))
    bench.masks.update(shrink(scores, full_masks(weights), 1.0 - PRUNED, "global"))
    return bench


# --- the three ways ---


def limit(bench: Bench) -> Turn:
    model = bench.model().train()
    optimizer = make_optimizer(list(model.parameters()), bench.unit.optimizer, MAX_LR)
    ready = list(bench.feed.epoch(bench.case.batch, stream("order", 0), stream("augment", 0)))

    def turn() -> int:
        count = 0
        for _ in range(bench.case.epochs):
            for images, labels in ready:
                loss = F.cross_entropy(model(images), labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                count += len(labels)
        return count

    return turn


def ours(bench: Bench) -> Turn:
    trainer = Trainer(bench.unit, bench.model(), bench.masks, bench.feed, MAX_LR, classification(bench.dataset.classes))

    def turn() -> int:
        before = trainer.step
        for _ in range(bench.case.epochs):
            trainer.run_epoch()
        epochs, rest = divmod(trainer.step - before, trainer.steps_per_epoch)
        assert rest == 0
        return epochs * min(len(bench.feed.train), trainer.steps_per_epoch * bench.case.batch)

    return turn


class PilImages(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's own data sets give them: one PIL image at a time, through the transforms."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64], transform: Any) -> None:
        self.images, self.labels, self.transform = images, labels, transform
        self.grey = images.shape[3] == 1

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        pixels = self.images[index]
        image = Image.fromarray(pixels[..., 0] if self.grey else pixels)
        return self.transform(image), int(self.labels[index])


def usual(bench: Bench) -> Turn:
    model = bench.model().to(memory_format=torch.contiguous_format).train()
    modules = dict(model.named_modules())
    for name, mask in bench.masks.items():
        prune.custom_from_mask(modules[name.removesuffix(".weight")], "weight", mask)
    settings = {key: value for key, value in bench.unit.optimizer.items() if key != "name"}
    optimizer = torch.optim.SGD(model.parameters(), lr=MAX_LR, **settings)
    mean, std = (bench.feed.mean / 255).tolist(), (1 / bench.feed.scale / 255).tolist()
    size, padding = bench.dataset.train.shape[1], bench.study.data.crop_padding
    augment = [transforms.RandomCrop(size, padding), transforms.RandomHorizontalFlip()]
    steps = [*(augment if bench.study.data.augment else []), transforms.ToTensor(), transforms.Normalize(mean, std)]
    rows = bench.split.train
    images = PilImages(bench.dataset.train[rows], bench.dataset.train_labels[rows], transforms.Compose(steps))
    last = len(images) % bench.case.batch == 1  # as in `Feed.steps`
    loader = DataLoader(images, batch_size=bench.case.batch, shuffle=True, num_workers=0, drop_last=last)

    def turn() -> int:
        count = 0
        for _ in range(bench.case.epochs):
            for batch, labels in loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(batch), labels)
                loss.backward()
                optimizer.step()
                count += len(labels)
        return count

    return turn


WAYS: dict[str, Callable[[Bench], Turn]] = {"limit": limit, "ours": ours, "usual": usual}

# --- measuring ---


def load(case: Case) -> DataSet:
    """The images of a case; synthetic where the real ones are not to be had."""
    return load_data(make_study(case, 1).data) if is_real(case) else synthetic()


def is_real(case: Case) -> bool:
    return case.images == "digits" or bool(os.environ.get(CIFAR10))


def serve(way: str, case: Case, turns: int, pipe: Connection) -> None:
    """One way in its own process: takes a turn whenever it is asked; answers (images, wall seconds, CPU seconds)."""
    if way == "usual":
        torch.set_num_threads(1)
    bench = prepare(case, load(case), turns)
    if way != "usual":
        enter(Workspace(run=".", data=bench.study.data))
    turn = WAYS[way](bench)
    pipe.send(None)
    while pipe.recv():
        wall, cpu = time.perf_counter(), time.process_time()
        count = turn()
        pipe.send((count, time.perf_counter() - wall, time.process_time() - cpu))


@contextlib.contextmanager
def served(case: Case, turns: int) -> Iterator[dict[str, Connection]]:
    """The three ways, ready."""
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for way in WAYS:
        pipes[way], theirs = spawn.Pipe()
        processes.append(spawn.Process(target=serve, args=(way, case, turns, theirs), daemon=True))
        if way != "usual":  # large pages, as the workers of a local cluster have them; read when a process starts
            os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        processes[-1].start()
        os.environ.pop("GLIBC_TUNABLES", None)
        theirs.close()
    for pipe in pipes.values():
        pipe.recv()
    yield pipes
    for pipe in pipes.values():
        pipe.send(False)
    for process in processes:
        process.join()


@dataclass(frozen=True)
class Timing:
    """Images per second of every way, per round: of CPU time and by the wall clock."""

    case: Case
    cpu: dict[str, list[float]]
    wall: dict[str, list[float]]

    def missed(self) -> list[str]:
        """The goals whose median ratio is too low."""
        medians = {other: statistics.median(ratios(self.cpu, other)) for other in self.case.goals}
        return [
            f"missed: {self.case.model} ÷ {other} is {medians[other]:.2f}, the goal is {least}"
            for other, least in self.case.goals.items()
            if medians[other] < least
        ]


def ratios(rates: Mapping[str, list[float]], other: str) -> list[float]:
    """Ours over another way, round by round."""
    return [a / b for a, b in zip(rates["ours"], rates[other], strict=True)]


def measure(case: Case, rounds: int, say: Callable[[str], object]) -> Timing:
    """Let the ways take turns. A first round warms up and does not count."""
    timing = Timing(case, {way: [] for way in WAYS}, {way: [] for way in WAYS})
    with served(case, rounds + 1) as pipes:
        for number in range(rounds + 1):
            for way, pipe in pipes.items():
                pipe.send(True)
                count, wall, cpu = pipe.recv()
                if number:
                    timing.cpu[way].append(count / cpu)
                    timing.wall[way].append(count / wall)
            if number:
                shown = ", ".join(f"{way} {timing.cpu[way][-1]:.0f}" for way in WAYS)
                say(f"{case.model} round {number} of {rounds}: {shown} images per CPU second")
    return timing


def memory(bench: Bench) -> tuple[str, list[str]]:
    """What the decoded images cost, and where they are copied although they should be shared."""
    dataset, copied = bench.dataset, []

    def copies(given: DataSet, seed: int) -> bool:
        split = split_rows(given, bench.study.data, seed)
        feed = Feed.make(given, split, bench.unit.augmentation, torch.device("cpu"))
        images = feed.train.images
        return not (isinstance(images, torch.Tensor) and np.shares_memory(images.numpy(), dataset.train))

    if any(copies(dataset, seed) for seed in (0, 1)):
        copied.append(f"missed: a replicate's feed copies the images of {bench.case.images}")
    # Ray hands an object to workers as a small pickle beside the buffers of its arrays, which a node holds once.
    buffers: list[pickle.PickleBuffer] = []
    inband = pickle.dumps(dataset, protocol=5, buffer_callback=buffers.append)
    if copies(pickle.loads(inband, buffers=buffers), 0):
        copied.append(f"missed: every worker copies the images of {bench.case.images} ({len(inband)} bytes)")
    held = sum(array.nbytes for array in (dataset.train, dataset.test) if array is not None)
    rows = sum(part.nbytes for part in (bench.split.train, bench.split.val, bench.split.test))
    note = (
        f"{bench.case.images}: {held / 2**20:.1f} MiB of decoded images, "
        + ("copied where they should be shared" if copied else "one copy for all replicates and workers of a node")
        + f"; a replicate adds {rows / 2**20:.2f} MiB of row numbers, a worker {len(inband)} bytes"
    )
    return note, copied


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def markdown(timings: list[Timing], source: Mapping[str, str], rounds: int) -> str:
    """The table, ready for a README."""
    lines = [
        "| model, images, batch | limit, images/s | ours, images/s | usual, images/s | ours ÷ limit | ours ÷ usual |",
        "|---|---|---|---|---|---|",
    ]
    for timing in timings:
        case = timing.case
        speeds = [f"{statistics.median(timing.cpu[way]):,.0f}" for way in WAYS]
        compared = [spread(ratios(timing.cpu, other)) for other in ("limit", "usual")]
        lines.append(f"| {case.model}, {source[case.images]}, {case.batch} | {' | '.join([*speeds, *compared])} |")
    where = environment()
    lines += [
        "",
        f"{where['machine']}; torch {where['torch']}, one thread; per second of CPU time; median (least–greatest) of "
        f"{rounds} rounds.",
        "By the wall clock: "
        + "; ".join(
            f"{timing.case.model} {spread(ratios(timing.wall, 'limit'))} of the limit, "
            f"{spread(ratios(timing.wall, 'usual'))} times the usual way"
            for timing in timings
        )
        + ".",
    ]
    return "\n".join(lines)


def main() -> int:
    """Run all cases; the exit code is 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description="Training speed of a bare loop, silo-tune and the usual way.")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count (default 7)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of few images: does it run, not how fast")
    parser.add_argument("--models", nargs="*", choices=[case.model for case in CASES], help="only these")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 2 if options.quick else options.rounds
    cases = [case for case in CASES if not options.models or case.model in options.models]
    if options.quick:
        cases = [replace(case, train_examples=512, epochs=1) for case in cases]
    timings, notes, source, missed = [], {}, {}, list[str]()
    for case in cases:
        names = {"digits": "digits", "cifar10": "CIFAR-10"}
        source[case.images] = names[case.images] if is_real(case) else f"synthetic 32×32 ({CIFAR10} is not set)"
        if case.images not in notes:  # also decodes, so that the ways find it decoded
            notes[case.images], copied = memory(prepare(case, load(case), 1))
            missed += copied
        timings.append(measure(case, rounds, lambda line: sys.stderr.write(line + "\n")))
    if not options.quick:
        missed += [line for timing in timings for line in timing.missed()]
    for line in (markdown(timings, source, rounds), "", *notes.values(), *missed):
        sys.stdout.write(line + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
