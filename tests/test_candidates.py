from __future__ import annotations

import math
import sys
from types import ModuleType
from typing import Any

import pytest

from silo_tune.errors import BadInput
from silo_tune.planner.candidates import CandidateSource, Heard, OneRound, Proposal, grid_source, peak_of, value_of
from silo_tune.planner.chain import Chain
from silo_tune.planner.layout import Layout
from silo_tune.study.arms import ScheduleArm
from silo_tune.study.model import Study
from tests.plain import study

ALLR = {"mode": "schedule", "schedule": {"name": "allr", "max_lr": 0.1}}
TOLD = [Heard(Proposal({"value": 0.1}), {"status": "ok"})]


@pytest.fixture
def users(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("a_users_module")
    monkeypatch.setitem(sys.modules, "a_users_module", module)
    return module


def users_arm(**args: Any) -> dict[str, Any]:
    schedule = {"function": "a_users_module:peak", "version": "1", **args}
    return {"mode": "schedule", "schedule": schedule}


def source_of(layout: Layout, arm: str, cycle: int) -> CandidateSource:
    return layout.source(Chain(arm, 0, cycle=cycle))


def peak_in(made: Study, arm: str, cycle: int) -> dict[str, Any]:
    found = made.arms[arm]
    assert isinstance(found, ScheduleArm)
    return peak_of(made.schedule_of(found), cycle, made.pruned, arm)


def rates(source: Any) -> list[float]:
    return [proposal.peak["value"] for proposal in source.ask([])]


def test_all_candidates_come_at_once_and_then_no_more() -> None:
    source = OneRound((Proposal({"value": 0.1}), Proposal({"value": 0.2})))
    assert [proposal.peak for proposal in source.ask([])] == [{"value": 0.1}, {"value": 0.2}]
    assert source.ask(TOLD) == []


def test_a_rate_is_rounded_as_its_key_is() -> None:
    assert value_of(0.1 + 0.2) == {"value": 0.3}
    assert value_of(0.03 * math.exp(math.log(10))) == {"value": 0.3}


def test_a_grid_holds_the_tested_values_in_order_each_once() -> None:
    source = grid_source([0.01, 0.1, 1.0], {"silo": 0.03, "constant": 0.1, "linear": 0.03, "other": 0.1 + 1e-15})
    assert [(p.peak, p.asked, p.tests) for p in source.proposals] == [
        ({"value": 0.01}, True, ()),
        ({"value": 0.03}, False, ("silo", "linear")),
        ({"value": 0.1}, True, ("constant", "other")),
        ({"value": 1.0}, True, ()),
    ]


def test_a_schedule_arm_has_one_candidate_that_it_asked_for() -> None:
    assert source_of(Layout(study()), "constant", 2).ask([]) == [Proposal({"value": 0.03})]


@pytest.mark.parametrize("cycle", range(1, 4))
def test_the_values_of_the_tested_arms_are_always_among_an_oracles_candidates(cycle: int) -> None:
    made = study()
    for oracle in ("greedy", "conditioned"):
        found = rates(source_of(Layout(made), oracle, cycle))
        assert found == sorted(set(found))
        for name in ("silo", "constant", "linear"):
            assert peak_in(made, name, cycle)["value"] in found
        assert {0.01, 0.1, 1.0} <= set(found)


def test_an_oracle_without_tests_has_its_grid_alone() -> None:
    assert rates(source_of(Layout(study({"arms.greedy.tests": []})), "greedy", 3)) == [0.01, 0.1, 1.0]


def test_an_adaptive_peak_is_a_rule_with_resolved_arguments() -> None:
    made = study({"arms.allr": ALLR})
    assert peak_in(made, "allr", 2) == {"rule": "allr", "args": {"max_lr": 0.1, "train_epochs": 2}}


def test_a_schedule_is_asked_with_the_fractions_up_to_its_cycle_only(users: ModuleType) -> None:
    seen = []

    def peak(cycle: int, pruned: list[float], scale: float) -> float:
        seen.append((cycle, len(pruned), round(pruned[-1], 6)))
        return scale * (1 + cycle)

    users.peak = peak  # type: ignore[attr-defined]
    for cycles in (4, 9):
        made = study({"arms.mine": users_arm(scale=0.1), "cycles": cycles})
        assert peak_in(made, "mine", 2) == {"value": 0.3}
    assert seen == [(2, 3, 0.36)] * 4  # each twice: is it the same again?


@pytest.mark.parametrize("bad", [0.0, -0.1, math.nan, math.inf, "fast", None])
def test_a_users_schedule_that_gives_no_rate_is_bad_input_at_its_arm(users: ModuleType, bad: Any) -> None:
    users.peak = lambda cycle, pruned: bad  # type: ignore[attr-defined]
    with pytest.raises(BadInput, match=r"^arms\.mine\.schedule: "):
        Layout(study({"arms.mine": users_arm()}))


def test_a_users_schedule_that_fails_at_its_last_cycle_fails_before_anything_is_trained(users: ModuleType) -> None:
    users.peak = lambda cycle, pruned: 0.1 if cycle < 24 else 0.0  # type: ignore[attr-defined]
    Layout(study({"arms.mine": users_arm(), "cycles": 24}))
    with pytest.raises(BadInput, match=r"^arms\.mine\.schedule: max_lr 0\.0 at cycle 24"):
        Layout(study({"arms.mine": users_arm(), "cycles": 25}))


def test_a_users_schedule_that_raises_is_bad_input_at_its_arm(users: ModuleType) -> None:
    def peak(cycle: int, pruned: list[float]) -> float:
        raise KeyError(cycle)

    users.peak = peak  # type: ignore[attr-defined]
    with pytest.raises(BadInput, match=r"^arms\.mine\.schedule: "):
        Layout(study({"arms.mine": users_arm()}))


def test_a_users_schedule_with_other_arguments_is_bad_input_at_its_arm(users: ModuleType) -> None:
    users.peak = lambda cycle, pruned: 0.1  # type: ignore[attr-defined]
    with pytest.raises(BadInput, match=r"^arms\.mine\.schedule: "):
        Layout(study({"arms.mine": users_arm(scale=3)}))


def test_a_users_function_that_is_not_there_is_bad_input(users: ModuleType) -> None:
    made = study({"arms.mine": users_arm()})
    with pytest.raises(BadInput, match="a_users_module has no function 'peak'"):
        Layout(made)
    absent = {"mode": "schedule", "schedule": {"function": "no_such_module:f", "version": "1"}}
    with pytest.raises(BadInput, match="cannot import 'no_such_module:f'"):
        Layout(study({"arms.mine": absent}))


# --- an Oracle's tests over time ---


def test_an_arm_added_later_is_tested_from_its_cycle_on() -> None:
    layout = Layout(study(), {"greedy": {"linear": 2}})
    assert layout.tests("greedy", 1) == ["silo", "constant"]
    assert layout.tests("greedy", 2) == layout.tests("greedy", 3) == ["silo", "constant", "linear"]
    assert layout.tests("conditioned", 1) == ["silo", "constant", "linear"]
    assert layout.tests("silo", 1) == []


def test_the_shared_dense_cycle_has_one_candidate_whatever_the_arm() -> None:
    layout = Layout(study())
    for arm in ("silo", "greedy", "conditioned"):
        assert source_of(layout, arm, 0).ask([]) == [Proposal({"value": 0.05})]
        assert source_of(layout, arm, 0).ask(TOLD) == []


def test_an_oracle_with_its_own_dense_searches_it_too() -> None:
    layout = Layout(study({"arms.greedy.own_dense": True, "arms.constant.own_dense": True}))
    assert [(p.peak, p.tests) for p in source_of(layout, "greedy", 0).ask([])] == [
        ({"value": 0.01}, ()),
        ({"value": 0.03}, ("constant",)),
        ({"value": 0.1}, ()),
        ({"value": 1.0}, ()),
    ]


def test_a_checkpoint_has_no_peak() -> None:
    layout = Layout(study({"dense": {"checkpoint": "w.safetensors"}}), checkpoint="ab" * 32)
    dense, first = Chain("silo", 0), Chain("silo", 0, cycle=1, parent="0" * 64)
    proposal = layout.source(dense).ask([])[0]
    assert proposal.peak is None
    assert layout.unit(dense, proposal).checkpoint == "ab" * 32
    assert layout.unit(first, layout.source(first).ask([])[0]).checkpoint is None
