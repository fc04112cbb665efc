"""Training of one cycle, epoch by epoch, with masks kept exactly and a state that resumes bit-identically."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from silo_tune.data.batches import Part
from silo_tune.data.example_feed import AnyFeed
from silo_tune.errors import BadInput, Violation, one_line
from silo_tune.machine import VERSION
from silo_tune.models.checkpoint import copy_into, load_weights
from silo_tune.planner.unit import Unit
from silo_tune.pruning.masks import Masks, apply_masks, pruned_are_zero
from silo_tune.schedules.shapes import maximum_of
from silo_tune.seeds import seed_globally, stream, stream_seed
from silo_tune.study.parts import made_profile
from silo_tune.tasks.outputs import examples_in
from silo_tune.tasks.seam import Evaluation, Losses, Task
from silo_tune.training.optimizers import (
    BUFFERS,
    begin_late_momentum,
    buffers_of,
    decayed_of,
    has_momentum,
    make_optimizer,
    numbers_of,
    restore_state,
)

# A mean training loss above this many times that of one who knows nothing (the greater of the guess and of outputs that
# are all zero), late in the budget, is a divergence. It is absolute: a pruned network starts with a low loss, and
# a rate that first triples it can still end best.
DIVERGED_LOSS = 1.5

# The layout of a state in mid-training. Raise it with every change of `Trainer.state`.
STATE_FORMAT = "3"
OPTIMIZER_STATE = ("optim", "optim-numbers")  # groups of tensors in a state
STANDING = ("epoch", "step", "seconds", "peak", "train_loss", "best_test")


class Together(Protocol):
    """The processes that train an epoch, as one of them sees it: see `ranks.Ranks`."""

    @property
    def share(self) -> tuple[int, int]: ...

    def losses(self, batch: Any, last: bool) -> Losses: ...

    def total(self, value: float | Tensor) -> Tensor: ...


class AnyTeam(Protocol):
    """Several processes that train together: see `ranks.Team`."""

    def epoch(self, trainer: Trainer) -> contextlib.AbstractContextManager[Together]: ...


@dataclass(frozen=True)
class EpochLog:
    """One finished epoch: its number from 1, the mean training loss, its wall seconds."""

    epoch: int
    train_loss: float
    seconds: float


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Are all numbers finite? The device is waited for once."""
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def names_hash(tensors: Mapping[str, Tensor]) -> str:
    """Stands for the names of an optimizer's buffers: which weights have moved is not known before the training."""
    return hashlib.sha256("\n".join(sorted(tensors)).encode()).hexdigest()


def written_with() -> dict[str, str]:
    """Who wrote a state. Other versions may round otherwise, so training resumes only where all of it is the same."""
    return {"format": STATE_FORMAT, "silo-tune": VERSION, "torch": str(torch.__version__)}


