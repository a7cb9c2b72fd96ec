"""What pages of a Parquet file claim is read before memory is allocated for them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fossilray.core.errors import DamagedFile
from fossilray.core.formats import FileRole
from fossilray.core.formats.parquet import read_table
from fossilray.core.formats.parquet_pages import page_sizes
from fossilray.core.schemas import FAILURES_SCHEMA

ROLE = FileRole("objects.parquet", "objects of a slide", "restore it")
TABLE = pa.table(
    {
        "slide_id": [f"slide {row % 7}" for row in range(5000)],
        "score": pa.array(np.random.default_rng(1).random(5000)),
        "isolated": pa.array(np.arange(5000) % 3 == 0),
        "vector": pa.array([[1.0, 2.0]] * 5000, pa.list_(pa.float32(), 2)),
        "depth": pa.array([None] * 4990 + [1.5] * 10),
    }
)


def written(**options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink, **options)
    return sink.getvalue()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "none"},
        {"compression": "zstd", "write_page_checksum": True},
        {"data_page_version": "2.0", "use_dictionary": False},
        {
            "data_page_size": 512,
            "row_group_size": 700,
            "write_page_index": True,
            "store_decimal_as_integer": True,
        },
        {"use_dictionary": False, "column_encoding": {"score": "BYTE_STREAM_SPLIT"}},
        {"write_statistics": False, "compression": "brotli"},
    ],
)
def test_pages_of_every_kind_are_found_and_claim_what_the_metadata_state(options: dict[str, Any]) -> None:
    content = written(**options)
    metadata = pq.read_metadata(io.BytesIO(content))
    stated = sum(
        metadata.row_group(group).column(column).total_uncompressed_size
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    )
    sizes = list(page_sizes(content))
    assert len(sizes) >= metadata.num_columns * metadata.num_row_groups
    # The metadata count the headers of pages too, which take 20 to 200 bytes.
    assert 0 <= stated - sum(sizes) <= 200 * len(sizes)
    assert read_table(content, ROLE).equals(TABLE)


def test_pages_that_duckdb_wrote_are_found(tmp_path: Path) -> None:
    path = tmp_path / "duckdb.parquet"
    duckdb.sql(f"COPY (SELECT range AS number, 'x' || range % 5 AS name FROM range(10000)) TO '{path}'")
    assert read_table(path.read_bytes(), ROLE).num_rows == 10_000


def test_a_page_that_claims_two_gigabytes_is_refused_before_they_are_allocated() -> None:
    content = bytearray(written(compression="snappy", use_dictionary=False))
    start = pq.read_metadata(io.BytesIO(content)).row_group(0).column(0).data_page_offset
    # PageHeader: type (field 1, i32) is a head and one byte, then the head and the number of field 2.
    assert content[start] == content[start + 2] == 0x15
    end = start + 3
    while content[end] >= 0x80:
        end += 1
    length = end + 1 - (start + 3)
    claimed = bytearray()
    zigzag = 2 * (2**31 - 1)
    while zigzag:
        claimed.append((zigzag & 0x7F) | (0x80 if zigzag >= 0x80 else 0))
        zigzag >>= 7
    # The header may not grow, so the page gives up bytes at its end, which nothing reads before the refusal.
    bomb = content[: start + 3] + claimed + content[end + 1 : -4 - 4]
    grown = len(claimed) - length
    footer = int.from_bytes(content[-8:-4], "little")
    del bomb[len(bomb) - footer - grown : len(bomb) - footer]
    bomb += content[-8:]
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(DamagedFile, match="its pages claim more than"):
        read_table(bytes(bomb), ROLE)
    assert pa.default_memory_pool().max_memory() - before < 2**26


@pytest.mark.parametrize(
    "noise", [b"\0" * 16, b"\xff" * 16, b"\x1c" * 16, b"\x19\xfc\xff\xff\xff\xff\x0f" + b"\x1c" * 9]
)
def test_page_headers_that_are_none_are_a_fault_of_the_file(noise: bytes) -> None:
    content = bytearray(written())
    column = pq.read_metadata(io.BytesIO(content)).row_group(0).column(0)
    start = min(filter(None, (column.dictionary_page_offset, column.data_page_offset)))
    content[start : start + len(noise)] = noise
    with pytest.raises(DamagedFile, match=r"objects\.parquet .* cannot be used"):
        read_table(bytes(content), ROLE)


def test_a_table_without_rows_has_no_large_page_in_any_column() -> None:
    """A run without failures leaves such a table in its compacted dataset; its columns of booleans have no page."""
    sink = io.BytesIO()
    pq.write_table(FAILURES_SCHEMA.empty_table(), sink)
    assert set(page_sizes(sink.getvalue())) == {0}
