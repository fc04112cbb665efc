"""Two sources of chance, seeds and test images: variances, intervals, and images that one chain alone gets right."""

from __future__ import annotations

import math
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import special

from silo_analysis.answers.missing import no_examples, notes
from silo_analysis.estimates.examples import (
    both_interval,
    chain_scores,
    images_variance,
    mcnemar_table,
    mean_test,
)
from silo_analysis.estimates.frames import MCNEMAR
from silo_analysis.estimates.regret import chain_rows
from silo_analysis.estimates.stats import holm
from silo_analysis.estimates.summary import Summary, summarise
from silo_analysis.estimates.typical import paired_interval
from silo_analysis.figures.draw_against import against_figure
from silo_analysis.report.page import render, tables
from silo_tune.results.example_rows import Examples
from silo_tune.store.example_file import pack_bits
from silo_tune.study.model import Study
from tests.analysis.asking import said_of
from tests.analysis.builder import ARMS, diverged, make_examples, make_frame, make_study

DOCS = Path(__file__).parent.parent.parent / "docs"
WORLDS = list(runpy.run_path(str(DOCS / "error_rates.py"))["IMAGE_WORLDS"])
STUDY = make_study({name: ARMS[name] for name in ("silo", "low", "high", "oracle")}, seeds=5, cycles=4)
FRAME = make_frame(STUDY)
EXAMPLES = make_examples(FRAME)


@pytest.fixture(scope="module")
def simulation() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "error_rates.py"))


@pytest.fixture(scope="module")
def summary() -> Summary:
    return summarise(FRAME, STUDY, examples=EXAMPLES)


# --- variances ---


