"""Scores worked out by hand on networks of a few weights, and what holds for every criterion."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from silo_tune.errors import BadInput
from silo_tune.models.build import build_model
from silo_tune.planner.unit import PruneSpec
from silo_tune.pruning.criteria.filter_scores import entropy, l1_filter, mean_activation
from silo_tune.pruning.criteria.scoring import Scoring
from silo_tune.pruning.criteria.weight_scores import gradient, lamp, last_change, last_change_magnitude, snip, synflow
from silo_tune.pruning.filters import Filters, removable
from silo_tune.pruning.masks import Masks, PrunableElements, alive, apply_masks, full_masks
from silo_tune.pruning.prune_step import next_masks, scores
from silo_tune.study import registry
from silo_tune.study.model import Study
from silo_tune.tasks.seam import Task
from silo_tune.tasks.supervised import classification
from silo_tune.training.worker import drain
from tests.conftest import small_study
from tests.test_cycle import Bench

LN3 = math.log(3)


TASK = classification()


@dataclass
class Images:
    """Training images in memory."""

    pixels: Tensor  # (N, C, H, W)
    labels: Tensor
    task: Task = TASK

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.pixels.shape[2], self.pixels.shape[3], self.pixels.shape[1])

    def batches(self, positions: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for part in positions.split(batch):
            yield self.pixels[part], self.labels[part]


def images(rows: list[list[float]], labels: list[int]) -> Images:
    return Images(torch.tensor(rows, dtype=torch.float32)[:, None, None, :], torch.tensor(labels))


def network(*layers: list[list[float]]) -> nn.Module:
    """Linear layers of these weights without biases, ReLU in between."""
    parts: list[nn.Module] = [nn.Flatten()]
    for weight in layers:
        layer = nn.Linear(len(weight[0]), len(weight), bias=False)
        layer.weight.data = torch.tensor(weight)
        parts += [layer, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def scoring(model: nn.Module, seen: Images | None = None, **more: Any) -> Scoring:
    weights = dict(PrunableElements.of(model).weights)
    return Scoring(weights, full_masks(weights), model, torch.Generator().manual_seed(0), seen, **more)


def close(found: Tensor, expected: Any) -> bool:
    return torch.allclose(found.double(), torch.tensor(expected, dtype=torch.float64), atol=1e-6)


# --- by hand ---

# For the image (1, 1) the logits are ln 3 and 0, so that the classes have probability 3/4 and 1/4.
WEIGHTS = [[LN3 + 1, -1.0], [2.0, -2.0]]


def test_gradient_is_the_weight_times_the_mean_gradient() -> None:
    # dL/dz₀ is 3/4 − 1 for label 0 and 3/4 for label 1; its mean over labels 0, 1, 1 is 5/12; dL/dz₁ is −5/12.
    found = gradient(scoring(network(WEIGHTS), images([[1, 1]] * 3, [0, 1, 1])), images=3)
    assert close(found["1.weight"], [[(LN3 + 1) * 5 / 12, 5 / 12], [10 / 12, 10 / 12]])


def test_gradient_looks_at_as_many_images_as_asked() -> None:
    seen = images([[1, 1]] * 3, [0, 1, 1])
    one = gradient(scoring(network(WEIGHTS), seen), images=1)["1.weight"][1, 0]
    assert any(math.isclose(float(one), 2 * slope, rel_tol=1e-6) for slope in (1 / 4, 3 / 4))


def test_snip_is_the_share_of_the_sensitivity_on_a_balanced_batch() -> None:
    # One image of each class: dL/dz₀ = (−1/4 + 3/4) / 2 = 1/4 = −dL/dz₁. The factor 1/4 cancels in the share.
    found = snip(scoring(network(WEIGHTS), images([[1, 1]] * 5, [0, 1, 1, 1, 1])), per_class=1)
    total = (LN3 + 1) + 1 + 2 + 2
    assert close(found["1.weight"], [[(LN3 + 1) / total, 1 / total], [2 / total, 2 / total]])


def test_synflow_is_conserved_from_layer_to_layer() -> None:
    # |w|: an input of ones gives the hidden unit 1 + 2 = 3 and the outputs 9 and 12, so R = 21.
    found = synflow(scoring(network([[1.0, -2.0]], [[3.0], [-4.0]]), images([[0, 0]], [0])))
    assert close(found["1.weight"], [[7, 14]])
    assert close(found["3.weight"], [[9], [12]])
    assert found["1.weight"].dtype == torch.float64


def test_synflow_of_a_trained_batch_norm_is_not_cut_by_its_mean() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1, eps=0), nn.Linear(1, 1))
    model[1].weight.data = torch.tensor([[1.0, -2.0]])
    model[3].weight.data = torch.tensor([[-5.0]])
    statistics: Any = model[2]
    statistics.running_mean.fill_(100.0)
    statistics.running_var.fill_(4.0)
    assert close(synflow(scoring(model, images([[0, 0]], [0])))["1.weight"], [[5 / 2, 5]])


def test_lamp_is_the_square_over_the_squares_at_least_as_large() -> None:
    found = lamp(scoring(network([[1.0, -2.0, 3.0]], [[2.0], [-2.0], [0.0]])))
    assert close(found["1.weight"], [[1 / 14, 4 / 13, 1]])
    assert close(found["3.weight"], [[0.5], [0.5], [0]])  # equal squares have equal scores


def test_lamp_leaves_pruned_weights_out() -> None:
    one = scoring(network([[1.0, -2.0, 3.0]]))
    masks = {"1.weight": torch.tensor([[True, True, False]])}
    found = lamp(Scoring(one.weights, masks, one.model, one.generator))
    assert close(found["1.weight"], [[1 / 5, 1, 0]])


def test_the_last_change_and_its_product_with_the_weight() -> None:
    previous = {"1.weight": torch.tensor([[1.0, 1.0, 3.0]])}
    one = scoring(network([[1.5, -1.0, 3.0]]), previous=previous)
    assert close(last_change(one)["1.weight"], [[0.5, 2, 0]])
    assert close(last_change_magnitude(one)["1.weight"], [[0.75, 2, 0]])


def test_a_change_needs_a_last_epoch() -> None:
    with pytest.raises(BadInput, match="the parent was not trained"):
        last_change(scoring(network([[1.0]])))


def filter_scoring(model: nn.Module, seen: Images) -> Scoring:
    """With the first layer's outputs as filters."""
    weights = {"1.weight": dict(model.named_parameters())["1.weight"]}
    rows = torch.arange(len(weights["1.weight"]))[:, None]
    filters = {"1.weight": Filters(len(rows), {}, {"3": rows})}
    return Scoring(weights, full_masks(weights), model, torch.Generator().manual_seed(0), seen, filters=filters)


