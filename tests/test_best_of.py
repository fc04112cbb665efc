"""Trainings that differ in luck alone: `best_of` of a schedule arm, and `retrain_winner` of an Oracle."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from silo_tune.errors import BadInput, StudyError
from silo_tune.planner.chain import Chain
from silo_tune.planner.coincidences import coincidences
from silo_tune.planner.curves import words_of
from silo_tune.planner.forecast import forecast
from silo_tune.planner.journal import continuing_key
from silo_tune.planner.layout import Layout
from silo_tune.planner.planner import Planner
from silo_tune.planner.unit import Unit
from silo_tune.planner.winner import best_training
from silo_tune.run.status import from_decisions, read_status, recorded
from silo_tune.store.run_folder import Run
from silo_tune.study.arms import OracleArm
from silo_tune.study.study_file import parse_study, smoke_table
from tests.plain import ORACLE, Drive, MemoryJournal, Outcome, World, on_disk, resolved, spread, study, table
from tests.test_chains import finals, last_states, names, parents_are_in, run
from tests.test_chains import table as rows_of
from tests.test_status import Session

BEST_OF = {"mode": "schedule", "schedule": {"name": "silo", "eps": 0.03, "delta": 0.04}, "best_of": 3}
GUIDED = {"mode": "oracle", "guided": {"low": 0.01, "high": 1.0, "trials": 3, "repeat_top": 2}, "retrain_winner": True}
LUCK: dict[str, Any] = {
    "arms.constant": None,
    "arms.linear": None,
    "arms.silo-best-of": BEST_OF,
    "arms.retrained": {**ORACLE, "retrain_winner": True},
}
ONE_SEED = {**LUCK, "replicates.seeds": [0]}
AGAIN = "retrained"


def cycles_of(made: Any, journal: MemoryJournal, arm: str) -> Any:
    """(seed, cycle, rows, key of the next cycle's parent or None) of an arm from cycle 1 on."""
    found = [row for row in rows_of(journal, made) if row["arm"] == arm]
    for seed, cycle in itertools.product(made.replicates.seeds, range(1, made.cycles)):
        own = [row for row in found if (row["seed"], row["cycle"]) == (seed, cycle)]
        parents = {row["parent"] for row in found if (row["seed"], row["cycle"]) == (seed, cycle + 1)}
        yield seed, cycle, own, next(iter(parents), None)


# --- what is trained, and what continues ---


def test_best_of_trains_its_own_rate_so_often_and_the_best_on_validation_continues() -> None:
    made = study(LUCK)
    journal, _, _ = run(made)
    later = 0
    for _, cycle, own, parent in cycles_of(made, journal, "silo-best-of"):
        assert [row["repeat"] for row in own] == [0, 1, 2]
        assert len({row["max_lr"] for row in own}) == len({row["parent"] for row in own}) == 1
        won = [row for row in own if row["winner"]]
        assert [row["val_score"] for row in won] == [max(row["val_score"] for row in own)]
        if cycle < made.cycles - 1:
            assert parent == won[0]["key"]
            later += won[0]["repeat"] > 0
    assert later > 1  # another training than the first one continued


def test_the_first_training_is_that_of_the_plain_arm() -> None:
    made = study(LUCK)
    journal, _, drive = run(made)
    plain = {row["key"] for row in rows_of(journal, made) if row["arm"] == "silo"}
    for _, cycle, own, _ in cycles_of(made, journal, "silo-best-of"):
        if cycle == 1:
            assert own[0]["key"] in plain
            assert own[0]["shared_with"] == "silo"
    assert len(drive.asked) == len(set(drive.asked))


def test_an_arm_that_is_added_trains_its_other_trainings_alone() -> None:
    journal, _, _ = run(study(without("silo-best-of")))
    before, decided = set(journal.results), dict(journal.decisions)
    _, _, drive = run(study(LUCK), journal)
    assert not before & set(drive.asked)
    assert decided.items() <= journal.decisions.items()


def without(arm: str) -> dict[str, Any]:
    return {name: value for name, value in LUCK.items() if name != f"arms.{arm}"}


def test_of_equal_trainings_the_lower_loss_wins_then_the_first() -> None:
    def outcome(key: str, accuracy: float, loss: float) -> Outcome:
        return {"status": "ok", "val_score": accuracy, "val_loss": loss, "max_lr": 0.1, "key": key}

    told = [outcome("a", 0.8, 0.1), outcome("b", 0.9, 0.3), outcome("c", 0.9, 0.2), outcome("d", 0.9, 0.2)]
    lost = {"status": "diverged", "val_score": 0.99, "val_loss": 0.0, "max_lr": 0.1, "key": "e"}
    best = best_training([*told, lost])
    assert best is not None
    assert best["key"] == "c"
    assert best_training([lost]) is None


@pytest.mark.parametrize("arm", [{**ORACLE, "retrain_winner": True}, GUIDED], ids=["grid", "guided with repeats"])
def test_the_winners_rate_is_trained_once_more_and_that_training_continues(arm: dict[str, Any]) -> None:
    made = study({**LUCK, f"arms.{AGAIN}": arm})
    journal, _, _ = run(made)
    lower = 0
    for _, cycle, own, parent in cycles_of(made, journal, AGAIN):
        (won,) = [row for row in own if row["winner"]]
        (second,) = [row for row in own if row["continued"]]
        others = [row for row in own if row is not second]
        assert second["max_lr"] == won["max_lr"]
        assert second["repeat"] not in {row["repeat"] for row in others}
        assert {row["parent"] for row in own} == {second["parent"]}
        assert second["tests"] == won["tests"]
        if arm is not GUIDED:
            assert won["val_score"] == max(row["val_score"] for row in others)
        assert parent == (second["key"] if cycle < made.cycles - 1 else None)
        lower += second["val_score"] < won["val_score"]
    assert lower > 1  # it continues however it came out


def test_up_to_its_second_training_such_an_oracle_shares_all_with_one_that_keeps_its_winner() -> None:
    made = study(LUCK)
    journal, _, _ = run(made)
    keys = {
        arm: {row["key"] for row in rows_of(journal, made) if row["arm"] == arm and row["cycle"] == 1}
        for arm in ("greedy", AGAIN)
    }
    assert keys["greedy"] < keys[AGAIN]
    assert len(keys[AGAIN] - keys["greedy"]) == len(made.replicates.seeds)


def test_the_dense_cycle_is_trained_once_unless_it_is_the_arms_own() -> None:
    own = {"own_dense": True}
    made = study({**ONE_SEED, "arms.silo-best-of": {**BEST_OF, **own}, f"arms.{AGAIN}": {**ORACLE, **own,
                  "retrain_winner": True}})  # fmt: skip
    journal, _, _ = run(made)
    dense = {arm: [r for r in rows_of(journal, made) if r["arm"] == arm and r["cycle"] == 0] for arm in made.arms}
    assert len(dense["silo"]) == 1
    assert [row["repeat"] for row in dense["silo-best-of"]] == [0, 1, 2]
    assert [row["repeat"] for row in dense[AGAIN]] == [0, 0, 0, 1]
    shared = study(ONE_SEED)
    assert len([r for r in rows_of(run(shared)[0], shared) if r["arm"] == AGAIN and r["cycle"] == 0]) == 1


# --- decisions: order, interruptions, weights ---

WORLDS = {"all well": World(), "mixed fates": World(spread)}


@pytest.mark.parametrize("world", WORLDS)
def test_the_decisions_and_the_table_do_not_depend_on_the_order_or_number_of_workers(world: str) -> None:
    made = study({**LUCK, "arms.guided": GUIDED})
    reference, _, _ = run(made, world=WORLDS[world], slots=1)
    expected = rows_of(reference, made)
    for order in range(8):
        journal, planner, _ = run(made, world=WORLDS[world], order=order, slots=1 + order)
        assert journal.decisions == reference.decisions
        assert rows_of(journal, made) == expected
        assert all(not chain.active for chain in planner.chains.values())


@pytest.mark.parametrize("world", WORLDS)
def test_a_run_stopped_anywhere_resumes_to_the_same_end_and_trains_nothing_twice(world: str) -> None:
    made = study({**ONE_SEED, "cycles": 3, "arms.guided": GUIDED, "arms.greedy": None})
    reference, _, _ = run(made, world=WORLDS[world])
    for stop in itertools.count():
        journal = MemoryJournal()
        drive = Drive(journal.commit, WORLDS[world], random.Random(stop), on_ask=parents_are_in(journal))
        stopped = drive(Planner(made, journal), stop) < stop
        committed = set(journal.results)
        _, planner, again = run(made, journal, WORLDS[world], on_ask=parents_are_in(journal))
        assert not committed & set(again.asked)
        assert journal.decisions == reference.decisions
        assert finals(planner) <= journal.states
        assert names(journal, journal.states - last_states(planner)) == []
        if stopped:
            break
    assert stop > 15


def test_a_lost_decision_is_derived_again_from_its_units() -> None:
    made = study({**ONE_SEED, "cycles": 3})
    journal, _, _ = run(made)
    decisions = dict(journal.decisions)
    for where in decisions:
        del journal.decisions[where]
        assert run(made, journal)[2].asked == []
        assert journal.decisions == decisions


def test_the_weights_of_trainings_that_do_not_continue_go() -> None:
    made = study(ONE_SEED)
    journal, planner, _ = run(made)
    for arm in ("silo-best-of", AGAIN):
        last = planner.chains[arm, 0].closed[-1]
        own = {row["key"] for row in rows_of(journal, made) if row["arm"] == arm}
        others = {chain.closed[-1] for chain in planner.chains.values()}
        assert own & journal.states == own & others
        assert last in journal.states


# --- failures ---


def second(fate: str, cycle: int) -> World:
    """A world in which the Oracle's second training of a cycle, of another rate than SILO's, has another fate."""
    rates = (0.01, 0.1, 1.0)
    return World(lambda u: fate if (u.cycle, u.repeat) == (cycle, 1) and resolved(u) in rates else "ok")


def alone() -> dict[str, Any]:
    return {**ONE_SEED, f"arms.{AGAIN}": {**ORACLE, "retrain_winner": True, "tests": []}}


@pytest.mark.parametrize("fate", ["diverged", "failed"])
def test_a_second_training_that_does_not_end_well_ends_the_chain_and_its_winner_stays_a_row(fate: str) -> None:
    made = study(alone())
    journal, planner, _ = run(made, world=second(fate, 2))
    chain = planner.chains[AGAIN, 0]
    assert chain.ended is not None
    assert chain.ended.startswith("the second training of cycle 2's winner cannot continue (")
    assert journal.decision(AGAIN, 0, 3, 1) is None
    assert planner.chains["greedy", 0].done
    own = [row for row in rows_of(journal, made) if row["arm"] == AGAIN and row["cycle"] == 2]
    assert [row["status"] for row in own if row["winner"]] == ["ok"]
    assert [row["status"] for row in own if row["continued"]] == [fate]
    assert run(made, journal, World())[2].asked == []  # what is decided stands


def test_only_a_failed_second_training_is_tried_again_where_a_rate_won() -> None:
    made = study(alone())

    def fate(unit: Unit) -> str:
        lost = unit.cycle == 2 and resolved(unit) == 0.01 and unit.parent in of_again
        return "failed" if lost or second("failed", 2).fate(unit) == "failed" else "ok"

    of_again: set[str] = set()
    journal, planner, _ = run(made)
    of_again.add(str(planner.chains[AGAIN, 0].closed[1]))
    journal, planner, _ = run(made, world=World(fate))
    assert planner.chains[AGAIN, 0].failed
    failed = {o["key"] for o in planner.chains[AGAIN, 0].told.values() if o["status"] == "failed"}
    assert len(failed) == 2
    planner = Planner(made, journal, retry_failed=True)
    drive = Drive(journal.commit)
    drive(planner)
    assert len(failed & set(drive.asked)) == 1
    assert planner.chains[AGAIN, 0].done
    assert Planner(made, journal).done
    assert sum(r["continued"] for r in rows_of(journal, made) if r["arm"] == AGAIN and r["cycle"] == 2) == 1


def test_rates_that_are_tried_again_have_a_winner_that_is_trained_again() -> None:
    made = study(alone())
    journal, planner, _ = run(made, world=World(lambda u: "failed" if u.cycle == 2 and u.repeat == 0 else "ok"))
    assert planner.chains[AGAIN, 0].ended is not None
    planner = Planner(made, journal, retry_failed=True)
    Drive(journal.commit)(planner, 3)
    planner = Planner(made, journal)
    Drive(journal.commit)(planner)
    again = Planner(made, journal, retry_failed=True)
    Drive(journal.commit)(again)
    assert again.chains[AGAIN, 0].done
    (_, _, own, parent) = next(found for found in cycles_of(made, journal, AGAIN) if found[1] == 2)
    assert [row["key"] for row in own if row["continued"]] == [parent]
    assert len([row for row in own if row["winner"]]) == 1


def test_a_cycle_whose_trainings_all_diverge_ends_a_best_of_chain() -> None:
    made = study(ONE_SEED)
    rate = made.schedule_of(made.arms["silo"]).peak(2, made.pruned)  # type: ignore[union-attr, arg-type]
    lost = World(lambda u: "diverged" if u.cycle == 2 and resolved(u) == pytest.approx(rate) else "ok")
    _, planner, _ = run(made, world=lost)
    assert str(planner.chains["silo-best-of", 0].ended).startswith("no candidate of cycle 2 can continue")
    some = World(lambda u: "diverged" if u.cycle == 2 and u.repeat < 2 else "ok")
    journal, planner, _ = run(made, world=some)
    assert planner.chains["silo-best-of", 0].done
    (_, _, own, _) = next(found for found in cycles_of(made, journal, "silo-best-of") if found[1] == 2)
    assert [row["repeat"] for row in own if row["winner"]] == [2]


@pytest.mark.parametrize("world", [World(spread), second("diverged", 2)], ids=["mixed fates", "diverged"])
def test_decisions_alone_say_the_same_of_the_chains(world: World, tmp_path: Path) -> None:
    made, place = study(alone()), Run(str(tmp_path / "run"))
    place.accept(made, {})
    with place.lease() as lease:
        session = Session(made, place, world)
        with recorded(session.progress, place.storage, lease):
            session()
    told, derived = read_status(place.url).snapshot, from_decisions(place.storage, made)
    assert told is not None
    facts = [{c.label: (c.state, c.closed) for c in snapshot.chains} for snapshot in (told, derived)]
    assert facts[0] == facts[1]
    ends = [{end.chain: end.reason for end in snapshot.ended} for snapshot in (told, derived)]
    assert ends[0].keys() == ends[1].keys()
    assert ends[0].get(f"{AGAIN} seed 0") == ends[1].get(f"{AGAIN} seed 0")


# --- counts ---


def left(made: Any, journal: MemoryJournal) -> tuple[int, bool]:
    arms, _ = forecast(Layout(made), journal)
    return sum(arm.to_train for arm in arms.values()), all(arm.exact for arm in arms.values())


@pytest.mark.parametrize("world", WORLDS)
def test_at_every_moment_what_is_left_is_at_most_what_is_forecast(world: str) -> None:
    made = study({**ONE_SEED, "cycles": 3, "arms.guided": GUIDED})
    for stop in itertools.count():
        journal = MemoryJournal()
        planner = Planner(made, journal)
        told = Drive(journal.commit, WORLDS[world])(planner, stop)
        to_train, _ = left(made, journal)
        _, planner, drive = run(made, journal, WORLDS[world])
        assert len(drive.asked) <= to_train
        if told < stop:
            break
    assert left(made, journal) == (0, True)


def test_what_is_left_is_told_exactly_where_nothing_is_shared() -> None:
    only = {"arms.silo": None, "arms.greedy": None, "arms.conditioned": None, "report.schedule": "linear"}
    constant = {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.2}}
    made = study({**alone(), **only, "arms.linear": constant})
    to_train, exact = left(made, MemoryJournal())
    assert not exact  # keys wait for winners
    assert to_train == 1 + 3 * (1 + 3 + 4) == len(run(made)[2].asked)


