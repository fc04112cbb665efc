"""What a cluster costs: slots that wait, work that a death loses, and what ten thousand units leave behind.

    python experiments/benchmarks/on_a_cluster.py busy [--seeds 3] [--json FILE]
    python experiments/benchmarks/on_a_cluster.py killed [--kills 5] [--json FILE]
    python experiments/benchmarks/on_a_cluster.py long [--units 10000] [--local] [--json FILE]

- *busy*: a greedy Oracle of seven rates, SILO and a control on the real CIFAR-10 (SILO_TUNE_CIFAR10; ResNet-8 of width
  8, 8,000 images, 4 epochs a cycle), on two slots, two ways in one run: ours, and the usual one of a Tuner for each
  cycle, whose trials are the very same units (of all seeds at once, which favours it). The share is training seconds ÷
  (slots × wall), from the first unit's start to the last unit's end.
- *killed*: a study whose driver is ended by SIGKILL again and again, each time at a random moment (seed 0), with all
  its workers. Every pass through the network is counted, so what was trained twice is known.
- *long*: units of a few milliseconds of training, so that all else shows. *RSS* is the driver's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
from torch import Tensor, nn

from silo_tune.api import run_study
from silo_tune.planner.planner import Planner
from silo_tune.results.records import load_run
from silo_tune.run.local import LocalRunner
from silo_tune.run.monitor import Monitor
from silo_tune.run.session import Runner
from silo_tune.store.lease import Lease
from silo_tune.store.run_folder import Run
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study
from silo_tune.study.workspace import Workspace

SLOTS = 2


# --- watching a session ---


@dataclass
class Log:
    """What a session told, in order.

    Attributes:
        began: when training could begin.
        told: (moment, key) of every outcome.
        rss: megabytes of this process after so many outcomes.
        weights: bytes of states in the run after so many outcomes.
    """

    began: float = 0.0
    told: list[tuple[float, str]] = field(default_factory=list)
    rss: dict[int, float] = field(default_factory=dict)
    weights: dict[int, int] = field(default_factory=dict)


@dataclass
class Watched:
    """A runner whose outcomes are noted.

    Args:
        inner: the runner.
        log: what is noted.
        every: memory and weights are looked at after so many outcomes; never when None.
    """

    inner: Runner
    log: Log
    every: int | None = None

    @contextlib.contextmanager
    def open(self, study: Study, workspace: Workspace, monitor: Monitor) -> Iterator[Any]:
        with self.inner.open(study, workspace, monitor) as session:
            train, log = session.train, self.log

            def noted(planner: Planner, lease: Lease, monitor: Monitor) -> None:
                tell = planner.tell

                def also(key: str, outcome: Mapping[str, Any]) -> None:
                    tell(key, outcome)
                    log.told.append((time.monotonic(), key))
                    if self.every and len(log.told) % self.every == 0:
                        log.rss[len(log.told)] = resident()
                        log.weights[len(log.told)] = bytes_of_weights(workspace.run)

                planner.tell = also  # type: ignore[method-assign]
                log.began = time.monotonic()
                train(planner, lease, monitor)

            session.train = noted  # type: ignore[method-assign]
            yield session


def resident() -> float:
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def bytes_of_weights(run: str) -> int:
    """Bytes of all states in a run."""
    return sum(path.stat().st_size for path in Path(run).glob("units/*/*/*.safetensors"))


# --- busy: how much of the slots' time is training ---


def train_unit(config: dict[str, Any], shared: Any) -> None:
    """A trial of the usual way: one unit, in a process of its own."""
    import ray
    from ray import tune

    from silo_tune.planner.unit import Unit
    from silo_tune.training.worker import Worker, drain

    worker = Worker(shared.workspace, ray.get(shared.dataset))
    result = drain(worker.run(Unit.from_spec(json.loads(config["unit"]))))
    tune.report({name: result[name] for name in HEARD})


HEARD = ("key", "status", "max_lr", "val_score", "val_loss", "classes", "error", "train_seconds")


class TunerPerCycle:
    """The usual way: all candidates of a cycle in one Tuner, then the winners, then the next Tuner."""

    @contextlib.contextmanager
    def open(self, study: Study, workspace: Workspace, monitor: Monitor) -> Iterator[Any]:
        from silo_tune.tune.runner import RayRunner

        with RayRunner(num_cpus=SLOTS).open(study, workspace, monitor) as session:

            def train(planner: Planner, lease: Lease, monitor: Monitor) -> None:
                while not planner.done:
                    one_cycle(planner, session)

            session.train = train  # type: ignore[method-assign]
            yield session


def one_cycle(planner: Planner, session: Any) -> None:
    from ray import tune

    from silo_tune.planner.unit import canonical_json

    specs = [canonical_json(unit.spec) for unit in iter(planner.ask, None)]
    trainable = tune.with_resources(tune.with_parameters(train_unit, shared=session.shared), {"cpu": 1})
    run_config = tune.RunConfig(storage_path=session.scratch, verbose=0)
    tuner = tune.Tuner(trainable, param_space={"unit": tune.grid_search(specs)}, run_config=run_config)
    results = tuner.fit()
    for result in (results[number] for number in range(len(results))):
        assert result.metrics is not None
        planner.tell(result.metrics["key"], result.metrics)


def busy_study(seeds: int) -> Study:
    """An Oracle study on the real CIFAR-10, of which a unit takes about twenty seconds."""
    return parse_study(
        {
            "name": "busy",
            "cycles": 4,
            "data": {
                "name": "huggingface",
                "path": "${SILO_TUNE_CIFAR10:-uoft-cs/cifar10}",
                "train_examples": 8000,
                "val_examples": 2000,
                "test_examples": 2000,
                "augment": ["crop", "flip"],
            },
            "model": {"name": "resnet8", "width": 8},
            "dense": {"epochs": 4, "max_lr": 0.1},
            "retrain": {"epochs": 4, "batch": 128},
            "replicates": {"seeds": list(range(seeds))},
            "arms": {
                "silo": {"mode": "schedule", "schedule": {"name": "silo", "eps": 0.03, "delta": 0.04}},
                "constant": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.03}},
                "oracle": {"mode": "oracle", "grid": {"low": 0.01, "high": 1.0, "points": 7}, "tests": []},
            },
        }
    )


def busy(seeds: int) -> dict[str, Any]:
    from silo_tune.tune.runner import RayRunner

    ways: dict[str, Runner] = {"ours": RayRunner(num_cpus=SLOTS), "a Tuner per cycle": TunerPerCycle()}
    found: dict[str, Any] = {}
    for name, runner in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            log = Log()
            outcome = run_study(busy_study(seeds), f"{folder}/run", runner=Watched(runner, log))
            frame = outcome.frame.drop_duplicates("key")
            results = Run(f"{folder}/run")
            first = results.result(log.told[0][1])
            assert first is not None
            # The usual way tells its outcomes when a cycle is over; its first unit began with the session.
            begin = log.began if name != "ours" else log.told[0][0] - first["wall_seconds"]
            wall = log.told[-1][0] - begin
            trained = float(frame.train_seconds.sum())
            found[name] = {
                "units": len(frame),
                "train_seconds": trained,
                "wall_seconds": wall,
                "start_seconds": begin - log.began,
                "share": trained / (SLOTS * wall),
                "share_with_start": trained / (SLOTS * (log.told[-1][0] - log.began)),
            }
    for name, row in found.items():
        print(
            f"{name}: {row['units']} units, {row['train_seconds']:.0f} s of training in {row['wall_seconds']:.0f} s on "
            f"{SLOTS} slots: {row['share']:.3f} of their time once warm, {row['share_with_start']:.3f} with the start"
        )
    return found


# --- killed: what a death loses ---


class Counted(nn.Module):
    """Counts its passes in training, one byte each, so that nothing is lost with the process."""

    def __init__(self, inputs: int, classes: int, file: str, pause: float) -> None:
        super().__init__()
        self.body = nn.Linear(inputs, classes)
        self.file, self.pause = file, pause

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            time.sleep(self.pause)
            with open(self.file, "ab") as file:
                file.write(b".")
        logits: Tensor = self.body(images.flatten(1))
        return logits


def counted(shape: tuple[int, int, int], classes: int, file: str = "", pause: float = 0.0) -> nn.Module:
    """Model function of the study that is killed."""
    return Counted(shape[0] * shape[1] * shape[2], classes, file, pause)


STEPS = 8  # of an epoch
EPOCHS = 6


def killed_table(passes: Path) -> dict[str, Any]:
    return {
        "name": "killed",
        "cycles": 4,
        "data": {"name": "digits", "train_examples": 32 * STEPS, "val_examples": 100, "test_examples": 100},
        "model": {"function": "cluster:counted", "version": "1", "file": str(passes), "pause": 0.05},
        "dense": {"epochs": EPOCHS, "max_lr": 0.1},
        "retrain": {"epochs": EPOCHS, "batch": 32},
        "replicates": {"seeds": [0, 1]},
        "arms": {
            "silo": {"mode": "schedule", "schedule": {"name": "silo", "eps": 0.05, "delta": 0.1}},
            "oracle": {"mode": "oracle", "grid": {"low": 0.01, "high": 1.0, "points": 3}},
        },
        "report": {"tolerance": 0.05},
        "cluster": {"partial_seconds": 0},
    }


def killed(kills: int) -> dict[str, Any]:
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        passes, study, out = Path(folder, "passes"), Path(folder, "killed.toml"), Path(folder, "run")
        study.write_text(tomli_w.dumps(killed_table(passes)))
        command = [sys.executable, "-m", "silo_tune", "run", str(study), "--out", str(out)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        for _ in range(kills):
            before = passes.stat().st_size if passes.exists() else 0
            driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
            while driver.poll() is None and (not passes.exists() or passes.stat().st_size < before + STEPS):
                time.sleep(0.05)
            time.sleep(rng.uniform(1, 6))
            if driver.poll() is not None:
                raise RuntimeError("the study ended before it was killed so often; ask for fewer --kills")
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            time.sleep(5)  # Ray's processes notice that their driver is gone
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        frame, _, _ = load_run(str(out))
        needed = int(frame.drop_duplicates("key").steps.sum())
        twice = (passes.stat().st_size - needed) / STEPS
    found = {
        "kills": kills,
        "units": int(frame.key.nunique()),
        "epochs": needed / STEPS,
        "epochs_trained_twice": twice,
        "epochs_per_kill_and_slot": twice / kills / SLOTS,
    }
    print(
        f"{kills} kills of a study of {found['units']} units and {found['epochs']:.0f} epochs: {twice:.2f} epochs were "
        f"trained twice, {found['epochs_per_kill_and_slot']:.2f} for each kill and slot"
    )
    return found


# --- long: what many units leave behind ---


def tiny(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Model function of the long study: a linear classifier."""
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))


