"""What is pruned is what the forward pass uses, or the layer is refused by name."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from silo_tune.errors import BadInput
from silo_tune.models.build import build_model
from silo_tune.pruning.in_effect import require_in_effect, used_zeros
from silo_tune.pruning.masks import Masks, apply_masks, prunable

SHAPE = (32, 32, 3)


class Standardised(nn.Conv2d):
    """A layer of a user's own: its weight has mean 0 and deviation 1 when it is used."""

    def forward(self, images: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return F.conv2d(images, weight / weight.std(), self.bias, padding=1)


class Tied(nn.Module):
    """One weight in two places, used by the functions of torch and by no layer's own forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 32, bias=False)
        self.norm = nn.LayerNorm(32)
        self.heads = nn.MultiheadAttention(32, 2, batch_first=True)
        self.last = nn.Linear(32, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.norm(F.linear(images.flatten(2).transpose(1, 2)[:, :16], self.first.weight))
        tokens = self.heads(tokens, tokens, tokens)[0] @ self.first.weight
        return self.last(F.pad(tokens.mean(1), (0, 29)))  # type: ignore[no-any-return]


def body(layer: nn.Module) -> nn.Module:
    return nn.Sequential(layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


def halved(model: nn.Module) -> Masks:
    """Every second prunable weight goes."""
    masks = {name: torch.arange(w.numel()).view(w.shape) % 2 == 0 for name, w in prunable(model).items()}
    apply_masks(dict(model.named_parameters()), masks)
    return masks


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "model",
    [
        *({"name": name, "width": 4} for name in ("resnet8", "vgg19")),
        {"name": "vit", "patch": 8, "size": "tiny", "depth": 1},
        {"name": "timm:mobilenetv3_small_050"},
        {"name": "timm:convnext_atto"},
    ],
    ids=lambda model: str(model["name"]),
)
def test_ordinary_layers_use_what_is_pruned(model: dict[str, object]) -> None:
    network = build_model(model, SHAPE, 10, seed=0)
    masks = halved(network)
    before, noise = {n: t.clone() for n, t in network.state_dict().items()}, torch.get_rng_state()
    require_in_effect(network, masks, images())
    assert used_zeros(network, prunable(network), images()).keys() == masks.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), noise)
    assert network.training


def test_weights_that_no_layer_of_their_own_uses_are_found_too() -> None:
    network = Tied()
    masks = halved(network)
    assert set(masks) == {"first.weight", "heads.in_proj_weight", "heads.out_proj.weight", "last.weight"}
    require_in_effect(network, masks, images())
    assert used_zeros(network, prunable(network), images()).keys() == masks.keys()


@pytest.mark.parametrize(
    "make",
    [
        lambda: body(Standardised(3, 8, 3)),
        lambda: timm.create_model("nf_regnet_b0", num_classes=10),
        lambda: timm.create_model("resnetv2_50x1_bit", num_classes=10),
    ],
    ids=["own", "nf_regnet", "bit"],
)
def test_a_layer_that_standardises_its_weight_is_refused_by_name(make: Callable[[], nn.Module]) -> None:
    network = make()
    with pytest.raises(BadInput, match=r"model: (0|stem\.conv)\.weight.*\d+% of the weights pruned .*prune\.skip"):
        require_in_effect(network, halved(network), images())


@pytest.mark.parametrize(
    "norm", [weight_norm, spectral_norm, parametrizations.weight_norm, parametrizations.orthogonal]
)
def test_a_weight_that_is_made_of_others_is_refused_before_anything_is_trained(
    norm: Callable[[nn.Module], nn.Module],
) -> None:
    network = body(norm(nn.Conv2d(3, 8, 3)))
    with pytest.raises(BadInput, match=r"model: 0\.weight: computed .*prune\.skip"):
        prunable(network)
    assert list(prunable(network, skip=("0.weight",))) == ["4.weight"]


class Packed(nn.Module):
    """Sequences of unlike lengths, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.LSTM(3, 4, num_layers=2, batch_first=True), nn.Linear(4, 2)

    def forward(self, rows: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(rows, torch.tensor([2, 5]), batch_first=True, enforce_sorted=False)
        out: Tensor = self.head(self.read(packed)[1][0][-1])
        return out


def test_the_weights_of_packed_sequences_are_seen_in_use() -> None:
    model = Packed()
    found = prunable(model, layers=("lstm", "linear"))
    masks = {name: torch.arange(weight.numel()).view(weight.shape) % 2 == 0 for name, weight in found.items()}
    apply_masks(dict(model.named_parameters()), masks)
    batch = torch.randn(2, 5, 3)
    assert used_zeros(model, found, batch) == {name: int((~mask).sum()) for name, mask in masks.items()}
    require_in_effect(model, masks, batch)


class Own(nn.Module):
    """A network that uses the weight of its last layer in a way of its own."""

    def __init__(self, used: Callable[[Tensor, Tensor, bool], Tensor]) -> None:
        super().__init__()
        self.used, self.first, self.last = used, nn.Linear(4, 8), nn.Linear(8, 8)

    def forward(self, rows: Tensor) -> Tensor:
        return self.used(self.first(rows), self.last.weight, self.training)


def linear_by_parts(rows: Tensor, weight: Tensor) -> Tensor:
    return torch.cat([F.linear(rows, part) for part in weight.chunk(2)], 1)


COPIES: dict[str, Callable[[Tensor, Tensor, bool], Tensor]] = {
    "layer": lambda x, w, _: F.linear(x, w),
    "twice": lambda x, w, _: F.linear(x, w) + x @ w,
    "parts": lambda x, w, _: linear_by_parts(x, w),
    "padded": lambda x, w, _: F.linear(F.pad(x, (1, 1)), F.pad(w, (1, 1))),
    "beside a constant": lambda x, w, _: F.linear(x, torch.cat([w, torch.ones(1, 8)])),
    "written into another": lambda x, w, _: F.linear(x, torch.zeros(8, 8).copy_(w)),
    "scaled": lambda x, w, _: F.linear(x, w / w.norm(dim=1, keepdim=True)),
    "cosine": lambda x, w, _: F.linear(x, w) / w.norm(dim=1),
    "distance": lambda x, w, _: (x**2).sum(1, keepdim=True) - 2 * x @ w.T + (w**2).sum(1),
    "tensordot": lambda x, w, _: torch.tensordot(x, w, ([1], [1])),
    "by element": lambda x, w, _: (x.unsqueeze(1) * w).sum(-1),
    "dropped": lambda x, w, training: F.linear(x, F.dropout(w, 0.5, training)),
}
COMPUTED: dict[str, Callable[[Tensor, Tensor, bool], Tensor]] = {
    "used as it is and not": lambda x, w, _: F.linear(x, w) + F.linear(x, w - w.mean() + 0.02),
    "in training alone": lambda x, w, training: F.linear(x, w + 0.05 if training else w),
    "with another": lambda x, w, _: F.linear(x, w + torch.full((8, 8), 0.1)),
    "parts": lambda x, w, _: linear_by_parts(x, w - w.mean()),
    "padded": lambda x, w, _: F.linear(F.pad(x, (1, 1)), F.pad(w + 0.1, (1, 1))),
    "in place": lambda x, w, _: F.linear(x, w.clone().add_(0.1)),
    "tensordot": lambda x, w, _: torch.tensordot(x, w + 0.1, ([1], [1])),
    "inner": lambda x, w, _: torch.inner(x, w + 0.1),
    "mv": lambda x, w, _: torch.mv(w + 0.1, x[0]),
    "by element": lambda x, w, _: (x.unsqueeze(1) * (w + 0.05)).sum(-1),
    "gate": lambda x, w, _: F.linear(x, torch.sigmoid(w)),
}


@pytest.mark.parametrize("used", COPIES.values(), ids=COPIES)
def test_a_copy_of_a_weight_keeps_its_zeros(used: Callable[[Tensor, Tensor, bool], Tensor]) -> None:
    model = Own(used)
    masks = halved(model)
    require_in_effect(model, masks, torch.randn(2, 4))
    assert used_zeros(model, prunable(model), torch.randn(2, 4))["last.weight"] == 32


@pytest.mark.parametrize("used", COMPUTED.values(), ids=COMPUTED)
def test_a_weight_that_is_computed_before_any_use_is_refused(used: Callable[[Tensor, Tensor, bool], Tensor]) -> None:
    model = Own(used)
    with pytest.raises(BadInput, match=r"model: last\.weight: computed .*prune\.skip"):
        require_in_effect(model, halved(model), torch.randn(2, 4))


def test_a_weight_that_no_pass_uses_is_missing() -> None:
    model = Own(lambda x, _, __: x)
    assert used_zeros(model, prunable(model), torch.randn(2, 4)).keys() == {"first.weight"}


def test_a_look_leaves_what_training_mode_would_change() -> None:
    model = body(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.InstanceNorm2d(8, track_running_stats=True)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    require_in_effect(model, halved(model), images())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items() if "running" in name)


def test_a_look_leaves_every_stream_as_it_was() -> None:
    class Drawing(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            noise = random.random() + float(np.random.rand()) + float(torch.rand(()))
            return super().forward(inputs) + noise

    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    model, states = Drawing(3, 2), (random.getstate(), np.random.get_state(), torch.get_rng_state())
    expected = drawn()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    used_zeros(model, {"weight": model.weight}, torch.ones(2, 3))
    assert drawn() == expected
