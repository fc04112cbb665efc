"""One unit of a run, by its arm, seed and cycle, and its weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from silo_tune.errors import BadInput, RunFailed, unknown
from silo_tune.models.checkpoint import load_weights, unpack
from silo_tune.planner.journal import decisions, key_of_cycle
from silo_tune.planner.unit import Unit, canonical_json
from silo_tune.store.run_folder import Run
from silo_tune.store.unit_store import unit_of
from silo_tune.study import handed
from silo_tune.study.arms import TuneArm
from silo_tune.study.data import Data
from silo_tune.study.model import Study
from silo_tune.study.parts import ModelRef
from silo_tune.study.pipelines import Boosting


def require_chain(run: Run, study: Study, arm: str, seed: int) -> None:
    """Raises BadInput where a run has no one chain of this arm and seed; what there is is named."""
    if arm not in study.arms:
        raise BadInput(unknown("arm", arm, study.arms))
    if isinstance(study.arms[arm], TuneArm):
        raise BadInput(
            f"arm {arm!r} is a search whose chains are trials; run a schedule arm with the constants that it found"
        )
    if isinstance(study.settings(study.arms[arm]).pipeline, Boosting):
        raise BadInput(
            f"arm {arm!r} trains in stages, and predicts with the networks of all of them: there is no one network to "
            f"take. A trial's state holds each (docs/reference/pipelines.md)"
        )
    if seed not in study.replicates.seeds:
        raise BadInput(f"unknown seed {seed}; choose from {', '.join(map(str, study.replicates.seeds))}")
    if run.is_record(study):
        raise BadInput(f"{run.url} is a record: it has rows and no weights; name the run folder that it is from")


def require_functions(part: Study | Data | ModelRef, functions: bool) -> None:
    """Raises BadInput where a study, or its network or data, names functions that nobody allowed to import."""
    parts = (part.model, part.data) if isinstance(part, Study) else (part,)
    named = [ref.function for ref in parts if ref.function not in (None, handed.MODEL, handed.DATA)]
    if named and not functions:
        raise BadInput(f"the run's study names {', '.join(named)}: say --functions to import what you trust")


def weights_of(
    run: Run, study: Study, arm: str, seed: int, cycle: int | None, first: int = 0
) -> tuple[Unit, dict[str, dict[str, Tensor]]]:
    """The unit that a chain continued with at a cycle, and its state.

    Args:
        run, study, arm, seed: which chain.
        cycle: of it; the last that has weights when left out.
        first: the first cycle that may be meant.

    Raises:
        BadInput: there is no such unit, or its weights are gone.
        RunFailed: it is of another network than the study's, or has another unit's weights.
    """
    closed = {
        number: result
        for number in range(first, study.cycles)
        if (key := key_of_cycle(decisions(run, arm, seed, number))) is not None
        and (result := run.result(key)) is not None
    }
    if not closed:
        which = "a cycle" if first == 0 else "a pruned cycle"
        raise BadInput(f"arm {arm!r}, seed {seed} has not closed {which}; resume the run")
    if cycle is not None and cycle not in closed:
        have = ", ".join(map(str, closed))
        raise BadInput(f"--cycle: arm {arm!r}, seed {seed} has no network of cycle {cycle}; it has of {have}")
    for number in reversed(closed) if cycle is None else [cycle]:
        data = run.units.read_state(closed[number])
        if data is not None:
            unit, (state, meta) = _of_study(unit_of(closed[number]), study), unpack(data)
            if meta.get("unit", unit.key) != unit.key:
                raise RunFailed(
                    f"the weights of trial {unit.key[:12]} are those of {meta['unit'][:12]}; move its folder away and "
                    f"run the study again to train it anew"
                )
            for name in (name for name, tensor in state.get("weights", {}).items() if not tensor.isfinite().all()):
                run.notice(f"trial {unit.key[:12]}: not all numbers of {name} are finite")
            return unit, state
    there = [str(number) for number, result in closed.items() if run.units.has_state(result)]
    which = "every cycle" if cycle is None else f"cycle {cycle}"
    raise BadInput(
        f"the weights of {which} of arm {arm!r}, seed {seed} are gone: a run keeps those of a chain's last cycle. "
        f"Cycles that have theirs: {', '.join(there) or 'none'}. For every cycle's, run the study anew with "
        f'cluster.keep = "chains" and another --out'
    )


def network_of(unit: Unit, model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """A newly built network with a unit's weights, in evaluation mode. Raises BadInput where they are another's."""
    try:
        load_weights(model, weights)
    except RuntimeError as error:
        raise BadInput(f"model: what {dict(unit.model)} makes has other weights than the run's: {error}") from error
    return model.eval()


def _of_study(unit: Unit, study: Study) -> Unit:
    """The unit. What builds its network is what the study names: whoever writes to a run must not choose another."""
    if canonical_json(unit.model) != canonical_json(study.model.resolved()):
        raise RunFailed(
            f"trial {unit.key[:12]} is of another network than the run's study names; move its folder away and run the "
            f"study again to train it anew"
        )
    return unit
