"""Records as the rows of a small Parquet file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

from fossilray.core.records import CatalogRow, SlideSummary


def to_table(rows: Sequence[CatalogRow] | Sequence[SlideSummary], schema: pa.Schema) -> pa.Table:
    """The records as a table of their schema."""
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)


def to_parquet(rows: Sequence[CatalogRow] | Sequence[SlideSummary], schema: pa.Schema) -> bytes:
    """The records as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(to_table(rows, schema), sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()
