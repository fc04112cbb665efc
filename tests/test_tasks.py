"""Tasks: scores are scikit-learn's, losses torch's, a guess is the best constant, and a user's mistakes are theirs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from silo_tune.errors import BadInput
from silo_tune.study.scores import SCORES
from silo_tune.study.task import LOSSES, TaskSpec
from silo_tune.tasks.making import make_task
from silo_tune.tasks.seam import Task
from silo_tune.tasks.supervised import Supervised

N, K = 83, 3
RANDOM = torch.Generator().manual_seed(3)


def targets(kind: str) -> Tensor:
    if kind == "classification":
        return (torch.rand(N, generator=RANDOM) ** 2 * K).long()
    if kind == "regression":
        return 30 + 7 * torch.randn(N, 2, generator=RANDOM)
    shape = (N, K) if kind == "multilabel" else (N,)
    return (torch.rand(shape, generator=RANDOM) < 0.3).long()


class Given(nn.Module):
    """A network whose outputs are its inputs, times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.weight


def made(kind: str, wanted: Tensor, **table: Any) -> Task:
    outputs = K if kind in ("classification", "multilabel") else 2 if kind == "regression" else 1
    return make_task(TaskSpec.model_validate({"name": kind, **table}), outputs, wanted)


def batches(outputs: Tensor, wanted: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(outputs.split(20), wanted.split(20), strict=True)


def theirs(kind: str, name: str, o: Any, t: Any) -> float:
    """The score by scikit-learn, from logits or numbers."""
    if kind == "regression":
        pearson = [np.corrcoef(o[:, i], t[:, i])[0, 1] for i in range(2)]
        ranks = [np.corrcoef(o[:, i].argsort().argsort(), t[:, i].argsort().argsort())[0, 1] for i in range(2)]
        known = {
            "rmse": math.sqrt(sk.mean_squared_error(t, o)), "mse": sk.mean_squared_error(t, o),
            "mae": sk.mean_absolute_error(t, o), "r2": sk.r2_score(t, o), "pearson": np.mean(pearson),
            "spearman": np.mean(ranks),
        }  # fmt: skip
        return float(known[name])
    if kind == "classification":
        p = np.exp(o) / np.exp(o).sum(1, keepdims=True)
        chosen, tops = o.argmax(1), {"auroc": {"multi_class": "ovr"}}
    else:
        p = 1 / (1 + np.exp(-o))
        chosen, tops = (p > 0.5).astype(int), {}
    single = kind != "multilabel"
    measures: dict[str, Any] = {
        "accuracy": lambda: sk.accuracy_score(t, chosen) if single else (t == chosen).mean(),
        "exact-match": lambda: sk.accuracy_score(t, chosen),
        "top-5-accuracy": lambda: 1.0,
        "balanced-accuracy": lambda: sk.balanced_accuracy_score(t, chosen),
        "precision": lambda: sk.precision_score(t, chosen),
        "recall": lambda: sk.recall_score(t, chosen),
        "f1": lambda: sk.f1_score(t, chosen),
        "f1-macro": lambda: sk.f1_score(t, chosen, average="macro"),
        "auroc": lambda: sk.roc_auc_score(t, p, **tops.get(name, {})),
        "average-precision": lambda: sk.average_precision_score(np.eye(K)[t] if kind == "classification" else t, p),
        "matthews": lambda: sk.matthews_corrcoef(t, chosen),
        "brier": lambda: sk.brier_score_loss(t, p),
        "log-loss": lambda: sk.log_loss(t, p) if single else np.mean([sk.log_loss(t[:, i], p[:, i]) for i in range(K)]),
    }
    return float(measures[name]())


PAIRS = [(kind, name) for name, score in SCORES.items() for kind in score.tasks if kind != "language-model"]


@pytest.mark.parametrize(("kind", "name"), PAIRS, ids=str)
def test_a_score_is_that_of_scikit_learn(kind: str, name: str) -> None:
    wanted = targets(kind)
    task = made(kind, wanted, score=name)
    noise = torch.randn((N, K) if kind == "classification" else wanted.shape, generator=RANDOM)
    by_kind: dict[str, Any] = {
        "classification": lambda: F.one_hot(wanted, K) * 2.0,
        "regression": lambda: (wanted - wanted.mean(0)) / wanted.std(0),
    }
    outputs = 0.7 * noise + by_kind.get(kind, lambda: 2.0 * wanted - 1.0)()
    with torch.inference_mode():
        found = task.evaluate(Given(), batches(outputs, wanted), N)
    judged = (
        outputs.double() * wanted.double().std(0, correction=0) + wanted.double().mean(0)
        if kind == "regression"
        else outputs
    )
    assert found.score == pytest.approx(theirs(kind, name, judged.double().numpy(), wanted.numpy()), abs=1e-6)
    assert (found.examples is not None) == SCORES[name].mean_over_examples
    if found.examples is not None:
        assert found.score == pytest.approx(float(found.examples.mean(dtype=np.float64)), abs=1e-6)
    assert SCORES[name].low <= found.score <= SCORES[name].high
    assert task.guess is not None
    assert SCORES[name].low <= task.guess.score <= SCORES[name].high
    if name != "top-5-accuracy":  # of three classes
        assert (found.score - task.guess.score) * SCORES[name].sign > 0


ARGUMENTS: dict[str, Any] = {
    "label_smoothing": 0.1, "class_weights": [1.0, 2.0, 0.5], "pos_weight": 3.0, "gamma": 1.5, "delta": 0.7, "q": 0.8,
}  # fmt: skip
ALL_LOSSES = [
    (kind, name, key)
    for kind, losses in LOSSES.items()
    for name, keys in losses.items()
    for key in ("", *keys)
    if kind != "language-model"
]


@pytest.mark.parametrize(("kind", "name", "key"), ALL_LOSSES, ids=str)
def test_a_loss_is_a_mean_has_a_slope_and_its_best_constant_is_the_guess(kind: str, name: str, key: str) -> None:
    wanted = targets(kind)
    loss = {"name": name, **({key: ARGUMENTS[key]} if key else {})}
    task = made(kind, wanted, loss=loss)
    outputs = torch.randn((N, K) if kind == "classification" else wanted.shape, generator=RANDOM)
    model = Given()
    whole = task.losses(model, (outputs, wanted)).objective
    whole.backward()
    assert model.weight.grad is not None
    assert float(model.weight.grad.abs()) > 0
    with torch.inference_mode():
        told = task.evaluate(model, batches(outputs, wanted), N).loss
    assert told == pytest.approx(float(whole.detach()), rel=1e-5)
    assert float(task.summed(model, (outputs, wanted)).detach()) == pytest.approx(float(whole.detach()) * N, rel=1e-5)
    # No constant of a thousand is better than the guess, but for the two losses whose best is only near it.
    guess = task.guess
    assert guess is not None
    tried = torch.randn((1000, *outputs.shape[1:]), generator=RANDOM)
    least = min(float(task.losses(model, (one.expand(outputs.shape), wanted)).told.detach()) for one in tried)
    assert least >= guess.loss * (0.8 if name in ("focal", "huber") else 1 - 1e-6)


@pytest.mark.parametrize("kind", ["binary", "multilabel"])
def test_a_network_that_knows_nothing_of_rare_labels_has_not_diverged(kind: str) -> None:
    shape = (1000,) if kind == "binary" else (1000, 4)
    rare = (torch.rand(shape, generator=RANDOM) < 0.02).long()
    guess = made(kind, rare).guess
    assert guess is not None
    assert guess.loss < 0.15
    assert guess.blank == pytest.approx(math.log(2), rel=1e-5)
    assert guess.highest == guess.blank


def test_of_balanced_classes_and_of_numbers_the_guess_knows_nothing_either() -> None:
    for kind, wanted in (("classification", torch.arange(90) % 3), ("regression", targets("regression"))):
        guess = made(kind, wanted).guess
        assert guess is not None
        assert guess.highest == pytest.approx(guess.loss, rel=1e-5)


def test_losses_with_arguments_are_those_of_torch() -> None:
    wanted, yes = targets("classification"), targets("binary")
    outputs, logits = torch.randn(N, K, generator=RANDOM), torch.randn(N, generator=RANDOM)
    weights = [1.0, 2.0, 0.5]
    found = made(
        "classification", wanted, loss={"name": "cross-entropy", "class_weights": weights, "label_smoothing": 0.1}
    )
    by_torch = F.cross_entropy(outputs, wanted, torch.tensor(weights), label_smoothing=0.1)
    assert torch.equal(found.losses(Given(), (outputs, wanted)).told, by_torch)
    found = made("binary", yes, loss={"name": "cross-entropy", "pos_weight": 3.0})
    by_torch = F.binary_cross_entropy_with_logits(logits, yes.float(), pos_weight=torch.tensor(3.0))
    assert torch.equal(found.losses(Given(), (logits[:, None], yes)).told, by_torch)
    plain = made("binary", yes, loss={"name": "focal", "gamma": 0.0}).losses(Given(), (logits, yes)).told
    assert float(plain.detach()) == pytest.approx(
        float(F.binary_cross_entropy_with_logits(logits, yes.float())), rel=1e-5
    )


def test_a_regression_is_scored_in_the_unit_of_its_target_and_minimised_without_it() -> None:
    wanted = targets("regression")
    small, large = made("regression", wanted), made("regression", 1000 * wanted)
    outputs = torch.randn(wanted.shape, generator=RANDOM)
    with torch.inference_mode():
        one, other = (t.evaluate(Given(), [(outputs, w)], N) for t, w in ((small, wanted), (large, 1000 * wanted)))
    assert other.score == pytest.approx(1000 * one.score, rel=1e-5)
    assert other.loss == pytest.approx(one.loss, rel=1e-5)
    assert small.guess is not None
    assert small.guess.loss == pytest.approx(1.0, rel=1e-5)
    assert small.guess.score == pytest.approx(float(wanted.double().var(0, correction=0).mean().sqrt()), rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "given", "told"),
    [
        ("binary", (20, 2), r"gives \(20, 2\) for a batch of 20 examples; it must give a tensor \(20,\), one number"),
        ("regression", (20, 1), r"must give a tensor \(20, 2\), one number for each target"),
        ("multilabel", (20, 2), r"must give a tensor \(20, 3\), one number for each label"),
        ("classification", (20,), r"must give a tensor \(20, 3\), one number for each class"),
    ],
)
def test_outputs_that_do_not_fit_are_told_with_the_shape(kind: str, given: tuple[int, ...], told: str) -> None:
    wanted = targets(kind)
    with pytest.raises(BadInput, match=told):
        made(kind, wanted).losses(Given(), (torch.zeros(given), wanted[:20]))


