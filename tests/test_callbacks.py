"""Callbacks and trackers: they hear all that happens, and whatever they do, the run is the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import silo_tune
from silo_tune.api import run_study
from silo_tune.cli.app import app
from silo_tune.errors import BadInput
from silo_tune.planner.planner import Planner
from silo_tune.run import callbacks, trackers
from silo_tune.run.callbacks import Callback, ChainId, Trial
from silo_tune.run.monitor import Monitor
from silo_tune.run.session import Outcome
from silo_tune.run.status import read_status
from silo_tune.run.trackers import track
from silo_tune.store.run_folder import Run
from tests.conftest import small_study


class Heard(Callback):
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def __getattribute__(self, name: str) -> Any:
        if name in ("started", "began", "epoch", "ended", "closed", "over", "notice", "finished"):
            return lambda *what: self.events.append((name, *what))
        return super().__getattribute__(name)

    def of(self, name: str) -> list[tuple[Any, ...]]:
        return [event[1:] for event in self.events if event[0] == name]


class Book:
    """A tracker that writes into a list."""

    def __init__(self, shelf: list[Book]) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.ended = False
        shelf.append(self)

    def begin(self, tags: Mapping[str, str]) -> None:
        self.tags = dict(tags)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.lines.append((step, dict(metrics)))

    def end(self) -> None:
        self.ended = True


class Raising(Callback):
    """Fails at the first epoch."""

    heard = 0

    def epoch(self, trial: Trial, epoch: int, train_loss: float) -> None:
        self.heard += 1
        raise SystemExit("no more paper")


class Hanging(Callback):
    """Never comes back from the first epoch before the test has ended."""

    def __init__(self) -> None:
        self.free = threading.Event()

    def epoch(self, trial: Trial, epoch: int, train_loss: float) -> None:
        self.free.wait()


class Notes(Monitor):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.losses: dict[tuple[str, int], float] = {}

    def notice(self, message: str) -> None:
        self.notes.append(message)

    def moved(self, key: str, epoch: int, train_loss: float) -> None:
        self.losses[key, epoch] = train_loss


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    one = Hanging()
    yield one
    one.free.set()


@pytest.fixture(scope="module", params=["here", pytest.param("Ray", marks=pytest.mark.slow)])
def ran(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Outcome, Heard, Notes, list[Book]]:
    heard, notes, shelf = Heard(), Notes(), list[Book]()
    outcome = run_study(
        small_study(),
        str(tmp_path_factory.mktemp("heard") / "run"),
        local=request.param == "here",
        monitor=notes,
        callbacks=[heard, track(lambda: Book(shelf))],
    )
    return outcome, heard, notes, shelf


def test_callbacks_hear_every_trial_epoch_and_cycle(ran: tuple[Outcome, Heard, Notes, list[Book]]) -> None:
    outcome, heard, notes, _ = ran
    frame = outcome.frame.drop_duplicates("key").set_index("key")
    assert heard.events[0] == ("started", "small", str(Path(outcome.url).absolute()))
    assert heard.events[-1] == ("finished",)
    assert {trial.key for (trial,) in heard.of("began")} == {trial.key for trial, _ in heard.of("ended")}
    assert len(heard.of("began")) == len(heard.of("ended"))
    assert {(trial.key, epoch): loss for trial, epoch, loss in heard.of("epoch")} == notes.losses
    assert len(notes.losses) == sum(trial.epochs for trial, _ in heard.of("ended"))
    assert {trial.key for trial, _ in heard.of("ended")} == set(frame.index)
    for trial, told in heard.of("ended"):
        row = frame.loc[trial.key]
        for name in ("status", "max_lr", "val_score", "val_loss", "test_score", "weights_remaining"):
            assert told[name] == row[name], name
        assert (trial.seed, trial.cycle, trial.epochs) == (row.seed, row.cycle, row.epochs)
        with pytest.raises(TypeError):
            told["val_score"] = 1.0
    frame = outcome.frame[outcome.frame.winner]
    tests = dict(zip(zip(frame.arm, frame.seed, frame.cycle, strict=True), frame.test_score, strict=True))
    closed = {(chain.arm, chain.seed, cycle): (step, told) for chain, cycle, step, told in heard.of("closed")}
    assert set(closed) == set(tests)
    for (arm, seed, cycle), (step, told) in closed.items():
        assert step == 2 * (cycle + 1)
        assert told["test_score"] == tests[arm, seed, cycle]
    assert dict(heard.of("over")) == {ChainId(a, 0): None for a in small_study().arms}


def test_a_tracker_has_one_run_a_chain_over_all_its_epochs(ran: tuple[Outcome, Heard, Notes, list[Book]]) -> None:
    outcome, _, notes, shelf = ran
    assert all(book.ended for book in shelf)
    books = {book.tags["chain"]: book for book in shelf}
    assert set(books) == {f"{arm} seed 0" for arm in small_study().arms}
    assert len({book.tags["id"] for book in shelf}) == len(shelf) == 4
    silo = outcome.frame[outcome.frame.arm == "silo"].sort_values("cycle")
    losses = [loss for key in silo.key for loss in (notes.losses[key, 1], notes.losses[key, 2])]
    lines = books["silo seed 0"].lines
    assert [(step, line["train_loss"]) for step, line in lines if "train_loss" in line] == list(enumerate(losses, 1))
    ends = [(step, line["val_score"]) for step, line in lines if "val_score" in line]
    assert ends == list(zip([2, 4, 6], silo.val_score, strict=True))
    oracle = [name for step, line in books["greedy seed 0"].lines for name in line if step in (3, 4)]
    assert {"train_loss/candidate-0", "val_score/candidate-3"} <= set(oracle)


def test_a_callback_that_raises_is_left_out_and_told_once(tmp_path: Path) -> None:
    raising, heard, notes = Raising(), Heard(), Notes()
    study = small_study(cycles=2)
    outcome = run_study(
        study, str(tmp_path / "run"), local=True, preflight=False, monitor=notes, callbacks=[raising, heard]
    )
    assert raising.heard == 1
    assert [note for note in notes.notes if "Raising" in note] == [
        "callback Raising: SystemExit: no more paper; it is left out from here, the run continues"
    ]
    assert outcome.counts.failed == 0
    assert heard.events[-1] == ("finished",)
    told = read_status(outcome.url).snapshot
    assert told is not None
    assert any("no more paper" in note.message for note in told.notices)


@pytest.mark.parametrize("room", [1000, 3], ids=["waits", "full"])
def test_a_callback_that_hangs_neither_slows_nor_holds_the_run(
    tmp_path: Path, hanging: Hanging, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(callbacks, "END_SECONDS", 0.2)
    monkeypatch.setattr(callbacks, "WAITING", room)
    notes, began = Notes(), time.monotonic()
    study = small_study(cycles=2)
    outcome = run_study(study, str(tmp_path / "run"), local=True, preflight=False, monitor=notes, callbacks=[hanging])
    assert outcome.counts.failed == 0
    assert time.monotonic() - began < 30
    (told,) = [note for note in notes.notes if note.startswith("callback Hanging")]
    assert ("events behind" if room == 3 else "0.2 s after the end") in told


def test_a_tracker_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    def broken() -> Any:
        raise OSError("no such server")

    shelf, notes = list[Book](), Notes()
    wanted = [track(broken), track(lambda: Book(shelf))]
    run_study(
        small_study(cycles=2), str(tmp_path / "run"), local=True, preflight=False, monitor=notes, callbacks=wanted
    )
    assert [note for note in notes.notes if "no such server" in note] == [
        "callback broken: OSError: no such server; it is left out from here, the run continues"
    ]
    assert len(shelf) == 4


def test_a_resumed_run_tells_what_is_new_under_the_same_id(
    ran: tuple[Outcome, Heard, Notes, list[Book]], tmp_path: Path
) -> None:
    whole = ran[3]
    run, shelf, heard = str(tmp_path / "run"), list[Book](), Heard()
    run_study(small_study(cycles=2), run, local=True, preflight=False, callbacks=[track(lambda: Book(shelf))])
    first, shelf[:] = {book.tags["chain"]: book.tags["id"] for book in shelf}, []
    run_study(small_study(), run, local=True, preflight=False, callbacks=[track(lambda: Book(shelf)), heard])
    assert {book.tags["chain"]: book.tags["id"] for book in shelf} == first
    assert {book.tags["id"] for book in whole}.isdisjoint(first.values())
    assert {cycle for _, cycle, _, _ in heard.of("closed")} == {2}
    assert {step for book in shelf for step, _ in book.lines} == {5, 6}


def test_nothing_of_a_callback_is_in_keys_and_files(
    ran: tuple[Outcome, Heard, Notes, list[Book]], tmp_path: Path
) -> None:
    plain = run_study(small_study(), str(tmp_path / "run"), local=True, preflight=False)
    assert set(plain.frame.key) == set(ran[0].frame.key)
    one, other = (Run(url).recorded() for url in (plain.url, ran[0].url))
    assert one is not None
    assert other is not None
    assert (one[0], set(one[1])) == (other[0], set(other[1]))


def test_what_is_no_callback_and_what_is_not_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"callbacks\[0\]: .* is no silo_tune.Callback\ncallbacks\[1\]"):
        run_study(small_study(), str(tmp_path / "run"), local=True, callbacks=[print, 3])  # type: ignore[list-item]
    with pytest.raises(BadInput, match="nothing over ray://"):
        run_study(small_study(), str(tmp_path / "run"), address="ray://nowhere:1", callbacks=[Callback()])
    monkeypatch.setitem(trackers.TRACKERS, "wandb", (trackers._Wandb, "no_such_package", "wandb"))
    for command in (["run", "no-study.toml"], ["prune", "--model", "mlp", "--data", "digits"]):
        done = CliRunner().invoke(app, [*command, "--track", "wandb", "--track", "tensorbord:there"])
        assert isinstance(done.exception, BadInput)
        assert str(done.exception).splitlines() == [
            "--track wandb: tracker wandb needs the package no_such_package: pip install 'silo-tune[wandb]'",
            "--track tensorbord:there: unknown tracker 'tensorbord'; choose from mlflow, tensorboard, wandb "
            "(did you mean 'tensorboard'?)",
        ]
    assert silo_tune.track is track


def test_the_planner_says_who_asks(tmp_path: Path) -> None:
    seen: list[int] = []

    class Looks(Monitor):
        def started(self, study: Any, planner: Planner, slots: int) -> None:
            self.planner = planner

        def began(self, unit: Any) -> None:
            seen.append(len(self.planner.askers(unit.key)))

    run_study(small_study(cycles=2), str(tmp_path / "run"), local=True, preflight=False, monitor=Looks())
    assert seen[0] == 4  # the dense trial is that of all arms
