"""The one script for a machine with a GPU, in its smallest form on the CPU: every figure is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "experiments" / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_every_part_is_measured(tmp_path: Path) -> None:
    asked = [sys.executable, str(SCRIPT), "--cpu", "--out", "gpu.json"]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=tmp_path, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert {part: len(figures) for part, figures in parts.items()} == {
        "speed": 20, "together": 2, "fused": 4, "study": 4,
    }  # fmt: skip
    rates = [figure for part in ("speed", "together", "fused") for figure in parts[part].values()]
    assert all(isinstance(rate, float) and rate > 0 for rate in rates), parts
    assert parts["study"]["trials"] == 5
