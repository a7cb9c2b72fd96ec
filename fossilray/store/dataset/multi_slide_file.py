"""One Parquet file of many slides: written in row groups, read back, and compared slide by slide."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fossilray.core.errors import StoreError
from fossilray.core.formats.parquet import reading
from fossilray.store.dataset.dataset_store import DatasetFile
from fossilray.store.files.base import Files
from fossilray.store.files.streaming import StreamedFile, open_ranged, stream_to
from fossilray.store.run.roles import dataset_part

TEXT_COLUMNS = ("slide_id", "arrays", "measured_depth_m")
"""Columns with repeated values, written with dictionaries; other columns are written without."""


@dataclass(frozen=True)
class SlideRows:
    """Rows of one slide, as an iterable of tables."""

    slide_id: str
    tables: Iterable[pa.Table]


def write_multi_slide_file(
    files: Files, path: str, schema: pa.Schema, slides: Iterable[SlideRows], *, group_rows: int
) -> DatasetFile:
    """Write the rows of slides, given by slide_id, and make sure that the store gives them back.

    In memory are a row group of `group_rows` and one table more.

    Raises:
        StoreError: the store refuses the file, or what it gives back differs.
    """
    digests: dict[str, _Digest] = {}
    with stream_to(files, path) as sink:
        _write_groups(sink, schema, _digested(slides, digests), group_rows)
    written = {slide_id: digest.value() for slide_id, digest in digests.items()}
    read = _read_back(files, path)
    if read != written:
        differing = sorted(
            slide_id
            for slide_id in written.keys() | read.keys()
            if written.get(slide_id) != read.get(slide_id)
        )
        raise StoreError(
            f"{files.url}/{path} gives back other rows than were written, of slide {differing[0]} and "
            f"{len(differing) - 1} more; check that no other process writes there, and start the same command again"
        )
    return DatasetFile(
        path=path,
        slides=tuple(digests),
        rows=sum(digest.rows for digest in digests.values()),
        bytes=sink.bytes,
        sha256=sink.sha256,
    )


def _digested(slides: Iterable[SlideRows], digests: dict[str, _Digest]) -> Iterator[pa.Table]:
    for slide in slides:
        digest = digests.setdefault(slide.slide_id, _Digest())
        for table in slide.tables:
            digest.update(table)
            yield table


def _write_groups(sink: StreamedFile, schema: pa.Schema, tables: Iterable[pa.Table], group_rows: int) -> None:
    """Write row groups of just that many rows; the last one has what is left."""
    with pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        use_dictionary=[name for name in TEXT_COLUMNS if name in schema.names],
        write_page_checksum=True,
    ) as writer:
        waiting = schema.empty_table()
        for table in tables:
            waiting = pa.concat_tables([waiting, table])
            while waiting.num_rows >= group_rows:
                writer.write_table(waiting.slice(0, group_rows), row_group_size=group_rows)
                waiting = waiting.slice(group_rows)
        if waiting.num_rows:
            writer.write_table(waiting, row_group_size=group_rows)


def _read_back(files: Files, path: str) -> dict[str, str]:
    """Read a file back and return the digest of each slide by slide_id."""
    digests: dict[str, _Digest] = {}
    role = dataset_part(f"{files.url}/{path}")
    try:
        with (
            open_ranged(files, path) as file,
            reading(role),
            pq.ParquetFile(file, page_checksum_verification=True) as parquet,
        ):
            for group in range(parquet.num_row_groups):
                for slide_id, rows in _split(parquet.read_row_group(group)):
                    digests.setdefault(slide_id, _Digest()).update(rows)
    except FileNotFoundError:
        return {}
    return {slide_id: digest.value() for slide_id, digest in digests.items()}


def _split(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Yield consecutive rows with the same slide_id."""
    ends = pc.run_end_encode(table["slide_id"].combine_chunks()) if table.num_rows else None
    if ends is None:
        return
    stops = ends.run_ends.to_pylist()
    for (start, stop), slide_id in zip(itertools.pairwise([0, *stops]), ends.values.to_pylist(), strict=True):
        yield slide_id, table.slice(start, stop - start)


class _Digest:
    """sha256 of all values of a slide's rows, column by column; independent of chunks and encoding."""

    def __init__(self) -> None:
        self.rows = 0
        self._columns: dict[str, tuple[hashlib._Hash, hashlib._Hash]] = {}

    def update(self, table: pa.Table) -> None:
        self.rows += table.num_rows
        for field in table.schema:
            is_list = pa.types.is_list(field.type)
            # Parquet has a name of its own for the elements of a list.
            name = f"{field.name} {f'list of {field.type.value_type}' if is_list else field.type}"
            shape, values = self._columns.setdefault(name, (hashlib.sha256(), hashlib.sha256()))
            for chunk in table[field.name].chunks:
                if pa.types.is_string(field.type):
                    shape.update(np.asarray(pc.fill_null(pc.binary_length(chunk), -1)).tobytes())
                    values.update("".join(pc.fill_null(chunk, "").to_pylist()).encode())
                elif is_list:
                    lengths = pc.fill_null(pc.list_value_length(chunk), -1)
                    shape.update(np.asarray(lengths).tobytes())
                    values.update(np.asarray(pc.fill_null(chunk.flatten(), np.nan)).tobytes())
                elif pa.types.is_fixed_size_list(field.type):
                    values.update(np.asarray(chunk.flatten()).tobytes())
                elif chunk.null_count:
                    shape.update(np.asarray(chunk.is_null()).tobytes())
                    values.update(np.asarray(chunk.fill_null(pa.scalar(0).cast(field.type))).tobytes())
                else:
                    shape.update(bytes(len(chunk)))
                    values.update(np.asarray(chunk).tobytes())

    def value(self) -> str:
        whole = hashlib.sha256(str(self.rows).encode())
        for name, (shape, values) in sorted(self._columns.items()):
            whole.update(name.encode() + shape.digest() + values.digest())
        return whole.hexdigest()
