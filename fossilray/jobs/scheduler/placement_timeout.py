"""Workers that find no machine: the user is informed, and a job without any worker fails."""

from __future__ import annotations

import time
from collections.abc import Callable

from ray.exceptions import RayError

from fossilray.core.config import WorkersConfig
from fossilray.core.errors import WorkerError
from fossilray.jobs.scheduler.autoscaler import autoscaler_status
from fossilray.jobs.scheduler.pending_workers import PendingStatus
from fossilray.jobs.scheduler.resources import ResourceRequest, cluster_nodes, describe_capacity

SHOWN_AFTER_S = 60.0
"""A wait is shown after this time, or after half of workers.patience_minutes where that is less."""


class PlacementTimeout:
    """The time that a job has waited for machines. show: shows a line to the user."""

    def __init__(self, workers: WorkersConfig, show: Callable[[str], None]) -> None:
        self._minutes = workers.patience_minutes
        self._show = show
        self._last_worker_s = time.monotonic()
        self._shown_s = -1e9

    def check(self, pending: PendingStatus, *, ready: int) -> None:
        """Show a long wait, once per workers.patience_minutes. ready: number of ready workers.

        Raises:
            WorkerError: no worker was ready or preparing for workers.patience_minutes.
        """
        now, limit_s = time.monotonic(), self._minutes * 60
        if ready or pending.preparing:
            self._last_worker_s = now
        if not pending.unplaced:
            return
        without_s = now - max(self._last_worker_s, pending.since_s)
        if without_s > limit_s:
            raise WorkerError(
                f"no machine for a worker within workers.patience_minutes = {self._minutes:g}: "
                f"{_describe(pending)}; add such machines or request less (workers.device, accelerator, "
                "cpus_per_worker, gpus_per_worker, resources), and start the same command again"
            )
        if now - pending.since_s > min(SHOWN_AFTER_S, limit_s / 2) and now - self._shown_s > limit_s:
            self._shown_s = now
            consequence = (
                f"the job continues with {ready + pending.preparing}"
                if ready or pending.preparing
                else f"without any, the job stops in {(limit_s - without_s) / 60:.1f} minutes"
            )
            who = "1 worker waits" if pending.unplaced == 1 else f"{pending.unplaced} workers wait"
            self._show(f"{who} for a machine: {_describe(pending)}; {consequence}")


def _describe(pending: PendingStatus) -> str:
    """The request, the machines that are there, and those that may come."""
    nodes = cluster_nodes()
    fitting = sum(map(pending.request.is_met_by, nodes))
    present = (
        f"{fitting} of the cluster's {len(nodes)} machines have that and are taken"
        if fitting
        else f"none of the cluster's {len(nodes)} machines has that (the most there is: {describe_capacity(nodes)})"
    )
    return f"each requests {pending.request}; {present}; {_describe_autoscaler(pending.request)}"


def _describe_autoscaler(request: ResourceRequest) -> str:
    try:
        return autoscaler_status(request)
    except (RayError, OSError, RuntimeError) as error:
        return f"its autoscaler does not reply ({type(error).__name__})"
