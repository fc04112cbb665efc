"""What a listing of files takes, refuses and says that it left out; what an image of any mode becomes."""

from __future__ import annotations

import io
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from silo_tune.data.arrays import Pixels
from silo_tune.data.duplicates import Repeated
from silo_tune.data.images import Form, random_resized_crop
from silo_tune.data.load import facts, load_data, open_data
from silo_tune.data.sets import DataSet, split_rows
from silo_tune.errors import BadInput
from silo_tune.run.session import data_lines
from silo_tune.study.data import Data
from tests.test_streaming import make_folder, make_parquet, with_


def loaded(data: Data) -> DataSet:
    return load_data(data)


@pytest.fixture
def folder(tmp_path: Path) -> Data:
    return make_folder(tmp_path / "set")


def root(data: Data) -> Path:
    assert data.path is not None
    return Path(data.path)


def a_class(data: Data, part: str = "train") -> Path:
    return sorted((root(data) / part).iterdir())[0]


@pytest.mark.parametrize("stream", [False, True])
def test_every_broken_image_of_every_part_is_counted_and_the_first_ten_are_named(folder: Data, stream: bool) -> None:
    parts = (sorted((root(folder) / part).rglob("*.png"))[:6] for part in ("train", "test"))
    broken = [file for part in parts for file in part]
    for file in broken:
        file.write_bytes(file.read_bytes()[:30])
    with pytest.raises(BadInput) as caught:
        open_data(with_(folder, stream=stream))
    said = str(caught.value)
    counts = re.findall(r"data: (\d+) images cannot be used", said)
    assert sum(map(int, counts)) == len(broken)
    assert len(counts) == (2 if stream else 1)
    assert sum(file.name in said for file in broken) == (len(broken) if stream else 10)


def test_links_that_lead_nowhere_are_refused_by_name(folder: Data) -> None:
    for name in ("gone.png", "lost.png"):
        (a_class(folder) / name).symlink_to("/nowhere.png")
    with pytest.raises(BadInput, match=r"2 links below .* with nothing behind: .*gone\.png, .*lost\.png; take them"):
        loaded(folder)


def test_what_notebooks_and_archives_leave_is_no_class(folder: Data) -> None:
    before = loaded(folder)
    name, hidden = a_class(folder), root(folder) / "train" / ".ipynb_checkpoints"
    hidden.mkdir()
    image = next(name.rglob("*.png"))
    shutil.copy(image, hidden / "copy.png")
    shutil.copy(image, name / "._copy.png")
    (root(folder) / "train" / "__MACOSX").mkdir()
    (root(folder) / "train" / "empty").mkdir()
    (name / "notes.txt").write_text("mine")
    after = loaded(folder)
    assert (after.classes, len(after.train), after.listing) == (before.classes, len(before.train), before.listing)
    files, empty = after.notices
    assert files.startswith("3 files below ")
    assert "notes.txt" in files
    assert empty.endswith("/train' has empty subfolders, which are no classes: empty")


def test_a_class_whose_files_cannot_be_read_is_refused(folder: Data) -> None:
    other = root(folder) / "train" / "scans"
    other.mkdir()
    (other / "a.tif").write_bytes(b"II*")
    with pytest.raises(BadInput, match=r"1 class of .* no image that can be read \(\.png, .*: scans; convert"):
        loaded(folder)


def test_a_test_class_that_training_lacks_is_refused_and_one_that_test_lacks_is_named(folder: Data) -> None:
    tested = a_class(folder, "test")
    shutil.copytree(tested, tested.parent / tested.name.upper())
    with pytest.raises(BadInput, match=f"classes that the training part lacks: {tested.name.upper()}"):
        loaded(folder)
    shutil.rmtree(tested.parent / tested.name.upper())
    shutil.rmtree(tested)
    assert any("no images of 1 class: " in told and tested.name in told for told in loaded(folder).notices)


def test_a_class_may_be_a_link(folder: Data, tmp_path: Path) -> None:
    before, name = loaded(folder), a_class(folder)
    shutil.move(name, tmp_path / "elsewhere")
    name.symlink_to(tmp_path / "elsewhere")
    assert len(loaded(folder).train) == len(before.train)


def test_one_of_several_sets_must_be_named(tmp_path: Path) -> None:
    make_parquet(tmp_path / "set" / "small")
    full = make_parquet(tmp_path / "set" / "full")
    both = with_(full, path=str(tmp_path / "set"))
    with pytest.raises(BadInput, match=r"several sets below .*in full, small: name one of .* data\.config"):
        loaded(both)
    named = loaded(with_(both, config="full"))
    assert named.content() == loaded(full).content()


def test_a_file_of_another_part_is_left_out_with_a_word(tmp_path: Path) -> None:
    data = make_parquet(tmp_path / "set")
    before = loaded(data)
    shutil.copy(next((tmp_path / "set").glob("train-*")), tmp_path / "set" / "train_extra.parquet")
    after = loaded(data)
    assert len(after.train) == len(before.train)
    assert any("train_extra.parquet" in told for told in after.notices)


