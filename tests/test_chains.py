from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest

from silo_tune.errors import BadInput
from silo_tune.planner.chain import Chain
from silo_tune.planner.planner import Planner
from silo_tune.planner.unit import Unit
from silo_tune.planner.winner import winner_of
from silo_tune.results.rows import rows
from silo_tune.store.run_folder import Run
from silo_tune.study.model import Study
from tests.plain import Drive, MemoryJournal, Outcome, World, resolved, spread, study

ALLR = {"mode": "schedule", "schedule": {"name": "allr", "max_lr": 0.1}}
ONE_SEED = {"replicates.seeds": [0]}
SMALL = {**ONE_SEED, "cycles": 3, "arms.linear": None, "arms.allr": ALLR}
OWN = {
    "arms.own": {"mode": "oracle", "own_dense": True, "grid": {"low": 0.01, "high": 1.0, "points": 3}},
    "arms.alone": {"mode": "schedule", "own_dense": True, "schedule": {"name": "constant", "max_lr": 0.05}},
}


def run(
    made: Study, journal: MemoryJournal | None = None, world: World | None = None, order: int = 0, **more: Any
) -> tuple[MemoryJournal, Planner, Drive]:
    """One start of a run, to its end."""
    journal = journal or MemoryJournal()
    planner = Planner(made, journal, more.pop("tests_from", None))
    drive = Drive(journal.commit, world or World(), random.Random(order), **more)
    drive(planner)
    return journal, planner, drive


def table(journal: MemoryJournal, made: Study) -> list[dict[str, Any]]:
    return list(rows(cast(Run, journal), made))


def told(journal: MemoryJournal, arm: str, seed: int = 0, cycle: int = 1) -> list[Outcome]:
    decision = journal.decision(arm, seed, cycle, 1)
    assert decision is not None
    return list(decision["told"])


def at(arm_rate: float, fate: str, cycle: int | None = None) -> World:
    """A world in which one rate has another fate, at one cycle or at all but the dense one."""

    def decide(unit: Unit) -> str:
        hit = unit.cycle == cycle if cycle is not None else unit.cycle > 0
        return fate if hit and resolved(unit) == arm_rate else "ok"

    return World(decide)


def broken(fate: str, cycle: int) -> World:
    """A world in which every unit of a cycle has another fate."""
    return World(lambda unit: fate if unit.cycle == cycle else "ok")


# --- decisions depend on the outcomes, never on their order ---


@pytest.mark.parametrize("world", [World(), World(spread)], ids=["all well", "mixed fates"])
def test_the_decisions_and_the_table_do_not_depend_on_the_order_or_number_of_workers(world: World) -> None:
    made = study({**OWN, "arms.allr": ALLR})
    reference, _, _ = run(made, world=world, slots=1)
    expected = table(reference, made)
    assert len(expected) > 100
    for order in range(20):
        journal, planner, _ = run(made, world=world, order=order, slots=1 + order % 7)
        assert journal.decisions == reference.decisions
        assert table(journal, made) == expected
        assert all(not chain.active for chain in planner.chains.values())


def test_a_whole_study_ends_with_every_cycle_closed() -> None:
    made = study()
    journal, planner, _ = run(made)
    assert planner.done
    assert planner.ask() is None
    assert len(journal.decisions) == len(made.arms) * 2 * made.cycles
    assert all(chain.done and len(chain.closed) == made.cycles for chain in planner.chains.values())


# --- one unit, several who ask ---


def test_a_unit_asked_by_several_arms_is_trained_once_and_all_hear() -> None:
    made = study()
    journal, planner, drive = run(made)
    assert len(drive.asked) == len(set(drive.asked)) == planner.counts.trained == len(journal.results)
    for arm in made.arms:
        assert told(journal, arm, cycle=0) == told(journal, "silo", cycle=0)


def test_a_unit_under_way_is_not_asked_again_and_its_waiters_all_hear() -> None:
    made = study(ONE_SEED)
    journal = MemoryJournal()
    planner = Planner(made, journal)
    dense = planner.ask()
    assert dense is not None
    assert planner.ask() is None
    assert not planner.done
    outcome = World().outcome(dense)
    journal.commit(outcome)
    planner.tell(dense.key, outcome)
    assert all(chain.cycle == 1 for chain in planner.chains.values())
    assert planner.counts.shared == len(made.arms) - 1 + sharing_at_cycle_one(planner)


