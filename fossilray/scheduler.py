"""The driver of the slide job: slides to ready Ray actors, one at a time, through the death of any of them.

The only home of Ray in the slide job. Pixels never pass through Ray: an actor gets a catalog row and
returns an Outcome of a few hundred bytes; everything else goes between the actor and the store.
"""

from __future__ import annotations

import contextlib
import logging
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from fossilray.config import WorkersConfig
from fossilray.errors import FossilrayError, WorkerError
from fossilray.ledger import Ledger
from fossilray.progress import Display, Tally
from fossilray.records import CatalogRow, Outcome, Worker, WorkerState

STRAGGLER_FACTOR = 3.0
"""At the tail a slide that runs this many times the median is started again elsewhere."""
STARTS_LOST_IN_A_ROW = 5
"""Workers that may die while starting, one after the other, before the job gives up."""
OBJECT_STORE_BYTES = 128 * 1024**2
"""Nothing larger than an Outcome passes through it."""
WORKER_BYTES = 3 * 1024**3
"""Memory that one CPU worker may need."""


@contextlib.contextmanager
def ray_cluster(address: str) -> Iterator[None]:
    """A connection to a running cluster, or with `local` a private Ray on this machine, closed afterwards."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address == "local":
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
        )
    else:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def run_slides(
    rows: Sequence[CatalogRow],
    make_worker: Callable[[], Worker],
    *,
    workers: WorkersConfig,
    ledger: Ledger,
    tally: Tally,
    display: Display,
    stop: threading.Event | None = None,
) -> Tally:
    """The tally after every row was committed, failed or quarantined; needs a Ray connection.

    `stop` set: no slide is started any more, those in flight end, and the tally says what is left.

    Raises:
        WorkerError: workers die while starting, or a worker raised what is not a slide's own fault.
        FossilrayError: what a worker raised while it prepared (weights, store).
    """
    driver = _Driver(make_worker, workers, ledger, tally, display)
    driver.queue.extend(rows)
    try:
        while not driver.is_done(stop is not None and stop.is_set()):
            driver.hire()
            driver.dispatch(stop is not None and stop.is_set())
            driver.collect()
            driver.show()
    finally:
        driver.dismiss_all()
    return tally


def workers_that_fit(workers: WorkersConfig) -> int:
    """How many workers to run: the configured count, else as many as the connected cluster holds; at least 1."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus, cpus = resources.get("GPU", 0.0), resources.get("CPU", 1.0)
    if workers.count is not None:
        fit = workers.count
    elif gpus and workers.gpus_per_worker:
        fit = int(gpus / workers.gpus_per_worker + 1e-9)
    else:
        fit = min(
            int(cpus / workers.cpus_per_worker), int(resources.get("memory", WORKER_BYTES) / WORKER_BYTES)
        )
    return max(1, fit)


@dataclass
class _Flight:
    """A slide on its way, possibly on two actors at once."""

    row: CatalogRow
    started_s: float
    actors: list[Any] = field(default_factory=list)


class _Actor:
    """A worker inside a Ray actor; `state` answers while `process` runs."""

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        self._make_worker = make_worker
        self._worker: Worker | None = None

    def prepare(self) -> str:
        # Not in __init__: an error there would reach the driver as a death without its class.
        worker = self._make_worker()
        name = worker.prepare()
        self._worker = worker
        return name

    def process(self, row: CatalogRow) -> Outcome:
        assert self._worker is not None
        return self._worker.process(row)

    @ray.method(concurrency_group="watch")
    def state(self) -> WorkerState | None:
        return self._worker.state() if self._worker else None


