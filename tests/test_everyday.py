"""`prune`: a network of the caller's, pruned on the engine of a study; what it gives is what the run says."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler, get_worker_info

import silo_tune
from silo_tune.data.objects import fields_of
from silo_tune.errors import BadInput, RunFailed
from silo_tune.everyday import Pruned, _network_digest, prune
from silo_tune.run.callbacks import Trial
from tests.test_cli import in_process

X, Y = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
X = X.float() / 16
TRAIN, VALIDATION = (X[:1200], Y[:1200]), (X[1200:], Y[1200:])
FIXED = nn.Linear(64, 10)
FEW: dict[str, Any] = {"epochs": 2, "cycles": 3, "epsilon": 0.05, "delta": 0.1}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 60), nn.Linear(60, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.first(inputs).relu())  # type: ignore[no-any-return]


def right(network: nn.Module, part: tuple[Tensor, Tensor]) -> float:
    with torch.no_grad():
        return float((network(part[0]).argmax(1) == part[1]).float().mean())


class Unreadable(Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return 9

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        if row == 3:
            raise OSError(f"no file {row}")
        return X[row], Y[row]


class Named(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 9

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"pixels": X[row], "label": Y[row]}


@pytest.fixture(scope="module")
def trained() -> Net:
    torch.manual_seed(1)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(TRAIN[0]), TRAIN[1]).backward()
        optimizer.step()
    return net


@pytest.fixture(scope="module")
def pruned(trained: Net, tmp_path_factory: pytest.TempPathFactory) -> Pruned:
    out = tmp_path_factory.mktemp("pruned")
    return prune(trained, TRAIN, VALIDATION, weights_remaining=0.05, tolerance=0.05, out=str(out / "run"), **FEW)


def test_a_network_is_pruned_as_far_as_asked_and_the_smallest_within_the_tolerance_is_given(pruned: Pruned) -> None:
    table = pruned.table
    assert list(table["cycle"]) == [0, 1, 2, 3]
    assert table["weights_remaining"].iloc[-1] == pytest.approx(0.05, abs=1e-3)
    within = table[table["val_score"] >= table["val_score"].iloc[0] - 0.05]
    assert pruned.cycle == within["cycle"].iloc[-1] > 0
    chosen = table.iloc[pruned.cycle]
    left = sum(int((module.weight != 0).sum()) for module in pruned.model.modules() if isinstance(module, nn.Linear))
    assert left == pruned.layers["left"].sum() == round(chosen["weights_remaining"] * (64 * 60 + 600))


def test_its_scores_are_those_of_the_network_that_is_given(pruned: Pruned, trained: Net) -> None:
    chosen = pruned.table.iloc[pruned.cycle]
    whole = (chosen["val_score"] * 299 + chosen["test_score"] * 298) / 597  # halves of what was given for validation
    assert right(pruned.model, VALIDATION) == pytest.approx(whole, abs=1e-6)
    dense = pruned.table.iloc[0]
    assert right(trained, VALIDATION) == pytest.approx((dense["val_score"] * 299 + dense["test_score"] * 298) / 597)
    assert not pruned.model.training


def test_the_same_call_trains_nothing_again_and_another_network_is_another_run(
    pruned: Pruned, trained: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(pruned.run).rglob("result.json")}
    again = prune(trained, TRAIN, VALIDATION, weights_remaining=0.05, tolerance=0.05, out=pruned.run, **FEW)
    assert {path: path.stat().st_mtime_ns for path in Path(pruned.run).rglob("result.json")} == before
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), pruned.model.parameters(), strict=True))
    with pytest.raises(BadInput, match="model"):
        prune(Net(), TRAIN, VALIDATION, weights_remaining=0.05, tolerance=0.05, out=pruned.run, **FEW)


def test_functions_that_give_other_weights_are_other_networks() -> None:
    other = copy.deepcopy(FIXED)
    with torch.no_grad():
        other.weight.add_(1)
    digests = [_network_digest(made) for made in (lambda: FIXED, lambda: FIXED, lambda: other, Net, Net)]
    assert (digests[0] == digests[1], digests[3] == digests[4], len(set(digests))) == (True, True, 3)


def test_the_summary_fits_a_terminal_and_says_what_zeros_save(pruned: Pruned, tmp_path: Path) -> None:
    lines = str(pruned).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "max_lr from 0.05 to 0.15; keep after a prune"
    assert lines[pruned.cycle + 2].endswith("←")
    assert "zeros alone save nothing" in lines[-2]
    assert pruned.file_bytes[0] == pruned.file_bytes[1]
    assert pruned.zipped_bytes[1] < 0.8 * pruned.zipped_bytes[0]
    pruned.picture(tmp_path / "chain.png")
    assert (tmp_path / "chain.png").read_bytes().startswith(b"\x89PNG")


class Ends(silo_tune.Callback):
    """Counts trials that have ended."""

    def __init__(self) -> None:
        self.trials: list[object] = []

    def ended(self, trial: Trial, outcome: object) -> None:
        self.trials.append(trial)


def test_a_pilot_finds_the_rates_of_a_network_that_a_function_makes_and_its_trials_are_counted(tmp_path: Path) -> None:
    heard = Ends()
    found = prune(
        Net, TRAIN, VALIDATION, dense_epochs=1, max_lr=0.1, epochs=1, cycles=1, after_prune="reinit",
        out=str(tmp_path / "run"), settings={"pilot.chains": 5}, callbacks=[heard],
    )  # fmt: skip
    assert len(heard.trials) == found.pilot + 2
    assert found.pilot == 6  # the dense network of its own seed, and five rates of one cycle
    assert f"found by a pilot of {found.pilot} trials" in str(found)
    assert len(list(Path(found.run).rglob("result.json"))) == found.pilot + 2
    assert len(list(Path(found.run).rglob("state-*"))) == 2  # both of the chain, none of the pilot


class Contrary(nn.Module):
    """Says what a network holds for least likely."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        return -self.inner(inputs)  # type: ignore[no-any-return]


