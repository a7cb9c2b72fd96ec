"""The part that the jobs over slides, stored slides and shards share: from a list of items to a JobResult."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fossilray.core.config import RunConfig
from fossilray.core.records import Failure, WorkItem
from fossilray.core.worker import Worker
from fossilray.jobs.journal import DriverJournal
from fossilray.jobs.progress import Display, Tally
from fossilray.jobs.scheduler import ray_cluster, run_items
from fossilray.store.run.attempts import AttemptLog
from fossilray.store.run.slide_states import SlideCounts

STOPPED, SOME_FAILED = 3, 4
"""Exit codes of jobs; those of errors are in errors.py, and docs/cluster/faults.md lists them all."""


@dataclass(frozen=True)
class JobResult:
    """The end of a job: its tally, and everything that failed for good in this job or before it."""

    tally: Tally
    failures: tuple[Failure, ...]
    stopped: bool
    """The job was stopped before every item was started."""
    counts: SlideCounts
    """Slides of the whole run by state after the job, which may have been given a part of them."""
    missing_sites: str | None = None
    notes: tuple[str, ...] = ()
    """Sentences on the catalog: what was passed over, merged, or is there twice."""
    """A sentence about slides without a well or a depth."""
    folder: str | None = None
    """Folder of the results, where it is not the one that the job was given."""

    @property
    def exit_code(self) -> int:
        """0: every item is committed or recorded as failed; 3: stopped before that; 4: nothing was committed."""
        tally = self.tally
        nothing = not tally.already_committed + tally.committed and tally.total + tally.rejected
        return STOPPED if self.stopped else SOME_FAILED if nothing else 0

    @property
    def strict_exit_code(self) -> int:
        """The same, and 4 where any item failed."""
        return SOME_FAILED if self.failures and not self.stopped else self.exit_code


def run_on_ray(
    items: Sequence[WorkItem],
    make_worker: Callable[[], Worker],
    *,
    address: str | None,
    config: RunConfig,
    journal: DriverJournal,
    tally: Tally,
    display: Display,
    stop: threading.Event | None = None,
) -> None:
    """Process items on a Ray cluster; without items nothing is started.

    address: `local` for a private Ray, else a cluster's; None: this process is connected.

    Raises:
        WorkerError, StoreError, SlidesFailAlike, SourcesOut: the job cannot continue; commits stay.
    """
    if not items:
        return
    with contextlib.nullcontext() if address is None else ray_cluster(address), display:
        run_items(items, make_worker, config=config, journal=journal, tally=tally, display=display, stop=stop)


def run_derived_job(
    items: Sequence[WorkItem],
    make_worker: Callable[[], Worker],
    *,
    attempts: AttemptLog,
    already_committed: int,
    unit: str,
    address: str,
    config: RunConfig,
    display: Display,
    stop: threading.Event | None = None,
) -> JobResult:
    """Process items whose results are derived from runs; items that failed before are tried again.

    attempts: where failures and heartbeats are written. already_committed: items of the job that need no work.
    unit: what messages call an item.

    Raises:
        WorkerError, StoreError: the job cannot continue; commits stay.
    """
    attempts.clear_failures(attempts.failures())
    tally = Tally(total=already_committed + len(items), already_committed=already_committed, unit=unit)
    journal = DriverJournal(
        attempts, patience_minutes=config.store.patience_minutes, cost=config.cost, unit=unit
    )
    run_on_ray(
        items,
        make_worker,
        address=address,
        config=config,
        journal=journal,
        tally=tally,
        display=display,
        stop=stop,
    )
    return JobResult(
        tally, tuple(journal.failures), stopped=tally.finished < tally.total, counts=tally.counts
    )
