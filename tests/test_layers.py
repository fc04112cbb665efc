"""Every kind of layer that a study can name: its weights are found, counted, held at zero, and used so."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

from silo_tune.errors import BadInput, StudyError
from silo_tune.models.build import build_model
from silo_tune.planner.unit import Unit
from silo_tune.pruning.criteria.scoring import Scoring
from silo_tune.pruning.in_effect import require_in_effect, used_zeros
from silo_tune.pruning.layers import SCALE, kinds_by_name
from silo_tune.pruning.masks import Masks, PrunableElements, alive, apply_masks, full_masks, prunable
from silo_tune.pruning.prune_step import scores
from silo_tune.run.session import look_here
from silo_tune.study import registry
from silo_tune.study.model import Study
from silo_tune.study.prune import DEFAULT_LAYERS, LAYERS
from silo_tune.training import trainer
from silo_tune.training.worker import drain
from tests.conftest import small_study
from tests.test_criteria import Images
from tests.test_cycle import Bench, stable
from tests.test_run import local
from tests.test_units import unit

SIDE, WIDE, WORDS = 8, 12, 6


class Conv1D(nn.Module):
    """As that of transformers: a linear layer whose weight is (inputs, outputs)."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.2 * torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, rows: Tensor) -> Tensor:
        return torch.addmm(self.bias, rows.flatten(0, -2), self.weight).view(*rows.shape[:-1], -1)


class Cells(nn.Module):
    """A recurrent cell that walks over the rows."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, rows: Tensor) -> Tensor:
        state = None
        for row in rows.unbind(1):
            state = self.cell(row, state)
        return state[0] if isinstance(state, tuple) else state  # type: ignore[return-value]


class Recurrent(nn.Module):
    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, rows: Tensor) -> Tensor:
        return self.layer(rows)[0].mean(1)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention, or attention to keys and values of other widths."""

    def __init__(self, **widths: int) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(SIDE, 2, batch_first=True, **widths)
        self.widths = widths

    def forward(self, rows: Tensor) -> Tensor:
        keys, values = (rows[..., : self.widths.get(name, SIDE)] for name in ("kdim", "vdim"))
        return self.layer(rows, keys, values)[0].flatten(1)  # type: ignore[no-any-return]


