"""The workers of a job: requested in waves, given one item at a time, polled, stopped and lost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from fossilray.core.config import WorkersConfig
from fossilray.core.errors import FossilrayError, StoreOut, WorkerError
from fossilray.core.exception_summary import ExceptionSummary, summarise_remote_exception
from fossilray.core.records import Outcome, WorkItem
from fossilray.core.worker import WorkerStatus
from fossilray.jobs.scheduler.actors import ActorHandle, ActorSystem, CallHandle, CallResult
from fossilray.jobs.scheduler.pending_workers import PendingStatus, PendingWorkers

STARTS_LOST_IN_A_ROW = 5
"""Workers that may die while starting, one after the other, before the job fails."""
STATUS_REQUESTS = 16
"""Status requests that are open at the same time; the remaining workers follow in turn."""
STATUS_EVERY_S = 1.0
CLOSING_S = 5.0
"""Time for idle workers to delete their staged files; the next worker on the machine deletes what is left."""


@dataclass(frozen=True)
class WorkerLoss:
    """A worker that was lost with its item. `error` is a key of LOSS_WEIGHTS of the journal."""

    error: str
    reason: str
    stage: str


@dataclass(frozen=True)
class ItemResult:
    """The end of one item on one worker: an outcome, a lost worker, an error of the job, or any other exception."""

    actor: ActorHandle
    key: str
    outcome: Outcome | None = None
    loss: WorkerLoss | None = None
    error: FossilrayError | None = None
    exception: ExceptionSummary | None = None


@dataclass
class _Task:
    """The item of a busy worker, and when the worker was last seen to make progress."""

    actor: ActorHandle
    key: str
    progressed_s: float
    status: WorkerStatus | None = None


class WorkerPool:
    """All workers of one job."""

    def __init__(self, actors: ActorSystem, workers: WorkersConfig) -> None:
        self.idle: list[ActorHandle] = []
        self.without_gpu: list[str] = []
        """Workers that hold a GPU and report the CPU as their device."""
        self.start_error: StoreOut | None = None
        """Error of a worker that could not prepare because the store was out; the driver clears it."""
        self._actors = actors
        self._workers = workers
        self._pending = PendingWorkers(actors, workers)
        self._busy: dict[CallHandle, _Task] = {}
        self._names: dict[ActorHandle, str] = {}
        self._nodes: dict[ActorHandle, str] = {}
        self._stop_reasons: dict[ActorHandle, WorkerLoss] = {}
        self._status_requests: dict[CallHandle, CallHandle] = {}
        """Open requests, each with the `process` call of its worker."""
        self._requested_s = 0.0
        self._lost_starts = 0

    @property
    def ready(self) -> int:
        """Number of workers that are idle or busy."""
        return len(self.idle) + len(self._busy)

    @property
    def ready_on_gpu(self) -> int:
        """Number of ready workers whose name states a GPU as device."""
        return sum(name.endswith("/cuda") for name in self._names.values())

    @property
    def states(self) -> dict[str, WorkerStatus]:
        """Last status of each busy worker, by the worker's name."""
        return {
            self._names[task.actor]: task.status
            for task in self._busy.values()
            if task.status is not None and task.actor in self._names
        }

    @property
    def pending(self) -> PendingStatus:
        """Status of the workers that were requested and are not ready."""
        return self._pending.status

    def request_workers(self, items: int) -> None:
        """Request workers for this many items, in waves.

        Raises:
            WorkerError: a worker does not fit on this machine, and no other machine can join.
        """
        self._pending.request(items, ready=self.ready)

    def submit(self, actor: ActorHandle, item: WorkItem, upcoming: WorkItem | None) -> None:
        """Give an idle worker an item, and the item that it will likely get next."""
        self.idle.remove(actor)
        call = self._actors.call(actor, "process", item, upcoming)
        self._busy[call] = _Task(actor, item.key, time.monotonic())

    def collect(self) -> list[ItemResult]:
        """Wait up to 0.25 s for results; workers that have prepared become idle.

        Raises:
            WorkerError: several workers in a row died while starting.
            FossilrayError: an error that a worker raised while it prepared (weights, store).
        """
        calls = [*self._busy, *self._pending.calls]
        if not calls:
            time.sleep(0.05)
            return []
        results = []
        for call in self._actors.wait(calls, timeout_s=0.25):
            if call in self._pending:
                self._finish_start(call)
            else:
                results.append(self._finish_item(call))
        return results

    def poll_status(self) -> None:
        """Request the status of busy workers once a second; stop those without progress or over the memory limit."""
        now = time.monotonic()
        self._read_status(now)
        if now - self._requested_s < STATUS_EVERY_S:
            return
        self._requested_s = now
        self._pending.poll_placements()
        open_requests = set(self._status_requests.values())
        # Workers are requested in turn, least recently requested first: a job may have a thousand.
        due = [call for call in self._busy if call not in open_requests]
        for call in due[: max(0, STATUS_REQUESTS - len(self._status_requests))]:
            task = self._busy.pop(call)
            self._busy[call] = task
            self._status_requests[self._actors.call(task.actor, "state")] = call
        for task in self._busy.values():
            self._check_worker(task, now)

    def release_idle(self, *, keep: int) -> None:
        """Return all idle workers but `keep` to the cluster."""
        released, self.idle = self.idle[keep:], self.idle[:keep]
        self._close_and_kill(released)

    def release_draining(self) -> None:
        """Release idle workers on draining nodes: an item started there would be started again elsewhere."""
        draining = self._actors.draining_nodes()
        released = [actor for actor in self.idle if self._nodes.get(actor) in draining]
        if released:
            self.idle = [actor for actor in self.idle if actor not in released]
            self._close_and_kill(released)

    def shutdown(self) -> None:
        """Stop all workers; uncommitted work is lost."""
        self._close_and_kill(self.idle)
        self._pending.shutdown()
        for task in self._busy.values():
            self._kill(task.actor)

    def _finish_start(self, call: CallHandle) -> None:
        actor, request = self._pending.pop(call)
        result = self._actors.result(call)
        if result.loss is not None:
            if result.loss.error == "NodeDied":
                return
            self._lost_starts += 1
            if self._lost_starts >= STARTS_LOST_IN_A_ROW:
                raise WorkerError(
                    f"{self._lost_starts} workers in a row died while starting ({result.loss.reason}); "
                    "run `fossilray doctor` on that machine and look for too little memory"
                )
            return
        if result.exception is not None:
            error = _as_job_error(result)
            if not isinstance(error, StoreOut):
                raise error from None
            self.start_error = error
            self._kill(actor)
            return
        name, self._nodes[actor] = result.value
        self._names[actor] = name
        self._lost_starts = 0
        self.idle.append(actor)
        if request.gpus and name.endswith("/cpu"):
            self.without_gpu.append(name)

    def _finish_item(self, call: CallHandle) -> ItemResult:
        task = self._busy.pop(call)
        actor, key = task.actor, task.key
        result = self._actors.result(call)
        if result.loss is not None:
            stage = task.status.stage if task.status is not None else "worker"
            loss = WorkerLoss(result.loss.error, result.loss.reason, stage)
            if result.loss.is_unreachable:
                # It may still run; what it commits counts, and it gets no further item.
                self._actors.kill(actor)
            self._forget(actor)
            return ItemResult(actor, key, loss=self._stop_reasons.pop(actor, None) or loss)
        self.idle.append(actor)
        if isinstance(result.exception, FossilrayError):
            return ItemResult(actor, key, error=result.exception)
        if result.exception is not None:
            summary = summarise_remote_exception(result.exception, result.traceback)
            return ItemResult(actor, key, exception=summary)
        return ItemResult(actor, key, outcome=result.value)

    def _read_status(self, now: float) -> None:
        requests = list(self._status_requests)
        if not requests:
            return
        for request in self._actors.wait(requests, count=len(requests)):
            task = self._busy.get(self._status_requests.pop(request))
            status: WorkerStatus | None = self._actors.result(request).value
            if task is not None and status is not None and status.slide_id == task.key:
                if task.status is None or _has_progressed(task.status, status):
                    task.progressed_s = now
                task.status = status
        # A worker that does not reply has one open request until _check_worker finds it stalled.
        for request, call in list(self._status_requests.items()):
            if call not in self._busy:
                del self._status_requests[request]

    def _check_worker(self, task: _Task, now: float) -> None:
        """Kill a worker that has stalled or holds too much memory, and keep the reason."""
        if task.actor in self._stop_reasons:
            return
        stage = task.status.stage if task.status is not None else "worker"
        limit_bytes = (self._workers.memory_gb or 0) * 1e9
        if limit_bytes and task.status is not None and task.status.resident_bytes > limit_bytes:
            reason = WorkerLoss(
                "MemoryExceeded",
                f"{task.status.resident_bytes / 1e9:.1f} GB in stage {stage}, more than workers.memory_gb = "
                f"{self._workers.memory_gb:g}",
                stage,
            )
        elif now - task.progressed_s > self._workers.stall_minutes * 60:
            reason = WorkerLoss(
                "Stalled",
                f"no progress in stage {stage} for workers.stall_minutes = {self._workers.stall_minutes:g}",
                stage,
            )
        else:
            return
        self._stop_reasons[task.actor] = reason
        self._actors.kill(task.actor)

    def _close_and_kill(self, actors: Sequence[ActorHandle]) -> None:
        """Give idle workers time to delete their staged files, then kill them."""
        closing = [self._actors.call(actor, "close") for actor in actors]
        if closing:
            self._actors.wait(closing, count=len(closing), timeout_s=CLOSING_S)
        for actor in actors:
            self._kill(actor)

    def _kill(self, actor: ActorHandle) -> None:
        self._forget(actor)
        self._actors.kill(actor)

    def _forget(self, actor: ActorHandle) -> None:
        self._names.pop(actor, None)
        self._nodes.pop(actor, None)


def _has_progressed(before: WorkerStatus, now: WorkerStatus) -> bool:
    return (before.stage, before.share, before.fetched_bytes) != (now.stage, now.share, now.fetched_bytes)


def _as_job_error(result: CallResult) -> FossilrayError:
    """The error that ends the job because a worker could not prepare."""
    error = result.exception
    if isinstance(error, FossilrayError):
        return error
    return WorkerError(
        f"a worker could not prepare: {type(error).__name__}: {error}; this is a fault of fossilray, please report "
        f"it\n{result.traceback}"
    )
