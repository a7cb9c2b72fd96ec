"""The job behind `fossilray index build`: build a search index over runs, or bring it up to date."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence

from fossilray.analysis.search.build_worker import IndexWorker
from fossilray.analysis.search.plan import IndexSettings, open_index, plan_shards
from fossilray.analysis.search.vectors_of_runs import RunVectorSource, open_sources
from fossilray.core.config import RunConfig
from fossilray.core.records import WorkItem
from fossilray.jobs.progress import Display
from fossilray.jobs.run_items import JobResult, run_derived_job
from fossilray.store.files.claims import hold_folder
from fossilray.store.files.open import open_files


def build_index(
    runs: Sequence[str],
    index_url: str,
    config: RunConfig,
    settings: IndexSettings,
    *,
    address: str,
    display: Display,
    stop: threading.Event | None = None,
) -> JobResult:
    """Add every slide of these runs that the index lacks, shard by shard; the same call resumes.

    The tally counts shards. Slides of other runs stay in the index.

    Raises:
        UsageError: the runs cannot be indexed together, or not into this index, or another build is active on it.
        WorkerError, StoreError: the job cannot continue; commits stay.
    """
    sources = open_sources(runs, settings.embeddings, config.store)
    # Two builds at once would each add the slides that were committed in between.
    with hold_folder(open_files(index_url, config.store), "`fossilray index build`"):
        return _build(sources, index_url, config, settings, address=address, display=display, stop=stop)


def _build(
    sources: Mapping[str, RunVectorSource],
    index_url: str,
    config: RunConfig,
    settings: IndexSettings,
    *,
    address: str,
    display: Display,
    stop: threading.Event | None,
) -> JobResult:
    index = open_index(sources, index_url, config.store, settings, on_message=display.message)
    keys = plan_shards(index, sources, max_objects=settings.shard_objects)
    return run_derived_job(
        [WorkItem(key) for key in keys],
        functools.partial(IndexWorker, index.url, config),
        attempts=index.attempts,
        already_committed=0,
        unit="shard",
        address=address,
        config=config,
        display=display,
        stop=stop,
    )
