"""The threads of one slide, their resource usage, and on request a trace of their tasks."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from fossilray.core.chrome_trace import ChromeTrace
from fossilray.core.config import RunConfig
from fossilray.core.machine import read_bytes
from fossilray.core.parallel import MonitoredThreadPool
from fossilray.core.records import ResourceUsage

_TASKS = {
    "open": ("read", "detect"),
    "detect": ("read window", "detect"),
    "crops": ("cut crops", "embed"),
}
"""Names of the readers' and the networks' tasks by stage, for the trace."""


class SlideThreads:
    """Readers and a writer of one slide, and the worker's network threads; closed before the next slide."""

    def __init__(self, slide_id: str, config: RunConfig, networks: MonitoredThreadPool) -> None:
        self.timeline = ChromeTrace(slide_id) if slide_id in config.watch.trace else None
        """The trace, for slides of `watch.trace`."""
        self.readers = MonitoredThreadPool(config.slides.read_threads, "read")
        self.networks = networks
        self.writers = MonitoredThreadPool(1, "write")
        for pool in (self.readers, self.networks, self.writers):
            pool.timeline = self.timeline
        self.writers.task_name = "store crops"
        self._started_s = self._stage_s = time.monotonic()
        self._stage = "fetch"
        self._busy_before_s = networks.busy_s
        self._read_before = read_bytes()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.readers.shutdown(wait=True)
        self.writers.shutdown(wait=True)

    def enter(self, stage: str) -> None:
        """Begin a stage, and end the one before; called from the thread that processes the slide."""
        now = time.monotonic()
        if self.timeline is not None:
            self.timeline.span(self._stage, "stage", self._stage_s, now)
            self.readers.task_name, self.networks.task_name = _TASKS.get(stage, ("read", "network"))
        self._stage, self._stage_s = stage, now

    def finish(self, *, fetched_bytes: int) -> ResourceUsage:
        """Return the resource usage after the last stage. fetched_bytes: bytes downloaded from an object store."""
        self.enter("")
        self.networks.timeline = None
        return ResourceUsage(
            seconds=time.monotonic() - self._started_s,
            network_busy_s=self.networks.busy_s - self._busy_before_s,
            read_bytes=max(0, read_bytes() - self._read_before),
            fetched_bytes=fetched_bytes,
        )
