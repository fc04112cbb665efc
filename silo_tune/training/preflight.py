"""All that can be found out before anything is trained: functions, data, one step, one prune, memory and disk.

Every check goes on where another failed, so that a user hears of everything at once. Nothing is written into a run.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from silo_tune.data.example_sets import ExampleSet
from silo_tune.data.load import facts, open_examples
from silo_tune.data.sets import AnySet, folds_of, require_seen, split_rows
from silo_tune.errors import BadInput, StudyError, one_line
from silo_tune.formats import parse_json, percent, plural, size
from silo_tune.machine import VERSION, cache_root
from silo_tune.models.build import init_seed
from silo_tune.models.checkpoint import load_pretrained, pack, unpack
from silo_tune.planner.unit import Unit, canonical_json, make_unit
from silo_tune.pruning.in_effect import used_zeros
from silo_tune.pruning.layers import SCALE, kinds_by_name, weights_of
from silo_tune.pruning.masks import Masks, left_by
from silo_tune.pruning.prune_step import few
from silo_tune.study import registry
from silo_tune.study.arms import Arm, OracleArm
from silo_tune.study.data import standing
from silo_tune.study.findings import Findings
from silo_tune.study.model import ArmSettings, Study
from silo_tune.study.parts import BROUGHT, made_profile
from silo_tune.study.pipelines import Boosting
from silo_tune.study.prune import LAYERS
from silo_tune.study.task import USUAL
from silo_tune.study.workspace import Workspace
from silo_tune.tasks.outputs import beside_logits, call, logits_of
from silo_tune.tasks.own import OwnTask
from silo_tune.training.optimizers import make_optimizer
from silo_tune.training.process import enter
from silo_tune.training.ranks import synchronised
from silo_tune.training.trainer import Trainer, evaluate
from silo_tune.training.worker import Worker

# More of a network than this is prunable, or a line says which layers are not.
ALMOST_ALL = 0.9


def opened(study: Study, workspace: Workspace) -> tuple[dict[str, Any], AnySet]:
    """The study's data and what is recorded of it.

    Raises:
        StudyError: the data is not there, or not in the shape that its name promises; with all else that can be found
            out without it.
    """
    enter(workspace)
    found = Findings()
    with found.about("data"):
        dataset = open_examples(workspace.data, workspace.task)
        return facts(dataset, study.data), dataset
    _functions(study, found)
    _optimizer(study, found)
    _checkpoint(study, found)
    raise StudyError("", found.problems)


def preflight(study: Study, workspace: Workspace, dataset: AnySet, slots: int) -> Findings:
    """A look at a study whose data is there.

    Args:
        study: the study.
        workspace: of its run; nothing is written there.
        dataset: its data.
        slots: units that would train at once on this machine.

    Returns:
        Problems and lines. Of a study that was looked at before, on this machine and with the same functions, data and
        versions, the lines are read from the cache.
    """
    place = Path(cache_root()) / "preflight" / f"{_identity(study, dataset)}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = parse_json(place.read_text(encoding="utf-8"))
        looked = Findings(lines=list(known["lines"]), layers=list(known["layers"]))
        return _with_room(looked, Needs(**known["needs"]), study, workspace, slots)
    found, needs = Findings(), Needs()
    _functions(study, found)
    _optimizer(study, found)
    _checkpoint(study, found)
    with found.about("data"):
        for seed in study.replicates.seeds:
            split = split_rows(dataset, study.data, seed)
            if (study.task or USUAL).name in ("classification", "binary"):
                require_seen(dataset, split)
    whole = not found.of("data")
    for name, folds in _folds(study).items() if whole else ():
        with found.about(f"arms.{name}.pipeline"):
            for seed in study.replicates.seeds:
                folds_of(dataset, split_rows(dataset, study.data, seed).train, folds, seed)
    network: _Network | None = None
    if whole:
        with found.about("data"):
            network = _Network(study, workspace, dataset, found)
            network.profiles()
    if network is not None and not found.of("data", "dense.checkpoint", "model", "task"):
        with found.about("model"), torch.random.fork_rng(devices=[]):
            needs = network.look()
    found.problems = list(dict.fromkeys(found.problems))
    if not found.problems:
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            kept = {"lines": found.lines, "layers": found.layers, "needs": vars(needs)}
            place.write_text(json.dumps(kept), encoding="utf-8")
    return _with_room(found, needs, study, workspace, slots)


@dataclass(frozen=True)
class Needs:
    """Bytes that a unit takes: memory of its process, and weights on disk."""

    memory: int = 0
    state: int = 0


def _with_room(found: Findings, needs: Needs, study: Study, workspace: Workspace, slots: int) -> Findings:
    """What the machine has now against what the units need, which is looked at every time."""
    if found.problems:
        return found
    need, have = slots * needs.memory, _available()
    found.lines.append(f"memory: {size(needs.memory)} for one trial's process, {size(need)} for {slots} at once")
    if have is not None and need > have:
        told = f"{plural(slots, 'trial')} at once: about {size(need)} of memory, and {size(have)} are free"
        found.problems.append(("cluster", f"{told}; set max_concurrent, or memory_per_unit_gb"))
    most, place = needs.state * _states(study), Path(workspace.run)
    while "://" not in workspace.run and not place.exists():
        place = place.parent
    free = math.inf if "://" in workspace.run else shutil.disk_usage(place).free
    if most > free:
        told = f"weights that are kept at once: up to {size(most)} ({size(needs.state)} each), and {str(place)!r} has"
        found.problems.append(("cluster.keep", f"{told} {size(free)} free; make room, or choose another --out"))
    return found


def _states(study: Study) -> int:
    """Weights that stand at once: one for each chain, and the candidates of its open cycle."""
    cycles = 1 if study.cluster.keep == "needed" else study.cycles
    widest = max((_candidates(arm) for arm in study.arms.values()), default=1)
    return len(study.replicates.seeds) * len(study.arms) * (cycles + widest)


def _identity(study: Study, dataset: AnySet) -> str:
    """Everything that the outcome of a look depends on, but the machine."""
    table = study.model_dump(mode="json")
    table.pop("name")
    checkpoint = study.dense.checkpoint
    file = standing(checkpoint, "dense.checkpoint") if checkpoint else None
    stamp = os.stat(file).st_mtime_ns if file and os.path.exists(file) else None
    known = [table, dataset.content(), registry.sources(study.functions), stamp, VERSION, torch.__version__]
    return hashlib.sha256(canonical_json(known).encode()).hexdigest()


def _folds(study: Study) -> dict[str, int]:
    """Folds of the arms that train in stages."""
    pipelines = {name: study.settings(arm).pipeline for name, arm in study.arms.items()}
    return {name: pipeline.folds for name, pipeline in pipelines.items() if isinstance(pipeline, Boosting)}


def _functions(study: Study, found: Findings) -> None:
    for key, function in study.functions.items():
        with found.about(key):
            registry.resolve(function, key)


def _optimizer(study: Study, found: Findings) -> None:
    """An optimizer that has a name needs no network to be known; a function's is made of the network's parameters."""
    settings = study.retrain.optimizer.resolved()
    if "name" in settings:
        with found.about("retrain.optimizer"):
            make_optimizer([nn.Parameter(torch.zeros(2, 2))], settings, lr=0.01)


def _checkpoint(study: Study, found: Findings) -> None:
    path = study.dense.checkpoint
    if path not in (None, *BROUGHT) and not os.path.isfile(standing(path, "dense.checkpoint")):
        found.problems.append(("dense.checkpoint", f"no file {path!r}"))


class _Network:
    """One step, one evaluation, one state and one prune of the study's network at its real shapes."""

    def __init__(self, study: Study, workspace: Workspace, dataset: AnySet, found: Findings) -> None:
        self.study, self.found = study, found
        self.worker = Worker(workspace, dataset)
        self.dataset = dataset

    def unit(self, cycle: int, settings: ArmSettings | None = None) -> Unit:
        """A unit of an arm with these settings; of the first arm without a pipeline, if there is one, without them."""
        study = self.study
        every = [study.settings(arm) for arm in study.arms.values()]
        settings = settings or next((one for one in every if not one.pipeline), every[0])
        checkpoint = "looked at" if study.dense.checkpoint is not None and cycle == 0 else None
        rate = study.dense.max_lr or 0.01
        parent = None if cycle == 0 else "0" * 64
        peak = None if checkpoint else {"value": rate}
        return make_unit(
            study,
            settings,
            parent=parent,
            cycle=cycle,
            seed=study.replicates.seeds[0],
            peak=peak,
            checkpoint=checkpoint,
        )

    def profiles(self) -> None:
        """Users' profiles at every step of their budgets, for which no network is needed."""
        for key, table, epochs in self._own_profiles():
            with self.found.about(key):
                self._profile(key, table, epochs * self._feed().steps(self.unit(0).step_batch))

    def look(self) -> Needs:
        dense = self.unit(0)
        self._takes_tokens(dense)
        model, masks, max_lr = self._start(dense)
        with self.found.about("model"):
            self._sizes(model, masks)
            self.found.lines += [f"data, seed {dense.seed}: {note}" for note in getattr(self._feed(), "notices", ())]
            self._drawn(model)
            if self.worker.team is not None:
                synchronised(copy.deepcopy(model), self.worker.device)
        with self.found.about("model"):
            self._trained(dense, model, masks, max_lr)
        data = pack({"weights": model.state_dict(), "mask": masks})
        if self.found.of("model"):
            self._scored(unpack(data)[0], model)
            return Needs()
        for name in _folds(self.study):  # whose network has further inputs
            if any(key == f"arms.{name}.pipeline" for key, _ in self.found.problems):
                continue
            with self.found.about(f"arms.{name}.pipeline"):
                staged = self.unit(0, self.study.settings(self.study.arms[name]))
                self.worker.trainer_of(staged, *self._start(staged), frozenset()).one_step()
        memory = _resident()
        if self.study.cycles > 1 and not self.found.of("prune"):
            with self.found.about("prune"):
                self._prune(unpack(data)[0], model)
        return Needs(memory, len(data))

    def _trained(self, dense: Unit, model: nn.Module, masks: Masks, max_lr: float) -> None:
        """What trains the network, and a step of it, where nothing is wrong with the network so far."""
        unit = replace(dense, epochs=max(1, dense.epochs))  # a checkpoint has none
        if self.found.of("dense.profile"):
            unit = replace(unit, profile={"name": "constant"})
        trainer = self.worker.trainer_of(unit, model, masks, max_lr, frozenset())
        if self.found.of("model"):
            return
        self._step(trainer)
        self._state(unit, trainer)
        if self.study.task is not None and self.study.task.teacher is not None and isinstance(trainer.task, OwnTask):
            with self.found.about("task"):
                trainer.task.taught(copy.deepcopy(model)).losses(model, few(self._feed()))

    def _scored(self, state: Mapping[str, Mapping[str, Tensor]], model: nn.Module) -> None:
        """What is wrong with the criterion of a network that cannot be called, but for what such a network raises."""
        if self.study.cycles < 2:
            return
        alone, known = Findings(), {message.partition(":")[0] for _, message in self.found.of("model")}
        with alone.about("prune"):
            self._prune(state, model)
        self.found.problems += [one for one in alone.of("prune") if one[1].partition(":")[0] not in known]

    def _takes_tokens(self, dense: Unit) -> None:
        """Try the longest text and the highest token, which the first batches may not hold; on the CPU, where a token
        out of range is an exception.

        Raises:
            BadInput: the network does not take one of them.
        """
        further = self.dataset.further if isinstance(self.dataset, ExampleSet) else {}
        if "vocabulary" not in further:
            return
        highest = max(number for number in range(further["vocabulary"]) if number != further["padding"])
        longest = few(self._feed())[0][:, :1].cpu().repeat(1, self.dataset.shape[0])
        model = self.worker.fresh(dense, init_seed(dense.seed)).cpu().eval()
        for tokens, what in (
            (longest, f"a text of {longest.shape[1]} tokens (data.length)"),
            (torch.full((2, 1), highest), f"token {highest} of a vocabulary of {further['vocabulary']}"),
        ):
            try:
                with torch.no_grad():
                    model(tokens)
            except (RuntimeError, IndexError, ValueError) as error:
                raise BadInput(f"model: it does not take {what}: {one_line(error)}") from error

    def _sizes(self, model: nn.Module, masks: Masks) -> None:
        total = sum(parameter.numel() for parameter in model.parameters())
        prunable = sum(mask.numel() for mask in masks.values())
        asked = (*self.study.prune.layers, SCALE)
        kinds = kinds_by_name(model) | {weight.name: weight.kind for weight in weights_of(model, asked)}
        line = f"network: {total:,} weights, {prunable:,} prunable ({percent(prunable / total)} %)"
        others = [
            (name, parameter)
            for name, parameter in model.named_parameters()
            if name not in masks and parameter.ndim > 1
        ]
        if others and prunable < ALMOST_ALL * total:
            largest = sorted(others, key=lambda item: -item[1].numel())[:3]
            shown = ", ".join(f"{name} ({parameter.numel():,})" for name, parameter in largest)
            line += f"; never pruned: {shown}{', …' if len(others) > 3 else ''}"
            could = {kinds.get(name) for name, _ in others} & (set(LAYERS) - set(self.study.prune.layers))
            if could and self.study.prune.granularity == "weight":
                line += f" (prune.layers can name {', '.join(kind for kind in LAYERS if kind in could)})"
        self.found.lines.append(line)
        if self.study.prune.granularity == "2:4":
            meant = left_by(
                self.study.prune.skip, {w.name: w.tensor for w in weights_of(model, self.study.prune.layers)}
            )
            if out := [name for name in meant if name not in masks]:
                self.found.lines.append(f"2:4: left out, for their inputs are no multiple of 4: {', '.join(out)}")
        self.found.layers += _layer_lines(masks, kinds)
        task = self.worker.task(self.unit(0))
        unused = sorted(set(masks) - set(used_zeros(model, _named(model, masks), few(self._feed()), task.forward)))
        if unused:
            self.found.lines.append(
                f"network: its forward pass was not seen to use {', '.join(unused[:5])}"
                f"{', …' if len(unused) > 5 else ''}, which count among the prunable weights; leave them out with "
                f"prune.skip (a pass that no PyTorch function shows may use them all the same)"
            )

    def _drawn(self, model: nn.Module) -> None:
        """Tell of a classifier that the checkpoint could not give."""
        path = self.worker.workspace.checkpoint
        drawn = load_pretrained(model, path) if path not in (None, *BROUGHT) else []
        if drawn:
            self.found.lines.append(
                f"dense.checkpoint: {', '.join(drawn)} are for another number of classes and are drawn anew: the dense "
                f"network guesses, until cycle 1 has trained them"
            )

    def _feed(self) -> Any:
        return self.worker.feed(self.unit(0))

    def _step(self, trainer: Trainer) -> None:
        """One batch forward and backward, and one evaluated."""
        seen: list[str] = []
        shares: list[bool] = []

        def heard(_: nn.Module, __: Any, output: Any) -> None:
            seen.extend(beside_logits(output))
            shares.append(_are_shares(output))

        hook = trainer.model.register_forward_hook(heard)
        loss = trainer.one_step()
        hook.remove()
        if all(shares) and (self.study.task or USUAL).name == "classification":
            self.found.lines.append(
                "network: its outputs are probabilities, which sum to 1, and the loss takes logits: leave its softmax "
                "out, or it learns slowly"
            )
        if seen:
            self.found.lines.append(
                f"network: in training it gives {', '.join(seen)} beside its logits; only the logits have a loss"
            )
        idle = [n for n in trainer.masks if (p := trainer.parameters[n]).requires_grad and p.grad is None]
        if idle and len(idle) == len(trainer.masks):
            raise BadInput("task: the loss depends on none of the prunable weights; nothing would be learnt")
        if not math.isfinite(loss):
            raise BadInput(f"model: the loss of its first batch is {loss}; it must be finite before training")
        feed = trainer.feed
        if (self.study.task or USUAL).name == "language-model":
            require_blind_to_later(trainer.model, few(feed)[0])
        evaluate(trainer.task, trainer.model, feed, replace(feed.val, rows=feed.val.rows[: trainer.unit.batch]))

    def _state(self, unit: Unit, trainer: Trainer) -> None:
        """Does a preempted unit find its state again?"""
        groups, meta = unpack(pack(*trainer.state()))
        again = self.worker.trainer_of(unit, *self._start(unit), frozenset())
        again.restore(groups, {**meta, "epoch": "1", "step": str(trainer.steps_per_epoch)})
        if "function" in unit.optimizer and trainer.feed.device.type == "cpu":
            trainer.step = again.step
            for one in (trainer, again):
                torch.manual_seed(0)
                one.one_step()
            if not all(torch.equal(one, again.parameters[name]) for name, one in trainer.parameters.items()):
                raise BadInput(
                    f"retrain.optimizer: {unit.optimizer['function']}: its next step is another after a resume; keep "
                    f"all that it counts in the state of a parameter, or in a group"
                )

    def _own_profiles(self) -> Iterator[tuple[str, Mapping[str, Any], int]]:
        """Profiles that are users' functions: where a study has them, their tables, and the epochs that they span."""
        study, found = self.study, list[tuple[str, Mapping[str, Any], int]]()
        if study.dense.epochs is not None:
            found.append(("dense.profile", study.dense.profile.resolved(), study.dense.epochs))
        for name, arm in study.arms.items():
            settings = study.settings(arm)
            key = "retrain.profile" if arm.profile is None else f"arms.{name}.profile"
            found.append((key, settings.profile, settings.epochs))
        seen = list[tuple[str, Mapping[str, Any], int]]()
        for one in found:
            if "function" in one[1] and one not in seen:
                seen.append(one)
                yield one

    def _profile(self, key: str, table: Mapping[str, Any], total: int) -> None:
        profile = made_profile(table, key)
        first, again = ([profile(step, total) for step in range(total)] for _ in range(2))
        for step, (one, other) in enumerate(zip(first, again, strict=True)):
            if one != other:
                raise BadInput(
                    f"{key}: {table['function']} gives {one!r} at step {step} of {total}, and {other!r} when it is "
                    f"asked again; a profile is a function of step and total alone"
                )
        highest = max(first)
        if highest == 0:
            raise BadInput(f"{key}: {table['function']} is 0 at every step")
        if highest < 1:
            self.found.lines.append(f"{key}: {table['function']} reaches {highest:.4g} of max_lr at most")

    def _start(self, unit: Unit) -> tuple[nn.Module, Masks, float]:
        model, masks, max_lr = self.worker.prepared(unit)
        return model, masks, max_lr or 0.0

    def _prune(self, parent: Mapping[str, Mapping[str, Tensor]], model: nn.Module) -> None:
        """The first prune, and the last one from there, as the study's criterion does them."""
        feed, needed = self._feed(), {}
        if "previous" in self.study.prune.criterion.needs:
            needed["previous"] = {name: p.detach() * 1.01 for name, p in model.named_parameters()}
        unit = self.unit(1)
        assert unit.prune is not None
        for target in dict.fromkeys((self.study.remaining[1], self.study.remaining[-1])):
            fresh = self.worker.fresh(unit, init_seed(unit.seed))
            masks, _ = self.worker.pruner_of(unit).prune(
                replace(unit, prune=replace(unit.prune, target=target)),
                fresh,
                {**parent, **needed},
                feed,
                self.worker.task(self.unit(0)),
            )
            parent = {"weights": fresh.state_dict(), "mask": masks}