class Language(nn.Module):
    """Grey levels as words; the weights that score the words are those that embed them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDE)
        self.norm = nn.LayerNorm(WIDE)
        self.decoder = nn.Linear(WIDE, WORDS, bias=False)
        self.decoder.weight = self.embed.weight

    def forward(self, rows: Tensor) -> Tensor:
        words = (rows.flatten(1) + 2).long().clamp(0, WORDS - 1)
        return self.decoder(self.norm(self.embed(words)).mean(1))  # type: ignore[no-any-return]


class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(WORDS, WIDE)

    def forward(self, rows: Tensor) -> Tensor:
        return self.embed((rows.flatten(1) + 2).long().clamp(0, WORDS - 1))  # type: ignore[no-any-return]


# Name → (kind, body, names of its weights of that kind below the body).
BODIES: dict[str, tuple[str, Any, tuple[str, ...]]] = {
    "linear": ("linear", lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, WIDE)), ("1.weight",)),
    "conv": ("conv", lambda: nn.Sequential(nn.Conv1d(8, 4, 3), nn.Flatten()), ("0.weight",)),
    "conv-transpose": (
        "conv-transpose",
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 8)), nn.ConvTranspose2d(1, 2, 3), nn.Flatten(1, 2), nn.ConvTranspose1d(20, 2, 3)
        ),
        ("1.weight", "3.weight"),
    ),
    "conv1d-hf": ("conv1d-hf", lambda: nn.Sequential(Conv1D(WIDE, SIDE), nn.Flatten()), ("0.weight",)),
    "tied": ("embedding", Language, ("embed.weight",)),
    "bag": ("embedding", Bags, ("embed.weight",)),
    "lstm": (
        "lstm",
        lambda: Recurrent(nn.LSTM(SIDE, WIDE, num_layers=2, bidirectional=True, proj_size=5, batch_first=True)),
        tuple(
            f"layer.weight_{part}_l{layer}{end}"
            for layer in range(2)
            for end in ("", "_reverse")
            for part in ("ih", "hh", "hr")
        ),
    ),
    "lstm-cell": ("lstm", lambda: Cells(nn.LSTMCell(SIDE, WIDE)), ("cell.weight_ih", "cell.weight_hh")),
    "gru": (
        "gru",
        lambda: Recurrent(nn.GRU(SIDE, WIDE, bidirectional=True, batch_first=True)),
        tuple(f"layer.weight_{part}_l0{end}" for end in ("", "_reverse") for part in ("ih", "hh")),
    ),
    "gru-cell": ("gru", lambda: Cells(nn.GRUCell(SIDE, WIDE)), ("cell.weight_ih", "cell.weight_hh")),
    "rnn": (
        "rnn",
        lambda: Recurrent(nn.RNN(SIDE, WIDE, nonlinearity="relu", batch_first=True)),
        ("layer.weight_ih_l0", "layer.weight_hh_l0"),
    ),
    "rnn-cell": ("rnn", lambda: Cells(nn.RNNCell(SIDE, WIDE)), ("cell.weight_ih", "cell.weight_hh")),
    "attention": ("attention", Attention, ("layer.in_proj_weight",)),
    "attention-qkv": (
        "attention-qkv",
        lambda: Attention(kdim=5, vdim=3),
        ("layer.q_proj_weight", "layer.k_proj_weight", "layer.v_proj_weight"),
    ),
}


class Net(nn.Module):
    def __init__(self, body: nn.Module, classes: int) -> None:
        super().__init__()
        self.body = body
        with torch.no_grad():
            features = body(torch.zeros(2, SIDE, SIDE)).flatten(1).shape[1]
        self.head = nn.Linear(features, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images[:, 0]).flatten(1))  # type: ignore[no-any-return]


def network(shape: tuple[int, int, int], classes: int, body: str) -> nn.Module:
    return Net(BODIES[body][1](), classes)


def layers_of(body: str) -> list[str]:
    return ["linear", BODIES[body][0]]


def expected(body: str) -> list[str]:
    """The names of all prunable weights, those of the head and of an attention's output projection among them."""
    names = [f"body.{name}" for name in BODIES[body][2]]
    return [*names, *(["body.layer.out_proj.weight"] if body.startswith("attention") else []), "head.weight"]


def study_of(body: str, **changes: Any) -> Study:
    model = {"name": None, "function": "tests.test_layers:network", "version": "1", "body": body}
    prune = {"layers": layers_of(body), "rate": 0.4, **changes.pop("prune", {})}
    return small_study(model=model, prune=prune, retrain={"epochs": 2}, **changes)


