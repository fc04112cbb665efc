from __future__ import annotations

import math
import pickle
from typing import Any

import pytest

from silo_tune.planner.unit import canonical_json
from silo_tune.schedules.shapes import (
    PROFILES,
    Cosine,
    LinearDecay,
    OneCycle,
    Profile,
    WarmupDrop,
    make_profile,
    maximum_of,
    resolve_profile,
)

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("warmup-drop", {"warmup": 0.0}),
    ("warmup-drop", {"warmup": 1.0}),
    ("warmup-drop", {"drops": []}),
    ("warmup-drop", {"warmup": 0.9, "drops": [0.1, 0.2, 1.0]}),
    ("step", {"drops": [0.0]}),
    ("step", {"drops": [0.55, 0.775]}),
    ("triangular", {"periods": 3}),
    ("triangular", {"periods": 7, "low": 0}),
    ("cosine", {"warmup": 0.1}),
    ("cosine", {"warmup": 1.0, "warmup_shape": "cosine"}),
    ("linear", {"warmup": 0.1, "warmup_shape": "cosine"}),
    ("linear", {"warmup": 1.0}),
    ("one-cycle", {"rising": 0.0}),
    ("one-cycle", {"rising": 1.0, "start_div": 1.0, "end_div": 1.0}),
    ("one-cycle", {"rising": 0.1, "start_div": 100.0, "end_div": 100.0}),
    ("warmup-drop", {"warmup": 0.1, "warmup_shape": "cosine", "start": 0.01, "drops": [0.55, 0.775]}),
    ("replay", {"of": "cosine", "first": 0.5}),
    ("replay", {"of": {"name": "step", "drops": [0.3, 0.6]}, "first": 0.25, "last": 0.75}),
    ("replay", {"of": {"name": "replay", "of": "one-cycle", "last": 0.5}, "first": 0.4}),
    ("ramp-in-steps", {"steps": 70}),
    ("ramp-in-steps", {"steps": 10, "drops": []}),
    ("ramp-in-steps", {"plateau": 0.2}),
]
PARTS = ("replay", "ramp-in-steps")  # what these reach depends on what they show
CASES: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in PROFILES] + VARIANTS


@pytest.mark.parametrize(("name", "args"), CASES)
def test_every_profile_reaches_its_maximum_exactly_and_is_never_negative(name: str, args: dict[str, Any]) -> None:
    profile = make_profile(name, args)
    for total in range(1, 201):
        shape = [profile(step, total) for step in range(total)]
        assert max(shape) == maximum_of(profile, total)
        assert profile.maximum == 1.0 or (profile.maximum is None and name in PARTS)
        assert min(shape) >= 0.0
        assert all(math.isfinite(value) for value in shape)


@pytest.mark.parametrize(("name", "args"), CASES)
def test_every_profile_is_pure_and_picklable(name: str, args: dict[str, Any]) -> None:
    profile = make_profile(name, args)
    forward = [profile(step, 37) for step in range(37)]
    backward = [profile(step, 37) for step in reversed(range(37))]
    assert backward == forward[::-1]
    again = pickle.loads(pickle.dumps(profile))
    assert again == profile
    assert [again(step, 37) for step in range(37)] == forward


@pytest.mark.parametrize("share", [0.0, 0.1, 1 / 3, 2 / 3, 1.0])
def test_a_linear_warmup_of_n_steps_is_step_plus_one_over_n(share: float) -> None:
    for total in range(1, 201):
        n = max(1, round(share * total))
        profiles: list[Profile] = [WarmupDrop(warmup=share)]
        if share:  # the others have no warm-up at 0
            profiles += [Cosine(warmup=share), LinearDecay(warmup=share)]
        for profile in profiles:
            assert [profile(step, total) for step in range(n)] == [(step + 1) / n for step in range(n)]


def test_the_first_step_is_small_but_never_zero() -> None:
    assert make_profile("warmup-drop", {})(0, 300) == 1 / 200


def test_warmup_drop_peaks_at_two_thirds_and_drops_there_and_at_five_sixths() -> None:
    profile = make_profile("warmup-drop", {})
    shape = [profile(step, 600) for step in range(600)]
    assert shape[399] == 1.0
    assert shape[400:500] == [0.1] * 100
    assert shape[500:] == pytest.approx([0.01] * 100)


