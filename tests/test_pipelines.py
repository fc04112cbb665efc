"""ICE-Pruning and pruning while training: their counts, their triggers, and rows as everybody's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from silo_tune.api import run_study
from silo_tune.errors import StudyError
from silo_tune.models.checkpoint import pack, unpack
from silo_tune.planner.unit import Unit, UnitMaker
from silo_tune.run.local import LocalRunner
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study
from silo_tune.training.ice import left_of
from silo_tune.training.trainer import Trainer
from silo_tune.training.worker import drain
from tests.test_cycle import Bench, stable
from tests.test_training import trainer_of, unit_of

ICE = {"preset": "ice-pruning", "base": 0.02, "delta": 0.01, "threshold": 0.0, "freeze": 0.0}
WHILE = {"preset": "while-training"}
TABLE: dict[str, Any] = {
    "name": "pipelines",
    "cycles": 3,
    "data": {"name": "digits"},
    "model": {"name": "lenet-300-100"},
    "dense": {"epochs": 2, "max_lr": 0.1},
    "prune": {"rate": 0.3, "granularity": "filter", "criterion": "l1-filter"},
    "retrain": {"epochs": 1},
    "replicates": {"seeds": [0]},
    "report": {"tolerance": 0.02, "schedule": "silo"},
}
AUGMENTED = {"name": "digits", "augment": ["crop"], "crop_padding": 1}
SILO = {"mode": "schedule", "schedule": {"name": "silo", "eps": 0.1, "delta": 0.1}}


def study(arms: Mapping[str, Any], **changes: Any) -> Study:
    return parse_study({**TABLE, "arms": {"silo": SILO, **arms}, **changes})


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Any:
    arms = {
        "always": ICE,
        "never": {**ICE, "threshold": 0.99},
        "frozen": {**ICE, "freeze": 0.4},
        "probed": {**ICE, "freeze": 0.4, "threshold": 0.99},  # one of the two layers that lose filters
        "while": WHILE,
    }
    return run_study(study(arms), str(tmp_path_factory.mktemp("run")), runner=LocalRunner()).frame


def of(frame: Any, arm: str) -> Any:
    return frame[(frame.arm == arm)].set_index("cycle")


# --- ICE-Pruning ---


def test_a_block_loses_its_share_of_filters_rounded_up_and_never_the_last() -> None:
    assert [left_of(n, 0.2) for n in (10, 9, 5, 4, 1)] == [8, 7, 4, 3, 1]
    assert left_of(3, 0.9) == 1
    assert 0.28 * 25 > 7  # in binary
    assert left_of(25, 0.28) == 18


def test_every_cycle_prunes_every_block_by_the_declared_count(frame: Any) -> None:
    hidden, second = left_of(left_of(300, 0.3), 0.3), left_of(left_of(100, 0.3), 0.3)
    kept = 64 * hidden + 300 * second  # whole rows of fc1 and fc2; fc3 has no filters that can go
    assert of(frame, "never").weights_remaining[2] == pytest.approx(kept / (64 * 300 + 300 * 100))
    for arm in ("always", "frozen"):
        assert of(frame, arm).weights_remaining[2] == of(frame, "never").weights_remaining[2]


def test_fine_tuning_is_triggered_by_the_loss_of_validation_accuracy(frame: Any) -> None:
    always, never = of(frame, "always"), of(frame, "never")
    assert set(never.epochs[1:]) == {0}
    assert never.realised_peak_lr[1:].isna().all()
    assert never.train_loss[1:].isna().all()
    # With a threshold of 0 a block is followed by an epoch wherever it is no better than the dense network.
    assert set(always.epochs[1:]) <= {0, 1, 2}  # no probe
    assert always.epochs[1:].sum() > 0
    trained = always.iloc[1:][always.epochs[1:] > 0]
    assert len(trained) > 0
    assert list(trained.realised_peak_lr) == list(trained.max_lr)


def test_a_probe_costs_an_epoch_and_frozen_layers_keep_their_weights(frame: Any) -> None:
    assert list(of(frame, "frozen").status) == ["ok"] * 3
    assert min(of(frame, "frozen").epochs[1:]) >= 1


def test_a_probe_without_fine_tuning_after_it_is_told_as_what_was_trained(frame: Any) -> None:
    probed = of(frame, "probed").iloc[1:]
    assert list(probed.status) == ["ok", "ok"]
    assert list(probed.epochs) == [1, 1]
    assert probed.steps.min() > 0
    assert probed.realised_peak_lr.isna().all()  # the probe's network was thrown away
    assert probed.train_loss.isna().all()


def test_frozen_layers_are_measured_as_all_are(frame: Any) -> None:
    probed, never = of(frame, "probed"), of(frame, "never")
    assert probed.grad_spread[1] == pytest.approx(never.grad_spread[1])  # the same network: nothing was fine-tuned


def test_the_s_falls_with_the_pipelines_own_ratio() -> None:
    made = study({"it": {"preset": "ice-pruning", "ratio": 0.02}}, cycles=3)
    peaks = [made.schedule_of(made.arms["it"]).peak(c, made.pruned_by(made.arms["it"])) for c in (1, 2)]  # type: ignore[arg-type, union-attr]
    assert peaks == pytest.approx([0.001 - 0.00075 / (1 + (x / (1.76 - x)) ** 50) for x in (0.98, 0.98**2)])
    assert made.pruned_by(made.arms["silo"]) == made.pruned


def test_a_key_of_ice_pruning_holds_its_ratio_and_no_other_share() -> None:
    def key(**prune: Any) -> str:
        made = study({"it": {**ICE, "ratio": 0.3}}, prune={"granularity": "filter", "criterion": "l1-filter", **prune})
        maker = UnitMaker(made, made.settings(made.arms["it"]))
        return maker.make(parent="p", cycle=2, seed=0, peak={"value": 0.1}).key

    assert key(rate=0.1) == key(rate=0.2) == key(rate=0.2, scope="layerwise")
    assert key(rate=0.2, criterion="random-filter") != key(rate=0.2)


def test_rows_are_those_of_every_arm(frame: Any) -> None:
    for arm in ("always", "never", "while"):
        rows = of(frame, arm)
        assert list(rows.index) == [0, 1, 2]
        assert (rows.status == "ok").all()
        assert rows.val_score.notna().all()
        assert (rows.test_score > 0.2).all()
    assert of(frame, "always").key[0] == of(frame, "silo").key[0]  # the dense cycle is shared


# --- pruning while training ---


def test_the_parts_are_one_training() -> None:
    made = study({"while": WHILE}, retrain={"epochs": 1, "profile": "cosine"}, dense={"epochs": 3, "max_lr": 0.1})
    maker = UnitMaker(made, made.settings(made.arms["while"]))
    units = [maker.make(parent="p" if c else None, cycle=c, seed=0, peak={"value": 0.1}) for c in range(3)]
    assert [unit.epochs for unit in units] == [1, 1, 1]
    assert [(unit.profile["first"], unit.profile["last"]) for unit in units] == [
        (0, pytest.approx(1 / 3)),
        (pytest.approx(1 / 3), pytest.approx(2 / 3)),
        (pytest.approx(2 / 3), 1),
    ]


def test_a_part_that_takes_over_weights_and_buffers_goes_on_as_one_training() -> None:
    whole, first, second, bare = (trainer_of(unit_of(retrain={"epochs": 2}), peak=0.1) for _ in range(4))
    for _ in range(2):
        whole.run_epoch()
    first.run_epoch()
    for part in (second, bare):
        part.model.load_state_dict(first.model.state_dict())
        part.epoch, part.step = first.epoch, first.step
    second.carry_on(first.state()[0])
    second.run_epoch()
    bare.run_epoch()
    ends = [torch.cat([p.detach().flatten() for p in t.model.parameters()]) for t in (whole, second, bare)]
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_the_rates_of_the_parts_follow_each_other(frame: Any) -> None:
    rows = of(frame, "while")
    assert rows.key[0] != of(frame, "silo").key[0]
    assert list(rows.max_lr) == [0.1] * 3
    # Warm-up over two thirds, a tenth after it: the peak is reached in the second of three parts.
    assert list(rows.realised_peak_lr) == pytest.approx([0.05, 0.1, 0.01], rel=0.05)


def test_a_part_begins_with_the_buffers_of_the_part_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path / "run", study({"while": WHILE}))
    dense = bench.unit(0, None, arm="while")
    bench.train(dense)
    taken: list[Mapping[str, torch.Tensor]] = []
    monkeypatch.setattr(Trainer, "carry_on", lambda self, groups: taken.append(groups["optim"]))
    bench.train(bench.unit(1, dense, arm="while"))
    handed = bench.weights(dense)["optim"]
    assert taken[0].keys() == handed.keys()
    assert all(torch.equal(taken[0][name], buffer) for name, buffer in handed.items())


def test_a_partial_state_holds_the_best_test_accuracy_so_far() -> None:
    first, second = trainer_of(unit_of()), trainer_of(unit_of())
    first.run_epoch()
    first.best_test = 0.625
    second.restore(*unpack(pack(*first.state())))
    assert second.best_test == 0.625


def test_without_momentum_there_is_nothing_to_carry(tmp_path: Path) -> None:
    plain = {"epochs": 1, "optimizer": {"name": "sgd", "momentum": 0.0}}
    frame = run_study(study({"while": WHILE}, retrain=plain), str(tmp_path / "run"), runner=LocalRunner()).frame
    assert (of(frame, "while").status == "ok").all()


def test_the_momentum_is_carried_over(tmp_path: Path) -> None:
    from silo_tune.store.run_folder import Run

    made = study({"while": WHILE}, cluster={"keep": "all"})
    outcome = run_study(made, str(tmp_path / "run"), runner=LocalRunner())
    run = Run(outcome.url)
    key = of(outcome.frame, "while").key[0]
    result = run.result(key)
    assert result is not None
    state = run.units.read_state(result)
    assert state is not None
    groups, _ = unpack(state)
    assert any(bool(buffer.any()) for buffer in groups["optim"].values())
    assert {name.rpartition("/")[2] for name in groups["optim"]} == {"momentum_buffer"}


# --- what is refused ---


@pytest.mark.parametrize(
    ("arm", "changes", "words"),
    [
        (ICE, {"prune": {"rate": 0.3}}, 'removes whole filters; set prune.granularity = "filter"'),
        ({**ICE, "profile": "cosine"}, {}, 'its profile is "constant"'),
        ({**ICE, "after_prune": "reinit"}, {}, "it keeps its weights"),
        ({**WHILE, "own_dense": False}, {}, "set own_dense = true"),
        ({**WHILE, "over": 2}, {}, "has 2 parts, and there are 3 cycles"),
        ({**ICE, "threshold": 2}, {}, "arms.it.pipeline"),
        ({"mode": "schedule", "pipeline": "ice", "profile": "constant", "schedule": SILO["schedule"]}, {}, "q = 0"),
        (
            {"mode": "schedule", "pipeline": "ice", "profile": "constant", "schedule": {"name": "allr", "max_lr": 0.1}},
            {},
            "give a fixed schedule",
        ),
        (
            {"mode": "schedule", "pipeline": {"name": "ice", "version": 1}, "schedule": SILO["schedule"]},
            {},
            "version 1 is trained no more",
        ),
        (ICE, {"evaluate": {"augment": True}}, "measured as usual"),
    ],
)
def test_what_does_not_go_together_is_refused(arm: Mapping[str, Any], changes: dict[str, Any], words: str) -> None:
    with pytest.raises(StudyError, match=words):
        study({"it": arm}, **changes)


# --- tuning on validation ---


def test_threshold_and_frozen_share_are_tuned_with_the_falling_s(tmp_path: Path) -> None:
    tuned = {
        "mode": "tune", "trials": 2, "batch": 2, "sampler": "random", "pipeline": "ice", "direction": "falling",
        "eps": [0.01, 0.1], "delta": 0.02, "midpoint": 0.88, "beta": 50.0, "q": 0, "threshold": [0.0, 0.2],
        "freeze": [0.0, 0.8], "profile": "constant", "epochs": 1,
    }  # fmt: skip
    made = study({"tuned": tuned}, cycles=2)
    frame = run_study(made, str(tmp_path / "run"), runner=LocalRunner()).frame
    rows = frame[frame.arm == "tuned"]
    assert set(rows.trial) == {0, 1}
    assert rows[rows.cycle == 1].key.nunique() == 2
    with pytest.raises(StudyError, match='threshold and freeze are of pipeline = "ice"'):
        study({"tuned": {**tuned, "pipeline": None}})


def test_a_wider_network_is_walked_block_by_block(tmp_path: Path) -> None:
    """The first convolution of each block of a ResNet; its other layers keep all their filters."""
    made = study(
        {"ice": {**ICE, "threshold": 0.99}},
        model={"function": "tests.test_pipelines:small_resnet", "version": "1"},
        cycles=2,
    )
    frame = run_study(made, str(tmp_path / "run"), runner=LocalRunner()).frame
    rows = of(frame, "ice")
    # conv1 of three blocks of widths 4, 8, 16: 2 of 4, 3 of 8, 5 of 16 go.
    sizes = ((4, 36), (8, 36), (16, 72))
    kept = sum(left_of(filters, 0.3) * per for filters, per in sizes)
    assert rows.weights_remaining[1] == pytest.approx(kept / sum(filters * per for filters, per in sizes))


def small_resnet(shape: tuple[int, int, int], classes: int) -> nn.Module:
    from silo_tune.models.cifar_resnet import CifarResNet

    return CifarResNet(1, 4, shape[2], classes)


# --- interruptions ---


def interrupted(bench: Bench, unit: Unit, epochs: int) -> dict[str, Any]:
    """Train some epochs of a unit, and the rest in a worker that knows nothing but the files."""
    progress = bench.worker.run(unit)
    for _ in range(epochs + 1):  # the partial state of an epoch is written before the next one begins
        next(progress)
    progress.close()
    return drain(bench.fresh().run(unit))


@pytest.mark.parametrize(
    ("arm", "evaluate"),
    [("while", {}), ("silo", {"best_on_test": True, "augment": True})],
    ids=["carried", "best-on-test"],
)
def test_a_unit_that_was_interrupted_ends_as_one_that_was_not(
    tmp_path: Path, arm: str, evaluate: Mapping[str, Any]
) -> None:
    made = study(
        {"while": WHILE}, retrain={"epochs": 3}, cluster={"partial_seconds": 0}, evaluate=evaluate, data=AUGMENTED
    )
    whole, broken = Bench(tmp_path / "whole", made), Bench(tmp_path / "broken", made)
    dense, first = (whole.unit(0, None, arm=arm), whole.unit(1, whole.unit(0, None, arm=arm), arm=arm))
    for bench in (whole, broken):
        bench.train(dense)
    assert stable(interrupted(broken, first, 1)) == stable(whole.train(first))
    one, other = broken.weights(first), whole.weights(first)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[group][name], other[group][name]) for group in one for name in one[group])
