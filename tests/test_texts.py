"""Texts: what becomes of them, that padding changes nothing, splits and leaks, their networks, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, parquet
from sklearn.metrics import accuracy_score
from torch import nn

from silo_tune.data.example_feed import BUCKET, ExampleFeed
from silo_tune.data.example_sets import ExampleSet
from silo_tune.data.load import facts, open_examples
from silo_tune.data.sets import split_rows
from silo_tune.errors import BadInput, StudyError
from silo_tune.models.build import build_model, init_seed
from silo_tune.models.checkpoint import load_weights
from silo_tune.planner.unit import Unit, make_unit
from silo_tune.seeds import stream
from silo_tune.study.data import Data
from silo_tune.study.model import Study
from silo_tune.study.task import TaskSpec
from silo_tune.study.workspace import Workspace
from silo_tune.training.preflight import opened as open_study
from silo_tune.training.preflight import preflight
from silo_tune.training.worker import Worker, drain
from tests.conftest import small_study

CPU = torch.device("cpu")
N = 300
FRUIT = ("apple", "pear", "plum")
OTHER = [f"word{number}" for number in range(40)]


def columns(**changes: Any) -> dict[str, Any]:
    """Texts of 1 to 30 words, one of which names the class."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 3, N)
    found = []
    for kind in kinds:
        words = rng.choice(OTHER, rng.integers(1, 30)).tolist()
        words.insert(rng.integers(0, len(words) + 1), FRUIT[kind])
        found.append(" ".join(words))
    labels = [f"a {FRUIT[kind]}" for kind in kinds]
    return {"review": found, "fruit": labels, "shop": [f"s{i % 9}" for i in range(N)], "day": list(range(N)), **changes}


def written(place: Path, **changes: Any) -> str:
    parquet.write_table(pa.table(columns(**changes)), place / "texts.parquet")
    return str(place / "texts.parquet")


def opened(path: str, task: Any = "classification", **data: Any) -> tuple[Data, ExampleSet]:
    asked = Data(**{"name": "text", "path": path, "text": "review", "target": "fruit", **data})
    found = open_examples(asked, TaskSpec.model_validate(task))
    assert isinstance(found, ExampleSet)
    return asked, found


def feed_of(data: Data, found: ExampleSet, seed: int = 0) -> ExampleFeed:
    return ExampleFeed.make(found, split_rows(found, data, seed), data.augmentation(), CPU)


def epoch(feed: ExampleFeed, batch: int, seed: int = 0) -> list[Any]:
    return list(feed.epoch(batch, stream("order", seed), stream("augment", seed)))


# --- what becomes of texts ---


def test_a_byte_is_a_token_and_the_file_may_be_of_any_kind(tmp_path: Path) -> None:
    _, found = opened(written(tmp_path, review=["Ää\nb", *["x"] * (N - 1)]), length=4)
    assert isinstance(found.train, np.ndarray)
    assert found.train[0].tolist() == [1 + byte for byte in "Ää\nb".encode()[:4]]
    assert found.train[1].tolist() == [1 + ord("x"), 0, 0, 0]
    assert found.further == {"vocabulary": 257, "padding": 0}
    assert "1 of 300 texts are cut to 4 tokens (data.length)" in found.notices
    rows = columns(review=["Ää\nb", *map(str, range(N - 1))])
    csv.write_csv(pa.table(rows), tmp_path / "t.csv")
    lines = (json.dumps({name: column[row] for name, column in rows.items()}) for row in range(N))
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    ways = [written(tmp_path, **rows), str(tmp_path / "t.csv"), str(tmp_path / "t.jsonl")]
    contents = {opened(way)[1].content() for way in ways}
    assert len(contents) == 1  # texts that look like numbers are texts


def test_words_are_known_from_the_training_part_alone_and_the_others_are_counted(tmp_path: Path) -> None:
    data, found = opened(written(tmp_path), tokenizer="words", vocabulary=20)
    feed, split = feed_of(data, found), split_rows(found, data, 0)
    texts, tokens = columns()["review"], feed.train.images
    counts: dict[str, int] = {}
    for row in split.train:
        for word in texts[row].split():
            counts[word] = counts.get(word, 0) + 1
    known = sorted(counts, key=lambda word: (-counts[word], word))[:18]
    expected = [[2 + known.index(word) if word in known else 1 for word in text.split()] for text in texts]
    for row, ids in enumerate(expected):
        assert tokens[row].tolist() == ids + [0] * (256 - len(ids))
    shares = [
        np.mean([i == 1 for row in rows for i in expected[row]]) for rows in (split.train, [*split.val, *split.test])
    ]
    assert f"of the words {100 * shares[0]:.1f} % in training texts" in feed.notices[0]
    assert f"{100 * shares[1]:.1f} % in others are not among the 18 known" in feed.notices[0]
    # Texts of other parts change nothing of the training part.
    others = [text if row in split.train else "zebra apple zebra" for row, text in enumerate(texts)]
    again = feed_of(*opened(written(tmp_path, review=others), tokenizer="words", vocabulary=20))
    assert torch.equal(again.train.images[split.train], tokens[split.train])


