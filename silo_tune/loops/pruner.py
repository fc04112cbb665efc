"""Prunes of a network in somebody's own training loop, and masks that hold there."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune
from torch.optim.optimizer import register_optimizer_step_post_hook

from silo_tune.errors import BadInput
from silo_tune.loops.silo_lr import SiloLR
from silo_tune.models.build import init_seed
from silo_tune.models.checkpoint import load_weights
from silo_tune.planner.unit import PruneSpec
from silo_tune.pruning.criteria.scoring import Scoring
from silo_tune.pruning.in_effect import require_in_effect
from silo_tune.pruning.masks import Masks, PrunableElements, alive
from silo_tune.pruning.prune_step import next_masks, parent_masks, scores
from silo_tune.seeds import stream
from silo_tune.study.prune import DEFAULT_LAYERS
from silo_tune.study.study_file import parse_prune


@dataclass(frozen=True)
class PruneCounts:
    """What is left after a prune.

    Attributes:
        cycle: that the prune begins; 0 before the first.
        weights_remaining: the planned share of all prunable weights.
        kept: weights that are alive.
        total: prunable weights.
        layers: by the name of the parameter, (kept, total).
    """

    cycle: int
    weights_remaining: float
    kept: int
    total: int
    layers: Mapping[str, tuple[int, int]]

    def __str__(self) -> str:
        return f"cycle {self.cycle}: {self.kept:,} of {self.total:,} weights remain ({self.kept / self.total:.2%})"


class Pruner:
    """Prunes a network in your own loop; what is pruned stays exactly zero after every step of any torch optimizer.

    It acts from its creation on. Make it before or after the optimizer, `torch.compile` or DDP, and in every process;
    where weights are rewound, from the same weights in each. FSDP and DeepSpeed shard weights, which it cannot follow.
    Masks of `torch.nn.utils.prune` are where it starts from: it makes them its own and removes torch's.

    Args:
        model: the network; of one that torch.compile or (Distributed)DataParallel wraps, what is inside.
        rate: share of the remaining weights that each prune removes; 0.2 unless targets are given.
        targets: shares of weights that remain after prunes 1, 2, …; instead of rate.
        criterion: what goes first: a registered name that looks at the weights alone ("magnitude", "lamp", "random"),
            or `{"function": "module:name", "version": "1"}`.
        scope: "global" compares weights over all layers, "layerwise" inside each.
        skip: name patterns of parameters that are never pruned, such as "fc.*".
        layers: kinds of layers whose weights are pruned; `silo-tune list layers` names them.
        after_prune: weights that stay: "keep" them, "rewind" them to their values now (or at `rewind_here`), or
            "reinit" (draw them anew).
        fresh: makes the network anew with other random weights; "reinit" needs it.
        seed: of what is drawn, the same in every process.

    Raises:
        BadInput: an argument, a network without prunable layers, or targets that its layers cannot reach.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        rate: float | None = None,
        targets: Sequence[float] | None = None,
        criterion: str | Mapping[str, Any] = "magnitude",
        scope: str = "global",
        skip: Sequence[str] = (),
        layers: Sequence[str] = DEFAULT_LAYERS,
        after_prune: str = "keep",
        fresh: Callable[[], nn.Module] | None = None,
        seed: int = 0,
    ) -> None:
        given = {"rate": rate, "targets": targets, "criterion": criterion, "scope": scope, "skip": skip}
        self.settings = parse_prune({**given, "layers": layers, "after_prune": after_prune})
        if after_prune == "reinit" and fresh is None:
            raise BadInput("prune.after_prune: reinit needs fresh, a function that makes the network anew")
        self.model, self.fresh, self.seed, self.cycle = bare(model), fresh, seed, 0
        taken = _taken_from_torch(self.model)
        self.elements = PrunableElements.of(self.model, self.settings.skip, layers=self.settings.layers)
        self.parameters = dict(self.elements.parameters)
        # What is pruned but not prunable here, such as a bias that torch's tools pruned, is held and not counted.
        self.masks = {**parent_masks(self.elements, taken), **taken}
        self.start = self.counts.kept / self.counts.total
        self._refuse_what_fails_later()
        self._rewind_point: dict[str, Tensor] | None = None
        if after_prune == "rewind":
            self.rewind_here()
        self._gone: Masks = {}
        self._handles = self._hooked()
        self._hold(self.masks)

    # --- in a loop ---

    def prune(self) -> PruneCounts:
        """Prune once more; weights that go are zero at once.

        Raises:
            BadInput: all targets are reached, layers cannot reach the next one, or `finish` was called.
        """
        target = self._target(self.cycle + 1)
        if not self._handles:
            raise BadInput("Pruner.prune: the pruner is finished")
        self._require_own()
        after = next_masks(self._spec(target), self.elements, self._scoring(self.cycle + 1))
        self.cycle += 1
        self._after_prune()
        self._hold({**self.masks, **after})
        return self.counts

    def next_cycle(self, lr: SiloLR, *, steps: int | None = None, keep_momentum: bool = False) -> PruneCounts:
        """Prune, and begin the next cycle of a scheduler.

        Args:
            lr: the scheduler; its optimizer's momentum is forgotten, as a study begins each cycle with a new optimizer.
            steps: as in `SiloLR.next_cycle`.
            keep_momentum: leave the optimizer's state as it is; Adagrad has one from its creation on, and needs it.

        Raises:
            BadInput: as `prune` and `SiloLR.next_cycle`.
        """
        counts = self.prune()
        lr.next_cycle(counts.weights_remaining, steps=steps)
        if not keep_momentum:
            lr.optimizer.state.clear()
        return counts

    @property
    def counts(self) -> PruneCounts:
        """What is left now."""
        counted = self.elements.counted(self.masks)
        layers = {name: (int(mask.sum()), mask.numel()) for name, mask in counted.items()}
        target = self._target(self.cycle) if self.cycle else alive(counted) / self._total
        return PruneCounts(self.cycle, target, alive(counted), self._total, layers)

    def apply(self) -> None:
        """Set pruned weights to exactly zero: after a change of the weights that is no optimizer's step."""
        with torch.no_grad():
            for name in self._gone:
                self.parameters[name].masked_fill_(self._gone_on(name, self.parameters[name].device), 0.0)

    def rewind_here(self) -> None:
        """Rewind to the weights and buffers as they are now."""
        self._rewind_point = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}

    def check(self, batch: Any) -> None:
        """See in a forward pass that the network computes with the zeros: a layer may derive its weights from others.

        Args:
            batch: inputs: a tensor, a tuple of arguments or a mapping of named ones.

        Raises:
            BadInput: it does not; each layer is named.
        """
        require_in_effect(self.model, self.elements.counted(self.masks), batch)

    def finish(self) -> PruneCounts:
        """Let go of the network: its zeros are ordinary weights from now on, which further training would move."""
        self._require_own()
        self.apply()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        return self.counts

    # --- state ---

    def state_dict(self) -> dict[str, Any]:
        """Cycle, masks and the rewind point: numbers and tensors alone."""
        return {"cycle": self.cycle, "masks": dict(self.masks), "rewind_point": self._rewind_point}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; pruned weights are zero at once. Raises BadInput for one of another network."""
        masks = {name: mask.cpu().bool() for name, mask in state["masks"].items()}
        own = {name: self.parameters[name].shape for name in {*masks, *self.masks} if name in self.parameters}
        if {name: mask.shape for name, mask in masks.items()} != own:
            raise BadInput("Pruner.load_state_dict: the masks are of another network, or of other layers")
        if self.settings.after_prune == "rewind":
            self._rewind_point = state["rewind_point"]
        self.cycle = state["cycle"]
        self._hold(masks)

    # --- inside ---

    @property
    def _total(self) -> int:
        return sum(weight.numel() for weight in self.elements.weights.values())

    def _target(self, cycle: int) -> float:
        planned = self.settings.remaining(cycle + 1)
        if len(planned) <= cycle:
            raise BadInput(f"prune.targets: all {cycle - 1} of them are reached; there is none for prune {cycle}")
        return planned[cycle] if self.settings.rate is None else self.start * planned[cycle]

    def _spec(self, target: float) -> PruneSpec:
        told = self.settings
        return PruneSpec(target, told.criterion.resolved(), told.scope, "weight", told.skip, told.after_prune, None)

    def _scoring(self, cycle: int) -> Scoring:
        # A stream by seed and cycle: every process draws the same.
        generator = stream("criterion", self.seed, cycle)
        return Scoring(self.elements.weights, self.elements.counted(self.masks), self.model, generator)

    def _refuse_what_fails_later(self) -> None:
        """Before hours of training, not after them."""
        last = self._target(1) if self.settings.targets is None else self.settings.targets[-1]
        if last > self.start:
            raise BadInput(f"prune.targets: {last:.3%} of the weights are to remain, and {self.start:.3%} are left")
        self.elements.kept(last)
        scores(self.settings.criterion.resolved(), self.elements, self._scoring(1))

    def _require_own(self) -> None:
        now = dict(self.model.named_parameters())
        if gone := next((name for name in self.masks if now.get(name) is not self.parameters[name]), None):
            raise BadInput(
                f"Pruner: {gone} is no longer the parameter that it was (load_state_dict with assign, FSDP, …), and "
                f"its mask does not hold; make the pruner after that, and load its state"
            )

    def _after_prune(self) -> None:
        if self.settings.after_prune == "reinit":
            assert self.fresh is not None
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(init_seed(self.seed, self.cycle))
                load_weights(self.model, bare(self.fresh()).state_dict())
        elif self.settings.after_prune == "rewind":
            assert self._rewind_point is not None
            load_weights(self.model, self._rewind_point)

    def _hold(self, masks: Masks) -> None:
        self.masks = masks
        self._gone = {name: ~mask for name, mask in masks.items() if not bool(mask.all())}
        self.apply()

    def _gone_on(self, name: str, device: torch.device) -> Tensor:
        """What is pruned of a weight, on the device that the weight has come to."""
        if self._gone[name].device != device:
            self._gone[name] = self._gone[name].to(device)
        return self._gone[name]

    def _hooked(self) -> list[Any]:
        """The hooks that hold the masks.

        Zeros are put back after the step, for momentum, moments and weight decay move a weight without a gradient too.
        The hook is torch's for all optimizers: one that is made later, in each cycle or by a trainer, is not forgotten;
        and the network stays a plain one, for torch.compile, DDP and its checkpoints. Gradients are masked where they
        arise, before DDP and clipping see them: what a pruned weight would do counts in no norm.
        """
        me = weakref.ref(self)  # torch's table of hooks must not keep a network alive

        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def after_step(*_: Any) -> None:
            if (pruner := me()) is not None:
                pruner.apply()

        step = register_optimizer_step_post_hook(after_step)
        weakref.finalize(self, step.remove)
        # The weights hold the pruner: it lives as long as they do.
        moving = {name: self.parameters[name] for name in self.masks if self.parameters[name].requires_grad}
        return [step, *(weight.register_hook(partial(self._masked, name)) for name, weight in moving.items())]

    def _masked(self, name: str, gradient: Tensor) -> Tensor:
        if name not in self._gone or gradient.layout != torch.strided:
            return gradient
        return gradient.masked_fill(self._gone_on(name, gradient.device), 0.0)


def bare(model: nn.Module) -> nn.Module:
    """The network inside the wrappers of torch.compile and (Distributed)DataParallel."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _taken_from_torch(model: nn.Module) -> Masks:
    """The masks of torch.nn.utils.prune by the names of their parameters, which are plain ones afterwards."""
    found = {}
    for place, module in model.named_modules():
        for buffer, mask in list(module.named_buffers(recurse=False)):
            name = buffer.removesuffix("_mask")
            if f"{name}_orig" in module._parameters and name != buffer:
                found[f"{place}.{name}" if place else name] = mask.detach().cpu().bool()
                torch_prune.remove(module, name)
    own = dict(model.named_parameters())
    return {name: mask for name, mask in found.items() if name in own}
