"""Data: decoded once, split by the replicate's seed, named when it is not there."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from silo_tune.data.load import facts, load_data
from silo_tune.data.sets import DataSet, split_rows
from silo_tune.errors import BadInput
from silo_tune.study.data import Data


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load_data(Data(name="digits"))


def test_digits_are_the_real_ones(digits: DataSet) -> None:
    assert digits.train.shape == (1797, 8, 8, 1)
    assert digits.train.max() == 255
    assert digits.test is None


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_parts_are_disjoint_and_stratified(digits: DataSet, seed: int) -> None:
    split = split_rows(digits, Data(name="digits", val_share=0.3), seed)
    parts = [set(part.tolist()) for part in (split.train, split.val, split.test)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 1797
    for part in (split.train, split.val, split.test):
        counts = np.bincount(digits.train_labels[part], minlength=10) / len(part)
        whole = np.bincount(digits.train_labels, minlength=10) / 1797
        assert np.abs(counts - whole).max() < 0.01


def test_test_part_ignores_the_seed_and_validation_does_not(digits: DataSet) -> None:
    data = Data(name="digits")
    one, other = split_rows(digits, data, 1), split_rows(digits, data, 2)
    assert np.array_equal(one.test, other.test)
    assert not np.array_equal(one.val, other.val)
    moved = split_rows(digits, Data(name="digits", split_seed=1), 1)
    assert not np.array_equal(one.test, moved.test)


def test_a_split_is_a_function_of_its_seed(digits: DataSet) -> None:
    data = Data(name="digits")
    assert np.array_equal(split_rows(digits, data, 3).train, split_rows(digits, data, 3).train)


def test_limits_are_exact_and_stratified(digits: DataSet) -> None:
    split = split_rows(digits, Data(name="digits", train_examples=100, val_examples=50, test_examples=30), 0)
    assert (len(split.train), len(split.val), len(split.test)) == (100, 50, 30)
    assert np.bincount(digits.train_labels[split.train], minlength=10).min() >= 8


def test_a_share_that_leaves_nothing_is_refused(digits: DataSet) -> None:
    with pytest.raises(BadInput, match="validation part is empty"):
        split_rows(digits, Data(name="digits", val_share=0.001), 0)


def test_content_hash_sees_a_pixel_and_a_label(digits: DataSet) -> None:
    pixels, labels = digits.train.copy(), digits.train_labels.copy()
    pixels[0, 0, 0, 0] ^= 1
    assert DataSet(pixels, labels, None, None, 10).content() != digits.content()
    labels[0] = (labels[0] + 1) % 10
    assert DataSet(digits.train, labels, None, None, 10).content() != digits.content()


def test_facts_count_the_parts(digits: DataSet) -> None:
    found = facts(digits, Data(name="digits", val_share=0.3))
    assert found["n_train"] + found["n_val"] + found["n_test"] == 1797
    assert found["n_val"] >= 400


def encoded(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def write_parquet(
    folder: Path, part: str, count: int, image: str = "img", label: str = "label"
) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    table = pa.table(
        {image: [{"bytes": encoded(i), "path": None} for i in images], label: [i % 4 for i in range(count)]}
    )
    pq.write_table(table, folder / f"{part}-00000-of-00001.parquet")
    return images


def test_hugging_face_directory_is_read_exactly_and_again_from_its_cache(tmp_path: Path) -> None:
    images = write_parquet(tmp_path, "train", 40)
    write_parquet(tmp_path, "test", 12)
    data = Data(name="huggingface", path=str(tmp_path))
    first, again = load_data(data), load_data(data)
    assert np.array_equal(first.train, images)
    assert first.test is not None
    assert len(first.test) == 12
    assert first.classes == 4
    assert not again.train.flags.writeable  # mapped from the cache
    assert type(again.train) is np.ndarray  # a memmap would be pickled whole into every worker
    assert first.content() == again.content()


def test_changed_files_are_decoded_again(tmp_path: Path) -> None:
    write_parquet(tmp_path, "train", 40)
    before = load_data(Data(name="huggingface", path=str(tmp_path))).content()
    write_parquet(tmp_path, "train", 44)
    assert load_data(Data(name="huggingface", path=str(tmp_path))).content() != before


def test_other_column_names_are_asked_for(tmp_path: Path) -> None:
    write_parquet(tmp_path, "train", 20, image="picture", label="class")
    with pytest.raises(BadInput, match=r"picture, class.*data\.image_key"):
        load_data(Data(name="huggingface", path=str(tmp_path)))
    data = Data(name="huggingface", path=str(tmp_path), image_key="picture", label_key="class")
    assert len(load_data(data).train) == 20


def test_parquet_files_in_another_layout_are_named(tmp_path: Path) -> None:
    file, data = tmp_path / "train.parquet", Data(name="huggingface", path=str(tmp_path))
    pq.write_table(pa.table({"img": [b"x", b"y"], "label": [0, 1]}), file)
    with pytest.raises(BadInput, match=r"train\.parquet: column 'img' is binary"):
        load_data(data)
    picture = {"bytes": encoded(np.zeros((2, 2, 3), np.uint8)), "path": None}
    pq.write_table(pa.table({"img": [picture, picture], "label": [0, None]}), file)
    with pytest.raises(BadInput, match="1 of its 2 labels"):
        load_data(data)
    pq.write_table(pa.table({"img": [picture, {"bytes": b"no", "path": None}], "label": [0, 1]}), file)
    with pytest.raises(BadInput, match=r"row 1 of .*train\.parquet' is not a readable image"):
        load_data(data)


def test_every_parquet_file_that_cannot_be_read_is_named_and_an_image_by_the_row_of_its_own_file(
    tmp_path: Path,
) -> None:
    data, places = Data(name="huggingface", path=str(tmp_path)), [tmp_path / f"train-{n}.parquet" for n in range(3)]
    write_parquet(tmp_path, "train", 20)
    whole = (tmp_path / "train-00000-of-00001.parquet").rename(places[0]).read_bytes()
    for place, content in zip(places[1:], (b"", whole[:500]), strict=True):
        place.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        load_data(data)
    assert [f"{place}' is not a readable Parquet file" in str(caught.value) for place in places] == [False, True, True]
    places[1].write_bytes(whole)
    pictures = [{"bytes": encoded(np.zeros((8, 8, 3), np.uint8)), "path": None}, {"bytes": None, "path": "a.png"}]
    pq.write_table(pa.table({"img": pictures, "label": [0, 1]}), places[2])
    with pytest.raises(BadInput, match=rf"row 1 of {places[2]}: an image has no bytes \(its path is 'a\.png'\)"):
        load_data(data)


def test_labels_that_name_no_class_are_refused(tmp_path: Path) -> None:
    data, file = Data(name="huggingface", path=str(tmp_path)), tmp_path / "train.parquet"
    picture = {"bytes": encoded(np.zeros((2, 2, 3), np.uint8)), "path": None}
    for labels, told in (([0, 1, -1], "1 of its 3 labels .* below 0"), ([0, 1, 2**40], r"1,099,\d{3},\d{3},\d{3} cl")):
        pq.write_table(pa.table({"img": [picture] * 3, "label": labels}), file)
        with pytest.raises(BadInput, match=told):
            load_data(data)


def test_missing_places_are_named(tmp_path: Path) -> None:
    for name in ("huggingface", "folder"):
        with pytest.raises(BadInput, match="nowhere"):
            load_data(Data(name=name, path=str(tmp_path / "nowhere")))
    with pytest.raises(BadInput, match=r"no train\*\.parquet"):
        load_data(Data(name="huggingface", path=str(tmp_path)))
    with pytest.raises(BadInput, match="SILO_TUNE_NOT_SET is not set"):
        load_data(Data(name="folder", path="${SILO_TUNE_NOT_SET}/x"))
    with pytest.raises(BadInput, match="'mnist' cannot be read"):
        load_data(Data(name="mnist", path=str(tmp_path), download=False))


def test_folder_of_images(tmp_path: Path) -> None:
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(5):
            (tmp_path / name / f"{i}.png").write_bytes(encoded(np.full((6, 6, 3), 100 * label + i, np.uint8)))
    found = load_data(Data(name="folder", path=str(tmp_path)))
    assert found.train.shape == (10, 6, 6, 3)
    assert found.train_labels.tolist() == [0] * 5 + [1] * 5
    (tmp_path / "cat" / "odd.png").write_bytes(encoded(np.zeros((9, 9, 3), np.uint8)))
    with pytest.raises(BadInput, match=r"different sizes.*data\.size"):
        load_data(Data(name="folder", path=str(tmp_path)))
    assert load_data(Data(name="folder", path=str(tmp_path), size=4)).train.shape == (11, 4, 4, 3)


FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not any(FASHION.rglob("train-images*")), reason="no Debian package dataset-fashion-mnist here")
def test_fashion_mnist_from_idx_files() -> None:
    folder = next(FASHION.rglob("train-images*")).parent
    found = load_data(Data(name="fashion-mnist", path=str(folder)))
    assert found.train.shape == (60000, 28, 28, 1)
    assert found.test is not None
    assert np.bincount(found.train_labels).tolist() == [6000] * 10


def test_cifar10_in_hugging_face_layout(cifar10: Path, tmp_path: Path) -> None:
    # Only the test part is decoded here: the whole set takes 20 seconds.
    (tmp_path / "train.parquet").symlink_to(next(cifar10.glob("test*.parquet")))
    found = load_data(Data(name="huggingface", path=str(tmp_path)))
    assert found.train.shape == (10000, 32, 32, 3)
    assert np.bincount(found.train_labels).tolist() == [1000] * 10
    assert found.train.mean() / 255 == pytest.approx((0.4943 + 0.4851 + 0.4504) / 3, abs=1e-3)


def test_a_users_function_gives_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Data(function="tests.users:data", version="1", args={"count": 24})
    assert load_data(data).train.shape == (24, 8, 8, 1)
    with pytest.raises(BadInput, match="no function 'nothing'"):
        load_data(Data(function="tests.users:nothing", version="1"))
    with pytest.raises(BadInput, match="cannot import"):
        load_data(Data(function="no_such_module:data", version="1"))
