"""Metrics of a job for Prometheus, through Ray's own metrics: each machine's agent serves them, nothing is sent.

Ray prefixes every name with `ray_`, appends `_total` to counters, and adds labels for machine and process.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ray.util import metrics

from fossilray.core.records import Outcome, SlideSummary
from fossilray.core.worker import WorkerStatus
from fossilray.jobs.progress import Tally

STAGES = ("fetch", "open", "detect", "merge", "crops", "embed", "write", "total")
GAUGES_EVERY_S = 5.0
"""Ray exports every 10 s; gauges that are set more often change nothing."""
_SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0]
"""Bounds of a stage's histogram, 0.1 s to an hour."""


@dataclass(frozen=True)
class Metric:
    """One metric under the name that this code uses."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    labels: tuple[str, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """Names of its series in Prometheus."""
        exported = f"ray_{self.name}"
        if self.kind == "counter":
            return (f"{exported}_total",)
        if self.kind == "histogram":
            return (f"{exported}_bucket", f"{exported}_sum", f"{exported}_count")
        return (exported,)


DRIVER = (
    Metric("fossilray_slides_committed", "counter", "Slides committed by this driver."),
    Metric("fossilray_slides_failed", "counter", "Slides given up by this driver.", ("error",)),
    Metric("fossilray_slides_quarantined", "counter", "Slides quarantined by this driver.", ("error",)),
    Metric("fossilray_slides_retried", "counter", "Tries that ended without a commit and are repeated."),
    Metric("fossilray_workers_lost", "counter", "Workers that died, hung or were killed.", ("error",)),
    Metric("fossilray_objects", "counter", "Objects of the slides committed."),
    Metric("fossilray_scanned_mm2", "counter", "Scanned area of the slides committed."),
    Metric("fossilray_tiles_wanted", "counter", "Tiles that were not background."),
    Metric("fossilray_tiles_lost", "counter", "Tiles that could not be read."),
    Metric("fossilray_array_bytes", "counter", "Bytes of crops and vectors of the slides committed."),
    Metric("fossilray_gpu_seconds_held", "counter", "GPU seconds that workers held, busy or idle."),
    Metric("fossilray_core_seconds_held", "counter", "Core seconds that workers held, busy or idle."),
    Metric("fossilray_stage_time_seconds", "counter", "Seconds of committed slides by stage.", ("stage",)),
    # Ray 2.60 exports the middles of buckets, so a histogram's own sum is a rough one: means come from the counter.
    Metric("fossilray_stage_seconds", "histogram", "Duration of the stages of a slide.", ("stage",)),
    Metric(
        "fossilray_slides_asked", "gauge", "Slides of this driver's job, including those committed before."
    ),
    Metric("fossilray_slides_finished", "gauge", "Slides of the job that are committed or failed for good."),
    Metric("fossilray_slides_in_flight", "gauge", "Slides that workers are processing."),
    Metric("fossilray_slides", "gauge", "Slides, and rejected files, by state.", ("state",)),
    Metric("fossilray_workers", "gauge", "Workers that are idle or busy."),
    Metric("fossilray_workers_in_stage", "gauge", "Busy workers by stage.", ("stage",)),
    Metric("fossilray_last_commit_timestamp_seconds", "gauge", "Time of the last commit."),
)
"""Metrics of the driver. Times of the stage `embed` are part of those of `crops`."""
WORKER = (
    Metric("fossilray_slide_seconds", "counter", "Seconds in which the worker processed a slide."),
    Metric("fossilray_network_seconds", "counter", "Seconds of processing with a batch in a network."),
    Metric("fossilray_read_bytes", "counter", "Bytes that the worker read from files."),
    Metric("fossilray_fetched_bytes", "counter", "Bytes of slides fetched from an object store."),
    Metric("fossilray_waiting_reads", "gauge", "Windows or groups of crops that wait for a reading thread."),
    Metric("fossilray_waiting_batches", "gauge", "Batches that wait for a network."),
    Metric("fossilray_resident_bytes", "gauge", "Memory of the worker's process."),
)
"""Metrics of each worker, exported by its machine."""
_CLASSES: dict[str, Any] = {"counter": metrics.Counter, "gauge": metrics.Gauge}


class DriverMetrics:
    """The driver's metrics. run: URL of the run, a label of every metric."""

    def __init__(self, run: str) -> None:
        self._metrics = _MetricSet(DRIVER, run)
        self._exported_s = -GAUGES_EVERY_S
        self._last_commit_s = time.time()
        self._stages: set[str] = set()

    def record_commit(self, summary: SlideSummary | None) -> None:
        """Record a committed slide. summary: None where another driver committed it."""
        self._last_commit_s = time.time()
        if summary is None:
            return
        self._metrics.add("fossilray_scanned_mm2", summary.scanned_mm2)
        self._metrics.add("fossilray_tiles_wanted", summary.tiles_planned - summary.tiles_blank)
        self._metrics.add("fossilray_tiles_lost", summary.tiles_failed)
        self._metrics.add("fossilray_array_bytes", summary.array_bytes)
        for stage in STAGES:
            seconds: float = getattr(summary, f"seconds_{stage}")
            self._metrics.add("fossilray_stage_time_seconds", seconds, stage=stage)
            self._metrics.observe("fossilray_stage_seconds", seconds, stage=stage)

    def record_failure(self, error: str, *, quarantined: bool) -> None:
        """Record a slide that was given up for an error of this class."""
        self._metrics.add("fossilray_slides_failed", 1, error=error)
        if quarantined:
            self._metrics.add("fossilray_slides_quarantined", 1, error=error)

    def record_lost_worker(self, error: str) -> None:
        """Record a lost worker. error: a key of LOSS_WEIGHTS of the journal."""
        self._metrics.add("fossilray_workers_lost", 1, error=error)

    def update(self, tally: Tally, states: Mapping[str, WorkerStatus]) -> None:
        """Export the tally; may be called at any rate."""
        self._metrics.set_total("fossilray_slides_committed", tally.committed)
        self._metrics.set_total("fossilray_slides_retried", tally.retried)
        self._metrics.set_total("fossilray_objects", tally.objects)
        if time.monotonic() - self._exported_s < GAUGES_EVERY_S and tally.finished < tally.total:
            return
        self._exported_s = time.monotonic()
        self._metrics.set_total("fossilray_gpu_seconds_held", tally.gpu_hours * 3600)
        self._metrics.set_total("fossilray_core_seconds_held", tally.core_hours * 3600)
        self._metrics.set("fossilray_slides_asked", tally.total)
        self._metrics.set("fossilray_slides_finished", tally.finished)
        self._metrics.set("fossilray_slides_in_flight", tally.in_progress)
        for state, count in asdict(tally.counts).items():
            if state != "total":
                self._metrics.set("fossilray_slides", count, state=state)
        self._metrics.set("fossilray_workers", tally.workers)
        self._metrics.set("fossilray_last_commit_timestamp_seconds", self._last_commit_s)
        for stage, count in self._by_stage(states):
            self._metrics.set("fossilray_workers_in_stage", count, stage=stage)

    def _by_stage(self, states: Mapping[str, WorkerStatus]) -> Iterator[tuple[str, int]]:
        """Workers per stage; stages without a worker count 0, or their last count would stay."""
        now = [state.stage for state in states.values()]
        self._stages.update(now)
        return ((stage, now.count(stage)) for stage in sorted(self._stages))


