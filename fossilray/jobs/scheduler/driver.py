"""The driver of a job: gives items to ready workers, one at a time, and survives the loss of any worker.

Pixels never pass through Ray: a worker gets a work item and returns an Outcome of a few hundred bytes; all other data
pass between the worker and the store.
"""

from __future__ import annotations

import statistics
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fossilray.core.config import RunConfig
from fossilray.core.errors import SlidesFailAlike, StoreOut
from fossilray.core.records import Failure, Outcome, WorkItem
from fossilray.core.worker import Worker
from fossilray.jobs.journal import DriverJournal
from fossilray.jobs.progress import CommitAlarm, Display, Tally
from fossilray.jobs.scheduler.actors import ActorHandle, StartActors
from fossilray.jobs.scheduler.failure_policy import Decision, FailurePolicy
from fossilray.jobs.scheduler.item_queue import ItemQueue
from fossilray.jobs.scheduler.metrics import DriverMetrics
from fossilray.jobs.scheduler.placement_timeout import PlacementTimeout
from fossilray.jobs.scheduler.ray_actors import RayActors
from fossilray.jobs.scheduler.root_outages import RootOutages
from fossilray.jobs.scheduler.worker_pool import ItemResult, WorkerLoss, WorkerPool

STRAGGLER_FACTOR = 3.0
"""At the end of a job an item that takes this many times the median is started a second time, on another worker."""
ALIKE_SHOWN = 3
"""Items that fail by the same exception at the same line of code, and are shown one by one."""
MAX_BACKOFF_S = 600.0
"""Waits before another try double up to this."""


def run_items(
    items: Sequence[WorkItem],
    make_worker: Callable[[], Worker],
    *,
    config: RunConfig,
    journal: DriverJournal,
    tally: Tally,
    display: Display,
    stop: threading.Event | None = None,
    start_actors: StartActors = RayActors,
) -> Tally:
    """Process every item until it is committed, failed or quarantined; return the tally.

    stop: once it is set, no item is started, and those in flight are finished. start_actors: makes what runs the
    workers; the default needs a Ray connection.

    Raises:
        WorkerError: workers die while starting, or find no machine for workers.patience_minutes.
        SlidesFailAlike: more items than the configuration allows fail by one and the same exception.
        SourcesOut: the folders or stores of all remaining items are out for longer than store.patience_minutes.
        StoreError: the store refuses, or does not reply for longer than store.patience_minutes.
        FossilrayError: an error that a worker raised while it prepared (weights, store).
    """
    pool = WorkerPool(start_actors(make_worker, config.workers, journal.run_url), config.workers)
    driver = _Driver(items, config, pool, journal, tally, display)
    try:
        while not driver.is_done(stop is not None and stop.is_set()):
            driver.step(stop is not None and stop.is_set())
        driver.show_common_failures()
    finally:
        pool.shutdown()
        journal.close(tally)
    return tally


@dataclass
class _InFlight:
    """An item that is being processed, possibly by two workers at once."""

    item: WorkItem
    started_s: float
    actors: list[ActorHandle] = field(default_factory=list)
    is_copied: bool = False
    """Was started a second time on another worker. Once only: two workers that fail in turn would never end."""


