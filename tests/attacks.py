"""Attacks on runs: kills, damaged files, signals; and what may come of each. `campaign.py` makes many of them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w
from pandas.testing import assert_frame_equal

from silo_tune.cli.writing import Written
from silo_tune.data.sets import DataSet
from silo_tune.results.columns import UNSTABLE
from silo_tune.results.records import load_run
from tests.faults import PRELOADED, Driver, Event, Fault, faulty_table, quiet, work
from tests.mutations import CHANGES, Place, Pointless, files_of
from tests.test_cli import in_process
from tests.test_run import committed

ROOT = Path(__file__).parent.parent
LAST_WORDS = "silo-tune: stopped; nothing committed is lost"
# What drivers that are forked find loaded.
PRELOADED += ["tests.attacks", "silo_analysis.report.page", "silo_analysis.curve_fit.comparison"]
# A command that takes so long hangs.
LONGEST = 60
# So does a driver after so long; one whose machine is busy does not.
PATIENCE = 900


def noisy() -> DataSet:
    """150 images that no network tells apart without mistakes, so that every rate has its own accuracy."""
    draws = np.random.default_rng(0)
    labels = np.arange(150, dtype=np.int64) % 3
    pixels = draws.integers(0, 200, (150, 8, 8, 1), dtype=np.uint8)
    pixels[labels == 1, :2, :4] += 50
    pixels[labels == 2, 4:6, :4] += 50
    return DataSet(pixels, labels, None, None, 3)


def table_of(name: str = "attacked", retrain: Mapping[str, Any] = {}) -> dict[str, Any]:
    """A study with an arm of every kind, a tune search and a pilot, whose filters are pruned so that `shrink` works."""
    table = faulty_table(
        name=name,
        cycles=4,
        data={"function": "tests.attacks:noisy", "args": {}},
        dense={"epochs": 2},
        retrain={"epochs": 2, **retrain},
        prune={"rate": 0.3, "granularity": "filter", "criterion": "l1-filter"},
        pilot={"seeds": [100], "chains": 3, "low": 0.01, "high": 1.0},
        report={"tolerance": 0.2},
    )
    del table["data"]["args"]
    table["arms"]["search"] |= {"trials": 4, "batch": 2, "rungs": []}
    table["arms"]["flat"] = {"mode": "schedule", "schedule": "constant"}
    return table


# --- runs that are attacked ---


@dataclass
class Base:
    """A run that copies are made of, and what every command says of it while nothing is damaged.

    Attributes:
        folder: where it lies.
        study: its study's file.
        others: folders of other whole runs.
        scratch: copies lie here, at one path, so that what is said of them compares.
    """

    folder: Path
    study: Path
    others: tuple[Path, ...]
    scratch: Path
    _said: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def copy(self) -> Path:
        return self.scratch / "run"

    def fresh(self, source: Path | None = None) -> Path:
        """A new copy of the run, or of another folder."""
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(source or self.folder, self.copy)
        return self.copy

    def said(self, reader: str) -> tuple[int, str]:
        """Exit code and words of a reader of the whole run."""
        if reader not in self._said:
            self.fresh()
            done = READERS[reader](self)
            self._said[reader] = done.code, done.said
        return self._said[reader]

    @cached_property
    def names(self) -> dict[str, list[str]]:
        return files_of(self.folder)


@dataclass(frozen=True)
class Done:
    """How a command ended: exit code, what it said of the run, and all that it wrote."""

    code: int
    said: str
    all: str

    @property
    def crashed(self) -> bool:
        return "Traceback (most recent" in self.all or ": unexpected " in self.all or self.code not in (0, 1, 2)


def command(*words: str) -> Done:
    """A command in this process, with a limit of time."""

    def hangs(number: int, frame: object) -> None:
        raise TimeoutError(f"{words[0]} takes more than {LONGEST} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(LONGEST)
    try:
        done = in_process(*words)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return Done(done.returncode, done.stdout, done.stdout + done.stderr)


def run_words(study: Path, folder: Path) -> list[str]:
    return ["run", str(study), "--local", "--no-preflight", "--out", str(folder)]


def _report(base: Base) -> Done:
    return command("report", str(base.copy), "--format", "json")


def _status(base: Base) -> Done:
    done = command("status", str(base.copy), "--json")
    steady = [line for line in done.said.splitlines() if not re.match(r'\s*"(at|heartbeat)":', line)]
    return Done(done.code, "\n".join(steady), done.all)


def _export(base: Base) -> Done:
    file = base.scratch / "optuna.log"
    file.unlink(missing_ok=True)
    done = command("export", str(base.copy), "--optuna", str(file))
    written = file.read_text() if file.exists() else ""
    steady = re.sub(r'"(datetime_\w+|worker_id)": ?("[^"]*"|null)', "", written)
    return Done(done.code, done.said + steady, done.all + written)


def _shrink(base: Base) -> Done:
    file = base.scratch / "small.safetensors"
    for path in (file, file.with_suffix(".json")):
        path.unlink(missing_ok=True)
    done = command("shrink", str(base.copy), "--arm", "silo", "--seed", "0", "--functions", "--out", str(file))
    lines = (" ".join(line.split()) for line in done.said.splitlines())
    steady = [line for line in lines if not re.search(r"latency|times as fast", line)]
    return Done(done.code, "\n".join(steady), done.all)


def _weights(base: Base) -> Done:
    folder = base.scratch / "taken"
    shutil.rmtree(folder, ignore_errors=True)
    done = command("weights", str(base.copy), "--arm", "silo", "--seed", "0", "--functions", "--out", str(folder))
    written = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*"))}
    return Done(done.code, f"{done.said}{written}", done.all)


REPLAY = ("--sampler", "random", "--trials", "3", "--repetitions", "2")
READERS: dict[str, Callable[[Base], Done]] = {
    "report": _report,
    "status": _status,
    "fit": lambda base: command("fit", str(base.copy)),
    "plan": lambda base: command("plan", str(base.study), "--no-preflight", "--out", str(base.copy)),
    "export": _export,
    "replay": lambda base: command("replay", str(base.copy), *REPLAY),
    "shrink": _shrink,
    "weights": _weights,
}


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """What a thousand attacks do without: figures, pauses for storage that may come back, and in `run` the report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("silo_analysis.report.page.save_figures", no_figures)
        patch.setattr("silo_tune.store.storage.RETRY_SECONDS", (0.001,))
        patch.setattr("silo_tune.cli.training_commands.write_report", no_report)
        yield


