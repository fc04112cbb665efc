from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from silo_tune.api import run_study
from silo_tune.errors import BadInput, StudyError
from silo_tune.planner.planner import Planner
from silo_tune.planner.unit import RECIPE
from silo_tune.run.monitor import Monitor
from silo_tune.store.lease import Lease
from silo_tune.store.run_folder import Run
from silo_tune.store.storage import seal
from silo_tune.store.unit_store import UnitStore, unit_of
from silo_tune.study.findings import Findings
from silo_tune.study.model import Study
from silo_tune.study.workspace import Workspace
from tests.plain import TABLE, Drive, decision_of, on_disk, result_of, study

KEY = "ab" * 32
RESULT = result_of(KEY, val_score=0.5)
ENVIRONMENT = {"silo-tune": "0.1.0", "python": "3.11"}


class Notices(list[str]):
    def __call__(self, message: str) -> None:
        self.append(message)


@pytest.fixture
def notices() -> Notices:
    return Notices()


@pytest.fixture
def run(tmp_path: Path, notices: Notices) -> Run:
    return Run(str(tmp_path / "run"), notices)


@pytest.fixture
def units(run: Run) -> UnitStore:
    return run.units


def here(run: Run, key: str = KEY) -> list[str]:
    return run.storage.names(run.units.folder(key))


def damage(run: Run, name: str) -> None:
    path = Path(run.storage.path(name))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def begun(run: Run, made: Study, tells: int) -> None:
    """Accept a study and train so many of its units."""
    since = run.accept(made, ENVIRONMENT)
    Drive(on_disk(run), slots=1)(Planner(made, run, since), tells)


# --- results ---


def test_a_result_is_committed_once_and_the_first_writer_wins(units: UnitStore) -> None:
    assert units.result(KEY) is None
    assert units.commit(RESULT) == RESULT
    assert units.commit({**RESULT, "val_score": 0.9}) == RESULT
    assert units.result(KEY) == RESULT


def test_the_state_of_a_late_writer_is_removed_and_that_of_the_first_stays(run: Run, units: UnitStore) -> None:
    first = units.commit({**RESULT, "state": units.write_state(KEY, "aa", b"first")})
    late = {**RESULT, "state": units.write_state(KEY, "bb", b"second")}
    assert units.commit(late) == first
    assert here(run) == ["result.json", "state-aa.safetensors"]
    assert units.read_state(late) is None
    assert units.read_state(first) == b"first"


def test_committing_the_same_result_twice_keeps_its_state(run: Run, units: UnitStore) -> None:
    result = {**RESULT, "state": units.write_state(KEY, "aa", b"first")}
    for _ in range(2):
        units.commit(result)
    assert units.read_state(result) == b"first"


def test_a_corrupt_result_is_moved_aside_noticed_and_as_if_never_trained(
    run: Run, units: UnitStore, notices: Notices
) -> None:
    for number in (1, 2):
        assert units.commit(RESULT) == RESULT
        damage(run, f"{units.folder(KEY)}/result.json")
        assert units.result(KEY) is None
        assert f"result.json.corrupt-{number}" in here(run)
        assert notices[-1].startswith(f"{run.url}/units/ab/{KEY}/result.json is corrupt")
        assert notices[-1].endswith(f"moved to result.json.corrupt-{number}, the trial is trained again")
    assert "result.json" not in here(run)


def test_a_result_replaces_a_corrupt_one_in_a_single_commit(run: Run, units: UnitStore) -> None:
    units.commit(RESULT)
    damage(run, f"{units.folder(KEY)}/result.json")
    again = {**RESULT, "val_score": 0.9}
    assert units.commit(again) == again
    assert units.result(KEY) == again


@pytest.mark.parametrize(
    "key", ["", "..", "../../etc/passwd", "ab" * 31, "ab" * 33, "AB" * 32, "g" * 64, "ab/" * 21 + "a", f"{KEY}\n"]
)
def test_nothing_but_a_sha256_is_a_key(units: UnitStore, key: str) -> None:
    operations: list[Callable[[], Any]] = [
        lambda: units.result(key),
        lambda: units.commit({**RESULT, "key": key}),
        lambda: units.write_state(key, "aa", b""),
        lambda: units.read_state({"key": key, "state": None}),
        lambda: units.write_partial(key, "aa", 1, b""),
        lambda: units.read_partial(key),
        lambda: units.write_rewind(key, "1 ep", b""),
        lambda: units.write_log(key, "x"),
        lambda: units.sweep(key),
    ]
    for operation in operations:
        with pytest.raises(ValueError, match="not a unit key"):
            operation()
    assert units.storage.names("units") == []


