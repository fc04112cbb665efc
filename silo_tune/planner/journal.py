"""Decisions of closed rounds: where they are written, and the one way to walk over them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol


class Journal(Protocol):
    """The files that the planner reads and writes; `store.Run` is one."""

    def decision(
        self, arm: str, seed: int, cycle: int, number: int, trial: int | None = None
    ) -> dict[str, Any] | None: ...

    def decide(self, body: Mapping[str, Any]) -> dict[str, Any]: ...

    def search_round(self, arm: str, number: int) -> dict[str, Any] | None: ...

    def decide_search(self, body: Mapping[str, Any]) -> dict[str, Any]: ...

    def result(self, key: str) -> dict[str, Any] | None: ...

    def sweep(self, key: str) -> None: ...


class Decided(Protocol):
    """Anything that finds the decision of a round; None while it is open."""

    def decision(
        self, arm: str, seed: int, cycle: int, number: int, trial: int | None = None
    ) -> dict[str, Any] | None: ...


def decisions(journal: Decided, arm: str, seed: int, cycle: int, trial: int | None = None) -> Iterator[dict[str, Any]]:
    """Decisions of the closed rounds of a chain's cycle, in order.

    A cycle that closed without a winner may have been reopened: then more rounds follow the one that closed it.
    """
    number = 1
    while (decision := journal.decision(arm, seed, cycle, number, trial)) is not None:
        yield decision
        number += 1


def winning_key(of_cycle: Iterable[Mapping[str, Any]]) -> str | None:
    """Key of the unit that won a cycle, from its decisions; None while it is open, or without a winner."""
    return next((decision["winner"] for decision in reversed(list(of_cycle)) if decision["closes"]), None)
