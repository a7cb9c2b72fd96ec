"""The workers of a job as Ray actors: started in waves, sent one slide at a time, watched, and lost."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from fossilray.core.config import WorkersConfig
from fossilray.core.errors import FossilrayError, StoreOut, WorkerError
from fossilray.core.exception_summary import ExceptionSummary, summarise_remote_exception
from fossilray.core.records import CatalogRow, Outcome, Worker, WorkerStatus
from fossilray.jobs.scheduler.connection import Departures
from fossilray.jobs.scheduler.metrics import WorkerMetrics
from fossilray.jobs.scheduler.pending_workers import PendingWorkers, Waiting

STARTS_LOST_IN_A_ROW = 5
"""Workers that may die while starting, one after the other, before the job gives up."""
WATCHED_AT_ONCE = 16
"""Workers asked at the same time what they do; the others' turn comes with the next question."""
CLOSING_S = 5.0
"""How long idle workers may take to delete what they staged; what is left is swept by the next worker there."""

ActorHandle: TypeAlias = Any
"""An actor's handle, for those who only pass it on."""


@dataclass(frozen=True)
class WorkerLoss:
    """A worker that is gone with the slide it had. `error` is one of LOSSES of the ledger."""

    error: str
    reason: str
    stage: str


@dataclass(frozen=True)
class SlideResult:
    """How a worker's slide ended: an outcome, the worker's loss, an error of the job, or any other exception."""

    seat: ActorHandle
    slide_id: str
    outcome: Outcome | None = None
    loss: WorkerLoss | None = None
    error: FossilrayError | None = None
    raised: ExceptionSummary | None = None


class _Actor:
    """A worker inside a Ray actor; `state` answers while `process` runs."""

    def __init__(self, make_worker: Callable[[], Worker], run: str, hide_gpus: bool) -> None:
        if hide_gpus:
            # Ray leaves the GPUs of the machine in sight of those who reserved none.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._make_worker = make_worker
        self._worker: Worker | None = None
        self._metrics = WorkerMetrics(run)

    def prepare(self) -> tuple[str, str]:
        """The worker's name and the id of its node."""
        # Not in __init__: an error there would reach the driver as a death without its class.
        worker = self._make_worker()
        name = worker.prepare()
        self._worker = worker
        return name, ray.get_runtime_context().get_node_id()

    def process(self, row: CatalogRow, upcoming: CatalogRow | None) -> Outcome:
        assert self._worker is not None
        outcome = self._worker.process(row, upcoming)
        self._metrics.took(outcome)
        return outcome

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()

    @ray.method(concurrency_group="watch")
    def state(self) -> WorkerStatus | None:
        state = self._worker.state() if self._worker else None
        self._metrics.show(state)
        return state


@dataclass
class _Task:
    """What a busy worker has in hand, and when it last was seen to move."""

    seat: ActorHandle
    slide_id: str
    moved_s: float
    state: WorkerStatus | None = None