def test_a_result_tells_its_unit(run: Run) -> None:
    begun(run, study(), 4)
    for _, key in committed(run):
        result = run.result(key)
        assert result is not None
        assert unit_of(result).key == key


def committed(run: Run) -> Iterator[tuple[str, str]]:
    root = Path(run.storage.path("units"))
    for folder in sorted(root.glob("*/*")):
        yield folder.parent.name, folder.name


# --- states ---


def test_a_state_that_is_not_what_was_committed_is_moved_aside(run: Run, units: UnitStore, notices: Notices) -> None:
    result = units.commit({**RESULT, "state": units.write_state(KEY, "aa", b"weights")})
    damage(run, f"{units.folder(KEY)}/state-aa.safetensors")
    assert units.read_state(result) is None
    assert "state-aa.safetensors.corrupt-1" in here(run)
    assert "moved to state-aa.safetensors.corrupt-1, the trial is trained again for its weights" in notices[-1]


def test_a_swept_unit_keeps_its_result_and_has_no_state(run: Run, units: UnitStore) -> None:
    result = units.commit({**RESULT, "state": units.write_state(KEY, "aa", b"weights")})
    units.write_partial(KEY, "bb", 1, b"partial")
    units.write_rewind(KEY, "1 ep", b"rewind")
    units.sweep(KEY)
    units.sweep(KEY)
    assert units.read_state(result) is None
    assert units.result(KEY) == result
    assert units.read_rewind(KEY, "1 ep") == b"rewind"
    assert [name for name in here(run) if name.startswith(("state", "partial"))] == []


def test_a_restated_unit_has_its_new_weights_and_its_old_row(units: UnitStore) -> None:
    result = units.commit({**RESULT, "state": units.write_state(KEY, "aa", b"old")})
    for number, attempt in enumerate(("bb", "cc")):
        units.sweep(KEY)
        assert units.read_state(result) is None
        units.restate({**RESULT, "val_score": 0.1, "state": units.write_state(KEY, attempt, b"new%d" % number)})
        assert units.read_state(result) == b"new%d" % number
    assert units.result(KEY) == result


def test_a_corrupt_restate_is_moved_aside_and_the_others_count(run: Run, units: UnitStore, notices: Notices) -> None:
    result = units.commit({**RESULT, "state": units.write_state(KEY, "aa", b"old")})
    units.restate({**RESULT, "state": units.write_state(KEY, "bb", b"new")})
    damage(run, f"{units.folder(KEY)}/restate-1.json")
    assert units.read_state(result) == b"old"
    assert "restate-1.json.corrupt-1" in notices[-1]


def test_a_corrupt_restate_does_not_hide_the_later_ones(run: Run, units: UnitStore) -> None:
    result = units.commit({**RESULT, "state": units.write_state(KEY, "aa", b"old")})
    units.restate({**RESULT, "state": units.write_state(KEY, "bb", b"one")})
    units.restate({**RESULT, "state": units.write_state(KEY, "cc", b"two")})
    run.storage.delete(f"{units.folder(KEY)}/state-aa.safetensors")
    damage(run, f"{units.folder(KEY)}/restate-1.json")
    assert units.read_state(result) == b"two"
    assert units.read_state(result) == b"two"


# --- partial states ---


def test_the_furthest_partial_state_wins(units: UnitStore) -> None:
    assert units.read_partial(KEY) is None
    units.write_partial(KEY, "aa", 9, b"nine")
    units.write_partial(KEY, "bb", 10, b"ten")
    units.write_partial(KEY, "cc", 2, b"two")
    assert units.read_partial(KEY) == b"ten"


