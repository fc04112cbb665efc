"""Presets: what each stands for, what a study's own keys change, and which come to the same thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from silo_tune.errors import StudyError
from silo_tune.planner.coincidences import same_as
from silo_tune.schedules.peaks import Schedule
from silo_tune.schedules.shapes import make_profile
from silo_tune.study.arms import Ends, ScheduleArm
from silo_tune.study.model import Study
from silo_tune.study.presets import PRESETS
from silo_tune.study.study_file import parse_study, smoke_table
from tests.plain import table

FILTERS = {"prune.granularity": "filter", "prune.criterion": "l1-filter"}  # pipelines prune whole filters
LONG = {"dense.epochs": 10, "retrain.epochs": 10, "cycles": 9, "dense.max_lr": 0.1, **FILTERS}
PIPELINES = ("ice-pruning", "while-training")
PILOT = {"pilot": {"seeds": [100], "chains": 3, "low": 0.01, "high": 1.0}}


def study(arms: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> Study:
    made = table({**LONG, "arms.linear": None, **(changes or {})})
    return parse_study({**made, "arms": {**made["arms"], **arms}})


def arm(preset: str, changes: Mapping[str, Any] | None = None, **args: Any) -> tuple[Study, ScheduleArm]:
    made = study({"it": {"preset": preset, **args}}, changes)
    found = made.arms["it"]
    assert isinstance(found, ScheduleArm)
    return made, found


def peaks(made: Study, found: ScheduleArm) -> list[float]:
    schedule = made.schedule_of(found)
    assert isinstance(schedule, Schedule)
    return [schedule.peak(cycle, made.pruned) for cycle in range(1, made.cycles)]


def shape(made: Study, found: ScheduleArm, total: int = 120) -> list[float]:
    resolved = made.settings(found).profile
    profile = make_profile(resolved["name"], {key: value for key, value in resolved.items() if key != "name"})
    return [profile(step, total) for step in range(total)]


# --- laws of all presets ---


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_resolves_by_its_name_alone(preset: str) -> None:
    made, found = arm(preset)
    assert found.preset == preset
    assert not found.open
    assert max(shape(made, found)) <= 1.0
    if not found.schedule.adaptive:
        assert all(peak > 0 for peak in peaks(made, found))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_study_that_was_filled_in_reads_back_as_itself(preset: str) -> None:
    made, _ = arm(preset)
    assert parse_study(made.model_dump(mode="json", exclude_none=True), recorded=True) == made


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_shrunk_by_smoke(preset: str) -> None:
    made = table({**LONG, "arms/it": {"preset": preset}})
    assert parse_study(smoke_table(made)).settings(parse_study(smoke_table(made)).arms["it"]).epochs == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_a_pilot_finds_what_a_preset_does_not_fix_by_its_definition(preset: str) -> None:
    _, found = arm(preset, {**PILOT, "arms.constant.schedule": "constant"})
    by_definition = {"lr-rewinding", "weight-rewinding", "fine-tuning", "while-training"}
    assert found.open == (preset not in by_definition)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in PIPELINES])
def test_what_an_arm_says_itself_wins(preset: str) -> None:
    made, found = arm(preset, epochs=7, profile="cosine", after_prune="reinit")
    settings = made.settings(found)
    assert (settings.epochs, settings.profile["name"], settings.after_prune) == (7, "cosine", "reinit")


def test_unknown_presets_and_arguments_name_the_choices() -> None:
    with pytest.raises(StudyError, match=r"arms.it.preset: unknown preset 'slio'; choose from .*silo"):
        arm("slio")
    with pytest.raises(StudyError, match=r"arms.it.preset: preset 'slr' takes no 'beta'; .* it takes max_lr"):
        arm("slr", beta=3)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"preset": "ice", "p": "x"}, "p is a number, got 'x'"),
        ({"preset": "ice", "p": 0.6}, r"p lies in \(0, 0.5\), got 0.6"),
        ({"preset": "weight-rewinding", "to": "x ep"}, 'to is "init", "K ep"'),
        ({"preset": "weight-rewinding", "to": "init", "epochs": 12}, "the dense training has only 10 to replay"),
        ({"preset": "weight-rewinding", "to": "3 ep", "epochs": 10}, "there are 7 epochs to replay; leave epochs out"),
        ({"preset": "silo", "mode": "tune"}, "a preset is a schedule arm, not one of mode 'tune'"),
        ({"preset": "slr", "schedule": "constant"}, "preset and schedule both say max_lr"),
    ],
)
def test_wrong_arguments_are_told_at_the_preset(args: dict[str, Any], words: str) -> None:
    with pytest.raises(StudyError, match=f"arms.it.preset: .*{words}"):
        study({"it": args})


def test_controls_follow_a_judged_s_cyc_too() -> None:
    judged = {"report": {"schedule": "it", "tolerance": 0.01}}
    made = study({"it": {"preset": "s-cyc", "eps": 0.5, "delta": 0.3}, "low": {"preset": "constant-low"}}, judged)
    assert set(peaks(made, made.arms["low"])) == {0.5}  # type: ignore[arg-type]


PILOT_OF_TEN = {"pilot": {"seeds": [100], "chains": 10, "low": 0.01, "high": 1.0}}
LOW_AND_HIGH = {"low": {"preset": "constant-low"}, "high": {"preset": "constant-high"}}


def test_with_a_pilot_the_controls_take_the_ends_that_it_finds_for_the_judged_curve() -> None:
    made = study({**LOW_AND_HIGH, "silo": {"preset": "silo"}}, PILOT_OF_TEN)
    found = {name: arm.ends for name, arm in made.followers("silo")}
    assert found == {"low": Ends(arm="silo", end="low"), "high": Ends(arm="silo", end="high")}
    assert [name for name in made.arms if made.searched(name)] == ["silo"]


def test_with_a_pilot_but_a_written_curve_the_controls_have_pilots_of_their_own() -> None:
    made = study({**LOW_AND_HIGH, "silo": {"preset": "silo", "eps": 0.1, "delta": 0.2}}, PILOT_OF_TEN)
    assert [name for name in made.arms if made.searched(name)] == ["low", "high"]


def test_a_pilot_leaves_what_is_no_rate_as_it_was_written() -> None:
    _, found = arm("silo", {**PILOT, "arms.constant.schedule": "constant"}, midpoint=0.3, beta=3.0)
    assert found.schedule.args == {"beta": 3.0, "q": 1, "midpoint": 0.3}


def test_arms_that_differ_in_a_dense_cycle_of_their_own_are_not_the_same() -> None:
    schedules = {"x": {"name": "constant", "max_lr": 0.2}, "y": {"name": "linear", "start": 0.1, "end": 0.2, "over": 1}}
    arms = {name: {"mode": "schedule", "schedule": table, "own_dense": True} for name, table in schedules.items()}
    assert same_as(study(arms), "x") == []
    shared = {name: {**table, "own_dense": False} for name, table in arms.items()}
    assert "arm y" in same_as(study(shared), "x")


def test_what_is_wrong_elsewhere_is_told_beside_a_wrong_preset() -> None:
    with pytest.raises(StudyError) as caught:
        arm("slio", {"retrain.batch": 0})
    assert "unknown preset" in str(caught.value)
    assert "retrain.batch" in str(caught.value)


# --- what each stands for ---


def test_silo_takes_the_constants_of_the_judged_arm_or_of_the_networks_recipe() -> None:
    made, found = arm("silo")
    assert peaks(made, found) == peaks(made, made.arms["silo"])  # type: ignore[arg-type]
    resnet = {"model": "resnet20", "data": {"name": "cifar10"}, "arms.silo": {"preset": "silo"}}
    made, found = arm("silo", {**resnet, "model": {"name": "resnet20"}})
    golden = [0.03, 0.03004, 0.03213, 0.04761, 0.06446, 0.06893, 0.06977, 0.06995]
    assert peaks(made, found) == pytest.approx(golden, abs=5e-6)


def test_silo_without_constants_or_a_recipe_asks_for_them() -> None:
    with pytest.raises(StudyError, match="needs eps and delta: this network has no recipe that gives them"):
        study({"silo": {"preset": "silo"}}, {"model.name": "timm:resnet18"})


def test_s_cyc_is_silo_with_one_triangle_in_each_cycle() -> None:
    made, found = arm("s-cyc")
    assert peaks(made, found) == peaks(made, made.arms["silo"])  # type: ignore[arg-type]
    assert shape(made, found).count(1.0) == 1
    assert shape(made, found)[0] < 0.2 > shape(made, found)[-1]


@pytest.mark.parametrize(
    ("preset", "profile"),
    [
        ("lr-warmup", "warmup-drop"), ("constant", "constant"), ("step", "step"), ("cyclical", "triangular"),
        ("cosine", "cosine"), ("one-cycle", "one-cycle"), ("clr", "one-cycle"), ("llr", "linear"),
    ],
)  # fmt: skip
def test_constant_peaks_are_the_dense_one_in_a_shape_of_their_own(preset: str, profile: str) -> None:
    made, found = arm(preset)
    assert set(peaks(made, found)) == {0.1}
    assert made.settings(found).profile["name"] == profile
    assert set(peaks(*arm(preset, max_lr=0.3))) == {0.3}


def test_slr_is_a_tenth_as_published_and_starts_at_a_hundredth() -> None:
    made, found = arm("slr", {"dense.max_lr": 0.7})
    assert set(peaks(made, found)) == {0.1}
    curve = shape(made, found, 1000)
    assert curve[0] == pytest.approx(0.01, abs=1e-3)
    assert curve[99:550] == [1.0] * 451
    assert curve[550:775] == pytest.approx([0.1] * 225)
    assert curve[775:] == pytest.approx([0.01] * 225)


def test_lr_rewinding_replays_the_last_epochs_of_the_dense_schedule() -> None:
    made, found = arm("lr-rewinding", {"retrain.epochs": 4, "dense.profile": "step"})
    whole = make_profile("step", {})
    assert shape(made, found, 40) == [whole(step, 100) for step in range(60, 100)]
    assert made.settings(found).after_prune == "keep"
    assert set(peaks(made, found)) == {0.1}
    everything = arm("lr-rewinding")
    assert shape(*everything) == [make_profile("warmup-drop", {})(step, 120) for step in range(120)]


def test_lr_rewinding_cannot_replay_more_than_there_was() -> None:
    with pytest.raises(StudyError, match=r"retrains for 12 epochs, but the dense training has only 10 .* epochs = 10"):
        arm("lr-rewinding", {"retrain.epochs": 12})


def test_weight_rewinding_goes_to_where_its_replay_starts() -> None:
    for changes, to in (({}, "init"), ({"retrain.epochs": 4}, "6 ep")):
        made, found = arm("weight-rewinding", changes)
        settings = made.settings(found)
        assert (settings.after_prune, settings.rewind_to) == ("rewind", to)
        assert shape(made, found) == shape(*arm("lr-rewinding", changes))


def test_weight_rewinding_to_an_epoch_a_step_and_init() -> None:
    made, found = arm("weight-rewinding", to="3 ep")
    assert made.settings(found).rewind_to == "3 ep"
    assert made.settings(found).epochs == 7
    assert shape(made, found, 70) == [make_profile("warmup-drop", {})(step, 100) for step in range(30, 100)]
    for to in ("init", "50 it"):
        made, found = arm("weight-rewinding", to=to)
        assert made.settings(found).rewind_to == to
        assert shape(made, found) == [make_profile("warmup-drop", {})(step, 120) for step in range(120)]
    with pytest.raises(StudyError, match="leaves nothing of the dense training of 10 epochs"):
        arm("weight-rewinding", to="10 ep")


def test_fine_tuning_trains_at_the_last_rate_of_the_dense_training() -> None:
    made, found = arm("fine-tuning")
    assert peaks(made, found) == pytest.approx([0.001] * 8)
    assert set(shape(made, found)) == {1.0}
    assert arm("fine-tuning", {"prune.after_prune": "reinit"})[1].after_prune == "keep"  # by its definition
    with pytest.raises(StudyError, match="needs max_lr: the dense profile 'cosine' ends near 0"):
        arm("fine-tuning", {"dense.profile": "cosine"})
    assert set(peaks(*arm("fine-tuning", {"dense.profile": "cosine"}, max_lr=0.002))) == {0.002}


def test_ice_falls_as_its_formula_says() -> None:
    made, found = arm("ice")
    base, delta, beta, p = 0.001, 0.00075, 50, 0.12

    def formula(x: float) -> float:
        return base - delta / (1 + (x / (2 * (1 - p) - x)) ** beta)

    assert peaks(made, found) == pytest.approx([formula(0.8**cycle) for cycle in range(1, 9)], rel=1e-9)
    assert peaks(made, found)[0] > peaks(made, found)[-1]
    with pytest.raises(StudyError, match=r"delta 0\.002 must be below base 0\.001"):
        arm("ice", delta=0.002)


def test_controls_are_the_ends_of_the_s_and_the_line_between_them() -> None:
    assert set(peaks(*arm("constant-low"))) == {0.03}
    assert set(peaks(*arm("constant-high"))) == {0.03 + 0.04}
    _, found = arm("linear")
    assert found.schedule.args == {"start": 0.03, "end": 0.07, "over": 7}  # the S has risen at cycle 7
    _, longer = arm("linear", {"cycles": 25})
    assert longer.schedule.args["over"] == 7


# --- which come to the same ---


def test_allr_is_llr_where_retraining_is_as_long_as_the_dense_training() -> None:
    whole, _ = arm("allr")
    assert same_as(whole, "it") == ["preset llr"]
    beside = study({"a": {"preset": "allr"}, "l": {"preset": "llr"}})
    assert same_as(beside, "a") == ["arm l"]
    assert same_as(beside, "l") == ["arm a"]
    short, _ = arm("allr", {"retrain.epochs": 4})
    assert same_as(short, "it") == []
    open_ = study({"a": {"preset": "allr"}, "l": {"preset": "llr"}}, PILOT)
    assert same_as(open_, "a") == ["arm l"]


def test_lr_rewinding_is_lr_warmup_where_it_replays_all_of_the_same_shape() -> None:
    made, _ = arm("lr-rewinding")
    assert "preset lr-warmup" in same_as(made, "it")
    assert same_as(arm("lr-rewinding", {"dense.profile": "step"})[0], "it") == ["preset step"]


def test_a_silo_without_a_range_is_its_control() -> None:
    made, _ = arm("silo", delta=0.0, eps=0.03)
    assert "arm constant" in same_as(made, "it")