def sharing_at_cycle_one(planner: Planner) -> int:
    asked = [candidate.unit.key for chain in planner.chains.values() for candidate in chain.candidates]
    return len(asked) - len(set(asked))


def test_telling_twice_or_telling_what_was_not_asked_changes_nothing() -> None:
    made = study(ONE_SEED)
    journal = MemoryJournal()
    planner = Planner(made, journal)
    dense = planner.ask()
    assert dense is not None
    planner.tell("0" * 64, {"status": "failed", "error": "x"})
    journal.commit(World().outcome(dense))
    planner.tell(dense.key, World().outcome(dense))
    before = (dict(journal.decisions), planner.counts.trained)
    planner.tell(dense.key, {"status": "failed", "error": "late"})
    assert (journal.decisions, planner.counts.trained) == before


def test_of_the_ready_units_the_lowest_cycle_is_asked_first() -> None:
    made = study(ONE_SEED)
    journal = MemoryJournal()
    planner = Planner(made, journal)

    def drain() -> list[Unit]:
        return list(iter(planner.ask, None))

    def tell(unit: Unit) -> None:
        journal.commit(World().outcome(unit))
        planner.tell(unit.key, World().outcome(unit))

    for dense in drain():
        tell(dense)
    first = drain()
    late = next(unit for unit in first if resolved(unit) == 0.01)
    for unit in first:
        if unit is not late:
            tell(unit)
    for unit in drain():  # the schedules go on to cycle 3
        tell(unit)
    tell(late)  # the Oracles open cycle 2
    cycles = [unit.cycle for unit in drain()]
    assert set(cycles) == {2, 3}
    assert cycles == sorted(cycles)


# --- winners ---


def outcome(status: str, accuracy: float | None, loss: float | None, rate: float, key: str = "k") -> Outcome:
    return {"status": status, "val_score": accuracy, "val_loss": loss, "max_lr": rate, "key": key, "repeat": 0}


@pytest.mark.parametrize(
    ("best", "other"),
    [
        (outcome("ok", 0.9, 2.0, 0.9), outcome("ok", 0.8, 1.0, 0.1)),  # accuracy first
        (outcome("ok", 0.9, 1.0, 0.9), outcome("ok", 0.9, 2.0, 0.1)),  # then loss
        (outcome("ok", 0.9, 1.0, 0.1), outcome("ok", 0.9, 1.0, 0.9)),  # then the smaller rate
        (outcome("ok", 0.1, 9.0, 0.9), outcome("diverged", 0.9, 1.0, 0.1)),
        (outcome("ok", 0.1, 9.0, 0.9), outcome("diverged", None, None, 0.1)),
        (outcome("ok", 0.1, 9.0, 0.9), outcome("failed", None, None, 0.1)),
    ],
)
def test_the_winner_has_the_best_accuracy_then_loss_then_the_smaller_rate(best: Outcome, other: Outcome) -> None:
    for order in ([best, other], [other, best]):
        assert winner_of(order) == best


def test_without_a_good_candidate_there_is_no_winner() -> None:
    assert winner_of([]) is None
    assert winner_of([outcome("diverged", None, None, 0.1), outcome("failed", None, None, 0.2)]) is None


def test_the_decided_winner_is_the_best_told_and_the_next_parent() -> None:
    made = study()
    journal, _, _ = run(made, world=World(spread))
    found = 0
    for (arm, seed, cycle, _), text in journal.decisions.items():
        decision = json.loads(text)
        best = winner_of(decision["told"])
        assert decision["winner"] == (best["key"] if best else None)
        following = journal.decision(arm, seed, cycle + 1, 1)
        if following is not None and arm != "conditioned":
            assert following["parent"] == decision["winner"]
            found += 1
    assert found > 10


# --- a decision is written before any child is asked ---


@pytest.mark.parametrize("order", range(3))
def test_a_decision_is_written_before_any_child_is_asked(order: int) -> None:
    made, journal = study(OWN), MemoryJournal()

    def check(unit: Unit) -> None:
        decided = {json.loads(text)["winner"] for text in journal.decisions.values()}
        assert unit.parent is None or unit.parent in decided

    run(made, journal, World(spread), order, on_ask=check)