def test_a_partial_state_replaces_the_earlier_ones(run: Run, units: UnitStore) -> None:
    for epoch in (1, 2, 3):
        units.write_partial(KEY, "aa", epoch, b"epoch %d" % epoch)
    assert len(here(run)) == 1
    assert units.read_partial(KEY) == b"epoch 3"


def test_a_corrupt_partial_state_is_skipped_for_the_next_whole_one(
    run: Run, units: UnitStore, notices: Notices
) -> None:
    units.write_partial(KEY, "aa", 5, b"five")
    units.write_partial(KEY, "bb", 3, b"three")
    damage(run, f"{units.folder(KEY)}/{next(n for n in here(run) if '-000005-' in n)}")
    assert units.read_partial(KEY) == b"three"
    assert "the trial starts from an earlier state" in notices[0]
    assert units.read_partial(KEY) == b"three"
    assert len(notices) == 1


def test_a_cut_partial_state_is_skipped(run: Run, units: UnitStore) -> None:
    units.write_partial(KEY, "aa", 5, b"five" * 100)
    path = Path(run.storage.path(f"{units.folder(KEY)}/{here(run)[0]}"))
    path.write_bytes(path.read_bytes()[:100])
    assert units.read_partial(KEY) is None


def test_partial_states_go_when_the_unit_is_committed_and_nothing_else_does(run: Run, units: UnitStore) -> None:
    units.write_partial(KEY, "aa", 5, b"five")
    units.write_rewind(KEY, "1 ep", b"rewind")
    units.commit({**RESULT, "state": units.write_state(KEY, "aa", b"weights")})
    units.clear_partials(KEY)
    assert [name.split("-")[0] for name in here(run)] == ["result.json", "rewind", "state"]


def test_a_rewind_point_is_read_by_its_own_name_and_checked(run: Run, units: UnitStore, notices: Notices) -> None:
    units.write_rewind(KEY, "1 ep", b"one")
    units.write_rewind(KEY, "10 ep", b"ten")
    units.write_rewind(KEY, "1 it", b"step")
    points = ("1 ep", "10 ep", "1 it", "2 ep")
    assert [units.read_rewind(KEY, point) for point in points] == [b"one", b"ten", b"step", None]
    damage(run, f"{units.folder(KEY)}/{next(n for n in here(run) if n.startswith('rewind-10-ep'))}")
    assert units.read_rewind(KEY, "10 ep") is None
    assert "the rewind point is trained again" in notices[-1]


# --- decisions ---

BODY = decision_of(KEY)
OTHER = decision_of("cd" * 32)


def test_a_decision_is_written_once_and_the_first_stands(run: Run) -> None:
    assert run.decision("silo", 0, 3, 1) is None
    assert run.decide(BODY) == BODY
    assert run.decide(OTHER) == BODY
    assert run.decision("silo", 0, 3, 1) == BODY
    assert os.path.exists(f"{run.url}/chains/silo/seed-0/cycle-003-round-1.json")


def test_a_corrupt_decision_is_moved_aside_and_written_anew(run: Run, notices: Notices) -> None:
    run.decide(BODY)
    damage(run, "chains/silo/seed-0/cycle-003-round-1.json")
    assert run.decide(OTHER) == OTHER
    assert run.storage.names("chains/silo/seed-0") == [
        "cycle-003-round-1.json",
        "cycle-003-round-1.json.corrupt-1",
    ]
    assert notices[-1].endswith("the decision is derived again from its trials")


def test_a_corrupt_decision_of_a_finished_run_is_derived_again_and_nothing_is_trained(run: Run) -> None:
    made = study()
    begun(run, made, 1000)
    name = run.decision_name("greedy", 1, 2, 1)
    before = run.storage.read(name)
    damage(run, name)
    planner = Planner(made, run, run.accept(made, ENVIRONMENT))
    assert planner.done
    assert run.storage.read(name) == before


def test_a_finished_run_on_disk_keeps_only_final_weights(run: Run) -> None:
    made = study()
    begun(run, made, 1000)
    planner = Planner(made, run)
    finals = {chain.closed[-1] for chain in planner.chains.values()}
    states = {key for _, key in committed(run) if any(name.startswith("state-") for name in here(run, key))}
    assert states == finals


# --- the recorded study ---