class Trainer:
    """Trains a network for the epochs of a unit.

    Args:
        unit: gives optimizer, batch, epochs, profile, precision and the random streams.
        model: on the training device.
        masks: by parameter name; pruned weights are held at exactly zero after every step.
        feed: the replicate's data.
        max_lr: the peak.
        task: the loss, and the guess that the rule of divergence measures against.
        snapshots: numbers of steps after which the weights are kept in `taken`.
        keep_previous: keep the parameters as they are when the last epoch begins in `previous`. Partial states stand
            between epochs, so a resumed training finds them as they were.

    Attributes:
        team: the processes that train it together; None is this one alone.
        called: the network as training calls it; compiled where the unit asks for that and torch can.
        notice: told when it cannot.
    """

    def __init__(
        self,
        unit: Unit,
        model: nn.Module,
        masks: Masks,
        feed: AnyFeed,
        max_lr: float,
        task: Task,
        snapshots: frozenset[int] = frozenset(),
        keep_previous: bool = False,
    ) -> None:
        self.unit, self.model, self.masks, self.feed, self.max_lr = unit, model, masks, feed, max_lr
        self.parameters = dict(model.named_parameters())
        self._frozen: list[str] = []
        self.begin_anew(max_lr)
        self.profile = made_profile(unit.profile, "dense.profile" if unit.cycle == 0 else "retrain.profile")
        self._momentum = getattr(self.profile, "momentum_at", lambda step, total: None)
        if self._momentum(0, 1) is not None and not has_momentum(self.optimizer):
            raise BadInput("retrain.profile: its momentum runs against the rate, and retrain.optimizer has none")
        self.steps_per_epoch = feed.steps(unit.step_batch)
        self.total = self.steps_per_epoch * unit.epochs
        self.task, self.limit = task, DIVERGED_LOSS * (math.inf if task.guess is None else task.guess.highest)
        self.snapshots, self.taken = snapshots, dict[int, dict[str, Tensor]]()
        self.keep_previous = keep_previous
        self.previous: dict[str, Tensor] | None = None
        self.epoch, self.step, self.seconds, self.peak, self.train_loss = 0, 0, 0.0, 0.0, math.nan
        self.best_test = math.nan  # where a study asks for the greatest test accuracy over epochs
        self.diverged: str | None = None
        device = feed.device.type
        if device == "cpu" and unit.precision in ("tf32", "fp16"):
            raise BadInput(
                f"retrain.precision: {unit.precision} needs a GPU, and this process sees none; take bf16, or fp32"
            )
        if device == "cuda":  # left to itself torch rounds convolutions to TF32, and nothing else
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = unit.precision == "tf32"
        precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(unit.precision)
        self._autocast: Any = contextlib.nullcontext() if precision is None else torch.autocast(device, dtype=precision)
        self._scaler = torch.amp.GradScaler(device, enabled=unit.precision == "fp16" and device == "cuda")
        self.called: Any = torch.compile(model) if unit.compile else model
        self.notice: Callable[[str], None] = lambda message: None
        self.team: AnyTeam | None = None
        self._ranks: Together | None = None
        self.remask(masks)

    @property
    def guess(self) -> tuple[float, float]:
        """Score and loss of the best constant prediction."""
        assert self.task.guess is not None
        return self.task.guess.score, self.task.guess.loss

    @property
    def finished(self) -> bool:
        return self.epoch >= self.unit.epochs or self.diverged is not None

    def run_epoch(self) -> EpochLog:
        """Train one epoch.

        Raises:
            Violation: a pruned weight is not zero.
        """
        if self.team is None:
            return self._run_epoch()
        try:
            with self.team.epoch(self) as self._ranks:
                return self._run_epoch()
        finally:
            self._ranks = None

    def _run_epoch(self) -> EpochLog:
        began = time.perf_counter()
        if self.keep_previous and self.epoch == self.unit.epochs - 1:
            self.previous = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        where = (self.unit.seed, self.unit.cycle, self.unit.repeat, self.epoch)
        # Dropout and the like draw from the global stream: it too is a function of where the epoch stands.
        seed_globally(stream_seed("noise" if not self._rank else f"noise of rank {self._rank}", *where))
        self.model.train()
        loss_sum = torch.zeros((), device=self.feed.device)
        count = 0
        for batches in self._batches_of_steps(where):
            examples = self._examples_of_step(batches, count)
            loss_sum += self._one_step(batches) * examples
            count += examples
        self.epoch += 1
        if self._ranks is not None:
            loss_sum = self._ranks.total(loss_sum)
        self.train_loss = float(loss_sum) / count
        seconds = time.perf_counter() - began
        self.seconds += seconds
        self._judge()
        return EpochLog(self.epoch, self.train_loss, seconds)

    def check_peak(self) -> None:
        """Raises Violation when a finished training was given another peak than the unit's."""
        declared = self.max_lr * maximum_of(self.profile, self.total)
        if self.step and self.diverged is None and self.peak != declared:
            raise Violation(f"the optimizer was given at most {self.peak}, not {declared} of max_lr {self.max_lr}")

    def one_step(self) -> float:
        """Train on the first batch of the first epoch alone; its loss."""
        where = (self.unit.seed, self.unit.cycle, self.unit.repeat, 0)
        self.model.train()
        return float(self._one_step(next(self._batches_of_steps(where))))

    def _batches_of_steps(self, where: tuple[int, int, int, int]) -> Iterator[list[Any]]:
        """The batches of an epoch, those of a step together: the examples of one large batch, in its order."""
        streams, share = (stream("order", *where), stream("augment", *where)), None
        if self._ranks is not None:
            share = self._ranks.share
        batches = iter(self.feed.epoch(self.unit.batch, *streams, share))
        while step := list(itertools.islice(batches, self.unit.accumulate)):
            yield step

    def _one_step(self, batches: Sequence[Any]) -> Tensor:
        lr = self.max_lr * self.profile(self.step, self.total)
        momentum = self._momentum(self.step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
            if momentum is not None and "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            elif momentum is not None:
                group["momentum"] = momentum
        self.peak = max(self.peak, lr)
        for weight in self._moving:  # as zero_grad does, which also reports to a profiler at every step
            weight.grad = None
        told = self._gradients(batches)
        if self.unit.clip is not None:
            self._scaler.unscale_(self.optimizer)
        if self.unit.clip is not None or self._of_others:
            self._mask_gradients()
        if self.unit.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters.values(), self.unit.clip)
        if self.step and self.unit.optimizer.get("name") == "sgd" and self.unit.optimizer["momentum"] > 0:
            begin_late_momentum(self.optimizer)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        if self._masked:
            with torch.no_grad():
                torch._foreach_mul_(self._masked, self._factors)  # type: ignore[arg-type]
        self.step += 1
        if self.step in self.snapshots:
            self.taken[self.step] = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        return told

    def _gradients(self, batches: Sequence[Any]) -> Tensor:
        """Add up the gradient of the mean over the batches of a step; the told loss, a mean likewise."""
        ranks = self._ranks
        if len(batches) == 1 and ranks is None:
            losses = self._losses(batches[0])
            self._scaler.scale(losses.objective).backward()
            return losses.told.detach()
        sizes = [self.task.size(batch) for batch in batches]
        whole = sum(sizes) if ranks is None else ranks.total(sum(sizes))
        told = torch.zeros((), device=self.feed.device)
        for number, (batch, size) in enumerate(zip(batches, sizes, strict=True), start=1):
            losses = self._losses(batch, number == len(batches))
            share = size / whole
            # The gradients of several ranks are averaged, and each is a part of the sum.
            times = share if ranks is None else share * ranks.share[1]
            self._scaler.scale(losses.objective * times).backward()
            told += losses.told.detach() * share
        return told

    def _losses(self, batch: Any, last: bool = True) -> Losses:
        with self._autocast:
            if self._ranks is not None:
                return self._ranks.losses(batch, last)
            if self.called is not self.model:
                try:
                    return self.task.losses(self.called, batch)
                except torch._dynamo.exc.TorchDynamoException as error:
                    self.called = self.model
                    self.notice(
                        f"retrain.compile: torch cannot compile this network on this machine ({one_line(error)}); it "
                        f"is trained as it is"
                    )
            return self.task.losses(self.model, batch)

    @property
    def _rank(self) -> int:
        return 0 if self._ranks is None else self._ranks.share[0]

    def _examples_of_step(self, batches: Sequence[Any], before: int) -> int:
        """Examples of a step, on all ranks; `before` it there were so many in this epoch."""
        if self._ranks is None:
            return sum(map(examples_in, batches))
        used = min(len(self.feed.train), self.feed.steps(self.unit.batch) * self.unit.batch)
        return min(self.unit.step_batch, used - before)

    def _mask_gradients(self) -> None:
        """What pruned weights would do counts for nothing: in a norm, or in an optimizer that looks at whole layers."""
        for weight, mask in zip(self._masked, self._factors, strict=True):
            if weight.grad is not None:
                weight.grad.mul_(mask)

    @property
    def _of_others(self) -> bool:
        """Is the optimizer another than the two whose steps look at each weight alone?"""
        return self.unit.optimizer.get("name") not in BUFFERS

    def _judge(self) -> None:
        finite = math.isfinite(self.train_loss) and all_finite(self.parameters.values())
        if not finite:
            self.diverged = f"loss or weights not finite in epoch {self.epoch} of {self.unit.epochs}"
        elif self.epoch * 2 > self.unit.epochs and self.train_loss > self.limit:
            self.diverged = f"mean training loss {self.train_loss:.3g} in epoch {self.epoch} of {self.unit.epochs}"
        elif not pruned_are_zero(self.parameters, self.masks):
            raise Violation(f"a pruned weight is not zero after epoch {self.epoch}")

    # --- what a pipeline changes between epochs ---

    def remask(self, masks: Masks) -> None:
        """Go on with other masks; weights that go are zero at once."""
        self.masks = masks
        # In the layout of their weights: multiplying is then one pass over memory.
        self._masked = [self.parameters[name] for name in masks]
        self._factors = [copy_into(self.parameters[name], mask) for name, mask in masks.items()]
        apply_masks(self.parameters, masks)

    def begin_anew(self, max_lr: float) -> None:
        """Go on with a new optimizer, without momentum, and another peak. Raises BadInput when all is frozen."""
        moving = [p for p in self.parameters.values() if p.requires_grad]
        if not moving:
            raise BadInput(
                "model: all of its parameters are frozen (requires_grad is false); there is nothing to train"
            )
        self.max_lr, self._moving = max_lr, moving
        decayed = decayed_of(self.model) if self.unit.decay == "weights" else None
        self.optimizer = make_optimizer(moving, self.unit.optimizer, max_lr, decayed)

    def freeze(self, names: Iterable[str]) -> None:
        """Leave these parameters as they are, from the next new optimizer on."""
        self._frozen = [name for name in names if self.parameters[name].requires_grad]
        for name in self._frozen:
            self.parameters[name].requires_grad_(False)

    def thaw(self) -> None:
        """Let what was frozen move again, and be measured."""
        for name in self._frozen:
            self.parameters[name].requires_grad_(True)

    def carry_on(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Begin with the optimizer's state of an earlier part of the same training."""
        found = (groups.get(name, {}) for name in OPTIMIZER_STATE)
        restore_state(self.optimizer, self.parameters, *found)

    # --- state ---

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
        """Weights, masks and optimizer buffers, and where the training stands."""
        names = {parameter: name for name, parameter in self.parameters.items()}
        buffers = buffers_of(self.optimizer, names)
        numbers = numbers_of(self.optimizer, names) if self._of_others else {}
        groups = {"weights": self.model.state_dict(), "mask": self.masks, "optim": buffers}
        groups |= {"optim-numbers": numbers} if numbers else {}
        meta = {name: repr(getattr(self, name)) for name in STANDING}
        meta |= {"buffers": names_hash({**buffers, **numbers}), "unit": self.unit.key}
        return groups, {**meta, **written_with(), "threads": str(torch.get_num_threads())}

    def require_written_here(self, meta: Mapping[str, str]) -> None:
        """Raises ValueError where a state was written by another version, or would be resumed with other threads."""
        self._check_writer(meta)
        if meta.get("unit", self.unit.key) != self.unit.key:  # states of earlier versions do not say it
            raise ValueError(f"it is of trial {meta['unit'][:12]}")
        if meta["threads"] != str(torch.get_num_threads()):
            raise ValueError(f"saved at {meta['threads']} threads, resumed at {torch.get_num_threads()}")

    def stand(self, meta: Mapping[str, str]) -> None:
        """Take over where a state stood: epochs, steps, seconds and what was seen by then."""
        self.epoch, self.step = int(meta["epoch"]), int(meta["step"])
        for name in ("seconds", "peak", "train_loss", "best_test"):
            setattr(self, name, float(meta[name]))

    def restore(self, groups: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, str]) -> None:
        """Go on from a state. Raises KeyError, ValueError or RuntimeError when it does not fit."""
        self.require_written_here(meta)
        self.require_layout(groups, int(meta["epoch"]), int(meta["step"]))
        kept = {name: tensor for group in OPTIMIZER_STATE for name, tensor in groups.get(group, {}).items()}
        if meta["buffers"] != names_hash(kept):
            raise ValueError("some of the optimizer's buffers are missing")
        load_weights(self.model, groups["weights"])
        self.carry_on(groups)
        self.stand(meta)

    def resume(self, groups: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, str]) -> None:
        """`restore` from a partial state, which no training leaves that diverged. Raises as it does."""
        self.restore(groups, meta)
        self.require_finite()

    def require_finite(self) -> None:
        """Raises ValueError where a weight is not finite."""
        if not all_finite(self.parameters.values()):
            raise ValueError("its weights are not finite")

    def _check_writer(self, meta: Mapping[str, str]) -> None:
        here = written_with()
        theirs = {name: meta.get(name, "unknown") for name in here}
        if theirs != here:
            other = (f"{name} {theirs[name]}, not {here[name]}" for name in here if theirs[name] != here[name])
            raise ValueError(f"saved with {'; '.join(other)}")
        missing = [name for name in (*STANDING, "threads", "buffers") if name not in meta]
        if missing:
            raise ValueError(f"it does not say its {', '.join(missing)}")

    def require_layout(self, groups: Mapping[str, Mapping[str, Tensor]], epoch: int, step: int) -> None:
        """A tensor that is missing, or of another shape or type, would be zero, spread out or rounded in silence."""
        if not 0 <= epoch <= self.unit.epochs or step != epoch * self.steps_per_epoch:
            raise ValueError(f"step {step} of epoch {epoch} is not where an epoch of {self.steps_per_epoch} steps ends")
        if "weights" not in groups:
            raise ValueError("it holds no weights")
        own = self.model.state_dict()
        wrong = [name for name, saved in groups["weights"].items() if name in own and saved.dtype != own[name].dtype]
        found: dict[str, set[str]] = {}
        for key, saved in groups.get("optim", {}).items():
            name, _, buffer = key.rpartition("/")
            found.setdefault(buffer, set()).add(name)
            known = name in self.parameters
            if not known or not (self._of_others or saved.shape in (self.parameters[name].shape, ())):
                wrong.append(key)
        if wrong:
            raise ValueError(f"{wrong[0]} has another shape or type than the network's")
        if self._of_others:
            return
        kept = BUFFERS[self.unit.optimizer["name"]] if self.unit.optimizer.get("momentum") != 0 else set()
        if step > 0 and found and set(found) != kept:
            counted, wanted = (", ".join(sorted(names)) or "none" for names in (found, kept))
            raise ValueError(f"the optimizer's buffers are {counted}, not {wanted}")


@torch.inference_mode()
def evaluate(
    task: Task,
    model: nn.Module,
    feed: AnyFeed,
    part: Part,
    augment: torch.Generator | None = None,
    whole_batches: int | None = None,
) -> Evaluation:
    """Judge a network on a part, in evaluation mode; its examples in the order of the part.

    Args:
        task, model, feed, part: who judges what on what.
        augment: a stream to augment the images by, as training images are; None measures them as they are.
        whole_batches: leave out what does not fill a batch of this size; those images count as wrong.

    Raises:
        BadInput: the part does not fill one batch.
    """
    if whole_batches is not None and len(part) < whole_batches:
        raise BadInput(f"evaluate.drop_last: {len(part)} images do not fill a batch of {whole_batches}")
    model.eval()
    batches = feed.batches(part, whole_batches, augment)
    whole = (batch for batch in batches if whole_batches is None or examples_in(batch) == whole_batches)
    return task.evaluate(model, whole, len(part))
