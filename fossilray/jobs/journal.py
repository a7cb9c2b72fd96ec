"""The driver's records in the run directory: summaries, failures, lost workers and heartbeats."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TypeVar

from fossilray.core.config import CostConfig
from fossilray.core.errors import StoreOut
from fossilray.core.exception_summary import ExceptionSummary
from fossilray.core.heartbeat import Heartbeat
from fossilray.core.machine import boot_id, pid_namespace, process_start
from fossilray.core.records import Failure, SlideSummary, utc_now
from fossilray.jobs.progress import Tally
from fossilray.store import RunStore
from fossilray.store.files.base import Files
from fossilray.store.files.claims import Claim, hold_folder
from fossilray.store.run.attempts import AttemptLog
from fossilray.store.run.slide_states import active_drivers

Item = TypeVar("Item")

HEARTBEAT_EVERY_S = 30.0
FIRST_HEARTBEATS_EVERY_S = 5.0
"""Interval during the first minute, so that two drivers on one run soon find each other."""
RETRY_EVERY_S = 5.0
SUMMARIES_PER_FILE = 256
SUMMARIES_EVERY_S = 60.0
LOSS_WEIGHTS = {"WorkerDied": 1.0, "Stalled": 1.0, "MemoryExceeded": 1.0, "NodeDied": 1 / 3}
"""`error` of the failures that are a lost worker, and the weight of each towards `workers.max_deaths`.