# --- going on ---


@pytest.mark.parametrize("world", [World(), World(spread)], ids=["all well", "mixed fates"])
def test_a_run_stopped_anywhere_goes_on_to_the_same_end_and_trains_nothing_twice(world: World) -> None:
    made = study(SMALL)
    reference, _, _ = run(made, world=world)
    for stop in itertools.count():
        journal = MemoryJournal()
        drive = Drive(journal.commit, world, random.Random(stop), slots=3)
        stopped = drive(Planner(made, journal), stop) < stop
        standing, committed = dict(journal.decisions), set(journal.results)
        _, _, again = run(made, journal, world, order=stop + 1)
        assert not committed & set(again.asked)
        assert standing.items() <= journal.decisions.items()
        assert journal.decisions == reference.decisions
        assert journal.results == reference.results
        if stopped:
            break
    assert stop > 15


def test_a_finished_run_asks_nothing_when_it_is_opened_again() -> None:
    made = study()
    journal, _, _ = run(made, world=World(spread))
    before = dict(journal.decisions)
    planner = Planner(made, journal)
    assert planner.done
    assert planner.ask() is None
    assert journal.decisions == before
    assert planner.counts.trained == 0


def test_a_run_stopped_between_the_last_outcome_and_the_decision_derives_the_decision() -> None:
    made = study(SMALL)
    reference, _, _ = run(made)
    for where in reference.decisions:
        journal = MemoryJournal()
        journal.results, journal.states = dict(reference.results), set(reference.states)
        journal.decisions = {w: text for w, text in reference.decisions.items() if w != where}
        _, _, again = run(made, journal)
        assert again.asked == []
        assert journal.decisions == reference.decisions


def test_a_study_with_more_cycles_goes_on_from_where_it_ended() -> None:
    journal, _, _ = run(study({"cycles": 3}))
    short = dict(journal.decisions)
    longer = study({"cycles": 6})
    _, _, drive = run(longer, journal, on_ask=parents_are_in(journal))
    assert short.items() <= journal.decisions.items()
    assert journal.decisions == run(longer)[0].decisions
    assert len(drive.asked) == len(set(drive.asked))


def test_seeds_and_arms_that_are_added_train_only_their_own_units() -> None:
    first = study({**ONE_SEED, "arms.linear": None, "arms.greedy.tests": ["silo"], "arms.conditioned.tests": ["silo"]})
    journal, _, _ = run(first)
    committed = set(journal.results)
    second = study({"arms.greedy.tests": ["silo"], "arms.conditioned.tests": ["silo"]})
    _, _, drive = run(second, journal)
    assert not committed & set(drive.asked)
    assert journal.decisions == run(second)[0].decisions


def test_a_tested_arm_added_later_joins_from_the_first_cycle_no_seed_has_closed() -> None:
    made = study({"arms.linear": None})
    journal = MemoryJournal()
    Drive(journal.commit)(Planner(made, journal), 20)
    closed = max(cycle for arm, _, cycle, _ in journal.decisions if arm == "greedy") + 1
    assert 1 < closed < made.cycles
    since = {oracle: {"linear": closed} for oracle in ("greedy", "conditioned")}
    run(study(), journal, tests_from=since)
    for seed, cycle in itertools.product((0, 1), range(1, made.cycles)):
        decision = journal.decision("greedy", seed, cycle, 1)
        assert decision is not None
        tested = {arm for asked in decision["asked"] for arm in asked["tests"]}
        assert tested == {"silo", "constant"} | ({"linear"} if cycle >= closed else set())


def test_files_of_another_study_are_refused_and_name_arm_seed_and_cycle() -> None:
    journal, _, _ = run(study(ONE_SEED))
    with pytest.raises(BadInput, match=r"arms\.greedy: seed 0 closed cycle 1 with other candidates"):
        Planner(study({**ONE_SEED, "arms.greedy.grid.points": 2}), journal)


