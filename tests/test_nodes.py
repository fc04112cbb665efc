"""Several nodes: where a unit trains changes no number, and nodes come, go and die while a study runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from silo_tune.api import run_study
from silo_tune.errors import BadInput
from silo_tune.results.records import load_run
from silo_tune.run.session import Outcome
from silo_tune.study.model import Study
from silo_tune.study.study_file import parse_study
from silo_tune.study.workspace import Workspace
from silo_tune.tune.cluster import load_everywhere
from silo_tune.tune.runner import RayRunner
from tests.conftest import small_table
from tests.test_run import Notes, assert_same_table, committed, local

pytestmark = pytest.mark.slow
TOLD = ["arm", "seed", "cycle", "max_lr", "status", "val_score", "val_loss", "test_score", "train_loss", "winner"]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head without CPUs, on which the driver is; tests add the nodes."""
    # Where Ray notes a cluster's address, whatever its own folder; on a new machine it is not there yet.
    Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)
    # Not below pytest's folder: the path of a socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="silo-ray-", ignore_cleanup_errors=True) as scratch:
        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": scratch, "object_store_memory": 2**27}
        made = Cluster(initialize_head=True, head_node_args=head)
        yield made
        ray.shutdown()
        made.shutdown()


def add(cluster: Cluster, count: int = 1, cpus: int = 1) -> list[Any]:
    nodes = [cluster.add_node(num_cpus=cpus, object_store_memory=2**27) for _ in range(count)]
    cluster.wait_for_nodes()
    return nodes


def signing_study(folder: Path, pause: float = 0.0, **changes: Any) -> Study:
    model = {"function": "tests.users:signing", "version": "1", "folder": str(folder), "pause": pause}
    return parse_study({**small_table(replicates={"seeds": [0, 1]}, **changes), "model": model})


def expected(tmp_path: Path, pause: float = 0.0, **changes: Any) -> Outcome:
    """The table of a run in this process, which needs no node: the same network without a signature."""
    model = {"function": "tests.users:model", "version": "1", "dropout": 0.0}
    table = {**small_table(replicates={"seeds": [0, 1]}, **changes), "model": model}
    return local(parse_study(table), tmp_path / "expected")