def no_report(url: str) -> Written:
    return Written([], {}, "none")


class Site:
    """A folder with whole runs to attack, made once: finished, half (a driver died in it), and others."""

    def __init__(self, folder: Path, small: bool = False) -> None:
        self.folder, self.small = folder, small
        folder.mkdir(parents=True, exist_ok=True)
        self.study = self.written("attacked", table_of())
        self.other_study = self.written("other", table_of("other", {"batch": 32}))
        self.finished, self.half, self.other = (folder / name for name in ("finished", "half", "other"))
        with quick():
            done = command(*run_words(self.other_study, self.other))
            assert done.code == 0, done.all
        self.events = self._counted()
        for event in range(self.events * 2 // 3, self.events):  # the driver dies in the middle of a training
            shutil.rmtree(self.half, ignore_errors=True)
            self._killed(self.half, event)
            if any(self.half.glob("units/*/*/partial-*")):
                break

    def written(self, name: str, table: Mapping[str, Any]) -> Path:
        file = self.folder / f"{name}.toml"
        file.write_text(tomli_w.dumps(table))
        return file

    def base(self, name: str) -> Base:
        scratch = self.folder / "scratch" / name
        scratch.mkdir(parents=True, exist_ok=True)
        source = {"finished": self.finished, "half": self.half}[name]
        return Base(source, self.study, (self.other,), scratch)

    @cached_property
    def reference(self) -> pd.DataFrame:
        return load_run(str(self.finished))[0]

    @cached_property
    def stored(self) -> pd.DataFrame:
        return pd.read_parquet(self.finished / "table.parquet")

    def difference(self, folder: Path) -> str:
        """What a run's table has that the reference has not, in a few words; "" when they are equal."""
        try:
            frame, _, _ = load_run(str(folder))
            for found, wanted in ((frame, self.reference), (pd.read_parquet(folder / "table.parquet"), self.stored)):
                drop = [*UNSTABLE, "version"]  # nothing else tells of time and machine
                assert_frame_equal(found.drop(columns=drop), wanted.drop(columns=drop))
        except Exception as error:  # whatever a reader of the table meets is a difference
            return f"{type(error).__name__}: {error}"[:300]
        return ""

    def driver(self, folder: Path, fault: Fault = quiet) -> Driver:
        """`run` in a process of its own, forked from one that has all loaded."""
        return Driver({}, folder, fault, command=run_words(self.study, folder), patches={
            "silo_analysis.report.page:save_figures": no_figures})  # fmt: skip

    def _counted(self) -> int:
        count = self.folder / "events"
        ended = self.driver(self.finished, Counting(str(count))).wait(PATIENCE)
        assert ended.code == 0, ended.said
        return int(count.read_text())

    def _killed(self, folder: Path, event: int) -> None:
        assert self.driver(folder, At(event, signal.SIGKILL)).wait(PATIENCE).code == -9


def no_figures(*what: Any, **options: Any) -> dict[str, Any]:
    return {}


@dataclass
class Counting:
    """Writes how many events there were."""

    file: str
    count: int = 0

    def __call__(self, event: Event) -> None:
        self.count += 1
        with open(self.file, "w", encoding="utf-8") as file:
            file.write(str(self.count))


@dataclass
class At:
    """A signal to this process at its n-th event; before, an empty file to say so."""

    left: int
    number: int
    sent: Path | None = None

    def __call__(self, event: Event) -> None:
        self.left -= 1
        if self.left == 0:
            if self.sent is not None:
                self.sent.touch()
            os.kill(os.getpid(), self.number)


# --- verdicts ---

GOOD = ("HEALED", "TOLD", "HARMLESS")
# Worst last; STUCK: what was told to do does not help; CRASHED: a traceback, or words that are not ours.
WORST = ("HARMLESS", "HEALED", "TOLD", "STUCK", "CRASHED", "SILENT")

# Why damage may change nothing, by kind of file; the first that fits.
RULES = {
    r"report/": "an output: every report writes it anew",
    r"table\.parquet": "an output: every run and report writes it anew",
    r"status\.json": "a cache: the decisions say the same",
    r"lease/": "saves work only: a dead driver's lease is taken over",
    r"functions\.json": "only the next driver compares it",
    r".*/partial-": "saves work only: the trial starts from an earlier state",
    r".*/rewind-": "read only while its arm is at work, and replayed when it is gone",
    r"examples\.parquet": "an output: every run and report writes it anew",
    r".*/examples-": "read only of trials that chains continue with, and examples.parquet has those still",
    r".*/state-": "read only by trials that start from it, and trained again when it is gone",
    r"chains/.*/importance\.json": "a cache: computed again from the points",
    r"chains/|units/|data\.json|study\.toml": "nothing rests on what changed",
}
# What may change what a reader says without a word: (kind of file, how and what was changed) → why.
ALLOWED = {
    (r"status\.json", r".*"): "a cache of the driver's: no number rests on it",
    (r".*/importance\.json", r".*"): "a cache: the next `run` computes it again where it is gone",
    (r"units/KEY/result\.json", r"[\w ]+ (train_seconds|wall_seconds|device|version|attempt|threads|state|format)\b.*"):
        "nothing else tells of time and machine: who forges the checksum forges these",
    (r"chains/.*cycle.*", r"[\w ]+ asked\.\d+\.(tests|asked)\b.*"):
        "nothing else tells for which arms a rate was tried: who forges the checksum forges it",
    (r"lease/.*", r"(delete|transplant).*"): "who held a run that died is told once",
    (r"lease/.*", r"[\w ]+ host\b.*"): "nothing else tells the name of a driver's machine",
    (r"report/.*", r"(delete|folder|transplant).*"): "`status` says whether there is a report",
    (r"chains/.*", r"delete.*"):
        "what a run under way has lost nobody knows: its report claims no end",
    (r"study\.toml", r".* (run|study\.(report|cluster|name|data))\b.*"):
        "nothing else tells it: who forges the checksum of a study has written another one",
}  # fmt: skip


def rule_of(kind: str) -> str:
    return next(rule for pattern, rule in RULES.items() if re.match(pattern, kind))


@dataclass
class Attack:
    """One attack and what came of it: a line of the log."""

    attack: str
    number: int
    seed: int
    verdict: str = ""
    base: str = ""
    kind: str = ""
    file: str = ""
    how: str = ""
    what: str = ""
    by: dict[str, str] = field(default_factory=dict)
    rule: str = ""
    said: str = ""
    seconds: float = 0.0
    planned: int | None = None

    @property
    def good(self) -> bool:
        return self.verdict in GOOD


# --- 2. mutations ---


def mutate(site: Site, bases: Mapping[str, Base], number: int, seed: int, readers: int = 2) -> Attack:
    """Damage one file, let some readers see it, and run the study again."""
    draws = random.Random(f"{seed} mutation {number}")
    attack = Attack("mutation", number, seed)
    base, damaged = _damaged(site, bases, attack, draws)
    for reader in draws.sample(sorted(READERS), readers):
        usual = base.said(reader)
        base.fresh(damaged)
        _judge(attack, reader, READERS[reader](base), usual, base)
    base.fresh(damaged)
    _run_again(site, base, attack)
    attack.verdict = max(attack.by.values(), key=WORST.index)
    if attack.verdict == "HARMLESS":
        attack.rule = rule_of(attack.file)
    elif attack.verdict == "SILENT" and not attack.said.startswith("run:"):
        attack.rule = next((why for known, why in ALLOWED.items() if _fits(attack, *known)), "")
        attack.verdict = "HARMLESS" if attack.rule else "SILENT"
    return attack


def _fits(attack: Attack, kind: str, change: str) -> bool:
    return bool(re.fullmatch(kind, attack.kind) and re.fullmatch(change, f"{attack.how} {attack.what}"))


def _damaged(site: Site, bases: Mapping[str, Base], attack: Attack, draws: random.Random) -> tuple[Base, Path]:
    """A folder with one file damaged: kinds, then files, then ways are drawn, so that rare kinds are met as often."""
    folder = site.folder / "damaged"
    while True:
        attack.base = draws.choice(sorted(bases))
        base = bases[attack.base]
        attack.kind = draws.choice(list(base.names))
        attack.file = draws.choice(base.names[attack.kind])
        attack.how = draws.choice(sorted(CHANGES))
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base.folder, folder)
        with contextlib.suppress(Pointless):
            attack.what = CHANGES[attack.how](Place(folder, attack.file, base.others, draws))
            return base, folder


