"""An index over runs built or brought up to date, from end to end: what `fossilray index build` runs."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence

from fossilray.config import RunConfig
from fossilray.job import JobResult
from fossilray.ledger import Ledger, refuse_second_driver
from fossilray.progress import Display, Tally
from fossilray.scheduler import ray_cluster, run_slides
from fossilray.similar.building import IndexWorker
from fossilray.similar.planning import IndexSettings, open_index, plan_shards
from fossilray.similar.sources import open_sources


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
        UsageError: the runs cannot be indexed together, or not into this index.
        WorkerError, StoreError: the job cannot go on; what is committed stays.
    """
    sources = open_sources(runs, settings.embeddings, config.store)
    index = open_index(sources, index_url, config.store, settings, say=display.say)
    refuse_second_driver(index.tries)
    rows = plan_shards(index, sources, most_objects=settings.shard_objects)
    index.tries.forgive(index.tries.failures())
    tally = Tally(total=len(rows))
    ledger = Ledger(index.tries, patience_minutes=config.store.patience_minutes, cost=config.cost)
    if rows:
        make_worker = functools.partial(IndexWorker, index.url, config)
        with ray_cluster(address), display:
            run_slides(
                rows, make_worker, config=config, ledger=ledger, tally=tally, display=display, stop=stop
            )
    return JobResult(tally, tuple(ledger.failures), stopped=tally.finished < tally.total)
