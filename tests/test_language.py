"""Language models: blocks of a text, what a score is of, and that no token is seen twice."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from silo_tune.data.example_sets import ExampleSet
from silo_tune.data.load import open_examples
from silo_tune.data.sets import split_rows
from silo_tune.errors import BadInput
from silo_tune.models.build import build_model
from silo_tune.study.data import Data
from silo_tune.study.task import TaskSpec
from silo_tune.tasks.making import make_task


def opened(place: Path, block: int = 16) -> tuple[Data, ExampleSet]:
    data = Data(name="tokens", path=str(place), block=block)
    found = open_examples(data, TaskSpec(name="language-model"))
    assert isinstance(found, ExampleSet)
    return data, found


def test_blocks_are_stretches_of_the_text_and_targets_are_one_place_on(tmp_path: Path) -> None:
    text = bytes(range(256)) * 8
    (tmp_path / "b.txt").write_bytes(text[1000:])
    (tmp_path / "a.txt").write_bytes(text[:1000])
    data, found = opened(tmp_path / "*.txt")
    assert isinstance(found.train, type(found.train_labels))
    assert found.train[0].tolist() == list(range(16))
    assert (found.train[:, 1:] == found.train_labels[:, :-1]).all()
    split = split_rows(found, data, 0)
    assert split.train.max() < split.val.min() <= split.val.max() < split.test.min()
    with pytest.raises(BadInput, match="2,048 tokens are fewer than three blocks of 1000"):
        opened(tmp_path / "*.txt", 1000)


def test_tokens_of_a_file_are_taken_as_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(2000, dtype=np.uint16) % 300)
    _, found = opened(tmp_path / "ids.npy")
    assert found.classes == 300
    assert isinstance(found.train, np.ndarray)
    assert found.train[17].tolist() == [(17 * 17 + at) % 300 for at in range(16)]
    data = Data(name="tokens", path=str(tmp_path / "ids.npy"), block=16)
    assert open_examples(data, TaskSpec(name="language-model", classes=512)).classes == 512
    with pytest.raises(BadInput, match=r"token 299, and task\.classes is 256"):
        open_examples(data, TaskSpec(name="language-model", classes=256))
    with pytest.raises(BadInput, match="bits-per-byte is of bytes"):
        open_examples(data, TaskSpec(name="language-model", also=("bits-per-byte",)))
    np.save(tmp_path / "ids.npy", np.zeros((20, 20)))
    with pytest.raises(BadInput, match=r"array of float64 \(20, 20\); tokens are whole numbers \(N,\)"):
        opened(tmp_path / "ids.npy")


def test_a_language_model_is_trained_on_sequences(tmp_path: Path) -> None:
    rows = np.arange(400).reshape(40, 10) % 23
    np.savez(tmp_path / "blocks.npz", train=rows[:, :-1], train_labels=rows[:, 1:])
    data, task = Data(name="arrays", path=str(tmp_path / "blocks.npz")), TaskSpec(name="language-model")
    found = open_examples(data, task)
    assert isinstance(found, ExampleSet)
    assert (found.classes, found.shape) == (23, (9,))
    assert isinstance(found.train, np.ndarray)
    assert found.train.dtype == np.int64
    np.savez(tmp_path / "blocks.npz", train=rows[:, :-1], train_labels=rows[:, 0])
    with pytest.raises(BadInput, match=r"a language-model takes tokens \(N, length\)"):
        open_examples(data, task)


def test_scores_are_functions_of_the_mean_loss_of_a_token(tmp_path: Path) -> None:
    tokens = torch.randint(0, 7, (20, 9), generator=torch.Generator().manual_seed(0))
    spec = TaskSpec.model_validate({"name": "language-model", "also": ["bits-per-byte", "log-loss", "accuracy"]})
    task = make_task(spec, 7, tokens[:, 1:])
    model = build_model({"name": "gpt", "width": 8, "depth": 1, "heads": 2}, (8,), 7, 0).eval()
    with torch.inference_mode():
        found = task.evaluate(model, [(tokens[:12, :-1], tokens[:12, 1:]), (tokens[12:, :-1], tokens[12:, 1:])], 20)
        told = float(task.losses(model, (tokens[:, :-1], tokens[:, 1:])).told)
    assert found.loss == pytest.approx(told, rel=1e-5)
    assert found.score == pytest.approx(math.exp(told), rel=1e-5)
    assert found.also["bits-per-byte"] == pytest.approx(told / math.log(2), rel=1e-5)
    shares = torch.bincount(tokens[:, 1:].flatten(), minlength=7) / tokens[:, 1:].numel()
    assert task.guess is not None
    assert task.guess.loss == pytest.approx(float(-(shares * shares.log()).sum()), rel=1e-5)


def test_a_decoder_sees_what_stands_before_and_nothing_else() -> None:
    model = build_model({"name": "gpt", "width": 8, "depth": 2, "heads": 2}, (8,), 7, 0).eval()
    one = torch.randint(0, 7, (1, 8), generator=torch.Generator().manual_seed(1))
    other = one.clone()
    other[0, 5] = (other[0, 5] + 1) % 7
    with torch.no_grad():
        same = torch.isclose(model(one), model(other), atol=1e-6).all(2)[0]
    assert same.tolist() == [True] * 5 + [False] * 3
    with pytest.raises(BadInput, match="a sequence of 9 tokens, and the network takes 8"):
        model(torch.zeros(1, 9, dtype=torch.long))
    with pytest.raises(BadInput, match="'gpt' takes sequences of tokens"):
        build_model({"name": "gpt"}, (8, 8, 1), 7, 0)
