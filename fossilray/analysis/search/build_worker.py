"""One shard made whole: what a worker of `fossilray index build` does; no Ray here."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Sequence

import numpy as np

from fossilray.analysis.search.index_record import IndexedSlide, ShardRecord
from fossilray.analysis.search.index_store import IndexStore
from fossilray.analysis.search.quantizer import unit
from fossilray.analysis.search.shard_file import ShardBuilder
from fossilray.analysis.search.vectors_of_runs import RunVectorSource
from fossilray.core.config import RunConfig
from fossilray.core.records import Outcome, WorkItem
from fossilray.processing.inference.worker import ENDS_THE_JOB, StoredSlideWorker
from fossilray.store import RunStore, open_run
from fossilray.store.dataset.dataset_store import source_run

_ENCODED_AT_ONCE = 32_768


class IndexWorker(StoredSlideWorker):
    """A worker of the scheduler that makes shards; an item's key is that of the shard's plan."""

    memory_setting = "--shard-objects"

    def __init__(self, index_url: str, config: RunConfig) -> None:
        self._index = IndexStore.open(index_url, config.store)
        self._config = config

    def prepare(self) -> str:
        """The host and process, once the coder is loaded."""
        self._coder = self._index.coder()
        return f"{socket.gethostname()}/{os.getpid()}/cpu"

    def process(self, item: WorkItem, upcoming: WorkItem | None = None) -> Outcome:
        """The shard committed, or why there is none recorded.

        Raises:
            StoreError: the index or a run does not answer; the shard is as if it had never begun.
        """
        self._publish_status(item.key, "read", 0.0)
        try:
            shard = self._build(item.key, self._index.planned(item.key))
            won = self._index.commit(shard)
        except ENDS_THE_JOB:
            raise
        except BaseException as caught:  # noqa: BLE001  whatever it is, it is this shard's failure and no other's
            failure = self._failure(item.key, caught)
            self._index.attempts.record_failure(failure)
            return Outcome(item.key, failure=failure)
        finally:
            self._status = None
        return Outcome(item.key, derived_rows=shard.entries if won else None)

    def _build(self, key: str, slides: Sequence[IndexedSlide]) -> ShardRecord:
        coder = self._coder
        builder = ShardBuilder(coder.lists, coder.code_bytes)
        open_source = functools.cache(lambda run, name: RunVectorSource(self._open_run(run), name))
        first = 0
        for number, slide in enumerate(slides):
            waiting: list[tuple[np.ndarray, np.ndarray]] = []
            for block in open_source(slide.run, slide.embeddings).blocks(slide):
                waiting.append((block.object_id + first, block.vectors))
                if sum(len(rows) for rows, _ in waiting) >= _ENCODED_AT_ONCE:
                    self._add(builder, waiting)
            self._add(builder, waiting)
            first += slide.objects
            self._publish_status(key, "encode", (number + 1) / len(slides))
        folder = self._index.new_data()
        self._publish_status(key, "write", 1.0)
        entries, size, digests = builder.write(self._index.files, folder)
        sha256 = self._index.record.coder_sha256
        return ShardRecord(key, folder, sha256, tuple(slides), entries, size, digests)

    def _open_run(self, url: str) -> RunStore:
        store = open_run(url, self._config.store)
        source_run(store).expect_run()
        return store

    def _add(self, builder: ShardBuilder, waiting: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """Encode what waits, and leave nothing waiting; a vector without direction has no neighbours."""
        if not waiting:
            return
        positions = np.concatenate([rows for rows, _ in waiting])
        vectors = unit(np.concatenate([part for _, part in waiting]))
        waiting.clear()
        sound = np.isfinite(vectors[:, 0])
        lists, codes = self._coder.encode(vectors[sound])
        builder.add(lists, positions[sound], codes)
