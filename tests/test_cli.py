"""The commands as a user types them: what they print, how they end, what they say of mistakes."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from silo_tune.cli import main
from silo_tune.cli.catalogue import KINDS, deviations
from tests.conftest import small_table

pytestmark = pytest.mark.usefixtures("only_svg")

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
DIGITS = str(EXPERIMENTS / "digits.toml")
PAPER = str(EXPERIMENTS / "paper" / "resnet20-cifar10.toml")


def in_process(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The entry point in this process: the same code and words, without two seconds of imports for each."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["silo-tune", *arguments])
        patch.setattr(sys, "path", [path for path in sys.path if path])  # a console script does not see its folder
        patch.chdir(cwd or Path.cwd())
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return subprocess.CompletedProcess(list(arguments), code, out.getvalue(), err.getvalue())


def silo_tune(*arguments: str, cwd: Path | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """The command as its user runs it, in a process of its own."""
    command = [sys.executable, "-m", "silo_tune", *arguments]
    paths = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=timeout, check=False)


@pytest.fixture
def study(tmp_path: Path) -> str:
    file = tmp_path / "small.toml"
    file.write_text(tomli_w.dumps(small_table()))
    return str(file)


def fastest(run: Callable[[], subprocess.CompletedProcess[str]]) -> float:
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        assert run().returncode == 0
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def slowness() -> float:
    """How many times 0.15 s, as on an idle machine, it takes now to import what every command needs; at least 1."""
    command = [sys.executable, "-c", "import click, email.message, numpy, pydantic, rich.console"]
    return max(1.0, fastest(lambda: subprocess.run(command, capture_output=True, text=True, check=False)) / 0.15)


@pytest.mark.parametrize(
    ("arguments", "limit"),
    [
        (("--help",), 0.5),
        (("list",), 1.0),
        (("list", "models"), 1.0),
        (("plan", DIGITS, "--out", "/tmp/none", "--no-preflight"), 1.0),
        (("plan", PAPER, "--out", "/tmp/none", "--no-preflight"), 3.0),  # 1 s where nothing else runs
    ],
)
def test_small_commands_answer_at_once(arguments: tuple[str, ...], limit: float) -> None:
    assert fastest(lambda: silo_tune(*arguments)) < limit * slowness()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("schedules", "silo"),
        ("profiles", "warmup-drop"),
        ("criteria", "magnitude"),
        ("layers", "lstm"),
        ("models", "timm:NAME"),
        ("models", "hf:NAME"),
        ("optimizers", "Adafactor"),
        ("recipes", "vgg19"),
        ("data", "digits"),
        ("presets", "silo"),
        ("pipelines", "ice"),
        ("deviations", "best-on-test"),
    ],
)
def test_list_has_an_entry_for_each_name(kind: str, name: str) -> None:
    said = in_process("list", kind).stdout.splitlines()
    lines = [line for line in said if not line.startswith(" ") and line not in deviations()]
    assert any(line.split()[0] == name and len(line.split()) > 2 for line in lines)
    assert [line.split()[0] for line in lines] == list(KINDS[kind]())


def test_deviations_stand_under_a_heading_of_their_own() -> None:
    lines = in_process("list", "deviations").stdout.splitlines()
    heads = [line for line in lines if line in deviations()]
    assert [head.split(",")[0] for head in heads] == ["authors-2023", "ice-pruning", "boosting"]
    first, second, third = (lines.index(head) for head in heads)
    assert first < next(i for i, line in enumerate(lines) if line.startswith("best-on-test")) < second
    assert second < next(i for i, line in enumerate(lines) if line.startswith("probe-rate")) < third


def test_list_alone_has_the_names_of_each_kind() -> None:
    said = in_process("list").stdout
    assert [line.split()[0] for line in said.splitlines() if not line.startswith(" ")] == list(KINDS)
    assert all(name in said.split() or f"{name}," in said for names in KINDS.values() for name in names())


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("kind", [None, *KINDS])
def test_no_line_of_a_list_is_longer_than_the_terminal(
    kind: str | None, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = in_process("list", *([kind] if kind else [])).stdout.splitlines()
    assert max(map(len, lines)) <= width
    words = " ".join(" ".join(lines).split())
    for name, line in KINDS[kind]().items() if kind else ():
        assert f"{name} {' '.join(line.split())}" in words


def test_schedules_are_listed_with_their_arguments_and_defaults() -> None:
    said = in_process("list", "schedules").stdout
    for told in ("takes eps, delta, beta = 5, q = 1", "takes max_lr", "takes start, end, over"):
        assert told in said
    assert "takes" not in in_process("list", "deviations").stdout


def test_the_table_of_a_plan_fits_80_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = in_process("plan", DIGITS, "--no-preflight", "--out", str(tmp_path / "run"))
    head = done.stdout.split("to train:")[0]
    assert "oracle-conditioned" in head
    assert max(map(len, head.splitlines())) <= 80


def test_the_help_of_list_names_every_kind() -> None:
    told = in_process("list", "--help").stdout
    assert all(kind in told for kind in KINDS)


def test_list_of_an_unknown_kind_names_the_choices() -> None:
    done = silo_tune("list", "losses")
    assert done.returncode == 2
    assert (
        "choose from criteria, data, deviations, layers, models, optimizers, pipelines, presets, "
        "profiles, recipes, schedules" in done.stderr
    )


def test_run_plan_report(study: str, tmp_path: Path) -> None:
    before = in_process("plan", study, cwd=tmp_path)
    assert "to train: at most 15 trials, time unknown before a first trial has run" in before.stdout
    assert not (tmp_path / "runs").exists()  # a plan writes nothing
    done = in_process("run", study, "--local", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "15 trained, 11 shared, 0 skipped" in done.stdout
    assert done.stdout.splitlines()[-1] == "report: runs/small/report/report.html"
    assert "silo seed 0 cycle 2/2: max_lr 0.0501, validation" in done.stdout  # plain lines: there is no terminal
    again = in_process("run", study, "--local", cwd=tmp_path)
    assert "0 trained, 11 shared, 15 skipped" in again.stdout
    after = in_process("plan", study, cwd=tmp_path)
    assert "to train: 0 trials, about 0:00" in after.stdout
    page = tmp_path / "runs" / "small" / "report" / "report.html"
    page.unlink()
    code = "import sys; from silo_tune.cli import main; sys.argv=['silo-tune','report','runs/small']; main()"
    probe = "\nassert not {'ray','torch'} & set(sys.modules), 'report imported ray or torch'"
    wrapped = f"try:\n    {code}\nexcept SystemExit as end:\n    assert not end.code{probe}"
    ended = subprocess.run([sys.executable, "-c", wrapped], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ended.returncode == 0, ended.stderr
    assert page.exists()


def test_smoke_and_set_and_out(tmp_path: Path) -> None:
    done = in_process("run", DIGITS, "--smoke", "--local", "--set", "replicates.seeds=[7]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "report: runs/digits-smoke/report/report.html" in done.stdout
    assert "seed 7" in done.stdout


BAD: list[tuple[tuple[str, ...], str]] = [
    (("dense.epoch=3",), "dense.epoch: unknown key; choose from checkpoint, epochs, max_lr, profile"),
    (("model.name=lenet",), "model: unknown model 'lenet'; choose from dcn-v2, densenet40, "),
    (("retrain.profile=cosin",), "retrain.profile: unknown profile 'cosin'; choose from constant, cosine"),
    (("data.name=digit",), "data: unknown data set 'digit'; choose from arrays, cifar10"),
    (("arms.silo.schedule.eps=0",), "arms.silo.schedule: eps must be above 0"),
    (("replicates.looks=5",), "replicates.looks: input should be a list, got 5"),
    (("arms.silo=5",), "arms.silo: input should be a table, got 5"),
    (("dense.max_lr=-1",), "dense.max_lr: input should be greater than 0, got -1"),
    (("arms.greedy.grid.low=5",), "arms.greedy.grid: low 5.0 must be below high 1.0"),
    (("prune.rate=1.0",), "prune.rate: input should be less than 1"),
    (("prune.rate=0",), "prune.rate: input should be greater than 0"),
    (("data.val_share=1.5",), "data.val_share"),
    (("arms.greedy.tests=['nobody']",), "arms.greedy.tests: unknown schedule arm 'nobody'"),
    (("cycles",), "--set takes key.path=value, got 'cycles'"),
]


@pytest.mark.parametrize(("sets", "message"), BAD, ids=[sets[0] for sets, _ in BAD])
def test_a_mistake_in_a_study_is_one_clear_message(study: str, sets: tuple[str, ...], message: str) -> None:
    done = in_process("plan", study, *(word for change in sets for word in ("--set", change)))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_every_mistake_of_a_file_is_told_at_once(study: str) -> None:
    sets = ["--set", "prune.rate=2", "--set", "model.name=x", "--set", "extra=1"]
    done = in_process("plan", study, *sets)
    assert len(done.stderr.splitlines()) == 3
    assert all("small.toml" in line for line in done.stderr.splitlines())


def run_bad(study: str, tmp_path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return in_process("run", study, "--local", "--out", str(tmp_path / "run"), *more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "data={name='huggingface',path='/no/such/place'}"), "no data directory '/no/such/place'"),
        (("--set", "data={name='folder',path='${NO_SUCH_VARIABLE}'}"), "the variable NO_SUCH_VARIABLE is not set"),
        (("--set", "data.val_share=0.0001"), "the validation part is empty"),
        (("--set", "report.tolerance=0.0001"), "report.tolerance: 0.0001 is finer than 100 validation images"),
        (("--set", "cycles=60"), "fewer than the 3 layers"),
        (("--set", "model={function='nowhere:net',version='1'}"), "cannot import 'nowhere:net'"),
        (("--address", "auto"), "--local and --address exclude each other"),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_bad_input_met_by_a_run(study: str, tmp_path: Path, more: tuple[str, ...], message: str) -> None:
    done = run_bad(study, tmp_path, *more)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for arguments, message in (
        (("run", "no.toml"), "no study file 'no.toml'"),
        (("plan", str(tmp_path)), "is a folder; the study of a run is its"),
        (("report", str(tmp_path / "nowhere")), "no run at"),
    ):
        done = in_process(*arguments)
        assert done.returncode == 2
        assert message in done.stderr


def test_a_study_that_is_not_toml(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("name = \n")
    done = in_process("plan", str(tmp_path / "bad.toml"))
    assert done.returncode == 2
    assert "bad.toml:1: not valid TOML" in done.stderr


def test_a_run_folder_that_cannot_be_written(study: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = in_process("run", study, "--local", "--out", str(tmp_path / "file" / "run"))
    assert done.returncode == 2
    assert "cannot write to the run folder" in done.stderr
    assert "--out" in done.stderr


def test_storage_without_exclusive_creation_is_refused(study: str) -> None:
    done = in_process("run", study, "--local", "--out", "memory://run")
    assert done.returncode == 2
    assert "'memory'" in done.stderr


def test_places_where_no_run_can_be_are_the_users_to_change(study: str, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for place, told in ((loop / "x", "Too many levels"), (tmp_path / ("x" * 300), "File name too long")):
        for words in (("plan", study, "--no-preflight", "--out"), ("run", study, "--local", "--out"), ("status",)):
            done = in_process(*words, str(place))
            assert (done.returncode, told in done.stderr) == (2, True), done.stderr
        assert in_process("report", str(place)).returncode == 2


def test_an_empty_place_is_a_variable_that_is_not_set(study: str, tmp_path: Path) -> None:
    for words in (("run", study, "--local"), ("plan", study), ("report", str(tmp_path))):
        done = in_process(*words, "--out", "", cwd=tmp_path)
        assert (done.returncode, "--out is empty" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "runs").exists()


def test_an_address_that_does_not_answer(study: str, tmp_path: Path) -> None:
    done = in_process("run", study, "--address", "127.0.0.1:1", "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "no Ray cluster answers at '127.0.0.1:1'" in done.stderr


def test_debug_shows_the_traceback(study: str, tmp_path: Path) -> None:
    done = run_bad(study, tmp_path, "--debug", "--set", "data={name='folder',path='/no/such/place'}")
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("silo-tune: ")
    assert ": data: no data directory" in done.stderr.splitlines()[-1]


def test_a_changed_decided_key_and_a_held_run(study: str, tmp_path: Path) -> None:
    assert run_bad(study, tmp_path).returncode == 0
    done = run_bad(study, tmp_path, "--set", "retrain.batch=16")
    assert done.returncode == 2
    assert "retrain.batch: was 32, now 16" in done.stderr
    assert run_bad(study, tmp_path).returncode == 0  # nothing lost


def test_a_users_schedule_that_gives_nonsense(study: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def falling(cycle, pruned):\n    return 0.1 - cycle\n")
    arm: dict[str, Any] = {"mode": "schedule", "schedule": {"function": "mine:falling", "version": "1"}}
    file = tmp_path / "theirs.toml"
    file.write_text(tomli_w.dumps(small_table(arms={"theirs": arm})))
    done = in_process("plan", str(file), cwd=tmp_path)
    assert done.returncode == 2
    assert "arms.theirs.schedule: max_lr -0.9 at cycle 1 is not a rate above 0" in done.stderr


def test_the_status_of_no_run(tmp_path: Path) -> None:
    done = in_process("status", "runs/first", cwd=tmp_path)
    assert done.returncode == 2
    assert "no run at 'runs/first'" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_status_is_for_people_again_and_again_or_for_programs(tmp_path: Path) -> None:
    done = in_process("status", str(tmp_path), "--follow", "--json")
    assert done.returncode == 2
    assert "--json and --follow exclude each other" in done.stderr


def test_a_run_its_status_and_the_report_that_it_names(study: str, tmp_path: Path) -> None:
    assert in_process("run", study, "--local", "--set", "cycles=2", cwd=tmp_path).returncode == 0
    lines = in_process("status", "runs/small", cwd=tmp_path).stdout.splitlines()
    assert lines[0].startswith("small at runs/small: finished at ")
    assert lines[-1] == "report: runs/small/report/report.html"
    assert (tmp_path / "runs" / "small" / "report" / "report.html").exists()
    made = in_process("report", "runs/small", "--out", "record", cwd=tmp_path)
    assert (made.returncode, made.stdout.splitlines()[-1]) == (0, "report: record/report/report.html")
    pages = [(tmp_path / place / "report" / "report.html").read_bytes() for place in ("runs/small", "record")]
    assert pages[0] == pages[1]
    followed = in_process("status", "runs/small", "--follow", cwd=tmp_path)  # a finished run is not waited for
    assert (followed.returncode, followed.stdout.splitlines()[0]) == (0, lines[0])


def test_a_finished_run_is_told_again_and_drawn_again_only_when_something_changed(study: str, tmp_path: Path) -> None:
    first = in_process("run", study, "--local", "--set", "cycles=2", cwd=tmp_path).stdout
    page = tmp_path / "runs" / "small" / "report" / "report.html"
    page.write_text("drawn by hand")
    again = in_process("run", study, "--local", "--set", "cycles=2", cwd=tmp_path).stdout
    said, said_again = (text[text.index("small: ") :].split("trials: ")[0] for text in (first, again))
    assert said == said_again
    assert page.read_text() == "drawn by hand"
    in_process("run", study, "--local", "--set", "cycles=2", "--set", "report.tolerance=0.06", cwd=tmp_path)
    assert "0.06" in page.read_text()
    page.unlink()
    in_process("run", study, "--local", "--set", "cycles=2", "--set", "report.tolerance=0.06", cwd=tmp_path)
    assert page.exists()


COMPLETING = {
    "bash": 'eval "$(silo-tune --show-completion)"; COMP_WORDS=(silo-tune list sched); COMP_CWORD=2; '
    '_silo_tune_completion silo-tune; echo "${COMPREPLY[*]}"',
    "fish": 'silo-tune --show-completion | source; complete -C "silo-tune list sched"',
    "zsh": "compdef() { : }; _arguments() { print -r -- $* }; "
    'eval "$(silo-tune --show-completion)"; words=(silo-tune list sched); CURRENT=3; _silo_tune_completion',
}


@pytest.mark.slow
@pytest.mark.parametrize("shell", COMPLETING)
def test_a_shell_completes(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [shell, *(["-f"] if shell == "zsh" else []), "-c", COMPLETING[shell]],
        capture_output=True, text=True, env={**os.environ, "PATH": path}, check=False,
    )  # fmt: skip
    assert "schedules" in done.stdout, done.stderr