def _judge(attack: Attack, reader: str, done: Done, usual: tuple[int, str], base: Base) -> None:
    if done.crashed:
        verdict = "CRASHED"
    elif (done.code, done.said) == usual:
        verdict = "HARMLESS"
    elif reader == "plan" and (found := re.search(r"to train: (?:at most )?(\d+) trials", done.all)):
        attack.planned, verdict = int(found[1]), "HEALED"  # what is gone is to be trained: `run` shows whether it is so
    elif done.code != 0 or _named(attack, done):
        verdict = "TOLD"
    else:
        verdict = "SILENT"
    attack.by[reader] = verdict
    if verdict in ("CRASHED", "SILENT"):
        attack.said = attack.said or f"{reader}: {_brief(done, usual[1])}"


def _run_again(site: Site, base: Base, attack: Attack) -> None:
    done = command(*run_words(site.study, base.copy))
    if done.crashed:
        verdict = "CRASHED"
    elif done.code != 0:
        verdict = "TOLD" if _heals_when_moved(site, base, attack, done) else "STUCK"
    elif difference := site.difference(base.copy):
        verdict = "TOLD" if _named(attack, Done(0, "", done.all + difference)) else "SILENT"
        attack.said = attack.said or f"run: {difference}"
    else:
        same = set(attack.by.values()) <= {"HARMLESS"} and not _named(attack, done)
        verdict = "HARMLESS" if same else "HEALED"
        trained = re.search(r"trials: (\d+) trained", done.all)
        if attack.planned is not None and trained is not None and int(trained[1]) > attack.planned:
            attack.by["plan"], attack.said = "SILENT", f"run: {trained[0]}, and the plan said at most {attack.planned}"
    attack.by["run"] = verdict
    if verdict in ("CRASHED", "STUCK"):
        attack.said = attack.said or f"run: {_brief(done)}"


