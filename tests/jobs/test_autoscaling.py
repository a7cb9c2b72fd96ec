"""A cluster that grows for a job and shrinks after it, by Ray's own autoscaler over a fake provider of machines.

Minutes each: `python -m pytest -m slow tests/jobs/test_autoscaling.py -s` also prints when nodes came and went.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from support.autoscaled_cluster import IDLE_S, AutoscaledCluster
from support.idle_worker import RestingWorker, gpus_seen, nodes_used, resting_by_value
from support.recording_display import RecordingDisplay
from support.run_fixtures import a_run
from support.waiting import wait_for

from fossilray.core.config import RunConfig, WorkersConfig
from fossilray.core.errors import WorkerError
from fossilray.core.records import WorkItem
from fossilray.jobs.journal import DriverJournal
from fossilray.jobs.progress import Tally
from fossilray.jobs.scheduler import run_items
from fossilray.jobs.scheduler.pending_workers import MIN_WAVE
from fossilray.store import RunStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
GPU_NODE = {"gpu": {"CPU": 2.0, "GPU": 1.0}}
VERSIONS = pytest.mark.parametrize("v2", [False, True], ids=["autoscaler v1", "autoscaler v2"])


@VERSIONS
def test_a_job_grows_a_cluster_from_no_gpu_to_three_and_leaves_none(tmp_path: Path, v2: bool) -> None:
    workers = WorkersConfig(device="cuda", count=9, patience_minutes=4)
    with AutoscaledCluster(GPU_NODE, most=3, v2=v2) as cluster, connected(cluster), Gauge(cluster) as gauge:
        assert gauge.nodes() == set()
        tally, messages = drive(workers, tmp_path, slides=60, pause_s=1.0)
        gauge.note("the job ended")
        assert (tally.committed, tally.failed, tally.retried) == (60, 0, 0)
        wait_for(lambda: not gauge.nodes(), 90 + IDLE_S)
        gauge.note("no node is left")
    assert gauge.most_nodes == 3
    assert len(nodes_used(tmp_path / "marks")) == 3
    assert set(gpus_seen(tmp_path / "marks")) == {"0"}
    # One wave of workers waits for machines, whatever the number of workers.
    assert 0 < gauge.most_waiting <= MIN_WAVE
    assert all("each requests 0.9 CPU, 1 GPU" in line for line in messages)


@VERSIONS
def test_a_machine_that_is_lost_is_replaced_and_its_slide_is_done(tmp_path: Path, v2: bool) -> None:
    workers = WorkersConfig(device="cuda", count=2, patience_minutes=4)
    marks = tmp_path / "marks"
    before: set[str] = set()

    def lose_one() -> None:
        wait_for(lambda: marks.exists() and len(nodes_used(marks)) == 2, 240)
        before.update(nodes_used(marks))
        cluster.kill_node(min(before))
        gauge.note("a node was killed")

    with AutoscaledCluster(GPU_NODE, most=2, v2=v2) as cluster, connected(cluster), Gauge(cluster) as gauge:
        thief = threading.Thread(target=lose_one)
        thief.start()
        tally, _ = drive(workers, tmp_path, slides=40, pause_s=4.0)
        thief.join()
        gauge.note("the job ended")
    assert (tally.committed, tally.failed, tally.retried) == (40, 0, 1)
    assert len(list(marks.glob("*.slide"))) == 40
    assert nodes_used(marks) - before
    (failure,) = RunStore.open(str(tmp_path / "run")).attempts.failures(include_cleared=True)
    assert failure.error in ("NodeDied", "WorkerDied")


@VERSIONS
def test_a_request_that_no_type_of_node_meets_is_reported_and_ends_the_job(tmp_path: Path, v2: bool) -> None:
    workers = WorkersConfig(device="cuda", gpus_per_worker=8, patience_minutes=0.25)
    messages: list[str] = []
    with AutoscaledCluster(GPU_NODE, most=3, v2=v2) as cluster, connected(cluster), Gauge(cluster) as gauge:
        with pytest.raises(WorkerError) as caught:
            drive(workers, tmp_path, slides=5, pause_s=0.1, messages=messages)
        assert gauge.most_nodes == 0
    message = str(caught.value)
    assert "each requests 0.9 CPU, 8 GPU; none of the cluster's 1 machines has that" in message
    assert len(messages) == 1
    if v2:
        assert "it may start no machine that has the requested resources" in message


class Gauge:
    """Watches, beside a job, how many nodes a cluster has and how many actors wait for one."""

    def __init__(self, cluster: AutoscaledCluster) -> None:
        self.most_nodes = self.most_waiting = 0
        self._address = cluster.address
        self._began_s = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Gauge:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def nodes(self) -> set[str]:
        return {node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")}

    def note(self, what: str) -> None:
        print(f"{time.monotonic() - self._began_s:6.1f} s: {what}", flush=True)

    def _watch(self) -> None:
        count = 0
        while not self._stop.wait(0.25):
            if (now := len(self.nodes())) != count:
                count = now
                self.note(f"{now} nodes with a GPU")
            self.most_nodes = max(self.most_nodes, now)
            demands = get_cluster_status(self._address).resource_demands.ray_task_actor_demand
            waiting = sum(bundle.count for demand in demands for bundle in demand.bundles_by_count)
            self.most_waiting = max(self.most_waiting, waiting)


@contextlib.contextmanager
def connected(cluster: AutoscaledCluster) -> Iterator[None]:
    """A connection of this process to a cluster."""
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def drive(
    workers: WorkersConfig, tmp_path: Path, *, slides: int, pause_s: float, messages: list[str] | None = None
) -> tuple[Tally, list[str]]:
    """A job of slides that take `pause_s` each; its tally and messages."""
    (tmp_path / "marks").mkdir()
    store = RunStore.open(str(tmp_path / "run"))
    store.create_or_check(a_run())
    display: Any = RecordingDisplay()
    display.messages = messages if messages is not None else display.messages
    with resting_by_value():
        tally = run_items(
            [WorkItem(f"slide-{n:03d}", source=f"/slide-{n:03d}.mrxs") for n in range(slides)],
            functools.partial(RestingWorker, tmp_path / "marks", pause_s),
            config=RunConfig(workers=workers),
            journal=DriverJournal(store.attempts, run=store),
            tally=Tally(total=slides),
            display=display,
        )
    return tally, display.messages
