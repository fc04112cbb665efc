"""Networks and checkpoints as people have them: a preempted trial of each goes on where it stood and ends the same."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from silo_tune.errors import StudyError
from silo_tune.models.build import build_model
from silo_tune.planner.unit import Unit, make_unit
from silo_tune.run.session import look_here
from silo_tune.study import registry
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study
from silo_tune.tasks.outputs import beside_logits, logits_of
from silo_tune.training.worker import drain
from tests.conftest import small_table
from tests.test_cycle import Bench, stable
from tests.test_run import local

INPUTS = 64


class Body(nn.Module):
    """Two layers, and whatever a kind changes of them."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.backbone, self.head = nn.Linear(inputs, 16), nn.Linear(16, classes)

    def hidden(self, images: Tensor) -> Tensor:
        return torch.relu(self.backbone(images.flatten(1)))

    def forward(self, images: Tensor) -> Any:
        return self.head(self.hidden(images))


class Frozen(Body):
    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.backbone.requires_grad_(False)


class Unused(Body):
    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.spare, self.scale = nn.Linear(3, 3), nn.Parameter(torch.ones(1))


class Late(Body):
    """A layer that is used from the second epoch on, and has no momentum before."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.late = nn.Linear(16, 16)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.calls: Tensor

    def forward(self, images: Tensor) -> Tensor:
        self.calls.add_(int(self.training))
        hidden = self.hidden(images)
        logits: Tensor = self.head(torch.relu(self.late(hidden)) if int(self.calls) > 6 else hidden)
        return logits


class Whole(Body):
    """A parameter of whole numbers, and one of truth values."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.order = nn.Parameter(torch.arange(16).flip(0), requires_grad=False)
        self.shown = nn.Parameter(torch.ones(16, dtype=torch.bool), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.hidden(images)[:, self.order] * self.shown)
        return logits


class Shared(Body):
    """Two layers of one weight, and one layer in two places."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.one, self.other = nn.Linear(16, 16), nn.Linear(16, 16)
        self.other.weight = self.one.weight
        self.again = self.one

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.hidden(images)
        for layer in (self.one, self.other, self.again):
            hidden = torch.relu(layer(hidden))
        logits: Tensor = self.head(hidden)
        return logits


class Outputs(NamedTuple):
    logits: Tensor
    aux_logits: Tensor


class Auxiliary(Body):
    """As GoogLeNet of torchvision: a second classifier that answers in training alone."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.aux = nn.Linear(16, classes)

    def forward(self, images: Tensor) -> Any:
        hidden = self.hidden(images)
        return Outputs(self.head(hidden), self.aux(hidden)) if self.training else self.head(hidden)


class Dictionary(Body):
    """As the models of transformers: an ordered mapping, always."""

    def forward(self, images: Tensor) -> Any:
        hidden = self.hidden(images)
        return OrderedDict(logits=self.head(hidden), hidden_states=hidden)


KINDS: dict[str, type[Body]] = {
    "plain": Body, "frozen": Frozen, "unused": Unused, "late": Late, "whole": Whole, "shared": Shared,
    "auxiliary": Auxiliary, "dictionary": Dictionary,
}  # fmt: skip


def network(shape: tuple[int, int, int], classes: int, kind: str) -> nn.Module:
    return KINDS[kind](shape[0] * shape[1] * shape[2], classes)


def saved(place: Path, model: nn.Module, how: str) -> Path:
    """A checkpoint as people write it."""
    file = place / f"theirs.{'safetensors' if how == 'save_model' else 'pt'}"
    if how == "save_model":
        safetensors.torch.save_model(model, str(file))  # what is tied is there once
    else:
        torch.save(model.state_dict() if how == "pt" else {"epoch": 3, "state_dict": model.state_dict()}, file)
    return file


def saved_network(place: Path, kind: str, how: str) -> Path:
    return saved(place, network((8, 8, 1), 10, kind), how)


# Name → (network's table, checkpoint or None).
CASES: dict[str, tuple[dict[str, Any], Callable[[Path], Path] | None]] = {
    **{kind: ({"function": "tests.test_peoples_models:network", "version": "1", "kind": kind}, None) for kind in KINDS},
    **{
        f"{kind} of {how}": (
            {"function": "tests.test_peoples_models:network", "version": "1", "kind": kind},
            partial(saved_network, kind=kind, how=how),
        )
        for kind, how in (("shared", "save_model"), ("shared", "pt"), ("whole", "save_model"), ("frozen", "wrapped"))
    },
    "another head of timm": (
        {"name": "timm:test_resnet"},
        lambda place: saved(place, build_model({"name": "timm:test_resnet"}, (8, 8, 1), 7, 5), "save_model"),
    ),
}


def study_of(case: str, place: Path, **changes: Any) -> Study:
    model, checkpoint = CASES[case]
    table = {**small_table(retrain={"epochs": 3}, dense={"epochs": 3}), "model": model}
    if checkpoint is not None:
        torch.manual_seed(5)
        place.mkdir(exist_ok=True)
        table["dense"] = {"checkpoint": str(checkpoint(place))}
    return parse_study({**table, **{key: {**table.get(key, {}), **value} for key, value in changes.items()}})