def tokenizer_file(place: Path, padded: bool = False) -> str:
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"[UNK]": 0, "[CLS]": 1, "[PAD]": 2, **{word: 3 + i for i, word in enumerate((*FRUIT, *OTHER[:20]))}}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A", special_tokens=[("[CLS]", 1)])
    if padded:
        made.enable_padding(pad_id=2, pad_token="[PAD]")
    made.save(str(place / "tok.json"))
    return str(place / "tok.json")


def test_a_tokenizer_gives_its_own_ids_and_its_padding_where_it_has_one(tmp_path: Path) -> None:
    path = written(tmp_path, review=["apple word1", *["pear " * 9] * (N - 1)])
    for padded, padding in ((True, 2), (False, 26)):
        _, found = opened(path, tokenizer=tokenizer_file(tmp_path, padded), length=5)
        assert isinstance(found.train, np.ndarray)
        assert found.train[:2].tolist() == [[1, 3, 7, padding, padding], [1, 4, 4, 4, 4]]
        assert found.further == {"vocabulary": max(26, padding + 1), "padding": padding}
        assert "299 of 300 texts are cut to 5 tokens (data.length)" in found.notices


# --- identity ---


def key(path: str = "x.csv", **data: Any) -> str:
    study = texts_study(path, **data)
    settings = study.settings(study.arms["silo"])
    return make_unit(study, settings, parent=None, cycle=0, seed=0, peak={"value": 0.1}).key


def texts_study(path: str, model: Any = None, **data: Any) -> Study:
    """The smallest study of texts."""
    table: dict[str, Any] = {"name": "text", "path": path, "text": "review", "target": "fruit", "tokenizer": "words"}
    every = {"train_examples": None, "val_examples": None, "test_examples": None}
    return small_study(
        data={**table, "length": 40, "duplicates": "allow", **every, **data},
        model=model or {"name": "lstm", "width": 8, "embedding": 8},
        dense={"epochs": 4, "max_lr": 0.05},
        retrain={"epochs": 2, "batch": 16, "optimizer": {"name": "adamw"}},
        prune={"layers": ["embedding", "lstm", "linear"], "scope": "layerwise"},
        task="classification",
    )


def test_a_key_tells_the_tokenizer_but_not_where_a_file_is(tmp_path: Path) -> None:
    assert key() == key("elsewhere.parquet")
    assert key(tokenizer="a.json") == key(tokenizer="b/c.json")
    others: list[dict[str, Any]] = [
        {},
        {"vocabulary": 50},
        {"tokenizer": "bytes"},
        {"tokenizer": "a.json"},
        {"length": 41},
        {"missing": "drop"},
    ]
    assert len({key(**other) for other in others}) == len(others)
    path = written(tmp_path)
    contents = {opened(path, tokenizer=one)[1].content() for one in ("bytes", "words", tokenizer_file(tmp_path))}
    assert len(contents) == 3  # which a run holds its data to


# --- batches ---


def test_batches_are_of_like_lengths_cut_to_their_longest_and_a_function_of_the_stream(tmp_path: Path) -> None:
    data, found = opened(written(tmp_path), tokenizer="words")
    feed = feed_of(data, found)
    batches = epoch(feed, 10)
    lengths = [(tokens != 0).sum(1) for tokens, _ in batches]
    assert all(int(one.max()) == tokens.shape[1] for one, (tokens, _) in zip(lengths, batches, strict=True))
    spread = float(np.mean([float(one.float().std()) for one in lengths[:-1]]))
    assert spread < 0.2 * float(torch.cat(lengths).float().std())
    assert len(batches) == feed.steps(10) <= BUCKET
    assert [len(tokens) for tokens, _ in batches[:-1]] == [10] * (len(batches) - 1)
    assert not lengths[0].max() <= lengths[1].min() <= lengths[1].max() <= lengths[2].min()  # no order of lengths
    seen = torch.cat([nn.functional.pad(tokens, (0, 256 - tokens.shape[1])) for tokens, _ in batches])
    every = feed.train.images[feed.train.rows].long()
    assert sorted(seen.tolist()) == sorted(every.tolist())
    again, other = epoch(feed, 10), epoch(feed, 10, seed=1)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(batches, again, strict=True))
    assert not torch.equal(batches[0][1], other[0][1])
    judged = list(feed.batches(feed.val))
    assert torch.equal(torch.cat([targets for _, targets in judged]), feed.val.labels[feed.val.rows])