class _Driver:
    """State of one run_slides call."""

    def __init__(
        self,
        make_worker: Callable[[], Worker],
        workers: WorkersConfig,
        ledger: Ledger,
        tally: Tally,
        display: Display,
    ) -> None:
        self.queue: deque[CatalogRow] = deque()
        self._flights: dict[str, _Flight] = {}
        self._workers = workers
        self._ledger = ledger
        self._tally = tally
        self._display = display
        self._make_worker = ray.put(make_worker)
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, str]] = {}
        self._names: dict[Any, str] = {}
        self._deaths: dict[str, int] = ledger.deaths()
        self._tries: dict[str, int] = {}
        self._seconds: deque[float] = deque(maxlen=1000)
        self._lost_starts = 0
        self._watch: dict[Any, Any] = {}
        self._states: dict[str, WorkerState] = {}
        self._watched_s = 0.0
        self._sized_s, self._fit = -1e9, 1
        self._actor_class = self._remote_class()

    def is_done(self, stopping: bool) -> bool:
        """Nothing in flight, and nothing more to start."""
        return not self._flights and (stopping or not self.queue)

    def hire(self) -> None:
        """Ask for actors in waves, so that a pending one brings a node and a thousand do not."""
        if time.monotonic() - self._sized_s > 5.0:
            self._sized_s, self._fit = time.monotonic(), workers_that_fit(self._workers)
        wanted = min(self._fit, len(self.queue) + len(self._flights))
        alive = len(self._starting) + len(self._idle) + len(self._busy)
        wave = max(4, len(self._idle) + len(self._busy))
        for _ in range(min(wanted - alive, wave - len(self._starting))):
            if not self.queue:
                return
            actor = self._actor_class.remote(self._make_worker)
            self._starting[actor.prepare.remote()] = actor

    def dispatch(self, stopping: bool) -> None:
        """Slides to idle actors; at the tail stragglers twice, and actors back to the cluster."""
        while self._idle and self.queue and not stopping:
            self._send(self.queue.popleft(), self._idle.pop())
        if self.queue and not stopping:
            return
        straggler = self._straggler()
        if straggler is not None and self._idle:
            self._send(straggler.row, self._idle.pop())
        while len(self._idle) > 1:
            self._dismiss(self._idle.pop())

    def collect(self) -> None:
        """Wait a moment for news, then take in all there is."""
        pending = [*self._busy, *self._starting]
        if not pending:
            time.sleep(0.05)
            return
        ready, _ = ray.wait(pending, num_returns=1, timeout=0.25, fetch_local=True)
        if len(ready) == 1 and len(pending) > 1:
            ready, _ = ray.wait(pending, num_returns=len(pending), timeout=0, fetch_local=True)
        for answer in ready:
            if answer in self._starting:
                self._take_start(answer)
            else:
                self._take_outcome(answer)

    def show(self) -> None:
        """Refresh the display and, once a second, ask busy actors what they do."""
        answered = (
            ray.wait(list(self._watch), num_returns=len(self._watch), timeout=0)[0] if self._watch else []
        )
        for answer in answered:
            actor = self._watch.pop(answer)
            with contextlib.suppress(RayActorError):
                state = ray.get(answer)
                if state is not None and actor in self._names:
                    self._states[self._names[actor]] = state
        if time.monotonic() - self._watched_s > 1.0 and not self._watch:
            self._watched_s = time.monotonic()
            for actor, _slide_id in list(self._busy.values())[:16]:
                self._watch[actor.state.remote()] = actor
        self._tally.workers = len(self._idle) + len(self._busy)
        self._display.update(self._tally, self._states)
        self._ledger.beat(
            self._tally, {slide_id: flight.row.path for slide_id, flight in self._flights.items()}
        )

    def dismiss_all(self) -> None:
        """Kill whatever still runs; what it had not committed is as if it had never begun."""
        for actor in [*self._idle, *self._starting.values(), *(actor for actor, _ in self._busy.values())]:
            self._dismiss(actor)
        self._ledger.close(self._tally)

    def _remote_class(self) -> Any:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        remote: Any = ray.remote  # its stubs know nothing of concurrency_groups
        return remote(
            num_cpus=self._workers.cpus_per_worker,
            num_gpus=self._workers.gpus_per_worker if resources.get("GPU") else 0,
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={"watch": 1},
        )(_Actor)

    def _send(self, row: CatalogRow, actor: Any) -> None:
        flight = self._flights.setdefault(row.slide_id, _Flight(row, time.monotonic()))
        flight.actors.append(actor)
        self._busy[actor.process.remote(row)] = (actor, row.slide_id)

    def _straggler(self) -> _Flight | None:
        if len(self._seconds) < 3:
            return None
        slow_s = STRAGGLER_FACTOR * statistics.median(self._seconds)
        alone = [flight for flight in self._flights.values() if len(flight.actors) == 1]
        oldest = min(alone, key=lambda flight: flight.started_s, default=None)
        return oldest if oldest is not None and time.monotonic() - oldest.started_s > slow_s else None

    def _take_start(self, answer: Any) -> None:
        actor = self._starting.pop(answer)
        try:
            self._names[actor] = ray.get(answer)
        except RayTaskError as error:
            raise _own_error(error, "a worker could not prepare") from None
        except RayActorError as error:
            self._lost_starts += 1
            if self._lost_starts >= STARTS_LOST_IN_A_ROW:
                raise WorkerError(
                    f"{self._lost_starts} workers in a row died while starting ({_reason(error)}); "
                    "run `fossilray doctor` on that machine and look for too little memory"
                ) from None
            return
        self._lost_starts = 0
        self._idle.append(actor)

    def _take_outcome(self, answer: Any) -> None:
        actor, slide_id = self._busy.pop(answer)
        flight = self._flights.get(slide_id)
        self._states.pop(self._names.get(actor, ""), None)
        try:
            outcome = ray.get(answer)
        except RayTaskError as error:
            raise _own_error(error, f"slide {slide_id}") from None
        except RayActorError as error:
            self._names.pop(actor, None)
            if flight is not None:
                flight.actors.remove(actor)
                self._count_death(flight, _reason(error))
            return
        self._idle.append(actor)
        if flight is not None:
            flight.actors.remove(actor)
            self._settle(flight, outcome)

    def _settle(self, flight: _Flight, outcome: Outcome) -> None:
        slide_id = flight.row.slide_id
        if outcome.summary is not None:
            self._seconds.append(time.monotonic() - flight.started_s)
            self._ledger.committed(outcome.summary)
            self._tally.committed += 1
            self._tally.objects += outcome.summary.objects
        elif outcome.failure is not None:
            if flight.actors:
                return  # its copy may still succeed
            self._tries[slide_id] = self._tries.get(slide_id, 0) + 1
            if outcome.failure.transient and self._tries[slide_id] < self._workers.max_tries:
                self._again(flight)
                return
            self._tally.failed += 1
            self._ledger.failed(outcome.failure)
            self._display.say(f"{slide_id}: {outcome.failure.message}")
        else:  # somebody else committed it first
            self._tally.committed += 1
        del self._flights[slide_id]

    def _count_death(self, flight: _Flight, reason: str) -> None:
        slide_id = flight.row.slide_id
        self._deaths[slide_id] = self._deaths.get(slide_id, 0) + 1
        is_last = self._deaths[slide_id] >= self._workers.max_deaths
        self._ledger.worker_died(slide_id, reason, quarantined=is_last)
        if flight.actors:
            return
        if not is_last:
            self._again(flight)
            return
        del self._flights[slide_id]
        self._tally.failed += 1
        self._display.say(
            f"{slide_id}: quarantined, it killed its worker {self._deaths[slide_id]} times ({reason})"
        )

    def _again(self, flight: _Flight) -> None:
        del self._flights[flight.row.slide_id]
        self._tally.retried += 1
        self.queue.append(flight.row)

    def _dismiss(self, actor: Any) -> None:
        self._names.pop(actor, None)
        ray.kill(actor, no_restart=True)


def _own_error(error: RayTaskError, where: str) -> FossilrayError:
    cause = error.cause
    if isinstance(cause, FossilrayError):
        return cause
    return WorkerError(
        f"{where}: {type(cause).__name__}: {cause}; this is a fault of fossilray, please report it\n{error}"
    )


def _reason(error: RayActorError) -> str:
    """The first line of Ray's account, and the last where that names an exception."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0] if len(lines) == 1 or "Error" not in lines[-1] else f"{lines[0]} … {lines[-1]}"
