"""An index over runs built or brought up to date, from end to end: what `fossilray index build` runs."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence

from fossilray.analysis.search.build_worker import IndexWorker
from fossilray.analysis.search.plan import IndexSettings, open_index, plan_shards
from fossilray.analysis.search.vectors_of_runs import RunVectorSource, open_sources
from fossilray.core.config import RunConfig
from fossilray.jobs.journal import DriverJournal
from fossilray.jobs.process import JobResult
from fossilray.jobs.progress import Display, Tally
from fossilray.jobs.scheduler import ray_cluster, run_items
from fossilray.store.files.claims import hold_place
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
    """Every slide that these runs hold and the index does not put into it, shard by shard; the same call resumes.

    The tally counts shards. Slides of other runs that the index holds stay.

    Raises:
        UsageError: the runs cannot be indexed together, or not into this index, or another build is at work on it.
        WorkerError, StoreError: the job cannot go on; what is committed stays.
    """
    sources = open_sources(runs, settings.embeddings, config.store)
    # Two builds at once would put slides that were committed in between into two shards each.
    with hold_place(open_files(index_url, config.store), "`fossilray index build`"):
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
    index = open_index(sources, index_url, config.store, settings, say=display.say)
    rows = plan_shards(index, sources, most_objects=settings.shard_objects)
    index.tries.forgive(index.tries.failures())
    tally = Tally(total=len(rows))
    ledger = DriverJournal(index.tries, patience_minutes=config.store.patience_minutes, cost=config.cost)
    if rows:
        make_worker = functools.partial(IndexWorker, index.url, config)
        with ray_cluster(address), display:
            run_items(
                rows, make_worker, config=config, ledger=ledger, tally=tally, display=display, stop=stop
            )
    return JobResult(tally, tuple(ledger.failures), stopped=tally.finished < tally.total, counts=tally.counts)
