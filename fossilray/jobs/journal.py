"""What the driver writes to the run directory while slides come back: summaries, deaths, heartbeat."""

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
from fossilray.core.machine import boot_id, pid_namespace, process_start
from fossilray.core.records import Failure, Heartbeat, SlideSummary, utc_now
from fossilray.jobs.progress import Tally
from fossilray.store import RunStore
from fossilray.store.files.claims import Claim, hold_place
from fossilray.store.run.slide_states import active_drivers

Item = TypeVar("Item")

BEAT_EVERY_S = 30.0
FIRST_BEATS_EVERY_S = 5.0
"""During the first minute, so that two drivers on one run soon hear of each other."""
ASK_AGAIN_S = 5.0
SUMMARIES_A_PART = 256
PART_EVERY_S = 60.0
LOSS_WEIGHTS = {"WorkerDied": 1.0, "Stalled": 1.0, "MemoryExceeded": 1.0, "NodeDied": 1 / 3}
"""`error` of the failures that are a worker's loss, and what each counts towards `workers.max_deaths`.

A machine that goes away seldom does so for a slide's sake: spot nodes vanish with whatever they have in hand.
"""


class DriverJournal:
    """The driver's writer; one background thread, so that a slow store never holds up the dispatch."""

    def __init__(
        self,
        store: RunStore,
        *,
        patience_minutes: float = 30.0,
        cost: CostConfig | None = None,
        claim: Claim | None = None,
    ) -> None:
        """claim: of the only driver, checked before whatever it commits."""
        self.failures: list[Failure] = []
        """What failed for good in this job, for the list at its end."""
        self.other_driver: Heartbeat | None = None
        """Another driver that was seen at work on this run."""
        self._store = store
        self._patience_s = patience_minutes * 60
        self._cost = cost or CostConfig()
        self._driver_id = secrets.token_hex(8)
        self._started_at = utc_now()
        self._clerk = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._writes: list[Future[None]] = []
        self._summaries: list[SlideSummary] = []
        self._gathering = threading.Lock()
        self._silent_since_s: float | None = None
        self._claim = claim
        self._born_s = self._part_s = time.monotonic()
        self._beat_s = -BEAT_EVERY_S
        self._waited_for: tuple[str, ...] = ()
        self._alike = ""

    @property
    def run_url(self) -> str:
        """What is written to."""
        return self._store.url

    def blame(self) -> dict[str, float]:
        """What each slide has on its account from losses of workers under earlier drivers."""
        accounts: dict[str, float] = {}
        for failure in self._store.failures():
            accounts[failure.slide_id] = accounts.get(failure.slide_id, 0.0) + self.weight(failure.error)
        return {slide_id: blame for slide_id, blame in accounts.items() if blame}

    def weight(self, error: str) -> float:
        """What one such failure counts towards `workers.max_deaths`."""
        return LOSS_WEIGHTS.get(error, 0.0)

    def gather(self) -> None:
        """Write to `slides/` what an earlier driver had not written when it was killed."""
        self._later(lambda store: store.gather_summaries(), self._store)

    def committed(self, summary: SlideSummary, *, submitted: bool = False) -> None:
        """Keep a summary for the next part of `slides/`; what its worker only submitted is committed first."""
        if submitted:
            self._later(self._commit_submitted, summary)
        else:
            self._keep(summary)
        if len(self._summaries) >= SUMMARIES_A_PART or time.monotonic() - self._part_s > PART_EVERY_S:
            self._part_s = time.monotonic()
            self._later(DriverJournal._write_part, self)

    def failed(self, failure: Failure) -> None:
        """Remember a failure that its worker has recorded, and record that the slide is given up."""
        final = replace(failure, given_up=True)
        self.failures.append(replace(final, traceback=None))
        self._later(self._store.record_failure, final)

    def raised(self, slide_id: str, raised: ExceptionSummary) -> Failure:
        """Record an exception that a worker could not record itself; what came of it."""
        failure = Failure.of(raised, slide_id=slide_id, stage="worker")
        self._later(self._store.record_failure, failure)
        return failure

    def quarantined(self, failure: Failure) -> None:
        """Record that a failure, which its worker took for one that may pass, holds the slide back from now on."""
        self.failed(replace(failure, transient=False, quarantined=True))

    def forgive(self, failures: Sequence[Failure]) -> None:
        """Let these failures hold no slide back at the next start."""
        self._later(self._store.forgive, failures)

    def lost(
        self,
        slide_id: str,
        *,
        error: str,
        reason: str,
        stage: str,
        quarantined: bool,
        root: str | None = None,
    ) -> None:
        """Record that a slide's worker is gone; only the driver is left to say so.

        error: one of LOSSES, or SourceOut where `root` is to blame.
        """
        summary = ExceptionSummary(error, f"the worker was lost while it had this slide: {reason}")
        failure = replace(
            Failure.of(summary, slide_id=slide_id, stage=stage, transient=not quarantined),
            given_up=quarantined,
            root=root,
        )
        if quarantined:
            self.failures.append(failure)
        self._later(self._store.record_failure, failure)

    def beat(
        self,
        tally: Tally,
        in_flight: Iterable[str],
        *,
        ended: bool = False,
        out: Sequence[str] = (),
        alike: str = "",
        stopping: bool = False,
    ) -> None:
        """Every 30 s leave a sign of life with what is in flight (slide_ids), and look for those of others.

        out: sentences about what the job waits for; what is new among them is written at once. alike: a sentence
        about slides that fail alike. The last beat repeats what was said before.
        """
        is_young = time.monotonic() - self._born_s < 60.0
        every_s = FIRST_BEATS_EVERY_S if is_young else BEAT_EVERY_S
        if ended:
            out, alike = self._waited_for, self._alike
        is_news = tuple(out) != self._waited_for or bool(alike) != bool(self._alike)
        self._waited_for, self._alike = tuple(out), alike
        if not ended and not is_news and time.monotonic() - self._beat_s < every_s:
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
        self._later(self._write_beat, beat)

    def close(self, tally: Tally) -> None:
        """Write what is left and wait for it.

        Raises:
            StoreError: something could not be written; summaries can be rebuilt, and commits need none of it.
        """
        try:
            # The clerk does one thing after the other: what it commits before this is in the last part.
            self._later(DriverJournal._write_part, self)
            self.beat(tally, (), ended=True)
        finally:
            self._clerk.shutdown(wait=True)
        self._raise_failed_writes()

    def _write_beat(self, beat: Heartbeat) -> None:
        self._store.write_heartbeat(beat)
        if beat.ended or self.other_driver is not None:
            return
        others = (other for other in active_drivers(self._store) if other.driver_id != self._driver_id)
        self.other_driver = next(others, None)

    def _write_part(self) -> None:
        with self._gathering:
            rows = list(self._summaries)
        self._store.append_summaries(rows)
        with self._gathering:
            del self._summaries[: len(rows)]

    def _keep(self, summary: SlideSummary) -> None:
        with self._gathering:
            self._summaries.append(summary)

    def _commit_submitted(self, summary: SlideSummary) -> None:
        if self._claim is not None:
            self._claim.check()
        if self._store.commit_submitted(summary.slide_id, summary.well, summary.attempt):
            self._keep(summary)

    def _later(self, write: Callable[[Item], object], item: Item) -> None:
        self._raise_failed_writes()
        self._writes.append(self._clerk.submit(self._persist, write, item))

    def _persist(self, write: Callable[[Item], object], item: Item) -> None:
        """Write, and where the store does not answer write again until the job's patience ends."""
        while True:
            try:
                write(item)
            except StoreOut:
                now = time.monotonic()
                self._silent_since_s = self._silent_since_s or now
                if now - self._silent_since_s > self._patience_s:
                    raise
                time.sleep(min(ASK_AGAIN_S, self._patience_s))
            else:
                self._silent_since_s = None
                return

    def _raise_failed_writes(self) -> None:
        for write in self._writes:
            if write.done():
                write.result()
        self._writes = [write for write in self._writes if not write.done()]


def hold_as_only_driver(store: RunStore) -> AbstractContextManager[Claim | None]:
    """Two drivers at once are no danger, only a waste, unless commits rest on there being one (`single_writer`).

    Raises:
        UsageError: commits rest on a single writer, and another one is at work.
    """
    if not store.single_writer:
        return nullcontext()
    return hold_place(store.files, "driver that alone commits (store.single_writer)")