def test_a_longest_chain_has_a_round_more() -> None:
    layout = Layout(study({**LUCK, "arms.guided": GUIDED}))
    assert [layout.rounds(arm) for arm in ("silo-best-of", "greedy", AGAIN, "guided")] == [1, 1, 2, 3]
    assert [layout.most(arm, 1) for arm in ("silo-best-of", "greedy", AGAIN)] == [3, 4, 5]
    chain = Chain(AGAIN, 0, cycle=0)
    assert layout.source(chain).most == 1


# --- studies ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms.silo.best_of": 3}, r"report\.schedule: 'silo' is a best_of arm; judge the arm that trains once"),
        ({"arms.silo-best-of.best_of": 1}, r"arms\.silo-best-of\.best_of: .*greater than or equal to 2"),
        ({"arms.conditioned.retrain_winner": True}, r'arms\.conditioned: retrain_winner is of prefix = "own"'),
        ({"arms.greedy.tests": ["silo-best-of"]}, r"'silo-best-of' cannot be tested .*trains best_of = 3 times"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        study({**LUCK, **changes})


def test_an_oracle_tests_no_arm_that_trains_several_times() -> None:
    made = study(LUCK)
    assert "silo-best-of" not in made.tests_of("greedy")
    assert "silo" in made.tests_of("greedy")


def test_a_pilots_trials_train_once_and_are_those_of_the_plain_arm() -> None:
    open_ = {"mode": "schedule", "schedule": {"name": "silo"}}
    arms = {"arms.silo": open_, "arms.silo-best-of": {**open_, "best_of": 3}, "arms.conditioned": None}
    pilot = {"seeds": [100], "chains": 3, "low": 0.01, "high": 1.0}
    made = study({**LUCK, **arms, "pilot": pilot, "arms.greedy": None})
    journal, _, _ = run(made)
    found = rows_of(journal, made)
    trials = {arm: {r["key"] for r in found if r["arm"] == arm and r["mode"] == "pilot"} for arm in made.arms}
    assert trials["silo-best-of"] == trials["silo"] != set()
    for _, _, own, _ in cycles_of(made, journal, "silo-best-of"):
        assert [row["repeat"] for row in own if row["mode"] == "schedule"] == [0, 1, 2]


def test_what_an_arm_is_in_words_tells_its_trainings() -> None:
    made = study(LUCK)
    assert "trainings: 3 a cycle, the best on validation continues" in words_of(made, "silo-best-of")
    assert any("trained once more" in line for line in words_of(made, AGAIN))
    assert not any("silo-best-of" in line for line in coincidences(made))


def test_a_small_form_has_as_few_trainings_as_rates() -> None:
    raw = table({**LUCK, "arms.silo-best-of": {**BEST_OF, "best_of": 9}})
    assert parse_study(smoke_table(raw)).arms["silo-best-of"].best_of == 3  # type: ignore[union-attr]


def begun(place: Path, tells: int | None = None) -> Run:
    made, there = study(LUCK), Run(str(place))
    Drive(on_disk(there))(Planner(made, there, there.accept(made, {})), tells)
    return there


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"arms.silo-best-of": {**BEST_OF, "best_of": 4}}, "arms.silo-best-of.best_of: was 3, now 4"),
        ({"arms.silo-best-of": {k: v for k, v in BEST_OF.items() if k != "best_of"}}, "arms.silo-best-of.best_of"),
        ({f"arms.{AGAIN}": ORACLE}, f"arms.{AGAIN}.retrain_winner: was True, now False"),
        ({"arms.greedy": {**ORACLE, "retrain_winner": True}}, "arms.greedy.retrain_winner: was False, now True"),
    ],
)
def test_a_change_of_a_begun_arm_is_refused_with_its_key(change: dict[str, Any], key: str, tmp_path: Path) -> None:
    there = begun(tmp_path / "run")
    with pytest.raises(BadInput, match=key.replace(".", r"\.")):
        there.check(study({**LUCK, **change}))


def test_a_new_arm_is_an_additive_change(tmp_path: Path) -> None:
    there = begun(tmp_path / "run")
    more = study({**LUCK, "arms.five": {**BEST_OF, "best_of": 5}, "arms.other": {**ORACLE, "retrain_winner": True}})
    assert there.check(more)
    planner = Planner(more, there, there.accept(more, {}))
    Drive(on_disk(there))(planner)
    assert all(chain.done for chain in planner.chains.values())


def test_a_decision_says_what_continues_only_where_that_is_not_the_winner() -> None:
    journal, _, _ = run(study(ONE_SEED))
    for (arm, _, cycle, _), text in journal.decisions.items():
        decision = json.loads(text)
        assert ("continues" in decision) == (arm == AGAIN and cycle > 0 and decision["closes"])
        assert decision["closes"] == (continuing_key(decision) is not None)
    arm = study(ONE_SEED).arms[AGAIN]
    assert isinstance(arm, OracleArm)
    assert arm.retrained_as == 1
