"""Workers that find no machine: told to the user, and the end of a job that has no other."""

from __future__ import annotations

import time
from collections.abc import Callable

from ray.exceptions import RayError

from fossilray.core.config import WorkersConfig
from fossilray.core.errors import WorkerError
from fossilray.jobs.scheduler.autoscaler import autoscaler_status
from fossilray.jobs.scheduler.pending_workers import Waiting
from fossilray.jobs.scheduler.resources import ResourceRequest, cluster_nodes, describe_capacity

TOLD_AFTER_S = 60.0
"""A wait for machines longer than this is told, or longer than half of the job's patience."""


class PlacementTimeout:
    """How long a job has waited for machines. say: shows a line to the user."""

    def __init__(self, workers: WorkersConfig, say: Callable[[str], None]) -> None:
        self._minutes = workers.patience_minutes
        self._say = say
        self._last_worker_s = time.monotonic()
        self._told_s = -1e9

    def check(self, waiting: Waiting, *, ready: int) -> None:
        """Tell what is waited for, once it takes long and again once per patience; ready: workers there are.

        Raises:
            WorkerError: there has been no worker, not even one that prepares, for all of the patience.
        """
        now, patience_s = time.monotonic(), self._minutes * 60
        if ready or waiting.placed:
            self._last_worker_s = now
        if not waiting.count:
            return
        alone_s = now - max(self._last_worker_s, waiting.since_s)
        if alone_s > patience_s:
            raise WorkerError(
                f"no machine for a worker within workers.patience_minutes = {self._minutes:g}: {_facts(waiting)}; add "
                "such machines or ask for less (workers.device, accelerator, cpus_per_worker, gpus_per_worker, "
                "resources), and start the same command again"
            )
        if now - waiting.since_s > min(TOLD_AFTER_S, patience_s / 2) and now - self._told_s > patience_s:
            self._told_s = now
            rest = (
                f"the job goes on with {ready + waiting.placed}"
                if ready or waiting.placed
                else f"without any, the job stops in {(patience_s - alone_s) / 60:.1f} minutes"
            )
            who = "1 worker waits" if waiting.count == 1 else f"{waiting.count} workers wait"
            self._say(f"{who} for a machine: {_facts(waiting)}; {rest}")


def _facts(waiting: Waiting) -> str:
    """What was asked, what there is, and what may come."""
    present = cluster_nodes()
    fitting = sum(map(waiting.demand.is_met_by, present))
    has = (
        f"{fitting} of the cluster's {len(present)} machines have that and are taken"
        if fitting
        else f"none of the cluster's {len(present)} machines has that (the most there is: {describe_capacity(present)})"
    )
    return f"each asks for {waiting.demand}; {has}; {_outlook(waiting.demand)}"


def _outlook(demand: ResourceRequest) -> str:
    try:
        return autoscaler_status(demand)
    except (RayError, OSError, RuntimeError) as error:
        return f"its autoscaler cannot be asked ({type(error).__name__})"
