"""The slide job behind `fossilray process` and `pipelines/process_slides.py`."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from fossilray.core.config import RunConfig
from fossilray.core.errors import CatalogError, RunNotFound
from fossilray.core.exception_summary import ExceptionSummary
from fossilray.core.records import UNASSIGNED_WELL, CatalogRow, Failure, RejectedFile, WorkItem
from fossilray.core.worker import Worker
from fossilray.jobs.journal import DriverJournal, require_single_driver
from fossilray.jobs.progress import Display, Tally, choose_display
from fossilray.jobs.run_items import JobResult, run_on_ray
from fossilray.jobs.scheduler import ray_cluster
from fossilray.models.backbones.load import describes_without_loading
from fossilray.processing.worker import SlideWorker
from fossilray.slides.catalog import Catalog, describe_missing_sites, find_slides
from fossilray.slides.catalog.sites import keep_frozen_sites
from fossilray.slides.remote.scratch import delete_abandoned, scratch_root
from fossilray.store import RunStore, open_run
from fossilray.store.run.attempts import REJECTED_AT
from fossilray.store.run.run_record import RunRecord, describe_run
from fossilray.store.run.slide_states import read_states


def process(
    slides: str | Path,
    run: str | Path,
    config: RunConfig | None = None,
    *,
    address: str = "local",
    display: Display | None = None,
) -> JobResult:
    """Detect, crop and embed every object of an archive of slides into a run directory, on Ray.

    The same call resumes: slides that the run has committed are not processed again.

    Args:
        slides: folder, glob, one slide, or a catalog (.csv, .xlsx, .ods, .parquet), on a disk or in an object store.
        run: run directory to create or to resume, a local path or an s3:// address.
        config: by default `RunConfig()`.
        address: `local` starts a private Ray on this machine; else the address of a Ray cluster.
        display: shows progress; by default a progress bar on a terminal, and lines of JSON elsewhere.

    Returns:
        The end of the job: `tally` with the numbers of slides and objects, and the `failures` of slides that were not
        committed, each with its stage and reason. `exit_code` is that of `fossilray process`.

    Raises:
        UsageError: the slides, the configuration or the run directory cannot be used.
        WeightsError, WorkerError, StoreError: the job cannot continue; what is committed stays.

    Example:
        >>> import fossilray
        >>> result = fossilray.process("slides", "census", fossilray.RunConfig(workers={"count": 1}))
        >>> committed = result.tally.committed + result.tally.already_committed
    """
    return run_job(
        str(slides),
        str(run),
        config or RunConfig(),
        address=address,
        display=display or choose_display(Console()),
    )


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
    a cluster's. make_worker: called in every worker's process with the run's URL and the configuration.

    Raises:
        UsageError: the target, the configuration or the run directory cannot be used.
        WeightsError, WorkerError, StoreError: the job cannot continue; commits stay.
    """
    store = open_run(run_url, config.store)
    catalog = find_slides(
        target,
        access=config.slides.access or config.store,
        name_pattern=config.slides.name_pattern,
        unique_scans=config.slides.unique_scans,
    )
    if not catalog.rows and not catalog.refused:
        content = "".join(f" ({note.removeprefix('no slide; ')})" for note in catalog.notes)
        raise CatalogError(
            f"no slides below {target}{content}; name a folder, a glob, one slide or a catalog, and see that what "
            "holds them is mounted"
        )
    digests = _digests(config)
    with contextlib.ExitStack() as cluster:
        # A worker that was killed because another one had finished its slide leaves downloaded files; it has ended
        # by the time that Ray has.
        cluster.callback(delete_abandoned, scratch_root(config.slides.scratch))
        # Loading networks to describe them takes as long as starting Ray's servers, so both run at the same time for
        # a new run; an existing run may be refused, or have no slide left.
        has_ray = not describes_without_loading(config.embedder) and _is_new(store) and bool(catalog.rows)
        with ThreadPoolExecutor(1, thread_name_prefix="describe") as aside:
            described = aside.submit(_describe, config, digests)
            if has_ray:
                cluster.enter_context(ray_cluster(address))
            store.create_or_check(described.result())
        store.expect_run()
        claim = cluster.enter_context(require_single_driver(store.files))
        rows = store.freeze_catalog(keep_frozen_sites(catalog, store.read_catalog()))
        if store.single_writer:
            _commit_submitted(store, rows)
        journal = DriverJournal(
            store.attempts,
            run=store,
            patience_minutes=config.store.patience_minutes,
            cost=config.cost,
            claim=claim,
        )
        todo, tally, old = _plan_job(store, rows, catalog)
        journal.failures += old
        if tally.already_committed:
            journal.append_missing_summaries()
        run_on_ray(
            [WorkItem.of_slide(row) for row in todo],
            functools.partial(make_worker, run_url, config),
            address=None if has_ray else address,
            config=config,
            journal=journal,
            tally=tally,
            display=display,
            stop=stop,
        )
    return JobResult(
        tally,
        tuple(journal.failures),
        stopped=tally.finished < tally.total,
        counts=read_states(store).counts,
        missing_sites=describe_missing_sites(rows),
        notes=catalog.notes,
    )


