"""ICE-Pruning's cycle, point by point as in its public code: rate, loss, optimizer, probe, what is frozen, resuming."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from silo_tune.api import run_study
from silo_tune.cli.catalogue import sections
from silo_tune.errors import BadInput, StudyError
from silo_tune.models.build import build_model
from silo_tune.planner.candidates import peak_of
from silo_tune.planner.curves import words_of
from silo_tune.planner.layout import Layout
from silo_tune.planner.unit import Unit
from silo_tune.pruning.filters import removable, without_filters
from silo_tune.pruning.masks import PrunableElements
from silo_tune.results.reading import read_table
from silo_tune.run.local import LocalRunner
from silo_tune.schedules.peaks import rate_at_share, rounded
from silo_tune.store.run_folder import Run
from silo_tune.store.unit_store import unit_of as stored_unit
from silo_tune.study.model import Study
from silo_tune.tasks.distilled import Distilled, distillation
from silo_tune.tasks.supervised import classification
from silo_tune.training import ice
from silo_tune.training.ice import (
    IceLoop,
    ceil_of,
    counted_layers,
    layer_changes,
    layers_of_blocks,
    norms_behind,
    share_left,
)
from silo_tune.training.trainer import Trainer
from silo_tune.training.worker import Worker, drain
from tests.test_cycle import Bench, stable
from tests.test_pipelines import ICE, interrupted, small_resnet, study
from tests.test_training import trainer_of, unit_of

SMALL = {"function": "tests.test_pipelines:small_resnet", "version": "1"}
FROZEN = {**ICE, "freeze": 0.3}
SHAPE = (8, 8, 1)
OLD = Path(__file__).parent / "data" / "run-ice-1"


def bench_of(folder: Path, arm: Mapping[str, Any] = FROZEN, **changes: Any) -> tuple[Bench, Unit, Unit]:
    """A trained dense network and the first cycle of an ice arm, not trained yet."""
    bench = Bench(folder, study({"it": arm}, **{"model": SMALL, "cluster": {"partial_seconds": 0}, **changes}))
    dense = bench.unit(0, None)
    bench.train(dense)
    layout = Layout(bench.study)
    return bench, dense, bench.unit(1, dense, peak=layout._peak("it", None, 1), arm="it")


def published(share: float, base: float = 0.02, delta: float = 0.01, p: float = 0.12, beta: float = 50.0) -> float:
    """The rate of the public code, word for word in mathematics."""
    return base - delta / (1 + math.pow(share / ((1 - p) * 2 - share), beta))


# --- the rate ---


def test_the_rate_is_the_published_formula_of_the_share_left() -> None:
    curve = {"eps": 0.01, "delta": 0.01, "beta": 50.0, "midpoint": 0.88, "direction": "falling"}
    for share in (1.0, 0.95, 0.88, 0.8, 0.5, 0.1):
        assert rate_at_share(share, **curve) == rounded(published(share))
    assert rate_at_share(0.88, **curve) == 0.015


def elements_of(model: nn.Module, shape: tuple[int, int, int]) -> PrunableElements:
    return PrunableElements.of(model, removable=removable(model, shape))


@pytest.mark.parametrize(
    "table",
    [{"name": "resnet8", "width": 4}, {"name": "vgg19"}, {"name": "mobilenetv2"}, {"name": "lenet-300-100"}],
    ids=lambda table: table["name"],
)
def test_the_share_left_is_that_of_the_network_without_its_filters(table: dict[str, Any]) -> None:
    shape = (32, 32, 3)
    model = build_model(table, shape, 10, 0)
    elements = elements_of(model, shape)
    living = {name: torch.arange(filters.count) % 3 > 0 for name, filters in elements.filters.items()}
    small = dict(
        without_filters(
            model, {name: mask.nonzero().flatten().tolist() for name, mask in living.items()}, shape
        ).named_parameters()
    )
    layers = counted_layers(model)
    whole = sum(elements.parameters[name].numel() for name in layers)
    assert share_left(elements, living, layers) == sum(small[name].numel() for name in layers) / whole


def test_counted_are_the_wide_convolutions_but_the_first() -> None:
    names = counted_layers(small_resnet(SHAPE, 10))
    assert names == [f"blocks.{block}.conv{n}.weight" for block in range(3) for n in (1, 2)]
    assert counted_layers(build_model({"name": "lenet-300-100"}, SHAPE, 10, 0)) == [
        "fc1.weight",
        "fc2.weight",
        "fc3.weight",
    ]


def test_every_fine_tune_has_the_rate_of_the_weights_left_just_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, _, first = bench_of(tmp_path / "run")
    given: list[tuple[float, dict[str, int]]] = []
    fine_tune = IceLoop._fine_tune

    def watched(loop: IceLoop, rate: float) -> Any:
        given.append((rate, {name: int(mask.sum()) for name, mask in loop.living.items()}))
        return fine_tune(loop, rate)

    monkeypatch.setattr(IceLoop, "_fine_tune", watched)
    row = bench.train(first)
    (probe, _), *walk = given
    assert probe == 0.02  # the top of the S
    assert len(walk) >= 2
    for rate, left in walk:
        # By hand: 3×3 convolutions of three blocks of 4, 8 and 16 filters, of which the first of each loses some.
        ins, outs = (4, 4, 8), (4, 8, 16)
        kept = list(left.values())
        now = sum(9 * k * (i + o) for i, o, k in zip(ins, outs, kept, strict=True))
        whole = sum(9 * o * (i + o) for i, o in zip(ins, outs, strict=True))
        assert rate == rounded(published(now / whole))
    rates = [rate for rate, _ in walk]
    assert rates == sorted(set(rates), reverse=True)  # less is left from block to block
    assert row["max_lr"] == row["realised_peak_lr"] == rates[0]
    assert row["epochs"] == 1 + len(walk)


def test_the_key_holds_the_s_and_the_version_and_no_planned_rate(tmp_path: Path) -> None:
    made = study({"it": ICE, "flat": {**ICE, "delta": 0.0}})
    layout = Layout(made)
    assert layout._peak("it", None, 1) == layout._peak("it", None, 2) != layout._peak("flat", None, 1)
    curve = {"eps": 0.01, "delta": 0.01, "beta": 50, "midpoint": 0.88, "direction": "falling"}
    assert layout._peak("it", None, 1) == {"rule": "at-share", "args": curve}
    bench = Bench(tmp_path / "run", made)
    first = bench.unit(1, bench.unit(0, None), peak=layout._peak("it", None, 1), arm="it")
    assert first.pipeline == {"name": "ice", "version": 2, "ratio": 0.3, "threshold": 0, "freeze": 0}


def test_what_show_says_of_the_rate() -> None:
    assert "taken at the weights left when a fine-tune begins" in "\n".join(words_of(study({"it": ICE}), "it"))


# --- the loss ---


def test_distillation_is_the_divergence_at_temperature_2_by_hand() -> None:
    logits, taught = [[1.0, 3.0], [0.0, -2.0]], [[2.0, 0.0], [1.0, 1.0]]

    def softened(row: list[float]) -> list[float]:
        powers = [math.exp(value / 2) for value in row]
        return [power / sum(powers) for power in powers]

    by_hand = 0.0
    for mine, other in zip(logits, taught, strict=True):
        by_hand += sum(q * math.log(q / p) for p, q in zip(softened(mine), softened(other), strict=True))
    assert float(distillation(torch.tensor(logits), torch.tensor(taught))) == pytest.approx(by_hand / 2, rel=1e-6)


def test_a_step_descends_cross_entropy_and_divergence_and_tells_the_first_alone() -> None:
    plain = {"optimizer": {"name": "sgd", "momentum": 0.0, "weight_decay": 0.0}, "profile": "constant"}
    trainer, again = (trainer_of(unit_of(retrain=plain), {"name": "lenet-300-100"}, 0.5, 1.0) for _ in range(2))
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(16 * 16 * 3, 4)).eval()
    trainer.task = Distilled.of(classification(4), teacher)
    seen: list[tuple[Tensor, Tensor]] = []
    epoch = again.feed.epoch

    def watched(*args: Any) -> Any:
        for images, labels in epoch(*args):
            seen.append((images, labels))
            yield images, labels

    object.__setattr__(again.feed, "epoch", watched)
    told, same = trainer.one_step(), again.one_step()
    assert told == same
    images, labels = seen[0]
    model = trainer_of(unit_of(retrain=plain), {"name": "lenet-300-100"}, 0.5, 1.0).model.train()
    logits = model(images)
    (F.cross_entropy(logits, labels) + distillation(logits, teacher(images).detach())).backward()
    for mine, by_hand in zip(trainer.model.parameters(), model.parameters(), strict=True):
        assert by_hand.grad is not None
        assert torch.allclose(mine, by_hand.detach() - 0.5 * by_hand.grad, atol=1e-6)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_teacher_is_the_dense_network_and_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, dense, first = bench_of(tmp_path / "run")
    teachers: list[nn.Module] = []
    begin = IceLoop.begin.__func__  # type: ignore[attr-defined]

    def watched(cls: Any, *args: Any) -> Any:
        teachers.append(args[-1])
        return begin(cls, *args)

    monkeypatch.setattr(IceLoop, "begin", classmethod(watched))
    bench.train(first)
    own, kept = teachers[0].state_dict(), bench.weights(dense)["weights"]
    assert all(torch.equal(own[name], kept[name]) for name in kept)
    assert not any(module.training for module in teachers[0].modules())


# --- the optimizer ---


def test_every_fine_tune_begins_without_momentum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, _, first = bench_of(tmp_path / "run")
    optimizers: list[Any] = []
    run_epoch = Trainer.run_epoch

    def watched(trainer: Trainer) -> Any:
        assert not trainer.optimizer.state  # no buffer of any weight
        log = run_epoch(trainer)
        assert trainer.optimizer.state
        optimizers.append(trainer.optimizer)
        return log

    monkeypatch.setattr(Trainer, "run_epoch", watched)
    row = bench.train(first)
    assert len({id(optimizer) for optimizer in optimizers}) == row["epochs"] >= 3


# --- the probe and what it freezes ---


def test_a_change_is_that_of_the_l1_norm_in_fine_tuning_over_the_l2_norm_before_the_prune() -> None:
    original = {"a": torch.tensor([3.0, -4.0])}
    pruned, tuned = {"a": torch.tensor([3.0, 0.0])}, {"a": torch.tensor([2.0, 0.0])}
    assert layer_changes(original, pruned, tuned) == {"a": 1 / 5}
    nothing = {"a": torch.zeros(2)}
    assert layer_changes(nothing, nothing, nothing) == {"a": 0.0}


def test_the_frozen_are_counted_up() -> None:
    assert [ceil_of(share, 6) for share in (0.0, 0.1, 0.3, 0.5, 0.9)] == [0, 1, 2, 3, 6]


def test_layers_that_can_freeze_are_those_of_the_blocks() -> None:
    model = small_resnet(SHAPE, 10)
    blocks = [f"blocks.{block}.conv{n}.weight" for block in range(3) for n in (1, 2)]
    assert layers_of_blocks(model, elements_of(model, SHAPE)) == blocks  # not the first layer, not the classifier
    flat = build_model({"name": "lenet-300-100"}, SHAPE, 10, 0)
    assert layers_of_blocks(flat, elements_of(flat, SHAPE)) == ["fc1.weight", "fc2.weight"]


def test_the_batch_norm_of_a_convolution_is_the_one_behind_it() -> None:
    images = torch.randn(2, 1, 8, 8)
    behind = norms_behind(small_resnet(SHAPE, 10), images)
    assert behind["blocks.1.conv2"] == ["blocks.1.bn2"]
    assert set(behind) == {"conv1", *(f"blocks.{block}.conv{n}" for block in range(3) for n in (1, 2))}
    dense = norms_behind(build_model({"name": "densenet40"}, (32, 32, 3), 10, 0), torch.randn(2, 3, 32, 32))
    assert dense == {"conv1": ["blocks.0.bn"]}  # the others' outputs are put beside what came in


def test_the_probe_is_measured_after_its_prune_and_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, dense, first = bench_of(tmp_path / "run", {**FROZEN, "threshold": 0.99})
    seen: list[tuple[Any, ...]] = []

    def watched(original: Any, before: Any, after: Any) -> Any:
        seen.append((original, before, {name: value.detach().clone() for name, value in after.items()}))
        return layer_changes(original, before, after)

    monkeypatch.setattr(ice, "layer_changes", watched)
    bench.train(first)
    (original, before, after) = seen[0]
    name, kept = "blocks.0.conv1.weight", bench.weights(dense)["weights"]
    assert torch.equal(original[name], kept[name])
    gone = ~before[name].flatten(1).any(1)
    assert int(gone.sum()) == 2  # ceil(0.3 · 4)
    assert torch.equal(before[name][~gone], original[name][~gone])
    assert not after[name][gone].any()
    assert not torch.equal(after[name], before[name])
    # Nothing was fine-tuned: but for what was pruned, the dense network is left.
    own = bench.weights(first)["weights"]
    assert torch.equal(own["blocks.2.conv2.weight"], kept["blocks.2.conv2.weight"])


def test_frozen_convolutions_and_their_batch_norms_stay_while_all_else_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, dense, first = bench_of(tmp_path / "run", {**FROZEN, "freeze": 0.5})
    loops: list[IceLoop] = []
    hold = IceLoop._hold

    def watched(loop: IceLoop) -> None:
        loops.append(loop)
        hold(loop)

    monkeypatch.setattr(IceLoop, "_hold", watched)
    assert bench.train(first)["epochs"] > 1
    frozen = loops[0].frozen
    assert frozen is not None
    assert len(frozen) == 3  # of six
    before, after = bench.weights(dense)["weights"], bench.weights(first)["weights"]
    still = set()
    for name in frozen:
        place, number = name.removesuffix(".weight").rsplit(".conv", 1)
        still |= {name, f"{place}.bn{number}.weight", f"{place}.bn{number}.bias"}
    rows = bench.weights(first)["mask"]
    for name, _ in loops[0].model.named_parameters():
        alive = rows.get(name, torch.ones(before[name].shape, dtype=torch.bool))
        assert torch.equal(before[name][alive], after[name][alive]) == (name in still), name
    for name in (f"{n.removesuffix('.weight').replace('conv', 'bn')}.running_mean" for n in frozen):
        assert not torch.equal(before[name], after[name])  # statistics move on, as published


def test_what_a_network_freezes_itself_stays_frozen() -> None:
    trainer = trainer_of(unit_of())
    first, second = list(trainer.parameters)[:2]
    trainer.parameters[first].requires_grad_(False)
    trainer.freeze([first, second])
    trainer.thaw()
    assert not trainer.parameters[first].requires_grad
    assert trainer.parameters[second].requires_grad


# --- resuming ---


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_cycle_that_was_interrupted_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    (whole, _, first), (broken, _, _) = (bench_of(tmp_path / name) for name in ("whole", "broken"))
    straight = whole.train(first)
    assert straight["epochs"] >= 4
    trained: list[int] = []
    run_epoch = Trainer.run_epoch

    def watched(trainer: Trainer) -> Any:
        trained.append(trainer.epoch)
        return run_epoch(trainer)

    monkeypatch.setattr(Trainer, "run_epoch", watched)
    assert stable(interrupted(broken, first, epochs)) == stable(straight)
    # One epoch was under way when it was interrupted; those before it were not trained again.
    assert len(trained) == straight["epochs"] + 1
    one, other = broken.weights(first), whole.weights(first)
    assert all(torch.equal(one[group][name], other[group][name]) for group in one for name in one[group])
    assert not broken.notices


def test_a_state_of_another_walk_is_refused_and_the_cycle_starts_from_its_parent(tmp_path: Path) -> None:
    bench, _, first = bench_of(tmp_path / "run")
    untouched, progress = bench.fresh()._ice(first), bench.worker.run(first)
    for _ in range(3):
        next(progress)
    loop = bench.fresh()._ice(first)
    assert loop.walked >= 1
    groups, meta = loop.state()
    for wrong in ({"walked": "0"}, {"frozen": "fc.weight"}, {"torch": "0.1"}):
        with pytest.raises(ValueError, match=r"walk after 0|does not have|saved with"):
            untouched.restore(groups, {**meta, **wrong})
    progress.close()
    straight = bench_of(tmp_path / "whole")[0].train(first)
    assert stable(drain(bench.fresh().run(first))) == stable(straight)


def test_the_dense_network_stays_as_long_as_a_chain_distils_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(worker: Worker, result: Mapping[str, Any]) -> bytes:
        raise AssertionError(f"trial {result['key']} is trained again")

    monkeypatch.setattr(Worker, "_restate", lost)
    made = study({"it": ICE}, cycles=4)
    run = Run(str(tmp_path / "run"))
    frame = run_study(made, run.url, runner=LocalRunner()).frame
    assert set(frame.status) == {"ok"}
    result = run.result(frame[frame.cycle == 0].key.iloc[0])
    assert result is not None
    assert run.units.read_state(result) is None  # in the end it goes


# --- versions ---


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of a run of version 1, whole but without weights."""
    shutil.copytree(OLD, tmp_path / "run")
    return tmp_path / "run"


