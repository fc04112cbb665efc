"""Networks of transformers and torchvision: built, pruned, resumed, and refused where they do not fit."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch

from silo_tune.data.example_sets import ExampleSet
from silo_tune.errors import BadInput, StudyError
from silo_tune.models.build import build_model
from silo_tune.run.session import look_here
from silo_tune.study.study_file import load_study, parse_study
from silo_tune.tasks.outputs import logits_of
from silo_tune.training.preflight import require_blind_to_later
from silo_tune.training.worker import drain
from tests.conftest import merged, small_table
from tests.test_cycle import Bench, stable
from tests.test_peoples_models import chain

transformers = pytest.importorskip("transformers")

SMALL = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "hidden_size": 16}
TEXT = {**SMALL, "vocab_size": 40, "max_position_embeddings": 16}
LENGTH, TOKENS = 12, 40


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with config.json for each kind, one of bert with weights, and a text."""
    place = tmp_path_factory.mktemp("hf")
    gpt2 = {"n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": 40, "n_positions": 16}
    bert = transformers.BertConfig(**TEXT)
    for name, config in {
        "gpt2": transformers.GPT2Config(**gpt2, bos_token_id=1, eos_token_id=1),
        "llama": transformers.LlamaConfig(**TEXT),
        "vit": transformers.ViTConfig(**SMALL, image_size=8, patch_size=4),
        "bert": bert,
    }.items():
        config.save_pretrained(place / name)
    torch.manual_seed(1)
    transformers.BertForMaskedLM(bert).save_pretrained(place / "trained")
    (place / "text").write_bytes(np.random.default_rng(0).integers(97, 117, 4000, np.uint8).tobytes())
    return place


def sentences(count: int = 240) -> ExampleSet:
    """Padded token ids; the class is whether token 5 occurs."""
    rng = np.random.default_rng(0)
    ids = rng.integers(2, TOKENS, (count, LENGTH))
    ids[np.arange(LENGTH) >= rng.integers(4, LENGTH + 1, (count, 1))] = 0
    return ExampleSet(ids, (ids == 5).any(1).astype(np.int64), None, None, 2, (LENGTH,))


def fields() -> dict[str, Any]:
    made = sentences()
    return {"train": made.train, "train_labels": made.train_labels}


def table(place: Path, kind: str, head: str, **changes: Any) -> dict[str, Any]:
    """A study of one of these networks, on data that its head takes."""
    made = small_table(**merged({"report": {"tolerance": 0.5}}, changes))
    made["model"] = {**made["model"], "name": f"hf:{place / kind}", "head": head}
    if head != "image-classification":
        made["data"] = {"function": "tests.test_hf_models:fields", "version": "1"}
    if head == "causal-lm":
        made["data"] = {"name": "tokens", "path": str(place / "text"), "block": LENGTH}
        made |= {"task": "language-model", "retrain": {**made["retrain"], "batch": 4}}
    return made


def bench_of(run: Path, *words: Any, **changes: Any) -> Bench:
    return Bench(run, parse_study(table(*words, **changes)))


CASES = [
    ("gpt2", "causal-lm", {"prune": {"layers": ["linear", "conv1d-hf"]}}),
    ("gpt2", "sequence-classification", {"prune": {"layers": ["linear", "conv1d-hf"]}}),
    ("llama", "causal-lm", {}),
    ("bert", "sequence-classification", {}),
    ("trained", "sequence-classification", {"model": {"pretrained": True}, "prune": {"after_prune": "rewind"}}),
    ("vit", "image-classification", {"prune": {"after_prune": "reinit"}}),
]


