"""Export of embeddings as float32 in one Parquet file, keyed by slide_id and object_id."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fossilray.analysis.export.selection import ExportResult, ObjectSelection
from fossilray.core.atomic_files import atomic_file
from fossilray.core.config.choices import NO_PREDICTIONS
from fossilray.core.errors import UsageError
from fossilray.store import RunStore
from fossilray.store.derived.derived_store import DerivedStore
from fossilray.store.query.vectors import VectorReader

_ROW_GROUP_ROWS = 16_384
"""Rows per row group: 34 MB at 512 dimensions. Small slides share a row group."""


def export_vectors(
    store: RunStore,
    out: Path,
    *,
    where: str | None = None,
    slides: Collection[str] = (),
    embeddings: str | None = None,
) -> ExportResult:
    """Write one Parquet file with slide_id, object_id and `embedding`, a fixed-size list of float32.

    The metadata of the file hold the run and the backbone as JSON under the key `fossilray`. Objects whose pixels could
    not be read have no embedding and are left out. Memory holds a row group.

    Args:
        where: SQL condition on `objects`.
        slides: slide_ids of the slides to export; none: all.
        embeddings: name of embeddings of `fossilray embed`; None: the run's own.

    Raises:
        QueryError: DuckDB refuses the condition, or the run has no embeddings.
        RunNotFound: there are no embeddings of this name.
        StoreError: embeddings of a slide are missing, or the slide was reprocessed since they were made.
        UsageError: a slide is not in the run, or `out` does not end in .parquet, exists or cannot be written.
    """
    if out.suffix.lower() != ".parquet" or out.exists():
        raise UsageError(f"{out} must end in .parquet and not exist yet; choose another --out")
    selection = ObjectSelection(store, where=where, slides=slides, head=NO_PREDICTIONS)
    reader = VectorReader(store, embeddings)
    metadata = json.dumps({"run": store.url, "embeddings": json.loads(backbone_json(reader))})
    without_pixels = 0
    pending: list[pa.Table] = []
    with atomic_file(out) as sink, _Writer(sink, metadata) as writer:
        for objects in selection:
            with_pixels = objects.stored.filter(objects.stored["opacity"].is_valid())
            without_pixels += objects.stored.num_rows - with_pixels.num_rows
            if with_pixels.num_rows:
                pending.append(_keyed(with_pixels, reader.rows(with_pixels)))
            if sum(table.num_rows for table in pending) >= _ROW_GROUP_ROWS:
                writer.write(pending)
                pending = []
        writer.write(pending)
    return ExportResult(writer.rows, without_pixels=without_pixels)


def backbone_json(reader: VectorReader) -> str:
    """Return the backbone of a reader's embeddings as JSON for a file's metadata."""
    if reader.name is None:
        run = reader.store.read_run()
        return json.dumps({"name": run.embedder.get("name", ""), "weights": dict(run.weights)})
    named = DerivedStore.open(reader.store, "embeddings", reader.name)
    return json.dumps({"name": reader.name, "backbone": dict(named.record.backbone)})


class _Writer:
    """Writes a Parquet file whose schema is that of the first rows, which have the dimension."""

    def __init__(self, sink: IO[bytes], metadata: str) -> None:
        self._sink, self._metadata = sink, metadata
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
        self._file.write_table(table, row_group_size=_ROW_GROUP_ROWS)
        self.rows += table.num_rows

    def _begin(self, table: pa.Table) -> None:
        schema = table.schema.with_metadata({"fossilray": self._metadata})
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
