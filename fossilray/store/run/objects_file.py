"""The Parquet file whose creation commits a slide: its objects, and in its footer all else about it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from fossilray.core.errors import StoreError
from fossilray.core.formats import build_record, parse_json
from fossilray.core.formats.parquet import read_parquet_metadata, read_table, stated
from fossilray.core.parallel import map_ordered
from fossilray.core.records import READABLE_VERSIONS, ArrayFiles, SlideSummary
from fossilray.core.schemas import OBJECTS_SCHEMA, SCHEMA_VERSION
from fossilray.store.files.base import READ_THREADS, Files
from fossilray.store.run.roles import objects_file

FOOTER_KEY = b"fossilray"
"""Key of the JSON in the Parquet file's metadata."""

ROW_GROUP_ROWS = 122_880
"""DuckDB's own row group size, so that it scans one group per thread."""

TAIL_BYTES = 64 * 1024
"""Read first when only the footer is wanted: a slide's is about 10 kB, so one ranged GET does."""


@dataclass(frozen=True)
class Footer:
    """The metadata of a committed slide, in the footer of its objects file."""

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
    encoded = {FOOTER_KEY: json.dumps(asdict(footer), sort_keys=True).encode()}
    sink = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata(encoded),
        sink,
        compression="zstd",
        row_group_size=ROW_GROUP_ROWS,
        write_page_checksum=True,
    )
    return sink.getvalue()


def read_footer(read_tail: Callable[[int], bytes], *, name: str) -> Footer:
    """The footer of an objects file, given what reads its last bytes; `name` is for errors.

    Raises:
        StoreError: it is not an objects file of this schema version.
    """
    return parse_tail(read_tail_of(read_tail), name=name)[0]


def read_stored_footer(files: Files, path: str) -> Footer:
    """The footer of an objects file in the folder `files`.

    Raises:
        FileNotFoundError: the file is missing.
        StoreError: it is not an objects file of this schema version.
    """
    return read_footer(lambda size: files.read_tail(path, size), name=f"{files.url}/{path}")


def read_tail_of(read_tail: Callable[[int], bytes]) -> bytes:
    """Return the last bytes of an objects file, as many as its footer takes."""
    tail = read_tail(TAIL_BYTES)
    # A Parquet file ends with its metadata, the metadata's length (4 bytes, little endian) and PAR1.
    needed = int.from_bytes(tail[-8:-4], "little") + 8
    return tail if needed <= TAIL_BYTES else read_tail(needed)


def parse_tail(tail: bytes, *, name: str) -> tuple[Footer, int]:
    """The footer in the last bytes of an objects file, and how many rows the file holds.

    Raises:
        StoreError: they are not the end of an objects file of this schema version.
    """
    role = objects_file(name)
    metadata = read_parquet_metadata(tail, role)
    stated_footer = parse_json(stated(metadata, FOOTER_KEY, role), role)
    version = stated_footer.get("schema_version") if isinstance(stated_footer, dict) else None
    if version not in READABLE_VERSIONS:
        raise StoreError(
            f"{name} is of schema version {version!s:.20}, this fossilray reads {SCHEMA_VERSION}; install the "
            "version that run.json names"
        )
    return build_record(Footer, stated_footer, role), metadata.num_rows


def decode_objects(content: bytes, *, name: str) -> pa.Table:
    """Return all rows of an objects file, its pages' checksums compared.

    Raises:
        StoreError: they cannot be read.
    """
    return read_table(content, objects_file(name))


def _check(table: pa.Table, summary: SlideSummary, arrays: ArrayFiles) -> None:
    if not table.schema.equals(OBJECTS_SCHEMA):
        raise ValueError(f"objects of {summary.slide_id}: {table.schema} is not OBJECTS_SCHEMA")
    if table.num_rows != summary.objects:
        raise ValueError(f"{summary.slide_id}: {table.num_rows} rows, its summary counts {summary.objects}")
    for column, expected in (("slide_id", summary.slide_id), ("arrays", arrays.path)):
        values = set(table.column(column).unique().to_pylist())
        if values - {expected}:
            raise ValueError(f"{summary.slide_id}: column {column} holds {values}, expected {expected!r}")


def read_committed(files: Files, paths: Sequence[str]) -> Iterator[bytes]:
    """Yield the contents of files of committed slides in order, the next ones read ahead.

    Raises:
        StoreError: a file is missing.
    """

    def read(path: str) -> bytes:
        try:
            return files.read(path)
        except FileNotFoundError:
            raise StoreError(
                f"{files.url}/{path} is gone although its slide is committed; see what else is damaged with "
                "`fossilray verify`"
            ) from None

    with ThreadPoolExecutor(READ_THREADS) as readers:
        yield from map_ordered(readers, read, paths, ahead=READ_THREADS + 1)
