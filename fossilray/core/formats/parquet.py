"""Parquet files, read with bounds on what they claim and on their size in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fossilray.core.formats.file_role import FileRole
from fossilray.core.formats.parquet_pages import page_sizes

MOST_ROWS = 2**31
"""More than any file of fossilray has; a slide's objects are numbered in 31 bits."""

LEAST_INFLATED_BYTES = 256 * 2**20
"""Bound for small files, in which columns of a single value take hardly any bytes."""

MOST_INFLATED = 200
"""Bound as a multiple of the file's size; tables of fossilray take 2 to 20 times the size of their files."""

_BATCH_ROWS = 65_536


@contextmanager
def reading(role: FileRole) -> Iterator[None]:
    """Translate Arrow's exceptions about damaged content into role.error; errors of the disk or store pass through.

    Raises:
        role.error: Arrow refuses the content.
    """
    try:
        yield
    # PyArrow raises plain classes for names that are not UTF-8 and for absurd counts.
    except (pa.ArrowException, ValueError, TypeError, LookupError, OverflowError) as error:
        raise role.damaged(error) from None
    except OSError as error:
        # Arrow's error about metadata that are not Thrift has no errno; those of the system do.
        if error.errno is not None:
            raise
        raise role.damaged(error) from None


def read_parquet_metadata(content: bytes, role: FileRole) -> pq.FileMetaData:
    """Read the metadata at the end of a Parquet file; the last bytes of the file are enough.

    Raises:
        role.error: it is not Parquet, or claims absurd numbers of rows.
    """
    with reading(role):
        metadata = pq.read_metadata(pa.BufferReader(content))
    check_row_counts(metadata, role)
    return metadata


def check_row_counts(metadata: pq.FileMetaData, role: FileRole) -> None:
    """Check the numbers of rows that the metadata claim.

    Raises:
        role.error: they contradict each other, or claim more than MOST_ROWS rows.
    """
    with reading(role):
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if not 0 <= metadata.num_rows <= MOST_ROWS or any(not 0 <= count <= MOST_ROWS for count in rows):
        raise role.damaged(f"it claims {metadata.num_rows:,} rows")
    if sum(rows) != metadata.num_rows:
        raise role.damaged(f"it claims {metadata.num_rows:,} rows, and its row groups {sum(rows):,}")


def stated(metadata: pq.FileMetaData, key: bytes, role: FileRole) -> bytes:
    """Return the value of a key in the file's own metadata.

    Raises:
        role.error: the key is missing.
    """
    fields: Mapping[bytes, bytes] = metadata.metadata or {}
    if key not in fields:
        raise role.damaged(f"its metadata state nothing under {key.decode()!r}")
    return fields[key]


def read_table(content: bytes, role: FileRole, *, schema: pa.Schema | None = None) -> pa.Table:
    """Read all rows of a Parquet file; page checksums are verified where there are any, and every value is validated.

    The calling thread reads alone: Arrow's threads may still hold Python objects while the interpreter ends, and then
    abort the process.

    schema: target schema. Nullable columns may be missing; other columns are refused.

    Raises:
        role.error: it is not such a Parquet file, or inflates to far more than its size.
    """
    metadata = read_parquet_metadata(content, role)
    most = max(LEAST_INFLATED_BYTES, MOST_INFLATED * len(content))
    with reading(role):
        with pq.ParquetFile(pa.BufferReader(content), metadata=metadata) as file:
            stored = file.schema_arrow
            if schema is not None:
                _compare_columns(stored, schema, role)
            _check_width(metadata, most, role)
        _check_pages(content, most, role)
        table = _inflate(content, _without_dictionaries(stored), metadata.num_columns, most, role)
        if table.num_rows != metadata.num_rows:
            raise role.damaged(f"it holds {table.num_rows:,} rows of {metadata.num_rows:,}")
        table.validate(full=True)
    return table if schema is None else conform(table, schema, role)


