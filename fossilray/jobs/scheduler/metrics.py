"""What Prometheus may ask of a job, through Ray's own metrics: each machine's agent serves them, nothing is sent.

Ray puts `ray_` before every name, `_total` behind those of counters, and labels for machine and process beside ours.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ray.util import metrics

from fossilray.core.records import Outcome, SlideSummary, WorkerStatus
from fossilray.jobs.progress import Tally

STAGES = ("fetch", "open", "detect", "merge", "crops", "embed", "write", "total")
GAUGES_EVERY_S = 5.0
"""Ray exports every 10 s; gauges need not be set more often than that is worth."""
_SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0]
"""Bounds of a stage's histogram: 0.1 s for what is trivial, an hour for what is not."""


@dataclass(frozen=True)
class Metric:
    """One figure, as our code names it."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    says: str
    labels: tuple[str, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which Prometheus knows it."""
        exported = f"ray_{self.name}"
        if self.kind == "counter":
            return (f"{exported}_total",)
        if self.kind == "histogram":
            return (f"{exported}_bucket", f"{exported}_sum", f"{exported}_count")
        return (exported,)


DRIVER = (
    Metric("fossilray_slides_committed", "counter", "Slides committed by this driver."),
    Metric("fossilray_slides_failed", "counter", "Slides given up by this driver.", ("error",)),
    Metric("fossilray_slides_quarantined", "counter", "Of those, not to be tried again.", ("error",)),
    Metric("fossilray_slides_retried", "counter", "Tries that ended without a commit and are repeated."),
    Metric("fossilray_workers_lost", "counter", "Workers that died, hung or were killed.", ("error",)),
    Metric("fossilray_objects", "counter", "Objects of the slides committed."),
    Metric("fossilray_scanned_mm2", "counter", "Scanned area of the slides committed."),
    Metric("fossilray_tiles_wanted", "counter", "Tiles that were not blank."),
    Metric("fossilray_tiles_lost", "counter", "Of those, unreadable."),
    Metric("fossilray_array_bytes", "counter", "Bytes of crops and vectors of the slides committed."),
    Metric("fossilray_gpu_seconds_held", "counter", "GPU seconds that workers held, idle ones too."),
    Metric("fossilray_core_seconds_held", "counter", "Core seconds that workers held, idle ones too."),
    Metric("fossilray_stage_time_seconds", "counter", "Seconds of committed slides by stage.", ("stage",)),
    # Ray 2.60 hands on the middles of buckets, so a histogram's own sum is a rough one: means come from the counter.
    Metric("fossilray_stage_seconds", "histogram", "How long the stages of a slide took.", ("stage",)),
    Metric("fossilray_slides_asked", "gauge", "Slides that this driver was given, those done before too."),
    Metric("fossilray_slides_finished", "gauge", "Of those, committed or failed for good, before or now."),
    Metric("fossilray_slides_in_flight", "gauge", "Slides that workers have in hand."),
    Metric("fossilray_slides", "gauge", "Slides, and rejected files, by state.", ("state",)),
    Metric("fossilray_workers", "gauge", "Workers that are idle or busy."),
    Metric("fossilray_workers_in_stage", "gauge", "Busy workers by what they do.", ("stage",)),
    Metric("fossilray_last_commit_timestamp_seconds", "gauge", "When the last slide was committed."),
)
"""Told by the driver. Times of the stage `embed` lie within those of `crops`."""
WORKER = (
    Metric("fossilray_slide_seconds", "counter", "Seconds in which the worker had a slide."),
    Metric("fossilray_network_seconds", "counter", "Of those, with a batch at a network."),
    Metric("fossilray_read_bytes", "counter", "Bytes that the worker read from files."),
    Metric("fossilray_fetched_bytes", "counter", "Bytes of slides fetched from an object store."),
    Metric("fossilray_waiting_reads", "gauge", "Windows or groups of crops that wait for a reading thread."),
    Metric("fossilray_waiting_batches", "gauge", "Batches that wait for a network."),
    Metric("fossilray_resident_bytes", "gauge", "Memory of the worker's process."),
)
"""Told by each worker on its machine."""
_MADE: dict[str, Any] = {"counter": metrics.Counter, "gauge": metrics.Gauge}


def exported_names() -> frozenset[str]:
    """Every name under which Prometheus finds a figure of ours."""
    return frozenset(name for metric in (*DRIVER, *WORKER) for name in metric.series)


