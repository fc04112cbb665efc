"""Laws over random studies, orders, failures and races: the planner, the store, seals and keys."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import random
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from silo_tune.planner.planner import Planner
from silo_tune.planner.unit import Unit, canonical, canonical_json, make_unit
from silo_tune.store.run_folder import Run
from silo_tune.store.storage import seal, unseal
from silo_tune.store.unit_store import new_attempt
from silo_tune.study.model import Study
from tests.plain import MemoryJournal, Outcome, World, decision_of, result_of, study

# Examples depend on nothing but the code where CI is set: a red build is red again. At a desk each run tries new ones.
CHECKS = list(HealthCheck)
settings.register_profile("desk", deadline=None, database=None, suppress_health_check=CHECKS, print_blob=True)
settings.register_profile("ci", settings.get_profile("desk"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")

# --- random studies ---

RATES = {"low": 0.01, "high": 1.0}
OPTIONAL = ("constant", "greedy", "conditioned", "guided", "followed", "own", "tuned")


@st.composite
def studies(draw: st.DrawFn) -> Study:
    """Small studies of every mode: schedules, Oracles on grids and guided, pilots, tune searches."""
    guided = {
        "sampler": draw(st.sampled_from(["random", "qmc"])),
        "trials": draw(st.integers(3, 4)),
        "batch": draw(st.integers(1, 3)),
        "repeat_top": draw(st.sampled_from([0, 2])),
        **RATES,
    }
    grid = {**RATES, "points": draw(st.integers(2, 3))}
    tune = {
        "sampler": "random",
        "trials": draw(st.integers(2, 5)),
        "batch": draw(st.integers(1, 3)),
        "eps": [0.01, 0.3],
        "delta": [0.0, 0.5],
        "seeds": draw(st.sampled_from([[0], [0, 7], [7]])),
        "keep": draw(st.sampled_from([0.3, 0.5, 1.0])),
    }
    cycles = draw(st.integers(2, 4))
    tune["rungs"] = draw(st.sampled_from([list(range(1, most)) for most in range(1, cycles)]))
    arms = {
        "constant": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.05}},
        "greedy": {"mode": "oracle", "grid": grid},
        "conditioned": {"mode": "oracle", "grid": grid, "prefix": "arm:silo"},
        "guided": {"mode": "oracle", "guided": guided},
        "followed": {"mode": "oracle", "guided": guided, "prefix": "arm:silo"},
        "own": {"mode": "oracle", "own_dense": True, "grid": grid},
        "tuned": {"mode": "tune", **tune},
    }
    changes: dict[str, Any] = {"cycles": cycles, "arms.linear": None}
    for name in OPTIONAL:
        changes[f"arms.{name}"] = arms[name] if draw(st.booleans()) else None
    if draw(st.booleans()):
        changes |= {"pilot": {"seeds": [100], "chains": 3, **RATES}, "arms.silo.schedule": "silo"}
    changes["replicates.seeds"] = draw(st.sampled_from([[0], [0, 1]]))
    if draw(st.integers(0, 4)) == 0:
        changes["cluster"] = {"keep": "all"}
    return study({path: value for path, value in changes.items() if value is not None or path in ALWAYS})


ALWAYS = {"arms.linear", "arms.constant", "arms.greedy", "arms.conditioned"}


def worlds(diverged: int, failed: int) -> World:
    """A world in which so many of a hundred units diverge, and so many fail."""

    def fate(unit: Unit) -> str:
        drawn = int(unit.key[:8], 16) % 100
        return "diverged" if drawn < diverged else "failed" if drawn < diverged + failed else "ok"

    return World(fate)


# --- the planner ---


@dataclass
class Storm:
    """A run with as many mishaps as are drawn: workers and drivers die, outcomes come late or twice.

    Attributes:
        restarts: share of steps at which the driver dies, and another goes on from the journal alone.
        deaths: share of steps at which a worker dies.
        late: units of a dead driver that its workers still commit at some time.
    """

    made: Study
    world: World
    rng: random.Random
    restarts: float
    deaths: float
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    flying: list[Unit] = field(default_factory=list)
    late: list[Unit] = field(default_factory=list)
    committed_late: set[str] = field(default_factory=set)

    def __call__(self) -> Planner:
        planner = Planner(self.made, self.journal)
        slots = self.rng.randint(1, 6)
        while not (planner.done and not self.flying):
            if self.rng.random() < self.restarts:
                if self.flying and self.rng.random() < 0.5:  # the result is committed, and nobody heard of it
                    self.commit(self.flying.pop(self.rng.randrange(len(self.flying))))
                self.late += self.flying
                self.flying = []
                planner = Planner(self.made, self.journal)
            elif self.late and self.rng.random() < 0.2:
                unit = self.late.pop(self.rng.randrange(len(self.late)))
                self.commit(unit)
                self.committed_late.add(unit.key)
            elif self.flying and self.rng.random() < self.deaths:
                planner.take_back(self.flying.pop(self.rng.randrange(len(self.flying))))
            elif len(self.flying) < slots and (unit_ := planner.ask()) is not None:
                self.check_asked(unit_)
                self.flying.append(unit_)
            elif self.flying:
                unit = self.flying.pop(self.rng.randrange(len(self.flying)))
                outcome = self.commit(unit)
                for _ in range(self.rng.choice([1, 1, 2])):
                    planner.tell(unit.key, outcome)
        return planner

    def check_asked(self, unit: Unit) -> None:
        assert unit.key not in self.journal.results or unit.key in self.committed_late, "a committed unit"
        assert all(unit.key != other.key for other in self.flying), "a unit that is under way"
        assert unit.parent is None or unit.parent in self.journal.states, "its parent's weights are gone"

    def commit(self, unit: Unit) -> Outcome:
        outcome = self.world.outcome(unit)
        if outcome["status"] != "failed" and unit.key not in self.journal.results:
            self.journal.commit(outcome)
        return outcome


@pytest.mark.slow
@settings(max_examples=60)
@given(
    made=studies(),
    diverged=st.sampled_from([0, 10, 40]),
    failed=st.sampled_from([0, 5, 20]),
    restarts=st.sampled_from([0.0, 0.02, 0.2]),
    deaths=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 2**32),
)
def test_no_order_failure_or_death_changes_what_is_decided_trained_and_kept(
    made: Study, diverged: int, failed: int, restarts: float, deaths: float, seed: int
) -> None:
    world = worlds(diverged, failed)
    calm = Storm(made, world, random.Random(0), restarts=0, deaths=0)
    calm()
    storm = Storm(made, world, random.Random(seed), restarts, deaths)
    planner = storm()
    assert storm.journal.decisions == calm.journal.decisions
    assert storm.journal.rounds == calm.journal.rounds
    assert storm.journal.results == calm.journal.results
    assert storm.journal.states == calm.journal.states
    assert all(not chain.active for chain in planner.chains.values())
    again = Planner(made, storm.journal)
    assert again.done
    assert again.ask() is None
    assert storm.journal.states == calm.journal.states


# --- the store ---

KEYS = ["ab" * 32, "cd" * 32]
SLOWLY, WORKERS, ACTIONS = 1e-6, 3, 25


@dataclass
class Racer:
    """One of several processes or threads on one run folder, which does this and that in an order of its own.

    Attributes:
        seen: every result and decision that it was given, as what stands.
        torn: weights that are not what their result says.
    """

    url: str
    seed: int
    sweeps: bool = True
    seen: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)

    def __call__(self) -> Racer:
        run, rng = Run(self.url), random.Random(self.seed)
        actions = [self.train, self.train, self.read, self.decide, self.partial, *([self.sweep] if self.sweeps else [])]
        for _ in range(ACTIONS):
            rng.choice(actions)(run, rng.choice(KEYS))
        return self

    def train(self, run: Run, key: str) -> None:
        """As a worker does: what is committed is not trained again."""
        result = run.units.result(key)
        if result is None:
            attempt = new_attempt()
            state = run.units.write_state(key, attempt, attempt.encode() * 100)
            result = run.units.commit(result_of(key, attempt=attempt, state=state))
            run.units.clear_partials(key)
        self.saw(result)

    def read(self, run: Run, key: str) -> None:
        result = run.units.result(key)
        if result is None:
            return
        self.saw(result)
        data = run.units.read_state(result)
        if data is not None and data != result["attempt"].encode() * 100:
            self.torn.append(key)

    def partial(self, run: Run, key: str) -> None:
        run.units.write_partial(key, new_attempt(), random.randrange(9), b"partial" * 50)
        run.units.read_partial(key)

    def sweep(self, run: Run, key: str) -> None:
        """As the driver does, once a unit is committed."""
        if run.units.result(key) is not None:
            run.units.sweep(key)

    def decide(self, run: Run, key: str) -> None:
        body = decision_of(key, cycle=1, by=new_attempt())
        self.seen.append(json.dumps(run.decide(body), sort_keys=True))

    def saw(self, result: Outcome) -> None:
        self.seen.append(json.dumps(result, sort_keys=True))


def raced(place: Path, seed: int, sweeps: bool, pool: Pool | None) -> list[Racer]:
    """So many racers on one folder, at once: threads, or the processes of a pool."""
    racers = [Racer(str(place), 1000 * seed + who, sweeps) for who in range(WORKERS)]
    if pool is not None:
        return pool.map(Racer.__call__, racers, chunksize=1)
    with switching(SLOWLY):
        workers = [threading.Thread(target=racer) for racer in racers]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return racers


@pytest.fixture(scope="module")
def processes() -> Iterator[Pool]:
    """Of a server without threads: a fork of this process, which has some, may hang."""
    with multiprocessing.get_context("forkserver").Pool(WORKERS) as pool:
        yield pool


@contextlib.contextmanager
def switching(seconds: float) -> Iterator[None]:
    """Threads take turns that often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("sweeps", [False, True], ids=["kept", "swept"])