An item seldom causes the loss of a machine: spot nodes vanish with all items that are processed on them.
"""


class DriverJournal:
    """Writes the driver's records in one background thread, so that a slow store never delays the dispatch."""

    def __init__(
        self,
        attempts: AttemptLog,
        *,
        run: RunStore | None = None,
        patience_minutes: float = 30.0,
        cost: CostConfig | None = None,
        claim: Claim | None = None,
        unit: str = "slide",
    ) -> None:
        """Start the writer thread.

        run: where slides are committed; None for a job that commits none. claim: the claim of the only driver, checked
        before every commit. unit: what messages call an item.
        """
        self.failures: list[Failure] = []
        """Final failures of this job, for the list at its end."""
        self.other_driver: Heartbeat | None = None
        """The heartbeat of another driver that is active on this run."""
        self._attempts = attempts
        self._run = run
        self._store_timeout_s = patience_minutes * 60
        self._cost = cost or CostConfig()
        self._driver_id = secrets.token_hex(8)
        self._started_at = utc_now()
        self._writer_thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._writes: list[Future[None]] = []
        self._summaries: list[SlideSummary] = []
        self._summaries_lock = threading.Lock()
        self._store_out_since_s: float | None = None
        self._claim = claim
        self._unit = unit
        self._created_s = self._summaries_s = time.monotonic()
        self._heartbeat_s = -HEARTBEAT_EVERY_S
        self._out: tuple[str, ...] = ()
        self._alike = ""

    @property
    def run_url(self) -> str:
        """URL of the store that is written to."""
        return self._attempts.url

    def failure_weights(self) -> dict[str, float]:
        """Sum of the loss weights of each item under earlier drivers; items without losses are left out."""
        weights: dict[str, float] = {}
        for failure in self._attempts.failures():
            weights[failure.slide_id] = weights.get(failure.slide_id, 0.0) + self.loss_weight(failure.error)
        return {key: weight for key, weight in weights.items() if weight}

    def loss_weight(self, error: str) -> float:
        """Weight of one such failure towards `workers.max_deaths`; 0 where it is not a lost worker."""
        return LOSS_WEIGHTS.get(error, 0.0)

    def append_missing_summaries(self) -> None:
        """Write to `slides/` the summaries that an earlier driver had not written when it was killed."""
        if self._run is not None:
            self._submit(lambda run: run.append_missing_summaries(), self._run)

    def record_commit(self, summary: SlideSummary, *, submitted: bool = False) -> None:
        """Keep a summary for the next file of `slides/`; first commit a slide that its worker only submitted."""
        if submitted:
            self._submit(self._commit_submitted, summary)
        else:
            self._keep(summary)
        if (
            len(self._summaries) >= SUMMARIES_PER_FILE
            or time.monotonic() - self._summaries_s > SUMMARIES_EVERY_S
        ):
            self._summaries_s = time.monotonic()
            self._submit(DriverJournal._write_summaries, self)

    def record_failure(self, failure: Failure) -> None:
        """Record that a slide is given up for a failure that its worker has recorded."""
        final = replace(failure, given_up=True)
        self.failures.append(replace(final, traceback=None))
        self._submit(self._attempts.record_failure, final)

    def record_exception(self, slide_id: str, exception: ExceptionSummary) -> Failure:
        """Record an exception that a worker could not record itself; return the failure."""
        failure = Failure.of(exception, slide_id=slide_id, stage="worker")
        self._submit(self._attempts.record_failure, failure)
        return failure

    def record_quarantine(self, failure: Failure) -> None:
        """Record a failure, which its worker recorded as transient, as the slide's quarantine."""
        self.record_failure(replace(failure, transient=False, quarantined=True))

    def clear_failures(self, failures: Sequence[Failure]) -> None:
        """Clear failures, so that the next start tries their slides again."""
        self._submit(self._attempts.clear_failures, failures)

    def record_loss(
        self,
        slide_id: str,
        *,
        error: str,
        reason: str,
        stage: str,
        quarantined: bool,
        root: str | None = None,
    ) -> None:
        """Record a lost worker as a failure of the slide that it processed.

        error: a key of LOSS_WEIGHTS, or SourceOut where an outage of `root` is the cause.
        """
        summary = ExceptionSummary(
            error, f"the worker was lost while it processed this {self._unit}: {reason}"
        )
        failure = replace(
            Failure.of(summary, slide_id=slide_id, stage=stage, transient=not quarantined),
            given_up=quarantined,
            root=root,
        )
        if quarantined:
            self.failures.append(failure)
        self._submit(self._attempts.record_failure, failure)

    def heartbeat(
        self,
        tally: Tally,
        in_flight: Iterable[str],
        *,
        ended: bool = False,
        out: Sequence[str] = (),
        alike: str = "",
        stopping: bool = False,
    ) -> None:
        """Every 30 s write a heartbeat with the keys in flight, and look for other active drivers.

        out: a sentence per outage that the job waits for; a new one is written at once. alike: a sentence about
        items that fail alike. The last heartbeat repeats both.
        """
        is_young = time.monotonic() - self._created_s < 60.0
        every_s = FIRST_HEARTBEATS_EVERY_S if is_young else HEARTBEAT_EVERY_S
        if ended:
            out, alike = self._out, self._alike
        is_new = tuple(out) != self._out or bool(alike) != bool(self._alike)
        self._out, self._alike = tuple(out), alike
        if not ended and not is_new and time.monotonic() - self._heartbeat_s < every_s:
            return
        self._heartbeat_s = time.monotonic()
        heartbeat = Heartbeat(
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
            ended=ended,
            gpu_hours=tally.gpu_hours,
            core_hours=tally.core_hours,
            per_gpu_hour=self._cost.per_gpu_hour,
            per_core_hour=self._cost.per_core_hour,
            currency=self._cost.currency,
            out=tuple(out),
            alike=alike,
            host=socket.gethostname(),
            pid=os.getpid(),
            stopping=stopping,
            boot=boot_id(),
            pid_namespace=pid_namespace(),
            process_start=process_start(os.getpid()),
        )
        self._submit(self._write_heartbeat, heartbeat)

    def close(self, tally: Tally) -> None:
        """Write what remains, and wait until it is written.

        Raises:
            StoreError: a record could not be written; summaries can be rebuilt, and commits need none of the records.
        """
        try:
            # The writer thread works in order, so the last file holds all that was committed before this call.
            self._submit(DriverJournal._write_summaries, self)
            self.heartbeat(tally, (), ended=True)
        finally:
            self._writer_thread.shutdown(wait=True)
        self._raise_failed_writes()

    def _write_heartbeat(self, heartbeat: Heartbeat) -> None:
        self._attempts.write_heartbeat(heartbeat)
        if heartbeat.ended or self.other_driver is not None:
            return
        others = (other for other in active_drivers(self._attempts) if other.driver_id != self._driver_id)
        self.other_driver = next(others, None)

    def _write_summaries(self) -> None:
        with self._summaries_lock:
            summaries = list(self._summaries)
        if self._run is not None:
            self._run.append_summaries(summaries)
        with self._summaries_lock:
            del self._summaries[: len(summaries)]

    def _keep(self, summary: SlideSummary) -> None:
        with self._summaries_lock:
            self._summaries.append(summary)

    def _commit_submitted(self, summary: SlideSummary) -> None:
        if self._claim is not None:
            self._claim.check()
        if self._run is not None and self._run.commit_submitted(
            summary.slide_id, summary.well, summary.attempt
        ):
            self._keep(summary)

    def _submit(self, write: Callable[[Item], object], item: Item) -> None:
        self._raise_failed_writes()
        self._writes.append(self._writer_thread.submit(self._persist, write, item))

    def _persist(self, write: Callable[[Item], object], item: Item) -> None:
        """Write, again and again while the store is out, for up to store.patience_minutes."""
        while True:
            try:
                write(item)
            except StoreOut:
                now = time.monotonic()
                self._store_out_since_s = self._store_out_since_s or now
                if now - self._store_out_since_s > self._store_timeout_s:
                    raise
                time.sleep(min(RETRY_EVERY_S, self._store_timeout_s))
            else:
                self._store_out_since_s = None
                return

    def _raise_failed_writes(self) -> None:
        for write in self._writes:
            if write.done():
                write.result()
        self._writes = [write for write in self._writes if not write.done()]


def require_single_driver(files: Files) -> AbstractContextManager[Claim | None]:
    """Claim the run for this driver where commits rely on a single one (`single_writer`), else claim nothing.

    Without `single_writer` two drivers only waste work.

    Raises:
        UsageError: commits rely on a single driver, and another one is active.
    """
    if not files.single_writer:
        return nullcontext()
    return hold_folder(files, "driver that alone commits (store.single_writer)")