@pytest.mark.parametrize(("kind", "head", "changes"), CASES)
def test_each_is_pruned_in_effect_and_a_preempted_trial_ends_bit_identical(
    kind: str, head: str, changes: dict[str, Any], folders: Path, tmp_path: Path
) -> None:
    straight, cut = (bench_of(tmp_path / name, folders, kind, head, **changes) for name in "ab")
    for unit in chain(straight):
        expected = straight.train(unit)  # which looks at the zeros that its forward pass computes with
        assert expected["status"] == "ok"
        progress = cut.fresh().run(unit)
        next(progress)
        progress.close()
        result = drain(cut.fresh().run(unit))
        assert stable(result) == stable(expected)
        assert straight.worker.units.read_state(expected) == cut.worker.units.read_state(result)
    assert expected["weights_remaining"] == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize(("kind", "head", "changes"), CASES)
def test_the_look_finds_nothing_wrong(kind: str, head: str, changes: dict[str, Any], folders: Path) -> None:
    lines = look_here(parse_study(table(folders, kind, head, **changes)), "none")
    assert not [line for line in lines if "beside its logits" in line]


OF_HF, OURS = ("transformer.wte.weight", "lm_head.weight"), ("embed.weight", "head.weight")


@pytest.mark.parametrize(("ours", "tied_names"), [(False, OF_HF), (True, OURS)], ids=["gpt2", "gpt"])
def test_weights_that_are_tied_have_one_mask_and_count_once(
    ours: bool, tied_names: tuple[str, str], folders: Path, tmp_path: Path
) -> None:
    layers = ["linear", "embedding"] if ours else ["linear", "conv1d-hf", "embedding"]
    made = table(folders, "gpt2", "causal-lm", prune={"layers": layers})
    if ours:
        made["model"] = {"name": "gpt", "width": 16, "depth": 1, "heads": 2, "tied": True}
    bench = Bench(tmp_path, parse_study(made))
    dense, first = chain(bench)
    bench.train(dense)
    result, state = bench.train(first), bench.weights(first)
    model = bench.worker.fresh(first, 0)
    assert result["parameters"] == sum(p.numel() for p in model.parameters())
    assert tied_names[0] in state["mask"]
    assert tied_names[1] not in state["mask"]
    assert result["prunable"] == sum(mask.numel() for mask in state["mask"].values())
    tied = [state["weights"][name] for name in tied_names]
    assert torch.equal(*tied)
    assert not tied[1][~state["mask"][tied_names[0]]].any()


def built(
    folders: Path, kind: str, head: str, classes: int = 2, shape: tuple[int, ...] = (LENGTH,), **args: Any
) -> Any:
    return build_model({"name": "hf", "head": head, **args}, shape, classes, 0, folder=str(folders / kind)).eval()


@pytest.mark.parametrize("kind", ["gpt2", "bert", "llama"])
def test_padding_changes_nothing(kind: str, folders: Path) -> None:
    model = built(folders, kind, "sequence-classification")
    ids = torch.randint(1, TOKENS, (2, LENGTH))
    ids[0, 7:] = 0
    whole, alone = (logits_of(model(one))[0] for one in (ids, ids[:1, :7]))
    assert torch.allclose(whole, alone, atol=1e-6)


