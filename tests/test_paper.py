"""The studies of experiments/paper: how they are generated, what they hold, and a small form of each that runs."""

from __future__ import annotations

import csv
import io
import runpy
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from silo_tune.planner.coincidences import coincidences
from silo_tune.planner.forecast import forecast
from silo_tune.planner.layout import Layout
from silo_tune.results.records import load_run
from silo_tune.store.run_folder import Run
from silo_tune.study.arms import OracleArm, ScheduleArm
from silo_tune.study.model import Study
from silo_tune.study.presets import PRESETS
from silo_tune.study.recipes import RECIPES
from silo_tune.study.study_file import load_study
from tests.test_cli import in_process, silo_tune

FOLDER = Path(__file__).parent.parent / "experiments" / "paper"
PAIRS = [
    *product(("resnet20", "vgg19", "densenet40", "mobilenetv2"), ("cifar10", "cifar100")),
    *product(("resnet50", "vit"), ("tiny-imagenet", "imagenet")),
]
NAMES = [f"{network}-{data}" for network, data in PAIRS]
# Pipelines prune whole filters, and these studies single weights.
BASELINES = set(PRESETS) - {"ice-pruning", "while-training"}


def generated() -> dict[str, str]:
    """Every study by its file's name, as the generator makes it."""
    texts: dict[str, str] = runpy.run_path(str(FOLDER / "generate.py"))["texts"]()
    return texts


def study(name: str) -> Study:
    return load_study(FOLDER / f"{name}.toml")


def test_the_studies_are_those_that_are_generated() -> None:
    written = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.toml")}
    assert set(written) == {f"{name}.toml" for name in NAMES}
    assert written == generated(), "run `python experiments/paper/generate.py`"


@pytest.mark.parametrize(("network", "data"), PAIRS)
def test_a_study_has_the_whole_budget_of_its_recipe_and_every_baseline(network: str, data: str) -> None:
    made, recipe = study(f"{network}-{data}"), RECIPES[network]
    assert made.model.name == network
    assert (made.cycles, made.prune.rate, len(made.replicates.seeds)) == (25, 0.2, 5)
    assert made.dense.epochs == made.retrain.epochs == recipe.epochs
    assert (made.dense.max_lr, made.retrain.batch, made.data.augment) == (recipe.eps, recipe.batch, recipe.augment)
    assert made.retrain.optimizer.model_dump().items() >= dict(recipe.optimizer).items()
    schedules = {name: arm for name, arm in made.arms.items() if isinstance(arm, ScheduleArm)}
    weights = {name: made.settings(arm).after_prune for name, arm in schedules.items()}  # as in the authors' scripts
    assert {name for name, after in weights.items() if after == "keep"} == {"lr-rewinding", "fine-tuning"}
    assert {name for name, after in weights.items() if after == "rewind"} == {
        "weight-rewinding",
        "weight-rewinding-late",
    }
    assert {arm.preset for arm in schedules.values()} == BASELINES
    oracles = [arm for arm in made.arms.values() if isinstance(arm, OracleArm)]
    assert {arm.prefix for arm in oracles} == {"own", "arm:silo"}


@pytest.mark.parametrize("name", NAMES)
def test_every_arm_is_tuned_alike_but_what_is_fixed(name: str) -> None:
    made = study(name)
    assert made.pilot is not None
    assert made.pilot.chains >= 10
    assert len(made.pilot.seeds) >= 2
    fixed = {arm for arm, found in made.arms.items() if isinstance(found, ScheduleArm) and not found.open}
    assert fixed == {"lr-rewinding", "weight-rewinding", "weight-rewinding-late", "fine-tuning"}
    assert {arm for arm, _ in made.followers("silo")} == {"constant-low", "constant-high"}


def test_fine_tuning_is_a_hundredth_of_the_dense_peak_unless_the_profile_ends_elsewhere() -> None:
    rates = {network: study(f"{network}-{data}").arms["fine-tuning"] for network, data in PAIRS}
    shares = {
        network: round(arm.schedule.args["max_lr"] / RECIPES[network].eps, 6)  # type: ignore[union-attr]
        for network, arm in rates.items()
    }
    # ResNet-50's profile drops three times; the vision transformer's is a cosine, which ends near 0.
    assert shares == {**dict.fromkeys(RECIPES.keys() & shares.keys(), 0.01), "resnet50": 0.001}


@pytest.mark.parametrize("name", NAMES)
def test_the_cost_is_told_without_training(name: str, tmp_path: Path) -> None:
    made = study(name)
    arms, _ = forecast(Layout(made), Run(str(tmp_path / "none")))
    assert 10_000 < sum(arm.to_train for arm in arms.values()) < 30_000
    assert any(line.startswith("allr is the same as llr under this study's budgets") for line in coincidences(made))


