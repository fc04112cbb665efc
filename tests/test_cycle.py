"""One unit of work: from its parent's state to a committed result, however it is interrupted."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from silo_tune.data.load import open_examples
from silo_tune.data.sets import Split, split_rows
from silo_tune.errors import BadInput, Violation
from silo_tune.models.build import build_model, init_seed
from silo_tune.models.checkpoint import load_weights, unpack
from silo_tune.planner.unit import Unit, make_unit
from silo_tune.schedules.peaks import PruneFacts, allr_peak
from silo_tune.store.storage import unseal
from silo_tune.study.model import Study
from silo_tune.study.workspace import Workspace
from silo_tune.training.attempts import attempts
from silo_tune.training.worker import Worker, drain, resolve_peak
from tests.conftest import small_study


class Bench:
    """A worker on a run of its own, and its chain of units."""

    def __init__(self, folder: Path, study: Study) -> None:
        self.study, self.notices = study, list[str]()
        self.workspace = Workspace.of(study, str(folder))
        self.dataset: Any = open_examples(study.data, study.task)
        self.worker = self.fresh()

    def fresh(self) -> Worker:
        """A worker that knows nothing but the files."""
        return Worker(self.workspace, self.dataset, self.notices.append)

    def unit(self, cycle: int, parent: Unit | None, peak: dict[str, Any] | None = None, arm: str = "silo") -> Unit:
        settings = self.study.settings(self.study.arms[arm])
        key = parent.key if parent else None
        return make_unit(self.study, settings, parent=key, cycle=cycle, seed=0, peak=peak or {"value": 0.1})

    def train(self, unit: Unit) -> dict[str, Any]:
        return drain(self.worker.run(unit))

    def weights(self, unit: Unit) -> dict[str, dict[str, torch.Tensor]]:
        result = self.worker.units.result(unit.key)
        assert result is not None
        data = self.worker.units.read_state(result)
        assert data is not None
        return unpack(data)[0]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "run", small_study())


STABLE = ("status", "max_lr", "val_score", "val_loss", "test_score", "train_loss", "steps", "realised_peak_lr")


def stable(result: dict[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in STABLE}


def test_a_chain_of_units(bench: Bench) -> None:
    dense = bench.unit(0, None)
    first = bench.unit(1, dense)
    second = bench.unit(2, first)
    results = [bench.train(unit) for unit in (dense, first, second)]
    total = 64 * 300 + 300 * 100 + 100 * 10
    assert [round(r["weights_remaining"] * total) for r in results] == [total, round(total * 0.8), round(total * 0.64)]
    assert all(r["status"] == "ok" and 0 <= r["val_score"] <= 1 for r in results)
    assert all(r["realised_peak_lr"] == r["max_lr"] == 0.1 for r in results)
    masks = [bench.weights(unit)["mask"] for unit in (first, second)]
    for name, weights in bench.weights(second)["weights"].items():
        if name in masks[1]:
            assert not (masks[1][name] & ~masks[0][name]).any()
            assert not weights[~masks[1][name]].any()


def test_spreads_are_measured_at_the_end_of_a_unit_and_are_null_where_it_diverged(bench: Bench) -> None:
    dense = bench.unit(0, None)
    result = bench.train(dense)
    assert result["grad_spread"] > 0
    assert result["activation_spread"] > 0
    assert result["activation_spread_norm"] is None  # the network normalises nothing
    lost = bench.train(bench.unit(1, dense, {"value": 1e6}))
    assert lost["status"] == "diverged"
    assert lost["grad_spread"] is lost["activation_spread"] is None


def test_accuracies_are_counted_on_the_images_of_their_own_part(bench: Bench) -> None:
    dense = bench.unit(0, None)
    result = bench.train(dense)
    model = build_model(dense.model, bench.dataset.shape, bench.dataset.classes, 0)
    load_weights(model, bench.weights(dense)["weights"])
    feed, split = bench.worker.feed(dense), split_rows(bench.dataset, bench.study.data, dense.seed)
    assert feed.val.rows.tolist() == split.val.tolist()
    shares = []
    for part in (feed.val, feed.test):
        logits = torch.cat([model.eval()(images) for images, _ in feed.batches(part)])
        shares.append(float((logits.argmax(1) == part.labels[part.rows]).double().mean()))
    assert [result["val_score"], result["test_score"]] == pytest.approx(shares, abs=1e-9)
    assert shares[0] != shares[1]  # else this test sees nothing
    assert (result["n_val"], result["n_test"]) == (len(feed.val), len(feed.test))


def test_a_committed_unit_is_not_trained_again(bench: Bench) -> None:
    dense = bench.unit(0, None)
    first = bench.train(dense)
    assert list(bench.fresh().run(dense)) == []
    assert bench.train(dense) == first


def test_a_result_is_small_and_names_its_files(bench: Bench) -> None:
    dense = bench.unit(0, None)
    result = bench.train(dense)
    folder = Path(bench.workspace.run) / bench.worker.units.folder(dense.key)
    names = [result["examples"]["file"], "result.json", result["state"]["file"]]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert (folder / "result.json").stat().st_size <= 4096
    assert unseal((folder / "result.json").read_bytes()) == result


def test_an_interrupted_unit_goes_on_and_ends_bit_identical(tmp_path: Path) -> None:
    study = small_study(retrain={"epochs": 5})
    straight, cut = Bench(tmp_path / "a", study), Bench(tmp_path / "b", study)
    for bench in (straight, cut):
        bench.train(bench.unit(0, None))
    unit = straight.unit(1, straight.unit(0, None))
    expected = straight.train(unit)
    progress = cut.worker.run(unit)
    assert [next(progress).epoch, next(progress).epoch, next(progress).epoch] == [1, 2, 3]
    progress.close()
    cut.worker = cut.fresh()
    rest = cut.worker.run(unit)
    # The state was written before epoch 3 was told.
    assert next(rest).epoch == 4
    result = drain(rest)
    assert stable(result) == stable(expected)
    assert straight.worker.units.read_state(expected) == cut.worker.units.read_state(result)


def test_a_damaged_partial_state_costs_only_its_epochs(bench: Bench) -> None:
    bench.train(bench.unit(0, None))
    unit = bench.unit(1, bench.unit(0, None))
    progress = bench.worker.run(unit)
    next(progress)
    progress.close()
    folder = Path(bench.workspace.run) / bench.worker.units.folder(unit.key)
    partial = next(folder.glob("partial-*"))
    data = bytearray(partial.read_bytes())
    data[len(data) // 2] ^= 4
    partial.write_bytes(bytes(data))
    assert next(bench.fresh().run(unit)).epoch == 1
    assert any("corrupt" in notice for notice in bench.notices)


def test_a_partial_state_of_another_version_is_left_out(bench: Bench) -> None:
    bench.train(bench.unit(0, None))
    unit = bench.unit(1, bench.unit(0, None))
    bench.worker.units.write_partial(unit.key, "abc", 1, b"not a state of this version")
    assert bench.train(unit)["status"] == "ok"
    assert any("does not fit" in notice for notice in bench.notices)


@pytest.mark.parametrize("damage", ["gone", "truncated", "flipped"])
def test_weights_that_are_gone_are_trained_again_from_further_back(bench: Bench, damage: str) -> None:
    dense = bench.unit(0, None)
    first = bench.unit(1, dense)
    before = [bench.train(dense), bench.train(first)]
    for unit, result in zip((dense, first), before, strict=True):
        state = Path(bench.workspace.run) / bench.worker.units.folder(unit.key) / result["state"]["file"]
        if damage == "gone":
            state.unlink()
        elif damage == "truncated":
            state.write_bytes(state.read_bytes()[:1000])
        else:
            data = bytearray(state.read_bytes())
            data[-5] ^= 1
            state.write_bytes(bytes(data))
    bench.worker = bench.fresh()
    second = bench.train(bench.unit(2, first))
    assert second["status"] == "ok"
    assert [bench.worker.units.result(unit.key) for unit in (dense, first)] == before  # rows are not rewritten
    folder = Path(bench.workspace.run) / bench.worker.units.folder(first.key)
    assert (folder / "restate-1.json").exists()
    assert not any("differs from its row" in notice for notice in bench.notices)


def test_a_diverged_rate_is_a_committed_result(bench: Bench) -> None:
    bench.train(bench.unit(0, None))
    result = bench.train(bench.unit(1, bench.unit(0, None), {"value": 1e8}))
    assert result["status"] == "diverged"
    assert "epoch" in result["error"]
    assert (result["val_score"], result["test_score"], result["state"]) == (None, None, None)
    assert json.dumps(result, allow_nan=False)


def test_keep_rewind_and_reinit_start_from_what_they_say(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = bench.unit(0, None)
    bench.train(dense)
    parent = bench.weights(dense)["weights"]
    starts = {}
    for after in ("keep", "rewind", "reinit"):
        study = small_study(prune={"after_prune": after})
        unit = make_unit(
            study, study.settings(study.arms["silo"]), parent=dense.key, cycle=1, seed=0, peak={"value": 0.1}
        )
        model, masks, _ = bench.worker.prepared(unit)
        starts[after] = {name: value.clone() for name, value in model.state_dict().items()}
        for name, mask in masks.items():
            assert not starts[after][name][~mask].any()
    init = build_model({"name": "lenet-300-100"}, (8, 8, 1), 10, init_seed(0)).state_dict()
    assert torch.equal(starts["keep"]["fc1.bias"], parent["fc1.bias"])
    assert torch.equal(starts["rewind"]["fc1.bias"], init["fc1.bias"])
    assert not torch.equal(starts["reinit"]["fc1.bias"], init["fc1.bias"])


@pytest.mark.parametrize("point", ["1 ep", "3 it"])
def test_a_rewind_point_is_kept_by_the_dense_unit_and_replayed_when_it_is_gone(tmp_path: Path, point: str) -> None:
    study = small_study(prune={"after_prune": "rewind", "rewind_to": point}, dense={"epochs": 3})
    bench = Bench(tmp_path / "run", study)
    dense = bench.unit(0, None)
    bench.train(dense)
    kept = bench.worker.units.read_rewind(dense.key, point)
    assert kept is not None
    unit = bench.unit(1, dense)
    first = bench.worker._rewind_weights(unit)
    for path in (Path(bench.workspace.run) / bench.worker.units.folder(dense.key)).glob("rewind-*"):
        path.unlink()
    again = bench.fresh()._rewind_weights(unit)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert bench.worker.units.read_rewind(dense.key, point) == kept


def test_a_rewind_point_beyond_the_dense_training_is_named(tmp_path: Path) -> None:
    study = small_study(prune={"after_prune": "rewind", "rewind_to": "1000 it"})
    bench = Bench(tmp_path / "run", study)
    dense = bench.unit(0, None)
    bench.train(dense)
    with pytest.raises(BadInput, match="never reaches"):
        bench.train(bench.unit(1, dense))


def test_an_adaptive_peak_is_resolved_after_the_prune(bench: Bench) -> None:
    dense = bench.unit(0, None)
    bench.train(dense)
    rule = {"rule": "allr", "args": {"max_lr": 0.2, "train_epochs": 8}}
    result = bench.train(bench.unit(1, dense, rule))
    weights = bench.weights(dense)["weights"]
    norm = math.sqrt(sum(float(value.double().square().sum()) for value in weights.values()))
    prunable = torch.cat([weights[f"fc{i}.weight"].flatten() for i in (1, 2, 3)]).double()
    lost = float(prunable.abs().sort().values[: len(prunable) - round(len(prunable) * 0.8)].square().sum())
    share = 1 - round(len(prunable) * 0.8) / len(prunable)
    d1 = math.sqrt(lost) / (norm * math.sqrt(share))
    assert result["max_lr"] == pytest.approx(0.2 * min(1.0, max(d1, 2 / 8)), rel=1e-5)
    assert result["realised_peak_lr"] == result["max_lr"]


def test_fixed_and_adaptive_peaks_resolve_alike(bench: Bench) -> None:
    facts = PruneFacts(10.0, 8.0, 0.2, 5)
    unit = bench.unit(1, bench.unit(0, None), {"rule": "allr", "args": {"max_lr": 0.1, "train_epochs": 50}})
    assert resolve_peak(unit, facts) == pytest.approx(allr_peak(facts, 0.1, 50))
    assert resolve_peak(bench.unit(1, bench.unit(0, None), {"value": 0.3}), facts) == 0.3


def test_two_writers_of_one_unit_commit_one_result(bench: Bench) -> None:
    dense = bench.unit(0, None)
    one, other = bench.fresh().run(dense), bench.fresh().run(dense)
    next(one)
    next(other)
    results = [drain(one), drain(other)]
    assert results[0] == results[1]
    folder = Path(bench.workspace.run) / bench.worker.units.folder(dense.key)
    assert len(list(folder.glob("state-*"))) == len(list(folder.glob("examples-*"))) == 1


def test_a_unit_that_raises_once_is_tried_again(tmp_path: Path) -> None:
    marker = str(tmp_path / "marker")
    bench = Bench(
        tmp_path / "run", small_study(model={"name": None, "function": "tests.users:fragile", "version": "1"})
    )
    unit = replace(bench.unit(0, None), model={"function": "tests.users:fragile", "version": "1", "marker": marker})
    result = drain(attempts(bench.worker, unit, 1))
    assert result["status"] == "ok"
    assert any("a passing fault" in notice for notice in bench.notices)


def test_what_the_user_must_mend_is_not_tried_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "run", small_study())
    unit = replace(bench.unit(0, None), model={"name": "timm:no_such_model"})
    with pytest.raises(BadInput, match="timm cannot build 'no_such_model'"):
        drain(attempts(bench.worker, unit, 2))
    assert bench.notices == []
    assert not list(Path(bench.workspace.run).glob("units/*/*/failure-*.txt"))


def test_a_unit_that_always_raises_fails_with_its_reason_and_log(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "run", small_study())
    unit = replace(bench.unit(0, None), model={"function": "tests.users:fragile", "version": "1", "marker": "always"})
    outcome = drain(attempts(bench.worker, unit, 2))
    assert outcome["status"] == "failed"
    assert "this network never trains" in outcome["error"]
    logs = list((Path(bench.workspace.run) / bench.worker.units.folder(unit.key)).glob("failure-*.txt"))
    assert len(logs) == 3
    assert "forward" in logs[0].read_text()
    assert bench.worker.units.result(unit.key) is None


def test_a_wrong_count_or_a_revived_weight_is_a_violation(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = bench.unit(0, None)
    first = bench.unit(1, dense)
    bench.train(dense)
    bench.train(first)

    def too_many(scores: Any, masks: Any, *where: Any) -> Any:
        return dict(masks)

    def revived(scores: Any, masks: Any, *where: Any) -> Any:
        return {name: ~mask for name, mask in masks.items()}

    for wrong, message in ((too_many, "were declared"), (revived, "back to life")):
        monkeypatch.setattr("silo_tune.pruning.prune_step.shrink", wrong)
        with pytest.raises(Violation, match=message):
            bench.train(bench.unit(2, first))


def test_a_pretrained_network_is_cycle_zero(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = build_model({"name": "lenet-300-100"}, (8, 8, 1), 10, seed=99)
    file = tmp_path / "net.safetensors"
    save_file(model.state_dict(), file)
    study = small_study(dense={"checkpoint": str(file), "epochs": None, "max_lr": None})
    bench = Bench(tmp_path / "run", study)
    settings = study.settings(study.arms["silo"])
    unit = make_unit(study, settings, parent=None, cycle=0, seed=0, peak=None, checkpoint="0" * 64)
    result = bench.train(unit)
    assert (result["status"], result["epochs"], result["steps"], result["max_lr"]) == ("ok", 0, 0, None)
    assert torch.equal(bench.weights(unit)["weights"]["fc1.weight"], model.state_dict()["fc1.weight"])
    wrong = Bench(tmp_path / "other", small_study(dense={"checkpoint": str(file), "epochs": None, "max_lr": None}))
    wrong_unit = replace(unit, model={"function": "tests.users:model", "version": "1"})
    with pytest.raises(BadInput, match="does not fit the model"):
        wrong.train(wrong_unit)


def test_a_users_criterion_scores_weights(bench: Bench) -> None:
    dense = bench.unit(0, None)
    bench.train(dense)
    unit = bench.unit(1, dense)
    assert unit.prune is not None
    expected = bench.train(unit)["val_score"]
    for name in ("criterion", "destructive"):  # w² ranks as |w| does; the other works on a copy of the network
        function = {"function": f"tests.users:{name}", "version": "1"}
        theirs = replace(unit, prune=replace(unit.prune, criterion=function))
        assert bench.train(theirs)["val_score"] == expected


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_an_image_in_two_parts_is_a_violation(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaking(dataset: Any, data: Any, seed: int) -> Split:
        split = split_rows(dataset, data, seed)
        return Split(np.append(split.train, split.val[:1]), split.val, split.test, split.test_in_train)

    monkeypatch.setattr("silo_tune.training.worker.split_rows", leaking)
    with pytest.raises(Violation, match="overlap"):
        bench.train(bench.unit(0, None))


def test_a_ramp_that_never_reaches_its_peak_is_a_violation(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class Short:
        maximum = 1.0

        def __call__(self, step: int, total: int) -> float:
            return 0.7 * (step + 1) / total

    monkeypatch.setattr("silo_tune.training.trainer.made_profile", lambda table, key: Short())
    with pytest.raises(Violation, match="the optimizer was given at most"):
        bench.train(bench.unit(0, None))


@pytest.mark.parametrize(
    "optimizer", [{"name": "sgd", "momentum": 0.9}, {"name": "adamw"}], ids=lambda one: one["name"]
)
def test_the_momentum_of_one_cycle_runs_against_the_rate(optimizer: dict[str, Any], tmp_path: Path) -> None:
    profile = {"name": "one-cycle", "momentum": [0.95, 0.85]}
    study = small_study(dense={"epochs": 4, "profile": profile}, retrain={"optimizer": optimizer})
    bench = Bench(tmp_path, study)
    trainer = bench.worker.start(bench.unit(0, None))
    seen = []
    for _ in range(4):
        trainer.run_epoch()
        group = trainer.optimizer.param_groups[0]
        seen.append(group["betas"][0] if "betas" in group else group["momentum"])
    assert seen[0] == pytest.approx(0.85, abs=0.02)  # its top is at 30 %
    assert seen[-1] == pytest.approx(0.95, abs=1e-9)
    assert seen == sorted(seen)


def test_a_momentum_that_is_not_there_cannot_run(tmp_path: Path) -> None:
    profile = {"name": "one-cycle", "momentum": [0.95, 0.85]}
    optimizer = {"name": "sgd", "momentum": 0.0}
    bench = Bench(tmp_path, small_study(dense={"profile": profile}, retrain={"optimizer": optimizer}))
    with pytest.raises(BadInput, match="its momentum runs against the rate"):
        bench.worker.start(bench.unit(0, None))