def old_units() -> list[dict[str, Any]]:
    found = [json.loads(file.read_text()) for file in OLD.glob("units/*/*/result.json")]
    return [result for result in found if result["unit"].get("pipeline")]


def test_units_of_version_1_keep_their_keys_and_are_never_those_of_today(old: Path) -> None:
    recorded = Run(str(old)).study()
    pipeline = recorded.arms["ice-pruning"].pipeline  # type: ignore[union-attr]
    assert pipeline is not None
    assert pipeline.version == 1  # type: ignore[union-attr]
    layout = Layout(recorded)
    assert layout._peak("ice-pruning", None, 1) == {"value": 0.0100000000098}
    results = old_units()
    assert len(results) == 2
    for result in results:
        assert stored_unit(result).key == result["key"]
        unit = stored_unit(result)
        again = layout._makers["ice-pruning"].make(parent=unit.parent, cycle=unit.cycle, seed=unit.seed, peak=unit.peak)
        assert again.key == result["key"]
        assert "version" not in (unit.pipeline or {})


def test_a_run_of_version_1_goes_on_only_with_what_it_has(old: Path) -> None:
    run = Run(str(old))
    recorded = run.study()
    kept = read_table((old / "table.parquet").read_bytes(), "the table", recorded)
    frame = run_study(recorded, str(old), runner=LocalRunner()).frame  # every trial is there
    assert list(frame.key) == list(kept.key)
    assert list(frame.val_score) == list(kept.val_score)
    table = recorded.model_dump(mode="json", exclude_none=True)
    del table["arms"]["ice-pruning"]["pipeline"]["version"]
    with pytest.raises(BadInput, match=r"arms\.ice-pruning\.pipeline\.version: was 1, now 2"):
        run.check(Study.model_validate(table))
    with pytest.raises(StudyError, match="version 1 is trained no more"):
        study({"it": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.1}, "profile": "constant",
                      "pipeline": {"name": "ice", "version": 1}}})  # fmt: skip


