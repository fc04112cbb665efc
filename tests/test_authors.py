"""The preset "authors-2023": every deviation changes what it says, alone, and can be switched off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from silo_tune.api import run_study
from silo_tune.data.batches import Feed
from silo_tune.data.sets import DataSet, split_rows
from silo_tune.errors import BadInput, StudyError
from silo_tune.models.build import build_model
from silo_tune.models.checkpoint import unpack
from silo_tune.pruning.masks import by_percentile, full_masks
from silo_tune.run.local import LocalRunner
from silo_tune.schedules.peaks import Schedule
from silo_tune.schedules.shapes import make_profile, maximum_of
from silo_tune.store.run_folder import Run
from silo_tune.study.arms import ScheduleArm
from silo_tune.study.authors import DEVIATIONS, IMAGES, parts_of_run
from silo_tune.study.data import Data
from silo_tune.study.model import Study
from silo_tune.study.study_file import load_study, parse_study
from silo_tune.tasks.supervised import classification
from silo_tune.training.trainer import evaluate
from tests.conftest import small_table
from tests.test_cycle import Bench

CPU = torch.device("cpu")


def study(without: tuple[str, ...] = (), run: int = 0, network: str = "resnet20", **changes: Any) -> Study:
    preset = {"name": "authors-2023", "network": network, "run": run, "without": list(without)}
    return parse_study({"name": "authors", "preset": preset, **changes})


def flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {leaf: item for key, part in value.items() for leaf, item in flat(part, f"{path}.{key}").items()}
    return {path.removeprefix("."): value}


def leaves(made: Study) -> dict[str, Any]:
    return {
        key: value
        for key, value in flat(made.model_dump(mode="json", exclude_none=True)).items()
        if "preset" not in key
    }


# --- the list ---


@pytest.mark.parametrize("network", ["resnet20", "vgg19"])
@pytest.mark.parametrize("run", [0, 3])
@pytest.mark.parametrize("name", DEVIATIONS)
def test_a_deviation_that_is_switched_off_changes_its_own_values_only(name: str, run: int, network: str) -> None:
    on, off = leaves(study(run=run, network=network)), leaves(study((name,), run, network))
    changed = {key for key in {*on, *off} if on.get(key) != off.get(key)}
    shows = {"shrinking-data": run > 0, "leaking-peak": run > 0, "imagenet-head": network == "vgg19"}
    shows["projection-shortcuts"] = network == "resnet20"
    assert bool(changed) == shows.get(name, True)
    sections = {"change-criterion": "prune", "initialisation": "model", "pooled-test": "data"}
    if name in sections:
        assert all(key.startswith(sections[name]) for key in changed)


def test_without_all_of_them_it_is_a_correct_study_of_the_same_budget() -> None:
    made = study(tuple(DEVIATIONS))
    assert (made.cycles, made.retrain.epochs, made.retrain.batch, made.prune.rate) == (25, 50, 64, 0.2)
    assert made.prune.criterion.name == "magnitude"
    assert made.evaluate.resolved() is None
    assert not made.data.pool
    arm = made.arms["silo"]
    assert isinstance(arm, ScheduleArm)
    assert arm.schedule.args == {"eps": 0.03, "delta": 0.04}
    assert study(tuple(DEVIATIONS), network="vgg19").retrain.epochs == 160


def test_what_the_study_writes_wins_and_the_run_reads_back_as_itself() -> None:
    made = study(cycles=5, prune={"criterion": "magnitude"}, retrain={"epochs": 2})
    assert (made.cycles, made.prune.criterion.name, made.retrain.epochs, made.retrain.batch) == (5, "magnitude", 2, 64)
    assert parse_study(made.model_dump(mode="json", exclude_none=True), recorded=True) == made


def test_a_key_that_excludes_a_filled_one_takes_its_place() -> None:
    assert study(prune={"targets": [0.5] + [0.5 - 0.01 * i for i in range(1, 24)]}).prune.rate is None
    loaded = study(("reinit", "stale-statistics", "change-criterion"), dense={"checkpoint": "w.safetensors"})
    assert loaded.dense.epochs is None
    assert study(data={"function": "m:images", "version": "1"}).data.name is None


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        ("authors-2022", "unknown preset of a study 'authors-2022'; choose from authors-2023"),
        ({"name": "authors-2023", "network": "resnet50"}, "unknown network 'resnet50'; choose from resnet20, vgg19"),
        ({"name": "authors-2023", "without": ["reinits"]}, "unknown deviation 'reinits'; choose from"),
        ({"name": "authors-2023", "run": 10}, "preset: run: .*less than or equal to 9"),
        ({"name": "authors-2023", "run": -1}, "preset: run: .*greater than or equal to 0"),
        ({"name": "authors-2023", "run": "x"}, "preset: run: .*valid integer"),
        ({"name": "authors-2023", "without": "reinit"}, "preset: without: "),
        ({"name": "authors-2023", "runs": 1}, "preset: runs: "),
    ],
)
def test_a_wrong_preset_is_told_at_its_key(preset: Any, words: str) -> None:
    with pytest.raises(StudyError, match=words):
        parse_study({"name": "x", "preset": preset})


# --- what the scripts do ---


def test_a_run_draws_its_parts_from_the_training_and_test_images_of_the_last() -> None:
    assert parts_of_run(0) == (36_000, 12_000, 12_000)
    assert parts_of_run(1) == (28_800, 9_600, 9_600)
    for run in range(9):
        train, _, test = parts_of_run(run)
        assert sum(parts_of_run(run + 1)) == train + test
        assert sum(parts_of_run(run)) == pytest.approx(IMAGES * 0.8**run, abs=3)


def test_the_realised_peak_of_resnet20_is_0_70_in_run_0_and_0_56_in_run_1() -> None:
    for run, share in ((0, 0.70), (1, 0.56)):
        made = study(run=run)
        profile = made.settings(made.arms["silo"]).profile
        shape = make_profile(profile["name"], {key: value for key, value in profile.items() if key != "name"})
        steps = -(-parts_of_run(run)[0] // 64)
        assert maximum_of(shape, 50 * steps) == pytest.approx(share, abs=0.005)


def test_the_peak_of_the_last_cycle_leaks_into_the_first_of_the_next_run() -> None:
    made = study(run=2)
    arm = made.arms["silo"]
    assert isinstance(arm, ScheduleArm)
    schedule = made.schedule_of(arm)
    assert isinstance(schedule, Schedule)
    peaks = [schedule.peak(cycle, made.pruned) for cycle in range(25)]
    assert made.dense.max_lr == pytest.approx(0.07, abs=1e-5)
    assert peaks[1] == peaks[24] == made.dense.max_lr
    assert peaks[2:7] == pytest.approx([0.03004, 0.03213, 0.04761, 0.06446, 0.06893], abs=5e-6)


def test_a_percentile_counts_layers_with_a_bias_twice() -> None:
    scores = {"conv": torch.tensor([1.0, 2.0, 3.0, 4.0]), "fc": torch.tensor([10.0, 20.0])}
    masks = full_masks(scores)
    # Percentile 50 of 1 2 3 4 10 10 20 20 is 7: all of conv goes. Counted once, of 1 2 3 4 10 20, it is 3.5.
    assert by_percentile(scores, masks, 0.5, "global", ["fc"])["conv"].tolist() == [False] * 4
    assert by_percentile(scores, masks, 0.5, "global", [])["conv"].tolist() == [False, False, False, True]
    # Layerwise what is below goes: 2.5 and 15.
    layerwise = by_percentile(scores, masks, 0.5, "layerwise", ["fc"])
    assert layerwise["conv"].tolist() == [False, False, True, True]
    assert layerwise["fc"].tolist() == [False, True]
    living = {**masks, "conv": torch.tensor([False, True, True, True])}
    assert by_percentile(scores, living, 0.3, "layerwise", [])["conv"].tolist() == [False, False, True, True]


def test_initial_weights_are_xavier_normal_and_biases_normal() -> None:
    model = build_model({"name": "lenet-300-100", "init": "xavier-normal"}, (28, 28, 1), 10, 0)
    parameters = dict(model.named_parameters())
    assert float(parameters["fc1.weight"].detach().std()) == pytest.approx((2 / (784 + 300)) ** 0.5, rel=0.02)
    assert float(parameters["fc1.bias"].detach().std()) == pytest.approx(1.0, rel=0.15)
    resnet = build_model({"name": "resnet8", "width": 16, "init": "xavier-normal"}, (32, 32, 3), 10, 0)
    scales = torch.cat([m.weight.detach() for m in resnet.modules() if isinstance(m, nn.BatchNorm2d)])
    assert float(scales.mean()) == pytest.approx(1.0, abs=0.01)
    assert float(scales.std()) == pytest.approx(0.02, rel=0.2)


# --- other ways to measure ---


class Constant(nn.Module):
    """Says class 0, whatever it sees."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([1.0, 0.0]).expand(len(images), 2)