@pytest.mark.parametrize(("kind", "lacking"), [("binary", torch.zeros(9)), ("classification", torch.arange(9) % 2)])
def test_a_part_without_a_class_has_no_ranking_of_it(kind: str, lacking: Tensor) -> None:
    wanted = targets(kind)
    task = made(kind, wanted, score="auroc")
    assert isinstance(task, Supervised)
    task.require_classes("test", wanted)
    with pytest.raises(BadInput, match=r"auroc needs an example of each class, and the test part \(9\) lacks one"):
        task.require_classes("test", lacking.long())
    made(kind, wanted).require_classes("test", lacking.long())  # type: ignore[attr-defined]


# --- a user's own task ---


class Own:
    """Mean absolute difference, as a user writes it."""

    def loss(self, model: nn.Module, batch: Any) -> Any:
        return (model(batch["x"]) - batch["y"]).abs().mean()

    def evaluate(self, model: nn.Module, batches: Any) -> Any:
        values = torch.cat([(model(batch["x"]) - batch["y"]).abs() for batch in batches])
        return {"mae": values.mean(), "loss": float(values.mean()), "examples": values}


class Hostile(Own):
    def __init__(self, how: str = "no number", **_: Any) -> None:
        self.how = how

    def loss(self, model: nn.Module, batch: Any) -> Any:
        loss = super().loss(model, batch)
        known = {"no scalar": loss[None], "no tensor": 1.0, "no slope": loss.detach()}
        if self.how == "raises":
            raise KeyError("boxes")
        return known.get(self.how, loss)

    def evaluate(self, model: nn.Module, batches: Any) -> Any:
        list(batches)
        known = {"no mapping": 0.5, "no loss": {"mae": 0.5}, "no number": {"mae": "much", "loss": 1.0}}
        return known.get(self.how, {"mae": -2.0, "loss": 1.0})


