"""Worker of `fossilray index build`, which builds one shard per item. It does not import Ray."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Sequence

import numpy as np

from fossilray.analysis.search.index_record import IndexedSlide, ShardRecord
from fossilray.analysis.search.index_store import IndexStore
from fossilray.analysis.search.shard_file import ShardBuilder
from fossilray.analysis.search.vectors_of_runs import RunVectorSource
from fossilray.core.config import RunConfig
from fossilray.core.records import Outcome, WorkItem
from fossilray.core.vectors import unit_vectors
from fossilray.processing.inference.worker import ENDS_THE_JOB, StoredSlideWorker
from fossilray.store import RunStore, open_run

_BATCH_ROWS = 32_768


class IndexWorker(StoredSlideWorker):
    """Builds and commits shards. The key of an item is the key of a shard's plan."""

    memory_setting = "--shard-objects"

    def __init__(self, index_url: str, config: RunConfig) -> None:
        self._index = IndexStore.open(index_url, config.store)
        self._config = config

    def prepare(self) -> str:
        """Load the quantizer; return the host and process."""
        self._quantizer = self._index.load_quantizer()
        return f"{socket.gethostname()}/{os.getpid()}/cpu"

    def process(self, item: WorkItem, upcoming: WorkItem | None = None) -> Outcome:
        """Build and commit a shard, or record its failure.

        Raises:
            StoreError: the index or a run is unreachable; nothing of the shard is committed.
        """
        self._publish_status(item.key, "read", 0.0)
        try:
            shard = self._build(item.key, self._index.read_plan(item.key))
            is_first = self._index.commit(shard)
        except ENDS_THE_JOB:
            raise
        except BaseException as caught:  # noqa: BLE001  any error is a failure of this shard only
            failure = self._failure(item.key, caught)
            self._index.attempts.record_failure(failure)
            return Outcome(item.key, failure=failure)
        finally:
            self._status = None
        return Outcome(item.key, derived_rows=shard.entries if is_first else None)

    def _build(self, key: str, slides: Sequence[IndexedSlide]) -> ShardRecord:
        builder = ShardBuilder(self._quantizer.lists, self._quantizer.code_bytes)
        open_source = functools.cache(lambda run, name: RunVectorSource(self._open_run(run), name))
        first = 0
        for number, slide in enumerate(slides):
            batch: list[tuple[np.ndarray, np.ndarray]] = []
            for block in open_source(slide.run, slide.embeddings).blocks(slide):
                batch.append((block.object_id + first, block.vectors))
                if sum(len(rows) for rows, _ in batch) >= _BATCH_ROWS:
                    self._encode(builder, batch)
            self._encode(builder, batch)
            first += slide.objects
            self._publish_status(key, "encode", (number + 1) / len(slides))
        folder = self._index.create_data_folder()
        self._publish_status(key, "write", 1.0)
        entries, size, digests = builder.write(self._index.files, folder)
        sha256 = self._index.record.coder_sha256
        return ShardRecord(key, folder, sha256, tuple(slides), entries, size, digests)

    def _open_run(self, url: str) -> RunStore:
        store = open_run(url, self._config.store)
        store.source_run.expect_run()
        return store

    def _encode(self, builder: ShardBuilder, batch: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """Encode a batch of positions and vectors and clear it. Vectors of length 0 are left out."""
        if not batch:
            return
        positions = np.concatenate([rows for rows, _ in batch])
        stacked = np.concatenate([vectors for _, vectors in batch]).astype(np.float32)
        vectors = unit_vectors(stacked, undefined=np.nan)
        batch.clear()
        is_defined = np.isfinite(vectors[:, 0])
        lists, codes = self._quantizer.encode(vectors[is_defined])
        builder.add(lists, positions[is_defined], codes)
