"""The slide job from end to end: what `fossilray process` and `pipelines/process_slides.py` both run."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from fossilray.core.config import RunConfig
from fossilray.core.errors import CatalogError, RunNotFound
from fossilray.core.exception_summary import ExceptionSummary
from fossilray.core.records import UNASSIGNED_WELL, CatalogRow, Failure, RejectedFile, Worker
from fossilray.jobs.journal import DriverJournal, hold_as_only_driver
from fossilray.jobs.progress import Display, Tally
from fossilray.jobs.scheduler import ray_cluster, run_items
from fossilray.models.backbones.load import describes_without_loading
from fossilray.processing.worker import SlideWorker
from fossilray.slides.catalog import Catalog, describe_missing_sites, find_slides
from fossilray.slides.catalog.sites import keep_frozen_sites
from fossilray.slides.remote.scratch import delete_abandoned, scratch_root
from fossilray.store import RunStore, open_run
from fossilray.store.run.attempts import REJECTED_AT
from fossilray.store.run.run_record import RunRecord, describe_run
from fossilray.store.run.slide_states import SlideCounts, read_states

STOPPED, SOME_FAILED = 3, 4
"""Exit codes of jobs; those of errors are in errors.py, and docs/cluster/faults.md lists them all."""


@dataclass(frozen=True)
class JobResult:
    """How a job ended: its tally and everything that failed for good, in this job or before it."""

    tally: Tally
    failures: tuple[Failure, ...]
    stopped: bool
    """Asked to stop before every slide had its turn."""
    counts: SlideCounts
    """Of the whole run after the job, of which the job may have been given a part."""
    missing_sites: str | None = None
    """Slides without a well or a depth, in a sentence."""

    @property
    def exit_code(self) -> int:
        """0: every slide is committed or recorded as failed; 3: stopped before that; 4: nothing was committed."""
        tally = self.tally
        nothing = not tally.already_committed + tally.committed and tally.total + tally.rejected
        return STOPPED if self.stopped else SOME_FAILED if nothing else 0

    @property
    def strict_exit_code(self) -> int:
        """The same, and 4 where any slide failed."""
        return SOME_FAILED if self.failures and not self.stopped else self.exit_code


def run_job(
    target: str,
    run_url: str,
    config: RunConfig,
    *,
    address: str,
    display: Display,
    stop: threading.Event | None = None,
    make_worker: Callable[[str, RunConfig], Worker] = SlideWorker,
) -> JobResult:
    """Process every slide of `target` that the run has not committed yet.

    target: a folder, a glob, one slide, or a catalog, on a disk or s3://…. address: `local` for a private Ray, else
    a cluster's. make_worker: called in every worker's process with the run's address and the configuration.

    Raises:
        UsageError: the target, the configuration or the run directory cannot be used as asked.
        WeightsError, WorkerError, StoreError: the job cannot go on; what is committed stays.
    """
    store = open_run(run_url, config.store)
    catalog = find_slides(
        target, access=config.slides.access or config.store, name_pattern=config.slides.name_pattern
    )
    if not catalog.rows and not catalog.refused:
        raise CatalogError(
            f"no slides below {target}; name a folder, a glob, one slide or a catalog, and see that what holds them is "
            "mounted"
        )
    digests = _digests(config)
    with contextlib.ExitStack() as cluster:
        # A worker that was killed over a slide that another one had finished leaves what it had fetched; it is dead
        # by the time that Ray is.
        cluster.callback(delete_abandoned, scratch_root(config.slides.scratch))
        # Loading networks to describe them takes as long as Ray's servers take to start, so both go on together
        # where nothing is committed yet; a run that exists may refuse, or have nothing left to do.
        has_ray = not describes_without_loading(config.embedder) and _is_new(store) and bool(catalog.rows)
        with ThreadPoolExecutor(1, thread_name_prefix="describe") as aside:
            described = aside.submit(_describe, config, digests)
            if has_ray:
                cluster.enter_context(ray_cluster(address))
            store.create_or_check(described.result())
        store.expect_run()
        claim = cluster.enter_context(hold_as_only_driver(store))
        rows = store.freeze_catalog(keep_frozen_sites(catalog, store.read_catalog()))
        if store.single_writer:
            _commit_submitted(store, rows)
        ledger = DriverJournal(
            store, patience_minutes=config.store.patience_minutes, cost=config.cost, claim=claim
        )
        todo, tally, old = _what_is_left(store, rows, catalog)
        ledger.failures += old
        if tally.already_committed:
            ledger.gather()
        if todo:
            if not has_ray:
                cluster.enter_context(ray_cluster(address))
            with display:
                run_items(
                    todo,
                    functools.partial(make_worker, run_url, config),
                    config=config,
                    ledger=ledger,
                    tally=tally,
                    display=display,
                    stop=stop,
                )
    return JobResult(
        tally,
        tuple(ledger.failures),
        stopped=tally.finished < tally.total,
        counts=read_states(store).counts,
        missing_sites=describe_missing_sites(rows),
    )


def _digests(config: RunConfig) -> dict[str, str]:
    """sha256 of every weight file; one that is missing is told before anything is started."""
    from fossilray.models.backbones.load import embedder_digest
    from fossilray.models.detectors.load import detector_digest

    return {
        **{f"detector/{name}": digest for name, digest in detector_digest(config.detector).items()},
        **{f"embedder/{name}": digest for name, digest in embedder_digest(config.embedder).items()},
    }


def _describe(config: RunConfig, digests: Mapping[str, str]) -> RunRecord:
    """What run.json will say; weights that do not load are told before any worker starts."""
    from fossilray.models.backbones.load import describe_embedder

    return describe_run(config, digests, embedder=describe_embedder(config.embedder))


def _is_new(store: RunStore) -> bool:
    try:
        store.read_run()
    except RunNotFound:
        return True
    return False


def _commit_submitted(store: RunStore, rows: Sequence[CatalogRow]) -> None:
    """Commit what workers had submitted to an earlier driver when it ended."""
    wells = {row.slide_id: row.well or UNASSIGNED_WELL for row in rows}
    for slide_id, attempt in store.submitted():
        if slide_id in wells:
            store.commit_submitted(slide_id, wells[slide_id], attempt)


def _what_is_left(
    store: RunStore, rows: Sequence[CatalogRow], catalog: Catalog
) -> tuple[list[CatalogRow], Tally, list[Failure]]:
    """Slides to process, a tally that counts the rest, and the failures that stand from before."""
    asked = {row.slide_id for row in catalog.rows}
    cleared = store.attempt_records().forgiven if catalog.refused else frozenset()
    rejected = [_record_refusal(store, refused, cleared) for refused in catalog.refused]
    states = read_states(store)
    # From now on these slides wait for this job, which tries them again.
    again = [
        failure
        for failure in states.failures
        if failure.slide_id in asked
        and (failure.stage == REJECTED_AT or (failure.given_up and not failure.quarantined))
    ]
    if again:
        store.forgive(again)
    quarantined = [failure for failure in states.quarantined if failure.slide_id in asked]
    done = asked & states.committed
    over = done | {failure.slide_id for failure in quarantined}
    todo = [row for row in rows if row.slide_id in asked - over]
    tally = Tally(
        total=len(asked),
        already_committed=len(done),
        failed_before=len(quarantined),
        rejected=len(rejected),
    )
    return todo, tally, [*quarantined, *rejected]


def _record_refusal(store: RunStore, refused: RejectedFile, cleared: Collection[tuple[str, str]]) -> Failure:
    """A file that no worker will be sent is a failure like any other: stored, listed, queried."""
    failure = replace(
        Failure.of(
            ExceptionSummary(refused.error, refused.reason),
            slide_id=refused.slide_id,
            stage=REJECTED_AT,
            attempt=next(one for one in _refusal_ids(refused) if (refused.slide_id, one) not in cleared),
            transient=False,
        ),
        given_up=None,
    )
    store.record_failure(failure)
    return failure


def _refusal_ids(refused: RejectedFile) -> Iterator[str]:
    """Equal ids for equal refusals, so that each start writes the same file; the next one where one was cleared."""
    for number in itertools.count():
        told = f"{refused.path}\0{refused.reason}" + (f"\0{number}" if number else "")
        yield hashlib.sha256(told.encode()).hexdigest()[:16]