def test_files_of_another_study_are_refused_before_anything_is_trained() -> None:
    journal, _, _ = run(study(ONE_SEED))
    with pytest.raises(BadInput, match=r"arms\.greedy: seed 0 closed cycle 1 with other candidates"):
        Planner(study({**ONE_SEED, "arms.greedy.grid.points": 4}), journal)


@pytest.mark.parametrize("tested", [["text"], []])
def test_a_decision_that_tests_other_arms_than_the_study_is_refused(tested: list[str]) -> None:
    journal, _, _ = run(study(ONE_SEED))
    where = ("greedy", 0, 1, 1)
    decision = json.loads(journal.decisions[where])
    next(entry for entry in decision["asked"] if entry["tests"])["tests"] = tested
    journal.decisions[where] = json.dumps(decision)
    with pytest.raises(BadInput, match=r"arms\.greedy: seed 0 closed cycle 1 with other candidates"):
        Planner(study(ONE_SEED), journal)


# --- two drivers of one run ---


def flaky(unit: Unit) -> str:
    return "failed" if unit.cycle > 0 and int(unit.key[:2], 16) < 40 else "ok"


@pytest.mark.parametrize("other", [World(), World(flaky)], ids=["alike", "with failures of its own"])
def test_two_drivers_of_one_run_go_on_from_the_same_decisions(other: World) -> None:
    made = study()
    for order in range(4):
        journal, rng = MemoryJournal(), random.Random(order)
        planners = [Planner(made, journal), Planner(made, journal)]
        worlds = [World(), other]
        while not all(planner.done for planner in planners):
            turn = rng.randrange(2)
            Drive(journal.commit, worlds[turn], slots=1)(planners[turn], rng.randint(1, 5))
        for where, first in planners[0].chains.items():
            second = planners[1].chains[where]
            assert (first.closed, first.done, first.ended is None) == (second.closed, second.done, second.ended is None)
        assert Planner(made, journal).done


# --- failures and divergence ---


def test_a_failed_unit_is_recorded_with_its_reason_and_stays_so() -> None:
    made = study(ONE_SEED)
    world = at(0.1, "failed", cycle=1)
    journal, _, _ = run(made, world=world)
    bad = [entry for entry in told(journal, "greedy") if entry["status"] == "failed"]
    assert [entry["error"] for entry in bad] == ["OSError: no space"]
    decisions = dict(journal.decisions)
    _, planner, drive = run(made, journal, World())  # it would train now, but the cycle is closed
    assert drive.asked == []
    assert planner.counts.failed == 0
    assert journal.decisions == decisions


def test_a_failed_unit_of_an_open_cycle_is_tried_again_when_the_run_goes_on() -> None:
    made = study(ONE_SEED)
    journal = MemoryJournal()
    planner = Planner(made, journal)
    Drive(journal.commit, slots=1)(planner, 1)
    asked = [unit for _ in range(20) if (unit := planner.ask()) is not None]
    bad = next(unit for unit in asked if resolved(unit) == 0.01)
    planner.tell(bad.key, {"status": "failed", "error": "killed"})
    assert journal.decision("greedy", 0, 1, 1) is None
    _, _, again = run(made, journal)
    assert bad.key in again.asked
    assert {entry["status"] for entry in told(journal, "greedy")} == {"ok"}


@pytest.mark.parametrize("fate", ["failed", "diverged"])
def test_a_chain_without_a_winner_ends_with_its_reason_and_the_others_go_on(fate: str) -> None:
    made = study({**ONE_SEED, "arms.greedy.tests": [], "arms.conditioned": None})
    journal, planner, _ = run(made, world=at(0.03, fate))
    ended = {arm: chain.ended for (arm, _), chain in planner.chains.items() if chain.ended is not None}
    assert set(ended) == {"silo", "constant"}
    reason = "OSError: no space" if fate == "failed" else "loss or weights not finite in epoch 1 of 1"
    assert ended["silo"] == f"no candidate of cycle 1 can continue ({reason})"
    assert all(planner.chains[arm, 0].done for arm in ("linear", "greedy"))
    assert journal.decision("silo", 0, 2, 1) is None
    assert planner.done


