"""README and site: every snippet works as it stands, every name is there, and the site builds strictly and offline."""

from __future__ import annotations

import html
import inspect
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tomli_w
from markdown_it import MarkdownIt

import silo_analysis
import silo_tune
from silo_tune.cli.catalogue import KINDS
from silo_tune.results.columns import COLUMNS
from silo_tune.study.study_file import load_study

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
LANGUAGES = {"python", "toml", "sh", "text"}
# Commands that this machine or a test cannot run, by how they begin, and why.
NOT_RUN = {
    "python -m venv": "the commands that install; the whole check runs them",
    "pip install optuna-dashboard": "a package of others",
    "optuna-dashboard": "a server that runs until it is stopped",
    "ray start": "needs other machines",
    "silo-tune run study.toml --address HEAD:6379": "needs other machines",
    "silo-tune run experiments/digits.toml --track mlflow": "needs a server",
    "silo-tune status s3://": "needs a bucket",
    "silo-tune weights runs/digits --arm silo --seed 0 --format onnx": "needs an extra; tests/test_weights.py runs it",
    "silo-tune weights runs/digits --arm silo --seed 0 --out digits-hub": "needs a network",
}


FROM_ELSEWHERE = re.compile(r"(?:src|href)=\"https?://[^\"]+\.(?:js|css|woff2?)\"")


class Fence(NamedTuple):
    """A snippet of a page."""

    language: str
    content: str

    @property
    def file(self) -> str | None:
        """The file that it stands for, where its first line says so."""
        found = re.match(r"# (\w+\.\w+)", self.content)
        return found[1] if found else None


def fences(page: Path) -> list[Fence]:
    """Every fenced snippet of a page, in order."""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    return [Fence(token.info, token.content) for token in tokens if token.type == "fence"]


def commands(fence: Fence) -> Iterator[str]:
    """The command lines of a shell snippet that can be run here."""
    for line in fence.content.splitlines():
        if not line.startswith(tuple(NOT_RUN)):
            yield line


RUNNABLE = [page for page in PAGES if any(fence.language in ("python", "sh") for fence in fences(page))]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


# --- snippets ---


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_snippet_says_its_language(page: Path) -> None:
    assert {fence.language for fence in fences(page)} <= LANGUAGES


def test_what_is_not_run_is_still_in_the_docs() -> None:
    lines = [line for page in PAGES for fence in fences(page) for line in fence.content.splitlines()]
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in lines)] == []


