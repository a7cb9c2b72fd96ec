"""Metrics of a job, scraped as Prometheus does: over HTTP, from Ray's own endpoint."""

from __future__ import annotations

import functools
import os
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from ray import cloudpickle
from support import run_fixtures
from support.metric_names import exported_names
from support.recording_display import RecordingDisplay

from fossilray.core.config import RunConfig, WatchConfig, WorkersConfig
from fossilray.core.records import Outcome, ResourceUsage, WorkItem
from fossilray.core.worker import WorkerStatus
from fossilray.jobs.journal import DriverJournal
from fossilray.jobs.progress import Tally
from fossilray.jobs.scheduler import run_items
from fossilray.jobs.scheduler.metrics import DRIVER, STAGES, WORKER
from fossilray.store import RunStore

CONFIG = RunConfig(
    workers=WorkersConfig(count=1, cpus_per_worker=0.5, max_deaths=1), watch=WatchConfig(alarm_minutes=0.01)
)
SECONDS = {"detect": 1.5, "crops": 0.4, "total": 2.6}
"""Some of those of a made-up summary."""


class CountedWorker:
    """Commits a slide of n objects for the name n-…; fails `unreadable`, dies of `kills`."""

    def __init__(self) -> None:
        self._state: WorkerStatus | None = None

    def prepare(self) -> str:
        return f"fake/{os.getpid()}/cuda"

    def process(self, item: WorkItem, upcoming: WorkItem | None = None) -> Outcome:
        self._state = WorkerStatus(
            item.key, "detect", 0.5, resident_bytes=10**9, waiting_reads=3, waiting_batches=2
        )
        time.sleep(1.2)  # long enough for a status request
        usage = ResourceUsage(seconds=4.0, network_busy_s=3.0, read_bytes=1000, fetched_bytes=500)
        if item.key == "kills":
            os._exit(1)
        if item.key == "unreadable":
            return Outcome(item.key, failure=run_fixtures.a_failure(item.key, "0" * 16), usage=usage)
        summary = run_fixtures.a_summary(item.key, "0" * 16, objects=int(item.key.split("-")[0]))
        return Outcome(item.key, summary=replace(summary, tiles_failed=1), usage=usage)

    def state(self) -> WorkerStatus | None:
        return self._state

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A private Ray with its metrics on a port of its own, exported twice a second."""
    # Workers cannot import modules of tests by name.
    carried = (sys.modules[__name__], run_fixtures)
    for module in carried:
        cloudpickle.register_pickle_by_value(module)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        _metrics_export_port=port,
        _system_config={"metrics_report_interval_ms": 500},
    )
    yield f"http://{ray.nodes()[0]['NodeManagerAddress']}:{port}/metrics"
    ray.shutdown()
    for module in carried:
        cloudpickle.unregister_pickle_by_value(module)


def test_the_figures_that_are_scraped_are_the_runs(endpoint: str, tmp_path: Path) -> None:
    store = RunStore.open(str(tmp_path / "run"))
    store.create_or_check(run_fixtures.a_run())
    names = ["3-a", "4-b", "unreadable", "kills"]
    began = time.time()
    display = RecordingDisplay()
    tally = run_items(
        [WorkItem(name, source=f"/{name}.mrxs") for name in names],
        functools.partial(CountedWorker),
        config=CONFIG,
        journal=DriverJournal(store.attempts, run=store),
        tally=Tally(total=len(names)),
        display=display,
    )
    assert (tally.committed, tally.failed, tally.objects) == (2, 2, 7)
    # Each slide takes twice as long as the alarm waits; of two commits each winds it up again.
    alarms = [
        line for line in display.messages if line.startswith("no slide was committed for watch.alarm_minutes")
    ]
    assert 1 <= len(alarms) <= 3
    samples = scraped(endpoint, until=("ray_fossilray_slides_finished", 4.0))
    run = store.url

    def figure(name: str, **labels: str) -> float:
        return sum(
            sample.value
            for sample in samples
            if sample.name == name and sample.labels.items() >= {"run": run, **labels}.items()
        )

    assert figure("ray_fossilray_slides_committed_total") == 2
    assert figure("ray_fossilray_objects_total") == 7
    assert figure("ray_fossilray_slides_failed_total", error="TooManyUnreadableTiles") == 1
    assert figure("ray_fossilray_slides_quarantined_total", error="WorkerDied") == 1
    assert figure("ray_fossilray_workers_lost_total", error="WorkerDied") == 1
    assert figure("ray_fossilray_tiles_wanted_total") == 2 * 3
    assert figure("ray_fossilray_tiles_lost_total") == 2
    assert figure("ray_fossilray_array_bytes_total") == 2 * 1234
    assert figure("ray_fossilray_slides_asked") == 4
    assert figure("ray_fossilray_core_seconds_held_total") == pytest.approx(tally.core_hours * 3600, rel=0.01)
    assert figure("ray_fossilray_gpu_seconds_held_total") == pytest.approx(tally.gpu_hours * 3600, rel=0.01)
    assert tally.gpu_hours == pytest.approx(2 * tally.core_hours)  # a whole GPU, half a core
    assert began < figure("ray_fossilray_last_commit_timestamp_seconds") < time.time()
    for stage, seconds in SECONDS.items():
        assert figure("ray_fossilray_stage_seconds_count", stage=stage) == 2
        assert figure("ray_fossilray_stage_time_seconds_total", stage=stage) == pytest.approx(2 * seconds)
    # Those of the worker that died are gone with it, at the latest after its last slide.
    assert figure("ray_fossilray_slide_seconds_total") == 3 * 4.0
    assert figure("ray_fossilray_network_seconds_total") == 3 * 3.0
    assert figure("ray_fossilray_read_bytes_total") == 3 * 1000
    assert figure("ray_fossilray_fetched_bytes_total") == 3 * 500
    assert {"ray_fossilray_waiting_reads", "ray_fossilray_waiting_batches"} <= {
        sample.name for sample in samples
    }
    found = {sample.name for sample in samples if sample.name.startswith("ray_fossilray")}
    assert found <= exported_names()
    # Nothing was retried, and a counter that was never raised is not exported; stages are seen now and then.
    assert exported_names() - found <= {
        "ray_fossilray_slides_retried_total",
        "ray_fossilray_workers_in_stage",
    }


def test_metrics_have_names_that_prometheus_takes_and_units_in_them() -> None:
    for metric in (*DRIVER, *WORKER):
        assert metric.name.startswith("fossilray_")
        assert metric.description.endswith(".")
        assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket"))
    assert len(exported_names()) == sum(len(metric.series) for metric in (*DRIVER, *WORKER))
    assert {f"seconds_{stage}" for stage in STAGES} <= set(
        run_fixtures.a_summary("a", "0").__dataclass_fields__
    )


def scraped(url: str, *, until: tuple[str, float]) -> list[Sample]:
    """What the endpoint serves once it serves that figure; Ray's processes export one after the other."""
    deadline = time.monotonic() + 60
    while True:
        with urllib.request.urlopen(url, timeout=10) as response:
            text = response.read().decode()
        samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
        if any((one.name, one.value) == until for one in samples) or time.monotonic() > deadline:
            return samples
        time.sleep(0.3)