@torch.no_grad()
def require_blind_to_later(model: nn.Module, tokens: Tensor) -> None:
    """Raises BadInput for a language model whose outputs change with tokens that come later: those it shall predict."""
    model.eval()
    other = tokens.clone()
    other[:, -1] = (tokens[:, -1] == 0).long()
    change = (logits_of(call(model, other)) - logits_of(call(model, tokens))).abs()
    if change[:, :-1].max() > 1e-4 * change[:, -1].max():  # below that it is rounding
        raise BadInput(
            "model: its outputs depend on tokens that come later, and those are what it shall predict; take a network "
            'that looks back only (a causal mask, or head = "causal-lm")'
        )


def _candidates(arm: Arm) -> int:
    """Rates of an open cycle, but for tested values."""
    if not isinstance(arm, OracleArm):
        return 1
    return arm.grid.points if arm.grid is not None else arm.guided.trials if arm.guided is not None else 1


def _layer_lines(masks: Masks, kinds: Mapping[str, str]) -> list[str]:
    """A table of the prunable layers: name of the weight, kind, number of weights."""
    cells = [(name, kinds[name], f"{mask.numel():,}") for name, mask in masks.items()]
    wide = [max(len(row[column]) for row in cells) for column in range(3)]
    rows = (f"  {name:<{wide[0]}}  {kind:<{wide[1]}}  {count:>{wide[2]}}" for name, kind, count in cells)
    return ["prunable weights by layer:", *rows]


def _are_shares(output: Any) -> bool:
    """Are the rows of a network's output probabilities?"""
    if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[1] < 2:
        return False
    return bool((output >= 0).all()) and torch.allclose(output.sum(1), torch.ones(()).to(output), atol=1e-3)


def _named(model: nn.Module, masks: Masks) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for name in masks}


def _resident() -> int:
    """Bytes of memory that this process holds for itself; 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError):
        _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text(encoding="ascii").split())
        return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _available() -> int | None:
    """Bytes of memory that are free on this machine; None where the system does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    return None
