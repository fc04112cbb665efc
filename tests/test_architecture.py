"""The fences: which module may import which, and who may know a heavy package."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import silo_tune
from silo_tune.cli.catalogue import KINDS
from silo_tune.results.records import Recorded, write_record
from tests.analysis.builder import ARMS, make_frame, make_study

ROOT = Path(silo_tune.__file__).parent.parent

# A module imports from its own layer or a lower one.
LAYERS = [
    {"errors"},
    {"schedules", "names", "recipes", "sketch"},
    {"profiles"},
    {"study"},
    {"units"},
    {"presets"},
    {"registries"},
    {"study_file", "workspace", "storage", "snapshot"},
    {"candidates", "lease"},
    {"store"},
    {"chains"},
    {"results", "forecast", "curves"},
    {"progress", "status", "view"},
    {"run"},
    {"process", "data", "streams", "checkpoint", "structure", "criteria", "pruning"},
    {"feed", "models", "timm_models"},
    {"training", "spread", "inference", "small"},
    {"attempts"},
    {"prune_step"},
    {"pipelines"},
    {"cycle"},
    {"stepwise", "shrink"},
    {"tune"},
    {"optuna_export"},
    {"console"},
    {"cli"},
]
# Imported inside a function, where the work begins: everything above loads without torch and Ray.
LAZY_UPWARD = {("run", "data"), ("run", "attempts"), ("run", "cycle"), ("run", "tune")}

PRINTING = {"console", "cli"}
PLAIN = set().union(*LAYERS[: LAYERS.index({"run"}) + 1]) | {"console", "cli"}
TORCH = {"torch", "torchvision", "timm", "safetensors"}


@dataclass(frozen=True)
class Import:
    """One import statement: who, what ("package.module"), and whether it waits inside a function."""

    module: str
    target: str
    lazy: bool


def imports(package: str) -> Iterator[Import]:
    for file in sorted((ROOT / package).rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        yield from found_in(tree, file.relative_to(ROOT / package).with_suffix("").as_posix().replace("/", "."), False)


def found_in(node: ast.AST, module: str, lazy: bool) -> Iterator[Import]:
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        for otherwise in node.orelse:
            yield from found_in(otherwise, module, lazy)
        return
    if isinstance(node, ast.Import):
        yield from (Import(module, alias.name, lazy) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{module}: relative import"
        assert node.module is not None
        for alias in node.names:
            deeper = (ROOT / node.module.replace(".", "/") / f"{alias.name}.py").exists()
            yield Import(module, f"{node.module}.{alias.name}" if deeper else node.module, lazy)
    inside = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    for child in ast.iter_child_nodes(node):
        yield from found_in(child, module, inside)


OURS = list(imports("silo_tune"))
ANALYSIS = list(imports("analysis"))


def users(found: list[Import], packages: set[str], lazy_too: bool = True) -> set[str]:
    """Modules, or packages of several, that import one of the packages."""
    return {own(i.module) for i in found if i.target.split(".")[0] in packages and (lazy_too or not i.lazy)}


def own(module: str) -> str:
    """The module, or the package that it is a part of."""
    return module.removeprefix("silo_tune.").split(".")[0]


def layer(module: str) -> int:
    return next(number for number, modules in enumerate(LAYERS) if own(module) in modules)


# --- our own modules ---


def test_every_module_has_one_layer() -> None:
    modules = {own(module) for module in (found.module for found in OURS)} - {"__init__"}
    assert modules == set().union(*LAYERS)
    assert sum(map(len, LAYERS)) == len(modules)


def test_imports_point_downwards() -> None:
    upward = {
        (i.module, i.target.removeprefix("silo_tune."), i.lazy)
        for i in OURS
        if i.target.startswith("silo_tune.") and layer(i.target.removeprefix("silo_tune.")) > layer(i.module)
    }
    assert upward == {(*pair, True) for pair in LAZY_UPWARD}


def test_loading_a_module_never_runs_in_a_circle() -> None:
    pairs = {(i.module, i.target.removeprefix("silo_tune.")) for i in OURS if not i.lazy and "silo_tune." in i.target}
    assert not {(a, b) for a, b in pairs if (b, a) in pairs}


def test_only_the_front_door_imports_analysis() -> None:
    assert users(OURS, {"analysis"}) <= {"cli"}
    assert all(i.lazy for i in OURS if i.target.split(".")[0] == "analysis")


def test_analysis_imports_only_schedules_results_study_curves_and_errors_and_a_replay_the_search() -> None:
    allowed = {f"silo_tune.{name}" for name in ("schedules", "results", "study", "curves", "errors")}
    found = {i.target for i in ANALYSIS if i.target.split(".")[0] == "silo_tune" and own(i.module) != "replay"}
    assert found <= allowed
    searching = {i.target for i in ANALYSIS if i.target.startswith("silo_tune.") and own(i.module) == "replay"}
    assert {target.split(".")[1] for target in searching} <= {"errors", "study", "candidates", "chains"}


def test_the_leaves_use_the_standard_library_alone() -> None:
    for module in ("errors", "schedules", "profiles", "names", "recipes"):
        targets = {i.target.split(".")[0] for i in OURS if i.module == module}
        assert targets - {"silo_tune"} <= set(sys.stdlib_module_names)


def test_the_public_names_are_where_the_package_looks_for_them() -> None:
    for name in silo_tune.__all__:
        if name not in ("ChainSearch", "PruneRetrain"):  # they load Ray
            assert getattr(silo_tune, name)
    tree = ast.parse((ROOT / "silo_tune" / "tune" / "__init__.py").read_text(encoding="utf-8"))
    given = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert {"ChainSearch", "PruneRetrain"} <= given
    with pytest.raises(AttributeError, match="no attribute 'Oracle'"):
        silo_tune.Oracle  # noqa: B018


# --- other people's packages ---


def test_ray_is_known_to_tune_alone() -> None:
    assert users(OURS, {"ray"}) == {"tune"}
    assert users(ANALYSIS, {"ray"}) == set()


def test_torch_is_unknown_to_the_plain_modules_and_to_analysis() -> None:
    assert users(OURS, TORCH) & PLAIN == set()
    assert users(OURS, TORCH, lazy_too=False) & {"tune"} == set()
    assert users(ANALYSIS, TORCH) == set()


def test_matplotlib_is_known_to_the_plots_alone() -> None:
    assert users(OURS, {"matplotlib"}) == set()
    assert {module.split(".")[0] for module in users(ANALYSIS, {"matplotlib"})} <= {"plots"}


def test_optuna_is_known_to_the_candidates_alone() -> None:
    assert users(OURS, {"optuna"}) <= {"candidates", "optuna_export"}
    assert users(ANALYSIS, {"optuna"}) == set()


def test_torch_pruning_is_known_to_the_structure_alone_and_waits_there() -> None:
    assert users(OURS, {"torch_pruning"}) == {"structure"}
    assert users(OURS, {"torch_pruning"}, lazy_too=False) == set()
    assert users(ANALYSIS, {"torch_pruning"}) == set()


def test_pandas_is_known_to_results_alone_and_waits_there() -> None:
    assert users(OURS, {"pandas"}) == {"results"}
    assert users(OURS, {"pandas"}, lazy_too=False) == set()


def test_no_pickle_is_ever_imported() -> None:
    assert users(OURS + ANALYSIS, {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}) == set()


def test_nothing_is_read_through_a_pickle() -> None:
    for file in (ROOT / "silo_tune").rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        assert not {ast.unparse(call.func) for call in calls} & {"torch.load", "torch.save", "pd.read_pickle"}
        allowing = [word.value for call in calls for word in call.keywords if word.arg == "allow_pickle"]
        assert all(isinstance(value, ast.Constant) and value.value is False for value in allowing), file.name


# --- who prints ---


def test_only_the_console_and_the_commands_print() -> None:
    printing = {"print", "typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write", "rich.print"}
    for package in ("silo_tune", "analysis"):
        for file in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
            if own(file.relative_to(ROOT / package).with_suffix("").as_posix().replace("/", ".")) not in PRINTING:
                assert not calls & printing, f"{package}/{file.name}"


# --- what is loaded when ---

SHOW = "import sys, json\nprint(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
COMMAND = """import sys
from silo_tune.cli import main
sys.argv = {argv!r}
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""
HEAVY = {"torch", "ray", "pandas", "matplotlib", "scipy", "sklearn", "torchvision", "timm"}