class _Driver:
    """State of one run_items call."""

    def __init__(
        self,
        items: Sequence[WorkItem],
        config: RunConfig,
        pool: WorkerPool,
        journal: DriverJournal,
        tally: Tally,
        display: Display,
    ) -> None:
        self._config = config
        self._pool = pool
        self._journal = journal
        self._tally = tally
        self._display = display
        self._in_flight: dict[str, _InFlight] = {}
        self._failure_weights: dict[str, float] = journal.failure_weights()
        # Items that lost workers before come last: started first, they would be in flight at every further fault.
        self._queue = ItemQueue(sorted(items, key=lambda item: item.key in self._failure_weights))
        workers = config.workers
        self._policy = FailurePolicy(
            max_tries=workers.max_tries,
            alike_slides=workers.alike_slides,
            alike_share=workers.alike_share,
            unit=tally.unit,
        )
        self._outages = RootOutages(self._policy, self._queue, config, display.message)
        self._given_up: dict[tuple[str, str | None], int] = {}
        self._seconds: deque[float] = deque(maxlen=1000)
        self._store_out_since_s: float | None = None
        self._store_waits = 0
        self._has_shown_driver = self._has_shown_gpus = False
        self._placement_timeout = PlacementTimeout(config.workers, display.message)
        self._metrics = DriverMetrics(journal.run_url)
        self._alarm = CommitAlarm(config.watch.alarm_minutes)
        self._counted_s = time.monotonic()

    def is_done(self, stopping: bool) -> bool:
        """Return whether no item is in flight and none remains to be started."""
        return not self._in_flight and (stopping or not self._queue)

    def step(self, stopping: bool) -> None:
        """Request workers, submit items, collect results and show the progress, once."""
        self._pool.release_draining()
        if not stopping:
            self._pool.request_workers(len(self._queue) + len(self._in_flight))
            self._placement_timeout.check(self._pool.pending, ready=self._pool.ready)
        self._dispatch(stopping)
        for result in self._pool.collect():
            self._handle_result(result)
        error, self._pool.start_error = self._pool.start_error, None
        if error is not None and not self._may_wait_for_store(str(error)):
            raise error
        self._pool.poll_status()
        self._outages.update(self._tally.unit)
        if not self._in_flight:
            self._outages.check_timeout(self._tally)
        self._stop_if_alike()
        self._count_resources()
        self._report(stopping)

    def show_common_failures(self) -> None:
        """Show a line for each exception that several items failed by."""
        for common in self._policy.common_failures():
            self._display.message(f"{common}; `fossilray failures RUN --traceback` shows more")

    def _report(self, stopping: bool) -> None:
        """Pass the progress to metrics, display and heartbeat, with warnings where there are any."""
        self._tally.in_progress = len(self._in_flight)
        states = self._pool.states
        self._metrics.update(self._tally, states)
        self._display.update(self._tally, states)
        common = next(self._policy.common_failures(), None)
        self._journal.heartbeat(
            self._tally,
            self._in_flight,
            out=self._outages.messages,
            alike="" if common is None else str(common),
            stopping=stopping,
        )
        if self._alarm.is_due():
            self._display.message(
                f"no {self._tally.unit} was committed for watch.alarm_minutes = {self._config.watch.alarm_minutes:g}: "
                f"{len(self._in_flight):,} in flight on {self._pool.ready:,} workers; see `fossilray status` and "
                "`fossilray failures`"
            )
        if self._pool.without_gpu and not self._has_shown_gpus:
            self._has_shown_gpus = True
            self._display.message(
                f"worker {self._pool.without_gpu[0]} holds a GPU and runs on the CPU; check with `fossilray doctor` "
                "whether PyTorch finds the GPU of that machine, or set workers.device=cpu"
            )
        other = self._journal.other_driver
        if other is not None and not self._has_shown_driver:
            self._has_shown_driver = True
            self._display.message(
                f"another driver wrote a heartbeat for this run at {other.beat_at}; if it still runs, both process "
                f"the same {self._tally.unit}s, each of which is committed once"
            )

    def _count_resources(self) -> None:
        """Add the hours for which workers have held CPUs and GPUs since the last call."""
        now = time.monotonic()
        hours, self._counted_s = (now - self._counted_s) / 3600, now
        self._tally.workers = self._pool.ready
        self._tally.core_hours += hours * self._pool.ready * self._config.workers.cpus_per_worker
        self._tally.gpu_hours += hours * self._pool.ready_on_gpu * self._config.workers.gpus_per_worker

    def _dispatch(self, stopping: bool) -> None:
        """Submit items to idle workers; once the queue is empty, copy a straggler and release idle workers."""
        while self._pool.idle and not stopping:
            actor = self._pool.idle[-1]
            item = self._queue.take(actor)
            if item is None:
                break
            self._submit(actor, item, self._queue.reserve_for(actor))
        if self._queue and not stopping:
            return
        straggler = self._find_straggler()
        if straggler is not None and self._pool.idle:
            straggler.is_copied = True
            self._submit(self._pool.idle[-1], straggler.item, None)
        self._pool.release_idle(keep=1)

    def _submit(self, actor: ActorHandle, item: WorkItem, upcoming: WorkItem | None) -> None:
        flight = self._in_flight.setdefault(item.key, _InFlight(item, time.monotonic()))
        flight.actors.append(actor)
        self._pool.submit(actor, item, upcoming)

    def _find_straggler(self) -> _InFlight | None:
        if len(self._seconds) < 3:
            return None
        slow_s = STRAGGLER_FACTOR * statistics.median(self._seconds)
        alone = [
            flight for flight in self._in_flight.values() if len(flight.actors) == 1 and not flight.is_copied
        ]
        oldest = min(alone, key=lambda flight: flight.started_s, default=None)
        return oldest if oldest is not None and time.monotonic() - oldest.started_s > slow_s else None

    def _handle_result(self, result: ItemResult) -> None:
        flight = self._in_flight.get(result.key)
        if result.loss is not None:
            self._queue.unreserve(result.actor)
        if flight is None:  # its copy has finished the item
            return
        flight.actors.remove(result.actor)
        if isinstance(result.error, StoreOut):
            if not self._wait_for_store(flight, str(result.error)):
                raise result.error
        elif result.error is not None:
            raise result.error
        elif result.loss is not None:
            self._handle_loss(flight, result.loss)
        elif result.exception is not None:
            failure = self._journal.record_exception(result.key, result.exception)
            self._finish(flight, Outcome(result.key, failure=failure))
        elif result.outcome is not None:
            self._finish(flight, result.outcome)

    def _finish(self, flight: _InFlight, outcome: Outcome) -> None:
        if outcome.failure is not None:
            if not flight.actors:  # else its copy may still succeed
                self._handle_failure(flight, outcome.failure)
            return
        self._store_out_since_s, self._store_waits = None, 0
        self._policy.record_success(flight.item.key, flight.item.source, started_s=flight.started_s)
        if outcome.summary is not None:
            self._seconds.append(time.monotonic() - flight.started_s)
            self._journal.record_commit(outcome.summary, submitted=outcome.submitted)
            self._tally.objects += outcome.summary.objects
        elif outcome.derived_rows is not None:
            self._seconds.append(time.monotonic() - flight.started_s)
            self._tally.objects += outcome.derived_rows
        self._metrics.record_commit(outcome.summary)
        self._alarm.committed()
        # With neither, another attempt, of this driver or of another one, committed the item first.
        self._tally.committed += 1
        del self._in_flight[flight.item.key]

    def _handle_failure(self, flight: _InFlight, failure: Failure) -> None:
        key = flight.item.key
        decision = self._policy.record_failure(
            failure, flight.item.source, started_s=flight.started_s, now_s=time.monotonic()
        )
        if decision is Decision.HOLD:
            self._outages.update(self._tally.unit)
            self._requeue(flight, wait_s=0.0)
        elif decision is Decision.RETRY:
            self._requeue(flight, wait_s=self._backoff_s(key, max(1, self._policy.tries(key))))
        else:
            quarantined = decision is Decision.QUARANTINE or failure.quarantined
            kind = (failure.error, failure.place)
            self._give_up(flight, failure.message, kind=kind, quarantined=quarantined)
            self._metrics.record_failure(failure.error, quarantined=quarantined)
            if decision is Decision.QUARANTINE:
                self._journal.record_quarantine(failure)
            else:
                self._journal.record_failure(failure)

    def _stop_if_alike(self) -> None:
        """Stop the job where item after item fails by one exception: a bug, which would quarantine them all."""
        common = self._policy.excessive_failure()
        if common is None:
            return
        self._journal.clear_failures(self._policy.failures_of(common))
        self._journal.heartbeat(self._tally, self._in_flight, out=self._outages.messages, alike=str(common))
        raise SlidesFailAlike(
            f"{common}; the job stops, because more than workers.alike_share = {self._config.workers.alike_share:g} "
            f"of its {self._tally.unit}s do. This is likely a fault of the program or of its installation: `fossilray "
            "failures RUN --traceback` shows where; report it, and start the same command again once it is mended or "
            f"with other settings, which tries these {self._tally.unit}s again"
        )

    def _handle_loss(self, flight: _InFlight, loss: WorkerLoss) -> None:
        key = flight.item.key
        self._metrics.record_lost_worker(loss.error)
        # A share that is mounted hard and goes away blocks its readers for ever.
        root = (
            self._policy.record_stall(key, flight.item.source, loss.reason, now_s=time.monotonic())
            if loss.error == "Stalled"
            else None
        )
        if root is not None:
            self._journal.record_loss(
                key, error="SourceOut", reason=loss.reason, stage=loss.stage, quarantined=False, root=root
            )
            self._outages.update(self._tally.unit)
            if not flight.actors:
                self._requeue(flight, wait_s=0.0)
            return
        weight = self._failure_weights.get(key, 0.0) + self._journal.loss_weight(loss.error)
        self._failure_weights[key] = weight
        # A sum of thirds may fall short of a whole by a rounding error.
        quarantined = weight > self._config.workers.max_deaths - 1e-6
        self._journal.record_loss(
            key, error=loss.error, reason=loss.reason, stage=loss.stage, quarantined=quarantined
        )
        if flight.actors:
            return
        if quarantined:
            why = f"quarantined, its workers were lost again and again ({loss.reason})"
            self._give_up(flight, why, kind=(loss.error, None), quarantined=True)
            self._metrics.record_failure(loss.error, quarantined=True)
        else:
            self._requeue(flight, wait_s=0.0)

    def _wait_for_store(self, flight: _InFlight, why: str) -> bool:
        """Requeue the item while the run's store is unreachable; False after store.patience_minutes."""
        if not self._may_wait_for_store(why):
            return False
        self._store_waits += 1
        if not flight.actors:
            # As many items as there are workers return together, so each round of them doubles the wait.
            rounds = 1 + self._store_waits // max(1, self._pool.ready)
            self._requeue(flight, wait_s=self._backoff_s(flight.item.key, min(rounds, 5)))
        return True

    def _may_wait_for_store(self, why: str) -> bool:
        """Return whether the run's store has been unreachable for less than store.patience_minutes."""
        now = time.monotonic()
        if self._store_out_since_s is None:
            self._store_out_since_s = now
            self._display.message(f"{why}; trying again for {self._config.store.patience_minutes:g} minutes")
        return now - self._store_out_since_s <= self._config.store.patience_minutes * 60

    def _requeue(self, flight: _InFlight, *, wait_s: float) -> None:
        del self._in_flight[flight.item.key]
        self._tally.retried += 1
        self._queue.add(flight.item, wait_s=wait_s)

    def _give_up(
        self, flight: _InFlight, why: str, *, kind: tuple[str, str | None], quarantined: bool
    ) -> None:
        """Count the item as failed. kind: error and line of code; further items of one kind are not shown."""
        del self._in_flight[flight.item.key]
        self._tally.failed += 1
        self._tally.quarantined += quarantined
        count = self._given_up[kind] = self._given_up.get(kind, 0) + 1
        if kind[1] is None or count <= ALIKE_SHOWN:
            self._display.message(f"{flight.item.key}: {why}")
        elif count == ALIKE_SHOWN + 1:
            self._display.message(
                f"more {self._tally.unit}s fail alike, by {kind[0]} at {kind[1]}; they are counted at the end"
            )

    def _backoff_s(self, key: str, tries: int) -> float:
        """Return a wait that doubles with every try, and varies by key so that items do not return together."""
        variety = 0.5 + zlib.crc32(f"{key} {tries}".encode()) / 2**32
        return min(MAX_BACKOFF_S, self._config.workers.retry_after_s * 2.0 ** (tries - 1)) * variety