# --- modes ---


def encoded(image: Image.Image, kind: str = "png") -> bytes:
    data = io.BytesIO()
    image.save(data, kind)
    return data.getvalue()


def grey() -> Image.Image:
    return Image.fromarray(np.arange(0, 256, dtype=np.uint8).reshape(16, 16))


def test_sixteen_bits_of_grey_are_those_of_their_eight_bit_twin() -> None:
    deep = Image.fromarray(np.asarray(grey()).astype(np.uint16) * 257)
    assert deep.mode.startswith("I")
    for form in (Form(), Form(rgb=True), Form(8), Form(8, centre=True)):
        assert np.array_equal(form.decode("a", encoded(deep)), form.decode("b", encoded(grey())))
    one, other = (random_resized_crop("a", encoded(image), (8, 8, 1), seed=3) for image in (deep, grey()))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("bits", "told"), [(8, False), (10, True), (12, True), (14, True), (16, False)])
def test_numbers_of_few_bits_in_deep_files_are_told(tmp_path: Path, bits: int, told: bool, stream: bool) -> None:
    values = np.asarray(grey()).astype(np.uint16) * 257 >> (16 - bits if bits > 8 else 0)
    for number in range(8):
        place = tmp_path / "train" / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(values, number, 1)).save(place)
    data = Data(name="folder", path=str(tmp_path), val_share=0.5, stream=stream)
    notices = facts(open_data(data), data)["notices"]
    assert any("few grey levels are left" in notice for notice in notices) == told


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_other_mode_is_what_pillow_shows(mode: str) -> None:
    kind = {"CMYK": "tiff", "YCbCr": "tiff"}.get(mode, "png")
    picture = grey().convert("RGB").convert(mode)
    seen = np.asarray(Image.open(io.BytesIO(encoded(picture, kind))).convert("RGB"))
    assert np.array_equal(Form(rgb=True).decode("a", encoded(picture, kind)), seen)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_without_a_range_are_refused_by_name(mode: str) -> None:
    with pytest.raises(BadInput, match=rf"'mine' has pixels of Pillow's mode '{mode}'"):
        Form().decode("mine", encoded(grey().convert(mode), "tiff"))


# --- duplicates ---


def split(images: Pixels, test: Pixels | None = None, **changes: Any) -> tuple[DataSet, Data]:
    labels = np.arange(len(images), dtype=np.int64) % 2
    tested = None if test is None else np.arange(len(test), dtype=np.int64) % 2
    return DataSet(images, labels, test, tested, 2), Data(name="digits", val_share=0.25, **changes)


def noise(count: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 1), dtype=np.uint8)


def test_images_that_occur_twice_are_counted_by_part() -> None:
    images = noise(40)
    assert facts(*split(images, noise(12, seed=1)))["notices"] == []
    twice = np.concatenate([images, images])
    with pytest.raises(BadInput, match=r'validation images that are training images too: .*data\.duplicates = "allow"'):
        facts(*split(twice, noise(12, seed=1)))
    told = facts(*split(twice, images[:12], duplicates="allow"))["notices"]
    assert len(told) == 4
    rows = split_rows(*split(twice, images[:12], duplicates="allow"), seed=0)
    train = {image.tobytes() for image in twice[rows.train]}
    assert f"training images that repeat another: {len(rows.train) - len(train)} of {len(rows.train)}" in told
    seen = sum(image.tobytes() in train for image in twice[rows.val])
    assert f"validation images that are training images too: {seen} of {len(rows.val)}" in told
    seen = sum(image.tobytes() in train for image in images[:12])
    assert f"test images that are training images too: {seen} of 12" in told


def test_counts_are_kept_for_a_content_and_a_split(monkeypatch: pytest.MonkeyPatch) -> None:
    first = facts(*split(noise(40, seed=9)))
    monkeypatch.setattr(Repeated, "counted", lambda *_: pytest.fail("counted again"))
    assert facts(*split(noise(40, seed=9))) == first


def test_a_run_begins_with_the_sizes_of_its_parts_and_what_is_odd(folder: Data) -> None:
    shutil.copy(next(a_class(folder).rglob("*.png")), a_class(folder) / "again.png")
    lines = data_lines(facts(loaded(folder), folder))
    assert lines == [
        "data: 120 training, 31 validation and 50 test images 16×16×3 of 4 classes",
        "data: training images that repeat another: 1 of 120",
    ]


def test_a_part_of_one_class_is_told() -> None:
    dataset, data = split(noise(40), noise(12, seed=1))
    assert dataset.test_labels is not None
    told = facts(replace(dataset, test_labels=np.ones_like(dataset.test_labels)), data)["notices"]
    assert told == ["all 12 test images are of one class of 2: their score tells how often it is named, and no more"]