def test_warmup_drop_vgg_ramps_10k_plateaus_to_56k_and_drops_at_56k_and_84k_of_112k() -> None:
    profile = make_profile("warmup-drop-vgg", {})
    shape = [profile(step, 1120) for step in range(1120)]
    assert shape[98] < shape[99] == 1.0
    assert shape[100:560] == [1.0] * 460
    assert shape[560:840] == [0.1] * 280
    assert shape[840:] == pytest.approx([0.01] * 280)


def test_step_decay_drops_at_its_shares() -> None:
    profile = make_profile("step", {"drops": [0.55, 0.775]})
    shape = [profile(step, 200) for step in range(200)]
    assert shape == pytest.approx([1.0] * 110 + [0.1] * 45 + [0.01] * 45)


@pytest.mark.parametrize("periods", [1, 2, 3, 5])
def test_triangular_has_one_peak_per_period(periods: int) -> None:
    profile = make_profile("triangular", {"periods": periods})
    for total in (periods, 20, 37, 120):
        shape = [profile(step, total) for step in range(total)]
        assert shape.count(1.0) == periods
        assert min(shape) >= 0.1


def test_one_cycle_starts_at_its_share_rises_to_the_peak_and_ends_far_below() -> None:
    profile = OneCycle(rising=0.1, start_div=100, end_div=100)
    shape = [profile(step, 100) for step in range(100)]
    assert shape[0] == pytest.approx(0.01)
    assert shape[9] == 1.0
    assert shape[-1] == pytest.approx(0.0001)
    assert shape[9:] == sorted(shape[9:], reverse=True)


def test_cosine_and_linear_fall_from_the_peak_towards_zero() -> None:
    for name in ("cosine", "linear"):
        shape = [make_profile(name, {})(step, 50) for step in range(50)]
        assert shape == sorted(shape, reverse=True)
        assert 0 < shape[-1] < 0.03
        assert shape[25] == pytest.approx(0.5)


def curve(name: str, total: int, **args: Any) -> list[float]:
    profile = make_profile(name, args)
    return [profile(step, total) for step in range(total)]


@pytest.mark.parametrize("of", ["warmup-drop", "warmup-drop-vgg", "step", "cosine", "one-cycle"])
def test_a_replay_of_the_last_t_of_t_epochs_is_the_end_of_the_longer_shape(of: str) -> None:
    per_epoch, epochs = 13, 12
    whole = curve(of, epochs * per_epoch)
    for kept in range(1, epochs + 1):
        part = curve("replay", kept * per_epoch, of=of, first=float(f"{1 - kept / epochs:.12g}"))
        assert part == whole[(epochs - kept) * per_epoch :]
    assert curve("replay", 3 * per_epoch, of=of, first=0.5, last=0.75) == whole[6 * per_epoch : 9 * per_epoch]


def test_parts_that_follow_each_other_make_the_whole() -> None:
    parts = [curve("replay", 20, of="one-cycle", first=i / 5, last=(i + 1) / 5) for i in range(5)]
    assert [value for part in parts for value in part] == curve("one-cycle", 100)


def test_a_replay_after_the_last_drop_peaks_at_what_is_left() -> None:
    profile = make_profile("replay", {"of": "step", "first": 0.8})
    assert maximum_of(profile, 40) == pytest.approx(0.01)


def test_slr_rises_from_a_hundredth_and_drops_twice() -> None:
    shape = curve("warmup-drop", 200, warmup=0.1, warmup_shape="cosine", start=0.01, drops=[0.55, 0.775])
    assert shape[0] == pytest.approx(0.01, abs=0.01)
    assert shape[9] == pytest.approx(0.01 + 0.99 / 2)
    assert shape[19:110] == [1.0] * 91
    assert shape[110:155] == pytest.approx([0.1] * 45)
    assert shape[155:] == pytest.approx([0.01] * 45)


