"""Some rows of a Parquet file that lies in a store, without its other row groups."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fossilray.core.formats import FileRole
from fossilray.core.formats.parquet import read_parquet_metadata, reading
from fossilray.core.records import CatalogRow, SlideSummary
from fossilray.store.files.base import Files

_UNKNOWN_SIZE = 2**62


def read_slices(
    files: Files,
    path: str,
    tail: bytes,
    slices: Sequence[tuple[int, int]],
    *,
    columns: Sequence[str],
    role: FileRole,
) -> list[pa.Table]:
    """Rows start to stop of each of the slices; what reaches beyond the end is left out.

    tail: the last bytes of the file, its footer at least. Row groups are read whole, each once, and the checksums of
    pages are verified.

    Raises:
        role.error: the file is damaged.
    """
    metadata = read_parquet_metadata(tail, role)
    ends = np.cumsum([metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)])
    tables = []
    with (
        reading(role),
        pq.ParquetFile(
            # Its size is not needed where the metadata are given, and is not in them.
            pa.PythonFile(RangedFile(files, path, _UNKNOWN_SIZE), mode="r"),
            metadata=metadata,
            page_checksum_verification=True,
            pre_buffer=False,
        ) as file,
    ):
        for start, stop in slices:
            first, last = np.searchsorted(ends, [start, stop - 1], side="right").tolist()
            groups = range(first, min(last + 1, metadata.num_row_groups))
            table = file.read_row_groups(list(groups), columns=list(columns), use_threads=False)
            before = int(ends[first - 1]) if first else 0
            tables.append(table.slice(start - before, stop - start))
    return tables


class RangedFile(io.RawIOBase):
    """A file in a store as a seekable stream; each read is one ranged read of the store."""

    def __init__(self, files: Files, path: str, size: int) -> None:
        self._files, self._path, self._size, self._position = files, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = (
            offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        )
        return self._position

    def read(self, size: int = -1) -> bytes:
        stop = self._size if size < 0 else self._position + size
        (content,) = self._files.read_ranges(self._path, [(self._position, stop)])
        self._position += len(content)
        return content


def to_table(rows: Sequence[CatalogRow] | Sequence[SlideSummary], schema: pa.Schema) -> pa.Table:
    """The records as a table of their schema."""
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)


def to_parquet(rows: Sequence[CatalogRow] | Sequence[SlideSummary], schema: pa.Schema) -> bytes:
    """The records as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(to_table(rows, schema), sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()