def test_a_new_run_records_its_study_and_gives_it_back(run: Run) -> None:
    made = study(
        {"report.title": "ε", "arms/v1.5": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 1}}}
    )
    assert run.recorded() is None
    assert run.accept(made, ENVIRONMENT) == {}
    assert run.study() == made
    recorded = run.recorded()
    assert recorded is not None
    assert recorded[1]["environment"] == ENVIRONMENT
    assert recorded[1]["recipe"] == RECIPE


def test_a_folder_without_a_run_says_how_to_make_one(run: Run) -> None:
    with pytest.raises(BadInput, match=r"no run at .* `silo-tune run"):
        run.study()


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"prune.rate": 0.5},
        {"cycles": 2},
        {"arms.silo": None, "arms.conditioned": None},
        {"cluster.cpus_per_unit": 4},
        {"data.val_share": 0.3},
        {"replicates.seeds": [9]},
        {"arms.greedy.grid.points": 7},
    ],
)
def test_any_change_is_welcome_before_anything_is_decided(run: Run, changes: Mapping[str, Any]) -> None:
    run.accept(study(), ENVIRONMENT)
    assert run.accept(study(changes), ENVIRONMENT) == {}
    assert run.study() == study(changes)


ADDITIVE: list[Mapping[str, Any]] = [
    {"replicates.seeds": [0, 1, 2]},
    {"replicates.seeds": [7, 1, 0]},
    {"cycles": 9},
    {"arms.new": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.2}}},
    {"arms.new": {"mode": "oracle", "grid": {"low": 0.1, "high": 0.2, "points": 2}}},
    {"report": {"tolerance": 0.1, "schedule": "linear", "title": "x"}},
    {"cluster": {"max_concurrent": 1, "device": "cpu", "keep": "all", "gpus_per_unit": 0.5, "max_failures": 0}},
    {"data.path": "elsewhere"},
    {"data.download": False},
]
REFUSED: list[tuple[Mapping[str, Any], str]] = [
    ({"name": "other"}, r"name: was 'tiny', now 'other'"),
    ({"cycles": 1}, r"cycles: was 4, now 1"),
    ({"replicates.seeds": [1, 2]}, r"replicates\.seeds: was \[0, 1\], now \[1, 2\]"),
    ({"prune.rate": 0.3}, r"prune\.rate: was 0\.2, now 0\.3"),
    ({"prune.skip": ["fc.*"]}, r"prune\.skip: was \[\], now \['fc"),
    ({"retrain.batch": 64}, r"retrain\.batch: was 32, now 64"),
    ({"retrain.optimizer": {"name": "adamw"}}, r"retrain\.optimizer\.betas: was 'not set', now \[0\.9, 0\.999\]"),
    ({"retrain.profile": "cosine"}, r"retrain\.profile\.name: was 'warmup-drop', now 'cosine'"),
    ({"dense.epochs": 3}, r"dense\.epochs: was 2, now 3"),
    ({"data.val_share": 0.3}, r"data\.val_share: was 0\.2, now 0\.3"),
    ({"data.split_seed": 1}, r"data\.split_seed: was 0, now 1"),
    ({"model": {"name": "resnet8"}}, r"model\.name: was 'lenet-300-100', now 'resnet8'"),
    ({"cluster.cpus_per_unit": 2}, r"cluster\.cpus_per_unit: was 1, now 2"),
    ({"arms.linear": None}, r"arms\.linear\.mode: was 'schedule', now 'not set'"),
    ({"arms.silo.schedule.eps": 0.02}, r"arms\.silo\.schedule\.eps: was 0\.03, now 0\.02"),
    ({"arms.silo.own_dense": True, "arms.conditioned.own_dense": True}, r"arms\.silo\.own_dense: was False, now True"),
    ({"arms.linear.epochs": 2}, r"arms\.linear\.epochs: was 'not set', now 2"),
    ({"arms.greedy.prefix": "arm:silo"}, r"arms\.greedy\.prefix: was 'own', now 'arm:silo'"),
    ({"arms.greedy.tests": ["silo"]}, r"arms\.greedy\.tests: was 'not set', now \['silo'\]"),
    ({"arms.greedy.grid.points": 5}, r"arms\.greedy\.grid\.points: was 3, now 5"),
    ({"arms.greedy.grid.high": 2.0}, r"arms\.greedy\.grid\.high: was 1\.0, now 2\.0"),
]


