"""What a network costs: counts by hand, and times in turn."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from silo_tune.export.inference import latency, macs, non_zero, parameters
from silo_tune.models.build import build_model


@pytest.mark.parametrize(
    ("model", "shape", "count"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2)), (3, 2, 2), 12 * 5 + 5 * 2),
        (nn.Conv2d(3, 4, 3, padding=1), (3, 8, 6), 8 * 6 * 4 * 3 * 9),
        (nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4), (4, 8, 8), 4 * 4 * 4 * 9),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()), (3, 2, 2), 2 * 2 * 4 * 3),
    ],
    ids=["linear", "convolution", "depthwise", "normalised"],
)
def test_multiply_accumulates_are_those_counted_by_hand(
    model: nn.Module, shape: tuple[int, int, int], count: int
) -> None:
    assert macs(model.eval(), torch.zeros(1, *shape)) == count


def test_attention_counts_its_products() -> None:
    vit = build_model({"name": "vit", "size": "tiny", "depth": 1, "patch": 16}, (32, 32, 3), 10, seed=0).eval()
    tokens, width, heads = 5, 192, 3
    embedding = 4 * 3 * 16 * 16 * width
    linear = tokens * (width * 3 * width + width * width + 2 * width * 4 * width)
    products = 2 * heads * tokens * tokens * (width // heads)
    assert macs(vit, torch.zeros(1, 3, 32, 32)) == embedding + linear + products + width * 10


def test_the_same_count_whether_gradients_are_on_or_off() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()  # has a fused path without gradients
    with torch.no_grad():
        assert macs(layer, torch.zeros(1, 5, 32)) == 5 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 4 * 25 * 8


def test_parameters_that_are_not_zero() -> None:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight[0] = 0
    assert (parameters(model), non_zero(model)) == (8, 5)


class Slow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.003)
        return x


def test_a_slower_network_takes_longer_in_turn_with_a_faster_one() -> None:
    threads = torch.get_num_threads()
    found = latency(Slow(), nn.Identity(), torch.zeros(4, 1))
    assert found.batch == 4
    assert found.pairs >= 10
    assert found.first_ms >= 3 > found.second_ms
    assert 1 < found.low <= found.ratio <= found.high
    assert torch.get_num_threads() == threads
