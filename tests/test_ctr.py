"""Networks and data for click-through rates: the deep and cross network by its formula, and MovieLens joined."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from silo_tune.errors import BadInput
from silo_tune.models.build import build_model
from silo_tune.pruning.masks import prunable

SIZES = (5, 7)


def dcn(**args: Any) -> torch.nn.Module:
    model = {"name": "dcn-v2", "widths": [6, 4], "embedding": 3, **args}
    return build_model(model, (2,), 1, 0, further={"categories": SIZES})


def by_hand(weights: dict[str, Tensor], numeric: Tensor, codes: Tensor, stacked: bool) -> Tensor:
    """Wang et al. 2021: x₀ is numbers and embeddings; x ← x₀ ⊙ (W·x + b) + x twice; two ReLU layers; a linear head."""

    def layer(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    first = torch.cat([numeric, *(weights[f"embeddings.{i}.weight"][codes[:, i]] for i in range(2))], 1)
    x = first
    for place in range(2):
        if f"cross.{place}.weigh.weight" in weights:
            x = first * layer(f"cross.{place}.weigh", x) + x
        else:
            low = x @ weights[f"cross.{place}.weigh.0.weight"].T
            x = first * layer(f"cross.{place}.weigh.1", low) + x
    deep = F.relu(layer("deep.2", F.relu(layer("deep.0", x if stacked else first))))
    return layer("head", deep if stacked else torch.cat([x, deep], 1))


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_deep_and_cross_network_is_its_formula(rank: int, structure: str) -> None:
    model = dcn(rank=rank, structure=structure)
    numeric, codes = torch.randn(9, 2), torch.stack([torch.randint(size, (9,)) for size in SIZES], 1)
    found = model(numeric=numeric, categories=codes)
    assert torch.allclose(found, by_hand(dict(model.state_dict()), numeric, codes, structure == "stacked"), atol=1e-6)


def test_its_linear_layers_are_pruned_and_embeddings_where_a_study_asks() -> None:
    full = {"cross.0.weigh.weight", "cross.1.weigh.weight", "deep.0.weight", "deep.2.weight", "head.weight"}
    assert set(prunable(dcn())) == full
    low = {f"cross.{place}.weigh.{part}.weight" for place in range(2) for part in range(2)}
    assert set(prunable(dcn(rank=2))) == low | {"deep.0.weight", "deep.2.weight", "head.weight"}
    asked = prunable(dcn(), layers=("linear", "embedding"))
    assert set(asked) == full | {"embeddings.0.weight", "embeddings.1.weight"}


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"cross": 0}, "model.cross: give a whole number of at least 1"),
        ({"rank": -1}, "model.rank: give a whole number of at least 0"),
        ({"structure": "beside"}, "unknown structure 'beside'; choose from parallel, stacked"),
        ({"widths": []}, 'give hidden layers, or take structure = "stacked"'),
        ({"dropout": 1.0}, "model.dropout: give a share from 0 to below 1"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_it_cannot_be_built_with_is_told(args: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        dcn(**args)
