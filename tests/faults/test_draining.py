"""A machine is drained while its worker idles: the worker is released and gets no further slide."""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster
from support import run_fixtures
from support.recording_display import RecordingDisplay
from support.waiting import wait_for

from fossilray.core.config import RunConfig, WorkersConfig
from fossilray.core.records import Failure, Outcome, WorkItem, utc_now
from fossilray.core.worker import WorkerStatus
from fossilray.jobs.journal import DriverJournal
from fossilray.jobs.progress import Tally
from fossilray.jobs.scheduler import run_items
from fossilray.store import RunStore

pytestmark = pytest.mark.faults

PREEMPTION = 2
"""DRAIN_NODE_REASON_PREEMPTION of Ray's protocol."""


class NodeLogWorker:
    """Writes `<slide_id> <node>` for each try and `closed <node>` at its end.

    `held` takes until the file `go` exists; `flaky` fails at its first try.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._node = ray.get_runtime_context().get_node_id()

    def prepare(self) -> str:
        return f"fake/{self._node}"

    def process(self, item: WorkItem, upcoming: WorkItem | None = None) -> Outcome:
        is_first = not [line for line in tries(self._folder) if line[0] == item.key]
        self._log(item.key)
        while item.key == "held" and not (self._folder / "go").exists():
            time.sleep(0.05)
        if item.key == "flaky" and is_first:
            return Outcome(item.key, failure=transient_failure(item.key))
        return Outcome(item.key, summary=run_fixtures.a_summary(item.key, "0" * 16))

    def state(self) -> WorkerStatus | None:
        return None

    def close(self) -> None:
        self._log("closed")

    def _log(self, text: str) -> None:
        with (self._folder / "log").open("a") as log:
            log.write(f"{text} {self._node}\n")


@pytest.fixture
def two_nodes() -> Iterator[Cluster]:
    """Two raylets with one CPU each, and a connection to them."""
    carried = (sys.modules[__name__], run_fixtures)
    for module in carried:
        cloudpickle.register_pickle_by_value(module)
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(
        initialize_head=True, head_node_args={**node, "include_dashboard": False, "no_monitor": True}
    )
    cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    for module in carried:
        cloudpickle.unregister_pickle_by_value(module)


def test_an_idle_worker_on_a_draining_node_is_released_and_gets_no_further_slide(
    two_nodes: Cluster, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(1) as driver:
        job = driver.submit(run_two_slides, tmp_path)
        try:
            wait_for(lambda: {"held", "flaky"} <= {slide_id for slide_id, _ in tries(tmp_path)})
            (busy,) = (node for slide_id, node in tries(tmp_path) if slide_id == "held")
            (idle,) = (node for slide_id, node in tries(tmp_path) if slide_id == "flaky")
            assert busy != idle
            drain(two_nodes, idle)
            # `flaky` is due only in some seconds, and `held` is still in work.
            wait_for(lambda: ("closed", idle) in tries(tmp_path))
        finally:
            (tmp_path / "go").touch()
        tally = job.result(timeout=120)
    assert (tally.committed, tally.failed, tally.retried) == (2, 0, 1)
    log = tries(tmp_path)
    assert [node for slide_id, node in log if slide_id == "held"] == [busy], "no copy of it"
    assert [node for slide_id, node in log if slide_id == "flaky"] == [idle, busy]


def run_two_slides(folder: Path) -> Tally:
    store = RunStore.open(str(folder / "run"))
    store.create_or_check(run_fixtures.a_run())
    workers = WorkersConfig(count=2, cpus_per_worker=0.9, retry_after_s=10.0)
    return run_items(
        [WorkItem(name, source=f"/{name}.mrxs") for name in ("held", "flaky")],
        functools.partial(NodeLogWorker, folder),
        config=RunConfig(workers=workers),
        journal=DriverJournal(store.attempts, run=store),
        tally=Tally(total=2),
        display=RecordingDisplay(),
        stop=threading.Event(),
    )


def tries(folder: Path) -> list[tuple[str, str]]:
    """The lines of the log: a slide, or `closed`, and the node."""
    log = folder / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [(name, node) for name, node in (line.split() for line in lines)]


def drain(cluster: Cluster, node_id: str) -> None:
    """Announce to Ray that a node goes in five minutes, as a spot machine's notice does."""
    deadline_ms = int((time.time() + 300) * 1000)
    client = ray._raylet.GcsClient(address=cluster.address)
    is_accepted, reason = client.drain_node(node_id, PREEMPTION, "spot", deadline_ms)
    assert is_accepted, reason


def transient_failure(slide_id: str) -> Failure:
    return Failure(slide_id, "0" * 16, "detect", "UnreadableRegion", "no pixels", True, False, "h", utc_now())
