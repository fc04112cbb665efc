"""What the files of a run say of each other: decisions that are gone, and a study that is not theirs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from silo_tune.errors import BadInput
from silo_tune.formats import plural
from silo_tune.planner.candidates import peak_of
from silo_tune.planner.journal import decisions
from silo_tune.planner.unit import RECIPE, UnitMaker
from silo_tune.results.searches import search_points
from silo_tune.store.run_folder import Run
from silo_tune.study.arms import ScheduleArm
from silo_tune.study.model import Study

if TYPE_CHECKING:
    import pandas as pd


def own_study(run: Run) -> Study:
    """The recorded study, which is that of the run's chains (`require_own_study`). Raises BadInput."""
    study, recorded = run.study(), run.recorded()
    if recorded is not None and not run.is_record(study):
        require_own_study(run, study, recorded[1]["recipe"])
    return study


def require_own_study(run: Run, study: Study, recipe: int) -> None:
    """See that the recorded study is the one that the run's chains were trained with.

    Args:
        run, study: whose.
        recipe: by which the run was made; keys of another one than today's cannot be compared.

    Raises:
        BadInput: there are chains that it does not have, or it gives other trials.
    """
    strange = [f"chains/{arm}" for arm in run.storage.names("chains") if arm not in study.arms and _chains(run, arm)]
    for arm in study.arms:
        seeds = {f"seed-{seed}" for seed in (*study.replicates.seeds, *study.search_seeds(arm))}
        strange += [f"chains/{arm}/{name}" for name in _chains(run, arm) if name != "search" and name not in seeds]
        strange += _other_trials(run, study, arm) if recipe == RECIPE else ()
    if strange:
        raise BadInput(
            f"{run.storage.shown('study.toml')} is not the study of this run: {strange[0]} tells of trials that it "
            f"does not give; put back a copy"
        )


def _chains(run: Run, arm: str) -> list[str]:
    """Folders of an arm's chains and of its search; what else lies there (`.DS_Store`) is not of the run."""
    return [name for name in run.storage.names(f"chains/{arm}") if name.startswith("seed-") or name == "search"]


def _other_trials(run: Run, study: Study, arm: str) -> Iterator[str]:
    """Decisions, of one seed, whose first trial is not what the study gives from that parent."""
    maker = UnitMaker(study, study.settings(study.arms[arm]))
    told = study.arms[arm]
    # The peaks of a curve that is written down are known here. A user's function is not asked, which may be gone, and a
    # pipeline may take the curve at the weights that it left.
    known = isinstance(told, ScheduleArm) and not told.open and told.schedule.function is None
    plain = known and study.settings(told).pipeline is None
    schedule = study.schedule_of(told) if isinstance(told, ScheduleArm) and plain else None
    for seed in study.replicates.seeds[:1]:
        for cycle in range(study.cycles):
            for decision in decisions(run, arm, seed, cycle):
                asked = decision["asked"][0]
                result = run.result(asked["key"])
                peak = asked["peak"]
                if schedule is not None and cycle > 0:
                    peak = peak_of(schedule, cycle, study.pruned_by(told), arm)
                checkpoint = None if result is None else result["unit"].get("checkpoint")
                unit = maker.make(
                    parent=decision["parent"],
                    cycle=cycle,
                    seed=seed,
                    peak=peak,
                    repeat=asked.get("repeat", 0),
                    checkpoint=checkpoint,
                )
                if unit.key != asked["key"]:
                    yield run.decision_name(arm, seed, cycle, decision["round"])


def gaps(run: Run, study: Study, frame: pd.DataFrame) -> Iterator[str]:
    """A sentence for what is gone, as what is there shows: decisions before later ones, and results that were told.

    Args:
        run, study: whose.
        frame: the table of the run, which ends where the first is gone.
    """
    ends: dict[tuple[str, int, int | None], int]
    ends = {(arm, seed, None): -1 for arm in study.arms for seed in study.replicates.seeds}
    for arm, seed, trial, cycle in frame[["arm", "seed", "trial", "cycle"]].astype(object).itertuples(index=False):
        where = (arm, seed, trial if isinstance(trial, int) else None)
        ends[where] = max(ends.get(where, -1), cycle)
    names = [
        run.decision_name(arm, seed, end + 1, 1, trial)
        for (arm, seed, trial), end in ends.items()
        if end + 1 < study.cycles
    ]
    for arm in filter(study.searched, study.arms):
        names.append(run.search_name(arm, max((p["round"] for p in search_points(run, arm)), default=0) + 1))
    for name in names:
        folder, _, file = name.rpartition("/")
        kind = file.partition("-")[0]
        later = (other for other in run.storage.names(folder) if other.startswith(f"{kind}-") and other > file)
        if any(other.endswith(".json") for other in later):
            yield f"{run.storage.shown(name)} is gone, and later ones are there"
    gone = frame[(frame.status != "failed") & frame.steps.isna()].key.unique()
    if len(gone):
        first = run.storage.shown(f"{run.units.folder(gone[0])}/result.json")
        yield f"{first} is gone" + (f", and {plural(len(gone) - 1, 'other result')}" if len(gone) > 1 else "")
