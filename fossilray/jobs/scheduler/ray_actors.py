"""Workers as Ray actors."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from fossilray.core.config import WorkersConfig
from fossilray.core.records import Outcome, WorkItem
from fossilray.core.worker import Worker, WorkerStatus
from fossilray.jobs.scheduler.actors import ActorHandle, ActorLoss, CallHandle, CallResult
from fossilray.jobs.scheduler.connection import is_private
from fossilray.jobs.scheduler.metrics import WorkerMetrics
from fossilray.jobs.scheduler.resources import ResourceRequest, cluster_nodes

DRAINING_EVERY_S = 2.0
"""Interval of requests for the draining nodes; a cloud gives two minutes' notice at least."""


class RayActors:
    """The ActorSystem over the connected Ray cluster. run: URL of the run, a label of the workers' metrics."""

    def __init__(self, make_worker: Callable[[], Worker], workers: WorkersConfig, run: str) -> None:
        hides_gpus = workers.device == "cpu" or not workers.gpus_per_worker
        self._arguments = (ray.put(make_worker), run, hides_gpus)
        self._class = _remote_class()
        self._draining_s = -1e9
        self._draining: frozenset[str] = frozenset()

    @property
    def is_private(self) -> bool:
        return is_private()

    def nodes(self) -> Sequence[Mapping[str, float]]:
        return cluster_nodes()

    def draining_nodes(self) -> frozenset[str]:
        """Return the ids of draining nodes; the only node of a private Ray never drains."""
        if time.monotonic() - self._draining_s > DRAINING_EVERY_S:
            self._draining_s = time.monotonic()
            # Ray has no public call for it.
            state: Any = ray._private.state.state
            self._draining = frozenset() if self.is_private else frozenset(state.get_draining_nodes())
        return self._draining

    def start(self, request: ResourceRequest) -> ActorHandle:
        return self._class.options(**request.options()).remote(*self._arguments)

    def call(self, actor: ActorHandle, method: str, *arguments: Any) -> CallHandle:
        return getattr(actor, method).remote(*arguments)

    def wait(
        self, calls: Sequence[CallHandle], *, count: int = 1, timeout_s: float = 0.0
    ) -> list[CallHandle]:
        ended, _ = ray.wait(list(calls), num_returns=count, timeout=timeout_s)
        if len(ended) == count < len(calls):
            ended, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        return list(ended)

    def result(self, call: CallHandle) -> CallResult:
        try:
            return CallResult(ray.get(call))
        except RayTaskError as error:
            return CallResult(exception=error.cause, traceback=str(error))
        except RayError as error:
            is_unreachable = isinstance(error, ActorUnavailableError)
            return CallResult(loss=ActorLoss(_loss_class(error), _reason(error), is_unreachable))

    def kill(self, actor: ActorHandle) -> None:
        ray.kill(actor, no_restart=True)


class _WorkerActor:
    """A worker inside a Ray actor; `state` runs at the same time as `process`."""

    def __init__(self, make_worker: Callable[[], Worker], run: str, hides_gpus: bool) -> None:
        if hides_gpus:
            # Ray leaves a machine's GPUs visible to actors that reserved none.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._make_worker = make_worker
        self._worker: Worker | None = None
        self._metrics = WorkerMetrics(run)

    def prepare(self) -> tuple[str, str]:
        """Make and prepare the worker; return its name and the id of its node."""
        # Not in __init__: an exception there would reach the driver as a death without its class.
        worker = self._make_worker()
        name = worker.prepare()
        self._worker = worker
        return name, ray.get_runtime_context().get_node_id()

    def process(self, item: WorkItem, upcoming: WorkItem | None) -> Outcome:
        assert self._worker is not None
        outcome = self._worker.process(item, upcoming)
        self._metrics.record_outcome(outcome)
        return outcome

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()

    @ray.method(concurrency_group="watch")
    def state(self) -> WorkerStatus | None:
        status = self._worker.state() if self._worker else None
        self._metrics.update(status)
        return status


def _remote_class() -> Any:
    remote: Any = ray.remote  # its type stubs lack concurrency_groups
    return remote(
        max_restarts=0,
        max_task_retries=0,
        # Ray's head would keep records of 100,000 tasks, 4 kB each; the run directory has what users need.
        enable_task_events=False,
        concurrency_groups={"watch": 1},
    )(_WorkerActor)


def _loss_class(error: RayError) -> str:
    """NodeDied where the machine went and took its workers, else WorkerDied."""
    text = str(error)
    return "NodeDied" if getattr(error, "preempted", False) or "node has died" in text else "WorkerDied"


def _reason(error: RayError) -> str:
    """The line of Ray's message that names a cause, else its first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if "because" in line), lines[0]).partition(" Some common causes")[0][
        :400
    ]
