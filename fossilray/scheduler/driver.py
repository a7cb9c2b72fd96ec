"""The driver of the slide job: slides to ready workers, one at a time, through the death of any of them.

Pixels never pass through Ray: a worker gets a catalog row and returns an Outcome of a few hundred bytes;
everything else goes between the worker and the store.
"""

from __future__ import annotations

import heapq
import statistics
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fossilray.config import RunConfig
from fossilray.errors import StoreForbids, StoreUnreachable
from fossilray.ledger import Ledger
from fossilray.progress import CommitAlarm, Display, Tally
from fossilray.records import CatalogRow, Failure, Outcome, Worker
from fossilray.scheduler.crew import Answer, Crew, Loss, Seat
from fossilray.scheduler.metrics import DriverMetrics
from fossilray.scheduler.patience import Patience

STRAGGLER_FACTOR = 3.0
"""At the tail a slide that runs this many times the median is started again elsewhere."""
OUTAGE_SLIDES = 4
"""So many slides, one after the other and no other between them, whose own store fails are no fault of theirs."""
OUTAGES = frozenset(("SourceUnreachable", "SourceRefuses"))
"""`error` of failures that the store of the slides is to blame for, if it is not one slide alone."""
LONGEST_WAIT_S = 600.0
"""Waits before another try double up to this."""


def run_slides(
    rows: Sequence[CatalogRow],
    make_worker: Callable[[], Worker],
    *,
    config: RunConfig,
    ledger: Ledger,
    tally: Tally,
    display: Display,
    stop: threading.Event | None = None,
) -> Tally:
    """The tally after every row was committed, failed or quarantined; needs a Ray connection.

    `stop` set: no slide is started any more, those in flight end, and the tally says what is left.

    Raises:
        WorkerError: workers die while starting, find no machine for workers.patience_minutes, or one raised what is
            not a slide's own fault.
        StoreError: the store refuses, or does not answer for longer than store.patience_minutes.
        FossilrayError: what a worker raised while it prepared (weights, store).
    """
    crew = Crew(make_worker, config.workers, run=ledger.run_url)
    driver = _Driver(rows, config, crew, ledger, tally, display)
    try:
        while not driver.is_done(stop is not None and stop.is_set()):
            driver.step(stop is not None and stop.is_set())
    finally:
        crew.dismiss_all()
        ledger.close(tally)
    return tally


@dataclass
class _Flight:
    """A slide on its way, possibly on two workers at once."""

    row: CatalogRow
    started_s: float
    seats: list[Seat] = field(default_factory=list)


class _Waiting:
    """Slides that nobody has begun: in turn, promised to a busy worker, or due only after a while."""

    def __init__(self, rows: Sequence[CatalogRow]) -> None:
        self._turn: deque[CatalogRow] = deque(rows)
        self._promised: dict[Seat, CatalogRow] = {}
        self._later: list[tuple[float, str, CatalogRow]] = []

    def __len__(self) -> int:
        return len(self._turn) + len(self._promised) + len(self._later)

    def add(self, row: CatalogRow, *, wait_s: float) -> None:
        if wait_s:
            heapq.heappush(self._later, (time.monotonic() + wait_s, row.slide_id, row))
        else:
            self._turn.append(row)

    def take(self, seat: Seat) -> CatalogRow | None:
        """The slide promised to this worker, else the next in turn, else one that a busy worker was promised."""
        self._wake()
        if seat in self._promised:
            return self._promised.pop(seat)
        if self._turn:
            return self._turn.popleft()
        return self._promised.popitem()[1] if self._promised else None

    def promise(self, seat: Seat) -> CatalogRow | None:
        """Set aside for a worker that turns busy the slide that it shall fetch meanwhile, if it must be fetched."""
        if not self._turn or "://" not in self._turn[0].path:
            return None
        return self._promised.setdefault(seat, self._turn.popleft())

    def release(self, seat: Seat) -> None:
        """What was promised to a worker that is gone is the next in turn."""
        if seat in self._promised:
            self._turn.appendleft(self._promised.pop(seat))

    def _wake(self) -> None:
        while self._later and self._later[0][0] <= time.monotonic():
            self._turn.append(heapq.heappop(self._later)[2])