def long_study(units: int) -> Study:
    from planning import make_study as shape_study
    from planning import shape_of

    table = shape_study(**shape_of(units, "seeds")).model_dump(mode="json", exclude_none=True)
    table |= {
        "name": "long",
        "data": {"name": "digits", "train_examples": 64, "val_examples": 100, "test_examples": 50},
        "model": {"function": "cluster:tiny", "version": "1"},
        "dense": {"epochs": 1, "max_lr": 0.05},
        "report": {"tolerance": 0.05},
    }
    return parse_study(table)


def long(units: int, local: bool) -> dict[str, Any]:
    from silo_tune.tune.runner import RayRunner

    study = long_study(units)
    with tempfile.TemporaryDirectory() as folder:
        log, out = Log(), f"{folder}/run"
        inner: Runner = LocalRunner() if local else RayRunner(num_cpus=SLOTS)
        cpu = time.process_time()
        outcome = run_study(study, out, runner=Watched(inner, log, every=1000))
        cpu = time.process_time() - cpu
        count, wall = len(log.told), log.told[-1][0] - log.began
        work = sum(Run(out).result(key)["wall_seconds"] for _, key in log.told)  # type: ignore[index]
        biggest = max(path.stat().st_size for path in Path(out).glob("units/*/*/result.json"))
        began = time.monotonic()
        Planner(study, Run(out))
        resumed = time.monotonic() - began
        assert outcome.counts.failed == 0
    slots = 1 if local else SLOTS
    found = {
        "units": count,
        "runner": "in-process" if local else f"Ray, {SLOTS} slots",
        "wall_ms_per_unit": 1000 * wall / count,
        "unit_ms": 1000 * work / count,
        "beside_training_ms": 1000 * (wall - work / slots) / count,
        "driver_cpu_ms": 1000 * cpu / count,
        "rss_mb": log.rss,
        "weights_bytes": log.weights,
        "result_json_bytes": biggest,
        "resume_seconds": resumed,
    }
    first, last = min(log.rss, key=lambda n: abs(n - 2000), default=0), max(log.rss, default=0)
    print(
        f"{found['runner']}: {count} units, {found['wall_ms_per_unit']:.1f} ms each; a worker takes "
        f"{found['unit_ms']:.1f} ms, all else {found['beside_training_ms']:.1f} ms of wall; driver CPU "
        f"{found['driver_cpu_ms']:.1f} ms\n"
        f"driver: {log.rss.get(first, 0):.0f} MB after {first:,} units, {log.rss.get(last, 0):.0f} MB after {last:,}; "
        f"weights at most {max(log.weights.values(), default=0) / 1e6:.1f} MB; largest result.json {biggest} bytes; "
        f"a start of the finished study {resumed:.1f} s"
    )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["busy", "killed", "long"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--units", type=int, default=10_000)
    parser.add_argument("--local", action="store_true", help="the in-process runner")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    works: dict[str, Callable[[], dict[str, Any]]] = {
        "busy": lambda: busy(given.seeds),
        "killed": lambda: killed(given.kills),
        "long": lambda: long(given.units, given.local),
    }
    found = works[given.what]()
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