def _heals_when_moved(site: Site, base: Base, attack: Attack, done: Done) -> bool:
    """Does the run end as it should when what it named is moved away?"""
    for _ in range(3):
        named = [path for path in _mentioned(base.copy, done.all) if path.exists()]
        for path in named or [base.copy / attack.file]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        done = command(*run_words(site.study, base.copy))
        if done.code == 0:
            return not site.difference(base.copy)
    return False


def _mentioned(folder: Path, text: str) -> list[Path]:
    """Files of a run that a text names by their whole path."""
    found = re.findall(re.escape(str(folder)) + r"/([\w./-]*[\w])", text)
    return [folder / name for name in dict.fromkeys(found) if not name.startswith("report")]


def _named(attack: Attack, done: Done) -> bool:
    """Was the file, or its folder, or its trial, named?"""
    text = " ".join(done.all.split())
    folder = re.match(r"chains/.+/trial-\d+(?=/)", attack.file)
    names = {attack.file, *([folder[0]] if folder else []), *re.findall(r"[\w.-]+/[\w./-]+", attack.what)}
    keys = {key[:12] for name in names for key in re.findall(r"units/../([0-9a-f]{64})", name)}
    return any(name in text for name in names | keys) or (attack.how == "delete folder" and "incomplete" in text)