def first_study() -> str:
    """The whole study that docs/start.md shows."""
    return next(fence.content for fence in fences(DOCS / "start.md") if fence.language == "toml")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_study_and_part_of_one_is_read(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is put over the first study; what a page says earlier stands for its later parts."""
    monkeypatch.setenv("MY_CIFAR10", str(tmp_path))
    base: dict[str, Any] = tomllib.loads(first_study())
    for number, fence in enumerate(fence for fence in fences(page) if fence.language == "toml"):
        given = tomllib.loads(fence.content)
        whole = {"cycles", "data", "arms"} <= set(given) or "preset" in given
        base = given if whole else base | given | {"arms": base.get("arms", {}) | given.get("arms", {})}
        file = tmp_path / f"{number}.toml"
        file.write_text(tomli_w.dumps(base), encoding="utf-8")
        load_study(file)


SMALL = {
    "cycles": 4,
    "dense": {"epochs": 1, "max_lr": 0.1},
    "replicates": {"seeds": [0, 1]},
    "report": {"tolerance": 0.05},
}
OTHERS = {
    "a": {"replicates.seeds": "[0]"},
    "b": {"replicates.seeds": "[1]"},
    "monday": {"replicates.seeds": "[0]"},
    "tuesday": {"replicates.seeds": "[1]"},
    "resnet20": {"replicates.seeds": "[0]"},
    "vgg19": {"replicates.seeds": "[0]", "model.name": '"resnet8"', "model.width": "2"},
}


def smaller(table: dict[str, Any]) -> dict[str, Any]:
    """The digits study in seconds: the same arms, two pruned cycles, two seeds, four rates."""
    small = table | SMALL | {"retrain": table["retrain"] | {"epochs": 1}}
    for arm in small["arms"].values():
        if "grid" in arm:
            arm["grid"] = arm["grid"] | {"points": 4}
    return small


def run(place: Path, *words: str, code: int = 0) -> str:
    """A command in a process of its own, in that folder; what it says."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "analysis"), "."])}
    done = subprocess.run(words, cwd=place, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, f"{words}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def silo(place: Path, *words: str, code: int = 0) -> str:
    return run(place, sys.executable, "-m", "silo_tune", *words, code=code)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the pages assume it: the first study with its run, and small forms of the other runs they name."""
    place = tmp_path_factory.mktemp("docs")
    (place / "study.toml").write_text(first_study(), encoding="utf-8")
    (place / "experiments").mkdir()
    digits = smaller(tomllib.loads((ROOT / "experiments" / "digits.toml").read_text(encoding="utf-8")))
    (place / "experiments" / "digits.toml").write_text(tomli_w.dumps(digits), encoding="utf-8")
    silo(place, "run", "study.toml", "--local")
    silo(place, "run", "experiments/digits.toml", "--local")
    for name, changes in OTHERS.items():
        sets = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
        silo(place, "run", "study.toml", "--local", "--out", f"runs/{name}", *sets)
    filters = next(f for f in fences(DOCS / "how-to" / "smaller-network.md") if f.file == "filters.toml")
    (place / "filters.toml").write_text(filters.content, encoding="utf-8")
    silo(place, "run", "filters.toml", "--local")
    return place


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE, ids=named)
def test_every_command_and_script_runs(page: Path, stage: Path, tmp_path: Path) -> None:
    """In the order of the page, each in a fresh process; a command that says "refused" ends with 2."""
    place = tmp_path / "here"
    shutil.copytree(stage, place)
    for fence in fences(page):
        if fence.file is not None:
            (place / fence.file).write_text(fence.content, encoding="utf-8")
        elif fence.language == "python":
            run(place, sys.executable, "-c", fence.content)
        elif fence.language == "sh":
            for line in commands(fence):
                said = line.replace("silo-tune ", f"{sys.executable} -m silo_tune ")
                run(place, "bash", "-c", said, code=2 if line.endswith("# refused") else 0)


def test_every_call_that_the_table_of_functions_shows_is_theirs() -> None:
    text = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    shown = re.findall(r"`(\w+)\(([\w, ]*)\)`", text)
    assert len(shown) > 8
    for name, given in shown:
        parameters = list(inspect.signature(getattr(silo_analysis, name)).parameters)
        words = [word.strip() for word in given.split(",")]  # in capitals: a place
        assert all(word == parameter or word.isupper() for word, parameter in zip(words, parameters, strict=False)), (
            name
        )


# --- the site ---


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Every page of the site as text, without tags, by its place; built strictly."""
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    place = tmp_path_factory.mktemp("site")
    run(ROOT, sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(place))
    pages = {
        str(file.relative_to(place).parent): file.read_text(encoding="utf-8") for file in place.rglob("index.html")
    }
    assert not [
        name for name, text in pages.items() if re.search(r"(?:src|href)=\"https?://[^\"]+\.(?:js|css|woff2?)\"", text)
    ]
    return {name: html.unescape(re.sub(r"<[^>]+>", "", text)) for name, text in pages.items()}


@pytest.mark.slow
def test_the_reference_has_every_name(site: Mapping[str, str]) -> None:
    assert [name for name in COLUMNS if name not in site["reference/table"]] == []
    told = site["reference/python"]
    public = [*silo_tune.__all__, *silo_analysis.__all__]
    assert [name for name in public if callable(name) and name not in told] == []
    everything = " ".join(text for name, text in site.items() if name.startswith(("reference", "how-to")))
    for kind, entries in KINDS.items():
        assert [name for name in entries() if name not in everything] == [], kind
    assert "{#" not in " ".join(site.values())
    assert "<!--" not in " ".join(site.values())


@pytest.mark.slow
def test_the_architecture_is_drawn(site: Mapping[str, str]) -> None:
    drawn = site["developing/architecture"]
    assert drawn.index("the commands, and all that prints") < drawn.index("max_lr over cycles, the rate inside one")
