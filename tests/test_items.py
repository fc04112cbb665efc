"""Items of a user's data set: the same batches however they are read, and errors in one line."""

from __future__ import annotations

import math
import os
import random
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from silo_tune.data.example_feed import ExampleFeed
from silo_tune.data.items import BadItem, sample_of
from silo_tune.data.load import facts, open_examples
from silo_tune.data.sets import split_rows
from silo_tune.seeds import stream
from silo_tune.store.run_folder import same_data
from silo_tune.study.data import Data


def feed_of(workers: int = 0) -> ExampleFeed:
    data = Data(**OF_ITEMS, workers=workers)
    found: Any = open_examples(data, None)
    return ExampleFeed.make(found, split_rows(found, data, 0), {}, torch.device("cpu"))


class Drawn(torch.utils.data.Dataset[Any]):
    """Items that draw from the global streams, as augmentation does."""

    targets = np.arange(60) % 2
    shift, broken = 0.0, ""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, row: int) -> Any:
        if self.broken and row == 21:
            if self.broken == "killed" and torch.utils.data.get_worker_info() is not None:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError("disk gone")
        drawn = [float(torch.rand(())), float(np.random.rand()), random.random()]
        return torch.tensor([row + self.shift, *drawn]), row % 2


def drawn() -> dict[str, Any]:
    return {"train": Drawn()}


OF_ITEMS: dict[str, Any] = {"function": "tests.test_items:drawn", "version": "1"}


@pytest.mark.slow
def test_items_are_the_same_with_any_number_of_processes_and_leave_the_streams_alone() -> None:
    def seen(workers: int, epoch: int) -> list[torch.Tensor]:
        feed = feed_of(workers)
        torch.manual_seed(workers)
        before = torch.get_rng_state()
        found = [x for x, _ in feed.epoch(8, stream("order", 0), stream("augment", 0, epoch=epoch))]
        assert torch.equal(before, torch.get_rng_state())
        return found

    here, there, later = seen(0, 0), seen(2, 0), seen(0, 1)
    assert all(torch.equal(one, other) for one, other in zip(here, there, strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(here, later, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "workers", "told"),
    [
        ("raises", 0, r"item 21 of the data set raised OSError: disk gone \(.*test_items.py, line \d+\)"),
        ("raises", 2, r"item 21 of the data set raised OSError: disk gone \(.*test_items.py, line \d+\)"),
        ("killed", 2, r"a process that reads the data died .*; set data.workers lower"),
    ],
)
def test_an_item_that_cannot_be_read_is_named_in_one_line(
    broken: str, workers: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Drawn, "broken", broken)
    feed = feed_of(workers)
    with pytest.raises(BadItem, match=told) as caught:
        list(feed.epoch(8, stream("order", 0), stream("augment", 0)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), EOFError()])
def test_a_connection_closed_by_a_process_that_died_is_its_death(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Iterator[Any]:
        yield from ()
        raise error

    monkeypatch.setattr(torch.utils.data, "DataLoader", broken)
    monkeypatch.setattr("time.sleep", lambda _: None)
    feed = feed_of(2)
    with pytest.raises(BadItem, match="a process that reads the data died"):
        list(feed.epoch(8, stream("order", 0), stream("augment", 0)))


def test_what_items_and_their_batches_hold_is_part_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def known() -> dict[str, Any]:
        return facts(open_examples(Data(**OF_ITEMS), None), Data(**OF_ITEMS))

    before = known()
    assert same_data(before, known())
    assert same_data({name: value for name, value in before.items() if name != "sample"}, before)
    monkeypatch.setattr(Drawn, "shift", 1.0)
    assert not same_data(before, known())
    assert sample_of(Drawn(), list) != sample_of(Drawn(), None)
    own = np.random.default_rng()  # a stream of its own cannot be held to anything
    monkeypatch.setattr(Drawn, "__getitem__", lambda self, row: (torch.tensor([own.random()]), 0))
    assert "sample" not in known()


def test_a_number_of_an_item_that_is_not_finite_is_named_when_training_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = feed_of()
    assert feed.unfinite is None
    row = int(feed.train.rows[5])
    plain = Drawn.__getitem__
    monkeypatch.setattr(
        Drawn, "__getitem__", lambda self, at: (plain(self, at)[0] * (math.nan if at == row else 1), at % 2)
    )
    again = feed_of()
    assert str(again.unfinite) == f"item {row} of the data set has a number that is not finite"
