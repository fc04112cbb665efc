"""What the tests of the plain core share: a tiny study, a journal in memory, and a simulated unit of work."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from silo_tune.planner.planner import Planner
from silo_tune.planner.unit import Unit, make_unit
from silo_tune.store.run_folder import Run
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study

Outcome = dict[str, Any]
ORACLE = {"mode": "oracle", "grid": {"low": 0.01, "high": 1.0, "points": 3}}
TABLE: dict[str, Any] = {
    "name": "tiny",
    "cycles": 4,
    "data": {"name": "digits"},
    "model": {"name": "lenet-300-100"},
    "dense": {"epochs": 2, "max_lr": 0.05},
    "prune": {"rate": 0.2},
    "retrain": {"epochs": 1, "batch": 32},
    "replicates": {"seeds": [0, 1]},
    "arms": {
        "silo": {"mode": "schedule", "schedule": {"name": "silo", "eps": 0.03, "delta": 0.04}},
        "constant": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.03}},
        "linear": {"mode": "schedule", "schedule": {"name": "linear", "start": 0.03, "end": 0.07, "over": 3}},
        "greedy": ORACLE,
        "conditioned": {**ORACLE, "prefix": "arm:silo"},
    },
}


def table(changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The tiny study's table, with values at dotted keys changed (None removes a key)."""
    made: dict[str, Any] = json.loads(json.dumps(TABLE))
    for path, value in (changes or {}).items():
        *parents, last = path.split("/") if "/" in path else path.split(".")
        place = made
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is None:
            place.pop(last)
        else:
            place[last] = copy.deepcopy(value)
    return made


def study(changes: Mapping[str, Any] | None = None) -> Study:
    return parse_study(table(changes))


class MemoryJournal:
    """Decisions, results and states as a run keeps them, in memory and as JSON, so that nothing is shared by chance."""

    def __init__(self) -> None:
        self.decisions: dict[tuple[Any, ...], str] = {}
        self.rounds: dict[tuple[str, int], str] = {}
        self.looks: dict[int, str] = {}
        self.results: dict[str, str] = {}
        self.states: set[str] = set()
        self.swept: list[str] = []

    def decision(self, arm: str, seed: int, cycle: int, number: int, trial: int | None = None) -> Outcome | None:
        where = (arm, seed, cycle, number)
        text = self.decisions.get(where if trial is None else (*where, trial))
        return None if text is None else json.loads(text)

    def decide(self, body: Mapping[str, Any]) -> Outcome:
        where: tuple[Any, ...] = (body["arm"], body["seed"], body["cycle"], body["round"])
        if "trial" in body:
            where = (*where, body["trial"])
        text = self.decisions.setdefault(where, json.dumps(body, allow_nan=False))
        standing: Outcome = json.loads(text)
        return standing

    def search_round(self, arm: str, number: int) -> Outcome | None:
        text = self.rounds.get((arm, number))
        return None if text is None else json.loads(text)

    def decide_search(self, body: Mapping[str, Any]) -> Outcome:
        standing: Outcome = json.loads(
            self.rounds.setdefault((body["arm"], body["round"]), json.dumps(body, allow_nan=False))
        )
        return standing

    def look(self, number: int) -> Outcome | None:
        text = self.looks.get(number)
        return None if text is None else json.loads(text)

    def decide_look(self, body: Mapping[str, Any]) -> Outcome:
        standing: Outcome = json.loads(self.looks.setdefault(body["look"], json.dumps(body, allow_nan=False)))
        return standing

    def importance(self, arm: str, points: int) -> None:
        """A journal in memory keeps none."""

    def result(self, key: str) -> Outcome | None:
        text = self.results.get(key)
        return None if text is None else json.loads(text)

    def sweep(self, key: str) -> None:
        self.swept.append(key)
        self.states.discard(key)

    def commit(self, outcome: Outcome) -> None:
        self.results.setdefault(outcome["key"], json.dumps(outcome, allow_nan=False))
        if outcome["status"] == "ok":
            self.states.add(outcome["key"])