@pytest.mark.parametrize(
    ("after", "accepted"),
    [
        ({"targets": [0.5, 0.4, 0.3, 0.2]}, True),
        ({"targets": [0.5, 0.4, 0.3, 0.2], "cycles": 5}, True),
        ({"targets": [0.5, 0.4, 0.25]}, False),
        ({"targets": [0.6, 0.4, 0.3, 0.2]}, False),
        ({"rate": 0.5}, False),
    ],
)
def test_targets_may_be_appended_and_those_in_use_stand(run: Run, after: dict[str, Any], accepted: bool) -> None:
    begun(run, study({"prune": {"targets": [0.5, 0.4, 0.3]}}), 20)
    cycles = after.pop("cycles", 4)
    made = study({"prune": after, "cycles": cycles})
    if accepted:
        run.accept(made, ENVIRONMENT)
        assert run.study() == made
    else:
        with pytest.raises(BadInput, match=r"prune\.targets: was \[0\.5, 0\.4, 0\.3\]"):
            run.accept(made, ENVIRONMENT)


def test_targets_beyond_the_cycles_are_not_in_use(run: Run) -> None:
    begun(run, study({"prune": {"targets": [0.5, 0.4, 0.3, 0.2]}}), 20)
    run.accept(study({"prune": {"targets": [0.5, 0.4, 0.3, 0.1]}}), ENVIRONMENT)


@pytest.mark.parametrize("changes", ADDITIVE)
def test_an_additive_change_is_accepted_logged_and_noticed(
    run: Run, notices: Notices, changes: Mapping[str, Any]
) -> None:
    begun(run, study(), 20)
    run.accept(study(changes), ENVIRONMENT)
    assert run.study() == study(changes)
    key = next(iter(changes))
    assert notices[-1].startswith("accepted changes to")
    recorded = run.recorded()
    assert recorded is not None
    assert any(changed.startswith(key) for changed in recorded[1]["changes"][-1]["keys"])


SUBSETS: list[Mapping[str, Any]] = [
    {"replicates.seeds": [1]},
    {"arms.linear": None},
    {"arms.conditioned": None, "arms.silo": None, "report.schedule": "linear"},
    {"arms.greedy": None, "replicates.seeds": [0]},
]


@pytest.mark.parametrize("changes", SUBSETS)
def test_a_study_that_leaves_out_what_the_run_has_begun_is_no_change(
    run: Run, notices: Notices, changes: Mapping[str, Any]
) -> None:
    report = {key: value for key, value in changes.items() if key.startswith("report")}
    begun(run, study(report), 20)
    before = run.recorded()
    resumed = run.resumed(study(changes))
    assert resumed == study(report)
    assert list(resumed.arms) == list(study(report).arms)
    assert "stays and is trained to its end" in notices[-1]
    run.accept(resumed, ENVIRONMENT)
    assert run.recorded() == before


def test_what_has_not_begun_may_be_left_out_and_more_may_come_beside(run: Run, notices: Notices) -> None:
    begun(run, study({"replicates.seeds": [4, 5]}), 1)  # the dense cycle of seed 4
    new = {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.2}}
    resumed = run.resumed(study({"replicates.seeds": [7], "arms.new": new, "arms.linear": None}))
    assert resumed.replicates.seeds == (4, 7)
    assert set(resumed.arms) == {*study().arms, "new"}
    assert "arm linear and seed 4" in notices[-1]


def test_what_else_a_smaller_study_changes_is_refused_by_its_key(run: Run) -> None:
    begun(run, study(), 20)
    with pytest.raises(BadInput, match=r"prune\.rate: was 0\.2, now 0\.3"):
        run.resumed(study({"arms.linear": None, "prune.rate": 0.3}))


