"""The product on machines unlike ours: output, home, temporary folders, a user's matplotlib, modules of theirs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
import pytest
import safetensors.torch
import tomli_w
import torch
from torch.nn.utils import prune

from silo_analysis.figures.axes import image_bytes, new_figure
from silo_analysis.figures.palette import our_style
from silo_tune.api import run_study
from silo_tune.cli.streams import PLAIN
from silo_tune.errors import BadInput, RunFailed
from silo_tune.machine import cache_root
from silo_tune.models.checkpoint import load_pretrained
from silo_tune.store.lease import is_running
from silo_tune.study.study_file import load_study, parse_study
from silo_tune.study.workspace import Workspace
from silo_tune.tune import cluster
from tests.conftest import small_table
from tests.users import Mixed

ROOT = Path(__file__).parent.parent
THEIRS = ("analysis", "data", "models", "utils", "errors", "training", "report")


def run(here: Path, *words: str, **changed: str | None) -> subprocess.CompletedProcess[bytes]:
    """The command in a folder, with some of the environment changed or taken away."""
    return python(here, "-m", "silo_tune", *words, **changed)


def python(here: Path, *words: str, **changed: str | None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=here, env=ours(**changed), capture_output=True, timeout=120, check=False)


def ours(**changed: str | None) -> dict[str, str]:
    """The environment with this checkout on the path, and with changes."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "analysis")]), **changed}
    return {name: value for name, value in env.items() if value is not None}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A user's folder: a study, and modules whose names a careless package could take for its own."""
    table = small_table(cycles=2)
    del table["arms"]["greedy"], table["arms"]["conditioned"]
    (tmp_path / "small.toml").write_bytes(b"\xef\xbb\xbf" + tomli_w.dumps(table).encode())  # as Notepad saves it
    for name in THEIRS:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a module of the user was imported')\n")
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nbackend: TkAgg\nfont.size: 30\nsavefig.dpi: 7\n")
    return tmp_path


@pytest.mark.slow
def test_a_run_ends_where_everything_is_odd_at_once(here: Path) -> None:
    long = here / ("t" * 60)
    long.mkdir()
    done = run(
        here, "run", "small.toml", "--local",
        PYTHONIOENCODING="ascii", COLUMNS="20", HOME=None, TMPDIR=str(long), MPLBACKEND="module://no.such.backend",
        PYTHONOPTIMIZE="2", MATPLOTLIBRC=str(here), LC_ALL="C", PYTHONUTF8="0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode("ascii")
    assert said.splitlines()[-1] == "report: runs/small/report/report.html"
    assert (here / "runs" / "small" / "report" / "figures" / "accuracy.svg").exists()


def test_output_that_nobody_reads_ends_without_a_traceback(here: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"'{sys.executable}' -m silo_tune list deviations | head -n 1; exit ${{PIPESTATUS[0]}}"],
        cwd=here,
        env=ours(),
        capture_output=True,
        check=False,
    )
    assert b"Traceback" not in done.stderr


ODD: dict[str, dict[str, str | None]] = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "the C locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "20 columns": {"COLUMNS": "20"},
    "200 columns": {"COLUMNS": "200"},
    "no home": {"HOME": None, "SILO_TUNE_CACHE": None},
    "a home that is not there": {"HOME": "/proc/none", "SILO_TUNE_CACHE": None},
    "assertions off": {"PYTHONOPTIMIZE": "2"},
    "a user's matplotlib": {"MATPLOTLIBRC": ".", "MPLBACKEND": "TkAgg"},
}
EACH = """
import sys
from silo_tune.cli import main
for words in ("plan small.toml --no-preflight", "status run", "show small.toml silo", "report run", "list deviations"):
    sys.argv = ["silo-tune", *words.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (words, end.code)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has finished."""
    table = small_table(cycles=2)
    del table["arms"]["greedy"], table["arms"]["conditioned"]
    folder = tmp_path_factory.mktemp("finished") / "run"
    run_study(parse_study(table), str(folder), local=True, preflight=False)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("odd", ODD)
