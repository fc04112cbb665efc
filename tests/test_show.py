"""`silo-tune show`: an arm in words, as a sketch and as a picture."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli_w
from PIL import Image
from typer.testing import CliRunner

from silo_analysis.figures.draw_schedule import curves_figure
from silo_tune.cli import app
from silo_tune.cli.sketch import sampled, sketch
from silo_tune.errors import BadInput
from silo_tune.planner.curves import STEPS, curves_of
from silo_tune.study.presets import PRESETS
from silo_tune.study.study_file import parse_study
from tests.plain import study, table

LONG = {
    "dense.epochs": 10, "retrain.epochs": 10, "cycles": 9,
    "prune.granularity": "filter", "prune.criterion": "l1-filter",
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    arms = {f"arms/{name}": {"preset": name} for name in PRESETS if name != "silo"}
    changes = {**LONG, **arms, "arms/tuned": {"mode": "tune", "trials": 2, "eps": [0.01, 0.1], "delta": 0.1}}
    (tmp_path / "it.toml").write_text(tomli_w.dumps(table(changes)))
    return tmp_path / "it.toml"


def test_every_kind_of_arm_is_shown(file: Path) -> None:
    made = parse_study({**table(LONG), "arms": table(LONG)["arms"]})
    for name in made.arms:
        curves = curves_of(made, name)
        assert len(curves.inside) == STEPS
        assert len(curves.peaks) == len(curves.remaining) == 8
        assert curves_figure(curves).axes


@pytest.mark.parametrize("arm", ["silo", "allr", "ice", "lr-rewinding", "greedy", "tuned"])
def test_the_command_says_it_sketches_it_and_draws_it(file: Path, arm: str) -> None:
    picture = file.parent / "it.png"
    done = CliRunner().invoke(app, ["show", str(file), arm, "--out", str(picture)])
    assert done.exit_code == 0, done.output
    assert f"arm {arm}, mode" in done.output
    assert "█" in done.output
    assert done.output.endswith(f"picture: {picture}\n")
    with Image.open(picture) as image:
        assert image.size[0] > 600


def test_what_comes_to_the_same_is_said(file: Path) -> None:
    done = CliRunner().invoke(app, ["show", str(file), "allr", "--out", str(file.parent / "a.svg")])
    assert "the same as arm llr, under this study's budgets" in done.output


def test_a_wrong_arm_or_picture_is_refused(file: Path) -> None:
    with pytest.raises(BadInput, match="unknown arm 'slio'; choose from"):
        curves_of(study(), "slio")
    done = CliRunner().invoke(app, ["show", str(file), "silo", "--out", "it.gif"])
    assert "neither .png nor .svg" in str(done.exception)
    done = CliRunner().invoke(app, ["show", str(file), "silo", "--out", str(file / "no" / "it.png")])
    assert "cannot write" in str(done.exception)


def test_an_adaptive_arm_shows_no_peak_that_is_not_known() -> None:
    made = study({**LONG, "arms/it": {"preset": "allr"}})
    assert set(curves_of(made, "it").peaks) == {None}


def test_a_sketch_is_a_column_for_each_value_from_zero_to_the_largest() -> None:
    lines = sketch([0.0, 1.0, 2.0], height=2)
    assert lines == ["       2 ┤  █", "       0 ┤ ██"]
    assert sketch([0.001, 1.0], height=1) == ["       1 ┤▁█"]


def test_sampling_loses_no_peak() -> None:
    values = [0.0] * 100
    values[57] = 3.0
    assert max(sampled(values, 7)) == 3.0
    assert sampled([1.0, 2.0], 5) == [1.0, 2.0]