def fresh(body: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return network((SIDE, SIDE, 1), 10, body)


def seen() -> Images:
    generator = torch.Generator().manual_seed(0)
    return Images(torch.randn(20, 1, SIDE, SIDE, generator=generator), torch.arange(20) % 10)


def halved(model: nn.Module, layers: list[str]) -> Masks:
    """Every second prunable weight goes."""
    masks = {
        n: torch.arange(w.numel()).view(w.shape) % 2 == 0 for n, w in prunable(model, (), False, (*layers,)).items()
    }
    apply_masks(dict(model.named_parameters()), masks)
    return masks


# --- laws of every kind ---


def test_every_kind_is_tried_here_and_no_other() -> None:
    assert {kind for kind, _, _ in BODIES.values()} == set(LAYERS)
    assert set(DEFAULT_LAYERS) == {"linear", "conv", "attention"}  # in the keys of all studies that name none


@pytest.mark.parametrize("body", BODIES)
def test_the_weights_of_a_kind_are_found_by_their_names(body: str) -> None:
    model = fresh(body)
    assert list(prunable(model, (), False, tuple(layers_of(body)))) == expected(body)
    kinds = kinds_by_name(model)
    assert {kinds[f"body.{name}"] for name in BODIES[body][2]} == {BODIES[body][0]}
    if BODIES[body][0] not in DEFAULT_LAYERS:
        others = set(expected(body)) - {f"body.{name}" for name in BODIES[body][2]}
        assert set(prunable(model)) == others | ({"body.embed.weight"} if body == "tied" else set())


@pytest.mark.parametrize("body", BODIES)
def test_the_forward_pass_uses_what_is_pruned(body: str) -> None:
    model = fresh(body)
    masks = halved(model, layers_of(body))
    require_in_effect(model, masks, seen().pixels[:2])
    found = used_zeros(model, {name: dict(model.named_parameters())[name] for name in masks}, seen().pixels[:2])
    assert found == {name: int((~mask).sum()) for name, mask in masks.items()}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """After every step: are the pruned weights exactly zero?"""
    zero: list[bool] = []
    one_step = trainer.Trainer._one_step

    def watched(self: trainer.Trainer, batch: Any) -> Tensor:
        loss = one_step(self, batch)
        zero.append(not any(bool(self.parameters[name][~mask].any()) for name, mask in self.masks.items()))
        return loss

    monkeypatch.setattr(trainer.Trainer, "_one_step", watched)
    return zero


@pytest.mark.parametrize("body", BODIES)
def test_counts_are_exact_zeros_stay_masks_shrink_and_a_preempted_unit_ends_bit_identical(
    body: str, tmp_path: Path, steps: list[bool]
) -> None:
    straight, cut = (Bench(tmp_path / name, study_of(body)) for name in "ab")
    units = [straight.unit(0, None)]
    for cycle in (1, 2):
        units.append(straight.unit(cycle, units[-1]))
    before: Mapping[str, Tensor] | None = None
    for made in units:
        result = straight.train(made)
        state = straight.weights(made)
        total = sum(mask.numel() for mask in state["mask"].values())
        assert set(state["mask"]) == set(expected(body))
        assert alive(state["mask"]) == round(total * 0.6**made.cycle)
        assert (result["status"], result["prunable"]) == ("ok", total)
        for name, mask in state["mask"].items():
            assert not state["weights"][name][~mask].any()
            assert before is None or not (mask & ~before[name]).any()
        before = state["mask"]
        progress = cut.worker.run(made)
        assert next(progress).epoch == 1
        progress.close()
        again = cut.fresh().run(made)
        assert next(again).epoch == 2  # from its partial state
        resumed = drain(again)
        assert stable(resumed) == stable(result)
        assert straight.worker.units.read_state(result) == cut.worker.units.read_state(resumed)
    assert len(steps) == 2 * sum(result["steps"] for result in map(straight.train, units))
    assert all(steps)
    assert cut.notices == []


WEIGHT_CRITERIA = sorted(name for name, one in registry.CRITERIA.items() if one.granularity == "weight")


@pytest.mark.parametrize("criterion", WEIGHT_CRITERIA)
@pytest.mark.parametrize("body", BODIES)
def test_every_criterion_scores_every_kind_or_refuses_it_by_name(body: str, criterion: str) -> None:
    kind = BODIES[body][0]
    if kind in registry.CRITERIA[criterion].not_for:
        with pytest.raises(
            StudyError, match=rf"prune.criterion: '{criterion}' says nothing of {kind}: .*leave them out"
        ):
            study_of(body, prune={"criterion": criterion})
        return
    study_of(body, prune={"criterion": criterion})
    model = fresh(body)
    elements = PrunableElements.of(model, layers=tuple(layers_of(body)))
    previous = {name: 1.1 * parameter.detach() for name, parameter in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    scoring = Scoring(elements.weights, full_masks(elements.weights), model, generator, seen(), previous)
    found = scores({"name": criterion}, elements, scoring)  # one finite score for each weight, or it raises
    assert all(bool((found[name] != 0).any()) for name in expected(body))


@pytest.mark.parametrize("criterion", ["gradient", "synflow"])
def test_a_recurrent_layer_has_slopes_in_evaluation_mode_without_cudnn_which_has_none(criterion: str) -> None:
    model = fresh("lstm")
    used: list[bool] = []
    body: Any = model.body
    body.layer.register_forward_hook(lambda *_: used.append(torch.backends.cudnn.enabled))
    elements = PrunableElements.of(model)
    scoring = Scoring(elements.weights, full_masks(elements.weights), model, torch.Generator().manual_seed(0), seen())
    before = torch.backends.cudnn.enabled
    found = registry.resolve(registry.CRITERIA[criterion].target)(scoring)
    if criterion == "gradient":
        assert used == [False]
    assert list(found) == ["head.weight"]
    assert torch.backends.cudnn.enabled == before


# --- what is refused ---


@pytest.mark.parametrize(
    ("prune", "message"),
    [
        ({"layers": ["lstn"]}, r"prune\.layers.*unknown value 'lstn'; choose from .*did you mean 'lstm'"),
        ({"layers": []}, r"prune\.layers: give at least one kind of layer: linear, conv"),
        (
            {"layers": ["linear", "gru"], "granularity": "filter", "criterion": "l1-filter"},
            r"prune\.layers: gru: no filters that can be removed",
        ),
    ],
)
def test_a_kind_that_is_none_or_has_no_filters_is_refused_where_it_is_written(
    prune: dict[str, Any], message: str
) -> None:
    with pytest.raises(StudyError, match=message):
        small_study(prune=prune)


def test_a_kind_that_the_network_lacks_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(BadInput, match=r"prune.layers: the network has no layer of gru; it has linear, lstm$"):
        prunable(fresh("lstm"), layers=("linear", "gru"))
    assert list(prunable(fresh("lstm"), layers=DEFAULT_LAYERS)) == ["head.weight"]  # those of the default may be absent


@pytest.mark.parametrize("norm", [weight_norm, parametrizations.weight_norm], ids=["old", "new"])
def test_a_recurrent_weight_that_is_computed_is_refused_by_name(norm: Any) -> None:
    model = fresh("gru")
    body: Any = model.body
    norm(body.layer, "weight_hh_l0")
    with pytest.raises(BadInput, match=r"model: body\.layer\.weight_hh_l0: computed .*prune\.skip"):
        prunable(model, layers=("gru",))
    assert list(prunable(model)) == ["head.weight"]  # untouched, it is no problem


def test_a_computed_weight_that_nobody_prunes_is_not_even_read() -> None:
    model = nn.Sequential(parametrizations.spectral_norm(nn.ConvTranspose2d(1, 2, 3)), nn.Linear(2, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert list(prunable(model)) == ["1.weight"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_only_filters_of_the_named_kinds_are_pruned() -> None:
    model = build_model({"name": "vgg19", "width": 4}, (32, 32, 3), 10, seed=0)
    from silo_tune.pruning.filters import removable

    found = removable(model, (32, 32, 3))
    some = PrunableElements.of(model, removable=found, layers=("conv",))
    assert set(some.weights) == set(found)  # all its layers with removable filters are convolutions
    with pytest.raises(BadInput, match="nothing to prune"):
        PrunableElements.of(model, removable=found, layers=("linear",))


# --- identity ---


def test_the_default_is_in_no_key_and_any_other_choice_is_in_any_order() -> None:
    plain, named = unit(), unit({"prune.layers": ["attention", "linear", "conv"]})
    assert plain.key == named.key
    assert "layers" not in named.spec["prune"]
    one, other = unit({"prune.layers": ["linear", "lstm"]}), unit({"prune.layers": ["lstm", "linear"]})
    assert one.key == other.key != plain.key
    assert one.spec["prune"]["layers"] == ["linear", "lstm"]
    assert Unit.from_spec(json.loads(json.dumps(one.spec))).prune == one.prune


def test_a_tied_weight_is_pruned_once_by_its_first_name_whatever_layer_is_named() -> None:
    model = fresh("tied")
    for layers in (("linear",), ("embedding",), ("linear", "embedding")):
        found = prunable(model, layers=layers)
        assert [name for name in found if "embed" in name or "decoder" in name] == ["body.embed.weight"]


class Lent(nn.Module):
    """The weight of a layer is a parameter of the network itself."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.lent = nn.Parameter(0.1 * torch.randn(classes, SIDE * SIDE))
        self.norm = nn.LayerNorm((SIDE, SIDE))
        self.head = nn.Linear(SIDE * SIDE, classes)
        self.head.weight = self.lent

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(images[:, 0]).flatten(1))  # type: ignore[no-any-return]


def lent(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Lent(classes)


def test_a_weight_that_a_layer_borrows_is_its_own_kind(tmp_path: Path) -> None:
    assert list(prunable(Lent(10))) == ["lent"]
    made = small_study(model={"name": None, "function": "tests.test_layers:lent", "version": "1"})
    lines = look_here(made, "none")
    assert lines[-1].split() == ["lent", "linear", "640"]
    assert not any("can name" in line for line in lines)
    assert "failed" not in set(local(made, tmp_path / "run").frame.status)


def test_norm_scales_stay_a_choice_of_their_own() -> None:
    model = fresh("tied")
    assert "body.norm.weight" not in prunable(model, layers=("embedding",))
    assert "body.norm.weight" in prunable(model, norm_scales=True, layers=("embedding",))
    assert SCALE not in LAYERS


# --- what is told ---


def test_plan_tells_every_prunable_layer_and_what_could_be_one() -> None:
    without = look_here(study_of("lstm", prune={"layers": ["linear"]}), "none")
    assert re.search(r"100 prunable .*\(prune\.layers can name lstm\)$", without[1])
    lines = look_here(study_of("lstm"), "none")
    total = sum(weight.numel() for weight in prunable(fresh("lstm"), layers=("linear", "lstm")).values())
    assert f" {total:,} prunable " in lines[1]
    table = [line.split() for line in lines[lines.index("prunable weights by layer:") + 1 :]]
    assert [row[0] for row in table] == expected("lstm")
    assert table[0] == ["body.layer.weight_ih_l0", "lstm", f"{4 * WIDE * SIDE:,}"]
    assert sum(int(row[2].replace(",", "")) for row in table) == total


def test_the_table_and_the_report_count_prunable_weights_with_their_whole(tmp_path: Path) -> None:
    from silo_analysis.answers.facts import facts
    from silo_analysis.estimates.summary import summarise

    made = study_of("gru", cycles=2)
    frame = local(made, tmp_path / "run").frame
    weights = prunable(fresh("gru"), layers=("linear", "gru"))
    some = sum(weight.numel() for weight in weights.values())
    whole = sum(parameter.numel() for parameter in fresh("gru").parameters())
    assert set(frame.prunable) == {some}
    assert set(frame.parameters) == {whole}
    told = dict(facts(summarise(frame, made), frame, {}))
    assert told["Prunable weights"].startswith(f"{some:,} of {whole:,} (")
    assert told["Prunable weights"].endswith("in layers of linear, gru")


def test_weights_that_lie_in_one_storage_are_masked_where_they_lie_and_told_apart() -> None:
    """As cuDNN lays out a recurrent layer."""
    model = fresh("gru")
    own = {name: parameter for name, parameter in model.named_parameters() if ".layer." in name}
    whole = torch.cat([parameter.detach().flatten() for parameter in own.values()])
    for parameter, part in zip(own.values(), whole.split([one.numel() for one in own.values()]), strict=True):
        parameter.data = part.view(parameter.shape)
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in own.items() if "weight" in name}
    masks["body.layer.weight_hh_l0"][0] = False
    apply_masks(own, masks)
    assert int((whole == 0).sum()) >= WIDE  # in place
    found = used_zeros(model, {name: own[name] for name in masks}, seen().pixels[:2])
    assert found == {name: WIDE if name == "body.layer.weight_hh_l0" else 0 for name in masks}