NETWORKS: list[dict[str, Any]] = [
    *({"name": "lstm", "width": 8, "depth": 2, "dropout": 0.5, "pool": pool} for pool in ("max", "mean", "last")),
    {"name": "gpt", "width": 8, "depth": 2, "heads": 2},
]


@pytest.mark.parametrize("table", NETWORKS, ids=str)
@pytest.mark.parametrize("padding", [0, 29])
def test_a_batch_that_is_padded_further_has_the_same_scores(table: dict[str, Any], padding: int) -> None:
    told = {"vocabulary": 30, "padding": padding}
    model = build_model(table, (40,), 3, 0, further=told).eval()
    tokens = torch.randint(1, 29, (5, 12), generator=torch.Generator().manual_seed(0))
    tokens[0, 4:], tokens[1, 1:] = padding, padding
    further = nn.functional.pad(tokens, (0, 28), value=padding)
    with torch.no_grad():
        plain, padded, alone = model(tokens), model(further), model(tokens[:1, :4])
    assert plain.shape == (5, 3)
    assert torch.allclose(plain, padded, atol=1e-6)
    assert torch.allclose(plain[:1], alone, atol=1e-6)
    assert not torch.allclose(plain[0], plain[1], atol=1e-3)  # else this test sees nothing


# --- one chain ---


class Chain:
    """A dense network and a pruned one, trained as workers do."""

    def __init__(self, study: Study, run: Path) -> None:
        self.study, self.workspace = study, Workspace.of(study, str(run))
        found = open_examples(self.workspace.data, study.task)
        assert isinstance(found, ExampleSet)
        self.dataset = found
        self.worker = Worker(self.workspace, found)
        self.units: list[Unit] = []
        self.results: list[dict[str, Any]] = []
        settings = study.settings(study.arms["silo"])
        for cycle in (0, 1):
            parent = self.units[-1].key if self.units else None
            unit = make_unit(study, settings, parent=parent, cycle=cycle, seed=0, peak={"value": 0.05})
            self.units.append(unit)
            self.results.append(drain(self.worker.run(unit)))

    def state(self, cycle: int) -> dict[str, Any]:
        return self.worker.state_of(self.units[cycle].key)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    place = tmp_path_factory.mktemp("texts")
    return Chain(texts_study(written(place)), place / "run")


def test_the_score_is_scikit_learns_and_above_the_guess(chain: Chain) -> None:
    for cycle, result in enumerate(chain.results):
        model = chain.worker.fresh(chain.units[cycle], 0).eval()
        load_weights(model, chain.state(cycle)["weights"])
        feed = chain.worker.feed(chain.units[cycle])
        for part, name in ((feed.val, "val_score"), (feed.test, "test_score")):
            told = [int(model(part.images[row : row + 1].long()).argmax()) for row in part.rows]  # padded to the full
            assert result[name] == pytest.approx(accuracy_score(part.labels[part.rows], told))
        assert result["val_score"] > result["guess_score"] + 0.3


def test_masks_of_an_lstm_hold_after_training(chain: Chain) -> None:
    weights, masks = chain.state(1)["weights"], chain.state(1)["mask"]
    assert set(masks) == {"embed.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0", "head.weight"}
    assert chain.results[1]["prunable"] == sum(mask.numel() for mask in masks.values())
    for name, mask in masks.items():
        assert round(0.8 * mask.numel()) == pytest.approx(int(mask.sum()), abs=1)
        assert not weights[name][~mask].any()
        assert weights[name][mask].any()
    assert not weights["embed.weight"][0].any()  # of padding


@pytest.mark.parametrize("after", ["rewind", "reinit"])
def test_weights_start_anew_where_their_masks_let_them(chain: Chain, after: str) -> None:
    prune = chain.units[1].prune
    assert prune is not None
    point = "init" if after == "rewind" else None
    unit = replace(chain.units[1], prune=replace(prune, after_prune=after, rewind_to=point))
    model, masks, _ = chain.worker.prepared(unit)
    fresh = chain.worker.fresh(unit, init_seed(0) if after == "rewind" else init_seed(0, 1, unit.repeat))
    expected = dict(fresh.named_parameters())
    for name, weight in model.named_parameters():
        assert torch.equal(weight, expected[name] * masks.get(name, torch.ones(())))


