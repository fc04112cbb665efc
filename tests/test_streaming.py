"""Streamed sets: the same batches, bit by bit, as the same set in memory."""

from __future__ import annotations

import random
import resource
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from silo_tune.api import run_study
from silo_tune.data.batches import Feed, channel_statistics
from silo_tune.data.images import Form, random_resized_crop
from silo_tune.data.load import facts, load_data, open_data
from silo_tune.data.loader import moments_of, read
from silo_tune.data.sets import DataSet, StreamedSet, split_rows
from silo_tune.errors import BadInput
from silo_tune.models.checkpoint import unpack
from silo_tune.planner.unit import make_unit
from silo_tune.seeds import stream
from silo_tune.study.data import Data
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study
from silo_tune.study.workspace import Workspace
from silo_tune.training.attempts import attempts
from silo_tune.training.worker import Worker, drain
from tests.conftest import small_table
from tests.test_data import encoded

CPU = torch.device("cpu")
CLASSES = ("n01", "n02", "n03", "n04")


def real_images(count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Real digits of four classes, enlarged to 16×16 and coloured: rows differ in every channel."""
    digits = load_data(Data(name="digits"))
    rows = np.flatnonzero(digits.train_labels < len(CLASSES))[:count]
    grey = digits.train[rows].repeat(2, 1).repeat(2, 2)
    return np.concatenate([grey, 255 - grey, grey // 2], 3), digits.train_labels[rows]


def write_classes(folder: Path, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> None:
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / CLASSES[label] / "images"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{CLASSES[label]}_{row}.png").write_bytes(encoded(image))


def make_folder(root: Path) -> Data:
    images, labels = real_images(200)
    write_classes(root / "train", images[:150], labels[:150])
    write_classes(root / "test", images[150:], labels[150:])
    return Data(name="folder", path=str(root))


def make_tiny_imagenet(root: Path) -> Data:
    """Its published layout; one image is grey, as there."""
    images, labels = real_images(200)
    write_classes(root / "train", images[:150], labels[:150])
    Image.fromarray(images[0, :, :, 0]).save(next((root / "train").rglob("*.png")))
    (root / "val" / "images").mkdir(parents=True)
    lines = []
    for row in range(150, 200):
        (root / "val" / "images" / f"val_{row}.JPEG").write_bytes(encoded(images[row]))
        lines.append(f"val_{row}.JPEG\t{CLASSES[labels[row]]}\t0\t0\t15\t15\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines), encoding="utf-8")
    (root / "test" / "images").mkdir(parents=True)
    return Data(name="tiny-imagenet", path=str(root))


def make_imagenet(root: Path) -> Data:
    """Images of different sizes, as there."""
    images, labels = real_images(200)
    write_classes(root / "train", images[:150], labels[:150])
    write_classes(root / "val", images[150:], labels[150:])
    wide = next((root / "train").rglob("*.png"))
    Image.fromarray(images[0]).resize((50, 20)).save(wide)
    return Data(name="imagenet", path=str(root), size=14)


def write_parquet(root: Path, parts: Mapping[str, slice]) -> None:
    """Real images in Hugging Face layout; the training part in two files."""
    images, labels = real_images(200)
    root.mkdir(parents=True, exist_ok=True)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    for name, rows in parts.items():
        items = [{"bytes": encoded(image), "path": None} for image in images[rows]]
        table = pa.table({"image": pa.array(items, kind), "label": labels[rows]})
        pq.write_table(table, root / f"{name}.parquet")


TRAIN = {"train-00000-of-00002": slice(0, 90), "train-00001-of-00002": slice(90, 150)}


def make_parquet(root: Path) -> Data:
    write_parquet(root, {**TRAIN, "test-00000-of-00001": slice(150, 200)})
    return Data(name="huggingface", path=str(root))


def make_tiny_imagenet_of_the_hub(root: Path) -> Data:
    write_parquet(root / "data", {**TRAIN, "valid-00000-of-00001": slice(150, 200)})
    return Data(name="tiny-imagenet", path=str(root))


def make_imagenet_of_the_hub(root: Path) -> Data:
    """Beside its parts there is a test part without labels."""
    parts = {"validation-00000-of-00001": slice(150, 200), "test-00000-of-00001": slice(0, 9)}
    write_parquet(root / "data", {**TRAIN, **parts})
    return Data(name="imagenet", path=str(root), size=14)


MAKERS: dict[str, Callable[[Path], Data]] = {
    "folder": make_folder,
    "tiny-imagenet": make_tiny_imagenet,
    "imagenet": make_imagenet,
    "huggingface": make_parquet,
    "tiny-imagenet of the Hub": make_tiny_imagenet_of_the_hub,
    "imagenet of the Hub": make_imagenet_of_the_hub,
}


@pytest.fixture(autouse=True)
def _own_home_of_datasets(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def test_every_set_that_can_be_streamed_is_tested_here() -> None:
    from silo_tune.study import registry

    assert {maker.split(" ")[0] for maker in MAKERS} == {name for name, entry in registry.DATA.items() if entry.streams}


@pytest.fixture(scope="module", params=MAKERS)
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Data:
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param) / "set")


def with_(data: Data, **changes: Any) -> Data:
    return Data.model_validate({**data.model_dump(exclude_none=True), **changes})


def feed_of(data: Data, dataset: DataSet | StreamedSet | None = None) -> Feed:
    dataset = dataset or open_data(data)
    return Feed.make(dataset, split_rows(dataset, data, 3), data.augmentation(), CPU)


def batches_of(feed: Feed, batch: int = 16) -> Iterator[torch.Tensor]:
    for images, labels in feed.epoch(batch, stream("order", 1), stream("augment", 1)):
        yield images
        yield labels
    for part in (feed.train, feed.val, feed.test):
        for images, labels in feed.batches(part, 50):
            yield images
            yield labels


def same(one: Feed, other: Feed) -> bool:
    return all(torch.equal(a, b) for a, b in zip(batches_of(one), batches_of(other), strict=True))


@pytest.mark.parametrize("augment", [(), ("crop", "flip")])
def test_a_streamed_set_gives_the_batches_of_the_set_in_memory(data: Data, augment: tuple[str, ...]) -> None:
    here = with_(data, stream=False, augment=augment, crop_padding=2)
    there = with_(data, stream=True, augment=augment, crop_padding=2)
    memory, streamed = feed_of(here), feed_of(there)
    assert isinstance(memory.train.images, torch.Tensor)
    assert not isinstance(streamed.train.images, torch.Tensor)
    assert torch.equal(memory.mean, streamed.mean)
    assert torch.equal(memory.scale, streamed.scale)
    assert same(memory, streamed)
    layouts = [next(batches_of(feed)).is_contiguous(memory_format=torch.channels_last) for feed in (memory, streamed)]
    assert layouts == [True, True]


def test_limits_and_a_pool_draw_the_same_rows(data: Data) -> None:
    limits = {"train_examples": 60, "val_examples": 20, "test_examples": 20, "pool": True, "test_share": 0.3}
    memory = feed_of(with_(data, stream=False, **limits))
    streamed = feed_of(with_(data, stream=True, **limits))
    assert torch.equal(memory.mean, streamed.mean)
    assert same(memory, streamed)
    assert max(memory.test.rows.tolist()) >= 150  # some come from the official test part
    assert min(memory.test.rows.tolist()) < 150


def test_processes_of_the_loader_change_nothing(data: Data) -> None:
    rrc = with_(data, stream=True, augment=("rrc", "flip"))
    alone, helped = feed_of(rrc), feed_of(with_(rrc, workers=2))
    assert same(alone, helped)


def test_a_random_resized_crop_is_a_function_of_stream_and_position(data: Data) -> None:
    feed = feed_of(with_(data, stream=True, augment=("rrc",)))
    plain = feed_of(with_(data, stream=True))

    def epoch(feed: Feed, seed: int, batch: int = 16) -> torch.Tensor:
        found = list(feed.epoch(batch, stream("order", 0), stream("augment", seed)))
        return torch.cat([images for images, _ in found])

    before = random.getstate()
    first = epoch(feed, 1)
    assert random.getstate() == before
    random.seed(5)
    assert torch.equal(epoch(feed, 1), first)
    assert torch.equal(epoch(feed, 1, 24)[:96], first[:96])  # batches are not part of it
    assert not torch.equal(epoch(feed, 2), first)
    assert not torch.equal(epoch(plain, 1), first)
    assert same(replace(feed, augmentation={"augment": []}), plain)  # evaluation is never cropped


def test_a_crop_of_a_flat_image_is_flat_and_a_seed_finds_it_again() -> None:
    flat = encoded(np.full((30, 20, 3), 77, np.uint8))
    assert (random_resized_crop("flat", flat, (8, 8, 3), 1) == 77).all()
    noise = encoded(np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8))
    crops = [random_resized_crop("noise", noise, (8, 8, 3), seed) for seed in (1, 1, 2)]
    assert np.array_equal(crops[0], crops[1])
    assert not np.array_equal(crops[0], crops[2])


def test_the_centre_is_timms_own() -> None:
    from timm.data.transforms_factory import create_transform

    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    theirs = create_transform((3, 16, 16), is_training=False, normalize=False)(Image.fromarray(picture))
    ours = Form(16, rgb=True, centre=True).decode("x", encoded(picture))
    assert np.array_equal(ours, theirs.permute(1, 2, 0).numpy())


# --- sums ---


def test_statistics_of_any_rows_are_those_of_memory(data: Data) -> None:
    memory, streamed = load_data(data), open_data(with_(data, stream=True))
    assert isinstance(streamed, StreamedSet)
    for rows in (np.arange(150), np.array([3, 1, 149]), np.arange(0, 150, 7)):
        for one, other in zip(
            channel_statistics(memory.train, rows), channel_statistics(streamed.train, rows), strict=True
        ):
            assert np.array_equal(one, other)
    pixels = memory.train.astype(np.int64)
    assert streamed.train.moments is not None
    assert np.array_equal(streamed.train.moments[..., 0], pixels.sum((1, 2)))
    assert np.array_equal(streamed.train.moments[..., 1], (pixels**2).sum((1, 2)))


def test_sums_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = with_(make_folder(tmp_path / "set"), stream=True)
    before = feed_of(data).mean
    monkeypatch.setattr("silo_tune.data.loader.read", lambda *_: pytest.fail("read again"))
    assert torch.equal(feed_of(data).mean, before)
    # Not all images train, or none says how they are normalised: none is read before it is needed.
    for changes in ({"train_examples": 30}, {"mean": [0.5] * 3, "std": [0.2] * 3}):
        dataset = open_data(with_(data, **changes))
        assert isinstance(dataset, StreamedSet)
        assert dataset.train.moments is None


# --- identity ---


def test_a_stream_is_small_and_knows_its_data_by_names_sizes_and_labels(tmp_path: Path) -> None:
    data = with_(make_folder(tmp_path / "set"), stream=True)
    found = facts(open_data(data), data)
    assert found["streamed"]
    assert found["content"] == found["listing"] == facts(load_data(data), data)["listing"]
    assert (found["classes"], found["shape"], found["n_test"]) == (4, [16, 16, 3], 50)
    file = next((tmp_path / "set").rglob("*.png"))
    moved = file.rename(file.with_name("other.png"))
    assert facts(open_data(data), data)["content"] != found["content"]
    moved.rename(file)
    assert facts(open_data(data), data)["content"] == found["content"]
    file.write_bytes(encoded(np.zeros((16, 16, 3), np.uint8)))
    assert facts(open_data(data), data)["content"] != found["content"]


def study_of(data: Data, **changes: Any) -> Study:
    """One arm on some of the images."""
    own = {
        **data.model_dump(mode="json", exclude_none=True),
        "train_examples": 64,
        "val_examples": 30,
        "test_examples": 40,
    }
    table = {**small_table(report={"tolerance": 0.1}, **changes), "data": own}
    return parse_study({**table, "arms": {"silo": table["arms"]["silo"]}})


def test_the_listing_is_the_same_both_ways(data: Data) -> None:
    memory, streamed = (facts(found, data) for found in (load_data(data), open_data(with_(data, stream=True))))
    differing = {key for key in memory if memory[key] != streamed[key]}
    assert differing == {"content", "streamed"}


@pytest.mark.slow
def test_a_run_may_change_between_memory_and_stream(tmp_path: Path) -> None:
    data, out = make_parquet(tmp_path / "set"), str(tmp_path / "run")
    run_study(study_of(with_(data, stream=True), cycles=1), out, local=True)
    run_study(study_of(with_(data, stream=False), cycles=2), out, local=True)
    outcome = run_study(study_of(with_(data, stream=True, workers=1), cycles=3), out, local=True)
    assert not outcome.ended
    assert set(outcome.frame.cycle) == {0, 1, 2}


def test_other_files_are_refused_however_they_are_read(tmp_path: Path) -> None:
    data, out = make_folder(tmp_path / "set"), str(tmp_path / "run")
    run_study(study_of(data, cycles=1), out, local=True)
    next((tmp_path / "set").rglob("*.png")).unlink()
    for stream_ in (False, True):
        with pytest.raises(BadInput, match="the data changed under"):
            run_study(study_of(with_(data, stream=stream_), cycles=2), out, local=True)


# --- a unit ---


DROPOUT = {"name": None, "function": "tests.users:model", "version": "1"}


def trained(data: Data, folder: Path, epochs_before_a_crash: int | None = None) -> dict[str, torch.Tensor]:
    """Weights after a unit with dropout, crops and flips; it may be interrupted once."""
    study = study_of(with_(data, augment=("crop", "flip"), crop_padding=2), model=DROPOUT)
    workspace = Workspace.of(study, str(folder))
    settings = study.settings(study.arms["silo"])
    unit = make_unit(study, settings, parent=None, cycle=0, seed=0, peak={"value": 0.1})
    if epochs_before_a_crash is not None:
        cut = Worker(workspace, open_data(study.data)).run(unit)
        for _ in range(epochs_before_a_crash):
            next(cut)
        next(cut, None)
        cut.close()
    worker = Worker(workspace, open_data(study.data))
    result = drain(worker.run(unit))
    assert result["status"] == "ok"
    state = worker.units.read_state(result)
    assert state is not None
    scores = torch.tensor([result["val_loss"], result["val_score"], result["test_score"]], dtype=torch.float64)
    return {**unpack(state)[0]["weights"], "scores": scores}


def test_a_unit_has_the_same_weights_both_ways_with_processes_and_resumed(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "set")
    memory = trained(data, tmp_path / "memory")
    several = [
        trained(with_(data, stream=True), tmp_path / "streamed"),
        trained(with_(data, stream=True, workers=2), tmp_path / "workers"),
        trained(with_(data, stream=True), tmp_path / "resumed", 1),
    ]
    for found in several:
        assert found.keys() == memory.keys()
        assert all(torch.equal(found[name], memory[name]) for name in memory)


def test_the_key_is_the_same_both_ways(data: Data) -> None:
    keys = set()
    for changes in ({"stream": False}, {"stream": True}, {"stream": True, "workers": 4}):
        study = study_of(with_(data, **changes))
        settings = study.settings(study.arms["silo"])
        keys.add(make_unit(study, settings, parent=None, cycle=0, seed=0, peak={"value": 0.1}).key)
    assert len(keys) == 1


# --- what goes wrong ---


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_no_image_is_named(tmp_path: Path, workers: int) -> None:
    data = with_(make_folder(tmp_path / "set"), stream=True, workers=workers)
    file = sorted((tmp_path / "set").rglob("*.png"))[-1]
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(BadInput, match=f"{file.name}' is not a readable image") as caught:
        list(batches_of(feed_of(data)))
    assert "\n" not in str(caught.value)  # no traceback of another process


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_went_away_fails_its_unit_with_its_name(tmp_path: Path, workers: int) -> None:
    data = with_(make_folder(tmp_path / "set"), stream=True, workers=workers)
    study = study_of(data)
    worker = Worker(Workspace.of(study, str(tmp_path / "run")), open_data(study.data))
    settings = study.settings(study.arms["silo"])
    unit = make_unit(study, settings, parent=None, cycle=0, seed=0, peak={"value": 0.1})
    worker.feed(unit)
    for file in (tmp_path / "set" / "train" / CLASSES[0]).rglob("*.png"):
        file.unlink()
    outcome = drain(attempts(worker, unit, 1))
    assert outcome["status"] == "failed"
    assert f"{CLASSES[0]}_" in outcome["error"]


def test_another_size_is_named_with_the_remedy(tmp_path: Path) -> None:
    data = with_(make_folder(tmp_path / "set"), stream=True)
    odd = tmp_path / "set" / "train" / CLASSES[0] / "odd.png"
    odd.write_bytes(encoded(np.zeros((9, 9, 3), np.uint8)))
    for way in (open_data, load_data):
        with pytest.raises(BadInput, match=r"different sizes.*odd\.png.*data\.size"):
            way(data)
    assert open_data(with_(data, size=8)).shape == (8, 8, 3)


def test_a_node_that_does_not_see_the_files_says_so(tmp_path: Path) -> None:
    data = with_(make_folder(tmp_path / "set"), stream=True)
    dataset = open_data(data)
    (tmp_path / "set").rename(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match=r"is not seen on .*data\.stream = false"):
        list(batches_of(feed_of(data, dataset)))


def test_mistakes_of_the_layouts_are_named(tmp_path: Path) -> None:
    tiny = make_tiny_imagenet(tmp_path / "tiny")
    place = tmp_path / "tiny" / "val" / "val_annotations.txt"
    place.write_text(place.read_text(encoding="utf-8") + "val_9.JPEG\tn99\t0\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"val_annotations\.txt, line 51: .*n99"):
        open_data(tiny)
    place.unlink()
    with pytest.raises(BadInput, match=r"cannot read .*val_annotations\.txt"):
        open_data(tiny)
    flat = make_imagenet(tmp_path / "flat")
    (tmp_path / "flat" / "val").rename(tmp_path / "flat" / "validation")
    with pytest.raises(BadInput, match="one folder per class"):
        open_data(flat)
    for name in ("tiny-imagenet", "imagenet"):
        with pytest.raises(BadInput, match="no data directory"):
            open_data(Data(name=name, path=str(tmp_path / "nowhere")))
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(BadInput, match=r"neither.*train.*nor train\*\.parquet"):
            open_data(Data(name=name, path=str(tmp_path / "empty")))


def test_cifar_is_also_read_from_parquet_and_a_pool_has_no_test_part(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no official test part"):
        load_data(Data(name="digits", pool=True))
    make_parquet(tmp_path)
    found = load_data(Data(name="cifar10", path=str(tmp_path), pool=True))
    assert (len(found.train), found.test) == (200, None)
    assert len(load_data(Data(name="cifar100", path=str(tmp_path))).train) == 150
    imagenet = open_data(Data(name="imagenet", path=str(tmp_path), size=8, pool=False, stream=True))
    assert imagenet.test is None  # its validation files would be it


def test_files_that_another_package_groups_otherwise_are_refused(tmp_path: Path) -> None:
    data = with_(make_parquet(tmp_path / "set"), stream=True)
    shutil.copy(tmp_path / "set" / "train-00000-of-00002.parquet", tmp_path / "set" / "train_extra.parquet")
    with pytest.raises(BadInput, match=r"finds other parts below .*data\.stream = false"):
        open_data(data)
    assert len(load_data(data).train) == 150


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match=r"pip install 'silo-tune\[hub\]'"):
        open_data(with_(make_parquet(tmp_path / "set"), stream=True))


# --- memory ---


def test_an_epoch_of_a_large_set_holds_few_images(tmp_path: Path) -> None:
    """320 images of 256×256×3 are 63 MB decoded; a streamed epoch holds a few batches of 16 (3 MB each)."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    for label in CLASSES:
        (tmp_path / label).mkdir()
        Image.fromarray(noise).save(tmp_path / label / "0.jpg")
        for row in range(1, 80):
            (tmp_path / label / f"{row}.jpg").hardlink_to(tmp_path / label / "0.jpg")
    dataset = open_data(Data(name="folder", path=str(tmp_path), stream=True))
    assert isinstance(dataset, StreamedSet)
    rows = torch.arange(320)
    for _ in read(dataset.train, rows[:64], 16):
        pass
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(len(pixels) for pixels in read(dataset.train, rows, 16)) == 320
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # kilobytes
    assert grown < 25_000


# --- the real one ---


@pytest.mark.slow
def test_real_cifar10_streams_from_its_parquet_files(cifar10: Path) -> None:
    data = Data(name="huggingface", path=str(cifar10), train_examples=2000, augment=("crop", "flip"))
    memory, streamed = feed_of(data), feed_of(with_(data, stream=True, workers=2))
    assert torch.equal(memory.mean, streamed.mean)
    ways = [list(feed.epoch(128, stream("order", 0), stream("augment", 0))) for feed in (memory, streamed)]
    assert all(torch.equal(one[0], other[0]) for one, other in zip(*ways, strict=True))
    assert moments_of(streamed.train.images, streamed.train.rows.numpy()).shape == (2000, 3, 2)
