"""Masks: exact counts, only shrinking, no dead layer, ties by position; weights and filters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from silo_tune.api import run_study
from silo_tune.errors import BadInput, StudyError
from silo_tune.export.chosen_unit import weights_of
from silo_tune.models.build import build_model
from silo_tune.pruning.filters import Filters
from silo_tune.pruning.masks import (
    PrunableElements,
    alive,
    apply_masks,
    full_masks,
    layer_counts,
    prunable,
    pruned_are_zero,
    shrink,
)
from silo_tune.run.local import LocalRunner
from silo_tune.store.run_folder import Run
from silo_tune.study.study_file import parse_study
from silo_tune.study.workspace import Workspace
from silo_tune.training.preflight import opened, preflight
from tests.conftest import small_study, small_table


def lenet() -> nn.Module:
    return build_model({"name": "lenet-300-100"}, (8, 8, 1), 10, seed=1)


@pytest.mark.parametrize("scope", ["global", "layerwise"])
def test_counts_are_exact_and_masks_only_shrink_over_many_cycles(scope: str) -> None:
    weights = prunable(lenet())
    masks = full_masks(weights)
    total = alive(masks)
    for cycle in range(1, 25):
        before = masks
        scores = {name: weight.detach().abs() for name, weight in weights.items()}
        masks = shrink(scores, before, 0.8**cycle, scope)
        assert alive(masks) == round(total * 0.8**cycle)
        assert not any((masks[name] & ~before[name]).any() for name in masks)
        assert all(mask.any() for mask in masks.values())


def test_magnitude_keeps_the_largest_and_ties_break_by_position() -> None:
    scores = {"a": torch.tensor([3.0, 1.0, 1.0]), "b": torch.tensor([1.0, 2.0, 1.0])}
    masks = shrink(scores, full_masks(scores), 4 / 6, "global")
    assert masks["a"].tolist() == [True, True, True]
    assert masks["b"].tolist() == [False, True, False]


def test_a_layer_of_small_weights_keeps_its_best_one() -> None:
    scores = {"large": torch.arange(10.0) + 100, "small": torch.tensor([0.1, 0.3, 0.2])}
    masks = shrink(scores, full_masks(scores), 3 / 13, "global")
    assert masks["small"].tolist() == [False, True, False]
    assert alive(masks) == 3


def test_a_target_that_kills_a_layer_is_refused() -> None:
    scores = {"a": torch.ones(10), "b": torch.ones(10)}
    with pytest.raises(BadInput, match="fewer than the 2 layers"):
        shrink(scores, full_masks(scores), 0.05, "global")


def test_layerwise_counts_reach_the_total_by_largest_remainders() -> None:
    assert layer_counts([10, 10, 10], [10, 10, 10], 10) == [4, 3, 3]
    assert layer_counts([100, 2], [100, 2], 10) == [9, 1]
    assert layer_counts([50, 50], [50, 10], 40) == [30, 10]  # a bound moves the rest to the other layer
    assert sum(layer_counts([7, 19, 3, 101], [7, 19, 3, 101], 61)) == 61


def test_masked_weights_are_zero_and_others_untouched() -> None:
    model = lenet()
    weights = prunable(model)
    masks = shrink({name: w.detach().abs() for name, w in weights.items()}, full_masks(weights), 0.3, "global")
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    assert not pruned_are_zero(weights, masks)
    apply_masks(weights, masks)
    assert pruned_are_zero(weights, masks)
    assert all(torch.equal(weights[name][mask], before[name][mask]) for name, mask in masks.items())


def test_biases_and_normalisation_are_not_prunable() -> None:
    model = build_model({"name": "resnet8", "width": 4}, (32, 32, 3), 10, seed=0)
    found = prunable(model)
    assert all(name.endswith("weight") and weight.ndim >= 2 for name, weight in found.items())
    assert len(found) == 8  # 7 convolutions and the classifier


def test_attention_and_mlp_of_a_vit_are_prunable() -> None:
    found = prunable(nn.TransformerEncoderLayer(8, 2, 16))
    assert sorted(found) == [
        "linear1.weight",
        "linear2.weight",
        "self_attn.in_proj_weight",
        "self_attn.out_proj.weight",
    ]


def test_skip_patterns() -> None:
    assert sorted(prunable(lenet(), ("fc3*",))) == ["fc1.weight", "fc2.weight"]
    with pytest.raises(BadInput, match="'head' matches none"):
        prunable(lenet(), ("head",))
    with pytest.raises(BadInput, match="nothing to prune"):
        prunable(lenet(), ("*",))


def test_many_ties_break_by_position() -> None:
    scores = {"a": torch.ones(5000), "b": torch.ones(5000)}
    masks = shrink(scores, full_masks(scores), 0.6, "global")
    assert masks["a"].all()
    # The earliest of b, but for the one that each layer is left with, which is its first too.
    assert masks["b"].nonzero().squeeze(1).tolist() == list(range(1000))


def test_scales_of_normalisation_are_prunable_on_request() -> None:
    model = build_model({"name": "resnet8", "width": 4}, (32, 32, 3), 10, seed=0)
    found = prunable(model, norm_scales=True)
    assert len(found) == 8 + 7
    assert found["bn1.weight"].shape == (4,)
    assert sorted(prunable(nn.LayerNorm(4), norm_scales=True)) == ["weight"]
    with pytest.raises(BadInput, match="nothing to prune"):
        prunable(nn.Sequential(nn.LayerNorm(4, elementwise_affine=False)), norm_scales=True)


def filters() -> PrunableElements:
    """Three filters of two inputs, each with its bias and two entries of a normalisation behind a flatten."""
    weights = {"conv.weight": torch.ones(3, 2, 1, 1)}
    coupled = {"conv.bias": torch.tensor([[0], [1], [2]]), "norm.bias": torch.tensor([[0, 1], [2, 3], [4, 5]])}
    parameters = {**weights, "conv.bias": torch.ones(3), "norm.bias": torch.ones(8)}
    return PrunableElements(weights, {"conv.weight": Filters(3, coupled, {})}, parameters)


def test_a_filter_takes_its_row_and_its_companions_along() -> None:
    masks = filters().masks({"conv.weight": torch.tensor([True, False, True])})
    assert masks["conv.weight"].flatten(1).tolist() == [[True, True], [False, False], [True, True]]
    assert masks["conv.bias"].tolist() == [True, False, True]
    assert masks["norm.bias"].tolist() == [True, True, False, False, True, True, True, True]


def test_companions_are_never_counted() -> None:
    elements = filters()
    masks = elements.masks({"conv.weight": torch.tensor([True, False, True])})
    assert alive(elements.counted(masks)) == 4
    assert elements.alive(masks)["conv.weight"].tolist() == [True, False, True]
    assert elements.kept(2 / 3) == 2


def test_a_target_that_kills_a_layer_counts_filters() -> None:
    with pytest.raises(BadInput, match=r"10\.000% of 3 filters are 0, fewer than the 1 layers"):
        filters().kept(0.1)


# --- 2:4 ---


def in_fours(mask: torch.Tensor) -> torch.Tensor:
    """How many of each four weights along the inputs are alive."""
    return mask.movedim(1, -1).reshape(-1, 4).sum(1)


@pytest.mark.parametrize("scope", ["global", "layerwise"])
@pytest.mark.parametrize(("name", "shape"), [("lenet-300-100", (8, 8, 1)), ("resnet8", (32, 32, 3))])
def test_two_of_each_four_stay_and_exactly_two_in_the_end(name: str, shape: tuple[int, int, int], scope: str) -> None:
    model = build_model({"name": name}, shape, 10, seed=1)
    elements = PrunableElements.of(model, fours=True)
    scores = {name: weight.detach().abs() for name, weight in elements.weights.items()}
    masks = full_masks(elements.weights)
    total = alive(masks)
    for target in (0.8, 0.65, 0.5):
        before, masks = masks, shrink(scores, masks, target, scope, fours=True)
        assert alive(masks) == round(total * target)
        assert not any((masks[name] & ~before[name]).any() for name in masks)
        groups = torch.cat([in_fours(mask) for mask in masks.values()])
        assert int(groups.min()) == 2
        assert int(groups.max()) == (2 if target == 0.5 else 4)
    for name, weight in scores.items():  # what stays of each four is no smaller than what goes
        kept, gone = (weight.masked_fill(mask, fill) for mask, fill in ((~masks[name], torch.inf), (masks[name], 0.0)))
        four = [part.movedim(1, -1).reshape(-1, 4) for part in (kept, gone)]
        assert bool((four[0].amin(1) >= four[1].amax(1)).all())


def test_equal_scores_in_a_four_go_by_position() -> None:
    scores = {"a": torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0, 2.0, 0.0, 0.0]])}
    masks = shrink(scores, full_masks(scores), 0.5, "global", fours=True)
    assert masks["a"].tolist() == [[True, True, False, False, True, True, False, False]]


def test_layers_whose_inputs_are_no_multiple_of_four_are_left_out() -> None:
    resnet = build_model({"name": "resnet8"}, (32, 32, 3), 10, seed=1)
    elements = PrunableElements.of(resnet, fours=True)
    assert set(prunable(resnet)) - set(elements.weights) == {"conv1.weight"}  # of 3 channels
    with pytest.raises(BadInput, match="needs a layer whose inputs are a multiple of 4"):
        PrunableElements.of(nn.Linear(6, 8), fours=True)


@pytest.mark.parametrize(
    ("prune", "words"),
    [
        ({"targets": [0.7, 0.4]}, r'prune\.targets: granularity "2:4" keeps half .* and 40\.0% would remain'),
        ({"rate": 0.4}, r'cycles: granularity "2:4" keeps half'),
        ({"norm_scales": True}, r'prune\.norm_scales: it prunes single weights; leave it out with .*"2:4"'),
        ({"count": "percentile"}, r'prune\.count: .*"2:4" is counted'),
        ({"layers": ["linear", "embedding"]}, r"prune\.layers: embedding: the pattern 2:4 is for linear"),
        ({"criterion": "l1-filter"}, r"'l1-filter' scores filters, and granularity is '2:4'; choose from gradient"),
    ],
)
def test_what_two_of_four_cannot_mean_is_refused(prune: dict[str, Any], words: str) -> None:
    with pytest.raises(StudyError, match=words):
        small_study(prune={"granularity": "2:4", **prune})


def test_a_study_ends_with_exactly_two_of_each_four(tmp_path: Path) -> None:
    silo = {"silo": small_table()["arms"]["silo"]}
    table = {**small_table(prune={"granularity": "2:4", "targets": [0.7, 0.5]}), "arms": silo}
    url = run_study(parse_study(table), str(tmp_path / "run"), runner=LocalRunner()).url
    run = Run(url)
    unit, state = weights_of(run, run.study(), "silo", 0, None)
    assert unit.spec["prune"]["granularity"] == "2:4"
    assert all(bool((in_fours(mask) == 2).all()) for mask in state["mask"].values())
    assert all(bool((state["weights"][name][~mask] == 0).all()) for name, mask in state["mask"].items())


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    made = small_study(model={"name": "mlp", "widths": [6, 8]}, prune={"granularity": "2:4", "targets": [0.7, 0.5]})
    workspace = Workspace.of(made, str(tmp_path / "run"))
    found = preflight(made, workspace, opened(made, workspace)[1], 1)
    assert found.problems == []
    assert "2:4: left out, for their inputs are no multiple of 4: body.2.weight" in found.lines, found.lines