class DriverMetrics:
    """What the driver tells; needs a Ray connection. run: the run's address, a label of everything."""

    def __init__(self, run: str) -> None:
        self._told = _Told(DRIVER, run)
        self._shown_s = -GAUGES_EVERY_S
        self._last_commit_s = time.time()
        self._stages: set[str] = set()

    def committed(self, summary: SlideSummary | None) -> None:
        """A slide was committed, by whomever; its figures where an attempt of ours did it."""
        self._last_commit_s = time.time()
        if summary is None:
            return
        self._told.add("fossilray_scanned_mm2", summary.scanned_mm2)
        self._told.add("fossilray_tiles_wanted", summary.tiles_planned - summary.tiles_blank)
        self._told.add("fossilray_tiles_lost", summary.tiles_failed)
        self._told.add("fossilray_array_bytes", summary.array_bytes)
        for stage in STAGES:
            seconds: float = getattr(summary, f"seconds_{stage}")
            self._told.add("fossilray_stage_time_seconds", seconds, stage=stage)
            self._told.observe("fossilray_stage_seconds", seconds, stage=stage)

    def failed(self, error: str, *, quarantined: bool) -> None:
        """A slide was given up for an error of this class."""
        self._told.add("fossilray_slides_failed", 1, error=error)
        if quarantined:
            self._told.add("fossilray_slides_quarantined", 1, error=error)

    def lost_worker(self, error: str) -> None:
        """A worker is gone; error: one of LOSSES of the ledger."""
        self._told.add("fossilray_workers_lost", 1, error=error)

    def show(self, tally: Tally, states: Mapping[str, WorkerStatus]) -> None:
        """What the tally counts; may be called as often as the driver likes."""
        self._told.raise_to("fossilray_slides_committed", tally.committed)
        self._told.raise_to("fossilray_slides_retried", tally.retried)
        self._told.raise_to("fossilray_objects", tally.objects)
        if time.monotonic() - self._shown_s < GAUGES_EVERY_S and tally.finished < tally.total:
            return
        self._shown_s = time.monotonic()
        self._told.raise_to("fossilray_gpu_seconds_held", tally.gpu_hours * 3600)
        self._told.raise_to("fossilray_core_seconds_held", tally.core_hours * 3600)
        self._told.set("fossilray_slides_asked", tally.total)
        self._told.set("fossilray_slides_finished", tally.finished)
        self._told.set("fossilray_slides_in_flight", tally.in_progress)
        for state, count in asdict(tally.counts).items():
            if state != "total":
                self._told.set("fossilray_slides", count, state=state)
        self._told.set("fossilray_workers", tally.workers)
        self._told.set("fossilray_last_commit_timestamp_seconds", self._last_commit_s)
        for stage, count in self._by_stage(states):
            self._told.set("fossilray_workers_in_stage", count, stage=stage)

    def _by_stage(self, states: Mapping[str, WorkerStatus]) -> Iterator[tuple[str, int]]:
        """Stages that nobody is in any more come with 0, or their last count would stay."""
        now = [state.stage for state in states.values()]
        self._stages.update(now)
        return ((stage, now.count(stage)) for stage in sorted(self._stages))


class WorkerMetrics:
    """What a worker tells, from its own process."""

    def __init__(self, run: str) -> None:
        self._told = _Told(WORKER, run)

    def show(self, state: WorkerStatus | None) -> None:
        """What it is doing, each time the driver asks; None: nothing."""
        self._told.set("fossilray_waiting_reads", state.waiting_reads if state else 0)
        self._told.set("fossilray_waiting_batches", state.waiting_batches if state else 0)
        if state is not None:
            self._told.set("fossilray_resident_bytes", state.resident_bytes)

    def took(self, outcome: Outcome) -> None:
        """An attempt ended."""
        self.show(None)
        usage = outcome.usage
        if usage is not None:
            self._told.add("fossilray_slide_seconds", usage.seconds)
            self._told.add("fossilray_network_seconds", usage.networks_s)
            self._told.add("fossilray_read_bytes", usage.read_bytes)
            self._told.add("fossilray_fetched_bytes", usage.fetched_bytes)


class _Told:
    """Ray's objects for some metrics, each with the label `run`."""

    def __init__(self, told: tuple[Metric, ...], run: str) -> None:
        self._made = {metric.name: _make(metric).set_default_tags({"run": run}) for metric in told}
        self._sums: dict[str, float] = {}

    def add(self, name: str, amount: float, **labels: str) -> None:
        if amount > 0:
            self._made[name].inc(amount, labels)

    def raise_to(self, name: str, total: float) -> None:
        """A counter that is told its sum."""
        self.add(name, total - self._sums.get(name, 0.0))
        self._sums[name] = total

    def set(self, name: str, value: float, **labels: str) -> None:
        self._made[name].set(value, labels)

    def observe(self, name: str, value: float, **labels: str) -> None:
        self._made[name].observe(value, labels)


def _make(metric: Metric) -> Any:
    labels = ("run", *metric.labels)
    if metric.kind == "histogram":
        return metrics.Histogram(metric.name, metric.says, boundaries=_SECONDS, tag_keys=labels)
    return _MADE[metric.kind](metric.name, metric.says, tag_keys=labels)