@contextlib.contextmanager
def running(cluster: Cluster, study: Study, folder: Path, notes: Notes) -> Iterator[Callable[[], Outcome]]:
    """A study that runs while the test goes on; gives what waits for its end. Nodes start from the main thread only."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(run_study, study, str(folder), address=cluster.address, monitor=notes)
        try:
            yield future.result
        finally:
            notes.stop_requested = True


def wait_for(folder: Path, units: int) -> None:
    until = time.monotonic() + 120
    while len(committed(folder)) < units:
        assert time.monotonic() < until, "the run commits nothing"
        time.sleep(0.02)


def test_the_table_of_three_nodes_is_that_of_one_process(cluster: Cluster, tmp_path: Path) -> None:
    add(cluster, 3)
    signed = tmp_path / "signed"
    signed.mkdir()
    notes = Notes()
    outcome = run_study(signing_study(signed, 0.25), str(tmp_path / "run"), address=cluster.address, monitor=notes)
    frame = outcome.frame
    assert frame[TOLD].equals(expected(tmp_path).frame[TOLD])
    assert len(list(signed.iterdir())) == 3
    assert not frame.mixed.any()
    assert outcome.counts.failed == 0
    assert notes.notes == []
    assert not list((tmp_path / "run" / "lease").iterdir())


def test_each_node_holds_the_data_once(cluster: Cluster, tmp_path: Path) -> None:
    nodes = add(cluster, 2, cpus=2)
    ray.init(address=cluster.address, log_to_driver=False)
    study = parse_study(small_table())
    _, dataset = load_everywhere(study, Workspace.of(study, str(tmp_path)))

    def place(shared: list[Any], seconds: float) -> tuple[str, bool, int]:
        """The memory that a worker reads the images from: mapping, whether it may write, and the worker."""
        images = ray.get(shared[0]).train
        address = images.__array_interface__["data"][0]
        for line in Path("/proc/self/maps").read_text().splitlines():
            span, kind, *_, file, name = [*line.split()[:2], line.split()[4], " ".join(line.split()[5:])]
            low, high = (int(end, 16) for end in span.split("-"))
            if low <= address < high:
                time.sleep(seconds)  # so that two workers look at the same time
                return f"{kind} {file} {name}", images.flags.writeable, os.getpid()
        raise AssertionError

    look: Any = ray.remote(num_cpus=1)(place)
    seen = {
        node.node_id: ray.get(
            [
                look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)).remote(
                    [dataset], 3.0
                )
                for _ in range(2)
            ]
        )
        for node in nodes
    }
    for (one, writes, who), (other, _, another) in seen.values():
        assert who != another
        assert one == other
        assert not writes
        assert "s " in one[:5]  # a shared mapping, not memory of the worker's own
    assert len({worker[0] for workers in seen.values() for worker in workers}) == 2


def test_a_node_that_joins_late_is_used(cluster: Cluster, tmp_path: Path) -> None:
    add(cluster)
    signed, run = tmp_path / "signed", tmp_path / "run"
    signed.mkdir()

    with running(cluster, signing_study(signed, 0.25, cycles=4), run, Notes()) as ends:
        wait_for(run, 3)
        add(cluster, 2)
        outcome = ends()
    assert len(list(signed.iterdir())) == 3
    assert outcome.frame[TOLD].equals(expected(tmp_path, cycles=4).frame[TOLD])


def test_the_first_node_may_come_after_the_driver(cluster: Cluster, tmp_path: Path) -> None:
    notes = Notes()
    with running(cluster, parse_study(small_table()), tmp_path / "run", notes) as ends:
        until = time.monotonic() + 60
        while not notes.notes:
            assert time.monotonic() < until, "nobody says that a node is waited for"
            time.sleep(0.05)
        add(cluster)
        outcome = ends()
    assert outcome.counts.failed == 0
    assert notes.notes[0].startswith("waiting for a node on which a trial fits: it wants 1 CPU, the cluster has 1 node")


def test_a_node_that_dies_with_the_data_on_it_costs_nothing_that_was_committed(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Its raylet is killed; its workers are orphans, and may go on writing."""
    first, *_ = add(cluster)  # the data is loaded on the first node that fits
    signed, run = tmp_path / "signed", tmp_path / "run"
    signed.mkdir()
    notes = Notes()
    with running(cluster, signing_study(signed, 0.25, cycles=4), run, notes) as ends:
        wait_for(run, 2)
        add(cluster, 2)
        wait_for(run, 6)
        kept = committed(run)
        (raylet,) = (info.process.pid for info in first.all_processes["raylet"])
        os.kill(raylet, signal.SIGKILL)
        outcome = ends()
    assert outcome.frame[TOLD].equals(expected(tmp_path, cycles=4).frame[TOLD])
    assert outcome.counts.failed == 0
    assert {key: at for key, at in committed(run).items() if key in kept} == kept
    assert any("node died" in note and "resumes elsewhere" in note for note in notes.notes), notes.notes


def test_a_node_that_does_not_see_the_run_is_named(cluster: Cluster, tmp_path: Path) -> None:
    add(cluster)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    blind = f"mount -t tmpfs none {hidden} && exec ray start --address={cluster.address} --num-cpus=1 --block"
    if subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0:
        pytest.skip("no mount namespaces here")
    ray_folder = str(Path(sys.executable).parent)
    node = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", blind],
        env={**os.environ, "PATH": f"{ray_folder}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 60
        ray.init(address=cluster.address, log_to_driver=False)
        while sum(node["Alive"] for node in ray.nodes()) < 3:
            assert time.monotonic() < until, "the node does not come"
            time.sleep(0.2)
        with pytest.raises(
            BadInput, match=r"is not seen on .* \(node .*\); put it where every node sees it, with --out"
        ):
            run_study(parse_study(small_table()), str(hidden / "run"), runner=RayRunner())
        seen = run_study(parse_study(small_table()), str(tmp_path / "seen"), runner=RayRunner())
        assert_same_table(seen.frame, load_run(str(tmp_path / "seen"))[0])
    finally:
        os.killpg(node.pid, signal.SIGTERM)
        node.wait(30)
