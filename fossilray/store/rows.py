"""Records as the rows of a small Parquet file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

from fossilray.records import CatalogRow, SlideSummary


def to_table(rows: Sequence[CatalogRow] | Sequence[SlideSummary], schema: pa.Schema) -> pa.Table:
    """The records as a table of their schema."""
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)


def to_parquet(rows: Sequence[CatalogRow] | Sequence[SlideSummary], schema: pa.Schema) -> bytes:
    """The records as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(to_table(rows, schema), sink, compression="zstd")
    return sink.getvalue()


def from_parquet(content: bytes, *, checked: bool = False) -> pa.Table:
    """The table in a Parquet file. checked: pages are held to their checksums.

    Read by this thread alone: Arrow's own threads may still hold what is Python's while the interpreter ends, and then
    abort a process that has done its work.
    """
    with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=checked) as file:
        return file.read(use_threads=False)


def as_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of `schema`; those that an older version did not write are null.

    Raises:
        pa.ArrowException: a column of another type, one that is unknown, or one that may not be null is missing.
        ValueError: the same.
    """
    for column in schema:
        if column.name not in table.column_names and column.nullable:
            table = table.append_column(column, pa.nulls(table.num_rows, column.type))
    return table.select(
        [name for name in schema.names if name in table.column_names]
        + [name for name in table.column_names if name not in schema.names]
    ).cast(schema)