def test_every_command_works_in_an_odd_environment(odd: str, here: Path, finished: Path) -> None:
    shutil.copytree(finished, here / "run")
    done = python(here, "-c", EACH, **ODD[odd])
    assert (done.returncode, done.stderr) == (0, b"")
    said = done.stdout.decode(ODD[odd].get("PYTHONIOENCODING") or ("ascii" if "LC_ALL" in ODD[odd] else "utf-8"))
    assert len(re.findall(r"\?(?! )(?!$)", said, re.MULTILINE)) == 0  # a question has a space or an end behind its mark
    assert re.search(r"^silo +0 +1/1 +80.00 % +done", said, re.MULTILINE)  # no figure is cut


STREAMS = "import os, sys; from silo_tune.cli import streams; streams.made_whole(); "
CLOSED = "print('a'); sys.stderr.write('b'); assert os.open('file', os.O_CREAT | os.O_WRONLY) > 2"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_number_for_a_file(closed: str, tmp_path: Path) -> None:
    command = ["bash", "-c", f'"$1" -c "$2" {closed}', "bash", sys.executable, STREAMS + CLOSED]
    assert subprocess.run(command, cwd=tmp_path, env=ours(), check=False, timeout=60).returncode == 0


def test_an_output_that_is_full_is_said_in_one_line(finished: Path) -> None:
    command = ["bash", "-c", '"$1" -m silo_tune status "$2" >/dev/full', "bash", sys.executable, str(finished)]
    done = subprocess.run(command, env=ours(), capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "silo-tune: what it says cannot be written: No space left on device\n")


@pytest.mark.parametrize("reader", ["| true", ">/dev/full"])
def test_a_run_outlives_those_who_read_its_lines(reader: str, tmp_path: Path) -> None:
    probe = "streams.outlive_readers(); [print('a' * 9999, flush=True) for _ in range(99)]; open('trained', 'w')"
    command = ["bash", "-c", f'"$1" -c "$2" {reader}; exit ${{PIPESTATUS[0]}}', "bash", sys.executable, STREAMS + probe]
    assert subprocess.run(command, cwd=tmp_path, env=ours(), check=False, timeout=60).returncode == 0
    assert (tmp_path / "trained").exists()


def test_an_ascii_output_gets_ascii() -> None:
    probe = f"{STREAMS} streams.say('…', '≤ 3'); streams.say('×', err=True)"
    done = python(ROOT, "-c", probe, PYTHONIOENCODING="ascii")
    assert (done.stdout, done.stderr) == (b"...\n<= 3\n", b"x\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_every_letter_that_we_write_has_a_plain_form(encoding: str) -> None:
    assert "".join(PLAIN).encode(encoding, errors="silo-tune").decode(encoding).count("?") == 0
    assert "…".encode("ascii", errors="silo-tune") == b"..."
    assert "漢".encode(encoding, errors="silo-tune") == b"?"


def test_figures_are_the_same_under_any_matplotlibrc() -> None:
    def drawn() -> bytes:
        with our_style():
            figure, axes = new_figure(2.0)
            axes.plot([1, 2], label="a_b $x$")
            axes.legend()
        return image_bytes(figure, "svg", "a")

    before = drawn()
    with matplotlib.rc_context({"text.usetex": True, "font.size": 30, "axes.grid": False, "svg.fonttype": "path"}):
        assert drawn() == before


@pytest.mark.slow
def test_to_import_our_tuner_changes_nothing_for_others() -> None:
    probe = "import os; before = dict(os.environ); import silo_tune.tune; assert dict(os.environ) == before"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
    subprocess.run([sys.executable, "-c", f"import ray; {probe}"], env=env, check=True)


def test_a_zombie_is_dead() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    while Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
        pass
    assert not is_running(child)
    os.waitpid(child, 0)


def test_a_long_temporary_folder_is_not_rays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("t" * 60)))
    with cluster.scratch_folder() as scratch:
        assert Path(scratch).parent == Path("/tmp")
    monkeypatch.setattr(os, "access", lambda place, how: False)
    with pytest.raises(RunFailed, match=r"at most \d+ characters, and TMPDIR is .*--local"), cluster.scratch_folder():
        pass