TWO = classification(2)


def feed(**data: Any) -> Feed:
    labels = np.arange(200, dtype=np.int64) % 2
    pixels = np.arange(200 * 64, dtype=np.uint32).astype(np.uint8).reshape(200, 8, 8, 1)
    table = Data(name="digits", val_share=0.25, test_share=0.2, **data)
    made = DataSet(pixels, labels, None, None, 2)
    return Feed.make(made, split_rows(made, table, 0), table.augmentation(), CPU)


def test_images_of_a_dropped_batch_count_as_wrong() -> None:
    part = feed().val  # 40 images, half of them of class 0
    assert evaluate(TWO, Constant(), feed(), part).score == 0.5
    first = part.labels[part.rows[:32]]
    assert evaluate(TWO, Constant(), feed(), part, whole_batches=32).score == int((first == 0).sum()) / 40
    with pytest.raises(BadInput, match=r"evaluate\.drop_last: 40 images do not fill a batch of 64"):
        evaluate(TWO, Constant(), feed(), part, whole_batches=64)


def test_images_are_augmented_for_evaluation_only_where_that_is_asked_for() -> None:
    made = feed(augment=("crop", "flip"), crop_padding=2)
    plain = torch.cat([images for images, _ in made.batches(made.val)])
    again = torch.cat([images for images, _ in made.batches(made.val)])
    assert torch.equal(plain, again)
    generator = torch.Generator().manual_seed(0)
    augmented = torch.cat([images for images, _ in made.batches(made.val, augment=generator)])
    assert augmented.shape == plain.shape
    assert not torch.equal(plain, augmented)