def loaded(program: str, place: Path) -> set[str]:
    """Top-level packages in memory at the end of a program."""
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\n{SHOW}"], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_loads_nothing_but_the_standard_library(tmp_path: Path) -> None:
    assert not loaded("import silo_tune", tmp_path) & (HEAVY | {"pydantic", "fsspec", "typer", "numpy"})


def test_the_plain_modules_load_without_torch_ray_and_pandas(tmp_path: Path) -> None:
    program = "\n".join(f"import silo_tune.{module}" for module in sorted(PLAIN))
    assert not loaded(program, tmp_path) & HEAVY


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["run", "--help"],
        ["report", "--help"],
        *(["list", kind] for kind in KINDS),
        ["plan", "experiments/digits.toml"],
        ["plan", "experiments/paper/vit-imagenet.toml"],
    ],
    ids=" ".join,
)
def test_a_command_that_trains_nothing_loads_nothing_heavy(tmp_path: Path, argv: list[str]) -> None:
    command = ["silo-tune", *(str(ROOT / word) if word.endswith(".toml") else word for word in argv)]
    assert not loaded(COMMAND.format(argv=command), tmp_path) & HEAVY
    assert list(tmp_path.iterdir()) == []  # and it writes nothing


def test_a_report_loads_neither_torch_nor_ray_nor_optuna(tmp_path: Path) -> None:
    study = make_study({name: ARMS[name] for name in ("silo", "high", "oracle")}, seeds=2, cycles=2)
    ledger = {"format": 1, "recipe": 1, "created": "2026", "environment": {}}
    write_record(str(tmp_path / "record"), Recorded(make_frame(study), study, ledger))
    found = loaded(COMMAND.format(argv=["silo-tune", "report", "record"]), tmp_path)
    assert not found & {"torch", "ray", "optuna", "sklearn", "torchvision", "timm"}
    assert (tmp_path / "record" / "report" / "report.html").exists()
