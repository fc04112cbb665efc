"""Differences within a profile, within a peak, and between profiles: differences.csv, from the rows of this record.

python experiments/records/2026-12-01-profiles/differences.py

On test, mean over cycles ≥ 2, one number a seed; median over seeds with its 95 % interval, in percentage points.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pandas as pd

from silo_analysis import read
from silo_analysis.estimates.against import differences
from silo_analysis.estimates.regret import chain_rows
from silo_analysis.estimates.typical import paired_interval

HERE = Path(__file__).parent
PROFILES = {"warmup-drop": "", "flat": "flat-", "cosine": "cosine-", "one-cycle": "one-cycle-"}
PEAKS = ("silo", "eps", "eps-delta")


def arm(profile: str, peak: str) -> str:
    """The arm of a cell; those of the first profile have the names of digits.toml."""
    return PROFILES[profile] + (peak if profile != "warmup-drop" or peak == "silo" else f"constant-{peak}")


def main() -> None:
    """Write the table, and print it."""
    chains = chain_rows(read(str(HERE)).frame)
    cells = [arm(profile, peak) for profile in PROFILES for peak in PEAKS]
    means = {
        one: {other: found.loc[:, 2:].mean(axis=1) for other, found in differences(chains, one, cells).items()}
        for one in cells
    }
    rows = []

    def tell(what: str, values: pd.Series[float]) -> None:
        found = paired_interval([float(value) * 100 for value in values])
        rows.append({"difference": what, "median": found.median, "low": found.low, "high": found.high, "n": found.n})

    for profile in PROFILES:
        for peak in PEAKS[1:]:
            tell(f"{profile}: silo − {peak}", means[arm(profile, "silo")][arm(profile, peak)])
    for peak in PEAKS:
        for one, other in combinations(PROFILES, 2):
            tell(f"{peak}: {one} − {other}", means[arm(one, peak)][arm(other, peak)])
    for peak in PEAKS[1:]:
        gains = {profile: means[arm(profile, "silo")][arm(profile, peak)] for profile in PROFILES}
        for one, other in combinations(PROFILES, 2):
            tell(f"silo − {peak}: {one} − {other}", gains[one] - gains[other])
    table = pd.DataFrame(rows)
    table.to_csv(HERE / "differences.csv", index=False, float_format="%.3f")
    print(table.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
