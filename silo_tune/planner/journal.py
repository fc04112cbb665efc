"""Decisions of closed rounds: where they are written, and the one way to walk over them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from silo_tune.study.model import Study


class Journal(Protocol):
    """The files that the planner reads and writes; `store.Run` is one."""

    def decision(
        self, arm: str, seed: int, cycle: int, number: int, trial: int | None = None
    ) -> dict[str, Any] | None: ...

    def decide(self, body: Mapping[str, Any]) -> dict[str, Any]: ...

    def search_round(self, arm: str, number: int) -> dict[str, Any] | None: ...

    def decide_search(self, body: Mapping[str, Any]) -> dict[str, Any]: ...

    def look(self, number: int) -> dict[str, Any] | None: ...

    def result(self, key: str) -> dict[str, Any] | None: ...

    def sweep(self, key: str) -> None: ...


class Decided(Protocol):
    """Anything that finds the decision of a round; None while it is open."""

    def decision(
        self, arm: str, seed: int, cycle: int, number: int, trial: int | None = None
    ) -> dict[str, Any] | None: ...


class LooksMade(Protocol):
    """Anything that finds what a look decided; None before it was made."""

    def look(self, number: int) -> dict[str, Any] | None: ...


def looks_made(journal: LooksMade, study: Study) -> list[dict[str, Any]]:
    """The looks that were made, in order."""
    made: list[dict[str, Any]] = []
    for number in range(1, len(study.looks) + 1):
        if (body := journal.look(number)) is None:
            break
        made.append(body)
    return made


def seeds_begun(study: Study, looks: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """Seeds whose chains have begun after these looks."""
    going = [number for number in range(len(looks) + 1) if number == 0 or not looks[number - 1]["over"]]
    return tuple(seed for number in going for seed in study.seeds_after(number))


def decisions(journal: Decided, arm: str, seed: int, cycle: int, trial: int | None = None) -> Iterator[dict[str, Any]]:
    """Decisions of the closed rounds of a chain's cycle, in order.

    A cycle that closed without a winner may have been reopened: then more rounds follow the one that closed it.
    """
    number = 1
    while (decision := journal.decision(arm, seed, cycle, number, trial)) is not None:
        yield decision
        number += 1


def continuing_key(decision: Mapping[str, Any]) -> str | None:
    """Key of the unit that a chain continues with after a round; None where the cycle is open, or ended the chain."""
    key: str | None = decision["continues"] if "continues" in decision else decision["winner"]
    return key


def why_ended(decision: Mapping[str, Any], told: Iterable[Mapping[str, Any]]) -> str:
    """Why a chain ended with the decision that closed a cycle; `told` are the outcomes of all of the cycle's rounds."""
    won = decision["winner"] is not None
    reasons = sorted({outcome["error"] or outcome["status"] for outcome in (decision["told"] if won else told)})
    cycle = decision["cycle"]
    what = f"the second training of cycle {cycle}'s winner cannot" if won else f"no candidate of cycle {cycle} can"
    return f"{what} continue ({'; '.join(reasons)})"


def key_of_cycle(of_cycle: Iterable[Mapping[str, Any]]) -> str | None:
    """Key of the unit that a chain continues with after a cycle, from its decisions; None where there is none."""
    return next((continuing_key(decision) for decision in reversed(list(of_cycle)) if decision["closes"]), None)