def test_the_norm_of_a_filter() -> None:
    found = l1_filter(filter_scoring(network([[1.0, -2.0], [0.5, 0.25]], [[1.0, 1.0]]), images([[0, 0]], [0])))
    assert close(found["1.weight"], [3, 0.75])


def test_the_mean_activation_is_what_the_next_layer_sees() -> None:
    # Before the ReLU: (2, −2) for the first image, (1, 1) for the second.
    model = network([[1.0, 1.0], [1.0, -3.0]], [[1.0, 1.0]])
    found = mean_activation(filter_scoring(model, images([[1, 1], [1, 0]], [0, 0])))
    assert close(found["1.weight"], [1.5, 0.5])


def test_the_entropy_of_an_activation_over_images() -> None:
    # Filter 0 takes the values 0, 0, 1, 1; filter 1 is always 2; filter 2 takes 0, 0, 0, 4.
    model = network([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 4.0]], [[1.0, 1.0, 1.0]])
    seen = images([[0, 1, 0], [0, 1, 0], [1, 1, 0], [1, 1, 1]], [0] * 4)
    found = entropy(filter_scoring(model, seen), bins=2)
    assert close(found["1.weight"], [math.log(2), 0, 0.25 * math.log(4) + 0.75 * math.log(4 / 3)])


