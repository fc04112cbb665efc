"""What a user of the project would write: functions that a study names."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from silo_tune.data.sets import DataSet
from silo_tune.pruning.criteria.scoring import Scoring


def data(count: int = 60) -> DataSet:
    rng = np.random.default_rng(0)
    labels = np.arange(count, dtype=np.int64) % 3
    pixels = rng.integers(0, 80, (count, 8, 8, 1), dtype=np.uint8)
    pixels[labels == 1, :4] += 120
    pixels[labels == 2, 4:] += 120
    return DataSet(pixels, labels, None, None, 3)


def schedule(cycle: int, pruned: Sequence[float], low: float = 0.02) -> float:
    return low * (1 + cycle)


def textual(cycle: int, pruned: Sequence[float]) -> str:
    return "0.1"


def moody(cycle: int, pruned: Sequence[float]) -> float:
    return float(np.random.default_rng().uniform(0.1, 0.2))


class Net(nn.Module):
    def __init__(self, inputs: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, classes))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.body(images.flatten(1))
        return logits


def model(shape: tuple[int, int, int], classes: int, dropout: float = 0.2) -> nn.Module:
    return Net(shape[0] * shape[1] * shape[2], classes, dropout)


def fixed() -> nn.Module:
    """Asks for nothing: it knows its images."""
    return Net(64, 3, 0.0)


def criterion(scoring: Scoring) -> dict[str, Tensor]:
    return {name: weight.detach().square() for name, weight in scoring.weights.items()}


def destructive(scoring: Scoring) -> dict[str, Tensor]:
    """Scores by size, and ruins all that it is shown."""
    found = {name: weight.detach().abs().clone() for name, weight in scoring.weights.items()}
    with torch.no_grad():
        for shown in (*scoring.model.parameters(), *scoring.masks.values()):
            shown.zero_()
    return found


class Mixed(nn.Module):
    """A frozen backbone, a layer that nothing uses, a parameter of whole numbers, two layers of one weight."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.backbone = nn.Linear(inputs, 16).requires_grad_(False)
        self.spare = nn.Linear(3, 3)
        self.seen = nn.Parameter(torch.zeros(3, dtype=torch.int64), requires_grad=False)
        self.one, self.other = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
        self.other.weight = self.one.weight
        self.head = nn.Linear(16, classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.backbone(images.flatten(1)))
        logits: Tensor = self.head(torch.relu(self.other(torch.relu(self.one(hidden)))))
        return logits


