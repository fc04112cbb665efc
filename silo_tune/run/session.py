"""One session of a run: the lease, the accepted study, the data, the planner, a runner that trains, and the table."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from silo_tune.errors import BadInput, StudyError
from silo_tune.formats import plural
from silo_tune.machine import environment
from silo_tune.planner.candidates import peak_of
from silo_tune.planner.chain import Chain
from silo_tune.planner.layout import require_samplers
from silo_tune.planner.planner import Counts, Planner
from silo_tune.planner.points import TunePlan, plan_of
from silo_tune.planner.samplers import importance
from silo_tune.results.example_rows import gather, write_gathered
from silo_tune.results.remembered import may_be_remembered, remembered
from silo_tune.results.searches import doubtful_rounds, searches
from silo_tune.results.table import table, write_table
from silo_tune.run.monitor import Monitor, Recorder
from silo_tune.run.progress import Progress, look_line
from silo_tune.run.status import recorded
from silo_tune.store.lease import Lease
from silo_tune.store.reuse import Reuse
from silo_tune.store.run_folder import Run
from silo_tune.study import registry
from silo_tune.study.arms import ScheduleArm
from silo_tune.study.data import standing
from silo_tune.study.findings import Findings
from silo_tune.study.model import Study
from silo_tune.study.parts import BROUGHT
from silo_tune.study.published import published
from silo_tune.study.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

Take = Callable[[str], Mapping[str, Any] | None]


Look = Callable[["pd.DataFrame", Study, int], Mapping[str, Any]]
"""Derives a look of this number from rows: `silo_analysis.estimates.sequential.look_at`."""


class Runner(Protocol):
    """Trains what a planner asks for: in this process, or on a Ray cluster."""

    def open(self, study: Study, workspace: Workspace, monitor: Monitor) -> AbstractContextManager[Session]:
        """Load the data and stand ready; the monitor hears what that waits for.

        Raises:
            BadInput: the data or the cluster is not there.
        """
        ...


class Session(Protocol):
    """A runner that stands ready.

    Attributes:
        facts: of the data, for RUN/data.json.
        slots: units that can train at once.
    """

    @property
    def facts(self) -> Mapping[str, Any]: ...

    @property
    def slots(self) -> int: ...

    def look(self, study: Study) -> Findings:
        """Look at all that can be found out before the training: see `training.preflight`."""
        ...

    def train(self, planner: Planner, lease: Lease, monitor: Monitor) -> None:
        """Train until the planner has no more."""
        ...


@dataclass(frozen=True)
class Options:
    """How a study is run, beside the study itself; see `silo_tune.run_study`.

    Attributes:
        out: the run folder or URL; `runs/NAME` when left out.
        retry_failed: train failed units again where a chain ended for want of them.
        preflight: look at functions, data, one step and one prune before the training.
        reuse: other run folders or URLs, whose committed units are taken and not trained again.
        look_at: decides the looks of a study of seeds until decided: `silo_analysis.estimates.sequential.look_at`.
    """

    out: str | None = None
    retry_failed: bool = False
    preflight: bool = True
    reuse: tuple[str, ...] = ()
    look_at: Look | None = None


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        url: the run folder.
        frame: its table.
        counts: units trained, shared, reused and failed in this session.
        taken: URL of another run → number of its units that were reused in this session.
        ended: for each chain that ended early, (arm, seed) and the reason.
        seconds: wall seconds of this session.
    """

    url: str
    frame: pd.DataFrame
    counts: Counts
    taken: dict[str, int] = field(default_factory=dict)
    ended: dict[tuple[str, int], str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class OpenRun:
    """A run that this driver holds.

    Attributes:
        run: its folder.
        planner: asks for its units, and decides its cycles.
        lease: held until the run is closed.
        monitor: hears how it goes, after the run's own status has heard it.
        session: the runner that stands ready; None where nothing is left to train.
        reuse: the other runs whose units it takes.
        frame: the table, once the run is closed.
    """

    run: Run
    planner: Planner
    lease: Lease
    monitor: Monitor
    session: Session | None
    reuse: Reuse
    frame: pd.DataFrame | None = None


@contextlib.contextmanager
def open_run(study: Study, runner: Runner, monitor: Monitor, options: Options) -> Iterator[OpenRun]:
    """Hold a run: every way to train a study goes through here.

    The study is recorded only when nothing is left that could refuse it. At the end the table and what a search's
    parameters are worth are written, unless the session ended by an exception; RUN/status.json is kept either way.

    Raises:
        BadInput: the study does not fit the run, the data or the cluster.
        RunFailed: storage failed, or another driver holds the run.
    """
    if study.looks and options.look_at is None:
        raise BadInput(
            "replicates.until: nobody looks at the verdicts; give look_at = "
            "silo_analysis.estimates.sequential.look_at, or use `silo-tune run` or run_study"
        )
    progress = Progress(study)
    monitor = Recorder(progress, monitor)
    run = Run(options.out or default_run(study), monitor.notice)
    checkpoint = checkpoint_hash(study)
    with run.lease() as lease, recorded(progress, run.storage, lease):
        study = run.resumed(study)
        shown = [] if study.report.published is None else published(study.report.published)
        reuse, since = Reuse(run, options.reuse, study), run.tests_from(study)
        listen = listener(study, run, monitor)
        looks = None if options.look_at is None else looking(study, run, options.look_at, monitor)

        def planned(take: Take = lambda key: None) -> Planner:
            return Planner(study, run, since, checkpoint, listen, options.retry_failed, take, looks)

        told_of_functions(run, study)
        opened = OpenRun(run, planned(), lease, monitor, None, reuse)
        with contextlib.ExitStack() as stack:
            if opened.planner.done:
                check_tolerance(study, run.data_facts())
                run.accept(study, environment(), published=shown)
                progress.begin(opened.planner, 0)
            else:
                session = stack.enter_context(runner.open(study, Workspace.of(study, run.url), monitor))
                monitor.looked_at(look(study, session, options.preflight))
                sources = registry.sources(study.functions)
                run.check_data(session.facts)
                reuse.check_data(session.facts, sources)
                run.record_functions(sources)
                run.accept(study, environment(), reuse.urls, shown)
                if reuse:  # only now: what they have is decided as soon as it is here
                    opened.planner = planned(reuse.take)
                monitor.started(study, opened.planner, session.slots)
                opened.session = session
            yield opened
        weigh_parameters(run, study)
        opened.frame = table(run, study, run.notice)
        for doubt in doubtful_rounds(run, study, opened.frame):
            run.notice(doubt)
        keep_examples(run, opened.frame)
        write_table(run, opened.frame)


def told_of_functions(run: Run, study: Study) -> None:
    """Tell of functions that changed under their version, before their new numbers are met with the old decisions."""
    with contextlib.suppress(Exception):  # one that cannot be imported is told with all else that is wrong
        run.check_functions(registry.sources(study.functions))


def listener(study: Study, run: Run, monitor: Monitor) -> Callable[[Chain], None]:
    """Tells a monitor of every change of a chain; and once, if a checkpoint seems to remember validation images."""
    unseen = set(study.replicates.seeds) if study.dense.checkpoint is not None else set()

    def changed(chain: Chain) -> None:
        monitor.changed(chain)
        key = chain.closed[0] if chain.closed and chain.seed in unseen else None
        if key is None or (result := run.result(key)) is None:
            return
        unseen.discard(chain.seed)
        warning = remembered(study, [{**result, "seed": chain.seed}])
        if warning is not None:
            unseen.clear()  # once is enough
            monitor.notice(warning)

    return changed


def looking(study: Study, run: Run, look_at: Look, monitor: Monitor) -> Callable[[int], dict[str, Any]]:
    """Makes a look: derived from the rows, written once, and told. One that stands must say the same.

    Raises:
        BadInput: the look that stands says something else of the very same rows.
    """

    def look(number: int) -> dict[str, Any]:
        body = dict(look_at(table(run, study), study, number))
        standing = run.decide_look(body)
        monitor.notice(look_line(standing))
        if standing == body:
            return standing
        shown = run.storage.shown(run.look_name(number))
        if standing.get("rows") == body["rows"]:
            other = sorted(key for key in {*standing, *body} if standing.get(key) != body.get(key))
            raise BadInput(
                f"{shown}: {', '.join(other)} of this look are not what its own rows say now; put the study back as it "
                f"was, or choose another --out"
            )
        monitor.notice(f"{shown}: trials of its seeds were trained again since; what it decided stands")
        return standing

    return look


def problems_of(study: Study, url: str) -> list[tuple[str, str]]:
    """All that can be found wrong with a study before the training, looked at in this process."""
    findings = Findings()
    for name, arm in study.arms.items():
        with findings.about(f"arms.{name}"):
            require_samplers(name, arm)
            if isinstance(arm, ScheduleArm) and not arm.open:
                schedule = study.schedule_of(arm)
                for cycle in range(0 if arm.own_dense else 1, study.cycles):
                    peak_of(schedule, cycle, study.pruned_by(arm), name)
    with findings.about("data"):
        look_here(study, url)
    return findings.problems


def look_here(study: Study, url: str) -> list[str]:
    """What a run of this study would tell of its data and network before the training, looked at in this process.

    Raises:
        StudyError: with every problem.
    """
    from silo_tune.run.local import LocalRunner

    with LocalRunner().open(study, Workspace.of(study, url), Monitor()) as session:
        return look(study, session, preflight=True, layers=True)


def look(study: Study, session: Session, preflight: bool, layers: bool = False) -> list[str]:
    """What to tell of the data and the network; refuses a study for all that is found wrong before the training.

    Args:
        study, session: what is looked at, and by whom.
        preflight: look at more than the data.
        layers: tell every prunable layer.

    Raises:
        StudyError: with every problem.
    """
    findings = Findings()
    if study.report.published is not None:
        with findings.about("report.published"):
            published(study.report.published)
    with findings.about("report.tolerance"):
        check_tolerance(study, session.facts)
    if preflight:
        found = session.look(study)
        findings.problems += found.problems
        findings.lines += [*found.lines, *(found.layers if layers else ())]
    if findings.problems:
        raise StudyError("", findings.problems)
    doubt = may_be_remembered(study)
    return [*data_lines(session.facts), *([f"dense.checkpoint: {doubt}"] if doubt else []), *findings.lines]


def drive(study: Study, runner: Runner, monitor: Monitor, options: Options) -> Outcome:
    """Open a run, train until its planner has no more, close it; see `silo_tune.run_study`.

    Raises:
        BadInput, RunFailed: as `open_run`.
    """
    began = time.monotonic()
    with open_run(study, runner, monitor, options) as opened:
        if opened.session is not None:
            opened.session.train(opened.planner, opened.lease, opened.monitor)
    assert opened.frame is not None
    planner, taken = opened.planner, dict(opened.reuse.taken)
    ended = {where: chain.ended for where, chain in planner.chains.items() if chain.ended is not None}
    return Outcome(opened.run.url, opened.frame, planner.counts, taken, ended, time.monotonic() - began)


def weigh_parameters(run: Run, study: Study) -> None:
    """Write what each parameter of a finished tuning is worth into the run, for the report."""
    for arm, record in searches(run, study).items():
        plan = plan_of(study, arm)
        if isinstance(plan, TunePlan) and record.finished and record.importance is None:
            complete = [point for point in record.points if point["objective"] is not None]
            shares = importance(plan.space(), plan.told(complete))
            if shares is not None:
                run.write_importance(arm, len(record.points), shares)


def keep_examples(run: Run, frame: pd.DataFrame) -> None:
    """Write which examples the chains of a run got right; what is damaged of them is told."""
    found = gather(run, frame)
    for told in found.damaged:
        run.notice(told)
    write_gathered(run, found)


def default_run(study: Study) -> str:
    """runs/NAME."""
    return f"runs/{study.name}"


def data_lines(facts: Mapping[str, Any]) -> list[str]:
    """What is known of the data, for the start of a run."""
    noun, shape = facts.get("noun", "images"), "×".join(map(str, facts["shape"]))
    sizes = f"{facts['n_train']:,} training, {facts['n_val']:,} validation and {facts['n_test']:,} test {noun}"
    of = f"{shape} of {plural(facts['classes'], 'class')}"
    if noun != "images":
        of = f"with {shape or 'several'} inputs and {plural(facts['classes'], 'output')}"
    return [f"data: {sizes} {of}", *(f"data: {n}" for n in facts["notices"])]


def check_tolerance(study: Study, facts: Mapping[str, Any] | None) -> None:
    """Refuse a tolerance finer than the validation set can show (two examples), where the score counts them.

    Raises:
        BadInput: it is finer.
    """
    if facts is not None and study.report.tolerance < (finest := finest_tolerance(study, facts)):
        raise BadInput(
            f"report.tolerance: {study.report.tolerance} is finer than {facts['n_val']} validation "
            f"{facts.get('noun', 'images')} can show; set it to {finest:.4g} or more"
            + (", or raise data.val_share" if study.data.val == "drawn" else "")
        )


def finest_tolerance(study: Study, facts: Mapping[str, Any]) -> float:
    """What two validation examples are worth, where the score counts them; else 0."""
    return 2 / facts["n_val"] if study.scored.share and study.scored.mean_over_examples else 0.0


def checkpoint_hash(study: Study) -> str | None:
    """Content hash of the pretrained weights; of those that the model brings, its name stands for it.

    Raises:
        BadInput: there is no such file.
    """
    path = study.dense.checkpoint
    if path is None:
        return None
    if path in BROUGHT:
        model = study.model
        return f"{model.name} pretrained" if model.function is None else f"{model.function} {model.version}"
    try:
        return hashlib.sha256(Path(standing(path, "dense.checkpoint")).read_bytes()).hexdigest()
    except FileNotFoundError:
        raise BadInput(f"dense.checkpoint: no file {path!r}") from None
    except OSError as error:
        raise BadInput(f"dense.checkpoint: cannot read {path!r}: {error.strerror}") from None