def test_activations_of_a_convolution_are_means_over_positions() -> None:
    model = nn.Sequential(nn.Identity(), nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 1, 1))
    model[1].weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    seen = Images(torch.tensor([[1.0, 3.0], [-2.0, 0.0]]).view(1, 1, 2, 2), torch.tensor([0]))
    assert close(mean_activation(filter_scoring(model, seen))["1.weight"], [1.0, 0.5])


# --- for every criterion ---

SHAPE = (8, 8, 3)


def subject(criterion: str) -> tuple[nn.Module, PrunableElements]:
    """A network with everything that a score must not disturb: BatchNorm, dropout, biases."""
    if registry.CRITERIA[criterion].granularity == "filter":
        model = build_model({"name": "resnet8", "width": 4}, SHAPE, 4, seed=1)
        return model, PrunableElements.of(model, removable=removable(model, SHAPE))
    convolution = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3)]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(*convolution, nn.Flatten(), nn.Linear(384, 16), nn.ReLU(), nn.Linear(16, 4))
        for layer in model:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.reset_parameters()
    return model, PrunableElements.of(model)


def seen_images() -> Images:
    generator = torch.Generator().manual_seed(5)
    return Images(torch.randn(40, 3, 8, 8, generator=generator), torch.arange(40) % 4)


def situation(model: nn.Module, elements: PrunableElements, masks: Mapping[str, Tensor], seed: int) -> Scoring:
    previous = {name: value.detach() * 0.9 - 0.01 for name, value in model.named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    return Scoring(elements.weights, masks, model, generator, seen_images(), previous, elements.filters)


def spec(criterion: str, target: float, scope: str = "global") -> PruneSpec:
    granularity = registry.CRITERIA[criterion].granularity
    return PruneSpec(target, {"name": criterion}, scope, granularity, (), "keep", None)


@pytest.mark.parametrize("scope", ["global", "layerwise"])
@pytest.mark.parametrize("criterion", sorted(registry.CRITERIA))
def test_counts_are_exact_masks_only_shrink_and_no_layer_dies(criterion: str, scope: str) -> None:
    model, elements = subject(criterion)
    masks: Masks = full_masks(elements.weights)
    total = alive(elements.alive(masks))
    for cycle in range(1, 7):
        before, target = masks, 0.75**cycle
        prune = spec(criterion, target, scope)
        masks = next_masks(prune, elements, situation(model, elements, elements.counted(before), cycle))
        apply_masks(elements.parameters, masks)
        living = elements.alive(masks)
        assert alive(living) == round(total * target)
        assert not any((masks[name] & ~before[name]).any() for name in elements.weights)
        assert all(mask.any() for mask in living.values())


@pytest.mark.parametrize("criterion", sorted(registry.CRITERIA))
def test_a_score_is_finite_a_function_of_its_stream_and_leaves_the_network_alone(criterion: str) -> None:
    model, elements = subject(criterion)
    masks = full_masks(elements.weights)
    state, mode = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    noise = torch.random.get_rng_state()
    first, again, other = (
        scores({"name": criterion}, elements, situation(model, elements, masks, seed)) for seed in (1, 1, 2)
    )
    for name in elements.weights:
        assert first[name].isfinite().all()
        assert torch.equal(first[name], again[name])
    same = all(torch.equal(first[name], other[name]) for name in elements.weights)
    assert same == (criterion not in ("random", "random-filter", "snip"))  # 512 images are all there are here
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == mode
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), noise)


def test_weight_scores_are_refused_for_filters() -> None:
    model, elements = subject("l1-filter")
    with pytest.raises(BadInput, match="one finite score for each of its filters"):
        scores({"name": "magnitude"}, elements, situation(model, elements, full_masks(elements.weights), 1))


# --- against torch.nn.utils.prune ---


def theirs(model: nn.Module) -> tuple[nn.Module, list[tuple[nn.Module, str]]]:
    twin = copy.deepcopy(model)
    return twin, [(module, "weight") for module in twin.modules() if isinstance(module, nn.Linear)]


