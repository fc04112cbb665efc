"""A run that is judged by another score than accuracy: what is decided, and how it is told."""

from __future__ import annotations

import math
import re
from functools import cache

import numpy as np
import pandas as pd
import pytest

from silo_analysis.answers import answers_of
from silo_analysis.answers.curve import fit_of
from silo_analysis.answers.missing import notes
from silo_analysis.answers.terminal import summary_lines
from silo_analysis.answers.text_tables import also_table
from silo_analysis.estimates.summary import Summary, summarise
from silo_analysis.report.page import render
from silo_tune.formats import Words, difference, level, level_sign, points, telling
from silo_tune.results.columns import columns_of
from silo_tune.results.reading import read_table
from silo_tune.results.table import to_parquet
from silo_tune.study.model import Study
from silo_tune.study.task import TaskSpec
from silo_tune.study.wording import words_of
from tests.analysis.builder import Row, diverged, make_frame, make_study

SCALE = 4.0  # the error of the mirrored run is 4 (1 - accuracy)
ARMS = ("silo", "low", "oracle", "oracle-at-silo")
GUESS = 0.1


def spoilt(row: Row) -> Row:
    """One seed of an arm diverges at its end, and a high rate collapses in another."""
    if row["arm"] == "low" and row["seed"] == 1 and row["cycle"] == 4:
        return diverged()
    lost = row["mode"] == "oracle" and row["seed"] == 2 and row["max_lr"] > 0.9
    return {"train_loss": 2.30, "val_score": GUESS, "test_score": GUESS} if lost else {}


@cache
def images() -> tuple[pd.DataFrame, Study]:
    study = make_study(cycles=5, tolerance=0.005)
    return make_frame(study, spoil=spoilt), study


def judged_by(study: Study, score: str, tolerance: float) -> Study:
    """The study with another task; its data stays, for nobody looks at it here."""
    report = study.report.model_copy(update={"tolerance": tolerance})
    return study.model_copy(update={"task": TaskSpec(name="regression", score=score), "report": report})


@cache
def mirrored() -> tuple[pd.DataFrame, Study]:
    """The same run, told as an error of which less is better."""
    frame, study = images()
    errors = {name: SCALE * (1 - frame[name]) for name in ("val_score", "test_score")}
    guess = {"guess_score": SCALE * (1 - GUESS), "guess_loss": math.log(10)}
    return frame.assign(
        score="rmse", **errors, **guess, classes=pd.array([pd.NA] * len(frame), dtype="Int64")
    ), judged_by(study, "rmse", 0.005 * SCALE)


@cache
def both() -> tuple[Summary, Summary]:
    return summarise(*images()), summarise(*mirrored())


# --- what is decided ---


def test_the_same_run_told_as_an_error_gives_the_same_verdicts() -> None:
    one, other = both()
    assert one.verdicts["verdict"].nunique() > 1
    assert one.curves["collapsed"].max() > 0
    for name in ("verdict", "point_verdict", "collapsed", "n_seeds"):
        assert other.verdicts[name].tolist() == one.verdicts[name].tolist()
    assert other.against["outcome"].tolist() == one.against["outcome"].tolist()
    assert other.ranking["arm"].tolist() == one.ranking["arm"].tolist()
    assert other.intervals["best_max_lr"].tolist() == one.intervals["best_max_lr"].tolist()
    assert other.arms[["trained", "n_seeds"]].equals(one.arms[["trained", "n_seeds"]])


@pytest.mark.parametrize(
    ("table", "column"),
    [("gaps", "gap_test"), ("regret", "regret_test"), ("against", "difference"), ("against", "low")],
)
def test_a_difference_is_a_gain_whatever_the_direction(table: str, column: str) -> None:
    one, other = (getattr(found, table)[column].to_numpy(dtype=float) for found in both())
    assert np.nanmax(np.abs(one)) > 0
    np.testing.assert_allclose(other, SCALE * one, atol=1e-9)


def test_levels_are_scores_and_not_gains() -> None:
    one, other = both()
    np.testing.assert_allclose(
        other.arms["test_mean"].to_numpy(dtype=float), SCALE * (1 - one.arms["test_mean"].to_numpy(dtype=float))
    )
    assert (other.arms["test_low"].dropna() <= other.arms.loc[other.arms["test_low"].notna(), "test_high"]).all()
    assert (other.curves["val_mean"] > 0).all()
    assert (other.intervals["best_score"] > 0).all()
    assert (other.ranking["mean"] > 0).all()
    assert other.ranking["mean"].is_monotonic_increasing


def test_a_diverged_trial_without_a_guess_of_its_own_has_that_of_its_seed() -> None:
    frame, study = mirrored()
    told = frame.assign(guess_score=frame["guess_score"].mask(frame["status"] == "diverged"))
    pd.testing.assert_frame_equal(summarise(told, study).arms, both()[1].arms)


# --- hostile tables ---


def test_an_arm_that_diverges_in_half_of_its_seeds_is_not_first_by_its_error() -> None:
    study = make_study(cycles=5, seeds=6)
    frame = make_frame(
        study, lambda cycle, rate: 0.9, spoil=lambda row: diverged() if row["arm"] == "high" and row["seed"] < 3 else {}
    )
    errors = {name: 1 - frame[name] for name in ("val_score", "test_score")}
    found = summarise(frame.assign(score="rmse", **errors, guess_score=50.0), judged_by(study, "rmse", 0.1)).ranking
    assert found["arm"].iloc[-1] == "high"
    assert found["mean"].iloc[-1] > 20


