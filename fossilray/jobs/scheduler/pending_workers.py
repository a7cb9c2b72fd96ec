"""Workers on their way: asked for in waves, waiting for a machine, preparing; and those nobody needs any more."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from fossilray.core.config import WorkersConfig
from fossilray.core.errors import WorkerError
from fossilray.jobs.scheduler.connection import is_private
from fossilray.jobs.scheduler.resources import (
    ResourceRequest,
    cluster_nodes,
    count_workers,
    describe_capacity,
    have_gpu,
    resources_for,
)

MIN_WAVE = 4
"""So many workers may be on their way at any time, and as many as are ready once those are more."""
LOOK_EVERY_S = 5.0
"""How often the cluster is asked what machines it has: nodes come and go."""


@dataclass(frozen=True)
class Waiting:
    """How the workers stand that were asked for, at one moment. Times are those of time.monotonic()."""

    demand: ResourceRequest
    count: int
    """Workers for which no machine was found yet."""
    since_s: float
    """When the one of these was asked for that waits longest."""
    placed: int
    """Workers that have a machine and prepare on it."""


@dataclass
class _Start:
    seat: Any
    demand: ResourceRequest
    asked_s: float
    arrival: Any
    """Resolves once the worker runs somewhere; None when that is known."""


class PendingWorkers:
    """Workers that were asked for and are not ready; needs a Ray connection.

    actor: class of the actors, with `prepare`, and `state`, which answers meanwhile; arguments: of its constructor.
    """

    def __init__(self, actor: type, arguments: Sequence[Any], workers: WorkersConfig) -> None:
        self._workers = workers
        self._arguments = arguments
        self._starts: dict[Any, _Start] = {}
        self._gpus_seen = False
        self._looked_s = -1e9
        self._fit = 1
        self._demand = resources_for(workers, gpus_seen=False)
        self._actor_class = _remote_class(actor)

    def __len__(self) -> int:
        return len(self._starts)

    def __contains__(self, reference: object) -> bool:
        return reference in self._starts

    @property
    def references(self) -> list[Any]:
        """What `prepare` of each will return."""
        return list(self._starts)

    @property
    def waiting(self) -> Waiting:
        """Who waits for a machine, as far as `look` has seen."""
        times = [start.asked_s for start in self._starts.values() if start.arrival is not None]
        return Waiting(
            self._demand, len(times), min(times, default=time.monotonic()), len(self._starts) - len(times)
        )

    def hire(self, slides: int, *, ready: int) -> None:
        """Ask for workers for so many slides, in waves: a pending one brings a node, a thousand bring a storm.

        Those that still wait for a machine when there is nothing left for them to do are asked for no more.

        Raises:
            WorkerError: a worker does not fit on this machine, and no other can come.
        """
        if time.monotonic() - self._looked_s > LOOK_EVERY_S:
            self._look_at_cluster()
        missing = min(self._fit, slides) - ready - len(self._starts)
        if missing < 0:
            self._send_away(-missing)
        wave = max(MIN_WAVE, ready)
        for _ in range(min(missing, wave - len(self._starts))):
            seat = self._actor_class.options(**self._demand.options()).remote(*self._arguments)
            self._starts[seat.prepare.remote()] = _Start(
                seat, self._demand, time.monotonic(), seat.state.remote()
            )

    def take(self, reference: Any) -> tuple[Any, ResourceRequest]:
        """The worker that ended its preparation, well or not, and what it asked; it is no longer on its way."""
        start = self._starts.pop(reference)
        return start.seat, start.demand

    def look(self) -> None:
        """See which workers have found a machine."""
        arrivals = {start.arrival: start for start in self._starts.values() if start.arrival is not None}
        if not arrivals:
            return
        arrived, _ = ray.wait(list(arrivals), num_returns=len(arrivals), timeout=0)
        for arrival in arrived:
            arrivals[arrival].arrival = None

    def dismiss_all(self) -> None:
        """Nobody is on the way any more."""
        for reference in list(self._starts):
            self._dismiss(reference)

    def _look_at_cluster(self) -> None:
        self._looked_s = time.monotonic()
        present = cluster_nodes()
        # A GPU that left, with a spot machine perhaps, is asked for again: a worker without one is no substitute.
        self._gpus_seen = self._gpus_seen or have_gpu(present)
        self._demand = resources_for(self._workers, gpus_seen=self._gpus_seen)
        self._fit = count_workers(self._workers, self._demand, present)
        if is_private() and not any(map(self._demand.is_met_by, present)):
            raise WorkerError(
                f"a worker asks for {self._demand}, and this machine has {describe_capacity(present)}; ask for less "
                "(workers.device, workers.cpus_per_worker, workers.gpus_per_worker, workers.resources), or join a "
                "cluster with --address"
            )
        for reference, start in list(self._starts.items()):
            if start.arrival is not None and start.demand != self._demand:
                self._dismiss(reference)

    def _send_away(self, surplus: int) -> None:
        waiting = [reference for reference, start in self._starts.items() if start.arrival is not None]
        for reference in waiting[::-1][:surplus]:
            self._dismiss(reference)

    def _dismiss(self, reference: Any) -> None:
        ray.kill(self._starts.pop(reference).seat, no_restart=True)


def _remote_class(actor: type) -> Any:
    remote: Any = ray.remote  # its stubs know nothing of concurrency_groups
    return remote(
        max_restarts=0,
        max_task_retries=0,
        # Ray's head keeps an account of 100,000 tasks, 4 kB each; whoever wants to know asks our run directory.
        enable_task_events=False,
        concurrency_groups={"watch": 1},
    )(actor)
