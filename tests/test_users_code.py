"""Whatever a user's code does where it is imported or called: one line with its key and line, and exit code 2."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from silo_tune.api import run_study
from silo_tune.errors import BadInput, one_line, raised, shown, words
from silo_tune.study import registry
from silo_tune.study.study_file import load_study
from tests.conftest import small_table
from tests.test_cli import in_process

MUTE = "class Mute(Exception):\n    def __str__(self): raise ValueError('in str')\n    __repr__ = __str__\n"
SCHEDULE = "arms.mine.schedule"
WRONG = {  # the module, the key, and what is told
    "leaves": ("def f(cycle, pruned): raise SystemExit(0)\n", SCHEDULE, "SystemExit: 0 ("),
    "closes": ("def f(cycle, pruned): raise GeneratorExit\n", SCHEDULE, "GeneratorExit:"),
    "other": ("class Own(BaseException): pass\ndef f(cycle, pruned): raise Own('x')\n", SCHEDULE, "Own: x ("),
    "mute": (f"{MUTE}def f(cycle, pruned): raise Mute\n", SCHEDULE, "whose text cannot be had: it raises ValueError"),
    "long": ("def f(cycle, pruned): raise ValueError('a\\nb' + 'c' * 100_000)\n", SCHEDULE, "ValueError: a bccc"),
    "mute_rate": (f"{MUTE}def f(cycle, pruned): return Mute()\n", SCHEDULE, "max_lr (Mute whose text cannot be had"),
    "huge_rate": ("def f(cycle, pruned): return 10 ** 400\n", SCHEDULE, "OverflowError: int too large"),
    "leaves_early": (
        "raise SystemExit(0)\n",
        f"{SCHEDULE}.function",
        "import 'leaves_early:f': SystemExit: 0 (",
    ),
    "divides": (
        "x = 1 / 0\n",
        f"{SCHEDULE}.function",
        "import 'divides:f': ZeroDivisionError: division by zero",
    ),
    "no_python": ("def f(:\n", f"{SCHEDULE}.function", "cannot import 'no_python:f': SyntaxError: invalid syntax"),
    "lacks": ("import nothing_like_it\n", f"{SCHEDULE}.function", "No module named 'nothing_like_it'; is its folder"),
    "absent": ("", f"{SCHEDULE}.function", "absent has no function 'f'"),
    "constant": ("f = 0.1\n", f"{SCHEDULE}.function", "constant has no function 'f'"),
}


@pytest.fixture
def of_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a module and a study that names f of it; gives the study's file."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    modules: list[str] = []

    def write(name: str, code: str, table: dict[str, Any]) -> Path:
        (tmp_path / f"{name}.py").write_text(code)
        modules.append(name)
        file = tmp_path / "small.toml"
        file.write_text(tomli_w.dumps(table))
        return file

    yield write
    for name in modules:
        sys.modules.pop(name, None)


def with_schedule(name: str) -> dict[str, Any]:
    arm = {"mode": "schedule", "schedule": {"function": f"{name}:f", "version": "1"}}
    return {**small_table(), "arms": {"mine": arm}}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_what_a_users_module_or_schedule_raises_is_told_at_its_key(
    command: str, name: str, of_theirs: Any, tmp_path: Path
) -> None:
    code, key, told = WRONG[name]
    file = of_theirs(name, code, with_schedule(name))
    line = file.read_text().splitlines().index("[arms.mine.schedule]") + 1 + key.endswith("function")
    done = in_process(command, str(file), "--out", str(tmp_path / "run"), *(["--local"] if command == "run" else []))
    said = done.stderr.removeprefix("silo-tune: ").splitlines()
    assert (done.returncode, len(said)) == (2, 1)
    assert said[0].startswith(f"{file}:{line}: {key}: ")
    assert told in said[0]
    assert len(said[0]) < 1000


def test_what_stops_a_run_stops_it_in_a_users_code_too(of_theirs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(of_theirs("interrupted", "raise KeyboardInterrupt\n", {}).parent))
    with pytest.raises(KeyboardInterrupt):
        registry.resolve("interrupted:f")


def test_the_text_of_an_exception_and_of_a_value_is_one_short_line_whatever_it_is() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise SystemExit

        __repr__ = __str__

    assert words(Mute()) == "Mute: (Mute whose text cannot be had: it raises SystemExit)"
    assert shown(Mute()) == one_line(Mute()) == "(Mute whose text cannot be had: it raises SystemExit)"
    assert shown("a" * 1000) == f"'{'a' * 298}…"
    assert one_line(ValueError("a\n\tb \udc80")) == "a b \\udc80"


def test_the_place_of_an_exception_is_the_last_that_a_user_wrote() -> None:
    with pytest.raises(BadInput) as caught:
        registry.resolve("not_a_name:f")  # found missing in the standard library, by way of ours
    assert raised(caught.value).split(" (")[-1].startswith(f"{__file__}, line ")


WANDERS = "import os\nfrom tests.users import model\n"
PLACES = {  # where a user's code goes to another folder
    "wanders_early": ("os.chdir({to!r})\ndef rate(cycle, pruned): return 0.1\n", ""),
    "wanders_in_schedule": ("def rate(cycle, pruned):\n    os.chdir({to!r})\n    return 0.1\n", ""),
    "wanders_in_model": (
        "def rate(cycle, pruned): return 0.1\n"
        "def net(shape, classes):\n    os.chdir({to!r})\n    return model(shape, classes)\n",
        "net",
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_function_that_goes_to_another_folder_takes_nothing_of_the_run_there(
    name: str, of_theirs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, net = PLACES[name]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    arm = {"mode": "schedule", "schedule": {"function": f"{name}:rate", "version": "1"}}
    table = {**small_table(cycles=2), "arms": {"mine": arm}, "data": {"name": "digits"}}
    if net:
        table["model"] = {"function": f"{name}:{net}", "version": "1"}
    of_theirs(name, WANDERS + body.format(to=str(elsewhere)), table)
    monkeypatch.setenv("SILO_TUNE_CACHE", "cache")
    first = in_process("run", "small.toml", "--out", "runs/a", "--local", cwd=tmp_path)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.splitlines()[-1] == "report: runs/a/report/report.html"
    for words_ in (("plan", "small.toml"), ("run", "small.toml", "--local")):
        done = in_process(*words_, "--out", "runs/b", "--reuse", "runs/a", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    assert f"reused from {tmp_path}/runs/a" in done.stdout
    assert all((tmp_path / "runs" / run / "report" / "report.html").exists() for run in "ab")
    assert list(elsewhere.iterdir()) == []
    assert (tmp_path / "cache" / "preflight").exists()


def test_what_is_wrong_is_told_with_its_line_even_from_another_folder(of_theirs: Any, tmp_path: Path) -> None:
    code = "import os\nos.chdir('/')\ndef f(cycle, pruned): return -1.0\n"
    of_theirs("wanders_wrong", code, with_schedule("wanders_wrong"))
    done = in_process("plan", "small.toml", "--out", "runs/a", cwd=tmp_path)
    assert done.stderr.startswith("silo-tune: small.toml:")
    assert "max_lr -1.0 at cycle 1 is not a rate above 0" in done.stderr


def test_run_study_stays_in_its_folder_too(of_theirs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"import os\nos.chdir({str(tmp_path / 'elsewhere')!r})\ndef f(cycle, pruned): return 0.1\n"
    (tmp_path / "elsewhere").mkdir()
    file = of_theirs("wanders_api", code, {**with_schedule("wanders_api"), "cycles": 2})
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    run_study(load_study(file), "runs/a", local=True)
    assert (tmp_path / "runs" / "a" / "table.parquet").exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []


WRONG_PROFILES = {
    "dice": ("import random\ndef f(step, total): return random.random()\n", "when it is asked again; a profile is"),
    "counts": ("from itertools import count\nn = count()\ndef f(step, total): return next(n) / 1e6\n", "asked again"),
    "wordy": ("def f(step, total): return '1'\n", "dry:f gives '1' at step 0 of "),
    "truthy": ("def f(step, total): return True\n", "dry:f gives True at step 0 of "),
    "quits": ("def f(step, total): raise SystemExit(0)\n", "dry:f raised SystemExit: 0 ("),
    "broke": ("x = 1 / 0\n", "cannot import 'broke_p:f': ZeroDivisionError: division by zero ("),
}


@pytest.mark.parametrize("key", ["retrain.profile", "arms.flat.profile", "dense.profile"])
@pytest.mark.parametrize("name", WRONG_PROFILES)
def test_a_profile_gives_the_same_numbers_twice_or_is_told_at_its_key(name: str, key: str, of_theirs: Any) -> None:
    code, told = WRONG_PROFILES[name]
    section, _, rest = key.partition(".")
    profile = {"profile": {"function": f"{name}_p:f", "version": "1"}}
    table = small_table(**{section: {"flat": profile} if rest == "flat.profile" else profile})
    file = of_theirs(f"{name}_p", code, table)
    done = in_process("plan", str(file))
    said = done.stderr.removeprefix("silo-tune: ").splitlines()
    line = file.read_text().splitlines().index(f"[{key}]") + 1
    assert (done.returncode, len(said)) == (2, 1)
    where = f"{file}:{line + 1}: {key}.function: " if name == "broke" else f"{file}:{line}: {key}: "
    assert said[0].startswith(where)
    assert told.replace("dry:f", f"{name}_p:f") in said[0]