def test_a_pilot_stays_with_the_arm_whose_constants_it_finds(run: Run) -> None:
    pilot = {"seeds": [100], "chains": 3, "low": 0.01, "high": 1.0}
    arm = {"mode": "schedule", "schedule": {"name": "constant"}}
    made = study({"pilot": pilot, "arms.found": arm, "arms.greedy.tests": [], "arms.conditioned.tests": []})
    begun(run, made, 20)
    less = study({"arms.greedy.tests": [], "arms.conditioned.tests": []})
    assert run.resumed(less) == made
    with pytest.raises(StudyError, match="a pilot's are disjoint"):
        run.resumed(study({"replicates.seeds": [0, 1, 100], "arms.greedy.tests": [], "arms.conditioned.tests": []}))


def test_every_accepted_change_stays_in_the_log(run: Run) -> None:
    begun(run, study(), 20)
    for cycles in (5, 6):
        run.accept(study({"cycles": cycles}), {"silo-tune": "later"})
    run.accept(study({"cycles": 6}), ENVIRONMENT)
    recorded = run.recorded()
    assert recorded is not None
    assert [change["keys"] for change in recorded[1]["changes"]] == [["cycles"], ["cycles"]]
    assert recorded[1]["environment"] == ENVIRONMENT


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_a_change_to_what_is_decided_is_refused_with_its_key_and_values(
    run: Run, changes: Mapping[str, Any], words: str
) -> None:
    begun(run, study(), 20)
    with pytest.raises(BadInput, match=words):
        run.accept(study(changes), ENVIRONMENT)
    assert run.study() == study()


def test_several_refused_changes_are_named_at_once(run: Run) -> None:
    begun(run, study(), 20)
    with pytest.raises(BadInput) as caught:
        run.accept(study({"prune.rate": 0.3, "dense.epochs": 9, "cycles": 9}), ENVIRONMENT)
    assert "prune.rate" in str(caught.value)
    assert "dense.epochs" in str(caught.value)
    assert "cycles" not in str(caught.value)


@pytest.mark.parametrize("rate", [0.5, None], ids=["changed", "removed"])
def test_an_arm_with_a_dot_in_its_name_is_decided_like_any_other(run: Run, rate: float | None) -> None:
    arm = {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.2}}
    begun(run, study({"arms/lr.2": arm}), 20)
    after = study() if rate is None else study({"arms/lr.2": arm, "arms/lr.2/schedule/max_lr": rate})
    with pytest.raises(BadInput, match=r"arms\.lr\.2"):
        run.accept(after, ENVIRONMENT)


def test_a_grid_may_change_until_a_seed_has_closed_a_cycle_with_it(run: Run) -> None:
    begun(run, study(), 1)  # the dense cycle of one seed, which no grid decides
    changed = study({"arms.greedy.grid.points": 5})
    assert run.accept(changed, ENVIRONMENT) == {}
    assert run.study() == changed
    begun(run, changed, 25)
    assert run.closed_cycles("greedy", changed) > 1
    with pytest.raises(BadInput, match=r"arms\.greedy\.grid\.points: was 5, now 3"):
        run.accept(study(), ENVIRONMENT)


def test_a_grid_with_its_own_dense_is_decided_with_cycle_0(run: Run) -> None:
    own = {"arms.greedy.own_dense": True}
    begun(run, study(own), 8)
    assert run.closed_cycles("greedy", study(own)) >= 1
    with pytest.raises(BadInput, match=r"arms\.greedy\.grid\.points"):
        run.accept(study({**own, "arms.greedy.grid.points": 5}), ENVIRONMENT)


# --- tests of an Oracle that come later ---


@pytest.mark.parametrize("tells", range(1, 40, 6))
def test_an_arm_added_later_is_tested_from_the_first_cycle_that_no_seed_has_closed(run: Run, tells: int) -> None:
    begun(run, study({"arms.linear": None}), tells)
    closed = {oracle: run.closed_cycles(oracle, study()) for oracle in ("greedy", "conditioned")}
    since = run.accept(study(), ENVIRONMENT)
    assert since == {oracle: {"linear": cycle} for oracle, cycle in closed.items()}
    assert run.tests_from(study()) == run.accept(study(), ENVIRONMENT) == since  # the same at the next start
    Drive(on_disk(run))(Planner(study(), run, since))
    for oracle, seed, cycle in itertools.product(since, (0, 1), range(1, 4)):
        decision = run.decision(oracle, seed, cycle, 1)
        assert decision is not None
        tested = {arm for asked in decision["asked"] for arm in asked["tests"]}
        assert ("linear" in tested) == (cycle >= closed[oracle])


