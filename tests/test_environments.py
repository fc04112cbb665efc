"""The product on machines unlike ours: output, home, temporary folders, a user's matplotlib, modules of theirs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
import pytest
import safetensors.torch
import tomli_w
import torch

from silo_analysis.figures.axes import image_bytes, new_figure
from silo_analysis.figures.palette import our_style
from silo_tune.cli.degrade import PLAIN
from silo_tune.data.cache import cache_root
from silo_tune.errors import BadInput, RunFailed
from silo_tune.models.checkpoint import load_pretrained
from silo_tune.store.lease import is_running
from silo_tune.study.study_file import load_study
from silo_tune.study.workspace import Workspace
from silo_tune.tune import cluster
from tests.conftest import small_table
from tests.users import Mixed

ROOT = Path(__file__).parent.parent
THEIRS = ("analysis", "data", "models", "utils", "errors", "training", "report")


def run(here: Path, *words: str, **changed: str | None) -> subprocess.CompletedProcess[bytes]:
    """The command in a folder, with some of the environment changed or taken away."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "analysis")]), **changed}
    known = {name: value for name, value in env.items() if value is not None}
    command = [sys.executable, "-m", "silo_tune", *words]
    return subprocess.run(command, cwd=here, env=known, capture_output=True, timeout=120, check=False)


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
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "analysis")])},
        capture_output=True,
        check=False,
    )
    assert b"Traceback" not in done.stderr


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
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert cache_root() == os.path.join(tempfile.gettempdir(), "silo-tune")


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


@pytest.mark.parametrize("kind", ["save_model", "pt", "wrapped", "parallel"])
def test_weights_are_read_as_people_save_them(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    saved, file = Mixed(4, 3), tmp_path / ("a.safetensors" if kind == "save_model" else "a.pt")
    state = saved.state_dict()
    if kind == "save_model":
        safetensors.torch.save_model(saved, str(file))  # a tied weight is there once
    else:
        torch.save({"pt": state, "wrapped": {"epoch": 3, "state_dict": state},
                    "parallel": {f"module.{name}": tensor for name, tensor in state.items()}}[kind], file)  # fmt: skip
    loaded = Mixed(4, 3)
    load_pretrained(loaded, str(file))
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in state.items())


def test_a_checkpoint_that_holds_code_is_refused_unread(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "seen"),)

    torch.save({"a": Evil()}, tmp_path / "a.pt")
    with pytest.raises(BadInput, match="holds more than tensors"):
        load_pretrained(Mixed(4, 3), str(tmp_path / "a.pt"))
    assert not (tmp_path / "seen").exists()
