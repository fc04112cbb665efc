"""What a run shows: whoever looks sees one snapshot, in any terminal and in none."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from silo_tune.api import run_study
from silo_tune.cli.console import LiveWatch, PlainWatch, follow, print_status, watch
from silo_tune.cli.view import driver_line, head_lines, pace_line, screen, search_line, tail_lines
from silo_tune.formats import clock, hourly, percent_sign, rate
from silo_tune.planner.planner import Planner
from silo_tune.run.progress import Progress
from silo_tune.run.status import Status
from silo_tune.store.run_folder import Run
from silo_tune.store.snapshot import Failure, Note, SearchView, Snapshot, Units
from silo_tune.store.storage import StorageError, seal
from silo_tune.study.model import Study
from tests.conftest import small_study
from tests.plain import Drive, MemoryJournal, World, spread, study


def snapshots(made: Study, world: World | None = None) -> Iterator[Snapshot]:
    """Of a simulated session: at its start and after every unit."""
    progress = Progress(made)
    journal = MemoryJournal()
    planner = Planner(made, journal, listen=progress.changed)
    progress.begin(planner, 2)
    hear = lambda outcome: progress.ended(outcome["key"], outcome)  # noqa: E731
    drive = Drive(journal.commit, world or World(), slots=1, on_ask=progress.began, on_tell=hear)
    yield progress.snapshot()
    while drive(planner, 1):
        yield progress.snapshot()
    progress.end("finished")
    yield progress.snapshot()


def status(snapshot: Snapshot | None, driver: Any = "running", **more: Any) -> Status:
    found = {"url": "runs/tiny", "at": time.time(), "host": "node-7", "pid": 42, "heartbeat": 3.0, **more}
    return Status(driver=driver, snapshot=snapshot, **found)


@pytest.fixture(scope="module")
def told() -> list[Snapshot]:
    long = {"arms.a-control-with-a-long-name": study().arms["silo"].model_dump(mode="json", exclude_none=True)}
    return list(snapshots(study({"replicates.seeds": [0, 1, 2], **long}), World(spread)))


def printed(show: Callable[[Console], None], width: int = 100, height: int = 40, terminal: bool = False) -> str:
    file = io.StringIO()
    show(Console(file=file, width=width, height=height, force_terminal=terminal, color_system=None))
    return file.getvalue()


# --- words ---


@pytest.mark.parametrize(("highest", "said"), [(0.1, True), (0.2, False)])
def test_a_pilot_that_finds_a_constant_names_the_key_that_looks_elsewhere(highest: float, said: bool) -> None:
    params = {"lowest": 0.1, "highest": highest}
    found = SearchView(arm="silo", kind="pilot", points=3, most=3, rounds=1, finished=True, best=0.9, params=params)
    assert ("a constant did as well (pilot.rise = true" in search_line(found)) == said


def test_numbers_in_words() -> None:
    assert [clock(seconds) for seconds in (0, 59.4, 61, 3661)] == ["0:00", "0:59", "1:01", "1:01:01"]
    assert [percent_sign(share) for share in (None, 0.97251)] == ["–", "97.25 %"]
    assert [rate(value) for value in (None, 0.123456)] == ["–", "0.123"]
    assert [hourly(value) for value in (0.1234, 12.34, 1234.5)] == ["0.123", "12.3", "1,234"]


def test_the_pace_says_what_is_done_left_and_expected(told: list[Snapshot]) -> None:
    assert re.fullmatch(r"0 of at most \d+ trials on 2 slots", pace_line(told[0]))  # nothing is measured yet
    assert re.fullmatch(r"9 of at most \d+ trials on 2 slots, [\d,.]+ trials/h, ETA \d+:\d\d", pace_line(told[9]))
    assert re.fullmatch(r"\d+ trials on 2 slots, [\d,.]+ trials/h", pace_line(told[-1]))


def test_the_pace_of_a_resumed_run_is_that_of_the_whole(told: list[Snapshot]) -> None:
    units = Units(trained=110, failed=1, reused=301, left=433)
    resumed = told[9].model_copy(update={"units": units})
    assert pace_line(resumed).startswith("412 of at most 845 trials on 2 slots, 301 from before, ")


@pytest.mark.parametrize(
    ("driver", "words", "next_step"),
    [
        ("running", "running (process 42 on node-7, last heartbeat 3 s ago)", False),
        ("getting ready", "process 42 on node-7 holds the run and is getting ready: cluster and data", False),
        ("gone", "the driver is gone since ", True),
        ("stopped", "the driver was stopped at ", True),
        ("none", "not finished, and no driver is at work", True),
        ("finished", "finished at ", False),
    ],
)
def test_a_status_says_what_became_of_the_driver_and_what_to_do(
    told: list[Snapshot], driver: str, words: str, next_step: bool
) -> None:
    found = status(told[5], driver)
    assert driver_line(found).startswith(words)
    assert ("  to resume, run the same command again" in head_lines(found)) == next_step
    assert driver_line(found) in head_lines(found)[0]


def test_reasons_are_shown_in_full_and_counted(told: list[Snapshot]) -> None:
    reason = "RuntimeError: " + "very " * 60 + "bad (see runs/tiny/units/ab/abc/failure-1.txt)"
    failures = tuple(Failure(chain=f"silo seed {n}", cycle=2, max_lr=0.1, reason=reason) for n in range(20))
    made = told[5].model_copy(
        update={"failures": failures, "failure_count": 33, "notices": (Note(at=0.0, message="a worker died"),)}
    )
    words = printed(lambda console: print_status(console, status(made)), width=80)
    assert "failed trials, the last 20 of 33:" in words
    assert words.count("(see runs/tiny/units/ab/abc/failure-1.txt)") == 20
    assert f"  silo seed 3 cycle 2, max_lr 0.1: {reason}" in words.splitlines()
    assert "a worker died" in words
    assert len(tail_lines(status(made), 3)) < len(tail_lines(status(made)))


# --- tables ---


@pytest.mark.parametrize(("width", "name"), [(80, "a-control…long-name"), (120, "a-control-with-a-long-name")])
def test_every_column_is_whole_and_a_long_name_makes_room(told: list[Snapshot], width: int, name: str) -> None:
    late = told[30].model_copy(
        update={
            "chains": tuple(
                chain.model_copy(update={"elapsed": 36_000.0, "eta": 359_999.0}) for chain in told[30].chains
            )
        }
    )
    words = printed(lambda console: print_status(console, status(late)), width)
    table = words[words.index("weights") :].splitlines()
    for head in ("arm", "seed", "cycle", "left", "tried", "max_lr", "accuracy", "elapsed", "ETA"):
        assert head in table[1]
    assert all(len(line) <= width for line in table)
    rows = [line for line in table if "/3 " in line]
    assert len(rows) == len(late.chains)
    assert all(re.fullmatch(r"(…|\S+) +\d +\d/3 .* %.* 10:00:00 +(99:59:59|-)", row) for row in rows)
    assert any(row.startswith(name[:8]) and row.split()[0].endswith(name[-8:]) for row in rows)
    assert any(row.startswith("a-control-with-a-long-name ") for row in rows) == (width == 120)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 30), (40, 27), (80, 18)])
@pytest.mark.parametrize("driver", ["running", "gone", "finished"])
def test_a_screen_fits_its_terminal(told: list[Snapshot], width: int, height: int, driver: str) -> None:
    for snapshot in told[:: len(told) // 5]:
        found = status(snapshot, driver, created="2026-01-02T03:04:05+0000", report="runs/tiny/report/report.html")
        lines = printed(lambda console, f=found: console.print(screen(f, height, width)), width).splitlines()  # type: ignore[misc]
        assert all(len(line.rstrip()) <= width for line in lines)
        assert len(lines) < height


def test_those_that_do_not_fit_are_counted(told: list[Snapshot]) -> None:
    words = printed(lambda console: console.print(screen(status(told[3]), 20, 80)), 80)
    assert len(words.splitlines()) == 19
    shown = [line for line in words.splitlines() if "80.00 %" in line]
    assert f"… {len(told[3].chains) - len(shown)} more" in words


def test_a_session_that_is_over_has_no_eta(told: list[Snapshot]) -> None:
    for driver in ("gone", "finished", "stopped"):
        assert "ETA" not in printed(lambda console, d=driver: print_status(console, status(told[9], d)))  # type: ignore[misc]


# --- the driver's console ---


def test_a_run_tells_every_closed_cycle_once_in_plain_lines(tmp_path: Path) -> None:
    file = io.StringIO()
    with watch(Console(file=file, width=200)) as monitor:
        assert isinstance(monitor, PlainWatch)
        run_study(small_study(), str(tmp_path / "run"), local=True, monitor=monitor)
    *found, memory = file.getvalue().splitlines()[:3]
    lines = file.getvalue().splitlines()[3:]
    assert found == [
        "data: 128 training, 100 validation and 100 test images 8×8×1 of 10 classes",
        "network: 50,610 weights, 50,200 prunable (99.2 %)",
    ]
    assert re.fullmatch(r"memory: \d+ MB for one trial's process, \d+ MB for 1 at once", memory)
    assert re.fullmatch(r"\[0:00\] 0 of at most 15 trials on 1 slot", lines[0])
    closed = [line.partition("] ")[2].partition(":")[0] for line in lines[1:]]
    arms = ("silo", "flat", "greedy", "conditioned")
    assert sorted(closed) == sorted(
        ["silo seed 0 cycle 0/2", *(f"{a} seed 0 cycle {c}/2" for a in arms for c in (1, 2))]
    )
    assert re.search(r"max_lr 0\.05\d*, validation [\d.]+ %; \d+ of at most 15 trials on 1 slot", lines[2])
    again = io.StringIO()
    with watch(Console(file=again, width=200)) as monitor:
        run_study(small_study(), str(tmp_path / "run"), local=True, monitor=monitor)
    assert again.getvalue() == ""  # nothing was trained, and nothing closed


def test_a_terminal_sees_the_table_redrawn(tmp_path: Path) -> None:
    file = io.StringIO()
    with watch(Console(file=file, width=100, height=30, force_terminal=True)) as monitor:
        assert isinstance(monitor, LiveWatch)
        monitor.notice("something to know")
        run_study(small_study(), str(tmp_path / "run"), local=True, monitor=monitor)
    shown = file.getvalue()
    assert "getting ready: cluster and data" in shown
    assert "note: something to know" in shown
    last = re.sub(r"\x1b\[[\d;?]*\w", "", shown).rpartition("accuracy")[2]
    assert last.count("done") == 4
    assert "15 trials on 1 slot" in last or "15 of at most 15 trials" in last


# --- watching from elsewhere ---


def test_those_who_follow_without_a_terminal_read_every_change_once(told: list[Snapshot]) -> None:
    seen = [status(snapshot) for snapshot in told[:-1]] + [status(told[-1], "finished", report="runs/tiny/report.html")]
    looks = iter(seen)
    words = printed(lambda console: follow(console, lambda: next(looks), 0.0), width=200)
    lines = [line.partition("] ")[2] for line in words.splitlines() if line.startswith("[")]
    changes = [line for line in lines if " units on " not in line]
    assert len(changes) == len(set(changes)) > 20
    done = [chain.label for chain in told[-1].chains if chain.state == "done"]
    assert done
    assert all(sum(line.startswith(f"{label} cycle 3/3: max_lr") for line in lines) == 1 for label in done)
    assert {f"{end.chain} ended early: {end.reason}" for end in told[-1].ended} <= set(lines)
    assert lines[-2].startswith("finished at ")
    assert lines[-1] == "report: runs/tiny/report.html"


def test_those_who_follow_outlast_storage_that_is_away_for_a_while(told: list[Snapshot]) -> None:
    answers: Iterator[Status | Exception] = iter(
        [status(told[3]), StorageError("no answer"), StorageError("no answer"), status(told[-1], "finished")]
    )

    def read() -> Status:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert "finished at" in printed(lambda console: follow(console, read, 0.0))


def test_a_first_look_that_fails_says_so() -> None:
    def read() -> Status:
        raise StorageError("no answer")

    with pytest.raises(StorageError):  # the place may be wrong
        follow(Console(file=io.StringIO()), read, 0.0)


def test_a_screen_that_is_followed_ends_with_the_whole_status(told: list[Snapshot]) -> None:
    looks = iter([status(told[3]), status(told[20]), status(told[-1], "finished")])
    words = printed(lambda console: follow(console, lambda: next(looks), 0.01), height=12, terminal=True)
    plain = re.sub(r"\x1b\[[\d;?]*\w", "", words)
    whole = printed(lambda console: print_status(console, status(told[-1], "finished")))
    assert plain.endswith(whole[whole.index("weights") :])


def waiting(folder: Path) -> Run:
    """A run whose driver is gone."""
    run = Run(str(folder))
    made = study()
    run.accept(made, {})
    run.storage.replace("status.json", seal(next(snapshots(made)).model_dump(mode="json")))
    return run


@pytest.mark.parametrize("terminal", [True, False])
def test_ctrl_c_ends_those_who_follow_without_a_word(tmp_path: Path, terminal: bool) -> None:
    run = waiting(tmp_path / "run")
    command = [sys.executable, "-m", "silo_tune", "status", run.url, "--follow"]
    ours, theirs = pty.openpty() if terminal else os.pipe()
    process = subprocess.Popen(
        command, stdout=theirs, stderr=subprocess.PIPE, stdin=theirs if terminal else subprocess.DEVNULL
    )
    os.close(theirs)
    seen = b""
    while b"conditioned" not in seen:  # it is at work
        seen += os.read(ours, 65536)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == b""
    os.close(ours)


def test_status_as_json_is_the_snapshot(tmp_path: Path) -> None:
    run = waiting(tmp_path / "run")
    command = [sys.executable, "-m", "silo_tune", "status", run.url, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found = Status.model_validate_json(done.stdout)
    assert found.driver == "gone"
    assert found.snapshot is not None
    assert len(found.snapshot.chains) == 10