def test_an_ended_chain_stays_ended_when_the_run_goes_on() -> None:
    made = study(ONE_SEED)
    journal, planner, _ = run(made, world=broken("diverged", 2))
    assert all(chain.ended for chain in planner.chains.values())
    _, again, drive = run(made, journal)
    assert drive.asked == []
    assert {w: c.ended for w, c in again.chains.items()} == {w: c.ended for w, c in planner.chains.items()}


def test_a_diverged_candidate_never_wins_but_is_told() -> None:
    made = study(ONE_SEED)
    journal, planner, _ = run(made, world=at(0.1, "diverged"))
    statuses = {entry["max_lr"]: entry["status"] for entry in told(journal, "greedy")}
    assert statuses[0.1] == "diverged"
    assert planner.chains["greedy", 0].done
    winners = {json.loads(text)["winner"] for text in journal.decisions.values()}
    assert not any(json.loads(journal.results[key])["status"] == "diverged" for key in winners)


def test_when_the_dense_unit_fails_every_chain_that_shares_it_ends() -> None:
    made = study({**ONE_SEED, **OWN})
    _, planner, _ = run(made, world=World(lambda u: "failed" if u.cycle == 0 and resolved(u) == 0.05 else "ok"))
    done = {arm for (arm, _), chain in planner.chains.items() if chain.done}
    assert done == {"own"}
    assert all(chain.ended for (arm, _), chain in planner.chains.items() if arm != "own")


# --- conditioned Oracles ---


def leader_last() -> Study:
    plain = study()
    return plain.model_copy(update={"arms": {**{n: a for n, a in plain.arms.items() if n != "silo"}, **plain.arms}})


@pytest.mark.parametrize("made", [study(), leader_last()], ids=["after its leader", "before its leader"])
def test_a_conditioned_oracles_parents_are_its_leaders_keys(made: Study) -> None:
    journal, _, _ = run(made, world=at(0.1, "diverged"))
    for seed, cycle in itertools.product((0, 1), range(1, made.cycles)):
        mine = journal.decision("conditioned", seed, cycle, 1)
        before, same = (journal.decision("silo", seed, number, 1) for number in (cycle - 1, cycle))
        assert mine is not None
        assert before is not None
        assert same is not None
        assert mine["parent"] == before["winner"] is not None
        assert same["winner"] in [asked["key"] for asked in mine["asked"]]


@pytest.mark.parametrize("fate", ["failed", "diverged"])
def test_when_the_leader_ends_its_followers_end_after_the_cycles_they_can_still_do(fate: str) -> None:
    made = study({**ONE_SEED, "arms.constant": None, "arms.linear": None, "cycles": 5})
    world = World(lambda u: fate if u.cycle == 2 and 0.03 <= (resolved(u) or 0) < 0.04 else "ok")
    for order in range(10):
        journal, planner, _ = run(made, world=world, order=order)
        follower = planner.chains["conditioned", 0]
        assert follower.ended is not None
        assert follower.ended.startswith("silo ended: no candidate of cycle 2 can continue")
        assert journal.decision("conditioned", 0, 2, 1) is not None
        assert journal.decision("conditioned", 0, 3, 1) is None
        assert planner.chains["greedy", 0].done


def test_a_conditioned_oracle_whose_own_candidates_all_diverge_goes_on_with_its_leader() -> None:
    made = study({**ONE_SEED, "arms.conditioned.tests": [], "arms.greedy": None})
    grid = (0.01, 0.1, 1.0)
    world = World(lambda u: "diverged" if u.cycle == 1 and resolved(u) in grid else "ok")
    journal, planner, _ = run(made, world=world)
    assert planner.chains["conditioned", 0].done
    decision = journal.decision("conditioned", 0, 1, 1)
    assert decision is not None
    assert decision["winner"] is None
    assert all(chain.done for chain in planner.chains.values())
    again = Planner(made, journal)
    assert again.done
    assert again.chains["conditioned", 0].done


# --- tested values ---