def test_the_folders_of_drivers_that_ended_go_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as place:
        monkeypatch.setattr(tempfile, "tempdir", place)
        killed, strange = (Path(place, f"{cluster.SCRATCH}999999{end}-x") for end in "12")
        for folder in (killed, strange):
            folder.mkdir()
        (killed / cluster.HELD).touch()
        with cluster.scratch_folder() as living, cluster.scratch_folder() as mine:
            assert (killed.exists(), strange.exists()) == (False, True)
            assert Path(living).exists()  # whatever its pid says in another container
            assert Path(mine).parent == Path(place)


def test_a_user_without_a_home_has_a_cache_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SILO_TUNE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    shared = os.path.join(tempfile.gettempdir(), f"silo-tune-{os.getuid()}")
    assert cache_root() == os.path.join(os.path.expanduser("~"), ".cache", "silo-tune")
    with monkeypatch.context() as read_only:
        read_only.setattr(os, "access", lambda place, how: False)
        assert cache_root() == shared
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert cache_root() == shared


# --- paths ---


def test_paths_are_meant_from_the_studys_folder_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, elsewhere = tmp_path / "own", tmp_path / "elsewhere"
    for place in (own / "images", elsewhere / "images", elsewhere / "other"):
        place.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    for path, found in {"images": own / "images", "other": elsewhere / "other", "org/name": Path("org/name")}.items():
        data = {"name": "huggingface", "path": path}
        (own / "study.toml").write_text(tomli_w.dumps({**small_table(), "data": data}))
        made = load_study("../own/study.toml")
        assert Workspace.of(made, "run").data.path == str(found)


# --- checkpoints ---


@pytest.mark.parametrize("kind", ["save_model", "pt", "wrapped", "parallel", "compiled", "lightning"])
def test_weights_are_read_as_people_save_them(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    saved, file = Mixed(4, 3), tmp_path / ("a.safetensors" if kind == "save_model" else "a.pt")
    state = saved.state_dict()
    if kind == "save_model":
        safetensors.torch.save_model(saved, str(file))  # a tied weight is there once
    else:
        torch.save({"pt": state, "wrapped": {"epoch": 3, "state_dict": state},
                    "parallel": {f"module.{name}": tensor for name, tensor in state.items()},
                    "compiled": {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
                    "lightning": {"state_dict": {f"net.{name}": tensor for name, tensor in state.items()}}}[kind],
                   file)  # fmt: skip
    loaded = Mixed(4, 3)
    load_pretrained(loaded, str(file))
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in state.items())


def test_weights_that_do_not_fit_are_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    layer = prune.l1_unstructured(torch.nn.Linear(2, 2), "weight", 0.5)
    torch.save(layer.state_dict(), file)
    with pytest.raises(
        BadInput,
        match=r": weight; 2 unknown: weight_orig, weight_mask; 1 of another shape: bias \(2, the network has 3\); "
        r"torch.nn.utils.prune was at work",
    ):
        load_pretrained(torch.nn.Linear(3, 3), str(file))
    torch.save({"weight": torch.ones(3, 3, dtype=torch.int8), "bias": torch.ones(3)}, file)
    with pytest.raises(BadInput, match=r"1 no real numbers: weight \(int8\)"):
        load_pretrained(torch.nn.Linear(3, 3), str(file))
    (tmp_path / "b.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 10\n")
    with pytest.raises(BadInput, match="git lfs pull"):
        load_pretrained(torch.nn.Linear(3, 3), str(tmp_path / "b.safetensors"))


def test_a_checkpoint_that_holds_code_is_refused_unread(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "seen"),)

    torch.save({"a": Evil()}, tmp_path / "a.pt")
    with pytest.raises(BadInput, match="holds more than tensors"):
        load_pretrained(Mixed(4, 3), str(tmp_path / "a.pt"))
    assert not (tmp_path / "seen").exists()