class WorkerPool:
    """All workers of one job; needs a Ray connection."""

    def __init__(self, make_worker: Callable[[], Worker], workers: WorkersConfig, *, run: str = "") -> None:
        self.idle: list[ActorHandle] = []
        self.without_gpu: list[str] = []
        """Workers that hold a GPU and say that they run on the CPU."""
        self.start_fault: StoreOut | None = None
        """Why a worker could not prepare, while the store was out; the driver takes it."""
        self._workers = workers
        self._hiring = PendingWorkers(_Actor, (ray.put(make_worker), run, _hides_gpus(workers)), workers)
        self._busy: dict[Any, _Task] = {}
        self._names: dict[ActorHandle, str] = {}
        self._nodes: dict[ActorHandle, str] = {}
        self._departures = Departures()
        self._verdicts: dict[ActorHandle, WorkerLoss] = {}
        self._questions: dict[Any, Any] = {}
        self._asked_s = 0.0
        self._lost_starts = 0

    @property
    def ready(self) -> int:
        """Workers that are idle or busy."""
        return len(self.idle) + len(self._busy)

    @property
    def ready_on_gpu(self) -> int:
        """Of these, workers whose name says that they run on a GPU."""
        return sum(name.endswith("/cuda") for name in self._names.values())

    @property
    def states(self) -> dict[str, WorkerStatus]:
        """What busy workers were doing when they were last asked, by worker."""
        return {
            self._names[task.seat]: task.state
            for task in self._busy.values()
            if task.state is not None and task.seat in self._names
        }

    @property
    def waiting(self) -> Waiting:
        """How those stand that were asked for."""
        return self._hiring.waiting

    def hire(self, slides: int) -> None:
        """Ask for workers for so many slides, in waves.

        Raises:
            WorkerError: a worker does not fit on this machine, and no other can come.
        """
        self._hiring.hire(slides, ready=self.ready)

    def send(self, seat: ActorHandle, row: CatalogRow, upcoming: CatalogRow | None) -> None:
        """Give an idle worker a slide, and the name of the one that likely comes next."""
        self.idle.remove(seat)
        self._busy[seat.process.remote(row, upcoming)] = _Task(seat, row.slide_id, time.monotonic())

    def wait(self) -> list[SlideResult]:
        """Wait a moment for news: the slides that ended, while new workers turn idle.

        Raises:
            WorkerError: workers die while starting.
            FossilrayError: what a worker raised while it prepared (weights, store).
        """
        pending = [*self._busy, *self._hiring.references]
        if not pending:
            time.sleep(0.05)
            return []
        ready, _ = ray.wait(pending, num_returns=1, timeout=0.25, fetch_local=True)
        if len(ready) == 1 and len(pending) > 1:
            ready, _ = ray.wait(pending, num_returns=len(pending), timeout=0, fetch_local=True)
        answers = []
        for reference in ready:
            if reference in self._hiring:
                self._take_start(reference)
            else:
                answers.append(self._take_answer(reference))
        return answers

    def watch(self) -> None:
        """Once a second ask busy workers what they do; stop those that do not move or hold too much memory."""
        now = time.monotonic()
        self._take_states(now)
        if now - self._asked_s < 1.0:
            return
        self._asked_s = now
        self._hiring.look()
        asked = {question[0] for question in self._questions.values()}
        # Those that were asked longest ago come first: a job of a thousand workers asks each in turn.
        waiting = [reference for reference in self._busy if reference not in asked]
        for reference in waiting[: max(0, WATCHED_AT_ONCE - len(self._questions))]:
            task = self._busy.pop(reference)
            self._busy[reference] = task
            self._questions[task.seat.state.remote()] = (reference, now)
        for task in self._busy.values():
            self._judge(task, now)

    def give_back(self, *, keep: int) -> None:
        """Return idle workers to the cluster, all but `keep`."""
        leaving, self.idle = self.idle[keep:], self.idle[:keep]
        self._part_from(leaving)

    def release_draining(self) -> None:
        """Release idle workers whose machine is about to go: a slide started there would be started again elsewhere."""
        draining = self._departures.nodes
        leaving = [seat for seat in self.idle if self._nodes.get(seat) in draining]
        if leaving:
            self.idle = [seat for seat in self.idle if seat not in leaving]
            self._part_from(leaving)

    def dismiss_all(self) -> None:
        """Kill whatever still runs; what it had not committed is as if it had never begun."""
        self._part_from(self.idle)
        self._hiring.dismiss_all()
        for task in self._busy.values():
            self._dismiss(task.seat)

    def _take_start(self, reference: Any) -> None:
        seat, demand = self._hiring.take(reference)
        try:
            name, self._nodes[seat] = ray.get(reference)
            self._names[seat] = name
        except RayTaskError as error:
            fault = _own_error(error, "a worker could not prepare")
            if not isinstance(fault, StoreOut):
                raise fault from None
            self.start_fault = fault
            self._dismiss(seat)
            return
        except RayError as error:
            if _kind(error) == "NodeDied":
                return
            self._lost_starts += 1
            if self._lost_starts >= STARTS_LOST_IN_A_ROW:
                raise WorkerError(
                    f"{self._lost_starts} workers in a row died while starting ({_reason(error)}); "
                    "run `fossilray doctor` on that machine and look for too little memory"
                ) from None
            return
        self._lost_starts = 0
        self.idle.append(seat)
        if demand.gpus and name.endswith("/cpu"):
            self.without_gpu.append(name)

    def _take_answer(self, reference: Any) -> SlideResult:
        task = self._busy.pop(reference)
        seat, slide_id = task.seat, task.slide_id
        try:
            outcome = ray.get(reference)
        except RayTaskError as error:
            self.idle.append(seat)
            if isinstance(error.cause, FossilrayError):
                return SlideResult(seat, slide_id, error=error.cause)
            return SlideResult(seat, slide_id, raised=summarise_remote_exception(error.cause, str(error)))
        except RayError as error:
            stage = task.state.stage if task.state is not None else "worker"
            loss = self._verdicts.pop(seat, None) or WorkerLoss(_kind(error), _reason(error), stage)
            if isinstance(error, ActorUnavailableError):
                # It may still be at work where nobody reaches it; what it commits stands, but it gets nothing more.
                self._kill(seat)
            self._forget(seat)
            return SlideResult(seat, slide_id, loss=loss)
        self.idle.append(seat)
        return SlideResult(seat, slide_id, outcome=outcome)

    def _take_states(self, now: float) -> None:
        if not self._questions:
            return
        answered, _ = ray.wait(list(self._questions), num_returns=len(self._questions), timeout=0)
        for question in answered:
            reference, _ = self._questions.pop(question)
            with contextlib.suppress(RayError):
                state = ray.get(question)
                task = self._busy.get(reference)
                if task is not None and state is not None and state.slide_id == task.slide_id:
                    if task.state is None or _moved(task.state, state):
                        task.moved_s = now
                    task.state = state
        # A worker that is stuck so that it does not even answer is not asked again; _judge sees it stand still.
        for question, (reference, _) in list(self._questions.items()):
            if reference not in self._busy:
                del self._questions[question]

    def _judge(self, task: _Task, now: float) -> None:
        if task.seat in self._verdicts:
            return
        stage = task.state.stage if task.state is not None else "worker"
        limit_bytes = (self._workers.memory_gb or 0) * 1e9
        if now - task.moved_s > self._workers.stall_minutes * 60:
            verdict = WorkerLoss(
                "Stalled",
                f"no progress in stage {stage} for workers.stall_minutes = {self._workers.stall_minutes:g}",
                stage,
            )
        elif limit_bytes and task.state is not None and task.state.resident_bytes > limit_bytes:
            verdict = WorkerLoss(
                "MemoryExceeded",
                f"{task.state.resident_bytes / 1e9:.1f} GB in stage {stage}, more than workers.memory_gb = "
                f"{self._workers.memory_gb:g}",
                stage,
            )
        else:
            return
        self._verdicts[task.seat] = verdict
        self._kill(task.seat)

    def _part_from(self, seats: Sequence[ActorHandle]) -> None:
        """Let idle workers give back what they hold, and kill them."""
        closing = [seat.close.remote() for seat in seats]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSING_S)
        for seat in seats:
            self._dismiss(seat)

    def _dismiss(self, seat: ActorHandle) -> None:
        self._forget(seat)
        self._kill(seat)

    def _forget(self, seat: ActorHandle) -> None:
        self._names.pop(seat, None)
        self._nodes.pop(seat, None)

    def _kill(self, seat: ActorHandle) -> None:
        ray.kill(seat, no_restart=True)


def _hides_gpus(workers: WorkersConfig) -> bool:
    """Whether the configuration keeps workers from GPUs that their machine may have."""
    return workers.device == "cpu" or not workers.gpus_per_worker


def _moved(before: WorkerStatus, now: WorkerStatus) -> bool:
    return (before.stage, before.share, before.fetched_bytes) != (now.stage, now.share, now.fetched_bytes)


def _own_error(error: RayTaskError, where: str) -> FossilrayError:
    cause = error.cause
    if isinstance(cause, FossilrayError):
        return cause
    return WorkerError(
        f"{where}: {type(cause).__name__}: {cause}; this is a fault of fossilray, please report it\n{error}"
    )


def _kind(error: RayError) -> str:
    """Whether a slide may be to blame: a machine that goes away takes whatever it had."""
    text = str(error)
    return "NodeDied" if getattr(error, "preempted", False) or "node has died" in text else "WorkerDied"


def _reason(error: RayError) -> str:
    """The line of Ray's account that names a cause, else its first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if "because" in line), lines[0]).partition(" Some common causes")[0][
        :400
    ]
