"""Any optimizer, steps of several batches, decay of weights alone, and users' profiles; and what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from silo_tune.errors import BadInput, StudyError
from silo_tune.planner.unit import make_unit
from silo_tune.run.session import look_here
from silo_tune.study.study_file import parse_study
from silo_tune.training.optimizers import decayed_of, make_optimizer
from silo_tune.training.worker import drain
from tests.conftest import small_study, small_table
from tests.test_cycle import Bench, stable

ADAFACTOR = pytest.mark.skipif(not hasattr(torch.optim, "Adafactor"), reason="torch has it since 2.5")
TORCH = [
    "ASGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
]
TORCH = [name for name in TORCH if hasattr(torch.optim, name)]
ARGUMENTS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    "RMSprop": {"momentum": 0.5, "centered": True},
    "Adam": {"amsgrad": True, "betas": [0.8, 0.9]},
}


class Sign(torch.optim.Optimizer):
    """Signs of a momentum; counts its steps in numbers of a parameter and of a group, and not in tensors."""

    def __init__(self, params: Iterable[Any], lr: float, beta: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "weight_decay": weight_decay, "scale": 1.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["scale"] *= 0.97
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                state["steps"] = state.get("steps", 0) + 1
                mean = state.setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["beta"])
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(mean.sign(), alpha=group["lr"] * group["scale"] / (1 + state["steps"]))


class Hidden(Sign):
    """Counts where no state is."""

    count = 0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.count += 1
        for group in self.param_groups:
            group["scale"] = 1.0 / self.count
        super().step()


class Closure(Sign):
    def step(self, closure: Any) -> None:  # type: ignore[override]
        super().step()


class Listed(Sign):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step()
        for weight in self.param_groups[0]["params"]:
            self.state[weight]["history"] = [1, 2]


def half(params: Any, lr: float) -> Any:
    return torch.optim.SGD(list(params)[:1], lr=lr)


def nothing(params: Any, lr: float) -> Any:
    return None


def of(name: str) -> dict[str, Any]:
    if name in TORCH:
        return {"name": name, **ARGUMENTS.get(name, {})}
    return {"function": f"tests.test_optimizers:{name}", "version": "1"}


# --- any optimizer ---


@pytest.mark.parametrize("name", [*TORCH, "Sign"])
def test_a_preempted_trial_of_every_optimizer_ends_bit_identical_and_pruned(name: str, tmp_path: Path) -> None:
    study = small_study(retrain={"epochs": 3, "optimizer": of(name)}, dense={"epochs": 3})
    straight, cut = (Bench(tmp_path / place, study) for place in "ab")
    dense = straight.unit(0, None, {"value": 0.003})
    for unit in (dense, straight.unit(1, dense, {"value": 0.003})):
        expected = straight.train(unit)
        for _ in range(2):
            progress = cut.fresh().run(unit)
            next(progress)
            progress.close()
        result = drain(cut.fresh().run(unit))
        assert stable(result) == stable(expected)
        assert straight.worker.units.read_state(expected) == cut.worker.units.read_state(result)
    assert cut.notices == []
    state = straight.weights(unit)
    assert all(not state["weights"][n][~mask].any() for n, mask in state["mask"].items())
    assert expected["weights_remaining"] == pytest.approx(0.8, abs=1e-4)


def test_what_torch_calls_adamw_is_what_the_study_calls_so(tmp_path: Path) -> None:
    ends = []
    for number, optimizer in enumerate(("adamw", {"name": "AdamW", "weight_decay": 0.01, "fused": True})):
        bench = Bench(tmp_path / str(number), small_study(retrain={"optimizer": optimizer}))
        bench.train(unit := bench.unit(0, None, {"value": 0.003}))
        ends.append(bench.weights(unit)["weights"])
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@ADAFACTOR
def test_pruned_weights_count_for_nothing_in_an_optimizer_of_whole_layers(tmp_path: Path) -> None:
    bench = Bench(tmp_path, small_study(retrain={"optimizer": "Adafactor"}))
    bench.train(dense := bench.unit(0, None))
    trainer = bench.worker.start(bench.unit(1, dense))
    trainer.one_step()
    for name, mask in trainer.masks.items():
        grad = trainer.parameters[name].grad
        assert grad is not None
        assert not grad[~mask].any()


@pytest.mark.parametrize(
    ("optimizer", "told"),
    [
        ("Adan", r"unknown class of torch.optim 'Adan'; choose from .*did you mean 'Adam'"),
        ({"name": "Adam", "beta": 0.9}, r"unknown argument of Adam 'beta'; .*did you mean 'betas'"),
        ({"name": "Adam", "betas": 0.9}, r"Adam takes a value like \(0.9, 0.999\), got 0.9"),
        ({"name": "SGD", "nesterov": "yes"}, "SGD takes a value like False, got 'yes'"),
        ({"name": "SGD", "momentum": -1.0}, "SGD cannot be made: ValueError: Invalid momentum value"),
        ("LBFGS", r"LBFGS cannot train a network here: .*\(a closure\)"),
        ("SparseAdam", "SparseAdam cannot train a network here: it takes sparse gradients alone"),
        (of("Closure"), r"Closure cannot train a network here: .*\(a closure\)"),
        (of("half"), "must train just the parameters that it is given"),
        (of("nothing"), "must give a torch.optim.Optimizer; it gave a NoneType"),
        ({**of("Sign"), "gamma": 1}, "cannot be made: .*unexpected keyword argument 'gamma'"),
        (of("Listed"), "its state 'history' is a list"),
        (of("Hidden"), "its next step is another after a resume"),
        ({"function": "tests.test_optimizers:none", "version": "1"}, "has no function 'none'"),
    ],
    ids=str,
)
def test_mistakes_in_an_optimizer_are_told_before_anything_is_trained(optimizer: Any, told: str) -> None:
    study = small_study(retrain={"optimizer": optimizer})
    with pytest.raises(StudyError, match=f"(?s)^retrain.optimizer.*{told}"):
        look_here(study, "none")


@pytest.mark.parametrize(
    ("optimizer", "told"),
    [
        ("adam", "unknown optimizer 'adam'; choose from Adam .*did you mean 'Adam'"),
        ({"name": "Adam", "lr": 0.1}, "leave lr out"),
        ({"function": "mine:make"}, "a function needs a version"),
        ({"momentum": 0.9}, "give either name or function"),
    ],
)
def test_a_study_refuses_what_it_can_see_of_an_optimizer(optimizer: Any, told: str) -> None:
    with pytest.raises(StudyError, match=f"retrain.optimizer: {told}"):
        small_study(retrain={"optimizer": optimizer})


# --- steps of several batches ---


def after(
    tmp_path: Path, table: dict[str, Any] | None = None, **retrain: Any
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Result and weights of a dense training."""
    bench = Bench(tmp_path, parse_study({**small_table(retrain=retrain), **(table or {})}))
    result = bench.train(unit := bench.unit(0, None, {"value": 0.1}))
    return result, bench.weights(unit)["weights"]


