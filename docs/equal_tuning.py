"""Writes the table of docs/how-to/pilot.md: what each way to propose gives arms with one, two and three constants.

python docs/equal_tuning.py         # rewrites what stands between <!-- proposals --> and <!-- end -->; a minute

The arms do equally well at their best. Each has its best constants somewhere in two decades of rates; a point loses
`STEEP` percentage points per squared decade away from them, mean over its constants, and a pilot measures that with
normal noise. The constants of a point never fall, as ε and ε + δ.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np

from silo_tune.planner.proposals import Position, next_positions

PAGE = Path(__file__).parent / "how-to" / "pilot.md"
DECADES, STEEP = 2.0, 10.0
CHAINS, RUNS = 10, 1000
# Levels of a grid of 10 chains: 10 rates, 10 pairs, 10 triples.
LEVELS = {1: 10, 2: 4, 3: 3}
NOISES = (0.0, 0.2, 0.5)
WAYS = ("grid", "spread", "guided")


def losses(way: str, constants: int, noise: float, runs: int = RUNS) -> tuple[float, float]:
    """Percentage points that the chosen point loses against the best there is: mean over runs, and standard error."""
    rng = np.random.default_rng((20, constants, int(10 * noise), WAYS.index(way)))
    found = np.array([_loss(way, constants, noise, rng) for _ in range(runs)])
    return float(found.mean()), float(found.std() / np.sqrt(runs))


def _loss(way: str, constants: int, noise: float, rng: np.random.Generator) -> float:
    best, seed = np.sort(rng.random(constants)), int(rng.integers(2**31))

    def lost(points: Sequence[Position]) -> list[float]:
        return [STEEP * float(((DECADES * (np.array(point) - best)) ** 2).mean()) for point in points]

    true: list[float] = []
    heard: list[tuple[Position, float | None]] = []
    while asked := _asked(way, constants, heard, seed):
        true += (new := lost(asked))
        heard += [(point, noise * rng.standard_normal() - loss) for point, loss in zip(asked, new, strict=True)]
    return true[int(np.argmax([value for _, value in heard]))]  # type: ignore[arg-type]


def _asked(way: str, constants: int, heard: Sequence[tuple[Position, float | None]], seed: int) -> list[Position]:
    if way == "grid":
        levels = np.linspace(0, 1, LEVELS[constants])
        return [] if heard else list(combinations_with_replacement(levels, constants))
    return next_positions(heard, CHAINS, constants, seed, guided=way == "guided")


def table() -> str:
    """A row per noise and way; what an arm loses, and in brackets by how much that is more than one constant loses."""
    lines = ["| noise | proposals | 1 constant | 2 constants | 3 constants |", "|---|---|---|---|---|"]
    for noise in NOISES:
        for way in WAYS:
            one, *more = (losses(way, constants, noise)[0] for constants in LEVELS)
            cells = (f"{noise:g}", way, f"{one:.2f}", *(f"{loss:.2f} (+{loss - one:.2f})" for loss in more))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def filled(text: str) -> str:
    """The text of the page with its table made anew."""
    block = re.compile(r"(<!-- proposals -->\n).*?(<!-- end -->)", re.DOTALL)
    return block.sub(lambda found: f"{found[1]}{table()}\n{found[2]}", text)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