class Faint(Contrary):
    """As wrong, but not so sure that its loss is a divergence."""

    def forward(self, inputs: Tensor) -> Tensor:
        return 0.01 * super().forward(inputs)


def test_a_network_that_guesses_and_is_given_as_trained_is_told_of(trained: Net, tmp_path: Path) -> None:
    found = prune(Contrary(trained), TRAIN, VALIDATION, out=str(tmp_path / "run"), **{**FEW, "cycles": 1, "epochs": 1})
    assert found.guessing
    assert "as given is no better than guessing: give dense_epochs" in str(found)
    once: dict[str, Any] = {**FEW, "cycles": 1, "epochs": 1, "out": str(tmp_path / "trained")}
    found = prune(trained, TRAIN, VALIDATION, dense_epochs=1, **once)
    assert not found.guessing
    found = prune(Faint(trained), TRAIN, VALIDATION, dense_epochs=1, max_lr=1e-9, **once | {"out": found.run + "2"})
    assert "The dense network is no better than guessing: raise dense_epochs" in str(found)


def test_the_same_data_in_any_form_is_the_same_data() -> None:
    arrays = (X[:1200].numpy(), Y[:1200].numpy())
    loader = DataLoader(TensorDataset(*TRAIN), batch_size=17, shuffle=True)
    for given, batch in ((TRAIN, None), (arrays, None), (TensorDataset(*TRAIN), None), (loader, 17)):
        fields, loaded = fields_of(given, None, None)
        assert np.array_equal(np.asarray(fields["train"]), arrays[0])
        assert np.array_equal(np.asarray(fields["train_labels"]), arrays[1])
        assert loaded == batch
    fields, _ = fields_of(TRAIN, VALIDATION, None)
    assert (len(fields["val"]), len(fields["test"])) == (299, 298)
    joined = torch.cat([fields["val"], fields["test"]])
    assert sorted(map(tuple, joined.tolist())) == sorted(map(tuple, VALIDATION[0].tolist()))
    assert fields_of(TRAIN, VALIDATION, VALIDATION)[0]["val"] is VALIDATION[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"train": [1, 2]}, "no numbers|labels|data"),
        ({"train": "digits"}, "train: str is no data"),
        ({"validation": TRAIN}, "validation and test are not the training part"),
        ({"train": (X.byte().reshape(-1, 8, 8, 1), Y)}, "train: inputs are bytes"),
        ({"train": (X.tolist(), Y.tolist())}, "train: inputs and targets are list and list; give tensors"),
        ({"train": TensorDataset(X, X, Y)}, "an item of the train part is 3 values; give .inputs, target"),
        ({"train": Named()}, "an item of the train part is dict"),
        ({"train": [(X[0], Y[0])] * 9}, "train: list is no data"),
        ({"train": Unreadable()}, r"data: OSError: no file 3 \(.*test_everyday.py, line \d+\)"),
        ({"train": (X, 0 * Y), "validation": None}, "labels: one value, 0;"),
        (
            {"train": DataLoader(TensorDataset(*TRAIN), sampler=WeightedRandomSampler([1.0], 9))},
            r"train: its WeightedRandomSampler would not be used",
        ),
        (
            {"validation": DataLoader(TensorDataset(*VALIDATION), collate_fn=list)},
            "validation: the collate_fn of train",
        ),
        ({"model": "lenet-300-100"}, "model: give a torch.nn.Module or a function that makes one, not str"),
        ({"model": nn.Linear, "dense_epochs": 1}, "model: TypeError: .*missing 2"),
        ({"optimizer": torch.optim.Adam}, "optimizer: give a name or a table"),
        ({"weights_remaining": 1.5}, "weights_remaining: 1.5 is no share"),
        ({"weights_remaining": 10, "cycles": 0}, "(?s)no share.*cycles: 0 prunes"),
        ({"epsilon": None}, "epsilon, delta: give both, or neither"),
        ({"after_prune": "reinit"}, "after_prune: weights are drawn anew"),
        ({"after_prune": "rewind"}, "cannot rewind"),
        ({"model": Net}, "dense_epochs: a new network is trained first"),
        ({"model": lambda: 3, "dense_epochs": 1}, "gives int"),
        (
            {"model": lambda: copy.deepcopy(FIXED), "dense_epochs": 1, "after_prune": "reinit"},
            "the same weights every time",
        ),
        ({"model": nn.Flatten()}, "prun|train"),
        ({"task": "regression"}, "tolerance|regression"),
        ({"settings": {"retrain.clop": 1}}, "retrain.clop.*did you mean"),
        ({"weights_remaining": 0.0001}, "prune|layer|weight"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_trained(
    change: dict[str, Any], told: str, trained: Net, tmp_path: Path
) -> None:
    given = {"model": trained, "train": TRAIN, "validation": VALIDATION, **FEW, "out": str(tmp_path / "run"), **change}
    with pytest.raises(BadInput) as refused:
        prune(**given)
    assert re.search(told, str(refused.value)), str(refused.value)
    assert not list(tmp_path.rglob("result.json"))


def test_the_command_says_the_same_and_draws_it(tmp_path: Path) -> None:
    few = "--dense-epochs 1 --epsilon 0.1 --delta 0.1 --epochs 1 --cycles 1 --weights-remaining 0.5"
    asked = f"prune --model lenet-300-100 --data digits {few} --set retrain.clip=5.0 --out {tmp_path / 'run'}"
    run = in_process(*asked.split())
    assert run.returncode == 0, run.stderr
    assert "weights left" in run.stdout
    assert (tmp_path / "run" / "pruned.png").exists()
    refused = in_process("prune", "--model", "lenet-300-100", "--data", "digits")
    assert refused.returncode == 2
    assert "--dense-epochs" in refused.stderr


def test_few_validation_examples_have_a_tolerance_that_they_can_show(trained: Net, tmp_path: Path) -> None:
    few: dict[str, Any] = {"cycles": 1, "epochs": 1, "epsilon": 0.05, "delta": 0.1}
    found = prune(trained, (X[:100], Y[:100]), out=str(tmp_path / "run"), **few)
    assert found.study.report.tolerance == 2 / 16
    assert prune(trained, (X[:100], Y[:100]), tolerance=0.2, out=found.run, **few).study.report.tolerance == 0.2
    with pytest.raises(BadInput, match="finer than 16 validation examples"):
        prune(trained, (X[:100], Y[:100]), settings={"report.tolerance": 0.05}, out=found.run, **few)


class Mended(Dataset[tuple[Tensor, Tensor]]):
    targets, broken = Y, True

    def __len__(self) -> int:
        return len(Y)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        if self.broken and row == 77:
            raise OSError("no such file")
        return X[row], Y[row]


def test_the_same_call_tries_again_what_failed(trained: Net, tmp_path: Path) -> None:
    asked: dict[str, Any] = {**FEW, "cycles": 1, "epochs": 1, "out": str(tmp_path / "run"), "dense_epochs": 1}
    data = Mended()
    with pytest.raises(RunFailed) as failed:
        prune(trained, data, **asked)
    assert "no such file" in str(failed.value)
    assert "lower max_lr" not in str(failed.value)
    data.broken = False
    assert set(prune(trained, data, **asked).table["status"]) == {"ok"}


class Watched(Dataset[tuple[Tensor, int]]):
    """Leaves a file for each process of a loader that reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return 100

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        if (reader := get_worker_info()) is not None:
            (self.folder / f"read-{reader.id}").touch()
        return X[row], int(Y[row])


def test_a_loaders_processes_read_its_items(trained: Net, tmp_path: Path) -> None:
    once: dict[str, Any] = {**FEW, "cycles": 1, "epochs": 1, "out": str(tmp_path / "run")}
    prune(trained, DataLoader(Watched(tmp_path), batch_size=20, num_workers=2), **once)
    assert {path.name for path in tmp_path.glob("read-*")} == {"read-0", "read-1"}


class ByName(Net):
    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels)


def test_batches_are_those_of_the_collate_fn_also_where_tensors_are_at_hand(tmp_path: Path) -> None:
    def black(items: list[tuple[Tensor, Tensor]]) -> tuple[dict[str, Tensor], Tensor]:
        return {"pixels": torch.stack([0 * pixels for pixels, _ in items])}, torch.stack([label for _, label in items])

    loader = DataLoader(TensorDataset(X[:200], Y[:200]), batch_size=50, collate_fn=black)
    once: dict[str, Any] = {
        "dense_epochs": 1,
        "max_lr": 0.01,
        **FEW,
        "cycles": 1,
        "epochs": 1,
        "out": str(tmp_path / "run"),
    }
    found = prune(ByName, loader, (X[200:400].numpy(), Y[200:400].numpy()), **once)
    said = float((Y[200:400] == found.model(0 * X[:1]).argmax()).float().mean())
    assert abs(float(found.table[["val_score", "test_score"]].iloc[found.cycle].mean()) - said) < 1e-6


@pytest.mark.slow
def test_on_a_ray_cluster_it_is_the_same_network(pruned: Pruned, trained: Net, tmp_path: Path) -> None:
    far = silo_tune.prune(
        trained,
        TRAIN,
        VALIDATION,
        weights_remaining=0.05,
        tolerance=0.05,
        out=str(tmp_path / "run"),
        local=False,
        **FEW,
    )
    assert far.table["val_score"].tolist() == pruned.table["val_score"].tolist()
    assert all(torch.equal(a, b) for a, b in zip(far.model.parameters(), pruned.model.parameters(), strict=True))