def test_all_seeds_of_an_oracle_try_the_same_rates_at_a_cycle(run: Run) -> None:
    begun(run, study({"arms.linear": None}), 17)
    later = study({"replicates.seeds": [0, 1, 2], "cycles": 6})
    begun(run, later, 1000)
    for oracle, cycle in itertools.product(("greedy", "conditioned"), range(1, 6)):
        tried = []
        for seed in (0, 1, 2):
            decision = run.decision(oracle, seed, cycle, 1)
            assert decision is not None
            tried.append([asked["peak"] for asked in decision["asked"]])
        assert tried[0] == tried[1] == tried[2]


@pytest.mark.parametrize("other", [{"arms.greedy": None}, {"arms.greedy": TABLE["arms"]["constant"]}])
def test_a_plan_may_look_at_a_run_with_a_study_that_the_run_would_refuse(run: Run, other: Mapping[str, Any]) -> None:
    begun(run, study({"arms.linear": None}), 20)
    assert set(run.tests_from(study(other))) == {"conditioned"}
    with pytest.raises(BadInput, match=r"arms\.greedy"):
        run.accept(study(other), ENVIRONMENT)


def test_an_oracle_that_is_added_with_an_arm_tests_it_from_the_start(run: Run) -> None:
    begun(run, study({"arms.linear": None, "arms.greedy": None}), 1000)
    since = run.accept(study(), ENVIRONMENT)
    assert "greedy" not in since
    assert since == {"conditioned": {"linear": 4}}


# --- other recipes, damage ---


def test_a_run_of_another_recipe_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(run, study(), 20)
    monkeypatch.setattr("silo_tune.store.run_folder.RECIPE", RECIPE + 1)
    with pytest.raises(BadInput, match=rf"made with recipe {RECIPE}, this version has {RECIPE + 1}"):
        run.accept(study(), ENVIRONMENT)


@pytest.mark.parametrize("text", ["", "x = ", "[study]\n", "study = 1\nrun = 2\n", "\x00", "[study]\n[run]\n"])
def test_a_damaged_study_file_is_bad_input_that_says_what_to_do(run: Run, text: str) -> None:
    begun(run, study(), 20)
    run.storage.replace("study.toml", text.encode())
    for operation in (run.study, lambda: run.accept(study(), ENVIRONMENT)):
        with pytest.raises(BadInput, match=r"study\.toml"):
            operation()


def test_a_study_file_cut_anywhere_is_bad_input_or_still_the_study(run: Run) -> None:
    begun(run, study(), 4)
    whole = run.storage.read("study.toml")
    lines = whole.splitlines(keepends=True)
    for count in range(len(lines)):
        run.storage.replace("study.toml", b"".join(lines[:count]))
        try:
            run.accept(study(), ENVIRONMENT)
        except BadInput as error:
            assert "study.toml" in str(error) or "was decided with" in str(error)  # noqa: PT017
        else:
            assert run.study() == study()


@pytest.mark.parametrize("content", [b"\xff\xfe", b""])
def test_a_study_file_that_is_not_utf8_or_empty_is_damaged(content: bytes, run: Run) -> None:
    run.storage.replace("study.toml", content)
    with pytest.raises(BadInput, match=r"study\.toml is damaged .*put back a copy.*move it away"):
        run.study()


def test_a_run_whose_study_file_is_moved_away_finds_its_units_again(run: Run) -> None:
    begun(run, study(), 1000)
    run.storage.delete("study.toml")
    planner = Planner(study(), run, run.accept(study(), ENVIRONMENT))
    assert planner.done
    assert planner.counts.trained == 0


# --- the data ---
FACTS = {
    "content": "a" * 64,
    "notices": [],
    "shape": [8, 8, 1],
    "classes": 10,
    "n_train": 800,
    "n_val": 400,
    "n_test": 300,
}


