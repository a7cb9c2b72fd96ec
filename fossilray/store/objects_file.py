"""The Parquet file whose creation commits a slide: its objects, and in its footer all else about it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from fossilray.errors import StoreError
from fossilray.records import OBJECTS_SCHEMA, SCHEMA_VERSION, ArrayFiles, SlideSummary

FOOTER_KEY = b"fossilray"
"""Key of the JSON in the Parquet file's metadata."""

ROW_GROUP_ROWS = 122_880
"""DuckDB's own row group size, so that it scans one group per thread."""

TAIL_BYTES = 64 * 1024
"""Read first when only the footer is wanted: a slide's is about 10 kB, so one ranged GET does."""


@dataclass(frozen=True)
class Footer:
    """What a committed slide says of itself beside its objects."""

    summary: SlideSummary
    arrays: ArrayFiles
    schema_version: int
    run_digest: str
    """`RunRecord.digest` of the run that made it."""

    @property
    def attempt(self) -> str:
        return self.summary.attempt


def encode_objects(table: pa.Table, summary: SlideSummary, arrays: ArrayFiles, *, run_digest: str) -> bytes:
    """The objects file of one slide.

    Raises:
        ValueError: the table is not of OBJECTS_SCHEMA, or disagrees with the summary or the arrays.
    """
    _check(table, summary, arrays)
    footer = Footer(summary, arrays, SCHEMA_VERSION, run_digest)
    stated = {FOOTER_KEY: json.dumps(asdict(footer), sort_keys=True).encode()}
    sink = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata(stated), sink, compression="zstd", row_group_size=ROW_GROUP_ROWS
    )
    return sink.getvalue()


def read_footer(read_tail: Callable[[int], bytes], *, name: str) -> Footer:
    """The footer of an objects file, given what reads its last bytes; `name` is for errors.

    Raises:
        StoreError: it is not an objects file of this schema version.
    """
    size = TAIL_BYTES
    tail = read_tail(size)
    # A Parquet file ends with its metadata, the metadata's length (4 bytes, little endian) and PAR1.
    needed = int.from_bytes(tail[-8:-4], "little") + 8
    if needed > size:
        tail = read_tail(needed)
    try:
        metadata = pq.read_metadata(pa.BufferReader(tail)).metadata or {}
        stated = json.loads(metadata[FOOTER_KEY])
        if stated["schema_version"] != SCHEMA_VERSION:
            raise StoreError(
                f"{name} is of schema version {stated['schema_version']}, this fossilray reads {SCHEMA_VERSION}; "
                "install the version that run.json names"
            )
        return Footer(
            summary=SlideSummary(**stated["summary"]),
            arrays=ArrayFiles(**stated["arrays"]),
            schema_version=stated["schema_version"],
            run_digest=stated["run_digest"],
        )
    except (pa.ArrowInvalid, KeyError, ValueError, TypeError) as error:
        raise StoreError(
            f"{name} is not an objects file of fossilray ({error}); move it out of objects/ and start the "
            "same command again"
        ) from None


def _check(table: pa.Table, summary: SlideSummary, arrays: ArrayFiles) -> None:
    if not table.schema.equals(OBJECTS_SCHEMA):
        raise ValueError(f"objects of {summary.slide_id}: {table.schema} is not OBJECTS_SCHEMA")
    if table.num_rows != summary.objects:
        raise ValueError(f"{summary.slide_id}: {table.num_rows} rows, its summary counts {summary.objects}")
    for column, expected in (("slide_id", summary.slide_id), ("arrays", arrays.path)):
        found = set(table.column(column).unique().to_pylist())
        if found - {expected}:
            raise ValueError(f"{summary.slide_id}: column {column} holds {found}, expected {expected!r}")
