"""The cluster: how it is reached or started, what fits on it, what its nodes see, and the data in its object store."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.utils import read_ray_address
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from silo_tune.errors import ENDS, BadInput, RunFailed, SiloTuneError
from silo_tune.run.monitor import Monitor, require_going
from silo_tune.store.storage import Storage, StorageError
from silo_tune.study.findings import Findings
from silo_tune.study.model import Study
from silo_tune.study.parts import Cluster
from silo_tune.study.workspace import Workspace

CONNECT_SECONDS = 5.0
CLIENT_TRIES = 4
LOOK_SECONDS = 60.0
# An autoscaler may need minutes to bring the first node.
PATIENCE_SECONDS = 900.0
SCRATCH, HELD = "silo-ray-", "held"
PLAIN_SIGNALS = "RAY_DISABLE_FAILURE_SIGNAL_HANDLER"
# Characters of the folder that scratch folders are in: what Ray adds makes 91 of the 107 of a socket's path.
SHORT = 16
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}


# --- reaching it ---


@contextlib.contextmanager
def started_here(num_cpus: int | None, dashboard: bool, scratch: str) -> Iterator[str]:
    """A cluster of this machine's own, reachable on loopback only; gives the address of its dashboard.

    Raises:
        RunFailed: Ray does not start.
    """
    # Large pages for the workers' heaps: 4 to 10 % less time per step of a convnet on a CPU.
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    try:
        with _own_signals(), _on_loopback():
            context = ray.init(
                address="local", num_cpus=num_cpus, include_dashboard=dashboard, _temp_dir=scratch, **QUIET
            )
    except ENDS:
        ray.shutdown()
        raise
    except Exception as error:  # a machine that is too busy or too full: Ray raises many kinds
        ray.shutdown()
        raise RunFailed(
            f"Ray did not start on this machine ({_first_line(error)}); run the same command again when it is less "
            f"busy, or train without Ray by --local"
        ) from error
    try:
        yield str(context.dashboard_url)
    finally:
        ray.shutdown()


@contextlib.contextmanager
def connected(address: str, monitor: Monitor) -> Iterator[None]:
    """An existing cluster.

    Raises:
        BadInput: none answers, or it does not take us.
        RunFailed: its head does not start a server for this client.
    """
    _probe(address)
    if ray.is_initialized():  # the caller's own connection
        yield
        return
    try:
        with _own_signals():
            _join(address, monitor)
    except SiloTuneError:  # asked to stop meanwhile
        raise
    except ConnectionAbortedError as error:
        raise RunFailed(
            f"the Ray cluster at {address!r} answers, but did not start a server for this client, {CLIENT_TRIES} times "
            f"({_last_line(error)}); run the same command again, or on the cluster itself with --address auto"
        ) from error
    except ConnectionError as error:
        raise BadInput(_no_answer(address, _last_line(error))) from error
    except Exception as error:  # versions that differ, a token that is missing: Ray raises many kinds
        raise BadInput(f"the Ray cluster at {address!r} did not take this driver: {_last_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _join(address: str, monitor: Monitor) -> None:
    """Ray forks a server for every client (`ray://`) from a process of many threads, and one in about fifteen dies at
    once (ray-project/ray#63202); the next one lives."""
    for left in reversed(range(CLIENT_TRIES)):
        try:
            ray.init(address=address, **QUIET)
            return
        except ConnectionAbortedError:
            ray.shutdown()
            if not left:
                raise
            monitor.notice(f"the Ray cluster at {address!r} lost the server that it started for this client; once more")
            require_going(monitor)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """On Linux Ray serves even a machine's own cluster on all interfaces. Its switch for macOS keeps it on loopback."""
    name, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    told = os.environ.get(name)
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False  # for Ray's processes, and for this one
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        if told is None:
            del os.environ[name]
        else:
            os.environ[name] = told


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Leave the caller's handlers in force: Ray puts one over SIGTERM while it starts, and ends without a word.

    Another of its handlers, in C++, prints a stack of unknown addresses before the caller's is asked.
    """
    numbers, install = (signal.SIGINT, signal.SIGTERM), signal.signal
    before = getattr(ray_constants, PLAIN_SIGNALS, False)

    def guarded(number: int, handler: Any) -> Any:
        return signal.getsignal(number) if number in numbers else install(number, handler)

    signal.signal = guarded  # type: ignore[assignment]
    setattr(ray_constants, PLAIN_SIGNALS, True)  # for this process; workers keep theirs
    try:
        yield
    finally:
        signal.signal = install
        setattr(ray_constants, PLAIN_SIGNALS, before)


@contextlib.contextmanager
def scratch_folder() -> Iterator[str]:
    """A folder for Ray's sockets and logs. It never cleans up; the folders of drivers that were killed go here."""
    place = _short_folder()
    for folder in Path(place).glob(f"{SCRATCH}*-*"):
        if _left_behind(folder):
            shutil.rmtree(folder, ignore_errors=True)
    prefix = f"{SCRATCH}{os.getpid()}-"
    with (
        tempfile.TemporaryDirectory(prefix=prefix, dir=place, ignore_cleanup_errors=True) as scratch,
        open(os.path.join(scratch, HELD), "w", encoding="ascii") as held,
    ):
        fcntl.flock(held, fcntl.LOCK_EX)  # until this process ends, however it does
        yield scratch


def _left_behind(folder: Path) -> bool:
    """Has the driver of a scratch folder ended? Its lock says so, and not its pid: containers may share /tmp alone."""
    with contextlib.suppress(OSError), open(folder / HELD, encoding="ascii") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _short_folder() -> str:
    """Where scratch folders go: TMPDIR, unless Ray's sockets below it would have longer paths than sockets can have.

    Raises:
        RunFailed: no short folder can be written to.
    """
    usual = tempfile.gettempdir()
    for place in (usual, "/tmp", "/var/tmp", "/dev/shm"):
        if len(os.path.realpath(place)) <= SHORT and os.access(place, os.W_OK | os.X_OK):
            return place
    raise RunFailed(
        f"Ray needs a folder for its sockets whose path has at most {SHORT} characters, and TMPDIR is {usual!r}; set "
        f"TMPDIR to a short folder that can be written to, or train without Ray by --local"
    )


def _probe(address: str) -> None:
    """Ask the host before Ray does: Ray waits a minute for one that is not there."""
    place = address.removeprefix("ray://")
    if place == "auto":
        place = os.environ.get("RAY_ADDRESS", "").removeprefix("ray://") or read_ray_address()
        if ":" not in place:
            return  # no cluster is known here; Ray says so at once
    host, colon, port = place.rpartition(":")
    if not colon or not port.isdigit():
        raise BadInput(f"--address takes auto, ray://HOST:PORT or HOST:PORT, got {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise BadInput(_no_answer(address, str(error))) from None


def _no_answer(address: str, why: str) -> str:
    return f"no Ray cluster answers at {address!r} ({why}); start one with `ray start --head`, or leave --address out"


def is_connected() -> bool:
    """Is this process connected to a cluster?"""
    return bool(ray.is_initialized())


def start_if_none() -> None:
    """Start a cluster on this machine where this process is connected to none; it ends with the process.

    Left to itself Ray would take whatever cluster was started last on this machine, a stranger's or a dying one too.
    """
    if not ray.is_initialized():
        with _own_signals(), _on_loopback():
            ray.init(address=os.environ.get("RAY_ADDRESS") or "local", **QUIET)


# --- what fits on it ---


def slots(cluster: Cluster) -> int:
    """Units that the nodes of now can train at once."""
    return sum(_fit(cluster, node["Resources"]) for node in _alive())


def require_slots(study: Study, patience: float, monitor: Monitor) -> int:
    """Units that can train at once, when it is at least one.

    Args:
        study: says what a unit wants.
        patience: seconds to wait for a node that an autoscaler may bring.
        monitor: told that something is waited for.

    Raises:
        BadInput: no unit fits on any node.
    """
    until, told = time.monotonic() + patience, False
    while not (found := slots(study.cluster)):
        amounts = _amounts(study.cluster)
        wanted, have = _shown(amounts), _have(list(amounts))
        if time.monotonic() >= until:
            raise BadInput(
                f"[cluster] workers_per_unit, cpus_per_unit, gpus_per_unit, memory_per_unit_gb: a trial wants "
                f"{wanted}; the cluster has {have}"
            )
        if not told:
            monitor.notice(f"waiting for a node on which a trial fits: it wants {wanted}, the cluster has {have}")
            told = True
        ask_autoscaler(study.cluster, 1)
        require_going(monitor)
        time.sleep(1.0)
    return found


def ask_autoscaler(cluster: Cluster, units: int) -> None:
    """Ask for room for so many units at once; where there is no autoscaler nothing happens. Stands until asked anew."""
    request_resources(bundles=[_amounts(cluster)] * units)


def _amounts(cluster: Cluster) -> dict[str, float]:
    return {name: amount for name, amount in cluster.reserved.items() if amount > 0}


def _fit(cluster: Cluster, have: Mapping[str, float]) -> int:
    return min(int(have.get(name, 0.0) / amount) for name, amount in _amounts(cluster).items())


def _have(names: Sequence[str]) -> str:
    nodes = [node["Resources"] for node in _alive()]
    most = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in names}
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)} with at most {_shown(most)}"


