"""Optimizers: those of a study by name, any class of torch.optim, or a user's function; and their state as tensors."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from silo_tune.errors import FROM_OUTSIDE, BadInput, raised, unknown
from silo_tune.models.checkpoint import copy_into
from silo_tune.pruning.layers import SCALES
from silo_tune.study import registry

# Tensors that an optimizer of a study keeps for each weight once it has made a step; those of others are not known.
BUFFERS = {"sgd": {"momentum_buffer"}, "adamw": {"exp_avg", "exp_avg_sq", "step"}}
_REFUSED = {
    "LBFGS": "it asks for the loss again and again within one step (a closure), and a trial has one batch for a step",
    "SparseAdam": "it takes sparse gradients alone",
    "Optimizer": "it is what all of them are made from",
}
Groups = Sequence[nn.Parameter] | Sequence[dict[str, Any]]


def make_optimizer(
    parameters: Sequence[nn.Parameter],
    settings: Mapping[str, Any],
    lr: float,
    decayed: frozenset[nn.Parameter] | None = None,
) -> torch.optim.Optimizer:
    """A new optimizer of the resolved [retrain.optimizer] table.

    Args:
        parameters: all that are trained.
        settings: "sgd", "adamw" or the name of a class of torch.optim, or function and version; and arguments.
        lr: its first rate.
        decayed: those that weight decay shrinks; None shrinks all.

    Raises:
        BadInput: no such optimizer, arguments that it does not take, or one that cannot train a network here.
    """
    groups: Groups = parameters if decayed is None else list(_by_decay(parameters, decayed))
    args = {key: value for key, value in settings.items() if key not in ("name", "function", "version")}
    if settings.get("name") == "sgd":
        return torch.optim.SGD(groups, lr=lr, fused=True, **args)
    if settings.get("name") == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=True, **{**args, "betas": tuple(args["betas"])})
    name = str(settings.get("name") or settings["function"])
    try:
        make = _class_of(name, args) if "name" in settings else registry.resolve(name, "retrain.optimizer.function")
        made = make(groups, lr=lr, **{key: _as_tuple(value) for key, value in copy.deepcopy(args).items()})
    except BadInput:
        raise
    except FROM_OUTSIDE:
        raise
    except BaseException as error:  # a user's function may raise anything
        raise BadInput(f"retrain.optimizer: {name} cannot be made: {raised(error)}") from error
    _require_usable(name, made, parameters, decayed is not None)
    return made  # type: ignore[no-any-return]


def decayed_of(model: nn.Module) -> frozenset[nn.Parameter]:
    """The weights of a network: no biases, and nothing of a normalisation layer."""
    of_norms = {p for module in model.modules() if isinstance(module, SCALES) for p in module.parameters(False)}
    return frozenset(p for p in model.parameters() if p.ndim > 1 and p not in of_norms)


def _by_decay(parameters: Sequence[nn.Parameter], decayed: frozenset[nn.Parameter]) -> Iterator[dict[str, Any]]:
    shrunk = [parameter for parameter in parameters if parameter in decayed]
    left = [parameter for parameter in parameters if parameter not in decayed]
    if shrunk:
        yield {"params": shrunk}
    if left:
        yield {"params": left, "weight_decay": 0.0}


def _class_of(name: str, args: Mapping[str, Any]) -> Any:
    """A class of torch.optim that takes these arguments."""
    found = getattr(torch.optim, name, None)
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        known = [key for key, value in vars(torch.optim).items() if isinstance(value, type) and key not in _REFUSED]
        raise BadInput(f"retrain.optimizer: {unknown('class of torch.optim', name, [*known, 'sgd', 'adamw'])}")
    if name in _REFUSED:
        raise BadInput(f"retrain.optimizer: {name} cannot train a network here: {_REFUSED[name]}")
    takes = {key: one.default for key, one in inspect.signature(found).parameters.items() if key not in _GIVEN}
    for key, value in args.items():
        if key not in takes:
            raise BadInput(f"retrain.optimizer.{key}: {unknown(f'argument of {name}', key, takes)}")
        if not _like(value, takes[key]):
            raise BadInput(f"retrain.optimizer.{key}: {name} takes a value like {takes[key]!r}, got {value!r}")
    return found


_GIVEN = ("params", "lr")


def _like(value: Any, default: Any) -> bool:
    """Is it of the default's kind? A default of None says nothing."""
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, int | float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, tuple):
        listed = isinstance(value, list | tuple) and len(value) == len(default)
        return listed and all(_like(one, like) for one, like in zip(value, default, strict=True))
    return True


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _require_usable(name: str, made: Any, parameters: Iterable[nn.Parameter], decay: bool) -> None:
    """Raises BadInput for what is no optimizer of just these parameters."""
    if not isinstance(made, torch.optim.Optimizer):
        raise BadInput(f"retrain.optimizer: {name} must give a torch.optim.Optimizer; it gave a {type(made).__name__}")
    if sorted(id(p) for group in made.param_groups for p in group["params"]) != sorted(map(id, parameters)):
        raise BadInput(f"retrain.optimizer: {name} must train just the parameters that it is given, each once")
    closure = inspect.signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise BadInput(f"retrain.optimizer: {name} cannot train a network here: {_REFUSED['LBFGS']}")
    if decay and not any(group.get("weight_decay") for group in made.param_groups):
        raise BadInput(f'retrain.decay: {name} has no weight_decay above 0 to leave out; set it, or decay = "all"')


