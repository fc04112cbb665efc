"""Networks taken out of runs: files, model cards, ONNX and the Hub."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import torch
import yaml
from torch import Tensor, nn

import silo_tune
from silo_tune.api import run_study
from silo_tune.data.example_feed import AnyFeed, feed_of
from silo_tune.data.load import open_examples
from silo_tune.data.sets import split_rows
from silo_tune.errors import BadInput
from silo_tune.export.chosen_unit import weights_of
from silo_tune.export.network_file import read_file
from silo_tune.export.onnx_file import to_onnx
from silo_tune.export.weights import FILES, take_weights
from silo_tune.models.build import build_model
from silo_tune.models.checkpoint import load_pretrained
from silo_tune.planner.unit import Unit
from silo_tune.run.local import LocalRunner
from silo_tune.store.run_folder import Run
from silo_tune.study.study_file import parse_study
from silo_tune.tasks.making import make_task
from silo_tune.training.trainer import evaluate
from tests.conftest import small_table
from tests.test_cli import in_process

SILO = {"silo": small_table()["arms"]["silo"]}


def trained(folder: Path, **changes: Any) -> str:
    """The run of one arm of a small study."""
    table = {**small_table(), "arms": SILO, **changes}
    return run_study(parse_study(table), str(folder), runner=LocalRunner(), preflight=False).url


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run of a LeNet-300-100 on digits, whose every cycle keeps its weights."""
    return trained(tmp_path_factory.mktemp("digits") / "run", cluster={"keep": "all"})