def _shown(amounts: Mapping[str, float]) -> str:
    return ", ".join(
        f"{amount / 2**30:.3g} GB of memory" if name == "memory" else f"{amount:g} {name}"
        for name, amount in amounts.items()
    )


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


# --- why something on it died ---


def reason_of(said: str) -> str:
    """Why a worker died, in one sentence."""
    if "low on memory" in said or "OutOfMemoryError" in said:
        return (
            "its worker was ended because the memory of its node was used up (cluster.memory_per_unit_gb keeps trials "
            "apart, a smaller cluster.max_concurrent or batch needs less)"
        )
    if "node has died" in said or "node was terminated" in said:
        return "its node died"
    if "connection error code 2" in said:
        return "its worker was killed (the kernel does so when memory is used up) or crashed"
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("Failure #")]
    return f"its worker died ({lines[0].rstrip('.')})" if lines else "its worker died"


# --- what its nodes see ---


@contextlib.contextmanager
def seen_everywhere(url: str, holding: bool) -> Iterator[str]:
    """A file of the run that every node of the cluster can read; late nodes are to look for it themselves.

    Args:
        url: of the run.
        holding: is the run's lease ours? Then the files of drivers that were killed are removed.

    Raises:
        BadInput: a node cannot read it; it is named, with the remedy.
    """
    storage = Storage(url)
    for name in storage.names("lease") if holding else ():
        if name.startswith("seen-"):
            storage.delete(f"lease/{name}")
    token = f"lease/seen-{uuid.uuid4().hex}"
    storage.replace(token, b"every node must see this file\n")
    try:
        _require_seen(url, token)
        yield token
    finally:
        with contextlib.suppress(StorageError):
            storage.delete(token)


