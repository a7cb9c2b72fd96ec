"""The state of a driver, as it writes it to the run directory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Heartbeat:
    """State of a driver, written to the store every 30 s for `fossilray status`."""

    driver_id: str
    started_at: str
    beat_at: str
    """UTC, ISO 8601. A driver whose heartbeat is much older than 30 s has ended or died."""
    total: int
    committed: int
    """Includes slides that were committed before this driver started."""
    failed: int
    objects: int
    slides_per_hour: float
    workers: int
    in_flight: tuple[str, ...]
    """slide_ids of the slides in progress."""
    ended: bool = False
    """True in the last heartbeat: the driver finished, was stopped, or gave up."""
    gpu_hours: float = 0.0
    """GPUs times hours that its workers held, busy or idle; a worker with a share of a GPU counts that share."""
    core_hours: float = 0.0
    per_gpu_hour: float | None = None
    """Prices in force, from the driver's configuration."""
    per_core_hour: float | None = None
    currency: str = ""
    out: tuple[str, ...] = ()
    """A sentence for each unreachable folder, bucket or run directory that the job waits for."""
    alike: str = ""
    """A sentence about a failure that many slides of this job share; empty if there is none."""
    host: str = ""
    pid: int = 0
    stopping: bool = False
    """The driver has a request to stop: slides in progress finish, and no other is started."""
    boot: str = ""
    """Id of the boot of the driver's machine; like the next two fields, empty in older runs and where unknown."""
    pid_namespace: str = ""
    """PID namespace to which `pid` belongs."""
    process_start: str = ""
    """Start time of the process in kernel ticks, which distinguishes it from a later process with the same pid."""