def test_fixed_normalisation_is_used_as_given() -> None:
    made = feed(mean=(0.5,), std=(0.25,))
    images, _ = next(made.batches(made.val))
    pixels = made.val.images[made.val.rows[: len(images)]]
    assert torch.allclose(images[:, 0], (pixels[..., 0] / 255 - 0.5) / 0.25, atol=1e-5)
    with pytest.raises(StudyError, match="mean and std are given together"):
        study(data={"name": "cifar10", "std": None})
    with pytest.raises(BadInput, match="give 1 numbers each"):
        feed(mean=(0.5, 0.5), std=(0.25, 0.25))


# --- end to end ---


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Study]:
    """Three cycles of two epochs on digits, in a small network."""
    place = tmp_path_factory.mktemp("authors")
    table = study(run=1).model_dump(mode="json", exclude_none=True)
    table |= {"cycles": 3, "replicates": {"seeds": [1]}, "cluster": {"keep": "all"}, "report": {"tolerance": 0.05}}
    table["data"] |= {"name": "digits", "mean": [0.3], "std": [0.3], "augment": ["crop"], "crop_padding": 1}
    table["data"] |= {"pool": False, "train_examples": 600, "val_examples": 200, "test_examples": 200}
    table["model"] = {"function": "tests.test_authors:network", "version": "1"}
    table["dense"] |= {"epochs": 2}
    table["retrain"] |= {"epochs": 2}
    made = parse_study(table, recorded=True)
    outcome = run_study(made, str(place / "run"), runner=LocalRunner())
    return (outcome, made)


def network(shape: tuple[int, int, int], classes: int) -> nn.Module:
    from silo_tune.models.cifar_resnet import CifarResNet

    return CifarResNet(1, 4, shape[2], classes)


def test_it_runs_end_to_end(small: tuple[Any, Study]) -> None:
    frame = small[0].frame
    assert list(frame.status) == ["ok"] * 3
    # A percentile of 20 % in which some count twice: near 80 % and 64 %, and not exactly so.
    assert list(frame.weights_remaining)[1:] == pytest.approx([0.8, 0.64], abs=0.1)
    assert frame.weights_remaining[1] != 0.8
    assert (frame.realised_peak_lr < frame.max_lr).all()


@pytest.mark.parametrize("kept", [True, False])
def test_statistics_outlive_weights_that_are_drawn_anew_only_where_asked(tmp_path: Path, kept: bool) -> None:
    table = small_table(prune={"after_prune": "reinit", "keep_statistics": kept})
    made = parse_study({**table, "model": {"function": "tests.test_authors:network", "version": "1"}})
    bench = Bench(tmp_path / "run", made)
    dense = bench.unit(0, None)
    bench.train(dense)
    parent = bench.weights(dense)["weights"]
    begun = bench.worker.start(bench.unit(1, dense)).model.state_dict()
    means = [name for name in parent if name.endswith("running_mean")]
    assert means
    assert all(torch.equal(begun[name], parent[name]) == kept for name in means)
    assert not torch.equal(begun["conv1.weight"], parent["conv1.weight"])


def test_scales_of_batch_norm_are_pruned(small: tuple[Any, Study]) -> None:
    run, frame = Run(small[0].url), small[0].frame
    result = run.result(frame.key[2])
    assert result is not None
    data = run.units.read_state(result)
    assert data is not None
    groups, _ = unpack(data)
    scales = {name: mask for name, mask in groups["mask"].items() if "bn" in name}
    assert scales
    assert any(not bool(mask.all()) for mask in scales.values())


def test_smoke_shrinks_what_the_preset_filled_in(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('name = "a"\n[preset]\nname = "authors-2023"\n')
    made = load_study(tmp_path / "a.toml", smoke=True)
    assert (made.cycles, made.retrain.epochs, made.dense.epochs) == (3, 1, 1)
    later = load_study(tmp_path / "a.toml", ["preset.run=2", "preset.without=['reinit']"])
    assert later.data.train_examples == parts_of_run(2)[0]
    assert later.prune.after_prune == "keep"