@pytest.mark.parametrize("threads", [True, False], ids=["threads", "processes"])
def test_writers_that_race_leave_one_result_and_all_see_it(
    tmp_path: Path, threads: bool, sweeps: bool, processes: Pool
) -> None:
    for seed in range(12):
        place = tmp_path / str(seed)
        racers = raced(place, seed, sweeps, None if threads else processes)
        run = Run(str(place))
        standing = {json.dumps(run.result(key), sort_keys=True) for key in KEYS if run.result(key) is not None}
        decided = run.decision("silo", 0, 1, 1)
        assert {text for racer in racers for text in racer.seen} <= standing | {json.dumps(decided, sort_keys=True)}
        assert [key for racer in racers for key in racer.torn] == []
        for key in KEYS:
            result, names = run.result(key), run.storage.names(run.units.folder(key))
            assert not [name for name in names if name.endswith(".tmp") or ".corrupt-" in name]
            if result is not None:
                own = [result["state"]["file"]]
                assert [name for name in names if name.startswith("state-")] in ([[], own] if sweeps else [own])


def test_a_good_file_that_took_the_place_of_a_damaged_one_is_not_moved_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, one, other = KEYS[0], Run(str(tmp_path)), Run(str(tmp_path))
    one.units.commit(result_of(key, device="first"))
    file = tmp_path / one.units.folder(key) / "result.json"
    file.write_bytes(file.read_bytes().replace(b"first", b"worst"))
    quarantine = one.storage.quarantine

    def late(name: str) -> str:  # another driver found the damage too, and has trained the unit again by now
        if other.units.result(key) is None:
            other.units.commit(result_of(key, device="other"))
        return quarantine(name)

    monkeypatch.setattr(one.storage, "quarantine", late)
    found = one.units.result(key)
    assert found == other.units.result(key) == result_of(key, device="other")
    assert sorted(path.name for path in file.parent.iterdir()) == ["result.json", "result.json.corrupt-1"]


