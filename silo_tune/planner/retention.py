"""Whose weights may go: a unit's go only when every chain of its seed is past it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from silo_tune.planner.chain import Chain


@dataclass
class Weights:
    """The units that chains used and whose weights may still be there.

    Attributes:
        cycles: of the study.
        remove: removes the weights of a unit.
        used: seed → cycle → keys.
        shared: seed → keys that trials of an open search use: a later trial with the same peaks starts from them.
    """

    cycles: int
    remove: Callable[[str], None]
    used: dict[int, dict[int, set[str]]] = field(default_factory=dict)
    shared: dict[int, set[str]] = field(default_factory=dict)

    def use(self, seed: int, cycle: int, key: str, search: bool) -> None:
        """A chain uses a unit."""
        self.used.setdefault(seed, {}).setdefault(cycle, set()).add(key)
        if search and cycle < self.cycles - 1:  # a final state is nobody's parent
            self.shared.setdefault(seed, set()).add(key)

    def seed_of(self, key: str) -> int | None:
        """Whose unit this is."""
        return next((seed for seed, used in self.used.items() if any(key in keys for keys in used.values())), None)

    def forget(self, seed: int, held: Collection[str | None], floor: int, waiting: Collection[str]) -> None:
        """Leave weights alone that went when their cycles were decided: a resumed run looks only at the last ones."""
        for cycle, keys in self.used.get(seed, {}).items():
            if cycle < floor - 2:
                keys &= {*held, *waiting, *self.shared.get(seed, ())}

    def sweep(self, seed: int, held: Collection[str | None], floor: int, waiting: Collection[str]) -> None:
        """Remove the weights of every unit below the lowest open cycle that nobody holds."""
        shared = self.shared.get(seed, set())
        for cycle, keys in self.used.get(seed, {}).items():
            if cycle < floor:
                gone = {key for key in keys if key not in held and key not in waiting and key not in shared}
                for key in gone:
                    self.remove(key)
                keys -= gone


def floor_of(chains: Iterable[Chain], cycles: int) -> int:
    """The lowest cycle that one of these chains may still ask for."""
    return min((chain.cycle for chain in chains if chain.active), default=cycles)