def chain(bench: Bench) -> list[Unit]:
    """The dense unit and one of cycle 1."""
    dense = bench.unit(0, None)
    if bench.study.dense.checkpoint is not None:
        settings = bench.study.settings(bench.study.arms["silo"])
        dense = make_unit(bench.study, settings, parent=None, cycle=0, seed=0, peak=None, checkpoint="0" * 64)
    return [dense, bench.unit(1, dense)]


OPTIMIZERS: list[Mapping[str, Any]] = [{"name": "sgd"}, {"name": "adamw"}]
AFTER = ["keep", "rewind", "reinit"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda one: one["name"])
@pytest.mark.parametrize(
    ("case", "after"),
    [(case, after) for case, (_, file) in CASES.items() for after in AFTER if file is None or after != "rewind"],
)
def test_a_preempted_trial_advances_and_ends_bit_identical(
    case: str, optimizer: Mapping[str, Any], after: str, tmp_path: Path
) -> None:
    made = study_of(case, tmp_path / "files", prune={"after_prune": after}, retrain={"optimizer": optimizer})
    straight, cut = (Bench(tmp_path / name, made) for name in "ab")
    for unit in chain(straight):
        expected = straight.train(unit)
        assert expected["status"] == "ok"
        if unit.epochs:
            reached = []
            for _ in range(2):  # preempted after every epoch
                progress = cut.fresh().run(unit)
                reached.append(next(progress).epoch)
                progress.close()
            assert reached == [1, 2]
        result = drain(cut.fresh().run(unit))
        assert stable(result) == stable(expected)
        assert straight.worker.units.read_state(expected) == cut.worker.units.read_state(result)
    assert (straight.notices, cut.notices) == ([], [])


@pytest.mark.parametrize("case", CASES)
def test_the_look_finds_nothing_wrong_with_it(case: str, tmp_path: Path) -> None:
    lines = look_here(study_of(case, tmp_path / "files"), "none")
    told = [line for line in lines if "beside its logits" in line or "drawn anew" in line]
    assert len(told) == (case in ("auxiliary", "dictionary", "another head of timm"))


@pytest.mark.slow
def test_a_whole_study_of_each_network_runs(tmp_path: Path) -> None:
    for case in ("auxiliary", "dictionary", "another head of timm"):
        made = study_of(case, tmp_path / case)
        assert "failed" not in set(local(made, tmp_path / case / "run").frame.status)


@pytest.mark.parametrize("kind", ["auxiliary", "dictionary"])
@pytest.mark.parametrize("criterion", ["gradient", "snip", "synflow"])
def test_criteria_read_the_logits_of_such_outputs(kind: str, criterion: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, study_of(kind, tmp_path, prune={"criterion": criterion}))
    assert [bench.train(unit)["status"] for unit in chain(bench)] == ["ok", "ok"]
    assert criterion in registry.CRITERIA


def test_a_frozen_backbone_does_not_move(tmp_path: Path) -> None:
    bench = Bench(tmp_path, study_of("frozen", tmp_path))
    dense, first = chain(bench)
    for unit in (dense, first):
        bench.train(unit)
    states = [bench.weights(unit)["weights"]["backbone.weight"] for unit in (dense, first)]
    mask = bench.weights(first)["mask"]["backbone.weight"]
    assert torch.equal(states[1], states[0] * mask)  # it is pruned, and not trained


def test_the_head_of_a_checkpoint_that_timm_does_not_name_must_fit(tmp_path: Path) -> None:
    made = study_of("shared of pt", tmp_path)
    saved(tmp_path, network((8, 8, 1), 7, "shared"), "pt")
    with pytest.raises(StudyError, match=re.compile("does not fit the model: .*head.weight", re.DOTALL)):
        look_here(made, "none")


def test_the_body_of_timms_checkpoint_is_taken_and_only_its_head_is_drawn(tmp_path: Path) -> None:
    made = study_of("another head of timm", tmp_path)
    bench = Bench(tmp_path / "run", made)
    dense, _ = chain(bench)
    bench.train(dense)
    weights = bench.weights(dense)["weights"]
    theirs = safetensors.torch.load_file(made.dense.checkpoint or "")
    assert {name for name in theirs if not torch.equal(theirs[name], weights[name])} == {"fc.weight", "fc.bias"}


def test_logits_are_taken_from_what_people_return() -> None:
    one = torch.zeros(2, 3)
    for output in (one, Outputs(one, one), {"logits": one, "loss": one}):
        assert logits_of(output) is one
    assert beside_logits(one) == []
    assert beside_logits(Outputs(one, one)) == ["aux_logits"]
    assert beside_logits({"logits": one, "loss": one}) == ["loss"]
    assert logits_of((one, 1)) == (one, 1)  # and it is refused, as before


@pytest.mark.parametrize("kind", ["frozen", "whole"])
def test_what_a_pipeline_froze_thaws_and_what_the_network_holds_still_does_not(kind: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, study_of(kind, tmp_path))
    trainer = bench.worker.start(bench.unit(0, None))
    before = {name: parameter.requires_grad for name, parameter in trainer.parameters.items()}
    trainer.freeze(["backbone.weight", "head.weight"])
    assert not trainer.parameters["head.weight"].requires_grad
    trainer.thaw()
    assert {name: parameter.requires_grad for name, parameter in trainer.parameters.items()} == before