def test_targets_of_the_test_part_change_nothing_but_its_own_numbers(tmp_path: Path) -> None:
    """The parts are those of a column of times: a stratified test part would follow its targets."""
    chain = Chain(texts_study(written(tmp_path), time="day"), tmp_path / "a")
    labels, rng = np.array(columns()["fruit"]), np.random.default_rng(5)
    test = split_rows(chain.dataset, chain.study.data, 0).test
    labels[test] = rng.permutation(labels[test])
    other = Chain(texts_study(written(tmp_path, fruit=labels.tolist()), time="day"), tmp_path / "b")
    differs = {"test_score", "test_loss", "examples", "attempt", "wall_seconds", "train_seconds", "state"}
    for one, two in zip(chain.results, other.results, strict=True):
        assert {k: v for k, v in one.items() if k not in differs} == {k: v for k, v in two.items() if k not in differs}
        assert one["test_score"] != two["test_score"]


def test_copies_are_told_and_refused_where_they_are_many(tmp_path: Path) -> None:
    rows = columns()
    twice = {name: [*column, *column[:60]] for name, column in rows.items()}
    data, found = opened(written(tmp_path, **twice))
    with pytest.raises(BadInput, match=r"test texts that are training texts too: .*same tokens and target"):
        facts(found, data)
    data, found = opened(written(tmp_path, **twice), duplicates="allow")
    assert any("training texts that repeat another" in line for line in facts(found, data)["notices"])


def test_splits_keep_classes_groups_and_times(tmp_path: Path) -> None:
    path = written(tmp_path)
    data, found = opened(path)
    split = split_rows(found, data, 0)
    for label in range(3):
        assert (found.train_labels[split.test] == label).sum() == round(0.2 * (found.train_labels == label).sum())
    data, found = opened(path, group="shop")
    split, shop = split_rows(found, data, 0), np.array(columns()["shop"])
    assert not set(shop[split.train]) & set(shop[np.concatenate([split.val, split.test])])
    data, found = opened(path, time="day")
    split = split_rows(found, data, 0)
    assert split.train.max() < split.val.min() <= split.val.max() < split.test.min()


# --- tied weights ---


def test_the_tied_weight_of_a_decoder_has_one_mask_and_stays_one(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(bytes(range(64)) * 20)
    study = small_study(
        data={"name": "tokens", "path": str(tmp_path / "t.txt"), "block": 8, "duplicates": "allow"}
        | {"train_examples": 40, "val_examples": 20, "test_examples": 20},
        model={"name": "gpt", "width": 8, "depth": 1, "heads": 2, "tied": True},
        task="language-model",
        report={"tolerance": 0.2},
    )
    chain = Chain(study, tmp_path / "run")
    state = chain.state(1)
    assert [name for name in state["mask"] if name in ("embed.weight", "head.weight")] == ["embed.weight"]
    assert not state["weights"]["embed.weight"][~state["mask"]["embed.weight"]].any()
    model: Any = chain.worker.fresh(chain.units[1], 0)
    load_weights(model, state["weights"])
    assert model.head.weight is model.embed.weight
    assert torch.equal(model.head.weight, state["weights"]["embed.weight"])


# --- what is refused ---

BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"review": ["a", "", *["b"] * (N - 2)]}, {}, "column 'review' gives no token in row 1, and 1 of 300 rows are so"),
    ({"review": ["a", None, *["b"] * (N - 2)]}, {}, "column 'review' is missing in row 1, .*; data.missing = .drop."),
    ({"review": list(range(N))}, {}, "column 'review' is int64, and texts are needed"),
    ({"fruit": [None, *["a", "b"] * 149, "a"]}, {}, "data.target: 1 of 300 rows have no label, the first is row 0"),
    ({"fruit": ["a"] * N}, {}, ": one value, .*; there is nothing to learn"),
    ({"review": [""] * N}, {"missing": "drop"}, "no row has a text and a label"),
    ({}, {"text": "reviews"}, "unknown column 'reviews'.*did you mean 'review'"),
    ({}, {"tokenizer": "texts.parquet"}, "data.tokenizer: '.*texts.parquet' is no file of the tokenizers library"),
    ({}, {"task": "binary"}, ": 3 values"),
    ({}, {"task": "language-model"}, 'is trained on data.name = "tokens"'),
]