def _brief(done: Done, usual: str = "") -> str:
    lines = [line for line in done.all.splitlines() if line.strip()]
    new = [line for line in lines if line not in usual.splitlines()]
    return " | ".join((new or lines)[-3:])[-400:]


# --- 1. kills ---


def kill(site: Site, number: int, seed: int) -> Attack:
    """SIGKILL a driver at one to three random moments of its life; the same command then ends as if nothing was."""
    draws = random.Random(f"{seed} kill {number}")
    attack, folder = Attack("kill", number, seed), _empty(site)
    moments = [draws.randint(1, site.events) for _ in range(draws.randint(1, 3))]
    attack.what = f"at events {', '.join(map(str, moments))} of {site.events}"
    for moment in moments:
        before, kept = len(work(folder)), set(committed(folder)) if folder.exists() else set()
        ended = site.driver(folder, At(moment, signal.SIGKILL)).wait(PATIENCE)
        if again := kept & {key for _, key in work(folder)[before:]}:
            attack.said = f"{len(again)} committed trials were trained again"
        if ended.code not in (-9, 0):
            attack.said = f"exit {ended.code}: {ended.said[-300:]}"
    _end(site, folder, attack)
    return attack


def _empty(site: Site) -> Path:
    folder = site.folder / "killed" / "run"
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.parent.mkdir()
    return folder


def _end(site: Site, folder: Path, attack: Attack) -> None:
    """Run the same command to its end, and judge."""
    before, kept = len(work(folder)), set(committed(folder)) if folder.exists() else set()
    ended = site.driver(folder).wait(PATIENCE)
    again = kept & {key for _, key in work(folder)[before:]}
    if ended.code != 0:
        attack.said = attack.said or f"the same command then ended with {ended.code}: {ended.said[-300:]}"
    attack.said = attack.said or (f"{len(again)} committed trials were trained again" if again else "")
    attack.said = attack.said or site.difference(folder)
    attack.verdict = "SILENT" if attack.said else "HEALED"


# --- 3. signals ---

# Exit code of the command; one that is not listened to has its default action.
# Jobs in the background of a shell that is not interactive ignore it, and their children do.
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
SIGNALS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129, signal.SIGQUIT: -signal.SIGQUIT}


