"""Which parameters of a network are weights that can be pruned, by kind of layer (`silo_tune.study.prune.LAYERS`)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
SCALES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm)
# The kinds whose layers have one weight, called so.
_ONE_WEIGHT: dict[str, tuple[type[nn.Module], ...]] = {
    "linear": (nn.Linear,),
    "conv": CONVOLUTIONS,
    "conv-transpose": (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    "embedding": (nn.Embedding, nn.EmbeddingBag),
}
_RECURRENT: dict[str, tuple[type[nn.RNNBase], type[nn.RNNCellBase]]] = {
    "lstm": (nn.LSTM, nn.LSTMCell),
    "gru": (nn.GRU, nn.GRUCell),
    "rnn": (nn.RNN, nn.RNNCell),
}
SCALE = "norm-scale"  # the kind of what prune.norm_scales adds


@dataclass(frozen=True)
class Weight:
    """A weight that can be pruned.

    Attributes:
        kind: of the layer that it is of.
        name: as `named_parameters` calls it: a weight of several layers has the name of the first.
        tensor: the parameter, or what a layer that computes its weight computes now.
    """

    kind: str
    name: str
    tensor: Tensor


def weights_of(model: nn.Module, kinds: Collection[str]) -> Iterator[Weight]:
    """The weights of the layers of these kinds, in the order of the network, each once."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen: list[Tensor] = []
    for place, module in model.named_modules():
        for kind, attribute in _attributes(module):
            # Only what is asked for is touched: to read a computed weight can move the state that it is computed from.
            weight = getattr(module, attribute, None) if kind in kinds else None
            if weight is not None and not any(weight is other for other in seen):
                seen.append(weight)
                yield Weight(kind, names.get(id(weight), _joined(place, attribute)), weight)


def kinds_by_name(model: nn.Module) -> dict[str, str]:
    """Parameter → kind, of all that some kind has; what a layer computes is left out."""
    found: dict[str, str] = {}
    for place, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        found |= {_joined(place, attribute): kind for kind, attribute in _attributes(module) if attribute in own}
    return found


def _joined(place: str, attribute: str) -> str:
    return f"{place}.{attribute}" if place else attribute


def _attributes(module: nn.Module) -> Iterator[tuple[str, str]]:
    """(kind, attribute) of the weights that a layer may have."""
    for kind, types in _ONE_WEIGHT.items():
        if isinstance(module, types):
            yield kind, "weight"
    if any(base.__name__ == "Conv1D" for base in type(module).__mro__):
        yield "conv1d-hf", "weight"  # of transformers, which is not imported; its weight is (inputs, outputs)
    if isinstance(module, SCALES):
        yield SCALE, "weight"
    if isinstance(module, nn.MultiheadAttention):
        yield "attention", "in_proj_weight"
        yield from (("attention-qkv", f"{part}_proj_weight") for part in "qkv")
    for kind, (several, cell) in _RECURRENT.items():
        if isinstance(module, cell):
            yield from ((kind, f"weight_{part}") for part in ("ih", "hh"))
        elif isinstance(module, several):
            ends = ("", "_reverse") if module.bidirectional else ("",)
            places = [f"l{layer}{end}" for layer in range(module.num_layers) for end in ends]
            yield from ((kind, f"weight_{part}_{place}") for place in places for part in ("ih", "hh", "hr"))