class WorkerMetrics:
    """The metrics of one worker, in its own process."""

    def __init__(self, run: str) -> None:
        self._metrics = _MetricSet(WORKER, run)

    def update(self, state: WorkerStatus | None) -> None:
        """Export the status that the driver has requested; None: the worker is idle."""
        self._metrics.set("fossilray_waiting_reads", state.waiting_reads if state else 0)
        self._metrics.set("fossilray_waiting_batches", state.waiting_batches if state else 0)
        if state is not None:
            self._metrics.set("fossilray_resident_bytes", state.resident_bytes)

    def record_outcome(self, outcome: Outcome) -> None:
        """Record the end of an attempt."""
        self.update(None)
        usage = outcome.usage
        if usage is not None:
            self._metrics.add("fossilray_slide_seconds", usage.seconds)
            self._metrics.add("fossilray_network_seconds", usage.network_busy_s)
            self._metrics.add("fossilray_read_bytes", usage.read_bytes)
            self._metrics.add("fossilray_fetched_bytes", usage.fetched_bytes)


class _MetricSet:
    """Ray's metric objects, each with the label `run`."""

    def __init__(self, specifications: tuple[Metric, ...], run: str) -> None:
        self._by_name = {
            metric.name: _make(metric).set_default_tags({"run": run}) for metric in specifications
        }
        self._sums: dict[str, float] = {}

    def add(self, name: str, amount: float, **labels: str) -> None:
        if amount > 0:
            self._by_name[name].inc(amount, labels)

    def set_total(self, name: str, total: float) -> None:
        """Raise a counter to a total."""
        self.add(name, total - self._sums.get(name, 0.0))
        self._sums[name] = total

    def set(self, name: str, value: float, **labels: str) -> None:
        self._by_name[name].set(value, labels)

    def observe(self, name: str, value: float, **labels: str) -> None:
        self._by_name[name].observe(value, labels)


def _make(metric: Metric) -> Any:
    labels = ("run", *metric.labels)
    if metric.kind == "histogram":
        return metrics.Histogram(metric.name, metric.description, boundaries=_SECONDS, tag_keys=labels)
    return _CLASSES[metric.kind](metric.name, metric.description, tag_keys=labels)