def test_the_variance_from_images_is_that_of_their_means_less_what_is_noise() -> None:
    differences = np.array([[1, 0, 0, -1], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=float)
    seeds, images = differences.shape
    of_image, of_seed, mean = differences.mean(axis=0), differences.mean(axis=1), differences.mean()
    rest = differences - of_image - of_seed[:, None] + mean
    noise = (rest**2).sum() / ((seeds - 1) * (images - 1))
    expected = of_image.var(ddof=1) / images - noise / (seeds * images)
    assert images_variance(differences) == pytest.approx(expected, rel=1e-12)
    assert expected > 0


def test_the_two_variances_add_up_to_that_of_the_mean_in_a_crossed_design() -> None:
    rng, seeds, images = np.random.default_rng(1), 6, 40
    means, found, over_seeds = [], [], []
    for _ in range(4000):
        by_seed, by_image = 0.3 * rng.standard_normal((seeds, 1)), rng.standard_normal(images)
        drawn = by_seed + by_image + 2 * rng.standard_normal((seeds, images))
        means.append(drawn.mean())
        found.append(images_variance(drawn))
        over_seeds.append(drawn.mean(axis=1).var(ddof=1) / seeds)
    assert np.mean(found) == pytest.approx(1 / images, rel=0.03)
    assert np.mean(found) + np.mean(over_seeds) == pytest.approx(np.var(means), rel=0.06)


@pytest.mark.parametrize("shape", [(1, 50), (5, 1), (1, 1)])
def test_one_seed_or_one_image_tells_nothing_of_images(shape: tuple[int, int]) -> None:
    assert images_variance(np.random.default_rng(0).random(shape)) == 0


def test_the_same_networks_differ_on_no_image() -> None:
    assert images_variance(np.zeros((5, 100))) == 0
    assert mean_test(np.zeros((5, 100))) == (0, 0, 0, 1)
    assert mean_test(np.zeros((1, 100))) is None


def test_the_wider_interval_holds_the_narrower_one_and_both_are_missing_together() -> None:
    rng = np.random.default_rng(3)
    for seeds in (2, 5, 10, 20):
        differences = rng.integers(-1, 2, (seeds, 50)) + rng.standard_normal(50)
        estimate = paired_interval(differences.mean(axis=1))
        found = both_interval(estimate, differences)
        assert found is not None
        assert estimate.low is not None
        assert estimate.high is not None
        assert found[0] < estimate.low < estimate.high < found[1]
        assert both_interval(estimate, None) is None
    assert both_interval(paired_interval([0.1]), differences[:1]) is None


def test_more_images_narrow_the_wider_interval_down_to_that_over_seeds() -> None:
    rng = np.random.default_rng(4)
    estimate = paired_interval(rng.standard_normal(10))
    images = rng.standard_normal(100)
    widths = []
    for times in (1, 10, 100):
        ends = both_interval(estimate, np.tile(images, (10, times)))
        assert ends is not None
        widths.append(ends[1] - ends[0])
    assert estimate.low is not None
    assert estimate.high is not None
    assert widths[0] > widths[1] > widths[2] > estimate.high - estimate.low


# --- coverage ---


@pytest.mark.parametrize("seeds", [5, 10, 20])
@pytest.mark.parametrize("world", WORLDS)
def test_intervals_hold_the_difference_over_all_seeds_and_images_in_few_runs(
    simulation: dict[str, Any], world: str, seeds: int
) -> None:
    _, both, mean = simulation["covered"](world, seeds, 200, runs=300)
    least = 0.95 - 3 * math.sqrt(0.95 * 0.05 / 300)
    assert both >= least
    assert mean >= least


def test_an_interval_over_seeds_alone_does_not(simulation: dict[str, Any]) -> None:
    assert simulation["covered"]("images alone", 20, 200, runs=300)[0] < 0.7


@pytest.mark.slow
@pytest.mark.parametrize(("images", "runs"), [(200, 2000), (1000, 2000), (10_000, 400)])
@pytest.mark.parametrize("world", WORLDS)
def test_intervals_hold_the_difference_over_all_seeds_and_images(
    simulation: dict[str, Any], world: str, images: int, runs: int
) -> None:
    for seeds in (5, 10, 20):
        _, both, mean = simulation["covered"](world, seeds, images, runs=runs)
        noise = 2 * math.sqrt(0.94 * 0.06 / runs)
        assert both >= 0.94 - (noise if runs < 1000 else 0)
        assert mean >= 0.94 - noise


# --- in a summary ---


def test_the_endpoint_and_each_overall_difference_have_both_intervals(summary: Summary) -> None:
    end = summary.endpoint
    assert end is not None
    assert end.estimate.low is not None
    assert end.estimate.high is not None
    assert end.low_examples is not None
    assert end.high_examples is not None
    assert end.low_examples < end.estimate.low < end.estimate.high < end.high_examples
    overall, cycles = summary.against[summary.against["cycle"].isna()], summary.against["cycle"].notna()
    assert (overall["low_examples"] < overall["low"]).all()
    assert (overall["high_examples"] > overall["high"]).all()
    assert summary.against.loc[cycles, ["low_examples", "high_examples"]].isna().all(axis=None)
    assert not [note for note in notes(summary) if "examples" in note]


def test_the_differences_of_images_have_the_mean_of_the_table() -> None:
    chains = chain_rows(fitting(FRAME))
    scores = chain_scores(chains, EXAMPLES)
    found = scores.differences("oracle", "silo", [0, 3], [2, 3])
    assert found is not None
    accuracy = chains.set_index(["arm", "seed", "cycle"])["test_score"]
    for seed, differences in zip([0, 3], found, strict=True):
        gaps = [accuracy["oracle", seed, cycle] - accuracy["silo", seed, cycle] for cycle in (2, 3)]
        assert differences.mean() == pytest.approx(np.mean(gaps), abs=1e-12)


def fitting(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with test accuracies as the examples have them."""
    means = {key: EXAMPLES.right(key, "test") for key in frame["key"]}
    exact = frame["key"].map({key: float(right.mean()) for key, right in means.items() if right is not None})
    return frame.assign(test_score=exact.fillna(frame["test_score"]).astype("Float64"))


def test_a_chain_that_collapsed_has_the_share_of_guessing_on_every_image() -> None:
    def spoil(row: Mapping[str, Any]) -> Mapping[str, Any]:
        if row["seed"] == 2 and row["arm"] == "silo":
            return {1: {"train_loss": math.log(10), "val_score": 0.1}, 2: diverged(), 3: {}}.get(row["cycle"], {})
        return {}

    frame = make_frame(STUDY, spoil=spoil)
    found = summarise(frame, STUDY, examples=make_examples(frame))
    for cycle in (1, 2):
        guess = found.scores.of("silo", 2, cycle)
        assert guess is not None
        assert guess.tolist() == [0.1] * 10_000
    own = found.scores.of("silo", 1, 1)
    assert own is not None
    assert set(own.tolist()) == {0.0, 1.0}
    assert found.endpoint is not None
    assert found.endpoint.low_examples is not None
    assert found.scores.lacking == 0


LACKING: dict[str, Callable[[Examples], Examples | None]] = {
    "none": lambda given: None,
    "no rows": lambda given: Examples(given.table[:0]),
    "validation alone": lambda given: Examples(given.table[given.table["part"] == "val"]),
}


@pytest.mark.parametrize("case", LACKING)
def test_a_run_without_examples_says_so_once_and_all_else_stays(case: str, summary: Summary) -> None:
    found = summarise(FRAME, STUDY, examples=LACKING[case](EXAMPLES))
    said = [note for note in notes(found) if "examples" in note]
    assert said == [no_examples()]
    assert set(tables(summary)) - set(tables(found)) == {"mcnemar"}
    for name, table in tables(found).items():
        whole = tables(summary)[name]
        if name == "against":
            assert table[["low_examples", "high_examples"]].isna().all(axis=None)
            table, whole = (each.drop(columns=["low_examples", "high_examples"]) for each in (table, whole))
        pd.testing.assert_frame_equal(table, whole)
    for answer in ("loses-and-saves", "baselines"):
        assert "test images" in said_of(summary, answer)
        assert "test images" not in said_of(found, answer)


def test_one_trial_without_examples_takes_the_interval_of_its_own_arm_alone() -> None:
    lost = FRAME[(FRAME["arm"] == "low") & (FRAME["cycle"] == 2) & (FRAME["seed"] == 3)]["key"].iloc[0]
    short = Examples(EXAMPLES.table[EXAMPLES.table["key"] != lost], ("a file is missing",))
    found = summarise(FRAME, STUDY, examples=short)
    overall = found.against[found.against["cycle"].isna()].set_index("arm")
    assert overall["low_examples"].isna().to_dict() == {"low": True, "high": False}
    assert found.endpoint is not None
    assert found.endpoint.low_examples is not None
    assert [note for note in notes(found) if "xamples" in note or "Damaged" in note] == [
        "Damaged: a file is missing.",
        f"No examples (which test images were right) of 1 trial of {found.scores.trials} in the chains: no interval "
        "over test images where they count.",
    ]


def test_the_report_names_both_intervals_and_has_the_counts(only_svg: None) -> None:
    whole, without = render(FRAME, STUDY, {}, None, EXAMPLES), render(FRAME, STUDY, {})
    page, plain = (files["report.html"].decode() for files in (whole, without))
    for words in ("over test images too", "over seeds and test images", "<dt>Seeds and test images</dt>"):
        assert words in page
        assert words not in plain
    assert set(whole) - set(without) == {"tables/mcnemar.csv"}
    head = whole["tables/mcnemar.csv"].decode().splitlines()[0]
    assert head == ",".join(MCNEMAR)


# --- images that only one of two chains gets right ---


def by_hand(right: Mapping[tuple[str, int], str]) -> tuple[pd.DataFrame, Study, Examples]:
    """A study of two arms and one cycle; (arm, seed) → a "1" for every image that is right."""
    study = make_study({name: ARMS[name] for name in ("silo", "high")}, seeds=len(right) // 2, cycles=2)
    frame = make_frame(study)
    rows = []
    for row in frame[frame["cycle"] == 1].to_dict("records"):
        bits = np.array([sign == "1" for sign in right[row["arm"], row["seed"]]])
        rows.append({"key": row["key"], "part": "test", "n": len(bits), "bits": pack_bits(bits)})
    return frame, study, Examples(pd.DataFrame(rows))


def test_images_that_one_alone_gets_right_are_counted_over_seeds() -> None:
    frame, study, examples = by_hand(
        {
            ("silo", 0): "111100", ("high", 0): "110010",
            ("silo", 1): "111000", ("high", 1): "111000",
            ("silo", 2): "101111", ("high", 2): "011011",
        }
    )  # fmt: skip
    table = mcnemar_table(chain_scores(chain_rows(frame), examples), "silo", ["high"], study)
    (row,) = table.to_dict("records")
    assert (row["only_schedule"], row["only_arm"]) == (4, 2)
    assert (row["n_seeds"], row["n_test"], row["cycle"]) == (3, 6, 1)
    assert row["difference"] == pytest.approx((4 - 2) / 18)
    drawn = np.array([[0, 0, 1, 1, -1, 0], [0, 0, 0, 0, 0, 0], [1, -1, 0, 1, 0, 0]], dtype=float)
    error = math.sqrt(drawn.mean(axis=1).var(ddof=1) / 3 + images_variance(drawn))
    assert row["high"] - row["difference"] == pytest.approx(special.stdtrit(2, 0.975) * error)
    assert row["difference"] - row["low"] == pytest.approx(special.stdtrit(2, 0.975) * error)
    assert row["p"] == pytest.approx(2 * special.stdtr(2, -row["difference"] / error))
    assert row["p_holm"] == row["p"]


def test_dotted_intervals_of_the_figure_are_those_over_test_images_too(summary: Summary) -> None:
    overall = summary.against[summary.against["cycle"].isna()].sort_values("difference", ascending=False)
    figure: Any = against_figure(summary)
    dotted = [line for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert len(dotted) == len(overall) == 2
    for line, row in zip(dotted, overall.to_dict("records"), strict=True):
        assert list(line.get_xdata()) == pytest.approx([100 * row["low_examples"], 100 * row["high_examples"]])
    assert "dotted: over test images too" in figure.axes[0].get_title()
    bare: Any = against_figure(summarise(FRAME, STUDY))
    assert not any(np.isfinite(line.get_xdata()).all() for line in bare.axes[0].lines if line.get_linestyle() == ":")
    assert "dotted" not in bare.axes[0].get_title()


def test_counts_are_per_arm_and_cycle_and_corrected_over_the_cycles_of_an_arm(summary: Summary) -> None:
    table = summary.mcnemar
    assert list(table.columns) == list(MCNEMAR)
    assert list(dict.fromkeys(table["arm"])) == ["low", "high", "oracle"]
    assert list(table["cycle"]) == [1, 2, 3] * 3
    counted = (table["only_schedule"] - table["only_arm"]) / (table["n_seeds"] * table["n_test"])
    assert np.allclose(counted.to_numpy(float), table["difference"].to_numpy(float), atol=1e-12)
    same = (table["arm"] == "low") & (table["cycle"] == 1)  # the S starts at this constant
    assert table.loc[same, ["p", "p_holm"]].isna().all(axis=None)
    for _, rows in table[~same].groupby("arm"):
        assert rows["p_holm"].tolist() == pytest.approx(holm(rows["p"].tolist()))
    shown, excluded = table["p"] < 0.05, (table["low"] > 0) | (table["high"] < 0)
    assert shown.tolist() == excluded.tolist()
