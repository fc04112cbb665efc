"""A run as Optuna studies in one file, for optuna-dashboard and everything else that reads Optuna's journal.

Optuna only stores here what the run decided: nothing is sampled, and nothing of the run is changed.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from silo_tune.errors import BadInput
from silo_tune.planner.journal import decisions
from silo_tune.planner.winner import gain, guess_told
from silo_tune.results.records import load_run
from silo_tune.results.searches import SearchRecord, searches
from silo_tune.store.run_folder import Run
from silo_tune.study.arms import OracleArm
from silo_tune.study.model import Study
from silo_tune.study.places import expand

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, Any]

# What a trial of an Oracle says beside its max_lr and its validation accuracy: columns of the table.
ATTRIBUTES = (
    "seed", "cycle", "winner", "status", "error", "asked", "tests", "candidate", "repeat", "val_loss", "test_score",
    "weights_remaining", "train_seconds", "key",
)  # fmt: skip


@dataclass(frozen=True)
class OptunaStudy:
    """One Optuna study before it is written.

    Attributes:
        name: unique in its file.
        trials: in order; their values are scores on validation.
        sign: +1 where more is better, -1 where less is.
        attributes: JSON values by name, None where there is nothing to say.
    """

    name: str
    trials: list[FrozenTrial]
    attributes: dict[str, Any]
    sign: int = 1


def export(url: str, file: str, notice: Callable[[str], None] = lambda note: None) -> list[str]:
    """Write a run's Oracles and searches as Optuna studies into a new file.

    Args:
        url: the run folder or URL.
        file: a local path where nothing is yet.
        notice: told of damaged files, and where files of the run say different things.

    Returns:
        The names of the studies.

    Raises:
        BadInput: no run there; nothing in it was searched yet; the file exists or cannot be written.
    """
    frame, study, ledger = load_run(url)
    for note in ledger.get("notes", ()):
        notice(note)
    run = Run(url, notice)
    studies = [
        *oracle_studies(frame, study, run),
        *(study_of_search(found, study.scored.sign) for found in searches(run, study).values()),
    ]
    if not studies:
        raise BadInput(
            f"nothing to export from {url!r}: no Oracle of it has closed a cycle, and no search a round; "
            f"`silo-tune run` resumes it; a study needs an arm of mode oracle or tune, or a [pilot]"
        )
    write(studies, file)
    return [study.name for study in studies]


# --- Oracles ---


def oracle_studies(frame: pd.DataFrame, study: Study, run: Run) -> Iterator[OptunaStudy]:
    """One study per Oracle: the candidates of all seeds and cycles that it decided and closed, in that order."""
    rows = frame.astype(object).where(frame.notna(), None)
    for name, arm in study.arms.items():
        if not isinstance(arm, OracleArm):
            continue
        # The dense cycle is shared by all arms: there was nothing to choose, unless the arm has its own.
        mine = rows[(rows.arm == name) & (rows.cycle >= (0 if arm.own_dense else 1)) & rows.max_lr.notna()]
        if mine.empty:
            continue
        # One range for all cycles and seeds of an Oracle, so that their plots compare.
        bounds = FloatDistribution(mine.max_lr.min(), mine.max_lr.max(), log=True)
        groups: Any = mine.groupby(["seed", "cycle"])
        trials = []
        for (seed, cycle), group in groups:
            rounds = rounds_of(run, name, seed, cycle)
            trials += [
                oracle_trial(row, bounds, rounds.get(row["key"]), study.scored.sign) for row in group.to_dict("records")
            ]
        yield OptunaStudy(
            f"{name} / oracle", trials, {"study": study.name, "arm": name, "prefix": arm.prefix}, study.scored.sign
        )


def rounds_of(run: Run, arm: str, seed: int, cycle: int) -> dict[str, int]:
    """Key of a unit → the round in which this chain asked for it."""
    return {asked["key"]: found["round"] for found in decisions(run, arm, seed, cycle) for asked in found["asked"]}


def oracle_trial(row: Row, bounds: FloatDistribution, number: int | None, sign: int = 1) -> FrozenTrial:
    """One candidate of round `number`, which is not known of a record.

    A diverged one is told as guessing; a failed one has no value.
    """
    diverged = row["status"] == "diverged"
    value = gain(guess_told({**row, "sign": sign}), sign) if diverged else row["val_score"]
    return make_trial(
        {"max_lr": row["max_lr"]},
        {"max_lr": bounds},
        TrialState.FAIL if row["status"] == "failed" else TrialState.COMPLETE,
        value,
        {**{name: row[name] for name in ATTRIBUTES}, "round": number, "diverged": diverged},
    )


# --- searches over whole chains ---


def study_of_search(record: SearchRecord, sign: int = 1) -> OptunaStudy:
    """The study of one search: a trial per point. A stopped one is pruned, and shows what it reached at its rungs."""
    points = sorted(record.points, key=lambda point: point["trial"])
    bounds = {name: range_of([p["params"][name] for p in points]) for name in (points[0]["params"] if points else ())}
    attributes = {"arm": record.arm, "kind": record.kind, "best": record.best, "importance": record.importance}
    trials = [search_trial(_as_scores(point, sign), bounds, point["trial"] == record.best) for point in points]
    return OptunaStudy(f"{record.arm} / {record.kind}", trials, attributes, sign)


def _as_scores(point: Mapping[str, Any], sign: int) -> dict[str, Any]:
    """The point with scores where the search had gains."""
    values = {name: None if point[name] is None else gain(point[name], sign) for name in ("told", "objective")}
    return {**point, **values, "rungs": {rung: gain(value, sign) for rung, value in point.get("rungs", {}).items()}}


def search_trial(point: Mapping[str, Any], bounds: Mapping[str, BaseDistribution], best: bool) -> FrozenTrial:
    """One point. Its value is what the search was told: for a stopped one, what was to be expected of it."""
    told, stopped = point["told"], point["stopped"]
    ended = TrialState.FAIL if told is None else TrialState.COMPLETE
    state = ended if stopped is None else TrialState.PRUNED
    attributes = {name: point[name] for name in ("trial", "round", "objective", "stopped")}
    reached = {int(rung): value for rung, value in point.get("rungs", {}).items()}
    return make_trial(point["params"], bounds, state, told, {**attributes, "best": best}, reached)


def range_of(values: Sequence[float]) -> BaseDistribution:
    """The narrowest range that holds all values: of integers if they all are, else logarithmic from a decade on."""
    low, high = min(values), max(values)
    if all(isinstance(value, int) for value in values):
        return IntDistribution(int(low), int(high))
    return FloatDistribution(float(low), float(high), log=low > 0 and high >= 10 * low)


def make_trial(
    params: Mapping[str, float],
    bounds: Mapping[str, BaseDistribution],
    state: TrialState,
    value: float | None,
    attributes: Mapping[str, Any],
    reached: Mapping[int, float] | None = None,
) -> FrozenTrial:
    """A finished trial; attributes that are None are left out."""
    return create_trial(
        state=state,
        value=None if state == TrialState.FAIL else value,
        params=dict(params),
        distributions=dict(bounds),
        user_attrs={name: value for name, value in attributes.items() if value is not None},
        intermediate_values=dict(reached or {}),
    )


# --- the file ---


def write(studies: Iterable[OptunaStudy], file: str) -> None:
    """Write studies into a new journal; the file appears whole or not at all.

    Raises:
        BadInput: it exists, or cannot be written.
    """
    target = Path(expand(file, "--out"))
    taken = BadInput(f"{file!r} exists, and an export never writes over or into a file; remove it or name another")
    if target.exists():
        raise taken
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
            journal = os.path.join(scratch, "journal")
            JournalFileBackend(journal).append_logs(logs_of(studies))
            os.link(journal, target)
    except FileExistsError:
        raise taken from None
    except OSError as error:
        raise BadInput(f"cannot write {file!r}: {error.strerror}; name a file in a folder you can write to") from None


class _Logs(BaseJournalBackend):
    """A journal in memory: writing every trial to the disk by itself takes minutes for a large run."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs += logs


def logs_of(studies: Iterable[OptunaStudy]) -> list[dict[str, Any]]:
    """The journal's entries, as Optuna itself makes them."""
    backend = _Logs()
    storage = JournalStorage(backend)
    with _quiet():
        for study in studies:
            made = optuna.create_study(
                storage=storage, study_name=study.name, direction="minimize" if study.sign < 0 else "maximize"
            )
            made.set_metric_names(["val_score"])
            for name, value in study.attributes.items():
                if value is not None:
                    made.set_user_attr(name, value)
            made.add_trials(study.trials)
    return backend.logs


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna tells of every new study on stderr, and of what it calls experimental."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