@dataclass
class World:
    """Simulated training: an outcome that depends on the unit's key alone.

    Attributes:
        fate: "ok", "diverged" or "failed" for a unit.
    """

    fate: Callable[[Unit], str] = lambda unit: "ok"

    def outcome(self, unit: Unit) -> Outcome:
        status = self.fate(unit)
        if status == "failed":
            return {"key": unit.key, "status": "failed", "error": "OSError: no space"}
        good = status == "ok"
        draw = int(hashlib.sha256(unit.key.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF
        remaining = 1.0 if unit.prune is None else unit.prune.target
        return {
            "format": 1,
            "key": unit.key,
            "unit": unit.spec,
            "status": status,
            "error": None if good else "loss or weights not finite in epoch 1 of 1",
            "max_lr": resolved(unit),
            "sparsity": 1 - remaining,
            "weights_remaining": remaining,
            "val_score": round(0.5 + 0.4 * draw, 3) if good else None,
            "val_loss": round(1 - draw, 6) if good else None,
            "n_val": 400,
            "test_score": 0.5 + 0.3 * draw if good else None,
            "n_test": 300,
            "train_loss": 1 - draw,
            "classes": 10,
            "epochs": unit.epochs,
            "steps": 10 * unit.epochs,
            "train_seconds": 2.0 + draw,
            "realised_peak_lr": resolved(unit),
            "device": "simulated",
            "threads": 1,
            "version": "0",
            "attempt": "0123456789abcdef",
            "state": None,
        }


def result_of(key: str, **changes: Any) -> Outcome:
    """A whole result under any key, whose weights were swept."""
    unit = make_unit(study(), study().settings(study().arms["silo"]), parent=None, cycle=0, seed=0, peak={"value": 0.1})
    swept = {"file": "state-00.safetensors", "sha256": "0" * 64, "bytes": 0}
    return {**World().outcome(unit), "key": key, "state": swept, **changes}


def decision_of(key: str, **changes: Any) -> Outcome:
    """A whole decision of the silo arm: cycle 3 of seed 0, won by its one candidate."""
    asked = {"candidate": 0, "key": key, "peak": {"value": 0.1}, "asked": True, "tests": []}
    told = {"candidate": 0, "repeat": 0, "key": key, "status": "ok", "max_lr": 0.1, "val_score": 0.5,
            "val_loss": 1.0, "error": None, "classes": 10, "measured": None}  # fmt: skip
    body = {"arm": "silo", "seed": 0, "cycle": 3, "round": 1, "parent": None, "asked": [asked], "told": [told],
            "closes": True, "winner": key}  # fmt: skip
    return {**body, **changes}


def resolved(unit: Unit) -> float | None:
    """max_lr of a unit; a rule gives half of its bound."""
    if unit.peak is None:
        return None
    return float(unit.peak["value"]) if "value" in unit.peak else float(unit.peak["args"]["max_lr"]) / 2


@dataclass
class Drive:
    """One start of a run: asks a planner for units, trains them by simulation, and tells the outcomes.

    Attributes:
        commit: where a finished unit goes.
        world: what training gives.
        rng: draws which of the units under way ends next.
        slots: units under way at once.
        on_ask: called with every asked unit before it trains.
        on_tell: called with every outcome before the planner hears it.
        asked: keys, in order.
    """

    commit: Callable[[Outcome], Any]
    world: World = field(default_factory=World)
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    slots: int = 3
    on_ask: Callable[[Unit], None] = lambda unit: None
    on_tell: Callable[[Outcome], None] = lambda outcome: None
    asked: list[str] = field(default_factory=list)

    def __call__(self, planner: Planner, tells: int | None = None) -> int:
        """Train to the end, or until so many outcomes are told; returns how many were."""
        flying: list[Unit] = []
        told = 0
        while tells is None or told < tells:
            while len(flying) < self.slots and (unit := planner.ask()) is not None:
                self.asked.append(unit.key)
                self.on_ask(unit)
                flying.append(unit)
            if not flying:
                assert planner.done
                break
            unit = flying.pop(self.rng.randrange(len(flying)))
            outcome = self.world.outcome(unit)
            if outcome["status"] != "failed":
                self.commit(outcome)
            self.on_tell(outcome)
            planner.tell(unit.key, outcome)
            told += 1
        return told


def on_disk(run: Run) -> Callable[[Outcome], Any]:
    """Commit to a run folder: a state of a few bytes, then the result."""

    def commit(outcome: Outcome) -> Any:
        state = None
        if outcome["status"] == "ok":
            state = run.units.write_state(outcome["key"], "0123456789abcdef", outcome["key"].encode())
        return run.units.commit({**outcome, "state": state})

    return commit


def spread(unit: Unit) -> str:
    """A fate that mixes: most rates train, the highest diverge, a few units fail."""
    rate = resolved(unit) or 0.0
    if rate > 0.9:
        return "diverged"
    return "failed" if unit.cycle > 0 and int(unit.key[:2], 16) < 12 else "ok"
