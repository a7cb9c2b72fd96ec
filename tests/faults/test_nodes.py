"""Machines leave and join a cluster of several raylets while slides are in work."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster
from support.compare_runs import Watcher, assert_equal_runs
from support.fault_jobs import by_value, counts_of, settings
from support.recording_display import RecordingDisplay
from support.waiting import wait_for

from fossilray.core.config import RunConfig
from fossilray.core.records import Outcome, WorkItem
from fossilray.jobs.process import run_job
from fossilray.jobs.run_items import JobResult
from fossilray.processing.worker import SlideWorker
from fossilray.store import RunStore

pytestmark = pytest.mark.faults


class TracedWorker(SlideWorker):
    """The real worker, slowed down; leaves a file named after the slide and the node that had it."""

    def __init__(self, store_url: str, config: RunConfig, *, marks: Path, pause_s: float) -> None:
        super().__init__(store_url, config)
        self._marks, self._pause_s = marks, pause_s

    def process(self, item: WorkItem, upcoming: WorkItem | None = None) -> Outcome:
        (self._marks / f"{item.key}.{ray.get_runtime_context().get_node_id()}").touch()
        time.sleep(self._pause_s)
        return super().process(item, upcoming)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head that does no work."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20, "include_dashboard": False},
    )
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.slow
def test_slides_of_a_lost_machine_are_done_elsewhere(
    cluster: Cluster, some_slides: Path, embedded_run: RunStore, tmp_path: Path
) -> None:
    nodes = [add_node(cluster), add_node(cluster)]
    job = Job(cluster, some_slides, tmp_path, embedded_run, pause_s=0.5)
    with job:
        # The first slide of the second machine is in work when it goes.
        wait_for(lambda: job.slides_of(nodes[1]))
        lost = job.slides_of(nodes[1])
        cluster.remove_node(nodes[1], allow_graceful=False)
    assert job.result.tally.failed == 0
    assert job.result.tally.retried >= 1
    assert lost <= job.store.committed()
    assert_equal_runs(job.store, embedded_run)
    failures = job.store.attempts.failures(include_cleared=True)
    assert {failure.error for failure in failures} <= {
        "NodeDied",
        "WorkerDied",
    }


@pytest.mark.slow
def test_a_machine_that_joins_takes_work(
    cluster: Cluster, some_slides: Path, embedded_run: RunStore, tmp_path: Path
) -> None:
    first = add_node(cluster)
    job = Job(cluster, some_slides, tmp_path, embedded_run, pause_s=4.0)
    with job:
        wait_for(lambda: job.slides_of(first))
        second = add_node(cluster)
    assert job.slides_of(second)
    assert job.result.tally.committed == len(counts_of(embedded_run))
    assert_equal_runs(job.store, embedded_run)


@pytest.mark.slow
def test_a_machine_that_is_to_go_ends_its_slide_and_gets_no_other(
    cluster: Cluster, some_slides: Path, embedded_run: RunStore, tmp_path: Path
) -> None:
    nodes = [add_node(cluster), add_node(cluster)]
    job = Job(cluster, some_slides, tmp_path, embedded_run, pause_s=4.0)
    with job:
        wait_for(lambda: job.slides_of(nodes[0]) and job.slides_of(nodes[1]))
        in_progress = job.slides_of(nodes[1])
        drain(cluster, nodes[1])
    assert job.slides_of(nodes[1]) == in_progress
    assert job.result.tally.committed == len(counts_of(embedded_run))
    assert job.result.tally.retried == job.result.tally.failed == 0
    assert_equal_runs(job.store, embedded_run)


class Job:
    """A job on a cluster, run in a thread so that the test may meddle with the machines meanwhile."""

    def __init__(
        self, cluster: Cluster, slides: Path, folder: Path, sound: RunStore, *, pause_s: float
    ) -> None:
        self.result: JobResult
        self.store = RunStore.open(str(folder / "run"))
        self._marks = folder / "marks"
        self._marks.mkdir()
        self._slides, self._address, self._pause_s = slides, cluster.address, pause_s
        self._watcher = Watcher(self.store, objects=counts_of(sound))
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Job:
        self._watcher.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.join(timeout=240)
        self._watcher.__exit__(None, None, None)

    def slides_of(self, node: object) -> set[str]:
        """The slides that a node has processed or processes."""
        names = [path.name.split(".") for path in self._marks.iterdir()]
        return {slide_id for slide_id, node_id in names if node_id == node.node_id}  # type: ignore[attr-defined]

    def _run(self) -> None:
        with by_value():
            self.result = run_job(
                str(self._slides),
                self.store.url,
                settings("workers.count=2", "workers.cpus_per_worker=0.9"),
                address=self._address,
                display=RecordingDisplay(),
                make_worker=functools.partial(TracedWorker, marks=self._marks, pause_s=self._pause_s),
            )


def add_node(cluster: Cluster) -> object:
    return cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)


def drain(cluster: Cluster, node: object) -> None:
    """Drain a node as a pod's preStop hook does when the machine is taken away."""
    ray_command = Path(sys.executable).with_name("ray")
    command = [ray_command, "drain-node", "--address", cluster.address, "--node-id", node.node_id]  # type: ignore[attr-defined]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    subprocess.run([*command, "--deadline-remaining-seconds", "300"], check=True, capture_output=True)