def test_tested_values_are_always_among_the_candidates_and_equal_values_are_trained_once() -> None:
    changes = {"arms.double": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.1}}}
    made = study(changes)
    journal, _, _ = run(made)
    for arm, seed, cycle in itertools.product(("greedy", "conditioned"), (0, 1), range(1, made.cycles)):
        decision = journal.decision(arm, seed, cycle, 1)
        assert decision is not None
        asked = {entry["peak"]["value"]: entry for entry in decision["asked"]}
        assert len(asked) == len(decision["asked"])
        assert sorted(test for entry in asked.values() for test in entry["tests"]) == [
            "constant", "double", "linear", "silo",
        ]  # fmt: skip
        assert asked[0.1]["asked"] is True
        assert asked[0.1]["tests"] == ["double"]
        assert [entry["asked"] for entry in asked.values()].count(True) == 3
    first = journal.decision("greedy", 0, 1, 1)
    assert first is not None
    assert next(entry["tests"] for entry in first["asked"] if entry["peak"]["value"] == 0.03) == ["silo", "constant"]


# --- weights that may go ---


def parents_are_in(journal: MemoryJournal) -> Callable[[Unit], None]:
    def check(unit: Unit) -> None:
        assert unit.parent is None or unit.parent in journal.states, "the parent's weights are gone"

    return check


def finals(planner: Planner) -> set[str]:
    """The state that each chain ends with; one that only followed a leader which ended has nothing to go on from."""
    return {
        chain.closed[-1]
        for chain in planner.chains.values()
        if chain.closed and chain.closed[-1] is not None and not (chain.ended or "").startswith("silo ended")
    }


def last_states(planner: Planner) -> set[str | None]:
    return {chain.closed[-1] for chain in planner.chains.values() if chain.closed}


WORLDS: dict[str, Callable[[], World]] = {
    "all well": World,
    "mixed fates": lambda: World(spread),
    "one arm ends early": lambda: at(0.03, "diverged", cycle=2),
    "a leader ends early": lambda: World(
        lambda u: "diverged" if u.cycle == 2 and 0.03 < (resolved(u) or 0) < 0.031 else "ok"
    ),
    "everything ends early": lambda: broken("failed", 2),
}
STUDIES: dict[str, dict[str, Any]] = {
    "plain": {"cycles": 5},
    "no follower": {"cycles": 5, "arms.conditioned": None},
    "own dense": OWN,
    "two followers": {
        "arms.second": {"mode": "oracle", "grid": {"low": 0.1, "high": 1.0, "points": 2}, "prefix": "arm:linear"}
    },
    "dense only": {"cycles": 1},
    "schedules alone": {"arms.greedy": None, "arms.conditioned": None},
    "trainings that differ in luck alone": {
        "arms.constant.best_of": 3, "arms.greedy.retrain_winner": True, "arms.conditioned.prefix": "arm:constant",
    },
}  # fmt: skip


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("which", STUDIES)
def test_no_weights_go_that_are_still_needed(which: str, world: str) -> None:
    for order in range(2):
        journal = MemoryJournal()
        run(study(STUDIES[which]), journal, WORLDS[world](), order, on_ask=parents_are_in(journal))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("which", STUDIES)
def test_at_the_end_only_final_weights_remain(which: str, world: str) -> None:
    for order in range(2):
        journal, planner, _ = run(study(STUDIES[which]), world=WORLDS[world](), order=order)
        assert finals(planner) <= journal.states
        assert names(journal, journal.states - last_states(planner)) == []


def names(journal: MemoryJournal, keys: Iterable[str]) -> list[str]:
    """Where states come from, to read a failure by."""
    units = (json.loads(journal.results[key])["unit"] for key in keys)
    return sorted(f"seed {unit['seed']} cycle {unit['cycle']} peak {unit['peak']}" for unit in units)


@pytest.mark.parametrize("world", WORLDS)
def test_a_run_stopped_anywhere_sweeps_to_the_same_weights(world: str) -> None:
    made = study(SMALL)
    for stop in itertools.count():
        journal = MemoryJournal()
        drive = Drive(journal.commit, WORLDS[world](), random.Random(stop), on_ask=parents_are_in(journal))
        stopped = drive(Planner(made, journal), stop) < stop
        _, planner, _ = run(made, journal, WORLDS[world](), on_ask=parents_are_in(journal))
        assert finals(planner) <= journal.states
        assert names(journal, journal.states - last_states(planner)) == []
        if stopped:
            break