def interrupt(site: Site, number: int, seed: int) -> Attack:
    """A signal at a random event of a driver's life: from its lease to the last file of its report."""
    draws = random.Random(f"{seed} signal {number}")
    attack, folder = Attack("signal", number, seed), _empty(site)
    chosen, moment = draws.choice(sorted(SIGNALS)), draws.randint(1, site.events)
    attack.how, attack.what = chosen.name, f"at event {moment} of {site.events}"
    sent = folder.parent / "sent"
    ended = site.driver(folder, At(moment, chosen, sent)).wait(PATIENCE)
    if sent.exists():
        attack.said = _last_words(chosen, ended.code, ended.said)
    else:  # heartbeats and snapshots go by the clock: this driver had fewer events
        attack.what += ", which did not come"
    _end(site, folder, attack)
    return attack


def _last_words(chosen: signal.Signals, code: int, said: str) -> str:
    """What is wrong with how a command ended by a signal; "" when nothing is."""
    if code != SIGNALS[chosen]:
        return f"{chosen.name} ended it with {code}: {said[-200:]}"
    if chosen == signal.SIGQUIT:  # the key that ends a program at once: its default action
        return ""
    if said.count(LAST_WORDS) != 1 or not said.rstrip().splitlines()[-1].startswith(LAST_WORDS):
        return f"no last line: {said[-200:]}"
    return f"a traceback: {said[-200:]}" if "Traceback" in said else ""


def process(site: Site, number: int, seed: int, ray: bool, whole: float) -> Attack:
    """A signal, or SIGKILL, at a random moment of a process of its own: imports, preflight and Ray's start included.

    Args:
        whole: seconds that an undisturbed process takes.
    """
    draws = random.Random(f"{seed} process {number} {ray}")
    attack, folder = Attack("ray" if ray else "process", number, seed), _empty(site)
    chosen = draws.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    worker = ray and chosen == signal.SIGKILL and draws.random() < 0.7
    seconds = draws.uniform(0.0, whole)
    attack.how, attack.what = chosen.name, f"{'a worker' if worker else 'the driver'} after {seconds:.2f} s"
    driver = start(site, folder, ray)
    time.sleep(seconds)
    if driver.poll() is None and worker:
        attack.what += _kill_worker(driver.pid, draws)
        said, _ = driver.communicate(timeout=300)
        if driver.returncode != 0:
            attack.said = f"exit {driver.returncode}: {said[-300:]}"
    elif driver.poll() is None:
        listens = _listens(driver.pid)
        driver.send_signal(chosen)
        said, _ = driver.communicate(timeout=120)
        if chosen != signal.SIGKILL and listens:
            attack.said = _last_words(chosen, driver.returncode, said)
        elif chosen != signal.SIGKILL:
            attack.what += ", before it could listen"
            if folder.exists():
                attack.said = "it had begun to work before it could listen"
    _end(site, folder, attack)
    return attack


def start(site: Site, folder: Path, ray: bool) -> subprocess.Popen[str]:
    """`silo-tune run` as its user starts it."""
    words = ["run", str(site.study), "--out", str(folder), *([] if ray else ["--local"])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "analysis")])}
    return subprocess.Popen(
        [sys.executable, "-m", "silo_tune", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, cwd=site.folder,
    )  # fmt: skip


def _listens(pid: int) -> bool:
    """Does a process catch SIGTERM by now?"""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = re.search(r"SigCgt:\s*([0-9a-f]+)", status)
    assert caught is not None
    return bool(int(caught[1], 16) & 1 << (signal.SIGTERM - 1))


def _kill_worker(driver: int, draws: random.Random) -> str:
    """SIGKILL one of the driver's own processes that works for it; says which."""
    found = [(pid, name) for pid, name in sorted(_below(driver)) if name.startswith("ray::")]
    if not found:
        return ", none there yet"
    pid, name = draws.choice(found)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return f" ({name})"


def _below(pid: int) -> Iterator[tuple[int, str]]:
    """(pid, title) of every process that a process started, and of those that they did."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            yield int(child), Path(f"/proc/{child}/cmdline").read_text().split("\0")[0]
            yield from _below(int(child))
