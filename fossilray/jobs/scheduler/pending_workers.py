"""Workers that were requested and are not ready: waiting for a node, or loading models."""

from __future__ import annotations

import time
from dataclasses import dataclass

from fossilray.core.config import WorkersConfig
from fossilray.core.errors import WorkerError
from fossilray.jobs.scheduler.actors import ActorHandle, ActorSystem, CallHandle
from fossilray.jobs.scheduler.resources import (
    ResourceRequest,
    count_workers,
    describe_capacity,
    have_gpu,
    resources_for,
)

MIN_WAVE = 4
"""Workers that may be pending at any time; as many as are ready, once those are more."""
NODES_EVERY_S = 5.0
"""Interval at which the list of nodes is read again: nodes join and leave."""


@dataclass(frozen=True)
class PendingStatus:
    """Status of the pending workers at one moment. Times are those of time.monotonic()."""

    request: ResourceRequest
    unplaced: int
    """Workers without a machine."""
    since_s: float
    """Time of the oldest request that is unplaced."""
    preparing: int
    """Workers that have a machine and prepare on it."""


@dataclass
class _Start:
    actor: ActorHandle
    request: ResourceRequest
    requested_s: float
    placement: CallHandle | None
    """Ends when the worker runs on a machine; None once it does."""


class PendingWorkers:
    """The pending workers of one job, each by its `prepare` call."""

    def __init__(self, actors: ActorSystem, workers: WorkersConfig) -> None:
        self._actors = actors
        self._workers = workers
        self._starts: dict[CallHandle, _Start] = {}
        self._gpus_seen = False
        self._nodes_read_s = -1e9
        self._capacity = 1
        self._request = resources_for(workers, gpus_seen=False)

    def __len__(self) -> int:
        return len(self._starts)

    def __contains__(self, call: object) -> bool:
        return call in self._starts

    @property
    def calls(self) -> list[CallHandle]:
        """The `prepare` call of each worker."""
        return list(self._starts)

    @property
    def status(self) -> PendingStatus:
        """The status as of the last `poll_placements`."""
        times = [start.requested_s for start in self._starts.values() if start.placement is not None]
        return PendingStatus(
            self._request, len(times), min(times, default=time.monotonic()), len(self._starts) - len(times)
        )

    def request(self, items: int, *, ready: int) -> None:
        """Request workers for this many items; cancel unplaced workers that exceed them.

        Requests come in waves: a pending worker makes an autoscaler add a node, and a thousand would make it add
        a thousand nodes.

        Raises:
            WorkerError: a worker does not fit on this machine, and no other machine can join.
        """
        if time.monotonic() - self._nodes_read_s > NODES_EVERY_S:
            self._read_nodes()
        missing = min(self._capacity, items) - ready - len(self._starts)
        if missing < 0:
            self._cancel_surplus(-missing)
        wave = max(MIN_WAVE, ready)
        for _ in range(min(missing, wave - len(self._starts))):
            actor = self._actors.start(self._request)
            prepare, placement = self._actors.call(actor, "prepare"), self._actors.call(actor, "state")
            self._starts[prepare] = _Start(actor, self._request, time.monotonic(), placement)

    def pop(self, call: CallHandle) -> tuple[ActorHandle, ResourceRequest]:
        """Remove the worker whose `prepare` has ended, and return it with the resources that it requested."""
        start = self._starts.pop(call)
        return start.actor, start.request

    def poll_placements(self) -> None:
        """Find out which workers have a machine by now."""
        unplaced = {start.placement: start for start in self._starts.values() if start.placement is not None}
        if unplaced:
            for placement in self._actors.wait(list(unplaced), count=len(unplaced)):
                unplaced[placement].placement = None

    def shutdown(self) -> None:
        """Cancel every pending worker."""
        for call in list(self._starts):
            self._cancel(call)

    def _read_nodes(self) -> None:
        self._nodes_read_s = time.monotonic()
        nodes = self._actors.nodes()
        # A GPU that has left, with a spot machine perhaps, is requested again: a worker without one is no substitute.
        self._gpus_seen = self._gpus_seen or have_gpu(nodes)
        self._request = resources_for(self._workers, gpus_seen=self._gpus_seen)
        self._capacity = count_workers(self._workers, self._request, nodes)
        if self._actors.is_private and not any(map(self._request.is_met_by, nodes)):
            raise WorkerError(
                f"a worker requests {self._request}, and this machine has {describe_capacity(nodes)}; request less "
                "(workers.device, workers.cpus_per_worker, workers.gpus_per_worker, workers.resources), or join a "
                "cluster with --address"
            )
        for call, start in list(self._starts.items()):
            if start.placement is not None and start.request != self._request:
                self._cancel(call)

    def _cancel_surplus(self, surplus: int) -> None:
        unplaced = [call for call, start in self._starts.items() if start.placement is not None]
        for call in unplaced[::-1][:surplus]:
            self._cancel(call)

    def _cancel(self, call: CallHandle) -> None:
        self._actors.kill(self._starts.pop(call).actor)
