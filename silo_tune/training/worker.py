"""One unit of work, from its parent's state to a committed result. Runs wherever a worker is; knows no Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from silo_tune.data.batches import Part
from silo_tune.data.example_feed import AnyFeed, ExampleFeed, feed_of
from silo_tune.data.example_sets import ExampleSet
from silo_tune.data.sets import AnySet, Split, folds_of, require_rows, split_rows
from silo_tune.errors import BadInput, RunFailed, Violation, one_line
from silo_tune.machine import VERSION
from silo_tune.models.build import build_model, init_seed
from silo_tune.models.checkpoint import load_pretrained, load_weights, pack, shapes_of, unpack
from silo_tune.planner.outcome import FORMAT
from silo_tune.planner.unit import Unit, canonical_json
from silo_tune.pruning.in_effect import require_in_effect
from silo_tune.pruning.masks import Masks, alive, apply_masks, full_masks
from silo_tune.pruning.prune_step import UnitPruner, few
from silo_tune.schedules.peaks import RULES, PruneFacts, rounded
from silo_tune.seeds import stream
from silo_tune.store.example_file import pack_examples
from silo_tune.store.storage import Storage
from silo_tune.store.unit_store import UnitStore, new_attempt, unit_of
from silo_tune.study.parts import BROUGHT
from silo_tune.study.workspace import Workspace
from silo_tune.tasks.making import make_task, outputs_of
from silo_tune.tasks.own import OwnTask
from silo_tune.tasks.seam import Evaluation, Task
from silo_tune.tasks.supervised import Supervised
from silo_tune.training.boosting import BoostingLoop, columns_of, empty, is_boosted, positions
from silo_tune.training.gradient_stats import Spreads, measure
from silo_tune.training.ice import IceLoop, carries, is_loop
from silo_tune.training.process import choose_device, device_name, enter
from silo_tune.training.ranks import Team
from silo_tune.training.trainer import OPTIMIZER_STATE, EpochLog, Trainer, evaluate

T = TypeVar("T")
Progress = Generator[EpochLog, None, dict[str, Any]]
Examples = dict[str, npt.NDArray[Any]]
# What trained, the max_lr, and what the state holds beside weights and masks.
Ended = tuple[Trainer, float | None, Mapping[str, Mapping[str, Tensor]]]


class Trained(NamedTuple):
    """A unit that is not committed yet.

    Attributes:
        result: all that its result.json says but for the examples.
        state: bytes of its final state; none when it diverged.
        right: "val" and "test" → scores of single examples in the order of the part (of accuracy, which it got right);
            none when it diverged, or where the score is no mean over examples.
    """

    result: dict[str, Any]
    state: bytes
    right: Examples


class Worker:
    """Trains units in this process and keeps the data ready between them.

    Args:
        workspace: where and how.
        dataset: decoded images, whose arrays may be shared and read-only, or streams.
        notice: told of corrupt files and of re-trained weights that differ.
    """

    def __init__(self, workspace: Workspace, dataset: AnySet, notice: Callable[[str], None] = lambda m: None) -> None:
        enter(workspace)
        self.workspace, self.dataset, self.notice = workspace, dataset, notice
        self.device = choose_device(workspace.device, workspace.gpus)
        self.team = Team(workspace, dataset, self.device) if workspace.workers > 1 else None
        self._pruners: dict[tuple[int, ...], UnitPruner] = {}
        self._networks: dict[str, tuple[Mapping[str, tuple[int, ...]], tuple[str, ...]]] = {}
        self.units = UnitStore(Storage(workspace.run), notice)
        self._feeds: dict[int, AnyFeed] = {}
        self._tasks: dict[int, Task] = {}
        self._taught_by: tuple[str, Task] | None = None
        self._uncompiled = False  # could the network not be compiled here?

    def run(self, unit: Unit) -> Progress:
        """Train one unit: yields after every epoch, returns the committed result.

        A committed unit returns at once; a partial state resumes from its epoch.

        Raises:
            BadInput: the study asks for something that its data or model cannot give.
            Violation: a truth of the engine does not hold.
        """
        standing = self.units.result(unit.key)
        if standing is not None:
            return standing
        trained = yield from self._train(unit)
        result, examples = trained.result, None
        if trained.right:
            examples = self.units.write_examples(unit.key, result["attempt"], pack_examples(trained.right))
        committed = self.units.commit({**result, "examples": examples})
        named = (committed.get("state"), committed.get("examples"))
        self.units.clear_partials(unit.key, keep=[claim["file"] for claim in named if claim])
        return committed

    def _train(self, unit: Unit) -> Generator[EpochLog, None, Trained]:
        attempt = new_attempt()
        began = time.perf_counter()
        trainer, max_lr, kept = yield from (self._looped if is_loop(unit) else self._retrained)(unit, attempt)
        (outcome, right), state, data = self._outcome(unit, trainer, max_lr), None, b""
        if outcome["status"] == "ok":
            previous = {} if trainer.previous is None else {"previous": trainer.previous}
            weights = trainer.model.state_dict()
            data = pack({"weights": weights, "mask": trainer.masks, **previous, **kept}, {"unit": unit.key})
            state = self.units.write_state(unit.key, attempt, data)
        seconds = time.perf_counter() - began
        return Trained({**outcome, "attempt": attempt, "state": state, "wall_seconds": seconds}, data, right)

    def _retrained(self, unit: Unit, attempt: str) -> Generator[EpochLog, None, Ended]:
        """One prune and one training, from its partial state if there is one."""
        trainer, max_lr = self._resumed(unit)
        saved = time.perf_counter()
        while not trainer.finished:
            if unit.evaluation is not None and unit.evaluation["best_on_test"]:
                measured = self.evaluate(unit, trainer, self.feed(unit).test).score
                trainer.best_test = measured if math.isnan(trainer.best_test) else max(trainer.best_test, measured)
            log = trainer.run_epoch()
            self._keep_snapshots(unit, trainer)
            if not trainer.finished and time.perf_counter() - saved >= self.workspace.partial_seconds:
                self.units.write_partial(unit.key, attempt, trainer.epoch, pack(*trainer.state()))
                saved = time.perf_counter()
            yield log
        trainer.check_peak()
        carried = {n: t for n, t in trainer.state()[0].items() if n in OPTIMIZER_STATE} if carries(unit) else {}
        return trainer, max_lr, carried

    def _looped(self, unit: Unit, attempt: str) -> Generator[EpochLog, None, Ended]:
        """A pipeline's own loop, from its partial state if there is one."""
        loop = self._boosted(unit) if is_boosted(unit) else self._ice(unit)
        saved = time.perf_counter()

        def save() -> None:
            nonlocal saved
            if loop.trainer.diverged is None and time.perf_counter() - saved >= self.workspace.partial_seconds:
                self.units.write_partial(unit.key, attempt, loop.epoch, pack(*loop.state()))
                saved = time.perf_counter()

        loop.save = save
        yield from loop.walk()
        loop.trainer.thaw()
        masks = self.pruner_of(unit).counted(unit, loop.model, loop.trainer.masks)
        if loop.trainer.diverged is None:  # what is not finite is not zero either
            require_in_effect(loop.model, masks, few(loop.trainer.feed), loop.trainer.task.forward)
        return loop.trainer, loop.highest, loop.kept

    def _boosted(self, unit: Unit) -> BoostingLoop:
        """Stages that stand where the last partial state stood, or at the first."""
        assert unit.pipeline is not None
        while True:
            model, masks, max_lr = self.prepared(unit)
            feed, task = self._plain_feed(unit), self.task(unit)
            assert isinstance(feed, ExampleFeed)
            assert isinstance(task, Supervised)
            rows = feed.train.rows
            folds = folds_of(self.dataset, rows.cpu().numpy(), unit.pipeline["folds"], unit.seed)
            previous = "previous" in self.workspace.needs
            loop = BoostingLoop(unit, model, masks, feed, positions(rows, folds), task, max_lr or 0.0, previous)
            data = self.units.read_partial(unit.key)
            if data is None or self._restored(unit, data, loop.restore):
                return loop

    def _ice(self, unit: Unit) -> IceLoop:
        """A loop that stands where the last partial state stood, or at its parent."""
        assert unit.parent is not None
        dense = self._dense_of(unit)
        result = self.units.result(dense.key)
        assert result is not None
        parent, taught = self.state_of(unit.parent), self.state_of(dense.key)
        while True:
            model, teacher = (self.fresh(unit, init_seed(unit.seed)) for _ in range(2))
            load_weights(model, parent["weights"])
            load_weights(teacher, taught["weights"])
            feed, task = self.feed(unit), self.task(unit)
            loop = IceLoop.begin(unit, model, parent, self.pruner_of(unit), feed, task, result["val_score"], teacher)
            data = self.units.read_partial(unit.key)
            if data is None or self._restored(unit, data, loop.restore):
                return loop

    def start(self, unit: Unit) -> Trainer:
        """A trainer at the first step of a unit with a fixed peak, whatever was saved or committed of it."""
        if is_loop(unit) or carries(unit):
            raise BadInput("a cycle of a pipeline cannot be trained by itself; run its study")
        model, masks, max_lr = self.prepared(unit)
        return self.trainer_of(unit, model, masks, max_lr or 0.0, snapshots=frozenset())

    # --- the network before training ---

    def prepared(self, unit: Unit) -> tuple[nn.Module, Masks, float | None]:
        """The network as training finds it, its masks, and the resolved peak."""
        model = self.fresh(unit, init_seed(unit.seed))
        if unit.prune is None:
            if unit.checkpoint is not None and self.workspace.checkpoint not in (None, *BROUGHT):
                load_pretrained(model, str(self.workspace.checkpoint))
            masks = full_masks(self.pruner_of(unit).elements(unit, model).weights)
            return model, masks, None if unit.peak is None else float(unit.peak["value"])
        assert unit.parent is not None
        parent, feed = self.state_of(unit.parent), self.feed(unit)
        if is_boosted(unit):
            feed = self._plain_feed(unit).beside(parent["columns"])  # type: ignore[union-attr]
        masks, facts = self.pruner_of(unit).prune(unit, model, parent, feed, self.task(unit))
        self._after_prune(unit, model)
        apply_masks(dict(model.named_parameters()), masks)
        return model, masks, resolve_peak(unit, facts)

    def fresh(self, unit: Unit, seed: int) -> nn.Module:
        """The unit's network, newly initialised."""
        pretrained = unit.checkpoint is not None and self.workspace.checkpoint == "timm"
        further = self.dataset.further if isinstance(self.dataset, ExampleSet) else {}
        folder, shape = self.workspace.network, self.shape_of(unit)
        model = build_model(unit.model, shape, self.outputs, seed, pretrained, further, folder)
        return model.to(self.device)

    def shape_of(self, unit: Unit) -> tuple[int, ...]:
        """Of an example as the unit's network is given it. Raises BadInput where stages have no row to write beside."""
        more = columns_of(unit, self.outputs)
        return (require_rows(self.dataset).shape[0] + more,) if more else self.dataset.shape

    def pruner_of(self, unit: Unit) -> UnitPruner:
        """What prunes the unit's network."""
        shape = self.shape_of(unit)
        if shape not in self._pruners:
            self._pruners[shape] = UnitPruner(self.workspace, shape)
        return self._pruners[shape]

    def _after_prune(self, unit: Unit, model: nn.Module) -> None:
        assert unit.prune is not None
        if unit.prune.after_prune == "reinit":
            fresh = self.fresh(unit, init_seed(unit.seed, unit.cycle, unit.repeat)).state_dict()
            kept = dict(model.named_buffers()) if unit.prune.keep_statistics else {}
            load_weights(model, {**fresh, **kept})
        elif unit.prune.after_prune == "rewind":
            load_weights(model, self._rewind_weights(unit))

    def _rewind_weights(self, unit: Unit) -> Mapping[str, Tensor]:
        """The weights at the rewind point: recomputed from the seed, read, or replayed."""
        assert unit.prune is not None
        point = unit.prune.rewind_to
        assert point is not None
        if point == "init":
            return self.fresh(unit, init_seed(unit.seed)).state_dict()
        dense = self._dense_of(unit)
        data = self.units.read_rewind(dense.key, point)
        if data is None:
            trainer = self.trainer_of(dense, *self._dense_start(dense), frozenset({self._steps_at(dense, point)}))
            while not trainer.taken and not trainer.finished:
                trainer.run_epoch()
            self._keep_snapshots(dense, trainer)
            data = self.units.read_rewind(dense.key, point)
        if data is None:
            raise BadInput(f"prune.rewind_to: the dense training of {trainer.total} steps never reaches {point!r}")
        return unpack(data)[0]["weights"]

    def _dense_of(self, unit: Unit) -> Unit:
        while unit.parent is not None:
            result = self.units.result(unit.parent)
            if result is None:
                raise RunFailed(f"trial {unit.parent[:12]} is gone; run the study again to train it anew")
            unit = unit_of(result)
        return unit

    def _dense_start(self, dense: Unit) -> tuple[nn.Module, Masks, float]:
        model, masks, max_lr = self.prepared(dense)
        assert max_lr is not None
        return model, masks, max_lr

    def state_of(self, key: str) -> dict[str, dict[str, Tensor]]:
        """The state of a committed unit; one that is gone, or lacks what the criterion needs, is trained again."""
        result = self.units.result(key)
        if result is None:
            raise RunFailed(f"the parent trial {key[:12]} is not committed; run the study again to train it anew")
        data = self.units.read_state(result, partial(self._wrong_with, unit_of(result)))
        groups = {} if data is None else unpack(data)[0]
        # It may have been committed before the study had this criterion.
        if data is None or not set(self.workspace.needs) <= set(groups):
            groups = unpack(self._restate(result))[0]
        return groups

    def _wrong_with(self, unit: Unit, state: bytes) -> str | None:
        """What no state of a committed unit can be: of another network, or not finite."""
        try:
            groups, meta = unpack(state)
        except ValueError as error:
            return str(error)
        if meta.get("unit", unit.key) != unit.key:  # states of earlier versions do not say it
            return f"it is of trial {meta['unit'][:12]}"
        if is_boosted(unit):
            return None  # its networks are those of stages
        name = canonical_json(unit.model)
        if name not in self._networks:
            model = self.fresh(unit, init_seed(unit.seed))
            self._networks[name] = shapes_of(model.state_dict()), tuple(dict(model.named_parameters()))
        (shapes, trained), weights = self._networks[name], groups.get("weights", {})
        masks = shapes_of(groups.get("mask", {}))
        if shapes_of(weights) != shapes or any(shapes.get(part) != shape for part, shape in masks.items()):
            return "it is of another network"
        return None if all(weights[part].isfinite().all() for part in trained) else "it is not finite"

    def _restate(self, result: Mapping[str, Any]) -> bytes:
        trained = drain(self._train(unit_of(result)))
        again = trained.result
        compared = ("status", "val_score", "val_loss", "test_score", "train_loss")
        if any(result[name] != again[name] for name in compared):
            self.notice(
                f"trial {result['key'][:12]} was trained again for its weights and differs from its row "
                f"(validation score {result['val_score']} then, {again['val_score']} now); the row stands"
            )
        if again["state"] is None:
            raise RunFailed(
                f"trial {result['key'][:12]} was trained again for its weights, which its children need, and diverged "
                f"this time ({again['error']}); resume with the machine and the versions that its row names"
            )
        self.units.restate(again)
        self.units.clear_partials(result["key"])
        return trained.state  # not read back: another driver that is past this unit may have swept it again

    # --- training and its state ---

    def trainer_of(
        self, unit: Unit, model: nn.Module, masks: Masks, max_lr: float, snapshots: frozenset[int] | None = None
    ) -> Trainer:
        if snapshots is None:
            points = self.workspace.rewind_points if unit.cycle == 0 else ()
            snapshots = frozenset(self._steps_at(unit, point) for point in points if point != "init")
        previous = "previous" in self.workspace.needs
        trainer = Trainer(unit, model, masks, self.feed(unit), max_lr, self.task(unit), snapshots, previous)
        trainer.team = self.team
        if self._uncompiled:
            trainer.called = trainer.model
        trainer.notice = self._not_compiled
        return trainer

    def _not_compiled(self, message: str) -> None:
        """Told once, of all units."""
        self._uncompiled = True
        self.notice(message)

    def feed(self, unit: Unit) -> AnyFeed:
        """The replicate's data; where the unit trains in stages, with columns for their predictions."""
        feed = self._plain_feed(unit)
        if not is_boosted(unit):
            return feed
        require_rows(self.dataset)
        assert isinstance(feed, ExampleFeed)
        return feed.beside(empty(feed, columns_of(unit, self.outputs)))

    def _plain_feed(self, unit: Unit) -> AnyFeed:
        """The replicate's data as it is; kept for the seeds used last."""
        if unit.seed not in self._feeds:
            while len(self._feeds) >= 8:
                oldest = next(iter(self._feeds))
                self._feeds.pop(oldest)
                self._tasks.pop(oldest, None)
            split = split_rows(self.dataset, self.workspace.data, unit.seed)
            check_apart(split)
            self._feeds[unit.seed] = feed_of(self.dataset, split, unit.augmentation, self.device)
        return self._feeds[unit.seed]

    def task(self, unit: Unit) -> Task:
        """What the network is trained for and judged by, on the replicate's training part."""
        feed = self.feed(unit)
        if unit.seed not in self._tasks:
            targets = None if self.usual else feed.train.labels[feed.train.rows]
            task = make_task(self.workspace.task, self.outputs, targets)
            if isinstance(task, Supervised):
                for name, part in (("validation", feed.val), ("test", feed.test)):
                    task.require_classes(name, part.labels[part.rows])
            self._tasks[unit.seed] = self._with_guess(unit, task)
        return self._taught(unit, self._tasks[unit.seed])

    def _taught(self, unit: Unit, task: Task) -> Task:
        """The task with the dense network of the unit's chain, where the study wants that; kept for the last chain."""
        if unit.parent is None or not isinstance(task, OwnTask) or (unit.task or {}).get("teacher") is None:
            return task
        dense = self._dense_of(unit)
        if self._taught_by is None or self._taught_by[0] != dense.key:
            teacher = self.fresh(dense, init_seed(dense.seed))
            load_weights(teacher, self.state_of(dense.key)["weights"])
            self._taught_by = (dense.key, task.taught(teacher))
        return self._taught_by[1]

    @property
    def usual(self) -> bool:
        """Is it classification of images by accuracy, whose guess is that of balanced classes?"""
        return self.workspace.task is None and not isinstance(self.dataset, ExampleSet)

    @property
    def outputs(self) -> int:
        """As `outputs_of`."""
        return outputs_of(self.workspace.task, self.dataset.classes)

    def _with_guess(self, unit: Unit, task: Task) -> Task:
        """A user's task that does not say what a guess is worth is measured on the untrained network."""
        if not isinstance(task, OwnTask) or task.guess is not None:
            return task
        feed = self.feed(unit)
        return task.beside(evaluate(task, self.fresh(unit, init_seed(unit.seed)), feed, feed.val))

    def _steps_at(self, dense: Unit, point: str) -> int:
        count, kind = point.split()
        return int(count) * (self.feed(dense).steps(dense.step_batch) if kind == "ep" else 1)

    def _keep_snapshots(self, unit: Unit, trainer: Trainer) -> None:
        for point in self.workspace.rewind_points:
            if point != "init" and (weights := trainer.taken.get(self._steps_at(unit, point))) is not None:
                self.units.write_rewind(unit.key, point, pack({"weights": weights}))
        trainer.taken.clear()

    def _resumed(self, unit: Unit) -> tuple[Trainer, float | None]:
        """A trainer that stands where the last partial state stood, or at the start; and the resolved peak."""
        while True:
            model, masks, max_lr = self.prepared(unit)
            trainer = self.trainer_of(unit, model, masks, max_lr or 0.0)
            data = self.units.read_partial(unit.key)
            if data is None:
                if carries(unit) and unit.parent is not None:
                    trainer.carry_on(self.state_of(unit.parent))
                return trainer, max_lr
            if self._restored(unit, data, trainer.resume):
                return trainer, max_lr

    def _restored(self, unit: Unit, data: bytes, restore: Callable[..., None]) -> bool:
        """Did a partial state fit? One that does not is removed."""
        try:
            restore(*unpack(data))
            return True
        except (KeyError, ValueError, RuntimeError) as error:
            self.notice(
                f"a partial state of trial {unit.key[:12]} does not fit ({one_line(error)}); it is removed, and "
                f"the trial starts from its parent"
            )
            self.units.discard_partial(unit.key, data)
            return False

    def evaluate(self, unit: Unit, trainer: Trainer, part: Part) -> Evaluation:
        """Measure the network on a part, in the way that the unit's study asks for."""
        rules = unit.evaluation or {}
        where = (unit.seed, unit.cycle, unit.repeat, trainer.epoch)
        augment = stream("evaluate", *where) if rules.get("augment") else None
        # Of validation images none is left out: they choose.
        whole = unit.batch if rules.get("drop_last") and part is trainer.feed.test else None
        return evaluate(trainer.task, trainer.model, trainer.feed, part, augment, whole)

    def _outcome(self, unit: Unit, trainer: Trainer, max_lr: float | None) -> tuple[dict[str, Any], Examples]:
        """The result but for its files; and the scores of single examples of validation and test."""
        feed, counted = trainer.feed, self.pruner_of(unit).counted(unit, trainer.model, trainer.masks)
        diverged, scores, spreads, right = trainer.diverged, _NO_SCORES, Spreads(), Examples()
        also: dict[str, dict[str, float | None]] = {}
        if diverged is not None and not math.isfinite(trainer.train_loss) and isinstance(feed, ExampleFeed):
            diverged += "" if feed.unfinite is None else f"; {feed.unfinite}"
        if diverged is None:
            test, val = (self.evaluate(unit, trainer, part) for part in (feed.test, feed.val))
            scores = (val.score, val.loss, test.score, _finite(test.loss))
            also = {name: {"val": _finite(val.also[name]), "test": _finite(test.also[name])} for name in val.also}
            right = {n: one.examples for n, one in (("val", val), ("test", test)) if one.examples is not None}
            if not math.isnan(trainer.best_test):  # the best of several epochs is of no one network's images
                scores = (val.score, val.loss, trainer.best_test, None)
                right.pop("test", None)
            if not (math.isfinite(val.loss) and math.isfinite(val.score) and math.isfinite(test.score)):
                diverged, scores, right, also = "validation loss not finite", _NO_SCORES, {}, {}
        if diverged is None:
            spreads = measure(trainer.task, trainer.model, counted, feed, unit.seed, unit.batch)
        kept, total = alive(counted), sum(mask.numel() for mask in counted.values())
        outcome = {
            "format": FORMAT,
            "key": unit.key,
            "unit": unit.spec,
            "status": "ok" if diverged is None else "diverged",
            "error": diverged,
            "max_lr": max_lr,
            "sparsity": (total - kept) / total,
            "weights_remaining": kept / total,
            "prunable": total,
            "parameters": sum(parameter.numel() for parameter in trainer.parameters.values()),
            "val_score": scores[0],
            "val_loss": scores[1],
            "n_val": len(feed.val),
            "test_score": scores[2],
            "test_loss": scores[3],
            "n_test": len(feed.test),
            **self._judged(trainer.task),
            **({"also": also} if also else {}),
            "train_loss": _finite(trainer.train_loss),
            "classes": self.dataset.classes,
            "epochs": trainer.epoch if is_loop(unit) else unit.epochs,
            "steps": trainer.step,
            "train_seconds": trainer.seconds,
            # A loop may have trained a probe alone, which is thrown away.
            "realised_peak_lr": trainer.peak if (trainer.peak if is_loop(unit) else trainer.step) else None,
            **asdict(spreads),
            "device": device_name(self.device),
            "threads": self.workspace.threads,
            "version": VERSION,
        }
        return outcome, right

    def _judged(self, task: Task) -> dict[str, Any]:
        """By what, in which direction, and what a guess is worth: nothing but the name where it is as it always was."""
        told: dict[str, Any] = {"score": task.score.name}
        if self.usual:
            return told
        assert task.guess is not None
        guess = {"guess_score": _finite(task.guess.score), "guess_loss": _finite(task.guess.loss)}
        return {**told, "sign": task.score.sign, **guess}


def check_apart(split: Split) -> None:
    """Raises Violation when an image of training is also one of validation or test."""
    elsewhere = ((split.val, split.val_in_train), (split.test, split.test_in_train))
    parts = [split.train, *(rows for rows, in_train in elsewhere if in_train)]
    rows = np.concatenate(parts)
    if len(np.unique(rows)) != len(rows):
        raise Violation("training, validation and test examples overlap")


_NO_SCORES: tuple[float | None, ...] = (None, None, None, None)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def resolve_peak(unit: Unit, facts: PruneFacts) -> float:
    """max_lr of a unit: its value, or its rule applied to this cycle's prune, rounded as keys are."""
    assert unit.peak is not None
    if "value" in unit.peak:
        return float(unit.peak["value"])
    return rounded(RULES[unit.peak["rule"]](facts, **unit.peak["args"]))


def drain(progress: Generator[Any, None, T]) -> T:
    """Run a unit to its end."""
    while True:
        try:
            next(progress)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