@contextlib.contextmanager
def shared_with_others(study: Study, url: str) -> Iterator[str]:
    """A run on a cluster that is not its own: seen by every node, and nothing asked of its autoscaler afterwards."""
    with seen_everywhere(url, holding=True) as token:
        try:
            yield token
        finally:
            with contextlib.suppress(Exception):  # the cluster may be gone
                ask_autoscaler(study.cluster, 0)


def not_seen(url: str, nodes: Sequence[str]) -> str:
    """What to say when nodes do not see the run."""
    return (
        f"the run {url} is not seen on {', '.join(nodes)}; put it where every node sees it, with --out: a shared file "
        f"system at the same path, or object storage (s3://bucket/run)"
    )


def _look(url: str, token: str) -> str | None:
    try:
        return None if Storage(url).exists(token) else ""
    except SiloTuneError as error:
        return str(error)


def _require_seen(url: str, token: str) -> None:
    look: Any = ray.remote(num_cpus=0, max_retries=1)(_look)
    asked = {
        node["NodeID"]: (
            node["NodeManagerAddress"],
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                url, token
            ),
        )
        for node in _alive()
    }
    blind: dict[str, str] = {}
    for node, (address, answer) in asked.items():
        try:
            found = ray.get(answer, timeout=LOOK_SECONDS)
        except Exception as error:  # silo-tune is not installed there, or the node died since
            if node not in {other["NodeID"] for other in _alive()}:
                continue
            found = f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"
        if found is not None:
            blind[f"{address} (node {node[:8]})"] = found
    if blind:
        reasons = "; ".join(f"{node}: {why}" for node, why in blind.items() if why)
        raise BadInput(not_seen(url, list(blind)) + (f" ({reasons})" if reasons else ""))


# --- the data ---


def load_everywhere(study: Study, workspace: Workspace) -> tuple[Mapping[str, Any], Any]:
    """Load the data once, into the object store, from which each node takes one copy.

    A task does it: the driver imports neither torch nor the user's functions.
    """

    def load(study: Study, place: Workspace) -> tuple[Any, Any]:
        from silo_tune.training.preflight import opened

        try:
            return opened(study, place)
        except SiloTuneError as error:
            return error, None

    # Where units train, but on none of their CPUs: if that node dies Ray loads the data again, while workers that wait
    # for it may hold all CPUs.
    node = next((node["NodeID"] for node in _alive() if _fit(study.cluster, node["Resources"])), None)
    task: Any = ray.remote(num_cpus=0, num_returns=2, max_retries=3)(load)
    if node is not None:
        task = task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True))
    found, dataset = task.remote(study, workspace)
    try:
        known = ray.get(found)
    except RayTaskError as error:  # what it raised, not a death
        raise RunFailed(f"the data could not be loaded on the cluster: {_last_line(error)}") from error
    except RayError as error:
        raise RunFailed(
            f"the data could not be loaded on the cluster: {reason_of(str(error))}; see that it fits into a node's "
            f"memory, and run the same command again"
        ) from error
    if isinstance(known, SiloTuneError):
        raise known
    return known, dataset


def look_from(study: Study, workspace: Workspace, dataset: Any, slots: int) -> Findings:
    """A look at the study before the training, where a unit would train: see `training.preflight`.

    Raises:
        RunFailed: the process that looked died.
    """

    def look(study: Study, place: Workspace, dataset: Any, slots: int) -> Findings:
        from silo_tune.training.preflight import preflight

        return preflight(study, place, dataset, slots)

    node = next((node for node in _alive() if _fit(study.cluster, node["Resources"])), None)
    task: Any = ray.remote(num_cpus=study.cluster.cpus_per_unit, num_gpus=study.cluster.gpus_per_unit, max_retries=1)
    here = 1 if node is None else min(slots, _fit(study.cluster, node["Resources"]))
    try:
        found: Findings = ray.get(task(look).remote(study, workspace, dataset, here))
    except RayTaskError as error:
        raise RunFailed(f"a first look at the study's network failed: {_last_line(error)}") from error
    except RayError as error:
        raise RunFailed(
            f"a first look at the study's network did not end: {reason_of(str(error))}; --no-preflight trains without"
        ) from error
    return found