def test_a_unit_of_version_1_is_not_trained(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "run", study({"it": ICE}))
    dense = bench.unit(0, None)
    bench.train(dense)
    first = bench.unit(1, dense, arm="it")
    before = Unit.from_spec({**first.spec, "pipeline": {"name": "ice", "ratio": 0.3, "threshold": 0, "freeze": 0}})
    with pytest.raises(BadInput, match="version 1 of ICE-Pruning is trained no more"):
        bench.train(before)


def test_a_fixed_rate_stays_the_same_in_every_fine_tune() -> None:
    made = study({"it": {"mode": "schedule", "pipeline": "ice", "profile": "constant",
                         "schedule": {"name": "constant", "max_lr": 0.03}}})  # fmt: skip
    assert Layout(made)._peak("it", None, 2) == {"value": 0.03}
    schedule = made.schedule_of(made.arms["it"])  # type: ignore[arg-type]
    assert peak_of(schedule, 2, made.pruned, "it") == {"value": 0.03}


# --- what is listed ---


def test_every_deviation_from_the_public_code_is_listed_with_its_reason() -> None:
    listed = sections("deviations")
    assert len(listed) == 3
    ours = next(lines for heading, lines in listed.items() if heading.startswith("ice-pruning"))
    assert len(ours) >= 8
    assert all("there " in line and "here " in line and ": " in line for line in ours.values())
    assert not set(ours) & set(*(lines for heading, lines in listed.items() if heading.startswith("authors")))
