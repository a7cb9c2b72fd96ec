"""Resource requests of workers, their placement, and the messages where no machine has the resources."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from support.idle_worker import RestingWorker, gpus_seen, nodes_used, resting_by_value
from support.recording_display import RecordingDisplay
from support.run_fixtures import a_run

from fossilray.core.config import RunConfig, WorkersConfig, load_config
from fossilray.core.errors import ConfigError, WorkerError
from fossilray.core.records import WorkItem
from fossilray.jobs.journal import DriverJournal
from fossilray.jobs.progress import Tally
from fossilray.jobs.scheduler import run_items, workers_that_fit
from fossilray.jobs.scheduler.resources import ResourceRequest, describe_capacity, resources_for
from fossilray.store import RunStore

BYTES = 80 * 2**20
L4 = {"CPU": 16.0, "GPU": 2.0, "memory": 64e9, "accelerator_type:L4": 1.0, "node:10.0.0.1": 1.0}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head that does no work, and two machines with a GPU each, in Ray's books at least."""
    head = {"num_cpus": 0, "num_gpus": 0, "object_store_memory": BYTES}
    head |= {"include_dashboard": False, "no_monitor": True}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=2, num_gpus=1, resources={"scratch": 1}, object_store_memory=BYTES)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    with resting_by_value():
        yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


def test_a_machine_holds_as_many_workers_as_its_scarcest_resource() -> None:
    assert ResourceRequest(cpus=4, gpus=1).fits(L4) == 2
    assert ResourceRequest(cpus=4, gpus=0.5).fits(L4) == 4
    assert ResourceRequest(cpus=6, gpus=0.5).fits(L4) == 2
    assert ResourceRequest(cpus=1, gpus=0.4).fits(L4) == 4
    assert ResourceRequest(cpus=1, gpus=4).fits(L4) == 0
    assert ResourceRequest(cpus=1, gpus=0).fits(L4) == 16
    assert ResourceRequest(cpus=1, gpus=1, accelerator="L4").fits(L4) == 2
    assert ResourceRequest(cpus=1, gpus=1, accelerator="A10G").fits(L4) == 0
    assert ResourceRequest(cpus=1, gpus=1, resources={"scratch": 1}).fits(L4) == 0


def test_a_gpu_is_requested_when_the_configuration_or_the_cluster_has_one() -> None:
    assert resources_for(WorkersConfig(), gpus_seen=False).gpus == 0
    assert resources_for(WorkersConfig(), gpus_seen=True).gpus == 1
    assert resources_for(WorkersConfig(device="cuda", gpus_per_worker=0.5), gpus_seen=False).gpus == 0.5
    assert resources_for(WorkersConfig(device="cpu"), gpus_seen=True).gpus == 0


def test_demands_and_offers_read_as_a_list() -> None:
    demand = ResourceRequest(cpus=4, gpus=0.5, accelerator="A10G", resources={"scratch": 1})
    assert str(demand) == "4 CPU, 0.5 GPU of type A10G, 1 scratch"
    assert describe_capacity([{"CPU": 8.0, "scratch": 2.0}, L4]) == "16 CPU, 2 GPU (L4), 2 scratch"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("workers.gpus_per_worker=1.5", "a share of one GPU"),
        ("workers.resources={GPU: 1}", "gpus_per_worker"),
        ("workers.resources={scratch: 1.5}", "a whole number"),
        ("workers.resources={scratch: 0}", "a whole number"),
    ],
)
def test_what_ray_cannot_reserve_is_refused_before_it_is_requested(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, [assignment])


def test_workers_share_gpus_and_see_their_own_alone(cluster: Cluster, marks: Path, tmp_path: Path) -> None:
    workers = WorkersConfig(gpus_per_worker=0.5, cpus_per_worker=0.4)
    assert workers_that_fit(workers) == 4
    tally, _ = drive(workers, marks, tmp_path, slides=12, together=4)
    assert tally.committed == 12
    assert gpus_seen(marks) == ["0"] * 4
    assert len(nodes_used(marks)) == 2


def test_workers_of_the_cpu_see_no_gpu(cluster: Cluster, marks: Path, tmp_path: Path) -> None:
    drive(WorkersConfig(device="cpu", count=2, cpus_per_worker=0.4), marks, tmp_path, slides=4)
    assert set(gpus_seen(marks)) == {""}


def test_few_workers_are_spread_over_the_machines(cluster: Cluster, marks: Path, tmp_path: Path) -> None:
    workers = WorkersConfig(count=2, gpus_per_worker=0.1, cpus_per_worker=0.1)
    drive(workers, marks, tmp_path, slides=6, together=2)
    assert len(nodes_used(marks)) == 2


@pytest.mark.slow
def test_workers_without_a_machine_are_reported_while_others_work(
    cluster: Cluster, marks: Path, tmp_path: Path
) -> None:
    workers = WorkersConfig(
        count=3, cpus_per_worker=0.4, gpus_per_worker=0.1, resources={"scratch": 1}, patience_minutes=0.05
    )
    tally, messages = drive(workers, marks, tmp_path, slides=14, pause_s=1.0)
    assert tally.committed == 14
    assert (
        "1 worker waits for a machine: each requests 0.4 CPU, 0.1 GPU, 1 scratch; 2 of the cluster's 3 machines have "
        "that and are taken; no autoscaler is starting any; the job continues with 2"
    ) in messages


def test_a_job_without_any_machine_states_its_request_and_ends(
    cluster: Cluster, marks: Path, tmp_path: Path
) -> None:
    workers = WorkersConfig(resources={"unobtainium": 1}, patience_minutes=0.05)
    messages: list[str] = []
    with pytest.raises(WorkerError) as caught:
        drive(workers, marks, tmp_path, slides=4, messages=messages)
    message = str(caught.value)
    assert "workers.patience_minutes = 0.05: each requests 0.9 CPU, 1 GPU, 1 unobtainium" in message
    assert "none of the cluster's 3 machines has that (the most there is: 2 CPU, 1 GPU, 1 scratch)" in message
    assert len(messages) == 1
    assert "the job stops in" in messages[0]


def drive(
    workers: WorkersConfig,
    marks: Path,
    tmp_path: Path,
    *,
    slides: int,
    pause_s: float = 0.1,
    together: int = 1,
    messages: list[str] | None = None,
) -> tuple[Tally, list[str]]:
    """A job of this number of slides; its tally and messages."""
    store = RunStore.open(str(tmp_path / "run"))
    store.create_or_check(a_run())
    display: Any = RecordingDisplay()
    display.messages = messages if messages is not None else display.messages
    tally = run_items(
        [WorkItem(f"slide-{n:03d}", source=f"/slide-{n:03d}.mrxs") for n in range(slides)],
        functools.partial(RestingWorker, marks, pause_s, together),
        config=RunConfig(workers=workers),
        journal=DriverJournal(store.attempts, run=store),
        tally=Tally(total=slides),
        display=display,
    )
    return tally, display.messages