def _digests(config: RunConfig) -> dict[str, str]:
    """sha256 of every weight file; a missing file ends the job before anything is started."""
    from fossilray.models.backbones.load import embedder_digest
    from fossilray.models.detectors.load import detector_digest

    return {
        **{f"detector/{name}": digest for name, digest in detector_digest(config.detector).items()},
        **{f"embedder/{name}": digest for name, digest in embedder_digest(config.embedder).items()},
    }


def _describe(config: RunConfig, digests: Mapping[str, str]) -> RunRecord:
    """The record for run.json; weights that do not load end the job before any worker is started."""
    from fossilray.models.backbones.load import describe_embedder

    return describe_run(config, digests, embedder=describe_embedder(config.embedder))


def _is_new(store: RunStore) -> bool:
    try:
        store.read_run()
    except RunNotFound:
        return True
    return False


def _commit_submitted(store: RunStore, rows: Sequence[CatalogRow]) -> None:
    """Commit the slides that workers had submitted to an earlier driver when it ended."""
    wells = {row.slide_id: row.well or UNASSIGNED_WELL for row in rows}
    for slide_id, attempt in store.submitted():
        if slide_id in wells:
            store.commit_submitted(slide_id, wells[slide_id], attempt)


def _plan_job(
    store: RunStore, rows: Sequence[CatalogRow], catalog: Catalog
) -> tuple[list[CatalogRow], Tally, list[Failure]]:
    """Return the slides to process, a tally that counts the rest, and the failures of earlier jobs."""
    requested = {row.slide_id for row in catalog.rows}
    cleared = store.attempts.records().cleared if catalog.refused else frozenset()
    rejected = [_record_rejection(store, refused, cleared) for refused in catalog.refused]
    states = read_states(store)
    # This job tries these slides again.
    again = [
        failure
        for failure in states.failures
        if failure.slide_id in requested
        and (failure.stage == REJECTED_AT or (failure.given_up and not failure.quarantined))
    ]
    if again:
        store.attempts.clear_failures(again)
    quarantined = [failure for failure in states.quarantined if failure.slide_id in requested]
    done = requested & states.committed
    over = done | {failure.slide_id for failure in quarantined}
    todo = [row for row in rows if row.slide_id in requested - over]
    tally = Tally(
        total=len(requested),
        already_committed=len(done),
        failed_before=len(quarantined),
        rejected=len(rejected),
    )
    return todo, tally, [*quarantined, *rejected]


def _record_rejection(
    store: RunStore, rejected: RejectedFile, cleared: Collection[tuple[str, str]]
) -> Failure:
    """Record a rejected file as a failure; no worker gets it."""
    failure = replace(
        Failure.of(
            ExceptionSummary(rejected.error, rejected.reason),
            slide_id=rejected.slide_id,
            stage=REJECTED_AT,
            attempt=next(key for key in _rejection_ids(rejected) if (rejected.slide_id, key) not in cleared),
            transient=False,
        ),
        given_up=None,
    )
    store.attempts.record_failure(failure)
    return failure


def _rejection_ids(rejected: RejectedFile) -> Iterator[str]:
    """Ids by content, so that each start writes the same file; the next id where a failure was cleared."""
    for number in itertools.count():
        text = f"{rejected.path}\0{rejected.reason}" + (f"\0{number}" if number else "")
        yield hashlib.sha256(text.encode()).hexdigest()[:16]
