from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from typing import Any

import pytest

from silo_tune.schedules.peaks import (
    RULES,
    SCHEDULES,
    AdaptiveSchedule,
    Constant,
    Linear,
    PruneFacts,
    Schedule,
    Silo,
    allr_peak,
    make_schedule,
    pruned_fractions,
    s_curve,
)

RATES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.9)
GOLDEN = {
    "resnet20": (0.03, 0.04, [0.03000, 0.03000, 0.03004, 0.03213, 0.04761, 0.06446, 0.06893, 0.06977, 0.06995]),
    "vgg19": (0.04, 0.06, [0.04000, 0.04000, 0.04006, 0.04320, 0.06642, 0.09169, 0.09839, 0.09966, 0.09992]),
}
ARGS: dict[str, list[dict[str, Any]]] = {
    "silo": [
        {"eps": 0.03, "delta": 0.04},
        {"eps": 0.00025, "delta": 0.00075, "beta": 50, "q": 0, "midpoint": 0.88, "direction": "falling"},
        {"eps": 0.03, "delta": 0.04, "beta": 0.5, "q": 4, "midpoint": 1.0},
        {"eps": 0.03, "delta": 0.0},
    ],
    "constant": [{"max_lr": 0.1}],
    "linear": [{"start": 0.03, "end": 0.07, "over": 8}, {"start": 0.07, "end": 0.03, "over": 1}],
    "allr": [{"max_lr": 0.1, "train_epochs": 12}],
}
ENTRIES = [(name, args) for name, several in ARGS.items() for args in several]


def fractions(rate: float, cycles: int) -> list[float]:
    return pruned_fractions([(1 - rate) ** cycle for cycle in range(cycles)])


class NoNegativeIndex(Sequence[float]):
    """Pruned fractions that refuse an index below 0 or beyond the cycle that is asked for."""

    def __init__(self, values: Sequence[float]) -> None:
        self.values = values

    def __getitem__(self, index: Any) -> Any:
        assert isinstance(index, int)
        assert 0 <= index < len(self.values)
        return self.values[index]

    def __len__(self) -> int:
        return len(self.values)


def answers(schedule: Schedule | AdaptiveSchedule, cycles: int, pruned: Sequence[float]) -> list[Any]:
    ask = schedule.rule if isinstance(schedule, AdaptiveSchedule) else schedule.peak
    return [ask(cycle, pruned) for cycle in range(cycles)]


def test_the_examples_cover_every_registered_schedule() -> None:
    assert set(ARGS) == set(SCHEDULES)


@pytest.mark.parametrize(("eps", "delta", "peaks"), GOLDEN.values(), ids=GOLDEN)
def test_silo_gives_the_golden_values(eps: float, delta: float, peaks: list[float]) -> None:
    silo = Silo(eps=eps, delta=delta, beta=5, q=1)
    assert [round(silo.peak(cycle, fractions(0.2, 9)), 5) for cycle in range(9)] == peaks


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("q", [0, 1, 3])
def test_silo_equals_the_published_formula(rate: float, q: int) -> None:
    silo, pruned = Silo(eps=0.03, delta=0.04, beta=5, q=q), fractions(rate, 12)
    for cycle in range(q + 1, 12):
        gamma = 1 - (1 - rate) ** (cycle - q)
        assert silo.peak(cycle, pruned) == pytest.approx(0.03 + 0.04 / (1 + (gamma / (1 - gamma)) ** -5), rel=1e-12)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("direction", ["rising", "falling"])
def test_without_a_range_silo_is_the_constant_schedule(rate: float, direction: str) -> None:
    pruned = fractions(rate, 25)
    silo = Silo(eps=0.03, delta=0.0, direction=direction)
    assert answers(silo, 25, pruned) == answers(Constant(0.03), 25, pruned)


@pytest.mark.parametrize("q", range(6))
def test_a_rising_silo_is_exactly_eps_up_to_cycle_q_and_above_it_later(q: int) -> None:
    peaks = answers(Silo(eps=0.03, delta=0.04, q=q), 12, fractions(0.2, 12))
    assert peaks[: q + 1] == [0.03] * (q + 1)
    assert all(early < late for early, late in zip(peaks[q:], peaks[q + 1 :], strict=False))
    assert peaks[-1] <= 0.07