WEIGHTED = {"name": "classification", "loss": {"name": "cross-entropy", "class_weights": [1.0] * 5 + [3.0] * 5}}


@pytest.mark.parametrize("task", [None, WEIGHTED], ids=["mean", "weighted"])
@pytest.mark.parametrize("images", [128, 97], ids=["whole", "rest"])
def test_several_batches_are_one_large_one(task: Any, images: int, tmp_path: Path) -> None:
    table: dict[str, Any] = {"data": {**small_table()["data"], "train_examples": images}}
    table |= {"task": task} if task else {}
    one, large = after(tmp_path / "a", table, batch=32)
    several, parts = after(tmp_path / "b", table, batch=8, accumulate=4)
    assert one["steps"] == several["steps"]
    assert one["train_loss"] == pytest.approx(several["train_loss"], rel=1e-4)
    assert all(torch.allclose(large[name], parts[name], atol=1e-5) for name in large)
    alone = after(tmp_path / "c", table, batch=8)[1]
    assert not all(torch.allclose(large[name], alone[name], atol=1e-3) for name in large)


def test_one_batch_a_step_changes_no_key_and_several_do() -> None:
    def key(**retrain: Any) -> str:
        study = small_study(retrain=retrain)
        settings = study.settings(study.arms["silo"])
        return make_unit(study, settings, parent=None, cycle=0, seed=0, peak={"value": 0.1}).key

    keys = [key(), key(accumulate=1, decay="all"), key(accumulate=2), key(decay="weights")]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


# --- decay of weights alone ---


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(64, 16), nn.LayerNorm([4, 4]), nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.norm(self.first(images.flatten(1)).view(-1, 4, 4))
        logits: Tensor = self.last(hidden.flatten(1))
        return logits


def network(shape: tuple[int, ...], classes: int) -> nn.Module:
    return Normed()


