"""The house: which room may import which, and who may know a heavy package.

Read `FLOORS` first: a room imports from its own package and from floors below it, never from beside or above.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
import yaml

import silo_analysis
import silo_tune
from silo_tune.cli.catalogue import KINDS
from silo_tune.results.records import Recorded, write_record
from silo_tune.store.run_folder import Run
from tests.analysis.builder import ARMS, make_frame, make_study

ROOT = Path(__file__).parent.parent
PACKAGES = {"silo_tune": ROOT / "silo_tune", "silo_analysis": ROOT / "analysis" / "silo_analysis"}

FLOORS = (
    # from the ground up                   what stands there
    ("errors", "formats", "machine", "seeds"),  # messages for users, numbers as text, this machine, random streams
    ("schedules",),  # max_lr over cycles, the rate inside one
    ("study",),  # the TOML file, and every name that it can hold
    ("planner", "data", "models", "tasks"),  # which unit is next; examples; networks; what they are trained for
    ("store", "pruning"),  # a run on disk; masks and criteria
    ("training", "results", "loops"),  # one unit, trained; the table of a run; SILO in other people's loops
    ("run", "export", "estimates"),  # a session; networks and studies taken out; statistics of a table
    ("tune", "curve_fit"),  # all that knows Ray; curves over cycles
    ("api", "answers", "replay"),  # run_study; what a run says; searches on a recorded grid
    ("figures", "combine"),  # pictures; several runs
    ("report", "everyday"),  # the page; one network, pruned without a study file
    ("cli",),  # the commands, and all that prints
)
# Imported inside a function, where the work begins: everything above loads without torch and Ray.
LAZY = {("run", "training"), ("api", "tune")}

PRINTING = {"cli"}
PLAIN = {"errors", "formats", "machine", "schedules", "study", "planner", "store", "results", "run", "api", "cli"}
TORCH = {"torch", "torchvision", "timm", "safetensors"}


@dataclass(frozen=True)
class Import:
    """One import statement: who, what ("package.module"), and whether it waits inside a function."""

    module: str
    target: str
    lazy: bool


def imports(package: str) -> Iterator[Import]:
    for file in sorted(PACKAGES[package].rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        path = file.relative_to(PACKAGES[package]).with_suffix("")
        yield from found_in(tree, ".".join((package, *path.parts)).removesuffix(".__init__"), False)


def found_in(node: ast.AST, module: str, lazy: bool) -> Iterator[Import]:
    """Every import, those for types alone included: they too say who knows whom."""
    if isinstance(node, ast.Import):
        yield from (Import(module, alias.name, lazy) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{module}: relative import"
        assert node.module is not None
        for alias in node.names:
            deeper = f"{node.module}.{alias.name}"
            yield Import(module, deeper if deeper in MODULES else node.module, lazy)
    inside = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    inside = inside or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    for child in ast.iter_child_nodes(node):
        yield from found_in(child, module, inside)


MODULES = {
    ".".join((package, *file.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
    for package, root in PACKAGES.items()
    for file in root.rglob("*.py")
}
OURS = list(imports("silo_tune"))
ANALYSIS = list(imports("silo_analysis"))


def room(module: str) -> str:
    """The package below the top, or the module there; "" for the front doors, `__init__` and `__main__`."""
    found = module.split(".")[1] if "." in module else ""
    return "" if found == "__main__" else found


def floor(module: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room(module) in rooms)


def users(found: list[Import], packages: set[str], lazy_too: bool = True) -> set[str]:
    """Rooms that import one of the packages."""
    return {room(i.module) for i in found if i.target.split(".")[0] in packages and (lazy_too or not i.lazy)}


def between_rooms() -> Iterator[Import]:
    """Imports of ours from one room into another; the front doors, which only hand names on, are no rooms."""
    for found in (*OURS, *ANALYSIS):
        inside = found.target.split(".")[0] in PACKAGES and room(found.module) and room(found.target)
        if inside and room(found.module) != room(found.target):
            yield found


# --- our own rooms ---


def test_every_room_stands_on_one_floor() -> None:
    rooms = {room(module) for module in MODULES} - {""}
    assert Counter(name for names in FLOORS for name in names) == Counter(rooms)
    assert len(FLOORS) <= 12


def test_the_top_of_the_package_is_small() -> None:
    inside = [path for path in PACKAGES["silo_tune"].iterdir() if path.name != "__pycache__"]
    assert sum(path.suffix == ".py" and path.stem not in ("__init__", "__main__") for path in inside) <= 6
    assert sum(path.is_dir() for path in inside) <= 15


def test_imports_point_downwards() -> None:
    upward = {(room(i.module), room(i.target), i.lazy) for i in between_rooms() if floor(i.target) >= floor(i.module)}
    assert upward == set()


def test_torch_and_ray_wait_inside_functions_where_a_plain_room_begins_the_work() -> None:
    heavy = {"data", "training", "tune", "models", "tasks", "pruning", "export"}
    waiting = {(room(i.module), room(i.target)) for i in between_rooms() if i.lazy and room(i.target) in heavy}
    assert {pair for pair in waiting if pair[0] in PLAIN - {"cli"}} == LAZY
    assert not {(i.module, i.target) for i in between_rooms() if not i.lazy and pair_of(i) in product(PLAIN, heavy)}


def pair_of(found: Import) -> tuple[str, str]:
    return room(found.module), room(found.target)


def test_modules_of_a_room_import_each_other_in_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for found in (*OURS, *ANALYSIS):
        if found.target in MODULES and found.target != found.module and room(found.module):
            graph.setdefault(found.module, set()).add(found.target)
    below: dict[str, frozenset[str]] = {}

    def reach(module: str, path: tuple[str, ...]) -> frozenset[str]:
        assert module not in path, " → ".join((*path[path.index(module) :], module))
        if module not in below:
            below[module] = frozenset().union(*({t} | reach(t, (*path, module)) for t in graph.get(module, ())))
        return below[module]

    for module in graph:
        reach(module, ())


def test_no_file_name_and_no_class_name_occurs_twice() -> None:
    files = [file for root in PACKAGES.values() for file in root.rglob("*.py") if file.name != "__init__.py"]
    twice = [name for name, count in Counter(file.name for file in files).items() if count > 1]
    classes = Counter(
        node.name
        for file in files
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert (twice, [name for name, count in classes.items() if count > 1]) == ([], [])


def test_nothing_that_is_installed_is_called_analysis() -> None:
    found = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert found["find"]["where"] == [".", "analysis"]
    assert not (ROOT / "analysis" / "__init__.py").exists()
    assert {path.name for path in (ROOT / "analysis").iterdir()} == {"silo_analysis"}


def test_the_citation_and_the_automatic_check_are_those_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (cited["version"], cited["license"]) == (silo_tune.__version__, project["license"])
    assert project["dynamic"] == ["version"]  # `silo_tune.machine.VERSION`, which the build reads too
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert all({"type", "title", "authors"} <= set(reference) for reference in cited["references"])
    check = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]["check"]
    assert [step["run"] for step in check["steps"] if "run" in step] == [".ci/run"]
    assert f">={check['strategy']['matrix']['python'][0]}" == project["requires-python"]
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*_*.yml"):
        assert {"name", "description", "body"} <= set(yaml.safe_load(form.read_text(encoding="utf-8"))), form.name


def test_nobody_inside_imports_the_package_of_public_names() -> None:
    assert [i.module for i in (*OURS, *ANALYSIS) if i.target in PACKAGES] == []


def test_only_the_commands_import_the_analysis_and_where_a_run_begins_what_looks_at_its_verdicts() -> None:
    assert users(OURS, {"silo_analysis"}) == {"api", "cli", "everyday"}
    assert users(OURS, {"silo_analysis"}, lazy_too=False) <= {"cli"}
    wanted = {i.target for i in OURS if room(i.module) == "api" and i.target.split(".")[0] == "silo_analysis"}
    assert wanted == {"silo_analysis.estimates.sequential"}
    assert all(i.lazy for i in OURS if i.target.split(".")[0] == "silo_analysis")


def test_the_analysis_knows_tables_and_studies_and_a_replay_the_search() -> None:
    allowed = {"schedules", "results", "study", "errors", "formats", "planner"}
    assert {room(i.target) for i in ANALYSIS if i.target.startswith("silo_tune.")} <= allowed
    planning = {i for i in ANALYSIS if i.target.startswith("silo_tune.planner.")}
    shared = {"silo_tune.planner.winner"}  # the rule of who wins a cycle is one
    # A picture of an arm draws planner.curves.
    assert {room(i.module) for i in planning if i.target not in shared} <= {"replay", "figures"}


def test_the_leaves_use_the_standard_library_alone() -> None:
    leaves = {
        "silo_tune.errors",
        "silo_tune.formats",
        "silo_tune.machine",
        "silo_tune.study.registry",
        "silo_tune.study.recipes",
    }
    leaves |= {module for module in MODULES if module.startswith("silo_tune.schedules")}
    targets = {i.target.split(".")[0] for i in OURS if i.module in leaves}
    assert targets - {"silo_tune"} <= set(sys.stdlib_module_names)


def test_the_public_names_are_where_the_packages_look_for_them() -> None:
    for package in (silo_tune, silo_analysis):
        assert dir(package) == package.__all__ == sorted(package.__all__)
        for name in package.__all__:
            if name not in ("ChainSearch", "PruneRetrain", "RayRunner"):  # they load Ray
                assert getattr(package, name).__doc__ or name == "__version__", name
        with pytest.raises(AttributeError, match="no attribute 'Oracle'"):
            package.Oracle  # noqa: B018
    tree = ast.parse((ROOT / "silo_tune" / "tune" / "__init__.py").read_text(encoding="utf-8"))
    given = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert {"ChainSearch", "PruneRetrain", "RayRunner"} <= given


# --- other people's packages ---


def test_ray_is_known_to_tune_alone() -> None:
    assert users(OURS, {"ray"}) == {"tune"}
    assert users(ANALYSIS, {"ray"}) == set()


def test_torch_is_unknown_to_the_plain_modules_and_to_analysis() -> None:
    assert users(OURS, TORCH) & PLAIN == set()
    assert users(OURS, TORCH, lazy_too=False) & {"tune"} == set()
    assert users(ANALYSIS, TORCH) == set()


def test_matplotlib_is_known_to_the_figures_alone() -> None:
    assert users(OURS, {"matplotlib"}) == set()
    assert users(ANALYSIS, {"matplotlib"}) == {"figures"}


def test_optuna_is_known_where_candidates_are_suggested_and_studies_exported() -> None:
    assert users(OURS, {"optuna"}) == {"planner", "export"}
    assert users(ANALYSIS, {"optuna"}) == set()


def test_trackers_are_known_where_a_run_is_told_and_wait_there() -> None:
    trackers = {"mlflow", "tensorboardX", "wandb"}
    assert users(OURS, trackers) == {"run"}
    assert users(OURS, trackers, lazy_too=False) == set()


def test_torch_pruning_is_known_to_the_filters_alone_and_waits_there() -> None:
    assert users(OURS, {"torch_pruning"}) == {"pruning"}
    assert users(OURS, {"torch_pruning"}, lazy_too=False) == set()
    assert users(ANALYSIS, {"torch_pruning"}) == set()


def test_pandas_is_known_to_tables_alone_and_waits_there() -> None:
    assert users(OURS, {"pandas"}) == {"results", "run", "export", "everyday"}
    assert users(OURS, {"pandas"}, lazy_too=False) == set()


def test_no_pickle_is_ever_imported() -> None:
    assert users(OURS + ANALYSIS, {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}) == set()


def test_nothing_is_read_through_a_pickle() -> None:
    for file in (ROOT / "silo_tune").rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        named = {ast.unparse(call.func) for call in calls}
        assert "pd.read_pickle" not in named
        assert "torch.save" not in named or file.name == "checkpoint.py", file.name  # of tensors, for others
        for call in calls:  # of a user's checkpoint: tensors alone, and no code of the file is run
            only = {word.arg: ast.unparse(word.value) for word in call.keywords}.get("weights_only") == "True"
            assert ast.unparse(call.func) != "torch.load" or (only and file.name == "checkpoint.py"), file.name
        allowing = [word.value for call in calls for word in call.keywords if word.arg == "allow_pickle"]
        assert all(isinstance(value, ast.Constant) and value.value is False for value in allowing), file.name


# --- who prints ---


def test_only_the_console_and_the_commands_print() -> None:
    printing = {"print", "typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write", "rich.print"}
    for package, root in PACKAGES.items():
        for file in sorted(root.rglob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
            if file.relative_to(root).parts[0] not in PRINTING:
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
    program = "\n".join(
        f"import {module}" for module in sorted(MODULES) if module.startswith("silo_tune.") and room(module) in PLAIN
    )
    assert not loaded(program, tmp_path) & HEAVY


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["run", "--help"],
        ["report", "--help"],
        *(["list", kind] for kind in KINDS),
        ["schema"],
        ["plan", "experiments/digits.toml", "--no-preflight"],
        ["plan", "experiments/paper/vit-imagenet.toml", "--no-preflight"],
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


BLOCKED = """import sys
for name in ("torch", "ray", "torchvision", "timm", "torchmetrics", "torch_pruning", "safetensors"):
    sys.modules[name] = None
from silo_tune.cli import main
for argv in {argvs!r}:
    sys.argv = ["silo-tune", *argv]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (argv, end.code)
"""


@pytest.mark.slow
def test_whoever_trains_nothing_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    study = make_study({name: ARMS[name] for name in ("silo", "high", "oracle-at-silo")}, seeds=3, cycles=4)
    ledger = {"format": 1, "recipe": 1, "created": "2026", "environment": {}}
    write_record(str(tmp_path / "record"), Recorded(make_frame(study), study, ledger))
    Run(str(tmp_path / "run")).accept(study, {})
    argvs = [
        ["plan", str(ROOT / "experiments" / "digits.toml")],
        ["status", "run"],
        ["status", "."],
        ["report", "record"],
        ["fit", "record"],
        ["replay", "record", "--sampler", "random", "--trials", "4", "--repetitions", "1"],
        ["compare", "record", "record"],
        ["export", "record", "--optuna", "oracle.log"],
        ["list", "models"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(argvs=argvs)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "torch is not installed here" in done.stderr
    argvs = [["run", str(ROOT / "experiments" / "digits.toml"), "--local"]]
    told = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(argvs=argvs)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "silo-tune: torch is needed for this and is not installed here: pip install torch" in told.stderr