def test_weights_go_while_the_run_goes() -> None:
    made, most = study({**ONE_SEED, "cycles": 9}), 0
    journal = MemoryJournal()

    def count(unit: Unit) -> None:
        nonlocal most
        most = max(most, len(journal.states))

    run(made, journal, on_ask=count)
    assert most < len(journal.results) / 3


def test_keep_all_sweeps_nothing() -> None:
    journal, _, _ = run(study({"cluster.keep": "all"}), world=World(spread))
    assert journal.swept == []
    Planner(study({"cluster.keep": "all"}), journal)
    assert journal.swept == []


def test_a_sweep_never_takes_a_result_or_a_decision() -> None:
    made = study(ONE_SEED)
    swept, _, _ = run(made)
    kept, _, _ = run(study({**ONE_SEED, "cluster.keep": "all"}))
    assert swept.results == kept.results
    assert swept.decisions == kept.decisions


# --- files that are lost ---


def test_a_lost_result_of_a_closed_cycle_is_trained_again_and_nothing_else() -> None:
    made = study(ONE_SEED)
    journal, _, _ = run(made)
    decisions, results, states = dict(journal.decisions), dict(journal.results), set(journal.states)
    for key in results:
        del journal.results[key]
        _, planner, drive = run(made, journal)
        assert drive.asked == [key]
        assert planner.counts.trained == 1
        assert journal.results == results
        assert journal.decisions == decisions
        assert journal.states == states


def test_a_lost_result_of_a_closed_cycle_holds_up_no_chain() -> None:
    made = study(ONE_SEED)
    journal, _, _ = run(made)
    dense = next(key for key, text in journal.results.items() if json.loads(text)["unit"]["cycle"] == 0)
    del journal.results[dense]
    planner = Planner(made, journal)
    assert all(chain.done for chain in planner.chains.values())
    assert not planner.done


def test_several_lost_results_are_trained_again_and_nothing_else() -> None:
    made = study()
    rng = random.Random(0)
    journal, _, _ = run(made, world=World(spread))
    decisions, results = dict(journal.decisions), dict(journal.results)
    for _ in range(10):
        lost = set(rng.sample(sorted(results), 12))
        for key in lost:
            del journal.results[key]
        _, _, drive = run(made, journal, World(spread), order=3)
        assert set(drive.asked) == lost
        assert journal.results == results
        assert journal.decisions == decisions


def test_a_lost_decision_is_derived_again_from_its_units() -> None:
    made = study(ONE_SEED)
    journal, _, _ = run(made, world=at(0.1, "diverged"))
    decisions = dict(journal.decisions)
    for where in decisions:
        del journal.decisions[where]
        _, _, drive = run(made, journal)
        assert drive.asked == []
        assert journal.decisions == decisions


def test_a_result_lost_while_the_run_goes_on_is_trained_again_when_another_arm_needs_it() -> None:
    """An Oracle that follows silo's path, but later, asks for units that silo had before."""
    made = study({**ONE_SEED, "arms.conditioned": None, "arms.greedy.tests": ["silo"]})
    journal = MemoryJournal()
    planner = Planner(made, journal)
    grid = (0.01, 0.1, 1.0)
    slow: list[Unit] = []

    def tell(unit: Unit) -> None:
        found = World().outcome(unit)
        if resolved(unit) not in grid:
            found["val_score"] = 0.99  # silo is best
        journal.commit(found)
        planner.tell(unit.key, found)

    while (unit := planner.ask()) is not None:
        slow.append(unit) if resolved(unit) in grid else tell(unit)
    lost = journal.decision("silo", 0, 2, 1)
    assert lost is not None
    assert journal.decision("greedy", 0, 1, 1) is None
    del journal.results[lost["winner"]]
    while not planner.done:
        tell(planner.ask() or slow.pop())
    assert planner.chains["greedy", 0].done
    assert lost["winner"] in journal.results


# --- what is heard ---


def test_the_listener_hears_every_chain_to_its_end() -> None:
    made = study(ONE_SEED)
    seen: dict[str, set[int]] = {}
    journal = MemoryJournal()

    def listen(chain: Chain) -> None:
        seen.setdefault(chain.arm, set()).add(chain.cycle)

    Drive(journal.commit)(Planner(made, journal, listen=listen))
    assert seen == {arm: {0, 1, 2, 3, 4} for arm in made.arms}
