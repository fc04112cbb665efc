"""The Unit: one prune-retrain cycle at one max_lr from one parent, and the key that is its identity on disk.

The key is the sha256 of canonical JSON of every resolved study value that can change the unit's numbers. It never
holds an arm, the number of cycles, a path, a device or another cycle's settings: equal work has one key, wherever it is
asked from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from typing import Any

from silo_tune.schedules.peaks import rounded
from silo_tune.schedules.shapes import resolve_profile
from silo_tune.study.model import ArmSettings, Study
from silo_tune.study.pipelines import AnyPipeline, Ice, WhileTraining, resolved
from silo_tune.study.prune import DEFAULT_LAYERS

# Raise this when the meaning of a unit changes (another order of random draws, say): old results then stay apart.
RECIPE = 1


def canonical(value: Any) -> Any:
    """A JSON value in canonical form: floats rounded to 12 significant digits, integral ones as integers."""
    if isinstance(value, bool) or value is None or isinstance(value, (int, str)):
        return value
    if isinstance(value, float):
        near = rounded(value)
        return int(near) if near.is_integer() and abs(near) < 1e12 else near
    if isinstance(value, Mapping):
        return {str(key): canonical(value[key]) for key in value}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    raise TypeError(f"not a JSON value: {value!r}")


def canonical_json(value: Any) -> str:
    """Canonical JSON text. Raises ValueError for NaN and infinities."""
    return _text(canonical(value))


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class PruneSpec:
    """What the prune at the start of a cycle ≥ 1 does.

    Attributes:
        target: share of weights that remain after it, counted from the dense network.
        criterion, scope, granularity, skip: as in [prune].
        after_prune: "keep", "rewind" or "reinit".
        rewind_to: the rewind point when after_prune is "rewind", else None.
        norm_scales, keep_statistics, layers: as in [prune].
        percentile: where a percentile decides, the share of the living weights that it is taken at; else None.
    """

    target: float
    criterion: Mapping[str, Any]
    scope: str
    granularity: str
    skip: tuple[str, ...]
    after_prune: str
    rewind_to: str | None
    norm_scales: bool = False
    keep_statistics: bool = False
    percentile: float | None = None
    layers: tuple[str, ...] = DEFAULT_LAYERS


@dataclass(frozen=True)
class Unit:
    """One unit of work, fully resolved. `peak` is {"value": x}, {"rule": name, "args": {…}} or None (a checkpoint)."""

    recipe: int
    parent: str | None
    cycle: int
    seed: int
    repeat: int
    model: Mapping[str, Any]
    checkpoint: str | None
    data: Mapping[str, Any]
    split: Mapping[str, Any]
    augmentation: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    batch: int
    epochs: int
    profile: Mapping[str, Any]
    precision: str
    peak: Mapping[str, Any] | None
    prune: PruneSpec | None
    evaluation: Mapping[str, Any] | None = None
    pipeline: Mapping[str, Any] | None = None
    task: Mapping[str, Any] | None = None
    clip: float | None = None
    accumulate: int = 1
    decay: str = "all"
    compile: bool = False

    @property
    def step_batch(self) -> int:
        """Examples of an optimizer step."""
        return self.batch * self.accumulate

    @property
    def spec(self) -> dict[str, Any]:
        """The canonical table that is hashed. Made anew each time: a planner holds many units."""
        return canonical({**_told(self), "prune": None if self.prune is None else _told(self.prune)})  # type: ignore[no-any-return]

    @cached_property
    def key(self) -> str:
        """sha256 of the canonical JSON of the spec, as 64 hexadecimal digits."""
        return hashlib.sha256(_text(self.spec).encode()).hexdigest()

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Unit:
        """The unit of a spec, as read from its result."""
        prune = spec["prune"]
        if prune is not None:
            listed = {name: tuple(prune[name]) for name in ("skip", "layers") if name in prune}
            prune = PruneSpec(**{**prune, **listed})
        return cls(**{**spec, "prune": prune})


def _told(part: Unit | PruneSpec) -> dict[str, Any]:
    """Fields by name. One with a default was added later: it is told only where it differs, so that old keys stand."""
    table = {field.name: (getattr(part, field.name), field.default) for field in fields(part)}
    return {name: value for name, (value, default) in table.items() if default is MISSING or value != default}


class UnitMaker:
    """Makes the units of one arm. What they share is resolved once and held once.

    Args:
        study: gives everything that arms share.
        settings: the arm's resolved settings; at cycle 0 they count only with `own_dense`.
    """

    def __init__(self, study: Study, settings: ArmSettings) -> None:
        self._shared = canonical(
            {
                "model": study.model.resolved(),
                "data": study.data.source(),
                "split": study.data.split(),
                "augmentation": study.data.augmentation(),
                "optimizer": study.retrain.optimizer.resolved(),
                "batch": study.retrain.batch,
                "precision": study.retrain.precision,
                "evaluation": study.evaluate.resolved(),
                "task": study.task.resolved() if study.task is not None else None,
                "clip": study.retrain.clip,
                "accumulate": study.retrain.accumulate,
                "decay": study.retrain.decay,
                "compile": study.retrain.compile,
            }
        )
        dense = study.dense
        self._dense_epochs = dense.epochs or 0
        self._profiles = canonical(
            [settings.profile if settings.own_dense else dense.profile.resolved(), settings.profile]
        )
        self._epochs = settings.epochs
        self._pipeline = settings.pipeline
        self._targets = canonical(study.remaining)
        self._prune = canonical(
            {
                "criterion": study.prune.criterion.resolved(),
                "scope": study.prune.scope,
                "granularity": study.prune.granularity,
                "after_prune": settings.after_prune,
                "rewind_to": settings.rewind_to,
                "norm_scales": study.prune.norm_scales,
                "keep_statistics": study.prune.keep_statistics,
            }
        )
        self._skip, self._layers = study.prune.skip, study.prune.layers
        self._by_percentile = study.prune.count == "percentile"

    def make(
        self,
        *,
        parent: str | None,
        cycle: int,
        seed: int,
        peak: Mapping[str, Any] | None,
        repeat: int = 0,
        checkpoint: str | None = None,
        pipeline: Ice | None = None,
    ) -> Unit:
        """The unit of one candidate.

        It trains with the very numbers that its key is made of: equal keys then mean equal work, to the last bit.

        Args:
            parent: key of the unit whose state it starts from; None at cycle 0.
            cycle, seed, repeat: where it stands.
            peak: {"value": max_lr} or {"rule": name, "args": {…}}; None beside a checkpoint.
            checkpoint: content hash of the pretrained weights, at cycle 0 of a study that has them.
            pipeline: of a trial, where it is not the arm's own.
        """
        return Unit(
            recipe=RECIPE,
            parent=parent,
            cycle=cycle,
            seed=seed,
            repeat=repeat,
            checkpoint=checkpoint,
            epochs=self.epochs(cycle, checkpoint),
            profile=self._profile_of(cycle),
            peak=canonical(peak),
            prune=self._prune_of(cycle),
            pipeline=self._pipeline_of(cycle, pipeline or self._pipeline),
            **self._shared,
        )

    def _prune_of(self, cycle: int) -> PruneSpec | None:
        if cycle == 0:
            return None
        percentile = canonical(self._share(cycle)) if self._by_percentile else None
        prune, target = self._prune, self._targets[cycle]
        if isinstance(self._pipeline, Ice):  # each block loses the pipeline's ratio, whatever the study's prunes do
            prune, target = {**prune, "scope": "layerwise"}, canonical((1.0 - self._share(cycle)) ** cycle)
        return PruneSpec(target=target, skip=self._skip, layers=self._layers, percentile=percentile, **prune)

    def _share(self, cycle: int) -> float:
        """Share of the remaining that a cycle ≥ 1 removes."""
        if isinstance(self._pipeline, Ice) and self._pipeline.ratio is not None:
            return self._pipeline.ratio
        return 1.0 - float(self._targets[cycle] / self._targets[cycle - 1])

    def epochs(self, cycle: int, checkpoint: str | None) -> int:
        """Epochs of a unit of a cycle."""
        if cycle > 0 or isinstance(self._pipeline, WhileTraining):
            return self._epochs
        return 0 if checkpoint is not None else self._dense_epochs

    def _profile_of(self, cycle: int) -> Mapping[str, Any]:
        profile: Mapping[str, Any] = self._profiles[min(cycle, 1)]
        if not isinstance(self._pipeline, WhileTraining):
            return profile
        over = self._pipeline.over
        part = {"of": profile, "first": cycle / over, "last": (cycle + 1) / over}
        return canonical(resolve_profile("replay", part))  # type: ignore[no-any-return]

    def _pipeline_of(self, cycle: int, pipeline: AnyPipeline | None) -> Mapping[str, Any] | None:
        if pipeline is None or (cycle == 0 and isinstance(pipeline, Ice)):
            return None
        return canonical(resolved(pipeline, self._share(cycle) if cycle else 0.0))  # type: ignore[no-any-return]


def make_unit(study: Study, settings: ArmSettings, **where: Any) -> Unit:
    """One unit of an arm; see `UnitMaker.make`."""
    return UnitMaker(study, settings).make(**where)
