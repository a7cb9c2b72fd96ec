"""What the driver writes to the run directory while slides come back: summaries, deaths, heartbeat."""

from __future__ import annotations

import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from fossilray.progress import Tally
from fossilray.records import Failure, Heartbeat, SlideSummary, utc_now
from fossilray.store import RunStore

Item = TypeVar("Item")

BEAT_EVERY_S = 30.0
SUMMARIES_A_PART = 256
PART_EVERY_S = 60.0
DEATH = "WorkerDied"
"""`error` of a failure that is a worker's death."""


class Ledger:
    """The driver's writer; one background thread, so that a slow store never holds up the dispatch."""

    def __init__(self, store: RunStore) -> None:
        self.failures: list[Failure] = []
        """What failed for good in this job, for the list at its end."""
        self._store = store
        self._driver_id = secrets.token_hex(8)
        self._started_at = utc_now()
        self._clerk = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._writes: list[Future[None]] = []
        self._summaries: list[SlideSummary] = []
        self._part_s = self._beat_s = time.monotonic()

    def deaths(self) -> dict[str, int]:
        """How often each slide has killed its worker, in this job and in earlier ones."""
        return dict(Counter(failure.slide_id for failure in self._store.failures() if failure.error == DEATH))

    def committed(self, summary: SlideSummary) -> None:
        """Keep a summary for the next part of `slides/`."""
        self._summaries.append(summary)
        if len(self._summaries) >= SUMMARIES_A_PART or time.monotonic() - self._part_s > PART_EVERY_S:
            self._write_part()

    def failed(self, failure: Failure) -> None:
        """Remember a failure that its worker has recorded."""
        self.failures.append(failure)

    def worker_died(self, slide_id: str, reason: str, *, quarantined: bool) -> None:
        """Record that a slide's worker is gone; only the driver is left to say so."""
        failure = Failure(
            slide_id=slide_id,
            attempt=secrets.token_hex(8),
            stage="worker",
            error=DEATH,
            message=f"the worker died while it had this slide: {reason}",
            transient=not quarantined,
            quarantined=quarantined,
            host=socket.gethostname(),
            failed_at=utc_now(),
        )
        if quarantined:
            self.failures.append(failure)
        self._later(self._store.record_failure, failure)

    def beat(self, tally: Tally, in_flight: Mapping[str, str], *, now: bool = False) -> None:
        """Every 30 s leave a sign of life with what is in flight (slide_id to path)."""
        if not now and time.monotonic() - self._beat_s < BEAT_EVERY_S:
            return
        self._beat_s = time.monotonic()
        beat = Heartbeat(
            driver_id=self._driver_id,
            started_at=self._started_at,
            beat_at=utc_now(),
            total=tally.total,
            committed=tally.already_committed + tally.committed,
            failed=tally.failed_before + tally.failed,
            objects=tally.objects,
            slides_per_hour=tally.slides_per_hour,
            workers=tally.workers,
            in_flight=tuple(sorted(in_flight)),
        )
        self._later(self._store.write_heartbeat, beat)

    def close(self, tally: Tally) -> None:
        """Write what is left and wait for it."""
        if self._summaries:
            self._write_part()
        self.beat(tally, {}, now=True)
        self._clerk.shutdown(wait=True)
        self._raise_failed_writes()

    def _write_part(self) -> None:
        rows, self._summaries = self._summaries, []
        self._part_s = time.monotonic()
        self._later(self._store.append_summaries, rows)

    def _later(self, write: Callable[[Item], None], item: Item) -> None:
        self._raise_failed_writes()
        self._writes.append(self._clerk.submit(write, item))

    def _raise_failed_writes(self) -> None:
        for write in self._writes:
            if write.done():
                write.result()
        self._writes = [write for write in self._writes if not write.done()]
