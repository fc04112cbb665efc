"""Writes the table of docs/concepts/how-many-seeds.md: how often the report's rules say something, by simulation.

python docs/power.py         # rewrites what stands between <!-- power --> and <!-- end -->; a few seconds

Runs with a known truth are drawn, and the rules of `estimates.containment` and `estimates.stats` are applied to all of
them at once; a test checks that `verdicts` and `equivalent` say what those modules say. *Paired noise* is the standard
deviation over seeds of the difference between two rates (or two arms); what all rates of a seed share cancels and is
not drawn. Noise is normal.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import special

from silo_analysis.estimates.containment import FEWEST_SEEDS, LEVEL

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

PAGE = Path(__file__).parent / "concepts" / "how-many-seeds.md"
BLOCK = re.compile(r"(<!-- power -->\n).*?(<!-- end -->)", re.DOTALL)

SEEDS = (3, 5, 8, 10, 20)
NOISES = (0.001, 0.0025, 0.005, 0.01)
TOLERANCE = 0.005
RATES = 9
OWN = 4  # column of the schedule's rate
WORSE = 0.01
RUNS = 10_000
RANDOM_SEED = 20


def verdicts(val: FloatArray, own: int, tolerance: float) -> tuple[BoolArray, BoolArray]:
    """Which runs are inside, and which outside; (T,) each. The rule is that of `containment.judge`.

    Args:
        val: (T, S, R) accuracy of T runs, all of them finite, at asked rates that did not collapse.
        own: column of the schedule's rate.
        tolerance: difference of accuracies in [0, 1].
    """
    seeds, rates = val.shape[1:]
    if seeds < FEWEST_SEEDS:
        never = np.zeros(len(val), dtype=bool)
        return never, never
    differences = np.delete(val, own, axis=2) - val[:, :, [own]]
    means, errors = differences.mean(axis=1), differences.std(axis=1, ddof=1) / np.sqrt(seeds)
    upper = means + special.stdtrit(seeds - 1, LEVEL) * errors
    lower = means - special.stdtrit(seeds - 1, 1 - (1 - LEVEL) / (rates - 1)) * errors
    inside: BoolArray = (upper < tolerance).all(axis=1)
    outside: BoolArray = (lower > tolerance).any(axis=1) & ~inside
    return inside, outside


def equivalent(differences: FloatArray, margin: float) -> BoolArray:
    """Which runs show equivalence; (T,). The rule is that of `stats.tost`; `differences` is (T, S)."""
    seeds = differences.shape[1]
    error = differences.std(axis=1, ddof=1) / np.sqrt(seeds)
    told: BoolArray = np.abs(differences.mean(axis=1)) + special.stdtrit(seeds - 1, LEVEL) * error < margin
    return told


def shares(seeds: int, noise: float, runs: int = RUNS) -> tuple[float, float, float, float]:
    """How often, in [0, 1]: inside among nine equals, inside beside one equal, outside (one is better), equivalent."""
    rng = np.random.default_rng((RANDOM_SEED, seeds))
    drawn = noise / np.sqrt(2) * rng.standard_normal((runs, seeds, RATES))
    alone = np.full(RATES, -0.05)  # the rest 5 points worse
    alone[[0, OWN]] = 0.0
    better = np.zeros(RATES)
    better[0] = WORSE
    return (
        float(verdicts(drawn, OWN, TOLERANCE)[0].mean()),
        float(verdicts(drawn + alone, OWN, TOLERANCE)[0].mean()),
        float(verdicts(drawn + better, OWN, TOLERANCE)[1].mean()),
        float(equivalent(drawn[:, :, 0] - drawn[:, :, OWN], TOLERANCE).mean()),
    )


def table() -> str:
    """The table in Markdown: one row per noise and number of seeds, cells in percent."""
    head = (
        "paired noise, percentage points", "seeds", "inside: all nine rates equal",
        "inside: one other rate equal, the rest worse", "outside: one rate a percentage point better",
        "equivalent: no chain gap",
    )  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for noise in NOISES:
        for seeds in SEEDS:
            cells = (f"{100 * noise:g}", str(seeds), *(cell(share) for share in shares(seeds, noise)))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(share: float) -> str:
    """A share of simulated runs in percent; a verdict that too few seeds cannot have is "never"."""
    if share == 0:
        return "never"
    return "> 99 %" if share >= 0.995 else "< 1 %" if share < 0.005 else f"{100 * share:.0f} %"


def filled(text: str) -> str:
    """The text with the table between markers made anew."""
    return BLOCK.sub(lambda found: f"{found[1]}{table()}\n{found[2]}", text)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