@pytest.mark.parametrize("q", range(8))
def test_pruned_is_never_indexed_below_zero_or_beyond_the_cycle(q: int) -> None:
    for direction in ("rising", "falling"):
        silo = Silo(eps=0.03, delta=0.04, q=q, direction=direction)
        for cycle in range(6):
            silo.peak(cycle, NoNegativeIndex(fractions(0.2, cycle + 1)))


@pytest.mark.parametrize("p", [0.05, 0.12, 0.3, 0.49])
@pytest.mark.parametrize("beta", [1, 5, 50])
def test_a_falling_s_is_the_schedule_of_ice_pruning(p: float, beta: float) -> None:
    base, delta = 0.001, 0.00075
    silo = Silo(eps=base - delta, delta=delta, beta=beta, q=0, midpoint=1 - p, direction="falling")
    for rate in RATES:
        pruned = fractions(rate, 10)
        for cycle, gone in enumerate(pruned):
            x = 1 - gone
            ice = base - delta / (1 + (x / (2 * (1 - p) - x)) ** beta)
            assert silo.peak(cycle, pruned) == pytest.approx(ice, rel=1e-12)


@pytest.mark.parametrize("midpoint", [0.1, 0.5, 0.88, 1.0])
def test_the_s_is_half_at_its_midpoint_zero_at_zero_and_one_from_twice_the_midpoint(midpoint: float) -> None:
    assert s_curve(midpoint, 5, midpoint) == 0.5
    assert s_curve(0.0, 5, midpoint) == 0.0
    assert s_curve(2 * midpoint, 5, midpoint) == s_curve(2 * midpoint + 1, 5, midpoint) == 1.0
    grid = [s_curve(2 * midpoint * i / 200, 5, midpoint) for i in range(201)]
    assert grid == sorted(grid)


@pytest.mark.parametrize("beta", [50, 200, 1000])
def test_a_steep_s_is_a_step_and_never_overflows(beta: float) -> None:
    assert s_curve(0.001, beta, 0.5) == pytest.approx(0.0)
    assert s_curve(0.999, beta, 0.5) == pytest.approx(1.0)


@pytest.mark.parametrize("direction", ["rising", "falling"])
def test_a_steep_silo_gives_finite_peaks_over_many_cycles(direction: str) -> None:
    for rate in RATES:
        peaks = answers(Silo(eps=0.03, delta=0.04, beta=300, q=0, direction=direction), 25, fractions(rate, 25))
        assert all(0.03 <= peak <= 0.07 for peak in peaks)


def test_linear_ramps_over_its_cycles_and_stays() -> None:
    peaks = answers(Linear(start=0.03, end=0.07, over=8), 12, fractions(0.2, 12))
    assert peaks[0] == 0.03
    assert peaks[4] == pytest.approx(0.05)
    assert peaks[8:] == pytest.approx([0.07] * 4)


# --- the contract of every entry ---


@pytest.mark.parametrize(("name", "args"), ENTRIES)
def test_every_schedule_is_positive_finite_and_pure(name: str, args: dict[str, Any]) -> None:
    schedule = make_schedule(name, args)
    for rate in RATES:
        pruned = fractions(rate, 25)
        before = list(pruned)
        first = answers(schedule, 25, pruned)
        assert answers(schedule, 25, pruned) == first
        assert pruned == before
        if not isinstance(schedule, AdaptiveSchedule):
            assert all(math.isfinite(peak) and peak > 0 for peak in first)


@pytest.mark.parametrize(("name", "args"), ENTRIES)
def test_every_schedule_is_picklable_and_equal_to_its_copy(name: str, args: dict[str, Any]) -> None:
    schedule = make_schedule(name, args)
    again = pickle.loads(pickle.dumps(schedule))
    assert again == schedule
    assert answers(again, 9, fractions(0.2, 9)) == answers(schedule, 9, fractions(0.2, 9))


