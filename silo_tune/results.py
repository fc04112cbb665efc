"""The row, and the table of a run, from its files alone. Pandas is imported only where a table is made."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from silo_tune.candidates.points import best_point, plan_of
from silo_tune.store import Run
from silo_tune.study import ScheduleArm, Study

if TYPE_CHECKING:
    import pandas as pd

# One row is one unit's outcome as one chain uses it. A cell is null, never 0, where there is nothing.
COLUMNS: dict[str, tuple[str, str]] = {
    "arm": ("string", "name of the arm"),
    "mode": ("string", "schedule | oracle | tune, or pilot for the trials of a schedule arm's pilot"),
    "seed": ("Int64", "replicate"),
    "trial": ("Int64", "trial of a search over whole chains (tune, pilot), else null"),
    "cycle": ("Int64", "0 is dense"),
    "candidate": ("Int64", "position among the cycle's candidates"),
    "repeat": ("Int64", "0, or the number of a re-evaluation with other random streams"),
    "max_lr": ("Float64", "peak learning rate, resolved"),
    "peak_rule": ("string", "rule that resolved it, null for a fixed peak"),
    "asked": ("boolean", "a rate of the arm's own search (false: only a tested arm's value)"),
    "tests": ("string", "arms whose own value this is, comma-separated"),
    "status": ("string", "ok | diverged | failed"),
    "error": ("string", "why, unless ok"),
    "sparsity": ("Float64", "fraction of prunable weights pruned, in [0, 1]"),
    "weights_remaining": ("Float64", "1 - sparsity, as counted"),
    "val_accuracy": ("Float64", "in [0, 1], on the validation split: the only one that chooses"),
    "val_loss": ("Float64", "mean cross-entropy in nats"),
    "n_val": ("Int64", "validation images"),
    "test_accuracy": ("Float64", "in [0, 1], never used to choose"),
    "n_test": ("Int64", "test images"),
    "train_loss": ("Float64", "mean cross-entropy of the last epoch, in nats"),
    "classes": ("Int64", "number of classes"),
    "epochs": ("Int64", "epochs of this unit"),
    "steps": ("Int64", "optimizer steps of this unit"),
    "train_seconds": ("Float64", "wall seconds of training on its worker"),
    "key": ("string", "identity of the unit"),
    "parent": ("string", "key of the unit it started from, null at cycle 0"),
    "winner": ("boolean", "the best candidate of its cycle on validation"),
    "continued": ("boolean", "the next cycle's parent, where that is not the winner"),
    "shared_with": ("string", "first arm of the study that owns the key, null when it is this one"),
    "realised_peak_lr": ("Float64", "largest learning rate that the optimizer was given"),
    "grad_spread": ("Float64", "standard deviation of the loss gradient over surviving weights, in nats per unit"),
    "activation_spread": (
        "Float64",
        "standard deviation of hidden representations before normalisation, mean over layers",
    ),
    "activation_spread_norm": ("Float64", "after normalisation; null where the network has none"),
    "device": ("string", "kind of the CPU and of its vector units, or the GPU's name"),
    "mixed": (
        "boolean",
        "units of this seed were trained on more than one kind of device: not comparable to the last bit",
    ),
    "version": ("string", "silo-tune version that trained it"),
}

# The same work on the same machine kind gives equal tables, but for these.
UNSTABLE = ("train_seconds", "device", "mixed")

_FROM_RESULT = (
    "sparsity", "weights_remaining", "val_accuracy", "val_loss", "n_val", "test_accuracy", "n_test", "train_loss",
    "classes", "epochs", "steps", "train_seconds", "realised_peak_lr", "device", "version",
)  # fmt: skip
# Results made before these were measured do not have them.
_SPREADS = ("grad_spread", "activation_spread", "activation_spread_norm")


@dataclass(frozen=True)
class SearchRecord:
    """A search over whole chains, as far as its rounds are closed.

    Attributes:
        arm: whose constants it searches.
        kind: "pilot" | "tune".
        points: in order; each has trial, round, params, objective (mean validation accuracy over the counted cycles and
            the seeds; None when it was stopped), told (what the sampler heard), stopped (cycle, or None), seeds.
        best: trial of the best point, None before a first round is closed.
        args: the schedule that the best point stands for, as a table of a study.
        importance: share of the objective's variance that each parameter explains, None where it was not computed.
        finished: no more rounds to come.
        extended: a pilot whose grid was extended beyond an edge.
        counted: the cycles that count.
    """

    arm: str
    kind: str
    points: tuple[dict[str, Any], ...]
    best: int | None = None
    args: Mapping[str, Any] | None = None
    importance: Mapping[str, float] | None = None
    finished: bool = False
    extended: bool = False
    counted: tuple[int, ...] = ()


def searches(run: Run, study: Study) -> dict[str, SearchRecord]:
    """The searches of a study that have closed a round, by arm."""
    found = {arm: _search(run, study, arm) for arm in study.arms if study.searched(arm)}
    return {arm: record for arm, record in found.items() if record.points}


def _search(run: Run, study: Study, arm: str) -> SearchRecord:
    points = _points(run, arm)
    plan, best = plan_of(study, arm), best_point(points)
    found = study.arms[arm]
    name = found.schedule.name if isinstance(found, ScheduleArm) else "silo"
    given = found.schedule.args if isinstance(found, ScheduleArm) else {}
    return SearchRecord(
        arm=arm,
        kind=plan.kind,
        points=points,
        best=None if best is None else best["trial"],
        args=None if best is None else {"name": name, **given, **plan.args(best["params"])},
        importance=run.importance(arm, len(points)),
        finished=plan.finished(points),
        extended=plan.kind == "pilot" and any(point["round"] > 1 for point in points),
        counted=tuple(plan.counted),
    )


def _points(run: Run, arm: str) -> tuple[dict[str, Any], ...]:
    """Points of the closed rounds of a search, in order."""
    points: list[dict[str, Any]] = []
    number = 1
    while (body := run.search_round(arm, number)) is not None:
        points += [{**point, "seeds": body["seeds"]} for point in body["points"]]
        number += 1
    return tuple(points)


def rows(run: Run, study: Study) -> Iterator[dict[str, Any]]:
    """Every row of the closed rounds, in study order: arm, trials before its own chains, seed, cycle, candidate."""
    owner: dict[str, str] = {}
    for arm in study.arms:
        for seed, trial in _chains(run, study, arm):
            decisions = list(_decisions(run, arm, seed, trial, study.cycles))
            parents = {decision["cycle"]: decision["parent"] for decision in decisions}
            winners = {decision["cycle"]: decision["winner"] for decision in decisions if decision["closes"]}
            last = {(d["cycle"], asked["candidate"]): d["round"] for d in decisions for asked in d["asked"]}
            for decision in decisions:
                told = {outcome["candidate"]: outcome for outcome in decision["told"]}
                continues = parents.get(decision["cycle"] + 1)
                for asked in decision["asked"]:
                    if last[decision["cycle"], asked["candidate"]] > decision["round"]:
                        continue  # it failed, and was tried again
                    key = asked["key"]
                    row = _row(run, decision, asked, told[asked["candidate"]])
                    row["mode"] = "pilot" if trial is not None and study.pilots(arm) else study.arms[arm].mode
                    row["winner"] = key == winners.get(decision["cycle"])
                    row["continued"] = key == continues and not row["winner"]
                    first = owner.setdefault(key, arm)
                    row["shared_with"] = None if first == arm else first
                    yield row


def _chains(run: Run, study: Study, arm: str) -> Iterator[tuple[int, int | None]]:
    """(seed, trial) of every chain of an arm."""
    seeds = study.search_seeds(arm)
    closed = len(_points(run, arm)) if seeds else 0
    for trial in itertools.count() if seeds else ():
        begun = [seed for seed in seeds if run.decision(arm, seed, 0, 1, trial) is not None]
        if not begun and trial >= closed:
            break
        yield from ((seed, trial) for seed in begun)
    if study.arms[arm].mode != "tune":
        yield from ((seed, None) for seed in study.replicates.seeds)


def _decisions(run: Run, arm: str, seed: int, trial: int | None, cycles: int) -> Iterator[dict[str, Any]]:
    for cycle in range(cycles):
        number = 1
        while (decision := run.decision(arm, seed, cycle, number, trial)) is not None:
            yield decision
            number += 1
        if number == 1:
            return


def _row(run: Run, decision: Mapping[str, Any], asked: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {name: decision[name] for name in ("arm", "seed", "cycle", "parent")}
    row["trial"] = decision.get("trial")
    row |= {
        "candidate": asked["candidate"],
        "repeat": told["repeat"],
        "key": asked["key"],
        "asked": asked["asked"],
    }
    row["tests"] = ",".join(asked["tests"]) or None
    row |= {name: told[name] for name in ("status", "max_lr", "error", "val_accuracy", "val_loss")}
    peak = asked["peak"] or {}
    row["peak_rule"] = peak.get("rule")
    row["classes"] = told.get("classes")
    if row["max_lr"] is None:  # a failed unit never resolved a rule, but a fixed peak is known
        row["max_lr"] = peak.get("value")
    if told["status"] != "failed" and (result := run.result(asked["key"])) is not None:
        row |= {name: result[name] for name in _FROM_RESULT}
        row |= {name: result.get(name) for name in _SPREADS}
    return row


def make_table(rows_: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> pd.DataFrame:
    """A DataFrame with the columns and types of `COLUMNS`."""
    import pandas as pd

    frame = pd.DataFrame(list(rows_), columns=list(COLUMNS))
    # Compared is within a seed.
    frame["mixed"] = frame.groupby("seed").device.transform("nunique") > 1
    return frame.astype({name: kind for name, (kind, _) in COLUMNS.items()})


def table(run: Run, study: Study | None = None) -> pd.DataFrame:
    """The table of a run, from its decisions and results."""
    return make_table(rows(run, study or run.study()))


def write_table(run: Run, frame: pd.DataFrame) -> None:
    """Write RUN/table.parquet, whole or not at all."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    run.storage.replace("table.parquet", buffer.getvalue())


def load_run(url: str) -> tuple[pd.DataFrame, Study, dict[str, Any]]:
    """Table, study and ledger (created, environment, accepted changes) of a run, from its files.

    Raises:
        BadInput: there is no run at that place, or its study is damaged.
    """
    run = Run(url)
    study = run.study()
    recorded = run.recorded()
    assert recorded is not None
    return table(run, study), study, recorded[1]
