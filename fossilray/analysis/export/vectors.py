"""Embeddings as float32 in one Parquet file, keyed by slide_id and object_id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fossilray.analysis.export.selection import Exported, ObjectSelection
from fossilray.core.atomic_files import atomic_file
from fossilray.core.errors import UsageError
from fossilray.store import RunStore
from fossilray.store.derived.derived_store import DerivedStore
from fossilray.store.query.vectors import VectorReader

ROWS_A_GROUP = 16_384
"""34 MB of 512 numbers; slides of few objects share a row group."""


def export_vectors(
    store: RunStore,
    out: Path,
    *,
    where: str | None = None,
    slide: str | None = None,
    embeddings: str | None = None,
) -> Exported:
    """Write one Parquet file of slide_id, object_id and `embedding`, a list of float32 of one length.

    embeddings: a name of `fossilray embed`; None: the run's own vectors. The file's metadata state, under the key
    `fossilray`, the run and what made the vectors, as JSON. Objects whose pixels could not be read have no vector and
    are left out. Some slides are in memory at a time.

    Raises:
        QueryError: DuckDB refuses the condition, or the run made no vectors.
        RunNotFound: there are no embeddings of this name.
        StoreError: the vectors of a slide are gone, not there yet, or about objects that were made anew since.
        UsageError: the slide is not in the run, or `out` does not end in .parquet, exists or cannot be written.
    """
    if out.suffix.lower() != ".parquet" or out.exists():
        raise UsageError(f"{out} must end in .parquet and not exist yet; choose another --out")
    chosen = ObjectSelection(store, where=where, slide=slide)
    reader = VectorReader(store, embeddings)
    stated = json.dumps({"run": store.url, "embeddings": json.loads(backbone_json(reader))})
    without_pixels = 0
    waiting: list[pa.Table] = []
    with atomic_file(out) as sink, _Writer(sink, stated) as writer:
        for one in chosen:
            known = one.stored.filter(one.stored["opacity"].is_valid())
            without_pixels += one.stored.num_rows - known.num_rows
            if known.num_rows:
                waiting.append(_keyed(known, reader.rows(known)))
            if sum(table.num_rows for table in waiting) >= ROWS_A_GROUP:
                writer.write(waiting)
                waiting = []
        writer.write(waiting)
    return Exported(writer.rows, without_pixels=without_pixels)


def backbone_json(reader: VectorReader) -> str:
    """What made the vectors that a reader gives, as JSON for a file's metadata."""
    if reader.name is None:
        run = reader.store.read_run()
        return json.dumps({"name": run.embedder.get("name", ""), "weights": dict(run.weights)})
    named = DerivedStore.open(reader.store, "embeddings", reader.name)
    return json.dumps({"name": reader.name, "backbone": dict(named.record.backbone)})


class _Writer:
    """A Parquet file that begins with its first rows, whose vectors say how long all are."""

    def __init__(self, sink: IO[bytes], stated: str) -> None:
        self._sink, self._stated = sink, stated
        self._file: pq.ParquetWriter | None = None
        self.rows = 0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, tables: list[pa.Table]) -> None:
        if not tables:
            if self._file is None:
                self._begin(_keyed(pa.table({"slide_id": pa.array([], pa.string()), "object_id": []}), None))
            return
        table = pa.concat_tables(tables)
        if self._file is None:
            self._begin(table)
        assert self._file is not None
        self._file.write_table(table, row_group_size=ROWS_A_GROUP)
        self.rows += table.num_rows

    def _begin(self, table: pa.Table) -> None:
        schema = table.schema.with_metadata({"fossilray": self._stated})
        self._file = pq.ParquetWriter(self._sink, schema, compression="zstd")


def _keyed(table: pa.Table, vectors: NDArray[np.float16] | None) -> pa.Table:
    if vectors is None:
        embedding = pa.array([], pa.list_(pa.float32()))
    else:
        values = pa.array(vectors.astype(np.float32).ravel())
        embedding = pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])
    return pa.table(
        {
            "slide_id": table["slide_id"].cast(pa.string()),
            "object_id": table["object_id"].cast(pa.int32()),
            "embedding": embedding,
        }
    )
