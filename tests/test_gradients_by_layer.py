"""experiments/gradients: what it measures, on a law that is known and in a small form of its own study."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from tests.test_data import FASHION

FOLDER = Path(__file__).parent.parent / "experiments" / "gradients"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    import by_layer

    yield by_layer
    for name in ("by_layer", "gradient_networks"):
        sys.modules.pop(name, None)


def test_a_spread_that_falls_as_a_power_has_that_slope(script: ModuleType) -> None:
    left = 0.8 ** np.arange(8)
    rows = [
        {"network": "dense", "activation": "relu", "norm": False, "arm": arm, "seed": seed, "layer": "1.weight"}
        | {"cycle": cycle, "left": share, "spread": (1 + seed) * share**power if cycle else 99.0}
        for arm, power in (("keep", -0.5), ("reinit", 0.25))
        for seed in range(5)
        for cycle, share in enumerate(left)
    ]
    found = script.slopes(pd.DataFrame(rows)).set_index("arm")
    assert found.loc["keep", ["slope", "low", "high"]].tolist() == pytest.approx([-0.5] * 3)
    assert found.loc["reinit", "slope"] == pytest.approx(0.25)


@pytest.mark.slow
@pytest.mark.skipif(not any(FASHION.rglob("train-images*")), reason="no Debian package dataset-fashion-mnist here")
def test_a_small_form_measures_every_layer_of_every_arm(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = script.STUDY.read_text(encoding="utf-8")
    for large, small in (
        ("cycles = 11", "cycles = 3"),
        ("[0, 1, 2, 3, 4]", "[0]"),
        ("000\n", "00\n"),
        ("epochs = 5", "epochs = 1"),
    ):
        assert large in text
        text = text.replace(large, small)
    study = tmp_path / "gradients.toml"
    study.write_text(text, encoding="utf-8")
    monkeypatch.setattr(script, "STUDY", study)
    monkeypatch.setattr(script, "NETWORKS", [("conv", "gelu", True)])
    script.main(tmp_path)
    rows = pd.read_csv(tmp_path / "by_layer.csv")
    assert len(rows) == 6 * 3 * 3  # arms, cycles, layers
    assert (rows["spread"] > 0).all()
    pruned = rows[rows["cycle"] == 2].groupby("arm")["left"]
    assert (pruned.min() < 0.65).all()
    dense = rows[rows["cycle"] == 0]
    assert dense.groupby("layer")["spread"].nunique().eq(1).all()  # all arms share the dense training
