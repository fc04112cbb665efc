"""The rows of a run, from its decisions and results."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from silo_tune.planner.journal import decisions
from silo_tune.planner.outcome import TOLD, is_measured, measured
from silo_tune.results.columns import also_columns, columns_of
from silo_tune.results.searches import search_points
from silo_tune.store.run_folder import Run
from silo_tune.store.unit_store import Notice, silent
from silo_tune.study.model import Study

_FROM_RESULT = (
    "sparsity", "weights_remaining", "val_score", "val_loss", "n_val", "test_score", "n_test", "train_loss", "classes",
    "epochs", "steps", "train_seconds", "realised_peak_lr", "device", "version",
)  # fmt: skip
# Results made before these were measured do not have them.
_LATER = (
    "test_loss", "guess_score", "guess_loss", "grad_spread", "activation_spread", "activation_spread_norm", "prunable",
    "parameters",
)  # fmt: skip


def rows(run: Run, study: Study, doubt: Notice = silent) -> Iterator[dict[str, Any]]:
    """Every row of the closed rounds, in study order: arm, trials before its own chains, seed, cycle, candidate.

    Args:
        run, study: whose.
        doubt: told where two files say different things of one trial.
    """
    owner: dict[str, str] = {}
    for arm in study.arms:
        again = getattr(study.arms[arm], "retrained_as", None)
        for seed, trial in _chains(run, study, arm):
            closed = list(_decisions(run, arm, seed, trial, study.cycles))
            parents = {decision["cycle"]: decision["parent"] for decision in closed}
            winners = {decision["cycle"]: decision["winner"] for decision in closed if decision["closes"]}
            last = {(d["cycle"], asked["candidate"]): d["round"] for d in closed for asked in d["asked"]}
            for decision in closed:
                told = {outcome["candidate"]: outcome for outcome in decision["told"]}
                continues = parents.get(decision["cycle"] + 1)
                for asked in decision["asked"]:
                    if last[decision["cycle"], asked["candidate"]] > decision["round"]:
                        continue  # it failed, and was tried again
                    key = asked["key"]
                    row = _row(run, study, decision, asked, told[asked["candidate"]], doubt)
                    row["mode"] = "pilot" if trial is not None and study.pilots(arm) else study.arms[arm].mode
                    row["winner"] = key == winners.get(decision["cycle"])
                    second = again is not None and row["repeat"] == again
                    row["continued"] = (key == continues or second) and not row["winner"]
                    first = owner.setdefault(key, arm)
                    row["shared_with"] = None if first == arm else first
                    yield row


def _chains(run: Run, study: Study, arm: str) -> Iterator[tuple[int, int | None]]:
    """(seed, trial) of every chain of an arm."""
    seeds = study.search_seeds(arm)
    closed = len(search_points(run, arm)) if seeds else 0
    for trial in itertools.count() if seeds else ():
        begun = [seed for seed in seeds if run.decision(arm, seed, 0, 1, trial) is not None]
        if not begun and trial >= closed:
            break
        yield from ((seed, trial) for seed in begun)
    if study.arms[arm].mode != "tune":
        yield from ((seed, None) for seed in study.replicates.seeds)


def _decisions(run: Run, arm: str, seed: int, trial: int | None, cycles: int) -> Iterator[dict[str, Any]]:
    of_cycles = (list(decisions(run, arm, seed, cycle, trial)) for cycle in range(cycles))
    return itertools.chain.from_iterable(itertools.takewhile(bool, of_cycles))


def _row(
    run: Run,
    study: Study,
    decision: Mapping[str, Any],
    asked: Mapping[str, Any],
    told: Mapping[str, Any],
    doubt: Notice,
) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(columns_of(study))
    row |= {name: decision[name] for name in ("arm", "seed", "cycle", "parent")}
    row |= {"trial": decision.get("trial"), "score": study.scored.name}
    row |= {
        "candidate": asked["candidate"],
        "repeat": told["repeat"],
        "key": asked["key"],
        "asked": asked["asked"],
    }
    row["tests"] = ",".join(asked["tests"]) or None
    row |= {name: told[name] for name in ("status", "max_lr", "error", "val_score", "val_loss")}
    peak = asked["peak"] or {}
    row["peak_rule"] = peak.get("rule")
    row["classes"] = told.get("classes")
    if row["max_lr"] is None:  # a failed unit never resolved a rule, but a fixed peak is known
        row["max_lr"] = peak.get("value")
    if told["status"] != "failed" and (result := run.result(asked["key"])) is not None:
        row |= {name: result[name] for name in _FROM_RESULT}
        row |= {name: result.get(name) for name in _LATER}
        scores = result.get("also") or {}  # of a trial that diverged there are none
        row |= {column: scores.get(name, {}).get(part) for column, part, name in also_columns(study)}
        if differing := list(_differing(decision, asked, told, result)):
            where = (decision["arm"], decision["seed"], decision["cycle"], decision["round"], decision.get("trial"))
            doubt(
                f"{run.storage.shown(run.decision_name(*where))} and {run.units.folder(asked['key'])}/result.json tell "
                f"different things of one trial ({', '.join(differing)}): one of them was changed, or the trial was "
                f"trained again on another kind of machine. To find out, move the result away and run the study again"
            )
    return row


def _differing(
    decision: Mapping[str, Any], asked: Mapping[str, Any], told: Mapping[str, Any], result: Mapping[str, Any]
) -> Iterator[str]:
    """What a decision and the result of one of its trials say differently."""
    for name in (name for name in TOLD if name in told):  # a decision of an earlier version does not tell all of it
        if name == "measured":
            if told[name] is not None and not is_measured(result, told[name]):
                yield f"{name} {told[name]} and {measured(result)}"
        elif told[name] != result.get(name):
            yield f"{name} {told[name]} and {result.get(name)}"
    unit = result["unit"]
    asked_for = {"parent": decision["parent"], "peak": asked["peak"], "repeat": told["repeat"]}
    yield from (f"{name} {value} and {unit.get(name)}" for name, value in asked_for.items() if unit.get(name) != value)