def test_texts_tell_the_network_their_vocabulary_and_padding(folders: Path) -> None:
    table = {"name": "hf", "head": "sequence-classification"}
    told = {"vocabulary": 50, "padding": 3}
    model: Any = build_model(table, (LENGTH,), 4, 0, further=told, folder=str(folders / "bert")).eval()
    assert (model.config.vocab_size, model.config.pad_token_id) == (50, 3)
    ids = torch.tensor([[49, 7, 3, 3], [5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.allclose(model(ids).logits[:1], model(ids[:1, :2]).logits, atol=1e-6)


def test_a_language_model_that_sees_what_comes_later_is_refused(folders: Path) -> None:
    ids = torch.randint(1, TOKENS, (2, LENGTH))
    for kind in ("gpt2", "bert", "llama"):
        require_blind_to_later(built(folders, kind, "causal-lm", TOKENS), ids)
    with pytest.raises(BadInput, match="depend on tokens that come later"):
        require_blind_to_later(built(folders, "bert", "masked-lm", TOKENS), ids)


def test_pretrained_weights_are_taken_and_only_the_head_is_drawn(folders: Path) -> None:
    made, other = (built(folders, "trained", "sequence-classification", pretrained=True) for _ in range(2))
    theirs = transformers.BertForMaskedLM.from_pretrained(folders / "trained").state_dict()
    ours = made.state_dict()
    shared = [name for name in ours if name in theirs]
    assert len(shared) > 15
    assert all(torch.equal(ours[name], theirs[name]) for name in shared)
    assert all(torch.equal(ours[name], other.state_dict()[name]) for name in ours)  # by the seed


def test_a_key_has_the_folders_content_and_not_its_place(folders: Path, tmp_path: Path) -> None:
    def key(place: Path, kind: str, **model: Any) -> str:
        return bench_of(tmp_path / "run", place, kind, "sequence-classification", model=model).unit(0, None).key

    moved = tmp_path / "moved"
    shutil.copytree(folders, moved)
    assert key(moved, "bert") == key(folders, "bert")
    assert key(moved, "trained", pretrained=True) == key(folders, "trained", pretrained=True)
    before = key(moved, "trained")
    weights = transformers.BertForMaskedLM(transformers.BertConfig(**TEXT))
    weights.save_pretrained(moved / "trained")
    assert key(moved, "trained") == before  # which reads no weights
    assert key(moved, "trained", pretrained=True) != key(folders, "trained", pretrained=True)
    config = json.loads((moved / "bert" / "config.json").read_text())
    (moved / "bert" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    assert key(moved, "bert") != key(folders, "bert")


def test_a_folder_is_meant_from_the_studys_own(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "vit", tmp_path / "vit")
    made = small_table(model={"head": "image-classification"})
    made["model"]["name"] = "hf:vit"
    (tmp_path / "study.toml").write_text(tomli_w.dumps(made))
    assert load_study(tmp_path / "study.toml").model.name == f"hf:{tmp_path / 'vit'}"


def test_what_a_run_records_is_the_same_study(folders: Path) -> None:
    made = parse_study(table(folders, "bert", "sequence-classification"))
    assert made.model.resolved()["name"] == "hf"
    assert parse_study(made.model_dump(mode="json", exclude_none=True), recorded=True) == made


def test_a_small_form_has_two_layers_and_short_texts(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "bert", tmp_path / "bert")
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    (tmp_path / "bert" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 12}))
    made = small_table(model={"head": "sequence-classification"}, data={"name": "text", "path": "x", "text": "t"})
    made["data"]["target"], made["model"]["name"] = "y", "hf:bert"
    (tmp_path / "study.toml").write_text(tomli_w.dumps(made))
    small = load_study(tmp_path / "study.toml", smoke=True)
    assert (small.model.args["num_hidden_layers"], small.data.length) == (2, 32)
    made["model"]["num_hidden_layers"], made["data"]["length"] = 1, 8
    (tmp_path / "study.toml").write_text(tomli_w.dumps(made))
    small = load_study(tmp_path / "study.toml", smoke=True)
    assert (small.model.args["num_hidden_layers"], small.data.length) == (1, 8)


# --- mistakes ---


@pytest.mark.parametrize(
    ("kind", "head", "changes", "told"),
    [
        ("none/at/all", "causal-lm", {}, "is not there"),
        ("", "causal-lm", {}, "has no config.json, which save_pretrained"),
        ("bert", "sequence-classification", {"model": {"pretrained": True}}, "has no safetensors weights"),
        ("bert", "sequence-clasifier", {}, r"unknown head .*; choose from causal-lm, .*did you mean 'sequence-class"),
        (
            "bert",
            "masked-lm",
            {},
            "'masked-lm' does not fit the task 'classification'; take sequence-classification or",
        ),
        ("bert", "image-classification", {}, "unknown head of a bert 'image-classification'; choose from causal-lm"),
        ("bert", "sequence-classification", {"model": {"hidden_sise": 8}}, "did you mean 'hidden_size'"),
        ("bert", "sequence-classification", {"model": {"num_attention_heads": 3}}, "transformers cannot build"),
        (
            "bert",
            "sequence-classification",
            {"model": {"max_position_embeddings": 8}},
            "a sequence of 12 tokens, and the",
        ),
        ("bert", "sequence-classification", {"model": {"vocab_size": 20}}, "has token 3., and the network knows 20"),
        (
            "trained",
            "sequence-classification",
            {"model": {"pretrained": True}, "prune": {"after_prune": "reinit"}},
            "reinit draws weights anew",
        ),
        (
            "trained",
            "sequence-classification",
            {"model": {"pretrained": True, "hidden_size": 8}},
            "do not fit its config: .* have another shape",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_trained(
    kind: str, head: str, changes: dict[str, Any], told: str, folders: Path
) -> None:
    with pytest.raises(StudyError, match=told):
        look_here(parse_study(table(folders, kind, head, **changes)), "none")


def test_data_of_another_kind_is_refused(folders: Path) -> None:
    with pytest.raises(BadInput, match="takes sequences of token ids"):
        built(folders, "bert", "sequence-classification", shape=(8, 8, 1))
    with pytest.raises(BadInput, match="takes token ids, whole numbers"):
        built(folders, "bert", "sequence-classification")(torch.rand(2, LENGTH))
    with pytest.raises(BadInput, match="the network knows 40 tokens, and the data has 256"):
        built(folders, "trained", "masked-lm", 256, pretrained=True)


def test_without_the_package_it_says_what_to_install(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BadInput, match=r"pip install 'silo-tune\[hf\]'"):
        built(folders, "bert", "sequence-classification")


# --- torchvision ---


@pytest.mark.parametrize(("name", "shape"), [("shufflenet_v2_x0_5", (32, 32, 3)), ("googlenet", (64, 64, 3))])
def test_a_classifier_of_torchvision_has_the_classes_of_the_data(name: str, shape: tuple[int, int, int]) -> None:
    model = build_model({"name": f"torchvision:{name}"}, shape, 7, 0)
    assert model.eval()(torch.zeros(2, 3, *shape[:2])).shape == (2, 7)
    assert logits_of(model.train()(torch.zeros(2, 3, *shape[:2]))).shape == (2, 7)


@pytest.mark.parametrize(
    ("model", "shape", "told"),
    [
        ({"name": "torchvision:resnet81"}, (32, 32, 3), "did you mean 'resnet18'"),
        ({"name": "torchvision:resnet18"}, (8, 8, 1), "take images of 3 channels"),
        ({"name": "torchvision:resnet18", "drop": 1}, (32, 32, 3), "torchvision cannot build 'resnet18'.*drop"),
    ],
)
def test_mistakes_in_a_network_of_torchvision(model: dict[str, Any], shape: tuple[int, int, int], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        build_model(model, shape, 10, 0)


def test_texts_of_a_study_are_taken_as_they_are(folders: Path, tmp_path: Path) -> None:
    words = [["apple", "pear"][number % 2] + f" word{number % 7} and {number}" for number in range(120)]
    lines = [json.dumps({"review": text, "fruit": text.split()[0]}) for text in words]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    made = table(folders, "bert", "sequence-classification", retrain={"batch": 16})
    made["data"] = {"name": "text", "path": str(tmp_path / "texts.jsonl"), "text": "review", "target": "fruit"}
    made["data"] |= {"tokenizer": "words", "length": 8}
    study = parse_study({**made, "dense": {"epochs": 2, "max_lr": 0.1}})
    look_here(study, "none")
    bench = Bench(tmp_path / "run", study)
    model: Any = bench.worker.fresh(bench.unit(0, None), 0)
    assert model.config.vocab_size == bench.dataset.further["vocabulary"]
    assert [bench.train(unit)["status"] for unit in chain(bench)] == ["ok", "ok"]