@pytest.fixture(scope="module")
def sold(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run of an MLP with embeddings on a table: yes or no."""
    place = tmp_path_factory.mktemp("sold")
    with (place / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["age", "kind", "sold"])
        rows.writerows([n % 37, "abc"[n % 3], "yes" if (n % 37 > 20) != (n % 3 == 1) else "no"] for n in range(240))
    return trained(
        place / "run",
        cycles=2,
        data={"name": "table", "path": str(place / "table.csv"), "target": "sold", "encode": "codes"},
        model={"name": "mlp", "widths": [16]},
        task={"name": "binary"},
        report={"tolerance": 0.1},
    )


def chosen(url: str, cycle: int | None = None) -> tuple[Unit, dict[str, dict[str, Tensor]]]:
    run = Run(url)
    return weights_of(run, run.study(), "silo", 0, cycle)


def fed(url: str, unit: Unit) -> AnyFeed:
    study = Run(url).study()
    dataset = open_examples(study.data, study.task)
    return feed_of(dataset, split_rows(dataset, study.data, unit.seed), unit.augmentation, torch.device("cpu"))


def scores_of(url: str, unit: Unit, network: nn.Module) -> dict[str, float]:
    """Scores and losses of a network, measured anew."""
    study, feed = Run(url).study(), fed(url, unit)
    task = make_task(study.task, read_outputs(network, feed), feed.train.labels[feed.train.rows])
    measured = {name: evaluate(task, network, feed, part) for name, part in (("val", feed.val), ("test", feed.test))}
    return {f"{name}_{what}": getattr(one, what) for name, one in measured.items() for what in ("score", "loss")}


def read_outputs(network: nn.Module, feed: AnyFeed) -> int:
    given = next(iter(feed.batches(feed.val)))[0]
    with torch.inference_mode():
        made = network(**given) if isinstance(given, Mapping) else network(given)
    return int(made.shape[1])


# --- what is written is the network ---


@pytest.mark.parametrize("form", ["safetensors", "torch"])
@pytest.mark.parametrize("run", ["digits", "sold"])
def test_the_loaded_network_has_the_bits_and_the_scores_of_its_row(
    run: str, form: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url: str = request.getfixturevalue(run)
    taken = take_weights(url, "silo", 0, form=form, out=str(tmp_path / "out"))
    unit, state = chosen(url)
    network = silo_tune.load(tmp_path / "out" / FILES[form])
    assert not network.training
    assert set(network.state_dict()) == set(state["weights"])
    assert all(torch.equal(tensor, state["weights"][name]) for name, tensor in network.state_dict().items())
    assert all(not (network.get_parameter(name) * ~mask).any() for name, mask in state["mask"].items())
    assert taken.result["key"] == unit.key
    for name, value in scores_of(url, unit, network).items():
        assert value == taken.result[name], name


@pytest.mark.parametrize("form", ["safetensors", "torch"])
def test_the_file_holds_plain_weights_that_others_read(digits: str, form: str, tmp_path: Path) -> None:
    take_weights(digits, "silo", 0, form=form, out=str(tmp_path))
    file = tmp_path / FILES[form]
    torchs = torch.load(file, weights_only=True) if form == "torch" else safetensors.torch.load_file(file)
    network = build_model({"name": "lenet-300-100"}, (8, 8, 1), 10, seed=5)
    network.load_state_dict(torchs)  # strictly: no tensor beside those of the network
    again = build_model({"name": "lenet-300-100"}, (8, 8, 1), 10, seed=6)
    assert load_pretrained(again, str(file)) == []  # so it can be the dense checkpoint of a study
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in network.state_dict().items())


def test_every_cycle_that_has_weights_can_be_taken_the_dense_one_too(digits: str, tmp_path: Path) -> None:
    remaining = []
    for cycle in (0, 1, 2, None):
        taken = take_weights(digits, "silo", 0, cycle, out=str(tmp_path / str(cycle)))
        network = silo_tune.load(tmp_path / str(cycle))  # the folder will do
        alive = sum(int(network.get_parameter(name).count_nonzero()) for name in chosen(digits, 1)[1]["mask"])
        remaining.append((taken.cycle, taken.result["weights_remaining"], alive / taken.result["prunable"]))
    assert [cycle for cycle, _, _ in remaining] == [0, 1, 2, 2]
    assert all(math.isclose(told, found, abs_tol=1e-4) for _, told, found in remaining)
    assert remaining[0][1] > remaining[1][1] > remaining[2][1]


def test_a_users_functions_are_imported_only_when_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = trained(
        tmp_path / "run", cycles=2, data={"function": "tests.users:data", "version": "1"},
        report={"tolerance": 0.3}, model={"function": "tests.users:model", "version": "1", "dropout": 0.1},
    )  # fmt: skip
    told: list[str] = []
    take_weights(url, "silo", 0, out=str(tmp_path / "plain"), notice=told.append)
    assert told == [
        "the run's study names tests.users:data: say --functions to import what you trust; so nothing is written of "
        "how its inputs are normalised"
    ]
    monkeypatch.setattr("silo_tune.export.weights.require_onnx", lambda: None)
    with pytest.raises(BadInput, match=r"names tests\.users:model: say --functions"):
        take_weights(url, "silo", 0, form="onnx", out=str(tmp_path / "none"))
    take_weights(url, "silo", 0, out=str(tmp_path / "out"), functions=True)
    out = tmp_path / "out"
    assert [read_file(tmp_path / name)[0].mean is None for name in ("plain", "out")] == [True, False]
    with pytest.raises(
        BadInput, match=r"made by 'tests\.users:model', which a file does not hold: give load\(FILE, mod"
    ):
        silo_tune.load(out)
    from tests.users import model

    ways = [silo_tune.load(out, model), silo_tune.load(out, model((8, 8, 1), 3)), silo_tune.load(out, functions=True)]
    for parameters in zip(*(one.parameters() for one in ways), strict=True):
        assert all(torch.equal(parameters[0], other) for other in parameters)
    assert 'silo_tune.load("model.safetensors", functions=True)' in (out / "README.md").read_text(encoding="utf-8")
    monkeypatch.setitem(sys.modules, "tests.users", None)
    with pytest.raises(BadInput, match=r"cannot import 'tests\.users:model'"):
        silo_tune.load(out, functions=True)


def plain_network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def test_what_silo_tune_prune_trained_is_written_where_its_objects_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    pruned = silo_tune.prune(
        plain_network, (x, (x[:, 0] > 0).long()), epsilon=0.1, delta=0.1, epochs=1, cycles=1, weights_remaining=0.5,
        dense_epochs=1, max_lr=0.1, tolerance=0.1, out=str(tmp_path / "run"),
    )  # fmt: skip
    monkeypatch.setattr("silo_tune.study.handed._HELD", {})  # as in another process
    told: list[str] = []
    take_weights(pruned.run, "silo", 0, 1, out=str(tmp_path / "out"), notice=told.append)
    assert told == []
    assert "as they were handed to `silo_tune.prune`" in (tmp_path / "out" / "README.md").read_text("utf-8")
    with pytest.raises(BadInput, match=r"give load\(FILE, model=…\) the network, or the function that makes it$"):
        silo_tune.load(tmp_path / "out", functions=True)
    assert '`silo_tune.load("model.safetensors", model=…)`' in (tmp_path / "out" / "README.md").read_text("utf-8")
    _, state = chosen(pruned.run, 1)
    for given in (plain_network, plain_network()):
        network = silo_tune.load(tmp_path / "out", given)
        assert all(torch.equal(tensor, state["weights"][name]) for name, tensor in network.state_dict().items())


def test_without_its_data_a_network_of_images_is_written_and_what_is_lacking_is_said(
    digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(data: Any, task: Any) -> Any:
        raise BadInput("data set 'digits' is gone")

    take_weights(digits, "silo", 0, out=str(tmp_path / "with"))
    monkeypatch.setattr("silo_tune.export.weights.open_examples", lost)
    told: list[str] = []
    take_weights(digits, "silo", 0, out=str(tmp_path / "without"), notice=told.append)
    assert told == ["data set 'digits' is gone; so nothing is written of how its inputs are normalised"]
    (about, weights), (_, same) = (read_file(tmp_path / name) for name in ("without", "with"))
    assert (about.mean, about.std) == (None, None)
    assert all(torch.equal(tensor, same[name]) for name, tensor in weights.items())


# --- the card ---


def test_the_card_says_what_the_network_is(digits: str, tmp_path: Path) -> None:
    out = tmp_path / "a folder"
    taken = take_weights(digits, "silo", 0, 1, out=str(out))
    text = (out / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(text.split("---\n")[1])
    known, result = head["silo_tune"], taken.result
    assert head["library_name"] == "silo-tune"
    assert known["task"] == "classification"
    assert known["data"] == {"name": "digits", "content": Run(digits).data_facts()["content"]}  # type: ignore[index]
    assert (known["study"], known["arm"], known["seed"], known["cycle"]) == ("small", "silo", 0, 1)
    assert (known["key"], known["sparsity"]) == (result["key"], result["sparsity"])
    assert known["score"] == {
        "name": "accuracy", "unit": "share of 1", "validation": result["val_score"], "n_validation": 100,
        "test": result["test_score"], "n_test": 100,
    }  # fmt: skip
    assert set(known["versions"]) == {"silo-tune", "torch"}
    assert f"accuracy, validation | {100 * result['val_score']:.2f} % (100 images)" in text
    # The command in the card writes the same again.
    words = known["command"].split()
    assert words[:2] == ["silo-tune", "weights"]
    done = in_process(*words[1:], "--out", "again", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    same = [(place / FILES["safetensors"]).read_bytes() for place in (out, tmp_path / "again")]
    assert same[0] == same[1]


def test_a_score_that_was_the_best_on_test_is_called_so(digits: str, tmp_path: Path) -> None:
    from silo_tune.export.model_card import card

    take_weights(digits, "silo", 0, out=str(tmp_path))
    unit, _ = chosen(digits)
    result = Run(digits).result(unit.key)
    assert result is not None
    chosen_on_test = {**result, "unit": {**result["unit"], "evaluation": {"best_on_test": True}}}
    about = read_file(tmp_path)[0]
    told = [card(Run(digits).study(), "silo", one, None, about, "f", []) for one in (result, chosen_on_test)]
    assert ["the best of all epochs" in text for text in told] == [False, True]


# --- mistakes ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"--arm": "silk"}, "unknown arm 'silk'; choose from silo"),
        ({"--seed": "7"}, "unknown seed 7; choose from 0"),
        ({"--cycle": "9"}, "has no network of cycle 9; it has of 0, 1, 2"),
        ({"--out": "file"}, "cannot write 'file/model.safetensors'"),
        ({"--push": "nobody"}, "--push: 'nobody' is not OWNER/NAME"),
    ],
)
def test_a_mistake_is_one_line(digits: str, options: dict[str, str], words: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    given = {"--arm": "silo", "--seed": "0", **options}
    done = in_process("weights", digits, *(word for pair in given.items() for word in pair), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_weights_that_are_gone_are_named_with_those_that_are_there(sold: str, tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"of cycle 0 of arm 'silo', seed 0 are gone: .* have theirs: 1\. .*keep = \"chains\""
    ):
        take_weights(sold, "silo", 0, 0, out=str(tmp_path))


def test_weights_that_do_not_fit_the_network_are_not_written(
    digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*asked: Any, **named: Any) -> Any:
        unit, state = weights_of(*asked, **named)
        return unit, {**state, "weights": {n: w[:-1] if n == "fc3.bias" else w for n, w in state["weights"].items()}}

    monkeypatch.setattr("silo_tune.export.weights.weights_of", cut)
    with pytest.raises(BadInput, match=r"size mismatch for fc3\.bias"):
        take_weights(digits, "silo", 0, out=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_written_over_only_by_force(digits: str, tmp_path: Path) -> None:
    def said(*words: str) -> Any:
        return in_process("weights", digits, "--arm", "silo", "--seed", "0", *words, cwd=tmp_path)

    assert said().stdout.splitlines() == [
        "silo, seed 0, cycle 2: 64.0 % of the prunable weights remain",
        "written: small-silo-seed-0-cycle-2/model.safetensors, small-silo-seed-0-cycle-2/README.md",
    ]
    card = tmp_path / "small-silo-seed-0-cycle-2" / "README.md"
    card.write_text("mine")
    again = said("--format", "torch")
    assert (again.returncode, card.read_text()) == (2, "mine")
    assert "README.md would be written over; name another folder, or say --force" in again.stderr
    assert said("--format", "torch", "--force").returncode == 0
    assert sorted(path.name for path in card.parent.iterdir()) == ["README.md", "model.pt", "model.safetensors"]
    assert card.read_text() != "mine"


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "plain.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "pickled.pt")
    torch.save([1], tmp_path / "list.pt")
    for name, words in (
        ("plain.pt", "does not say what its network is"),
        ("pickled.pt", "cannot be read as weights of torch"),
        ("list.pt", "holds no state dict"),
        ("none.pt", "cannot be read"),
        ("", "cannot be read as safetensors"),
    ):
        with pytest.raises(BadInput, match=words):
            silo_tune.load(tmp_path / name)


@pytest.mark.parametrize(
    ("package", "option", "words"),
    [
        ("onnxruntime", ("--format", "onnx"), "needs onnxruntime: pip install 'silo-tune[onnx]'"),
        ("huggingface_hub", ("--push", "me/mine"), "pip install 'silo-tune[hub]'"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    digits: str, package: str, option: tuple[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if option[1] == "onnx":  # which may be missing here as well
        found = lambda name: None if name == package else object()  # noqa: E731
        monkeypatch.setattr("silo_tune.export.onnx_file.importlib.util.find_spec", found)
    else:
        monkeypatch.setitem(sys.modules, package, None)
    done = in_process("weights", digits, "--arm", "silo", "--seed", "0", *option, cwd=tmp_path)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert words in done.stderr


# --- the Hub ---


class StandIn:
    """The client of the Hub, as far as it is called, with one repository."""

    repositories: dict[str, dict[str, bytes]]

    def create_repo(self, repo_id: str, exist_ok: bool = False) -> None:
        assert exist_ok
        self.repositories.setdefault(repo_id, {})

    def upload_folder(self, repo_id: str, folder_path: Path, allow_patterns: list[str]) -> str:
        self.repositories[repo_id] |= {name: (folder_path / name).read_bytes() for name in allow_patterns}
        return f"https://huggingface.co/{repo_id}/tree/main/"


def test_what_is_on_the_hub_is_what_is_here(digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    StandIn.repositories = {}
    monkeypatch.setattr(huggingface_hub, "HfApi", StandIn)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "private.txt").write_text("mine")
    words = ("weights", digits, "--arm", "silo", "--seed", "0", "--out", "out", "--push", "me/mine")
    done = in_process(*words, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "uploaded: https://huggingface.co/me/mine/tree/main/"
    files = {name: (tmp_path / "out" / name).read_bytes() for name in ("model.safetensors", "README.md")}
    assert StandIn.repositories == {"me/mine": files}


def test_a_hub_that_cannot_be_reached_is_one_line(digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client, at a port where nobody listens."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "none")
    words = ("weights", digits, "--arm", "silo", "--seed", "0", "--out", "out", "--push", "me/mine")
    done = in_process(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert "--push: out is written, and could not be uploaded to me/mine (Connect" in done.stderr
    assert done.stderr.count("\n") == 1
    assert silo_tune.load(tmp_path / "out")


# --- ONNX ---


def outputs_of(file: Path, inputs: Mapping[str, Tensor]) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    given = {one.name: inputs[one.name].numpy() for one in session.get_inputs()}
    found: Tensor = torch.from_numpy(session.run(["logits"], given)[0])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("run", ["digits", "sold"])
def test_onnx_says_the_same_of_any_number_of_examples(run: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    url: str = request.getfixturevalue(run)
    for form in ("onnx", "safetensors"):
        take_weights(url, "silo", 0, form=form, out=str(tmp_path / form))
    network = silo_tune.load(tmp_path / "safetensors")
    for count in (1, 11):
        feed = fed(url, chosen(url)[0])
        given = next(iter(feed.batches(feed.val, count)))[0]
        inputs = given if isinstance(given, Mapping) else {"input": given}
        with torch.inference_mode():
            expected = network(*inputs.values())
        found = outputs_of(tmp_path / "onnx" / "model.onnx", inputs)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 1e-4
        assert (found + 2e-4 - expected).abs().max() > 1e-4  # so the comparison can fail


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = torch.special.bessel_j0(x)
        return made


class Moody(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "batch", "words"),
    [
        (Bessel(), (torch.ones(3, 2), None), r"no counterpart of the operator prims\.bessel_j0; take another in your"),
        (Moody(), (torch.ones(3, 2), None), r"torch\.export cannot follow the network \(GuardOnDataDependent"),
        (Moody(), {"x": torch.ones(3, 2)}, r"a batch of this data is not \(inputs, targets\)"),
    ],
)
def test_a_network_that_onnx_cannot_say_is_one_line(
    network: nn.Module, batch: Any, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(BadInput, match=words) as error:
        to_onnx(network, batch)
    assert "\n" not in str(error.value)
    assert "".join(capfd.readouterr()) == ""