@pytest.mark.parametrize(("name", "args"), ENTRIES)
def test_no_schedule_sees_the_number_of_cycles(name: str, args: dict[str, Any]) -> None:
    schedule, whole = make_schedule(name, args), fractions(0.2, 25)
    full = answers(schedule, 25, whole)
    for cycle in range(25):
        prefix = whole[: cycle + 1]
        assert answers(schedule, cycle + 1, prefix)[cycle] == full[cycle]


@pytest.mark.parametrize(("name", "args"), ENTRIES)
def test_a_schedule_is_either_fixed_or_names_a_registered_rule(name: str, args: dict[str, Any]) -> None:
    schedule = make_schedule(name, args)
    if isinstance(schedule, AdaptiveSchedule):
        rule, resolved = schedule.rule(3, fractions(0.2, 4))
        peak = RULES[rule](PruneFacts(norm_before=5.0, norm_after=4.0, share_pruned=0.2, epochs=2), **resolved)
        assert 0 < peak <= args["max_lr"]
    else:
        assert isinstance(schedule, Schedule)


# --- ALLR ---


@pytest.mark.parametrize(
    ("before", "after", "share", "epochs", "expected"),
    [
        (5.0, 4.0, 0.36, 3, 0.1),  # d1 = 3 / (5 · 0.6) = 1
        (5.0, 3.0, 0.36, 3, 0.1),  # d1 = 4/3, held at 1
        (10.0, math.sqrt(96), 0.25, 3, 0.04),  # d1 = 2 / (10 · 0.5) = 0.4
        (10.0, math.sqrt(96), 0.25, 15, 0.05),  # d2 = 15/30 is larger
        (10.0, math.sqrt(96), 0.25, 60, 0.1),  # d2 is held at 1
        (10.0, 10.0, 0.0, 3, 0.01),  # nothing pruned: d1 = 0
        (0.0, 0.0, 0.5, 3, 0.01),
    ],
)
def test_allr_equals_hand_computed_values(
    before: float, after: float, share: float, epochs: int, expected: float
) -> None:
    facts = PruneFacts(norm_before=before, norm_after=after, share_pruned=share, epochs=epochs)
    assert allr_peak(facts, max_lr=0.1, train_epochs=30) == pytest.approx(expected, rel=1e-12)


# --- loud errors ---


def test_an_unknown_schedule_names_the_choices() -> None:
    with pytest.raises(ValueError, match="unknown schedule 'slio'; choose from allr, constant, linear, silo"):
        make_schedule("slio", {})


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("silo", {"eps": 0.03, "delta": 0.04, "gamma": 1}, "takes no 'gamma'; it takes eps, delta, beta, q, midpoint"),
        ("silo", {"eps": 0.03}, "silo needs delta"),
        ("linear", {"start": 0.1}, "linear needs end, over"),
        ("silo", {"eps": 0.0, "delta": 0.04}, "eps must be above 0, got 0.0"),
        ("silo", {"eps": math.nan, "delta": 0.04}, "eps must be above 0"),
        ("silo", {"eps": 0.03, "delta": -0.1}, "delta must be at least 0"),
        ("silo", {"eps": 0.03, "delta": 0.1, "beta": 0}, "beta must be above 0"),
        ("silo", {"eps": 0.03, "delta": 0.1, "q": -1}, "q must be at least 0"),
        ("silo", {"eps": 0.03, "delta": 0.1, "midpoint": 1.5}, "midpoint must be in"),
        ("silo", {"eps": 0.03, "delta": 0.1, "direction": "up"}, "rising or falling, got 'up'"),
        ("silo", {"eps": "big", "delta": 0.1}, "silo: "),
        ("silo", {"eps": 0.03, "delta": 0.1, "q": 1.5}, "q"),
        ("constant", {"max_lr": 0}, "max_lr must be above 0"),
        ("linear", {"start": 0.1, "end": -0.1, "over": 3}, "end must be above 0"),
        ("linear", {"start": 0.1, "end": 0.1, "over": 0}, "over must be at least 1"),
        ("allr", {"max_lr": 0.1, "train_epochs": 0}, "train_epochs must be at least 1"),
    ],
)
def test_wrong_arguments_name_what_is_wrong(name: str, args: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_schedule(name, args)