def has_momentum(optimizer: torch.optim.Optimizer) -> bool:
    """Does it have what a profile's momentum can be set to?"""
    return all("betas" in group or group.get("momentum", 0) for group in optimizer.param_groups)


def begin_late_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give a weight whose first gradient comes after the first step a momentum of zero, as plain SGD does in effect.

    Fused SGD takes a momentum of every weight that has a gradient, or of none.
    """
    if len(optimizer.state) == sum(len(group["params"]) for group in optimizer.param_groups):
        return
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None and "momentum_buffer" not in optimizer.state[weight]:
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)


# --- state ---


def buffers_of(optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
    """The tensors that an optimizer keeps, as "parameter/key"."""
    return {
        f"{name}/{key}": value
        for parameter, name in names.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def numbers_of(optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
    """The numbers that it keeps, as tensors: "parameter/key", and "#group/key" of a group.

    Raises:
        BadInput: it keeps something else, with which a preempted trial could not go on.
    """
    places: list[tuple[str, Mapping[str, Any]]]
    places = [(name, optimizer.state.get(parameter, {})) for parameter, name in names.items()]
    places += [
        (f"#{number}", {key: value for key, value in group.items() if key != "params"})
        for number, group in enumerate(optimizer.param_groups)
    ]
    found = {}
    for place, kept in places:
        for key, value in kept.items():
            if _numeric(value):
                found[f"{place}/{key}"] = torch.as_tensor(value, dtype=_type_of(value))
            elif not (isinstance(value, str | tuple | None) or (isinstance(value, Tensor) and place[0] != "#")):
                raise BadInput(
                    f"retrain.optimizer: its state {key!r} is a {type(value).__name__}, with which a preempted trial "
                    f"cannot go on; keep tensors and numbers for each parameter, and numbers for each group"
                )
    return found


def _numeric(value: Any) -> bool:
    return all(isinstance(one, bool | int | float) for one in (value if isinstance(value, tuple) else (value,)))


def _type_of(value: Any) -> torch.dtype:
    inside = value if isinstance(value, tuple) else (value,)
    if any(isinstance(one, float) for one in inside):
        return torch.float64
    return torch.bool if all(isinstance(one, bool) for one in inside) else torch.int64


def restore_state(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    buffers: Mapping[str, Tensor],
    numbers: Mapping[str, Tensor],
) -> None:
    """Go on with what `buffers_of` and `numbers_of` gave, to the last bit."""
    on_device = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    for place, saved in buffers.items():
        name, _, key = place.rpartition("/")
        parameter = parameters[name]
        alike = (saved.shape, saved.dtype) == (parameter.shape, parameter.dtype)
        if key == "step" and not on_device:  # torch counts on the CPU, but where the device itself does
            optimizer.state[parameter][key] = saved.clone()
        else:
            optimizer.state[parameter][key] = copy_into(
                parameter.detach() if alike else saved.to(parameter.device), saved
            )
    for place, number in numbers.items():
        name, _, key = place.rpartition("/")
        value = tuple(number.tolist()) if number.ndim else number.item()
        (optimizer.param_groups[int(name[1:])] if name[0] == "#" else optimizer.state[parameters[name]])[key] = value