def test_a_ramp_in_steps_that_drops_cut_off_never_reaches_the_peak() -> None:
    per_epoch = 563  # 36,000 images in batches of 64: the authors' first run
    profile = make_profile("ramp-in-steps", {})
    assert maximum_of(profile, 50 * per_epoch) == pytest.approx(0.70, abs=0.005)
    shape = curve("ramp-in-steps", 50 * per_epoch)
    assert shape[25 * per_epoch] == 0.1
    assert shape[-1] == pytest.approx(0.01)
    vgg = curve("ramp-in-steps", 160 * per_epoch, steps=10_000, plateau=14 / 160, drops=[80 / 160, 120 / 160])
    assert vgg[14 * per_epoch - 1] == pytest.approx(0.79, abs=0.005)
    assert vgg[14 * per_epoch] == vgg[80 * per_epoch - 1] == 1.0
    assert vgg[80 * per_epoch] == 0.1


def test_an_argument_that_came_later_is_told_only_where_it_is_used() -> None:
    assert set(resolve_profile("warmup-drop", {})) == {"name", "warmup", "drops", "factor"}
    assert resolve_profile("warmup-drop", {"start": 0.01})["start"] == 0.01
    assert resolve_profile("warmup-drop", {"start": 0.0}) == resolve_profile("warmup-drop", {})


def test_two_spellings_of_one_profile_resolve_equal() -> None:
    named = resolve_profile("warmup-drop-vgg", {})
    explicit = resolve_profile("warmup-drop", {"warmup": 10 / 112, "drops": [56 / 112, 84 / 112]})
    assert named == explicit
    assert canonical_json(named) == canonical_json(explicit)
    assert resolve_profile("warmup-drop", {}) == resolve_profile("warmup-drop", {"factor": 0.1})
    assert named != resolve_profile("warmup-drop", {})
    by_table = resolve_profile("replay", {"of": {"name": "warmup-drop", "factor": 0.1}})
    assert by_table == resolve_profile("replay", {"of": "warmup-drop"})


@pytest.mark.parametrize("name", PROFILES)
def test_every_argument_of_a_profile_is_in_its_resolved_form(name: str) -> None:
    resolved = resolve_profile(name, {})
    kind = resolved.pop("name")
    assert curve(kind, 50, **resolved) == curve(name, 50)


def test_an_unknown_profile_names_the_choices() -> None:
    with pytest.raises(ValueError, match="unknown profile 'cosin'; choose from constant, cosine, linear, one-cycle"):
        make_profile("cosin", {})


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("cosine", {"periods": 2}, "cosine takes no 'periods'; it takes warmup, warmup_shape"),
        ("constant", {"low": 2}, "constant takes no 'low'; it takes nothing"),
        ("warmup-drop", {"warmup": 1.2}, "warmup is a share of the budget"),
        ("warmup-drop", {"warmup": -0.1}, "warmup is a share of the budget"),
        ("warmup-drop", {"warmup": math.nan}, "warmup is a share of the budget"),
        ("warmup-drop", {"drops": [0.5, 2]}, "each of drops is a share"),
        ("warmup-drop", {"drops": [0.8, 0.5]}, "drops must rise"),
        ("warmup-drop", {"drops": 0.5}, "warmup-drop: "),
        ("warmup-drop", {"factor": 0}, "factor must be in"),
        ("warmup-drop", {"factor": 2}, "factor must be in"),
        ("cosine", {"warmup": 0.1, "warmup_shape": "square"}, "linear or cosine, got 'square'"),
        ("triangular", {"periods": 0}, "periods must be at least 1"),
        ("triangular", {"periods": 1.5}, "periods"),
        ("triangular", {"low": 1}, "low must be in"),
        ("one-cycle", {"start_div": 0.5}, "start_div must be at least 1"),
        ("one-cycle", {"end_div": 0}, "end_div must be at least 1"),
        ("warmup-drop", {"start": 1}, "start must be in"),
        ("replay", {"first": 0.6, "last": 0.5}, "first 0.6 must be below last 0.5"),
        ("replay", {"of": "cosin"}, "unknown profile 'cosin'"),
        ("replay", {"of": {"periods": 2}}, "of is a profile such as"),
        ("replay", {"of": 3}, "of is a name or a table"),
        ("ramp-in-steps", {"steps": 0}, "steps must be at least 1"),
        ("ramp-in-steps", {"plateau": 2}, "plateau is a share"),
    ],
)
def test_wrong_arguments_name_what_is_wrong(name: str, args: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_profile(name, args)
