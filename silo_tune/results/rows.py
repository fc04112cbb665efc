"""The rows of a run, from its decisions and results."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from silo_tune.planner.journal import decisions
from silo_tune.results.columns import COLUMNS
from silo_tune.results.searches import search_points
from silo_tune.store.run_folder import Run
from silo_tune.study.model import Study

_FROM_RESULT = (
    "sparsity", "weights_remaining", "val_accuracy", "val_loss", "n_val", "test_accuracy", "n_test", "train_loss",
    "classes", "epochs", "steps", "train_seconds", "realised_peak_lr", "device", "version",
)  # fmt: skip
# Results made before these were measured do not have them.
_SPREADS = ("grad_spread", "activation_spread", "activation_spread_norm")


def rows(run: Run, study: Study) -> Iterator[dict[str, Any]]:
    """Every row of the closed rounds, in study order: arm, trials before its own chains, seed, cycle, candidate."""
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
                    row = _row(run, decision, asked, told[asked["candidate"]])
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