def mixed(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Mixed(shape[0] * shape[1] * shape[2], classes)


def unnormed(shape: tuple[int, int, int], classes: int) -> nn.Module:
    body = nn.Sequential(nn.Conv2d(shape[2], 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Flatten())
    return nn.Sequential(body, nn.Linear(8 * shape[0] * shape[1], classes))


class Pair(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images), 1  # type: ignore[return-value]


def pair(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Pair(shape[0] * shape[1] * shape[2], classes, 0.0)


def lazy(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


def normed(shape: tuple[int, int, int], classes: int) -> nn.Module:
    inner = nn.utils.parametrizations.weight_norm(nn.Linear(shape[0] * shape[1] * shape[2], 16))
    return nn.Sequential(nn.Flatten(), inner, nn.Linear(16, classes))


def recurrent(shape: tuple[int, int, int], classes: int) -> nn.Module:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.LSTM(shape[1] * shape[2], 32, batch_first=True)
            self.head = nn.Linear(32, classes)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.head(self.rows(images.movedim(1, 3).flatten(2))[0][:, -1])
            return logits

    return Reader()


def broken(shape: tuple[int, int, int], classes: int) -> nn.Module:
    raise KeyError("no such layer")


def of_other_size(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(7, 8), nn.Linear(8, classes))


def no_optimizer(parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    raise KeyError("no such optimizer")


def too_high(step: int, total: int) -> float:
    return 2.0


def flat_scores(scoring: Scoring) -> dict[str, Tensor]:
    return {name: weight.detach().flatten() for name, weight in scoring.weights.items()}


class Leaves(Net):
    """Ends as no network should."""

    def __init__(self, inputs: int, classes: int, how: str) -> None:
        super().__init__(inputs, classes, 0.0)
        self.how = how

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            kinds: dict[str, BaseException] = {
                "exit": SystemExit(0),
                "generator": GeneratorExit(),
                "own": type("Mine", (BaseException,), {})("of mine"),
                "surrogate": ValueError("a lone \udc80"),
                "escape": ValueError("\x1b[2J\x1b]0;owned\x07 cleared"),
            }
            raise kinds[self.how]
        return super().forward(images)


def leaving(shape: tuple[int, int, int], classes: int, how: str) -> nn.Module:
    return Leaves(shape[0] * shape[1] * shape[2], classes, how)


class Hangs(Net):
    """Hangs in training once in a file's life, or always: asleep, in a loop that catches what it can, or in code that
    no signal reaches ("deaf"), perhaps holding the interpreter ("locked")."""

    def __init__(self, inputs: int, classes: int, how: str, marker: str) -> None:
        super().__init__(inputs, classes, 0.0)
        self.how, self.marker, self.calls = how, marker, 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += self.training
        always = self.marker == "always"
        if self.training and self.calls == (3 if always else 6) and not Path(self.marker).exists():
            if not always:
                Path(self.marker).touch()
            if self.how in ("deaf", "locked"):
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            while self.how == "loop":
                with contextlib.suppress(Exception):
                    time.sleep(0.01)
            (ctypes.PyDLL(None).sleep if self.how == "locked" else time.sleep)(600)
        return super().forward(images)


def hanging(shape: tuple[int, int, int], classes: int, how: str, marker: str) -> nn.Module:
    return Hangs(shape[0] * shape[1] * shape[2], classes, how, marker)


class Raises(nn.Module):
    """Fails in training once in a file's life, or always."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self.body = nn.Linear(64, 10)
        self.marker = marker

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.body(images.flatten(1))
        if self.marker and self.training:
            if self.marker == "always":
                raise RuntimeError("this network never trains")
            if not Path(self.marker).exists():
                Path(self.marker).touch()
                raise RuntimeError("a passing fault")
        return logits


def fragile(shape: tuple[int, int, int], classes: int, marker: str = "") -> nn.Module:
    return Raises(marker)


class Kills(nn.Module):
    """Ends its own process, once in a file's life, in the middle of a retraining."""

    def __init__(self, marker: str, inputs: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Linear(inputs, classes)
        self.marker = marker
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += self.training
        alive = bool((self.body.weight != 0).all())
        if self.training and not alive and self.calls == 12 and not Path(self.marker).exists():
            Path(self.marker).write_text(str(os.getpid()))
            os.kill(os.getpid(), 9)
        logits: Tensor = self.body(images.flatten(1))
        return logits


def killer(shape: tuple[int, int, int], classes: int, marker: str) -> nn.Module:
    torch.set_num_threads(torch.get_num_threads())
    return Kills(marker, shape[0] * shape[1] * shape[2], classes)


def signing(shape: tuple[int, int, int], classes: int, folder: str, pause: float = 0.0) -> nn.Module:
    """A network that leaves a file of its node's name where it is built."""
    import ray

    Path(folder, ray.get_runtime_context().get_node_id()).touch()
    return Signed(shape[0] * shape[1] * shape[2], classes, pause)


class Signed(Net):
    """Trains, slowly if wanted."""

    def __init__(self, inputs: int, classes: int, pause: float) -> None:
        super().__init__(inputs, classes, 0.0)
        self.pause = pause

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            time.sleep(self.pause)
        return super().forward(images)


class Hungry(Net):
    """Takes much memory in training, a little at a time, once in a file's life."""

    def __init__(self, inputs: int, classes: int, marker: str, megabytes: int) -> None:
        super().__init__(inputs, classes, 0.0)
        self.marker, self.megabytes = marker, megabytes

    def forward(self, images: Tensor) -> Tensor:
        if self.training and not Path(self.marker).exists():
            Path(self.marker).touch()
            eaten = []
            for _ in range(self.megabytes // 64):
                eaten.append(np.ones(64 * 2**17))
                time.sleep(0.02)
            raise AssertionError("nobody ended this worker")
        return super().forward(images)


def hungry(shape: tuple[int, int, int], classes: int, marker: str, megabytes: int) -> nn.Module:
    return Hungry(shape[0] * shape[1] * shape[2], classes, marker, megabytes)


def text_rate(cycle: int, pruned: object) -> str:
    return "0.1"


def no_criterion(scored: object) -> object:
    raise KeyError("no criterion")


def shares(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A network that ends with a softmax."""
    return nn.Sequential(model(shape, classes), nn.Softmax(1))
