"""`run_study`: one study to its table, on Ray or in this process. What trains is picked here."""

from __future__ import annotations

from collections.abc import Sequence

from silo_tune.errors import BadInput
from silo_tune.machine import paths_from_here
from silo_tune.run.callbacks import Callback, heard_by
from silo_tune.run.local import LocalRunner
from silo_tune.run.monitor import Monitor
from silo_tune.run.session import Look, Options, Outcome, Runner, default_run, drive
from silo_tune.study.model import Study
from silo_tune.study.places import absolute


@paths_from_here()
def run_study(
    study: Study,
    out: str | None = None,
    *,
    runner: Runner | None = None,
    address: str | None = None,
    local: bool = False,
    monitor: Monitor | None = None,
    retry_failed: bool = False,
    preflight: bool = True,
    reuse: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
) -> Outcome:
    """Run a study, or resume it, to its table.

    Args:
        study: from `load_study`.
        out: the run folder or URL; `runs/NAME` when left out.
        runner: what trains; a Ray cluster when left out (or this process, with `local`).
        address: of an existing Ray cluster; default: starts a local cluster.
        local: train in this process, without Ray.
        monitor: hears how it goes.
        retry_failed: train failed units again where a chain ended for want of them.
        preflight: look at functions, data, one step and one prune before the training.
        reuse: other run folders or URLs, whose committed units are taken and not trained again; the run remembers them.
        callbacks: hear it too, each in a thread of its own; see `Callback` and `track`.

    Returns:
        The outcome; RUN/table.parquet holds its table.

    Raises:
        BadInput: the study does not fit the run, the data, the cluster, or a run that is reused.
        RunFailed: storage failed, or another driver holds the run. What is committed is kept.
    """
    monitor = monitor or Monitor()
    options = Options(out, retry_failed, preflight, tuple(reuse), look_of(study))
    if runner is None and not local and address is not None and address.startswith("ray://"):
        from silo_tune.tune.client import drive_from_client

        if callbacks:
            raise BadInput(
                "callbacks and trackers hear nothing over ray://: run this on the cluster, with address auto"
            )
        return drive_from_client(study, address, monitor, options)
    with heard_by(callbacks, monitor, absolute(out or default_run(study))) as told:
        return drive(study, runner or _runner(local, address), told, options)


def look_of(study: Study) -> Look | None:
    """What decides the looks of a study of seeds until decided; None where it has none."""
    if not study.looks:
        return None
    from silo_analysis.estimates.sequential import look_at

    return look_at


def _runner(local: bool, address: str | None) -> Runner:
    if local:
        return LocalRunner()
    from silo_tune.tune.runner import RayRunner

    return RayRunner(address)