def _inflate(content: bytes, plain: pa.Schema, columns: int, most: int, role: FileRole) -> pa.Table:
    """Decode the rows; texts are expanded from dictionaries only after their size is known."""
    batches, size = [], 0
    with pq.ParquetFile(
        pa.BufferReader(content),
        # A text that a page contains once and a million rows refer to must not be expanded before it is counted.
        read_dictionary=[field.name for field in plain if pa.types.is_string(field.type)],
        page_checksum_verification=True,
        pre_buffer=False,
    ) as file:
        for batch in file.iter_batches(max(1024, _BATCH_ROWS // max(columns, 1)), use_threads=False):
            size += sum(map(_expanded_bytes, batch.columns))
            if size > most:
                raise role.damaged(f"it inflates to more than {most:,} bytes from {len(content):,}")
            batches.append(batch.cast(plain))
    return pa.Table.from_batches(batches, schema=plain)


def _without_dictionaries(schema: pa.Schema) -> pa.Schema:
    """The schema with dictionary types replaced by their value types."""
    fields = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in schema
    ]
    return pa.schema(fields, metadata=schema.metadata)


def _expanded_bytes(column: pa.Array) -> int:
    """Bytes of a column after its dictionary is expanded."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    if not pa.types.is_string(column.type.value_type):
        return int(column.nbytes) + 8 * len(column)
    lengths = pc.binary_length(column.dictionary).cast(pa.int64())
    return 4 * len(column) + int(pc.sum(lengths.take(column.indices)).as_py() or 0)


def conform(table: pa.Table, schema: pa.Schema, role: FileRole) -> pa.Table:
    """Convert a table to the columns and types of a schema; nullable columns may be missing.

    Raises:
        role.error: a column is missing, unknown, repeated, of another type, or null against the schema.
    """
    _compare_columns(table.schema, schema, role)
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        try:
            column = table[field.name].cast(field.type)
        except (pa.ArrowException, OverflowError) as error:
            raise role.damaged(f"column {field.name}: {error}") from None
        if not field.nullable and column.null_count:
            raise role.damaged(f"column {field.name} is null in {column.null_count:,} rows")
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema.with_metadata(table.schema.metadata))


def require_finite(table: pa.Table, role: FileRole) -> None:
    """Refuse NaN and infinite numbers.

    Raises:
        role.error: a column contains one.
    """
    for field in table.schema:
        if pa.types.is_floating(field.type):
            odd = pc.sum(pc.invert(pc.is_finite(table[field.name]))).as_py() or 0
            if odd:
                raise role.damaged(f"column {field.name} is not finite in {odd:,} rows")


def _compare_columns(stored: pa.Schema, schema: pa.Schema, role: FileRole) -> None:
    names = stored.names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise role.damaged(f"it has the column {twice[0]!r:.60} twice")
    if unknown := sorted(set(names) - set(schema.names)):
        raise role.damaged(f"it has the column {unknown[0]!r:.60}, which this fossilray does not know")
    missing = [field.name for field in schema if field.name not in names and not field.nullable]
    if missing:
        raise role.damaged(f"it lacks the column {missing[0]}")
    for name in names:
        have, want = stored.field(name).type, schema.field(name).type
        if _family(have) != _family(want):
            raise role.damaged(f"column {name} is of {have}, expected {want}")


def _family(kind: pa.DataType) -> str:
    """Class of types between which a cast preserves values or fails."""
    if pa.types.is_dictionary(kind):
        return _family(kind.value_type)
    if pa.types.is_boolean(kind):
        return "truth"
    if pa.types.is_integer(kind):
        return "whole number"
    if pa.types.is_floating(kind):
        return "number"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    return "list" if pa.types.is_nested(kind) else str(kind)


def _check_pages(content: bytes, most: int, role: FileRole) -> None:
    """Refuse pages that claim more than the file may inflate to, before memory is allocated for one."""
    total = 0
    for size in page_sizes(content):
        total += size
        if total > most:
            raise role.damaged(f"its pages claim more than {most:,} bytes from {len(content):,}")


def _check_width(metadata: pq.FileMetaData, most: int, role: FileRole) -> None:
    """Refuse absurd numbers of rows before the first is read: each takes at least a byte in memory."""
    if metadata.num_rows * max(metadata.num_columns, 1) > 8 * most:
        raise role.damaged(
            f"it claims {metadata.num_rows:,} rows of {metadata.num_columns} columns in {metadata.serialized_size:,} "
            "bytes of metadata"
        )
    # Not the sizes of columns: PyArrow ends the process where the statistics of one contradict each other.
    pages = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    if not 0 <= pages <= most:
        raise role.damaged(f"it claims pages of {pages:,} bytes, more than {most:,}")