def their_masks(twin: nn.Module) -> dict[str, Tensor]:
    return {name.removesuffix("_mask"): mask.bool() for name, mask in twin.named_buffers() if name.endswith("_mask")}


@pytest.mark.parametrize("scope", ["global", "layerwise"])
def test_magnitude_masks_are_those_of_torch(scope: str) -> None:
    model = build_model({"name": "lenet-300-100"}, (8, 8, 1), 10, seed=3)
    elements = PrunableElements.of(model)
    twin, layers = theirs(model)
    masks = full_masks(elements.weights)
    for cycle in range(1, 6):
        before = masks
        masks = next_masks(
            spec("magnitude", 0.8**cycle, scope), elements, Scoring(elements.weights, before, model, torch.Generator())
        )
        apply_masks(elements.parameters, masks)
        if scope == "global":
            removed = alive(before) - alive(masks)
            torch_prune.global_unstructured(layers, pruning_method=torch_prune.L1Unstructured, amount=removed)
        else:
            for (layer, name), mask, old in zip(layers, masks.values(), before.values(), strict=True):
                torch_prune.l1_unstructured(layer, name, amount=int(old.sum() - mask.sum()))
        their = their_masks(twin)
        assert all(torch.equal(mask, their[name]) for name, mask in masks.items())


def test_filter_masks_are_those_of_torch() -> None:
    model = build_model({"name": "resnet8", "width": 8}, (32, 32, 3), 10, seed=3)
    elements = PrunableElements.of(model, removable=removable(model, (32, 32, 3)))
    twin = copy.deepcopy(model)
    modules = dict(twin.named_modules())
    masks = full_masks(elements.weights)
    for cycle in range(1, 5):
        before = elements.counted(masks)
        scored = Scoring(elements.weights, before, model, torch.Generator(), filters=elements.filters)
        masks = next_masks(spec("l1-filter", 0.8**cycle, "layerwise"), elements, scored)
        apply_masks(elements.parameters, masks)
        for name in elements.weights:
            removed = int(elements.alive(before)[name].sum() - elements.alive(masks)[name].sum())
            torch_prune.ln_structured(modules[name.removesuffix(".weight")], "weight", amount=removed, n=1, dim=0)
        their = their_masks(twin)
        assert all(torch.equal(masks[name], their[name]) for name in elements.weights)


# --- through a worker ---


def study_of(criterion: str, **changes: Any) -> Study:
    granularity = registry.CRITERIA[criterion].granularity
    model = {"name": "resnet8", "width": 4} if granularity == "filter" else {"name": "lenet-300-100"}
    return small_study(model=model, prune={"criterion": criterion, "granularity": granularity}, **changes)


@pytest.mark.parametrize("criterion", sorted(registry.CRITERIA))
def test_a_chain_is_trained_with_every_criterion(tmp_path: Path, criterion: str) -> None:
    bench = Bench(tmp_path / "run", study_of(criterion))
    dense = bench.unit(0, None)
    first = bench.unit(1, dense)
    second = bench.unit(2, first)
    results = [bench.train(unit) for unit in (dense, first, second)]
    assert [result["status"] for result in results] == ["ok"] * 3
    state = bench.weights(second)
    model = build_model(second.model, (8, 8, 1), 10, seed=0)
    counted = bench.worker.pruner_of(second).elements(second, model).counted(state["mask"])
    total = sum(mask.numel() for mask in counted.values())
    assert results[2]["weights_remaining"] == alive(counted) / total
    assert results[2]["sparsity"] == pytest.approx(1 - alive(counted) / total)
    for name, mask in state["mask"].items():
        assert not state["weights"][name][~mask].any()


