"""Interface between a scheduler and its workers: the items that they process, and the state that they report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fossilray.core.records import Outcome, WorkItem


@dataclass(frozen=True)
class WorkerStatus:
    """State of a worker: its slide, the stage, and the share of the stage that is done (0 to 1)."""

    slide_id: str
    stage: str
    share: float
    resident_bytes: int = 0
    """Resident memory of the worker's process; 0 where it is unknown."""
    fetched_bytes: int = 0
    """Bytes of slides that this worker has downloaded so far; 0 except during a download."""
    waiting_reads: int = 0
    """Windows, or groups of crops, that wait for a reading thread."""
    waiting_batches: int = 0
    """Batches of pixels that wait for a network. If this is always 0, the networks wait for pixels."""


class Worker(Protocol):
    """Processes the items of a job, one instance per process; the scheduler calls it."""

    def prepare(self) -> str:
        """Load models. Return the name under which the worker is shown."""
        ...

    def process(self, item: WorkItem, upcoming: WorkItem | None = None) -> Outcome:
        """Process an item from start to commit; `upcoming` likely comes next and may be downloaded meanwhile."""
        ...

    def state(self) -> WorkerStatus | None:
        """The current state of `process`; called from another thread."""
        ...

    def close(self) -> None:
        """Release resources on the machine, such as staged slides; no item follows."""
        ...