class _Driver:
    """State of one run_slides call."""

    def __init__(
        self,
        rows: Sequence[CatalogRow],
        config: RunConfig,
        crew: Crew,
        ledger: Ledger,
        tally: Tally,
        display: Display,
    ) -> None:
        self._config = config
        self._crew = crew
        self._ledger = ledger
        self._tally = tally
        self._display = display
        self._flights: dict[str, _Flight] = {}
        self._blame: dict[str, float] = ledger.blame()
        # What lost its workers before comes last: first in turn, it would be in work whenever something strikes.
        self._waiting = _Waiting(sorted(rows, key=lambda row: row.slide_id in self._blame))
        self._tries: dict[str, int] = {}
        self._seconds: deque[float] = deque(maxlen=1000)
        self._silent_since_s: float | None = None
        self._outwaited = 0
        self._unfetched: set[str] = set()
        self._told_of_other = self._told_of_unused_gpus = False
        self._patience = Patience(config.workers, display.say)
        self._metrics = DriverMetrics(ledger.run_url)
        self._alarm = CommitAlarm(config.watch.alarm_minutes)
        self._counted_s = time.monotonic()

    def is_done(self, stopping: bool) -> bool:
        """Nothing in flight, and nothing more to start."""
        return not self._flights and (stopping or not self._waiting)

    def step(self, stopping: bool) -> None:
        """One turn: workers hired, slides sent, news taken in, progress shown."""
        if not stopping:
            self._crew.hire(len(self._waiting) + len(self._flights))
            self._patience.check(self._crew.waiting, ready=self._crew.ready)
        self._dispatch(stopping)
        for answer in self._crew.wait():
            self._take(answer)
        self._crew.watch()
        self._count_held()
        states = self._crew.states
        self._metrics.show(self._tally, states, in_flight=len(self._flights))
        self._display.update(self._tally, states)
        self._ledger.beat(self._tally, self._flights)
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
            self._send(self._crew.idle[-1], straggler.row, None)
        self._crew.give_back(keep=1)

    def _send(self, seat: Seat, row: CatalogRow, upcoming: CatalogRow | None) -> None:
        flight = self._flights.setdefault(row.slide_id, _Flight(row, time.monotonic()))
        flight.seats.append(seat)
        self._crew.send(seat, row, upcoming)

    def _straggler(self) -> _Flight | None:
        if len(self._seconds) < 3:
            return None
        slow_s = STRAGGLER_FACTOR * statistics.median(self._seconds)
        alone = [flight for flight in self._flights.values() if len(flight.seats) == 1]
        oldest = min(alone, key=lambda flight: flight.started_s, default=None)
        return oldest if oldest is not None and time.monotonic() - oldest.started_s > slow_s else None

    def _take(self, answer: Answer) -> None:
        flight = self._flights.get(answer.slide_id)
        if answer.loss is not None:
            self._waiting.release(answer.seat)
        if flight is None:  # its copy has settled the slide
            return
        flight.seats.remove(answer.seat)
        if isinstance(answer.error, (StoreUnreachable, StoreForbids)):
            if not self._outwait(flight, str(answer.error)):
                raise answer.error
        elif answer.error is not None:
            raise answer.error
        elif answer.loss is not None:
            self._take_loss(flight, answer.loss)
        elif answer.outcome is not None:
            self._settle(flight, answer.outcome)

    def _settle(self, flight: _Flight, outcome: Outcome) -> None:
        if outcome.failure is not None:
            if not flight.seats:  # else its copy may still succeed
                self._take_failure(flight, outcome.failure)
            return
        self._silent_since_s, self._outwaited = None, 0
        self._unfetched.clear()
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

    def _take_failure(self, flight: _Flight, failure: Failure) -> None:
        slide_id = flight.row.slide_id
        if failure.error in OUTAGES:
            self._unfetched.add(slide_id)
            if len(self._unfetched) >= OUTAGE_SLIDES and self._outwait(flight, failure.message):
                return
        tries = self._tries[slide_id] = self._tries.get(slide_id, 0) + 1
        if failure.transient and tries < self._config.workers.max_tries:
            self._again(flight, wait_s=self._backoff_s(slide_id, tries))
            return
        self._give_up(flight, failure.message)
        self._metrics.failed(failure.error, quarantined=failure.quarantined)
        self._ledger.failed(failure)

    def _take_loss(self, flight: _Flight, loss: Loss) -> None:
        slide_id = flight.row.slide_id
        self._metrics.lost_worker(loss.error)
        blame = self._blame[slide_id] = self._blame.get(slide_id, 0.0) + self._ledger.weight(loss.error)
        # A sum of thirds may fall short of a whole by a rounding.
        quarantined = blame > self._config.workers.max_deaths - 1e-6
        self._ledger.lost(
            slide_id, error=loss.error, reason=loss.reason, stage=loss.stage, quarantined=quarantined
        )
        if flight.seats:
            return
        if quarantined:
            self._give_up(flight, f"quarantined, its workers were lost again and again ({loss.reason})")
            self._metrics.failed(loss.error, quarantined=True)
        else:
            self._again(flight, wait_s=0.0)

    def _outwait(self, flight: _Flight, why: str) -> bool:
        """A store that keeps silent or refuses us for a while is nobody's fault: the slide waits, and the job too.

        False once the job's patience is at an end.
        """
        now = time.monotonic()
        if self._silent_since_s is None:
            self._silent_since_s = now
            self._display.say(f"{why}; trying again for {self._config.store.patience_minutes:g} minutes")
        if now - self._silent_since_s > self._config.store.patience_minutes * 60:
            return False
        self._outwaited += 1
        if not flight.seats:
            # As many slides as there are workers come back together, so it is rounds that double the wait.
            rounds = 1 + self._outwaited // max(1, self._crew.ready)
            self._again(flight, wait_s=self._backoff_s(flight.row.slide_id, min(rounds, 5)))
        return True

    def _again(self, flight: _Flight, *, wait_s: float) -> None:
        del self._flights[flight.row.slide_id]
        self._tally.retried += 1
        self._waiting.add(flight.row, wait_s=wait_s)

    def _give_up(self, flight: _Flight, why: str) -> None:
        del self._flights[flight.row.slide_id]
        self._tally.failed += 1
        self._display.say(f"{flight.row.slide_id}: {why}")

    def _backoff_s(self, slide_id: str, tries: int) -> float:
        """Doubles with every try; differs from slide to slide, lest all that failed at once return at once."""
        variety = 0.5 + zlib.crc32(f"{slide_id} {tries}".encode()) / 2**32
        return min(LONGEST_WAIT_S, self._config.workers.retry_after_s * 2.0 ** (tries - 1)) * variety