def test_whole_filters_and_what_belongs_to_them_are_zero_after_training(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "run", study_of("l1-filter"))
    dense = bench.unit(0, None)
    first = bench.unit(1, dense)
    bench.train(dense)
    bench.train(first)
    state = bench.weights(first)
    filters = {name: mask.flatten(1) for name, mask in state["mask"].items() if mask.ndim == 4}
    assert sum(int(mask.any(1).sum()) for mask in filters.values()) == round((4 + 8 + 16) * 0.8)
    for name, mask in filters.items():
        assert torch.equal(mask.any(1), mask.all(1))
        norm = name.replace("conv1.weight", "bn1")
        assert torch.equal(state["mask"][f"{norm}.bias"], mask.any(1))
        assert not state["weights"][f"{norm}.bias"][~mask.any(1)].any()
        assert not state["weights"][f"{norm}.weight"][~mask.any(1)].any()


@pytest.mark.parametrize("criterion", ["last-change", "last-change-magnitude"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_the_last_change_survives_a_kill(tmp_path: Path, criterion: str, epochs: int) -> None:
    study = study_of(criterion, dense={"epochs": 3}, retrain={"epochs": 3})
    straight, cut = Bench(tmp_path / "a", study), Bench(tmp_path / "b", study)
    dense = straight.unit(0, None)
    expected = straight.train(dense)
    progress = cut.worker.run(dense)
    for _ in range(epochs):
        next(progress)
    progress.close()
    cut.worker = cut.fresh()
    rest = cut.worker.run(dense)
    assert next(rest).epoch == epochs + 1  # it went on where it was, the state being written before it was told
    drain(rest)
    assert straight.worker.units.read_state(expected) == cut.worker.units.read_state(cut.train(dense))
    child = straight.unit(1, dense)
    straight.train(child)
    cut.train(child)
    mine, theirs_ = straight.weights(child), cut.weights(child)
    assert all(torch.equal(mine["mask"][name], theirs_["mask"][name]) for name in mine["mask"])
    assert all(torch.equal(mine["previous"][name], theirs_["previous"][name]) for name in mine["previous"])


def test_the_weights_before_the_last_epoch_are_those_that_it_began_with(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "run", study_of("last-change", dense={"epochs": 3}))
    dense = bench.unit(0, None)
    trainer = bench.worker.start(dense)
    trainer.run_epoch()
    trainer.run_epoch()
    began = {name: value.detach().clone() for name, value in trainer.parameters.items()}
    bench.train(dense)
    state = bench.weights(dense)
    assert all(torch.equal(state["previous"][name], began[name]) for name in began)
    assert not torch.equal(state["previous"]["fc1.weight"], state["weights"]["fc1.weight"])


def test_a_state_holds_earlier_weights_only_where_they_are_needed(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "run", small_study())
    dense = bench.unit(0, None)
    bench.train(dense)
    assert set(bench.weights(dense)) == {"weights", "mask"}


def test_a_parent_committed_without_earlier_weights_is_trained_again_for_them(tmp_path: Path) -> None:
    before = Bench(tmp_path / "run", small_study())
    dense = before.unit(0, None)
    before.train(dense)
    after = Bench(tmp_path / "run", study_of("last-change"))
    child = after.unit(1, after.unit(0, None))
    assert after.unit(0, None).key == dense.key
    assert after.train(child)["status"] == "ok"
    fresh = Bench(tmp_path / "other", study_of("last-change"))
    fresh.train(dense)
    fresh.train(child)
    mine, theirs_ = after.weights(child)["mask"], fresh.weights(child)["mask"]
    assert all(torch.equal(mine[name], theirs_[name]) for name in mine)
    assert after.notices == []


def test_scales_of_normalisation_layers_are_pruned_on_request(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "run", small_study(model={"name": "resnet8", "width": 4}, prune={"norm_scales": True}))
    plain = small_study(model={"name": "resnet8", "width": 4})
    dense = bench.unit(0, None)
    first = bench.unit(1, dense)
    assert first.key != Bench(tmp_path / "run", plain).unit(1, dense).key
    bench.train(dense)
    bench.train(first)
    masks = bench.weights(first)["mask"]
    scales = [name for name in masks if "bn" in name]
    assert len(scales) == 7
    total = sum(mask.numel() for mask in masks.values())
    assert alive(masks) == round(total * 0.8)