# --- seals and keys ---

NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
# A reason of a failure may hold what is no Unicode: parts of the names of files.
WORDS = st.text(st.characters(exclude_categories=()), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
TABLES = st.dictionaries(WORDS.filter(lambda key: key != "sha256"), JSON, max_size=5)


@given(TABLES)
def test_any_table_comes_back_from_its_seal(body: dict[str, Any]) -> None:
    assert unseal(seal(body)) == body


@given(TABLES, st.randoms(use_true_random=False))
def test_the_order_of_a_table_changes_neither_its_seal_nor_its_canonical_text(
    body: dict[str, Any], rng: random.Random
) -> None:
    other = dict(rng.sample(sorted(body.items()), len(body)))
    assert seal(other) == seal(body)
    assert canonical_json(other) == canonical_json(body)


@given(JSON)
def test_canonical_form_is_final_and_survives_a_file(value: Any) -> None:
    once = canonical(value)
    assert canonical(once) == once
    assert canonical_json(json.loads(canonical_json(value))) == canonical_json(value)
    assert canonical_json(json.loads(json.dumps(value))) == canonical_json(value)


@given(rate=st.floats(1e-9, 1e3), seed=st.integers(0, 2**53 - 1), cycle=st.integers(1, 3), repeat=st.integers(0, 9))
def test_a_units_key_survives_a_file_and_a_rounding_of_its_rate(
    rate: float, seed: int, cycle: int, repeat: int
) -> None:
    made = study({"replicates.seeds": [seed]})
    parent = hashlib.sha256(str(rate).encode()).hexdigest()
    settings_ = made.settings(made.arms["silo"])
    fixed: dict[str, Any] = {"parent": parent, "cycle": cycle, "seed": seed, "repeat": repeat}
    unit = make_unit(made, settings_, **fixed, peak={"value": rate})
    assert Unit.from_spec(json.loads(json.dumps(unit.spec))).key == unit.key
    near = math.nextafter(rate, math.inf)
    if f"{near:.12g}" == f"{rate:.12g}":
        assert make_unit(made, settings_, **fixed, peak={"value": near}).key == unit.key
