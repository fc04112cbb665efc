"""What SECURITY.md says, sentence by sentence, as far as it can be tested."""

from __future__ import annotations

import ast
import base64
import contextlib
import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import silo_tune
from silo_tune.api import run_study
from silo_tune.cli import app
from silo_tune.errors import BadInput, RunFailed, SiloTuneError, StudyError
from silo_tune.planner.unit import Unit
from silo_tune.store.run_folder import Run
from silo_tune.store.storage import Storage, seal, unseal
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study
from tests.conftest import merged, small_table
from tests.plain import result_of
from tests.servers import Fault, s3

pytestmark = pytest.mark.usefixtures("only_svg")

ROOT = Path(silo_tune.__file__).parent.parent
GREEDY = {"mode": "oracle", "grid": {"low": 0.01, "high": 1.0, "points": 3}}


def table(**changes: Any) -> dict[str, Any]:
    """A study of a few units."""
    small = small_table()
    return merged({**small, "arms": {"silo": small["arms"]["silo"], "greedy": GREEDY}}, changes)


def study(**changes: Any) -> Study:
    return parse_study(table(**changes))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, from which functions may be imported, as it is for a command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "study.toml").write_text(tomli_w.dumps(table()))
    return tmp_path


def command(*words: str) -> None:
    """A command that may find that the run is damaged, and says so."""
    with contextlib.suppress(SiloTuneError):
        app(list(words), standalone_mode=False)


READERS = [
    ("report", "runs/small"),
    ("status", "runs/small"),
    ("fit", "runs/small"),
    ("replay", "runs/small", "--sampler", "random", "--trials", "3", "--repetitions", "2"),
    ("export", "runs/small", "--optuna", "optuna.db"),
    ("weights", "runs/small", "--arm", "silo", "--seed", "0", "--out", "runs/taken", "--force"),
]


def read_everything() -> None:
    for words in READERS:
        Path("optuna.db").unlink(missing_ok=True)
        command(*words)


def rewrite_study(change: Callable[[dict[str, Any]], None]) -> None:
    """Change RUN/study.toml as somebody would who leaves its checksum out, as earlier versions did."""
    file = Path("runs/small/study.toml")
    recorded = tomllib.loads(file.read_text())
    recorded["run"].pop("sha256", None)
    change(recorded)
    file.write_text(tomli_w.dumps(recorded))


# --- no pickle ---

UNPICKLING = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "yaml"}
LOADERS = {"torch.load", "torch.hub.load", "pd.read_pickle", "pandas.read_pickle", "eval", "exec", "compile"}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for package in ("silo_tune", "analysis/silo_analysis"):
        for file in sorted((ROOT / package).rglob("*.py")):
            yield str(file.relative_to(ROOT)), ast.parse(file.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).split(".")[0]


def test_no_module_imports_what_could_unpickle() -> None:
    assert [(file, name) for file, tree in sources() for name in imported(tree) if name in UNPICKLING] == []