@pytest.mark.parametrize("optimizer", [{"name": "sgd", "weight_decay": 0.1}, {"name": "Adam", "weight_decay": 0.1}])
@pytest.mark.parametrize("decay", ["all", "weights"])
def test_decay_leaves_biases_and_norms_alone(optimizer: dict[str, Any], decay: str) -> None:
    """Without gradients, what moves is what decays."""
    model = Normed()
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
        parameter.grad = torch.zeros_like(parameter)
    settings = {"momentum": 0.0, "nesterov": False, **optimizer} if optimizer["name"] == "sgd" else optimizer
    decayed = decayed_of(model) if decay == "weights" else None
    make_optimizer(list(model.parameters()), settings, 0.1, decayed).step()
    moved = {name for name, parameter in model.named_parameters() if not (parameter == 1).all()}
    weights = {"first.weight", "last.weight"}
    assert moved == (weights if decay == "weights" else {name for name, _ in model.named_parameters()})


def test_a_trial_decays_as_its_study_says_and_resumes(tmp_path: Path) -> None:
    retrain = {"decay": "weights", "epochs": 3, "optimizer": {"name": "adamw", "weight_decay": 0.5}}
    model = {"name": None, "function": "tests.test_optimizers:network", "version": "1"}
    study = small_study(retrain=retrain, dense={"epochs": 3}, model=model)
    straight, cut = (Bench(tmp_path / place, study) for place in "ab")
    unit = straight.unit(0, None, {"value": 0.003})
    assert [len(group["params"]) for group in straight.worker.start(unit).optimizer.param_groups] == [2, 4]
    expected = straight.train(unit)
    progress = cut.fresh().run(unit)
    next(progress)
    progress.close()
    assert stable(drain(cut.fresh().run(unit))) == stable(expected)


def test_decay_of_an_optimizer_that_has_none_is_refused() -> None:
    study = small_study(retrain={"decay": "weights", "optimizer": "Rprop"})
    with pytest.raises(StudyError, match=r"retrain\.decay: Rprop has no weight_decay above 0"):
        look_here(study, "none")


# --- users' profiles ---


def falling(step: int, total: int, power: float = 1.0) -> float:
    return float((1 - step / total) ** power)


def wrong(step: int, total: int, value: float) -> float:
    return value if step == total - 1 else 0.5


def zero(step: int, total: int) -> float:
    return 0.0


def text(step: int, total: int) -> str:
    return "high"


def shape(name: str, **args: Any) -> dict[str, Any]:
    return {"function": f"tests.test_optimizers:{name}", "version": "1", **args}


def test_a_users_profile_is_a_registered_one_of_the_same_numbers(tmp_path: Path) -> None:
    dense = small_table()["dense"]
    ends = [
        after(tmp_path / str(number), {"dense": {**dense, "profile": profile}})
        for number, profile in enumerate(("linear", shape("falling"), shape("falling", power=2.0)))
    ]
    assert stable(ends[0][0]) == stable(ends[1][0])
    assert all(torch.equal(ends[0][1][name], ends[1][1][name]) for name in ends[0][1])
    assert stable(ends[2][0]) != stable(ends[1][0])
    assert ends[1][0]["realised_peak_lr"] == 0.1


@pytest.mark.parametrize("where", ["dense", "retrain", "arms"])
@pytest.mark.parametrize(
    ("profile", "told"),
    [
        (shape("wrong", value=math.nan), "gives nan at step"),
        (shape("wrong", value=-0.1), "gives -0.1 at step"),
        (shape("wrong", value=1.5), "gives 1.5 at step .*shares of max_lr, from 0 to 1"),
        (shape("text"), "gives 'high' at step 0"),
        (shape("falling", power="two"), "TypeError"),
        (shape("none"), "has no function 'none'"),
    ],
    ids=["nan", "negative", "above", "text", "raises", "missing"],
)
def test_mistakes_in_a_profile_are_told_before_anything_is_trained(
    profile: dict[str, Any], told: str, where: str
) -> None:
    table = small_table()
    table[where] |= {"profile": profile} if where != "arms" else {"flat": {**table["arms"]["flat"], "profile": profile}}
    with pytest.raises((StudyError, BadInput), match=told):
        look_here(parse_study(table), "none")


def test_what_replays_the_dense_profile_refuses_a_function() -> None:
    table = small_table(dense={"profile": shape("falling"), "epochs": 4})
    table["arms"] = {"again": {"preset": "lr-rewinding"}}
    with pytest.raises(StudyError, match="its profile is a function, which cannot be replayed"):
        parse_study(table)


def test_a_profile_that_never_reaches_its_peak_is_told() -> None:
    lines = look_here(small_study(retrain={"profile": shape("wrong", value=0.25)}), "none")
    assert [line for line in lines if "reaches 0.5 of max_lr at most" in line]
    with pytest.raises(StudyError, match="is 0 at every step"):
        look_here(small_study(retrain={"profile": shape("zero")}), "none")