def own(function: str = "Own", **args: Any) -> Task:
    table = {"function": f"tests.test_tasks:{function}", "version": "1", "score": "mae", "args": args}
    return make_task(TaskSpec.model_validate(table), 1, None)


def test_an_own_task_calls_the_network_as_it_likes() -> None:
    task, batch = own(), {"x": torch.tensor([1.0, 2.0]), "y": torch.tensor([1.5, 1.0])}
    assert float(task.losses(Given(), batch).told.detach()) == 0.75
    with torch.inference_mode():
        found = task.evaluate(Given(), [batch], 2)
    assert (found.score, found.loss) == (0.75, 0.75)
    assert found.examples is not None
    assert found.examples.tolist() == [0.5, 1.0]
    assert task.guess is None


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("no scalar", r"task: Hostile.loss must give one number, .* it gave a tensor \(1,\)"),
        ("no tensor", "must give one number, .* it gave float"),
        ("no slope", "does not depend on the network's weights"),
        ("raises", r"Hostile.loss raised KeyError: 'boxes' \(.*test_tasks.py, line \d+\)"),
        ("no mapping", "must give a mapping with the score by its name .* it gave float"),
        ("no loss", "it gave the keys 'mae'"),
        ("no number", "gave mae = 'much', which is no number"),
        ("out of range", r"gave mae = -2, which lies in \[0, inf\]"),
    ],
)
def test_mistakes_of_an_own_task_are_told_as_the_users(how: str, told: str) -> None:
    task, batch = own("Hostile", how=how), {"x": torch.tensor([1.0]), "y": torch.tensor([1.5])}

    def both() -> None:
        task.losses(Given(), batch)
        task.evaluate(Given(), [batch], 1)

    with pytest.raises(BadInput, match=told):
        both()


def test_a_class_that_is_no_task_is_told() -> None:
    with pytest.raises(BadInput, match=r"has no loss and no evaluate; a task is a class with loss\(model, batch\)"):
        own("Given")
    with pytest.raises(BadInput, match="raised TypeError"):
        own("Own", strange=1)