def test_no_module_calls_what_runs_code_that_it_reads() -> None:
    calls = [(file, node) for file, tree in sources() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [(file, ast.unparse(node.func), node) for file, node in calls]
    safe = [
        node for _, name, node in named if name == "torch.load" and ast.unparse(node).endswith("weights_only=True)")
    ]
    assert [(file, name) for file, name, node in named if name in LOADERS and node not in safe] == []
    assert (
        len(safe) == 1
    )  # of a checkpoint, or of weights; `tests/test_environments.py` gives it a file with code in it
    loads = [(file, node) for file, name, node in named if name in ("np.load", "numpy.load", "np.save", "numpy.save")]
    assert loads
    for file, node in loads:
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert given.get("allow_pickle") == "False", file


class Bomb:
    """Pickled, it is a program that leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("spared", ["", "study.toml"], ids=["every file", "all but the study"])
def test_a_pickle_in_place_of_the_files_of_a_run_is_never_loaded(home: Path, spared: str) -> None:
    mark = home / "mark"
    data = pickle.dumps(Bomb(mark))
    pickle.loads(data)  # the bomb works
    mark.rmdir()
    run_study(study(), "runs/small", local=True)
    read_everything()
    files = [file for file in (home / "runs/small").rglob("*") if file.is_file() and file.name != spared]
    assert {file.suffix for file in files} >= {".json", ".parquet", ".html", ".safetensors"}
    for file in files:
        file.write_bytes(data)
    read_everything()
    command("plan", "study.toml")
    command("run", "study.toml", "--local")
    assert not mark.exists()


# --- what is written to a run stays in it ---

KEY = "ab" * 32
OUTSIDE = ["../../../../outside.txt", "../../../outside.txt", "/{home}/outside.txt", "state-aa.safetensors/../../../x"]


@pytest.mark.parametrize("file", OUTSIDE)
@pytest.mark.parametrize("name", ["result.json", "restate-1.json"])
def test_a_result_that_names_a_state_outside_its_unit_reaches_nothing(tmp_path: Path, name: str, file: str) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_bytes(b"mine")
    run = Run(str(tmp_path / "run"))
    file = file.format(home=tmp_path)
    # A sum that fits would give the file's content away, one that does not would move it aside.
    for digest in ("0" * 64, hashlib.sha256(b"mine").hexdigest()):
        state = {"file": file, "sha256": digest, "bytes": 4}
        honest = result_of(KEY)
        run.storage.replace(f"{run.units.folder(KEY)}/{name}", seal({**honest, "state": state}))
        result = run.units.result(KEY) or honest
        assert run.units.read_state(result) is None
        run.units.commit(honest)
        run.units.sweep(KEY)
        assert outside.read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside.txt", "run"]


@pytest.mark.parametrize("name", ["../../x", "..", "a/b", "/etc", "<script>", "a b", "", "a\nb", "[red]x[/red]", "-x"])
def test_a_name_that_could_be_a_path_or_markup_is_refused(name: str) -> None:
    arms = {**table()["arms"], name: {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.05}}}
    for changed in ({**table(), "arms": arms}, {**table(), "name": name}):
        with pytest.raises(StudyError, match="name is letters, digits"):
            parse_study(changed)


def test_a_recorded_study_with_such_an_arm_is_refused_too(home: Path) -> None:
    run_study(study(), "runs/small", local=True)
    rewrite_study(lambda table: table["study"]["arms"].update({"../../../x": table["study"]["arms"]["silo"]}))
    for words in READERS:
        with pytest.raises(BadInput, match=r"is damaged .*name is letters, digits"):
            app(list(words), standalone_mode=False)
    assert sorted(path.name for path in home.iterdir()) == ["runs", "study.toml"]


@pytest.mark.parametrize("key", ["../../../../outside.txt", "/etc/passwd", "ab" * 31])
def test_a_decision_that_names_a_unit_outside_the_run_reaches_nothing(home: Path, key: str) -> None:
    run_study(study(), "runs/small", local=True)
    (home / "outside.txt").write_bytes(b"mine")
    for file in (home / "runs/small/chains").rglob("cycle-001-*.json"):
        body = unseal(file.read_bytes())
        file.write_bytes(seal({**body, "winner": key, "told": [{**told, "key": key} for told in body["told"]]}))
    for words in (*READERS, ("run", "study.toml", "--local")):
        with contextlib.suppress(SiloTuneError, ValueError):
            app(list(words), standalone_mode=False)
    assert (home / "outside.txt").read_bytes() == b"mine"
    assert {path.name for path in home.iterdir()} <= {"runs", "study.toml", "outside.txt", "optuna.db"}


# --- whoever writes to a run does not run code ---


def evil_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A unit's spec whose network is a function of a module in the run folder."""
    return {**spec, "model": {"function": "runs.small.evil:model", "version": "1"}}


def plant(home: Path) -> Path:
    mark = home / "mark"
    (home / "runs/small/evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    return mark


def results(home: Path) -> dict[Path, dict[str, Any]]:
    return {file: unseal(file.read_bytes()) for file in (home / "runs/small/units").rglob("result.json")}


def without_weights(home: Path) -> None:
    for file in (home / "runs/small/units").rglob("state-*"):
        file.unlink()


def longer() -> Study:
    return study(cycles=table()["cycles"] + 1)


def test_a_result_that_tells_of_another_unit_is_not_trained_again(home: Path) -> None:
    run_study(study(), "runs/small", local=True)
    mark = plant(home)
    for file, body in results(home).items():
        file.write_bytes(seal({**body, "unit": evil_spec(body["unit"])}))
    without_weights(home)
    with contextlib.suppress(SiloTuneError):
        run_study(longer(), "runs/small", local=True)
    assert not mark.exists()


def test_a_result_under_another_units_name_is_not_trained_again(home: Path) -> None:
    run_study(study(), "runs/small", local=True)
    mark = plant(home)
    for file, body in results(home).items():
        spec = evil_spec(body["unit"])
        file.write_bytes(seal({**body, "unit": spec, "key": Unit.from_spec(spec).key}))
    without_weights(home)
    with contextlib.suppress(SiloTuneError):
        run_study(longer(), "runs/small", local=True)
    assert not mark.exists()


def test_a_decision_for_a_unit_that_the_study_never_asked_for_is_refused(home: Path) -> None:
    run_study(study(), "runs/small", local=True)
    mark, units = plant(home), Run("runs/small").units
    for file in (home / "runs/small/chains").rglob("cycle-002-*.json"):
        body = unseal(file.read_bytes())
        honest = units.result(body["winner"])
        assert honest is not None
        spec = evil_spec(honest["unit"])
        key = Unit.from_spec(spec).key
        units.commit({**honest, "unit": spec, "key": key})
        file.write_bytes(seal({**body, "winner": key}))
    without_weights(home)
    run_study(longer(), "runs/small", local=True)  # derives them again
    assert len(list((home / "runs/small/chains").rglob("cycle-002-*.corrupt-1"))) > 0
    assert not mark.exists()


def test_a_network_that_the_study_does_not_name_is_not_built_to_be_taken_away(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_study(study(), "runs/small", local=True)
    mark, units = plant(home), Run("runs/small").units
    for file in (home / "runs/small/chains/silo").rglob("cycle-002-*.json"):
        body = unseal(file.read_bytes())
        honest = units.result(body["winner"])
        assert honest is not None
        spec = evil_spec(honest["unit"])
        key = Unit.from_spec(spec).key
        state = units.read_state(honest)
        assert state is not None
        claim = units.write_state(key, "0123456789abcdef", state)
        units.commit({**honest, "unit": spec, "key": key, "state": claim})
        told, asked = ([{**one, "key": key} for one in body[name]] for name in ("told", "asked"))
        file.write_bytes(seal({**body, "winner": key, "told": told, "asked": asked}))
    monkeypatch.setattr("silo_tune.export.weights.require_onnx", lambda: None)
    with pytest.raises(BadInput, match="is not the study of this run"):
        app(["weights", "runs/small", "--arm", "silo", "--seed", "0", "--format", "onnx"], standalone_mode=False)
    monkeypatch.setattr("silo_tune.results.doubts.require_own_study", lambda *args: None)
    with pytest.raises(RunFailed, match="is of another network than the run's study names"):
        app(["weights", "runs/small", "--arm", "silo", "--seed", "0", "--format", "onnx"], standalone_mode=False)
    assert not mark.exists()


# --- a study's functions ---

FUNCTIONS = {
    "users_schedule": "def made(cycle, pruned):\n    return 0.05\n",
    "users_model": (
        "from torch import nn\n"
        "def made(shape, classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1], classes))\n"
    ),
    "users_criterion": "def made(scoring):\n    return {n: w.detach().abs() for n, w in scoring.weights.items()}\n",
}


def test_a_studys_functions_are_imported_where_they_are_needed_and_nowhere_else(home: Path) -> None:
    log = home / "imported.txt"
    for name, code in FUNCTIONS.items():
        trace = f"with open({str(log)!r}, 'a') as log:\n    log.write({name!r} + ' ')\n"
        (home / f"{name}.py").write_text(trace + code)

    def reference(name: str) -> dict[str, str]:
        return {"function": f"{name}:made", "version": "1"}

    def imported_by(*words: str) -> set[str]:
        for name in FUNCTIONS:
            sys.modules.pop(name, None)
        log.write_text("")
        app(list(words), standalone_mode=False)
        return set(log.read_text().split())

    silo = {"mode": "schedule", "schedule": reference("users_schedule")}
    changed = {**table(), "model": reference("users_model"), "arms": {"silo": silo, "greedy": GREEDY}}
    changed["cycles"] = 4  # a fit wants responses of three
    changed["prune"] = {"criterion": reference("users_criterion")}
    (home / "study.toml").write_text(tomli_w.dumps(changed))
    assert imported_by("plan", "study.toml", "--no-preflight") == {"users_schedule"}
    assert imported_by("plan", "study.toml") == set(FUNCTIONS)
    assert imported_by("run", "study.toml", "--local") == set(FUNCTIONS)
    for words in READERS:
        assert imported_by(*words) == set(), words


# --- credentials ---

SECRET = "s3cr3t/of+the=user"


@pytest.mark.parametrize("url", ["s3://AKIA:s3cr3t@b/r", "gs://AKIA@b/r", "ftp://AKIA:s3cr3t@b/r", "s3://:s3cr3t@b"])
def test_a_url_with_credentials_is_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(BadInput, match="give credentials in the environment") as caught:
        Storage(url)
    assert "AKIA" not in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_only_versions_and_the_machine_are_recorded_of_the_environment(home: Path) -> None:
    run_study(study(), "runs/small", local=True)
    recorded = Run("runs/small").recorded()
    assert recorded is not None
    known = {"python", "machine", "silo-tune", "torch", "ray", "numpy", "pandas", "optuna"}
    assert {"python", "machine", "silo-tune"} <= set(recorded[1]["environment"]) <= known


@pytest.mark.slow
def test_credentials_are_in_no_file_and_in_no_output_of_a_run_that_works_or_fails(tmp_path: Path) -> None:
    front = s3()
    front.start()
    google = tmp_path / "google.json"
    google.write_text(json.dumps({"type": "service_account", "private_key": SECRET, "client_email": "x"}))
    values = {
        "AWS_ACCESS_KEY_ID": "AKIAQWERTYUIOP",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": "token-of-the-session",
        "GOOGLE_API_KEY": "AIza-of-the-user",
    }
    environ = {**os.environ, **values, "AWS_ENDPOINT_URL": front.url, "GOOGLE_APPLICATION_CREDENTIALS": str(google)}
    (tmp_path / "study.toml").write_text(tomli_w.dumps(table()))
    repeated = f"<AWSAccessKeyId>{values['AWS_ACCESS_KEY_ID']}</AWSAccessKeyId>"  # as AWS does
    refused = f"<Error><Code>InvalidAccessKeyId</Code><Message>no such key</Message>{repeated}</Error>"
    said = []

    def run(out: str, *more: str) -> int:
        words = [sys.executable, "-m", "silo_tune", "run", "study.toml", "--local", "--out", out, *more]
        ended = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environ, check=False)
        said.append(ended.stdout + ended.stderr)
        return ended.returncode

    assert run("here") == 0
    front.fault = lambda request: Fault("403 Forbidden", body=refused)
    assert run("s3://bucket/run", "--debug") == 1
    environ["STORAGE_EMULATOR_HOST"] = front.url
    front.fault = lambda request: Fault("403 Forbidden", body='{"error": {"code": 403, "message": "not allowed"}}')
    assert run("gs://bucket/run", "--debug") == 1
    front.stop()
    google.unlink()
    found = [*said, *(file.read_bytes().decode("latin1") for file in tmp_path.rglob("*") if file.is_file())]
    assert len(said) == 3
    for value in (*values.values(), "s3cr3t"):
        assert not [text for text in found if value in text]


# --- the report ---

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def test_the_page_runs_no_script_whatever_the_run_holds(home: Path) -> None:
    """Titles, reasons of failures and what else is text in a run are text on the page, beside its own one script."""
    run_study(study(report={"title": MARKUP, "tolerance": 0.05}), "runs/small", local=True)
    for file in (home / "runs/small/chains/greedy").rglob("cycle-001-*.json"):
        body = unseal(file.read_bytes())
        nothing = {"val_score": None, "val_loss": None}
        told = [{**one, "status": "failed", "error": MARKUP, **nothing} for one in body["told"]]
        file.write_bytes(seal({**body, "told": told, "winner": None}))
    rewrite_study(lambda table: table["run"].update({"environment": {MARKUP: MARKUP}, "created": MARKUP}))
    (home / "runs/small/table.parquet").unlink()  # which has rows that the forged decisions have not
    app(["report", "runs/small"], standalone_mode=False)
    page = (home / "runs/small/report/report.html").read_text()
    assert "alert(1)" in page
    [own] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert f"default-src 'none'; script-src 'sha256-{allowed}';" in page
    assert not re.search(r"<script|<img src=x|<[^>]*\son\w+=", page.replace(f"<script>{own}</script>", ""))
    for drawing in (home / "runs/small/report").rglob("*.svg"):
        assert "<script" not in drawing.read_text()


# --- Ray ---


def test_rays_authentication_is_never_touched() -> None:
    files = [file for package in ("silo_tune", "analysis") for file in (ROOT / package).rglob("*.py")]
    assert len(files) > 50
    assert not [file for file in files if "RAY_AUTH" in file.read_text(encoding="utf-8")]