@pytest.mark.parametrize(("score", "value"), [("rmse", 3.41), ("r2", -2.5), ("rmse", 54321.0)])
@pytest.mark.slow
def test_a_constant_score_and_one_below_0_have_a_whole_report(score: str, value: float) -> None:
    study = make_study(cycles=4, arms={name: images()[1].arms[name].model_dump(exclude_none=True) for name in ARMS})
    frame = make_frame(study).assign(score=score, val_score=value, test_score=value, guess_score=value)
    own = judged_by(study, score, 0.01)
    page = render(frame, own, {})["report.html"].decode()
    with telling(words_of(own)):
        assert level(value) in page
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.S).lower().replace("finance", "")


# --- how it is told ---


@cache
def told() -> dict[str, bytes]:
    return render(*mirrored(), {})


def texts(page: str) -> str:
    """What a reader sees of a page: not the study itself, whose keys are what they are."""
    unseen = ('<pre class="study">.*?</pre>', *(f"<{name}>.*?</{name}>" for name in ("style", "script", "metadata")))
    shown = re.sub("|".join(unseen), "", page, flags=re.S)
    shown = re.sub(r"(data|src|href)[-a-z]*=\"[^\"]*\"", "", shown)
    return re.sub(r"</?(img|image)[^>]*>", "", shown)


@pytest.mark.slow
def test_no_word_of_accuracies_or_images_is_in_a_report_of_another_task() -> None:
    files = {name: data.decode(errors="ignore") for name, data in told().items() if not name.endswith((".png", ".pdf"))}
    assert "RMSE" in files["report.html"]
    for name, text in files.items():
        shown = texts(text) if name.endswith((".html", ".svg")) else text
        for word in ("accurac", "image", "percentage point", r"\bpp\b"):
            found = re.search(word, shown, re.I)
            around = "" if found is None else shown[max(0, found.start() - 80) : found.end() + 80]
            assert found is None, f"{name}: {around}"


def test_no_word_of_accuracies_is_in_what_the_terminal_says_of_another_task() -> None:
    own = summarise(*mirrored())
    lines = "\n".join([*summary_lines(own, answers_of(own, fit_of(*mirrored()))), *notes(own)])
    assert not re.search(r"accurac|image|percentage point|\bpp\b", lines, re.I)


@pytest.mark.slow
def test_a_report_of_images_speaks_of_them_as_before() -> None:
    page = texts(render(*images(), {})["report.html"].decode())
    for words in ("Test accuracy in %", "Accuracy differences are in percentage points (pp)", "test images"):
        assert words in page


def test_there_is_no_second_interval_without_a_mean_over_examples_and_it_is_said() -> None:
    assert "RMSE is no share of examples that are right" in " ".join(notes(both()[1]))
    assert both()[1].against["low_examples"].isna().all()


@pytest.mark.parametrize(
    ("words", "shown", "gain"),
    [
        (Words(), "68.23 %", "+1.23 pp"),
        (Words("AUROC", share=False), "0.682", "+0.012"),
        (Words("RMSE", share=False, bounded=False, sign=-1), "0.682", "+0.0123"),
        (Words("log-loss", share=False, unit="nats", bounded=False, sign=-1), "0.682 nats", "+0.0123 nats"),
        (Words("bits per byte", share=False, unit="bits", bounded=False, sign=-1), "0.682", "+0.0123 bits"),
    ],
    ids=lambda value: value.title if isinstance(value, Words) else "",
)
def test_a_score_is_written_by_its_range(words: Words, shown: str, gain: str) -> None:
    with telling(words):
        assert level_sign(0.6823) == shown
        assert difference(0.0123) == gain
        assert points(None) == level(None) == "–"
        assert points(-0.5).startswith("−")
    assert level_sign(0.6823) == "68.23 %"


@pytest.mark.parametrize(("value", "shown"), [(3.41, "3.41"), (54.32, "54.3"), (54321.0, "54,321"), (-2.5, "−2.50")])
def test_a_score_without_an_end_has_three_digits(value: float, shown: str) -> None:
    with telling(Words("RMSE", share=False, bounded=False)):
        assert level(value) == shown


def test_further_scores_are_columns_and_a_table_in_their_own_words() -> None:
    frame, study = mirrored()
    assert study.task is not None
    study = study.model_copy(update={"task": study.task.model_copy(update={"also": ("r2", "mae")})})
    r2 = (1 - (frame["test_score"] / SCALE) ** 2).mask(frame["status"] != "ok")
    frame = frame.assign(also_val_r2=r2, also_test_r2=r2, also_val_mae=100 * r2, also_test_mae=100 * r2)
    again, own = read_table(to_parquet(frame), "table", study), list(columns_of(study))
    assert list(again) == own
    assert again[own[-4:]].equals(frame[own[-4:]])
    older = read_table(to_parquet(frame.drop(columns="also_test_r2")), "table", study)
    assert older["also_test_r2"].isna().all()
    found = summarise(frame, study).also
    chains = frame[(frame["arm"] == "low") & (frame["cycle"] == 4)]
    row = found[(found["arm"] == "low") & (found["cycle"] == 4) & (found["score"] == "r2")].iloc[0]
    assert (row["trained"], row["n_seeds"]) == (len(chains) - 1, len(chains))  # one of them diverged
    assert row["test_median"] == pytest.approx(chains["also_test_r2"].median())
    shown = also_table(summarise(frame, study))
    assert [row[:2] for row in shown.rows[:2]] == [("R²", "silo"), ("R²", "low")]
    assert shown.rows[1][-1] == f"{row['test_median']:.3f} {len(chains) - 1}/{len(chains)}"
    assert shown.rows[-1][0] == "MAE"
    assert also_table(summarise(*mirrored())).rows == []