def test_a_plan_tells_the_cost_and_the_arms_that_coincide() -> None:
    told = in_process("plan", str(FOLDER / "resnet20-cifar10.toml"), "--out", "/tmp/none", "--no-preflight").stdout
    assert "to train: at most " in told
    assert "allr is the same as llr under this study's budgets (retraining as long as the dense training)\n" in told


# --- a small form of each, on real images ---

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PER_CLASS = {"train": 16, "test": 8}


def real_images(cifar10: Path) -> dict[tuple[str, str], list[bytes]]:
    """A few encoded images of every class, by part and class."""
    found: dict[tuple[str, str], list[bytes]] = {}
    for part, most in PER_CLASS.items():
        rows = pq.ParquetFile(next(cifar10.glob(f"{part}-*.parquet"))).read_row_group(0).slice(0, 1000).to_pylist()
        for row in rows:
            images = found.setdefault((part, CLASSES[row["label"]]), [])
            if len(images) < most:
                images.append(row["img"]["bytes"])
    return found


def write(place: Path, image: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.open(io.BytesIO(image)).save(place)


def as_tiny_imagenet(images: Mapping[tuple[str, str], list[bytes]], root: Path) -> Path:
    """train/CLASS/images/CLASS_N.JPEG, val/images/val_N.JPEG and val/val_annotations.txt."""
    lines = []
    for (part, name), found in images.items():
        for number, image in enumerate(found):
            if part == "train":
                write(root / "train" / name / "images" / f"{name}_{number}.JPEG", image)
            else:
                write(root / "val" / "images" / f"val_{name}_{number}.JPEG", image)
                lines.append(f"val_{name}_{number}.JPEG\t{name}\t0\t0\t31\t31\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines), encoding="utf-8")
    return root


def as_imagenet(images: Mapping[tuple[str, str], list[bytes]], root: Path) -> Path:
    """train/CLASS and val/CLASS."""
    for (part, name), found in images.items():
        for number, image in enumerate(found):
            write(root / {"train": "train", "test": "val"}[part] / name / f"{name}_{number}.JPEG", image)
    return root


WHOLE = (("resnet20", "cifar10"), ("vit", "tiny-imagenet"))


@pytest.fixture(scope="module")
def smokes(cifar10: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every study's small form, run by the command, two at a time; what each command said, and its folder."""
    place = tmp_path_factory.mktemp("paper")
    images = real_images(cifar10)
    paths = {
        "cifar10": cifar10,
        "cifar100": cifar10,  # only how CIFAR-100 itself is read is tested elsewhere
        "tiny-imagenet": as_tiny_imagenet(images, place / "tiny-imagenet-200"),
        "imagenet": as_imagenet(images, place / "imagenet"),
    }

    def run(pair: tuple[str, str]) -> subprocess.CompletedProcess[str]:
        network, data = pair
        sets = [f'data.path="{paths[data]}"', "data.val_share=0.4"]  # of the few images, enough for the tolerance
        if pair not in WHOLE:  # the same arms on another network or other images: one pruned cycle will do
            sets.append("cycles=2")
        given = [word for change in sets for word in ("--set", change)]
        file = str(FOLDER / f"{network}-{data}.toml")
        return silo_tune("run", file, "--smoke", "--local", *given, cwd=place, timeout=600)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setenv("SILO_TUNE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        done = [run(PAIRS[0]), *pool.map(run, PAIRS[1:])]  # the first decodes the images for all
    return {name: (place / "runs" / f"{name}-smoke", told) for name, told in zip(NAMES, done, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_small_form_trains_every_arm_to_its_report(name: str, smokes: dict[str, Any]) -> None:
    folder, done = smokes[name]
    assert done.returncode == 0, done.stderr
    frame, made, _ = load_run(str(folder))
    trained = frame[frame.cycle >= 1]
    assert set(trained.arm) == set(made.arms)
    assert set(trained.status) <= {"ok", "diverged"}  # two steps at a high rate may end high
    whole = set(trained[(trained.status == "ok") & (trained.cycle == made.cycles - 1)].arm)
    assert len(whole) > len(made.arms) / 2
    page = (folder / "report" / "report.html").read_text(encoding="utf-8")
    assert all(arm in page for arm in made.arms)
    assert len(list((folder / "report" / "figures").glob("*.svg"))) >= 4
    with open(folder / "report" / "tables" / "cost.csv", encoding="utf-8") as table:
        assert set(made.arms) <= {row["arm"] for row in csv.DictReader(table)}
