"""What a worker must know beside the unit."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from silo_tune.study.data import Data, standing
from silo_tune.study.handed import held
from silo_tune.study.hf_folder import place_of
from silo_tune.study.model import Study
from silo_tune.study.parts import BROUGHT
from silo_tune.study.places import absolute
from silo_tune.study.prune import DEFAULT_LAYERS
from silo_tune.study.registry import HF_PREFIX
from silo_tune.study.task import TaskSpec


@dataclass(frozen=True)
class Workspace:
    """What a worker must know beside the unit; nothing here changes a unit's numbers but `threads`.

    Attributes:
        run: the run's URL.
        data: the study's [data].
        task: the study's [task].
        threads: torch threads.
        device: "auto", "cpu", "cuda" …
        gpus: GPUs of each process; a share of one is a share of its memory, too.
        workers: processes that train a unit together, each with so many threads.
        partial_seconds: least time between two partial states (0: after every epoch).
        max_failures: how often a unit that raises is tried again.
        unit_timeout: most wall seconds of one attempt at a unit; None is no limit.
        last_target: share of weights that the study's last cycle leaves; checked before anything is trained.
        granularity, skip, norm_scales, layers: what the study's prunes count, as in [prune].
        needs: what a state must hold for the study's criterion beside weights and masks.
        rewind_points: points of the dense training whose weights some arm goes back to.
        network: folder or name on the Hub of an hf: model.
        checkpoint: path of the pretrained weights, "timm" or "model".
        sys_path: folders from which a user's functions are imported.
        handed: objects that the caller handed over, for `study.handed` in the process that trains.
    """

    run: str
    data: Data
    task: TaskSpec | None = None
    threads: int = 1
    device: str = "auto"
    gpus: float = 0.0
    workers: int = 1
    partial_seconds: float = 5.0
    max_failures: int = 2
    unit_timeout: float | None = None
    last_target: float = 1.0
    granularity: str = "weight"
    skip: tuple[str, ...] = ()
    norm_scales: bool = False
    layers: tuple[str, ...] = DEFAULT_LAYERS
    needs: tuple[str, ...] = ()
    rewind_points: tuple[str, ...] = ()
    checkpoint: str | None = None
    network: str | None = None
    sys_path: tuple[str, ...] = ()
    handed: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, study: Study, run_url: str) -> Workspace:
        """The workspace of a study."""
        points = {study.settings(arm).rewind_to for arm in study.arms.values()}
        cluster, checkpoint = study.cluster, study.dense.checkpoint
        return cls(
            run=absolute(run_url),
            data=study.data.standing(),
            task=study.task,
            threads=cluster.cpus_per_unit,
            device=cluster.device,
            gpus=cluster.gpus_per_unit,
            workers=cluster.workers_per_unit,
            partial_seconds=cluster.partial_seconds,
            max_failures=cluster.max_failures,
            unit_timeout=cluster.unit_timeout,
            last_target=study.remaining[-1],
            granularity=study.prune.granularity,
            skip=study.prune.skip,
            norm_scales=study.prune.norm_scales,
            layers=study.prune.layers,
            needs=study.prune.criterion.needs,
            rewind_points=tuple(sorted(point for point in points if point is not None)),
            network=place_of(name) if (name := study.model.name or "").startswith(HF_PREFIX) else None,
            checkpoint=checkpoint if checkpoint in (None, *BROUGHT) else standing(str(checkpoint), "dense.checkpoint"),
            handed=held({str(part.args.get("content")) for part in (study.model, study.data)}),
            sys_path=tuple(dict.fromkeys([absolute("."), *(path for path in sys.path if path)])),
        )