@pytest.mark.parametrize(("changes", "data", "told"), BAD, ids=lambda value: str(value)[:30])
def test_texts_that_cannot_be_are_told(
    changes: dict[str, Any], data: dict[str, Any], told: str, tmp_path: Path
) -> None:
    path = written(tmp_path, **changes)
    if "tokenizer" in data:
        data = {**data, "tokenizer": path}
    with pytest.raises(BadInput, match=told):
        opened(path, **data)


def test_rows_without_text_or_label_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = columns()
    rows["review"][3], rows["review"][5], rows["fruit"][7] = None, "", None
    _, found = opened(written(tmp_path, **rows), missing="drop")
    assert len(found.train) == len(found.train_labels) == N - 3
    assert found.names == ("a apple", "a pear", "a plum")
    assert "3 of 300 rows have no text or no label and are left out" in found.notices


def test_the_extra_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(BadInput, match=r"data.tokenizer: .*pip install 'silo-tune\[text\]'"):
        opened(written(tmp_path), tokenizer="any.json")


class Narrow(nn.Module):
    """A network whose vocabulary and context are its own."""

    def __init__(self, classes: int, rows: int, context: int) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(rows, 4), nn.Embedding(context, 4)
        self.head = nn.Linear(4, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        places = self.places(torch.arange(tokens.shape[1]))
        out: torch.Tensor = self.head((self.embed(tokens) + places).mean(1))
        return out


def narrow(shape: Any, classes: int, vocabulary: int, padding: int, rows: int = 100, context: int = 100) -> nn.Module:
    return Narrow(classes, rows, context)


def deaf(shape: Any, classes: int) -> nn.Module:
    return nn.Linear(shape[0], classes)


HERE = {"function": "tests.test_texts:narrow", "version": "1"}
UNFIT: list[tuple[dict[str, Any], str]] = [
    ({"name": "gpt", "width": 8, "context": 16}, "takes 16 tokens, and sequences have up to 40; shorten them"),
    ({"name": "mlp"}, "'mlp' takes no vocabulary and no padding, which come with these examples; take gpt or lstm"),
    ({"name": "timm:resnet18"}, "takes no vocabulary and no padding"),
    ({**HERE, "function": "tests.test_texts:deaf"}, "takes no vocabulary and no padding"),
    ({**HERE, "rows": 30}, "does not take token 44 of a vocabulary of 45"),
    ({**HERE, "context": 9}, r"does not take a text of 40 tokens \(data.length\)"),
    ({"name": "gpt", "width": 8, "tied": True}, "the head of a classifier has no weight for each token"),
]


@pytest.mark.parametrize(("model", "told"), UNFIT, ids=lambda value: str(value)[:50])
def test_a_network_that_does_not_take_the_texts_is_told_before_training(
    model: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=told):
        looked(texts_study(written(tmp_path), model={"name": None, **model}))


def looked(study: Study) -> list[str]:
    workspace = Workspace.of(study, "none")
    _, dataset = open_study(study, workspace)
    found = preflight(study, workspace, dataset, 1)
    assert not found.problems, found.problems
    return found.lines


def test_unknown_words_are_told_before_training(tmp_path: Path) -> None:
    lines = looked(texts_study(written(tmp_path), vocabulary=20))
    assert any(re.match(r"data, seed 0: of the words [\d.]+ % in training texts and", line) for line in lines)


def test_a_class_that_training_lacks_is_told_by_its_name(tmp_path: Path) -> None:
    late = [*columns()["fruit"][:-5], *["a quince"] * 5]
    study = texts_study(written(tmp_path, fruit=late), time="day")
    with pytest.raises(AssertionError, match="1 class in validation or test without a training example: a quince"):
        looked(study)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"text": None}, "text: name the column of texts"),
        ({"target": None}, "target: name the column that is predicted"),
        ({"tokenizer": "bytes", "vocabulary": 9}, 'vocabulary is of tokenizer = "words"'),
        ({"name": "digits"}, "takes no 'target', 'text', 'length', 'tokenizer'"),
    ],
)
def test_keys_that_do_not_go_together_are_told(data: dict[str, Any], told: str) -> None:
    with pytest.raises(StudyError, match=told):
        texts_study("x.csv", **data)


def test_other_examples_are_not_for_an_lstm() -> None:
    with pytest.raises(BadInput, match="'lstm' takes texts with a label"):
        build_model({"name": "lstm"}, (5,), 2, 0)
