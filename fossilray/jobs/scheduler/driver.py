"""The driver of the slide job: slides to ready workers, one at a time, through the death of any of them.

Pixels never pass through Ray: a worker gets a catalog row and returns an Outcome of a few hundred bytes;
everything else goes between the worker and the store.
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
from fossilray.core.records import CatalogRow, Failure, Outcome, Worker
from fossilray.jobs.journal import DriverJournal
from fossilray.jobs.progress import CommitAlarm, Display, Tally
from fossilray.jobs.scheduler.failure_policy import Judge, Verdict
from fossilray.jobs.scheduler.metrics import DriverMetrics
from fossilray.jobs.scheduler.placement_timeout import PlacementTimeout
from fossilray.jobs.scheduler.roots import Roots
from fossilray.jobs.scheduler.slide_queue import Waiting
from fossilray.jobs.scheduler.worker_pool import ActorHandle, SlideResult, WorkerLoss, WorkerPool

STRAGGLER_FACTOR = 3.0
"""At the tail a slide that runs this many times the median is started again elsewhere."""
TOLD_ALIKE = 3
"""Slides that fail by the same exception at the same place and are named one by one."""
LONGEST_WAIT_S = 600.0
"""Waits before another try double up to this."""


def run_items(
    rows: Sequence[CatalogRow],
    make_worker: Callable[[], Worker],
    *,
    config: RunConfig,
    ledger: DriverJournal,
    tally: Tally,
    display: Display,
    stop: threading.Event | None = None,
) -> Tally:
    """The tally after every row was committed, failed or quarantined; needs a Ray connection.

    `stop` set: no slide is started any more, those in flight end, and the tally says what is left.

    Raises:
        WorkerError: workers die while starting, or find no machine for workers.patience_minutes.
        SlidesFailAlike: more slides than the configuration allows fail by one and the same exception.
        SourcesOut: the folders or stores of all slides that are left are out for longer than store.patience_minutes.
        StoreError: the store refuses, or does not answer for longer than store.patience_minutes.
        FossilrayError: what a worker raised while it prepared (weights, store).
    """
    crew = WorkerPool(make_worker, config.workers, run=ledger.run_url)
    driver = _Driver(rows, config, crew, ledger, tally, display)
    try:
        while not driver.is_done(stop is not None and stop.is_set()):
            driver.step(stop is not None and stop.is_set())
        driver.say_alike()
    finally:
        crew.dismiss_all()
        ledger.close(tally)
    return tally


@dataclass
class _InFlight:
    """A slide on its way, possibly on two workers at once."""

    row: CatalogRow
    started_s: float
    seats: list[ActorHandle] = field(default_factory=list)
    is_copied: bool = False
    """Started a second time elsewhere; not again, or two workers that fail in turn would try it for ever."""


class _Driver:
    """State of one run_slides call."""

    def __init__(
        self,
        rows: Sequence[CatalogRow],
        config: RunConfig,
        crew: WorkerPool,
        ledger: DriverJournal,
        tally: Tally,
        display: Display,
    ) -> None:
        self._config = config
        self._crew = crew
        self._ledger = ledger
        self._tally = tally
        self._display = display
        self._flights: dict[str, _InFlight] = {}
        self._blame: dict[str, float] = ledger.blame()
        # What lost its workers before comes last: first in turn, it would be in work whenever something strikes.
        self._waiting = Waiting(sorted(rows, key=lambda row: row.slide_id in self._blame))
        workers = config.workers
        self._judge = Judge(
            max_tries=workers.max_tries, alike_slides=workers.alike_slides, alike_share=workers.alike_share
        )
        self._roots = Roots(self._judge, self._waiting, config, display.say)
        self._given_up: dict[tuple[str, str | None], int] = {}
        self._seconds: deque[float] = deque(maxlen=1000)
        self._silent_since_s: float | None = None
        self._outwaited = 0
        self._told_of_other = self._told_of_unused_gpus = False
        self._patience = PlacementTimeout(config.workers, display.say)
        self._metrics = DriverMetrics(ledger.run_url)
        self._alarm = CommitAlarm(config.watch.alarm_minutes)
        self._counted_s = time.monotonic()

    def is_done(self, stopping: bool) -> bool:
        """Nothing in flight, and nothing more to start."""
        return not self._flights and (stopping or not self._waiting)

    def step(self, stopping: bool) -> None:
        """One turn: workers hired, slides sent, news taken in, progress shown."""
        self._crew.release_draining()
        if not stopping:
            self._crew.hire(len(self._waiting) + len(self._flights))
            self._patience.check(self._crew.waiting, ready=self._crew.ready)
        self._dispatch(stopping)
        for answer in self._crew.wait():
            self._take(answer)
        fault, self._crew.start_fault = self._crew.start_fault, None
        if fault is not None and not self._has_patience(str(fault)):
            raise fault
        self._crew.watch()
        self._roots.tend()
        if not self._flights:
            self._roots.check_patience(self._tally)
        self._stop_if_alike()
        self._count_held()
        self._tally.in_progress = len(self._flights)
        states = self._crew.states
        self._metrics.show(self._tally, states)
        self._display.update(self._tally, states)
        alike = next(self._judge.alike(), None)
        self._ledger.beat(
            self._tally,
            self._flights,
            out=self._roots.out,
            alike="" if alike is None else str(alike),
            stopping=stopping,
        )
        if self._alarm.goes_off():
            self._display.say(
                f"no slide was committed for watch.alarm_minutes = {self._config.watch.alarm_minutes:g}: "
                f"{len(self._flights):,} in flight on {self._crew.ready:,} workers; `fossilray status` and `fossilray "
                "failures` say more"
            )
        self._tell_of_unused_gpus()
        other = self._ledger.other_driver
        if other is not None and not self._told_of_other:
            self._told_of_other = True
            self._display.say(
                f"another driver gave a sign of life on this run at {other.beat_at}; if it still runs, both work on "
                "the same slides, each of which is committed once"
            )

    def say_alike(self) -> None:
        """One line for each exception that several slides failed by."""
        for alike in self._judge.alike():
            self._display.say(f"{alike}; `fossilray failures RUN --traceback` shows more")

    def _tell_of_unused_gpus(self) -> None:
        if self._crew.without_gpu and not self._told_of_unused_gpus:
            self._told_of_unused_gpus = True
            self._display.say(
                f"worker {self._crew.without_gpu[0]} holds a GPU and runs on the CPU; see with `fossilray doctor` "
                "whether PyTorch finds the GPU of that machine, or set workers.device=cpu"
            )

    def _count_held(self) -> None:
        """Hours of what workers hold, since this was last asked."""
        now = time.monotonic()
        hours, self._counted_s = (now - self._counted_s) / 3600, now
        self._tally.workers = self._crew.ready
        self._tally.core_hours += hours * self._crew.ready * self._config.workers.cpus_per_worker
        self._tally.gpu_hours += hours * self._crew.ready_on_gpu * self._config.workers.gpus_per_worker

    def _dispatch(self, stopping: bool) -> None:
        """Slides to idle workers; at the tail stragglers twice, and workers back to the cluster."""
        while self._crew.idle and not stopping:
            seat = self._crew.idle[-1]
            row = self._waiting.take(seat)
            if row is None:
                break
            self._send(seat, row, self._waiting.promise(seat))
        if self._waiting and not stopping:
            return
        straggler = self._straggler()
        if straggler is not None and self._crew.idle:
            straggler.is_copied = True
            self._send(self._crew.idle[-1], straggler.row, None)
        self._crew.give_back(keep=1)

    def _send(self, seat: ActorHandle, row: CatalogRow, upcoming: CatalogRow | None) -> None:
        flight = self._flights.setdefault(row.slide_id, _InFlight(row, time.monotonic()))
        flight.seats.append(seat)
        self._crew.send(seat, row, upcoming)

    def _straggler(self) -> _InFlight | None:
        if len(self._seconds) < 3:
            return None
        slow_s = STRAGGLER_FACTOR * statistics.median(self._seconds)
        alone = [
            flight for flight in self._flights.values() if len(flight.seats) == 1 and not flight.is_copied
        ]
        oldest = min(alone, key=lambda flight: flight.started_s, default=None)
        return oldest if oldest is not None and time.monotonic() - oldest.started_s > slow_s else None

    def _take(self, answer: SlideResult) -> None:
        flight = self._flights.get(answer.slide_id)
        if answer.loss is not None:
            self._waiting.release(answer.seat)
        if flight is None:  # its copy has settled the slide
            return
        flight.seats.remove(answer.seat)
        if isinstance(answer.error, StoreOut):
            if not self._outwait(flight, str(answer.error)):
                raise answer.error
        elif answer.error is not None:
            raise answer.error
        elif answer.loss is not None:
            self._take_loss(flight, answer.loss)
        elif answer.raised is not None:
            failure = self._ledger.raised(answer.slide_id, answer.raised)
            self._settle(flight, Outcome(answer.slide_id, failure=failure))
        elif answer.outcome is not None:
            self._settle(flight, answer.outcome)

    def _settle(self, flight: _InFlight, outcome: Outcome) -> None:
        if outcome.failure is not None:
            if not flight.seats:  # else its copy may still succeed
                self._take_failure(flight, outcome.failure)
            return
        self._silent_since_s, self._outwaited = None, 0
        self._judge.succeeded(flight.row.slide_id, flight.row.path, began_s=flight.started_s)
        if outcome.summary is not None:
            self._seconds.append(time.monotonic() - flight.started_s)
            self._ledger.committed(outcome.summary, submitted=outcome.submitted)
            self._tally.objects += outcome.summary.objects
        elif outcome.answered is not None:
            self._seconds.append(time.monotonic() - flight.started_s)
            self._tally.objects += outcome.answered
        self._metrics.committed(outcome.summary)
        self._alarm.committed()
        # With neither another attempt, of this driver or of another one, committed the slide first.
        self._tally.committed += 1
        del self._flights[flight.row.slide_id]

    def _take_failure(self, flight: _InFlight, failure: Failure) -> None:
        slide_id, path = failure.slide_id, flight.row.path
        verdict = self._judge.failed(failure, path, began_s=flight.started_s, now_s=time.monotonic())
        if verdict is Verdict.HELD:
            self._roots.tend()
            self._again(flight, wait_s=0.0)
        elif verdict is Verdict.AGAIN:
            self._again(flight, wait_s=self._backoff_s(slide_id, max(1, self._judge.tries(slide_id))))
        else:
            quarantined = verdict is Verdict.QUARANTINED or failure.quarantined
            kind = (failure.error, failure.place)
            self._give_up(flight, failure.message, kind=kind, quarantined=quarantined)
            self._metrics.failed(failure.error, quarantined=quarantined)
            if verdict is Verdict.QUARANTINED:
                self._ledger.quarantined(failure)
            else:
                self._ledger.failed(failure)

    def _stop_if_alike(self) -> None:
        """A fault that fails slide after slide is the program's; going on would quarantine them all."""
        alike = self._judge.too_many_alike()
        if alike is None:
            return
        self._ledger.forgive(self._judge.failures_of(alike))
        self._ledger.beat(self._tally, self._flights, out=self._roots.out, alike=str(alike))
        raise SlidesFailAlike(
            f"{alike}; the job stops, because more than workers.alike_share = {self._config.workers.alike_share:g} of "
            "its slides do. This is likely a fault of the program or of its installation: `fossilray failures RUN "
            "--traceback` shows where; report it, and start the same command again with it mended or with other "
            "settings, which tries these slides again"
        )

    def _take_loss(self, flight: _InFlight, loss: WorkerLoss) -> None:
        slide_id = flight.row.slide_id
        self._metrics.lost_worker(loss.error)
        # A share that is mounted hard and goes away holds its readers for ever.
        root = (
            self._judge.stalled(slide_id, flight.row.path, loss.reason, now_s=time.monotonic())
            if loss.error == "Stalled"
            else None
        )
        if root is not None:
            self._ledger.lost(
                slide_id,
                error="SourceOut",
                reason=loss.reason,
                stage=loss.stage,
                quarantined=False,
                root=root,
            )
            self._roots.tend()
            if not flight.seats:
                self._again(flight, wait_s=0.0)
            return
        blame = self._blame[slide_id] = self._blame.get(slide_id, 0.0) + self._ledger.weight(loss.error)
        # A sum of thirds may fall short of a whole by a rounding.
        quarantined = blame > self._config.workers.max_deaths - 1e-6
        self._ledger.lost(
            slide_id, error=loss.error, reason=loss.reason, stage=loss.stage, quarantined=quarantined
        )
        if flight.seats:
            return
        if quarantined:
            why = f"quarantined, its workers were lost again and again ({loss.reason})"
            self._give_up(flight, why, kind=(loss.error, None), quarantined=True)
            self._metrics.failed(loss.error, quarantined=True)
        else:
            self._again(flight, wait_s=0.0)

    def _outwait(self, flight: _InFlight, why: str) -> bool:
        """Requeue the slide while the run's store is out, for up to store.patience_minutes.

        False once the job's patience is at an end.
        """
        if not self._has_patience(why):
            return False
        self._outwaited += 1
        if not flight.seats:
            # As many slides as there are workers come back together, so it is rounds that double the wait.
            rounds = 1 + self._outwaited // max(1, self._crew.ready)
            self._again(flight, wait_s=self._backoff_s(flight.row.slide_id, min(rounds, 5)))
        return True

    def _has_patience(self, why: str) -> bool:
        """Whether the run's store has not been out for too long yet."""
        now = time.monotonic()
        if self._silent_since_s is None:
            self._silent_since_s = now
            self._display.say(f"{why}; trying again for {self._config.store.patience_minutes:g} minutes")
        return now - self._silent_since_s <= self._config.store.patience_minutes * 60

    def _again(self, flight: _InFlight, *, wait_s: float) -> None:
        del self._flights[flight.row.slide_id]
        self._tally.retried += 1
        self._waiting.add(flight.row, wait_s=wait_s)

    def _give_up(
        self, flight: _InFlight, why: str, *, kind: tuple[str, str | None], quarantined: bool
    ) -> None:
        """kind: what slides that fail alike have in common; after a few of them the rest is only counted."""
        del self._flights[flight.row.slide_id]
        self._tally.failed += 1
        self._tally.quarantined += quarantined
        told = self._given_up[kind] = self._given_up.get(kind, 0) + 1
        if kind[1] is None or told <= TOLD_ALIKE:
            self._display.say(f"{flight.row.slide_id}: {why}")
        elif told == TOLD_ALIKE + 1:
            self._display.say(
                f"more slides fail alike, by {kind[0]} at {kind[1]}; they are counted at the end"
            )

    def _backoff_s(self, slide_id: str, tries: int) -> float:
        """Doubles with every try; differs from slide to slide, lest all that failed at once return at once."""
        variety = 0.5 + zlib.crc32(f"{slide_id} {tries}".encode()) / 2**32
        return min(LONGEST_WAIT_S, self._config.workers.retry_after_s * 2.0 ** (tries - 1)) * variety
