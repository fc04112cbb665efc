"""Batches: shared memory, every image once, normalised by the training part, augmented by the stream."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from silo_tune.data.batches import Feed, channel_statistics, random_crop
from silo_tune.data.load import load_data
from silo_tune.data.sets import DataSet, split_rows
from silo_tune.seeds import stream
from silo_tune.study.data import Data

CPU = torch.device("cpu")


def make(augment: tuple[str, ...] = (), count: int = 130, channels: int = 3) -> tuple[DataSet, Feed]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 8, 8, channels), dtype=np.uint8)
    dataset = DataSet(images, np.arange(count, dtype=np.int64) % 4, None, None, 4)
    data = Data.model_validate({"name": "digits", "augment": augment, "crop_padding": 2})
    return dataset, Feed.make(dataset, split_rows(dataset, data, 0), data.augmentation(), CPU)


def test_images_are_shared_not_copied() -> None:
    dataset, feed = make()
    for part in (feed.train, feed.val, feed.test):
        assert isinstance(part.images, torch.Tensor)
        assert part.images.data_ptr() == dataset.train.ctypes.data


def test_read_only_arrays_are_welcome(recwarn: pytest.WarningsRecorder) -> None:
    dataset, _ = make()
    dataset.train.setflags(write=False)
    split = split_rows(dataset, Data(name="digits"), 0)
    Feed.make(dataset, split, {"augment": []}, CPU)
    assert not recwarn.list


def test_an_epoch_has_every_training_image_once() -> None:
    dataset, feed = make()
    seen = torch.cat([labels for _, labels in feed.epoch(16, stream("order", 0), stream("augment", 0))])
    assert len(seen) == len(feed.train)
    assert torch.equal(seen.sort().values, torch.from_numpy(dataset.train_labels)[feed.train.rows].sort().values)


@pytest.mark.parametrize(("images", "batch", "steps"), [(64, 16, 4), (65, 16, 4), (66, 16, 5), (1, 16, 1), (10, 16, 1)])
def test_a_last_batch_of_one_image_is_left_out(images: int, batch: int, steps: int) -> None:
    _, feed = make()
    feed.train.rows = feed.train.rows[:1].repeat(images)
    sizes = [len(labels) for _, labels in feed.epoch(batch, stream("order", 0), stream("augment", 0))]
    assert len(sizes) == feed.steps(batch) == steps
    assert images == 1 or min(sizes) > 1


def test_chunks_do_not_change_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    _, feed = make(("crop", "flip"))

    def epoch() -> list[torch.Tensor]:
        return [images for images, _ in feed.epoch(16, stream("order", 1), stream("augment", 1))]

    whole = epoch()
    monkeypatch.setattr("silo_tune.data.batches.CHUNK_PIXELS", 1)
    assert all(torch.equal(one, other) for one, other in zip(whole, epoch(), strict=True))


def test_training_images_are_normalised_by_their_own_statistics() -> None:
    dataset, feed = make()
    images = torch.cat([batch for batch, _ in feed.batches(feed.train)])
    assert torch.allclose(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(images.std((0, 2, 3)), torch.ones(3), atol=1e-3)
    mean, std = channel_statistics(dataset.train, feed.train.rows.numpy())
    pixels = dataset.train[feed.train.rows.numpy()].reshape(-1, 3).astype(float)
    assert np.allclose(mean, pixels.mean(0))
    assert np.allclose(std, pixels.std(0))


def test_batches_are_channels_last() -> None:
    _, feed = make()
    images, _ = next(iter(feed.epoch(16, stream("order", 0), stream("augment", 0))))
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_crop_is_the_padded_window() -> None:
    pixels = torch.arange(2 * 4 * 4 * 3, dtype=torch.uint8).reshape(2, 4, 4, 3)
    offsets = torch.tensor([[0, 3], [2, 1]])
    crops = random_crop(pixels, offsets, 2)
    padded = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    padded[:, 2:6, 2:6] = pixels
    assert torch.equal(crops[0], padded[0, 0:4, 3:7])
    assert torch.equal(crops[1], padded[1, 2:6, 1:5])


def test_augmentation_is_a_function_of_its_stream() -> None:
    _, feed = make(("crop", "flip"))

    def epoch(seed: int) -> torch.Tensor:
        return torch.cat([images for images, _ in feed.epoch(16, stream("order", 0), stream("augment", seed))])

    assert torch.equal(epoch(1), epoch(1))
    assert not torch.equal(epoch(1), epoch(2))


def test_evaluation_is_not_augmented() -> None:
    _, plain = make()
    _, augmented = make(("crop", "flip"))
    one = torch.cat([images for images, _ in plain.batches(plain.val)])
    other = torch.cat([images for images, _ in augmented.batches(augmented.val)])
    assert torch.equal(one, other)


def test_real_digits_make_a_feed() -> None:
    dataset = load_data(Data(name="digits"))
    feed = Feed.make(dataset, split_rows(dataset, Data(name="digits"), 0), {"augment": []}, CPU)
    assert next(feed.batches(feed.train, 3))[0].shape == (3, 1, 8, 8)