def test_the_data_of_a_run_may_not_change(run: Run, notices: Notices) -> None:
    begun(run, study(), 20)
    run.check_data(FACTS)
    run.check_data({**FACTS, "n_val": 401})
    assert notices == [f"{run.url}/data.json was wrong about n_val; it is written anew"]
    run.check_data(FACTS)
    assert run.data_facts() == FACTS
    with pytest.raises(BadInput, match=r"the data changed under .*aaaaaaaaaaaa…, now it is content bbbbbbbbbbbb…"):
        run.check_data({**FACTS, "content": "b" * 64})
    assert run.data_facts() == FACTS


def test_the_data_may_change_before_anything_is_decided(run: Run) -> None:
    run.accept(study(), ENVIRONMENT)
    run.check_data(FACTS)
    run.check_data({**FACTS, "content": "b" * 64})
    assert run.data_facts() == {**FACTS, "content": "b" * 64}


def test_a_corrupt_record_of_the_data_is_moved_aside_and_written_anew(run: Run, notices: Notices) -> None:
    begun(run, study(), 20)
    run.check_data(FACTS)
    damage(run, "data.json")
    run.check_data(FACTS)
    assert run.data_facts() == FACTS
    assert run.storage.exists("data.json.corrupt-1")
    assert "data.json is corrupt" in notices[-1]


# --- a whole run with a simulated runner ---


class Simulated:
    """A runner that commits simulated outcomes."""

    def __init__(self, facts: Mapping[str, Any] = FACTS, tells: int | None = None) -> None:
        self.facts, self.tells, self.slots = facts, tells, 2

    @contextlib.contextmanager
    def open(self, made: Study, workspace: Workspace, monitor: Monitor) -> Iterator[Simulated]:
        yield self

    def look(self, study: Study) -> Findings:
        return Findings()

    def train(self, planner: Planner, lease: Lease, monitor: Monitor) -> None:
        assert isinstance(planner.journal, Run)
        Drive(on_disk(planner.journal))(planner, self.tells)


def test_a_run_ends_with_its_table_and_a_second_start_trains_nothing(tmp_path: Path) -> None:
    first = run_study(study(), str(tmp_path / "run"), runner=Simulated())
    second = run_study(study(), str(tmp_path / "run"), runner=Simulated())
    assert first.counts.trained > 20
    assert second.counts.trained == 0
    assert first.frame.equals(second.frame)
    assert (tmp_path / "run" / "table.parquet").exists()
    assert os.listdir(tmp_path / "run" / "lease") == []


def test_a_tolerance_finer_than_the_validation_set_shows_is_refused_before_training(tmp_path: Path) -> None:
    fine = study({"report.tolerance": 0.004})
    with pytest.raises(BadInput, match=r"report\.tolerance: 0\.004 is finer than 400 validation images.*0\.005"):
        run_study(fine, str(tmp_path / "run"), runner=Simulated())
    assert not (tmp_path / "run" / "units").exists()


def test_a_larger_validation_set_allows_a_finer_tolerance_while_nothing_is_decided(tmp_path: Path) -> None:
    run_study(study({"report.tolerance": 0.02}), str(tmp_path / "run"), runner=Simulated(tells=0))
    finer = study({"report.tolerance": 0.002, "data.val_share": 0.5})
    run_study(finer, str(tmp_path / "run"), runner=Simulated({**FACTS, "n_val": 1000}))


def test_a_refused_change_leaves_the_run_free_and_as_it_was(tmp_path: Path) -> None:
    place = str(tmp_path / "run")
    run_study(study(), place, runner=Simulated(tells=20))
    with pytest.raises(BadInput, match=r"prune\.rate"):
        run_study(study({"prune.rate": 0.5}), place, runner=Simulated())
    assert run_study(study(), place, runner=Simulated()).counts.trained > 0


def test_sealed_files_of_a_run_are_readable_json(run: Run) -> None:
    run.decide(BODY)
    assert run.storage.read(run.decision_name("silo", 0, 3, 1)) == seal(BODY)


def test_fewer_cycles_are_accepted_down_to_those_that_are_closed(run: Run) -> None:
    begun(run, study(), 1)
    run.accept(study({"cycles": 9}), ENVIRONMENT)
    run.accept(study({"cycles": 3}), ENVIRONMENT)
    assert run.study().cycles == 3
